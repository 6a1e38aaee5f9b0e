"""How every benchmark here measures: calls in turn, medians, results merged into one file."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import runner

RESULTS = Path(__file__).parent.parent / "results"


def timed(call: Callable[..., Any]) -> float:
    """Seconds until the answer is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def turns(calls: Mapping[str, Callable[..., Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, every other round backwards; warm up before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        # What ran before a call leaves its mark on it.
        for name in reversed(list(calls)) if i % 2 else calls:
            times[name].append(timed(calls[name]))
    return times


def medians(calls: Mapping[str, Callable[..., Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call."""
    return {name: statistics.median(times) for name, times in turns(calls, rounds).items()}


def product_rate(n: int = 2048) -> float:
    """FLOPs a second of a product of two square float32 matrices: this machine's ceiling."""
    x = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    timed(lambda: product(x))
    return 2 * n**3 / medians({"product": lambda: product(x)}, 5)["product"]


def write(name: str, rows: list[dict], *, key: str, peers: Iterable[str]) -> Path:
    """Put rows into results/<platform>/<name>.json in place of those of the same key."""
    path = RESULTS / jax.default_backend() / f"{name}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    new = {row[key] for row in rows}
    report = {
        "rows": [row for row in kept if row[key] not in new] + rows,
        "run": runner.run_stamp(seed=0, full=True),
        "peers": {peer: version(peer) for peer in peers},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    runner.write(path, runner.dump(report))
    return path
