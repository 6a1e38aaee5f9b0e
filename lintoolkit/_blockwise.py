r"""Attention a block of queries at a time: exact, in memory linear in the length.

Arrays have the axes (b, n, g, t, s): batch, heads of keys, query heads to each, queries, keys;
an axis 1 long serves all. Each block of queries makes its scores against the keys it may see,
uses them and drops them; a gradient makes them again, on CPUs from each row's largest score and
sum, which are saved. Nothing here has a derivative of its own, so all of JAX's work.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from lintoolkit import _checks

# Measured on two CPU cores: products run at full speed from some 256 rows on, and two heads at
# a time, one for each core, do best unless they are short. Elsewhere a block has to fill the
# device: as many items, heads and rows at a time as make so many scores.
BLOCK_ROWS, BLOCK_NUMBERS, SHORT, WIDE_BLOCK_NUMBERS = 256, 2**19, 2048, 2**26

Reach = int | float  # keys, or math.inf


class Rows(NamedTuple):
    """What a block of queries brings, with an axis of queries or 1 there."""

    q: Array  # (b, n, g, t, d)
    at: Array  # number of the key that each query is aligned with, (1, 1, 1, t, 1)
    segments: Array | None
    bias: Array | None
    mask: Array | None


class Keys(NamedTuple):
    """What all queries of a head look at."""

    k: Array  # (b, n, 1, d, s), and v alike: so no product has to transpose a table
    v: Array
    segments: Array | None
    lengths: Array | None
    slopes: Array | None


class Options(NamedTuple):
    """What is known while tracing."""

    scale: float
    softcap: float | None
    left: Reach  # how far back and ahead of itself a query sees
    right: Reach
    visible: Callable[[Array, Array], Array] | None  # of the numbers of queries and keys


class Bucket(NamedTuple):
    """Queries start to stop, in blocks of so many rows, and the keys low to high they see."""

    start: int
    stop: int
    rows: int
    low: int
    high: int


def plan(t: int, s: int, left: Reach, right: Reach) -> list[Bucket]:
    """Cut the queries into buckets, each with the keys that some query of it sees."""
    whole = left >= s + t and right >= s + t
    # Each bucket is compiled, and XLA holds a block of each at once: few where blocks weigh.
    most, buckets = BLOCK_ROWS, 4 if s <= SHORT or not _on_cpu() else 8
    if whole:
        most, buckets = BLOCK_ROWS if s > SHORT else 2 * BLOCK_ROWS, 1
    rows = math.ceil(t / math.ceil(t / most))
    per_bucket = rows * math.ceil(t / rows / buckets)
    # Rows that fill no block come last, in a bucket of their own.
    starts = sorted({*range(0, t, per_bucket), t - t % rows} - {t})
    clip = lambda key: int(min(max(key, 0), s))
    return [
        Bucket(a, b, min(rows, b - a), clip(a + s - t - left), clip(b + s - t + right))
        for a, b in zip(starts, [*starts[1:], t], strict=True)
    ]


def pairs(t: int, s: int, left: Reach, right: Reach) -> int:
    """How many pairs of a query and a key are computed."""
    return sum((b.stop - b.start) * (b.high - b.low) for b in plan(t, s, left, right))


def attend(rows: Rows, keys: Keys, options: Options) -> Array:
    """Average the values for all queries, (b, n, g, t, d_v)."""
    (b, *sizes), s = rows.q.shape, keys.k.shape[-1]
    if not all(isinstance(size, int) for size in (*sizes, s)):
        raise ValueError(
            "attention: an exported program may leave open how long leading axes are, and "
            f"nothing else, got {sizes[2]} queries and {s} keys; pad them, and pass lengths."
        )
    n, devices = sizes[0], _checks.devices(rows.q)
    room = devices * (BLOCK_NUMBERS if _on_cpu() else WIDE_BLOCK_NUMBERS)
    # Scores that fit in one block are kept for the gradient; making them again costs more.
    known = isinstance(b, int)
    kept = known and math.prod(rows.q.shape[:4]) * s <= room

    def one(operands: tuple[Rows, Keys], room: int) -> Array:
        return _attend(*operands, options, kept=kept, room=room)

    if devices == 1:
        each = functools.partial(one, room=room)
        return each((rows, keys)) if known else _loop(each, 0, 1, (rows, keys))
    # Batch and heads may be sharded, and to merge the two or loop over one would gather them.
    all_at_once = functools.partial(one, room=room // (b * n if known else n))
    heads_at_once = functools.partial(_mapped, all_at_once, 1)
    if known:
        return _mapped(heads_at_once, 0, (rows, keys))
    return _loop(heads_at_once, 0, 1, (rows, keys))


def _attend(rows: Rows, keys: Keys, options: Options, *, kept: bool, room: int) -> Array:
    b, n, g, t, _ = rows.q.shape
    s = keys.k.shape[-1]
    buckets = plan(t, s, options.left, options.right)
    most = max(bucket.rows for bucket in buckets)
    if _on_cpu():
        heads = _share(n, BLOCK_NUMBERS // (g * most * s), least=2)
        items = _share(b, BLOCK_NUMBERS // (n * g * t * s), least=2 // n) if heads == n else 1
        times = 1
    else:
        blocks = room // (g * most * s)
        heads = _share(n, blocks)
        items = _share(b, blocks // n) if heads == n else 1
        times = max(blocks // (heads * items), 1)

    def all_rows(operands: tuple[Rows, Keys]) -> Array:
        rows, keys = operands
        shape, parts = rows.q.shape[:3], []
        for start, stop, block, low, high in buckets:
            if low == high:
                parts.append(jnp.zeros((*shape, stop - start, keys.v.shape[3]), rows.q.dtype))
                continue
            here = _cut(rows, 3, start, stop)
            tables = {
                name: _cut(getattr(here, name), 4, low, high) for name in ("bias", "mask")
            }
            one: Callable = functools.partial(
                _block, keys=_cut(keys, 4, low, high), first=low, options=options
            )
            if not kept:
                one = jax.checkpoint(one, policy=_saved)
            block *= _share((stop - start) // block, times)
            parts.append(_loop(one, 3, block, here._replace(**tables)))
        return jnp.concatenate(parts, axis=3)

    one_share = lambda operands: _loop(all_rows, 1, heads, operands)
    return _loop(one_share, 0, items, (rows, keys))


def weights(rows: Rows, keys: Keys, options: Options) -> Array:
    """The whole table of weights, (b, n, g, t, s)."""
    odds, total = _odds(*_scores(rows, keys, 0, options))
    return (odds / _unless_zero(total)).reshape(*rows.q.shape[:-1], -1)


_ROW = "lintoolkit.attention.row"
_save = functools.partial(checkpoint_name, name=_ROW)
_saved = jax.checkpoint_policies.save_only_these_names(_ROW)


def _block(rows: Rows, *, keys: Keys, first: int, options: Options) -> Array:
    dtype = rows.q.dtype
    scores, visible = _scores(rows, keys, first, options)

    def average(odds: Array) -> Array:
        v = keys.v.reshape(-1, *keys.v.shape[-2:])
        wide = _checks.wide(dtype)
        return jnp.einsum("brs,bds->brd", odds.astype(dtype), v, preferred_element_type=wide)

    if _on_cpu():  # fewer passes over the scores: what is divided are the averages
        odds, total = _odds(scores, visible)
        y = _save(average(odds) / _unless_zero(total))
    elif visible is None:
        y = average(jax.nn.softmax(scores))
    else:
        # XLA:GPU knows a softmax, and passes over the scores once, if no row is without weight.
        low = jnp.finfo(scores.dtype).min
        weights = jax.nn.softmax(jnp.where(visible, jnp.maximum(scores, low / 2), low))
        seen = jnp.atleast_1d(visible).any(axis=-1, keepdims=True)
        y = jnp.where(seen, average(weights), 0)
    return y.astype(dtype).reshape(*rows.q.shape[:-1], -1)


def _scores(rows: Rows, keys: Keys, first: int, options: Options) -> tuple[Array, Array | None]:
    """Score the keys from number ``first`` on, (b n, g t, s); which of them a query may see."""
    # XLA:CPU fuses passes over three axes; over five it copies the table between them.
    b, n, g, t, d = rows.q.shape
    wide = _checks.wide(rows.q.dtype)

    def flat(x: Array) -> Array:
        some, rows = (set(axes) != {1} for axes in (x.shape[:2], x.shape[2:4]))
        lead, middle = (b, n) if some else (1, 1), (g, t) if rows else (1, 1)
        x = jnp.broadcast_to(x, (*lead, *middle, x.shape[-1]))
        return x.reshape(math.prod(lead), math.prod(middle), -1)

    q, k = rows.q.reshape(b * n, g * t, d), keys.k.reshape(b * n, d, -1)
    s = jnp.einsum("brd,bds->brs", q, k, preferred_element_type=wide) * options.scale
    number = first + jnp.arange(s.shape[-1], dtype=rows.at.dtype)
    behind = flat(rows.at) - number
    if options.softcap is not None:
        s = options.softcap * jnp.tanh(s / options.softcap)
    if rows.bias is not None:
        bias = flat(rows.bias).astype(wide)
        s += bias
    if keys.slopes is not None:
        s -= flat(keys.slopes).astype(wide) * jnp.abs(behind).astype(wide)
    visible = [] if rows.bias is None or _on_cpu() else [bias != -jnp.inf]
    if options.right < math.inf:
        visible.append(behind >= -options.right)
    if options.left < math.inf:
        visible.append(behind <= options.left)
    if rows.mask is not None:
        visible.append(flat(rows.mask))
    if options.visible is not None:
        visible.append(options.visible(flat(rows.at), number))
    if rows.segments is not None and keys.segments is not None:
        visible.append(flat(rows.segments) == flat(keys.segments))
    if keys.lengths is not None:
        visible.append(number < flat(keys.lengths.astype(number.dtype)))
    return s, functools.reduce(jnp.logical_and, visible) if visible else None


def _odds(scores: Array, visible: Array | None) -> tuple[Array, Array]:
    """Weights before they are divided by the sum of their row, and that sum."""
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    peak = scores.max(axis=-1, keepdims=True)
    # It changes no result, so it has no gradient; where nothing is seen it is anything finite.
    peak = _save(jax.lax.stop_gradient(jnp.where(peak == -jnp.inf, 0, peak)))
    odds = jnp.exp(scores - peak)
    return odds, _save(odds.sum(axis=-1, keepdims=True))


def _unless_zero(total: Array) -> Array:
    return jnp.where(total == 0, 1, total)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _share(count: int, most: int, least: int = 1) -> int:
    """How many of ``count`` to take at a time: a divisor of it, within bounds."""
    most = max(most, least, 1)
    return max(c for c in range(1, min(count, most) + 1) if count % c == 0)


def _cut(operands: Any, axis: int, start: int, stop: int) -> Any:
    """Slice an axis of all operands; what is 1 long there serves every slice."""
    return jax.tree.map(
        lambda x: x if x.shape[axis] == 1 else jax.lax.slice_in_dim(x, start, stop, axis=axis),
        operands,
    )


def _mapped(f: Callable, axis: int, operands: Any) -> Array:
    """Map over an axis at once; what is 1 long there serves every slice."""
    leaves, tree = jax.tree.flatten(operands)
    moves = [axis if x.shape[axis] > 1 else None for x in leaves]
    if not any(move is not None for move in moves):
        return f(operands)

    def one(*leaves: Array) -> Array:
        here = [
            x if move is None else jnp.expand_dims(x, axis)
            for x, move in zip(leaves, moves, strict=True)
        ]
        return f(jax.tree.unflatten(tree, here)).squeeze(axis)

    return jax.vmap(one, moves, axis)(*leaves)


def _loop(f: Callable, axis: int, size: int, operands: Any) -> Array:
    """Map over slices of an axis, ``size`` at a time; what is 1 long there serves every one."""
    leaves, tree = jax.tree.flatten(operands)
    moves = [x.shape[axis] != 1 for x in leaves]
    # Not the largest: what an exported program leaves open has no order.
    count = next((x.shape[axis] for x, m in zip(leaves, moves, strict=True) if m), 1) // size
    if count == 1:
        return f(operands)

    def cut(x: Array) -> Array:
        split = x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(split, axis, 0)

    def step(moving: list[Array]) -> Array:
        now = iter(moving)
        here = [next(now) if m else x for m, x in zip(moves, leaves, strict=True)]
        return f(jax.tree.unflatten(tree, here))

    y = jax.lax.map(step, [cut(x) for m, x in zip(moves, leaves, strict=True) if m])
    y = jnp.moveaxis(y, 0, axis)
    return y.reshape(*y.shape[:axis], count * size, *y.shape[axis + 2 :])
