from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import DTYPES, Stored, assert_agrees, differs, draw

from lintoolkit import layers
from lintoolkit.train import Fit, fit, fit_in_chunks

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


@jax.numpy_dtype_promotion("standard")  # optax's own updates promote
@pytest.mark.parametrize("name", ["lbfgs", "polyak_sgd", "reduce_on_plateau"])
def test_what_asks_for_the_loss_gets_it(rng, name):
    params, batches = regression_run(rng, steps=7)
    optimizer = {
        "lbfgs": optax.lbfgs(),
        "polyak_sgd": optax.polyak_sgd(0.1),
        "reduce_on_plateau": optax.chain(
            optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)
        ),
    }[name]
    result = fit(regression, params, batches, optimizer=optimizer)
    same = fit(with_metrics, params, batches, optimizer=optimizer, has_aux=True, until=0.0)
    chex.assert_trees_all_close(same.params, result.params, rtol=1e-10)
    state = optimizer.init(params)
    for batch in zip(*batches, strict=True):
        of = partial(lambda batch, params: regression(params, batch), batch)
        loss, gradient = jax.value_and_grad(of)(params)
        updates, state = optimizer.update(
            gradient, state, params, value=loss, grad=gradient, value_fn=of
        )
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(result.params, params, rtol=1e-8)


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


def with_metrics(params, batch):
    loss = regression(params, batch)
    return loss, {"root": loss**0.5, "rows": jnp.array(len(batch[0]))}


def test_metrics_stand_beside_the_losses(rng):
    params, batches = regression_run(rng)
    plain = fit(regression, params, batches, optimizer=MOMENTUM)
    result = fit(with_metrics, params, batches, optimizer=MOMENTUM, has_aux=True)
    np.testing.assert_array_equal(result.losses, plain.losses)
    assert_agrees(result.metrics["root"], np.sqrt(plain.losses))
    np.testing.assert_array_equal(result.metrics["rows"], [17] * 13)
    assert plain.metrics is None


def test_stops_at_the_first_loss_that_is_small_enough(rng):
    params, batches = regression_run(rng)
    whole = fit(regression, params, batches, optimizer=MOMENTUM)
    steps = int(np.argmax(np.asarray(whole.losses) <= whole.losses[5]))
    assert 0 < steps <= 5
    run = dict(optimizer=MOMENTUM, has_aux=True)
    stopped = fit(with_metrics, params, batches, until=whole.losses[steps], **run)
    np.testing.assert_array_equal(stopped.losses[: steps + 1], whole.losses[: steps + 1])
    assert np.isnan(stopped.losses[steps + 1 :]).all()
    assert not stopped.metrics["rows"][steps + 1 :].any()
    before = jax.tree.map(lambda x: x[:steps], batches)
    chex.assert_trees_all_close(
        stopped.params, fit(regression, params, before, optimizer=MOMENTUM).params
    )
    assert differs(stopped.params["kernel"], whole.params["kernel"])  # control: it did stop
    never = fit(with_metrics, params, batches, until=-1.0, **run)
    chex.assert_trees_all_close(never.params, whole.params)
    np.testing.assert_allclose(never.losses, whole.losses)


def test_chunks_are_the_whole_run(rng):
    params, batches = regression_run(rng)
    for until in (None, 0.3):
        run = dict(optimizer=MOMENTUM, has_aux=True, until=until)
        whole = fit(with_metrics, params, batches, **run)
        stored = jax.tree.map(lambda x: Stored(np.asarray(x)), batches)
        for steps in (batches, stored):
            chex.assert_trees_all_close(
                fit_in_chunks(with_metrics, params, steps, chunk=5, **run), whole
            )
        for x in jax.tree.leaves(stored):
            assert x.read
            assert all(stop - start <= 5 for start, stop, _ in x.read)
    assert np.isnan(whole.losses).any()  # it stopped on the way


@pytest.mark.usefixtures("as_a_user")
def test_chunks_go_on_from_arrays_of_numpy(rng):
    params, batches = regression_run(rng)
    whole = fit(regression, params, batches, optimizer=MOMENTUM)
    first, rest = (jax.tree.map(lambda x, at=at: x[at], batches) for at in np.s_[:5, 5:])
    before = jax.tree.map(np.asarray, fit(regression, params, first, optimizer=MOMENTUM))
    after = fit_in_chunks(
        *(regression, before.params, rest),
        chunk=3, optimizer=MOMENTUM, opt_state=before.opt_state,
    )  # fmt: skip
    chex.assert_trees_all_close(after.params, whole.params)
    assert differs(before.params["kernel"], whole.params["kernel"])  # control


def test_chunks_that_need_not_run_do_not(rng, monkeypatch):
    params, batches = regression_run(rng)
    steps = []
    counted = lambda loss, params, batches, **o: (
        steps.append(len(batches[0])) or fit(loss, params, batches, **o)
    )
    monkeypatch.setattr("lintoolkit.train.fit", counted)
    run = partial(fit_in_chunks, regression, params, batches, chunk=4, optimizer=MOMENTUM)
    run(until=1e6)
    assert steps == [4]
    steps.clear()
    run()
    assert steps == [4, 4, 4, 1]  # control


def test_progress_shows_on_a_terminal_alone(rng, monkeypatch, capsys):
    params, batches = regression_run(rng)
    run = partial(fit_in_chunks, regression, params, batches, chunk=13, optimizer=MOMENTUM)
    run()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    result = run()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"loss {result.losses[-1]:.4g}" in shown.err


@jax.numpy_dtype_promotion("standard")  # MultiSteps promotes its int32 counts
def test_accumulated_gradients_are_those_of_the_larger_batch(rng):
    params, (x, y) = regression_run(rng, steps=12)
    slow = optax.MultiSteps(MOMENTUM, 4).gradient_transformation()
    accumulated = fit(regression, params, (x, y), optimizer=slow)
    larger = x.reshape(3, 68, 3), y.reshape(3, 68, 2)
    at_once = fit(regression, params, larger, optimizer=MOMENTUM)
    chex.assert_trees_all_close(accumulated.params, at_once.params)
    each = fit(regression, params, (x, y), optimizer=MOMENTUM)
    assert differs(each.params["kernel"], at_once.params["kernel"])  # control


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
