"""Learning: one optax loop, compiled whole."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lintoolkit import _checks


class Fit(NamedTuple):
    """Where a training run stands: parameters, optimiser state, the loss before each step."""

    params: PyTree
    opt_state: PyTree
    losses: Float[Array, " steps"]


@partial(jax.jit, static_argnames=("loss_fn", "optimizer"))
@jax.named_scope("fit")
def fit(
    loss_fn: Callable[[PyTree, PyTree], Float[Array, ""]],
    params: PyTree,
    batches: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    opt_state: PyTree | None = None,
) -> Fit:
    r"""Minimise a loss by one optimiser step a batch.

    $\theta_{i+1} = \theta_i + u(\nabla_\theta \ell(\theta_i, x_i))$ with $u$ the
    optimiser's update; plain gradient descent has $u(g) = -\eta g$. All steps are one
    `jax.lax.scan`: one compilation, nothing sent to the host between steps.

    Args:
        loss_fn: ``loss_fn(params, batch)``, a scalar. Pass the same function and the same
            optimiser object again and nothing is compiled anew.
        params: A pytree of floating arrays.
        batches: A pytree of arrays whose first axis is the step.
        optimizer: Any optax transformation; clipping, schedules and accumulation are optax's.
        opt_state: Where to go on from, `Fit.opt_state` of the run before; a fresh one if None.

    Returns:
        The parameters and the optimiser's state after the last step, and the loss that each
        step started from.

    Raises:
        TypeError: If a parameter or the loss is not floating, ``loss_fn`` is no function, or
            ``optimizer`` no optax transformation.
        ValueError: If the batches disagree on the number of steps, there is no step, the loss
            is not a scalar, or ``opt_state`` belongs to another optimiser or other parameters.

    Cost:
        steps × (one loss with its gradient + one update): price ``loss_fn``'s gradient.

    Examples:
        >>> sgd = optax.sgd(0.5)
        >>> def squared(w, x):
        ...     return 0.5 * (w - x) ** 2
        >>> result = fit(squared, jnp.array(0.0), jnp.array([8.0, 8.0, 8.0]), optimizer=sgd)
        >>> print(result.params, result.losses)
        7.0 [32.  8.  2.]

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.3.
    """
    if not callable(loss_fn):
        raise TypeError(
            f"fit: loss_fn must be a function of params and batch, got {loss_fn!r}."
        )
    if not hasattr(optimizer, "update"):
        raise TypeError(
            "fit: optimizer must be an optax transformation, such as optax.adam(1e-3), got "
            f"{optimizer!r}."
        )
    _checks.floats("fit", **_by_path("params", params))
    leaves = _by_path("batches", batches)
    _checks.arrays("fit", **leaves)
    steps = {x.shape[0] if x.ndim else None for x in leaves.values()}
    if len(steps) != 1 or None in steps:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in leaves.items())
        raise ValueError(
            "fit: the first axis of every array in batches must be the step, of one length, "
            f"got {shapes or 'no array'}; one batch is used n times as "
            "jnp.broadcast_to(x, (n, *x.shape))."
        )

    def scalar_loss(params: PyTree, batch: PyTree) -> Array:
        loss = loss_fn(params, batch)
        if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
            got = getattr(loss, "dtype", type(loss).__name__)
            raise TypeError(f"fit: loss_fn must return one floating scalar, alone, got {got}.")
        if loss.ndim:
            raise ValueError(
                f"fit: loss_fn must return a scalar, got shape {loss.shape}; take the mean "
                "over the batch."
            )
        return loss

    def step(
        carry: tuple[PyTree, PyTree], batch: PyTree
    ) -> tuple[tuple[PyTree, PyTree], Array]:
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(scalar_loss)(params, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    if opt_state is None:
        opt_state = optimizer.init(params)
    elif _layout(opt_state) != _layout(jax.eval_shape(optimizer.init, params)):
        raise ValueError(
            "fit: opt_state must be what this optimizer keeps for these params, got another "
            "structure or other shapes; pass Fit.opt_state of a run with both, or None."
        )
    (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), batches)
    return Fit(params, opt_state, losses)


def _layout(tree: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]


def _by_path(name: str, tree: PyTree) -> dict[str, Array]:
    paths, _ = jax.tree.flatten_with_path(tree)
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in paths}
