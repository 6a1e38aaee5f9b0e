# ruff: noqa: DOC502 (what Raises promises is raised in _check)
r"""Linear regression: the normal equation, QR, ridge.

The intercept is the caller's: append a column of ones to ``x``, and its coefficient is the
intercept. Letters: n examples, d features, k targets.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jaxtyping import Array, Bool, Float

from lintoolkit import _checks
from lintoolkit._jit import jit
from lintoolkit._rows import pull
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
    as cond ε.

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
    without squaring the condition number.

    Args:
        x: One example a row, at least as many as features.
        y: A target for each example, or k of them; all are solved at once.

    Returns:
        The weights in the dtype of ``x``; half precision computes in float32. ``ok`` is False,
        and they are NaN, where a number is not finite, or a column of ``x`` depends on the
        ones before it as far as the dtype can tell: where its sine with their span is at most
        4 (d + 4) ε. Then many weights fit equally well; `ridge` picks small ones.

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
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 5.3.3.
    """
    _check("least_squares", x, y)
    a, b, units = _wide(x, y)
    return _by_qr(a, b, units, x, y)


def least_squares_flops(*, n: int, d: int, k: int = 1) -> int:
    """FLOP of the factorisation, the product and the solves of `least_squares`.

    Args:
        n: Examples.
        d: Features.
        k: Targets.

    Returns:
        4 n d² - 4 d³ / 3 + 2 n d k + d² (d + k), rounded.
    """
    return 2 * round(2 * n * d * d - 2 * d**3 / 3) + 2 * n * d * k + d * d * (d + k)


@jit
@_checks.scope("ridge")
def ridge(
    x: Float[Array, "n d"],
    y: Float[Array, " n"] | Float[Array, "n k"],
    *,
    l2: Float[Array, ""] | float,
) -> Coefficients:
    r"""Fit a linear model whose weights are held small.

    The minimum of $\lVert X \theta - y \rVert^2 + \lambda \lVert \theta \rVert^2$: least
    squares with d more examples, $\sqrt{\lambda} I$, whose targets are 0; by QR. The condition
    number falls to at most $\sqrt{\sigma_1^2 / \lambda + 1}$, so there may be fewer examples
    than features. An intercept's column of ones is held small like any other: centre x and y
    instead.

    Args:
        x: One example a row.
        y: A target for each example, or k of them; all are solved at once.
        l2: λ, above 0. ``jax.vmap(lambda l2: ridge(x, y, l2=l2))`` tries several.

    Returns:
        The weights in the dtype of ``x``; half precision computes in float32. ``ok`` is False,
        and they are NaN, where a number is not finite, or λ is too small, or negative, to
        make up for columns that depend on each other.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If x is not a matrix, y has not one row for each example, or l2 is not a
            scalar.

    Cost:
        That of `least_squares` on n + d examples, see `ridge_flops`.

    Examples:
        >>> x, y = jnp.array([[1.0], [1.0]]), jnp.array([3.0, 3.0])
        >>> print(jnp.round(ridge(x, y, l2=1.0).weights, 3))
        [2.]

    References:
        Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems
        (1970); Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 6.1.4.
    """
    _check("ridge", x, y, wide=True)
    if isinstance(l2, list | tuple) or jnp.ndim(l2):
        got = f"shape {l2.shape}" if isinstance(l2, jax.Array) else f"a {type(l2).__name__}"
        raise ValueError(
            f"ridge: l2 must be one number, got {got}; jax.vmap over "
            "lambda l2: ridge(x, y, l2=l2) takes an array of many."
        )
    a, b, units = _wide(x, y)
    d = x.shape[1]
    held = jnp.sqrt(jnp.asarray(l2, a.dtype)) * jnp.eye(d, dtype=a.dtype) / units
    zeros = jnp.zeros((d, *b.shape[1:]), b.dtype)
    both = jnp.concatenate([a, held]), jnp.concatenate([b, zeros])
    return _by_qr(*both, units, x, y)


def ridge_flops(*, n: int, d: int, k: int = 1) -> int:
    """FLOP of the factorisation, the product and the solves of `ridge`.

    Args:
        n: Examples.
        d: Features.
        k: Targets.

    Returns:
        `least_squares_flops` of n + d examples.
    """
    return least_squares_flops(n=n + d, d=d, k=k)


def _by_qr(a: Array, b: Array, units: Array, x: Array, y: Array) -> Coefficients:
    """Least squares, unless the sine of a column with the span of the others is rounding's."""
    q, r = jnp.linalg.qr(a)
    right = _beside_identity(jnp.matmul(q.T, b, precision="highest"))
    solved = lax.linalg.triangular_solve(r, right, left_side=True)
    weights, inverse = solved[:, : b.shape[1]], solved[:, b.shape[1] :]
    sine = 1 / (jnp.linalg.norm(r, axis=0) * jnp.linalg.norm(inverse, axis=1))
    # Measured: dependent columns leave 7 eps at most, up to a million rows.
    return _answer(weights / units.T, sine > 4 * (len(r) + 4) * jnp.finfo(r.dtype).eps, x, y)


def _beside_identity(right: Array) -> Array:
    """Right-hand sides, with those that solve for the inverse after them."""
    return jnp.concatenate([right, jnp.eye(len(right), dtype=right.dtype)], axis=1)


def _answer(weights: Array, independent: Array, x: Array, y: Array) -> Coefficients:
    ok = independent.all()
    # LAPACK turns one infinity into mostly finite numbers, so the arguments are asked too.
    for values in (weights, x, y):
        ok &= jnp.isfinite(values).all()
    weights = weights[:, 0] if y.ndim == 1 else weights
    return Coefficients(jnp.where(ok, weights, jnp.nan).astype(x.dtype), ok)


def _wide(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Both in float32 at least, columns of x over their units, and the targets as columns."""
    wide = _checks.wide(x.dtype)
    a = x.astype(wide)
    units = unit_of(a, axis=0)
    return a / units, y.reshape(len(y), -1).astype(wide), units


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
