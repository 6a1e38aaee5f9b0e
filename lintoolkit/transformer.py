# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""Blocks of attention and MLP: a GPT that trains, writes and reads GPT-2's files, and a ViT.

A block adds to each vector what attention and then an MLP make of it, each on normed input
(pre-norm, GPT-2's order). The parameters of all blocks are stacked on a leading axis and run
under one `jax.lax.scan`, so that compilation takes as long for twelve blocks as for one.
Arithmetic runs in the dtype of the parameters; norms and softmax in float32 at least.

Letters: n sequences, t tokens, v vocabulary, d_model width, h heads.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, PyTree

from lintoolkit import _blocks, _checks, _gpt2
from lintoolkit._files import tensors_file, write
from lintoolkit._gpt2 import EPSILON
from lintoolkit._jit import jit
from lintoolkit.attention import (
    init_multi_head,
    multi_head_attention,
    multi_head_attention_flops,
)
from lintoolkit.layers import (
    AnyKey,
    dense,
    dense_flops,
    init_dense,
    init_mlp,
    layer_norm,
    mlp_flops,
    patches,
)

__all__ = [
    "GPTConfig", "ViTConfig", "Part", "Generation", "Pretrained", "init_block", "block",
    "block_flops", "init_gpt", "shard_gpt", "gpt", "gpt_flops", "gpt_parts", "generate",
    "truncate_logits", "load_gpt2", "save_gpt2", "init_vit", "vit", "vit_flops",
]  # fmt: skip
__dir__ = lambda: __all__

TABLE_SCALE = 0.02  # GPT-2's standard deviation of fresh token and position vectors
BUCKET = 16  # tokens that any prompt is padded to at least


@flax.struct.dataclass
class GPTConfig:
    """The shape of a GPT; the defaults are GPT-2 small's.

    Attributes:
        vocabulary: Tokens.
        context: Positions, the longest sequence.
        blocks: Transformer blocks.
        heads: Heads a block; divides ``width``.
        width: Of the vectors, d_model; the MLPs are four times as wide.
    """

    vocabulary: int = flax.struct.field(default=50257, pytree_node=False)
    context: int = flax.struct.field(default=1024, pytree_node=False)
    blocks: int = flax.struct.field(default=12, pytree_node=False)
    heads: int = flax.struct.field(default=12, pytree_node=False)
    width: int = flax.struct.field(default=768, pytree_node=False)


@flax.struct.dataclass
class ViTConfig:
    """The shape of a vision transformer; the defaults are ViT-B/16's.

    Attributes:
        image: Height, width and channels of the images.
        patch: Side of a patch in pixels; divides height and width.
        classes: Scores a ViT gives.
        blocks: Transformer blocks.
        heads: Heads a block; divides ``width``.
        width: Of the vectors, d_model; the MLPs are four times as wide.
    """

    image: tuple[int, int, int] = flax.struct.field(default=(224, 224, 3), pytree_node=False)
    patch: int = flax.struct.field(default=16, pytree_node=False)
    classes: int = flax.struct.field(default=1000, pytree_node=False)
    blocks: int = flax.struct.field(default=12, pytree_node=False)
    heads: int = flax.struct.field(default=12, pytree_node=False)
    width: int = flax.struct.field(default=768, pytree_node=False)


class Part(NamedTuple):
    """What one kind of part has in all blocks: numbers to learn, FLOP of its products."""

    parameters: int
    flops: int


class Generation(NamedTuple):
    """What `generate` wrote: tokens, and the log-probability of each under the model."""

    tokens: Integer[Array, "*batch steps"]
    log_probs: Float[Array, "*batch steps"]


export.register_namedtuple_serialization(
    Generation, serialized_name="lintoolkit.transformer.Generation"
)


class Pretrained(NamedTuple):
    """A GPT from a file: its parameters and its shape."""

    params: dict[str, PyTree]
    config: GPTConfig


@jit(static_argnames=("d_model", "heads", "depth", "dtype"))
@_checks.scope("init_block")
def init_block(
    key: AnyKey,
    d_model: int,
    heads: int,
    *,
    depth: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, PyTree]:
    r"""Draw the parameters of one transformer block.

    Layers as `init_multi_head` and `init_mlp` with widths d, 4 d, d draw them; the two
    kernels whose output is added to the vectors are divided by $\sqrt{2 L}$ with L = ``depth``,
    so that a stack of L blocks keeps the size of its vectors.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        d_model: Width of the vectors.
        heads: Divides ``d_model``. The parameters do not depend on it.
        depth: Blocks in the stack that this one is for.
        dtype: Of the parameters.

    Returns:
        Parameters under "attention_norm", "attention", "mlp_norm" and "mlp".

    Raises:
        TypeError: If ``key`` is not one key, or ``dtype`` is not floating.
        ValueError: If ``heads`` does not divide ``d_model``, or a size is below 1.

    Cost:
        12 d_model² draws; no products.

    Examples:
        >>> params = init_block(jax.random.key(0), 6, 2)
        >>> sum(leaf.size for leaf in jax.tree.leaves(params)) == 12 * 6**2 + 13 * 6
        True

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    _checks.random_key("init_block", key)
    _checks.positive("init_block", depth=depth)
    _checks.heads("init_block", d_model, heads)
    for_attention, for_mlp = jax.random.split(key)
    into = init_multi_head(for_attention, d_model, heads, bias=True, dtype=dtype)
    first, second = init_mlp(for_mlp, (d_model, 4 * d_model, d_model), dtype=dtype)
    for layer in (into["out"], second):
        layer["kernel"] /= math.sqrt(2 * depth)
    return {
        "attention_norm": _init_norm(d_model, dtype),
        "attention": into,
        "mlp_norm": _init_norm(d_model, dtype),
        "mlp": (first, second),
    }


@jit(static_argnames=("heads", "causal"))
@_checks.scope("block")
def block(
    params: Mapping[str, PyTree],
    x: Float[Array, "*batch t d_model"],
    *,
    heads: int,
    causal: bool = False,
) -> Float[Array, "*batch t d_model"]:
    r"""Apply one pre-norm transformer block.

    $y = x + \mathrm{attention}(\mathrm{norm}(x))$, and then
    $z = y + W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}(y))$, with the tanh form of the GELU.

    Args:
        params: What `init_block` returns.
        x: A sequence of rows; leading axes ride along.
        heads: Divides d_model.
        causal: Hide the later rows from each row.

    Returns:
        One row a row of ``x``, in its dtype.

    Raises:
        TypeError: If an operand is not floating.
        ValueError: If the shapes do not fit, or keys are missing or unknown.

    Cost:
        24 t d_model² FLOP in the layers and the attention's, see `block_flops`.

    Examples:
        >>> params = init_block(jax.random.key(0), 6, 2)
        >>> block(params, jnp.ones((5, 6)), heads=2, causal=True).shape
        (5, 6)

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    attend = partial(multi_head_attention, heads=heads, causal=causal)
    return _blocks.block(params, x, lambda params, x: (attend(params, x), None))[0]


def block_flops(*, t: int, d_model: int, causal: bool = False) -> int:
    """FLOP of the products of one `block` on one sequence.

    Args:
        t: Rows of the sequence.
        d_model: Their width.
        causal: As of `block`.

    Returns:
        `multi_head_attention_flops`, and 16 t d_model² for the MLP.
    """
    widths = (d_model, 4 * d_model, d_model)
    attending = multi_head_attention_flops(t=t, d_model=d_model, causal=causal)
    return attending + mlp_flops(n=t, widths=widths, bias=False)


@jit(static_argnames=("config", "dtype"))
@_checks.scope("init_gpt")
def init_gpt(
    key: AnyKey, config: GPTConfig, *, dtype: DTypeLike = jnp.float32
) -> dict[str, PyTree]:
    r"""Draw the parameters of a GPT.

    Token and position vectors are $\mathcal{N}(0, 0.02^2)$; each block is an `init_block` of
    its own key, stacked on a leading axis. The token table maps back to scores too, so there
    is no output layer.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        config: The shape.
        dtype: Of the parameters.

    Returns:
        Parameters under "tokens", "positions", "blocks" and "norm".

    Raises:
        TypeError: If ``key`` is not one key, ``config`` not a `GPTConfig`, or ``dtype`` not
            floating.
        ValueError: If heads do not divide the width, or a size is below 1.

    Cost:
        One draw a number of the tables and kernels; no products.

    Examples:
        >>> shapes = jax.eval_shape(lambda key: init_gpt(key, GPTConfig()), jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))  # GPT-2 small
        124439808

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    _checks.random_key("init_gpt", key)
    _check_config("init_gpt", config, GPTConfig)
    _checks.float_dtype("init_gpt", dtype)
    normal = jax.nn.initializers.normal(TABLE_SCALE)
    for_tokens, for_positions, for_blocks = jax.random.split(key, 3)
    return {
        "tokens": {"embedding": normal(for_tokens, (config.vocabulary, config.width), dtype)},
        "positions": {
            "embedding": normal(for_positions, (config.context, config.width), dtype)
        },
        "blocks": _init_blocks(for_blocks, config, dtype),
        "norm": _init_norm(config.width, dtype),
    }


def shard_gpt(
    params: Mapping[str, PyTree],
    mesh: jax.sharding.Mesh,
    *,
    config: GPTConfig,
    axis: str = "model",
) -> dict[str, PyTree]:
    r"""Lay out the parameters of a GPT on a mesh, heads and hidden units apart.

    Each device along ``axis`` holds some heads and some hidden units: columns of the query, key
    and value kernels and of the MLP's first, rows of those that follow. As $x W_1 W_2 = \sum_j
    x W_1^{(j)} W_2^{(j)}$, there is one sum over the axis after the attention and one after the
    MLP, and as many again in a backward pass; nothing is gathered. All else lies on every
    device. `lintoolkit.train.fit_in_chunks` keeps this layout; with batches sharded over
    another axis, that is data and tensor parallel training.

    On a mesh of explicit axes, set by `jax.set_mesh`, wrap the loss:
    ``jax.sharding.auto_axes(loss, out_sharding=PartitionSpec())``.

    Args:
        params: What `init_gpt` or `load_gpt2` returns.
        mesh: One that has ``axis``.
        config: The shape that ``params`` have.
        axis: The mesh's axis to split heads and hidden units over.

    Returns:
        The same parameters, in their new places.

    Raises:
        TypeError: If ``config`` is not a `GPTConfig`.
        ValueError: If the mesh has no such axis, its size does not divide the heads, or
            parameters are missing or have another shape.

    Cost:
        Moving each device's share there.

    Examples:
        >>> config = GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
        >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> params = shard_gpt(init_gpt(jax.random.key(0), config), mesh, config=config)
        >>> tuple(params["blocks"]["mlp"][1]["kernel"].sharding.spec)
        (None, 'model', None)

    References:
        Shoeybi et al., Megatron-LM: Training Multi-Billion Parameter Language Models Using
        Model Parallelism (2019), section 3, arXiv:1909.08053.
    """
    _check_config("shard_gpt", config, GPTConfig)
    _check_params("shard_gpt", params, config)
    if axis not in mesh.shape:
        raise ValueError(
            f"shard_gpt: axis must be one of the mesh's, {mesh.axis_names}, got {axis!r}."
        )
    if config.heads % mesh.shape[axis]:
        raise ValueError(
            f"shard_gpt: the mesh's axis {axis!r} has {mesh.shape[axis]} devices, which do not "
            f"divide {config.heads} heads."
        )
    columns = {"kernel": PartitionSpec(None, None, axis), "bias": PartitionSpec(None, axis)}
    rows = {"kernel": PartitionSpec(None, axis, None)}
    split: dict[tuple, Any] = {
        ("attention", name): columns for name in ("query", "key", "value")
    }
    split |= {("attention", "out"): rows, ("mlp", 0): columns, ("mlp", 1): rows}

    def place(path: tuple[Any, ...], leaf: Array) -> Array:
        first, *layer, name = (getattr(key, "key", getattr(key, "idx", "")) for key in path)
        where = split.get(tuple(layer), {}) if first == "blocks" else {}
        spec = where.get(name, PartitionSpec())
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map_with_path(place, params)


def gpt(
    params: Mapping[str, PyTree],
    tokens: Integer[Array, "*batch t"],
    *,
    config: GPTConfig,
    remat: bool = False,
) -> Float[Array, "*batch t v"]:
    r"""Score every token of the vocabulary as the next one, at every position.

    $x = E_{\mathrm{tokens}} + P_{0 \ldots t-1}$, then the blocks, each causal, then
    $\mathrm{logits} = \mathrm{norm}(x)\, E^\top$: the token table E reads and writes.

    Args:
        params: What `init_gpt` or `load_gpt2` returns.
        tokens: Numbers of tokens; leading axes ride along. Outside the vocabulary they are
            refused where their values are known; under jit they make their sequence NaN.
        config: The shape that ``params`` have.
        remat: Recompute each block in the backward pass instead of keeping what is inside.

    Returns:
        The scores before the softmax, in the dtype of the parameters.

    Raises:
        TypeError: If the tokens are not integers, or ``config`` is not a `GPTConfig`.
        ValueError: If a token is not in the vocabulary, there are more than ``context``, or
            parameters are missing or have another shape.

    Cost:
        One `block_flops` a block and 2 t d_model v for the scores, see `gpt_flops`.

    Examples:
        >>> config = GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
        >>> params = init_gpt(jax.random.key(0), config)
        >>> gpt(params, jnp.array([3, 1, 4]), config=config).shape
        (3, 11)

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    _check_config("gpt", config, GPTConfig)
    _check_tokens("gpt", tokens, config)
    return _gpt(params, tokens, config=config, remat=remat)


@jit(static_argnames=("config", "remat"))
@_checks.scope("gpt")
def _gpt(
    params: Mapping[str, PyTree], tokens: Array, *, config: GPTConfig, remat: bool
) -> Array:
    _check_params("gpt", params, config)
    x = _blocks.read(params, tokens, jnp.arange(tokens.shape[-1]))
    x = _run(params["blocks"], x, heads=config.heads, causal=True, remat=remat)
    return _blocks.write(params, x)


def gpt_flops(*, config: GPTConfig, n: int, t: int) -> int:
    """FLOP of the products of one `gpt`, the sum of `gpt_parts`.

    Args:
        config: The shape.
        n: Sequences.
        t: Tokens a sequence.

    Returns:
        n times blocks causal `block_flops` and the scores' 2 t d_model v.
    """
    return sum(part.flops for part in gpt_parts(config, n=n, t=t).values())


def gpt_parts(config: GPTConfig, *, n: int = 1, t: int | None = None) -> dict[str, Part]:
    """Tell which parts of a GPT hold its parameters, and which do its work.

    A table with a line a kind of part, all blocks together; its columns are, for width d,
    parameters = v d, context d, L (4 d² + 4 d), L (8 d² + 5 d), (4 L + 2) d and 0, and FLOP of
    products as in `gpt_flops`.

    Args:
        config: The shape.
        n: Sequences.
        t: Tokens a sequence; the whole context if None.

    Returns:
        Parameters and FLOP of "tokens", "positions", "attention", "mlp", "norms" and "head".

    Raises:
        TypeError: If ``config`` is not a `GPTConfig`.
        ValueError: If ``n`` or ``t`` is below 1.

    Cost:
        Whole-number arithmetic on the host.

    Examples:
        >>> parts = gpt_parts(GPTConfig())
        >>> sum(part.parameters for part in parts.values())
        124439808
        >>> parts["mlp"]
        Part(parameters=56669184, flops=115964116992)

    References:
        Kaplan et al., Scaling Laws for Neural Language Models (2020), section 2.1,
        arXiv:2001.08361.
    """
    _check_config("gpt_parts", config, GPTConfig)
    t = config.context if t is None else t
    _checks.positive("gpt_parts", n=n, t=t)
    d, many = config.width, config.blocks
    attending = multi_head_attention_flops(t=t, d_model=d, causal=True)
    mapping = mlp_flops(n=t, widths=(d, 4 * d, d), bias=False)
    scoring = dense_flops(n=n * t, d_in=d, d_out=config.vocabulary, bias=False)
    return {
        "tokens": Part(config.vocabulary * d, 0),
        "positions": Part(config.context * d, 0),
        "attention": Part(many * (4 * d**2 + 4 * d), many * n * attending),
        "mlp": Part(many * (8 * d**2 + 5 * d), many * n * mapping),
        "norms": Part((4 * many + 2) * d, 0),
        "head": Part(0, scoring),
    }


def generate(
    key: AnyKey,
    params: Mapping[str, PyTree],
    prompt: Integer[Array, "*batch t"],
    *,
    config: GPTConfig,
    steps: int,
    temperature: Float[Array, ""] | float | int = 1.0,
    top_k: int | None = None,
    top_p: Float[Array, ""] | float | None = None,
) -> Generation:
    r"""Write on from a prompt, one token after the other.

    Each token is drawn with $p = \mathrm{softmax}(\mathrm{logits} / \tau)$, truncated, from the
    last logits that `gpt` gives on all before it, at the temperature τ. Keys and values of the
    past are kept in arrays of fixed length, so that a step costs one token's work, and all
    steps are one `jax.lax.scan`. The prompt is padded to a power of two, 16 at least: one
    compilation serves all lengths up to it.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        params: What `init_gpt` or `load_gpt2` returns.
        prompt: Numbers of tokens, at least one; leading axes ride along.
        config: The shape that ``params`` have.
        steps: Tokens to write.
        temperature: Below 1 sharpens the choice; 0 takes the likeliest and ignores the rest.
        top_k: As in `truncate_logits`.
        top_p: As in `truncate_logits`, after ``top_k``, at this temperature.

    Returns:
        The tokens written, without the prompt, and the log-probability that `gpt` gives each
        (before temperature and truncation), in the dtype of the parameters.

    Raises:
        TypeError: If ``key`` is not one key, the tokens are not integers, or ``config`` is not
            a `GPTConfig`.
        ValueError: If a token is not in the vocabulary, prompt and steps exceed the context,
            an option is out of its range, or parameters are missing or have another shape.

    Cost:
        `gpt_flops` of the padded prompt, but for the scores, which only its last token needs;
        and about two FLOP a parameter a token.

    Examples:
        >>> config = GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
        >>> params = init_gpt(jax.random.key(0), config)
        >>> prompt, key = jnp.array([3, 1]), jax.random.key(1)
        >>> generate(key, params, prompt, config=config, steps=4).tokens.shape
        (4,)

    References:
        Holtzman et al., The Curious Case of Neural Text Degeneration (2020), section 3,
        arXiv:1904.09751.
    """
    _checks.random_key("generate", key)
    _check_config("generate", config, GPTConfig)
    _check_tokens("generate", prompt, config)
    prompt = _checks.row_numbers(prompt)  # what is written has their dtype
    _checks.positive("generate", steps=steps)
    t = prompt.shape[-1]
    if t + steps > config.context:
        raise ValueError(
            f"generate: prompt and steps must fit the context, {config.context}, got {t} + "
            f"{steps}; take the prompt's end, prompt[..., -n:], or fewer steps."
        )
    _checks.number("generate", temperature=temperature)
    known = not isinstance(temperature, jax.core.Tracer)
    if known and not temperature >= 0:
        raise ValueError(f"generate: temperature must be at least 0, got {temperature!r}.")
    _check_truncation("generate", config.vocabulary, top_k, top_p)
    bucket = min(config.context, max(BUCKET, 1 << (t - 1).bit_length()))
    padded = jnp.pad(prompt, [(0, 0)] * (prompt.ndim - 1) + [(0, bucket - t)])
    heat = None if known and temperature == 0 else temperature
    return _generate(
        key,
        params,
        padded,
        jnp.asarray(t),
        heat,
        top_p,
        config=config,
        steps=steps,
        top_k=top_k,
    )


@jit(static_argnames=("config", "steps", "top_k"))
@_checks.scope("generate")
def _generate(
    key: Array,
    params: Mapping[str, PyTree],
    prompt: Array,
    length: Array,
    temperature: Array | float | None,
    top_p: Array | float | None,
    *,
    config: GPTConfig,
    steps: int,
    top_k: int | None,
) -> Generation:
    _check_params("generate", params, config)
    size = min(prompt.shape[-1] + steps, config.context)

    def choose(log_probs: Array, i: Array) -> Array:
        likeliest = log_probs.argmax(axis=-1)
        if temperature is None:
            return likeliest
        heat = jnp.asarray(temperature).astype(log_probs.dtype)
        cold = heat < jnp.finfo(heat.dtype).tiny
        # Below the largest, so that it stays 0 however the others overflow.
        below = log_probs - log_probs.max(axis=-1, keepdims=True)
        kept = truncate_logits(below / jnp.where(cold, 1, heat), top_k=top_k, top_p=top_p)
        drawn = jax.random.categorical(jax.random.fold_in(key, i), kept)
        return jnp.where(cold, likeliest, drawn)

    written = _blocks.write_on(
        params,
        prompt,
        length,
        choose,
        heads=config.heads,
        blocks=config.blocks,
        size=size,
        steps=steps,
    )
    return Generation(*written)


def truncate_logits(
    logits: Float[Array, "*batch v"],
    *,
    top_k: int | None = None,
    top_p: Float[Array, ""] | float | None = None,
) -> Float[Array, "*batch v"]:
    r"""Leave the likely tokens their scores and set the others to minus infinity.

    First the ``top_k`` largest stay; of these, in falling order, those before which the
    probabilities sum to less than ``top_p``: $\sum_{j<i} p_j < \mathrm{top\_p}$, with
    $p = \mathrm{softmax}(\mathrm{logits})$, the smallest set that holds top_p of the whole.
    The likeliest always stays, and whatever ties with the last that does.

    Args:
        logits: Scores before the softmax; leading axes ride along.
        top_k: How many stay; all if None.
        top_p: What probability stays at least, above 0 and up to 1; all if None.

    Returns:
        The scores, some of them minus infinity, in their dtype.

    Raises:
        TypeError: If the logits are not floating.
        ValueError: If ``top_k`` is not in 1..v, or ``top_p`` not above 0 and up to 1.

    Cost:
        A sort of each row; no products.

    Examples:
        >>> logits = jnp.log(jnp.array([0.125, 0.5, 0.25, 0.125]))
        >>> print(jnp.exp(truncate_logits(logits, top_k=2)))
        [0.   0.5  0.25 0.  ]
        >>> print(jnp.exp(truncate_logits(logits, top_p=0.5)))
        [0.  0.5 0.  0. ]

    References:
        Holtzman et al., The Curious Case of Neural Text Degeneration (2020), section 3,
        arXiv:1904.09751.
    """
    _checks.floats("truncate_logits", logits=logits)
    if not logits.ndim:
        raise ValueError("truncate_logits: logits must be (..., v), got one number.")
    _check_truncation("truncate_logits", logits.shape[-1], top_k, top_p)
    return _truncate_logits(logits, top_p, top_k=top_k)


@jit(static_argnames=("top_k",))
@_checks.scope("truncate_logits")
def _truncate_logits(logits: Array, top_p: Array | float | None, *, top_k: int | None) -> Array:
    if top_k is not None:
        last = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if top_p is not None:
        rising = jnp.sort(logits)
        chances = jax.nn.softmax(rising.astype(_checks.wide(logits.dtype)))
        # Sums from the least likely up: those from the top are 1 before the end is reached.
        stays = (chances.cumsum(axis=-1) > 1 - top_p) | (top_p >= 1)
        last = jnp.where(stays, rising, rising[..., -1:]).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


def load_gpt2(path: str | os.PathLike, *, heads: int | None = None) -> Pretrained:
    r"""Read a GPT from a safetensors file with GPT-2's names.

    ``h.3.mlp.c_fc.weight``, of shape (d, 4 d) as in GPT-2's files, becomes row 3 of
    params["blocks"]["mlp"][0]["kernel"], and so on; ``attn.c_attn`` holds queries, keys and
    values side by side. The prefix ``transformer.`` may stand before each name.

    Args:
        path: The file, or a folder with a ``model.safetensors``.
        heads: Heads a block. The tensors do not tell: if None, the file's own metadata do, as
            `save_gpt2` writes them, or the ``config.json`` beside it, as transformers does.

    Returns:
        Parameters in the dtype of the file, but for float64 where JAX has no numbers of 64 bits
        (``jax_enable_x64``), which comes in float32; and the shape that they have.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If tensors are not of one floating dtype.
        ValueError: If the file is corrupt or cut short, a tensor is missing, unknown or of
            another shape, ``heads`` is no whole number from 1 up or nothing tells them, or the
            ``config.json`` describes a network that GPT-2 is not or one of other sizes. Nothing
            is returned then.

    Cost:
        One read of the file.

    Examples:
        >>> import tempfile
        >>> config = GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
        >>> params = init_gpt(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gpt2(f"{folder}/model.safetensors", params, config=config)
        ...     load_gpt2(folder).config == config
        True

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    if heads is not None:
        _checks.positive("load_gpt2", heads=heads)
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    tensors, sizes = _gpt2.read(path, heads)
    config = GPTConfig(**sizes)
    shapes = jax.eval_shape(lambda key: init_gpt(key, config), jax.random.key(0))
    return Pretrained(_gpt2.params_of(path, tensors, shapes), config)


def save_gpt2(
    path: str | os.PathLike, params: Mapping[str, PyTree], *, config: GPTConfig
) -> None:
    r"""Write a GPT to a safetensors file with GPT-2's names.

    The inverse of `load_gpt2`: row i of each stacked parameter becomes a tensor under
    ``h.i.``, and c_attn.weight = [query, key, value] side by side. Whoever opens the file sees
    the old one or the whole new one; with a ``config.json`` beside it, transformers reads it.

    Args:
        path: The file, replaced if it exists, or a folder, for a ``model.safetensors`` in it.
        params: What `init_gpt` returns.
        config: The shape that ``params`` have; its heads go into the file's metadata.

    Raises:
        TypeError: If parameters are not of one floating dtype of 16 bits or more, or ``config``
            is not a `GPTConfig`.
        ValueError: If parameters are missing or have another shape.

    Cost:
        One write of the file.

    Examples:
        >>> import safetensors, tempfile
        >>> config = GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
        >>> params = init_gpt(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gpt2(f"{folder}/a", params, config=config)
        ...     with safetensors.safe_open(f"{folder}/a", framework="numpy") as file:
        ...         file.get_slice("h.1.attn.c_attn.weight").get_shape()
        [6, 18]

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners (2019),
        section 2.3.
    """
    _check_config("save_gpt2", config, GPTConfig)
    _check_params("save_gpt2", params, config)
    _gpt2.check_dtypes("save_gpt2", params=params)
    described = {"format": "pt", "n_head": str(config.heads)}
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    write({path: tensors_file(_gpt2.tensors_of(params), described)})


@jit(static_argnames=("config", "dtype"))
@_checks.scope("init_vit")
def init_vit(
    key: AnyKey, config: ViTConfig, *, dtype: DTypeLike = jnp.float32
) -> dict[str, PyTree]:
    r"""Draw the parameters of a vision transformer.

    Dense layers from patches to vectors and from vectors to classes, position vectors
    $\mathcal{N}(0, 0.02^2)$, and blocks as in `init_gpt`; one position a patch, n = (h / patch)
    (w / patch).

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        config: The shape.
        dtype: Of the parameters.

    Returns:
        Parameters under "patches", "positions", "blocks", "norm" and "head".

    Raises:
        TypeError: If ``key`` is not one key, ``config`` not a `ViTConfig`, or ``dtype`` not
            floating.
        ValueError: If heads do not divide the width, patches the image, a size is below 1, or
            the image's are not three.

    Cost:
        One draw a number of the table and kernels; no products.

    Examples:
        >>> config = ViTConfig(image=(4, 6, 3), patch=2, classes=5, blocks=2, heads=2, width=8)
        >>> init_vit(jax.random.key(0), config)["patches"]["kernel"].shape
        (12, 8)

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words (2021), section 3.1,
        arXiv:2010.11929.
    """
    _checks.random_key("init_vit", key)
    _check_config("init_vit", config, ViTConfig)
    h, w, c = config.image
    for_patches, for_positions, for_blocks, for_head = jax.random.split(key, 4)
    normal = jax.nn.initializers.normal(TABLE_SCALE)
    length = (h // config.patch) * (w // config.patch)
    d_in = config.patch**2 * c
    return {
        "patches": init_dense(for_patches, d_in, config.width, dtype=dtype),
        "positions": {"embedding": normal(for_positions, (length, config.width), dtype)},
        "blocks": _init_blocks(for_blocks, config, dtype),
        "norm": _init_norm(config.width, dtype),
        "head": init_dense(for_head, config.width, config.classes, dtype=dtype),
    }


@jit(static_argnames=("config", "remat"))
@_checks.scope("vit")
def vit(
    params: Mapping[str, PyTree],
    image: Float[Array, "h w c"],
    *,
    config: ViTConfig,
    remat: bool = False,
) -> Float[Array, " classes"]:
    r"""Score the classes of one image.

    $x_i = \mathrm{patch}_i W + P_i$, then the blocks, each patch seeing all, then a dense
    layer on the mean of the normed vectors.

    Args:
        params: What `init_vit` returns.
        image: Channels last; ``jax.vmap`` takes many.
        config: The shape that ``params`` have.
        remat: Recompute each block in the backward pass instead of keeping what is inside.

    Returns:
        The scores before the softmax, in the dtype of ``image``.

    Raises:
        TypeError: If the image is not floating, or ``config`` is not a `ViTConfig`.
        ValueError: If the image or parameters have another shape than ``config`` says.

    Cost:
        One `block_flops` a block, and the two layers', see `vit_flops`.

    Examples:
        >>> config = ViTConfig(image=(4, 6, 3), patch=2, classes=5, blocks=2, heads=2, width=8)
        >>> vit(init_vit(jax.random.key(0), config), jnp.ones((4, 6, 3)), config=config).shape
        (5,)

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words (2021), section 3.1 and appendix D.3,
        arXiv:2010.11929.
    """
    _check_config("vit", config, ViTConfig)
    _checks.floats("vit", image=image)
    if image.shape != config.image:
        raise ValueError(
            f"vit: image must be (h, w, c) = {config.image} as in config, got {image.shape}; "
            "jax.vmap takes many."
        )
    _check_params("vit", params, config)
    x = dense(params["patches"], patches(image, size=config.patch))
    x += params["positions"]["embedding"].astype(x.dtype)
    x = _run(params["blocks"], x, heads=config.heads, causal=False, remat=remat)
    x = layer_norm(params["norm"], x, epsilon=EPSILON)
    return dense(params["head"], x.mean(axis=0))


def vit_flops(*, config: ViTConfig) -> int:
    """FLOP of the products of one `vit`.

    Args:
        config: The shape.

    Returns:
        Those of the patches' layer, one `block_flops` a block, and those of the head.
    """
    _check_config("vit_flops", config, ViTConfig)
    (h, w, c), d = config.image, config.width
    t = (h // config.patch) * (w // config.patch)
    into = dense_flops(n=t, d_in=config.patch**2 * c, d_out=d, bias=False)
    out = dense_flops(n=1, d_in=d, d_out=config.classes, bias=False)
    return into + config.blocks * block_flops(t=t, d_model=d) + out


def _init_norm(d: int, dtype: DTypeLike) -> dict[str, Array]:
    return {"scale": jnp.ones(d, dtype), "bias": jnp.zeros(d, dtype)}


def _init_blocks(
    key: Array, config: GPTConfig | ViTConfig, dtype: DTypeLike
) -> dict[str, PyTree]:
    draw = partial(
        init_block, d_model=config.width, heads=config.heads, depth=config.blocks, dtype=dtype
    )
    return jax.lax.map(lambda key: draw(key), jax.random.split(key, config.blocks))


def _run(blocks: PyTree, x: Array, *, heads: int, causal: bool, remat: bool) -> Array:
    step = lambda x, params: (block(params, x, heads=heads, causal=causal), None)
    return jax.lax.scan(jax.checkpoint(step) if remat else step, x, blocks)[0]


def _check_config(function: str, config: Any, kind: type[GPTConfig] | type[ViTConfig]) -> None:
    if not isinstance(config, kind):
        raise TypeError(
            f"{function}: config must be a {kind.__name__}, got {type(config).__name__}."
        )
    sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if isinstance(config, ViTConfig):
        image = sizes.pop("image")
        if not isinstance(image, tuple | list) or len(image) != 3:
            raise ValueError(
                f"{function}: the config's image must be (h, w, c), got {image!r}; of grey "
                "images c is 1."
            )
        h, w, c = image
        _checks.positive(function, h=h, w=w, c=c, patch=config.patch)
        if h % config.patch or w % config.patch:
            raise ValueError(
                f"{function}: patch {config.patch} must divide the image, {h} x {w}."
            )
    _checks.positive(function, **sizes)
    _checks.heads(function, config.width, config.heads)


def _check_tokens(function: str, tokens: Any, config: GPTConfig) -> None:
    _checks.arrays(function, tokens=tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"{function}: tokens must be integers, got {tokens.dtype}.")
    if not tokens.ndim or tokens.shape[-1] > config.context:
        raise ValueError(
            f"{function}: tokens must be (..., t) with t at most the context, "
            f"{config.context}, got shape {tokens.shape}."
        )
    if isinstance(tokens, jax.core.Tracer):
        return
    values = np.asarray(tokens)
    low, high = values.min(), values.max()
    if low < 0 or high >= config.vocabulary:
        raise ValueError(
            f"{function}: tokens must be in 0..{config.vocabulary - 1}, the vocabulary, got "
            f"{low if low < 0 else high}; were they made by another tokenizer?"
        )


def _check_params(function: str, params: PyTree, config: GPTConfig | ViTConfig) -> None:
    init: Callable = init_gpt if isinstance(config, GPTConfig) else init_vit
    shapes = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
    wanted, got = _shapes(shapes), _shapes(params)
    for name in wanted | got:
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"{function}: params{name} must be {wanted.get(name, 'absent')} by config, got "
                f"{got.get(name, 'nothing')}; pass the config that made the parameters."
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}


def _check_truncation(function: str, v: int, top_k: int | None, top_p: Any) -> None:
    if top_k is not None:
        _checks.positive(function, top_k=top_k)
        if top_k > v:
            raise ValueError(
                f"{function}: top_k must be in 1..{v}, the vocabulary, got {top_k}."
            )
    if top_p is not None:
        _checks.number(function, top_p=top_p)
        if not isinstance(top_p, jax.core.Tracer) and not 0 < top_p <= 1:
            raise ValueError(f"{function}: top_p must be above 0 and at most 1, got {top_p!r}.")
