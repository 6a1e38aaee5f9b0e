"""Lower bounds against clocks: no program that ran on an H100 beat its roofline."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lintoolkit import pca, svd
from lintoolkit.attention import attention
from lintoolkit.cost import cost

RESULTS = Path(__file__).parents[1] / "experiments" / "results" / "gpu"


@pytest.fixture(autouse=True)
def at_default_precision():
    """As programs are written; the other tests ask for all that there is."""
    with jax.default_matmul_precision(None):
        yield


def rows(name):
    return json.loads((RESULTS / f"{name}.json").read_text())["rows"]


def attending():
    for row in rows("attention"):
        # Its CPU program takes long to compile.
        marks = pytest.mark.slow if row["causal"] and row["gradient"] else ()
        yield pytest.param(row, id=row["case"], marks=marks)


@pytest.mark.parametrize("row", list(attending()))
def test_attention_took_no_less_than_its_bound(row):
    attend = partial(attention, causal=row["causal"])
    fn = jax.grad(lambda *qkv: attend(*qkv).sum(), (0, 1, 2)) if row["gradient"] else attend
    shape = row["batch"], row["length"], row["heads"], 64
    array = jax.ShapeDtypeStruct(shape, row["dtype"])
    c = cost(fn, array, array, array)
    bound = c.roofline("H100")
    results = 3 if row["gradient"] else 1
    assert bound.bytes == (3 + results) * array.size * array.dtype.itemsize
    assert 0 < bound.seconds <= row["ours"]["seconds"]
    assert bound.compiled_for == "cpu"
    if not row["causal"]:  # the control: the CPU's own traffic is no bound
        assert c.bytes_accessed / 3.35e12 > row["ours"]["seconds"]


PROGRAMS = {"svd": svd.truncated_svd, "pca": pca.fit_pca}


def shortest():
    """The least time of each program of ours, whatever the spectrum."""
    found = {}
    for row in rows("decompositions"):
        if row["contender"] == "lintoolkit":
            key = row["shape"], row["task"], row.get("rank")
            found[key] = min(row["seconds"], found.get(key, row["seconds"]))
    for (shape, task, rank), seconds in found.items():
        marks = pytest.mark.slow if rank else ()  # likewise
        yield pytest.param(shape, task, rank, seconds, id=f"{task} {shape}", marks=marks)


@pytest.mark.parametrize(("shape", "task", "rank", "seconds"), list(shortest()))
def test_decompositions_took_no_less_than_their_bound(shape, task, rank, seconds):
    if shape == "batch":
        fn, sides = jax.vmap(svd.svd), (1000, 64, 64)
    else:
        fn, sides = partial(PROGRAMS[task], rank=rank), map(int, shape.split("x"))
    bound = cost(fn, jax.ShapeDtypeStruct(tuple(sides), jnp.float32)).roofline("H100")
    assert 0 < bound.seconds <= seconds
