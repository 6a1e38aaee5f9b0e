"""What training and natural text do to word vectors: who moves closer to whom."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import words_learned as figures
from experiments.rows import flops, row
from experiments.skipgram import EVERY, neighbours, train_skipgram
from experiments.word_vectors import WINDOW, ppmi, reference, vectors
from lintoolkit.similarity import cosine_similarity, dot_flops, top_k

OPPOSITES = (
    "true false", "left right", "first last", "start end", "before after", "local global",
    "same different", "mutable immutable", "with without", "get set", "more less",
    "most least", "always never",
)  # fmt: skip
QUESTIONS = {
    "catch an exception": "handler exception raised try except",
    "go through a list": "loop iterate items sequence for",
    "make a class": "class definition inheritance metaclass",
    "compare two values": "compare equal less than operands",
}


def drift(*, seed: int, full: bool):
    """Words move as they are trained: those used alike together, opposites too."""
    del seed, full
    words, _ = neighbours()
    trained = train_skipgram()
    losses = trained.losses
    v, d = trained.history["embedding"].shape[1:]
    product = flops(
        lambda e, o: e @ o,
        trained.history["embedding"][0],
        trained.history["output"][0],
        formula=2 * v * d * v,
    )
    yield row(
        "sense-language-training",
        {
            "loss_falls": bool(losses[-1] < losses[0]),
            "initial_loss": losses[0],
            "log_vocabulary": math.log(len(words)),
            "final_loss": losses[-1],
        },
        train_skipgram,
        flops=product,
        note="The FLOP are of the product that scores every word against every neighbour.",
    )
    number = {word: i for i, word in enumerate(words)}
    pairs = (("hot", "cold"), ("king", "queen"), ("hot", "king"))
    traces = {
        f"{a} and {b}": cosine_similarity(*(
            trained.history["embedding"][:, number[word]] for word in (a, b)
        ))
        for a, b in pairs
    }  # fmt: skip
    hot_cold, king_queen, hot_king = traces.values()
    yield row(
        "sense-similar-drift-together",
        {
            "king_queen_start": round(float(king_queen[0]), 2),
            "king_queen_peak": round(float(king_queen.max()), 2),
            "king_queen_end": round(float(king_queen[-1]), 2),
            "hot_cold_start": round(float(hot_cold[0]), 2),
            "hot_cold_end": round(float(hot_cold[-1]), 2),
            "hot_king_end_below_zero": bool(hot_king[-1] < 0),
            "both_pairs_moved_closer": bool(
                (king_queen[-1] > king_queen[0]) & (hot_cold[-1] > hot_cold[0])
            ),
        },
        train_skipgram,
        cosine_similarity,
        flops=flops(
            lambda a, b: a @ b,
            trained.history["embedding"][0, 0],
            trained.history["embedding"][0, 1],
            formula=dot_flops(n=1, d=d),
        ),
        holds=bool(
            king_queen[-1] > king_queen[0] + 0.25
            and king_queen[-1] > king_queen.max() - 0.1
            and abs(hot_cold[0]) < 0.5
            and hot_cold[-1] > hot_cold[0] + 0.5
        ),
        note="Where a pair starts hangs on the draw, and how far king and queen come in 400 "
        "steps on how often the sentences, which are our own, tell them apart: these are not "
        "held to the ledger's, but to how far each pair comes. Words of the same use end "
        "nearer than they began, of other uses apart. The FLOP are of one dot product.",
        not_compared=(
            "king_queen_start",
            "king_queen_peak",
            "king_queen_end",
            "hot_cold_start",
        ),
    )
    yield figures.traces(np.asarray(losses), traces, EVERY)


def natural_text(*, seed: int, full: bool):
    """The same on Python's own language reference: neighbours, opposites, a search."""
    del seed, full
    topics, words, counts = reference()
    number = {word: i for i, word in enumerate(words)}
    table = vectors(ppmi(counts), rank=50)
    nearest = top_k(table, table, k=6).indices[:, 1:]  # the first is the word itself
    shown = ("true", "float", "raise", "list", "left", "import", "before")
    found = {
        word: [words[i] for i in np.asarray(nearest[number[word]])]
        for word in shown
        if word in number
    }
    product = flops(lambda q, x: x @ q, table[0], table, formula=dot_flops(n=len(words), d=50))
    note = (
        f"Python's pydoc_data.topics: {sum(map(len, topics.values())):,} words, of them "
        f"{len(words)} frequent ones, {WINDOW} neighbours to either side, 50 numbers a word."
    )
    yield row(
        "matrices-pydoc-neighbours",
        {f"nearest_to_{word}": found[word][0] for word in ("true", "float", "raise")}
        | {"topics_found": search(table, number, topics)},
        vectors,
        top_k,
        flops=product,
        note=f"{note} The FLOP are of one word's dot products with all.",
    )
    yield figures.neighbour_table(found)

    known = [pair.split() for pair in OPPOSITES]
    known = [pair for pair in known if pair[0] in number and pair[1] in number]
    cosines = jax.vmap(cosine_similarity, (0, None))(table, table)
    a, b = np.array([[number[word] for word in pair] for pair in known]).T
    opposite = cosines[a, b]
    every = cosines[jnp.triu_indices(len(words), 1)]
    small, small_counts = neighbours()
    own = vectors(ppmi(small_counts), rank=16)
    hot, cold = small.index("hot"), small.index("cold")
    history = train_skipgram().history["embedding"]
    along = cosine_similarity(history[:, hot], history[:, cold])
    yield row(
        "sense-opposites-drift-apart",
        {
            "hot_cold_cosine": cosine_similarity(own[hot], own[cold]),
            "trained_hot_cold_moved_closer": bool(along[-1] > along[0]),
            "real_text_opposite_pairs": len(known),
            "mean_cosine_of_opposites": round(float(opposite.mean()), 3),
            "mean_cosine_of_all_pairs": round(float(every.mean()), 3),
            "opposites_above_the_median_pair": (opposite > jnp.median(every)).sum(),
        },
        vectors,
        cosine_similarity,
        train_skipgram,
        flops=product,
        note=f"{note} The thirteen pairs of opposites are ours.",
    )
    yield figures.opposites(
        np.asarray(every),
        {" / ".join(p): float(c) for p, c in zip(known, opposite, strict=True)},
    )


def search(
    table: jax.Array, number: dict[str, int], topics: dict[str, list[str]]
) -> dict[str, str]:
    """The topic of the reference that is nearest to each question.

    A text is the sum of its words' vectors, each weighted by how rare it is among topics.
    """
    held = np.zeros((len(topics), len(number)))
    asked = np.zeros((len(QUESTIONS), len(number)))
    for rows, texts in ((held, topics.values()), (asked, map(str.split, QUESTIONS.values()))):
        for line, text in zip(rows, texts, strict=True):
            np.add.at(line, [number[word] for word in text if word in number], 1)
    rarity = np.log(len(held) / np.maximum((held > 0).sum(axis=0), 1))
    queries, items = (jnp.asarray(rows * rarity) @ table for rows in (asked, held))
    names, best = list(topics), top_k(queries, items, k=1).indices[:, 0]
    return dict(zip(QUESTIONS, (names[i] for i in np.asarray(best)), strict=True))
