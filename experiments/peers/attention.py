"""Attention against `jax.nn` (its XLA form) and torch's hand-written kernel, on this CPU.

`python -m experiments.peers.attention 1,8,2048 ...` times the shapes (batch, heads, length)
that are named, or all, and merges them into experiments/results/cpu/attention.json. float32,
heads 64 wide, two threads; the contenders take turns in one process, and each number is the
median of the turns after the first. Memory and FLOP come from `lintoolkit.cost`.
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lintoolkit.attention import attention
from lintoolkit.cost import cost

SHAPES = ((4, 12, 512), (2, 12, 1024), (1, 8, 2048), (1, 8, 4096), (1, 8, 8192))
WIDTH, THREADS, SECONDS = 64, 2, 4.0
RESULTS = Path(__file__).parents[1] / "results" / "cpu" / "attention.json"


def in_jax(fn: Callable, *, gradient: bool) -> Callable:
    """The function, or its pullback of ones to q, k and v."""
    return jax.grad(lambda *qkv: fn(*qkv).sum(), (0, 1, 2)) if gradient else fn


def in_torch(arrays: list[np.ndarray], *, causal: bool, gradient: bool) -> Callable[[], object]:
    """The same in torch, which wants heads before rows."""
    q, k, v = (
        torch.tensor(x).transpose(1, 2).contiguous().requires_grad_(gradient) for x in arrays
    )
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=causal)
    if gradient:
        ones = torch.ones_like(q)
        return lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), ones)
    return lambda: attend(q, k, v)


def measure(b: int, h: int, t: int, *, causal: bool, gradient: bool) -> dict:
    """Median seconds of every contender, and what the compiled programs hold and compute."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((b, t, h, WIDTH), dtype=np.float32) for _ in range(3)]
    qkv = [jnp.asarray(x) for x in arrays]
    row: dict = {
        "batch": b,
        "heads": h,
        "length": t,
        "causal": causal,
        "gradient": gradient,
    }
    turns: dict[str, Callable] = {}
    for name, fn in (
        ("ours", partial(attention, causal=causal)),
        ("jax_nn", partial(jax.nn.dot_product_attention, is_causal=causal)),
    ):
        program = in_jax(fn, gradient=gradient)
        start = time.perf_counter()
        compiled = jax.jit(program).lower(*qkv).compile()
        seconds = time.perf_counter() - start
        priced = cost(program, *qkv)
        row[name] = {
            "compile_seconds": round(seconds, 3),
            "temp_bytes": priced.memory.temps if priced.memory else None,
            "matmul_flops": priced.lowered.matmul_flops,
        }
        turns[name] = lambda run=compiled: jax.block_until_ready(run(*qkv))
    row["torch"] = {}
    turns["torch"] = in_torch(arrays, causal=causal, gradient=gradient)
    times: dict[str, list[float]] = {name: [] for name in turns}
    began = time.perf_counter()
    while len(times["ours"]) < 3 or time.perf_counter() - began < SECONDS:
        for name, run in turns.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        row[name]["seconds"] = round(statistics.median(taken[1:]), 5)
    ours = row["ours"]["seconds"]
    row["times_faster_than_jax_nn"] = round(row["jax_nn"]["seconds"] / ours, 2)
    row["times_faster_than_torch"] = round(row["torch"]["seconds"] / ours, 2)
    row["temps_of_jax_nn"] = round(row["ours"]["temp_bytes"] / row["jax_nn"]["temp_bytes"], 4)
    return row


def merge(rows: list[dict]) -> None:
    """Replace the rows of the same shapes in the results, all at once or not at all."""
    key = lambda row: tuple(
        row[name] for name in ("length", "heads", "batch", "causal", "gradient")
    )
    old = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    table = {key(row): row for row in [*old, *rows]}
    text = json.dumps(
        {
            "versions": {
                "jax": jax.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "threads": THREADS,
            "dtype": "float32",
            "width": WIDTH,
            "rows": [table[row] for row in sorted(table)],
        },
        indent=1,
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=RESULTS.parent, delete=False) as file:
        file.write(text + "\n")
    Path(file.name).replace(RESULTS)


def main(words: list[str]) -> None:
    """Measure the shapes named, or all."""
    torch.set_num_threads(THREADS)
    for b, h, t in [tuple(map(int, word.split(","))) for word in words] or SHAPES:
        for causal in (False, True):
            for gradient in (False, True):
                row = measure(b, h, t, causal=causal, gradient=gradient)
                merge([row])
                shape = f"{b},{h},{t} {'causal' if causal else 'full':6}"
                print(
                    f"{shape} {'gradient' if gradient else 'forward':8} "
                    f"{row['times_faster_than_jax_nn']:5}x jax.nn "
                    f"{row['times_faster_than_torch']:5}x torch "
                    f"{row['temps_of_jax_nn']:7.1%} of the memory"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
