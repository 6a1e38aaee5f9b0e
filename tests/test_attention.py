import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import DTYPES, assert_agrees, differs, draw, exact

from lintoolkit import attention as attend

T, S, H, D_K, D_V = 5, 7, 3, 11, 2
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def operands(rng, dtype="float64", t=T, s=S):
    shapes = (t, H, D_K), (s, H, D_K), (s, H, D_V)
    return [draw(rng, *shape, dtype=dtype) for shape in shapes]


# against another road


@each_dtype
def test_attention_averages_values_by_softmax_weights(rng, dtype):
    q, k, v = operands(rng, dtype)
    everything = np.ones((H, T, S), bool)
    weights = oracles.attention_weights(exact(q), exact(k), everything, D_K**-0.5)
    assert_agrees(attend.attention_weights(q, k), weights)
    expected = oracles.attention(exact(q), exact(k), exact(v), everything, D_K**-0.5)
    assert_agrees(attend.attention(q, k, v), expected)
    expected = oracles.attention(exact(q), exact(k), exact(v), everything, 0.7)
    assert_agrees(attend.attention(q, k, v, scale=0.7), expected)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(bool, (H, T, S)), st.integers(0, 2**32 - 1))
def test_any_mask_agrees_and_rows_sum_to_one_or_nothing(mask, seed):
    q, k, v = operands(np.random.default_rng(seed))
    weights = attend.attention_weights(q, k, mask=jnp.asarray(mask))
    assert_agrees(weights, oracles.attention_weights(exact(q), exact(k), mask, D_K**-0.5))
    np.testing.assert_allclose(weights.sum(-1), mask.any(-1), atol=1e-12)
    expected = oracles.attention(exact(q), exact(k), exact(v), mask, D_K**-0.5)
    assert_agrees(attend.attention(q, k, v, mask=jnp.asarray(mask)), expected)


def test_agrees_with_jax_nn(rng):
    # jax.nn wants d_v = d_k, and its softmax stays in float32 whatever the input.
    q, k, v = (draw(rng, 2, T, H, D_K, dtype="float32") for _ in range(3))
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    assert_agrees(attend.attention(q, k, v, causal=True), theirs)
    assert differs(attend.attention(q, k, v), theirs)


# laws


def test_order_of_keys_does_not_matter_and_order_of_values_does(rng):
    (q, k, v), order = operands(rng), rng.permutation(S)
    y = attend.attention(q, k, v)
    assert_agrees(attend.attention(q, k[order], v[order]), y)
    assert differs(attend.attention(q, k, v[order]), y)


def test_a_vector_added_to_every_key_changes_nothing(rng):
    (q, k, _), shift = operands(rng), draw(rng, H, D_K)
    weights = attend.attention_weights(q, k)
    assert_agrees(attend.attention_weights(q, k + shift), weights, ulps=256)
    assert differs(attend.attention_weights(q, k.at[0].add(shift)), weights)


def test_large_scores_stay_finite(rng):
    q, k, _ = operands(rng, "float32")
    weights = attend.attention_weights(1e4 * q, k)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    naive = jnp.exp(1e4 * jnp.einsum("thd,shd->hts", q, k))
    assert not np.isfinite(naive).all()  # control: without the shift


def test_softmax_runs_in_float32_on_half_precision(rng):
    q, k = (
        draw(rng, T, H, D_K, dtype="bfloat16") * 4,
        draw(rng, S, H, D_K, dtype="bfloat16") * 4,
    )
    scores = np.einsum("thd,shd->hts", exact(q), exact(k)) * D_K**-0.5
    expected = jax.nn.softmax(scores)
    assert_agrees(attend.attention_weights(q, k), expected, ulps=1)
    rounded = jax.nn.softmax(jnp.asarray(scores, "bfloat16"))
    assert differs(rounded, expected)  # control: scores of 30 have steps of 1/8 there


# masks


def test_causal_is_the_lower_triangle_aligned_at_the_end(rng):
    q, k, v = operands(rng, t=S)
    causal = attend.attention(q, k, v, causal=True)
    assert_agrees(causal, attend.attention(q, k, v, mask=jnp.tri(S, dtype=bool)))
    assert_agrees(attend.attention(q[-3:], k, v, causal=True), causal[-3:])
    assert differs(attend.attention(q[:3], k, v, causal=True), causal[:3])  # control: the start


def test_causal_and_mask_hide_together(rng):
    (q, k, v), mask = operands(rng), jnp.asarray(rng.random((H, T, S)) < 0.5)
    both = mask & jnp.tri(T, S, S - T, dtype=bool)
    y = attend.attention(q, k, v, mask=mask, causal=True)
    assert_agrees(y, attend.attention(q, k, v, mask=both))
    assert differs(y, attend.attention(q, k, v, mask=mask))


def test_a_mask_per_item_broadcasts(rng):
    q, k, v = (jnp.stack([x, x]) for x in operands(rng))
    lengths = jnp.array([2, S])
    mask = (jnp.arange(S) < lengths[:, None])[:, None, None, :]
    y = attend.attention(q, k, v, mask=mask)
    assert_agrees(y[0], attend.attention(q[0], k[0, :2], v[0, :2]))
    assert_agrees(y[1], attend.attention(q[1], k[1], v[1]))


def test_the_future_has_no_gradient(rng):
    q, k, v = operands(rng, t=S)
    gradient = jax.grad(lambda v, i: attend.attention(q, k, v, causal=True)[i].sum())
    for i in range(S):
        seen = jnp.abs(gradient(v, i)).max(axis=(1, 2)) > 0
        np.testing.assert_array_equal(seen, np.arange(S) <= i)


def test_rows_that_see_nothing_are_zeros_in_value_and_gradient(rng):
    q, k, v = operands(rng, t=S + 2)  # causal: the first two queries precede every key
    loss = lambda *operands: (attend.attention(*operands, causal=True) ** 2).sum()
    y = attend.attention(q, k, v, causal=True)
    assert not y[:2].any()
    assert y[2:].all()
    gradients = jax.grad(loss, (0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[0][:2].any()
    hessian = jax.jacfwd(jax.grad(loss))(q, k, v)
    assert np.isfinite(hessian).all()
    assert not hessian[:2].any()
    naive = jax.nn.softmax(jnp.where(jnp.zeros(3, bool), jnp.ones(3), -jnp.inf))
    assert np.isnan(naive).all()  # control: minus infinity alone


# heads


@each_dtype
@pytest.mark.parametrize("causal", [False, True])
def test_heads_work_in_their_own_columns(rng, dtype, causal):
    params = attend.init_multi_head(jax.random.key(0), 10, 5, dtype=jnp.dtype(dtype))
    x = draw(rng, 7, 10, dtype=dtype)
    visible = np.tri(7, dtype=bool) if causal else np.ones((7, 7), bool)
    expected = oracles.multi_head_attention(exact(params), exact(x), 5, visible)
    actual = attend.multi_head_attention(params, x, heads=5, causal=causal)
    assert_agrees(actual, expected, ulps=64)
    assert differs(attend.multi_head_attention(params, x, heads=1, causal=causal), expected)


def test_heads_are_equivariant_until_a_mask_gives_them_an_order(rng):
    params = attend.init_multi_head(jax.random.key(1), 6, 2, bias=True, dtype=jnp.float64)
    x, order = 3 * draw(rng, 7, 6), rng.permutation(7)
    run = lambda x, **options: attend.multi_head_attention(params, x, heads=2, **options)
    assert_agrees(run(x[order]), run(x)[order])
    assert differs(run(x[order], causal=True), run(x, causal=True)[order])


def test_init_multi_head_draws_four_layers():
    params = attend.init_multi_head(jax.random.key(0), 6, 2)
    kernels = [params[name]["kernel"] for name in ("query", "key", "value", "out")]
    assert len({float(kernel.sum()) for kernel in kernels}) == 4
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 4 * 6**2
    biased = attend.init_multi_head(jax.random.key(0), 6, 2, bias=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(biased)) == 4 * 6**2 + 4 * 6
