import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from conftest import AS_FOR_USERS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads
from oracles import DTYPES, assert_agrees, differs, draw, exact

from lintoolkit import _blockwise, _cudnn
from lintoolkit import attention as attend
from lintoolkit.cost import cost

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


# shapes (b, t, s, h, n, d_k, d_v), and options; what else is given, and how, is drawn
BUCKETS = {
    "plain": ((2, 5, 7, 3, 3, 11, 2), {}),
    "one pair": ((1, 1, 1, 1, 1, 3, 2), {"causal": True}),
    "causal": ((2, 7, 5, 4, 2, 3, 3), {"causal": True}),  # t > s: rows that see nothing
    "window": ((1, 11, 13, 2, 1, 5, 5), {"window": (3, 1)}),
    "soft cap": ((2, 5, 11, 3, 1, 7, 2), {"softcap": 1.5, "scale": 0.7}),
    "everything": (
        (2, 7, 11, 6, 2, 3, 5),
        {"causal": True, "window": 4, "softcap": 2.0, "scale": 0.5},
    ),
    "half": ((2, 5, 13, 4, 2, 11, 3), {"causal": True}),
    "two blocks of rows": ((1, 263, 277, 2, 1, 3, 3), {"causal": True}),
    "blocks of rows, window": ((1, 521, 541, 1, 1, 2, 3), {"window": (37, 3), "softcap": 2.0}),
    "groups of heads": ((3, 269, 257, 6, 6, 2, 2), {"causal": True}),
}
EXAMPLES = 32  # of each, in both forms: 640 in all


def drawn(rng, shape, dtype):
    """Random arrays and options; now and then nothing at all is visible."""
    b, t, s, h, n, d_k, d_v = shape
    q, k, v, dy = (
        draw(rng, *size, dtype=dtype)
        for size in ((b, t, h, d_k), (b, s, n, d_k), (b, s, n, d_v), (b, t, h, d_v))
    )
    mask = jnp.asarray(rng.random((b, 1, t, s)) < rng.choice([0, 0.1, 0.9, 1]))
    bias = draw(rng, h, 1, s, dtype=dtype)
    segments = [jnp.asarray(rng.integers(0, 3, (b, m)).cumsum(1) // m) for m in (t, s)]
    lengths = jnp.asarray(rng.integers(0, s + 1, b))
    alibi = jnp.asarray(8 / s * rng.random(h), dtype=dtype)
    given = {
        "mask": mask,
        "bias": bias,
        "segment_ids": segments[0],
        "kv_segment_ids": segments[1],
        "lengths": lengths,
        "alibi": alibi,
    }
    return (q, k, v, dy), given


def visible_and_bias(shape, given, causal=False, window=None, **_):
    """What the options say, pair by pair, as (b, h, t, s)."""
    b, t, s, h, *_ = shape
    before, after = window if isinstance(window, tuple) else (window, window)
    behind = np.arange(s - t, s)[:, None] - np.arange(s)
    near = np.ones((t, s), bool)
    if causal:
        near &= behind >= 0
    if window:
        near &= (behind <= before) & (behind >= -after)
    mine, theirs = (np.asarray(given[name]) for name in ("segment_ids", "kv_segment_ids"))
    together = mine[:, None, :, None] == theirs[:, None, None, :]
    real = np.arange(s) < np.asarray(given["lengths"])[:, None, None, None]
    visible = near & np.asarray(given["mask"]) & together & real
    slopes = exact(given["alibi"])[:, None, None]
    bias = exact(given["bias"]) - slopes * np.abs(behind)
    return np.broadcast_to(visible, (b, h, t, s)), np.broadcast_to(bias, (b, h, t, s))


@pytest.fixture
def elsewhere(request, monkeypatch):
    """The form for devices other than CPUs, in blocks small enough that there are several."""
    if request.param:
        jax.clear_caches()
        monkeypatch.setattr(_blockwise, "_on_cpu", lambda: False)
        monkeypatch.setattr(_blockwise, "WIDE_BLOCK_NUMBERS", request.param)
    yield
    if request.param:
        jax.clear_caches()


@pytest.mark.parametrize("elsewhere", [0, 2**17], ids=["CPU", "elsewhere"], indirect=True)
@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.usefixtures("elsewhere")
def test_random_configurations_agree_with_float64_and_with_jax_nn(bucket):
    shape, options = BUCKETS[bucket]
    dtype = "bfloat16" if bucket == "half" else "float32"
    tolerance = 2e-6 if dtype == "float32" else 2 * float(jnp.finfo(dtype).eps)
    plain = not options.get("softcap") and shape[-1] == shape[-2] and dtype == "float32"
    scale = options.get("scale", shape[5] ** -0.5)

    # 2e-6 is near what rounding leaves, and the quick code rounds otherwise.
    @partial(jax.jit, compiler_options=AS_FOR_USERS)
    def ours(operands, given):
        *qkv, dy = operands
        bias = given.pop("bias")
        run = lambda *x: attend.attention(*x[:3], bias=x[3], **given, **options)
        y, pull = jax.vjp(run, *qkv, bias)
        return y, pull(dy)

    theirs = jax.jit(
        lambda q, k, v, bias, mask: jax.nn.dot_product_attention(
            q, k, v, bias=bias, mask=mask, scale=scale
        )
    )

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(st.integers(0, 2**32 - 1))
    def agree(seed):
        operands, given = drawn(np.random.default_rng(seed), shape, dtype)
        visible, bias = visible_and_bias(shape, given, **options)
        expected, pulled = oracles.attention_and_gradients(
            *exact(operands), visible, bias, scale, options.get("softcap")
        )
        y, gradients = ours(operands, given)
        seen = visible.any(-1).swapaxes(1, 2)
        assert not y[~seen].any()
        assert not gradients[0][~seen].any()
        pulled = (*pulled[:3], pulled[3].sum((0, 2))[:, None])  # the bias served b and t
        for actual, right in ((y, expected), *zip(gradients, pulled, strict=True)):
            atol = tolerance * max(1, np.abs(right).max())
            np.testing.assert_allclose(exact(actual), right, rtol=0, atol=atol)
        if plain:
            z = theirs(*operands[:3], jnp.asarray(bias, dtype), jnp.asarray(visible))
            np.testing.assert_allclose(y[seen], z[seen], rtol=0, atol=2e-6)

    agree()


@pytest.mark.parametrize("elsewhere", [0, 2**17], ids=["CPU", "elsewhere"], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_a_bias_hides_where_it_is_minus_infinity_and_nearly_where_it_is_very_small(rng):
    q, k, v = (draw(rng, 6, 2, 4, dtype="float32") for _ in range(3))
    bias = np.zeros((1, 6, 6), np.float32)
    bias[0, :, 1], bias[0, 2] = -np.inf, -np.inf
    y = attend.attention(q, k, v, bias=jnp.asarray(bias))
    assert_agrees(y, attend.attention(q, k, v, mask=jnp.asarray(bias == 0)))
    assert not y[2].any()
    # All that row 0 may see has one small bias: it still sees nothing else.
    bias = np.zeros((1, 6, 6), np.float32)
    bias[0, :, 0] = np.finfo(np.float32).min
    y = attend.attention(q, k, v, bias=jnp.asarray(bias), causal=True)
    assert_agrees(y[0], v[0])
    bias[0, 3, 3] = np.nan
    y = attend.attention(q, k, v, bias=jnp.asarray(bias))
    assert np.isnan(y[3]).all()
    assert np.isfinite(y[:3]).all()
    everywhere = attend.attention(q, k, v, mask=lambda i, j: jnp.asarray(True))  # noqa: ARG005
    assert_agrees(everywhere, attend.attention(q, k, v))


@pytest.mark.parametrize("elsewhere", [0, 2**17], ids=["CPU", "elsewhere"], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_many_rows_come_in_several_blocks(rng):
    q, k, v = (draw(rng, n, 2, 4) for n in (1307, 61, 61))
    table = lambda q, k: jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / 2)
    naive = lambda q, k, v: jnp.einsum("hts,shd->thd", table(q, k), v)
    gradient = lambda fn: jax.grad(lambda *qkv: (fn(*qkv) ** 2).sum(), (0, 1, 2))(q, k, v)
    assert_agrees(attend.attention(q, k, v), naive(q, k, v))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-11),
        *(gradient(fn) for fn in (attend.attention, naive)),
    )


@pytest.mark.parametrize("elsewhere", [2**23], indirect=True)
@pytest.mark.usefixtures("elsewhere")
def test_pairs_that_devices_take_at_once_share_the_room_for_scores(monkeypatch):
    def largest(devices):
        monkeypatch.setattr(_blockwise._checks, "devices", lambda _: devices)
        struct = jax.ShapeDtypeStruct((4, 4096, 4, 8), jnp.float32)
        run = jax.jit(lambda *x: attend.attention(*x, scale=1 / devices))
        arrays = re.findall(r"tensor<([\dx]+)xf32>", run.lower(*[struct] * 3).as_text())
        return max(math.prod(map(int, dims.split("x"))) for dims in arrays)

    assert largest(2) == 2 * 2**23
    assert largest(4 * 4) == 4 * 4 * 2**23  # as much for each pair, a device for each


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


BLOCKS_OF_64 = lambda i, j: (i // 64 == j // 64) & (j <= i)


def test_a_mask_may_be_a_function_of_the_two_numbers(rng):
    q, k, v = operands(rng, t=263, s=277)  # queries are numbered as the last keys
    i, j = np.arange(277 - 263, 277)[:, None], np.arange(277)
    table = jnp.asarray(BLOCKS_OF_64(i, j))
    for f, operands_ in ((attend.attention, (q, k, v)), (attend.attention_weights, (q, k))):
        y = f(*operands_, mask=BLOCKS_OF_64)
        np.testing.assert_array_equal(y, f(*operands_, mask=table))
        assert differs(y, f(*operands_, mask=lambda i, j: i // 64 == j // 64))
        both = f(*operands_, mask=lambda i, j: i // 64 == j // 64, causal=True)
        assert_agrees(y, both)
    slope = jax.grad(lambda q, mask: attend.attention(q, k, v, mask=mask).sum())
    assert_agrees(slope(q, jax.tree_util.Partial(BLOCKS_OF_64)), slope(q, table))


def test_a_mask_that_is_a_function_closes_over_mapped_arrays(rng):
    q, k, v = (jnp.stack([x, 2 * x, -x]) for x in operands(rng))
    lengths = jnp.array([0, 3, S], jnp.int32)
    first = lambda q, k, v, n: attend.attention(q, k, v, mask=lambda _, j: j < n)
    expected = attend.attention(q, k, v, lengths=lengths)
    assert_agrees(jax.vmap(first)(q, k, v, lengths), expected)
    assert differs(jax.vmap(first)(q, k, v, lengths + 1), expected)


def test_a_mask_that_is_a_function_is_no_table_in_memory():
    struct = jax.ShapeDtypeStruct((4096, 1, D_K), jnp.float32)
    few = cost(partial(attend.attention, mask=BLOCKS_OF_64), *[struct] * 3).memory
    table = jax.ShapeDtypeStruct((4096, 4096), bool)
    many = cost(lambda *x: attend.attention(*x[:3], mask=x[3]), *[struct] * 3, table).memory
    assert few.arguments + few.temps < (many.arguments + many.temps) / 2


def test_multi_head_attention_hands_a_mask_on(rng):
    params = attend.init_multi_head(jax.random.key(0), 6, 2)
    x = draw(rng, 5, 6, dtype="float32")
    y = attend.multi_head_attention(params, x, heads=2, mask=lambda i, j: j <= i)
    assert_agrees(y, attend.multi_head_attention(params, x, heads=2, causal=True))


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


# memory, work and derivatives of long sequences


def temporaries(fn, t):
    x = jax.ShapeDtypeStruct((t, 2, 8), "float32")
    return jax.jit(fn).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("differentiate", [False, True])
def test_memory_grows_with_the_length_and_not_with_its_square(differentiate):
    def growth(fn):
        pulled = jax.grad(lambda *x: fn(*x).sum(), (0, 1, 2)) if differentiate else fn
        # Both lengths are cut into blocks alike, which shorter ones are not.
        return temporaries(pulled, 8192) / temporaries(pulled, 4096)

    assert growth(partial(attend.attention, causal=True)) < 2.2
    assert growth(partial(jax.nn.dot_product_attention, is_causal=True)) > 3.5  # control


@pytest.mark.parametrize(
    ("t", "s", "options"),
    [
        (521, 521, {}),
        (521, 521, {"causal": True}),
        (263, 1031, {"causal": True}),
        (1031, 521, {"window": (97, 5)}),
        (1031, 263, {"causal": True}),
    ],
)
def test_long_sequences_cost_what_the_formula_says(t, s, options):
    dims = {"t": t, "s": s, "h": 2, "d_k": 3, "d_v": 5}
    shapes = (t, 2, 3), (s, 2, 3), (s, 2, 5)
    arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    counted = cost(partial(attend.attention, **options), *arrays).lowered.matmul_flops
    assert counted == attend.attention_flops(**dims, **options)
    before, after = options.get("window", (t + s, t + s))
    behind = np.arange(s - t, s)[:, None] - np.arange(s)
    needed = (behind <= before) & (behind >= (0 if options.get("causal") else -after))
    assert needed.sum() <= counted / (2 * 2 * (3 + 5)) <= t * s


def test_hidden_keys_are_left_out():
    full = attend.attention_flops(t=4096, s=4096, h=1, d_k=1, d_v=1)
    causal = attend.attention_flops(t=4096, s=4096, h=1, d_k=1, d_v=1, causal=True)
    assert causal / full == (8 + 1) / (2 * 8)
    assert attend.attention_flops(t=4096, s=4096, h=1, d_k=1, d_v=1, window=256) < full / 4


def test_derivatives_to_second_order(rng):
    q, k, v = operands(rng, t=3, s=5)
    given = {"lengths": jnp.array(4), "causal": True, "softcap": 2.0, "window": (3, 0)}
    bias, slopes = draw(rng, H, 1, 5), jnp.abs(draw(rng, H))
    run = lambda q, k, v, bias, slopes: attend.attention(
        q, k, v, bias=bias, alibi=slopes, **given
    )
    check_grads(run, (q, k, v, bias, slopes), order=2)


def test_derivatives_to_second_order_block_by_block(rng):
    q, k, v = (draw(rng, n, 8, 2) for n in (263, 257, 257))  # scores too many to keep
    check_grads(partial(attend.attention, causal=True), (q, k, v), order=2, modes=["rev"])


def test_the_future_has_no_gradient_across_blocks(rng):
    q, k, v = (draw(rng, 521, 2, 3) for _ in range(3))
    gradient = jax.jit(jax.grad(lambda v, i: attend.attention(q, k, v, causal=True)[i].sum()))
    for i in (0, 255, 256, 300, 520):
        seen = jnp.abs(gradient(v, i)).max(axis=(1, 2)) > 0
        np.testing.assert_array_equal(seen, np.arange(521) <= i)


# programs for CUDA, with a stand-in for cuDNN: what each platform gets, not what it computes


@jax.custom_vjp
def stand_in(q, k, v, **_):
    return jnp.sin(q) * jnp.mean(k) + jnp.mean(v)


stand_in.defvjp(lambda *qkv: (stand_in(*qkv), qkv), lambda qkv, _: jax.tree.map(jnp.sinh, qkv))


def lowered(fn, platform, *args):
    return jax.export.export(jax.jit(fn), platforms=[platform])(*args).mlir_module()


def test_cuda_alone_gets_cudnn_where_it_applies(monkeypatch, rng):
    gpu = type("Device", (), {"device_kind": "NVIDIA H100"})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [gpu])
    theirs = lambda q, k, v, **options: stand_in(q, k, v)  # noqa: ARG005
    monkeypatch.setattr(jax.nn, "dot_product_attention", theirs)
    q = draw(rng, 2, 6, 3, 8, dtype="bfloat16")
    has_sine = lambda platform, x, **options: (
        "stablehlo.sine" in lowered(lambda x: attend.attention(x, x, x, **options), platform, x)
    )
    assert has_sine("cuda", q, causal=True)
    assert not has_sine("cpu", q, causal=True)
    assert not has_sine("cuda", q, window=2)
    assert not has_sine("cuda", q, softcap=2.0)
    assert not has_sine("cuda", q.astype("float32"))
    assert not has_sine("cuda", draw(rng, 2, 6, 3, 7, dtype="bfloat16"))
    assert not has_sine("cuda", draw(rng, 2, 5, 3, 8, dtype="bfloat16"))
    gradient = jax.grad(lambda x: attend.attention(x, x, x).sum())
    assert "stablehlo.sinh" in lowered(gradient, "cuda", q) or "chlo.sinh" in lowered(
        gradient, "cuda", q
    )


@jax.custom_vjp
def saves_sums(q, k, v):
    odds = jnp.exp(jnp.einsum("thd,shd->hts", q, k))
    return jnp.einsum("hts,shd->thd", odds / odds.sum(-1, keepdims=True), v)


def saves_sums_forward(q, k, v):
    odds = jnp.expm1(jnp.einsum("thd,shd->hts", q, k)) + 1
    total = odds.sum(-1)
    y = jnp.einsum("hts,shd->thd", odds / total[..., None], v)
    return y, (q, k, v, jnp.log(total), y)


def saves_sums_backward(saved, dy):
    q, k, v, log_total, y = saved
    p = jnp.expm1(jnp.einsum("thd,shd->hts", q, k) - log_total[..., None]) + 1
    ds = p * (jnp.einsum("thd,shd->hts", dy, v) - (dy * y).sum(-1).T[..., None])
    return (
        jnp.einsum("hts,shd->thd", ds, k),
        jnp.einsum("hts,thd->shd", ds, q),
        jnp.einsum("hts,thd->shd", p, dy),
    )


saves_sums.defvjp(saves_sums_forward, saves_sums_backward)


def test_the_gradient_starts_from_what_the_forward_pass_saved(monkeypatch, rng):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, default: cuda(*x))  # noqa: ARG005
    operands = [draw(rng, 5, 2, 3) for _ in range(3)]
    ours = partial(attend.attention, scale=1.0)
    gradient = lambda fn: jax.jit(jax.grad(lambda *qkv: (fn(*qkv) ** 2).sum(), (0, 1, 2)))
    both = gradient(_cudnn.prefer_on_cuda(saves_sums, ours))
    jax.tree.map(assert_agrees, both(*operands), gradient(ours)(*operands))
    # The fast function's forward pass for values alone is not run beside that for gradients.
    count = lambda fn: fn.lower(*operands).compile().as_text().count(" exponential(")
    assert count(both) == count(gradient(saves_sums)) == 0
    anew = lambda qkv, dy: jax.vjp(saves_sums, *qkv)[1](dy)
    control = jax.custom_vjp(saves_sums)
    control.defvjp(lambda *qkv: (saves_sums(*qkv), qkv), anew)
    assert count(gradient(control)) == 1
    # Nor does the pullback run the pass for gradients again, where alone there is a logarithm.
    run = jax.jit(lambda pull, dy: pull(dy))
    logs = lambda fn: (
        run.lower(jax.vjp(fn, *operands)[1], operands[0]).compile().as_text().count(" log(")
    )
    assert logs(_cudnn.prefer_on_cuda(saves_sums, ours)) == logs(saves_sums) == 0
    assert logs(control) > 0


def test_the_gradient_of_a_part_of_the_batch_is_had_within_shard_map(rng):
    operands = [draw(rng, 3, 5, 2, 3) for _ in range(3)]
    both = jax.vmap(_cudnn.prefer_on_cuda(saves_sums, attend.attention))
    gradient = lambda fn: jax.grad(lambda *qkv: (fn(*qkv) ** 2).sum(), (0, 1, 2))
    spec = jax.sharding.PartitionSpec("d")
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(gradient(both), mesh=mesh, in_specs=spec, out_specs=spec)
    jax.tree.map(
        assert_agrees, jax.jit(split)(*operands), gradient(attend.attention)(*operands)
    )


def test_what_cudnn_lacks_comes_from_ours(rng):
    operands = [draw(rng, 5, 2, 3) for _ in range(3)]
    ours = partial(attend.attention, causal=True)
    both = _cudnn.prefer_on_cuda(stand_in, ours)
    assert_agrees(both(*operands), ours(*operands))
    check_grads(both, operands, order=2, modes=["rev"])
    loss = lambda fn: lambda *qkv: (fn(*qkv) ** 2).sum()
    second = lambda fn: jax.jacfwd(jax.grad(loss(fn)))(*operands)
    assert_agrees(second(both), second(ours))


# rotations


@each_dtype
def test_rope_multiplies_pairs_by_complex_numbers(rng, dtype):
    x, positions = draw(rng, 7, 3, 10, dtype=dtype), rng.integers(0, 99, 7)
    expected = oracles.rope(exact(x), positions, 100.0)
    assert_agrees(attend.rope(x, jnp.asarray(positions), base=100.0), expected)
    default = oracles.rope(exact(x), np.arange(7), 10000.0)
    assert_agrees(attend.rope(x), default)


def test_rotated_products_know_distances_alone(rng):
    q, k, positions = draw(rng, 5, 3, 8), draw(rng, 7, 3, 8), rng.integers(0, 50, 7)
    scores = lambda shift: attend.attention_weights(
        attend.rope(q, jnp.asarray(positions[:5] + shift)),
        attend.rope(k, jnp.asarray(positions + shift)),
    )
    assert_agrees(scores(11), scores(0), ulps=256)
    moved = attend.attention_weights(
        attend.rope(q, jnp.asarray(positions[:5] + 11)), attend.rope(k, jnp.asarray(positions))
    )
    assert differs(moved, scores(0))  # control


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


def test_heads_share_keys_and_values_and_rotate(rng):
    params = attend.init_multi_head(jax.random.key(2), 12, 3, kv_heads=1, dtype=jnp.float64)
    assert [params[name]["kernel"].shape[1] for name in ("key", "value")] == [4, 4]
    x, options = draw(rng, 7, 12), {"heads": 3, "causal": True}
    thrice = lambda layer: {"kernel": jnp.tile(layer["kernel"], 3)}
    spread = {**params, "key": thrice(params["key"]), "value": thrice(params["value"])}
    shared = attend.multi_head_attention(params, x, **options)
    assert_agrees(shared, attend.multi_head_attention(spread, x, **options))
    rotated = attend.multi_head_attention(params, x, rope_base=100.0, **options)
    split = lambda name: (x @ spread[name]["kernel"]).reshape(7, 3, 4)
    turned = [
        oracles.rope(exact(split(name)), np.arange(7), 100.0) for name in ("query", "key")
    ]
    y = attend.attention(*map(jnp.asarray, turned), split("value"), causal=True)
    assert_agrees(rotated, y.reshape(7, 12) @ params["out"]["kernel"])
    assert differs(rotated, shared)


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
