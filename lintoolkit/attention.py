# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""Vectors that look at each other: attention weights, attention, heads.

Arrays are (..., length, heads, width), as in `jax.nn`. A mask is boolean, True where a query
may look; a query that may look nowhere gets zeros, in value and in gradient, never NaN.

Letters: t queries, s keys, h heads, d_k and d_v widths a head, d_model = h d_k.
"""

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from lintoolkit import _checks
from lintoolkit.layers import AnyKey, dense, dense_flops, init_dense


@partial(jax.jit, static_argnames=("causal", "scale"))
@jax.named_scope("attention_weights")
def attention_weights(
    q: Float[Array, "*batch t h d_k"],
    k: Float[Array, "*batch s h d_k"],
    *,
    mask: Bool[Array, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Array, "*batch h t s"]:
    r"""Weigh every key for every query: rows of non-negative numbers that sum to 1.

    $A_{ij} = \operatorname{softmax}_j(\mathrm{scale} \cdot q_i \cdot k_j)$ over the keys j
    that query i may look at; the softmax in float32 at least.

    Args:
        q: Queries.
        k: Keys.
        mask: True where a query may look; broadcasts to (..., h, t, s).
        causal: Hide the keys after each query, the last query aligned with the last key,
            so that t < s continues a sequence.
        scale: 1 / √d_k if None.

    Returns:
        The weights, in the dtype of ``q``; a row with nothing to look at is zeros.

    Raises:
        TypeError: If an operand is not floating, dtypes differ, or the mask is not boolean.
        ValueError: If the shapes do not fit.

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
    _check_operands("attention_weights", mask, q=q, k=k)
    t, s = q.shape[-3], k.shape[-3]
    scores = jnp.einsum(
        "...thd,...shd->...hts", q, k, preferred_element_type=_checks.wide(q.dtype)
    )
    scores *= 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    visible = jnp.tri(t, s, s - t, dtype=bool) if causal else None
    if mask is not None:
        visible = mask if visible is None else mask & visible
    if visible is not None:
        visible = jnp.broadcast_to(visible, scores.shape)
    return jax.nn.softmax(scores, where=visible).astype(q.dtype)


@partial(jax.jit, static_argnames=("causal", "scale"))
@jax.named_scope("attention")
def attention(
    q: Float[Array, "*batch t h d_k"],
    k: Float[Array, "*batch s h d_k"],
    v: Float[Array, "*batch s h d_v"],
    *,
    mask: Bool[Array, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Array, "*batch t h d_v"]:
    r"""Average the values by how well their keys match each query.

    $y_i = \sum_j A_{ij} v_j$ with the $A$ of `attention_weights`, head by head.

    Args:
        q: Queries.
        k: Keys.
        v: Values, one a key; their width may differ.
        mask: True where a query may look; broadcasts to (..., h, t, s).
        causal: Hide the keys after each query, the last query aligned with the last key.
        scale: 1 / √d_k if None.

    Returns:
        One average a query and head, in the dtype of ``q``.

    Raises:
        TypeError: If an operand is not floating, dtypes differ, or the mask is not boolean.
        ValueError: If the shapes do not fit.

    Cost:
        2 t s h (d_k + d_v) FLOP in the two products, see `attention_flops`; t s h numbers
        stored.

    Examples:
        >>> q, v = jnp.zeros((2, 1, 3)), jnp.array([2.0, 4.0]).reshape(2, 1, 1)
        >>> print(attention(q, q, v, causal=True).ravel())
        [2. 3.]

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.1, arXiv:1706.03762.
    """
    _check_operands("attention", mask, q=q, k=k, v=v)
    weights = attention_weights(q, k, mask=mask, causal=causal, scale=scale)
    wide = _checks.wide(v.dtype)
    return jnp.einsum("...hts,...shd->...thd", weights, v, preferred_element_type=wide).astype(
        v.dtype
    )


def attention_flops(*, t: int, s: int, h: int, d_k: int, d_v: int) -> int:
    """FLOP of the two products of one `attention`, for one item of a batch.

    Masked pairs are computed, so they count. The softmax comes on top.

    Args:
        t: Queries.
        s: Keys.
        h: Heads.
        d_k: Width of queries and keys.
        d_v: Width of values.

    Returns:
        2 t s h (d_k + d_v).
    """
    return 2 * t * s * h * (d_k + d_v)


@partial(jax.jit, static_argnames=("d_model", "heads", "bias", "dtype"))
@jax.named_scope("init_multi_head")
def init_multi_head(
    key: AnyKey,
    d_model: int,
    heads: int,
    *,
    bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, dict[str, Float[Array, "..."]]]:
    """Draw the parameters of multi-head attention.

    Four square dense layers, one each for queries, keys, values and the output; the heads
    share the columns of the first three out among them.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        d_model: Width of the vectors.
        heads: Divides ``d_model``. The parameters do not depend on it.
        bias: Whether the layers have biases.
        dtype: Of the parameters.

    Returns:
        `dense` parameters under "query", "key", "value" and "out".

    Raises:
        TypeError: If ``key`` is not one key, or ``dtype`` is not floating.
        ValueError: If ``heads`` does not divide ``d_model`` or is below 1.

    Cost:
        4 d_model² draws; no products.

    Examples:
        >>> params = init_multi_head(jax.random.key(0), 6, 2)
        >>> params["query"]["kernel"].shape
        (6, 6)

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.2.2, arXiv:1706.03762.
    """
    _checks.random_key("init_multi_head", key)
    _check_heads("init_multi_head", d_model, heads)
    names = ("query", "key", "value", "out")
    layer_keys = jax.random.split(key, len(names))
    return {
        name: init_dense(k, d_model, d_model, bias=bias, dtype=dtype)
        for name, k in zip(names, layer_keys, strict=True)
    }


@partial(jax.jit, static_argnames=("heads", "causal"))
@jax.named_scope("multi_head_attention")
def multi_head_attention(
    params: Mapping[str, Mapping[str, Float[Array, "..."]]],
    x: Float[Array, "*batch t d_model"],
    *,
    heads: int,
    mask: Bool[Array, "..."] | None = None,
    causal: bool = False,
) -> Float[Array, "*batch t d_model"]:
    r"""Let the vectors of a sequence look at each other, in several subspaces at once.

    $y = [\,\mathrm{attention}(x W_q^i, x W_k^i, x W_v^i)\,]_{i=1}^{h}\, W_o$, each head i
    with its own d_model / h columns of the three kernels.

    Args:
        params: What `init_multi_head` returns.
        x: A sequence of rows; leading axes ride along.
        heads: Divides d_model.
        mask: True where a query may look; broadcasts to (..., heads, t, t).
        causal: Hide the later rows from each row.

    Returns:
        One row a row of ``x``, in its dtype.

    Raises:
        TypeError: If an operand is not floating or the mask is not boolean.
        ValueError: If the shapes do not fit, or ``heads`` does not divide d_model.

    Cost:
        8 t d_model² + 4 t² d_model FLOP in products, whatever the number of heads, see
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
    _check_heads("multi_head_attention", x.shape[-1], heads)

    def split(name: str) -> Array:
        y = dense(params[name], x)
        _check_heads("multi_head_attention", y.shape[-1], heads)
        return y.reshape(*y.shape[:-1], heads, -1)

    y = attention(split("query"), split("key"), split("value"), mask=mask, causal=causal)
    return dense(params["out"], y.reshape(*y.shape[:-2], -1))


def multi_head_attention_flops(*, t: int, d_model: int) -> int:
    """FLOP of the products of one `multi_head_attention` without biases.

    Args:
        t: Rows of the sequence.
        d_model: Their width.

    Returns:
        8 t d_model² for the four layers and 4 t² d_model for the attention.
    """
    layers = 4 * dense_flops(n=t, d_in=d_model, d_out=d_model, bias=False)
    return layers + attention_flops(t=t, s=t, h=1, d_k=d_model, d_v=d_model)


def _check_operands(function: str, mask: Array | None, **operands: Array) -> None:
    _checks.floats(function, **operands)
    _checks.same_dtype(function, **operands)
    q, k, v = operands["q"], operands["k"], operands.get("v", operands["k"])
    got = ", ".join(f"{name} {x.shape}" for name, x in operands.items())
    if min(q.ndim, k.ndim, v.ndim) < 3:
        raise ValueError(
            f"{function}: operands must be (..., length, heads, width), got {got}; "
            "one head is x[:, None, :]."
        )
    if q.shape[:-3] != k.shape[:-3] or q.shape[-2:] != k.shape[-2:]:
        raise ValueError(
            f"{function}: q and k must agree in batch, heads and width, all axes but the "
            f"length, got {got}."
        )
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"{function}: k and v must agree in all axes but the width: one value a key, "
            f"got {got}."
        )
    if mask is not None:
        _check_mask(function, mask, (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3]))


def _check_mask(function: str, mask: Array, shape: tuple[int, ...]) -> None:
    _checks.arrays(function, mask=mask)
    if mask.dtype != bool:
        raise TypeError(
            f"{function}: mask must be boolean, True where a query may look, got "
            f"{mask.dtype}; pass mask != 0."
        )
    pairs = zip(reversed(mask.shape), reversed(shape), strict=False)
    if mask.ndim > len(shape) or any(m not in (1, n) for m, n in pairs):
        raise ValueError(
            f"{function}: mask of shape {mask.shape} does not broadcast to (..., h, t, s) = "
            f"{shape}; a mask by item is (n, 1, 1, s)."
        )


def _check_heads(function: str, d_model: int, heads: int) -> None:
    _checks.positive(function, d_model=d_model, heads=heads)
    if d_model % heads:
        raise ValueError(
            f"{function}: heads must divide the width, got {heads} heads for {d_model}; the "
            f"width must be a multiple of heads."
        )
