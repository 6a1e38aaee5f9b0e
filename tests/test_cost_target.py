"""Programs for hardware that is not there: the same totals, from the modules it would run."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from lintoolkit import attention
from lintoolkit.cost import Memory, cost, target
from lintoolkit.cost.__main__ import main

F32, BF16 = jnp.float32, jnp.bfloat16
TPU, GPU = "tpu:v5e:2x2", "cuda:h100"
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def absent(*texts):
    """Targets, each skipped where its compiler is not installed."""
    here = {"tpu": "libtpu", "cuda": "jax_plugins.xla_cuda13"}

    def param(text):
        platform = text.partition(":")[0]
        reason = f"needs the extra aot-{platform}"
        skip = pytest.mark.skipif(not target._installed(here[platform]), reason=reason)
        return pytest.param(text, marks=skip)

    return [param(text) for text in texts]


# Programs


def tanh_layers(weights, x):
    def layer(h, w):
        with jax.named_scope("layer"):
            return jnp.tanh(h @ w), None

    return jax.lax.scan(layer, x, weights)[0]


def nested(weights, x):
    def inner(h, w):
        return jax.lax.fori_loop(0, 5, lambda _, x: x @ w, h), None

    return jax.lax.scan(inner, x, weights)[0]


def down_by_three(w, x):
    return jax.lax.while_loop(
        lambda state: state[0] > 0, lambda state: (state[0] - 3, state[1] @ w), (100, x)
    )[1]


def dense(x, w):
    return x @ w


def convolve(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def training_step(params, state, x, y):
    def loss(p):
        return ((jax.nn.relu(x @ p["in"]) @ p["out"] - y) ** 2).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = OPTIMIZER.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


def gradient(fn):
    return jax.grad(lambda *args: (fn(*args) ** 2).sum(), argnums=(0, 1))


LAYERS = (spec(12, 512, 512), spec(256, 512))
IMAGES = (spec(128, 28, 28, 16), spec(3, 3, 16, 32))
HEADS = (spec(2, 64, 8, 32),) * 3
WEIGHTS = {"in": spec(512, 128), "out": spec(128, 16)}
STEP = (
    WEIGHTS,
    jax.eval_shape(OPTIMIZER.init, WEIGHTS),
    spec(64, 512),
    spec(64, 16),
)
CONVOLVED = 2 * 128 * 26 * 26 * 3 * 3 * 16 * 32
PROGRAMS = {
    "12 layers": (tanh_layers, LAYERS, 1_610_612_736),
    "their gradient": (gradient(tanh_layers), LAYERS, 3 * 1_610_612_736),
    "nested loops": (nested, (spec(7, 64, 64), spec(32, 64)), 7 * 5 * 2 * 32 * 64 * 64),
    "counted down": (down_by_three, (spec(64, 64), spec(32, 64)), 34 * 2 * 32 * 64 * 64),
    "bfloat16": (dense, (spec(256, 512, dtype=BF16), spec(512, 128, dtype=BF16)), 2**25),
    "batched": (dense, (spec(5, 64, 32), spec(5, 32, 48)), 2 * 5 * 64 * 32 * 48),
    "convolution": (convolve, IMAGES, CONVOLVED),
    "its gradient": (gradient(convolve), IMAGES, 3 * CONVOLVED),
    "attention": (attention.attention, HEADS, 2 * 2 * 64 * 64 * 8 * (32 + 32)),
    "training step": (
        jax.jit(training_step, donate_argnums=(0, 1)),
        STEP,
        2 * 2 * 64 * 512 * 128 + 3 * 2 * 64 * 128 * 16,
    ),
}


@pytest.mark.parametrize("hardware", absent(TPU, GPU))
@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_exact_in_modules_for_absent_hardware(name, hardware):
    fn, args, by_hand = PROGRAMS[name]
    c = cost(fn, *args, target=hardware)
    assert c.lowered.matmul_flops == by_hand
    assert c.compiled.matmul_flops == by_hand
    assert c.compiled.stage == "compiled"
    assert c.platform == hardware
    assert c.exact
    # The control: XLA counts a loop's body once, and on GPUs that are not there nothing.
    if c.loops or hardware == GPU:
        assert c.xla_flops is None or c.xla_flops < by_hand / 4
    scopes = [sorted(loop.scope for loop in view.loops) for view in (c.lowered, c.compiled)]
    assert scopes[0] == scopes[1]


@pytest.mark.parametrize("hardware", absent(TPU, GPU))
def test_a_donated_step_reuses_its_arguments(hardware):
    held = cost(PROGRAMS["training step"][0], *STEP, target=hardware).memory
    assert held.aliased > 0.9 * held.outputs > 0


@pytest.mark.parametrize("hardware", absent(TPU))
def test_a_ragged_product_stays_one(hardware):
    args = (spec(256, 64), spec(4, 64, 32), spec(4, dtype=jnp.int32))
    c = cost(jax.lax.ragged_dot, *args, target=hardware)
    assert c.lowered.matmul_flops == c.compiled.matmul_flops == 2 * 256 * 64 * 32


M, N = 300, 100
QR = 2 * M * N**2 - 2 * N**3 / 3 + 4 * M * N * N - 2 * (M + N) * N**2 + 4 * N**3 / 3
FACTORISATIONS = {
    "cholesky": (jnp.linalg.cholesky, spec(N, N), N**3 / 3),
    "qr": (jnp.linalg.qr, spec(M, N), QR),
    "eigh": (jnp.linalg.eigh, spec(N, N), 9 * N**3),
}


@pytest.mark.parametrize("hardware", absent(TPU, GPU))
@pytest.mark.parametrize("name", FACTORISATIONS)
def test_factorisations_are_priced_on_absent_hardware(name, hardware):
    fn, operand, by_hand = FACTORISATIONS[name]
    c = cost(fn, operand, target=hardware)
    assert c.lowered.linalg_flops == pytest.approx(by_hand, abs=2)
    assert not any("custom-call" in what for what in c.uncounted)
    if hardware == GPU or name != "qr":
        assert c.linalg_flops == pytest.approx(by_hand, abs=2)
    else:  # blocks, and products between them
        assert c.linalg_flops < by_hand < c.linalg_flops + c.matmul_flops


@pytest.mark.parametrize("hardware", absent(TPU))
def test_a_pallas_kernel_is_priced_on_the_tpu_that_compiles_it(hardware):
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def blocked(x, y):
        return pl.pallas_call(
            kernel,
            grid=(4, 2),
            in_specs=[
                pl.BlockSpec((128, 384), lambda i, _: (i, 0)),
                pl.BlockSpec((384, 128), lambda _, j: (0, j)),
            ],
            out_specs=pl.BlockSpec((128, 128), lambda i, j: (i, j)),
            out_shape=spec(512, 256),
        )(x, y)

    with jax.enable_x64(False):  # the kernel compiler has no 64-bit indices
        c = cost(blocked, spec(512, 384), spec(384, 256), target=hardware)
    assert c.lowered.matmul_flops == c.compiled.matmul_flops == 2 * 512 * 384 * 256
    assert c.exact


@pytest.mark.parametrize("hardware", absent(TPU, GPU))
def test_a_program_that_does_not_fit_says_by_how_much(hardware):
    side = 2**18
    with pytest.raises(
        ValueError, match=r"it needs [\d,]+ bytes .* has [\d,]+; [\d,]+ too man"
    ):
        cost(dense, *(spec(side, side, dtype=BF16),) * 2, target=hardware)


@pytest.mark.parametrize("hardware", absent(TPU))
def test_what_the_compiler_refuses_is_one_sentence(hardware):
    with pytest.raises(ValueError, match="eigvals cannot be lowered for tpu:v5e:2x2"):
        cost(jnp.linalg.eigvals, spec(8, 8), target=hardware)
    with pytest.raises(ValueError, match=r"does not compile for tpu:v5e:3x5: .*Topology"):
        cost(dense, spec(8, 8), spec(8, 8), target="tpu:v5e:3x5")


@pytest.mark.parametrize("hardware", [*absent(TPU, GPU), "cpu"])
def test_an_abstract_mesh_spreads_a_program_over_absent_devices(hardware):
    mesh = AbstractMesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def on(shape, *axes):
        return jax.ShapeDtypeStruct(
            shape, F32, sharding=NamedSharding(mesh, PartitionSpec(*axes))
        )

    def layer(x, w, v):
        return jax.lax.fori_loop(0, 5, lambda _, h: jax.nn.relu(h @ w) @ v, x)

    args = (on((64, 32), "data"), on((32, 128), None, "model"), on((128, 32), "model"))
    c = cost(layer, *args, target=hardware)
    whole = 5 * 2 * (2 * 64 * 32 * 128)
    assert c.devices == 4
    assert c.lowered.matmul_flops == whole
    assert c.matmul_flops == whole // 4
    assert [(x.opcode, x.group, x.times) for x in c.collectives] == [("all-reduce", 2, 5)]


# The way to the other process and back, which the CPU target takes too.


@pytest.mark.parametrize("name", ["12 layers", "training step"])
def test_the_cpu_as_a_target_is_the_cpu(name):
    fn, args, _ = PROGRAMS[name]
    here, there = cost(fn, *args), cost(fn, *args, target="cpu")
    assert there.lowered.to_dict() == here.lowered.to_dict()
    assert there.flops == here.flops
    assert there.memory == here.memory
    assert there.by_scope() == here.by_scope()
    assert [(x.scope, x.trips) for x in there.loops] == [(x.scope, x.trips) for x in here.loops]


def test_arrays_keywords_closures_and_trips_reach_the_target():
    held = jnp.ones((32, 32), F32)

    def settle(state, *, scale):
        with jax.named_scope("settle"):
            return jax.lax.while_loop(
                lambda s: jnp.linalg.norm(s) > 1, lambda s: scale * (s @ held), state["x"]
            )

    c = cost(
        settle,
        {"x": jnp.ones((8, 32), F32)},
        scale=spec(),
        target="cpu",
        while_trips={"settle": 7},
    )
    assert c.matmul_flops == 7 * 2 * 8 * 32 * 32
    assert [loop.kind for loop in c.loops] == ["user"]


def test_double_precision_stays_double():
    with jax.enable_x64(True):
        c = cost(
            dense,
            spec(64, 64, dtype=jnp.float64),
            spec(64, 64, dtype=jnp.float64),
            target="cpu",
        )
    assert c.by_dtype() == {"f64": 2 * 64**3}
    assert c.memory.arguments == 2 * 64 * 64 * 8


# Errors


@pytest.mark.parametrize("text", ["gpu", "cuda", "cuda:h900", "tpu:v9:2x2", "tpu:v5e:big", ""])
def test_an_unknown_target_lists_the_known_ones(text):
    with pytest.raises(ValueError, match=r"the targets are cpu, cuda:a100.*tpu:v5e"):
        cost(dense, spec(4, 4), spec(4, 4), target=text)


def test_the_command_line_refuses_an_unknown_target(capsys):
    arguments = ["jax.numpy:dot", "f32[4,4]", "f32[4,4]", "--target", "gpu"]
    assert main(arguments) == 2
    assert "the targets are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "install"),
    [
        (TPU, r"'lintoolkit\[aot-tpu\]'"),
        (GPU, r"'lintoolkit\[aot-cuda\]'"),
        ("cpu", "flatbuffers"),
    ],
)
def test_a_missing_compiler_says_what_to_install(monkeypatch, text, install):
    monkeypatch.setattr(target, "_installed", lambda _: False)
    with pytest.raises(ValueError, match=f"pip install {install}"):
        cost(dense, spec(4, 4), spec(4, 4), target=text)


def test_a_lowered_program_has_its_platform_already():
    lowered = jax.jit(dense).lower(spec(4, 4), spec(4, 4))
    with pytest.raises(TypeError, match="Pass the function and its arguments"):
        cost(lowered, target="cpu")


def test_a_program_bound_to_this_process_is_refused():
    def shouts(x):
        jax.debug.print("{}", x)
        return x @ x

    with pytest.raises(ValueError, match="shouts cannot be lowered for cpu"):
        cost(shouts, spec(4, 4), target="cpu")


def test_a_mesh_without_arguments_on_it_is_refused():
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(
        lambda x: x @ x.T,
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    with pytest.raises(ValueError, match="Give them a sharding"):
        cost(spread, spec(64, 32), target="cpu")


def test_too_few_devices_are_refused():
    request = target.parse_target("tpu:v5e")
    assert request.text == "tpu:v5e:2x2"
    exported = jax.export.export(jax.jit(dense))(spec(4, 4), spec(4, 4))
    with pytest.raises(ValueError, match="spans 1 devices and there are 0"):
        target._compile(exported, [], ())


@pytest.mark.parametrize(
    "said",
    [
        "total memory required for HLO temporaries (37.50G) exceeds available HBM (15.75G).",
        "Ran out of memory in memory space hbm. Used 37.50G of 15.75G hbm. Exceeded by 21.75G.",
    ],
)
def test_sizes_are_read_from_what_xla_says_of_an_overflow(said):
    sizes = target._too_big(target.parse_target(TPU), None, said)
    assert sizes == (37.5 * 2**30, 15.75 * 2**30)


def test_a_gpu_overflows_at_its_memory():
    h100 = target.parse_target(GPU)
    room = target.GPUS["h100"].memory
    assert target._too_big(h100, Memory(room, 0, 0, 0), "") is None
    assert target._too_big(h100, Memory(room, 1, 0, 0), "") == (room + 1, room)
    assert target._too_big(target.parse_target("cpu"), Memory(2**60, 0, 0, 0), "") is None
    assert math.isclose(target.GPUS["h100"].memory, 80e9, rel_tol=0.1)
