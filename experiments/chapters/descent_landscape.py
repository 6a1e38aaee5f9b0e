"""The loss surface around a trained network, seen in two directions at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.classifier import cross_entropy, digit_split, trained_digits
from experiments.figures import descent as figures
from experiments.rows import flops, row
from lintoolkit.layers import mlp, mlp_flops
from lintoolkit.train import fit


def landscape(*, seed: int, full: bool):
    """A slice through the loss surface of the trained digit network."""
    del seed, full
    trained, split = trained_digits(), digit_split()
    state = np.random.RandomState(0)
    directions = jnp.stack([random_direction(state, trained.params) for _ in range(2)])
    side = jnp.linspace(-1, 1, 25)
    random = cut(trained, split, directions, side, side)
    losses = random.losses[::3, ::3]  # nine by nine
    # The closed form has the layers; ReLU adds one maximum a hidden unit.
    formula = mlp_flops(n=1200, widths=(64, 32, 10)) + 1200 * 32
    yield row(
        "need-loss-landscape",
        {
            "parameters": directions.shape[1],
            "centre_is_minimum": bool(losses[4, 4] == losses.min()),
            "centre_loss": losses[4, 4],
            "corner_loss": losses[0, 0],
        },
        mlp,
        fit,
        flops=flops(mlp, trained.params, split.train_x, formula=formula),
        note="The two directions are drawn by RandomState(0), as long in each tensor as the "
        "tensor itself; the corner's loss hangs on them. The FLOP are those of one point of "
        "the slice.",
    )
    path = jax.vmap(lambda p: ravel_pytree(p)[0])(trained.history)
    main = jnp.linalg.svd(path - path[-1], full_matrices=False)[2][:2]
    low, high = ((path - path[-1]) @ main.T).min(0), ((path - path[-1]) @ main.T).max(0)
    margin = 0.3 * (high - low)
    sides = (jnp.linspace(a, b, 25) for a, b in zip(low - margin, high + margin, strict=True))
    yield figures.landscapes(random, cut(trained, split, main, *sides))


@jax.jit
def cut(trained, split, directions, x, y) -> figures.Slice:
    """The training loss over the plane that two directions span around a trained network."""
    centre, unravel = ravel_pytree(trained.params)

    def loss(offset):
        params = unravel(centre + offset @ directions)
        return cross_entropy(params, (split.train_x, split.train_y))

    grid = jnp.stack(jnp.meshgrid(x, y, indexing="ij"), axis=-1)
    losses = jax.lax.map(loss, grid.reshape(-1, 2), batch_size=25).reshape(grid.shape[:2])
    history = jax.vmap(lambda p: ravel_pytree(p)[0])(trained.history) - centre
    # The directions are not quite at a right angle, so the nearest point is a least squares.
    path = jnp.linalg.solve(directions @ directions.T, directions @ history.T).T
    return figures.Slice(x, y, losses, path)


def random_direction(state: np.random.RandomState, params):
    """A random change of all parameters, each tensor's as long as the tensor itself."""
    tensors = [tensor for layer in params for tensor in (layer["kernel"], layer["bias"])]
    steps = iter([state.randn(*tensor.shape) for tensor in tensors])
    scaled = lambda step, tensor: step * (jnp.linalg.norm(tensor) / np.linalg.norm(step))
    direction = tuple(
        {name: scaled(next(steps), layer[name]) for name in ("kernel", "bias")}
        for layer in params
    )
    return ravel_pytree(direction)[0]
