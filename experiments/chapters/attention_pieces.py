"""The pieces of attention: projections, scores, softmax, and the blend of values."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import attention as figures
from experiments.rows import flops, row
from lintoolkit.attention import attention, attention_flops, attention_weights
from lintoolkit.cost import cost
from lintoolkit.layers import dense, dense_flops
from lintoolkit.similarity import dot

INDEPENDENT = "Independent here: NumPy in float64, written from the definition."


def snippet_arrays(*, after_layers: bool = True):
    """What the article's attention snippet draws: X (6, 8) and three kernels (8, 4).

    It goes on with the random state that the article's first example leaves behind.
    """
    draw = np.random.RandomState(42).randn
    if after_layers:
        draw(8, 4), draw(3, 8)
    x = draw(6, 8)
    return x, [draw(8, 4) * 0.5 for _ in range(3)]


@jax.jit
def single_head(q, k, v):
    """Attention of one head: q (t, d_k), k (s, d_k), v (s, d_v)."""
    return attention(q[:, None], k[:, None], v[:, None])[:, 0]


@jax.jit
def project_and_attend(x, kernels):
    """Attention of one head over the rows of x, by three kernels."""
    return single_head(*(dense({"kernel": kernel}, x) for kernel in kernels))


@partial(jax.jit, static_argnames=("causal", "scale"))
def weigh(q, k, *, causal=False, scale=None):
    """Attention weights of one head: q (t, d_k), k (s, d_k)."""
    return attention_weights(q[:, None], k[:, None], causal=causal, scale=scale)[0]


def by_matrices(q, k, v):
    """Attention of one head in NumPy."""
    e = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
    return e / e.sum(axis=-1, keepdims=True) @ v


def by_loops(q, k, v):
    """Attention of one head from scalars alone."""
    result = []
    for query in q.tolist():
        dots = [sum(map(operator.mul, query, key)) for key in k.tolist()]
        e = [math.exp(dot / math.sqrt(len(query))) for dot in dots]
        columns = v.T.tolist()
        result.append([sum(map(operator.mul, e, column)) / sum(e) for column in columns])
    return result


def projections(*, seed: int, full: bool):
    """Queries, keys and values are three products, and learning reaches each of them."""
    del seed, full
    x, kernels = snippet_arrays()
    project = lambda x, kernels: [dense({"kernel": kernel}, x) for kernel in kernels]
    q, _, _ = project(x, kernels)
    (n, d), d_k = x.shape, q.shape[1]
    three = 3 * dense_flops(n=n, d_in=d, d_out=d_k, bias=False)
    yield row(
        "need-qkv-projections",
        {
            "X": x.shape,
            "W": kernels[0].shape,
            "Q": q.shape,
            "flops_three": three,
            "weights": sum(kernel.size for kernel in kernels),
        },
        dense,
        flops=flops(project, x, kernels, formula=three),
    )
    loss = lambda kernels: (project_and_attend(x, kernels) ** 2).sum()
    gradients = jax.grad(loss)(kernels)
    yield row(
        "matrices-qkv-learned",
        {
            "every_projection_gets_gradient": all(bool((g != 0).all()) for g in gradients),
            "shapes": [g.shape for g in gradients],
        },
        attention,
        "jax.grad",
    )


def scores(*, seed: int, full: bool):
    """Q Kᵀ is a table of dot products: every query with every key."""
    x, kernels = snippet_arrays()
    q, k = (dense({"kernel": kernel}, x) for kernel in kernels[:2])
    table = q @ k.T
    dots = dot(q[:, None], k)
    yield row(
        "need-attention-structured-dot",
        {
            "all_36_scores_are_dots": table.size == 36 and bool(jnp.allclose(table, dots)),
            "rank_at_most_dk": jnp.linalg.matrix_rank(table),
        },
        dot,
        "jax.numpy.matmul",
    )
    rng = np.random.default_rng(seed)
    few, more = (jnp.asarray(rng.standard_normal((n, 3))) for n in (4, 5))
    table = few @ more.T
    symmetric = lambda m: m.shape[0] == m.shape[1] and bool(jnp.allclose(m, m.T))
    yield row(
        "matrices-qkt-scores",
        {
            "shape": table.shape,
            "entry_is_dot": bool(jnp.isclose(table[1, 4], dot(few[1], more[4]))),
            "symmetric_when_q_is_k": symmetric(few @ few.T),
            "symmetric_in_general": symmetric(few @ more[:4].T),
        },
        "jax.numpy.matmul",
        dot,
    )
    try:
        jnp.matmul(q, k)
        raises = False
    except TypeError:
        raises = True
    yield row(
        "calculus-qkt-needs-transpose",
        {"without_transpose_raises": raises, "with_transpose": jnp.matmul(q, k.T).shape},
        "jax.numpy.matmul",
    )
    batch, heads, t, d_k = 2, 3, 5, 4
    q, k = jnp.asarray(rng.standard_normal((2, batch, heads, t, d_k)))
    scale = d_k**-0.5
    compared = (q @ k.swapaxes(-2, -1)) * scale
    product = batch * attention_flops(t=t, s=t, h=heads, d_k=d_k, d_v=0)
    yield row(
        "calculus-attention-line",
        {
            "shape": compared.shape,
            "same_as_einsum": bool(
                jnp.allclose(compared, jnp.einsum("bhtd,bhsd->bhts", q, k) * scale)
            ),
            "scale_for_dk4": scale,
            "flops": product,
        },
        "jax.numpy.matmul",
        flops=flops(lambda q, k: q @ k.swapaxes(-2, -1), q, k, formula=product),
        note="The FLOP cell is the product without the scaling.",
    )
    query, keys = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    weights = weigh(query, keys)
    yield row(
        "calculus-attention-relevance",
        {"dots": dot(query, keys), "weights": weights[0]},
        attention_weights,
        dot,
        holds=bool((jnp.diff(weights[0]) < 0).all()),
        note="Keys along, across and against the query.",
    )
    n, d = 1024, 64
    array = lambda n: jax.ShapeDtypeStruct((n, d), jnp.float32)
    all_pairs = lambda q, k: q @ k.T
    shape = jax.eval_shape(all_pairs, array(n), array(n)).shape
    doubled = jax.eval_shape(all_pairs, array(2 * n), array(2 * n))
    product = attention_flops(t=n, s=n, h=1, d_k=d, d_v=0)
    yield row(
        "need-qk-n-by-n",
        {
            "shape": shape,
            "entries": np.prod(shape),
            "flops": product,
            "doubling_tokens_multiplies_scores_by": doubled.size // np.prod(shape),
        },
        "jax.eval_shape",
        attention_flops,
        flops=flops(all_pairs, array(n), array(n), formula=product),
    )
    lengths = [4**k for k in range(3, 9 if full else 7)]
    yield figures.growth(lengths, compiled_by_length(lengths, d=768, heads=12), d=768)
    lengths = [2**k for k in range(9, 15 if full else 13)]
    yield figures.memory(lengths, temporaries_by_length(lengths, heads=8, d_k=64))


def temporaries_by_length(lengths: list[int], *, heads: int, d_k: int) -> dict[str, list[int]]:
    """Bytes that attention and its gradient hold besides operands and results, by length."""
    ways: dict[str, Callable] = {
        "jax.nn": jax.nn.dot_product_attention,
        "lintoolkit": attention,
    }

    def gradient(attend: Callable) -> Callable:
        return jax.grad(lambda *qkv: attend(*qkv).sum(), (0, 1, 2))

    def temporaries(program: Callable, n: int) -> int:
        operands = [jax.ShapeDtypeStruct((1, n, heads, d_k), jnp.float32)] * 3
        analysis: Any = jax.jit(program).lower(*operands).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    return {
        f"{name}, {part}": [temporaries(program, n) for n in lengths]
        for name, attend in ways.items()
        for part, program in (("forward", attend), ("gradient", gradient(attend)))
    }


def compiled_by_length(lengths: list[int], *, d: int, heads: int) -> dict[str, list[int]]:
    """FLOP that the two halves of an attention layer compile to, for n tokens each."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    layers = lambda x, w: ((x @ w) @ w) @ w @ w
    pairs = lambda q: jnp.einsum("hts,shd->thd", jnp.einsum("thd,shd->hts", q, q), q)
    compiled = lambda fn, *args: cost(fn, *args).compiled.flops
    return {
        "projections": [compiled(layers, array(n, d), array(d, d)) for n in lengths],
        "scores and blend": [compiled(pairs, array(n, heads, d // heads)) for n in lengths],
    }


def softmax(*, seed: int, full: bool):
    """Softmax turns scores into shares; too large scores turn shares into a single choice."""
    del full
    percent = 100 * jax.nn.softmax(jnp.array([2.0, 1.0, 0.1]))
    yield row(
        "matrices-softmax-percent",
        {"percent": np.round(percent, 2), "total": round(float(percent.sum()), 9)},
        "jax.nn.softmax",
    )
    p = jax.nn.softmax(jnp.array([1.0, 2.0, 3.0]))
    yield row(
        "calculus-softmax-probabilities",
        {"p": np.round(p, 6), "total": p.sum()},
        "jax.nn.softmax",
    )
    x, kernels = map(jnp.asarray, snippet_arrays())
    q, k = (dense({"kernel": kernel}, x) for kernel in kernels[:2])
    weights = weigh(q, k)
    table = q @ k.T / 2
    yield row(
        "need-softmax-rows",
        {
            "row_sums": weights.sum(axis=1),
            "all_positive": bool((weights > 0).all()),
            "column_sums_are_one": bool(jnp.allclose(weights.sum(axis=0), 1)),
            "shift_invariant": bool(
                jnp.allclose(jax.nn.softmax(table + 7), jax.nn.softmax(table))
            ),
        },
        attention_weights,
    )
    without = lambda x: (x @ kernels[0]) @ (x @ kernels[1]).T @ (x @ kernels[2]) / 2
    factor = float((without(2 * x) / without(x)).mean())
    yield row(
        "need-softmax-only-nonlinear",
        {"degree": round(np.log2(factor)), "factor_when_input_doubles": factor},
        "jax.numpy.matmul",
    )
    draw = np.random.RandomState(0).randn
    spread = {d: float(dot(*jnp.asarray(draw(2, 20_000, d))).var()) for d in (16, 64, 256)}
    yield row(
        "need-sqrt-dk",
        {
            **{f"variance_over_dk_{d}": round(var / d, 2) for d, var in spread.items()},
            "scaled_variance": round(np.mean([var / d for d, var in spread.items()]), 1),
        },
        dot,
        "jax.numpy.var",
        note="20,000 products for each width; the second decimal hangs on the draw, here "
        "RandomState(0).",
    )
    d, keys = 512, 64
    draw = np.random.RandomState(0).randn
    pairs = [(draw(keys, d), draw(d)) for _ in range(200)]
    ks, qs = map(np.stack, zip(*pairs, strict=True))
    # Queries longer by √d_k undo the division.
    scaled, unscaled = saturation(qs, ks), saturation(qs * d**0.5, ks)
    yield row(
        "need-softmax-saturates",
        {
            "dk": d,
            "keys": keys,
            "mean_max_weight_scaled": round(float(scaled["largest"].mean()), 2),
            "mean_max_weight_unscaled": round(float(unscaled["largest"].mean()), 2),
            "entropy_scaled_nats": round(float(scaled["entropy"].mean()), 1),
            "entropy_unscaled_nats": round(float(unscaled["entropy"].mean()), 2),
            "uniform_entropy": np.log(keys),
            "median_jacobian_ratio_over_10": bool(
                np.median(scaled["jacobian"]) > 10 * np.median(unscaled["jacobian"])
            ),
        },
        attention_weights,
        note="200 draws of RandomState(0), keys before query; the last digits hang on them.",
    )
    rng = np.random.default_rng(seed)
    widths = (1, 4, 16, 64, 256, 1024)
    draws = [(rng.standard_normal((100, d)), rng.standard_normal((100, 64, d))) for d in widths]
    found = {
        label: [saturation(q * d**power, k) for d, (q, k) in zip(widths, draws, strict=True)]
        for label, power in (("divided by √d_k", 0), ("not divided", 0.5))
    }
    yield figures.saturation(widths, found)


def saturation(q, k):
    """How one-hot the weights of n queries (n, d) over n sets of keys (n, s, d) are."""
    p = np.asarray(attention_weights(q[:, None, None], k[:, :, None]))[:, 0, 0]
    jacobians = p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])
    return {
        "largest": p.max(axis=1),
        "entropy": -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(axis=1),
        "jacobian": np.linalg.norm(jacobians, axis=(1, 2)),
    }


def formula(*, seed: int, full: bool):
    """The whole formula against plain loops, and what it promises about its outputs."""
    del seed, full
    x, kernels = snippet_arrays()
    q, k, v = (x @ kernel for kernel in kernels)
    ours, weights = single_head(q, k, v), weigh(q, k)
    matrix, loops = by_matrices(q, k, v), by_loops(q, k, v)
    n, d_k = q.shape
    for claim in ("need-attention-formula", "matrices-attention-formula"):
        yield row(
            claim,
            {
                "matches_torch": bool(np.allclose(ours, matrix, rtol=1e-12)),
                "matches_loops": bool(np.allclose(ours, loops, rtol=1e-12)),
                "shape": ours.shape,
            },
            attention,
            flops=flops(
                single_head, q, k, v, formula=attention_flops(t=n, s=n, h=1, d_k=d_k, d_v=d_k)
            ),
            note=f"{INDEPENDENT} The closed form counts the two products, not the softmax.",
        )
    yield row(
        "need-weighted-mixture",
        {
            "inside_value_range": bool(
                ((ours >= v.min(axis=0)) & (ours <= v.max(axis=0))).all()
            ),
            "equals_sum": bool(
                np.allclose(
                    ours[2], sum(w * value for w, value in zip(weights[2], v, strict=True))
                )
            ),
        },
        attention,
    )
    values = jnp.array([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
    shares = jnp.array([[0.7, 0.2, 0.1]])
    yield row(
        "matrices-blend-values",
        {"blend": shares @ values},
        "jax.numpy.matmul",
        flops=flops(jnp.matmul, shares, values, formula=2 * 1 * 3 * 2),
    )
    causal = weigh(q, k, causal=True)
    yield row(
        "need-all-other-tokens",
        {
            "own_weight_positive": bool((jnp.diag(weights) > 0).all()),
            "causal_future_weight": jnp.triu(causal, 1).max(),
            "causal_first_token_attends_itself": causal[0, 0],
        },
        attention_weights,
    )
    yield figures.weights({"full": weights, "causal": causal})
