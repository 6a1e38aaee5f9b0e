"""Inputs that nobody passes on purpose: each ends in right numbers, or in NaN and not ok."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transforms import TABLE

from lintoolkit import eigen, factorize, pca, regression, svd

TYPES = jnp.dtype("float32"), jnp.dtype("float64")
TALL, SQUARE, ANY = ((7, 5), (11, 2)), ((5, 5), (3, 3)), ((7, 5), (5, 7), (3, 3), (2, 4))
COUNT = 70  # of each dtype, for each of the functions below


def matrices(name, dtype, shapes):
    """Plain matrices, degenerate ones, and both with special values strewn in."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {dtype}".encode()))
    info = jnp.finfo(dtype)
    specials = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny]
    specials += [info.smallest_subnormal, 1e30, 1e-30, 1.0, -1.0]
    for i in range(COUNT):
        n, d = shapes[i % len(shapes)]
        x = [
            rng.standard_normal((n, d)),
            np.zeros((n, d)),
            np.ones((n, d)),
            rng.standard_normal((n, 1)) * rng.standard_normal(d),
            np.eye(n, d),
            rng.integers(-3, 4, (n, d)) * 1.0,
            rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-30, 30, d),
        ][rng.integers(7)].astype(dtype)
        for _ in range(rng.integers(4)):
            x[rng.integers(n), rng.integers(d)] = rng.choice(specials)
        yield x


def floats(result):
    return [
        np.asarray(part, np.float64)
        for part in jax.tree.leaves(result)
        if jnp.issubdtype(part.dtype, jnp.floating)
    ]


def values_near(found, x, *, ulps=256):
    """Whether singular values are NumPy's, within the rounding of the largest."""
    exact = np.linalg.svd(x.astype(np.float64) / (np.abs(x).max() or 1), compute_uv=False)
    found = np.asarray(found, np.float64) / (float(np.abs(x).max()) or 1)
    limit = ulps * float(jnp.finfo(x.dtype).eps) * (exact[0] or 1)
    return np.abs(found - exact[: len(found)]).max() <= limit


def right_svd(found, x):
    return values_near(found.s, x)


def right_pca(found, x):
    wide = x.astype(np.float64)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(wide.T)))[::-1]
    eps = float(jnp.finfo(x.dtype).eps)
    # Subtracting the mean rounds what it leaves by as much as the entries are.
    limit = 256 * eps * max(variances[0], eps * np.square(wide).max())
    limit += float(jnp.finfo(x.dtype).tiny)  # what is below is zero
    return np.abs(np.asarray(found.explained_variance)[0] - variances[0]) <= limit


def right_eigenpair(found, x):
    v, largest = np.asarray(found.vector, np.float64), float(np.abs(x).max())
    if largest <= 16 * float(jnp.finfo(x.dtype).tiny):
        return abs(float(found.value)) <= 16 * largest  # products below count as zero
    image = x / largest @ v
    return np.linalg.norm(image - float(found.value) / largest * v) <= 1e-3 * np.linalg.norm(
        image
    )


def right_eigh(found, x):
    exact = np.linalg.eigvalsh((x / 2 + x.T / 2).astype(np.float64))
    info = jnp.finfo(x.dtype)
    limit = 256 * float(info.eps) * np.abs(exact).max() + float(info.tiny)
    return abs(float(found.values[0]) - exact[-1]) <= limit


def right_weights(found, x):
    del x
    return np.isfinite(np.asarray(found.weights)).all()


def start(x):
    return jnp.asarray(np.linspace(1, 2, x.shape[1]), x.dtype)


FUNCTIONS = {
    "svd": (svd.svd, right_svd, ANY),
    "truncated_svd": (lambda x: svd.truncated_svd(x, rank=1), right_svd, ANY),
    "randomized_svd": (
        lambda x: svd.randomized_svd(jax.random.key(0), x, rank=min(x.shape)),
        right_svd,
        ANY,
    ),
    "pca_of_moments": (
        lambda x: pca.pca_of_moments(pca.moments(x), rank=1),
        right_pca,
        ANY,
    ),
    "fit_pca": (lambda x: pca.fit_pca(x, rank=1), right_pca, ANY),
    "power_iteration": (lambda x: eigen.power_iteration(start(x), x), right_eigenpair, SQUARE),
    "top_eigh": (lambda x: eigen.top_eigh(x / 2 + x.T / 2, rank=1), right_eigh, SQUARE),
    "least_squares": (lambda x: regression.least_squares(x, x[:, 0]), right_weights, TALL),
    "normal_equation": (lambda x: regression.normal_equation(x, x[:, 0]), right_weights, TALL),
    "ridge": (lambda x: regression.ridge(x, x[:, 0], l2=1.0), right_weights, ANY),
}
ELSEWHERE = {
    "als": "takes ratings, below",
    "implicit_als": "solves as als does, and refuses what is not above 0 (test_errors)",
    "pagerank": "takes a graph (test_eigen)",
}


def test_every_function_that_can_fail_is_tried():
    def fails(case):
        fn, args = case.at(np.random.default_rng(0))
        return hasattr(jax.eval_shape(fn, *args), "ok")

    can = {name.partition(".")[2] for name, case in TABLE.items() if fails(case)}
    assert can == set(FUNCTIONS) | set(ELSEWHERE)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_comes_is_right_or_nan(name, dtype, capfd):
    call, right, shapes = FUNCTIONS[name]
    ended = {True: 0, False: 0}
    for x in matrices(name, dtype, shapes):
        found = call(jnp.asarray(x))
        ok = bool(found.ok)
        ended[ok] += 1
        if ok:
            assert np.isfinite(x).all(), x
            assert all(np.isfinite(part).all() for part in floats(found)), (x, found)
            assert right(found, x), (x, found)
        else:
            assert all(np.isnan(part).all() for part in floats(found)), (x, found)
    assert min(ended.values()) >= 5, ended  # both happen
    assert capfd.readouterr() == ("", "")  # LAPACK's own complaints among them


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_ratings_are_fitted_or_nan(dtype):
    rng = np.random.default_rng(3)
    ended = {True: 0, False: 0, "refused": 0}
    for _ in range(COUNT):
        users, items = rng.integers(-1, 6, 9), rng.integers(0, 5, 9)
        users = users if rng.integers(2) else np.abs(users) % 5
        ratings = rng.standard_normal(9).astype(dtype)
        if rng.integers(2):
            ratings[rng.integers(9)] = rng.choice([np.nan, *3 * [jnp.finfo(dtype).max]])
        sound = np.isfinite(ratings).all() and (users >= 0).all() and (users <= 4).all()
        arguments = jax.random.key(0), users, items, jnp.asarray(ratings)
        if not sound:
            with pytest.raises(
                ValueError, match=r"als: (users must be|ratings must be finite)"
            ):
                factorize.als(*arguments, shape=(5, 5), rank=2)
            ended["refused"] += 1
            continue
        found = factorize.als(*arguments, shape=(5, 5), rank=2)
        ended[bool(found.ok)] += 1
        assert bool(found.ok) == (np.abs(ratings) < 1e30).all()
        assert all(
            (np.isfinite if found.ok else np.isnan)(part).all() for part in floats(found)
        )
    assert min(ended.values()) >= 5, ended
