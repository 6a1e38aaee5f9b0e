from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import DTYPES, assert_agrees, exact

from lintoolkit.factorize import (
    Recommender,
    Side,
    _Plan,
    als,
    implicit_als,
    predict_rating,
    recommend,
)

SHAPE = N, M = 43, 29
RANK = 3
KEY = jax.random.key(5)
OPTIONS = {"shape": SHAPE, "rank": RANK, "l2": 0.3, "iterations": 3}


@pytest.fixture
def planted(rng):
    """Long-tailed ratings of low rank, and those held out; the last user and item have none."""
    p, q = rng.standard_normal((N, RANK)), rng.standard_normal((M, RANK))
    b, c = rng.standard_normal(N), rng.standard_normal(M)
    pairs = np.array([(u, i) for u in range(N - 1) for i in range(M - 1)])
    pairs = pairs[rng.random(len(pairs)) < 1.2 / (1 + pairs[:, 0] / 20)]
    users, items = rng.permutation(pairs).T
    ratings = 3.5 + b[users] + c[items] + (p[users] * q[items]).sum(axis=1)
    last = len(ratings) // 10
    return (users[last:], items[last:], ratings[last:]), (
        users[:last],
        items[:last],
        ratings[:last],
    )


def amounts(train):
    users, items, ratings = train
    return users, items, np.exp(ratings / 4)


def drawn():
    """The first factors, as the docstring of `als` promises them."""
    return np.asarray(jax.random.normal(KEY, (M, RANK), "float64")) / np.sqrt(RANK)


def rmse(model, held_out):
    users, items, ratings = held_out
    return float(jnp.sqrt(jnp.mean((predict_rating(model, users, items) - ratings) ** 2)))


def flat(model):
    return np.concatenate([x.ravel() for x in (*model.users, *model.items)])


@pytest.mark.parametrize("small", [False, True])
def test_als_agrees_with_its_normal_equations(planted, small, monkeypatch):
    if small:  # several blocks of rows and several chunks of runs
        monkeypatch.setattr("lintoolkit.factorize._plan", lambda *_: _Plan(4, 5, 3))
        jax.clear_caches()
    train, _ = planted
    model = als(KEY, *train, **OPTIONS)
    p, b, q, c = oracles.als(drawn(), *train, SHAPE, 0.3, 3)
    for actual, expected in ((model.users, (p, b)), (model.items, (q, c))):
        assert_agrees(actual.factors, expected[0], ulps=1e4)
        assert_agrees(actual.bias, expected[1], ulps=1e4)
    assert_agrees(model.mean, train[2].mean())
    assert model.ok
    weighed = implicit_als(KEY, *amounts(train), **OPTIONS, alpha=2.0)
    p, q = oracles.implicit_als(drawn(), *amounts(train), SHAPE, 0.3, 3, 2.0)
    assert_agrees(weighed.users.factors, p, ulps=1e5)
    assert_agrees(weighed.items.factors, q, ulps=1e5)
    assert not any(np.any(x) for x in (weighed.mean, weighed.users.bias, weighed.items.bias))
    if small:
        jax.clear_caches()


def test_without_biases_a_rating_is_a_product_alone(planted):
    train, held_out = planted
    model = als(KEY, *train, **OPTIONS, biases=False)
    users, items, ratings = train
    p, q = np.zeros((N, RANK)), drawn()
    for _ in range(3):
        for side, ids, other, theirs in ((p, users, q, items), (q, items, p, users)):
            for row in range(len(side)):
                seen = other[theirs[ids == row]]
                gram = seen.T @ seen + 0.3 * np.eye(RANK)
                side[row] = np.linalg.solve(gram, seen.T @ ratings[ids == row])
    assert_agrees(model.users.factors, p, ulps=1e4)
    assert_agrees(model.items.factors, q, ulps=1e4)
    assert not any(np.any(x) for x in (model.mean, model.users.bias, model.items.bias))
    # Control: these ratings have a mean and biases, which three factors must stand in for.
    assert rmse(model, held_out) > rmse(als(KEY, *train, **OPTIONS), held_out)


def explicit_objective(train, l2, model):
    users, items, ratings = train
    error = ratings - predict_rating(model, users, items)
    held = sum(jnp.sum(x**2) for x in (*model.users, *model.items))
    return jnp.sum(error**2) + l2 * held


def implicit_objective(train, l2, alpha, model):
    users, items, seen = train
    confidence = np.ones(SHAPE)
    np.add.at(confidence, (users, items), alpha * seen)
    wanted = (confidence > 1).astype(float)
    error = wanted - model.users.factors @ model.items.factors.T
    held = sum(jnp.sum(side.factors**2) for side in (model.users, model.items))
    return jnp.sum(confidence * error**2) + l2 * held


@pytest.mark.parametrize("kind", ["explicit", "implicit"])
def test_no_sweep_raises_the_objective_and_the_last_side_is_at_its_minimum(planted, kind):
    train, _ = planted
    if kind == "explicit":
        fit, objective = als, partial(explicit_objective, train, 0.3)
    else:
        train = amounts(train)
        fit = partial(implicit_als, alpha=2.0)
        objective = partial(implicit_objective, train, 0.3, 2.0)
    models = [fit(KEY, *train, **OPTIONS | {"iterations": i}) for i in (1, 2, 3)]
    values = [float(objective(model)) for model in models]
    assert values[0] > values[1] > values[2]
    gradient = jax.grad(objective, allow_int=True)(models[-1])
    scale = abs(gradient.users.factors).max()
    assert abs(gradient.items.factors).max() < 1e-10
    assert kind == "implicit" or abs(gradient.items.bias).max() < 1e-10
    assert scale > 1e-4  # control: the users were solved against older items


def test_planted_factors_are_found_and_a_missing_rating_is_no_zero(planted):
    train, held_out = planted
    found = als(KEY, *train, **OPTIONS | {"l2": 1e-3, "iterations": 60})
    plain = held_out[2].std()
    assert rmse(found, held_out) < 0.05 * plain
    users, items = (x.ravel() for x in np.indices(SHAPE))
    filled = np.zeros(SHAPE)
    filled[train[:2]] = train[2]
    zeros = als(KEY, users, items, filled.ravel(), **OPTIONS | {"l2": 1e-3, "iterations": 60})
    assert rmse(zeros, held_out) > plain  # control


def test_biases_alone_explain_what_they_should(rng):
    b, c = rng.standard_normal(N), rng.standard_normal(M)
    users, items = (x.ravel() for x in np.indices(SHAPE))
    model = als(KEY, users, items, 3 + b[users] + c[items], **OPTIONS | {"l2": 1e-4})
    np.testing.assert_allclose(
        predict_rating(model, users, items), 3 + b[users] + c[items], atol=1e-2
    )


def test_rows_without_ratings_stay_at_their_prior(planted):
    model = als(KEY, *planted[0], **OPTIONS)
    for side in (model.users, model.items):
        assert not side.factors[-1].any()
        assert side.bias[-1] == 0
    np.testing.assert_allclose(
        predict_rating(model, N - 1, 2), model.mean + model.items.bias[2]
    )


def test_the_order_of_the_ratings_is_nothing(planted, rng):
    train, _ = planted
    shuffled = rng.permutation(np.stack(train), axis=1)
    shuffled = (*shuffled[:2].astype(int), shuffled[2])
    for fit, data in (
        (als, (train, shuffled)),
        (implicit_als, map(amounts, (train, shuffled))),
    ):
        one, other = (fit(KEY, *x, **OPTIONS) for x in data)
        np.testing.assert_allclose(flat(one), flat(other), atol=1e-9)


def test_a_pair_twice_is_two_ratings_but_one_preference(planted):
    train, _ = planted
    twice = tuple(np.concatenate([x, x]) for x in train)
    doubled = als(KEY, *twice, **OPTIONS | {"l2": 0.6})
    np.testing.assert_allclose(flat(doubled), flat(als(KEY, *train, **OPTIONS)), atol=1e-9)
    users, items, seen = amounts(train)
    halves = (*(np.concatenate([x, x]) for x in (users, items)), np.tile(seen / 2, 2))
    whole = implicit_als(KEY, users, items, seen, **OPTIONS)
    np.testing.assert_allclose(
        flat(implicit_als(KEY, *halves, **OPTIONS)), flat(whole), atol=1e-9
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(planted, dtype):
    users, items, ratings = planted[0]
    model = als(KEY, users, items, jnp.asarray(ratings, dtype), **OPTIONS)
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype(dtype), jnp.dtype(bool)}
    same = als(KEY, users, items, jnp.asarray(ratings, dtype).astype("float64"), **OPTIONS)
    if dtype != "float64":  # its first factors are others
        same = als(KEY, users, items, jnp.asarray(ratings, dtype).astype("float32"), **OPTIONS)
    np.testing.assert_allclose(
        exact(flat(model)),
        flat(same),
        atol=8 * float(jnp.finfo(dtype).eps) * abs(flat(same)).max(),
    )


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e9, 1e15])
@pytest.mark.parametrize("kind", ["biases", "factors", "implicit"])
def test_ratings_in_any_unit_are_fitted(rng, scale, kind):
    users, items = rng.integers(0, 30, 300), rng.integers(0, 20, 300)
    ratings = 3.5 + rng.standard_normal(30)[users] * rng.standard_normal(20)[items]
    ratings = abs(ratings) if kind == "implicit" else ratings
    fit = implicit_als if kind == "implicit" else partial(als, biases=kind == "biases")

    scaled = jnp.asarray(scale * ratings, "float32")
    wanted = 1 if kind == "implicit" else ratings
    for seed in range(4):
        model = fit(jax.random.key(seed), users, items, scaled, shape=(30, 20), rank=8)
        assert model.ok
        found = exact(predict_rating(model, users, items))
        found /= 1 if kind == "implicit" else scale
        assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.15
    assert np.std(ratings) > 0.5  # control


def test_a_model_out_of_the_range_of_its_dtype_is_none():
    ids = jnp.arange(3)
    ratings = jnp.array([6e4, -6e4, 6e4], "float16")
    fit = lambda ratings: als(
        KEY, ids, 0 * ids, ratings, shape=(3, 1), rank=1, l2=1e-3, biases=False
    )
    for found, ok in ((fit(ratings), False), (fit(ratings / 100), True)):
        assert found.ok == ok
        assert all(np.isfinite(x).all() == ok for x in jax.tree.leaves(found)[:-1])


BAD = {
    "not a number": (0, 1, np.nan),
    "infinite": (0, 1, np.inf),
    "user": (N, 1, 1.0),
    "item": (0, -1, 1.0),
}


@pytest.mark.parametrize("fit", [als, implicit_als])
def test_bad_values_known_at_run_time_alone_poison_everything(planted, fit):
    users, items, ratings = (np.stack([x] * (len(BAD) + 1)) for x in amounts(planted[0]))
    for row, bad in enumerate(BAD.values(), start=1):
        users[row, 7], items[row, 7], ratings[row, 7] = bad
    models = jax.vmap(partial(fit, KEY, **OPTIONS))(*map(jnp.asarray, (users, items, ratings)))
    np.testing.assert_array_equal(models.ok, [True, False, False, False, False])
    for leaf in jax.tree.leaves(models)[:-1]:
        assert np.isfinite(leaf[0]).all()
        assert np.isnan(leaf[1:]).all()


@pytest.mark.parametrize("l2", [-0.1, 0.0, np.nan, np.inf])
def test_a_penalty_that_is_none_poisons_everything_under_jit(planted, l2):
    bad = jax.jit(lambda l2: als(KEY, *planted[0], **OPTIONS | {"l2": l2}))(l2)
    assert not bad.ok
    assert np.isnan(flat(bad)).all()


@pytest.mark.parametrize("alpha", [-0.01, np.nan, np.inf])
def test_a_confidence_that_is_none_poisons_everything_under_jit(planted, alpha):
    bad = jax.jit(lambda a: implicit_als(KEY, *amounts(planted[0]), alpha=a, **OPTIONS))(alpha)
    assert not bad.ok
    assert np.isnan(flat(bad)).all()


def test_ids_that_jax_would_cut_are_refused(model):
    with jax.enable_x64(False):
        for far in (2**32, -(2**32) + 1):
            ids, zeros, ones = np.array([0, far]), np.zeros(2, int), np.ones(2, np.float32)
            for users, items in ((ids, zeros), (zeros, ids)):
                with pytest.raises(ValueError, match=f"als: .* got {far}"):
                    als(KEY, users, items, ones, **OPTIONS)
                with pytest.raises(ValueError, match=f"predict_rating: .* got {far}"):
                    predict_rating(model, users, items)
            with pytest.raises(ValueError, match=f"recommend: users must .* got {far}"):
                recommend(model, users=ids, k=1)


def test_small_integers_number_many_rows(planted):
    users, items, ratings = (x[:99] for x in planted[0])
    users, items = users % 128, items % 128
    options = OPTIONS | {"shape": (300, 300)}
    small = [jnp.asarray(x, jnp.int8) for x in (users, items)]
    found = als(KEY, *small, ratings, **options)
    expected = als(KEY, users, items, ratings, **options)
    assert found.ok
    np.testing.assert_array_equal(found.users.factors, expected.users.factors)
    ids = jnp.arange(3, dtype=jnp.int8)
    for answer in (predict_rating(found, ids, ids), recommend(found, ids, k=3).scores):
        assert np.isfinite(answer).all()
    without = recommend(found, ids[0], k=299, exclude=ids[1:2]).indices
    assert 1 not in without


def test_several_penalties_at_once(planted):
    fit = lambda l2: als(KEY, *planted[0], **OPTIONS | {"l2": l2})
    both = jax.vmap(fit)(jnp.array([0.3, 2.0]))
    np.testing.assert_allclose(both.users.factors[1], fit(2.0).users.factors, atol=1e-9)


def test_memory_is_bounded_where_all_matrices_together_are_large():
    e, rank, n = 200_000, 64, 20_000
    ids, ratings = (jax.ShapeDtypeStruct((e,), t) for t in ("int32", "float32"))
    fit = partial(als, shape=(n, n), rank=rank)
    memory = jax.jit(fit).lower(KEY, ids, ids, ratings).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64e6 + 8 * (4 * e) + 8 * (4 * n * rank)
    assert 4 * n * rank**2 > 320e6  # all the normal equations at once would not fit


# What a model is for


@pytest.fixture
def model(rng):
    side = lambda n: Side(
        *map(jnp.asarray, (rng.standard_normal((n, RANK)), rng.standard_normal(n)))
    )
    return Recommender(side(N), side(M), jnp.array(3.0), jnp.array(True))


def all_scores(model):
    (p, b), (q, c) = model.users, model.items
    return np.array([[3 + b[u] + c[i] + p[u] @ q[i] for i in range(M)] for u in range(5)])


def test_predictions_are_the_sum(model):
    pairs = predict_rating(model, jnp.arange(5)[:, None], jnp.arange(M))
    assert_agrees(pairs, all_scores(model))
    nowhere = predict_rating(model, jnp.array([-1, N, 0, 0, 0]), jnp.array([0, 0, -1, M, 0]))
    np.testing.assert_array_equal(np.isnan(nowhere), [True, True, True, True, False])


def test_recommendations_are_the_head_of_a_sort_without_what_is_left_out(model):
    scores, users = all_scores(model), jnp.arange(5)
    order = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(recommend(model, users, k=4).indices, order[:, :4])
    out = np.full((5, 3), -1)
    out[:, :2] = order[:, [0, 2]]
    found = recommend(model, users, k=3, exclude=jnp.asarray(out))
    np.testing.assert_array_equal(found.indices, order[:, [1, 3, 4]])
    assert_agrees(found.scores, np.take_along_axis(scores, order[:, [1, 3, 4]], axis=1))
    one = recommend(model, 2, k=3, exclude=jnp.array([], int))
    np.testing.assert_array_equal(one.indices, order[2, :3])
    assert M - 1 in recommend(model, users, k=M, exclude=jnp.asarray(out)).indices[0]
    few = recommend(model, 0, k=M, exclude=jnp.arange(M - 1))
    assert few.indices[0] == M - 1
    assert (few.scores[1:] == -jnp.inf).all()
    assert np.isnan(recommend(model, N, k=2).scores).all()
    nobody = recommend(model, N, k=M, exclude=jnp.array([2])).scores
    assert np.isnan(nobody[:-1]).all()
    assert nobody[-1] == -jnp.inf
