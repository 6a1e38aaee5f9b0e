"""A GPT block and a stack of four: ours beside flax.nnx and torch, eager and compiled.

``python -m experiments.peers.transformer [case ...]`` runs all cases or those named, each
with its contenders in turn in one process, and puts them into results/cpu/transformer.json.
Every time is a median of calls after one to warm up; compiling stands apart. All contenders
start from the same numbers and must give the same output.
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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch.nn import functional

from experiments.peers.measure import medians, timed
from experiments.runner import dump, run_stamp, write
from lintoolkit.cost import cost
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

BATCH, WIDTH, HEADS, RATE, THREADS = 4, 768, 12, 1e-4, 2
ROUNDS = {(1, 256): 7, (1, 1024): 3, (4, 256): 3, (4, 1024): 2}  # by blocks and length
PASSES = "forward", "forward and backward", "AdamW step"
PROMPT, STEPS = 32, 64
RESULTS = Path(__file__).parent.parent / "results" / "cpu" / "transformer.json"


# the contenders: each a dict of calls by pass


def ours(params: Any, x: jax.Array, *, scan: bool) -> dict[str, Callable]:
    """Plain functions, the blocks under a scan or one after the other."""
    depth = len(params["attention_norm"]["scale"])
    step = lambda x, p: (block(p, x, heads=HEADS, causal=True), None)

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

    def __init__(self, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=HEADS, in_features=WIDTH, decode=False, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(a, b, rngs=rngs) for a, b in itertools.permutations((WIDTH, 4 * WIDTH))
        )

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        x += self.attention(self.attention_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class NNXStack(nnx.Module):
    """Blocks one after the other, starting from our numbers."""

    def __init__(self, params: Any):
        depth = len(params["attention_norm"]["scale"])
        self.blocks = nnx.List([NNXBlock(rngs=nnx.Rngs(0)) for _ in range(depth)])
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


def with_nnx(params: Any, x: jax.Array) -> dict[str, Callable]:
    """flax.nnx, as its documentation trains."""
    model = NNXStack(params)
    trained = NNXStack(params)
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

    def __init__(self, own: Any):
        super().__init__()
        joined = {
            leaf: np.concatenate(
                [own["attention"][k][leaf] for k in ("query", "key", "value")], -1
            )
            for leaf in ("kernel", "bias")
        }
        self.attention_norm, self.mlp_norm = (torch.nn.LayerNorm(WIDTH) for _ in range(2))
        for norm in ("attention_norm", "mlp_norm"):
            values = {"weight": own[norm]["scale"], "bias": own[norm]["bias"]}
            getattr(self, norm).load_state_dict({k: tensor(v) for k, v in values.items()})
        self.joined, self.out = linear(joined), linear(own["attention"]["out"])
        self.up, self.down = (linear(layer) for layer in own["mlp"])

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        q, k, v = map(split, self.joined(self.attention_norm(x)).chunk(3, dim=-1))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        y = functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh")
        return x + self.down(y)


def tensor(x: Any) -> torch.Tensor:
    """The same numbers in torch."""
    return torch.from_numpy(np.array(x))


def linear(params: Any) -> torch.nn.Linear:
    """Our dense layer as torch's."""
    layer = torch.nn.Linear(*params["kernel"].shape)
    values = {"weight": params["kernel"].T, "bias": params["bias"]}
    layer.load_state_dict({name: tensor(value) for name, value in values.items()})
    return layer


def with_torch(params: Any, x: jax.Array, *, compiled: bool) -> dict[str, Callable]:
    """torch, eager or compiled, with its fused AdamW."""

    def model() -> Any:
        depth = len(params["attention_norm"]["scale"])
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(depth)]
        stack = torch.nn.Sequential(*map(TorchBlock, each))
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


def stack(*, depth: int, length: int) -> list[dict]:
    """One row a pass: every contender's seconds, first call apart, and the FLOPs."""
    draw = partial(init_block, d_model=WIDTH, heads=HEADS, depth=depth)
    params = jax.lax.map(lambda key: draw(key), jax.random.split(jax.random.key(0), depth))
    x = jax.random.normal(jax.random.key(1), (BATCH, length, WIDTH))
    contenders = {
        "lintoolkit": ours(params, x, scan=True),
        "lintoolkit unrolled": ours(params, x, scan=False),
        "flax.nnx": with_nnx(params, x),
        "torch eager": with_torch(params, x, compiled=False),
        "torch compiled": with_torch(params, x, compiled=True),
    }
    if depth == 1:  # nothing to unroll
        del contenders["lintoolkit unrolled"]
    elif length > 256:  # which takes long enough with three contenders
        del contenders["torch compiled"], contenders["lintoolkit unrolled"]
    first = {
        work: {name: timed(passes[work]) for name, passes in contenders.items()}
        for work in PASSES
    }
    expected = np.asarray(contenders["lintoolkit"]["forward"]())
    for name, calls in contenders.items():
        np.testing.assert_allclose(
            np.asarray(calls["forward"]()), expected, rtol=0, atol=1e-3, err_msg=name
        )
    lively = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    step = lambda x, p: (block(p, x, heads=HEADS, causal=True), None)
    loss = lambda params, x: jnp.mean(jax.lax.scan(step, x, params)[0] ** 2)
    forward = cost(lambda params, x: jax.lax.scan(step, x, params)[0], lively, x).lowered
    both = cost(jax.value_and_grad(loss), lively, x).lowered
    each = block_flops(t=length, d_model=WIDTH, causal=True)
    assert forward.matmul_flops == BATCH * depth * each
    rows = []
    for work in PASSES:
        calls = {name: passes[work] for name, passes in contenders.items()}
        seconds = medians(calls, ROUNDS[depth, length])
        flops = forward.flops if work == "forward" else both.flops
        rows.append(
            {
                "blocks": depth,
                "length": length,
                "pass": work,
                "seconds": seconds,
                "first_call_seconds": first[work],
                "times_faster": {
                    name: value / seconds["lintoolkit"] for name, value in seconds.items()
                },
                "flops": flops,
                "flops_per_second": flops / seconds["lintoolkit"],
            }
        )
    return rows


def generation() -> list[dict]:
    """Tokens a second of GPT-2 small's shape with random numbers, greedy, one prompt."""
    import transformers

    config = GPTConfig()
    params = init_gpt(jax.random.key(0), config)
    prompt = jax.random.randint(jax.random.key(1), (1, PROMPT), 0, config.vocabulary)
    ours = lambda: generate(
        jax.random.key(2), params, prompt, config=config, steps=STEPS, temperature=0
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs = transformers.GPT2Config(bos_token_id=None, eos_token_id=None)
        theirs.save_pretrained(folder)
        save_gpt2(Path(folder) / "model.safetensors", params, config=config)
        model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    run = partial(
        model.generate, tensor(prompt).long(), max_new_tokens=STEPS, do_sample=False,
        use_cache=True, pad_token_id=0,
    )  # fmt: skip
    first = timed(ours)
    same = bool((np.asarray(ours().tokens) == run()[:, PROMPT:].numpy()).all())
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


CASES: dict[str, Callable[[], list[dict]]] = {
    "block-256": partial(stack, depth=1, length=256),
    "block-1024": partial(stack, depth=1, length=1024),
    "stack-256": partial(stack, depth=4, length=256),
    "stack-1024": partial(stack, depth=4, length=1024),
    "generation": generation,
    "convolution": convolution,
}


def main(names: list[str]) -> None:
    """Run, print and write the comparison."""
    torch.set_num_threads(THREADS)
    for name in names or CASES:
        rows = CASES[name]()
        report = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        report["settings"] = {
            "batch": BATCH,
            "width": WIDTH,
            "heads": HEADS,
            "dtype": "float32",
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
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write(RESULTS, dump(report))
        for row in rows:
            print(name, row)


if __name__ == "__main__":
    main(sys.argv[1:])
