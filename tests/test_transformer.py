import dataclasses
import json
import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_agrees, differs, draw, exact

from lintoolkit import _blocks
from lintoolkit.cost import cost
from lintoolkit.transformer import (
    GPTConfig,
    ViTConfig,
    block,
    block_flops,
    generate,
    gpt,
    gpt_parts,
    init_gpt,
    init_vit,
    load_gpt2,
    save_gpt2,
    truncate_logits,
    vit,
)

CONFIG = GPTConfig(vocabulary=29, context=41, blocks=3, heads=2, width=10)
KEY = jax.random.key(0)


def lively(seed=0, config=CONFIG, dtype="float64"):
    """Parameters whose every number matters: fresh ones have zero biases and even scores."""
    shapes = jax.eval_shape(lambda key: init_gpt(key, config), KEY)
    normal = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda x: jnp.asarray(normal(x.shape) / 2, dtype), shapes)


def gpt2_tensors(rng, *, prefix="", vocabulary=29, context=41, blocks=3, width=10):
    """Random tensors under GPT-2's names, (in, out) as its Conv1D keeps them."""
    d, shapes = width, {}
    for i in range(blocks):
        for name, shape in {
            "ln_1": (d,),
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "ln_2": (d,),
            "mlp.c_fc": (d, 4 * d),
            "mlp.c_proj": (4 * d, d),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    shapes |= {"wte.weight": (vocabulary, d), "wpe.weight": (context, d)}
    shapes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    numbers = {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}
    return {prefix + name: x.astype(np.float32) for name, x in numbers.items()}


def saved(path, tensors, **metadata):
    safetensors.numpy.save_file(tensors, path, metadata or None)
    return path


# GPT


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt_agrees_with_gpt2_written_out(rng, tmp_path, prefix):
    tensors = gpt2_tensors(rng)
    named = {prefix + name: x for name, x in tensors.items()}
    params, config = load_gpt2(saved(tmp_path / "gpt", named), heads=2)
    assert config == CONFIG
    tokens = rng.integers(29, size=(2, 7))
    expected = np.stack([oracles.gpt2(exact(tensors), row, 2) for row in tokens])
    assert_agrees(gpt(params, jnp.asarray(tokens), config=config), expected, ulps=64)
    wide = jax.tree.map(lambda x: x.astype("float64"), params)
    assert_agrees(gpt(wide, jnp.asarray(tokens), config=config), expected, ulps=256)
    one_head = config.replace(heads=1)
    assert differs(gpt(wide, jnp.asarray(tokens), config=one_head), expected)  # control


def test_half_precision_stays_within_its_rounding():
    tokens = jnp.arange(13)
    expected = gpt(lively(), tokens, config=CONFIG)
    half = jax.tree.map(lambda x: x.astype("bfloat16"), lively())
    logits = gpt(half, tokens, config=CONFIG)
    assert logits.dtype == jnp.bfloat16
    assert_agrees(logits, gpt(jax.tree.map(exact, half), tokens, config=CONFIG), ulps=16)
    assert differs(logits, expected[::-1])


def test_the_future_has_no_gradient_and_the_past_has():
    params, tokens = lively(), jnp.arange(5)
    table = params["positions"]["embedding"]

    def score(table, i):
        changed = params | {"positions": {"embedding": table}}
        return gpt(changed, tokens, config=CONFIG)[i].sum()

    for i in range(5):
        seen = jnp.abs(jax.grad(score)(table, i)).max(axis=1) > 0
        np.testing.assert_array_equal(seen, np.arange(41) <= i)


def test_remat_changes_nothing_but_what_is_kept():
    params, tokens = lively(), jnp.arange(37) % 29

    def loss(params, remat):
        return (gpt(params, tokens, config=CONFIG, remat=remat) ** 2).mean()

    plain, again = (jax.grad(partial(loss, remat=r))(params) for r in (False, True))
    chex.assert_trees_all_close(again, plain, rtol=1e-9, atol=1e-12)
    temps = [
        jax.jit(jax.grad(partial(loss, remat=r))).lower(params).compile().memory_analysis()
        for r in (False, True)
    ]
    assert temps[1].temp_size_in_bytes < 0.7 * temps[0].temp_size_in_bytes


def test_the_program_is_as_long_for_twelve_blocks_as_for_two():
    tokens = jnp.arange(5)

    def length(blocks):
        config = CONFIG.replace(blocks=blocks)
        params = jax.eval_shape(lambda key: init_gpt(key, config), KEY)
        step = jax.grad(lambda params: gpt(params, tokens, config=config).sum())
        return len(jax.jit(step).lower(params).as_text().splitlines())

    assert length(12) == length(2)


def test_tokens_outside_the_vocabulary_give_nan_under_jit():
    params = lively()
    tokens = jnp.array([[3, 5], [3, 29], [3, -1], [3, -29]])
    for dtype in ("int8", "int64"):
        logits = jax.jit(partial(gpt, config=CONFIG))(params, tokens.astype(dtype))
        assert np.isfinite(logits[0]).all()
        assert np.isnan(logits[1:, 1]).all()


def test_fresh_blocks_keep_the_size_of_vectors_in_a_deep_stack(rng):
    config, x = CONFIG.replace(blocks=24, width=32), draw(rng, 31, 32, dtype="float32")
    blocks = init_gpt(KEY, config)["blocks"]
    run = lambda blocks: jax.lax.scan(lambda x, p: (block(p, x, heads=2), None), x, blocks)[0]
    assert 1 < float(jnp.std(run(blocks))) < 2
    first, second = blocks["mlp"]  # control: without the division
    second = second | {"kernel": second["kernel"] * 48**0.5}
    assert float(jnp.std(run(blocks | {"mlp": (first, second)}))) > 2.5


@pytest.mark.parametrize("t", [7, 521])  # a long one leaves out keys that no query sees
def test_parts_hold_what_init_draws_and_what_the_program_computes(t):
    config = dataclasses.replace(CONFIG, context=521)
    shapes = jax.eval_shape(lambda key: init_gpt(key, config), KEY)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    blocks = shapes["blocks"]
    parts = gpt_parts(config, n=2, t=t)
    assert {name: part.parameters for name, part in parts.items()} == {
        "tokens": count(shapes["tokens"]),
        "positions": count(shapes["positions"]),
        "attention": count(blocks["attention"]),
        "mlp": count(blocks["mlp"]),
        "norms": count((blocks["attention_norm"], blocks["mlp_norm"], shapes["norm"])),
        "head": 0,
    }
    tokens = jax.ShapeDtypeStruct((2, t), "int32")
    priced = cost(partial(gpt, config=config), shapes, tokens).lowered
    assert sum(part.flops for part in parts.values()) == priced.matmul_flops
    x = jax.ShapeDtypeStruct((2, t, 10), "float32")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), blocks)
    priced = cost(partial(block, heads=2, causal=True), one, x).lowered
    assert parts["mlp"].flops + parts["attention"].flops == 3 * priced.matmul_flops
    assert priced.matmul_flops == 2 * block_flops(t=t, d_model=10, causal=True)


@pytest.mark.parametrize(
    ("blocks", "heads", "width", "published"),
    [(12, 12, 768, 124_439_808), (24, 16, 1024, 354_823_168), (48, 25, 1600, 1_557_611_200)],
)
def test_parameter_counts_of_the_released_models(blocks, heads, width, published):
    parts = gpt_parts(GPTConfig(blocks=blocks, heads=heads, width=width))
    assert sum(part.parameters for part in parts.values()) == published


# ViT


def test_vit_agrees_with_its_equations_and_mixes_patches(rng):
    config = ViTConfig(image=(4, 6, 3), patch=2, classes=5, blocks=2, heads=2, width=6)
    shapes = jax.eval_shape(lambda key: init_vit(key, config), KEY)
    params = jax.tree.map(lambda x: draw(rng, *x.shape) / 2, shapes)
    image = draw(rng, 4, 6, 3)
    expected = oracles.vit(jax.tree.map(exact, params), exact(image), 2, 2)
    assert_agrees(vit(params, image, config=config), expected, ulps=512)
    # Patches are a set but for their positions.
    bare = params | {"positions": {"embedding": jnp.zeros((6, 6))}}
    swapped = image.at[:, :2].set(image[:, 2:4]).at[:, 2:4].set(image[:, :2])
    assert_agrees(
        vit(bare, swapped, config=config), exact(vit(bare, image, config=config)), ulps=512
    )
    moved = vit(params, swapped, config=config) - expected  # control: with them it is none
    assert np.abs(moved).max() > 1e-3


# generation


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 7}, {"top_p": 0.8}])
def test_the_cached_path_is_the_full_forward_pass(rng, options):
    params = lively(dtype="float32")
    prompt = jnp.asarray(rng.integers(29, size=(2, 5)))
    written = generate(KEY, params, prompt, config=CONFIG, steps=23, **options)
    whole = jnp.concatenate([prompt, written.tokens], axis=1)
    log_probs = jax.nn.log_softmax(gpt(params, whole, config=CONFIG))[:, 4:-1]
    expected = jnp.take_along_axis(log_probs, written.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(written.log_probs, expected, rtol=0, atol=1e-5)
    shifted = jnp.take_along_axis(log_probs, written.tokens[..., ::-1, None], axis=-1)[..., 0]
    assert differs(shifted, expected)  # control
    ranks = (log_probs > expected[..., None]).sum(axis=-1)
    if "temperature" in options:
        assert not ranks.any()
    else:
        assert ranks.any()
    if "top_k" in options:
        assert (ranks < 7).all()


def test_greedy_choice_is_the_loop_of_full_forward_passes():
    params, tokens = lively(), jnp.array([7, 3])
    written = generate(KEY, params, tokens, config=CONFIG, steps=9, temperature=0)
    pad = lambda tokens: jnp.pad(tokens, (0, 11 - len(tokens)))
    for _ in range(9):
        logits = gpt(params, pad(tokens), config=CONFIG)[len(tokens) - 1]
        tokens = jnp.append(tokens, logits.argmax())
    np.testing.assert_array_equal(written.tokens, tokens[2:])
    assert len(set(tokens.tolist())) > 2  # control: not one token for ever


def test_a_prompt_may_fill_the_context_but_for_the_steps():
    params, prompt = lively(), jnp.arange(38) % 29
    written = generate(KEY, params, prompt, config=CONFIG, steps=3, temperature=0)
    whole = jnp.concatenate([prompt, written.tokens])
    expected = gpt(params, whole, config=CONFIG)[37:-1].argmax(axis=-1)
    np.testing.assert_array_equal(written.tokens, expected)


def test_one_compilation_serves_every_prompt_of_a_bucket(monkeypatch):
    traced = []
    reading = _blocks.read
    monkeypatch.setattr(_blocks, "read", lambda *a: traced.append(1) or reading(*a))
    config = CONFIG.replace(context=64)
    params = lively(config=config)
    run = partial(generate, KEY, params, config=config, steps=2)
    run(jnp.arange(3))
    once = len(traced)
    for length, temperature in ((1, 0.5), (7, 1.0), (16, 2.0)):
        run(jnp.arange(length), temperature=temperature)
    assert len(traced) == once > 0
    run(jnp.arange(17))
    assert len(traced) > once  # control: the next bucket


def test_a_prompt_of_small_integers_may_be_followed_by_any_token():
    config = CONFIG.replace(vocabulary=999)
    params, prompt = lively(config=config), jnp.array([7, 3])
    run = partial(generate, KEY, params, config=config, steps=20)
    expected = run(prompt).tokens
    assert max(expected) > 255
    for dtype in ("int8", "uint8"):
        np.testing.assert_array_equal(run(prompt.astype(dtype)).tokens, expected)


def test_keys_decide_and_temperature_spreads():
    params, prompt = lively(), jnp.array([5])
    run = lambda key, **o: generate(key, params, prompt, config=CONFIG, steps=30, **o)
    first = run(KEY)
    np.testing.assert_array_equal(run(KEY).tokens, first.tokens)
    assert (run(jax.random.key(1)).tokens != first.tokens).any()
    cold, hot = run(KEY, temperature=0.1), run(KEY, temperature=10.0)
    assert cold.log_probs.mean() > first.log_probs.mean() > hot.log_probs.mean()


@pytest.mark.parametrize("temperature", [1e-10, 2e-38, 1e-38, 1e-42, 1e-300])
def test_next_to_no_temperature_takes_the_likeliest(temperature):
    params, prompt = lively(dtype="float32"), jnp.array([7, 3])
    run = partial(generate, KEY, params, prompt, config=CONFIG, steps=9)
    expected = run(temperature=0).tokens
    np.testing.assert_array_equal(run(temperature=temperature).tokens, expected)
    assert differs(run(temperature=1.0).tokens, expected)  # control


@jax.numpy_dtype_promotion("standard")
def test_a_temperature_may_be_traced():
    params, prompt = lively(dtype="float32"), jnp.array([7, 3])
    run = lambda temperature: generate(
        KEY, params, prompt, config=CONFIG, steps=9, temperature=temperature, top_p=0.9
    )
    for temperature in (0.0, 0.5, 2.0):
        for traced in (temperature, jnp.float32(temperature)):
            found = jax.jit(run)(traced).tokens
            np.testing.assert_array_equal(found, run(temperature).tokens)


def test_draws_follow_the_probabilities():
    params = lively()
    prompt = jnp.broadcast_to(jnp.array([5]), (4001, 1))
    drawn = generate(KEY, params, prompt, config=CONFIG, steps=1).tokens[:, 0]
    expected = jax.nn.softmax(gpt(params, prompt[0], config=CONFIG)[0])
    seen = np.bincount(drawn, minlength=29) / 4001
    error = np.sqrt(expected * (1 - expected) / 4001)
    assert (np.abs(seen - expected) < 5 * error + 1e-3).all()
    assert differs(seen, np.full(29, 1 / 29))  # control: not any token alike


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 11]), st.floats(0.01, 1))
def test_truncation_leaves_the_smallest_set_that_holds_enough(seed, top_k, top_p):
    logits = draw(np.random.default_rng(seed), 11) * 2
    kept = truncate_logits(logits, top_k=top_k, top_p=top_p)
    stay = oracles.truncated(exact(jax.nn.softmax(logits)), top_k, top_p)
    assert set(np.flatnonzero(np.isfinite(kept))) == stay
    np.testing.assert_array_equal(kept[np.isfinite(kept)], logits[np.isfinite(kept)])


def test_all_stay_where_all_probability_is_to(rng):
    logits = 3 * draw(rng, 50257, dtype="float32")
    for top_p in (1.0, jnp.float32(1)):
        assert jnp.isfinite(truncate_logits(logits, top_p=top_p)).all()
    assert not jnp.isfinite(truncate_logits(logits, top_p=0.9)).all()  # control


@pytest.mark.parametrize("top_p", [0.0, -1.0, np.nan])
def test_the_likeliest_stays_whatever_is_asked_under_jit(top_p):
    logits = jnp.array([[1.0, 3.0, 2.0], [5.0, -jnp.inf, 0.0]])
    kept = jax.jit(lambda top_p: truncate_logits(logits, top_p=top_p))(top_p)
    np.testing.assert_array_equal(jnp.isfinite(kept).argmax(axis=-1), [1, 0])
    assert (jnp.isfinite(kept).sum(axis=-1) == 1).all()


# files


def test_what_is_saved_is_loaded(tmp_path):
    params = lively(dtype="bfloat16")
    save_gpt2(tmp_path, params, config=CONFIG)
    again, config = load_gpt2(tmp_path)
    assert config == CONFIG
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert {x.dtype for x in jax.tree.leaves(again)} == {jnp.dtype("bfloat16")}
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "pt"  # transformers refuses files without
        assert set(file.keys()) == set(gpt2_tensors(np.random.default_rng(0)))


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "gpt"
    save_gpt2(path, lively(), config=CONFIG)
    before = path.read_bytes()

    def half(_tensors, path, _metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_gpt2(path, lively(1), config=CONFIG)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["gpt"]


def test_heads_come_from_config_json_and_masks_and_a_tied_head_are_no_tensors(rng, tmp_path):
    tensors = gpt2_tensors(rng)
    extra = {f"h.{i}.attn.bias": np.tri(5, dtype=bool) for i in range(3)}
    extra |= {
        "h.0.attn.masked_bias": np.float32([-1e4]),
        "lm_head.weight": tensors["wte.weight"],
    }
    saved(tmp_path / "model.safetensors", tensors | extra)
    (tmp_path / "config.json").write_text(json.dumps({"n_head": 5}))
    params, config = load_gpt2(tmp_path)
    assert config == CONFIG.replace(heads=5)
    np.testing.assert_array_equal(params["tokens"]["embedding"], tensors["wte.weight"])
    assert load_gpt2(tmp_path, heads=2).config.heads == 2


def changed(tensors, **changes):
    """Tensors with some replaced; None takes one away."""
    changes = {name.replace("__", "."): x for name, x in changes.items()}
    return {name: x for name, x in (tensors | changes).items() if x is not None}


ZEROS = np.zeros((7, 10), np.float32)
DAMAGED = {
    "missing": (
        {"h__1__mlp__c_fc__bias": None},
        r"h\.1\.mlp\.c_fc\.bias must be \(40,\), got nothing",
    ),
    "extra": (
        {"h__1__attn__c_attn__lora": ZEROS},
        r"c_attn\.lora must be absent, got \(7, 10\)",
    ),
    "misshapen": ({"ln_f__bias": ZEROS}, r"ln_f\.bias must be \(10,\), got \(7, 10\)"),
    "transposed": (
        {"h__0__attn__c_attn__weight": np.zeros((30, 10), np.float32)},
        r"c_attn\.weight must be \(10, 30\), got \(30, 10\)",
    ),
    "a block left out": (
        {f"h__1__{n}__{k}": None for n in ("ln_1", "ln_2") for k in ("bias", "weight")},
        r"h\.1\.ln_1\.bias must be .*; .* and 1 more",
    ),
    "no table": ({"wte__weight": None}, r"wte\.weight must be a table"),
    "untied head": (
        {"lm_head__weight": np.zeros((29, 10), np.float32)},
        "lm_head.weight other",
    ),
    "integers": ({"ln_f__bias": np.zeros(10, int)}, "must be of one floating dtype"),
    "both prefixes": ({"transformer__wte__weight": ZEROS}, "with and without"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named(rng, tmp_path, case):
    changes, message = DAMAGED[case]
    path = saved(tmp_path / "gpt", changed(gpt2_tensors(rng), **changes))
    with pytest.raises((ValueError, TypeError), match=f"load_gpt2: .*{message}"):
        load_gpt2(path, heads=2)


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_files_cut_short_are_named(rng, tmp_path, length):
    path = saved(tmp_path / "gpt", gpt2_tensors(rng))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"load_gpt2: .* not a whole safetensors file"):
        load_gpt2(path, heads=2)


def test_heads_that_nothing_tells_or_that_do_not_divide_are_named(rng, tmp_path):
    path = saved(tmp_path / "gpt", gpt2_tensors(rng))
    with pytest.raises(ValueError, match="heads must divide the width, 10, got none"):
        load_gpt2(path)
    with pytest.raises(ValueError, match="heads must divide the width, 10, got 4"):
        load_gpt2(path, heads=4)
    with pytest.raises(FileNotFoundError):
        load_gpt2(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps({"activation_function": "relu"}))
    with pytest.raises(ValueError, match="activation_function is 'relu'"):
        load_gpt2(path, heads=2)


@pytest.mark.parametrize(
    ("name", "said", "held"),
    [
        ("n_layer", 4, 3),
        ("n_embd", 20, 10),
        ("vocab_size", 30, 29),
        ("n_positions", "41", 41),
        ("n_inner", 30, 40),
    ],
)
def test_sizes_other_than_config_json_says_are_named(rng, tmp_path, name, said, held):
    saved(tmp_path / "model.safetensors", gpt2_tensors(rng))
    for fits in (held, None):
        (tmp_path / "config.json").write_text(json.dumps({name: fits}))
        assert load_gpt2(tmp_path, heads=2).config == CONFIG
    (tmp_path / "config.json").write_text(json.dumps({name: said}))
    with pytest.raises(ValueError, match=f"load_gpt2: .*: {name} is {said!r} there and {held}"):
        load_gpt2(tmp_path, heads=2)


def test_nothing_is_saved_that_could_not_be_loaded(tmp_path):
    params = lively()
    mixed = params | {"norm": jax.tree.map(lambda x: x.astype("float32"), params["norm"])}
    cast = lambda dtype: jax.tree.map(lambda x: x.astype(dtype), params)
    for wrong, said in [
        (mixed, "float32 and float64"),
        (cast("int32"), "int32"),
        (cast("float8_e4m3fn"), "float8_e4m3fn"),
    ]:
        with pytest.raises(TypeError, match=f"save_gpt2: params must .*, got {said}"):
            save_gpt2(tmp_path, wrong, config=CONFIG)
    assert not list(tmp_path.iterdir())
    for dtype in ("float16", "float64"):
        save_gpt2(tmp_path, cast(dtype), config=CONFIG)
        jax.tree.map(np.testing.assert_array_equal, load_gpt2(tmp_path).params, cast(dtype))


# beside the peer


@pytest.mark.peer
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_transformers_gives_the_same_logits_and_tokens(rng, tmp_path, prefix):
    why = "torch and transformers are in the extra `peers`"
    torch = pytest.importorskip("torch", reason=why)
    hugging = pytest.importorskip("transformers", reason=why)
    shape = {"vocab_size": 101, "n_positions": 67, "n_embd": 48, "n_layer": 3, "n_head": 4}
    ends = {"bos_token_id": None, "eos_token_id": None, "initializer_range": 0.2}
    torch.manual_seed(0)
    theirs = hugging.GPT2LMHeadModel(hugging.GPT2Config(**shape, **ends)).eval()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if not prefix:
        tensors = safetensors.numpy.load_file(path)
        bare = {name.removeprefix("transformer."): x for name, x in tensors.items()}
        saved(path, bare, format="pt")
    params, config = load_gpt2(tmp_path)
    tokens = rng.integers(101, size=(2, 19))
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens)).logits.numpy()
    ours = gpt(params, jnp.asarray(tokens), config=config)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
    assert differs(ours[:, ::-1], logits)  # control
    whole = theirs.generate(torch.tensor(tokens), max_new_tokens=40, do_sample=False)
    written = generate(KEY, params, jnp.asarray(tokens), config=config, steps=40, temperature=0)
    np.testing.assert_array_equal(written.tokens, whole[:, 19:])
    changed = jax.tree.map(lambda x: x * 1.5, params)
    save_gpt2(path, changed, config=config)
    again = hugging.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = again(torch.tensor(tokens)).logits.numpy()
    assert math.isfinite(logits.sum())
    ours = gpt(changed, jnp.asarray(tokens), config=config)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-3)
