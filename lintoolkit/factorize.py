# ruff: noqa: DOC502 (what Raises promises is raised in _checked and _ids)
r"""Recommenders: alternating least squares on sparse ratings, explicit and implicit.

A model scores user u and item i by $\hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i$. With the
items held fixed every user is a small least-squares problem of its own, and the other way
round, so each half of a sweep is exact and no sweep raises the objective.

Letters: n users, m items, e ratings, r rank, k items asked for.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Bool, Float, Integer, Key, UInt32

from lintoolkit import _checks
from lintoolkit._jit import jit
from lintoolkit._rows import on_each, split_of
from lintoolkit.similarity import TopK

__all__ = [
    "Side", "Recommender", "als", "implicit_als", "predict_rating", "predict_rating_flops",
    "recommend", "recommend_flops",
]  # fmt: skip
__dir__ = lambda: __all__

AnyKey = Key[Array, ""] | UInt32[Array, "2"]
Ids = Integer[Array, " e"] | Integer[np.ndarray, " e"]
Number = Float[Array, ""] | float


class Side(NamedTuple):
    """One side of a model, users or items: a row of factors and a bias each."""

    factors: Float[Array, "*batch n r"]
    bias: Float[Array, "*batch n"]


class Recommender(NamedTuple):
    """A model of ratings, mean + both biases + the product of both factors.

    `ok` is False, and every number NaN, where a rating or the result is not finite or an id
    is out of range.
    """

    users: Side
    items: Side
    mean: Float[Array, "*batch"]
    ok: Bool[Array, "*batch"]


for _result in (Side, Recommender):
    export.register_namedtuple_serialization(
        _result, serialized_name=f"lintoolkit.factorize.{_result.__name__}"
    )


def als(
    key: AnyKey,
    users: Ids,
    items: Ids,
    ratings: Float[Array, " e"] | Float[np.ndarray, " e"],
    *,
    shape: tuple[int, int],
    rank: int,
    l2: Number = 1.0,
    iterations: int = 10,
    biases: bool = True,
) -> Recommender:
    r"""Fit factors and biases to explicit ratings, such as stars.

    With $\hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i$, minimises over the ratings there are,
    and no others, $\sum_{(u,i)} (r_{ui} - \hat r_{ui})^2 + \lambda (\sum_u \lVert p_u
    \rVert^2 + b_u^2 + \sum_i \lVert q_i \rVert^2 + c_i^2)$ with $\mu$ the mean rating. A
    missing rating is not a zero. A pair that is there twice counts as two observations. Users
    without ratings keep factors and bias 0, so they are told the mean and the item's bias.
    Without ``biases``, $\mu = b_u = c_i = 0$: a rating is the product of the factors alone.

    Args:
        key: Draws the items' first factors, normal with variance 1 / rank.
        users: Number of the user of each rating, in any order.
        items: Number of the item of each rating.
        ratings: The ratings.
        shape: How many users and items there are.
        rank: Factors of each.
        l2: λ, above 0; `jax.vmap` over it tries several. It is in the unit of the ratings;
            beside sums of squares so large that it is lost in their rounding, 4 K ε of them,
            K as below, stand in for it.
        iterations: Sweeps, each over all users and then all items.
        biases: Whether to fit the mean and the biases too.

    Returns:
        The model in the dtype of ``ratings``; half precision computes in float32. Where values
        are known only at run time, under ``jit`` or ``vmap``, a bad one gives ``ok`` False
        and NaN throughout instead of an error. Not differentiable backwards.

    Raises:
        TypeError: If ids are not integers or ratings not floating.
        ValueError: If the three disagree in length, a size is not a whole number from 1 up,
            an id is not below its size, or a rating or ``l2`` is not finite or ``l2`` not
            above 0.

    Cost:
        A sweep takes 2 e K² FLOP a side, K = r + 1, for the normal equations, and about
        K³ / 3 + 2 K² a row to solve them. Memory beside the arguments and the result is
        linear in e + n + m, with less than 64 MB on top while K is at most 1000. How many
        ratings share a row decides how often the inner loops turn, so `lintoolkit.cost`
        counts one turn of each unless told ``while_trips``. Ratings may be split over the
        devices of a mesh: each adds up its own, and (n + m) (K² + K) numbers a sweep travel.

    Examples:
        >>> users, items = jnp.array([0, 0, 1, 1, 2]), jnp.array([0, 1, 0, 1, 0])
        >>> stars = jnp.array([5.0, 1.0, 5.0, 1.0, 5.0])
        >>> model = als(jax.random.key(0), users, items, stars, shape=(3, 2), rank=1, l2=0.01)
        >>> print(jnp.round(predict_rating(model, 1, 1)))
        1.0

    References:
        Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems
        (2009); Zhou, Wilkinson, Schreiber and Pan, Large-scale Parallel Collaborative
        Filtering for the Netflix Prize (2008), section 3.
    """
    entries = _checked("als", key, users, items, ratings, shape, rank, l2, iterations)
    with _checks.scope("als"):
        return _alternate(
            key,
            *entries,
            l2,
            None,
            shape=shape,
            rank=rank,
            iterations=iterations,
            biases=biases,
        )


def implicit_als(
    key: AnyKey,
    users: Ids,
    items: Ids,
    amounts: Float[Array, " e"] | Float[np.ndarray, " e"],
    *,
    shape: tuple[int, int],
    rank: int,
    l2: Number = 0.01,
    alpha: Number = 40.0,
    iterations: int = 15,
) -> Recommender:
    r"""Fit factors to implicit feedback, such as clicks or minutes watched.

    Minimises over all pairs, seen or not,
    $\sum_{u,i} c_{ui} (t_{ui} - p_u \cdot q_i)^2 + \lambda (\sum_u \lVert p_u \rVert^2 +
    \sum_i \lVert q_i \rVert^2)$ with the preference $t_{ui}$ 1 where something was seen, else
    0, and the confidence $c_{ui} = 1 + \alpha a_{ui}$ in it. The unseen pairs enter through
    one r × r matrix a side. A pair that is there several times counts with the sum of its
    amounts. Mean and biases are 0.

    Args:
        key: Draws the items' first factors, normal with variance 1 / rank.
        users: Number of the user of each event, in any order.
        items: Number of the item of each event.
        amounts: How much was seen, above 0: leave out what did not happen.
        shape: How many users and items there are.
        rank: Factors of each.
        l2: λ, above 0; `jax.vmap` over it tries several. As in `als`, rounding of large sums
            stands in for it.
        alpha: How much confidence one unit of ``amounts`` adds, at least 0.
        iterations: Sweeps, each over all users and then all items.

    Returns:
        As `als`: the score of a pair is its preference, near 1 or near 0.

    Raises:
        TypeError: If ids are not integers or amounts not floating.
        ValueError: If the three disagree in length, a size is not a whole number from 1 up,
            an id is not below its size, an amount is not above 0 or not finite, ``l2`` is not
            above 0, or ``alpha`` negative.

    Cost:
        As `als` with K = r, and 2 (n + m) r² FLOP a sweep for the unseen pairs. Of events that
        are split over devices users and items are gathered once, to find equal pairs.

    Examples:
        >>> users, items = jnp.array([0, 0, 1, 2]), jnp.array([0, 1, 0, 2])
        >>> model = implicit_als(
        ...     jax.random.key(0), users, items, jnp.ones(4), shape=(3, 3), rank=2
        ... )
        >>> print(recommend(model, 1, k=1, exclude=jnp.array([0])).indices)
        [1]

    References:
        Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets (2008),
        section 4.
    """
    function = "implicit_als"
    entries = _checked(function, key, users, items, amounts, shape, rank, l2, iterations)
    if _known(entries[2]) and not (least := np.min(entries[2])) > 0:
        raise ValueError(
            f"{function}: amounts must be above 0, got {least}; leave out what was not seen."
        )
    _checks.number(function, alpha=alpha)
    if _known(alpha) and not 0 <= alpha < np.inf:
        raise ValueError(f"{function}: alpha must be finite and at least 0, got {alpha}.")
    with _checks.scope(function):
        return _alternate(
            key,
            *entries,
            l2,
            alpha,
            shape=shape,
            rank=rank,
            iterations=iterations,
            biases=False,
        )


@jit
@_checks.scope("predict_rating")
def predict_rating(
    model: Recommender,
    users: Integer[Array, "*#batch"] | int,
    items: Integer[Array, "*#batch"] | int,
) -> Float[Array, "*batch"]:
    r"""Score pairs of a user and an item.

    $\hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i$.

    Args:
        model: From `als` or `implicit_als`.
        users: Numbers of users; ``users[:, None]`` against a row of items gives all pairs.
        items: Numbers of items.

    Returns:
        One score a pair, NaN where an id is out of range.

    Raises:
        TypeError: If ids are not integers.
        ValueError: If users and items do not broadcast, or NumPy's hold ids too large for JAX.

    Cost:
        2 r FLOP a pair in the product, see `predict_rating_flops`.

    Examples:
        >>> one = Side(jnp.array([[1.0], [2.0]]), jnp.array([0.0, 0.5]))
        >>> model = Recommender(one, one, mean=jnp.array(3.0), ok=jnp.array(True))
        >>> print(predict_rating(model, jnp.array([0, 1, 2]), jnp.array([0, 0, 0])))
        [4.  5.5 nan]

    References:
        Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems
        (2009), equation 4.
    """
    ids = _ids("predict_rating", users=users, items=items)
    try:
        jnp.broadcast_shapes(*(x.shape for x in ids))
    except ValueError:
        raise ValueError(
            f"predict_rating: users {ids[0].shape} and items {ids[1].shape} do not broadcast; "
            "for all pairs pass users[:, None] and items."
        ) from None
    (p, b), (q, c) = map(_rows, (model.users, model.items), ids)
    wide = _checks.wide(p.dtype)
    product = jnp.einsum("...r,...r->...", p, q, preferred_element_type=wide)
    mean, b, c = (x.astype(wide) for x in (model.mean, b, c))
    return (mean + b + c + product).astype(p.dtype)


def predict_rating_flops(*, pairs: int, rank: int) -> int:
    """FLOP of the products in `predict_rating`: a multiply and an add count one each.

    Args:
        pairs: Pairs scored.
        rank: Factors of each side.

    Returns:
        2 pairs rank.
    """
    return 2 * pairs * rank


@jit(static_argnames=("k",))
@_checks.scope("recommend")
def recommend(
    model: Recommender,
    users: Integer[Array, "*batch"] | int,
    *,
    k: int,
    exclude: Integer[Array, "*batch left_out"] | None = None,
) -> TopK:
    r"""Find the items that a user would score highest.

    The k largest $\hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i$ over all items i but those
    left out; ties go to the earlier item.

    Args:
        model: From `als` or `implicit_als`.
        users: One number of a user, or several.
        k: How many items.
        exclude: Numbers of items to leave out, a row for each user: ``items[users == 7]`` is
            what user 7 has rated. Fill shorter rows up with -1.

    Returns:
        Numbers of items and their scores, best first. Where fewer than k items are left, the
        last scores are -inf; for a user out of range all are NaN, but those left out -inf.

    Raises:
        TypeError: If ids are not integers.
        ValueError: If k is not in 1..m, ``exclude`` has no row for each user, or NumPy's hold
            ids too large for JAX.

    Cost:
        2 m r FLOP a user in the product, see `recommend_flops`, and the selection.

    Examples:
        >>> one = Side(jnp.array([[1.0]]), jnp.zeros(1))
        >>> three = Side(jnp.array([[2.0], [9.0], [4.0]]), jnp.zeros(3))
        >>> model = Recommender(one, three, mean=jnp.array(0.0), ok=jnp.array(True))
        >>> print(recommend(model, 0, k=2, exclude=jnp.array([1])).indices)
        [2 0]

    References:
        Koren, Bell and Volinsky, Matrix Factorization Techniques for Recommender Systems
        (2009), equation 4.
    """
    (users,) = _ids("recommend", users=users)
    m = model.items.factors.shape[0]
    _checks.positive("recommend", k=k)
    if k > m:
        raise ValueError(f"recommend: k must be between 1 and the {m} items, got {k}.")
    p, b = _rows(model.users, users)
    wide = _checks.wide(p.dtype)
    product = jnp.einsum("...r,mr->...m", p, model.items.factors, preferred_element_type=wide)
    mean, b, c = (x.astype(wide) for x in (model.mean, b, model.items.bias))
    scores = mean + b[..., None] + c + product
    if exclude is not None:
        (exclude,) = _ids("recommend", exclude=exclude)
        if exclude.ndim == 0 or exclude.shape[:-1] != users.shape:
            raise ValueError(
                f"recommend: exclude must be {(*users.shape, 'left_out')}, one row for each of "
                f"users {users.shape}, got {exclude.shape}; fill shorter rows up with -1."
            )
        exclude = jnp.where(exclude < 0, m, exclude)  # else -1 would be the last item
        scores = jnp.put_along_axis(
            scores, exclude, -jnp.inf, axis=-1, mode="drop", inplace=False
        )
    best, indices = lax.top_k(scores, k)
    return TopK(indices, best.astype(p.dtype))


def recommend_flops(*, users: int, items: int, rank: int) -> int:
    """FLOP of the products in `recommend`: a multiply and an add count one each.

    Args:
        users: Users asked for.
        items: Items of the model.
        rank: Factors of each.

    Returns:
        2 users items rank.
    """
    return 2 * users * items * rank


class _Sorted(NamedTuple):
    """The ratings in the order of one side's rows, each row cut into runs of one length.

    Run j belongs to row ``run_row[j]``; row i has runs ``run_start[i]`` to
    ``run_start[i + 1]`` and ratings ``start[i]`` to ``start[i + 1]``.
    """

    columns: Array
    ratings: Array
    first: Array  # of the entries with this row and column
    start: Array
    run_start: Array
    run_row: Array


@jit(static_argnames=("shape", "rank", "iterations", "biases"))
def _alternate(
    key: Array,
    users: Array,
    items: Array,
    ratings: Array,
    l2: Number,
    alpha: Number | None,
    *,
    shape: tuple[int, int],
    rank: int,
    iterations: int,
    biases: bool,
) -> Recommender:
    """Both kinds of `als`; explicit where alpha is None."""
    n, m = shape
    ok = jnp.isfinite(ratings).all() & (l2 > 0) & jnp.isfinite(l2)
    if alpha is not None:
        ok &= (ratings > 0).all() & (alpha >= 0) & jnp.isfinite(alpha)
    for ids, count in ((users, n), (items, m)):
        ok &= ((ids >= 0) & (ids < count)).all()
    sweeps = partial(_sweeps, shape=shape, rank=rank, iterations=iterations, biases=biases)
    entries = users, items, ratings
    return on_each(split_of(*entries), sweeps, entries, key, l2, alpha, ok)


def _sweeps(
    axes: tuple[str, ...],
    users: Array,
    items: Array,
    ratings: Array,
    key: Array,
    l2: Array | float,
    alpha: Array | float | None,
    ok: Array,
    *,
    shape: tuple[int, int],
    rank: int,
    iterations: int,
    biases: bool,
) -> Recommender:
    """The model of ratings that may be some of all: sums over `axes` are those of all."""
    explicit = alpha is None
    dtype, wide = ratings.dtype, _checks.wide(ratings.dtype)
    n, m = shape
    users, items = (jnp.clip(x, 0, c - 1) for x, c in zip((users, items), shape, strict=True))
    users, items = users.astype(jnp.int32), items.astype(jnp.int32)
    ratings = ratings.astype(wide)
    add = partial(lax.psum, axis_name=axes)
    mean = add(ratings.sum()) / add(len(ratings)) if biases else jnp.zeros((), wide)
    first = _first(users, items, axes).astype(wide) if axes and not explicit else None
    by_user = _sort(users, items, ratings, first, n)
    by_item = _sort(items, users, ratings, first, m)
    # A side's bias is column `rank`; zeros fill up, as products like multiples of 8.
    width = 8 * (rank // 8 + 1) if biases else rank
    l2 = jnp.asarray(l2, wide)

    def against(rows: _Sorted, other: Array) -> Array:
        """One side, the other being fixed."""
        if biases:
            target = rows.ratings - mean - other[:, rank][rows.columns]
            return _solve(axes, rows, other.at[:, rank].set(1), target, None, None, l2)
        if explicit:
            return _solve(axes, rows, other, rows.ratings, None, None, l2)
        weight = jnp.asarray(alpha, wide) * rows.ratings
        unseen = jnp.einsum("ir,is->rs", other, other, precision="highest")
        return _solve(axes, rows, other, rows.first + weight, weight, unseen, l2)

    def sweep(_: Array | int, sides: tuple[Array, Array]) -> tuple[Array, Array]:
        with jax.named_scope("users"):
            user_side = against(by_user, sides[1])
        with jax.named_scope("items"):
            return user_side, against(by_item, user_side)

    drawn = jax.random.normal(key, (m, rank), wide) / math.sqrt(rank)
    begin = jnp.zeros((n, width), wide), jnp.zeros((m, width), wide).at[:, :rank].set(drawn)
    sides = lax.fori_loop(0, iterations, sweep, begin)
    *sides, mean = (x.astype(dtype) for x in (*sides, mean))
    ok &= jnp.isfinite(sides[0]).all() & jnp.isfinite(sides[1]).all()
    told = lambda x: jnp.where(ok, x, jnp.nan)
    users_side, items_side = (
        Side(told(x[:, :rank]), told(x[:, rank] if biases else jnp.zeros(len(x), dtype)))
        for x in sides
    )
    return Recommender(users_side, items_side, told(mean), ok)


def _first(users: Array, items: Array, axes: tuple[str, ...]) -> Array:
    """Whether each entry here is the first with its user and item, of all devices' entries."""
    own = len(users)
    users, items = (lax.all_gather(x, axes, tiled=True) for x in (users, items))
    place = jnp.arange(len(users), dtype=jnp.int32)
    users, items, place = lax.sort((users, items, place), num_keys=2)
    first = jnp.zeros(len(users), bool).at[place].set(_new(users, items))
    return lax.dynamic_slice_in_dim(first, lax.axis_index(axes) * own, own)


def _new(rows: Array, columns: Array) -> Array:
    """Whether each pair differs from the one before it."""
    again = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    return jnp.concatenate([jnp.ones(1, bool), ~again])


def _sort(rows: Array, columns: Array, ratings: Array, first: Array | None, n: int) -> _Sorted:
    entries = (rows, columns, ratings) if first is None else (rows, columns, ratings, first)
    rows, columns, ratings, *known = lax.sort(entries, num_keys=2)
    first = known[0] if known else _new(rows, columns).astype(ratings.dtype)
    start = jnp.searchsorted(rows, jnp.arange(n + 1, dtype=rows.dtype)).astype(jnp.int32)
    length = _plan(len(rows), n, 1).length
    runs = (jnp.diff(start) + length - 1) // length
    run_start = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(runs, dtype=jnp.int32)])
    # At most this many runs, however the ratings fall on the rows.
    run_row = jnp.repeat(
        jnp.arange(n, dtype=jnp.int32), runs, total_repeat_length=len(rows) // length + n
    )
    return _Sorted(columns, ratings, first, start, run_start, run_row)


class _Plan(NamedTuple):
    """How long a run is, how many rows are solved together, from how many runs at a time.

    No array has more than 2²¹ numbers (one row's matrix at least), whatever e and n are.
    """

    length: int
    block: int
    chunk: int


def _plan(e: int, n: int, width: int) -> _Plan:
    # Long runs make better products, short ones leave less of a row's last run empty.
    length = 2 ** min(7, max(2, round(math.log2(4 * math.sqrt(e / n)))))
    block = min(n, max(1, 2**21 // width**2))
    chunk = min(e // length + n, max(1, 2**19 // (width * max(width, length))))
    return _Plan(length, block, chunk)


def _solve(
    axes: tuple[str, ...],
    rows: _Sorted,
    other: Array,
    target: Array,
    weight: Array | None,
    base: Array | None,
    l2: Array,
) -> Array:
    r"""Least squares of every row: $(B + λ I + \sum_j w_j y_j y_j^\top) x = \sum_j t_j y_j$."""
    # Each row's matrix is summed up from runs of its ratings, then a block is solved at once.
    n, e, width = len(rows.start) - 1, len(target), other.shape[1]
    length, block, chunk = _plan(e, n, width)
    highest = partial(jnp.einsum, precision="highest")

    def solve_block(first: Array) -> Array:
        begin, end = rows.run_start[first], rows.run_start[jnp.minimum(first + block, n)]

        def add_chunk(i: Array | int, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            run = begin + i * chunk + jnp.arange(chunk, dtype=jnp.int32)
            row = rows.run_row.at[run].get(mode="clip")
            entry = rows.start[row] + (run - rows.run_start[row]) * length
            entry = entry[:, None] + jnp.arange(length, dtype=jnp.int32)
            real = (run < end)[:, None] & (entry < rows.start[row + 1][:, None])
            entry = jnp.minimum(entry, e - 1)
            y = other[rows.columns[entry]]
            w = real if weight is None else jnp.where(real, weight[entry], 0)
            t = jnp.where(real, target[entry], 0)
            gram = highest("jlr,jls->jrs", y * w[..., None].astype(y.dtype), y)
            moment = highest("jl,jlr->jr", t, y)
            place = jnp.where(run < end, row - first, block)
            add = lambda total, part: total.at[place].add(
                part, mode="drop", indices_are_sorted=True
            )
            return add(sums[0], gram), add(sums[1], moment)

        zeros = (
            jnp.zeros((block, *shape), other.dtype) for shape in ((width, width), (width,))
        )
        zeros = lax.pcast(tuple(zeros), axes, to="varying")
        turns = (end - begin + chunk - 1) // chunk
        gram, moment = lax.psum(lax.fori_loop(0, turns, add_chunk, zeros), axes)
        gram = gram if base is None else gram + base
        # Not less than rounding of the sums, in which λ is lost where they are large.
        sums = jnp.diagonal(gram, axis1=1, axis2=2)
        held = jnp.maximum(l2, 4 * width * jnp.finfo(gram.dtype).eps * sums)
        gram += held[..., None] * jnp.eye(width, dtype=gram.dtype)
        factor = lax.linalg.cholesky(gram, symmetrize_input=False)
        return jax.scipy.linalg.cho_solve((factor, True), moment[..., None])[..., 0]

    blocks = -(-n // block)
    found = lax.map(solve_block, block * jnp.arange(blocks, dtype=jnp.int32))
    return found.reshape(blocks * block, width)[:n]


def _rows(side: Side, ids: Array) -> tuple[Array, Array]:
    """Factors and bias of some rows, NaN where there is no such row."""
    there = (ids >= 0) & (ids < len(side.bias))
    factors, bias = side.factors[ids], side.bias[ids]
    return jnp.where(there[..., None], factors, jnp.nan), jnp.where(there, bias, jnp.nan)


def _known(value: object) -> bool:
    """Whether a value can be looked at: not under a transformation."""
    return not isinstance(value, jax.core.Tracer)


def _checked(
    function: str,
    key: Array,
    users: Ids,
    items: Ids,
    ratings: Array | np.ndarray,
    shape: tuple[int, int],
    rank: int,
    l2: Number,
    iterations: int,
) -> tuple[Array, Array, Array]:
    """The three arrays on the device, once everything that can be asked of them holds."""
    _checks.random_key(function, key)
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ValueError(f"{function}: shape must be (users, items), got {shape!r}.")
    _checks.positive(
        function,
        **{"shape[0]": shape[0], "shape[1]": shape[1]},
        rank=rank,
        iterations=iterations,
    )
    for name, ids in (("users", users), ("items", items)):
        if isinstance(ids, np.ndarray) and ids.dtype.kind in "OSU":
            raise TypeError(
                f"{function}: {name} must be integers, numbers of rows from 0 up, got "
                f"{ids.dtype}; np.unique(ids, return_inverse=True) numbers any ids."
            )
    ratings = jnp.asarray(ratings) if isinstance(ratings, np.ndarray) else ratings
    value = "ratings" if function == "als" else "amounts"
    _checks.floats(function, **{value: ratings})
    _checks.arrays(function, users=users, items=items)
    given = users, items
    users, items = _ids(function, users=jnp.asarray(users), items=jnp.asarray(items))
    if not users.shape == items.shape == ratings.shape or users.ndim != 1:
        raise ValueError(
            f"{function}: users {users.shape}, items {items.shape} and {value} "
            f"{ratings.shape} must be vectors of one length, an entry for each rating."
        )
    for name, ids, count in zip(("users", "items"), given, shape, strict=True):
        if (
            _known(ids)
            and not 0 <= (least := int(ids.min())) <= (most := int(ids.max())) < count
        ):
            raise ValueError(
                f"{function}: {name} must be numbers from 0 to {count - 1} for shape {shape}, "
                f"got {least if least < 0 else most}; np.unique(ids, return_inverse=True) "
                "numbers any ids."
            )
    if _known(ratings) and (bad := int(jnp.sum(~jnp.isfinite(ratings)))):
        raise ValueError(
            f"{function}: {value} must be finite, got {bad} that are not; leave missing "
            "ratings out."
        )
    _checks.number(function, l2=l2)
    if _known(l2) and not 0 < l2 < np.inf:
        raise ValueError(f"{function}: l2 must be finite and above 0, got {l2}.")
    return users, items, ratings


def _ids(function: str, **ids: Array | int) -> tuple[Array, ...]:
    """Numbers of rows, in a dtype that holds any, or a refusal."""
    for name, value in ids.items():
        if isinstance(value, list | tuple):
            raise TypeError(
                f"{function}: {name} must be one array of integers, got a "
                f"{type(value).__name__}; fill shorter rows up with -1."
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise TypeError(
                f"{function}: {name} must be integers, numbers of rows from 0 up, got "
                f"{jnp.result_type(value)}."
            )
    return tuple(_checks.row_numbers(jnp.asarray(x)) for x in ids.values())
