# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""Vectors that look at each other: attention weights, exact attention, heads, rotations.

Arrays are (..., length, heads, width), as in `jax.nn`; a head of keys and values may serve
several heads of queries. A mask is boolean, True where a query may look; a query that may look
nowhere gets zeros, in value and in gradient, never NaN.

Letters: t queries, s keys, h heads, n heads of keys, d_k and d_v widths a head,
d_model = h d_k.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from lintoolkit import _blockwise, _checks, _cudnn
from lintoolkit._jit import jit
from lintoolkit.layers import AnyKey, dense, dense_flops, init_dense

__all__ = [
    "attention_weights", "attention", "attention_flops", "rope", "init_multi_head",
    "multi_head_attention", "multi_head_attention_flops",
]  # fmt: skip
__dir__ = lambda: __all__

_STATIC = ("causal", "window", "scale", "softcap")
_Same = TypeVar("_Same", bound=Callable)


Mask = Bool[Array, "..."] | Callable[[Array, Array], Array]


def _prepared(*, length_axis: int) -> Callable[[_Same], _Same]:
    # Known lengths are checked against the second operand's; a function is made an operand.

    def ready(name: str, second_name: str, *operands: Any, **options: Any) -> dict[str, Any]:
        mask, lengths = options.get("mask"), options.get("lengths")
        if callable(mask) and not isinstance(mask, jax.tree_util.Partial):
            options["mask"] = jax.tree_util.Partial(mask)  # no operand: part of the program
        known = lengths is not None and not isinstance(lengths, jax.core.Tracer)
        second: Any = operands[1] if len(operands) > 1 else options.get(second_name)
        if known and np.ndim(second) >= -length_axis:
            _check_known_lengths(name, np.asarray(lengths), np.shape(second)[length_axis])
        return options

    def decorate(fn: _Same) -> _Same:
        jitted: Any = fn
        second_name = list(inspect.signature(fn).parameters)[1]
        jitted.prepare = partial(ready, jitted.__name__, second_name)
        return fn

    return decorate


@_prepared(length_axis=-3)
@jit(static_argnames=_STATIC)
@_checks.scope("attention_weights")
def attention_weights(
    q: Float[Array, "*batch t h d_k"],
    k: Float[Array, "*batch s n d_k"],
    *,
    bias: Float[Array, "..."] | None = None,
    mask: Mask | None = None,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    segment_ids: Integer[Array, "*batch t"] | None = None,
    kv_segment_ids: Integer[Array, "*batch s"] | None = None,
    lengths: Integer[Array, "*batch"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: Float[Array, " h"] | None = None,
) -> Float[Array, "*batch h t s"]:
    r"""Weigh every key for every query: rows of non-negative numbers that sum to 1.

    $A_{ij} = \operatorname{softmax}_j(s_{ij})$ over the keys j that query i may look at, with
    $s_{ij} = \mathrm{scale} \cdot q_i \cdot k_j + \mathrm{bias}_{ij}$; the softmax in float32
    at least. For looking: `attention` never holds this table.

    Args:
        q: Queries.
        k: Keys; where n divides h, each head of keys serves h / n successive heads of queries.
        bias: Added to the scores; broadcasts to (..., h, t, s).
        mask: True where a query may look: an array that broadcasts to (..., h, t, s), or a
            function of the numbers of a query and a key, `lambda i, j: i // 64 == j // 64`.
        causal: Hide the keys after each query, the last query aligned with the last key,
            so that t < s continues a sequence.
        window: Hide the keys further than this from each query's own, or (before, after).
        segment_ids: A query looks at keys of its own segment alone.
        kv_segment_ids: Of the keys, if they are not the queries'.
        lengths: How many keys of each sequence are real; the rest are hidden.
        scale: 1 / √d_k if None.
        softcap: Squash the products: softcap · tanh(scale q · k / softcap).
        alibi: Slopes, one a head: lower the scores by slope · distance.

    Returns:
        The weights, in the dtype of ``q``; a row with nothing to look at is zeros.

    Raises:
        TypeError: If an operand, mask or other array has the wrong dtype.
        ValueError: If shapes do not fit, n does not divide h, or a size is out of range.

    Cost:
        2 t s h d_k FLOP in the product; t s h numbers stored.

    Examples:
        >>> q = jnp.zeros((2, 1, 3))
        >>> print(attention_weights(q, q, causal=True)[0])
        [[1.  0. ]
         [0.5 0.5]]

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.1, arXiv:1706.03762.
    """
    rows, keys, options = _operands(
        "attention_weights",
        bias=bias,
        mask=mask,
        causal=causal,
        window=window,
        segment_ids=segment_ids,
        kv_segment_ids=kv_segment_ids,
        lengths=lengths,
        scale=scale,
        softcap=softcap,
        alibi=alibi,
        q=q,
        k=k,
    )
    table = _blockwise.weights(rows, keys, options)
    return table.reshape(*q.shape[:-3], q.shape[-2], *table.shape[-2:]).astype(q.dtype)


@_prepared(length_axis=-3)
@jit(static_argnames=_STATIC)
@_checks.scope("attention")
def attention(
    q: Float[Array, "*batch t h d_k"],
    k: Float[Array, "*batch s n d_k"],
    v: Float[Array, "*batch s n d_v"],
    *,
    bias: Float[Array, "..."] | None = None,
    mask: Mask | None = None,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
    segment_ids: Integer[Array, "*batch t"] | None = None,
    kv_segment_ids: Integer[Array, "*batch s"] | None = None,
    lengths: Integer[Array, "*batch"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: Float[Array, " h"] | None = None,
) -> Float[Array, "*batch t h d_v"]:
    r"""Average the values by how well their keys match each query.

    $y_i = \sum_j A_{ij} v_j$ with the $A$ of `attention_weights`, head by head, exactly, but
    the weights exist for a block of queries at a time: memory grows with t + s, not t s, in
    every derivative of first order too; off the CPU a block of 2²⁶ scores comes on top, for
    each item of a `jax.vmap`. On a machine with an NVIDIA GPU, half precision of even lengths
    without options other than causal and scale is cuDNN's where the program runs on CUDA. A
    program of `jax.export` may leave the length of leading axes open; items then go one by one.

    Args:
        q: Queries.
        k: Keys; where n divides h, each head of keys serves h / n successive heads of queries.
        v: Values, one a key; their width may differ.
        bias: Added to the scores; broadcasts to (..., h, t, s).
        mask: True where a query may look: an array that broadcasts to (..., h, t, s), or a
            function of the numbers of a query and a key, `lambda i, j: i // 64 == j // 64`.
        causal: Hide the keys after each query, the last query aligned with the last key.
        window: Hide the keys further than this from each query's own, or (before, after).
        segment_ids: A query looks at keys of its own segment alone.
        kv_segment_ids: Of the keys, if they are not the queries'.
        lengths: How many keys of each sequence are real; the rest are hidden.
        scale: 1 / √d_k if None.
        softcap: Squash the products: softcap · tanh(scale q · k / softcap).
        alibi: Slopes, one a head: lower the scores by slope · distance.

    Returns:
        One average a query and head, in the dtype of ``q``.

    Raises:
        TypeError: If an operand, mask or other array has the wrong dtype.
        ValueError: If shapes do not fit, n does not divide h, or a size is out of range.

    Cost:
        2 t s h (d_k + d_v) FLOP in the two products, down to about half of it where causal
        and t is long, see `attention_flops`; the gradient five products to these two.

    Examples:
        >>> q, v = jnp.zeros((2, 1, 3)), jnp.array([2.0, 4.0]).reshape(2, 1, 1)
        >>> print(attention(q, q, v, causal=True).ravel())
        [2. 3.]

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.1, arXiv:1706.03762;
        Rabe and Staats, Self-attention Does Not Need O(n²) Memory (2021), section 2,
        arXiv:2112.05682.
    """

    def ours(q: Array, k: Array, v: Array) -> Array:
        rows, keys, options = _operands(
            "attention",
            bias=bias,
            mask=mask,
            causal=causal,
            window=window,
            segment_ids=segment_ids,
            kv_segment_ids=kv_segment_ids,
            lengths=lengths,
            scale=scale,
            softcap=softcap,
            alibi=alibi,
            q=q,
            k=k,
            v=v,
        )
        y = jnp.moveaxis(_blockwise.attend(rows, keys, options), 3, 1)
        return y.reshape(*q.shape[:-1], v.shape[-1])

    others = (bias, mask, window, segment_ids, kv_segment_ids, lengths, softcap, alibi)
    if all(x is None for x in others) and _cudnn.applies(q, k, v, causal=causal):
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        return _cudnn.attend(ours, q, k, v, causal=causal, scale=scale)
    return ours(q, k, v)


def attention_flops(
    *,
    t: int,
    s: int,
    h: int,
    d_k: int,
    d_v: int,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
) -> int:
    """FLOP of the two products of one `attention`, for one item of a batch.

    What the program computes counts: pairs that causality or a window hides do so too, but
    for the spans of keys that no query of a bucket of them can see, which are left out.
    The softmax comes on top. Where cuDNN computes, no hidden pair counts.

    Args:
        t: Queries.
        s: Keys.
        h: Heads.
        d_k: Width of queries and keys.
        d_v: Width of values.
        causal: As of `attention`.
        window: As of `attention`.

    Returns:
        2 t s h (d_k + d_v); with causality or a window, from 257 queries on, t s is the
        number of pairs in the spans that are computed.

    Raises:
        ValueError: If ``t``, ``s`` or ``h`` is below 1, or ``window`` is none.
    """
    _checks.positive("attention_flops", t=t, s=s, h=h)
    return 2 * _blockwise.pairs(t, s, *_reach(causal, window)) * h * (d_k + d_v)


@jit(static_argnames=("base",))
@_checks.scope("rope")
def rope(
    x: Float[Array, "*batch t h d"],
    positions: Integer[Array, "*#batch t"] | None = None,
    *,
    base: float = 10000.0,
) -> Float[Array, "*batch t h d"]:
    r"""Rotate queries or keys by their positions, so that their products know distances.

    $(y_i, y_{i + d/2}) = R(p\, \mathrm{base}^{-2i/d})\, (x_i, x_{i + d/2})$ with $R(\theta)$
    the rotation by θ and p the position: $y_p \cdot y_r$ depends on p - r alone. The halves are
    paired, as in Llama and GPT-NeoX; angles in float32 at least.

    Args:
        x: Queries or keys, of even width.
        positions: One a row; 0, 1, ... if None.
        base: The longest wavelength is nearly 2π base.

    Returns:
        The rotated vectors, in the dtype of ``x``.

    Raises:
        TypeError: If ``x`` is not floating or ``positions`` are not integers.
        ValueError: If the width is odd, ``positions`` do not fit the rows of ``x``, or ``base``
            is not above 0.

    Cost:
        t d / 2 sines and cosines, and 3 t h d FLOP to rotate.

    Examples:
        >>> x = jnp.ones((3, 1, 2))
        >>> print(rope(x, jnp.array([0, 1, 2]))[:, 0].round(2))
        [[ 1.    1.  ]
         [-0.3   1.38]
         [-1.33  0.49]]

    References:
        Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021),
        section 3.2.2, arXiv:2104.09864.
    """
    _checks.floats("rope", x=x)
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(
            f"rope: x must be (..., length, heads, width) with an even width, got {x.shape}."
        )
    if not base > 0:
        raise ValueError(f"rope: base must be above 0, got {base!r}; 10000.0 is usual.")
    if positions is None:
        positions = jnp.arange(x.shape[-3])
    _check_whole("rope", positions=positions)
    _check_broadcast("rope", "positions", positions, x.shape[:-2], "(..., t)")
    wide = _checks.wide(x.dtype)
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=wide) / half)
    angles = positions[..., None, None].astype(wide) * frequencies
    a, b = jnp.split(x.astype(wide), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


@jit(static_argnames=("d_model", "heads", "kv_heads", "bias", "dtype"))
@_checks.scope("init_multi_head")
def init_multi_head(
    key: AnyKey,
    d_model: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, dict[str, Float[Array, "..."]]]:
    """Draw the parameters of multi-head attention.

    Four dense layers, one each for queries, keys, values and the output; the heads share the
    columns of the first three out among them. All are square, but those of keys and values are
    d_kv = d_model kv_heads / heads wide.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        d_model: Width of the vectors.
        heads: Divides ``d_model``.
        kv_heads: Heads of keys and values, a divisor of ``heads``, which is the default.
        bias: Whether the layers have biases.
        dtype: Of the parameters.

    Returns:
        `dense` parameters under "query", "key", "value" and "out".

    Raises:
        TypeError: If ``key`` is not one key, or ``dtype`` is not floating.
        ValueError: If ``heads`` does not divide ``d_model``, ``kv_heads`` not ``heads``, or
            either is below 1.

    Cost:
        2 d_model² (1 + kv_heads / heads) draws; no products.

    Examples:
        >>> params = init_multi_head(jax.random.key(0), 6, 2)
        >>> params["query"]["kernel"].shape
        (6, 6)

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.2, arXiv:1706.03762.
    """
    _checks.random_key("init_multi_head", key)
    _checks.heads("init_multi_head", d_model, heads)
    kv_heads = heads if kv_heads is None else kv_heads
    _checks.positive("init_multi_head", kv_heads=kv_heads)
    if heads % kv_heads:
        raise ValueError(f"init_multi_head: kv_heads {kv_heads} must divide heads {heads}.")
    narrow = d_model // heads * kv_heads
    widths = {"query": d_model, "key": narrow, "value": narrow, "out": d_model}
    layer_keys = jax.random.split(key, len(widths))
    return {
        name: init_dense(k, d_model, width, bias=bias, dtype=dtype)
        for (name, width), k in zip(widths.items(), layer_keys, strict=True)
    }


@_prepared(length_axis=-2)
@jit(static_argnames=("heads", "rope_base", *_STATIC))
@_checks.scope("multi_head_attention")
def multi_head_attention(
    params: Mapping[str, Mapping[str, Float[Array, "..."]]],
    x: Float[Array, "*batch t d_model"],
    *,
    heads: int,
    rope_base: float | None = None,
    **options: Any,
) -> Float[Array, "*batch t d_model"]:
    r"""Let the vectors of a sequence look at each other, in several subspaces at once.

    $y = [\,\mathrm{attention}(x W_q^i, x W_k^i, x W_v^i)\,]_{i=1}^{h}\, W_o$, each head i
    with its own d_model / h columns of the three kernels. Where the kernels of keys and values
    are narrower, each of their heads serves several of the queries'.

    Args:
        params: What `init_multi_head` returns.
        x: A sequence of rows; leading axes ride along.
        heads: Of the queries; divides d_model.
        rope_base: Rotates queries and keys by their positions, see `rope`; not if None.
        options: Those of `attention`: causal, mask, window and the others.

    Returns:
        One row a row of ``x``, in its dtype.

    Raises:
        TypeError: If an operand is not floating or the mask is not boolean.
        ValueError: If the shapes do not fit, or ``heads`` does not divide d_model.

    Cost:
        8 t d_model² + 4 t² d_model FLOP in products, whatever the number of heads, less
        with narrower keys and values and where `attention` skips hidden pairs, see
        `multi_head_attention_flops`.

    Examples:
        >>> eye = {"kernel": jnp.eye(2)}
        >>> params = {"query": {"kernel": 0 * jnp.eye(2)}, "key": eye, "value": eye, "out": eye}
        >>> x = jnp.array([[1.0, 2.0], [3.0, 6.0]])
        >>> print(multi_head_attention(params, x, heads=2, causal=True))
        [[1. 2.]
         [2. 4.]]

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.2, arXiv:1706.03762.
    """
    _checks.keys("multi_head_attention", params, required="query key value out")
    _checks.floats("multi_head_attention", x=x)
    if x.ndim < 2:
        raise ValueError(f"multi_head_attention: x must be (..., t, d_model), got {x.shape}.")
    _checks.heads("multi_head_attention", x.shape[-1], heads)
    q, k, v = (dense(params[name], x) for name in ("query", "key", "value"))
    _checks.heads("multi_head_attention", q.shape[-1], heads)
    q = q.reshape(*q.shape[:-1], heads, -1)
    if k.shape[-1] % q.shape[-1]:
        raise ValueError(
            f"multi_head_attention: keys {k.shape[-1]} wide are no whole number of heads as "
            f"wide as the queries', {q.shape[-1]}; see kv_heads of init_multi_head."
        )
    kv_heads = k.shape[-1] // q.shape[-1]
    _checks.heads("multi_head_attention", v.shape[-1], kv_heads)
    k, v = (y.reshape(*y.shape[:-1], kv_heads, -1) for y in (k, v))
    if rope_base is not None:
        q, k = rope(q, base=rope_base), rope(k, base=rope_base)
    y = attention(q, k, v, **options)
    return dense(params["out"], y.reshape(*y.shape[:-2], -1))


def multi_head_attention_flops(
    *,
    t: int,
    d_model: int,
    d_kv: int | None = None,
    causal: bool = False,
    window: int | tuple[int, int] | None = None,
) -> int:
    """FLOP of the products of one `multi_head_attention` without biases.

    Args:
        t: Rows of the sequence.
        d_model: Their width.
        d_kv: Columns of the kernels of keys and of values, d_model if None.
        causal: As of `attention`.
        window: As of `attention`.

    Returns:
        4 t d_model (d_model + d_kv) for the four layers and 4 t² d_model for the attention,
        which is less with causality or a window from 257 rows on, see `attention_flops`.
    """
    widths = 2 * d_model + 2 * (d_model if d_kv is None else d_kv)
    return dense_flops(n=t, d_in=d_model, d_out=widths, bias=False) + attention_flops(
        t=t, s=t, h=1, d_k=d_model, d_v=d_model, causal=causal, window=window
    )


def _operands(
    function: str,
    *,
    bias: Array | None,
    mask: Mask | None,
    causal: bool,
    window: int | tuple[int, int] | None,
    segment_ids: Array | None,
    kv_segment_ids: Array | None,
    lengths: Array | None,
    scale: float | None,
    softcap: float | None,
    alibi: Array | None,
    **operands: Array,
) -> tuple[_blockwise.Rows, _blockwise.Keys, _blockwise.Options]:
    """Check everything, and give every array the axes (b, n, g, t, s)."""
    _check_operands(function, **operands)
    q, k, v = operands["q"], operands["k"], operands.get("v", operands["k"])
    (*batch, t, h, _), (s, n) = q.shape, k.shape[-3:-1]
    table = (*batch, h, t, s)
    visible = None
    if callable(mask):
        visible, mask = partial(_visible, function, mask), None
    if mask is not None:
        _check_mask(function, mask)
        _check_broadcast(function, "mask", mask, table, "(..., h, t, s)")
    if bias is not None:
        _checks.floats(function, bias=bias)
        _check_broadcast(function, "bias", bias, table, "(..., h, t, s)")
    if alibi is not None:
        _checks.floats(function, alibi=alibi)
        if alibi.shape != (h,):
            raise ValueError(
                f"{function}: alibi must hold one slope a head, ({h},), got {alibi.shape}."
            )
        alibi = alibi.reshape(1, n, h // n, 1, 1)
    if kv_segment_ids is None:
        kv_segment_ids = segment_ids
    elif segment_ids is None:
        raise ValueError(f"{function}: kv_segment_ids without segment_ids; pass both.")
    for name, ids, shape in (
        ("segment_ids", segment_ids, (*batch, t)),
        ("kv_segment_ids", kv_segment_ids, (*batch, s)),
        ("lengths", lengths, tuple(batch)),
    ):
        if ids is not None:
            _check_whole(function, **{name: ids})
            if ids.shape != shape:
                raise ValueError(
                    f"{function}: {name} must have shape {shape}, got {ids.shape}; "
                    "(..., t) for queries, (..., s) for keys, (...) for lengths."
                )
    if segment_ids is not None and kv_segment_ids is not None:
        _checks.same_dtype(function, segment_ids=segment_ids, kv_segment_ids=kv_segment_ids)
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{function}: softcap must be above 0, got {softcap}.")
    b = math.prod(batch)

    def aligned(x: Array | None) -> Array | None:
        # To five axes, keeping what is 1 long; the batch's axes become one.
        if x is None:
            return None
        x = x.reshape((1,) * (len(table) - x.ndim) + x.shape)
        if math.prod(x.shape[:-3]) != 1:
            x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
        heads = (n, h // n) if x.shape[-3] > 1 else (1, 1)
        return x.reshape(-1, *heads, *x.shape[-2:])

    last = lambda x, *shape: x if x is None else x.reshape(b, 1, 1, *shape)
    feature_rows = lambda x: jnp.moveaxis(x.reshape(b, s, n, 1, -1), 1, -1)
    rows = _blockwise.Rows(
        q=jnp.moveaxis(q.reshape(b, t, n, h // n, -1), 1, 3),
        at=jnp.arange(s - t, s, dtype=jnp.int32)[:, None][None, None, None],
        segments=last(segment_ids, t, 1),
        bias=aligned(bias),
        mask=aligned(mask),
    )
    keys = _blockwise.Keys(
        k=feature_rows(k),
        v=feature_rows(v),
        segments=last(kv_segment_ids, 1, s),
        lengths=last(lengths, 1, 1),
        slopes=alibi,
    )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    reach = _reach(causal, window, function)
    return rows, keys, _blockwise.Options(scale, softcap, *reach, visible)


def _reach(
    causal: bool, window: int | tuple[int, int] | None, function: str = "attention_flops"
) -> tuple[_blockwise.Reach, _blockwise.Reach]:
    """How many keys before and after its own a query sees."""
    if window is None:
        return math.inf, 0 if causal else math.inf
    two = window if isinstance(window, tuple) else (window, window)
    if len(two) != 2 or not all(isinstance(x, int | np.integer) and x >= 0 for x in two):
        raise ValueError(
            f"{function}: window must be a whole number of keys from 0 up, or two, (before, "
            f"after), got {window!r}."
        )
    return two[0], 0 if causal else two[1]


def _check_operands(function: str, **operands: Array) -> None:
    _checks.floats(function, **operands)
    _checks.same_dtype(function, **operands)
    q, k, v = operands["q"], operands["k"], operands.get("v", operands["k"])
    got = ", ".join(f"{name} {x.shape}" for name, x in operands.items())
    if min(q.ndim, k.ndim, v.ndim) < 3:
        raise ValueError(
            f"{function}: operands must be (..., length, heads, width), got {got}; "
            "one head is x[:, None, :]."
        )
    if q.shape[:-3] != k.shape[:-3] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"{function}: q and k must agree in batch and width, all axes but length and "
            f"heads, got {got}."
        )
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(
            f"{function}: the heads of k must divide those of q, each serving equally many, "
            f"got {k.shape[-2]} for {q.shape[-2]}."
        )
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"{function}: k and v must agree in all axes but the width: one value a key, "
            f"got {got}."
        )


def _check_mask(function: str, mask: Array) -> None:
    _checks.arrays(function, mask=mask)
    if mask.dtype != bool:
        raise TypeError(
            f"{function}: mask must be boolean, True where a query may look, got "
            f"{mask.dtype}; pass mask != 0."
        )


def _visible(function: str, mask: Callable[[Array, Array], Array], i: Array, j: Array) -> Array:
    seen = mask(i, j)
    shape = jnp.broadcast_shapes(i.shape, j.shape)
    is_array = isinstance(seen, jax.Array)
    if not is_array or seen.dtype != bool or seen.ndim > len(shape):
        got = jax.typeof(seen) if is_array else type(seen).__name__
        raise TypeError(
            f"{function}: mask, a function of the numbers of queries and keys, must give "
            f"booleans for them, of shape {shape}, got {got}."
        )
    _check_broadcast(function, "what mask gives", seen, shape, "(h t, s)")
    return seen


def _check_broadcast(
    function: str, name: str, x: Array, shape: tuple[Any, ...], axes: str
) -> None:
    if x.ndim > len(shape):
        raise ValueError(
            f"{function}: {name} of shape {x.shape} does not broadcast to {axes} = {shape}: "
            f"it has {x.ndim} axes, and at most {len(shape)} are wanted."
        )
    for axis in range(-x.ndim, 0):
        if x.shape[axis] not in (1, shape[axis]):
            raise ValueError(
                f"{function}: {name} of shape {x.shape} does not broadcast to {axes} = "
                f"{shape}: its axis {axis} must be 1 or {shape[axis]} long, got "
                f"{x.shape[axis]}."
            )


def _check_whole(function: str, **arguments: Array) -> None:
    _checks.arrays(function, **arguments)
    for name, x in arguments.items():
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise TypeError(f"{function}: {name} must be integers, got {x.dtype}.")


def _check_known_lengths(function: str, lengths: np.ndarray, s: int) -> None:
    if lengths.dtype.kind in "iu" and not ((lengths >= 0) & (lengths <= s)).all():
        raise ValueError(
            f"{function}: lengths must be from 0 to the {s} keys, got {lengths.min()} to "
            f"{lengths.max()}."
        )
