"""One table of every public function, and what must hold for each row of it."""

import inspect
import json
import re
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from elsewhere import found_by
from jax.test_util import check_grads
from oracles import DTYPES, draw

from lintoolkit import (
    _checks,
    attention,
    checkpoint,
    eigen,
    factorize,
    launch,
    layers,
    lora,
    pca,
    regression,
    similarity,
    svd,
    train,
    transformer,
)
from lintoolkit.cost import cost, target

MODULES = (
    layers,
    attention,
    transformer,
    svd,
    pca,
    similarity,
    eigen,
    factorize,
    regression,
    lora,
    train,
    checkpoint,
    launch,
)

# They read or write files or streams, or count, so they run on the host. Those that are in the
# table besides look at values where there are any, and call a jitted function.
HOST = frozenset(
    """
    svd.linear_operator
    eigen.pagerank eigen.power_iteration
    pca.fit_pca pca.fit_pca_stream
    factorize.als factorize.implicit_als
    lora.init lora.parameters lora.merge lora.lift lora.explain lora.layouts
    lora.extract lora.residual lora.pissa lora.combine lora.resize lora.fold
    lora.save_peft lora.load_peft
    train.fit_in_chunks
    checkpoint.digest checkpoint.save checkpoint.finish checkpoint.restore
    launch.member launch.supervise
    transformer.gpt transformer.generate transformer.gpt_parts transformer.load_gpt2
    transformer.save_gpt2 transformer.shard_gpt transformer.truncate_logits
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A public function at two sizes of distinct primes.

    `make(array, **dims)` gives the array arguments, drawing with ``array(*shape)``; `options`
    are the others. `formula(**dims)` is what the lowered program's `counted`, names with a plus
    between them, must equal.
    """

    fn: Callable
    make: Callable[..., tuple]
    dims: tuple[dict, dict] = ({}, {})
    options: Callable[..., dict] | dict[str, Any] | None = None
    formula: Callable[..., int] | None = None
    counted: str = "matmul_flops"
    differentiable: bool = True
    batched: bool = True
    promotes: bool = False  # half precision comes out in float32

    def at(self, rng, size=0, dtype="float64"):
        """The function of its array arguments alone, and arguments for it."""
        dims = self.dims[size]
        options = self.options(**dims) if callable(self.options) else self.options or {}
        return partial(self.fn, **options), self.make(partial(draw, rng, dtype=dtype), **dims)


def sizes(names, small, large):
    return tuple(dict(zip(names.split(), size, strict=True)) for size in (small, large))


def key(_array, **_dims):
    return (jax.random.key(7),)


def dense_params(array, d_in, d_out):
    return {"kernel": array(d_in, d_out), "bias": array(d_out)}


def heads_params(array, d):
    return {name: {"kernel": array(d, d)} for name in ("query", "key", "value", "out")}


def feedback(array):
    users, items = jnp.array([0, 3, 3, 1, 0, 4, 2]), jnp.array([1, 2, 0, 1, 2, 2, 0])
    return jax.random.key(7), users, items, jnp.abs(array(7)) + jnp.asarray(0.5, array(1).dtype)


def recommender(array, n, m, r):
    sides = (factorize.Side(array(rows, r), array(rows)) for rows in (n, m))
    return factorize.Recommender(*sides, array(), jnp.array(True))


def params_like(array, init, config=None):
    """What an init function returns, drawn small enough that deep stacks keep their size."""
    shapes = jax.eval_shape(init if config is None else partial(init, config=config), KEY)
    return jax.tree.map(lambda leaf: array(*leaf.shape) / 4, shapes)


def fitted(array, d, r):
    deviation, whole = jnp.exp(array(r)), jnp.exp(array())
    return pca.PCA(array(d), array(r, d), deviation, whole, jnp.array(True))


def state(array, d):
    root = array(d, d)
    return pca.Moments(3 + jnp.exp(array()), array(d), root @ root.T)


def low_rank(array, d_in, r, d_out):
    return lora.LowRank(array(d_in, r), array(r, d_out), 0.5)


def squared(params, batch):
    return jnp.mean((layers.dense(params, batch) - 1) ** 2)


FEEDBACK = {"shape": (5, 3), "rank": 2, "l2": 2.0, "iterations": 2}
REGRESSION: dict[str, Any] = {
    "make": lambda array, n, d, k: (array(n, d), array(n, k)),
    "dims": sizes("n d k", (11, 3, 2), (13, 7, 5)),
    "counted": "matmul_flops + linalg_flops",
}
KEY = jax.random.key(0)
GPT = partial(transformer.GPTConfig, context=24)
SLIDING = {"strides": (2, 1), "padding": ((2, 1), (0, 3)), "dilation": (1, 2)}
VIT = partial(transformer.ViTConfig, classes=5, patch=2)
QKV = sizes("t s h d_k d_v", (3, 5, 2, 7, 11), (13, 2, 5, 3, 7))
CONV = sizes("n h w kh kw c_in c_out", (2, 5, 7, 3, 2, 1, 11), (3, 13, 11, 4, 5, 2, 7))

TABLE = {
    "layers.init_dense": Case(
        fn=layers.init_dense, make=key, options={"d_in": 3, "d_out": 5}, differentiable=False
    ),
    "layers.dense": Case(
        fn=layers.dense,
        make=lambda array, n, d_in, d_out: (dense_params(array, d_in, d_out), array(n, d_in)),
        dims=sizes("n d_in d_out", (3, 5, 7), (11, 13, 2)),
        formula=layers.dense_flops,
        counted="flops",
    ),
    "layers.init_mlp": Case(
        fn=layers.init_mlp, make=key, options={"widths": (3, 5, 2)}, differentiable=False
    ),
    "layers.mlp": Case(
        fn=layers.mlp,
        make=lambda array, n, widths: (
            [dense_params(array, *pair) for pair in pairwise(widths)],
            array(n, widths[0]),
        ),
        dims=sizes("n widths", (3, (5, 7, 2)), (11, (2, 3, 13, 5))),
        options={"activation": jnp.tanh},
        formula=layers.mlp_flops,
        counted="flops",
    ),
    "layers.layer_norm": Case(
        fn=layers.layer_norm,
        make=lambda array: ({"scale": array(7), "bias": array(7)}, array(3, 7)),
    ),
    "layers.rms_norm": Case(
        fn=layers.rms_norm, make=lambda array: ({"scale": array(7)}, array(3, 7))
    ),
    "layers.embed": Case(
        fn=layers.embed, make=lambda array: ({"embedding": array(7, 3)}, jnp.array([5, 2, 5]))
    ),
    "layers.patches": Case(
        fn=layers.patches, make=lambda array: (array(6, 9, 2),), options={"size": 3}
    ),
    "layers.frames": Case(
        fn=layers.frames, make=lambda array: (array(23),), options={"size": 5, "hop": 3}
    ),
    "layers.spectrogram": Case(
        fn=layers.spectrogram, make=lambda array: (array(23),), options={"size": 7, "hop": 3}
    ),
    "layers.im2col": Case(
        fn=layers.im2col, make=lambda array: (array(2, 5, 7),), options={"size": (3, 2)}
    ),
    "layers.conv2d": Case(
        fn=layers.conv2d,
        make=lambda array, n, h, w, kh, kw, c_in, c_out: (
            array(n, h, w, c_in),
            array(kh, kw, c_in, c_out),
        ),
        dims=CONV,
        formula=layers.conv2d_flops,
    ),
    "layers.conv2d, SAME": Case(
        fn=layers.conv2d,
        make=lambda array, n, h, w, kh, kw, c_in, c_out: (
            array(n, h, w, c_in),
            array(kh, kw, c_in, c_out),
        ),
        dims=CONV,
        options={"padding": "SAME"},
        formula=partial(layers.conv2d_flops, padding="SAME"),
    ),
    "layers.conv2d, sliding": Case(
        fn=layers.conv2d,
        make=lambda array, n, h, w, kh, kw, c_in, c_out: (
            array(n, h, w, c_in),
            array(kh, kw, c_in, c_out),
        ),
        dims=CONV,
        options=SLIDING,
        formula=partial(layers.conv2d_flops, **SLIDING),
    ),
    "layers.sinusoidal_positions": Case(
        fn=layers.sinusoidal_positions,
        make=lambda array: (),  # noqa: ARG005
        options={"t": 5, "d": 6},
        differentiable=False,
        batched=False,
    ),
    "attention.attention_weights": Case(
        fn=attention.attention_weights,
        make=lambda array, t, s, h, d_k, d_v: (array(t, h, d_k), array(s, h, d_k)),  # noqa: ARG005
        dims=QKV,
        options={"causal": True},
        formula=lambda **dims: attention.attention_flops(**dims | {"d_v": 0}),
    ),
    "attention.attention": Case(
        fn=attention.attention,
        make=lambda array, t, s, h, d_k, d_v: (
            array(t, h, d_k),
            array(s, h, d_k),
            array(s, h, d_v),
        ),
        dims=QKV,
        options={"causal": True},
        formula=attention.attention_flops,
    ),
    "attention.attention, blocks": Case(
        fn=attention.attention,
        make=lambda array, t, s, h, d_k, d_v: (
            array(t, h, d_k),
            array(s, h, d_k),
            array(s, h, d_v),
        ),
        dims=sizes("t s h d_k d_v", (263, 277, 8, 3, 2), (521, 257, 5, 2, 3)),
        options={"causal": True},
        formula=partial(attention.attention_flops, causal=True),
    ),
    "attention.rope": Case(
        fn=attention.rope, make=lambda array: (array(5, 3, 8), jnp.array([5, 2, 5, 7, 0]))
    ),
    "attention.init_multi_head": Case(
        fn=attention.init_multi_head,
        make=key,
        options={"d_model": 6, "heads": 2},
        differentiable=False,
    ),
    "attention.multi_head_attention": Case(
        fn=attention.multi_head_attention,
        make=lambda array, t, d_model: (heads_params(array, d_model), array(t, d_model)),
        dims=sizes("t d_model", (5, 6), (7, 10)),
        options={"heads": 2},
        formula=attention.multi_head_attention_flops,
    ),
    "attention.multi_head_attention, shared keys": Case(
        fn=attention.multi_head_attention,
        make=lambda array, t, d_model, d_kv: (
            heads_params(array, d_model)
            | {name: {"kernel": array(d_model, d_kv)} for name in ("key", "value")},
            array(t, d_model),
        ),
        dims=sizes("t d_model d_kv", (5, 8, 4), (7, 12, 6)),
        options={"heads": 2, "rope_base": 100.0},
        formula=attention.multi_head_attention_flops,
    ),
    "transformer.init_block": Case(
        fn=transformer.init_block,
        make=key,
        options={"d_model": 6, "heads": 2},
        differentiable=False,
    ),
    "transformer.block": Case(
        fn=transformer.block,
        make=lambda array, t, d_model: (
            params_like(array, partial(transformer.init_block, d_model=d_model, heads=2)),
            array(t, d_model),
        ),
        dims=sizes("t d_model", (5, 6), (7, 10)),
        options={"heads": 2, "causal": True},
        formula=transformer.block_flops,
    ),
    "transformer.init_gpt": Case(
        fn=transformer.init_gpt,
        make=key,
        options={"config": GPT(vocabulary=11, blocks=2, heads=2, width=6)},
        differentiable=False,
    ),
    "transformer.gpt": Case(
        fn=transformer.gpt,
        make=lambda array, config, n, t: (
            params_like(array, transformer.init_gpt, config),
            jnp.arange(n * t).reshape(n, t) % config.vocabulary,
        ),
        dims=sizes(
            "config n t",
            (GPT(vocabulary=11, blocks=2, heads=2, width=6), 3, 5),
            (GPT(vocabulary=7, blocks=3, heads=1, width=5), 2, 13),
        ),
        options=lambda config, **_: {"config": config},
        formula=transformer.gpt_flops,
    ),
    "transformer.generate": Case(
        fn=transformer.generate,
        make=lambda array, config: (
            KEY,
            params_like(array, transformer.init_gpt, config),
            jnp.array([[3, 1, 4], [1, 5, 9]]),
        ),
        dims=sizes("config", *[(GPT(vocabulary=11, blocks=2, heads=2, width=6),)] * 2),
        options=lambda config: {"config": config, "steps": 5, "top_k": 7, "top_p": 0.9},
        differentiable=False,
    ),
    "transformer.truncate_logits": Case(
        fn=transformer.truncate_logits,
        make=lambda array: (array(3, 11),),
        options={"top_k": 7, "top_p": 0.9},
        differentiable=False,
    ),
    "transformer.init_vit": Case(
        fn=transformer.init_vit,
        make=key,
        options={"config": VIT(image=(4, 6, 3), blocks=2, heads=2, width=6)},
        differentiable=False,
    ),
    "transformer.vit": Case(
        fn=transformer.vit,
        make=lambda array, config: (
            params_like(array, transformer.init_vit, config),
            array(*config.image),
        ),
        dims=sizes(
            "config",
            (VIT(image=(4, 6, 3), blocks=2, heads=2, width=6),),
            (VIT(image=(6, 10, 1), blocks=3, heads=1, width=7),),
        ),
        options=lambda config: {"config": config},
        formula=transformer.vit_flops,
    ),
    "svd.svd": Case(fn=svd.svd, make=lambda array: (array(7, 5),), promotes=True),
    "svd.truncated_svd": Case(
        fn=svd.truncated_svd,
        make=lambda array: (array(5, 7),),
        options={"rank": 2},
        promotes=True,
    ),
    "svd.randomized_svd": Case(
        fn=svd.randomized_svd,
        make=lambda array: (jax.random.key(7), array(7, 5)),
        options={"rank": 2, "oversample": 1},
        promotes=True,
    ),
    "svd.low_rank": Case(
        fn=svd.low_rank,
        make=lambda array: (array(7, 5),),
        options={"rank": 2},
        promotes=True,
    ),
    "svd.reconstruct": Case(
        fn=svd.reconstruct,
        make=lambda array, n, r, d: (
            svd.SVD(array(n, r), array(r), array(r, d), jnp.array(True)),
        ),
        dims=sizes("n r d", (7, 2, 5), (3, 11, 13)),
        formula=svd.reconstruct_flops,
        counted="flops",
    ),
    "svd.tail_error": Case(
        fn=svd.tail_error, make=lambda array: (array(7),), options={"rank": 3}
    ),
    "svd.rank_for_energy": Case(
        fn=svd.rank_for_energy, make=lambda array: (array(7),), differentiable=False
    ),
    "pca.fit_pca": Case(
        fn=lambda x: pca.fit_pca(jnp.asarray(x), rank=2),
        make=lambda array: (array(7, 5),),
        promotes=True,
    ),
    "pca.explained_variance_ratio": Case(
        fn=pca.explained_variance_ratio, make=lambda array: (fitted(array, 5, 2),)
    ),
    "pca.pca_encode": Case(
        fn=pca.pca_encode,
        make=lambda array, n, d, r: (fitted(array, d, r), array(n, d)),
        dims=sizes("n d r", (7, 5, 2), (3, 11, 5)),
        formula=pca.pca_encode_flops,
        counted="flops",
    ),
    "pca.pca_encode, whitened": Case(
        fn=pca.pca_encode,
        make=lambda array: (fitted(array, 5, 2), array(7, 5)),
        options={"whiten": True},
    ),
    "pca.pca_decode": Case(
        fn=pca.pca_decode,
        make=lambda array, n, d, r: (fitted(array, d, r), array(n, r)),
        dims=sizes("n d r", (7, 5, 2), (3, 11, 5)),
        formula=pca.pca_decode_flops,
        counted="flops",
    ),
    "pca.moments": Case(fn=pca.moments, make=lambda array: (array(7, 5),), promotes=True),
    "pca.merge_moments": Case(
        fn=pca.merge_moments, make=lambda array: (state(array, 5), state(array, 5))
    ),
    "pca.pca_of_moments": Case(
        fn=pca.pca_of_moments,
        make=lambda array: (state(array, 5),),
        options={"rank": 2},
        promotes=True,
    ),
    "similarity.dot": Case(
        fn=similarity.dot,
        make=lambda array, n, d: (array(n, d), array(n, d)),
        dims=sizes("n d", (3, 5), (11, 7)),
        formula=similarity.dot_flops,
    ),
    "similarity.cosine_similarity": Case(
        fn=similarity.cosine_similarity,
        make=lambda array, n, d: (array(n, d), array(n, d)),
        dims=sizes("n d", (3, 5), (11, 7)),
        formula=similarity.dot_flops,
    ),
    "similarity.top_k": Case(
        fn=similarity.top_k,
        make=lambda array, n, d: (array(d), array(n, d)),
        dims=sizes("n d", (7, 5), (11, 3)),
        options={"k": 2},
        formula=similarity.dot_flops,
    ),
    "similarity.analogy": Case(
        fn=similarity.analogy,
        make=lambda array, n, d: (array(n, d), *jnp.array([4, 1, 2])),
        dims=sizes("n d", (7, 5), (11, 3)),
        options={"k": 2},
        formula=similarity.dot_flops,
        differentiable=False,
    ),
    "eigen.power_iteration": Case(
        # As near as the dtype goes, for the differences' sake.
        fn=lambda start, matrix: eigen.power_iteration(
            jnp.asarray(start),
            jnp.asarray(matrix),
            tol=1000 * float(jnp.finfo(matrix.dtype).eps),
        ),
        make=lambda array: (array(5), jnp.exp(array(5, 5))),
    ),
    "eigen.top_eigh": Case(
        fn=eigen.top_eigh,
        make=lambda array: (array(7, 7),),
        options={"rank": 3},
        promotes=True,
    ),
    "eigen.pagerank": Case(
        # As near as the dtype goes, for the differences' sake.
        fn=lambda p, d, sources, targets: eigen.pagerank(
            sources,
            targets,
            5,
            personalization=jnp.asarray(p),
            damping=jnp.asarray(d),
            tol=1000 * float(jnp.finfo(p.dtype).eps),
        ),
        make=lambda array: (
            jnp.exp(array(5)),
            jax.nn.sigmoid(array()),
            jnp.array([0, 1, 1, 3, 4, 4, 4]),
            jnp.array([2, 0, 3, 3, 1, 0, 0]),
        ),
    ),
    "factorize.als": Case(
        fn=factorize.als, make=feedback, options=FEEDBACK, differentiable=False
    ),
    "factorize.implicit_als": Case(
        fn=factorize.implicit_als, make=feedback, options=FEEDBACK, differentiable=False
    ),
    "factorize.predict_rating": Case(
        fn=factorize.predict_rating,
        make=lambda array, pairs, rank: (
            recommender(array, 5, 3, rank),
            jnp.arange(pairs) % 5,
            jnp.arange(pairs) % 3,
        ),
        dims=sizes("pairs rank", (7, 2), (11, 13)),
        formula=factorize.predict_rating_flops,
    ),
    "factorize.recommend": Case(
        fn=lambda *args, **o: factorize.recommend(*args[:-1], exclude=args[-1], **o),
        make=lambda array, users, items, rank: (
            recommender(array, 11, items, rank),
            jnp.arange(users),
            jnp.arange(2 * users).reshape(users, 2) % items,
        ),
        dims=sizes("users items rank", (3, 5, 2), (11, 7, 13)),
        options={"k": 2},
        formula=factorize.recommend_flops,
    ),
    "regression.normal_equation": Case(
        fn=regression.normal_equation, formula=regression.normal_equation_flops, **REGRESSION
    ),
    "regression.least_squares": Case(
        fn=regression.least_squares, formula=regression.least_squares_flops, **REGRESSION
    ),
    "regression.ridge": Case(
        fn=lambda x, y: regression.ridge(x, y, l2=0.5),
        formula=regression.ridge_flops,
        **REGRESSION,
    ),
    "lora.init": Case(
        fn=lora.init,
        make=key,
        options={"params": {"w": jnp.ones((5, 3))}, "rank": 2, "where": "w", "alpha": 3},
        differentiable=False,
    ),
    "lora.merge": Case(
        fn=lambda w, low: lora.merge({"w": w}, {"w": low}),
        make=lambda array, d_in, d_out, r: (
            array(d_in, d_out),
            low_rank(array, d_in, r, d_out),
        ),
        dims=sizes("d_in d_out r", (7, 5, 2), (3, 11, 2)),
        formula=lora.merge_flops,
        counted="flops",
    ),
    "lora.lift": Case(
        fn=lambda w, low, x: lora.lift(lambda w, x: x @ w)(w, {"": low}, x),
        make=lambda array, n, d_in, d_out, r: (
            array(d_in, d_out),
            low_rank(array, d_in, r, d_out),
            array(n, d_in),
        ),
        dims=sizes("n d_in d_out r", (3, 7, 5, 2), (13, 3, 11, 2)),
        formula=lora.lift_flops,
    ),
    "lora.extract": Case(
        fn=lambda base, tuned: lora.extract(base, tuned, where="", rank=2),
        make=lambda array: (array(7, 5), array(7, 5)),
        promotes=True,
    ),
    "lora.pissa": Case(
        fn=lambda w: lora.pissa(w, 2, where="")[1],
        make=lambda array: (array(7, 5),),
        promotes=True,
    ),
    "lora.combine": Case(
        fn=lambda one, two: lora.combine([{"w": one}, {"w": two}], [0.5, -2], rank=3),
        make=lambda array: (low_rank(array, 7, 2, 5), low_rank(array, 7, 3, 5)),
        promotes=True,
    ),
    "lora.resize": Case(
        fn=lambda low: lora.resize({"w": low}, rank=2),
        make=lambda array: (low_rank(array, 7, 3, 5),),
        promotes=True,
    ),
    "lora.fold": Case(
        fn=lambda low: lora.fold({"w": low}), make=lambda array: (low_rank(array, 7, 3, 5),)
    ),
    "train.fit": Case(
        # Losses alone: a serialised program cannot hold optax's own state types.
        fn=lambda params, batches, **o: train.fit(squared, params, batches, **o).losses,
        make=lambda array: (dense_params(array, 3, 2), array(5, 7, 3)),
        options={"optimizer": optax.sgd(0.1, momentum=0.9)},
    ),
    "train.fit, until": Case(
        fn=lambda params, batches, **o: train.fit(squared, params, batches, **o).params,
        make=lambda array: (dense_params(array, 3, 2), array(5, 7, 3)),
        options={"optimizer": optax.sgd(0.1, momentum=0.9), "until": 0.5},
    ),
    "checkpoint.fingerprint": Case(
        fn=checkpoint.fingerprint, make=lambda array: (array(5, 7),), differentiable=False
    ),
}

CALLS = 15  # of each exported function

# Split by rows over an explicit mesh, these say what to do; over any other they just work.
UNDECIDED = {
    "factorises a matrix as a whole": """
        svd.randomized_svd eigen.top_eigh pca.pca_of_moments regression.least_squares
        regression.ridge lora.combine lora.resize
        """,
    "sums or multiplies rows with rows": """
        attention.attention attention.multi_head_attention transformer.block transformer.vit
        pca.merge_moments eigen.power_iteration
        """,
    "looks rows up, cuts or sorts them": """
        layers.embed layers.frames layers.spectrogram transformer.gpt transformer.generate
        svd.tail_error svd.rank_for_energy similarity.top_k similarity.analogy
        factorize.predict_rating factorize.recommend
        """,
    "folds rows into another axis": "layers.patches layers.im2col layers.conv2d",
    "takes rows one by one": "train.fit",
}

# Of all others NaN comes where NaN goes in.
ASIDE = {
    "transformer.generate",
    "svd.rank_for_energy",
    "checkpoint.fingerprint",
    "similarity.analogy",
}  # whole numbers

# A function's tests run one after another, so that what one has compiled serves the next.
each = partial(pytest.mark.parametrize, "name", scope="module")
every_function = each(TABLE)
with_formula = [name for name, case in TABLE.items() if case.formula]


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def float_leaves(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def assert_same(actual, expected, ulps=64):
    """Trees alike but for rounding; what is not floating, exactly."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        tolerance = ulps * float(jnp.finfo(a.dtype).eps) if is_float(a) else 0
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def public_functions(module):
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not inspect.isclass(value)
        and getattr(value, "__module__", None) == module.__name__
    }


def test_every_public_function_is_in_the_table():
    rooms = {module.__name__.rpartition(".")[2]: module for module in MODULES}
    public = {f"{room}.{name}" for room, m in rooms.items() for name in public_functions(m)}
    formulas = {name for name in public if name.endswith("_flops")}
    listed = {name.partition(",")[0] for name in TABLE}
    assert public - formulas == listed | HOST
    # Every formula stands under its function, and is held to the program.
    assert {name.removesuffix("_flops") for name in formulas} <= {
        name.partition(",")[0] for name in with_formula
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_is_jitted_and_named(module, rng):
    room = module.__name__.rpartition(".")[2]
    for name, fn in public_functions(module).items():
        plain = name.endswith("_flops") or f"{room}.{name}" in HOST
        assert hasattr(fn, "lower") != plain, name
    for row, case in TABLE.items():
        where, name = row.partition(",")[0].split(".")
        if where == room:
            fn, args = case.at(rng)
            text = jax.jit(fn).lower(*args).as_text(debug_info=True)
            assert re.search(rf"\b{name}/", text), row


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: COMPILED.append(event) if "backend_compile" in event else None
)


def assert_identical(actual, expected):
    """Trees alike to the bit, NaN where NaN is."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@every_function
def test_jit_is_eager_and_compiles_once_for_every_thread(name, rng):
    fn, args = TABLE[name].at(rng)
    with jax.disable_jit():
        eager = fn(*args)
    first = jax.block_until_ready(fn(*args))
    assert_same(first, eager)
    COMPILED.clear()
    with ThreadPoolExecutor(16) as threads:
        again = list(threads.map(lambda _: fn(*args), range(32)))
    assert not COMPILED
    for result in again:
        assert_identical(result, first)
    if float_leaves(args) and name not in ASIDE:
        nothing = lambda leaf: jnp.full_like(leaf, jnp.nan) if is_float(leaf) else leaf
        said, lost = "", args
        try:
            lost = fn(*jax.tree.map(nothing, args))
        except ValueError as error:
            said = str(error)
        if said:
            assert said.startswith(f"{name.partition('.')[2]}: ")
        else:
            assert not all(jnp.isfinite(leaf).all() for leaf in float_leaves(lost))


def test_what_is_compiled_anew_is_seen():
    fresh = lambda: jax.jit(lambda x: x + 1)(jnp.ones(3))
    fresh()
    COMPILED.clear()
    fresh()  # control: another function each time
    assert COMPILED


@every_function
@pytest.mark.usefixtures("as_a_user")
def test_arrays_of_numpy_are_taken(name, rng):
    fn, args = TABLE[name].at(rng)
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    plain = lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    assert_identical(fn(*jax.tree.map(plain, args)), fn(*args))


@each([name for name, case in TABLE.items() if case.batched])
def test_vmap_is_a_loop(name, rng):
    case = TABLE[name]
    fn, _ = case.at(rng)
    items = [case.at(rng)[1] for _ in range(3)]
    stack = lambda *leaves: jnp.stack(leaves)
    batch = jax.vmap(fn)(*jax.tree.map(stack, *items))
    assert_same(batch, jax.tree.map(stack, *[fn(*item) for item in items]))


@each([name for name, case in TABLE.items() if case.differentiable])
def test_gradients_are_those_of_differences(name, rng):
    fn, args = TABLE[name].at(rng)
    leaves, tree = jax.tree.flatten(args)
    where = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def of_floats(*floats):
        every = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            every[i] = leaf
        return float_leaves(fn(*tree.unflatten(every)))

    check_grads(of_floats, [leaves[i] for i in where], order=1)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
@every_function
def test_dtype_is_kept(name, dtype, rng):
    case = TABLE[name]
    fn, args = case.at(rng, dtype=dtype)
    if not float_leaves(args):
        fn = partial(fn, dtype=jnp.dtype(dtype))
    out = jax.eval_shape(fn, *args)
    expected = _checks.wide(jnp.dtype(dtype)) if case.promotes else jnp.dtype(dtype)
    assert {leaf.dtype for leaf in float_leaves(out)} <= {expected}


@every_function
def test_exports_to_every_platform(name, rng):
    fn, args = TABLE[name].at(rng, dtype="float32")
    exported = jax.export.export(jax.jit(fn), platforms=("cpu", "cuda", "tpu"))(*args)
    loaded = jax.export.deserialize(exported.serialize())
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    call = jax.jit(loaded.call)
    for _ in range(CALLS):
        assert_same(call(*args), fn(*args))
        _, args = TABLE[name].at(rng, dtype="float32")


def test_a_thousand_exported_calls_are_compared():
    assert CALLS * len(TABLE) >= 1000


# Which arguments may have one leading axis more.
LEADING = {
    "layers.dense": [1],
    "layers.mlp": [1],
    "layers.layer_norm": [1],
    "layers.rms_norm": [1],
    "layers.embed": [1],
    "attention.attention_weights": [0, 1],
    "attention.attention": [0, 1, 2],
    "attention.attention, blocks": [0, 1, 2],
    "attention.multi_head_attention": [1],
    "attention.multi_head_attention, shared keys": [1],
    "transformer.block": [1],
    "transformer.gpt": [1],
}


@each(LEADING)
def test_an_exported_program_serves_every_length_of_a_leading_axis(name, rng):
    fn, args = TABLE[name].at(rng, dtype="float32")

    def with_gradient(*args):
        y, pull = jax.vjp(fn, *args)
        slopes = jax.tree.leaves(pull(y))
        return y, [slope for slope in slopes if slope.dtype != jax.dtypes.float0]

    def led(length, make):
        lead = lambda x: make((length, *x.shape), x.dtype)
        return [jax.tree.map(lead, x) if i in LEADING[name] else x for i, x in enumerate(args)]

    (any_length,) = jax.export.symbolic_shape("n")
    shapes = led(any_length, jax.ShapeDtypeStruct)
    exported = jax.export.export(jax.jit(with_gradient))(*shapes)
    for length in (1, 3):
        of = lambda shape, dtype: (
            draw(rng, *shape, dtype=str(dtype))
            if jnp.issubdtype(dtype, jnp.floating)
            else jnp.asarray(rng.integers(0, 5, shape), dtype)
        )
        one = led(length, of)
        assert_same(exported.call(*one), with_gradient(*one), ulps=1024)


def test_only_leading_axes_are_left_open():
    (any_length,) = jax.export.symbolic_shape("n")
    q = jax.ShapeDtypeStruct((3, any_length, 2, 5), "float32")
    with pytest.raises(ValueError, match=r"attention: .* leading axes .* got n queries"):
        jax.export.export(jax.jit(lambda q: attention.attention(q, q, q)))(q)


MASKS = {
    "bias": lambda a, _: {"bias": a},
    "bias of all": lambda a, _: {"bias": a[:1, :1]},
    "mask, window": lambda a, _: {"mask": a > 0, "window": 3},
    "lengths": lambda _, b: {"lengths": b},
    "segments": lambda _, b: {"segment_ids": b[:, None] + jnp.arange(7) // 4},
    "slopes": lambda a, _: {"alibi": a[0, :, 0, 0], "causal": True},
}


@pytest.mark.parametrize("options", MASKS)
def test_exported_attention_takes_what_hides_keys(options, rng):
    fn = lambda q, a, b: attention.attention(q, q, q, **MASKS[options](a, b))
    (n,) = jax.export.symbolic_shape("n")
    shapes = [
        jax.ShapeDtypeStruct((n, *shape), dtype)
        for *shape, dtype in ((7, 2, 5, "float32"), (2, 7, 7, "float32"), ("int64",))
    ]
    exported = jax.export.export(jax.jit(fn))(*shapes)
    for length in (1, 3):
        q, a = (draw(rng, length, *x.shape[1:], dtype="float32") for x in shapes[:2])
        b = jnp.asarray(rng.integers(1, 8, length))
        assert_same(exported.call(q, a, b), fn(q, a, b), ulps=1024)


@pytest.mark.parametrize("size", [0, 1])
@each(with_formula)
def test_formula_is_what_the_program_counts(name, size, rng):
    case = TABLE[name]
    fn, args = case.at(rng, size, dtype="float32")
    priced = cost(fn, *args).lowered
    counted = sum(getattr(priced, name) for name in case.counted.split(" + "))
    assert counted == case.formula(**case.dims[size])


def split_by_rows(args, kind):
    """Arguments on a mesh, each row of the data and of what is as long on a device of its own.

    The data are the last argument that has rows, for parameters come first; within others
    nothing is split.
    """
    data = [arg for arg in args if any(leaf.ndim for leaf in jax.tree.leaves(arg))][-1]
    rows = next(leaf.shape[0] for leaf in jax.tree.leaves(data) if leaf.ndim)
    mesh = jax.make_mesh((rows,), ("rows",), (kind,), devices=jax.devices()[:rows])

    def place(leaf, *, split):
        where = jax.P("rows") if split and leaf.ndim and leaf.shape[0] == rows else jax.P()
        return jax.device_put(leaf, jax.NamedSharding(mesh, where))

    splits = [arg is data or isinstance(arg, jax.Array) for arg in args]
    return mesh, [
        jax.tree.map(partial(place, split=split), arg)
        for arg, split in zip(args, splits, strict=True)
    ]


def outcome(fn, placed, mesh, expected):
    """The name of what went wrong and what was said, if anything did."""
    try:
        with jax.set_mesh(mesh):
            found = fn(*placed)
        assert_same(jax.device_put(found, jax.devices()[0]), expected)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["equal", ""]


def on_meshes():
    """What each function does with its rows split over devices: a row a variant is one."""
    found = {"Auto": {}, "Explicit": {}, "told": {}}
    for name, case in TABLE.items():
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        fn, args = case.at(generator)
        if "," in name or not float_leaves(args):
            continue
        expected = fn(*args)
        for kind in ("Auto", "Explicit"):
            mesh, placed = split_by_rows(args, getattr(jax.sharding.AxisType, kind))
            found[kind][name] = outcome(fn, placed, mesh, expected)
        if found["Explicit"][name][0] != "equal":
            decided = jax.sharding.auto_axes(fn, out_sharding=jax.P())
            found["told"][name] = outcome(decided, placed, mesh, expected)
    return found


elsewhere = partial(found_by, __file__, PYTHONPATH=".:tests")


def test_rows_may_be_split_over_devices():
    found = elsewhere("meshes", JAX_NUM_CPU_DEVICES="23")
    wrong = {name: said for name, said in found["Auto"].items() if said[0] != "equal"}
    assert not wrong
    refused = {name: said for name, said in found["Explicit"].items() if said[0] != "equal"}
    assert set(refused) == set(" ".join(UNDECIDED.values()).split())
    for name, (_, said) in refused.items():
        assert re.match(rf"{name.partition('.')[2]}: .* split ", said), (name, said)
    # What the message says to do.
    wrong = {name: said for name, said in found["told"].items() if said[0] != "equal"}
    assert not wrong


def compiled_for(hardware):
    """What the compiler for a chip that is not there says of each function, if it refuses."""
    jax.config.update("jax_enable_x64", False)  # TPUs have no doubles
    wanted = target.parse_target(hardware)
    chip = jax.sharding.SingleDeviceSharding(target._devices(*wanted[1:], 1)[0])
    abstract = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=chip)
    refused = {}
    for name, case in TABLE.items():
        fn, args = case.at(np.random.default_rng(0), dtype="float32")
        try:
            jitted = jax.jit(fn, out_shardings=chip)
            compiled = jitted.lower(*jax.tree.map(abstract, args)).compile()
            assert compiled.memory_analysis().output_size_in_bytes > 0
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}"
    return refused


@pytest.mark.parametrize(
    ("hardware", "compiler", "extra"),
    [
        ("tpu:v5e:2x2", "libtpu", "aot-tpu"),
        ("cuda:h100", "jax_plugins.xla_cuda13", "aot-cuda"),
    ],
)
def test_every_function_compiles_for_hardware_that_is_not_there(hardware, compiler, extra):
    if not target._installed(compiler):
        pytest.skip(f"needs the extra {extra}")
    assert elsewhere(hardware, **target._ENVIRONMENT) == {}


if __name__ == "__main__":
    del conftest  # its settings are what it is imported for
    asked = sys.argv[1]
    print(json.dumps(on_meshes() if asked == "meshes" else compiled_for(asked)))  # noqa: T201
