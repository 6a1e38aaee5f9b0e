# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""Singular value decompositions: full, truncated, randomized, and what they approximate.

$X = U \, \mathrm{diag}(s) \, V^\top$ with orthonormal columns of $U$ and $V$ and
$s_1 \ge s_2 \ge \dots \ge 0$. The sign of each pair is fixed: the entry of largest magnitude in
a row of $V^\top$ is positive. What is not finite, or did not converge, is NaN, with ``ok``
False: never finite garbage. Half precision is computed, and returned, in float32.

Letters: n rows, d columns, r rank.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lintoolkit import _checks, _krylov
from lintoolkit._jit import jit
from lintoolkit._rows import on_mesh_of, pull, push, through_qr
from lintoolkit._scale import unit_of
from lintoolkit._triplets import (
    LinearOperator,
    Matrix,
    Products,
    Triplets,
    apart,
    change,
    check_iteration,
    check_rank,
    complete,
    dense_of,
    highest,
    leading,
    matrix_of,
    one_by_one,
    orthonormal,
    products_of,
    signs,
    small_svd,
)
from lintoolkit.layers import AnyKey

__all__ = [
    "SVD", "linear_operator", "svd", "truncated_svd", "randomized_svd", "low_rank",
    "reconstruct", "reconstruct_flops", "tail_error", "rank_for_energy",
]  # fmt: skip
__dir__ = lambda: __all__


class SVD(NamedTuple):
    """U diag(s) Vᵀ, largest first; ``ok`` False, and every number NaN, where it failed."""

    u: Float[Array, "n r"]
    s: Float[Array, " r"]
    vt: Float[Array, "r d"]
    ok: Bool[Array, ""]


export.register_namedtuple_serialization(SVD, serialized_name="lintoolkit.svd.SVD")


def linear_operator(
    matvec: Callable[[Float[Array, " d"]], Float[Array, " n"]],
    rmatvec: Callable[[Float[Array, " n"]], Float[Array, " d"]],
    *,
    shape: tuple[int, int],
    dtype: DTypeLike = jnp.float32,
) -> LinearOperator:
    """Describe a matrix by its products.

    ``matvec`` maps x to y = A x, ``rmatvec`` maps y to Aᵀ y.

    Args:
        matvec: (d,) to (n,), one vector at a time; `jax.tree_util.Partial` with its arrays
            as arguments spares a compilation for each new function object.
        rmatvec: (n,) to (d,), the transpose: that it is one is the caller's promise.
        shape: (n, d).
        dtype: Of the vectors.

    Returns:
        What the decompositions take in place of an array. Gradients do not pass through it.

    Raises:
        TypeError: If a product is no function, or ``dtype`` is not float32 or float64.
        ValueError: If ``shape`` is not two sizes of at least 1, or a product gives a vector of
            another length or dtype.

    Cost:
        Nothing; the products run where it is decomposed, 32 vectors at a time.

    Examples:
        >>> d = jnp.arange(1.0, 5.0, dtype=jnp.float32)  # a diagonal matrix
        >>> scale = jax.tree_util.Partial(jnp.multiply, d)
        >>> print(truncated_svd(linear_operator(scale, scale, shape=(4, 4)), rank=2).s)
        [4. 3.]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 10.1.
    """
    for name, product in (("matvec", matvec), ("rmatvec", rmatvec)):
        if not callable(product):
            raise TypeError(
                f"linear_operator: {name} must be a function of a vector, got {product!r}."
            )
    _checks.float_dtype("linear_operator", dtype)
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(
            f"linear_operator: dtype must be float32 or float64, got {jnp.dtype(dtype)}; widen "
            "inside the products."
        )
    if len(shape) != 2:
        raise ValueError(f"linear_operator: shape must be (n, d), got {shape}.")
    n, d = shape
    _checks.positive("linear_operator", n=n, d=d)
    forward, backward = (
        p if isinstance(p, jax.tree_util.Partial) else jax.tree_util.Partial(p)
        for p in (matvec, rmatvec)
    )
    for name, product, sizes in (("matvec", forward, (d, n)), ("rmatvec", backward, (n, d))):
        got = jax.eval_shape(product, jax.ShapeDtypeStruct(sizes[:1], dtype))
        if getattr(got, "shape", None) != sizes[1:] or got.dtype != dtype:
            raise ValueError(
                f"linear_operator: {name} must map a vector of shape {sizes[:1]} and "
                f"{jnp.dtype(dtype)} to one of shape {sizes[1:]} for shape {shape}, got {got}."
            )
    return LinearOperator(forward, backward, shape=(n, d), dtype=jnp.dtype(dtype))


@jit
@_checks.scope("svd")
def svd(x: Float[Array, "n d"]) -> SVD:
    r"""Decompose a matrix into all its singular values and vectors.

    $X = U \, \mathrm{diag}(s) \, V^\top$ with r = min(n, d), by LAPACK, cuSOLVER or XLA.

    Derivatives of what does not depend on the choice of basis, such as singular values and
    projectors, are finite and right at repeated singular values too. Of the product
    $U \, \mathrm{diag}(s) \, V^\top$ they are there in `low_rank` alone. Second derivatives of
    functions of the values, such as $\sum_i s_i^3$, need distinct values.

    Args:
        x: One matrix; `jax.vmap` takes many.

    Returns:
        The thin decomposition, in the dtype of ``x``; in float32 for half precision.

    Raises:
        TypeError: If ``x`` is not a floating array.
        ValueError: If ``x`` is not a matrix, or is empty.

    Cost:
        About 14 n d² + 8 d³ FLOP for n ≥ d. Rows may be split over the devices of a mesh, and
        so are those of U then: each factorises its own, and d² numbers a device travel; all of
        X where none has more than d rows.

    Examples:
        >>> print(svd(jnp.array([[0.0, 2.0], [-3.0, 0.0]])).s)
        [3. 2.]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 2.4 and 8.6.
    """
    return _full(dense_of("svd", x))


@jit(static_argnames=("rank", "tol", "max_restarts"))
@_checks.scope("truncated_svd")
def truncated_svd(
    x: Matrix,
    *,
    rank: int,
    key: AnyKey | None = None,
    tol: float | None = None,
    max_restarts: int = 30,
) -> SVD:
    r"""Find the largest singular values and their vectors, converged.

    $X \approx X_r = U \, \mathrm{diag}(s) \, V^\top$, the best approximation of its rank, by
    block Krylov iteration on $X^\top X$, never formed, with thick restarts; where the shorter
    side has at most 512 entries, by the eigenvectors of $X^\top X$. Squaring loses what is
    below √eps of the largest singular value, so the result is then refined by products with X
    itself, and the residual is measured on those.

    Converged means $\lVert X^\top u_i - s_i v_i \rVert \le \sqrt{tol}\, s_i$ for every
    triplet, less where values lie close together, or as far as rounding lets it, 8 eps s_1. The
    error of each $s_i^2$ and the excess
    over the Eckart–Young error are then about ``tol``, relative, or less; of values below
    some 10 eps s_1 nothing is known.

    Args:
        x: A matrix, dense, sparse (BCOO, BCSR), or a `linear_operator`.
        rank: How many triplets.
        key: Draws the start; a fixed one if None, so that results repeat.
        tol: 10 eps of the dtype if None: singular values to working precision.
        max_restarts: After so many without convergence ``ok`` is False and all is NaN; what a
            fixed amount of work gives is `randomized_svd`.

    Returns:
        ``rank`` triplets in the dtype of ``x``; in float32 for half precision.

    Raises:
        TypeError: If ``x`` is none of these or not floating, or ``key`` is not one key.
        ValueError: If ``x`` is not a matrix or is empty, the rank is not in 1..min(n, d), or
            ``tol`` or ``max_restarts`` is negative.

    Cost:
        Some 4 n d 32 FLOP a step, 3 to 10 steps; n d² on the Gram path. A derivative takes a
        full `svd`. Not differentiable for a `linear_operator`, nor for sparse input.

    Examples:
        >>> x = jnp.outer(jnp.arange(3.0), jnp.ones(2))
        >>> print(truncated_svd(x, rank=1).vt.round(4))
        [[0.7071 0.7071]]

    References:
        Musco and Musco, Randomized Block Krylov Methods for Stronger and Faster Approximate
        Singular Value Decomposition (2015), arXiv:1504.05477; Wu and Simon, Thick-Restart
        Lanczos Method (2000).
    """
    x = matrix_of("truncated_svd", x)
    check_rank("truncated_svd", rank, x.shape)
    check_iteration("truncated_svd", key, tol, max_restarts)
    settings = rank, tol, max_restarts
    if isinstance(x, jax.Array):
        return _truncated_dense(x, key, *settings)
    return _truncated(products_of(x), key, *settings)


@jit(static_argnames=("rank", "oversample", "power_iters"))
@_checks.scope("randomized_svd")
def randomized_svd(
    key: AnyKey,
    x: Matrix,
    *,
    rank: int,
    oversample: int = 10,
    power_iters: int = 4,
) -> SVD:
    r"""Approximate the largest singular values and their vectors, for a fixed amount of work.

    $X \approx Q Q^\top X$ with $Q$ an orthonormal basis of $(X X^\top)^q X \Omega$ and
    Gaussian $\Omega$ of r + oversample columns, orthonormalised after every product. Nothing
    is checked: on a slowly falling spectrum the result is some 1e-3 above the optimum at q = 4,
    and `truncated_svd`, which converges, is as fast.

    Args:
        key: Draws Ω.
        x: A matrix, dense, sparse (BCOO, BCSR), or a `linear_operator`.
        rank: How many triplets.
        oversample: Columns beyond the rank.
        power_iters: q, each two products with X.

    Returns:
        ``rank`` triplets in the dtype of ``x``; in float32 for half precision.

    Raises:
        TypeError: If ``x`` is none of these or not floating, or ``key`` is not one key.
        ValueError: If ``x`` is not a matrix or is empty, the rank is not in 1..min(n, d), or
            ``oversample`` or ``power_iters`` is negative.

    Cost:
        4 n d (r + oversample) (q + 1) FLOP in products with X.

    Examples:
        >>> x = jnp.outer(jnp.arange(3.0), jnp.ones(2))
        >>> print(randomized_svd(jax.random.key(0), x, rank=1).s.round())
        [3.]

    References:
        Halko, Martinsson and Tropp, Finding Structure with Randomness (2011), SIAM Review
        53(2), algorithms 4.4 and 5.1.
    """
    x = matrix_of("randomized_svd", x)
    _checks.random_key("randomized_svd", key)
    check_rank("randomized_svd", rank, x.shape)
    for name, number in (("oversample", oversample), ("power_iters", power_iters)):
        if number < 0:
            raise ValueError(f"randomized_svd: {name} must not be negative, got {number}.")
    products = products_of(x)
    count = min(rank + oversample, products.width)
    rows = jax.random.normal(key, (count, products.width), products.dtype)
    info = jnp.finfo(products.dtype)

    def basis(columns: Array) -> Array:
        # By reflections: they are a mixture, in which a much larger value drowns the others;
        # where these would be subnormal, reflections of them are none.
        lost = jnp.abs(columns) < float(info.tiny) / float(info.eps)
        return jnp.linalg.qr(jnp.where(lost, 0, columns))[0]

    for _ in range(power_iters):
        rows = basis(products.pull(basis(products.push(rows))).T).T
    q = basis(products.push(rows))
    left, s, vt, finite = small_svd(products.pull(q))
    columns = push(q, left.T)
    return _finished(*products.triplets(columns[:, :rank], s[:rank], vt[:rank]), finite)


@jit(static_argnames=("rank",))
@_checks.scope("low_rank")
def low_rank(x: Float[Array, "n d"], *, rank: int) -> Float[Array, "n d"]:
    r"""Approximate a matrix by the nearest one of a lower rank.

    $X_r = \sum_{i \le r} s_i u_i v_i^\top$, nearest in the spectral and the Frobenius norm
    (Eckart–Young), from `truncated_svd`. Its derivative is finite and right whenever
    $s_r > s_{r+1}$, at singular values repeated among the first r or after them too.

    Args:
        x: One matrix; `jax.vmap` takes many.
        rank: Of the result.

    Returns:
        A matrix of the shape and dtype of ``x``; in float32 for half precision; NaN where
        ``x`` is not finite.

    Raises:
        TypeError: If ``x`` is not a floating array.
        ValueError: If ``x`` is not a matrix or is empty, or the rank is not in 1..min(n, d).

    Cost:
        `truncated_svd` and 2 n d r FLOP; a full `svd` for the derivative.

    Examples:
        >>> print(low_rank(jnp.diag(jnp.array([3.0, 1.0])), rank=1))
        [[3. 0.]
         [0. 0.]]

    References:
        Eckart and Young, The Approximation of One Matrix by Another of Lower Rank (1936),
        Psychometrika 1(3).
    """
    x = dense_of("low_rank", x)
    check_rank("low_rank", rank, x.shape)
    return _nearest(x, rank)


@jit
@_checks.scope("reconstruct")
def reconstruct(factors: SVD) -> Float[Array, "n d"]:
    r"""Multiply a decomposition out.

    $X = U \, \mathrm{diag}(s) \, V^\top$.

    Args:
        factors: What `svd` and its kin return.

    Returns:
        The matrix; NaN where the decomposition is.

    Raises:
        TypeError: If the factors are not floating arrays.
        ValueError: If their shapes do not fit.

    Cost:
        2 n r d + n r FLOP, see `reconstruct_flops`.

    Examples:
        >>> x = jnp.array([[3.0, 0.0], [4.0, 5.0]])
        >>> print(reconstruct(svd(x)).round(4))
        [[3. 0.]
         [4. 5.]]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 2.4.
    """
    u, s, vt, _ = factors
    _checks.floats("reconstruct", u=u, s=s, vt=vt)
    if u.ndim != 2 or vt.ndim != 2 or not u.shape[1:] == s.shape == vt.shape[:1]:
        raise ValueError(
            "reconstruct: factors must be u (n, r), s (r,) and vt (r, d), got "
            f"{u.shape}, {s.shape} and {vt.shape}; jax.vmap takes many."
        )
    with highest:
        return (u * s) @ vt


def reconstruct_flops(*, n: int, r: int, d: int) -> int:
    """FLOP of `reconstruct`.

    Args:
        n: Rows.
        r: Rank.
        d: Columns.

    Returns:
        2 n r d for the product and n r for the scaling.
    """
    return 2 * n * r * d + n * r


@jit(static_argnames=("rank",))
@_checks.scope("tail_error")
def tail_error(s: Float[Array, " r"], *, rank: int) -> Float[Array, ""]:
    r"""Tell how far the best approximation of a rank is from the matrix.

    $\lVert X - X_r \rVert_F = \sqrt{\sum_{i > r} s_i^2}$; in the spectral norm it is
    $s_{r+1}$, ``s[rank]``.

    Args:
        s: All singular values, largest first.
        rank: Of the approximation; 0 gives the norm of the matrix.

    Returns:
        The Frobenius norm of what is left out; 0 when nothing is.

    Raises:
        TypeError: If ``s`` is not a floating array.
        ValueError: If ``s`` is not a vector, or the rank is not in 0..len(s).

    Cost:
        2 (len(s) - r) FLOP.

    Examples:
        >>> print(tail_error(jnp.array([9.0, 4.0, 3.0]), rank=1))
        5.0

    References:
        Eckart and Young, The Approximation of One Matrix by Another of Lower Rank (1936).
    """
    _check_spectrum("tail_error", s)
    if not isinstance(rank, int | np.integer) or not 0 <= rank <= len(s):
        raise ValueError(f"tail_error: rank must be a whole number in 0..{len(s)}, got {rank}.")
    if rank == len(s):
        return jnp.zeros((), s.dtype)
    tail = s[rank:].astype(_checks.wide(s.dtype))
    unit = unit_of(tail)
    return (unit * jnp.linalg.norm(tail / unit)).astype(s.dtype)


@jit(static_argnames=("energy",))
@_checks.scope("rank_for_energy")
def rank_for_energy(s: Float[Array, " r"], *, energy: float = 0.95) -> Int[Array, ""]:
    r"""Count how many singular values hold a share of the energy.

    The least r with $\sum_{i \le r} s_i^2 \ge$ energy $\cdot \sum_i s_i^2$: the rank of the
    smallest best approximation with a relative squared error of at most 1 - energy.

    Args:
        s: All singular values, largest first.
        energy: A share in (0, 1].

    Returns:
        The rank; 0 where all values are zero.

    Raises:
        TypeError: If ``s`` is not a floating array.
        ValueError: If ``s`` is not a vector, or the share is not in (0, 1].

    Cost:
        3 len(s) FLOP.

    Examples:
        >>> print(rank_for_energy(jnp.array([3.0, 1.0, 0.1]), energy=0.95))
        2

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), section 6.1.1.
    """
    _check_spectrum("rank_for_energy", s)
    _check_share("rank_for_energy", "energy", energy)
    s = s.astype(_checks.wide(s.dtype))
    return _count_for_share((s / jnp.where(s[0] > 0, s[0], 1)) ** 2, energy)


def _count_for_share(parts: Array, share: float) -> Array:
    """The least number of leading parts that make up a share of their sum; 0 of nothing."""
    # What the tail may hold, summed from its small end: 1 - share is exact where sums are not.
    tail = jnp.cumsum(parts[::-1])[::-1]
    return jnp.sum(tail > (1 - share) * tail[0], dtype=jnp.int32)


@highest
def _truncated(
    products: Products, key: Array | None, rank: int, tol: float | None, max_restarts: int
) -> SVD:
    found = leading(products, key, rank=rank, tol=tol, max_restarts=max_restarts)
    rows = found.rows[:rank]
    # The best of X within the rows' span, from X itself, not squared.
    q, factor = orthonormal(products.push(rows))
    left, s, mix, finite = small_svd(factor)
    rows = mix @ rows
    columns = complete(push(q, left.T))
    ok = found.converged & found.finite & finite
    return _finished(*products.triplets(columns, s, rows), ok)


def _finished(u: Array, s: Array, vt: Array, ok: Array) -> SVD:
    """Signs fixed, and NaN where it failed, or where a value is out of the range."""
    ok &= jnp.isfinite(s).all()
    sign = signs(vt)
    parts = u * sign[:, 0], s, vt * sign
    u, s, vt = (jnp.where(ok, part, jnp.nan) for part in parts)
    return SVD(u, s, vt, ok)


# Derivatives


@jax.custom_jvp
def _full(x: Array) -> SVD:
    return _finished(*through_qr(small_svd, x))


def _as_tangent(parts: Triplets) -> SVD:
    ok: Any = np.zeros(parts[1].shape[:-1], jax.dtypes.float0)
    return SVD(*parts, ok)


@_full.defjvp
def _full_jvp(primals: tuple, tangents: tuple) -> tuple[SVD, SVD]:
    out = _full(*primals)
    return out, _as_tangent(change(out[:3], out[:3], *tangents))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _truncated_dense(
    x: Array, key: Array | None, rank: int, tol: float | None, max_restarts: int
) -> SVD:
    width = min(x.shape)
    if width <= 2 * _krylov.BLOCK or not _krylov.fits(rank, width):
        u, s, vt, ok = _full(x)
        return SVD(u[:, :rank], s[:rank], vt[:rank], ok)

    @one_by_one
    def truncated(x: Array, key: Array | None) -> SVD:
        return _truncated(products_of(x), key, rank, tol, max_restarts)

    with on_mesh_of(x):
        return truncated(x, key)


@_truncated_dense.defjvp
def _truncated_dense_jvp(
    rank: int, tol: float | None, max_restarts: int, primals: tuple, tangents: tuple
) -> tuple[SVD, SVD]:
    out = _truncated_dense(*primals, rank, tol, max_restarts)
    return out, _as_tangent(change(out[:3], _full(primals[0])[:3], tangents[0]))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _nearest(x: Array, rank: int) -> Array:
    return reconstruct(truncated_svd(x, rank=rank))


@_nearest.defjvp
@highest
def _nearest_jvp(rank: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    u, s, vt, _ = _full(x)
    u1, s1, v1 = u[:, :rank], s[:rank], vt[:rank].T
    u2, s2, v2 = u[:, rank:], s[rank:, None], vt[rank:].T
    right, left = dx @ v1, pull(u1, dx)  # rows of dx may be split, and so are those of u
    below, beside = pull(u2, right), (left @ v2).T
    turn = s2 / apart(s1, s2)
    # Both projections of the change, and how the subspaces turn towards what is left out.
    dy = right @ v1.T + u1 @ (left - (left @ v1) @ v1.T)
    dy += u2 @ (turn * (s2 * below + s1 * beside)) @ v1.T
    dy += u1 @ (turn * (s2 * beside + s1 * below)).T @ v2.T
    return _nearest(x, rank), dy


# Checks


def _check_spectrum(function: str, s: Array) -> None:
    _checks.floats(function, s=s)
    if s.ndim != 1:
        raise ValueError(
            f"{function}: s must be a vector of singular values, got shape {s.shape}; jax.vmap "
            "takes many."
        )


def _check_share(function: str, name: str, share: float) -> None:
    """Refuse a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"{function}: {name} must be in (0, 1], got {share}.")
