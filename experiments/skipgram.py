"""Word vectors learned from the project's own ninety sentences.

Skip-gram: from one word guess another of its sentence. With so small a corpus every pair is
seen at every step, so training is plain gradient descent on a table of counts.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.data import corpus
from lintoolkit.train import fit

WIDTH = 32
RATE = 0.5
STEPS = 400
EVERY = 10  # steps between two snapshots


class Trained(NamedTuple):
    """A training run: `losses` before the first step and after each of the 400.

    `history` has the parameters before the first step and after every tenth on a leading
    axis: the words' vectors ``embedding`` (words, width) and the ``output`` table that scores
    neighbours (width, words).
    """

    losses: Float[Array, " steps+1"]
    history: dict[str, Any]


@cache
def neighbours() -> tuple[tuple[str, ...], np.ndarray]:
    """The corpus's words, and how often each pair of them shares a sentence."""
    words = tuple(sorted({word for sentence in corpus() for word in sentence}))
    number = {word: i for i, word in enumerate(words)}
    counts = np.zeros((len(words), len(words)))
    for sentence in corpus():
        ids = [number[word] for word in sentence]
        counts[np.ix_(ids, ids)] += 1 - np.eye(len(ids))
    return words, counts


def skipgram_loss(params, pairs: Float[Array, "v v"]) -> Float[Array, ""]:
    """Mean surprise at a neighbour given a word, over all pairs; `pairs` are probabilities."""
    return -jnp.sum(pairs * jax.nn.log_softmax(params["embedding"] @ params["output"]))


@cache
def train_skipgram() -> Trained:
    """Full-batch gradient descent from small random tables."""
    words, counts = neighbours()
    state = np.random.RandomState(0)
    params = {
        "embedding": jnp.asarray(0.1 * state.randn(len(words), WIDTH)),
        "output": jnp.asarray(0.1 * state.randn(WIDTH, len(words))),
    }
    pairs = jnp.asarray(counts / counts.sum())
    batches = jnp.broadcast_to(pairs, (STEPS // EVERY, EVERY, *pairs.shape))
    sgd = optax.sgd(RATE)

    def stretch(carry, batches):
        run = fit(skipgram_loss, carry[0], batches, optimizer=sgd, opt_state=carry[1])
        return (run.params, run.opt_state), (run.params, run.losses)

    (last, _), (history, losses) = jax.lax.scan(stretch, (params, sgd.init(params)), batches)
    return Trained(
        jnp.append(losses.ravel(), skipgram_loss(last, pairs)),
        jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params, history),
    )
