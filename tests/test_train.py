from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import DTYPES, assert_agrees, differs, draw

from lintoolkit import layers
from lintoolkit.train import Fit, fit

SGD = optax.sgd(0.25)
MOMENTUM = optax.sgd(0.1, momentum=0.9)


def squared(w, x):
    return 0.5 * jnp.sum((w - x) ** 2)


def regression(params, batch):
    x, y = batch
    return jnp.mean((layers.dense(params, x) - y) ** 2)


def regression_run(rng, steps=13, dtype="float64"):
    """Parameters to start from, and noisy batches of one linear law."""
    x = draw(rng, steps, 17, 3, dtype=dtype)
    y = x @ draw(rng, 3, 2, dtype=dtype) + draw(rng, steps, 17, 2, dtype=dtype) / 10
    return layers.init_dense(jax.random.key(0), 3, 2, dtype=jnp.dtype(dtype)), (x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_descent_on_a_parabola_follows_its_closed_form(dtype):
    w, target = jnp.array([4.0, -1.0], dtype), jnp.array([2.0, 3.0], dtype)
    result = fit(squared, w, jnp.broadcast_to(target, (5, 2)), optimizer=SGD)
    gaps = [0.75**i * (np.asarray(w, float) - np.asarray(target, float)) for i in range(6)]
    assert_agrees(result.params, gaps[-1] + np.asarray(target, float))
    assert_agrees(result.losses, [0.5 * gap @ gap for gap in gaps[:-1]])


@jax.numpy_dtype_promotion("standard")  # Adam's own update promotes its int32 count
def test_agrees_with_a_loop_of_optax_steps(rng):
    params, batches = regression_run(rng)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    result = fit(regression, params, batches, optimizer=clipped)
    state, losses = clipped.init(params), []
    for batch in zip(*batches, strict=True):
        loss, gradient = jax.value_and_grad(regression)(params, batch)
        updates, state = clipped.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    chex.assert_trees_all_close(result, Fit(params, state, jnp.stack(losses)), rtol=1e-10)


def test_reaches_the_least_squares_solution(rng):
    params, (x, y) = regression_run(rng, steps=1)
    steps = 500
    batches = jnp.broadcast_to(x, (steps, 17, 3)), jnp.broadcast_to(y, (steps, 17, 2))
    result = fit(regression, params, batches, optimizer=SGD)
    design = np.column_stack([x[0], np.ones(17)])
    solution = np.linalg.lstsq(design, np.asarray(y[0]))[0]
    np.testing.assert_allclose(result.params["kernel"], solution[:-1], rtol=1e-6)
    np.testing.assert_allclose(result.params["bias"], solution[-1], rtol=1e-6)
    assert (np.diff(result.losses) <= 1e-12).all()
    uphill = fit(regression, params, batches, optimizer=optax.sgd(-0.01))
    assert (np.diff(uphill.losses) > 0).all()  # control


def test_goes_on_where_it_stopped(rng):
    params, batches = regression_run(rng)
    whole = fit(regression, params, batches, optimizer=MOMENTUM)
    first, rest = (jax.tree.map(lambda x, s=s: x[s], batches) for s in (np.s_[:6], np.s_[6:]))
    half = fit(regression, params, first, optimizer=MOMENTUM)
    again = fit(regression, half.params, rest, optimizer=MOMENTUM, opt_state=half.opt_state)
    chex.assert_trees_all_equal(again.params, whole.params)
    np.testing.assert_array_equal([*half.losses, *again.losses], whole.losses)
    forgetful = fit(regression, half.params, rest, optimizer=MOMENTUM)
    assert differs(forgetful.params["kernel"], whole.params["kernel"])  # control: state matters


def test_the_same_shapes_are_compiled_once(rng):
    counted = chex.assert_max_traces(lambda w, x: squared(w, x), n=1)
    for _ in range(3):
        fit(counted, draw(rng, 2), draw(rng, 5, 2), optimizer=SGD)
    with pytest.raises(AssertionError, match="traced > 1"):
        fit(counted, draw(rng, 3), draw(rng, 5, 3), optimizer=SGD)  # control: a new shape


def test_many_runs_at_once(rng):
    _, batches = regression_run(rng)
    keys = jax.random.split(jax.random.key(0), 3)
    init = partial(layers.init_dense, d_in=3, d_out=2, dtype=jnp.float64)
    starts = jax.vmap(lambda key: init(key))(keys)
    many = jax.vmap(lambda p: fit(regression, p, batches, optimizer=MOMENTUM).losses)(starts)
    for i, losses in enumerate(many):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], starts)
        assert_agrees(
            fit(regression, one, batches, optimizer=MOMENTUM).losses, losses, ulps=4096
        )
    assert differs(many[0], many[1])
