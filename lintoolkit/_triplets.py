"""Singular triplets of whatever has products: dense, sparse, centred, an operator.

`products_of` gives the products with a matrix, its shorter side first; `leading` finds the
leading singular values and the vectors of that side, as rows, from products alone; `change`
is how triplets change with the matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import sparse
from jaxtyping import Array, Float

from lintoolkit import _checks, _krylov
from lintoolkit._rows import each, gram, gram_of_rows, pull, push, total
from lintoolkit._scale import unit_of

Triplets = tuple[Array, Array, Array]  # U, s and Vᵀ
highest = jax.default_matmul_precision("highest")  # no TF32, no bfloat16 passes
# Under vmap one matrix after the other: each takes the branches and the steps that it needs,
# and XLA:CPU's threads do not wait for each other for good, as they may where two batches of
# factorisations run at once.
one_by_one = jax.custom_batching.sequential_vmap


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
    inner: Callable[[Array], Array]  # rows to the inner products of what `push` gives
    width: int  # of the shorter side
    length: int  # of the longer side
    dtype: jnp.dtype
    transposed: bool  # whether the shorter side is that of the rows
    dense: bool
    unit: Array | float = 1.0  # the products are of the matrix divided by this

    def triplets(self, columns: Array, s: Array, rows: Array) -> Triplets:
        """U, s and Vᵀ of the matrix itself."""
        u, vt = (rows.T, columns.T) if self.transposed else (columns, rows)
        return u, s * self.unit, vt


# Measured on two CPU cores: up to here XᵀX and all its eigenvectors cost less than Krylov
# steps, up to the second where the other side is twice as long.
GRAM_WIDTH, TALL_GRAM_WIDTH = 512, 1024


def products_of(
    x: Array | sparse.BCOO | LinearOperator,
    centre: Array | None = None,
    where: Array | None = None,
) -> Products:
    """The products with X, or with X less a row, and of those rows that count alone."""
    n, d = x.shape
    if isinstance(x, LinearOperator):
        forward = lambda rows: jax.vmap(x.matvec)(rows).T
        backward = lambda columns: jax.vmap(x.rmatvec)(columns.T)
        probe = jax.random.normal(jax.random.key(2), (1, d), x.dtype)
        unit = unit_of(forward(probe))
    elif isinstance(x, sparse.BCOO):
        forward = lambda rows: x @ rows.T
        backward = lambda columns: (x.T @ columns).T
        unit = unit_of(x.data)
    else:
        return _dense_products(x, centre, where)
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
    normal, inner = lambda rows: pull_(push_(rows)), lambda rows: square(push_(rows))
    one = lambda row: normal(row[None])[0]
    gram_ = lambda: lax.map(one, jnp.eye(min(n, d), dtype=x.dtype), batch_size=_krylov.BLOCK)
    dtype = jnp.dtype(x.dtype)
    return Products(
        push_, pull_, normal, gram_, inner, min(n, d), max(n, d), dtype, n < d, False, unit
    )


def _dense_products(x: Array, centre: Array | None, where: Array | None) -> Products:
    n, d = x.shape
    unit = unit_of(x if where is None else jnp.where(where, jnp.abs(x).max(axis=1), 0))

    def less(rows: Array, *counted: Array) -> Array:
        rows = rows if centre is None else rows - centre
        return jnp.where(counted[0][:, None], rows, 0) if counted else rows

    data = (x,) if where is None else (x, where)
    as_it_is = centre is None and where is None
    if n < d:
        y = less(*data)
        products = (
            lambda rows: pull(y, (rows / unit).T),
            lambda columns: push(y, (columns / unit).T).T,
            lambda rows: push(y, pull((rows / unit).T, y) / unit).T,
            lambda: gram_of_rows(y / unit),
            lambda rows: square(pull(y, (rows / unit).T)),
        )
    else:
        products = (
            lambda rows: (
                push(x, rows / unit)
                if as_it_is
                else each(lambda *r: push(less(*r), rows / unit), *data)
            ),
            lambda columns: total(lambda c, *r: pull(c, less(*r)), columns / unit, *data),
            lambda rows: total(
                lambda *r: pull(push(less(*r), rows / unit) / unit, less(*r)), *data
            ),
            lambda: gram(lambda *r: less(*r) / unit, *data),
            lambda rows: total(lambda *r: square(push(less(*r), rows / unit)), *data),
        )
    return Products(*products, min(n, d), max(n, d), x.dtype, n < d, True, unit)


class Leading(NamedTuple):
    """The rows of the leading triplets and their singular values, and how good they are."""

    s: Array  # with some beyond the rank, like the rows
    rows: Array
    good: Array  # how many of the first are good
    converged: Array
    finite: Array
    rounds: Array
    restarts: Array
    products: Array  # how often a block went through both products


@highest
def leading(
    products: Products,
    key: Array | None,
    *,
    rank: int,
    tol: float | None,
    max_restarts: int,
    spectrum: bool | None = None,
) -> Leading:
    """Find the leading singular values and vectors of the shorter side, round by round.

    A round takes the top of XᵀX and, where its squared rounding matters, refines it by a step
    of subspace iteration on X. What is good by then is locked, and the next round looks for
    the rest beside it, where the rounding is that of smaller values. The first round takes all
    eigenvectors where `spectrum` says so, or where they are the cheaper way.

    Returns:
        The rows and values, some beyond the rank among them, of the matrix over its unit.
    """
    width, dtype = products.width, products.dtype
    eps = float(jnp.finfo(dtype).eps)
    tol = 10 * eps if tol is None else tol
    whole = not _krylov.fits(rank, width)  # all eigenvectors: one round is enough
    keep = width if whole else _krylov.kept_rows(rank, width)
    index = jnp.arange(keep, dtype=jnp.int32)
    if spectrum is None:
        most = TALL_GRAM_WIDTH if 2 * width <= products.length else GRAM_WIDTH
        spectrum = products.dense and width <= most

    def search(s: Leading) -> _krylov.Ritz:
        start = _krylov.start_block(key, width, dtype)
        best = jnp.concatenate([s.rows, start])
        best = lax.dynamic_slice_in_dim(best, s.good, _krylov.BLOCK)
        return _krylov.top_ritz(
            products.normal, jnp.where(s.rounds == 0, start, best), rank=rank,
            tol=tol, restarts=max_restarts, locked=s.rows, count=s.good,
        )  # fmt: skip

    def all_pairs(_: Leading) -> _krylov.Ritz:
        square = products.gram()
        finite = jnp.isfinite(square).all()
        values, v = jnp.linalg.eigh(jnp.where(finite, square, 0), symmetrize_input=False)
        values = jnp.where(finite, values[::-1][:keep], jnp.nan)
        zero = jnp.zeros((), jnp.int32)
        return _krylov.Ritz(v[:, ::-1].T[:keep], values, finite, zero, zero)

    def enough(sizes: Array) -> Array:
        return tol**0.5 * sizes + 8 * eps * sizes[0]

    def as_found(rows: Array, values: Array) -> tuple[Array, Array, Array]:
        return jnp.sqrt(jnp.maximum(values, 0)), rows, jnp.zeros(keep, dtype)

    def resolved(rows: Array, _: Array) -> tuple[Array, Array, Array]:
        for _pass in range(2):
            _, s, mix, _ = small_svd(_krylov.root(products.inner(rows))[1])
            rows = mix @ rows
        return s, rows, jnp.zeros(keep, dtype)

    def refined(rows: Array, _: Array) -> tuple[Array, Array, Array]:
        """Subspace iteration on X, while each step brings those asked for much nearer."""

        def one_step(s: tuple) -> tuple:
            _, rows, _, worst, _ = s
            q, _ = orthonormal(products.push(rows))
            _, sizes, new, finite = small_svd(products.pull(q))
            sizes = jnp.where(finite, sizes, jnp.nan)
            # How far a new row leaves the old ones' span bounds its residual, relative to s.
            errors = jnp.linalg.norm(new - (new @ rows.T) @ rows, axis=1)
            excess = (errors * sizes / enough(sizes))[:rank].max()
            return sizes, new, errors, excess, (excess > 1) & (excess < worst / 4)

        none = jnp.zeros(keep, dtype)
        start = none, rows, none, jnp.asarray(jnp.inf, dtype), jnp.array(True)
        with jax.named_scope("refinements"):
            return lax.while_loop(lambda s: s[-1], one_step, start)[:3]

    def one_round(s: Leading) -> Leading:
        if whole:
            ritz = all_pairs(s)
        elif spectrum:
            ritz = lax.cond(s.rounds == 0, all_pairs, search, s)
        else:
            ritz = search(s)
        finite = jnp.isfinite(ritz.values).all()
        place = jnp.where(index < s.good, index, keep + index - s.good)
        rows = jnp.where(finite, jnp.concatenate([s.rows, ritz.vectors])[place], 0)
        # Squared, the last value asked for is rounded as the largest is.
        plain = (s.good == 0) & (ritz.values[0] <= 256 * ritz.values[rank - 1])
        sizes, rows, errors = lax.cond(
            plain, as_found, resolved if whole else refined, rows, ritz.values
        )
        good = errors * sizes <= enough(sizes)
        return Leading(
            sizes,
            rows,
            good=jnp.cumprod(good[:rank], dtype=jnp.int32).sum(dtype=jnp.int32),
            converged=good[:rank].all() & (ritz.converged | ~plain),
            finite=finite & jnp.isfinite(sizes).all(),
            rounds=s.rounds + 1,
            restarts=s.restarts + 1 + ritz.restarts,
            products=s.products + ritz.products,
        )

    zero = jnp.zeros((), jnp.int32)
    start = Leading(
        s=jnp.zeros(keep, dtype),
        rows=jnp.zeros((keep, width), dtype),
        good=zero,
        converged=jnp.array(False),
        finite=jnp.array(True),
        rounds=zero,
        restarts=zero,
        products=zero,
    )
    going_on = lambda s: s.finite & ~s.converged & (s.restarts <= max_restarts)
    with jax.named_scope("rounds"):
        return lax.while_loop(going_on, one_round, start)


@highest
def change(some: Triplets, whole: Triplets, dx: Array) -> Triplets:
    """How the leading triplets of a matrix change with it; `whole` has all of its triplets.

    Rotations of both sides at once among equal singular values are left out: their direction
    is not determined, and nothing that is depends on it. Golub and Van Loan (2013), section
    2.4, and Townsend, Differentiating the Singular Value Decomposition (2016).

    Returns:
        The change of each part.
    """
    u, s, v = some[0], some[1], some[2].T
    all_u, all_s, all_v = whole[0], whole[1], whole[2].T
    r = len(s)
    u2, s2, v2 = all_u[:, r:], all_s[r:, None], all_v[:, r:]
    right, left = dx @ v, pull(dx, u)  # rows of dx may be split, and so are those of u
    inner, below, beside = pull(u, right), pull(u2, right), v2.T @ left

    equal = jnp.abs(s - s[:, None]) <= jnp.finfo(s.dtype).eps ** (2 / 3) * s[0]
    turn = jnp.where(equal, 0, 1 / jnp.where(equal, 1, (s - s[:, None]) * (s + s[:, None])))
    # Of one side against the other.
    both = jnp.where(s > 0, s + s[:, None], 1)
    twist = jnp.where(equal & (s > 0), (inner - inner.T) / (2 * both), 0)
    turn2 = 1 / apart(s, s2)
    inverse = jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)
    du = u @ (turn * (inner * s + s[:, None] * inner.T) + twist)
    du += u2 @ (turn2 * (below * s + s2 * beside))
    du += (right - all_u @ pull(all_u, right)) * inverse
    dv = v @ (turn * (s[:, None] * inner + inner.T * s) - twist)
    dv += v2 @ (turn2 * (s2 * below + beside * s))
    dv += (left - all_v @ (all_v.T @ left)) * inverse
    return du, jnp.diagonal(inner), dv.T


def apart(s: Array, s2: Array) -> Array:
    """s² - s2², and NaN where they are equal but for rounding: no derivative crosses that."""
    distinct = s - s2 > 8 * jnp.finfo(s.dtype).eps * s[0]
    return jnp.where(distinct, (s - s2) * (s + s2), jnp.nan)


@highest
def orthonormal(y: Array) -> tuple[Array, Array]:
    """Orthonormal columns q near those of y, zero where they depend on others; q @ factor = y.

    From the inverse square root of the Gram matrix, scaled, twice: products alone, so that it
    runs where the rows are sharded.

    Returns:
        q and the factor.
    """
    inverse, factor, least = _krylov.root(total(square, y))
    q = push(y, inverse.T)

    def again() -> tuple[Array, Array]:
        twice = push(q, _krylov.root(total(square, q))[0].T)
        # Measured: a product of two roots is rounded as the inverse of the first is large.
        return twice, total(pull, twice, y)

    return lax.cond(least < 0.25, again, lambda: (q, factor))


def square(y: Array) -> Array:
    """YᵀY."""
    return pull(y, y)


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


def signs(rows: Array) -> Array:
    """Factors of one or minus one that make the largest entry of each row positive."""
    largest = jnp.abs(rows).argmax(axis=1, keepdims=True)
    negative = jnp.take_along_axis(rows, largest, axis=1) < 0
    return jnp.where(negative, -1, 1).astype(rows.dtype)


# Checks


def dense_of(function: str, x: Array) -> Array:
    """One matrix in a dtype that is computed in, or a refusal."""
    _checks.floats(function, x=x)
    if x.ndim != 2:
        raise ValueError(
            f"{function}: x must be one matrix (n, d), got {x.shape}; jax.vmap takes many."
        )
    return x.astype(_checks.wide(x.dtype))


def matrix_of(function: str, x: Matrix) -> Array | sparse.BCOO | LinearOperator:
    """The same of whatever has products; compressed rows become coordinates."""
    if isinstance(x, LinearOperator):
        return x
    if not isinstance(x, sparse.BCOO | sparse.BCSR):
        return dense_of(function, x)
    if isinstance(x, sparse.BCSR):
        x = x.to_bcoo()
    _checks.floats(function, **{"x.data": x.data})
    if x.n_batch or x.n_dense or x.ndim != 2:
        raise ValueError(
            f"{function}: sparse x must be one matrix without batch or dense axes, got shape "
            f"{x.shape}, n_batch={x.n_batch}, n_dense={x.n_dense}; jax.vmap takes many."
        )
    return sparse.BCOO(
        (x.data.astype(_checks.wide(x.dtype)), x.indices),
        shape=x.shape,
        unique_indices=x.unique_indices,
    )


def check_rank(function: str, rank: int, shape: tuple[int, ...]) -> None:
    _checks.positive(function, rank=rank)
    if rank > min(shape):
        raise ValueError(
            f"{function}: rank must be between 1 and {min(shape)}, the shorter side of x "
            f"{shape}, got {rank}."
        )


def check_iteration(function: str, key: object, tol: float | None, max_restarts: int) -> None:
    if key is not None:
        _checks.random_key(function, key)
    for name, value in (("tol", tol), ("max_restarts", max_restarts)):
        if value is not None and not value >= 0:
            raise ValueError(f"{function}: {name} must not be negative, got {value}.")
