"""Products inside vendors' library calls, in modules as XLA's compilers write them."""

import json
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from wire import S8, Builder, message, shape, tuple_of

from lintoolkit.cost import stages
from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.walk import count_module


def call(target, operands, result, **fields):
    """The findings of a module that makes one call."""
    build = Builder()
    given = build.parameters(*(shape(*dims) for dims in operands))
    # As in GPU modules: the result, then scratch space in bytes.
    result = tuple_of(shape(*result), shape(1024, dtype=S8))
    made = build.instruction("custom-call", result, given, f28=target, **fields)
    return count_module(read_module(build.module(build.computation(*given, made))))


def products(tally):
    assert not tally.uncounted
    return sum(op.work.products for op in tally.ops)


def gemm(*, wrapped=True, batch=0):
    """A GEMM's configuration; JSON of 64-bit numbers holds strings."""
    sides = [str(d) for d in range(batch)]
    numbers = {
        "lhs_contracting_dimensions": [str(batch + 1)],
        "rhs_contracting_dimensions": [str(batch)],
        "lhs_batch_dimensions": sides,
        "rhs_batch_dimensions": sides,
    }
    config = {"alpha_real": 1, "beta": 0, "dot_dimension_numbers": numbers}
    return json.dumps({"gemm_backend_config": config} if wrapped else config)


@pytest.mark.parametrize(
    "target", ["__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"]
)
def test_cublas_products(target):
    plain = call(target, [(5, 7), (7, 11)], (5, 11), f43=gemm())
    assert products(plain) == 2 * 5 * 7 * 11
    batched = call(target, [(3, 5, 7), (3, 7, 11)], (3, 5, 11), f43=gemm(batch=1))
    assert products(batched) == 3 * 2 * 5 * 7 * 11
    with_bias = call(target, [(5, 7), (7, 11), (11,)], (5, 11), f43=gemm(wrapped=False))
    assert products(with_bias) == 2 * 5 * 7 * 11


def test_a_library_call_that_does_not_say_what_it_does_is_named():
    for target in ("__cublas$gemm", "__cudnn$convForward", "__cudnn$fmhaSoftmax"):
        tally = call(target, [(5, 7), (7, 11), (5, 11)], (5, 11))
        assert tally.uncounted == {f"custom-call {target}": 1}


IMAGE, KERNEL, OUT = (2, 9, 8, 4), (3, 3, 4, 6), (2, 5, 8, 6)
ROLES = {
    "__cudnn$convForward": ([IMAGE, KERNEL], OUT),
    "__cudnn$convBiasActivationForward": ([IMAGE, KERNEL, (6,)], OUT),
    "__cudnn$convBackwardInput": ([OUT, KERNEL], IMAGE),
    "__cudnn$convBackwardFilter": ([IMAGE, OUT], KERNEL),
}


@pytest.mark.parametrize("target", ROLES)
def test_cudnn_convolutions_count_the_forward_ones_taps(target):
    # stride (2, 1), padding 1 all around; NHWC, HWIO
    side = lambda stride: message({1: 3, 2: stride, 3: 1, 4: 1, 5: 1, 6: 1})
    window = message({1: [side(2), side(1)]})
    numbers = message({3: 2, 4: 3, 6: [0, 1], 7: 0, 8: 3, 9: 0, 10: 3, 11: [1, 2], 12: [1, 2]})
    operands, result = ROLES[target]
    tally = call(target, operands, result, f15=window, f16=numbers)
    # The oracle: jax's own convolution of ones counts its taps.
    ones = [jnp.ones(dims, jnp.int32) for dims in (IMAGE, KERNEL)]
    taps = jax.lax.conv_general_dilated(
        *ones, (2, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert taps.shape == OUT
    assert products(tally) == 2 * int(taps.sum())


@pytest.mark.parametrize("seen", [0, 3], ids=["all", "window"])
@pytest.mark.parametrize("mask", ["", "NO_MASK", "CAUSAL"])
@pytest.mark.parametrize(("t", "s"), [(6, 6), (5, 9), (9, 5)])
def test_fused_attention_counts_the_pairs_that_are_seen(t, s, mask, seen):
    b, h, d_k, d_v = 2, 3, 8, 16
    tables = {"dimensions": [str(d) for d in (b, h, t, s)]}
    of_mask = {"mask_type": mask, "sliding_window_length": seen} if mask else {}
    config = json.dumps(
        {"cudnn_fmha_backend_config": {"intermediate_tensor_shape": tables} | of_mask}
    )
    q, k, v = ((b, length, h, d) for length, d in ((t, d_k), (s, d_k), (s, d_v)))
    one = call("__cudnn$fmhaSoftmax", [q, k, v], (b, h, t, d_v), f43=config)
    operands = [q, k, v, (b, h, t), (b, h, t, d_v), (b, h, t, d_v)]
    back = call("__cudnn$fmhaScaleBiasSoftmaxBackward", operands, q, f43=config)
    visible = np.tri(t, s) - (np.tri(t, s, -seen) if seen else 0)
    pairs = int(visible.sum()) if mask == "CAUSAL" else t * s
    assert products(one) == 2 * b * h * pairs * (d_k + d_v)
    assert products(back) == 2 * b * h * pairs * (3 * d_k + 2 * d_v)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
def test_onednn_products_whichever_way_their_sides_are_turned(batch):
    total = 2 * prod(batch) * 5 * 7 * 11
    result = (*batch, 5, 11)
    plain = call("__onednn$matmul", [(*batch, 5, 7), (*batch, 7, 11)], result)
    turned = call("__onednn$matmul", [(*batch, 7, 5), (*batch, 11, 7)], result)
    shared = call("__onednn$matmul", [(*batch, 5, 7), (7, 11)], result)
    assert products(plain) == products(turned) == products(shared) == total


def test_a_dot_inside_a_triton_fusion_is_counted():
    build = Builder()
    inner = build.parameters(shape(5, 7), shape(7, 11))
    numbers = message({1: 1, 2: 0})
    dot = build.instruction("dot", shape(5, 11), inner, f30=numbers)
    fused = build.computation(*inner, dot)
    outer = build.parameters(shape(5, 7), shape(7, 11))
    config = json.dumps({"fusion_backend_config": {"kind": "__triton_nested_gemm_fusion"}})
    call_ = build.instruction("fusion", shape(5, 11), outer, [fused], f43=config)
    module = read_module(build.module(build.computation(*outer, call_)))
    assert products(count_module(module)) == 2 * 5 * 7 * 11


def test_sums_of_parts_of_a_dot_are_no_products_and_sums_of_multiplications_are():
    def summed(feeds):
        build = Builder()
        scalars = build.parameters(shape(), shape())
        add = build.computation(*scalars, build.instruction("add", shape(), scalars))
        given = build.parameters(shape(4, 30), shape(4, 30), shape())
        fed = build.instruction(feeds, shape(4, 30), given[:2])
        dot = message({2: "jit(f)/dot_general"})
        total = build.instruction("reduce", shape(30), [fed, given[2]], [add], f7=dot)
        tally = count_module(read_module(build.module(build.computation(*given, fed, total))))
        return sum(op.work.flops for op in tally.ops), products(tally)

    assert summed("multiply") == (2 * 4 * 30, 2 * 4 * 30)
    assert summed("add") == (4 * 30 + 3 * 30, 0)


def test_sorting_is_named():
    sorts = lambda x: (jnp.sort(x), jax.lax.top_k(x, 2))
    lowered = jax.jit(sorts).lower(jax.ShapeDtypeStruct((8,), jnp.float32))
    for data in (
        stages.lowered_bytes(lowered),
        stages.compiled_bytes(lowered.compile())[0],
    ):
        names = {
            name.lower().removeprefix("custom-call ")
            for name in count_module(read_module(data)).uncounted
        }
        assert names == {"sort", "topk"}
