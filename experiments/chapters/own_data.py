"""The same experiments on the user's own data.

They answer no claim: each adds its findings to the chapter that it belongs to.
"""

from collections.abc import Callable, Iterator
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import own
from experiments.chapters.seeing_transfer import ADAM, convnet, convnet_loss, init_convnet
from experiments.figures import own as figures
from experiments.rows import Figure
from experiments.writer import entropy_of_a_character, train_writer
from lintoolkit.cost import cost
from lintoolkit.factorize import als, predict_rating, recommend
from lintoolkit.similarity import analogy
from lintoolkit.svd import rank_for_energy, svd
from lintoolkit.train import fit
from lintoolkit.transformer import Pretrained, gpt, gpt_flops, load_gpt2

Found = Iterator[Figure]
BATCH = 32
STEPS = 600, 3000  # by default, and full
WRITER = {"width": 96, "blocks": 2}
WRITER_STEPS = 1200, 4500


def your_photographs(data: own.Photographs, *, seed: int, full: bool) -> Found:
    """Your photographs: a convnet learns to tell the folders apart."""
    generator = np.random.RandomState(seed)
    order = generator.permutation(len(data.labels))
    x, y = data.images[order].astype(np.float32) / 255, data.labels[order]
    aside = max(len(y) // 5, 1)
    steps = STEPS[full]
    drawn = generator.randint(aside, len(y), (steps, BATCH))
    batches = jnp.asarray(mirrored(generator, x[drawn])), jnp.asarray(y[drawn])
    start = init_convnet(generator, len(data.kinds))
    params = fit(convnet_loss, start, batches, optimizer=ADAM).params
    p = jax.nn.softmax(
        jax.lax.map(partial(convnet, params), jnp.asarray(x[:aside, None]))[:, 0]
    )
    right = float((p.argmax(1) == y[:aside]).mean())
    often = float(np.bincount(y[:aside]).max() / aside)
    yield figures.photographs(
        x, y, np.asarray(p), data.kinds,
        f"{len(y):,} photographs of {len(data.kinds)} kinds, grey, {own.SIDE} x {own.SIDE} "
        f"pixels; {steps:,} updates. Of the {aside:,} kept aside {right:.1%} are told right; "
        f"always saying the most frequent kind gets {often:.1%}.",
    )  # fmt: skip


def mirrored(generator: np.random.RandomState, x: np.ndarray) -> np.ndarray:
    """Half of the photographs turned left to right."""
    turn = generator.rand(*x.shape[:2], 1, 1) < 0.5
    return np.where(turn, x[..., ::-1], x)


def your_ratings(data: own.Ratings, *, seed: int, full: bool) -> Found:
    """Your ratings: factors fitted to nine tenths of them, asked for the rest."""
    order = np.random.RandomState(seed).permutation(len(data.values))
    aside, seen = np.split(order, [max(len(order) // 10, 1)])
    shape = len(data.user_names), len(data.item_names)
    rank = min(16 if full else 8, *shape)
    values = data.values
    model = als(
        jax.random.key(seed), data.users[seen], data.items[seen], values[seen], shape=shape,
        rank=rank, l2=3.0, iterations=15,
    )  # fmt: skip
    predicted = predict_rating(
        model, jnp.asarray(data.users[aside]), jnp.asarray(data.items[aside])
    )
    rmse = lambda guess: float(np.sqrt(np.mean((guess - values[aside]) ** 2)))
    user = int(np.bincount(data.users).argmax())
    rated = np.unique(data.items[data.users == user])
    k = min(5, shape[1] - len(rated))
    best = recommend(model, user, k=max(k, 1), exclude=jnp.asarray(rated))
    told = [
        (data.item_names[int(item)], float(score))
        for item, score in zip(best.indices[:k], best.scores[:k], strict=True)
    ]
    yield figures.ratings(
        values[aside], np.asarray(predicted), data.user_names[user], told,
        f"{len(values):,} ratings of {shape[1]:,} items by {shape[0]:,} users. {rank} factors "
        f"fitted to nine tenths predict the {len(aside):,} others with an RMSE of "
        f"{rmse(np.asarray(predicted)):.3f}; saying the mean to all has "
        f"{rmse(values[seen].mean()):.3f}.",
    )  # fmt: skip


def your_text(data: own.Text, *, seed: int, full: bool) -> Found:
    """Your text: a GPT reads it character by character, and writes on."""
    source = lambda: data
    steps = WRITER_STEPS[full]
    run = train_writer(**WRITER, steps=steps, seed=seed, source=source, start="")
    unigram = entropy_of_a_character(source)
    yield figures.text(
        np.asarray(run.losses), unigram, run.samples,
        f"{data.numbers.size:,} characters of {len(data.letters)} kinds. After {steps:,} steps "
        f"a character of the part kept aside costs {run.kept:.2f} nats; guessing by how often "
        f"each comes, {unigram:.2f}.",
    )  # fmt: skip


def your_weights(
    model: Pretrained, vocabulary: dict[str, int] | None, *, seed: int, full: bool
) -> Found:
    """Your weights: how large they are, what a pass costs, and how much rank they need."""
    del seed
    config, blocks = model.config, model.params["blocks"]
    chosen = (
        range(config.blocks) if full else sorted({0, config.blocks // 2, config.blocks - 1})
    )
    kernels = {
        **{
            name: blocks["attention"][name]["kernel"]
            for name in ("query", "key", "value", "out")
        },
        "up": blocks["mlp"][0]["kernel"],
        "down": blocks["mlp"][1]["kernel"],
    }
    needed = {
        name: [int(rank_for_energy(svd(jnp.asarray(kernel[i])).s, energy=0.95)) for i in chosen]
        for name, kernel in kernels.items()
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    t = min(config.context, 1024)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), model.params)
    tokens = jax.ShapeDtypeStruct((1, t), jnp.int32)
    counted = cost(partial(gpt, config=config), shapes, tokens).lowered.matmul_flops
    caption = (
        f"{count:,} parameters in {config.blocks} blocks of width {config.width}. One pass "
        f"over {t:,} tokens takes {counted:,} FLOPs in products, by the closed form "
        f"{gpt_flops(config=config, n=1, t=t):,}."
    )
    answers = nearest_to_queen(model, vocabulary) if vocabulary else []
    if answers:
        caption += f" King - man + woman is nearest to {', '.join(answers)}."
    yield figures.weights(needed, list(chosen), config.width, caption)


def nearest_to_queen(model: Pretrained, vocabulary: dict[str, int]) -> list[str]:
    """The five tokens nearest to king - man + woman, where the vocabulary has the words."""
    asked = [vocabulary.get(f"Ġ{word}") for word in ("man", "king", "woman")]
    table = jnp.asarray(model.params["tokens"]["embedding"], jnp.float32)
    if len(table) < 8 or not all(n is not None and 0 <= n < len(table) for n in asked):
        return []
    names = {number: token.replace("Ġ", " ").strip() for token, number in vocabulary.items()}
    found = analogy(table, *(jnp.array(number) for number in asked), k=5)
    return [names.get(int(number), "?") for number in found]


def experiments_of(
    *,
    images: Path | None = None,
    ratings: Path | None = None,
    text: Path | None = None,
    weights: Path | None = None,
) -> dict[str, Callable[..., Any]]:
    """Read what is given, all of it, and return the experiments on it by chapter."""
    found: dict[str, partial] = {}
    if images:
        found["seeing"] = partial(your_photographs, own.read_photographs(images))
    if ratings:
        found["recommenders"] = partial(your_ratings, own.read_ratings(ratings))
    if text:
        found["language"] = partial(your_text, own.read_text(text))
    if weights:
        try:
            model = load_gpt2(weights)
        except (OSError, TypeError) as error:
            raise ValueError(str(error)) from None
        folder = weights if weights.is_dir() else weights.parent
        vocabulary = own.read_vocabulary(folder / "vocab.json")
        found["scale"] = partial(your_weights, model, vocabulary)
    return {chapter: update_wrapper(run, run.func) for chapter, run in found.items()}
