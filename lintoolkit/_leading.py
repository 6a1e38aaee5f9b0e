"""Leading singular triplets of whatever has products: dense, sparse, centred, an operator.

`products_of` gives the products with a matrix, its shorter side first; `leading` finds the
leading singular values and the vectors of that side, as rows, from products alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import sparse
from jaxtyping import Array, Float

from lintoolkit import _krylov
from lintoolkit._rows import gram, pull, push, total


@flax.struct.dataclass
class LinearOperator:
    """A matrix known by its products alone; `linear_operator` makes one.

    Attributes:
        matvec: (d,) to (n,), x ↦ A x.
        rmatvec: (n,) to (d,), y ↦ Aᵀ y.
        shape: (n, d).
        dtype: Of the vectors.
    """

    matvec: jax.tree_util.Partial
    rmatvec: jax.tree_util.Partial
    shape: tuple[int, int] = flax.struct.field(pytree_node=False)
    dtype: jnp.dtype = flax.struct.field(pytree_node=False)


Matrix = Float[Array, "n d"] | sparse.BCOO | sparse.BCSR | LinearOperator


class Products(NamedTuple):
    """Products with a matrix, its shorter side first: rows are short vectors, columns long."""

    push: Callable[[Array], Array]  # rows (b, short) to columns (long, b)
    pull: Callable[[Array], Array]  # columns (long, b) to rows (b, short)
    normal: Callable[[Array], Array]  # rows to rows, both products in turn
    gram: Callable[[], Array]  # the matrix of `normal`
    width: int  # of the shorter side
    dtype: jnp.dtype
    transposed: bool  # whether the shorter side is that of the rows
    dense: bool
    unit: Array | float = 1.0  # the products are of the matrix divided by this

    def triplets(self, columns: Array, s: Array, rows: Array) -> tuple[Array, Array, Array]:
        """U, s and Vᵀ of the matrix itself."""
        u, vt = (rows.T, columns.T) if self.transposed else (columns, rows)
        return u, s * self.unit, vt


GRAM_WIDTH = 512  # up to here XᵀX and all its eigenvectors cost less than Krylov steps


def products_of(
    x: Array | sparse.BCOO | LinearOperator, centre: Array | None = None
) -> Products:
    """The products with X, or with X less a row subtracted from every row."""
    n, d = x.shape
    if isinstance(x, LinearOperator):
        forward = lambda rows: jax.vmap(x.matvec)(rows).T
        backward = lambda columns: jax.vmap(x.rmatvec)(columns.T)
        probe = jax.random.normal(jax.random.key(2), (1, d), x.dtype)
        unit = _unit(forward(probe))
    elif isinstance(x, sparse.BCOO):
        forward = lambda rows: x @ rows.T
        backward = lambda columns: (x.T @ columns).T
        unit = _unit(x.data)
    else:
        return _dense_products(x, centre)
    if centre is not None:
        whole, back = forward, backward
        forward = lambda rows: whole(rows) - rows @ centre
        backward = lambda columns: back(columns) - jnp.outer(columns.sum(axis=0), centre)
    if n < d:
        push_ = lambda rows: backward((rows / unit).T).T
        pull_ = lambda columns: forward((columns / unit).T).T
    else:
        push_ = lambda rows: forward(rows / unit)
        pull_ = lambda columns: backward(columns / unit)
    normal = lambda rows: pull_(push_(rows))
    one = lambda row: normal(row[None])[0]
    gram_ = lambda: lax.map(one, jnp.eye(min(n, d), dtype=x.dtype), batch_size=_krylov.BLOCK)
    dtype = jnp.dtype(x.dtype)
    return Products(push_, pull_, normal, gram_, min(n, d), dtype, n < d, False, unit)


def _dense_products(x: Array, centre: Array | None) -> Products:
    n, d = x.shape
    unit = _unit(x)
    if n < d:
        x = x if centre is None else x - centre
        products = (
            lambda rows: pull(x, (rows / unit).T),
            lambda columns: push(x, (columns / unit).T).T,
            lambda rows: push(x, pull((rows / unit).T, x) / unit).T,
            lambda: push(x / unit, x / unit),
        )
    else:
        less = (lambda rows: rows) if centre is None else (lambda rows: rows - centre)
        products = (
            lambda rows: push(less(x), rows / unit),
            lambda columns: total(lambda c, r: pull(c, less(r)), columns / unit, x),
            lambda rows: total(lambda r: pull(push(less(r), rows / unit) / unit, less(r)), x),
            lambda: gram(x, lambda rows: less(rows) / unit),
        )
    return Products(*products, min(n, d), x.dtype, n < d, True, unit)


def _unit(x: Array) -> Array:
    """A power of two near the largest entry: squares stay in range, and nothing is rounded."""
    largest = jnp.abs(x).max()
    usable = (largest > 0) & jnp.isfinite(largest)
    return jnp.exp2(jnp.floor(jnp.log2(jnp.where(usable, largest, 1))))


class Leading(NamedTuple):
    """The rows of the leading triplets and their singular values, and how good they are."""

    s: Array  # with some beyond the rank, like the rows
    rows: Array
    good: Array  # how many of the first are good
    converged: Array
    finite: Array
    rounds: Array


def leading(
    products: Products,
    key: Array | None,
    *,
    rank: int,
    tol: float | None,
    max_restarts: int,
) -> Leading:
    """Find the leading singular values and vectors of the shorter side, round by round.

    A round takes the top of XᵀX and, where its squared rounding matters, refines it by a step
    of subspace iteration on X. What is good by then is locked, and the next round looks for
    the rest beside it, where the rounding is that of smaller values.

    Returns:
        The rows and values, some beyond the rank among them, of the matrix over its unit.
    """
    width, dtype = products.width, products.dtype
    eps = float(jnp.finfo(dtype).eps)
    accuracy = (10 * eps if tol is None else tol) ** 0.5
    whole = not _krylov.fits(rank, width)  # all eigenvectors: one round is enough
    keep = width if whole else _krylov.kept_rows(rank, width)
    index = jnp.arange(keep, dtype=jnp.int32)

    def search(s: Leading) -> _krylov.Ritz:
        start = _krylov.start_block(key, width, dtype)
        best = jnp.concatenate([s.rows, start])
        best = lax.dynamic_slice_in_dim(best, s.good, _krylov.BLOCK)
        return _krylov.top_ritz(
            products.normal, jnp.where(s.rounds == 0, start, best), rank=rank,
            accuracy=accuracy, restarts=max_restarts, locked=s.rows, count=s.good,
        )  # fmt: skip

    def spectrum(_: Leading) -> _krylov.Ritz:
        square = products.gram()
        finite = jnp.isfinite(square).all()
        values, v = jnp.linalg.eigh(jnp.where(finite, square, 0), symmetrize_input=False)
        values = jnp.where(finite, values[::-1][:keep], jnp.nan)
        zero = jnp.zeros((), jnp.int32)
        return _krylov.Ritz(v[:, ::-1].T[:keep], values, finite, zero, zero)

    def as_found(rows: Array, values: Array) -> tuple[Array, Array, Array]:
        return jnp.sqrt(jnp.maximum(values, 0)), rows, jnp.zeros(keep, dtype)

    def refined(rows: Array, _: Array) -> tuple[Array, Array, Array]:
        q, _ = orthonormal(products.push(rows))
        _, s, new, finite = small_svd(products.pull(q))
        s = jnp.where(finite, s, jnp.nan)
        # How far a new row leaves the old ones' span bounds its residual, relative to s.
        errors = jnp.linalg.norm(new - (new @ rows.T) @ rows, axis=1)
        return s, new, errors

    def one_round(s: Leading) -> Leading:
        if whole:
            ritz = spectrum(s)
        elif products.dense and width <= GRAM_WIDTH:
            ritz = lax.cond(s.rounds == 0, spectrum, search, s)
        else:
            ritz = search(s)
        finite = jnp.isfinite(ritz.values).all()
        place = jnp.where(index < s.good, index, keep + index - s.good)
        rows = jnp.where(finite, jnp.concatenate([s.rows, ritz.vectors])[place], 0)
        # Squared, the last value asked for is rounded as the largest is.
        plain = (s.good == 0) & (ritz.values[0] <= 256 * ritz.values[rank - 1])
        sizes, rows, errors = lax.cond(plain, as_found, refined, rows, ritz.values)
        good = errors * sizes <= accuracy * sizes + 8 * eps * sizes[0]
        return Leading(
            sizes,
            rows,
            good=jnp.cumprod(good[:rank], dtype=jnp.int32).sum(dtype=jnp.int32),
            converged=good[:rank].all() & (ritz.converged | ~plain),
            finite=finite & jnp.isfinite(sizes).all(),
            rounds=s.rounds + 1 + ritz.restarts,
        )

    zero = jnp.zeros((), jnp.int32)
    start = Leading(
        s=jnp.zeros(keep, dtype),
        rows=jnp.zeros((keep, width), dtype),
        good=zero,
        converged=jnp.array(False),
        finite=jnp.array(True),
        rounds=zero,
    )
    return lax.while_loop(
        lambda s: s.finite & ~s.converged & (s.rounds <= max_restarts), one_round, start
    )


def orthonormal(y: Array) -> tuple[Array, Array]:
    """Orthonormal columns q near those of y, zero where they depend on others; q @ factor = y.

    From the inverse square root of the Gram matrix, scaled, twice: products alone, so that it
    runs where the rows are sharded.

    Returns:
        q and the factor.
    """

    def once(y: Array) -> tuple[Array, Array, Array]:
        square = total(lambda rows: pull(rows, rows), y)
        square = jnp.where(jnp.isfinite(square).all(), square, 0)
        size = jnp.sqrt(jnp.diagonal(square))
        unit = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
        values, v = jnp.linalg.eigh(square * unit * unit[:, None])
        live = values > 4 * len(values) * jnp.finfo(y.dtype).eps * values[-1]
        root = jnp.sqrt(jnp.where(live, values, 1))
        inverse = unit[:, None] * jnp.matmul(v * jnp.where(live, 1 / root, 0), v.T)
        factor = jnp.matmul(v * jnp.where(live, root, 0), v.T) * size
        return push(y, inverse.T), factor, values[0] < 0.25

    q, factor, poor = once(y)

    def again(q: Array, factor: Array) -> tuple[Array, Array]:
        q, second, _ = once(q)
        return q, second @ factor

    return lax.cond(poor, again, lambda q, factor: (q, factor), q, factor)


def complete(columns: Array) -> Array:
    """Columns that are zero, replaced by ones orthonormal to the others."""
    empty = jnp.square(columns).sum(axis=0) < 0.5

    def fill(columns: Array) -> Array:
        fresh = jnp.where(
            empty, jax.random.normal(jax.random.key(1), columns.shape, columns.dtype), 0
        )
        for _ in range(2):
            fresh -= push(columns, pull(columns, fresh).T)
        return columns + orthonormal(fresh)[0]

    return lax.cond(empty.any(), fill, lambda columns: columns, columns)


def small_svd(x: Array) -> tuple[Array, Array, Array, Array]:
    finite = jnp.isfinite(x).all()
    u, s, vt = jnp.linalg.svd(jnp.where(finite, x, 0), full_matrices=False)
    return u, s, vt, finite
