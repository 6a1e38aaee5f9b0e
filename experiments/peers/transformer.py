"""A GPT block and a stack of four: ours beside flax.nnx and torch, eager and compiled.

``python -m experiments.peers.transformer [case ...]`` runs all cases or those named, each
with its contenders in turn in one process, and puts them into
results/<platform>/transformer.json. Every time is a median of calls after one to warm up;
compiling stands apart. All contenders start from the same numbers and must give the same
output. On a GPU everything is bfloat16, and the share of its peak stands beside the times.
"""

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch.nn import functional

from experiments.peers.measure import ON_GPU, RESULTS, medians, timed
from experiments.runner import dump, run_stamp, write
from lintoolkit.cost import cost, find_device
from lintoolkit.layers import conv2d, conv2d_flops, im2col
from lintoolkit.transformer import (
    GPTConfig,
    block,
    block_flops,
    generate,
    init_block,
    init_gpt,
    save_gpt2,
)

RATE, THREADS = 1e-4, 2
DTYPE = "bfloat16" if ON_GPU else "float32"
AGREE = {"float32": 1e-5, "bfloat16": 3e-2}  # by norm
PASSES = "forward", "forward and backward", "AdamW step"
PROMPT, STEPS = 32, 64


class Sizes(NamedTuple):
    """Of a stack of blocks and of its input, and how often each pass is timed."""

    depth: int
    length: int
    rounds: int
    batch: int = 4
    width: int = 768
    heads: int = 12


# the contenders: each a dict of calls by pass


def ours(params: Any, x: jax.Array, heads: int, *, scan: bool) -> dict[str, Callable]:
    """Plain functions, the blocks under a scan or one after the other."""
    depth = len(params["attention_norm"]["scale"])
    step = lambda x, p: (block(p, x, heads=heads, causal=True), None)

    def apply(params, x):
        if scan:
            return jax.lax.scan(step, x, params)[0]
        for i in range(depth):
            x, _ = step(x, jax.tree.map(lambda leaf, i=i: leaf[i], params))
        return x

    loss = lambda params, x: jnp.mean(apply(params, x) ** 2)
    adamw = optax.adamw(RATE)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, x):
        gradient = jax.grad(loss)(params, x)
        updates, state = adamw.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    kept = [jax.tree.map(jnp.copy, params), adamw.init(params)]

    def train():
        kept[:] = update(*kept, x)
        return kept

    forward, both = jax.jit(apply), jax.jit(jax.value_and_grad(loss))
    return {
        "forward": lambda: forward(params, x),
        "forward and backward": lambda: both(params, x),
        "AdamW step": train,
    }


class NNXBlock(nnx.Module):
    """The block of flax's own modules."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        common: dict = {"dtype": DTYPE, "param_dtype": DTYPE, "rngs": rngs}
        self.attention_norm, self.mlp_norm = (
            nnx.LayerNorm(width, epsilon=1e-5, **common) for _ in range(2)
        )
        self.attention = nnx.MultiHeadAttention(
            num_heads=heads, in_features=width, decode=False, **common
        )
        self.up, self.down = (
            nnx.Linear(a, b, **common) for a, b in itertools.permutations((width, 4 * width))
        )

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        x += self.attention(self.attention_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class NNXStack(nnx.Module):
    """Blocks one after the other, starting from our numbers."""

    def __init__(self, params: Any, heads: int):
        depth, width = params["attention_norm"]["scale"].shape
        blocks = (NNXBlock(width, heads, rngs=nnx.Rngs(0)) for _ in range(depth))
        self.blocks = nnx.List(blocks)
        for i, own in enumerate(self.blocks):
            at = jax.tree.map(lambda leaf, i=i: leaf[i], params)
            layers = {"up": at["mlp"][0], "down": at["mlp"][1]}
            for name in ("attention_norm", "mlp_norm"):
                layers[name] = at[name]
            for name, values in layers.items():
                for leaf, value in values.items():
                    getattr(getattr(own, name), leaf).set_value(value)
            for name, values in at["attention"].items():
                for leaf, value in values.items():
                    target = getattr(getattr(own.attention, name), leaf)
                    target.set_value(value.reshape(target.shape))

    def __call__(self, x):
        for own in self.blocks:
            x = own(x)
        return x


def with_nnx(params: Any, x: jax.Array, heads: int) -> dict[str, Callable]:
    """flax.nnx, as its documentation trains."""
    model, trained = NNXStack(params, heads), NNXStack(params, heads)
    optimizer = nnx.Optimizer(trained, optax.adamw(RATE), wrt=nnx.Param)
    loss = lambda model, x: jnp.mean(model(x) ** 2)
    forward, both = nnx.jit(lambda model, x: model(x)), nnx.jit(nnx.value_and_grad(loss))

    @nnx.jit(donate_argnums=(0, 1))
    def update(model, optimizer, x):
        optimizer.update(model, nnx.grad(loss)(model, x))

    def train():
        update(trained, optimizer, x)
        return nnx.state(trained)

    return {
        "forward": lambda: forward(model, x),
        "forward and backward": lambda: both(model, x),
        "AdamW step": train,
    }


class TorchBlock(torch.nn.Module):
    """The block of torch's modules and its own attention kernel."""

    def __init__(self, own: Any, heads: int):
        super().__init__()
        self.heads, width = heads, len(own["attention_norm"]["scale"])
        joined = {
            leaf: np.concatenate(
                [own["attention"][k][leaf] for k in ("query", "key", "value")], -1
            )
            for leaf in ("kernel", "bias")
        }
        self.attention_norm, self.mlp_norm = (torch.nn.LayerNorm(width) for _ in range(2))
        for norm in ("attention_norm", "mlp_norm"):
            values = {"weight": own[norm]["scale"], "bias": own[norm]["bias"]}
            getattr(self, norm).load_state_dict({k: tensor(v) for k, v in values.items()})
        self.joined, self.out = linear(joined), linear(own["attention"]["out"])
        self.up, self.down = (linear(layer) for layer in own["mlp"])

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = map(split, self.joined(self.attention_norm(x)).chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        y = functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh")
        return x + self.down(y)


def tensor(x: Any) -> torch.Tensor:
    """The same numbers in torch, in the dtype and where this is measured."""
    whole = np.issubdtype(x.dtype, np.integer)
    numbers = torch.from_numpy(np.array(x, None if whole else np.float32))
    dtype = numbers.dtype if whole else getattr(torch, DTYPE)
    return numbers.to("cuda" if ON_GPU else "cpu", dtype)


def linear(params: Any) -> torch.nn.Linear:
    """Our dense layer as torch's."""
    layer = torch.nn.Linear(*params["kernel"].shape)
    values = {"weight": params["kernel"].T, "bias": params["bias"]}
    layer.load_state_dict({name: tensor(value) for name, value in values.items()})
    return layer


def with_torch(params: Any, x: jax.Array, heads: int, *, compiled: bool) -> dict[str, Callable]:
    """torch, eager or compiled, with its fused AdamW."""

    def model() -> Any:
        depth = len(params["attention_norm"]["scale"])
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(depth)]
        stack = torch.nn.Sequential(*(TorchBlock(own, heads) for own in each))
        stack = stack.to("cuda" if ON_GPU else "cpu", getattr(torch, DTYPE))
        return torch.compile(stack) if compiled else stack

    fixed, trained, data = model(), model(), tensor(x)
    adamw = torch.optim.AdamW(trained.parameters(), RATE, fused=True)

    def forward():
        with torch.no_grad():
            return fixed(data)

    def both():
        fixed.zero_grad()
        (fixed(data) ** 2).mean().backward()

    def train():
        adamw.zero_grad()
        (trained(data) ** 2).mean().backward()
        adamw.step()

    return {"forward": forward, "forward and backward": both, "AdamW step": train}


# measuring


def stack(sizes: Sizes) -> list[dict]:
    """One row a pass: every contender's seconds, first call apart, and the FLOPs."""
    depth, length, heads, width = sizes.depth, sizes.length, sizes.heads, sizes.width
    # The peak first: where it is not known nothing is measured in vain.
    peak = find_device(jax.devices()[0].device_kind).peak["bf16"] if ON_GPU else None
    draw = partial(init_block, d_model=width, heads=heads, depth=depth, dtype=DTYPE)
    params = jax.lax.map(lambda key: draw(key), jax.random.split(jax.random.key(0), depth))
    x = jax.random.normal(jax.random.key(1), (sizes.batch, length, width), DTYPE)
    contenders = {
        "lintoolkit": ours(params, x, heads, scan=True),
        "lintoolkit unrolled": ours(params, x, heads, scan=False),
        "flax.nnx": with_nnx(params, x, heads),
        "torch eager": with_torch(params, x, heads, compiled=False),
        "torch compiled": with_torch(params, x, heads, compiled=True),
    }
    if depth == 1:  # nothing to unroll
        del contenders["lintoolkit unrolled"]
    elif length > 256:  # which takes long enough with three contenders
        del contenders["torch compiled"], contenders["lintoolkit unrolled"]
    first = {
        work: {name: timed(passes[work]) for name, passes in contenders.items()}
        for work in PASSES
    }
    in_torch = lambda y: isinstance(y, torch.Tensor)
    as_numpy = lambda y: np.asarray(y.float().cpu() if in_torch(y) else y, float)
    expected = as_numpy(contenders["lintoolkit"]["forward"]())
    for name, calls in contenders.items():
        apart = np.linalg.norm(as_numpy(calls["forward"]()) - expected)
        assert apart <= AGREE[DTYPE] * np.linalg.norm(expected), (name, apart)
    lively = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    step = lambda x, p: (block(p, x, heads=heads, causal=True), None)
    loss = lambda params, x: jnp.mean(jax.lax.scan(step, x, params)[0] ** 2)
    forward = cost(lambda params, x: jax.lax.scan(step, x, params)[0], lively, x).lowered
    both = cost(jax.value_and_grad(loss), lively, x).lowered
    each = block_flops(t=length, d_model=width, causal=True)
    # cuDNN makes no pair that causality hides; in blocks some are made.
    assert ON_GPU or forward.matmul_flops == sizes.batch * depth * each
    rows = []
    for work in PASSES:
        calls = {name: passes[work] for name, passes in contenders.items()}
        seconds = medians(calls, sizes.rounds, times=3 if ON_GPU else 1)
        counted = forward if work == "forward" else both
        row = {
            "blocks": depth,
            "length": length,
            "batch": sizes.batch,
            "width": width,
            "heads": heads,
            "pass": work,
            "seconds": seconds,
            "first_call_seconds": first[work],
            "times_faster": {
                name: value / seconds["lintoolkit"] for name, value in seconds.items()
            },
            "flops": counted.flops,
            "flops_per_second": counted.flops / seconds["lintoolkit"],
        }
        if peak:
            row["products_of_peak"] = {
                name: counted.matmul_flops / value / peak for name, value in seconds.items()
            }
        rows.append(row)
    return rows


def generation() -> list[dict]:
    """Tokens a second of GPT-2 small's shape with random numbers, greedy, one prompt."""
    import transformers

    config = GPTConfig()
    params = init_gpt(jax.random.key(0), config)
    prompt = jax.random.randint(jax.random.key(1), (1, PROMPT), 0, config.vocabulary)

    def ours() -> Any:
        with jax.default_matmul_precision("highest"):  # as torch's: in float32, no TF32
            return generate(
                jax.random.key(2), params, prompt, config=config, steps=STEPS, temperature=0
            )

    with tempfile.TemporaryDirectory() as folder:
        theirs = transformers.GPT2Config(bos_token_id=None, eos_token_id=None)
        theirs.save_pretrained(folder)
        save_gpt2(Path(folder) / "model.safetensors", params, config=config)
        model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
        model = model.to("cuda" if ON_GPU else "cpu")
    run = partial(
        model.generate, tensor(prompt).long(), max_new_tokens=STEPS, do_sample=False,
        use_cache=True, pad_token_id=0,
    )  # fmt: skip
    first = timed(ours)
    same = bool((np.asarray(ours().tokens) == run()[:, PROMPT:].cpu().numpy()).all())
    seconds = medians({"lintoolkit": ours, "transformers": run}, 3)
    return [
        {
            "prompt": PROMPT,
            "steps": STEPS,
            "tokens_per_second": {name: STEPS / value for name, value in seconds.items()},
            "times_faster": seconds["transformers"] / seconds["lintoolkit"],
            "same_tokens": same,
            "first_call_seconds": first,
        }
    ]


def convolution() -> list[dict]:
    """im2col and one product beside XLA's own convolution, on the same images."""
    rows = []
    for n, side, c_in, k, c_out, strides in ((8, 64, 16, 3, 32, 1), (2, 224, 3, 7, 64, 2)):
        x = jax.random.normal(jax.random.key(0), (n, side, side, c_in))
        kernel = jax.random.normal(jax.random.key(1), (k, k, c_in, c_out))
        columns = jax.vmap(partial(im2col, size=k, strides=strides))

        @jax.jit
        def by_product(x, kernel, columns=columns, c_out=c_out):
            rows = kernel.transpose(3, 2, 0, 1).reshape(c_out, -1)
            y = rows @ columns(jnp.moveaxis(x, -1, 1))
            side = int(y.shape[-1] ** 0.5)
            return jnp.moveaxis(y, 1, -1).reshape(len(x), side, side, c_out)

        direct = partial(conv2d, strides=strides)
        calls = {
            "conv2d": lambda x=x, kernel=kernel, f=direct: f(x, kernel),
            "im2col": lambda x=x, kernel=kernel, f=by_product: f(x, kernel),
        }
        np.testing.assert_allclose(calls["conv2d"](), calls["im2col"](), atol=1e-3)
        dims: dict[str, Any] = {
            "n": n,
            "h": side,
            "w": side,
            "kh": k,
            "kw": k,
            "c_in": c_in,
            "c_out": c_out,
        }
        rows.append(
            dims
            | {
                "strides": strides,
                "seconds": medians(calls, 11),
                "flops": conv2d_flops(**dims, strides=strides),
            }
        )
    return rows


ON_CPU: dict[str, Callable[[], list[dict]]] = {
    "block-256": partial(stack, Sizes(1, 256, rounds=7)),
    "block-1024": partial(stack, Sizes(1, 1024, rounds=3)),
    "stack-256": partial(stack, Sizes(4, 256, rounds=3)),
    "stack-1024": partial(stack, Sizes(4, 1024, rounds=2)),
    "generation": generation,
    "convolution": convolution,
}
CASES: dict[str, Callable[[], list[dict]]] = (
    ON_CPU
    if not ON_GPU
    else {
        "gpt2-small": partial(stack, Sizes(12, 1024, rounds=5, batch=16)),
        "wide": partial(stack, Sizes(2, 2048, rounds=5, batch=4, width=4096, heads=32)),
        "generation": generation,
    }
)


def main(names: list[str]) -> None:
    """Run, print and write the comparison."""
    torch.set_num_threads(THREADS)
    for name in names or CASES:
        rows = CASES[name]()
        path = RESULTS / jax.default_backend() / "transformer.json"
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        report["settings"] = {
            "dtype": DTYPE,
            "threads": THREADS,
            "seconds": "median of calls after one to warm up, the contenders taking turns",
            "times_faster": "a contender's seconds over lintoolkit's",
            "flops": "lintoolkit.cost, lowered; the optimiser's own are not in them",
        }
        packages = ("flax", "optax", "torch", "transformers")
        report["cases"] = report.get("cases", {}) | {
            name: {
                "rows": rows,
                "cores": os.cpu_count(),
                "versions": {package: version(package) for package in packages},
                "run": run_stamp(seed=0, full=True),
            }
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, dump(report))
        for row in rows:
            print(name, row)


if __name__ == "__main__":
    main(sys.argv[1:])
