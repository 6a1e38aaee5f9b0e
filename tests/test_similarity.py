import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DTYPES, assert_agrees, draw, exact

from lintoolkit import similarity

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_dtype
def test_dot_and_cosine_agree_with_their_sums(rng, dtype):
    a, b = draw(rng, 3, 1, 13, dtype=dtype), draw(rng, 5, 13, dtype=dtype)
    a_, b_ = exact(a), exact(b)
    assert_agrees(similarity.dot(a, b), (a_ * b_).sum(-1))
    assert_agrees(similarity.cosine_similarity(a, b), oracles.cosine_similarity(a_, b_))


def test_dot_is_lengths_times_cosine(rng):
    a, b = draw(rng, 7, 13), draw(rng, 7, 13)
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    assert_agrees(lengths * similarity.cosine_similarity(a, b), similarity.dot(a, b))


@settings(max_examples=30, deadline=None)
@given(st.integers(-30, 37), st.integers(-30, 37), st.integers(0, 99))
def test_cosine_ignores_lengths_whose_squares_leave_float32(i, j, seed):
    rng = np.random.default_rng(seed)
    a, b = (draw(rng, 13, dtype="float32") for _ in range(2))
    scaled = similarity.cosine_similarity(a * jnp.float32(10.0**i), b * jnp.float32(10.0**j))
    np.testing.assert_allclose(scaled, oracles.cosine_similarity(exact(a), exact(b)), atol=1e-6)
    square = jnp.sum((a * jnp.float32(10.0**i)) ** 2)  # control: the equation as it stands
    if abs(i) > 25:
        assert not np.isfinite(1 / square) or not np.isfinite(square)


@pytest.mark.parametrize("size", [4e-38, 3e38])
def test_cosine_at_the_ends_of_the_range(size):
    a, b = jnp.array([size, size / 3], "float32"), jnp.array([[size, 0.0]], "float32")
    np.testing.assert_allclose(similarity.cosine_similarity(a, a), 1, rtol=1e-6)
    np.testing.assert_allclose(similarity.cosine_similarity(a, b), 0.9**0.5, rtol=1e-6)
    assert similarity.top_k(a, b, k=1).scores[0] > 0.9


def test_cosine_bounds(rng):
    a = draw(rng, 7, 13)
    np.testing.assert_allclose(similarity.cosine_similarity(a, a), 1)
    np.testing.assert_allclose(similarity.cosine_similarity(a, -3 * a), -1)
    assert (jnp.abs(similarity.cosine_similarity(a[:-1], a[1:])) < 0.95).all()


def test_zero_vectors_are_like_nothing():
    zero, one = jnp.zeros(3), jnp.ones(3)
    for a, b in ((zero, one), (one, zero), (zero, zero)):
        value, gradients = jax.value_and_grad(similarity.cosine_similarity, (0, 1))(a, b)
        assert value == 0
        assert all(np.isfinite(g).all() for g in gradients)
    naive = jax.grad(lambda a: jnp.dot(a, one) / jnp.linalg.norm(a))(zero)
    assert np.isnan(naive).all()  # control


# search


@each_dtype
@pytest.mark.parametrize("measure", ["cosine", "dot"])
def test_top_k_is_the_head_of_a_sort(rng, dtype, measure):
    query, items = draw(rng, 3, 11, dtype=dtype), draw(rng, 23, 11, dtype=dtype)
    expected = exact(query) @ exact(items).T
    if measure == "cosine":
        expected = oracles.cosine_similarity(exact(query)[:, None], exact(items))
    order = np.argsort(-expected, axis=-1)[:, :5]
    found = similarity.top_k(query, items, k=5, measure=measure)
    np.testing.assert_array_equal(found.indices, order)
    assert_agrees(found.scores, np.take_along_axis(expected, order, axis=-1))


def test_dot_rewards_length_and_cosine_does_not():
    items = jnp.array([[1.0, 0.0], [5.0, 5.0]])
    query = jnp.array([1.0, 0.0])
    assert similarity.top_k(query, items, k=1).indices == 0
    assert similarity.top_k(query, items, k=1, measure="dot").indices == 1


def test_ties_go_to_the_earlier_row():
    found = similarity.top_k(jnp.ones(2), jnp.ones((5, 2)), k=3)
    np.testing.assert_array_equal(found.indices, [0, 1, 2])


def test_rows_that_are_not_numbers_come_last(rng):
    items = draw(rng, 5, 3).at[1].set(jnp.nan).at[3, 0].set(-jnp.nan)
    for measure in ("cosine", "dot"):
        found = similarity.top_k(draw(rng, 3), items, k=5, measure=measure)
        assert set(found.indices[:3].tolist()) == {0, 2, 4}
        assert (found.scores[3:] == -jnp.inf).all()


# analogies


def parallelogram(rng):
    """Words man, king, woman, queen and seven others; the first two differ as the next two."""
    man, royal, female = (draw(rng, 13) for _ in range(3))
    words = [man, man + royal, man + female, man + royal + female]
    return jnp.stack([*words, *draw(rng, 7, 13)])


def test_analogy_completes_a_parallelogram(rng):
    table = parallelogram(rng)
    assert similarity.analogy(table, 0, 1, 2) == 3
    assert similarity.analogy(table, 1, 0, 3) == 2
    found = similarity.analogy(table, 0, 1, 2, k=8)
    assert sorted(found.tolist()) == list(range(3, 11))


def test_analogy_leaves_the_question_out(rng):
    table = parallelogram(rng).at[3].set(draw(rng, 13))  # no answer is right
    target = table[1] - table[0] + table[2]
    assert similarity.top_k(target, table, k=1).indices[0] in (0, 1, 2)
    assert similarity.analogy(table, 0, 1, 2)[0] not in (0, 1, 2)


def test_analogy_leaves_the_question_out_of_what_half_precision_cannot_hold():
    table = jnp.array([[6e4, 0], [-6e4, 1], [6e4, 3], [-6e4, 5], [0, 9]], "float16")
    asked = lambda table: similarity.analogy(table, 1, 0, 1, k=2)
    np.testing.assert_array_equal(asked(table), asked(table.astype("float32")))
    bad = table.at[2:].set(jnp.nan)
    assert sorted(similarity.analogy(bad, 1, 0, 1, k=2).tolist())[0] > 1
    assert not jnp.isfinite(table[0] - table[1] + table[1]).all()  # control


def test_analogy_takes_numbers_of_rows_as_arrays(rng):
    table = parallelogram(rng)
    questions = [jnp.array([i, j]) for i, j in ((0, 1), (1, 0), (2, 3))]
    found = jax.vmap(similarity.analogy, (None, 0, 0, 0))(table, *questions)
    np.testing.assert_array_equal(found, [[3], [2]])
