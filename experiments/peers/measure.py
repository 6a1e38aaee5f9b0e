"""How every benchmark here measures: calls in turn, medians, results merged into one file."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import runner

RESULTS = Path(__file__).parent.parent / "results"


ON_GPU = jax.default_backend() == "gpu"
PAUSE = 0.0 if ON_GPU else 0.15  # seconds


def timed(call: Callable[..., Any], times: int = 1) -> float:
    """Seconds a call until the answer to the last of them is there."""
    start = time.perf_counter()
    for _ in range(times):
        answer = call()
    jax.block_until_ready(answer)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():  # for what JAX does not wait for
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def turns(
    calls: Mapping[str, Callable[..., Any]], rounds: int, times: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call in each round, every other round backwards; warm up before.

    Before each there is a pause: threads of BLAS and OpenMP that have nothing more to do keep
    the cores busy for a while, at the expense of whoever comes next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        # What ran before a call leaves its mark on it.
        for name in reversed(list(calls)) if i % 2 else calls:
            time.sleep(PAUSE)
            seconds[name].append(timed(calls[name], times))
    return seconds


def medians(
    calls: Mapping[str, Callable[..., Any]], rounds: int, times: int = 1
) -> dict[str, float]:
    """Median seconds of each call."""
    taken = turns(calls, rounds, times)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def product_rate() -> float:
    """FLOPs a second of a product of two square float32 matrices: this machine's ceiling."""
    n = 8192 if ON_GPU else 2048
    x = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    timed(lambda: product(x))
    return 2 * n**3 / medians({"product": lambda: product(x)}, 5)["product"]


def write(name: str, rows: list[dict], *, key: str, peers: Iterable[str]) -> Path:
    """Put rows into results/<platform>/<name>.json in place of those of the same key.

    Each says of which commit it is, since the others stay; "run" is the last that wrote.
    """
    path = RESULTS / jax.default_backend() / f"{name}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    new = {row[key] for row in rows}
    flags = {"xla_flags": os.environ["XLA_FLAGS"]} if os.environ.get("XLA_FLAGS") else {}
    stamp = runner.run_stamp(seed=0, full=True)
    own = flags | {"commit": stamp["commit"]}
    report = {
        "rows": [row for row in kept if row[key] not in new] + [row | own for row in rows],
        "run": stamp,
        "peers": {peer: version(peer) for peer in peers},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    runner.write(path, runner.dump(report))
    return path
