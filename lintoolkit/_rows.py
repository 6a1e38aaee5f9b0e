"""Products of tall matrices that sum over rows: in blocks on one CPU, partitioned when sharded.

XLA's CPU products that contract a long axis run at half speed or less. Summed over blocks that
stay in cache they run at full speed, a matrix is read once for two products with it, and what
is done to its rows first, centring and scaling, costs no copy of it. Where there are several
devices the rows may be sharded, and a loop over them would gather them: there each product is
one, which the compiler partitions into local products and an all-reduce. What it would gather
in any case, such as what sorts or factorises, runs on each device's own rows: `on_each`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from lintoolkit import _checks

Sum = TypeVar("Sum")

BLOCK = 1024  # rows at a time: 1 to 4 MiB of float32 at common widths
TILE = 128  # columns at a time, where a product is symmetric


def pull(y: Array, x: Array) -> Array:
    """Yᵀ X, (n, b) and (n, d) to (b, d): the rows of X, weighted by columns of Y and added."""
    return _product(y, x, 0)


def push(x: Array, v: Array) -> Array:
    """X Vᵀ, (n, d) and (b, d) to (n, b): each row of X along each row of V."""
    return _product(x, v, 1)


def total(f: Callable[..., Sum], *arrays: Array) -> Sum:
    """Add up f(rows of each array) over all rows; f must be additive in them."""
    rows = len(arrays[0])
    if not _blocked(arrays[0]):
        return f(*arrays)
    head = rows % BLOCK or BLOCK

    def in_blocks(*arrays: Array) -> Sum:
        def add(i: Array, so_far: Sum) -> Sum:
            block = [lax.dynamic_slice_in_dim(x, head + i * BLOCK, BLOCK) for x in arrays]
            return jax.tree.map(jnp.add, so_far, f(*block))

        first = f(*[x[:head] for x in arrays])
        return lax.fori_loop(0, (rows - head) // BLOCK, add, first)

    return lax.platform_dependent(*arrays, cpu=in_blocks, default=f)


def each(f: Callable[..., Array], *arrays: Array) -> Array:
    """What f makes of the rows of each array, row by row; in blocks, so that it copies none."""
    rows = len(arrays[0])
    if not _blocked(arrays[0]):
        return f(*arrays)
    head = rows % BLOCK or BLOCK

    def in_blocks(*arrays: Array) -> Array:
        def fill(i: Array, y: Array) -> Array:
            start = head + i * BLOCK
            block = [lax.dynamic_slice_in_dim(x, start, BLOCK) for x in arrays]
            return lax.dynamic_update_slice_in_dim(y, f(*block), start, 0)

        first = f(*[x[:head] for x in arrays])
        y = jnp.zeros((rows, *first.shape[1:]), first.dtype)
        return lax.fori_loop(0, (rows - head) // BLOCK, fill, y.at[:head].set(first))

    return lax.platform_dependent(*arrays, cpu=in_blocks, default=f)


def gram(of: Callable[..., Array], *arrays: Array) -> Array:
    """YᵀY for Y = of(rows of each array); in blocks, the upper triangle alone is computed."""
    width = arrays[0].shape[1]

    def in_one(*rows: Array) -> Array:
        y = of(*rows)
        return pull(y, y)

    def tiles(*rows: Array) -> list[Array]:
        y = of(*rows)
        return [pull(y[:, i : i + TILE], y[:, i:]) for i in range(0, width, TILE)]

    if not _blocked(arrays[0]) or width < 2 * TILE:
        return total(in_one, *arrays)
    by_tiles = lambda *arrays: _mirrored(total(tiles, *arrays))
    return lax.platform_dependent(*arrays, cpu=by_tiles, default=in_one)


def gram_of_rows(y: Array) -> Array:
    """Y Yᵀ of a wide matrix, on one CPU device the upper triangle alone."""

    def by_tiles(y: Array) -> Array:
        return _mirrored([push(y[i : i + TILE], y[i:]) for i in range(0, len(y), TILE)])

    in_one = lambda y: push(y, y)
    if _checks.devices(y) > 1 or len(y) < 2 * TILE:
        return in_one(y)
    return lax.platform_dependent(y, cpu=by_tiles, default=in_one)


def _mirrored(tiles: list[Array]) -> Array:
    """A symmetric matrix from the rows of its upper triangle, `TILE` at a time."""
    width = tiles[0].shape[1]
    whole = jnp.zeros((width, width), tiles[0].dtype)
    for i, tile in zip(range(0, width, TILE), tiles, strict=True):
        whole = whole.at[i:, i : i + TILE].set(tile.T).at[i : i + TILE, i:].set(tile)
    return whole


def one_row(x: Array, where: Array | None) -> Array:
    """The first row, of those that count."""
    if _checks.devices(x) == 1:
        return x[0] if where is None else x[jnp.argmax(where)]
    # Slicing gathers sharded rows, or is refused; least numbers and sums do not.
    number = lax.broadcasted_iota(jnp.int32, x.shape, 0)
    counted = number if where is None else jnp.where(where[:, None], number, len(x))
    return jnp.where(number == counted.min(), x, 0).sum(axis=0)


def on_mesh_of(x: Array) -> AbstractContextManager:
    """Make arrays on the mesh of x, whether or not the caller has set it: they must meet."""
    mesh = jax.typeof(x).sharding.mesh
    return nullcontext() if mesh.empty else jax.sharding.use_abstract_mesh(mesh)


def split_of(*arrays: Array) -> NamedSharding | None:
    """How the rows of arrays are split over devices, if they are."""
    # Of automatic axes types do not tell: there they may be, and are made to be, over all.
    for x in arrays:
        sharding = jax.typeof(x).sharding
        mesh, axes = sharding.mesh, sharding.spec[0]
        if set(mesh.axis_types) == {AxisType.Auto} and len(x) % mesh.size == 0:
            axes = mesh.axis_names
        if axes is not None:
            return NamedSharding(mesh, PartitionSpec(axes))
    return None


def on_each(
    split: NamedSharding | None,
    f: Callable[..., Any],
    rows: Sequence[Array],
    *rest: Any,
    own: Any = False,
) -> Any:
    """f(axes, *rows, *rest), on each device with its own rows where they are split."""
    # The axes are those of the mesh to add up over. What f gives is the same on all devices,
    # but for parts that are its own, as `own` says: the rows of a larger array.
    if split is None:
        return f((), *rows, *rest)
    places = lambda own: split.spec if own else PartitionSpec()
    return jax.shard_map(
        partial(f, _axes(split)),
        mesh=split.mesh,
        in_specs=(*[split.spec] * len(rows), *[PartitionSpec()] * len(rest)),
        out_specs=jax.tree.map(places, own),
    )(*[_placed(x, split) for x in rows], *everywhere(split, rest))


def everywhere(split: NamedSharding | None, tree: Any) -> Any:
    """The same arrays, whole on all devices over which others are split."""
    if split is None:
        return tree
    whole = NamedSharding(split.mesh, PartitionSpec())
    return jax.tree.map(lambda x: _placed(x, whole), tree)


def through_qr(factorise: Callable[[Array], Sequence[Array]], x: Array) -> Sequence[Array]:
    """What factorise makes of X: a left factor, and what depends on X through XᵀX alone."""
    # Where rows are split each device takes QR of its own. Only the factors R are gathered and
    # factorised: on k devices k d rows at most, or all of X if that is fewer.
    split = split_of(x)
    if split is None:
        return factorise(x)
    axes = _axes(split)

    def local(x: Array) -> Sequence[Array]:
        q, r = jnp.linalg.qr(x)
        left, *others = factorise(lax.all_gather(r, axes, tiled=True))
        own = lax.dynamic_slice_in_dim(left, lax.axis_index(axes) * len(r), len(r))
        return [push(q, own.T), *others]

    _, *others = jax.eval_shape(factorise, jax.ShapeDtypeStruct(x.shape, x.dtype))
    specs = [split.spec, *[PartitionSpec()] * len(others)]
    # That what is gathered is the same everywhere, JAX's types of what varies cannot tell.
    return jax.shard_map(
        local, mesh=split.mesh, in_specs=split.spec, out_specs=specs, check_vma=False
    )(_placed(x, split))


def _axes(split: NamedSharding) -> tuple[str, ...]:
    axes = split.spec[0]
    return (axes,) if isinstance(axes, str) else tuple(axes)


def _placed(x: Array, sharding: NamedSharding) -> Array:
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    return jax.reshard(x, sharding) if explicit else x


def _blocked(x: Array) -> bool:
    return len(x) >= 2 * BLOCK and _checks.devices(x) == 1


def _product(a: Array, b: Array, axis: int) -> Array:
    # In full precision; a sharded contracted axis of an explicit mesh is summed over devices.
    sharding = jax.typeof(a).sharding
    split = not sharding.mesh.empty and sharding.spec[axis] is not None
    whole = NamedSharding(sharding.mesh, PartitionSpec(None, None)) if split else None
    return lax.dot_general(
        a,
        b,
        (((axis,), (axis,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        out_sharding=whole,
    )
