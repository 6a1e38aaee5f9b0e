"""Attention against `jax.nn` (its XLA form) and torch's hand-written kernel.

`python -m experiments.peers.attention 1,8,2048 ...` times the shapes (batch, heads, length)
that are named, or all, and puts the rows into experiments/results/<platform>/attention.json:
float32 on two threads of a CPU, half precision on a GPU, where cuDNN's attention and our own in
plain JAX, which options take, stand beside them. Heads are 64 wide; the contenders take turns
in one process, and each number is the median of the turns after one to warm up. Memory and FLOP
come from `lintoolkit.cost`.
"""

import inspect
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.peers.measure import ON_GPU, PAUSE, medians, timed, write
from lintoolkit import _cudnn
from lintoolkit.attention import attention
from lintoolkit.cost import cost

SHAPES = (
    ((32, 12, 512), (16, 12, 1024), (8, 16, 2048), (4, 16, 4096), (2, 16, 8192))
    if ON_GPU
    else ((4, 12, 512), (2, 12, 1024), (1, 8, 2048), (1, 8, 4096), (1, 8, 8192))
)
DTYPE = "bfloat16" if ON_GPU else "float32"
WIDTH, THREADS = 64, 2
# Calls in a turn, so that a GPU need not wait for the next; turns go on so many seconds.
CALLS, SECONDS = (10, 0.5) if ON_GPU else (1, 4.0)


def in_jax(fn: Callable, *, gradient: bool) -> Callable:
    """The function, or its pullback of ones to q, k and v."""
    return jax.grad(lambda *qkv: fn(*qkv).sum(), (0, 1, 2)) if gradient else fn


def in_torch(arrays: list[np.ndarray], *, causal: bool, gradient: bool) -> Callable[[], object]:
    """The same in torch, which wants heads before rows."""
    q, k, v = (
        torch.tensor(x, device="cuda" if ON_GPU else "cpu", dtype=getattr(torch, DTYPE))
        .transpose(1, 2)
        .contiguous()
        .requires_grad_(gradient)
        for x in arrays
    )
    attend = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=causal)
    if gradient:
        ones = torch.ones_like(q)
        return lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), ones)
    return lambda: attend(q, k, v)


def in_plain_jax(*qkv: jax.Array, causal: bool) -> jax.Array:
    """Ours without cuDNN."""
    with mock.patch.object(_cudnn, "applies", return_value=False):
        return inspect.unwrap(attention)(*qkv, causal=causal)  # not what is compiled already


def measure(b: int, h: int, t: int, *, causal: bool, gradient: bool) -> dict:
    """Median seconds of every contender, and what the compiled programs hold and compute."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((b, t, h, WIDTH), dtype=np.float32) for _ in range(3)]
    qkv = [jnp.asarray(x, DTYPE) for x in arrays]
    row: dict = {
        "case": f"{b} x {h} x {t}, {'causal' if causal else 'full'}, "
        + ("gradient" if gradient else "forward"),
        "batch": b,
        "heads": h,
        "length": t,
        "causal": causal,
        "gradient": gradient,
        "dtype": DTYPE,
    }
    calls: dict[str, Callable] = {}
    contenders: dict[str, Callable] = {
        "ours": partial(attention, causal=causal),
        "jax_nn": partial(jax.nn.dot_product_attention, is_causal=causal),
    }
    if ON_GPU:
        xla = contenders["jax_nn"]
        contenders["jax_nn"] = partial(xla, implementation="xla")
        contenders["jax_nn_cudnn"] = partial(xla, implementation="cudnn")
        contenders["ours_plain"] = partial(in_plain_jax, causal=causal)
    for name, fn in contenders.items():
        program = in_jax(fn, gradient=gradient)
        start = time.perf_counter()
        compiled = jax.jit(program).lower(*qkv).compile()
        seconds = time.perf_counter() - start
        priced = cost(compiled)
        row[name] = {
            "compile_seconds": round(seconds, 3),
            "temp_bytes": priced.memory.temps if priced.memory else None,
            "matmul_flops": priced.matmul_flops,
        }
        calls[name] = partial(compiled, *qkv)
    row["torch"] = {}
    calls["torch"] = in_torch(arrays, causal=causal, gradient=gradient)
    for call in calls.values():
        call()
    one_turn = sum(PAUSE + CALLS * timed(call) for call in calls.values())
    for name, seconds in medians(calls, max(3, int(SECONDS / one_turn)), CALLS).items():
        row[name]["seconds"] = float(f"{seconds:.4g}")
    ours = row["ours"]["seconds"]
    for name in calls:
        if name != "ours":
            row[f"times_faster_than_{name}"] = round(row[name]["seconds"] / ours, 2)
    row["temps_of_jax_nn"] = round(row["ours"]["temp_bytes"] / row["jax_nn"]["temp_bytes"], 4)
    return row


def main(words: list[str]) -> None:
    """Measure the shapes named, or all."""
    torch.set_num_threads(THREADS)
    for word in words:
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){2}", word):
            sys.exit(f"A shape is batch,heads,length, such as 1,8,2048; got {word!r}.")
    for b, h, t in [tuple(map(int, word.split(","))) for word in words] or SHAPES:
        for causal in (False, True):
            for gradient in (False, True):
                row = measure(b, h, t, causal=causal, gradient=gradient)
                write("attention", [row], key="case", peers=["torch"])
                ratios = (
                    f"{value:5}x {name.removeprefix('times_faster_than_')}"
                    for name, value in row.items()
                    if name.startswith("times_faster_than_")
                )
                memory = f"{row['temps_of_jax_nn']:7.1%} of jax_nn's memory"
                print(f"{row['case']:34}", f"{row['ours']['seconds']:.3g} s", *ratios, memory)


if __name__ == "__main__":
    main(sys.argv[1:])
