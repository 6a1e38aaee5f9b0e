"""Inside a trained classifier: the products it computes and the numbers it learned."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.classifier import (
    WIDTHS,
    accuracy,
    cross_entropy,
    digit_split,
    train_classifier,
    trained_digits,
)
from experiments.figures import seeing as figures
from experiments.published import MODELS, parameters, training_flops
from experiments.rows import flops, row
from lintoolkit.cost import cost
from lintoolkit.layers import dense, mlp, mlp_flops
from lintoolkit.train import fit


def inference(*, seed: int, full: bool):
    """A trained network only multiplies; training multiplies about three times as much."""
    del seed, full
    net, split = trained_digits(), digit_split()
    digit, label = split.test_x[:1], split.test_y[:1]
    before = jax.tree.map(np.array, net.params)
    first, second = mlp(net.params, split.test_x), mlp(net.params, split.test_x)
    yield row(
        "sense-inference-definition",
        {
            "deterministic": bool((first == second).all()),
            "weights_unchanged": all(
                jax.tree.leaves(jax.tree.map(np.array_equal, before, net.params))
            ),
            "forward_macs_per_example": matmul_flops(mlp, net.params, digit) // 2,
        },
        mlp,
        cost,
        flops=flops(mlp, net.params, digit, formula=mlp_flops(n=1, widths=WIDTHS) + WIDTHS[1]),
    )
    shapes = jax.tree.map(jnp.shape, jax.grad(cross_entropy)(net.params, (digit, label)))
    yield row(
        "matrices-train-and-infer",
        {
            "update_shape_matches": [
                update["kernel"]
                for update, layer in zip(shapes, net.params, strict=True)
                if update["kernel"] == layer["kernel"].shape
            ],
            "inference_products": jax.jit(mlp)
            .lower(net.params, digit)
            .as_text()
            .count("stablehlo.dot_general"),
        },
        mlp,
        "jax.grad",
    )

    def forward_and_gradient(widths):
        params = tuple(
            {"kernel": jax.ShapeDtypeStruct(shape, float)} for shape in pairwise(widths)
        )
        gradient = jax.value_and_grad(cross_entropy)
        return matmul_flops(mlp, params, digit), matmul_flops(gradient, params, (digit, label))

    digits_forward, digits_gradient = forward_and_gradient(WIDTHS)
    deep_forward, deep_gradient = forward_and_gradient((64,) * 17)
    presented = 30 * len(split.train_y)
    gpt3 = MODELS["gpt3"]
    yield row(
        "sense-training-versus-inference-cost",
        {
            "forward_flops": digits_forward,
            "forward_backward_flops": digits_gradient,
            "ratio": digits_gradient / digits_forward,
            "ratio_16_layers": deep_gradient / deep_forward,
            "digits_served_when_inference_overtakes": presented
            * digits_gradient
            / digits_forward,
            "gpt3_tokens_served_when_inference_overtakes": training_flops(
                parameters=parameters(gpt3), tokens=gpt3.tokens
            )
            / (2 * parameters(gpt3)),
        },
        mlp,
        cost,
        "jax.value_and_grad",
        flops=flops(jax.value_and_grad(cross_entropy), net.params, (digit, label)),
        # Backward repeats both products of a layer but the first layer's towards the input.
        holds=digits_gradient == 3 * digits_forward - 2 * 64 * 32
        and deep_gradient == 3 * deep_forward - 2 * 64 * 64,
        note="Matrix products only, of GPT-3 6 FLOP a weight and token of training against 2 "
        "a token served. L equal layers cost 3 - 1/L times a forward pass: the "
        "first needs no gradient towards the pixels.",
    )


def matmul_flops(fn: Callable, *args: Any) -> int:
    """FLOP of the products as written; compiling one example's turns some into scalings."""
    lowered = cost(fn, *args).lowered
    assert lowered is not None
    return lowered.matmul_flops


def knowledge(*, seed: int, full: bool):
    """What the network knows is in its numbers, and it learned them from the labels."""
    del seed, full
    net, split = trained_digits(), digit_split()
    test = (split.test_x, split.test_y)
    yield from informative_feature()
    hidden, out = net.params

    # Keep or drop a unit by its row of the second kernel: nothing else reads it.
    def kept(units):
        return accuracy((hidden, {**out, "kernel": out["kernel"] * units[:, None]}), *test)

    alone = jax.vmap(kept)(jnp.eye(32))
    without = jax.vmap(kept)(1 - jnp.eye(32))
    full_score = accuracy(net.params, *test)
    yield row(
        "sense-layers-as-specialists",
        {
            "all_units": full_score,
            "largest_single_unit_drop": full_score - without.min(),
            "best_single_unit": alone.max(),
        },
        mlp,
    )
    activation = jax.nn.relu(dense(hidden, split.test_x))
    by_class = jnp.stack([activation[split.test_y == c].mean(0) for c in range(10)])
    yield figures.specialists(by_class)

    generator = np.random.RandomState(0)

    def shuffled():
        return tuple(
            {**layer, "kernel": jnp.asarray(permuted(generator, layer["kernel"]))}
            for layer in net.params
        )

    unbiased = tuple({"kernel": layer["kernel"]} for layer in net.params)
    yield row(
        "matrices-knowledge-in-w",
        {
            "trained": full_score,
            "same_entries_shuffled": jnp.stack(
                [accuracy(shuffled(), *test) for _ in range(20)]
            ).mean(),
            "biases_zeroed": accuracy(unbiased, *test),
        },
        mlp,
        note="Shuffled: the mean of 20 orders of the same entries, a number that the ledger "
        "leaves open.",
    )
    nonsense = split._replace(
        train_y=jnp.asarray(np.random.RandomState(0).permutation(split.train_y))
    )
    from_nonsense = train_classifier(nonsense, widths=WIDTHS)
    yield row(
        "sense-labels-give-learning",
        {
            "test_accuracy_true_labels": full_score,
            "test_accuracy_shuffled_labels": from_nonsense.test_accuracy[-1],
            "chance": 1 / 10,
        },
        fit,
        mlp,
        holds=bool(full_score > 0.9 and from_nonsense.test_accuracy[-1] < 0.2),
    )
    yield row("sense-captcha-labels", None)


def permuted(generator: np.random.RandomState, a: jax.Array) -> np.ndarray:
    """The same entries in another order."""
    return generator.permutation(np.ravel(a)).reshape(a.shape)


def informative_feature():
    """Logistic regression on five features of which one decides the label."""
    x = np.random.RandomState(0).randn(100, 20, 5)
    batches = (jnp.asarray(x), jnp.asarray(x[..., 2] > 0, float))

    def loss(params, batch):
        return optax.sigmoid_binary_cross_entropy(
            dense(params, batch[0])[:, 0], batch[1]
        ).mean()

    def step(params, batch):
        one = jax.tree.map(lambda a: a[None], batch)
        params = fit(loss, params, one, optimizer=optax.sgd(0.5)).params
        return params, params["kernel"][:, 0]

    _, weights = jax.lax.scan(step, {"kernel": jnp.zeros((5, 1))}, batches)
    size = jnp.abs(weights[-1])
    largest = int(size.argmax())
    yield row(
        "sense-weights-emphasise-features",
        {
            "largest_feature": largest,
            "ratio_over_10": bool(size[largest] > 10 * jnp.delete(size, largest).max()),
        },
        dense,
        fit,
        "optax.sigmoid_binary_cross_entropy",
        note="Our draw: the sign of feature 2, counted from 0, is the label.",
    )
    yield figures.feature_weights(weights, largest)
