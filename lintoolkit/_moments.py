"""Moments of rows, one state that merges: of a matrix, of chunks, of shards kept in files.

A stream's are merged in float64 on the host, each chunk's found on one device, so that they are
the same to the bit however often a pass died and in however many processes it went on.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils, sparse
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from lintoolkit import _checks
from lintoolkit._files import read_tensors, tensors_file, write
from lintoolkit._rows import gram, one_row, total
from lintoolkit._triplets import dense_of, highest


class Moments(NamedTuple):
    """What is known of some rows: their number, mean, and Σ (x - mean)(x - mean)ᵀ."""

    n: Float[Array, ""]
    mean: Float[Array, " d"]
    scatter: Float[Array, "d d"]


def of_rows(x: Array, where: Array | None = None) -> Moments:
    """The moments of a matrix, or of those of its rows that count."""
    data = (x,) if where is None else (x, where)
    count, mean, _ = spread(*data)
    with highest:
        return Moments(count, mean, gram(partial(less, mean), *data))


def spread(x: Array, where: Array | None = None) -> tuple[Array, Array, Array]:
    """Number of rows, mean, and the sum of squared distances from it."""
    # Relative to one of the rows, so that a large mean does not drown the deviations.
    origin = one_row(x, where)

    def sums(*rows: Array) -> tuple[Array, Array, Array]:
        off = less(origin, *rows)
        number = (
            rows[1].sum(dtype=x.dtype) if where is not None else jnp.asarray(len(off), x.dtype)
        )
        return number, off.sum(axis=0), jnp.square(off).sum()

    count, off, squares = total(sums, *((x,) if where is None else (x, where)))
    shift = off / jnp.maximum(count, 1)
    return count, origin + shift, jnp.maximum(squares - count * jnp.square(shift).sum(), 0)


def spread_of_sparse(x: sparse.BCOO) -> tuple[Array, Array, Array]:
    """The same of a sparse matrix: no large numbers that cancel, of its entries alone."""
    if not x.unique_indices:  # entries of one place are added before they are squared
        x = x.sum_duplicates(nse=x.nse)
    (n, d), column = x.shape, x.indices[:, 1]
    add = lambda entries: jnp.zeros(d, x.dtype).at[column].add(entries, mode="drop")
    stored = add(jnp.ones_like(x.data))
    mean = jnp.zeros(d, x.dtype)  # of what is stored
    off = x.data
    for _ in range(2):  # a sum of very many entries is rounded, that of what is left hardly
        mean += add(off) / jnp.maximum(stored, 1)
        off = x.data - mean.at[column].get(mode="fill", fill_value=0)
    off = jnp.where(column < d, off, 0)  # beyond lies what sum_duplicates fills up with
    beside = stored * ((n - stored) / n) * jnp.square(mean)  # what is not stored
    return jnp.asarray(n, x.dtype), stored / n * mean, jnp.square(off).sum() + beside.sum()


def less(mean: Array, rows: Array, where: Array | None = None) -> Array:
    """Rows without their mean; zeros where they do not count."""
    return rows - mean if where is None else jnp.where(where[:, None], rows - mean, 0)


def merged(a: Moments, b: Moments, share: Any) -> Moments:
    """The moments of two sets of rows together; the share is b's of all rows."""
    # Operators alone: of JAX's arrays, or NumPy's on the host.
    delta = b.mean - a.mean
    spread = a.n * share * delta[:, None] * delta[None, :]
    return Moments(a.n + b.n, a.mean + share * delta, a.scatter + b.scatter + spread)


def of_stream(
    chunks: Any,
    fits: Callable[[int], None],
    *,
    chunk_rows: int,
    checkpoint: str | os.PathLike | None,
    shards: int,
) -> tuple[Any, Any]:
    """Moments in float64 on the host, None of no rows, and their dtype on the device."""
    # Options as in `lintoolkit.pca.fit_pca_stream`; `fits` refuses rows too narrow for the fit.
    shape = _shape_of(chunks)
    if shape is None and (isinstance(chunks, str | bytes) or not isinstance(chunks, Iterable)):
        raise TypeError(
            "fit_pca_stream: chunks must be an array with rows, such as a numpy.memmap, or an "
            f"iterable of matrices, got {type(chunks).__name__}."
        )
    if shape is not None and len(shape) != 2:
        raise ValueError(
            f"fit_pca_stream: an array of chunks must be a matrix (n, d), got shape {shape}."
        )
    if checkpoint is not None:
        if shape is None:
            raise TypeError(
                "fit_pca_stream: checkpoint needs chunks to be one array with rows to slice, "
                f"such as a numpy.memmap, got {type(chunks).__name__}."
            )
        return _by_shards(chunks, shape, chunk_rows, fits, shards, Path(checkpoint))
    if shape is not None:
        slices = _slices(chunks, range(shape[0]), chunk_rows)
        return _streamed(slices, min(chunk_rows, shape[0]), fits)
    return _streamed(chunks, 0, fits)


def _streamed(
    chunks: Iterable[Any], padded: int, fits: Callable[[int], None]
) -> tuple[Any, Any]:
    """As `of_stream`, chunk by chunk, each padded to so many rows at least."""
    state: Any = None
    dtype = None
    for i, chunk in enumerate(chunks):
        rows = _checked_chunk(i, chunk, None if state is None else len(state.mean))
        if state is None:
            fits(rows.shape[1])
        # Shorter chunks are padded to the longest so far: no compilation of their own.
        padded = max(padded, len(rows))
        short = padded - len(rows)
        part = _moments_here()(
            np.pad(rows, ((0, short), (0, 0))) if short else rows,
            np.arange(padded) < len(rows),
        )
        dtype = part.mean.dtype
        # Fetched before the next chunk is read: chunks must not queue up in memory.
        wide: Any = jax.tree.map(lambda value: np.asarray(value, np.float64), part)
        state = wide if state is None else merged(state, wide, wide.n / (state.n + wide.n))
    return state, dtype


def _by_shards(
    rows: Any,
    shape: tuple[int, int],
    chunk_rows: int,
    fits: Callable[[int], None],
    shards: int,
    folder: Path,
) -> tuple[Any, Any]:
    """As `_streamed`, shard by shard, each kept in a file; a job's processes share them out."""
    n, d = shape
    fits(d)
    size = -(-n // shards)
    parts = [range(start, min(start + size, n)) for start in range(0, n, size or 1)]
    folder.mkdir(parents=True, exist_ok=True)
    process, processes = jax.process_index(), jax.process_count()

    def kept(i: int) -> tuple[Path, dict[str, str], Moments | None]:
        # Told from others by some of its rows too: there are files of one shape.
        part = parts[i]
        some = [
            _checked_chunk(0, rows[row : row + 1], d)
            for row in sorted({*part[:: -(-size // 4)], part[-1]})
        ]
        about = {
            "rows": f"{part.start} to {part.stop} of {n}",
            "columns": f"{d} of {some[0].dtype}",
            "chunk_rows": str(chunk_rows),
            "some": _crc(*some),
        }
        path = folder / f"{i:05}.safetensors"
        return path, about, _kept(path, about)

    for i in range(process, len(parts), processes):
        path, about, state = kept(i)
        if state is None:
            chunks = _slices(rows, parts[i], chunk_rows)
            state, _ = _streamed(chunks, min(chunk_rows, size), fits)
            whole = {name: np.atleast_1d(part) for name, part in state._asdict().items()}
            write({path: tensors_file(whole, about | {"sum": _crc(*whole.values())})})
    if processes > 1:
        multihost_utils.sync_global_devices("fit_pca_stream")
    joined: Any = None
    for i in range(len(parts)):
        path, about, state = kept(i)
        if state is None:
            raise ValueError(
                f"fit_pca_stream: {path} is not there or damaged; all processes must see one "
                "checkpoint directory: run again."
            )
        share = state.n / (state.n if joined is None else joined.n + state.n)
        joined = state if joined is None else merged(joined, state, share)
    dtype = _checked_chunk(0, rows[:1], d).dtype if n else np.dtype("float32")
    return joined, _checks.wide(jax.dtypes.canonicalize_dtype(dtype))


def _kept(path: Path, about: dict[str, str]) -> Moments | None:
    """A shard's moments from its file; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        tensors, said = read_tensors("fit_pca_stream", path)
        state: Any = [tensors[name] for name in Moments._fields]
        if said.pop("sum") != _crc(*state):
            return None
    except (ValueError, KeyError):
        return None
    if said != about:
        raise ValueError(
            f"fit_pca_stream: checkpoint holds moments of other rows, {path} of {said}, not "
            f"{about}; give another directory."
        )
    return Moments(state[0][0], *state[1:])


def _crc(*arrays: np.ndarray) -> str:
    return str(zlib.crc32(b"".join(array.tobytes() for array in arrays)))


@cache
def _moments_here() -> Callable[..., Moments]:
    """`of_rows` on the one device, whatever others there are: the same bits in any job."""

    @_checks.scope("moments")
    def of_chunk(x: Array, where: Array) -> Moments:
        return of_rows(dense_of("moments", x), where)

    own = jax.make_mesh(
        (1,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1]
    )
    whole = PartitionSpec()
    return jax.jit(
        jax.shard_map(
            of_chunk,
            mesh=own,
            in_specs=(whole, whole),
            out_specs=whole,
            check_vma=False,  # of one device
        )
    )


def _shape_of(chunks: Any) -> Any:
    """The shape of what has rows to slice; None of other iterables."""
    return (
        tuple(chunks.get_shape())
        if hasattr(chunks, "get_shape")
        else getattr(chunks, "shape", None)
    )


def _slices(rows: Any, at: range, size: int) -> Iterator[Any]:
    for start in at[::size]:
        yield rows[start : min(start + size, at.stop)]


def _checked_chunk(i: int, chunk: Any, width: int | None) -> np.ndarray:
    if isinstance(chunk, np.ma.MaskedArray):
        raise TypeError(
            f"fit_pca_stream: chunk {i} is a masked array, whose mask would be lost; fill it."
        )
    rows = np.asarray(chunk)
    if not jnp.issubdtype(rows.dtype, jnp.floating):
        raise TypeError(
            f"fit_pca_stream: chunk {i} must be floating, got {rows.dtype}; convert it first, "
            "chunk.astype('float32')."
        )
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(
            f"fit_pca_stream: chunk {i} must be a matrix with rows in it, got shape "
            f"{rows.shape}."
        )
    if width is not None and rows.shape[1] != width:
        raise ValueError(
            f"fit_pca_stream: chunk {i} has {rows.shape[1]} columns, the chunks before it "
            f"{width}; all must be of one width."
        )
    return rows
