"""Decompositions against float64 NumPy: every spectrum, every path, and their derivatives."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.experimental.sparse import BCOO, BCSR
from jax.test_util import check_grads
from oracles import assert_agrees, differs, draw, exact

from lintoolkit.svd import (
    SVD,
    linear_operator,
    low_rank,
    randomized_svd,
    rank_for_energy,
    reconstruct,
    svd,
    tail_error,
    truncated_svd,
)

RANK = 50
SPECTRA = ("fast", "slow", "flat", "very fast", "bulk")


def orthonormal(rng, n, r):
    return np.linalg.qr(rng.standard_normal((n, r)))[0]


def with_values(rng, n, d, s):
    """An n x d matrix with these singular values."""
    s = np.asarray(s, np.float64)
    return orthonormal(rng, n, len(s)) * s @ orthonormal(rng, d, len(s)).T


@functools.cache
def spectra(n, d):
    """Matrices with values that fall fast, slowly, very fast, and 20 values over noise."""
    rng = np.random.default_rng(n)
    i = np.arange(min(n, d))
    u, v = orthonormal(rng, n, len(i)), orthonormal(rng, d, len(i))
    noise = rng.standard_normal((n, d)) / (n**0.5 + d**0.5)
    return {
        "fast": u * np.exp(-i / 7) @ v.T,
        "slow": u / np.sqrt(i + 1) @ v.T,
        "flat": u[:, :20] * np.linspace(10, 5, 20) @ v[:, :20].T + noise,
        "very fast": u * 2e-5 ** (i / (RANK - 1)) @ v.T,
        "bulk": noise,
        # One value so much larger that all others drown in the rounding of its square.
        "outlier 1e4": u * np.where(i == 0, 1e4, 1 / np.sqrt(i + 1)) @ v.T,
        "outlier 1e6": u * np.where(i == 0, 1e6, 1 / np.sqrt(i + 1)) @ v.T,
    }


def spectral_norm(x):
    x = x if x.shape[0] > x.shape[1] else x.T
    return np.sqrt(np.linalg.eigvalsh(x.T @ x)[-1])


def excess(x, u, s, vt):
    """How far a decomposition's error is above the least one of its rank, relative."""
    x, u, s, vt = (oracles.exact(part) for part in (x, u, s, vt))
    least = np.linalg.svd(x, compute_uv=False)[len(s)]
    return spectral_norm(x - u * s @ vt) / least - 1


def assert_orthonormal(rows, tolerance):
    rows = oracles.exact(rows)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), rtol=0, atol=tolerance)


def assert_decomposes(x, found, *, rank, ulps=64):
    """Values of NumPy's, orthonormal vectors, signs, and the least error of the rank."""
    x = oracles.exact(x)
    values = np.linalg.svd(x, compute_uv=False)
    eps = float(jnp.finfo(found.s.dtype).eps)
    assert found.ok
    assert (found.u.shape, found.vt.shape) == ((len(x), rank), (rank, x.shape[1]))
    np.testing.assert_allclose(found.s, values[:rank], rtol=0, atol=ulps * eps * values[0])
    assert (found.s >= 0).all()
    assert (jnp.diff(found.s) <= 0).all()
    assert_orthonormal(found.u.T, ulps * eps)
    assert_orthonormal(found.vt, ulps * eps)
    largest = jnp.abs(found.vt).argmax(axis=1)
    assert (found.vt[jnp.arange(rank), largest] > 0).all()
    u, s, vt = map(oracles.exact, found[:3])
    least = values[rank] if rank < len(values) else 0
    error = np.linalg.norm(x / (values[0] or 1) - u * (s / (values[0] or 1)) @ vt, 2)
    assert error <= least / (values[0] or 1) + ulps * eps


def assert_failed(found):
    assert not found.ok
    for part in found[:3]:
        assert np.isnan(part).all()


# Accuracy

# Krylov steps where the shorter side is above 512, the square's eigenvectors where it is
# below, and all of a small matrix's.
RUNS = [
    ((601, 523), "float32"),
    ((541, 541), "float32"),
    ((211, 2503), "float32"),
    ((151, 101), "float32"),
    ((523, 601), "float64"),
    ((2503, 211), "float64"),
    ((101, 101), "float64"),
]


@pytest.mark.parametrize(("shape", "dtype"), RUNS)
def test_the_error_is_the_least_one_on_every_spectrum(shape, dtype):
    outlier = {"float32": "outlier 1e4", "float64": "outlier 1e6"}[dtype]
    orthogonal = {"float32": 1e-5, "float64": 1e-13}[dtype]
    for name in (*SPECTRA, outlier):
        x = jnp.asarray(spectra(*shape)[name], dtype)
        found = truncated_svd(x, rank=RANK)
        assert found.ok, name
        assert found.s.dtype == dtype
        assert_orthonormal(found.u.T, orthogonal)
        assert_orthonormal(found.vt, orthogonal)
        values = np.linalg.svd(oracles.exact(x), compute_uv=False)
        # Rounding is that of the largest value: 8 eps of it where the search ends, and as much
        # again in the products and the small decomposition that give the values.
        least = 16 * float(jnp.finfo(dtype).eps) * values[0] / values[RANK - 1]
        np.testing.assert_allclose(found.s, values[:RANK], rtol=max(1e-5, least), err_msg=name)
        # Beside an outlier, as good as the rounding of its size allows.
        limit = max(1e-5, least) if name == outlier else 1e-5
        assert excess(x, *found[:3]) <= limit, name
    assert excess(x, found.u, found.s, found.vt[::-1]) > 1  # control


def test_the_square_alone_loses_a_very_fast_spectrum():
    x = spectra(2503, 211)["very fast"].astype(np.float32)
    _, vectors = np.linalg.eigh(x.T @ x)
    v = vectors[:, ::-1][:, :RANK]
    projected = np.linalg.norm(x @ v, axis=0)
    assert excess(x, x @ v / projected, projected, v.T) > 1
    assert excess(x, *truncated_svd(jnp.asarray(x), rank=RANK)[:3]) <= 1e-5


# Special matrices, by every path: all eigenvectors, those of the square, and Krylov steps.


def operator(x):
    product = jax.tree_util.Partial
    return linear_operator(
        product(jnp.dot, x), product(jnp.dot, x.T), shape=x.shape, dtype=x.dtype
    )


def sparse(x):
    return BCOO.fromdense(x, nse=x.size)


PATHS = {
    "full": lambda x: svd(x),
    "leading of all": lambda x: truncated_svd(x, rank=3),
    "square": lambda x: truncated_svd(x, rank=5),
    "Krylov": lambda x: truncated_svd(sparse(x), rank=5),
    "randomized": lambda x: randomized_svd(jax.random.key(3), x, rank=5, power_iters=8),
}
SIZES = {"full": (11, 7), "leading of all": (7, 11)}


def specials(n, d, dtype):
    rng = np.random.default_rng(d)
    few = with_values(rng, n, d, [5, 4])
    outlier = with_values(rng, n, d, [1e4, 3, 2, 1, 0.5])
    return {
        name: jnp.asarray(x, dtype)
        for name, x in {
            "zero": np.zeros((n, d)),
            "equal rows": np.ones((n, 1)) * rng.standard_normal(d),
            "equal entries": np.ones((n, d)),
            "one row": np.eye(n, 1, -2) * rng.standard_normal(d),
            "one column": rng.standard_normal((n, 1)) * np.eye(1, d, 2),
            "one entry": np.eye(n, d, 2) * np.eye(n, d, 2)[0],
            "rank 2": few,
            "columns twice": np.tile(with_values(rng, n, d, [5, 4, 3, 2]), 2)[:, ::2],
            "identity": np.eye(n, d),
            "equal values": with_values(rng, n, d, np.r_[[3.0] * 3, [2.0] * 2, [1.0]]),
            "outlier": outlier,
        }.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("path", PATHS)
def test_special_matrices_are_decomposed(path, dtype):
    shape = SIZES.get(path, (101, 97))
    for name, x in specials(*shape, dtype).items():
        found = PATHS[path](x)
        try:
            assert_decomposes(x, found, rank=len(found.s))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("path", PATHS)
def test_squares_do_not_leave_the_range(rng, path, scale):
    n, d = SIZES.get(path, (101, 97))
    x = draw(rng, n, d, dtype="float32")
    found = PATHS[path](x * jnp.float32(scale))
    expected = PATHS[path](x)
    assert found.ok
    np.testing.assert_allclose(oracles.exact(found.s) / scale, expected.s, rtol=1e-5)
    assert jnp.square(jnp.float32(scale)) in (0, jnp.inf)  # control
    np.testing.assert_allclose(found.vt, expected.vt, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 3), (7, 3)])
def test_as_many_triplets_as_there_are(rng, shape):
    x, r = draw(rng, *shape), min(shape)
    for found in (
        svd(x),
        truncated_svd(x, rank=r),
        truncated_svd(sparse(x), rank=r),
        randomized_svd(jax.random.key(3), x, rank=r),
    ):
        assert_decomposes(x, found, rank=r)
        assert_agrees(reconstruct(found), oracles.exact(x), ulps=64)
    np.testing.assert_allclose(low_rank(x, rank=r), x, atol=1e-13)


# Laws


def test_the_transpose_swaps_the_sides_and_a_permutation_only_moves_them(rng):
    x = jnp.asarray(with_values(rng, 101, 97, 0.8 ** np.arange(97)))
    order = rng.permutation(101)
    for path in ("square", "Krylov"):
        found, other, moved = (PATHS[path](y) for y in (x, x.T, x[order]))
        np.testing.assert_allclose(other.s, found.s, rtol=1e-12)
        signs = jnp.sign(other.vt[jnp.arange(5), jnp.abs(found.u).argmax(axis=0)])
        signs *= jnp.sign(found.u.T[jnp.arange(5), jnp.abs(found.u).argmax(axis=0)])
        np.testing.assert_allclose(other.vt, found.u.T * signs[:, None], atol=1e-11)
        np.testing.assert_allclose(other.u, found.vt.T * signs, atol=1e-11)
        np.testing.assert_allclose(moved.s, found.s, rtol=1e-12)
        np.testing.assert_allclose(moved.vt, found.vt, atol=1e-11)
        np.testing.assert_allclose(moved.u, found.u[order], atol=1e-11)
        assert differs(moved.u, found.u)  # control
        whole = svd(x)
        np.testing.assert_allclose(found.vt, whole.vt[:5], atol=1e-11)
        np.testing.assert_allclose(found.u, whole.u[:, :5], atol=1e-11)


def test_what_is_left_out_is_the_error(rng):
    x = draw(rng, 13, 11)
    s = svd(x).s
    for rank in (1, 4, 10):
        rest = oracles.exact(x - low_rank(x, rank=rank))
        np.testing.assert_allclose(np.linalg.norm(rest, 2), s[rank], rtol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(rest), tail_error(s, rank=rank), rtol=1e-12)
        assert np.linalg.matrix_rank(oracles.exact(low_rank(x, rank=rank))) == rank
    np.testing.assert_allclose(tail_error(s, rank=0), np.linalg.norm(x), rtol=1e-12)
    assert tail_error(s, rank=11) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 300.0, 1e30])
def test_the_error_stays_in_the_range(dtype, scale):
    if dtype == "float16" and not 1e-5 < scale < 1e4:
        return  # there is no such number
    s = jnp.full(4, scale, dtype)
    np.testing.assert_allclose(exact(tail_error(s, rank=0)), 2 * exact(s[0]), rtol=1e-6)
    gradient = jax.grad(tail_error)(s, rank=1)
    np.testing.assert_allclose(exact(gradient), [0, *[3**-0.5] * 3], rtol=4e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_equal_values_of_half_precision_are_counted(dtype):
    assert rank_for_energy(jnp.full(5000, 0.3, dtype), energy=0.5) == 2500


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("energy", [0.5, 0.75, 0.95, 0.999, 1.0])
def test_the_rank_for_an_energy_is_the_least_that_holds_it(dtype, energy):
    spectra = ([7, 5, 3, 3, 1], [1, 1, 1, 1, 0], [9, 2, 0, 0, 0], [4, 0, 0, 0, 0], [0] * 5)
    for s in spectra:
        squares = [Fraction(value) ** 2 for value in s]
        least = next(r for r in range(6) if sum(squares[:r]) >= Fraction(energy) * sum(squares))
        found = rank_for_energy(jnp.array(s, dtype), energy=energy)
        assert found == least, s
        scaled = jnp.array(s, dtype) * jnp.asarray(1e30, dtype)
        assert rank_for_energy(scaled, energy=energy) == least, s


def test_all_the_energy_counts_what_a_sum_from_the_large_end_rounds_away():
    s = np.array([1.0, 1e-5, 1e-9])
    assert rank_for_energy(jnp.asarray(s), energy=1.0) == 3
    parts = np.cumsum(s**2)
    assert 1 + np.argmax(parts >= parts[-1]) == 2  # control


# Convergence


def slow(dtype="float64"):
    return jnp.asarray(spectra(131, 101)["slow"], dtype)


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_values_close_together_are_not_taken_for_one(rng, spread):
    s = np.linspace(1 + spread, 1, 560)
    u, v = (np.linalg.qr(rng.standard_normal((n, 560)))[0] for n in (600, 560))
    found = truncated_svd(jnp.asarray((u * s) @ v.T, jnp.float32), rank=20)
    assert found.ok
    np.testing.assert_allclose(exact(found.s) ** 2, s[:20] ** 2, rtol=4e-6)
    left = exact(found.u) * exact(found.s) @ exact(found.vt)
    assert np.linalg.norm((u * s) @ v.T - left, 2) < s[20] + 4e-6
    assert s[0] ** 2 - s[20] ** 2 > 10 * 4e-6  # control: any vectors would not do


def test_what_has_not_converged_is_nan():
    x = operator(jnp.asarray(spectra(131, 101)["bulk"]))
    assert_failed(truncated_svd(x, rank=5, max_restarts=0))
    found = truncated_svd(x, rank=5)  # so it does restart
    assert_decomposes(spectra(131, 101)["bulk"], found, rank=5)


def test_a_tolerance_bounds_the_error_of_the_squares():
    x = slow()
    values = np.linalg.svd(x, compute_uv=False)[:5]
    error = lambda tol: np.abs(truncated_svd(operator(x), rank=5, tol=tol).s / values - 1).max()
    assert 1e-12 < error(1e-2) <= 1e-2
    assert error(None) <= 1e-14


def test_a_key_draws_the_start_and_nothing_else():
    x = operator(slow())
    first, again = truncated_svd(x, rank=5), truncated_svd(x, rank=5)
    other = truncated_svd(x, rank=5, key=jax.random.key(5))
    for part, same, near in zip(first[:3], again[:3], other[:3], strict=True):
        np.testing.assert_array_equal(part, same)
        np.testing.assert_allclose(part, near, atol=1e-6)
    assert (first.vt != other.vt).any()


def test_typed_and_legacy_keys_draw_the_same(rng):
    x = draw(rng, 13, 11)
    keys = jax.random.key(5), jax.random.PRNGKey(5), jax.random.key(6)
    one, same, other = (randomized_svd(key, x, rank=2, oversample=1).vt for key in keys)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    truncated_svd(x, rank=2, key=keys[1])


def test_a_fixed_amount_of_work_comes_near(rng):
    x = jnp.asarray(with_values(rng, 131, 101, 1 / np.sqrt(1 + np.arange(101))))
    errors = {
        q: excess(x, *randomized_svd(jax.random.key(3), x, rank=10, power_iters=q)[:3])
        for q in (0, 4)
    }
    assert 0 <= errors[4] < 1e-2
    # Halko, Martinsson and Tropp (2011), theorem 10.6 for q = 0: at most, in the mean,
    values = np.linalg.svd(x, compute_uv=False)
    bound = (1 + np.sqrt(10 / 9)) * values[10] + np.e * np.sqrt(20) / 10 * np.linalg.norm(
        values[10:]
    )
    assert 0.1 < errors[0] <= bound / values[10] - 1  # control
    more = randomized_svd(jax.random.key(3), x, rank=10, power_iters=0, oversample=91)
    assert_decomposes(x, more, rank=10)


# What is not finite


def batched_operator(x):
    return truncated_svd(operator(x), rank=5)


@pytest.mark.parametrize("path", ["full", "leading of all", "square", "Krylov", "randomized"])
def test_what_is_not_finite_spares_its_neighbours(rng, path):
    f = batched_operator if path == "Krylov" else PATHS[path]
    n, d = SIZES.get(path, (101, 97))
    clean = draw(rng, 3, n, d)
    bad = clean.at[0, 2, 3].set(jnp.nan).at[2, 1, 0].set(jnp.inf)
    batch = jax.jit(jax.vmap(f))
    # Not both at once: batches of factorisations may wait for each other for good on XLA:CPU.
    expected = jax.block_until_ready(batch(clean))
    found = batch(bad)
    np.testing.assert_array_equal(expected.ok, True)
    np.testing.assert_array_equal(found.ok, [False, True, False])
    for part, right in zip(found[:3], expected[:3], strict=True):
        assert np.isnan(part[jnp.array([0, 2])]).all()
        np.testing.assert_array_equal(part[1], right[1])
    one = f(clean[1])
    np.testing.assert_allclose(expected.s[1], one.s, rtol=1e-12)
    np.testing.assert_allclose(expected.vt[1], one.vt, atol=1e-6)
    assert_failed(f(bad[0]))
    assert_failed(f(bad[2]))


def test_the_nearest_matrix_of_what_is_not_finite_is_nan(rng):
    assert np.isnan(low_rank(draw(rng, 5, 7).at[1, 2].set(jnp.nan), rank=2)).all()


# Operators and sparse matrices


@pytest.mark.parametrize("shape", [(101, 97), (97, 101), (11, 7)])
def test_all_kinds_of_matrix_are_one_matrix(rng, shape):
    n, d = shape
    x = jnp.asarray(with_values(rng, n, d, 0.7 ** np.arange(min(n, d))))
    x = jnp.where(rng.random(shape) < 0.5, x, 0)
    rank = min(5, d // 2)
    expected = truncated_svd(x, rank=rank)
    kinds = {"BCOO": BCOO.fromdense(x), "operator": operator(x)}
    if n > d:
        functions = lambda v: x @ v, lambda v: x.T @ v
        kinds["BCSR"] = BCSR.fromdense(x)
        kinds["functions"] = linear_operator(*functions, shape=shape, dtype=x.dtype)
    for name, kind in kinds.items():
        found = truncated_svd(kind, rank=rank)
        assert found.ok
        for part, right in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_allclose(part, right, atol=1e-8, err_msg=name)
        near = randomized_svd(jax.random.key(0), kind, rank=rank, power_iters=9)
        np.testing.assert_allclose(near.s, expected.s, rtol=1e-4, err_msg=name)
    assert_decomposes(x, expected, rank=rank)


def test_a_sparse_matrix_stays_sparse():
    n, d, entries = 20011, 3001, 4999
    program = jax.jit(
        lambda data, places: truncated_svd(BCOO((data, places), shape=(n, d)), rank=3)
    ).lower(
        jax.ShapeDtypeStruct((entries,), "float32"),
        jax.ShapeDtypeStruct((entries, 2), "int32"),
    )
    assert program.compile().memory_analysis().temp_size_in_bytes < 4 * n * d / 5


# Derivatives


def repeated(rng, shape, values=(3.0, 3.0, 2.0, 1.0, 1.0)):
    return jnp.asarray(with_values(rng, *shape, values))


INVARIANTS = {
    "values": lambda x: svd(x).s.sum(),
    "powers of values": lambda x: (svd(x).s ** 3).sum(),
    "two leading values": lambda x: truncated_svd(x, rank=2).s.sum(),
    "nearest": lambda x: low_rank(x, rank=2),
    "projector on columns": lambda x: svd(x).u[:, :2] @ svd(x).u[:, :2].T,
    "projector on rows": lambda x: svd(x).vt[:2].T @ svd(x).vt[:2],
    "projector on the rest": lambda x: svd(x).vt[3:].T @ svd(x).vt[3:],
    "projector on all rows": lambda x: svd(x).vt.T @ svd(x).vt,
    "projector on all columns": lambda x: svd(x).u @ svd(x).u.T,
    "polar factor": lambda x: svd(x).u @ svd(x).vt,
    "leading columns": lambda x: (lambda u: u @ u.T)(truncated_svd(x, rank=2).u),
    "leading rows": lambda x: (lambda vt: vt.T @ vt)(truncated_svd(x, rank=2).vt),
}
DISTINCT, REPEATED = (3.0, 2.6, 2.0, 1.0, 0.5), (3.0, 3.0, 2.0, 1.0, 1.0)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
@pytest.mark.parametrize("values", [DISTINCT, REPEATED])
@pytest.mark.parametrize("name", INVARIANTS)
def test_derivatives_are_those_of_differences(rng, name, values, shape):
    x = repeated(rng, shape, values)
    check_grads(jax.jit(INVARIANTS[name]), (x,), order=1)


# The curvature of powers of repeated values lies in the rotations that are left out, as `svd`
# says.
TWICE = [
    pytest.param(name, values, id=f"{name}-{kind}")
    for name in INVARIANTS
    for kind, values in (("distinct", DISTINCT), ("repeated", REPEATED))
    if (name, kind) != ("powers of values", "repeated")
]


@pytest.mark.parametrize(("name", "values"), TWICE)
def test_second_derivatives_are_those_of_differences(rng, name, values):
    x = repeated(rng, (7, 5), values)
    check_grads(jax.jit(INVARIANTS[name]), (x,), order=2, modes=["rev"])


def test_derivatives_pass_where_it_iterates(rng):
    values = np.r_[9.0, 8, 8, 7, 6, 2 * 0.9 ** np.arange(92)]
    x, dx = jnp.asarray(with_values(rng, 101, 97, values)), draw(rng, 101, 97)
    for f in (
        lambda x: truncated_svd(x, rank=5).s.sum(),
        lambda x: (lambda vt: vt.T @ vt)(truncated_svd(x, rank=5).vt),
        lambda x: low_rank(x, rank=5),
    ):
        f = jax.jit(f)
        _, change = jax.jvp(f, (x,), (dx,))
        step = 1e-5
        expected = (f(x + step * dx) - f(x - step * dx)) / (2 * step)
        np.testing.assert_allclose(change, expected, atol=1e-6)


def test_the_usual_derivative_is_nan_at_repeated_values():
    x = jnp.eye(7, 5) * jnp.array([3.0, 3.0, 2.0, 1.0, 1.0])

    def naive(x):
        u, _, _ = jnp.linalg.svd(x, full_matrices=False)
        return jnp.sum((u[:, :2] @ u[:, :2].T)[0])

    assert np.isnan(jax.grad(naive)(x)).any()
    ours = lambda x: jnp.sum(INVARIANTS["projector on columns"](x)[0])
    assert np.isfinite(jax.grad(ours)(x)).all()


@pytest.mark.parametrize("exact", [True, False])
def test_there_is_no_derivative_across_equal_values(rng, exact):
    x = jnp.eye(7, 5) * jnp.array(REPEATED) if exact else repeated(rng, (7, 5))
    dx = draw(rng, 7, 5)
    for f in (
        lambda x: low_rank(x, rank=1),
        lambda x: (lambda u: u @ u.T)(truncated_svd(x, rank=1).u),
        lambda x: (lambda vt: vt.T @ vt)(truncated_svd(x, rank=4).vt),
    ):
        assert not np.isfinite(jax.jvp(f, (x,), (dx,))[1]).all()


def test_half_precision_comes_out_in_float32(rng):
    x = draw(rng, 7, 5, dtype="bfloat16")
    found = svd(x)
    assert found.s.dtype == jnp.float32
    assert_decomposes(x, found, rank=5)
    assert isinstance(found, SVD)
