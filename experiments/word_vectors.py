"""Word vectors by counting: how often words stand together, and the SVD of that table.

The table holds the positive pointwise mutual information of word and neighbour,
max(0, ln p(a, b) / (p(a) p(b))): how many times more often than by chance they meet. A word's
vector is its row of U diag(s)^1/2, first columns only (Levy, Goldberg and Dagan 2015, section
3.3).
"""

import re
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from lintoolkit.svd import svd

WINDOW = 4  # words to either side that count as neighbours, in running text
AT_LEAST = 15  # times that a word must stand in running text


def ppmi(counts: np.ndarray) -> jax.Array:
    """Positive pointwise mutual information from a symmetric table of counts."""
    together = jnp.asarray(counts / counts.sum())
    alone = together.sum(axis=1)
    by_chance = jnp.outer(alone, alone)
    return jnp.maximum(jnp.log(jnp.where(together > 0, together / by_chance, 1)), 0)


def vectors(table: jax.Array, *, rank: int) -> jax.Array:
    """One row of `rank` numbers a word."""
    u, s, _, _ = svd(table)
    return u[:, :rank] * jnp.sqrt(s[:rank])


@cache
def reference() -> tuple[dict[str, list[str]], tuple[str, ...], np.ndarray]:
    """The language reference that ships with Python: topics, vocabulary, neighbour counts."""
    from pydoc_data.topics import topics

    words = {name: re.findall(r"[a-z_]+", text.lower()) for name, text in topics.items()}
    running = [word for text in words.values() for word in text]
    frequent = sorted(word for word, n in Counter(running).items() if n >= AT_LEAST)
    number = {word: i for i, word in enumerate(frequent)}
    ids = np.array([number.get(word, -1) for word in running])
    counts = np.zeros((len(frequent), len(frequent)))
    for distance in range(1, WINDOW + 1):
        pair = np.stack([ids[:-distance], ids[distance:]])
        a, b = pair[:, (pair >= 0).all(axis=0)]
        np.add.at(counts, (a, b), 1)
        np.add.at(counts, (b, a), 1)
    return words, tuple(frequent), counts
