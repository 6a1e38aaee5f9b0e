"""Changing a trained network by two thin matrices beside each frozen one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.classifier import (
    SGD,
    accuracy,
    cross_entropy,
    digit_split,
    train_classifier,
)
from experiments.figures import lora as figures
from experiments.rows import flops, row
from lintoolkit import lora
from lintoolkit.svd import svd
from lintoolkit.train import fit

WIDTH, LAYER = 256, "1/kernel"
RANKS = (1, 2, 4, 8, 16)
ORIENTATION = (
    "Written for W x. Here y = x K with K = Wᵀ, so the articles' A and B are the transposes of "
    "the library's."
)


def formula(*, seed: int, full: bool):
    """W' = W + B A: the merged matrix and the side path give the same vector."""
    del full
    d, r = 64, 4
    draw = np.random.RandomState(seed)
    kernel, x = jnp.asarray(draw.randn(d, d)), jnp.asarray(draw.randn(16, d))
    layer = lambda kernel, x: x @ kernel
    fresh = lora.init(jax.random.key(seed), kernel, r, where="")
    tuned = jax.tree.map(lambda leaf: jnp.asarray(draw.randn(*leaf.shape)), fresh)
    merged = lora.merge(kernel, tuned)
    values = svd(merged - kernel).s
    same = jnp.allclose(lora.lift(layer)(kernel, tuned, x), layer(merged, x))
    found = {
        "rank": jnp.sum(values > 1e-10 * values[0]),
        "merged_equals_side_path": bool(same),
        "zero_B_is_identity": bool(jnp.array_equal(lora.merge(kernel, fresh), kernel)),
        "parameters": numbers(fresh),
        "full": kernel.size,
    }
    counted = flops(
        lora.lift(layer), kernel, tuned, x, formula=lora.lift_flops(n=16, d_in=d, d_out=d, r=r)
    )
    for claim in ("need-lora-formula", "matrices-lora-formula"):
        yield row(
            claim,
            found,
            lora.init,
            lora.merge,
            lora.lift,
            svd,
            flops=counted,
            note=f"{ORIENTATION} The closed form counts the products of 16 vectors; the "
            "program has one more operation for each number where the two paths meet.",
        )


def counts(*, seed: int, full: bool):
    """What the two thin matrices save, counted on shapes of the articles' size."""
    del full
    key = jax.random.key(seed)
    d, r = 4096, 8
    kernel = jax.ShapeDtypeStruct((d, d), "float32")
    (low,) = adapters(key, kernel, r).values()
    few = lora.parameters(d_in=d, d_out=d, r=r)
    assert few == numbers(low)
    apart = lora.lift_flops(n=1, d_in=d, d_out=d, r=r)
    frozen = lora.lift_flops(n=1, d_in=d, d_out=d, r=0)
    vector = jax.ShapeDtypeStruct((d,), "float32")
    yield row(
        "matrices-lora-count",
        {
            "full": kernel.size,
            "lora": few,
            "factor": kernel.size / few,
            "general": "d/(2r)" if kernel.size / few == d / (2 * r) else "another",
            "extra_macs_share": (apart - frozen) / frozen,
            "flops_unmerged": apart,
        },
        lora.parameters,
        lora.lift,
        lora.lift_flops,
        flops=flops(
            lora.lift(lambda kernel, x: x @ kernel), kernel, {"": low}, vector, formula=apart
        ),
        note="The closed form counts the products; the program adds up the two paths besides.",
    )
    b, a = (jax.ShapeDtypeStruct(x.shape[::-1], x.dtype) for x in (low.b, low.a))
    product = jax.eval_shape(jnp.matmul, b, a)
    yield row(
        "matrices-two-skinny",
        {"B": b.shape, "A": a.shape, "product": product.shape},
        lora.init,
        note=ORIENTATION,
    )
    # Adam in mixed precision: weights and gradients in half, their sum and two moments whole.
    halves, wholes = jnp.dtype("bfloat16").itemsize, jnp.dtype("float32").itemsize
    each = 2 * halves + 3 * wholes
    held = 70e9 * each
    attention = {
        name: jax.ShapeDtypeStruct((80, 8192, 8192), "bfloat16")
        for name in ("query", "key", "value", "out")
    }
    yield row(
        "matrices-full-finetune-cost",
        {
            "bytes_per_parameter_adam_mixed": each,
            "terabytes": held / 1e12,
            "h100_80gb": math.ceil(held / 80e9),
            "lora_r8_trainable_all_square_d8192": numbers(
                adapters(key, attention, r, layout="b i o")
            ),
        },
        lora.init,
        note="Activations come on top, with adapters as without. With adapters the frozen "
        "weights stay, two bytes each; what falls away is the other 14.",
    )


def fine_tuning(*, seed: int, full: bool):
    """A classifier learns to read digits lying on their side by its middle layer alone."""
    del full
    split = digit_split()
    base = train_classifier(split, widths=(64, WIDTH, WIDTH, 10), seed=0).params
    turned = split._replace(
        train_x=quarter_turn(split.train_x), test_x=quarter_turn(split.test_x)
    )
    score = lambda params: accuracy(params, turned.test_x, turned.test_y)
    order = np.random.RandomState(0)
    epochs = np.stack([order.permutation(1200).reshape(-1, 20) for _ in range(15)])
    rows = epochs.reshape(-1, 20)
    batches = turned.train_x[rows], turned.train_y[rows]

    kernel = base[1]["kernel"]
    whole = lambda kernel, batch: cross_entropy(with_middle(base, kernel), batch)
    tuned = with_middle(base, fit(whole, kernel, batches, optimizer=SGD).params)
    change = tuned[1]["kernel"] - kernel
    values = svd(change).s
    yield row(
        "matrices-lora-low-rank-change",
        {
            "width": WIDTH,
            "top8_of_256_energy": jnp.sum(values[:8] ** 2) / jnp.sum(values**2),
            "error_of_the_nearest_rank_8": lora.residual(
                base, tuned, lora.extract(base, tuned, where=LAYER, rank=8)
            )[LAYER],
        },
        svd,
        lora.extract,
        lora.residual,
        fit,
        note="15 epochs of plain SGD at rate 0.1, batches of 20. The share falls slowly with "
        "more epochs, and Adam spreads its steps over more directions.",
    )
    noise = np.random.RandomState(seed).randn(*change.shape)
    noise *= np.linalg.norm(change) / np.linalg.norm(noise)
    yield figures.spectrum(values, svd(jnp.asarray(noise)).s)

    beside = lora.lift(cross_entropy, strict=True)
    loss = lambda adapters, batch: beside(base, adapters, batch)

    def reached(rank: int, draw: int = 0) -> float:
        fresh = lora.init(jax.random.key(draw), base, rank, where=LAYER)
        trained = fit(loss, fresh, batches, optimizer=SGD).params
        return float(score(lora.merge(base, trained)))

    scores = {rank: reached(rank) for rank in RANKS}
    sizes = {rank: numbers(adapters(jax.random.key(0), kernel, rank)) for rank in RANKS}
    before, best = float(score(base)), float(score(tuned))
    yield row(
        "matrices-lora-quality",
        {
            "factor_at_r8": kernel.size / sizes[8],
            "base_on_new_task": before,
            "full": best,
            "r8": scores[8],
            "r8_within_3_points_of_full": abs(best - scores[8]) <= 0.03,
            "r1_at_most_60pct": scores[1] <= 0.6,
            "by_rank": scores,
            "r1_other_draws": [reached(1, draw) for draw in (1, 2)],
        },
        lora.init,
        lora.lift,
        lora.merge,
        fit,
        optax.sgd,
        note="The same 15 epochs, rate and order of examples for every rank and for the layer "
        "itself. What rank 1 reaches hangs on its draw and on how long it learns.",
    )
    yield figures.ranks(scores, sizes, before=before, full=best, full_size=kernel.size)


def quarter_turn(pixels: jax.Array) -> jax.Array:
    """Each digit of 8 x 8 pixels turned to the left."""
    images = pixels.reshape(-1, 8, 8)
    return jnp.rot90(images, axes=(1, 2)).reshape(pixels.shape)


def with_middle(params: tuple, kernel: jax.Array) -> tuple:
    """The network with another kernel in its middle layer."""
    first, middle, last = params
    return first, middle | {"kernel": kernel}, last


def adapters(key: jax.Array, params, rank: int, **options) -> dict[str, lora.LowRank]:
    """Adapters of every array, as shapes."""
    return jax.eval_shape(lambda key: lora.init(key, params, rank, where="", **options), key)


def numbers(tree) -> int:
    """How many numbers arrays hold together."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


EXPERIMENTS = (formula, counts, fine_tuning)
