from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import DTYPES, assert_agrees, differs, draw, exact

from lintoolkit import layers

each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def dense_params(rng, d_in, d_out, dtype="float64"):
    return {
        "kernel": draw(rng, d_in, d_out, dtype=dtype),
        "bias": draw(rng, d_out, dtype=dtype),
    }


# dense and mlp


@each_dtype
def test_dense_is_a_sum_of_scaled_kernel_rows(rng, dtype):
    params, x = dense_params(rng, 5, 7, dtype), draw(rng, 3, 5, dtype=dtype)
    assert_agrees(layers.dense(params, x), oracles.dense(exact(params), exact(x)))


def test_dense_reads_flax_params(rng):
    params, x = dense_params(rng, 5, 7), draw(rng, 2, 3, 5)
    theirs = flax.linen.Dense(7, param_dtype=jnp.float64).apply({"params": params}, x)
    assert_agrees(layers.dense(params, x), theirs)


def test_dense_without_bias_is_linear_and_with_bias_is_not(rng):
    params, x, y = dense_params(rng, 5, 7), draw(rng, 3, 5), draw(rng, 3, 5)
    linear = {"kernel": params["kernel"]}
    assert_agrees(
        layers.dense(linear, 2 * x - y), 2 * layers.dense(linear, x) - layers.dense(linear, y)
    )
    affine_sum = layers.dense(params, x) + layers.dense(params, y)
    assert differs(layers.dense(params, x + y), affine_sum)


def test_a_matrix_written_for_columns_is_the_transposed_kernel(rng):
    w, x = draw(rng, 5, 5), draw(rng, 5)
    assert_agrees(layers.dense({"kernel": w.T}, x), exact(w) @ exact(x))
    assert differs(layers.dense({"kernel": w}, x), w @ x)


def test_dense_computes_in_the_dtype_of_x(rng):
    params, x = dense_params(rng, 5, 7, "float32"), draw(rng, 3, 5, dtype="bfloat16")
    assert layers.dense(params, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_long_sums_of_half_precision_round_once(rng, dtype):
    params, x = dense_params(rng, 4099, 3, dtype), draw(rng, 5, 4099, dtype=dtype)
    expected = exact(x) @ exact(params["kernel"]) + exact(params["bias"])
    assert_agrees(layers.dense(params, x), expected, ulps=1)
    one_by_one = jnp.zeros((5, 3), dtype)  # control: sums kept in half precision
    for start in range(0, 4099, 64):
        part = np.s_[start : start + 64]
        one_by_one += x[:, part] @ params["kernel"][part]
    error = np.abs(exact(one_by_one + params["bias"]) - expected).max()
    assert error > float(jnp.finfo(dtype).eps) * np.abs(expected).max()


def test_init_dense_keeps_unit_variance():
    params = layers.init_dense(jax.random.key(0), 211, 499)
    x = jax.random.normal(jax.random.key(1), (307, 211), jnp.float32)
    assert np.var(layers.dense(params, x)) == pytest.approx(1, rel=0.05)
    assert np.var(x @ jax.random.normal(jax.random.key(0), (211, 499), jnp.float32)) > 100
    assert not params["bias"].any()
    scaled = params["kernel"] * 211**0.5
    assert scaled.std() == pytest.approx(1, rel=0.01)
    assert abs(scaled).max() == pytest.approx(2 * 1.137, rel=0.001)


def test_init_dense_takes_both_kinds_of_key_and_every_option():
    typed, legacy = jax.random.key(3), jax.random.PRNGKey(3)
    a, b = (layers.init_dense(key, 3, 5)["kernel"] for key in (typed, legacy))
    np.testing.assert_array_equal(a, b)
    assert (layers.init_dense(jax.random.key(4), 3, 5)["kernel"] != a).all()
    bare = layers.init_dense(typed, 3, 5, bias=False, dtype=jnp.bfloat16)
    assert {name: leaf.dtype for name, leaf in bare.items()} == {"kernel": jnp.bfloat16}


@each_dtype
def test_mlp_is_layers_with_activations_between(rng, dtype):
    params = tuple(dense_params(rng, a, b, dtype) for a, b in ((5, 7), (7, 11), (11, 2)))
    x = draw(rng, 3, 5, dtype=dtype)
    expected = oracles.mlp(exact(params), exact(x), np.tanh)
    assert_agrees(layers.mlp(params, x, activation=jnp.tanh), expected, ulps=64)


def test_layers_without_activation_collapse_to_one_and_with_one_do_not(rng):
    params = layers.init_mlp(jax.random.key(0), (5, 7, 3), bias=False, dtype=jnp.float64)
    x = draw(rng, 11, 5)
    product = x @ (params[0]["kernel"] @ params[1]["kernel"])
    assert_agrees(layers.mlp(params, x, activation=jax.nn.identity), product)
    assert differs(layers.mlp(params, x), product)


def test_init_mlp_draws_each_layer_anew():
    first, second = layers.init_mlp(jax.random.key(0), (5, 5, 5))
    assert (first["kernel"] != second["kernel"]).all()


# norms


@each_dtype
def test_norms_agree_with_their_equations(rng, dtype):
    x = draw(rng, 3, 7, dtype=dtype) * 3 + 2
    params = {"scale": draw(rng, 7, dtype=dtype), "bias": draw(rng, 7, dtype=dtype)}
    x_, scale, bias = exact(x), exact(params["scale"]), exact(params["bias"])
    actual = layers.layer_norm(params, x, epsilon=1e-3)
    assert_agrees(actual, oracles.layer_norm(x_, scale, bias, 1e-3))
    del params["bias"]
    assert_agrees(
        layers.layer_norm(params, x, epsilon=1e-3), oracles.layer_norm(x_, scale, 0, 1e-3)
    )
    assert_agrees(layers.rms_norm(params, x, epsilon=1e-3), oracles.rms_norm(x_, scale, 1e-3))


def test_layer_norm_ignores_shift_and_scale_and_rms_norm_only_scale(rng):
    x = draw(rng, 3, 7)
    assert_agrees(
        layers.layer_norm({}, 5 * x + 3, epsilon=0.0), layers.layer_norm({}, x, epsilon=0.0)
    )
    assert_agrees(layers.rms_norm({}, 5 * x, epsilon=0.0), layers.rms_norm({}, x, epsilon=0.0))
    assert differs(layers.rms_norm({}, x + 3), layers.rms_norm({}, x))


@pytest.mark.parametrize("norm", [layers.layer_norm, layers.rms_norm])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norms_ignore_the_scale_in_the_range_that_they_promise(rng, norm, dtype):
    x = draw(rng, 3, 521, dtype=dtype)
    plain = norm({}, x, epsilon=0.0)
    for scale in (1e-17, 1e17):
        scaled = (x.astype("float32") * jnp.float32(scale)).astype(dtype)
        assert_agrees(norm({}, scaled, epsilon=0.0), exact(plain))
        beyond = scaled * jnp.asarray(scale**0.2, dtype)  # control
        assert differs(norm({}, beyond, epsilon=0.0), plain)


def test_statistics_survive_half_precision_and_large_offsets(rng):
    coarse = draw(rng, 3, 521, dtype="bfloat16") + 64
    assert_agrees(
        layers.layer_norm({}, coarse), oracles.layer_norm(exact(coarse), 1, 0, 1e-6), ulps=2
    )
    far = draw(rng, 3, 521, dtype="float32") + 1000
    expected = oracles.layer_norm(exact(far), 1, 0, 1e-6)
    assert np.abs(exact(layers.layer_norm({}, far)) - expected).max() < 1e-3
    one_pass = (far**2).mean(-1) - far.mean(-1) ** 2
    assert (
        np.abs(exact(one_pass) - exact(far).var(-1)).max() > 1e-2
    )  # control: the short formula


def test_constant_rows_give_zeros_and_finite_gradients():
    for norm in (layers.layer_norm, layers.rms_norm):
        for x in (jnp.zeros(5), jnp.ones(5)):
            value, gradient = jax.value_and_grad(lambda x, norm=norm: norm({}, x).sum())(x)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


# tables and cuts


@each_dtype
def test_embed_is_a_one_hot_product(rng, dtype):
    table, ids = draw(rng, 11, 3, dtype=dtype), jnp.array([[7, 0], [10, 7]])
    one_hot = np.eye(11)[np.asarray(ids)]
    np.testing.assert_array_equal(
        exact(layers.embed({"embedding": table}, ids)), one_hot @ exact(table)
    )


def test_embed_gives_nan_outside_the_table_and_counts_from_the_end():
    table = {"embedding": jnp.arange(6.0).reshape(3, 2)}
    assert np.isnan(layers.embed(table, jnp.array(3))).all()
    np.testing.assert_array_equal(layers.embed(table, jnp.array(-1)), [4, 5])
    long = {"embedding": jnp.arange(300.0)[:, None]}
    ids = jnp.array([5, -1, -128], jnp.int8)
    np.testing.assert_array_equal(layers.embed(long, ids)[:, 0], [5, 299, 172])


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 2)])
def test_patches_are_slices_and_go_back_together(rng, shape):
    image = draw(rng, *shape)
    cut = layers.patches(image, size=3)
    np.testing.assert_array_equal(cut, oracles.patches(np.asarray(image), 3))
    together = cut.reshape(2, 3, 3, 3, *shape[2:]).swapaxes(1, 2).reshape(shape)
    np.testing.assert_array_equal(together, image)
    assert differs(cut.reshape(shape), image)  # control: rows of patches are not rows of pixels


def test_patches_of_a_photograph():
    photograph = jax.ShapeDtypeStruct((224, 224, 3), jnp.uint8)
    cut = jax.eval_shape(lambda image: layers.patches(image, size=16), photograph)
    assert (cut.shape, cut.dtype) == ((196, 768), jnp.uint8)


@pytest.mark.parametrize(("t", "size", "hop"), [(23, 5, 3), (23, 5, 7), (5, 5, 2), (7, 1, 1)])
def test_frames_are_slices(rng, t, size, hop):
    signal = draw(rng, t)
    expected = oracles.frames(np.asarray(signal), size, hop)
    np.testing.assert_array_equal(layers.frames(signal, size=size, hop=hop), expected)


@each_dtype
@pytest.mark.parametrize("size", [8, 11])
def test_spectrogram_is_a_product_with_the_fourier_matrix(rng, dtype, size):
    signal = draw(rng, 47, dtype=dtype)
    actual = layers.spectrogram(signal, size=size, hop=3)
    assert_agrees(actual, oracles.spectrogram(exact(signal), size, 3))


def test_float16_holds_no_magnitude_above_65504_unless_the_signal_is_scaled():
    tone = jnp.full(512, 300, jnp.float16)
    assert np.isinf(layers.spectrogram(tone, size=512, hop=512)).any()
    scaled = layers.spectrogram(tone * jnp.float16(2 / 512), size=512, hop=512)
    np.testing.assert_allclose(scaled[0, 0], 300, rtol=2e-3)


def test_the_window_keeps_a_tone_in_its_place():
    tone = jnp.sin(2 * jnp.pi * 8.5 * jnp.arange(256.0) / 64)  # between the bins 8 and 9
    windowed = layers.spectrogram(tone, size=64, hop=32)
    bare = jnp.abs(jnp.fft.rfft(layers.frames(tone, size=64, hop=32))).T
    assert set(np.asarray(windowed.argmax(0))) <= {8, 9}
    assert (windowed[20:].max(0) < 1e-3 * windowed.max(0)).all()
    assert (bare[20:].max(0) > 1e-2 * bare.max(0)).all()  # control: no window leaks


# convolution


@each_dtype
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("kernel_size", [(3, 2), (4, 5)])
def test_conv2d_correlates(rng, dtype, padding, kernel_size):
    x, kernel = draw(rng, 2, 7, 11, 3, dtype=dtype), draw(rng, *kernel_size, 3, 5, dtype=dtype)
    actual = layers.conv2d(x, kernel, padding=padding)
    assert_agrees(actual, oracles.conv2d(exact(x), exact(kernel), padding))


SLIDES = [
    {"strides": 2},
    {"strides": (2, 3), "padding": "SAME"},
    {"padding": ((1, 0), (2, 3)), "dilation": (2, 1)},
    {"strides": (3, 2), "padding": "SAME", "dilation": 2},
]


def pairs(options):
    """The same options as the oracle takes them."""
    two = lambda value: value if isinstance(value, tuple) else (value, value)
    return {name: v if name == "padding" else two(v) for name, v in options.items()}


@pytest.mark.parametrize("options", SLIDES)
def test_filters_step_reach_and_pad(rng, options):
    x, kernel = draw(rng, 2, 11, 13, 3), draw(rng, 4, 3, 3, 5)
    expected = oracles.conv2d(exact(x), exact(kernel), **pairs(options))
    actual = layers.conv2d(x, kernel, **options)
    assert_agrees(actual, expected)
    columns = jax.vmap(partial(layers.im2col, size=(4, 3), **options))(jnp.moveaxis(x, -1, 1))
    product = kernel.transpose(3, 2, 0, 1).reshape(5, -1) @ columns
    assert_agrees(jnp.moveaxis(product, 1, -1).reshape(expected.shape), expected)
    for name in options:  # control: each option counts
        rest = {other: value for other, value in options.items() if other != name}
        other = layers.conv2d(x, kernel, **rest)
        assert other.shape != expected.shape or differs(other, expected)


def test_conv2d_does_not_flip_the_filter(rng):
    x, kernel = draw(rng, 1, 7, 7, 1), draw(rng, 3, 3, 1, 1)
    flipped = oracles.conv2d(exact(x), exact(kernel)[::-1, ::-1], "VALID")
    assert differs(layers.conv2d(x, kernel), flipped)
    assert_agrees(layers.conv2d(x, kernel[::-1, ::-1]), flipped)


@pytest.mark.parametrize("size", [3, (2, 5)])
def test_im2col_makes_convolution_one_product(rng, size):
    kh, kw = (size, size) if isinstance(size, int) else size
    x, kernels = draw(rng, 3, 7, 11), draw(rng, 5, 3, kh, kw)  # channels first
    product = kernels.reshape(5, -1) @ layers.im2col(x, size=size)
    image, hwio = jnp.moveaxis(x, 0, -1)[None], kernels.transpose(2, 3, 1, 0)
    expected = jnp.moveaxis(layers.conv2d(image, hwio)[0], -1, 0)
    assert_agrees(product.reshape(expected.shape), expected)
    product = kernels.swapaxes(2, 3).reshape(5, -1) @ layers.im2col(x, size=size)
    assert differs(product.reshape(expected.shape), expected)  # control: columns before rows


@given(
    st.sampled_from(["VALID", "SAME"]),
    *(st.integers(1, 9) for _ in range(6)),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_conv2d_flops_counts_the_taps_on_the_image(
    padding, n, h, w, kh, kw, c_in, stride, dilation
):
    if padding == "VALID":
        h, w = max(h, dilation * (kh - 1) + 1), max(w, kw)
    taps = oracles.taps_on_the_image(h, kh, padding, stride, dilation)
    taps *= oracles.taps_on_the_image(w, kw, padding)
    formula = layers.conv2d_flops(
        n=n, h=h, w=w, kh=kh, kw=kw, c_in=c_in, c_out=7,
        strides=(stride, 1), padding=padding, dilation=(dilation, 1),
    )  # fmt: skip
    assert formula == 2 * n * c_in * 7 * taps


# positions


@each_dtype
def test_sinusoidal_positions(dtype):
    actual = layers.sinusoidal_positions(23, 10, dtype=jnp.dtype(dtype))
    assert_agrees(actual, oracles.sinusoidal_positions(23, 10))


def test_dot_products_of_positions_depend_on_the_offset_only():
    table = layers.sinusoidal_positions(23, 16, dtype=jnp.float64)
    gram = table @ table.T
    for offset in range(23):
        diagonal = np.diagonal(gram, offset)
        np.testing.assert_allclose(diagonal, diagonal[0])
    np.testing.assert_allclose(np.diagonal(gram), 8)
    assert differs(gram[0], gram[0, 0])  # control: it does depend on the offset


def test_one_number_pads_all_round(rng):
    x, kernel = draw(rng, 1, 5, 7, 2), draw(rng, 3, 2, 2, 3)
    sizes = dict(n=1, h=5, w=7, kh=3, kw=2, c_in=2, c_out=3)
    for form in (
        lambda padding: layers.conv2d(x, kernel, padding=padding),
        lambda padding: layers.im2col(x[0].transpose(2, 0, 1), size=2, padding=padding),
        lambda padding: layers.conv2d_flops(padding=padding, **sizes),
    ):
        np.testing.assert_array_equal(form(2), form(((2, 2), (2, 2))))
        assert not np.array_equal(form(2), form(0))  # control
