import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import DTYPES, assert_agrees, differs, draw, exact

from lintoolkit.regression import least_squares, normal_equation, ridge

N, D, K = 23, 5, 3
each_fit = pytest.mark.parametrize("fit", [normal_equation, least_squares])


def minimum(x, y, l2=0.0, least=0.0):
    """By the singular values, in float64, but those below a share of the largest."""
    u, s, vt = np.linalg.svd(exact(x), full_matrices=False)
    u, s, vt = u[:, s > least * s[0]], s[s > least * s[0]], vt[s > least * s[0]]
    return vt.T @ ((s / (s**2 + l2))[:, None] * (u.T @ exact(y).reshape(len(x), -1)))


@each_fit
@pytest.mark.parametrize("dtype", DTYPES)
def test_fits_agree_with_the_pseudoinverse(rng, fit, dtype):
    x, y = draw(rng, N, D, dtype=dtype), draw(rng, N, K, dtype=dtype)
    found = fit(x, y)
    assert_agrees(found.weights, minimum(x, y))
    assert found.ok
    assert_agrees(fit(x, y[:, 1]).weights, minimum(x, y)[:, 1])


@each_fit
def test_residuals_are_orthogonal_to_the_features(rng, fit):
    x, y = draw(rng, N, D), draw(rng, N)
    assert abs(x.T @ (y - x @ fit(x, y).weights)).max() < 1e-12
    assert abs(x.T @ y).max() > 0.1  # control


@pytest.mark.parametrize("n", [N, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ridge_agrees_with_the_singular_values(rng, n, dtype):
    x, y = draw(rng, n, D, dtype=dtype), draw(rng, n, K, dtype=dtype)
    found = ridge(x, y, l2=5.0)
    assert found.ok
    assert_agrees(found.weights, minimum(x, y, 5.0))
    assert differs(found.weights, minimum(x, y))  # control


def test_ridge_at_many_penalties(rng):
    x, y = draw(rng, N, D), draw(rng, N)
    penalties = jnp.array([1e-12, 0.5, 1e9])
    found = jax.vmap(lambda l2: ridge(x, y, l2=l2))(penalties)
    np.testing.assert_allclose(found.weights[0], least_squares(x, y).weights, rtol=1e-9)
    np.testing.assert_allclose(found.weights[1], minimum(x, y, 0.5)[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.weights[2], x.T @ y / 1e9, rtol=1e-6)


def test_the_normal_equation_loses_the_digits_that_qr_keeps(rng):
    u, v = (np.linalg.qr(rng.standard_normal(s))[0] for s in ((N, D), (D, D)))
    condition = 1e5
    x = jnp.asarray(u * np.geomspace(1, 1 / condition, D) @ v.T)
    true = rng.standard_normal(D)
    error = lambda fit: np.linalg.norm(fit(x, x @ true).weights - true) / np.linalg.norm(true)
    eps = np.finfo(float).eps
    assert error(least_squares) < 10 * condition * eps
    assert 10 * condition * eps < error(normal_equation) < 10 * condition**2 * eps


def conditioned(rng, condition, residual, dtype, n=2 * N):
    """Features, targets of which they miss a share, and the weights in float64."""
    u, v = (np.linalg.qr(rng.standard_normal(s))[0] for s in ((n, D), (D, D)))
    x = jnp.asarray(u * np.geomspace(1, 1 / condition, D) @ v.T, dtype)
    fitted = exact(x) @ rng.standard_normal(D)
    missed = rng.standard_normal(n)
    missed -= u @ (u.T @ missed)
    missed *= residual * np.linalg.norm(fitted) / np.linalg.norm(missed)
    y = jnp.asarray(fitted + missed, dtype)
    return x, y, minimum(x, y)[:, 0]


@pytest.mark.parametrize("residual", [0.0, 1e-3, 1.0, 1e3])
def test_least_squares_loses_the_digits_that_it_says_and_no_more(rng, residual):
    eps, ended = float(jnp.finfo("float32").eps), {True: [], False: []}
    for condition in np.geomspace(1, 1e7, 15):
        x, y, expected = conditioned(rng, condition, residual, "float32")
        reach = max(np.linalg.norm(expected), np.linalg.norm(exact(y)))
        missed = np.linalg.norm(exact(y) - exact(x) @ expected)
        limit = 10 * eps * (condition + condition**2 * missed / reach)
        found = least_squares(x, y)
        ended[bool(found.ok)].append(limit)
        if found.ok:
            assert np.linalg.norm(exact(found.weights) - expected) < min(limit, 0.2) * reach
    assert max(ended[True]) < 10  # what would be wrong is refused,
    assert min(ended[False]) > 0.01  # and what would be right is not


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, N, 1009])
@pytest.mark.parametrize("kind", ["twice", "sum"])
def test_ridge_shares_weights_among_dependent_columns(rng, dtype, n, kind):
    x, y = rng.standard_normal((n, D)), draw(rng, n, dtype=dtype)
    x[:, 3] = x[:, 0] if kind == "twice" else x[:, 0] - 2 * x[:, 1] + x[:, 2]
    x, eps = jnp.asarray(x, dtype), float(jnp.finfo(dtype).eps)
    for share in (1.0, 1e-2, 1e-4, eps):
        l2 = share * n
        found, expected = ridge(x, y, l2=l2), minimum(x, y, l2, least=16 * eps)[:, 0]
        assert found.ok
        assert_agrees(found.weights, expected, ulps=64 / np.sqrt(share))
    # Control: the penalty alone tells these columns apart.
    q, r = jnp.linalg.qr(
        jnp.concatenate([x, jnp.sqrt(l2).astype(dtype) * jnp.eye(D, dtype=dtype)])
    )
    by_qr = jnp.linalg.solve(r, q[:n].T @ y)
    largest = np.abs(expected).max()
    assert n < D or differs(exact(by_qr) / largest, expected / largest)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_of_ridge_at_dependent_columns(rng, dtype):
    x, y, dx, dy = (draw(rng, *s, dtype="float64") for s in 2 * ((N, D), (N,)))
    x, dx = (z.at[:, 3].set(z[:, 0]) for z in (x, dx))

    def weights(t, x=x):
        return ridge(
            (x + t * dx).astype(dtype), (y + t * dy).astype(dtype), l2=(0.1 + t).astype(dtype)
        ).weights

    oracle = lambda t: minimum(x + t * dx, y + t * dy, 0.1 + t)[:, 0]
    slope = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
    zero = jnp.zeros(())
    for derivative in (jax.jacfwd, jax.jacrev):
        assert_agrees(
            derivative(weights)(zero).astype(dtype),
            slope,
            ulps=1e3 if dtype == "float32" else 1e7,
        )
    if dtype == "float64":
        curve = (oracle(1e-3) - 2 * oracle(0) + oracle(-1e-3)) / 1e-6
        found = jax.jacfwd(jax.jacrev(weights))(zero)
        np.testing.assert_allclose(found, curve, rtol=1e-3)
    for l2, part in ((0.1, minimum(x, y, 0.1)), (2.0, minimum(x, y, 2.0))):  # of λ alone
        alone = jax.jacrev(lambda l2: ridge(x, y, l2=l2).weights)(jnp.asarray(l2))
        held = np.linalg.inv(exact(x.T @ x) + l2 * np.eye(D))
        np.testing.assert_allclose(alone, -(held @ part)[:, 0], rtol=1e-8)
    orthogonal = jnp.eye(N, D, dtype=dtype)  # all singular values are one
    assert jnp.isfinite(
        jax.grad(lambda x: ridge(x, y.astype(dtype), l2=0.1).weights.sum())(orthogonal)
    ).all()
    assert differs(jax.jacfwd(lambda t: weights(t, 0 * x + x[:, ::-1]))(zero), slope)  # control


@each_fit
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [11, 1009])
def test_dependent_columns_have_no_answer(rng, fit, dtype, n):
    for _ in range(5):
        x, y = rng.standard_normal((n, D)), draw(rng, n, dtype=dtype)
        x[:, 2] = x[:, [0, 1, 3, 4]] @ rng.standard_normal(4)
        found = fit(jnp.asarray(x, dtype), y)
        assert not found.ok
        assert np.isnan(found.weights).all()
        assert ridge(jnp.asarray(x, dtype), y, l2=0.1).ok
    for x in (np.zeros((n, D)), np.ones((n, D))):
        assert not fit(jnp.asarray(x, dtype), y).ok


@each_fit
@pytest.mark.parametrize("exponent", [-30, -23, 20, 30])
def test_units_of_a_column_change_its_weight_alone(rng, fit, exponent):
    x, y = rng.standard_normal((N, D)), draw(rng, N, dtype="float32")
    units = np.array([1.0, 10.0**exponent, 1.0, 10.0 ** (exponent // 2), 1.0])
    scaled = fit(jnp.asarray(x * units, jnp.float32), y)
    assert scaled.ok
    plain = fit(jnp.asarray(x, jnp.float32), y).weights
    np.testing.assert_allclose(exact(scaled.weights) * units, exact(plain), rtol=2e-5)
    square = jnp.sum(jnp.asarray(x * units, jnp.float32) ** 2, axis=0)
    assert not (jnp.isfinite(square) & (square > 0)).all() or abs(exponent) < 23  # control


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e12])
@pytest.mark.parametrize("units", [(1, 1e-20, 1, 1, 1), (1, 1e20, 1, 1e-3, 1), (1, 1, 1, 1, 1)])
def test_ridge_holds_the_weights_of_columns_in_units_of_their_own(rng, units, scale):
    x = scale * rng.standard_normal((N, D)) * np.array(units)
    x, y = jnp.asarray(x, jnp.float32), draw(rng, N, dtype="float32")
    for l2 in scale**2 * np.array([1e-3, 1, 1e3, 1e20]):
        if not 1e-37 < l2 < 1e37:
            continue
        found = ridge(x, y, l2=l2)
        assert found.ok
        sizes = np.sqrt(np.square(exact(x)).sum(axis=0) + l2)
        both = np.concatenate([exact(x), np.sqrt(l2) * np.eye(D)]) / sizes
        expected = np.linalg.lstsq(both, np.append(exact(y), np.zeros(D)), rcond=1e-30)[0]
        np.testing.assert_allclose(
            exact(found.weights) * sizes, expected, rtol=0, atol=2e-5 * np.abs(expected).max()
        )


def test_many_rows_far_from_zero_have_an_answer(rng):
    near = 1000 + 0.3 * rng.standard_normal(300_007)
    x = np.stack([near, np.ones_like(near)], axis=1).astype(np.float32)
    y = (2 * (x[:, 0].astype(float) - 1000) + 1).astype(np.float32)
    found = least_squares(jnp.asarray(x), jnp.asarray(y))
    assert found.ok
    np.testing.assert_allclose(found.weights, [2, -1999], rtol=1e-3)
    x[:, 0] = 1000  # control
    assert not least_squares(jnp.asarray(x), jnp.asarray(y)).ok


def test_the_control_of_dependent_columns_is_finite_garbage(rng):
    x, y = draw(rng, N, D, dtype="float32"), draw(rng, N, dtype="float32")
    x = x.at[:, 2].set(x[:, 0] + x[:, 1] + x[:, 3] + x[:, 4])
    q, r = jnp.linalg.qr(x)
    assert np.isfinite(jnp.linalg.solve(r, q.T @ y)).all()


@each_fit
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spoils_itself_alone(rng, fit, bad):
    x, y = draw(rng, 3, N, D), draw(rng, 3, N)
    found = jax.vmap(fit)(x.at[1, 2, 3].set(bad), y.at[2, 4].set(bad))
    np.testing.assert_array_equal(found.ok, [True, False, False])
    np.testing.assert_array_equal(np.isnan(found.weights).all(axis=1), ~found.ok)
    assert_agrees(found.weights[0], minimum(x[0], y[0])[:, 0])


def test_ridge_of_what_has_no_answer(rng):
    x, y = draw(rng, N, D), draw(rng, N)
    for found in (
        ridge(x.at[0, 0].set(jnp.inf), y, l2=0.1),
        ridge(x, y, l2=-1.0),
        ridge(x, y, l2=jnp.nan),
        ridge(x.at[:, 1].set(x[:, 0]), y, l2=0.0),
    ):
        assert not found.ok
        assert np.isnan(found.weights).all()


def test_weights_out_of_the_range_are_none():
    y = jnp.full(3, 6e4, jnp.float16)
    for fit in (normal_equation, least_squares, lambda x, y: ridge(x, y, l2=1e-6)):
        found = fit(0.5 * jnp.eye(3, dtype=jnp.float16), y)
        assert not found.ok
        assert np.isnan(found.weights).all()
        assert fit(jnp.eye(3, dtype=jnp.float16), y).ok
