"""The roofline against hand numbers and its laws; MFU; the pictures hold what they should."""

import dataclasses
import math
import re
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lintoolkit.cost import DEVICES, Device, compare, cost, find_device, measure_device
from lintoolkit.cost.roofline import mfu, roofline

H100 = find_device("H100")
# Round figures: 100 FLOP/s of products, 10 of the rest, 5 bytes/s.
TOY = Device(
    name="toy",
    peak={"f32": 100.0, "bf16": 400.0},
    bytes_per_second=5.0,
    memory=None,
    vector=10.0,
    source="made up",
)


@pytest.fixture(autouse=True)
def at_default_precision():
    """As programs are written; the other tests ask for all that there is."""
    with jax.default_matmul_precision(None):
        yield


def spec(*shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def matmul(n, d_in, d_out, dtype=jnp.float16):
    return cost(jnp.matmul, spec(n, d_in, dtype=dtype), spec(d_in, d_out, dtype=dtype))


def test_toy_numbers_by_hand():
    best = roofline(TOY, products={"f32": 200, "bf16": 400}, moved=30, other=10)
    assert best.compute_seconds == 200 / 100 + 400 / 400 + 10 / 10 == 4
    assert best.memory_seconds == best.seconds == 6
    assert best.bound == "memory"
    assert best.flops == 610
    assert best.peak == 610 / 4
    assert best.attainable == pytest.approx(610 / 6)
    assert best.share_of_peak == pytest.approx(4 / 6)
    assert best.ridge == 610 / 4 / 5
    assert best.intensity == 610 / 30


def test_h100_in_half_precision_by_hand():
    square = lambda n: roofline(H100, products={"f16": 2 * n**3}, moved=3 * 2 * n**2)
    assert all(math.isclose(square(n).intensity, n / 3) for n in (64, 256, 4096))
    assert round(square(64).ridge, 1) == 295.3
    assert next(n for n in range(1, 5000) if square(n).bound == "compute") == 887
    layer = lambda n: roofline(
        H100, products={"f16": 2 * n * 4096**2}, moved=2 * (2 * n * 4096 + 4096**2)
    )
    assert next(n for n in range(1, 5000) if layer(n).bound == "compute") == 346
    assert layer(346).share_of_peak == 1
    assert layer(345).share_of_peak < 1


@pytest.mark.parametrize(("n", "bound"), [(886, "memory"), (887, "compute")])
def test_compiled_programs_stand_where_the_closed_form_has_them(n, bound):
    best = matmul(n, n, n).roofline("h100")
    assert best.bound == bound
    assert best.intensity == pytest.approx(n / 3)
    assert best.compute_seconds == pytest.approx(2 * n**3 / 989.4e12)
    assert best.memory_seconds == pytest.approx(6 * n**2 / 3.35e12)
    # The control: float32 moves twice the bytes at half the speed.
    wide = matmul(n, n, n, jnp.float32).roofline("h100")
    assert wide.intensity == pytest.approx(n / 6)
    assert wide.peak == pytest.approx(494.7e12)


@settings(max_examples=50, deadline=None)
@given(
    flops=st.integers(0, 10**15),
    other=st.integers(0, 10**12),
    moved=st.integers(1, 10**12),
    device=st.sampled_from(DEVICES),
)
def test_attainable_is_below_the_peak_and_grows_with_intensity(flops, other, moved, device):
    best = roofline(device, products={"f32": flops}, other=other, moved=moved)
    assert 0 <= best.attainable <= best.peak * (1 + 1e-12)
    assert best.peak <= max(device.peak["f32"], device.vector or 0) * (1 + 1e-12)
    assert 0 <= best.share_of_peak <= 1
    roof = min(best.peak, best.intensity * device.bytes_per_second)
    assert best.attainable == pytest.approx(roof)
    fewer = roofline(device, products={"f32": flops}, other=other, moved=moved // 2)
    assert fewer.attainable >= best.attainable
    assert fewer.seconds <= best.seconds


def test_what_does_nothing_takes_no_time():
    idle = roofline(TOY, products={}, moved=0)
    assert idle.seconds == idle.attainable == idle.share_of_peak == idle.intensity == 0
    assert roofline(TOY, products={"f32": 1}, moved=0).intensity == math.inf


def test_other_work_counts_only_where_its_rate_is_known():
    x = spec(64, 64, dtype=jnp.float32)
    both = cost(lambda x: jnp.maximum(x @ x, 0) * 3, x)
    on_gpu, on_tpu = both.roofline("A100"), both.roofline("TPU v4")
    assert on_gpu.flops == 2 * 64**3 + 2 * 64**2
    assert on_gpu.compute_seconds == pytest.approx(2 * 64**3 / 156e12 + 2 * 64**2 / 19.5e12)
    assert on_tpu.flops == 2 * 64**3
    assert on_tpu.compute_seconds == pytest.approx(2 * 64**3 / 275e12)


def test_mfu_is_products_over_time_and_peak():
    c = matmul(256, 512, 1024, jnp.bfloat16)
    flops = 2 * 256 * 512 * 1024
    assert c.mfu(1e-6, "H100") == pytest.approx(flops / (1e-6 * 989.4e12))
    assert c.mfu(2e-6, "H100") == pytest.approx(c.mfu(1e-6, "H100") / 2)
    best = c.roofline("H100")
    assert c.mfu(best.compute_seconds, "H100") == pytest.approx(1)
    assert c.mfu(best.seconds, "H100") == pytest.approx(best.share_of_peak)
    assert mfu(TOY, products={"f32": 100, "bf16": 400}, seconds=8) == 0.25


def test_mfu_leaves_out_what_is_computed_again():
    def loss(w, x):
        block = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w) @ w))
        return jax.lax.scan(lambda x, _: (block(x), None), x, None, length=3)[0].sum()

    w = spec(32, 32, dtype=jnp.float32)
    c = cost(jax.grad(loss), w, w)
    layer = 2 * 32**3
    # 2 products a block: forward, twice backward, and the recomputed ones.
    assert c.lowered.matmul_flops > 3 * 6 * layer
    assert c.mfu(1.0, "A100") == pytest.approx(3 * 6 * layer / 156e12)


def by_a_folded_count(x):
    return jax.lax.fori_loop(0, jnp.array([3, 4]).sum(), lambda _, h: h @ x, x)


def by_a_folded_flag(x):
    with jax.named_scope("big"):
        flag = jnp.array([1, 2]).sum() > 5
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x + 1, x)


@pytest.mark.parametrize(("fn", "products"), [(by_a_folded_count, 7), (by_a_folded_flag, 0)])
def test_what_only_compiling_settles_counts_as_compiled(fn, products):
    c = cost(fn, spec(64, 64, dtype=jnp.float32))
    assert c.exact
    assert not c.lowered.exact
    assert "only compiling settles" in str(c)
    assert c.mfu(1.0, "H100") == pytest.approx(products * 2 * 64**3 / 494.7e12)
    for parts in (c.by_scope(), c.by_phase(), c.by_source(), c.by_dtype()):
        assert list(parts.values()) == [c.flops]
    here = dataclasses.replace(TOY, platform="cpu")
    assert c.roofline(here).bytes == c.compiled.bytes_accessed
    assert c.roofline("H100").flops == c.flops


def test_what_no_compiler_spares_counts_at_home_too():
    c = cost(lambda x: x, spec(64, 64, dtype=jnp.float32))
    here = dataclasses.replace(TOY, platform="cpu")
    assert c.roofline(here).bytes == c.compulsory_bytes == 2 * 4 * 64**2


def test_on_several_devices_each_has_its_share():
    whole = matmul(64, 32, 32)
    each = dataclasses.replace(matmul(8, 32, 32), lowered=whole.lowered, devices=8)
    assert each.mfu(1.0, "H100") == pytest.approx(whole.mfu(1.0, "H100") / 8)
    assert each.roofline("H100").flops == whole.roofline("H100").flops / 8
    assert each.roofline("H100").bytes == each.compulsory_bytes
    at_home = dataclasses.replace(H100, platform="cpu")
    assert each.roofline(at_home).bytes == each.compiled.bytes_accessed


def square_twice(x):
    return (x @ x).astype(jnp.float32) @ (x @ x).astype(jnp.float32).T


def test_all_bytes_count_only_on_the_platform_that_was_compiled_for():
    c = cost(square_twice, spec(256, 256, dtype=jnp.bfloat16))
    whole = min(c.compiled.bytes_accessed, c.lowered.bytes_accessed)
    alone = (2 + 4) * 256**2
    assert c.compulsory_bytes == alone < whole
    here = dataclasses.replace(TOY, platform="cpu")
    assert c.roofline(here).bytes == whole
    assert "arguments and results" not in str(c.roofline(here))
    for elsewhere in (TOY, "H100", "v5e"):
        assert c.roofline(elsewhere).bytes == alone
        assert "arguments and results alone, as compiled for cpu" in str(c.roofline(elsewhere))
    # As if compiled ahead of time.
    for target, device in (("cuda:h100", "H100"), ("tpu:v5e:2x2", "v5e"), ("gpu", "A100")):
        there = dataclasses.replace(c, platform=target)
        assert there.roofline(device).bytes == whole
        assert there.roofline(device).compiled_for is None
        assert there.roofline(here).compiled_for == target


def test_work_that_another_compiler_adds_does_not_count():
    c = cost(lambda x: jnp.maximum(x, 0) * 3, spec(64, 64, dtype=jnp.float32))
    again = dataclasses.replace(c.compiled, ops=2 * c.ops)  # as where a fusion does it anew
    twice = dataclasses.replace(c, ops=2 * c.ops, compiled=again)
    assert twice.roofline("H100").flops == c.lowered.flops == 2 * 64**2
    assert twice.roofline(dataclasses.replace(H100, platform="cpu")).flops == 4 * 64**2


F32, I32 = jnp.float32, jnp.int32
LAYERS, ROWS, TABLE = spec(12, 64, 64, dtype=F32), spec(8, 64, dtype=F32), (4096, 64)


def through(weights, x):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]


def through_three(weights, x):
    layer = lambda k: jax.lax.dynamic_index_in_dim(weights, k, keepdims=False)
    return jax.lax.fori_loop(0, 3, lambda k, x: x @ layer(k), x)


def write_row(table, row, k):
    return jax.lax.dynamic_update_slice(table, row, (k, jnp.zeros_like(k)))


def write_and_read(table, row, k):
    table = write_row(table, row, k)
    return table, row @ table.T


WRITTEN = (spec(*TABLE, dtype=F32), spec(1, 64, dtype=F32), spec(dtype=I32))
ROW_AND_PLACE = 4 * (64 + 1)


@pytest.mark.parametrize(
    ("fn", "args", "moved"),
    [
        (lambda x: x, [ROWS], 2 * ROWS.size * 4),
        (lambda x, _: x.sum(), [ROWS, LAYERS], ROWS.size * 4 + 4),
        (through, [LAYERS, ROWS], 4 * (LAYERS.size + 2 * ROWS.size)),
        (jax.grad(lambda *a: through(*a).sum()), [LAYERS, ROWS], 4 * (2 * LAYERS.size + 512)),
        (through_three, [LAYERS, ROWS], 4 * (3 * 64**2 + 2 * ROWS.size)),
        (
            lambda table, k: jnp.tanh(table[k]).astype(jnp.bfloat16),
            [spec(*TABLE, dtype=jnp.bfloat16), spec(32, dtype=I32)],
            2 * 2 * 32 * 64 + 4 * 32,
        ),
        (write_row, WRITTEN, 4 * 2 * math.prod(TABLE) + ROW_AND_PLACE),
        (jax.jit(write_row, donate_argnums=0), WRITTEN, ROW_AND_PLACE),
        (
            jax.jit(write_and_read, donate_argnums=0),
            WRITTEN,
            4 * (math.prod(TABLE) + TABLE[0]) + ROW_AND_PLACE,
        ),
    ],
    ids="kept unused scan gradient loop gather update in-place cache".split(),
)
def test_what_no_compiler_spares_is_arguments_in_and_results_out(fn, args, moved):
    assert cost(fn, *args).compulsory_bytes == moved


HELD = jnp.arange(64 * 64, dtype=jnp.float32).reshape(64, 64)
HALF = HELD.astype(jnp.bfloat16)
ROW = spec(1, 64, dtype=F32)
CLOSED_OVER = {
    # name: (program, its arguments, bytes that it has to move)
    "product": (lambda x: x @ HELD, [ROW], 4 * (64**2 + 128)),
    "product in half precision": (
        lambda x: x @ HALF, [spec(1, 64, dtype=jnp.bfloat16)], 2 * (64**2 + 128)
    ),
    "loop": (
        lambda x: jax.lax.fori_loop(0, 5, lambda _, h: jnp.tanh(h @ HELD), x),
        [ROW],
        4 * (64**2 + 128),
    ),
    "gradient": (
        jax.grad(lambda x: jnp.tanh(jnp.tanh(x @ HELD) @ HELD).sum()),
        [ROW],
        4 * (64**2 + 128),
    ),
    "rows of a table": (
        lambda x, k: x * HELD[k], [ROW, spec(3, dtype=I32)], 4 * (3 * 64 + 64 + 3 + 3 * 64)
    ),
    "a row a trip": (
        lambda x: jax.lax.scan(lambda h, w: (jnp.tanh(h * w), None), x, HELD)[0],
        [ROW],
        4 * (64**2 + 128),
    ),
    "a branch alone": (
        lambda x, p: jax.lax.cond(p, lambda x: x @ HELD, lambda x: x + 1, x),
        [ROW, spec(dtype=jnp.bool_)],
        4 * 128,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED_OVER)
def test_arrays_that_a_program_closes_over_are_read_and_held_too(name):
    fn, args, moved = CLOSED_OVER[name]
    c = cost(fn, *args)
    assert c.compulsory_bytes == moved
    # A CPU holds half precision in float32, and in a gradient the array or a copy too.
    assert c.memory.constants in (4 * 64**2, 2 * 4 * 64**2)
    assert f"constants {c.memory.constants:,}" in str(c)


def test_an_array_of_one_number_is_not_held():
    c = cost(lambda x: x @ jnp.ones((64, 64), x.dtype), ROW)
    assert c.memory.constants == 0
    assert c.compulsory_bytes == 4 * 128


def test_a_product_with_weights_closed_over_is_bound_by_memory():
    w = jnp.arange(512.0 * 512, dtype=jnp.float32).reshape(512, 512)
    best = cost(lambda x: x @ w, spec(1, 512, dtype=jnp.float32)).roofline("H100")
    assert best.bound == "memory"
    assert best.intensity == pytest.approx(0.5, rel=0.01)


def test_of_two_branches_the_one_that_reads_less_is_sure():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x.sum(), lambda x: x[3].sum(), x)

    c = cost(either, spec(dtype=jnp.bool_), spec(64, 64, dtype=F32))
    assert 4 * (64 + 1) <= c.compulsory_bytes <= 4 * (64 + 1) + 1


def test_complex_products_run_at_the_rate_of_their_parts():
    c = matmul(8, 8, 8, jnp.complex64)
    assert c.roofline(TOY).compute_seconds == pytest.approx(8 * 8**3 / 100)


@pytest.mark.parametrize("dtype", ["bool", "int16", "uint32", "int32"])
def test_integer_products_run_outside_tensor_cores_unless_a_device_says_otherwise(dtype):
    def layer(x, w, m):
        pairs = jnp.einsum("bi,bj->ij", m, m)
        return jnp.where(pairs.astype(bool), x @ w, 0)

    args = *2 * [spec(64, 64, dtype=F32)], spec(4, 64, dtype=dtype)
    c = cost(layer, *args)
    floats, integers = 2 * 64**3, 2 * 4 * 64**2
    assert c.lowered.matmul_flops == floats + integers
    assert c.mfu(1.0, "H100") == pytest.approx(floats / 494.7e12 + integers / 66.9e12)
    assert c.plot("H100")
    name = next(name for name in c.by_dtype() if name != "f32")
    said = dataclasses.replace(TOY, peak={"f32": 100.0, name: 50.0})
    assert c.mfu(1.0, said) == pytest.approx(floats / 100 + integers / 50)
    # Nobody says what TPUs do outside products.
    assert c.mfu(1.0, "v5e") == pytest.approx(floats / 197e12)
    assert c.roofline("v5e").flops == floats


@pytest.mark.parametrize(
    ("device", "high", "highest"),
    [
        ("H100", 494.7e12, 66.9e12),
        ("A100", 156e12, 19.5e12),
        ("V100", 15.7e12, 15.7e12),  # nothing faster to leave
        ("v5p", 459e12 / 3, 459e12 / 6),
        (dataclasses.replace(TOY, vector=None), 100, 100),  # nobody says
        (dataclasses.replace(TOY, peak={"f32": 100, "f32 highest": 60}), 100, 60),
    ],
)
def test_products_of_full_precision_run_at_their_own_rate(device, high, highest):
    x = spec(64, 64, dtype=F32)
    images, kernel = spec(2, 3, 8, 8, dtype=F32), spec(4, 3, 3, 3, dtype=F32)
    convolve = lambda x, k, **o: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", **o)
    for fn, args in ((jnp.matmul, (x, x)), (convolve, (images, kernel))):
        for precision, rate in ((None, None), ("high", high), ("highest", highest)):
            asked = lambda *args, fn=fn, p=precision: jax.grad(
                lambda *args: fn(*args, precision=p).sum()
            )(*args)
            c = cost(asked, *args)
            rate = find_device(device).rate("f32") if rate is None else rate
            assert c.mfu(1.0, device) == pytest.approx(c.lowered.matmul_flops / rate)
            assert c.by_dtype() == {"f32": c.flops}  # the type is one
    c = cost(partial(jnp.matmul, precision="highest"), x, x)
    assert c.roofline(device).compute_seconds == pytest.approx(2 * 64**3 / highest)


def test_precision_is_for_float32_alone():
    for dtype in (jnp.bfloat16, jnp.complex64, jnp.float64):
        x = spec(64, 64, dtype=dtype)
        both = [cost(partial(jnp.matmul, precision=p), x, x) for p in (None, "highest")]
        plain, full = (c.roofline("H100").compute_seconds for c in both)
        assert (full > 5 * plain) == (dtype == jnp.complex64)  # whose parts are float32


def test_the_table_has_sources_and_no_addresses():
    assert len({device.name for device in DEVICES}) == len(DEVICES) == 13
    for device in DEVICES:
        assert any(year in device.source for year in map(str, range(2018, 2027)))
        assert "://" not in device.source
        ridge = device.peak["f32"] / device.bytes_per_second
        assert 10 < ridge < 1000  # a slip in a power of ten
        assert device.memory > 1e10
        for narrow in ("f16", "bf16"):
            assert device.peak.get(narrow, math.inf) >= device.peak["f32"]
        if device.vector:
            assert device.vector <= device.peak["f32"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h100", "H100 SXM"),
        ("NVIDIA H100", "H100 SXM"),
        ("cuda:h200", "H200"),
        ("a100-80gb", "A100 80 GB"),
        ("Tesla T4", "T4"),
        ("v5e", "TPU v5e"),
        ("TPU-V6E", "TPU v6e"),
        # as JAX says it
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
    ],
)
def test_names_are_read_kindly(name, found):
    assert find_device(name).name == found


@pytest.mark.usefixtures("as_a_user")
def test_a_device_of_jax_goes_by_its_kind():
    assert find_device(SimpleNamespace(device_kind="NVIDIA H200")).name == "H200"


@pytest.mark.parametrize("name", ["NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB"])
def test_a_slower_device_is_not_taken_for_its_sibling(name):
    with pytest.raises(ValueError, match="no device is called"):
        find_device(name)


def test_measured_ceilings_make_a_device():
    here = measure_device("float32", "bfloat16", n=64)
    assert set(here.peak) == {"f32", "bf16"}
    assert here.source.startswith("measured")
    best = matmul(64, 64, 64, jnp.float32).roofline(here)
    assert best.bound in ("compute", "memory")
    assert best.seconds > 0


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: c.roofline("H1000"), ValueError, "Did you mean 'H100 SXM'?"),
        (lambda c: c.roofline("abacus"), ValueError, "pass a Device for any other"),
        (lambda c: c.roofline(7), TypeError, "a name or a Device, got int"),
        (lambda c: c.roofline("TPU v4"), ValueError, "no known rate for products of f16"),
        (lambda c: c.mfu(0, "H100"), ValueError, "must be a positive number, got 0"),
        (lambda c: c.mfu(-1.0, "H100"), ValueError, "got -1.0"),
        (lambda c: c.mfu(math.nan, "H100"), ValueError, "got nan"),
        (lambda c: c.plot("H10O"), ValueError, "find_device"),
        (lambda c: c.plot(depth=0), ValueError, "depth must be at least 1"),
        (lambda _: measure_device(n=0), ValueError, "n must be a whole number"),
        (lambda _: measure_device("int8", n=8), ValueError, "must be floating, got int8"),
        (lambda c: c.mfu("H100", 1e-3), TypeError, "got str. They come before the device"),
        (lambda c: c.mfu(jnp.ones(3), "H100"), TypeError, "take float"),
        (lambda c: c.roofline(jax.devices("cpu")[0]), ValueError, "no device is called 'cpu'"),
        (lambda c: c.by_scope(depth=None), ValueError, "depth must be at least 1, got None"),
        (lambda _: dataclasses.replace(TOY, bytes_per_second=0), ValueError, "a second, got 0"),
        (lambda _: dataclasses.replace(TOY, peak={"f32": "1"}), ValueError, "second, got '1'"),
        (lambda _: dataclasses.replace(TOY, peak={"float32": 1}), ValueError, "as HLO does: "),
        (lambda c: compare(c, jnp.sin), TypeError, "compare(cost(f, x), cost(g, x))"),
        (lambda c: compare(jnp.sin, c), TypeError, "both must be costs, got "),
    ],
)
def test_bad_calls_get_one_sentence(call, error, message):
    with pytest.raises(error, match=re.escape(message)) as raised:
        call(matmul(4, 4, 4))
    assert "\n" not in str(raised.value)


def in_scopes(x):
    with jax.named_scope("block"):
        with jax.named_scope("attention"):
            x = x @ x
        with jax.named_scope("mlp"):
            x = x @ x @ x
    with jax.named_scope("head"):
        return x @ x


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_icicle_is_as_wide_as_the_flops():
    c = cost(in_scopes, spec(64, 64, dtype=jnp.float32))
    (axes,) = c.plot().axes
    boxes = [(bar.get_y(), bar.get_x(), bar.get_width()) for bar in axes.patches]
    level = lambda row: [side for y, *box in boxes if int(y) == row for side in box]
    assert level(0) == [0, 1]
    assert level(1) == pytest.approx([0, 0.75, 0.75, 0.25])  # block, head
    assert level(2) == pytest.approx([0, 0.5, 0.5, 0.25])  # mlp, attention
    assert texts(axes)[1:] == ["block 75%", "head 25%", "mlp 50%", "attention 25%"]
    assert len(c.plot(depth=1).axes[0].patches) == 3


def test_roofline_picture_has_every_program_under_the_roof(tmp_path):
    costs = [matmul(n, n, n) for n in (128, 887, 4096)]
    figure = costs[0].plot("H100", others=costs[1:])
    roof, _ = figure.axes
    points = [line for line in roof.lines if line.get_marker() == "o"]
    for c, point in zip(costs, points, strict=True):
        best = c.roofline("H100")
        assert point.get_xdata() == pytest.approx([best.intensity])
        assert point.get_ydata() == pytest.approx([best.attainable / 1e12])
    assert roof.get_xlabel() == "FLOP per byte of arguments and results alone"
    assert texts(roof) == ["989.4 TFLOP/s from 295 FLOP per byte on"]
    assert "matmul: memory, 14% of peak" in roof.get_legend().texts[0].get_text()
    figure.savefig(tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 5000


@pytest.mark.usefixtures("as_a_user")
def test_what_cannot_be_drawn_says_so(monkeypatch):
    moves = cost(lambda x: x.T, spec(8, 4, dtype=jnp.float32))
    with pytest.raises(ValueError, match="no place on logarithmic axes"):
        moves.plot("H100")
    with pytest.raises(ValueError, match="nothing to draw"):
        moves.plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        matmul(4, 4, 4).plot()
