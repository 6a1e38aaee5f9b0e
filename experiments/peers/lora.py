"""A training step of low-rank adapters against full fine-tuning, flax, qwix and peft.

``python -m experiments.peers.lora [case ...]`` runs all cases or those named, and puts them
into results/<platform>/lora.json. The network is a stack of x + W₂ relu(W₁ norm(x)), four times
as wide inside, float32; a step is gradient and AdamW, the frozen arrays passed in and not out.
Contenders start from the same arrays and must give the same loss; they take turns in one
process, and times are medians of turns after the first. Those of torch are of its own full
fine-tuning, in a process of their own.
"""

import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.peers.measure import medians, timed, turns, write
from lintoolkit import lora
from lintoolkit.cost import cost
from lintoolkit.layers import rms_norm

SHAPES = {"768": (768, 4, 512, 8), "2048": (2048, 4, 512, 16)}  # width, blocks, rows, rank
ROUNDS = {"768": 40, "2048": 12}
RATE, THREADS = 1e-4, 2


def network(params: list[dict], x: jax.Array) -> jax.Array:
    """The stack."""
    for p in params:
        x = x + jax.nn.relu(rms_norm({}, x) @ p["up"]) @ p["down"]
    return x


def loss(params: Any, x: jax.Array) -> jax.Array:
    """Something to make small."""
    return jnp.mean(network(params, x) ** 2)


def draw(d: int, depth: int, rows: int) -> tuple[list[dict], jax.Array]:
    """The frozen arrays and an input."""
    keys = jax.random.split(jax.random.key(0), 2 * depth + 1)
    normal = lambda key, n, m: jax.random.normal(key, (n, m)) / np.sqrt(n)
    params = [
        {"up": normal(keys[2 * i], d, 4 * d), "down": normal(keys[2 * i + 1], 4 * d, d)}
        for i in range(depth)
    ]
    return params, jax.random.normal(keys[-1], (rows, d))


def training(fn: Callable, values: Any, *frozen: Any) -> Callable[[], jax.Array]:
    """A call that takes one step of AdamW on the values and gives the loss before it."""
    adamw = optax.adamw(RATE)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(values, state, *frozen):
        value, gradient = jax.value_and_grad(fn)(values, *frozen)
        updates, state = adamw.update(gradient, state, values)
        return optax.apply_updates(values, updates), state, value

    kept = [jax.tree.map(jnp.copy, values), adamw.init(values)]

    def train() -> jax.Array:
        values, state, value = step(*kept, *frozen)
        kept[:] = values, state
        return value

    return train


def linear(kernel: jax.Array, rank: int | None) -> Any:
    """A layer of flax's, with an adapter if there is a rank."""
    (n, m), rngs = kernel.shape, nnx.Rngs(0)
    layer = nnx.Linear(n, m, use_bias=False, rngs=rngs)
    layer.kernel.set_value(kernel)
    return layer if rank is None else nnx.LoRA(n, rank, m, base_module=layer, rngs=rngs)


class Block(nnx.Module):
    """The block of flax's own modules."""

    def __init__(self, own: dict, rank: int | None):
        self.up, self.down = (linear(own[name], rank) for name in ("up", "down"))

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(rms_norm({}, x))))


class Stack(nnx.Module):
    """Blocks one after the other."""

    def __init__(self, params: list[dict], rank: int | None = None):
        self.blocks = nnx.List([Block(own, rank) for own in params])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def of_module(model: nnx.Module, x: jax.Array) -> Callable[[], jax.Array]:
    """Steps on a module's adapters, the rest of it split off."""
    graph, *states = nnx.split(model, nnx.LoRAParam, ...)

    def fn(few, rest, x):
        return jnp.mean(nnx.merge(graph, few, rest)(x) ** 2)

    return training(fn, *states, x)


def with_qwix(params: list[dict], rank: int, x: jax.Array) -> Callable[[], jax.Array]:
    """The module as qwix rewrites it."""
    import qwix

    provider = qwix.LoraProvider(module_path=".*", rank=rank, alpha=float(rank))
    model = qwix.apply_lora_to_model(Stack(params), provider, x, rngs=nnx.Rngs(0))
    return of_module(model, x)


def in_jax(case: str) -> dict:
    """Seconds of a step, its FLOPs and the optimizer's state."""
    d, depth, rows, rank = SHAPES[case]
    params, x = draw(d, depth, rows)
    adapters = lora.init(jax.random.key(1), params, rank, where="")
    lifted = lora.lift(loss, strict=True)
    few = lambda adapters, params, x: lifted(params, adapters, x)
    merged = lambda adapters, params, x: loss(lora.merge(params, adapters), x)
    calls = {
        "full fine-tuning": training(loss, params, x),
        "lintoolkit": training(few, adapters, params, x),
        "merged at each call": training(merged, adapters, params, x),
        "flax.nnx.LoRA": of_module(Stack(params, rank), x),
        "qwix": with_qwix(params, rank, x),
    }
    if case != "768":  # which takes as long as the others together
        del calls["merged at each call"]
    check_losses(calls)
    times = turns(calls, ROUNDS[case])
    seconds = {name: statistics.median(values) for name, values in times.items()}
    best = min("flax.nnx.LoRA", "qwix", key=seconds.__getitem__)
    ratios = np.divide(times["lintoolkit"], times[best])  # round by round
    flops = {
        "full fine-tuning": cost(jax.grad(loss), params, x).flops,
        "lintoolkit": cost(jax.grad(few), adapters, params, x).flops,
    }
    held = lambda values: sum(a.nbytes for a in jax.tree.leaves(optax.adamw(RATE).init(values)))
    return {
        "seconds": seconds,
        "of_full": seconds["lintoolkit"] / seconds["full fine-tuning"],
        "best_peer": best,
        "of_best_peer": float(np.median(ratios)),
        "of_best_peer_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "gradient_flops": flops,
        "flops_of_full": flops["lintoolkit"] / flops["full fine-tuning"],
        "optimizer_state_times_smaller": held(params) / held(adapters),
    }


def check_losses(calls: dict[str, Callable]) -> None:
    """The first step of each, which compiles it: all begin at one loss."""
    first = {name: float(call()) for name, call in calls.items()}
    np.testing.assert_allclose(list(first.values()), first["full fine-tuning"], rtol=1e-4)


def in_torch(case: str) -> dict:
    """Seconds of torch's own step, full and with peft's adapters."""
    import peft
    import torch

    torch.set_num_threads(THREADS)
    d, depth, rows, rank = SHAPES[case]
    params, x = draw(d, depth, rows)
    data = torch.from_numpy(np.array(x))

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ups, self.downs = (torch.nn.ModuleList() for _ in range(2))
            for p in params:
                for layers, kernel in ((self.ups, p["up"]), (self.downs, p["down"])):
                    n, m = kernel.shape
                    layer = torch.nn.Linear(n, m, bias=False)
                    layer.load_state_dict({"weight": torch.from_numpy(np.array(kernel.T))})
                    layers.append(layer)

        def forward(self, x):
            for up, down in zip(self.ups, self.downs, strict=True):
                y = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
                x = x + down(torch.relu(up(y)))
            return x

    def train(model) -> Callable[[], Any]:
        trained = [p for p in model.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, RATE, fused=True)

        def step():
            adamw.zero_grad()
            value = (model(data) ** 2).mean()
            value.backward()
            adamw.step()
            return value.item()

        return step

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=r".*(ups|downs)\.\d+")
    calls = {
        "full fine-tuning": train(Layers()),
        "peft": train(peft.get_peft_model(Layers(), config)),
    }
    check_losses(calls | {"lintoolkit": lambda: loss(params, x)})
    seconds = medians(calls, ROUNDS[case])
    return {"seconds": seconds, "peft_of_full": seconds["peft"] / seconds["full fine-tuning"]}


def combining() -> dict:
    """Three sets of adapters of rank 16 to one, for one matrix of 1,024 x 1,024."""
    d, r = 1024, 16
    keys = jax.random.split(jax.random.key(0), 6)
    lows = [
        lora.LowRank(jax.random.normal(a, (d, r)), jax.random.normal(b, (r, d)))
        for a, b in keys.reshape(3, 2)
    ]
    weights = [0.5, 0.3, 0.2]

    @jax.jit
    def ours(lows):
        return lora.combine([{"w": low} for low in lows], weights, rank=r)["w"]

    @jax.jit
    def dense(lows):
        whole = sum(w * low.a @ low.b for w, low in zip(weights, lows, strict=True))
        u, s, vt = jnp.linalg.svd(whole, full_matrices=False)
        return lora.LowRank(u[:, :r] * s[:r], vt[:r])

    results = [call(lows) for call in (ours, dense)]
    first, second = (np.asarray(low.a @ low.b) for low in results)
    apart = float(np.linalg.norm(first - second) / np.linalg.norm(second))
    assert apart < 1e-4, apart
    calls = {"lintoolkit": lambda: ours(lows), "dense SVD": lambda: dense(lows)}
    for call in calls.values():
        timed(call)
    seconds = medians(calls, 5)
    faster = seconds["dense SVD"] / seconds["lintoolkit"]
    return {"seconds": seconds, "times_faster": faster, "relative_difference": apart}


CASES: dict[str, Callable[[], dict]] = {
    **{f"step-{name}": partial(in_jax, name) for name in SHAPES},
    **{f"step-{name}-torch": partial(in_torch, name) for name in SHAPES},
    "combine": combining,
}


def main(names: list[str]) -> None:
    """Run, print and write the comparison."""
    for name in names or CASES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's and peft's
            row = {"case": name} | CASES[name]()
        if name.startswith("step"):
            sizes = SHAPES[name.split("-")[1]]
            row |= dict(zip(("width", "blocks", "rows", "rank"), sizes, strict=True))
        print(row)
        write("lora", [row], key="case", peers=("flax", "qwix", "torch", "peft", "optax"))


if __name__ == "__main__":
    main(sys.argv[1:])
