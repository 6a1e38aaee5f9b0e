"""The top of a symmetric operator's spectrum: block Lanczos with thick restarts.

Vectors are rows. The basis is orthogonalised in full, and the projected operator holds what
was measured, not an assumed band: rounding, an invariant subspace and restarts need no case of
their own. References: Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 10.3;
Wu and Simon, Thick-Restart Lanczos Method (2000), SIAM J. Matrix Anal. Appl. 22(2).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

BLOCK = 32  # rows multiplied at a time: fewer run slower, more span less for the same work


class Ritz(NamedTuple):
    """Approximate eigenpairs, largest first, and whether those asked for are accurate."""

    vectors: Array
    values: Array
    converged: Array
    products: Array  # applications of the operator to a block
    restarts: Array


class _State(NamedTuple):
    basis: Array  # rows: those locked, those kept, the blocks since
    projected: Array  # basis @ operator @ basis.T, without the locked rows
    block: Array  # the rows to multiply next
    filled: Array  # rows of the basis in use
    mix: Array  # the Ritz vectors' coefficients in the basis
    values: Array
    converged: Array
    stop: Array
    largest: Array  # magnitude of the operator, as far as it has been met
    products: Array
    restarts: Array


def kept_rows(rank: int, width: int) -> int:
    """Ritz vectors that are carried along: some beyond the rank, which speeds it up."""
    return min(rank + max(14, rank // 8), width)


def basis_rows(rank: int, width: int) -> int:
    """Rows of the basis: the locked, the kept, and room for some blocks more."""
    # Beside a full basis a block must find as many directions still, to restart with.
    return min(rank + kept_rows(rank, width) + max(6 * BLOCK, rank), width - BLOCK)


def fits(rank: int, width: int) -> bool:
    """Whether there is room to restart in; if not, the whole spectrum is the cheaper way."""
    return rank + kept_rows(rank, width) + 2 * BLOCK <= width


def start_block(key: Array | None, width: int, dtype: jnp.dtype) -> Array:
    """Random rows to start from, the same ones for every call without a key."""
    key = jax.random.key(0) if key is None else key
    return jax.random.normal(key, (BLOCK, width), dtype)


def top_ritz(
    apply: Callable[[Array], Array],
    block: Array,
    *,
    rank: int,
    tol: float,
    restarts: int | Array,
    locked: Array | None = None,
    count: int | Array = 0,
) -> Ritz:
    """Find the largest eigenvalues of a symmetric operator and their vectors.

    Converged: the error of each value θ asked for is at most tol |θ|, or eps of the largest
    magnitude met. It is at most ρ = ‖A v - θ v‖, and some ρ² / g where what v lacks is at
    least g below θ: taken as the distance to the last of the values that are carried along.
    A residual of 4 eps of that magnitude is as far as rounding allows.
    The first `count` rows of `locked` are eigenvectors known already. They count towards the
    rank but do not come again, and are kept out of the projected operator, where a larger
    value drowns smaller ones in its rounding.

    Returns:
        The pairs beside the locked ones, some beyond the rank among them.
    """
    width, dtype = block.shape[1], block.dtype
    keep, size = kept_rows(rank, width), basis_rows(rank, width)
    eps = float(jnp.finfo(dtype).eps)
    index = jnp.arange(size, dtype=jnp.int32)
    basis = jnp.zeros((size, width), dtype)
    if locked is not None:
        basis = basis.at[: len(locked)].set(locked)
        basis = jnp.where(index[:, None] < count, basis, 0)

    def step(s: _State) -> _State:
        last, filled = s.filled, s.filled + BLOCK
        basis = lax.dynamic_update_slice_in_dim(s.basis, s.block, last, 0)
        image = apply(s.block)
        inner = image @ basis.T
        block, factor = _orthonormal(image - inner @ basis, basis)
        inner = jnp.where(index < count, 0, inner)
        projected = lax.dynamic_update_slice_in_dim(s.projected, inner, last, 0)
        projected = lax.dynamic_update_slice_in_dim(projected, inner.T, last, 1)

        finite = jnp.isfinite(inner).all() & jnp.isfinite(factor).all()
        full = filled + BLOCK > size

        def look(s: _State) -> _State:
            values, mix = _top_pairs(jnp.where(finite, projected, 0), count, filled, keep)
            values = jnp.where(finite, values, jnp.nan)
            outflow = lax.dynamic_slice_in_dim(mix, last, BLOCK).T @ factor
            error = jnp.maximum(tol * jnp.abs(values), eps * s.largest)
            gap = values - values[jnp.minimum(keep, filled - count) - 1]
            enough = jnp.sqrt(error * jnp.maximum(error, gap))
            enough = jnp.maximum(enough, 4 * eps * s.largest)
            asked = index[:keep] < rank - count
            converged = jnp.all((jnp.linalg.norm(outflow, axis=1) <= enough) | ~asked)
            converged &= finite
            stop = converged | ~finite | (full & (s.restarts >= restarts))
            return s._replace(mix=mix, values=values, converged=converged, stop=stop)

        def restart(s: _State) -> _State:
            rows = lax.dynamic_update_slice_in_dim(
                jnp.where(index[:, None] < count, s.basis, 0), s.mix.T @ s.basis, count, 0
            )
            diagonal = lax.dynamic_update_slice_in_dim(
                jnp.zeros(size, dtype), s.values, count, 0
            )
            return s._replace(
                basis=rows,
                projected=jnp.diag(diagonal),
                filled=jnp.asarray(count + keep, jnp.int32),
                restarts=s.restarts + 1,
            )

        after = s._replace(
            basis=basis,
            projected=projected,
            block=block,
            filled=filled,
            largest=jnp.maximum(s.largest, jnp.linalg.norm(image, axis=1).max()),
            products=s.products + 1,
        )
        # Every fourth step: the eigenvectors cost as much as a step with a small operator, and
        # LAPACK's threads, which wait in a loop, slow the products that come next.
        due = (filled >= rank) & (s.products % 4 == 3)
        after = lax.cond(due | full | ~finite, look, lambda s: s, after)
        return lax.cond(full & ~after.stop, restart, lambda s: s, after)

    zero = jnp.zeros((), jnp.int32)
    start = _State(
        basis=basis,
        projected=jnp.zeros((size, size), dtype),
        block=_orthonormal(block, basis)[0],
        filled=zero + count,
        mix=jnp.zeros((size, keep), dtype),
        values=jnp.zeros(keep, dtype),
        converged=jnp.array(False),
        stop=jnp.array(False),
        largest=jnp.zeros((), dtype),
        products=zero,
        restarts=zero,
    )
    with jax.named_scope("steps"):
        end = lax.while_loop(lambda s: ~s.stop, step, start)
    return Ritz(end.mix.T @ end.basis, end.values, end.converged, end.products, end.restarts)


def _orthonormal(z: Array, basis: Array) -> tuple[Array, Array]:
    """Rows that span z's rest outside the basis, and the factor with factorᵀ rows = rest."""
    z = z - (z @ basis.T) @ basis
    inverse, _, least = root(z @ z.T)
    once = inverse.T @ z
    once = once - (once @ basis.T) @ basis  # where the rest is rounding, so is its direction
    inverse, _, least_again = root(once @ once.T)

    def by_products() -> Array:
        return inverse.T @ once

    def by_reflections() -> Array:
        q, _ = jnp.linalg.qr(z.T)
        q = q - basis.T @ (basis @ q)
        return jnp.linalg.qr(q)[0].T

    # LAPACK's QR wakes threads that wait in a loop and slow the next product; `eigh` of a
    # block's inner products is too small to.
    independent = (least > jnp.finfo(z.dtype).eps ** 0.5) & (least_again > 0.25)
    rows = lax.cond(independent, by_products, by_reflections)
    return rows, rows @ z.T


def root(inner: Array) -> tuple[Array, Array, Array]:
    """A root of YᵀY and its inverse where there is one, from which Y = (Y inverse) root.

    Scaled to unit columns first: then small columns are not rounded as large ones are.

    Returns:
        The inverse, the root, and the least eigenvalue once scaled: 1 where Y is orthogonal.
    """
    inner = jnp.where(jnp.isfinite(inner).all(), inner, 0)
    size = jnp.sqrt(jnp.diagonal(inner))
    unit = jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 0)
    values, v = jnp.linalg.eigh(inner * unit * unit[:, None])
    live = values > 4 * len(values) * jnp.finfo(inner.dtype).eps * values[-1]
    inverse = jnp.where(live, 1 / jnp.sqrt(jnp.where(live, values, 1)), 0)
    # The root has no need to leave out what is small: where columns of mere rounding lean on a
    # large one, that is a part of the large one.
    roots = jnp.sqrt(jnp.maximum(values, 0))
    return unit[:, None] * ((v * inverse) @ v.T), ((v * roots) @ v.T) * size, values[0]


def _top_pairs(
    projected: Array, start: int | Array, end: Array, keep: int
) -> tuple[Array, Array]:
    """The largest eigenvalues of rows start to end, and vectors, zero in the other rows."""
    size = len(projected)
    index = jnp.arange(size, dtype=jnp.int32)
    live = (index >= start) & (index < end)
    whole = jnp.where(live & live[:, None], projected, 0)
    # The other rows' eigenvalues sort last.
    below = -2 * jnp.abs(whole).sum(axis=1).max() - jnp.finfo(projected.dtype).tiny
    whole += jnp.diag(jnp.where(live, 0, below))

    def of_leading(rows: int) -> Callable[[Array], tuple[Array, Array]]:
        def pairs(whole: Array) -> tuple[Array, Array]:
            values, vectors = jnp.linalg.eigh(whole[:rows, :rows], symmetrize_input=False)
            top = jnp.pad(vectors[:, ::-1][:, :keep], ((0, size - rows), (0, 0)))
            return values[::-1][:keep], top

        return pairs

    # The cost grows with the cube of the rows, of which few are in use at first.
    ladder = sorted({max(keep, size * i // 4) for i in (1, 2, 3)} | {size})
    rung = jnp.searchsorted(jnp.array(ladder, jnp.int32), end)
    return lax.switch(rung, [of_leading(rows) for rows in ladder], whole)
