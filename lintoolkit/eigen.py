# ruff: noqa: DOC502 (what Raises promises is raised in helpers)
r"""Dominant eigenvectors: power iteration, the top of a spectrum, PageRank on a graph's edges.

Letters: n rows, or nodes of a graph.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental.sparse import BCOO, BCSR
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, Integer

from lintoolkit import _checks, _krylov
from lintoolkit._jit import jit
from lintoolkit._rows import everywhere, on_each, pull, split_of
from lintoolkit._scale import unit_of
from lintoolkit._triplets import (
    LinearOperator,
    check_iteration,
    check_rank,
    highest,
    matrix_of,
    one_by_one,
    orthonormal,
    products_of,
    signs,
)
from lintoolkit.layers import AnyKey

__all__ = [
    "Eigenpair", "PageRank", "Eigh", "power_iteration", "top_eigh", "pagerank",
]  # fmt: skip
__dir__ = lambda: __all__


class Eigenpair(NamedTuple):
    """One eigenvalue, its vector of length 1, the iterations made, whether it was met."""

    value: Float[Array, "*batch"]
    vector: Float[Array, "*batch n"]
    iterations: Int[Array, "*batch"]
    ok: Bool[Array, "*batch"]


class PageRank(NamedTuple):
    """The share of each node, the iterations made, whether the tolerance was met."""

    scores: Float[Array, "*batch n"]
    iterations: Int[Array, "*batch"]
    ok: Bool[Array, "*batch"]


class Eigh(NamedTuple):
    """Eigenvalues, largest first, their vectors as columns, whether they converged."""

    values: Float[Array, " r"]
    vectors: Float[Array, "n r"]
    ok: Bool[Array, ""]


export.register_namedtuple_serialization(Eigh, serialized_name="lintoolkit.eigen.Eigh")
export.register_namedtuple_serialization(
    Eigenpair, serialized_name="lintoolkit.eigen.Eigenpair"
)
export.register_namedtuple_serialization(PageRank, serialized_name="lintoolkit.eigen.PageRank")


def power_iteration(
    start: Float[Array, " n"],
    matrix: Float[Array, "n n"] | BCOO | BCSR | Callable[[Array], Array],
    *,
    tol: float = 1e-5,
    max_iters: int = 1000,
) -> Eigenpair:
    r"""Find the eigenvalue of largest magnitude, and its vector, by repeated products.

    $v_{i+1} = A v_i / \lVert A v_i \rVert$ and $\lambda = v_i \cdot A v_i$, until
    $\lVert A v_i - \lambda v_i \rVert \le \mathrm{tol} \lVert A v_i \rVert$. The error falls by
    $|\lambda_2 / \lambda_1|$ an iteration: where two *different* eigenvalues share the largest
    magnitude (λ and -λ, or a complex pair) nothing is found and ``ok`` is False. A repeated
    one is found, with that vector of its eigenspace which ``start`` leads to.

    Args:
        start: Where to begin, commonly ``jax.random.normal(key, (n,))``. What has no part
            along the vector sought may never find it.
        matrix: Square: an array, a sparse matrix, or a function that multiplies a vector by
            it. A function is compiled for once: pass the same one again, or a
            `jax.tree_util.Partial` of it with the arrays it needs.
        tol: The largest relative residual that counts as found.
        max_iters: Products to make before giving up.

    Returns:
        The eigenvalue and a vector of length 1 whose entry of largest magnitude is positive,
        in the dtype of ``start``; NaN where ``ok`` is False. Differentiable in the matrix, and
        in what a function closes over, by solving once more with the same matrix rather than
        through the iterations; NaN where no derivative is found, as of a repeated eigenvalue.

    Raises:
        TypeError: If ``start`` or the matrix is not floating, or dtypes differ.
        ValueError: If ``start`` is not a vector, the matrix not square of its length, or
            ``tol`` or ``max_iters`` is not positive.

    Cost:
        One product with the matrix an iteration, 2 n² FLOP if it is an array, and about 9 n.
        A derivative takes about as many iterations again.

    Examples:
        >>> found = power_iteration(jnp.array([1.0, 0.0]), jnp.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> print(f"{found.value:.3f}", found.vector.round(3))
        3.000 [0.707 0.707]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 7.3.1.
    """
    if callable(matrix) and not isinstance(matrix, jax.tree_util.Partial):
        matrix = jax.tree_util.Partial(matrix)
    return _power_iteration(start, matrix, tol=tol, max_iters=max_iters)


@jit(static_argnames=("tol", "max_iters"))
@_checks.scope("power_iteration")
def _power_iteration(
    start: Array, matrix: Array | BCOO | BCSR | Callable, *, tol: float, max_iters: int
) -> Eigenpair:
    _check_loop("power_iteration", tol, max_iters)
    _checks.floats("power_iteration", start=start)
    if start.ndim != 1:
        raise ValueError(f"power_iteration: start must be one vector, got {start.shape}.")
    wide = _checks.wide(start.dtype)
    times = _product(matrix, start, wide)

    # What the product closes over is an argument, so that it can be differentiated by.
    product = jax.make_jaxpr(times)(jax.ShapeDtypeStruct(start.shape, wide))
    whole = lambda v, *constants: jax.core.eval_jaxpr(product.jaxpr, constants, v)[0]
    value, v, i, ok = _dominant(whole, tol, max_iters, start.astype(wide), *product.consts)
    value, v = value.astype(start.dtype), v.astype(start.dtype)
    ok &= jnp.isfinite(value)
    return Eigenpair(jnp.where(ok, value, jnp.nan), jnp.where(ok, v, jnp.nan), i, ok)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _dominant(
    times: Callable[..., Array], tol: float, max_iters: int, start: Array, *constants: Array
) -> Eigenpair:
    def going_on(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, ok, i = state
        return ~ok & (i < max_iters)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        v, _, _, i = state
        w = times(v, *constants)
        # Relative to the largest entry, so that no square leaves the range of the dtype, nor
        # the inverse of the scale.
        scale = jnp.minimum(jnp.abs(w).max(), jnp.finfo(v.dtype).max / 4)
        w = jnp.where(scale == 0, 0, w / jnp.where(scale == 0, 1, scale))
        length = jnp.linalg.norm(w)
        along = jnp.vdot(v, w)
        ok = jnp.linalg.norm(w - along * v) <= tol * length
        # What is found already stays: the value belongs to this vector, not to the next.
        following = jnp.where(ok, v, w / length)
        return following, along * scale, ok, i + 1

    v = start / unit_of(start)
    v /= jnp.linalg.norm(v)
    nothing = jnp.zeros((), v.dtype), jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    v, value, ok, i = jax.lax.while_loop(going_on, step, (v, *nothing))
    return Eigenpair(value, v * jnp.sign(v[jnp.abs(v).argmax()]), i, ok)


@_dominant.defjvp
def _dominant_jvp(
    times: Callable[..., Array], tol: float, max_iters: int, primals: tuple, tangents: tuple
) -> tuple[Eigenpair, Eigenpair]:
    # Of the equation, not of the iterations: A v' + A' v = λ v' + λ' v with v' across v.
    value, v, *rest = _dominant(times, tol, max_iters, *primals)
    constants = primals[1:]
    _, moved = jax.jvp(times, (v, *constants), (jnp.zeros_like(v), *tangents[1:]))
    across = lambda x: x - jnp.vdot(v, x) * v
    limit = max(tol, 16 * float(jnp.finfo(v.dtype).eps))

    def solve(matvec: Callable[[Array], Array], b: Array) -> Array:
        # What is missing falls as fast as in the iteration for v.
        def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, _, i = state
            change = b - matvec(x)
            near = jnp.abs(change).max() <= limit * jnp.abs(x).max()
            return x + change, near, i + 1

        start = b, jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        x, near, _ = jax.lax.while_loop(lambda s: ~s[1] & (s[2] < max_iters), step, start)
        return jnp.where(near, x, jnp.nan)

    v_dot = jax.lax.custom_linear_solve(
        lambda x: x - across(times(x, *constants)) / value,
        across(moved) / value,
        solve=solve,
        transpose_solve=solve,
    )
    value_dot = jnp.vdot(v, times(v_dot, *constants) + moved)
    same: Any = (np.zeros(x.shape, jax.dtypes.float0) for x in rest)
    return Eigenpair(value, v, *rest), Eigenpair(value_dot, v_dot, *same)


@jit(static_argnames=("rank", "tol", "max_restarts"))
@_checks.scope("top_eigh")
def top_eigh(
    x: Float[Array, "n n"] | BCOO | BCSR | LinearOperator,
    *,
    rank: int,
    key: AnyKey | None = None,
    tol: float | None = None,
    max_restarts: int = 100,
) -> Eigh:
    r"""Find the largest eigenvalues of a symmetric matrix and their vectors, converged.

    $A v_i = \lambda_i v_i$ with $\lambda_1 \ge \dots \ge \lambda_r$, the algebraically
    largest, by block Lanczos iteration with thick restarts; of small matrices by a full
    decomposition. Converged means that the error of each eigenvalue is about tol |λ_i|, or eps
    of the largest magnitude met, judged by the residual $\rho = \lVert A v_i - \lambda_i v_i
    \rVert$: either that itself, or $\rho^2 / g$ with g the distance to values some 14 places
    on. A vector is as good as $\rho$ over the distance to its next neighbours.

    Derivatives of what does not depend on the choice of basis, such as the projector onto the
    r vectors, are finite and right at repeated eigenvalues too.

    Args:
        x: Symmetric: an array, of which (x + xᵀ) / 2 is taken, or sparse, or a
            `lintoolkit.svd.linear_operator`, whose symmetry is the caller's promise.
        rank: How many pairs.
        key: Draws the start; a fixed one if None, so that results repeat.
        tol: 10 eps of the dtype if None: eigenvalues to working precision.
        max_restarts: After so many without convergence ``ok`` is False and all is NaN.

    Returns:
        ``rank`` pairs, each vector's entry of largest magnitude positive, in the dtype of
        ``x``; in float32 for half precision.

    Raises:
        TypeError: If ``x`` is none of these or not floating, or ``key`` is not one key.
        ValueError: If ``x`` is not square or is empty, the rank is not in 1..n, or ``tol`` or
            ``max_restarts`` is negative.

    Cost:
        64 n² FLOP a step; 9 n³ for a small matrix and for a derivative. Sparse matrices and
        operators have no derivative.

    Examples:
        >>> found = top_eigh(jnp.array([[2.0, 1.0], [1.0, 2.0]]), rank=1)
        >>> print(found.values, found.vectors.ravel().round(4))
        [3.] [0.7071 0.7071]

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 10.3; Wu and Simon,
        Thick-Restart Lanczos Method (2000), SIAM J. Matrix Anal. Appl. 22(2).
    """
    x = matrix_of("top_eigh", x)
    if x.shape[0] != x.shape[1]:
        raise ValueError(f"top_eigh: x must be square and symmetric, got shape {x.shape}.")
    check_rank("top_eigh", rank, x.shape)
    check_iteration("top_eigh", key, tol, max_restarts)
    if isinstance(x, jax.Array):
        return _top_dense(x, key, rank, tol, max_restarts)
    return _top(x, key, rank, tol, max_restarts)


@highest
def _top(
    x: Array | BCOO | LinearOperator,
    key: Array | None,
    rank: int,
    tol: float | None,
    max_restarts: int,
) -> Eigh:
    n = x.shape[0]
    products = products_of(x)
    if not _krylov.fits(rank, n):
        whole = products.push(jnp.eye(n, dtype=x.dtype))
        finite = jnp.isfinite(whole).all()
        values, v = jnp.linalg.eigh(jnp.where(finite, whole, 0))
        return _as_eigh(values[::-1][:rank] * products.unit, v.T[::-1][:rank], finite)
    found = _krylov.top_ritz(
        lambda rows: products.push(rows).T,
        _krylov.start_block(key, n, jnp.dtype(x.dtype)),
        rank=rank,
        tol=10 * float(jnp.finfo(x.dtype).eps) if tol is None else tol,
        restarts=max_restarts,
    )
    # Once more: over many restarts rounding adds up, in the basis and in what it was found by.
    vectors, _ = orthonormal(found.vectors[:rank].T)
    inner = pull(vectors, products.push(vectors.T))
    values, mix = jnp.linalg.eigh(jnp.where(found.converged, inner, 0))
    rows = mix.T[::-1] @ vectors.T
    return _as_eigh(values[::-1] * products.unit, rows, found.converged)


def _as_eigh(values: Array, rows: Array, ok: Array) -> Eigh:
    ok &= jnp.isfinite(values).all()  # which a scale may have taken out of the range
    rows = rows * signs(rows)
    return Eigh(jnp.where(ok, values, jnp.nan), jnp.where(ok, rows, jnp.nan).T, ok)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _top_dense(
    x: Array, key: Array | None, rank: int, tol: float | None, max_restarts: int
) -> Eigh:
    @one_by_one
    def top(x: Array, key: Array | None) -> Eigh:
        return _top(x, key, rank, tol, max_restarts)

    return top(x / 2 + x.T / 2, key)  # a sum may overflow


@_top_dense.defjvp
@highest
def _top_dense_jvp(
    rank: int, tol: float | None, max_restarts: int, primals: tuple, tangents: tuple
) -> tuple[Eigh, Eigh]:
    (x, key), dx = primals, (tangents[0] + tangents[0].T) / 2
    out = _top_dense(x, key, rank, tol, max_restarts)
    if rank < len(x):
        rest = _top_dense(x, key, len(x), tol, max_restarts)
        rest = Eigh(rest.values[rank:], rest.vectors[:, rank:], rest.ok)
    else:
        rest = Eigh(out.values[:0], out.vectors[:, :0], out.ok)
    v, values = out.vectors, out.values
    inner, below = v.T @ dx @ v, rest.vectors.T @ dx @ v
    # Rotations among equal values are not determined, and what is does not depend on them.
    gaps = values - values[:, None]
    equal = jnp.abs(gaps) <= jnp.finfo(x.dtype).eps ** (2 / 3) * jnp.abs(values).max()
    turn = jnp.where(equal, 0, inner / jnp.where(equal, 1, gaps))
    dv = v @ turn + rest.vectors @ (below / (values - rest.values[:, None]))
    ok: Any = np.zeros(out.ok.shape, jax.dtypes.float0)
    return out, Eigh(jnp.diagonal(inner), dv, ok)


def _product(
    matrix: Array | BCOO | BCSR | Callable, start: Array, wide: jnp.dtype
) -> Callable[[Array], Array]:
    if callable(matrix):
        like = jax.ShapeDtypeStruct(start.shape, wide)
        got = jax.eval_shape(matrix, like)
        if not hasattr(got, "shape") or (got.shape, got.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"power_iteration: matrix must map a vector of shape {like.shape} and "
                f"{like.dtype} to another such, got {got}."
            )
        return matrix
    entries = matrix.data if isinstance(matrix, BCOO | BCSR) else matrix
    _checks.floats("power_iteration", matrix=entries)
    _checks.same_dtype("power_iteration", start=start, matrix=entries)
    if matrix.shape != 2 * start.shape:
        raise ValueError(
            f"power_iteration: matrix must be (n, n) and start (n,) with one n, got "
            f"{matrix.shape} and {start.shape}."
        )
    widened = jax.tree.map(lambda x: x.astype(wide) if x.dtype == start.dtype else x, matrix)
    return lambda v: widened @ v


def pagerank(
    sources: Integer[Array, " edges"] | Integer[np.ndarray, " edges"],
    targets: Integer[Array, " edges"] | Integer[np.ndarray, " edges"],
    n: int,
    *,
    damping: Float[Array, ""] | float = 0.85,
    personalization: Float[Array, " {n}"] | None = None,
    tol: float = 1e-6,
    max_iters: int = 1000,
) -> PageRank:
    r"""Rank the nodes of a directed graph by where a random surfer is found.

    $x = d M x + (1 - d) p$: with chance $d$ the surfer follows one of the links of the node,
    all equally likely, and else jumps to a node drawn from $p$. From a dangling node, without
    links, the surfer always jumps to a node drawn from $p$. An edge listed k times is k links
    (networkx's MultiDiGraph). An iteration shrinks the distance to $x$ by $d$ at least, so the
    result is known to be within ``tol`` of it, but for rounding, some eps / (1 - d).

    Args:
        sources: The node that each edge leaves, from 0 to n - 1.
        targets: The node that each edge enters.
        n: How many nodes there are.
        damping: The chance $d$ of following a link, at least 0 and below 1.
        personalization: Where jumps go, not negative, scaled to sum to 1; anywhere, equally
            likely, if None.
        tol: The largest distance to the exact ranks, as a sum of magnitudes (L1).
        max_iters: Iterations to make before giving up.

    Returns:
        Scores that sum to 1, in the dtype of ``personalization``, else JAX's default; NaN
        where ``ok`` is False. Differentiable in ``damping`` and ``personalization``, by
        solving once more with the same matrix rather than through the iterations.

    Raises:
        TypeError: If node numbers are not integers, or the other arrays not floating.
        ValueError: If shapes do not fit, a node number, ``damping`` or ``personalization`` is
            out of its range, or n, ``tol`` or ``max_iters`` not positive. Values that are
            traced cannot be looked at: then ``ok`` is False.

    Cost:
        Sorts the edges once; then at most about edges + 18 n FLOP an iteration. Edges may be
        split over the devices of a mesh: each keeps its own, and n numbers an iteration travel.

    Examples:
        >>> found = pagerank(jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 0]), 3)
        >>> print(found.scores.round(3), found.ok)
        [0.397 0.388 0.215] True

    References:
        Langville and Meyer, Google's PageRank and Beyond (2006), sections 4.5 and 8.1.
    """
    _checks.positive("pagerank", n=n)
    for name, ids in (("sources", sources), ("targets", targets)):
        _check_nodes(name, ids, n)
    if sources.shape != targets.shape:
        raise ValueError(
            f"pagerank: sources {sources.shape} and targets {targets.shape} must be of one "
            "length, the number of edges."
        )
    if personalization is None:
        personalization = jnp.ones(n, jnp.result_type(float))
    _checks.floats("pagerank", personalization=personalization)
    if personalization.shape != (n,):
        raise ValueError(
            f"pagerank: personalization must have shape ({n},), one number a node, got "
            f"{personalization.shape}."
        )
    if _known(personalization) and not _is_a_measure(np.asarray(personalization)):
        raise ValueError(
            "pagerank: personalization must be finite, not negative, and positive somewhere."
        )
    _checks.number("pagerank", damping=damping)
    if _known(damping) and not 0 <= float(damping) < 1:
        raise ValueError(
            f"pagerank: damping must be one number, at least 0 and below 1, got {damping}."
        )
    _check_loop("pagerank", tol, max_iters)
    return _pagerank(
        jnp.asarray(sources),
        jnp.asarray(targets),
        n,
        damping,
        personalization,
        tol=jnp.asarray(tol),
        max_iters=jnp.asarray(max_iters),
    )


@jit(static_argnames=("n",))
@_checks.scope("pagerank")
def _pagerank(
    sources: Array,
    targets: Array,
    n: int,
    damping: Array | float,
    personalization: Array,
    *,
    tol: Array,
    max_iters: Array,
) -> PageRank:
    dtype = _checks.wide(personalization.dtype)
    d, p = jnp.asarray(damping).astype(dtype), personalization.astype(dtype)
    allowed = _is_a_measure(p) & (d >= 0) & (d < 1)
    allowed &= _are_nodes(sources, n) & _are_nodes(targets, n)
    split = split_of(sources, targets)
    d, p, tol, max_iters = everywhere(split, (d, p, tol.astype(dtype), max_iters))
    p /= unit_of(p)  # so that the sum does not overflow
    p /= p.sum()
    edges = [
        jnp.clip(_checks.row_numbers(x), 0, n - 1).astype(jnp.int32) for x in (sources, targets)
    ]
    graph = on_each(split, partial(_graph, n=n), edges, own=(False, True, True, True))
    x, iterations, ok = _stationary(split, graph, d, p, tol, max_iters)
    ok &= allowed
    scores = jnp.where(ok, x / x.sum(), jnp.nan)
    return PageRank(scores.astype(personalization.dtype), iterations, ok)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _stationary(
    split: NamedSharding | None,
    graph: tuple[Array, ...],
    d: Array,
    p: Array,
    tol: Array,
    max_iters: Array,
) -> tuple[Array, Array, Array]:
    # The x of x = d M x + (1 - d) p, the iterations made, whether they sufficed.
    onwards = lambda x: _surf(split, graph, d, p, x)
    return _converge(onwards, (1 - d) * p, d, lambda x: jnp.abs(x).sum(), tol, max_iters)


@_stationary.defjvp
def _stationary_jvp(split: NamedSharding | None, primals: tuple, tangents: tuple) -> tuple:
    # Of the equation that x solves, not of the iterations: x' = d M x' + what d', p' change.
    graph, d, p, tol, max_iters = primals
    x, *rest = _stationary(split, graph, d, p, tol, max_iters)
    right = lambda d, p: _surf(split, graph, d, p, x) + (1 - d) * p
    _, change = jax.jvp(right, (d, p), tangents[1:3])

    def solve(size: Callable[[Array], Array], matvec: Callable, b: Array) -> Array:
        return _converge(lambda x: x - matvec(x), b, d, size, tol, max_iters)[0]

    x_dot = jax.lax.custom_linear_solve(
        lambda x: x - _surf(split, graph, d, p, x),
        change,
        solve=partial(solve, lambda x: jnp.abs(x).sum()),
        transpose_solve=partial(solve, lambda x: jnp.abs(x).max()),
    )
    return (x, *rest), (x_dot, *(np.zeros(y.shape, jax.dtypes.float0) for y in rest))


def _converge(
    onwards: Callable[[Array], Array],
    b: Array,
    d: Array,
    size: Callable[[Array], Array],
    tol: Array,
    max_iters: Array,
) -> tuple[Array, Array, Array]:
    # Iterate x = onwards(x) + b, which shrinks distances to d times themselves at most: what
    # is missing is then at most d / (1 - d) times the last change. A step rounds by some eps of
    # x, which is b / (1 - d) at most, and 1 / (1 - d) times as much of it may stay. Changes of
    # that size that halve no more, which else takes 0.7 / (1 - d) steps, are a cycle.
    enough = tol * size(b)
    rounding = 16 * jnp.finfo(b.dtype).eps * size(b) / (1 - d) ** 2
    State = tuple[Array, Array, Array, Array, Array]

    def cycles(state: State) -> Array:
        _, change, _, since, _ = state
        return (since.astype(d.dtype) > 2 / (1 - d)) & (d * change <= rounding)

    def going_on(state: State) -> Array:
        _, change, *_, i = state
        return (d * change > enough) & ~cycles(state) & (i < max_iters)

    def step(state: State) -> State:
        x, _, halved, since, i = state
        following = onwards(x) + b
        change = size(following - x)
        fell = change < halved
        halved, since = jnp.where(fell, change / 2, halved), jnp.where(fell, 0, since + 1)
        return following, change, halved, since, i + 1

    far, zero = jnp.full_like(d, jnp.inf), jnp.zeros_like(max_iters, jnp.int32)
    end = jax.lax.while_loop(going_on, step, step((b / (1 - d), far, far, zero, zero)))
    return end[0], end[-1], (d * end[1] <= enough) | cycles(end)


def _surf(
    split: NamedSharding | None, graph: tuple[Array, ...], d: Array, p: Array, x: Array
) -> Array:
    # d M x: along the links in equal parts, and from where there are none to anywhere.
    links, *runs = graph
    lost = jnp.where(links == 0, x, 0).sum()
    arrived = on_each(split, _arrive, runs, x / jnp.maximum(links, 1).astype(x.dtype))
    return d * arrived + d * lost * p


def _arrive(axes: tuple[str, ...], slots: Array, parts: Array, rows: Array, x: Array) -> Array:
    # What the links bring from all nodes, each of whose links takes x.
    # Cast once, so that a derivative adds it up once.
    n = x.size
    x = jnp.pad(jax.lax.pcast(x, axes, to="varying"), (0, 1))

    def sums(runs: Array) -> Array:
        return reduce(jnp.add, [x.at[row].get(mode="promise_in_bounds") for row in runs])

    add = lambda to, at, y: to.at[at].add(y, mode="drop", indices_are_sorted=True)
    first, others = sums(slots[:, :n]), sums(slots[:, n:])
    others = add(jnp.zeros(rows.size, x.dtype), parts, others)
    return jax.lax.psum(add(first, rows, others), axes)


def _graph(
    axes: tuple[str, ...], sources: Array, targets: Array, *, n: int
) -> tuple[Array, ...]:
    # The number of links of each node, and the edges as runs, of which each device has its own.
    links = jnp.zeros(n, jnp.int32).at[sources].add(1)
    return jax.lax.psum(links, axes), *_runs(sources, targets, n)


def _runs(sources: Array, targets: Array, n: int) -> tuple[Array, Array, Array]:
    # Adding one number an edge is slow. So the edges of a target are cut into runs of one
    # width, and whole runs are added: the first of each target at its place, the few others
    # by their target's number, in parts of at most 64: a long sum of small numbers is rounded
    # one way. Gives the sources by place in the run and run, the part of each of those others,
    # and the target of each part; n stands for nobody.
    edges = sources.size
    width = min(8, max(1, edges // n))
    degrees = jnp.zeros(n, jnp.int32)
    parts = []  # sorted side by side
    count = min(12, 1 + edges // 1000)
    for pair in zip(*(jnp.array_split(x, count) for x in (targets, sources)), strict=True):
        target, source = _sort_pairs(*pair)
        of_part = jnp.zeros(n, jnp.int32).at[target].add(1, mode="promise_in_bounds")
        before = degrees + of_part - jnp.cumsum(of_part)
        place = before.at[target].get(mode="promise_in_bounds")
        parts.append((target, source, place + jnp.arange(target.size, dtype=jnp.int32)))
        degrees += of_part
    targets, sources, place = (jnp.concatenate(x) for x in zip(*parts, strict=True))
    others = jnp.cumsum(jnp.maximum(degrees - 1, 0) // width)
    last = others.at[targets].get(mode="promise_in_bounds")
    left = (degrees - 1).at[targets].get(mode="promise_in_bounds") // width - place // width
    run = jnp.where(place < width, targets, n + last - 1 - left)
    most = edges // width  # others there can be
    slots = jnp.full((width, n + most), n, jnp.int32)
    slots = slots.at[place % width, run].set(
        sources, mode="promise_in_bounds", unique_indices=True
    )
    rows = jnp.cumsum(jnp.zeros(most, jnp.int32).at[others].add(1, mode="drop"))
    starts = (jnp.arange(most) % 64 == 0) | (jnp.diff(rows, prepend=-1) != 0)
    of_others = jnp.cumsum(starts, dtype=jnp.int32) - 1
    targets = jnp.full(min(most, most // 64 + n + 2), n, jnp.int32)
    return slots, of_others, targets.at[of_others].set(rows, mode="promise_in_bounds")


def _sort_pairs(major: Array, minor: Array) -> tuple[Array, Array]:
    # Pairs of int32, not negative, sorted as single numbers: five times faster than as pairs.
    with jax.enable_x64(True):
        pairs = jax.lax.sort(
            major.astype(jnp.uint64) << jnp.uint64(32) | minor.astype(jnp.uint64)
        )
        major = (pairs >> jnp.uint64(32)).astype(jnp.int32)
        return major, (pairs & jnp.uint64(2**32 - 1)).astype(jnp.int32)


def _known(x: Array | np.ndarray | float) -> bool:
    return not isinstance(x, jax.core.Tracer)


def _is_a_measure(p: Array | np.ndarray) -> Array | np.bool:
    return (p >= 0).all() & (p.max() > 0) & (p.max() < np.inf)


def _are_nodes(ids: Array | np.ndarray, n: int) -> Array | np.bool:
    ids = _checks.row_numbers(ids)
    return ((ids >= 0) & (ids < n)).all()


def _check_nodes(name: str, ids: Array | np.ndarray, n: int) -> None:
    whole = isinstance(ids, jax.Array | np.ndarray) and jnp.issubdtype(ids.dtype, jnp.integer)
    if not whole:
        got = getattr(ids, "dtype", type(ids).__name__)
        raise TypeError(
            f"pagerank: {name} must be an integer array of node numbers, got {got}."
        )
    if ids.ndim != 1:
        raise ValueError(
            f"pagerank: {name} must be one vector, a node number for each edge, got shape "
            f"{ids.shape}."
        )
    if _known(ids) and not _are_nodes(np.asarray(ids), n):
        raise ValueError(
            f"pagerank: {name} must number nodes from 0 to n - 1 = {n - 1}, got numbers from "
            f"{ids.min()} to {ids.max()}."
        )


def _check_loop(function: str, tol: float, max_iters: int) -> None:
    _checks.positive(function, max_iters=max_iters)
    _checks.number(function, tol=tol)
    if not tol > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol}.")
