"""The digit classifier that several experiments look into: 64 pixels, 32 units, 10 classes.

The draws are NumPy's legacy generator with fixed seeds, as in the ledger, so that every
number the experiments take from this network can be compared with it.
"""

from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.data import digits
from lintoolkit.layers import mlp
from lintoolkit.train import fit

WIDTHS = (64, 32, 10)
# One object for all networks: a new optimizer is a new static argument, hence a compilation.
SGD = optax.sgd(0.1)


class Split(NamedTuple):
    """Examples to learn from and examples kept aside."""

    train_x: Float[Array, "n d"]
    train_y: Int[Array, " n"]
    test_x: Float[Array, "m d"]
    test_y: Int[Array, " m"]


class Trained(NamedTuple):
    """A trained network with its history.

    `history` has the parameters before the first update and after every epoch on a leading
    axis, `loss` (over the whole training set) and `test_accuracy` what they gave, so that
    index e means "after e epochs"; `params` are the last of them. `batch_loss` is what the
    updates saw, one row an epoch.
    """

    params: Any
    history: Any
    loss: Float[Array, " epochs+1"]
    test_accuracy: Float[Array, " epochs+1"]
    batch_loss: Float[Array, "epochs steps"]


@cache
def digit_split() -> Split:
    """1,200 digits for training and 597 for testing, shuffled once; pixels in 0..1."""
    pixels, labels = digits()
    order = np.random.RandomState(0).permutation(len(labels))
    x, y = jnp.asarray(pixels[order] / 16), jnp.asarray(labels[order])
    return Split(x[:1200], y[:1200], x[1200:], y[1200:])


@cache
def trained_digits() -> Trained:
    """The ledger's classifier: 30 epochs of SGD at rate 0.1 with batches of 20."""
    return train_classifier(digit_split(), widths=WIDTHS)


def train_classifier(
    split: Split,
    *,
    widths: tuple[int, ...],
    epochs: int = 30,
    batch: int = 20,
    optimizer: optax.GradientTransformation = SGD,
    seed: int = 1,
) -> Trained:
    """Train a ReLU network on a split, every epoch in a fresh order.

    The generator draws the kernels first and then one permutation an epoch. Examples that do
    not fill a last batch sit that epoch out.
    """
    generator = np.random.RandomState(seed)
    params = he_init(generator, widths)
    n = len(split.train_y)
    orders = np.stack([generator.permutation(n) for _ in range(epochs)])
    orders = orders[:, : n - n % batch].reshape(epochs, -1, batch)
    return _run_epochs(params, split, orders, optimizer=optimizer)


@partial(jax.jit, static_argnames="optimizer")
def _run_epochs(params: Any, split: Split, orders: Array, *, optimizer) -> Trained:
    def epoch(carry, order):
        batches = (split.train_x[order], split.train_y[order])
        run = fit(cross_entropy, carry[0], batches, optimizer=optimizer, opt_state=carry[1])
        return (run.params, run.opt_state), (run.params, run.losses)

    start = (params, optimizer.init(params))
    (last, _), (history, batch_loss) = jax.lax.scan(epoch, start, orders)
    history = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), params, history)
    return Trained(
        last,
        history,
        jax.vmap(lambda p: cross_entropy(p, (split.train_x, split.train_y)))(history),
        jax.vmap(lambda p: accuracy(p, split.test_x, split.test_y))(history),
        batch_loss,
    )


def he_init(generator: np.random.RandomState, widths: tuple[int, ...]) -> tuple[dict, ...]:
    """Dense layers with N(0, 2 / d_in) kernels from a NumPy generator, biases zero."""
    return tuple(
        {
            "kernel": jnp.asarray(generator.randn(d_in, d_out) * np.sqrt(2 / d_in)),
            "bias": jnp.zeros(d_out),
        }
        for d_in, d_out in pairwise(widths)
    )


def cross_entropy(params: Any, batch: tuple[Array, Array]) -> Float[Array, ""]:
    """Mean negative log-probability of the right label, in nats."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, x), y).mean()


@jax.jit
def accuracy(params: Any, x: Float[Array, "n d"], y: Int[Array, " n"]) -> Float[Array, ""]:
    """Share of examples whose largest logit is the label's."""
    return (mlp(params, x).argmax(-1) == y).mean(dtype=x.dtype)
