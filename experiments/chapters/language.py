"""What a language model computes, what of it is matrix products, and how it learns."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.figures import language as figures
from experiments.ledger import claims
from experiments.published import (
    COUNTED,
    MODELS,
    attention_matrices,
    forward_macs,
    matmul_share,
    mlp_matrices,
    other_operations,
    parameters,
)
from experiments.rows import flops, row
from experiments.skipgram import EVERY, STEPS, neighbours, skipgram_loss, train_skipgram
from experiments.writer import BATCH, CONTEXT, entropy_of_a_character, shape, text, train_writer
from lintoolkit.attention import init_multi_head, multi_head_attention
from lintoolkit.cost import cost
from lintoolkit.layers import layer_norm, sinusoidal_positions
from lintoolkit.similarity import dot, dot_flops
from lintoolkit.train import fit
from lintoolkit.transformer import (
    block,
    generate,
    gpt,
    gpt_flops,
    gpt_parts,
    init_block,
    init_gpt,
)

GPT2, GPT3, LLAMA = MODELS["gpt2-small"], MODELS["gpt3"], MODELS["llama-7b"]


def operations(*, seed: int, full: bool):
    """Nearly all operations of a transformer are matrix products, though not all."""
    del full
    wide = replace(gpt_of_width(LLAMA.width), blocks=LLAMA.blocks, heads=LLAMA.heads)
    wide = replace(wide, vocabulary=LLAMA.vocabulary)
    forward = {
        "d64_n128": matmul_share(gpt_block(64, heads=4), tokens=128),
        "gpt2_small": matmul_share(GPT2, tokens=GPT2.context),
        "llama_width_4096": matmul_share(wide, tokens=LLAMA.context),
        "gpt3": matmul_share(GPT3, tokens=GPT3.context),
    }
    forward = {name: np.round(share, 4) for name, share in forward.items()}
    widths = range(8, 1024, 8)
    enough = next(d for d in widths if matmul_share(gpt_of_width(d), tokens=2 * d) >= 0.98)
    step = 512 * GPT2.context
    yield row(
        "matrices-98-percent",
        {
            "forward_share": forward,
            "width_reaching_98pct_with_context_2d": enough,
            "gpt2_small_training_share": np.round(training_share(GPT2, tokens=step), 4),
            "tokens_per_step": step,
        },
        matmul_share,
        training_share,
        fitted=True,
        note="What counts outside the products is a convention: 6 operations for a score, 7 "
        "for a number in a norm, 8 in a GELU, 5 in the last softmax. It was chosen with the "
        "ledger's four digits in view, as were the shapes that it leaves open: "
        "width 4096 is GPT's block at LLaMA's size; LLaMA's own, gated and without "
        f"biases, has {matmul_share(LLAMA, tokens=LLAMA.context):.4f}. Widths are searched in "
        "steps of 8, with GPT-2's depth and vocabulary and heads of 64.",
    )
    yield figures.shares(*share_by_width())
    yield row(
        "sense-ai-is-vector-matrix-ops",
        {"gpt2_small_forward_share": forward["gpt2_small"]},
        matmul_share,
        fitted=True,
        note=COUNTED,
    )
    yield row(
        "need-everything-linear-algebra",
        {
            "matmul_share_gpt2small_4096_gpt3": [
                forward[name] for name in ("gpt2_small", "llama_width_4096", "gpt3")
            ]
        },
        matmul_share,
        fitted=True,
        note=COUNTED,
    )
    yield row(
        "calculus-load-bearing",
        {"gpt3_matmul_share": forward["gpt3"]},
        matmul_share,
        fitted=True,
        note=COUNTED,
    )
    yield row(
        "multiply-core-operation",
        {"forward_share": forward},
        matmul_share,
        holds=all(share > 0.95 for share in forward.values()),
        note=COUNTED,
    )
    in_a_block = attention_matrices(GPT2) + mlp_matrices(GPT2)
    matrices = GPT2.blocks * len(in_a_block) + 1  # and the output's
    yield row(
        "calculus-stack-twelve",
        {
            "blocks": GPT2.blocks,
            "products_with_weights": matrices,
            "products_with_activations": 2 * GPT2.blocks,
            "parameters": parameters(GPT2),
        },
        attention_matrices,
        mlp_matrices,
        parameters,
        holds=matrices > 12,
        note="Scores and blended values count once a block here, not once a head; query, key "
        "and value apart, which GPT-2's own code takes at once: 49 products then.",
    )
    generator = np.random.default_rng(seed)
    params = init_multi_head(jax.random.key(seed), 16, 4, dtype=jnp.float64)
    x = jnp.asarray(generator.standard_normal((6, 16)))
    order = generator.permutation(6)
    attend = lambda x: multi_head_attention(params, x, heads=4)
    scale = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    yield row(
        "need-transformer-pure-linear-algebra",
        {
            "permutation_equivariant": bool(jnp.allclose(attend(x[order]), attend(x)[order])),
            "layernorm_ignores_scale": bool(
                jnp.allclose(layer_norm(scale, 7 * x), layer_norm(scale, x), atol=1e-5)
            ),
        },
        multi_head_attention,
        layer_norm,
        note="A linear map would give 7 times as much for 7 times the input.",
    )


def gpt_block(width: int, *, heads: int):
    """One transformer block of this width, without a vocabulary."""
    return replace(GPT2, blocks=1, width=width, hidden=4 * width, heads=heads, vocabulary=0)


def gpt_of_width(width: int):
    """GPT-2 small at another width, with heads of 64 and at least one."""
    return replace(GPT2, width=width, hidden=4 * width, heads=max(1, width // 64))


def training_share(model, *, tokens: int) -> float:
    """Matrix products' share of one update: the backward pass doubles both, AdamW is extra."""
    sequences = tokens // model.context
    products = 3 * 2 * forward_macs(model, tokens=model.context) * sequences
    others = 3 * other_operations(model, tokens=model.context) * sequences
    return products / (products + others + adamw_operations() * parameters(model))


@cache
def adamw_operations() -> float:
    """Operations of AdamW for one parameter, from its program for a thousand."""
    adamw, w = optax.adamw(1e-3), jnp.ones(1000, jnp.float32)
    counted = cost(lambda g, state, w: w + adamw.update(g, state, w)[0], w, adamw.init(w), w)
    return counted.lowered.flops / w.size


def share_by_width():
    """Widths, and the share in one block by the closed count and by the lowered program."""
    widths = (32, 64, 128, 256, 512, 1024)
    closed, lowered = [], []
    for d in widths:
        heads = max(1, d // 64)
        closed.append(matmul_share(gpt_block(d, heads=heads), tokens=2 * d))
        counted = cost(lambda p, x, h=heads: block(p, x, heads=h), *block_arguments(d, heads))
        lowered.append(counted.lowered.matmul_flops / counted.lowered.flops)
    return widths, closed, lowered


def block_arguments(d: int, heads: int):
    """Shapes of a block's parameters and of 2 d tokens: counting needs no numbers."""
    params = jax.eval_shape(lambda key: init_block(key, d, heads), jax.random.key(0))
    return params, jax.ShapeDtypeStruct((2 * d, d), jnp.float32)


def reading(*, seed: int, full: bool):
    """How long the article is."""
    del seed, full
    claim = claims()["calculus-reading-stats"]
    minutes, stated = (
        int(part.split()[0].replace(",", "")) for part in claim.stated.split(", ")
    )
    yield row(
        "calculus-reading-stats",
        {"words_per_minute": np.round(stated / minutes)},
        note="The article's text is not shipped, so its words are not counted here.",
        not_compared=("words_in_file", "stated_over_counted"),
    )


def objective(*, seed: int, full: bool):
    """From scores to probabilities to a loss, and where position comes from."""
    del seed, full
    logits = jnp.array([2.0, 1.0, 0.0])
    at = lambda temperature: jax.nn.softmax(logits / temperature)
    yield row(
        "calculus-temperature",
        {
            "t1": np.round(at(1.0), 4),
            "t0_8": np.round(at(0.8), 4),
            "sharper": bool(at(0.8).max() > at(1.0).max()),
        },
        "jax.nn.softmax",
        flops=flops(lambda z: jax.nn.softmax(z / 0.8), logits),
    )
    yield figures.temperature({t: np.asarray(at(t)) for t in (0.3, 0.8, 2.0)})
    two, targets = jnp.array([[2.0, 0.5, -1.0], [0.1, 3.0, 0.2]]), jnp.array([0, 1])
    entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = entropy(two, targets).mean()
    yield row(
        "calculus-next-token-cross-entropy",
        {
            "loss": loss,
            "perplexity": jnp.exp(loss),
            "uniform_over_50257": entropy(jnp.zeros(GPT2.vocabulary), jnp.array(0)),
        },
        "optax.softmax_cross_entropy_with_integer_labels",
        flops=flops(lambda z: entropy(z, targets).mean(), two),
    )
    table = sinusoidal_positions(50, 16, dtype=jnp.float64)
    products = np.asarray(table @ table.T)
    by_offset = [np.diagonal(products, offset) for offset in range(50)]
    yield row(
        "calculus-positional-encodings",
        {
            "shape": table.shape,
            "dot_depends_only_on_offset": all(np.allclose(line, line[0]) for line in by_offset),
            "self_dot": products[0, 0],
            "learned_table_gpt2": GPT2.positions * GPT2.width,
        },
        sinusoidal_positions,
        flops=flops(lambda table: table @ table.T, table, formula=2 * 50 * 16 * 50),
    )


def operation_table(*, seed: int, full: bool):
    """The article's seven operations, each with a function and its price."""
    del seed, full
    x, w = jnp.ones((4, 8), jnp.float32), jnp.ones((8, 3), jnp.float32)
    labels = jnp.zeros(4, int)
    entropy = lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels).mean()
    clip = lambda g: optax.clip_by_global_norm(1.0).update(g, optax.EmptyState())[0]
    table: dict[str, tuple[Callable, tuple, int | None]] = {
        "matmul": (jnp.matmul, (x, w), 2 * 4 * 8 * 3),
        "dot": (dot, (x[0], x[1]), dot_flops(n=1, d=8)),
        "transpose": (jnp.transpose, (x,), 0),
        "softmax": (jax.nn.softmax, (x,), None),
        "cross_entropy": (entropy, (x,), None),
        "grad": (jax.grad(lambda w: entropy(x @ w)), (w,), None),
        "clip_by_global_norm": (clip, (w,), None),
    }
    cells = {name: flops(fn, *args, formula=law) for name, (fn, args, law) in table.items()}
    prices = {
        name: {stage: cell[stage] for stage in ("formula", "lowered", "compiled", "xla")}
        for name, cell in cells.items()
    }
    yield row(
        "calculus-operation-table",
        {"rows": len(table), "capabilities": list(table), "flops": prices},
        "jax.numpy.matmul",
        dot,
        "jax.numpy.transpose",
        "jax.nn.softmax",
        "optax.softmax_cross_entropy_with_integer_labels",
        "jax.grad",
        "optax.clip_by_global_norm",
        note="On 4 rows of width 8 and, where there is a weight, an 8 x 3 one.",
    )


def learning(*, seed: int, full: bool):
    """Guess, measure, adjust, repeat: word vectors from ninety sentences."""
    del full
    words, counts = neighbours()
    trained = train_skipgram()
    pairs = counts / counts.sum()
    known = pairs.sum(1, keepdims=True)
    floor = -np.sum(pairs * np.log(pairs / known, where=pairs > 0, out=np.zeros_like(pairs)))
    params = jax.tree.map(lambda leaf: leaf[0], trained.history)
    v, d = params["embedding"].shape
    yield row(
        "calculus-cycle-trains-language-model",
        {
            "loss_start": trained.losses[0],
            "chance": np.log(len(words)),
            "loss_end": trained.losses[-1],
        },
        skipgram_loss,
        train_skipgram,
        flops=flops(lambda p: p["embedding"] @ p["output"], params, formula=2 * v * d * v),
        fitted=True,
        note="Our own ninety sentences: the ledger's are not published. Their 63 words and the "
        "rate, 0.5, on which it depends how far 400 steps lead, were chosen to meet the "
        "ledger's losses; guessing from one word, no model can go below the entropy of its "
        f"neighbours, {floor:.2f}.",
    )
    moments = (0, STEPS // 2, STEPS)
    samples = [sample(trained, words, step=step, seed=seed) for step in moments]
    yield figures.learning(np.asarray(trained.losses), floor, len(words), moments, samples)


def sample(trained, words, *, step: int, seed: int) -> str:
    """Words drawn one after another, each as a neighbour of the last, starting at "king"."""
    generator = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: leaf[step // EVERY], trained.history)
    chances = np.asarray(jax.nn.softmax(params["embedding"] @ params["output"]))
    text = ["king"]
    for _ in range(6):
        text.append(str(generator.choice(words, p=chances[words.index(text[-1])])))
    return " ".join(text)


def writing(*, seed: int, full: bool):
    """A GPT that reads Python's reference character by character, at two sizes, and writes."""
    sizes = {"small": (32, 1), "larger": (128, 3) if full else (96, 2)}
    steps = 4500 if full else 1200
    runs = {
        name: train_writer(width=width, blocks=blocks, steps=steps, seed=seed)
        for name, (width, blocks) in sizes.items()
    }
    unigram, kept = entropy_of_a_character(), {name: run.kept for name, run in runs.items()}
    configs = {
        name: shape(width=width, blocks=blocks) for name, (width, blocks) in sizes.items()
    }
    config = configs["larger"]
    params = jax.eval_shape(lambda key: init_gpt(key, config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((BATCH, CONTEXT), jnp.int32)
    yield row(
        "sense-llm-is-scaled-process",
        {
            "parameters": {
                name: sum(part.parameters for part in gpt_parts(config).values())
                for name, config in configs.items()
            },
            "characters": len(text()[0]),
            "loss_on_text_kept_aside": kept,
            "entropy_of_a_character": unigram,
        },
        gpt,
        fit,
        generate,
        holds=kept["larger"] < kept["small"] < unigram - 0.5,
        flops=flops(
            partial(gpt, config=config),
            params,
            tokens,
            formula=gpt_flops(config=config, n=BATCH, t=CONTEXT),
        ),
        note=f"Small scale is all that can be shown here: two GPTs, {steps} steps on the "
        "reference that ships with Python, the same batches for both. Losses are nats a "
        "character; guessing by how often each comes costs the entropy.",
    )
    yield figures.writing(
        {name: np.asarray(run.losses) for name, run in runs.items()},
        unigram,
        runs["larger"].samples,
    )


EXPERIMENTS = (operations, objective, operation_table, learning, writing, reading)
