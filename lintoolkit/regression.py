# ruff: noqa: DOC502 (what Raises promises is raised in _check)
r"""Linear regression: the normal equation, QR, ridge.

The intercept is the caller's: append a column of ones to ``x``, and its coefficient is the
intercept. Letters: n examples, d features, k targets.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array, Bool, Float

from lintoolkit import _checks
from lintoolkit._jit import jit
from lintoolkit._rows import pull, push
from lintoolkit._scale import unit_of

__all__ = [
    "Coefficients", "normal_equation", "normal_equation_flops", "least_squares",
    "least_squares_flops", "ridge", "ridge_flops",
]  # fmt: skip
__dir__ = lambda: __all__


class Coefficients(NamedTuple):
    """A weight for each feature, and whether there is an answer: if not, all are NaN."""

    weights: Float[Array, "*batch d"] | Float[Array, "*batch d k"]
    ok: Bool[Array, "*batch"]


export.register_namedtuple_serialization(
    Coefficients, serialized_name="lintoolkit.regression.Coefficients"
)


@jit
@_checks.scope("normal_equation")
def normal_equation(
    x: Float[Array, "n d"], y: Float[Array, " n"] | Float[Array, "n k"]
) -> Coefficients:
    r"""Fit a linear model by the normal equation.

    $X^\top X \theta = X^\top y$ minimises $\lVert X \theta - y \rVert^2$; by Cholesky. The
    condition number of $X^\top X$ is the square of X's, so half of the digits can be gone
    before anything is solved: the error grows as cond² ε, where that of `least_squares` grows
    as cond ε if the model fits.

    Args:
        x: One example a row, at least as many as features.
        y: A target for each example, or k of them; all are solved at once.

    Returns:
        The weights in the dtype of ``x``; half precision computes in float32. ``ok`` is False,
        and they are NaN, where a number is not finite, or a column of ``x`` depends on the
        ones before it as far as the dtype can tell once squared: where the square of its
        sine with their span is at most 4 (d + √n) ε.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If x is not a matrix, y has not one row for each example, or there are
            fewer examples than features.

    Cost:
        See `normal_equation_flops`: for long x about half of `least_squares`. Rows may be split
        over the devices of a mesh: d (d + k) numbers are summed over them, and d compared.

    Examples:
        >>> x = jnp.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])  # ones for the intercept
        >>> print(jnp.round(normal_equation(x, jnp.array([1.0, 3.0, 5.0])).weights, 3))
        [2. 1.]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 5.3.2 and 5.3.7.
    """
    _check("normal_equation", x, y)
    a, b, units = _wide(x, y)
    gram = pull(a, a)
    factor = lax.linalg.cholesky(gram, symmetrize_input=False)
    right = _beside_identity(pull(a, b))
    solved = jax.scipy.linalg.cho_solve((factor, True), right)
    weights, inverse = solved[:, : b.shape[1]], solved[:, b.shape[1] :]
    sine = 1 / (jnp.diagonal(gram) * jnp.diagonal(inverse))  # squared
    (n, d), eps = x.shape, jnp.finfo(a.dtype).eps
    return _answer(weights / units.T, sine > 4 * (d + math.sqrt(n)) * eps, x, y)


def normal_equation_flops(*, n: int, d: int, k: int = 1) -> int:
    """FLOP of the products, the factorisation and the solves of `normal_equation`.

    Args:
        n: Examples.
        d: Features.
        k: Targets.

    Returns:
        2 n d (d + k) + d³ / 3 + 2 d² (d + k), rounded.
    """
    return 2 * n * d * (d + k) + round(d**3 / 3) + 2 * d * d * (d + k)


@jit
@_checks.scope("least_squares")
def least_squares(
    x: Float[Array, "n d"], y: Float[Array, " n"] | Float[Array, "n k"]
) -> Coefficients:
    r"""Fit a linear model by QR, which keeps the digits that the normal equation loses.

    $X = Q R$ gives $R \theta = Q^\top y$, the minimum of $\lVert X \theta - y \rVert^2$,
    without forming $X^\top X$. With the residual $\rho = y - X \theta$ the relative error grows
    as cond ε + cond² ε $\lVert \rho \rVert / (\lVert X \rVert \lVert \theta \rVert)$, and so it
    does by any method in the dtype of X.

    Args:
        x: One example a row, at least as many as features.
        y: A target for each example, or k of them; all are solved at once.

    Returns:
        The weights in the dtype of ``x``; half precision computes in float32. ``ok`` is False,
        and they are NaN, where a number is not finite, or a column of ``x`` depends on the
        others as far as the dtype can tell: where its sine σ with their span is at most
        δ = 4 (d + 4) ε, or σ² at most δ times the residual over the length of y or of the
        terms $\theta_j x_j$, whichever is larger. Then many weights fit equally well; `ridge`
        picks small ones.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If x is not a matrix, y has not one row for each example, or there are
            fewer examples than features.

    Cost:
        See `least_squares_flops`.

    Examples:
        >>> x = jnp.array([[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
        >>> print(jnp.round(least_squares(x, jnp.array([3.0, 4.0, 6.0])).weights, 3))
        [1. 3.]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 5.3.3 and 5.3.7.
    """
    _check("least_squares", x, y)
    a, b, units = _wide(x, y)
    q, r = jnp.linalg.qr(a)
    right = _beside_identity(jnp.matmul(q.T, b, precision="highest"))
    solved = lax.linalg.triangular_solve(r, right, left_side=True)
    weights, inverse = solved[:, : b.shape[1]], solved[:, b.shape[1] :]
    sizes = jnp.linalg.norm(r, axis=0)
    spread = sizes * jnp.linalg.norm(inverse, axis=1)  # 1 / sine
    told = _told(b - push(a, weights.T), b, sizes[:, None] * weights, spread)
    independent = (_rounding(spread) * spread < 1) & told
    return _answer(weights / units.T, independent, x, y)


def least_squares_flops(*, n: int, d: int, k: int = 1) -> int:
    """FLOP of the factorisation, the products and the solves of `least_squares`.

    Args:
        n: Examples.
        d: Features.
        k: Targets.

    Returns:
        4 n d² - 4 d³ / 3 + 4 n d k + d² (d + k), rounded.
    """
    return 2 * round(2 * n * d * d - 2 * d**3 / 3) + 4 * n * d * k + d * d * (d + k)


@jit
@_checks.scope("ridge")
def ridge(
    x: Float[Array, "n d"],
    y: Float[Array, " n"] | Float[Array, "n k"],
    *,
    l2: Float[Array, ""] | float,
) -> Coefficients:
    r"""Fit a linear model whose weights are held small.

    The minimum of $\lVert X \theta - y \rVert^2 + \lambda \lVert \theta \rVert^2$, by the
    singular values of X, each column over its length, or over √λ if that is more; the penalty
    stays that of θ. Values that are rounding's, at most δ = 4 (d + 4) ε of the largest, count
    as 0: columns that depend on each other as far as the dtype can tell share their weights,
    however small λ is. There may be fewer examples than features. An intercept's column of ones
    is held small like any other: centre x and y instead. Derivatives are those of the equations
    that θ solves, and so finite at repeated singular values too.

    Args:
        x: One example a row.
        y: A target for each example, or k of them; all are solved at once.
        l2: λ, above 0. ``jax.vmap(lambda l2: ridge(x, y, l2=l2))`` tries several.

    Returns:
        The weights in the dtype of ``x``; half precision computes in float32. ``ok`` is False,
        and they are NaN, where a number is not finite, λ is negative, √λ at most some δ of
        the length of columns that depend on each other, or the residual leaves no digits, as in
        `least_squares`.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If x is not a matrix, y has not one row for each example, or l2 is not a
            scalar.

    Cost:
        See `ridge_flops`: for long x that of `least_squares`.

    Examples:
        >>> x, y = jnp.array([[1.0], [1.0]]), jnp.array([3.0, 3.0])
        >>> print(jnp.round(ridge(x, y, l2=1.0).weights, 3))
        [2.]

    References:
        Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems
        (1970); Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 5.5 and 6.1.4.
    """
    _check("ridge", x, y, wide=True)
    if not isinstance(l2, int | float) and getattr(l2, "shape", None) != ():
        got = f"shape {l2.shape}" if isinstance(l2, jax.Array) else f"a {type(l2).__name__}"
        raise ValueError(
            f"ridge: l2 must be one number, got {got}; jax.vmap over "
            "lambda l2: ridge(x, y, l2=l2) takes an array of many."
        )
    wide, short = _checks.wide(x.dtype), max(0, x.shape[1] - len(x))
    a, b = (jnp.pad(part.astype(wide), ((0, short), (0, 0))) for part in (x, _columns(y)))
    held = jnp.full(x.shape[1], jnp.sqrt(jnp.asarray(l2, wide)))
    # Over the largest entry of a column and its penalty, so that no square leaves the range,
    # and then over their length.
    units = []
    for size in (lambda a: jnp.abs(a).max(axis=0), lambda a: jnp.linalg.norm(a, axis=0)):
        both = lax.stop_gradient(jnp.maximum(size(a), held))
        units.append(unit_of(both[None], axis=0))
        a, held = a / units[-1], held / units[-1][0]
    factors, independent, spread = _factors(*lax.stop_gradient((a, held)))
    missed, weights = _held(factors, a, held, b)
    independent &= _told(missed, b, weights, spread)
    return _answer(weights / units[0].T / units[1].T, independent, x, y)


def ridge_flops(*, n: int, d: int, k: int = 1) -> int:
    """FLOP of the factorisations, the products and the solves of `ridge`.

    Args:
        n: Examples.
        d: Features.
        k: Targets.

    Returns:
        4 m d² + 82 d³ / 3 + d² (d + k) + 4 m d k + 9 d² k, m the larger of n and d, rounded; of
        them 22 d³ stand for the singular values.
    """
    m = max(n, d)
    by_qr = 2 * round(2 * m * d * d - 2 * d**3 / 3) + 2 * round(10 * d**3 / 3)
    return by_qr + 22 * d**3 + d * d * (d + k) + 4 * m * d * k + 9 * d * d * k


class _Factors(NamedTuple):
    """A = Q U S Vᵀ, and of [P V; S] the factor R and the rows beside S of the other."""

    q: Array
    u: Array
    v: Array
    beside: Array
    r: Array


def _factors(a: Array, held: Array) -> tuple[_Factors, Array, Array]:
    """Those of A and its penalties P, whether they tell all directions apart, and how well."""
    q, r = jnp.linalg.qr(a)
    # Of what is not finite LAPACK complains aloud, and the answer is none in any case.
    u, s, vt = jnp.linalg.svd(jnp.where(jnp.isfinite(r).all(), r, 0), full_matrices=False)
    rounding = s <= _rounding(s) * s[0]
    # Penalties first: where they are the larger, below them small rows keep their digits.
    stacked = jnp.concatenate([held[:, None] * vt.T, jnp.diag(jnp.where(rounding, 0, s))])
    beside, r = jnp.linalg.qr(stacked)
    inverse = lax.linalg.triangular_solve(r, jnp.eye(len(r), dtype=r.dtype), left_side=True)
    sizes, spread = jnp.linalg.norm(r, axis=0), jnp.linalg.norm(inverse, axis=1)
    independent = _rounding(s) * jnp.maximum(s[0] / sizes, sizes * spread) < 1
    # What y holds of a direction that is rounding's is left out, so it adds no error.
    return (
        _Factors(q, u, vt.T, beside[len(r) :], r),
        independent,
        jnp.where(rounding, 0, spread),
    )


def _held(factors: _Factors, a: Array, held: Array, b: Array) -> tuple[Array, Array]:
    """The residual r = b - A x, and x where Aᵀ r = P² x."""

    # Derivatives are those of these equations: finite at repeated singular values too. Both
    # unknowns are one array, as JAX transposes no solve of which only a part changes.
    def equations(both: Array) -> Array:
        r, x = both[: len(a)], both[len(a) :]
        return jnp.concatenate([r + push(a, x.T), pull(a, r) - held[:, None] ** 2 * x])

    def solve(_: Callable, right: Array) -> Array:
        b, c = right[: len(a)], right[len(a) :]
        by_r = partial(lax.linalg.triangular_solve, factors.r, left_side=True)
        inside = pull(factors.beside, pull(factors.u, pull(factors.q, b)))
        inside -= by_r(pull(factors.v, c), transpose_a=True)
        x = push(factors.v, by_r(inside).T)
        return jnp.concatenate([b - push(a, x.T), x])

    right = jnp.pad(b, ((0, a.shape[1]), (0, 0)))
    both = lax.custom_linear_solve(equations, right, solve, symmetric=True)
    return both[: len(a)], both[len(a) :]


def _rounding(spread: Array) -> float:
    """How large a sine rounding alone may make, of as many columns."""
    # Measured: dependent columns leave 7 eps at most, up to a million rows.
    return 4 * (len(spread) + 4) * float(jnp.finfo(spread.dtype).eps)


def _told(missed: Array, b: Array, terms: Array, spread: Array) -> Array:
    """Whether the residual leaves digits of weights that are given as the length of terms."""
    # Rounding A changes them by (AᵀA)⁻¹ times what it changes of Aᵀ (b - A x).
    unit = unit_of(b, axis=0)
    missed, b, terms = (jnp.linalg.norm(x / unit, axis=0) for x in (missed, b, terms))
    return (_rounding(spread) * spread.max() ** 2 * missed <= jnp.maximum(b, terms)).all()


def _beside_identity(right: Array) -> Array:
    """Right-hand sides, with those that solve for the inverse after them."""
    return jnp.concatenate([right, jnp.eye(len(right), dtype=right.dtype)], axis=1)


def _answer(weights: Array, independent: Array, x: Array, y: Array) -> Coefficients:
    ok, weights = independent.all(), weights.astype(x.dtype)
    # LAPACK turns one infinity into mostly finite numbers, so the arguments are asked too.
    for values in (weights, x, y):
        ok &= jnp.isfinite(values).all()
    weights = weights[:, 0] if y.ndim == 1 else weights
    return Coefficients(jnp.where(ok, weights, jnp.nan), ok)


def _wide(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Both in float32 at least, columns of x over their units, and the targets as columns."""
    a = x.astype(_checks.wide(x.dtype))
    units = unit_of(a, axis=0)
    return a / units, _columns(y).astype(a.dtype), units


def _columns(y: Array) -> Array:
    return y.reshape(len(y), -1)


def _check(function: str, x: Array, y: Array, *, wide: bool = False) -> None:
    _checks.floats(function, x=x, y=y)
    _checks.same_dtype(function, x=x, y=y)
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y):
        raise ValueError(
            f"{function}: x must be (n, d) and y (n,) or (n, k), a row for each example, got "
            f"{x.shape} and {y.shape}."
        )
    n, d = x.shape
    if n < d and not wide:
        raise ValueError(
            f"{function}: x has {n} examples and {d} features, so many weights fit exactly; "
            "ridge(x, y, l2=...) picks small ones."
        )
