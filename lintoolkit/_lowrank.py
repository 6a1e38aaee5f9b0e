"""A change of low rank of one array, and which axes of the array each factor has."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.typing import DTypeLike
from jaxtyping import Array

from lintoolkit import _checks, svd
from lintoolkit._jit import jit


@partial(
    jax.tree_util.register_dataclass, data_fields=("a", "b"), meta_fields=("scale", "layout")
)
@dataclass(frozen=True)
class LowRank:
    """A change ``scale * a @ b`` of one array; ``layout`` says which of its axes are which.

    A word an axis of the array: ``b`` stacked (one change for each index), ``i`` in, ``o`` out.
    The factors have those axes in that order: ``a`` (*stacked, *in, r), ``b`` (*stacked, r,
    *out). A kernel (d_in, d_out) has layout "i o"; torch's weight (d_out, d_in) has "o i".
    Scale and layout are static, so optimisers and gradients see the factors alone.
    """

    a: Any  # an array; whatever a tree map makes of it in between
    b: Any
    scale: float = 1.0
    layout: str = "i o"


export.register_pytree_node_serialization(
    LowRank,
    serialized_name="lintoolkit.lora.LowRank",
    serialize_auxdata=lambda aux: json.dumps(aux).encode(),
    deserialize_auxdata=lambda data: tuple(json.loads(data)),
)


def sizes(shape: Sequence[int], layout: str) -> tuple[tuple[int, ...], ...]:
    """Lengths of the stacked axes, of those in and of those out."""
    kinds = layout.split()
    return tuple(
        tuple(n for n, kind in zip(shape, kinds, strict=True) if kind == which)
        for which in "bio"
    )


def factor_shapes(
    shape: Sequence[int], layout: str, rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of both factors of a change of an array."""
    stack, inner, outer = sizes(shape, layout)
    return (*stack, *inner, rank), (*stack, rank, *outer)


def rank_of(low: LowRank) -> int:
    """Columns of the first factor."""
    return low.a.shape[-1]


def rank_limit(shape: Sequence[int], layout: str) -> int:
    """The rank that every matrix of this shape has at most."""
    _, inner, outer = sizes(shape, layout)
    return min(math.prod(inner), math.prod(outer))


def spread(low: LowRank) -> tuple[Array, Array]:
    """Both factors, scaled, with the array's axes in its order, 1 long where not theirs."""
    kinds = np.array(low.layout.split())
    both, inner, outer = (np.flatnonzero(kinds == which).tolist() for which in "bio")
    a, b = jnp.asarray(low.a) * low.scale, jnp.asarray(low.b)

    def placed(factor: Array, own: list[int], absent: list[int]) -> Array:
        order = np.argsort(own).tolist()
        return jnp.expand_dims(factor.transpose(*order, len(order)), absent)

    b = jnp.moveaxis(b, len(both), -1)
    return placed(a, both + inner, outer), placed(b, both + outer, inner)


def owned(part: Array, shape: Sequence[int]) -> list[int]:
    """The axes of the array along which a spread factor varies."""
    return [i for i, n in enumerate(shape) if part.shape[i] == n > 1]


def squeezed(part: Array, own: Sequence[int]) -> Array:
    """A spread factor without the axes that are not its own."""
    return part.squeeze([i for i in range(part.ndim - 1) if i not in own])


def change(parts: tuple[Array, Array], shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Multiply spread factors out, to an array of this shape."""
    operands: list = []
    for part in parts:
        own = owned(part, shape)
        operands += [squeezed(part, own).astype(dtype), [*own, len(shape)]]
    shared = sorted({axis for axes in operands[1::2] for axis in axes} - {len(shape)})
    product = jnp.einsum(*operands, shared, precision="highest")
    absent = [i for i in range(len(shape)) if i not in shared]
    return jnp.broadcast_to(jnp.expand_dims(product, absent), shape)


def added(w: Array, parts: tuple[Array, Array]) -> Array:
    """An array and its change, summed in float32 at least, rounded once."""
    wide = _checks.wide(w.dtype)
    return (w.astype(wide) + change(parts, w.shape, wide)).astype(w.dtype)


def matrices(x: Array, layout: str) -> Array:
    """An array as a stack of matrices (stacked, in, out)."""
    kinds = layout.split()
    order = [i for which in "bio" for i, kind in enumerate(kinds) if kind == which]
    return x.transpose(order).reshape([math.prod(part) for part in sizes(x.shape, layout)])


def check_layout(function: str, path: str, layout: str, ndim: int) -> None:
    """Refuse a layout that does not say of every axis what it is."""
    words = layout.split()
    if not set(words) <= set("bio") or not {"i", "o"} <= set(words) or len(words) != ndim:
        raise ValueError(
            f"{function}: layout of {path} must have one of b, i, o for each of its {ndim} "
            f"axes, i and o at least, such as {' '.join(['b'] * (ndim - 2))} i o, got "
            f"{layout!r}."
        )


def check_fits(function: str, path: str, x: Any, low: Any) -> None:
    """Refuse factors that are not of a change of this array."""
    if not isinstance(low, LowRank):
        raise TypeError(f"{function}: adapter {path} must be a LowRank, got {low!r:.40}.")
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{function}: {path} must be a floating array to have an adapter, got "
            f"{getattr(x, 'dtype', type(x).__name__)}."
        )
    check_layout(function, path, low.layout, x.ndim)
    rank = low.a.shape[-1] if low.a.ndim else 0
    wanted = factor_shapes(x.shape, low.layout, rank)
    if wanted != (low.a.shape, low.b.shape):
        raise ValueError(
            f"{function}: adapter {path} must have a {wanted[0]} and b {wanted[1]} for an "
            f"array {x.shape} of layout {low.layout!r}, got {low.a.shape} and {low.b.shape}."
        )


def from_svd(found: svd.SVD, rank: int, shape: Sequence[int], layout: str) -> LowRank:
    """The first triplets of a stack of matrices as a change, each factor with half of it."""
    root = jnp.sqrt(found.s[:, :rank])
    a, b = found.u[:, :, :rank] * root[:, None], root[:, :, None] * found.vt[:, :rank]
    shape_a, shape_b = factor_shapes(shape, layout, rank)
    return LowRank(a.reshape(shape_a), b.reshape(shape_b), 1.0, layout)


def rank_for(s: Array, energy: Any) -> int:
    """The least rank that has a share of the energy of every matrix in a stack."""
    count = jax.vmap(partial(svd.rank_for_energy, energy=energy))(s)
    return max(1, int(count.max()))


def flat(low: LowRank) -> tuple[Array, Array]:
    """Both factors as stacks of matrices, the first with the scale."""
    stacked = low.layout.split().count("b")
    count, r = math.prod(low.a.shape[:stacked]), rank_of(low)
    wide = _checks.wide(jnp.result_type(low.a))
    a, b = jnp.asarray(low.a, wide), jnp.asarray(low.b, wide)
    return a.reshape(count, -1, r) * low.scale, b.reshape(count, r, -1)


def array_shape(low: LowRank) -> tuple[int, ...]:
    """Of the array that an adapter is for."""
    words = low.layout.split()
    stacked = words.count("b")
    axes = {
        "b": iter(low.a.shape[:stacked]),
        "i": iter(low.a.shape[stacked:-1]),
        "o": iter(low.b.shape[stacked + 1 :]),
    }
    return tuple(next(axes[word]) for word in words)


@jit
def decomposed(low: LowRank) -> svd.SVD:
    """Singular triplets of a change, from its factors."""
    with jax.default_matmul_precision("highest"):
        a, b = flat(low)
        q_a, r_a = jnp.linalg.qr(a)
        q_b, r_b = jnp.linalg.qr(b.mT)
        core = jax.vmap(svd.svd)(r_a @ r_b.mT)
        return core._replace(u=q_a @ core.u, vt=core.vt @ q_b.mT)
