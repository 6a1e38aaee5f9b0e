"""Rows split over devices, forced on one CPU in a process of their own: what travels."""

import pytest
from elsewhere import found_by

PROGRAM = """
import contextlib, json, sys
from functools import partial
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lintoolkit.cost import cost
from lintoolkit.eigen import pagerank
from lintoolkit.factorize import als, implicit_als
from lintoolkit.regression import normal_equation
from lintoolkit.svd import low_rank, svd, truncated_svd

kind = getattr(AxisType, sys.argv[1])
mesh = jax.make_mesh((8,), ("rows",), axis_types=(kind,))
rng = np.random.default_rng(0)
n, m, e = 120, 48, 4800
# Skewed, and many pairs are there twice, on several devices.
users, items = (np.minimum(rng.geometric(4 / k, e) - 1, k - 1) for k in (n, m))
p, q = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
stars = 3 + (p[users] * q[items]).sum(1) + rng.standard_normal(e) / 9
tall = rng.standard_normal((400, 24)) * 0.8 ** np.arange(24)
wide = np.ascontiguousarray(tall.T)
sought = tall @ rng.standard_normal((24, 2)) + rng.standard_normal((400, 2)) / 9
options = {"shape": (n, m), "rank": 3, "iterations": 4}
key = jax.random.key(0)

def tilted(damping, sources, targets):
    scores = pagerank(sources, targets, n, damping=damping).scores
    return scores @ jnp.arange(n, dtype=scores.dtype)

implicit = partial(implicit_als, key, l2=4.0, alpha=1.0, **options)
cases = {
    "als": (partial(als, key, l2=4.0, **options), users, items, stars),
    "implicit_als": (implicit, users, items, abs(stars)),
    "pagerank": (partial(pagerank, n=n), users, items),
    "pagerank, slope": (jax.grad(tilted), np.float64(0.85), users, items),
    "svd": (lambda x: svd(x).s, tall),
    "svd, slope": (jax.grad(lambda x: (svd(x).u[:, :3] ** 4).sum()), tall),
    "low_rank, slope": (jax.grad(lambda x: (low_rank(x, rank=3) ** 4).sum()), tall),
    "truncated_svd": (partial(truncated_svd, rank=3), tall),
    "truncated_svd, wide": (partial(truncated_svd, rank=3), wide),
    "normal_equation": (normal_equation, tall, sought),
}

def error(found, expected):
    def off(a, b):
        return np.abs(np.subtract(a, b, dtype=float)).max() / (np.abs(b).max() or 1)

    return float(max(jax.tree.leaves(jax.tree.map(off, found, expected))))

def split(x):
    return jax.device_put(x, NamedSharding(mesh, P("rows") if np.ndim(x) else P()))

def travels(fn, *args):
    return [[c.opcode, c.bytes, c.times] for c in cost(fn, *args).collectives]

found = {}
for name, (fn, *args) in cases.items():
    alone, placed = fn(*map(jnp.asarray, args)), [split(x) for x in args]
    # JAX asks for the mesh where it differentiates over explicit axes.
    with jax.set_mesh(mesh) if "slope" in name else contextlib.nullcontext():
        found[name] = {"error": error(fn(*placed), alone), "travels": travels(fn, *placed)}
    if "," not in name and name not in ("svd", "truncated_svd"):
        own = [jnp.asarray(x[: len(x) // 8]) for x in args]
        found[name]["of its own"] = error(fn(*own), alone)
whole = jnp.sort
if kind == AxisType.Explicit:
    whole = lambda x: jnp.sort(jax.reshard(x, NamedSharding(mesh, P())))
found["sort"] = {"travels": travels(jax.jit(whole), split(stars))}
print(json.dumps(found))
"""

N, M, E, D, DEVICES, SWEEPS = 120, 48, 4800, 24, 8, 4


@pytest.fixture(scope="module", params=["Auto", "Explicit"])
def found(request):
    words = "-c", PROGRAM, request.param
    return found_by(
        *words, JAX_NUM_CPU_DEVICES=str(DEVICES), JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1"
    )


def bytes_of(found, name, opcode):
    """How many bytes travel at a time, and how often; single numbers aside."""
    travels = [(size, times) for code, size, times in found[name]["travels"] if code == opcode]
    return sorted(pair for pair in travels if pair[0] > 32)


def opcodes(found, name):
    return {code for code, *_ in found[name]["travels"]}


def test_split_rows_give_what_one_device_finds(found):
    for name, case in found.items():
        assert case.get("error", 0) < 1e-9, name
        # Control: the rows of one device alone are not enough.
        assert case.get("of its own", 1) > 1e-2, name


@pytest.mark.parametrize(("name", "width"), [("als", 8), ("implicit_als", 3)])
def test_the_normal_equations_of_users_and_items_are_added_up(found, name, width):
    equations = width**2 + width
    expected = [(8 * M * equations, SWEEPS), (8 * N * equations, SWEEPS)]
    assert bytes_of(found, name, "all-reduce") == expected
    # Equal pairs of an implicit one, on whatever devices, are found once, before sweeping.
    gathered = [(4 * E, 1)] * 2 if name == "implicit_als" else []
    assert bytes_of(found, name, "all-gather") == gathered
    assert opcodes(found, name) <= {"all-reduce", "all-gather"}


@pytest.mark.parametrize("name", ["pagerank", "pagerank, slope"])
def test_the_ranks_of_nodes_are_added_up(found, name):
    assert opcodes(found, name) == {"all-reduce"}
    # Links are counted in 4 bytes; two sums of a derivative may travel as one.
    assert {size for size, _ in bytes_of(found, name, "all-reduce")} <= {4 * N, 8 * N, 16 * N}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("svd", 8 * DEVICES * D**2),
        ("truncated_svd", 8 * DEVICES * D**2),
        ("truncated_svd, wide", 8 * 400 * D),
    ],
)
def test_triangles_are_gathered_and_not_the_rows(found, name, size):
    assert bytes_of(found, name, "all-gather") == [(size, 1)]
    assert bytes_of(found, name, "all-reduce") == []


def test_the_normal_equation_is_summed(found):
    sums = bytes_of(found, "normal_equation", "all-reduce")
    assert sums == [(8 * D, 1), (8 * D * (D + 2), 1)]
    assert opcodes(found, "normal_equation") == {"all-reduce"}


def test_rows_that_are_gathered_are_seen(found):
    """Control: a sort of them all."""
    assert bytes_of(found, "sort", "all-gather") == [(8 * E, 1)]
