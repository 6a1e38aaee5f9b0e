# ruff: noqa: DOC502 (what Raises promises is raised in helpers)
r"""Principal components: exact, streaming, sharded, sparse; one state that merges.

Rows are examples. With $\mu$ their mean and $X - 1\mu^\top = U \, \mathrm{diag}(s) \, V^\top$,
the components are the first rows of $V^\top$ and the variances $s^2 / (n - 1)$. Signs are
those of `lintoolkit.svd`: the entry of largest magnitude in a component is positive. What is
not finite is NaN, with ``ok`` False. Half precision is computed, and returned, in float32.

Letters: n rows, d columns, r components.
"""

import os
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental import sparse
from jaxtyping import Array, Bool, Float

from lintoolkit import _checks, _moments
from lintoolkit._jit import jit
from lintoolkit._moments import Moments
from lintoolkit._rows import on_mesh_of
from lintoolkit._triplets import (
    LinearOperator,
    change,
    dense_of,
    highest,
    leading,
    matrix_of,
    one_by_one,
    products_of,
    signs,
    small_svd,
)
from lintoolkit.layers import AnyKey

__all__ = [
    "PCA", "Moments", "fit_pca", "explained_variance_ratio", "pca_encode",
    "pca_encode_flops", "pca_decode", "pca_decode_flops", "moments", "merge_moments",
    "pca_of_moments", "fit_pca_stream",
]  # fmt: skip
__dir__ = lambda: __all__

Solver = Literal["auto", "gram", "krylov"]


class PCA(NamedTuple):
    """Mean, components, the variance along each, the variance in all, and whether good."""

    mean: Float[Array, " d"]
    components: Float[Array, "r d"]
    explained_variance: Float[Array, " r"]
    total_variance: Float[Array, ""]
    ok: Bool[Array, ""]


for _result in (PCA, Moments):
    export.register_namedtuple_serialization(
        _result, serialized_name=f"lintoolkit.pca.{_result.__name__}"
    )


def fit_pca(
    x: Float[Array, "n d"] | sparse.BCOO | sparse.BCSR,
    *,
    rank: int | None = None,
    variance: float | None = None,
    where: Bool[Array, " n"] | None = None,
    solver: Solver = "auto",
    key: AnyKey | None = None,
) -> PCA:
    r"""Find the orthogonal directions along which the rows vary most.

    $X - 1\mu^\top \approx U \, \mathrm{diag}(s) \, V^\top$, truncated; the variance along a row
    of $V^\top$ is $\lambda = s^2 / (n - 1)$. Found as by `lintoolkit.svd.truncated_svd`, to
    working precision, on the centred matrix, which is formed block by block, or never where
    ``x`` is sparse. What lies below √eps of the largest deviation is found too, unlike from a
    covariance matrix.

    Rows may be sharded, on automatic and explicit meshes: only sums over them travel between
    devices. Derivatives of what does not depend on the choice of basis, such as what
    `pca_decode` makes of `pca_encode`, are finite and right at repeated variances too.

    Args:
        x: Rows are examples. Dense, or sparse, which has no derivative.
        rank: How many components. Either this or ``variance``.
        variance: As many as hold this share of the total variance, in (0, 1]; needs all
            components and concrete numbers, so not under `jit`, `vmap` or `grad`.
        where: Rows that count, if not all: the padding of a sharded or a last batch does not.
        solver: "gram", all eigenvectors of the scatter matrix; "krylov", products with the
            rows; "auto" takes the former up to 512 columns (or rows, if fewer).
        key: Draws the start of "krylov"; a fixed one if None, so that results repeat.

    Returns:
        Mean, components and variances in the dtype of ``x``; float32 for half precision.

    Raises:
        TypeError: If ``x`` is not a floating array, ``where`` not boolean, or ``key`` not one
            key.
        ValueError: If ``x`` is not a matrix of two rows or more, not just one of ``rank`` and
            ``variance`` is given, either is out of range, or the solver is unknown.

    Cost:
        n d² + 9 d³ FLOP by "gram", some 128 n d a step by "krylov", 3 to 10 steps. A
        derivative takes a full SVD.

    Examples:
        >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])
        >>> pca = fit_pca(x, rank=1)
        >>> print(pca.mean, pca.explained_variance, pca.components.round(4))
        [3. 2.] [8.] [[0.7071 0.7071]]

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), sections 1.1 and 3.5.
    """
    x = _rows_of("fit_pca", x)
    n, d = x.shape
    _check_size("fit_pca", rank, variance, min(n, d))
    _check_where("fit_pca", where, n)
    if where is not None and isinstance(x, sparse.BCOO):
        raise ValueError("fit_pca: where is for dense x; drop the rows of a sparse one.")
    if solver not in get_args(Solver):
        raise ValueError(f"fit_pca: solver must be one of {get_args(Solver)}, got {solver!r}.")
    if key is not None:
        _checks.random_key("fit_pca", key)
    fitted = _fit(x, where, key, rank or min(n, d), solver)
    return fitted if variance is None else _first("fit_pca", fitted, variance)


@jit
@_checks.scope("explained_variance_ratio")
def explained_variance_ratio(pca: PCA) -> Float[Array, " r"]:
    r"""Tell what share of all variance lies along each component.

    $p_i = \lambda_i / \sum_{j \le d} \lambda_j$, over all d variances, not the kept ones alone.

    Args:
        pca: What `fit_pca` returns.

    Returns:
        Shares in [0, 1]; zeros where nothing varies.

    Raises:
        TypeError: If the variances are not floating arrays.

    Cost:
        r divisions.

    Examples:
        >>> pca = fit_pca(jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.5]]), rank=2)
        >>> print(explained_variance_ratio(pca).sum().round(4))
        1.0

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), section 6.1.1.
    """
    _checks.floats("explained_variance_ratio", total_variance=pca.total_variance)
    whole = pca.total_variance
    return jnp.where(whole == 0, 0, pca.explained_variance / jnp.where(whole == 0, 1, whole))


@jit(static_argnames=("whiten",))
@_checks.scope("pca_encode")
def pca_encode(
    pca: PCA, x: Float[Array, "*batch d"], *, whiten: bool = False
) -> Float[Array, "*batch r"]:
    r"""Describe rows by their coordinates along the components.

    $z = V^\top (x - \mu)$; whitened, divided by the deviation along each component, so that
    the rows fitted have unit variance.

    Args:
        pca: What `fit_pca` returns.
        x: Rows; leading axes ride along.
        whiten: Whether to divide. A component without variance gives zeros.

    Returns:
        Coordinates, in the dtype of ``x``.

    Raises:
        TypeError: If ``x`` is not a floating array.
        ValueError: If its rows are not as wide as those fitted.

    Cost:
        2 n d r + n d FLOP for n rows, see `pca_encode_flops`; n r more to whiten.

    Examples:
        >>> pca = fit_pca(jnp.array([[1.0, 5.0], [3.0, 5.0]]), rank=1)
        >>> print(pca_encode(pca, jnp.array([[7.0, 9.0]])))
        [[5.]]

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), section 1.1.
    """
    _checks.floats("pca_encode", x=x)
    components = pca.components
    if x.ndim == 0 or x.shape[-1] != components.shape[1]:
        raise ValueError(
            f"pca_encode: x {x.shape} must have rows of {components.shape[1]}, the width that "
            "was fitted."
        )
    with highest:
        codes = (x.astype(components.dtype) - pca.mean) @ components.T
    if whiten:
        deviation = jnp.sqrt(pca.explained_variance)
        codes = jnp.where(deviation == 0, 0, codes / jnp.where(deviation == 0, 1, deviation))
    return codes.astype(x.dtype)


def pca_encode_flops(*, n: int, d: int, r: int) -> int:
    """FLOP of `pca_encode` without whitening.

    Args:
        n: Rows.
        d: Their width.
        r: Components.

    Returns:
        2 n d r for the product and n d for the centring.
    """
    return 2 * n * d * r + n * d


@jit(static_argnames=("whiten",))
@_checks.scope("pca_decode")
def pca_decode(
    pca: PCA, codes: Float[Array, "*batch r"], *, whiten: bool = False
) -> Float[Array, "*batch d"]:
    r"""Rebuild rows from their coordinates along the components.

    $x = V z + \mu$: of what `pca_encode` gives, the nearest rows in the span of the
    components through the mean.

    Args:
        pca: What `fit_pca` returns.
        codes: Coordinates; leading axes ride along.
        whiten: Whether they were whitened.

    Returns:
        Rows, in the dtype of ``codes``.

    Raises:
        TypeError: If ``codes`` is not a floating array.
        ValueError: If there is not one coordinate a component.

    Cost:
        2 n d r + n d FLOP for n rows, see `pca_decode_flops`; n r more if whitened.

    Examples:
        >>> pca = fit_pca(jnp.array([[1.0, 5.0], [3.0, 5.0]]), rank=1)
        >>> print(pca_decode(pca, jnp.array([[5.0]])))
        [[7. 5.]]

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), section 1.1.
    """
    _checks.floats("pca_decode", codes=codes)
    components = pca.components
    if codes.ndim == 0 or codes.shape[-1] != len(components):
        raise ValueError(
            f"pca_decode: codes {codes.shape} must have one coordinate for each of the "
            f"{len(components)} components."
        )
    wide = codes.astype(components.dtype)
    if whiten:
        wide = wide * jnp.sqrt(pca.explained_variance)
    with highest:
        return (wide @ components + pca.mean).astype(codes.dtype)


def pca_decode_flops(*, n: int, d: int, r: int) -> int:
    """FLOP of `pca_decode` of codes that are not whitened.

    Args:
        n: Rows.
        d: Their width.
        r: Components.

    Returns:
        2 n d r for the product and n d for the mean.
    """
    return 2 * n * d * r + n * d


@jit
@_checks.scope("moments")
def moments(x: Float[Array, "n d"], *, where: Bool[Array, " n"] | None = None) -> Moments:
    r"""Count rows, and find their mean and scatter: all that principal components need.

    $n$, $\mu = \frac{1}{n} \sum_i x_i$ and $S = \sum_i (x_i - \mu)(x_i - \mu)^\top$, centred
    before anything is squared. `merge_moments` joins those of two sets of rows: chunks of a
    file, shards of a mesh, processes of a cluster.

    Args:
        x: Rows; may be sharded over them.
        where: Rows that count, if not all.

    Returns:
        The moments, in the dtype of ``x``; float32 for half precision.

    Raises:
        TypeError: If ``x`` is not a floating array.
        ValueError: If ``x`` is not a matrix or is empty, or ``where`` not one flag a row.

    Cost:
        2 n d² FLOP, half of them saved where the rows are taken in blocks.

    Examples:
        >>> count, mean, scatter = moments(jnp.array([[1.0, 0.0], [3.0, 4.0]]))
        >>> print(count, mean, scatter.ravel())
        2.0 [2. 2.] [2. 4. 4. 8.]

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance (1983), The
        American Statistician 37(3).
    """
    x = dense_of("moments", x)
    _check_where("moments", where, len(x))
    return _moments.of_rows(x, where)


@jit
@_checks.scope("merge_moments")
def merge_moments(a: Moments, b: Moments) -> Moments:
    r"""Join the moments of two sets of rows into those of their union.

    With $\delta = \mu_b - \mu_a$: $n = n_a + n_b$, $\mu = \mu_a + \delta n_b / n$ and
    $S = S_a + S_b + \delta \delta^\top n_a n_b / n$. Associative and commutative up to
    rounding; no rows (a count of 0) change nothing.

    Args:
        a: What `moments` or this returns.
        b: Another, of the same width.

    Returns:
        The moments of all rows.

    Raises:
        TypeError: If the parts are not floating arrays.
        ValueError: If the widths differ.

    Cost:
        5 d² FLOP.

    Examples:
        >>> x = jnp.array([[1.0], [3.0], [8.0]])
        >>> both = merge_moments(moments(x[:2]), moments(x[2:]))
        >>> print(both.mean, both.scatter)
        [4.] [[26.]]

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance (1983),
        equation 2.1.
    """
    _checks.floats("merge_moments", **{"a.mean": a.mean, "b.mean": b.mean})
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"merge_moments: rows must have one width, got {a.mean.shape} and {b.mean.shape}."
        )
    n = a.n + b.n
    return _moments.merged(a, b, b.n / jnp.where(n == 0, 1, n))


@jit(static_argnames=("rank",))
@_checks.scope("pca_of_moments")
def pca_of_moments(state: Moments, *, rank: int) -> PCA:
    r"""Find the principal components of rows that are known by their moments alone.

    $S / (n - 1) = V \, \mathrm{diag}(\lambda) \, V^\top$. Squared before it came here: what
    lies below √eps of the largest deviation is lost, see `fit_pca`.

    Args:
        state: What `moments` and `merge_moments` return, of two rows or more.
        rank: How many components.

    Returns:
        Mean, components and variances.

    Raises:
        TypeError: If the parts are not floating arrays.
        ValueError: If the rank is not in 1..d.

    Cost:
        9 d³ FLOP.

    Examples:
        >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
        >>> print(pca_of_moments(moments(x), rank=1).explained_variance)
        [4.]

    References:
        Jolliffe, Principal Component Analysis, 2nd ed. (2002), section 1.1.
    """
    _checks.floats("pca_of_moments", mean=state.mean, scatter=state.scatter)
    _check_size("pca_of_moments", rank, None, len(state.mean))
    count, mean, scatter = (part.astype(_checks.wide(part.dtype)) for part in state)
    finite = jnp.isfinite(scatter).all() & jnp.isfinite(mean).all() & (count > 1)
    values, v = jnp.linalg.eigh(jnp.where(finite, scatter, 0))
    variances = jnp.maximum(values, 0)[::-1] / jnp.where(finite, count - 1, 1)
    return _finished(mean, v.T[::-1][:rank], variances[:rank], variances.sum(), finite)


def fit_pca_stream(
    chunks: Any,
    *,
    rank: int | None = None,
    variance: float | None = None,
    chunk_rows: int = 8192,
    checkpoint: str | os.PathLike | None = None,
    shards: int = 32,
) -> PCA:
    r"""Find the principal components of rows that do not fit into memory.

    The `moments` of each chunk, merged in float64 on the host; then $S / (n - 1) = V \,
    \mathrm{diag}(\lambda) \, V^\top$ in float64. One chunk is in memory at a time. A deviation
    below √eps of the largest, in the dtype of the chunks, is lost; `fit_pca` finds it.

    With ``checkpoint`` the rows of an array are taken as so many shards, whose moments are
    kept there, each in a file that is whole or not there, and merged in a fixed order. A pass
    that died goes on with the shards that are missing. Where this runs in all processes of a
    job (`lintoolkit.launch`) each takes its share of the shards. However often it died, and in
    however many processes: the result is the same to the bit, on hardware of one kind.

    Args:
        chunks: An iterable of matrices, or one array with rows to slice, such as a
            `numpy.memmap`, an open zarr array or a safetensors slice.
        rank: How many components. Either this or ``variance``.
        variance: As many as hold this share of the total variance, in (0, 1].
        chunk_rows: How many rows of an array to read at a time.
        checkpoint: A directory, of this pass alone; in a job, one that all processes see.
        shards: In how many parts, with ``checkpoint``: at least as many as processes.

    Returns:
        Mean, components and variances in the dtype that chunks have on the device.

    Raises:
        TypeError: If a chunk is not floating, chunks are no iterable, or with ``checkpoint``
            no array.
        ValueError: If a chunk is not a matrix, is empty or of another width than the first,
            there are fewer than two rows, not just one of ``rank`` and ``variance`` is given,
            either is out of range, or ``checkpoint`` holds moments of other rows: told by
            their number, dtype, and five rows of each shard.
        OSError: If ``checkpoint`` cannot be written.

    Cost:
        n d² FLOP and one pass over the rows; with ``checkpoint`` 8 d² bytes a shard.

    Examples:
        >>> chunks = (np.full((3, 2), [i, 1.0], "float32") for i in range(3))
        >>> print(fit_pca_stream(chunks, rank=1).components)
        [[1. 0.]]

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance (1983).
    """
    _checks.positive("fit_pca_stream", chunk_rows=chunk_rows, shards=shards)
    fits = partial(_check_size, "fit_pca_stream", rank, variance)
    state, dtype = _moments.of_stream(
        chunks, fits, chunk_rows=chunk_rows, checkpoint=checkpoint, shards=shards
    )
    if state is None or state.n < 2:
        seen = 0 if state is None else int(state.n)
        raise ValueError(f"fit_pca_stream: two rows or more are needed, got {seen}.")
    finite = bool(np.isfinite(state.scatter).all() and np.isfinite(state.mean).all())
    values, v = np.linalg.eigh(state.scatter if finite else np.zeros_like(state.scatter))
    variances = np.maximum(values, 0)[::-1] / (state.n - 1)
    parts = state.mean, v.T[::-1], variances, variances.sum()
    mean, components, along, whole = (jnp.asarray(part, dtype) for part in parts)
    fitted = _finished(mean, components, along, whole, jnp.asarray(finite))
    if variance is not None:
        return _first("fit_pca_stream", fitted, variance)
    return fitted._replace(
        components=fitted.components[:rank],
        explained_variance=fitted.explained_variance[:rank],
    )


@jit(static_argnames=("rank", "solver"))
@_checks.scope("fit_pca")
def _fit(x: Any, where: Array | None, key: Array | None, rank: int, solver: Solver) -> PCA:
    return (_components if isinstance(x, sparse.BCOO) else _fit_dense)(
        x, where, key, rank, solver
    )


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _fit_dense(x: Array, where: Any, key: Any, rank: int, solver: Solver) -> PCA:
    @one_by_one
    def components(x: Array, where: Array | None, key: Array | None) -> PCA:
        return _components(x, where, key, rank, solver)

    with on_mesh_of(x):
        return components(x, where, key)


@_fit_dense.defjvp
@highest
def _fit_dense_jvp(
    rank: int, solver: Solver, primals: tuple, tangents: tuple
) -> tuple[PCA, PCA]:
    (x, where, key), dx = primals, tangents[0]
    pca = _fit_dense(x, where, key, rank, solver)
    data = (x,) if where is None else (x, where)
    weight = jnp.ones(len(x), x.dtype) if where is None else where.astype(x.dtype)
    count = weight.sum()
    dmean = weight @ dx / count
    centred, dcentred = _moments.less(pca.mean, *data), weight[:, None] * (dx - dmean)
    s = jnp.sqrt(pca.explained_variance * (count - 1))
    u = centred @ pca.components.T * jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)
    all_u, all_s, all_vt, _ = small_svd(centred)
    _, ds, dvt = change((u, s, pca.components), (all_u, all_s, all_vt), dcentred)
    dtotal = 2 * jnp.sum(centred * dcentred) / (count - 1)
    ok: Any = np.zeros(pca.ok.shape, jax.dtypes.float0)
    return pca, PCA(dmean, dvt, 2 * s * ds / (count - 1), dtotal, ok)


@highest
def _components(x: Any, where: Any, key: Any, rank: int, solver: Solver) -> PCA:
    if isinstance(x, sparse.BCOO):
        count, mean, spread = _moments.spread_of_sparse(x)
    else:
        count, mean, spread = _moments.spread(*((x,) if where is None else (x, where)))
    products = products_of(x, mean, where)
    spectrum = {"auto": None, "gram": True, "krylov": False}[solver]
    found = leading(products, key, rank=rank, tol=None, max_restarts=30, spectrum=spectrum)
    s, rows = found.s[:rank] * products.unit, found.rows[:rank]
    if products.transposed:  # the rows are left vectors: what they pick of X, unit length
        rows = jnp.linalg.qr(products.push(rows))[0].T
    scale = jnp.where(count > 1, count - 1, 1)
    ok = found.converged & found.finite & jnp.isfinite(spread) & (count > 1)
    # Squares of tiny deviations leave the range too.
    ok &= (spread >= float(jnp.finfo(x.dtype).tiny) * scale) | (s[0] == 0)
    return _finished(mean, rows, s**2 / scale, spread / scale, ok)


def _finished(mean: Array, rows: Array, variances: Array, whole: Array, ok: Array) -> PCA:
    good = lambda part: jnp.where(ok, part, jnp.nan)
    return PCA(good(mean), good(rows * signs(rows)), good(variances), good(whole), ok)


def _first(function: str, pca: PCA, share: float) -> PCA:
    """The least number of components that hold a share of the variance."""
    if isinstance(pca.ok, jax.core.Tracer):
        raise ValueError(
            f"{function}: variance chooses a size from the numbers, which jit, vmap and grad "
            "do not know; pass rank there."
        )
    if not pca.ok:
        return pca
    reached = np.cumsum(np.asarray(explained_variance_ratio(pca), np.float64))
    # Rounding may leave the sum of all shares just below 1.
    rank = int(np.searchsorted(reached, min(share, reached[-1]))) + 1
    return pca._replace(
        components=pca.components[:rank], explained_variance=pca.explained_variance[:rank]
    )


def _rows_of(function: str, x: Any, *, least: int = 2) -> Any:
    """Rows in a dtype that is computed in, or a refusal."""
    x = matrix_of(function, x)
    if isinstance(x, LinearOperator):
        raise TypeError(f"{function}: x must be an array or sparse: a mean takes its rows.")
    if x.shape[0] < least:
        raise ValueError(
            f"{function}: x must have {least} rows or more, got {x.shape}; jax.vmap takes many."
        )
    return x


def _check_where(function: str, where: Array | None, n: int) -> None:
    if where is None:
        return
    _checks.arrays(function, where=where)
    if where.dtype != bool or where.shape != (n,):
        raise ValueError(
            f"{function}: where must be boolean, one flag a row, shape ({n},), got "
            f"{where.dtype} {where.shape}."
        )


def _check_size(function: str, rank: int | None, variance: float | None, limit: int) -> None:
    if (rank is None) == (variance is None):
        raise ValueError(
            f"{function}: give either rank or variance, got rank={rank} and "
            f"variance={variance}."
        )
    if rank is not None:
        _checks.positive(function, rank=rank)
        if rank > limit:
            raise ValueError(
                f"{function}: rank must be between 1 and {limit}, the shorter side, got {rank}."
            )
    elif not 0 < variance <= 1:  # type: ignore[operator]
        raise ValueError(f"{function}: variance must be a share in (0, 1], got {variance}.")
