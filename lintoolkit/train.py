# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
"""Learning: one optax loop, compiled whole, or in chunks that outlive their machine."""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Float, PyTree
from rich.console import Console
from rich.progress import Progress

from lintoolkit import _checks
from lintoolkit._jit import jit
from lintoolkit.checkpoint import finish, restore, save

__all__ = [
    "PREEMPTED", "Fit", "fit", "fit_in_chunks",
]  # fmt: skip
__dir__ = lambda: __all__

PREEMPTED = 75  # exit status: saved and to be run again, sysexits.h's "temporary failure"


class Fit(NamedTuple):
    """Where a training run stands: parameters, optimiser state, and what was seen on the way.

    Losses and metrics are those before each step; metrics are None without ``has_aux``.
    """

    params: PyTree
    opt_state: PyTree
    losses: Float[Array, " steps"]
    metrics: PyTree = None


@jit(static_argnames=("loss_fn", "optimizer", "has_aux"))
@_checks.scope("fit")
def fit(
    loss_fn: Callable[[PyTree, PyTree], Any],
    params: PyTree,
    batches: PyTree,
    *,
    optimizer: optax.GradientTransformation,
    opt_state: PyTree | None = None,
    has_aux: bool = False,
    until: Float[Array, ""] | float | None = None,
) -> Fit:
    r"""Minimise a loss by one optimiser step a batch.

    $\theta_{i+1} = \theta_i + u(\nabla_\theta \ell(\theta_i, x_i))$ with $u$ the
    optimiser's update; plain gradient descent has $u(g) = -\eta g$. All steps are one
    `jax.lax.scan`: one compilation, nothing sent to the host between steps.

    Args:
        loss_fn: ``loss_fn(params, batch)``, a scalar. Pass the same function and the same
            optimiser object again and nothing is compiled anew.
        params: A pytree of floating arrays.
        batches: A pytree of arrays whose first axis is the step; of a list of batches,
            ``jax.tree.map(lambda *x: jnp.stack(x), *batches)``.
        optimizer: Any optax transformation; clipping, schedules and accumulation are optax's:
            ``optax.MultiSteps(sgd, 4).gradient_transformation()`` steps once in four batches,
            along their mean gradient. What asks for the loss too, as ``optax.lbfgs`` does,
            gets that of the batch.
        opt_state: Where to go on from, `Fit.opt_state` of the run before; a fresh one if None.
        has_aux: Whether ``loss_fn`` returns ``(loss, metrics)``, metrics any pytree of arrays.
        until: The loss that is small enough: at the first one not above it the run stands
            still. Losses and metrics after that are NaN, or 0 where they are not floating.

    Returns:
        The parameters and the optimiser's state after the last step, and the loss that each
        step started from, with its metrics.

    Raises:
        TypeError: If a parameter or the loss is not floating, ``loss_fn`` is no function, or
            ``optimizer`` no optax transformation, or one in which the loss is asked for and
            not passed on.
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
    _check_arguments(loss_fn, params, optimizer)
    leaves = _by_path("batches", batches)
    _checks.arrays("fit", **leaves)
    _steps_of("fit", leaves)
    for name, x in leaves.items():
        if any(jax.typeof(x).sharding.spec[:1]):
            raise ValueError(
                f"fit: {name} is split along the steps, which are taken one by one; split the "
                "examples of each, jax.P(None, 'data')."
            )

    def scalar_loss(params: PyTree, batch: PyTree) -> tuple[Array, PyTree]:
        out = loss_fn(params, batch)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise TypeError(
                "fit: with has_aux=True loss_fn must return (loss, metrics), got "
                f"{type(out).__name__}."
            )
        loss, metrics = out if has_aux else (out, None)
        if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
            got = getattr(loss, "dtype", type(loss).__name__)
            raise TypeError(
                f"fit: loss_fn must return one floating scalar, alone, got {got}; with "
                "has_aux=True metrics may follow it."
            )
        if loss.ndim:
            raise ValueError(
                f"fit: loss_fn must return a scalar, got shape {loss.shape}; take the mean "
                "over the batch."
            )
        return loss, metrics

    def step(state: tuple[PyTree, PyTree], batch: PyTree) -> tuple[tuple[PyTree, PyTree], Any]:
        params, opt_state = state
        seen, gradient = jax.value_and_grad(scalar_loss, has_aux=True)(params, batch)

        def move() -> tuple[PyTree, PyTree]:
            # Some optimisers ask for the loss too, or search along a line.
            more = {"value": seen[0], "grad": gradient}
            more["value_fn"] = lambda params: scalar_loss(params, batch)[0]
            try:
                updates, moved = extended.update(gradient, opt_state, params, **more)
            except TypeError as error:
                if "missing" not in str(error) or "'value'" not in str(error):
                    raise
                raise TypeError(
                    "fit: optimizer has a part that asks for the loss, as optax.lbfgs and "
                    "reduce_on_plateau do, inside one that does not pass it on, such as "
                    "optax.MultiSteps; take the one or the other."
                ) from error
            return optax.apply_updates(params, updates), moved

        if until is None:
            return move(), seen
        return jax.lax.cond(seen[0] <= until, lambda: state, move), seen

    def step_or_stand(carry: tuple[PyTree, Array], batch: PyTree) -> tuple[Any, Any]:
        state, done = carry
        nothing = _nothing_like(jax.eval_shape(scalar_loss, state[0], batch))
        state, seen = jax.lax.cond(done, lambda: (state, nothing), lambda: step(state, batch))
        return (state, done | (seen[0] <= until)), seen

    extended = optax.with_extra_args_support(optimizer)
    if opt_state is None:
        opt_state = optimizer.init(params)
    elif _layout(opt_state) != _layout(jax.eval_shape(optimizer.init, params)):
        raise ValueError(
            "fit: opt_state must be what this optimizer keeps for these params, got another "
            "structure or other shapes; pass Fit.opt_state of a run with both, or None."
        )
    state = (params, opt_state)
    if until is None:
        state, seen = jax.lax.scan(step, state, batches)
    else:
        (state, _), seen = jax.lax.scan(step_or_stand, (state, jnp.array(False)), batches)
    return Fit(*state, *seen)


def fit_in_chunks(
    loss_fn: Callable[[PyTree, PyTree], Any],
    params: PyTree,
    batches: PyTree | Callable[[range], PyTree],
    *,
    chunk: int,
    optimizer: optax.GradientTransformation,
    steps: int | None = None,
    opt_state: PyTree | None = None,
    has_aux: bool = False,
    until: float | None = None,
    checkpoint: "orbax.checkpoint.CheckpointManager | None" = None,
) -> Fit:
    r"""Minimise a loss as `fit` does, with a look and a checkpoint after so many steps.

    The steps and the result are those of `fit`, $\theta_{i+1} = \theta_i +
    u(\nabla_\theta \ell(\theta_i, x_i))$; but they run as several programs of one compilation,
    and between them a bar on the terminal (standard error, where that is one) shows the loss.
    With ``until`` no more of them run than need be.

    With ``checkpoint`` the state is saved after every chunk, and a run that finds one there
    goes on from the newest that is good. As batches depend on the step alone, it ends
    where an undisturbed run ends: to the bit on as many devices, in whatever processes; within
    rounding on another number of them. On SIGTERM the chunk is finished and saved, and
    ``SystemExit(75)`` raised: run the same again. In a job of many processes all must run this.

    Parameters that lie on a mesh stay as they are sharded, the optimiser's state beside them.

    Args:
        loss_fn: As in `fit`.
        params: As in `fit`; with ``checkpoint``, also where a restored state is to lie.
        batches: As in `fit`, where arrays of NumPy, memory-mapped files too, and whatever has
            a shape and slices that are arrays, as zarr's, stay out of the device's memory. Or a
            function of a range of steps that returns their batches, for data that are drawn or
            placed on a mesh: the first axis is these steps, and the numbers may depend on the
            step, and a seed, and on nothing else.
        chunk: Steps a program, and between checkpoints. Where it does not divide their number
            the last program is compiled for itself.
        optimizer: As in `fit`.
        steps: How many, where ``batches`` is a function.
        opt_state: As in `fit`.
        has_aux: As in `fit`.
        until: As in `fit`; the same where a run is resumed, for it may have stopped by it.
        checkpoint: ``orbax.checkpoint.CheckpointManager(directory)``, as for
            `lintoolkit.checkpoint.save`. Damaged steps are deleted with a warning.

    Returns:
        What `fit` returns.

    Raises:
        TypeError: What `fit` raises, or if ``checkpoint`` is no manager.
        ValueError: If ``chunk`` is below 1, ``steps`` does not go with ``batches``, a function
            gives another number of them than asked, or what ``checkpoint`` holds is of other
            parameters or nowhere good; and what `fit` raises.
        OSError: If ``checkpoint`` cannot be written; it names the directory, whose older steps
            are as they were.
        SystemExit: On SIGTERM, with ``checkpoint``, once the state is saved.

    Cost:
        That of `fit`, and one transfer of losses and metrics a chunk.

    Examples:
        >>> sgd = optax.sgd(0.5)
        >>> def squared(w, x):
        ...     return 0.5 * (w - x) ** 2
        >>> batches = jnp.full(6, 8.0)
        >>> run = dict(optimizer=sgd, chunk=2, until=5.0)
        >>> result = fit_in_chunks(squared, jnp.array(0.0), batches, **run)
        >>> print(result.params, result.losses)
        6.0 [32.  8.  2. nan nan nan]

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.3.
    """
    _checks.positive("fit_in_chunks", chunk=chunk)
    if checkpoint is not None:
        _checks.manager("fit_in_chunks", checkpoint=checkpoint)
    if callable(batches) != (steps is not None):
        raise ValueError(
            "fit_in_chunks: steps must be given where batches is a function of them, and only "
            f"there, got steps={steps} and batches of type {type(batches).__name__}."
        )
    if steps is not None:
        _checks.positive("fit_in_chunks", steps=steps)
        take: Callable[[range], PyTree] = partial(_made, batches)
        total = steps
    else:
        take = lambda at: jax.tree.map(lambda x: x[at.start : at.stop], batches)
        total = _steps_of("fit_in_chunks", _by_path("batches", batches))
    run = partial(fit, loss_fn, optimizer=optimizer, has_aux=has_aux, until=until)
    _check_arguments(loss_fn, params, optimizer)
    state: Any = (params, optimizer.init(params) if opt_state is None else opt_state)
    state = jax.tree.map(jnp.asarray, state)
    # On a mesh all stays where it lies: a program may leave its results elsewhere.
    whole = _whole_on_mesh_of(state[0])
    state = jax.tree.map(partial(_on_mesh, whole), state)
    places = None if whole is None else jax.tree.map(lambda x: x.sharding, state)
    done: int = 0
    seen: Any = None
    if checkpoint is not None and checkpoint.all_steps():
        shapes = jax.eval_shape(run, params, take(range(min(chunk, total))), opt_state=state[1])
        like = shapes._replace(params=state[0], opt_state=state[1])
        done, found = _resumed(checkpoint, like, whole)
        if done > total:
            raise ValueError(
                f"fit_in_chunks: checkpoint holds step {done}, beyond the {total} that are "
                "asked for; ask for more, or give another directory."
            )
        state = found.params, found.opt_state
        seen = _noted(None, (found.losses, found.metrics), range(done), total)
    small_enough = lambda: until is not None and bool((seen[0][:done] <= until).any())
    reached = done > 0 and small_enough()
    console = Console(stderr=True)
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        _asked_to_stop(checkpoint) as asked_to_stop,
    ):
        task = bar.add_task("fit", total=total, completed=done)
        while done < max(total, 1) and not reached:
            at = range(done, min(done + chunk, total))
            piece = jax.tree.map(jnp.asarray, take(at))
            result = run(state[0], piece, opt_state=state[1])
            state = jax.device_put((result.params, result.opt_state), places)
            # Waits for the chunk, so that batches do not queue up in memory.
            seen = _noted(seen, (result.losses, result.metrics), at, total)
            done = at.stop
            bar.update(task, completed=done, description=f"loss {seen[0][done - 1]:.4g}")
            reached = small_enough()
            if checkpoint is not None:
                leaving = asked_to_stop(at)
                save(checkpoint, done, Fit(*state, *_placed(seen, whole)))
                if leaving:
                    finish(checkpoint)
                    raise SystemExit(PREEMPTED)
    if checkpoint is not None:
        finish(checkpoint)
    return Fit(*state, *_placed(seen, whole))


def _steps_of(function: str, leaves: dict[str, Any]) -> int:
    """For how many steps there are batches, which must say so with one voice."""
    # By shapes: what is read by slices may have no len, as zarr's arrays have not.
    for name, x in leaves.items():
        if not hasattr(x, "shape"):
            raise TypeError(
                f"{function}: {name} must be an array whose first axis is the step, got "
                f"{type(x).__name__}; jnp.stack the batches."
            )
    steps = {tuple(x.shape[:1]) for x in leaves.values()}
    if len(steps) != 1 or () in steps:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in leaves.items())
        raise ValueError(
            f"{function}: the first axis of every array in batches must be the step, of one "
            f"length, got {shapes or 'no array'}; jnp.stack batches that stand apart, or use "
            "one n times, jnp.broadcast_to(x, (n, *x.shape))."
        )
    ((count,),) = steps
    return count


def _made(batches: Callable[[range], PyTree], at: range) -> PyTree:
    """The batches of some steps, and of no more and no fewer."""
    piece = batches(at)
    leaves = _by_path("batches", piece)
    wrong = {name: x for name, x in leaves.items() if np.shape(x)[:1] != (len(at),)}
    if wrong or not leaves:
        got = ", ".join(f"{name} {np.shape(x)}" for name, x in wrong.items()) or "no array"
        raise ValueError(
            f"fit_in_chunks: batches({at}) must give arrays whose first axis is these "
            f"{len(at)} steps, got {got:.90}; jnp.stack one batch a step."
        )
    return piece


def _placed(seen: Any, whole: Sharding | None) -> Any:
    # A copy: arrays on a CPU may be NumPy's own, which are written on while they are saved.
    seen = jax.tree.map(np.copy, seen)
    if whole is None:
        return jax.tree.map(jnp.asarray, seen)
    # Not device_put, which takes it for an error that NaN of two processes differ.
    place = lambda x: jax.make_array_from_callback(x.shape, whole, x.__getitem__)
    return jax.tree.map(place, seen)


def _noted(seen: Any, piece: Any, at: range, total: int) -> Any:
    """Put what some steps saw among what all saw, on the host."""
    if seen is None:
        shape = lambda x: jax.ShapeDtypeStruct((total, *x.shape[1:]), x.dtype)
        seen = jax.tree.map(np.array, _nothing_like(jax.tree.map(shape, piece)))
    for all_steps, some in zip(jax.tree.leaves(seen), jax.tree.leaves(piece), strict=True):
        all_steps[at.start : at.stop] = np.asarray(some)[: len(at)]
    return seen


def _resumed(checkpoint: Any, like: Fit, whole: Sharding | None) -> tuple[int, Fit]:
    def as_saved(leaves: dict[str, list]) -> Fit:
        (steps,) = leaves.get(".losses", [[0]])[0]  # as many as were asked for then
        shape = lambda x: jax.ShapeDtypeStruct((steps, *x.shape[1:]), x.dtype, sharding=whole)
        losses, metrics = jax.tree.map(shape, (like.losses, like.metrics))
        return Fit(like.params, like.opt_state, losses, metrics)

    restored = restore(checkpoint, as_saved)
    for step, reason in restored.skipped.items():
        warnings.warn(
            f"fit_in_chunks: step {step} in {checkpoint.directory} is damaged and was deleted; "
            f"going on from step {restored.step}. {reason}.",
            stacklevel=3,
        )
        checkpoint.delete(step)
    return restored.step, restored.tree


@contextmanager
def _asked_to_stop(checkpoint: Any) -> Iterator[Callable[[range], bool]]:
    """Whether there was a SIGTERM, asked after a chunk; all of a job hear the same."""
    if checkpoint is None or threading.current_thread() is not threading.main_thread():
        yield lambda _: False
    elif jax.process_count() > 1:
        # They agree on the number after the largest that any has asked for last, so all must
        # be asked for, in order; orbax asks for a step's while it is saved.
        def reached(at: range) -> bool:
            finish(checkpoint)
            return any(checkpoint.reached_preemption(step + 1) for step in at)

        yield reached
    else:
        asked = threading.Event()
        before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
        try:
            yield lambda _: asked.is_set()
        finally:
            signal.signal(signal.SIGTERM, before)


def _whole_on_mesh_of(params: PyTree) -> Sharding | None:
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None


def _on_mesh(whole: Sharding | None, x: Array) -> Array:
    return x if isinstance(x.sharding, NamedSharding) else jax.device_put(x, whole)


def _nothing_like(tree: PyTree) -> PyTree:
    # What stands where nothing was measured.
    blank = lambda x: jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 0
    return jax.tree.map(lambda x: jnp.full(x.shape, blank(x), x.dtype), tree)


def _layout(tree: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [jnp.shape(leaf) for leaf in leaves]


def _check_arguments(loss_fn: Any, params: PyTree, optimizer: Any) -> None:
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


def _by_path(name: str, tree: PyTree) -> dict[str, Any]:
    # An iterator is said to be one, or what JAX thinks of it would come first.
    paths, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda x: isinstance(x, Iterator))
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in paths}
