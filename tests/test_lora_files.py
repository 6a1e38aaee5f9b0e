"""Adapters through the files of PEFT, against the models that PEFT itself adapts."""

import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from oracles import assert_agrees, differs, draw, exact

from lintoolkit import attention, layers, lora, transformer
from lintoolkit.lora import LowRank, load_peft, save_peft

KEY = jax.random.key(0)
PEERS = "torch, transformers and peft are in the extra `peers`"
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def drawn(rng, shape, layout="i o", rank=2, scale=0.5, dtype="float32"):
    params = {"w": jax.ShapeDtypeStruct(shape, dtype)}
    make = lambda key: lora.init(
        key, params, rank, where="w", layout=layout, alpha=scale * rank
    )
    shapes = jax.eval_shape(make, KEY)
    return jax.tree.map(lambda leaf: draw(rng, *leaf.shape, dtype=dtype), shapes["w"])


NAMES = {
    "heads": "layers.{}.q_proj",
    "table": "embed",
    "conv": "stem.conv",
    "q": "c_attn",
    "v": "c_attn",
}
LAYOUTS = {"heads": "b i o o", "conv": "i i i o"}
SHAPES = {
    "heads": (3, 5, 2, 7),
    "table": (11, 5),
    "conv": (3, 2, 5, 7),
    "q": (5, 7),
    "v": (5, 3),
}


def every_kind(rng, dtype="float32"):
    ranks = {"heads": 2, "table": 3, "conv": 2, "q": 2, "v": 1}
    return {
        path: drawn(rng, shape, LAYOUTS.get(path, "i o"), ranks[path], 1 / ranks[path], dtype)
        for path, shape in SHAPES.items()
    }


def zeros():
    return {path: jnp.zeros(shape, "float32") for path, shape in SHAPES.items()}


def loaded(folder, names=NAMES, **changes):
    return load_peft(folder, zeros() | changes, names, LAYOUTS)


def saved(rng, folder):
    adapters = every_kind(rng)
    save_peft(folder, adapters, NAMES, tables="table")
    return adapters


def test_written_adapters_are_read_again(rng, tmp_path):
    adapters = saved(rng, tmp_path / "new" / "folder")
    again = loaded(tmp_path / "new" / "folder")
    for path in ("heads", "table", "conv"):
        np.testing.assert_array_equal(again[path].a, adapters[path].a)
        np.testing.assert_array_equal(again[path].b, adapters[path].b)
        assert again[path].layout == adapters[path].layout
        assert again[path].scale == pytest.approx(adapters[path].scale)
    # Side by side they have the ranks' sum.
    assert again["q"].a.shape == (5, 3)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, lora.merge(zeros(), again), lora.merge(zeros(), adapters))


def test_names_and_shapes_are_those_of_peft(rng, tmp_path):
    saved(rng, tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / TENSORS)
    shapes = {name.removeprefix("base_model.model."): x.shape for name, x in tensors.items()}
    expected = {
        "embed.lora_embedding_A": (3, 11),
        "embed.lora_embedding_B": (5, 3),
        "stem.conv.lora_A.weight": (2, 5, 3, 2),
        "stem.conv.lora_B.weight": (7, 2, 1, 1),
        "c_attn.lora_A.weight": (3, 5),
        "c_attn.lora_B.weight": (10, 3),
    }
    for i in range(3):
        expected[f"layers.{i}.q_proj.lora_A.weight"] = (2, 5)
        expected[f"layers.{i}.q_proj.lora_B.weight"] = (14, 2)
    assert shapes == expected
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["r"] == 2
    assert config["rank_pattern"] == {"^embed": 3, "^c_attn": 3}
    assert config["lora_alpha"] == 1
    assert config["alpha_pattern"] == {"^c_attn": 3}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_parts_that_share_their_input_side_keep_their_rank(rng, tmp_path):
    q = drawn(rng, (5, 7))
    v = LowRank(q.a, draw(rng, 2, 3, dtype="float32"), q.scale)
    save_peft(tmp_path, {"q": q, "v": v}, NAMES)
    again = loaded(tmp_path)
    assert set(again) == {"q", "v"}
    np.testing.assert_array_equal(again["v"].b, v.b)
    assert again["q"].a.shape == (5, 2)


def test_ranks_and_scales_may_differ_within_a_stack(rng, tmp_path):
    save_peft(tmp_path, {"heads": drawn(rng, SHAPES["heads"], "b i o o")}, NAMES)
    tensors = safetensors.numpy.load_file(tmp_path / TENSORS)
    start = "base_model.model.layers.1.q_proj.lora_"
    for half, shape in (("A", (3, 5)), ("B", (14, 3))):
        tensors[f"{start}{half}.weight"] = rng.standard_normal(shape).astype("float32")
        del tensors[f"base_model.model.layers.2.q_proj.lora_{half}.weight"]  # not adapted
    config = json.loads((tmp_path / CONFIG).read_text())
    config |= {"rank_pattern": {"1.q_proj": 3}, "alpha_pattern": {r"layers\.1\.q_proj": 6}}
    rewritten(tmp_path, tensors, config | {"use_rslora": True})
    low = loaded(tmp_path)["heads"]
    change = exact(lora.merge(zeros(), {"heads": low})["heads"])
    assert not change[2].any()
    for i, scale in ((0, config["lora_alpha"] / np.sqrt(2)), (1, 6 / np.sqrt(3))):
        a, b = (tensors[f"base_model.model.layers.{i}.q_proj.lora_{x}.weight"] for x in "AB")
        np.testing.assert_allclose(
            change[i], scale * (b @ a).T.reshape(5, 2, 7), rtol=1e-5, atol=1e-5
        )


def test_half_precision_keeps_its_bits(rng, tmp_path):
    low = drawn(rng, (5, 7), dtype="bfloat16")
    save_peft(tmp_path, {"w": low}, {"w": "proj"})
    again = load_peft(tmp_path, {"w": jnp.ones((5, 7), "bfloat16")}, {"w": "proj"})["w"]
    assert again.a.dtype == "bfloat16"
    np.testing.assert_array_equal(exact(again.a), exact(low.a))


def rewritten(folder, tensors, config):
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / TENSORS
    )
    (folder / CONFIG).write_text(json.dumps(config))


DAMAGE = {
    "DoRA": ({"use_dora": True}, "has use_dora True, which is more than W"),
    "biases": ({"bias": "all"}, "has bias 'all'"),
    "modules": ({"modules_to_save": ["head"]}, "has modules_to_save"),
    "another kind": ({"peft_type": "LOHA"}, "has peft_type 'LOHA'"),
    "another beginning": ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights"),
    "what is yet to come": ({"use_something": 1}, "has use_something 1"),
    "rank": ({"r": 3}, r"layers.0.q_proj must have A \(3, 5\) and B \(14, 3\) by rank 3"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_not_plain_lora_is_refused_by_name(case, rng, tmp_path):
    saved(rng, tmp_path)
    assert loaded(tmp_path)  # control
    change, message = DAMAGE[case]
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=f"load_peft: .*{message}"):
        loaded(tmp_path)


def test_no_tensor_is_left_over_or_missing(rng, tmp_path):
    saved(rng, tmp_path)
    without = {path: name for path, name in NAMES.items() if path != "conv"}
    with pytest.raises(ValueError, match=r"got none for stem.conv\."):
        loaded(tmp_path, without)
    for path, shape in {"heads": (3, 5, 2, 5), "v": (5, 2), "conv": (2, 3, 5, 7)}.items():
        with pytest.raises(ValueError, match=r"must have A .* and B "):
            loaded(tmp_path, **{path: jnp.zeros(shape)})
    with pytest.raises(ValueError, match="names has absent, and params have no such leaf"):
        loaded(tmp_path, NAMES | {"absent": "x"})
    with pytest.raises(ValueError, match="names of heads must be 3 different modules"):
        loaded(tmp_path, NAMES | {"heads": ["a", "b"]})
    tensors = safetensors.numpy.load_file(tmp_path / TENSORS)
    config = json.loads((tmp_path / CONFIG).read_text())
    first = next(iter(tensors))
    rewritten(tmp_path, {name: x for name, x in tensors.items() if name != first}, config)
    with pytest.raises(ValueError, match="alone"):
        loaded(tmp_path)
    rewritten(tmp_path, tensors | {"base_model.model.head.weight": np.ones(2)}, config)
    with pytest.raises(ValueError, match=r"has a tensor base_model.model.head.weight"):
        loaded(tmp_path)
    name = "base_model.model.c_attn.base_layer.weight"
    for shape in ((10, 5), (7, 5)):
        rewritten(tmp_path, tensors | {name: np.ones(shape, "float32")}, config)
        with pytest.raises(
            ValueError, match="frozen weight of c_attn other than that of params"
        ):
            loaded(tmp_path)
    whole = {name: x.astype(int) if name == first else x for name, x in tensors.items()}
    rewritten(tmp_path, whole, config)
    with pytest.raises(ValueError, match="which is no floating factor"):
        loaded(tmp_path)
    (tmp_path / TENSORS).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"load_peft: .* is not a whole safetensors file"):
        loaded(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"load_peft: .* is not JSON"):
        loaded(tmp_path)
    with pytest.raises(FileNotFoundError):
        loaded(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file(rng, tmp_path, monkeypatch):
    saved(rng, tmp_path)
    before = (tmp_path / TENSORS).read_bytes()

    def half(_tensors, path, _metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        saved(rng, tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {TENSORS, CONFIG}


def test_names_must_be_there_for_every_adapter(rng, tmp_path):
    with pytest.raises(ValueError, match=r"save_peft: names must name .* got none for w\."):
        save_peft(tmp_path, {"w": drawn(rng, (5, 7))}, NAMES)
    with pytest.raises(ValueError, match="save_peft: q shares its module with v"):
        save_peft(tmp_path, {"q": drawn(rng, (5, 7))}, NAMES)
    assert not list(tmp_path.iterdir())


# beside the peer

GPT2 = {
    "blocks/attention/query/kernel": "transformer.h.{}.attn.c_attn",
    "blocks/attention/key/kernel": "transformer.h.{}.attn.c_attn",
    "blocks/attention/value/kernel": "transformer.h.{}.attn.c_attn",
    "blocks/attention/out/kernel": "transformer.h.{}.attn.c_proj",
    "blocks/mlp/0/kernel": "transformer.h.{}.mlp.c_fc",
    "blocks/mlp/1/kernel": "transformer.h.{}.mlp.c_proj",
    "positions/embedding": "transformer.wpe",
}

GPT2_LAYOUTS = {path: "b i o" if path.startswith("blocks/") else "i o" for path in GPT2}


def peers():
    return [
        pytest.importorskip(name, reason=PEERS) for name in ("torch", "transformers", "peft")
    ]


def adapted(model, **options):
    """A model under PEFT whose adapters do something."""
    torch, _, peft = peers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it transposes GPT-2's layers
        under = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    for name, weight in under.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return under


def written(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)


def again(model, folder):
    _, _, peft = peers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(model, folder).eval()


def logits(model, tokens):
    torch, _, _ = peers()
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def random_like(rng, adapters):
    return jax.tree.map(lambda x: draw(rng, *x.shape, dtype="float32") / 3, adapters)


def gpt2(tmp_path):
    torch, hugging, _ = peers()
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "n_positions": 17, "n_embd": 12, "n_layer": 3, "n_head": 2}
    ends = {"bos_token_id": None, "eos_token_id": None, "initializer_range": 0.2}
    model = hugging.GPT2LMHeadModel(hugging.GPT2Config(**shape, **ends)).eval()
    model.save_pretrained(tmp_path / "base")
    params, config = transformer.load_gpt2(tmp_path / "base")
    return model, params, partial(transformer.gpt, config=config)


@pytest.mark.peer
@pytest.mark.parametrize("rslora", [False, True])
def test_gpt2_under_peft_gives_the_same_logits(rng, tmp_path, rslora):
    model, params, apply = gpt2(tmp_path)
    tokens = rng.integers(31, size=(2, 13))
    base = logits(model, tokens)
    theirs = adapted(
        model, r=2, lora_alpha=6, use_rslora=rslora, target_modules=["c_attn", "c_proj", "wpe"],
        rank_pattern={"mlp.c_proj": 3}, alpha_pattern={"h.1.attn.c_attn": 1},
    )  # fmt: skip
    written(theirs, tmp_path / "theirs")
    expected = logits(theirs, tokens)
    adapters = load_peft(tmp_path / "theirs", params, GPT2, GPT2_LAYOUTS)
    ours = apply(lora.merge(params, adapters), jnp.asarray(tokens))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
    lifted = lora.lift(apply, strict=True)(params, adapters, jnp.asarray(tokens))
    np.testing.assert_allclose(lifted, expected, rtol=0, atol=2e-5)
    assert differs(expected, base)
    model = theirs.unload()
    save_peft(tmp_path / "ours", random_like(rng, adapters), GPT2)
    ours = load_peft(tmp_path / "ours", params, GPT2, GPT2_LAYOUTS)
    expected = logits(again(model, tmp_path / "ours"), tokens)
    np.testing.assert_allclose(
        apply(lora.merge(params, ours), jnp.asarray(tokens)), expected, rtol=0, atol=2e-5
    )
    assert differs(expected, base)


def llama(params, tokens):
    """Llama's network of stacked parameters, queries and keys by head."""
    norm = lambda scale, x: layers.rms_norm({"scale": scale}, x, epsilon=1e-6)

    def block(x, p):
        y = norm(p["input_norm"], x)
        q, k, v = (jnp.einsum("td,dhk->thk", y, p[name]) for name in ("q", "k", "v"))
        y = attention.attention(attention.rope(q), attention.rope(k), v, causal=True)
        x = x + jnp.einsum("thk,hkd->td", y, p["o"])
        y = norm(p["mlp_norm"], x)
        return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], None

    x, _ = jax.lax.scan(block, params["table"][tokens], params["blocks"])
    return norm(params["norm"], x) @ params["head"].T


LLAMA = {
    "table": "model.embed_tokens",
    "head": "lm_head",
    **{f"blocks/{name}": f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkvo"},
    **{
        f"blocks/{name}": f"model.layers.{{}}.mlp.{name}_proj"
        for name in ("gate", "up", "down")
    },
}


def of_llama(model, heads):
    """The model's parameters as `llama` takes them."""
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    each = lambda name: np.stack([state[f"model.layers.{i}.{name}.weight"] for i in range(3)])
    turned = lambda name: each(name).swapaxes(1, 2)
    blocks = {name: turned(f"mlp.{name}_proj") for name in ("gate", "up", "down")}
    for name, count in heads.items():
        kernel = turned(f"self_attn.{name}_proj")
        if name == "o":
            blocks["o"] = kernel.reshape(3, count, -1, kernel.shape[2])
        else:
            blocks[name] = kernel.reshape(3, kernel.shape[1], count, -1)
    blocks |= {
        "input_norm": each("input_layernorm"),
        "mlp_norm": each("post_attention_layernorm"),
    }
    params = {"table": state["model.embed_tokens.weight"], "head": state["lm_head.weight"]}
    return jax.tree.map(
        jnp.asarray, params | {"blocks": blocks, "norm": state["model.norm.weight"]}
    )


@pytest.mark.peer
def test_llama_under_peft_gives_the_same_logits(rng, tmp_path):
    torch, hugging, _ = peers()
    torch.manual_seed(0)
    config = hugging.LlamaConfig(
        vocab_size=31, hidden_size=12, intermediate_size=20, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=4, tie_word_embeddings=False,
        initializer_range=0.2, max_position_embeddings=32,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = hugging.LlamaForCausalLM(config).eval()
    tokens = rng.integers(31, size=13)
    params = of_llama(model, {"q": 6, "k": 2, "v": 2, "o": 6})
    base = logits(model, tokens[None])[0]
    np.testing.assert_allclose(llama(params, tokens), base, rtol=0, atol=2e-5)
    layout = lora.layouts(llama, params, jnp.asarray(tokens))
    assert layout["blocks/q"] == "b i o o"
    assert layout["blocks/o"] == "b i i o"
    assert layout["head"] == "o i"
    theirs = adapted(
        model, r=2, lora_alpha=8, use_rslora=True,
        target_modules=[name.rpartition(".")[2] for name in LLAMA.values()],
        rank_pattern={"q_proj": 3, "layers.1.mlp.up_proj": 4}, alpha_pattern={"lm_head": 3},
    )  # fmt: skip
    written(theirs, tmp_path / "theirs")
    adapters = load_peft(tmp_path / "theirs", params, LLAMA, layout)
    assert set(adapters) == set(LLAMA)
    expected = logits(theirs, tokens[None])[0]
    lifted = jax.jit(lora.lift(llama, strict=True))(params, adapters, jnp.asarray(tokens))
    np.testing.assert_allclose(lifted, expected, rtol=0, atol=2e-5)
    assert differs(expected, base)
    model = theirs.unload()
    ours = {
        path: random_like(rng, LowRank(low.a, low.b, 0.25 * (1 + i), low.layout))
        for i, (path, low) in enumerate(adapters.items())
    }
    save_peft(tmp_path / "ours", ours, LLAMA, tables="table", task_type="CAUSAL_LM")
    expected = logits(again(model, tmp_path / "ours"), tokens[None])[0]
    merged = llama(lora.merge(params, ours), tokens)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=2e-5)
    assert differs(expected, base)


@pytest.mark.peer
def test_a_convolution_under_peft_gives_the_same_numbers(rng, tmp_path):
    torch, _, _ = peers()
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 7, (3, 2), stride=2, bias=False)

        def forward(self, x):
            return self.conv(x)

    theirs = adapted(Model(), r=2, lora_alpha=3, target_modules=["conv"])
    written(theirs, tmp_path)
    image = rng.standard_normal((2, 3, 9, 8)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(image)).numpy()
    kernel = theirs.base_model.model.conv.base_layer.weight.detach().numpy()
    for numbers, weight, layout in (
        (("NCHW", "OIHW", "NCHW"), kernel, "o i i i"),
        (("NCHW", "HWIO", "NCHW"), kernel.transpose(2, 3, 1, 0), "i i i o"),
    ):
        low = load_peft(tmp_path, {"w": weight}, {"w": "conv"}, layout)
        fn = lambda p, x, numbers=numbers: jax.lax.conv_general_dilated(
            x, p["w"], (2, 2), "VALID", dimension_numbers=numbers
        )
        y = lora.lift(fn, strict=True)({"w": jnp.asarray(weight)}, low, jnp.asarray(image))
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)
        save_peft(tmp_path / "ours", low, {"w": "conv"})
        tensors = [
            safetensors.numpy.load_file(at / TENSORS) for at in (tmp_path, tmp_path / "ours")
        ]
        assert_agrees_all(*tensors)


def assert_agrees_all(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert_agrees(jnp.asarray(tensor), theirs[name])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load_peft: there is no folder .*nowhere"):
        lora.load_peft(tmp_path / "nowhere", {"w": jnp.ones((5, 3))}, {"w": "w"})


@pytest.mark.usefixtures("as_a_user")
def test_a_scale_may_be_a_number_of_numpy(tmp_path):
    low = lora.LowRank(jnp.ones((5, 2)), jnp.ones((2, 3)), np.float32(0.5))
    lora.save_peft(tmp_path, {"w": low}, {"w": "w"})
    assert lora.load_peft(tmp_path, {"w": jnp.ones((5, 3))}, {"w": "w"})["w"].scale == 0.5
    ready = lora.init(
        jax.random.key(0), {"w": jnp.ones((5, 3))}, np.int64(2), where="w", alpha=np.float32(4)
    )
    assert type(ready["w"].scale) is float
