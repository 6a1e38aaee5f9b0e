"""What a GPT computes: tokens in, blocks, scores out; and on from a prompt, token by token."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lintoolkit import _checks
from lintoolkit._gpt2 import EPSILON
from lintoolkit.attention import attention
from lintoolkit.layers import dense, embed, layer_norm, mlp


def read(params: Mapping[str, PyTree], tokens: Array, positions: Array) -> Array:
    """The vectors of tokens at these positions."""
    tokens = _checks.row_numbers(tokens)
    vocabulary = len(params["tokens"]["embedding"])
    tokens = jnp.where(tokens < 0, vocabulary, tokens)  # else -1 would be the last
    return embed(params["tokens"], tokens) + embed(params["positions"], positions)


def block(
    params: Mapping[str, PyTree], x: Array, attend: Callable[[PyTree, Array], tuple[Array, Any]]
) -> tuple[Array, Any]:
    """One block, and what attention keeps besides, such as keys and values."""
    _checks.keys("block", params, required="attention_norm attention mlp_norm mlp")
    # A gradient makes norms and GELUs again: they cost less than to keep and read what they
    # would save, half of all that a block does.
    norm = jax.checkpoint(partial(layer_norm, epsilon=EPSILON))
    y, kept = attend(params["attention"], norm(params["attention_norm"], x))
    x += y
    normed = norm(params["mlp_norm"], x)
    return x + mlp(params["mlp"], normed, activation=_gelu), kept


_gelu = jax.checkpoint(jax.nn.gelu)


def write(params: Mapping[str, PyTree], x: Array) -> Array:
    """The score of each token of the vocabulary."""
    x = layer_norm(params["norm"], x, epsilon=EPSILON)
    return dense({"kernel": params["tokens"]["embedding"].T}, x)


def write_on(
    params: Mapping[str, PyTree],
    prompt: Array,
    length: Array,
    choose: Callable[[Array, Array], Array],
    *,
    heads: int,
    blocks: int,
    size: int,
    steps: int,
) -> tuple[Array, Array]:
    """Tokens after the first ``length`` of a prompt, and the log-probability of each."""
    # Keys and values of the past stand in arrays of `size` tokens. `choose` takes a token,
    # given log-probabilities and the number of the step.

    def split_heads(params: PyTree, x: Array) -> list[Array]:
        split = lambda y: y.reshape(*y.shape[:-1], heads, -1)
        return [split(dense(params[name], x)) for name in ("query", "key", "value")]

    def attend(params: PyTree, x: Array) -> tuple[Array, list[Array]]:
        q, k, v = split_heads(params, x)
        y = attention(q, k, v, causal=True).reshape(x.shape)
        room = [(0, 0)] * (k.ndim - 3) + [(0, size - k.shape[-3]), (0, 0), (0, 0)]
        return dense(params["out"], y), [jnp.pad(past, room) for past in (k, v)]

    def attend_past(
        params: PyTree, x: Array, *, past: list[Array], position: Array
    ) -> tuple[Array, list[Array]]:
        q, *new = split_heads(params, x)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=position, axis=-3)
        k, v = (put(old, one) for old, one in zip(past, new, strict=True))
        y = attention(q, k, v, mask=jnp.arange(size) <= position).reshape(x.shape)
        return dense(params["out"], y), [k, v]

    # Apart, or every step would cut the blocks' parameters out of the stack anew.
    apart = [jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(blocks)]

    def step(carry: tuple[Array, list], i: Array) -> tuple[tuple[Array, list], tuple]:
        logits, cache = carry
        log_probs = jax.nn.log_softmax(logits.astype(_checks.wide(logits.dtype)))
        token = choose(log_probs, i)
        likely = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
        position, after = length + i, []
        x = read(params, token[..., None], position[None])
        for block_params, past in zip(apart, cache, strict=True):
            look = partial(attend_past, past=past, position=position)
            x, past = block(block_params, x, look)
            after.append(past)
        written = token.astype(prompt.dtype), likely.astype(logits.dtype)
        return (write(params, x)[..., 0, :], after), written

    x = read(params, prompt, jnp.arange(prompt.shape[-1]))
    x, cache = jax.lax.scan(lambda x, params: block(params, x, attend), x, params["blocks"])
    last = jax.lax.dynamic_index_in_dim(x, length - 1, axis=-2, keepdims=False)
    caches = [[past[i] for past in cache] for i in range(blocks)]
    _, written = jax.lax.scan(step, (write(params, last), caches), jnp.arange(steps))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), written)
