"""Damaged modules: refused by name or read, never a hang nor another error."""

import random

import jax
import jax.numpy as jnp
import pytest
from wire import Builder, message, shape

from lintoolkit.cost import stages
from lintoolkit.cost.hlo import WindowDimension, read_module
from lintoolkit.cost.products import in_bounds_taps
from lintoolkit.cost.walk import count_module


def everything(x, w):
    """Loops, branches, factorisations, convolutions, slices and sorts in one program."""

    def step(i, h):
        h = jax.lax.cond(i % 2 == 0, lambda y: y @ w, lambda y: jnp.sin(y), h)
        return jax.lax.fori_loop(0, i, lambda _, g: jnp.tanh(g @ w), h)

    h = jax.lax.fori_loop(0, 5, step, x)
    image = h[None, :, :, None]
    kernel = jnp.ones((3, 3, 1, 2), x.dtype)
    out = jax.lax.conv_general_dilated(
        image, kernel, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.linalg.solve(w, h), out.sum(), jnp.sort(jnp.fft.rfft(h).real)


@pytest.fixture(scope="module")
def modules():
    lowered = jax.jit(everything).lower(*2 * [jax.ShapeDtypeStruct((6, 6), jnp.float32)])
    return stages.lowered_bytes(lowered), stages.compiled_bytes(lowered.compile())[0]


def damaged(module, draw):
    """The bytes cut short, or with a few bits, bytes or runs changed."""
    data = bytearray(module)
    if draw.random() < 0.15:
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, other = draw.randrange(len(data)), draw.randrange(len(data))
        match draw.randrange(5):
            case 0:
                data[at] = draw.randrange(256)
            case 1:
                data[at] ^= 1 << draw.randrange(8)
            case 2:
                del data[at : at + draw.randrange(1, 5)]
            case 3:
                data[at:at] = draw.randbytes(draw.randrange(1, 5))
            case 4:
                data[at : at + 8] = data[other : other + 8]
    return bytes(data)


def complaint(data):
    """What is said of a module, nothing if it is counted; any other error fails the test."""
    try:
        count_module(read_module(data))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("as_a_user")
def test_damaged_modules_are_refused_by_name_or_counted(modules):
    draw = random.Random(0)
    said = [complaint(damaged(modules[k % 2], draw)) for k in range(800)]
    refused = [text for text in said if text]
    assert 100 < len(refused) < 700
    assert all(text.startswith(("read_module: ", "count_module: ")) for text in refused)


@pytest.mark.usefixtures("as_a_user")
def test_every_cut_of_a_module_is_refused_by_name_or_counted(modules):
    said = [complaint(modules[0][:end]) for end in range(0, len(modules[0]), 97)]
    refused = [text for text in said if text]  # what stands last can be done without
    assert len(refused) > len(said) // 2
    assert all(text.startswith(("read_module: ", "count_module: ")) for text in refused)


def test_computations_that_call_each_other_are_refused():
    build = Builder()
    x = build.parameters(shape(3))
    build.computation(*x, build.instruction("call", shape(3), x, [101]), number=100)
    y = build.parameters(shape(3))
    build.computation(*y, build.instruction("call", shape(3), y, [100]), number=101)
    with pytest.raises(ValueError, match="read_module: data must be"):
        read_module(build.module(100))


def test_calls_that_double_forever_are_refused():
    build = Builder()
    x = build.parameters(shape(3))
    callee = build.computation(*x, build.instruction("tanh", shape(3), x))
    for _ in range(40):
        x = build.parameters(shape(3))
        once = build.instruction("call", shape(3), x, [callee])
        twice = build.instruction("call", shape(3), [once], [callee])
        callee = build.computation(*x, once, twice)
    with pytest.raises(ValueError, match=r"handmade is .* instructions with all its calls"):
        count_module(read_module(build.module(callee)))


def test_calls_too_deep_are_refused():
    build = Builder()
    x = build.parameters(shape(3))
    callee = build.computation(*x, build.instruction("tanh", shape(3), x))
    for _ in range(2000):
        x = build.parameters(shape(3))
        callee = build.computation(*x, build.instruction("call", shape(3), x, [callee]))
    with pytest.raises(ValueError, match=r"count_module: cannot count .*recursion"):
        count_module(read_module(build.module(callee)))


def test_a_fusion_that_is_called_twice_is_no_circle():
    build = Builder()
    scalars = build.parameters(shape(), shape())
    add = build.computation(*scalars, build.instruction("add", shape(), scalars))
    inner = build.parameters(shape(3), shape())
    dot = message({2: "jit(f)/dot_general"})
    total = build.instruction("reduce", shape(3), inner, [add], f7=dot)
    fused = build.computation(*inner, total)
    outer = build.parameters(shape(3), shape())
    once = build.instruction("fusion", shape(3), outer, [fused])
    twice = build.instruction("fusion", shape(3), [once, outer[1]], [fused])
    tally = count_module(read_module(build.module(build.computation(*outer, once, twice))))
    assert not any(op.work.products for op in tally.ops)


def test_a_window_of_enormous_sides_is_refused():
    with pytest.raises(ValueError, match="a window of 1,099,511,627,776 places"):
        in_bounds_taps(WindowDimension(size=1 << 40), side=1 << 40, out=1 << 40)


def test_a_number_where_a_message_should_stand_is_no_size():
    # An instruction whose shape is the integer 2**62: bytes() of it would be that many zeros.
    instruction = b"\x0a\x01a\x12\x01b\x18" + b"\x80" * 8 + b"\x40"
    computation = b"\x12" + bytes([len(instruction)]) + instruction
    with pytest.raises(ValueError, match="read_module: data must be a serialised"):
        read_module(b"\x1a" + bytes([len(computation)]) + computation)
