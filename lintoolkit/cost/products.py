"""Multiply-adds of products: dots, convolutions, libraries' calls, and products in disguise."""

import math
import re
from collections.abc import Iterator
from typing import Any

from lintoolkit.cost.hlo import Instruction, Module, Shape, WindowDimension

_GEMM = ("__cublas$gemm", "__cublas$lt$matmul")
# Which of (operand 0, operand 1, result) is the input, the kernel and the output.
_CONVOLUTIONS = {
    "__cudnn$convForward": (0, 1, 2),
    "__cudnn$convForwardGraph": (0, 1, 2),
    "__cudnn$convBiasActivationForward": (0, 1, 2),
    "__cudnn$convBackwardInput": (2, 1, 0),
    "__cudnn$convBackwardFilter": (0, 2, 1),
}
# What a product in disguise passes through, and the sums that are part of it.
_THROUGH = frozenset("bitcast convert copy reshape transpose".split())
_SUMS = frozenset("reduce reduce-window".split())
# Places of a window, along one side, that are worth looking at one by one.
MAX_WINDOW = 10_000_000
PRODUCTS = frozenset({"dot", "convolution", "ragged-dot"})
# The name that XLA gives the addition where it writes a convolution as a multiplication and a
# sum, which then have none of JAX's.
_OF_CONVOLUTION = re.compile(r"multiply(\.\d+)?\.reduce_sub_computation")


def product_macs(i: Instruction) -> int:
    """Multiply-adds of one run of a dot, ragged dot or convolution.

    Args:
        i: An instruction whose opcode is in `PRODUCTS`.

    Returns:
        In-bounds terms only.
    """
    left = i.operands[0].shape
    if i.opcode == "dot":
        return i.shape.size * math.prod(left.dims[d] for d in i.dot[0])
    right = i.operands[1].shape.dims
    if i.opcode == "convolution":
        return _convolution_macs(i, left.dims, right, i.shape.dims)
    # Each row of a ragged product's left operand meets one group of the right one.
    _, contracted, _, batch = i.dot
    skipped = {*contracted, *batch, *i.ragged_group}
    return left.size * math.prod(side for d, side in enumerate(right) if d not in skipped)


def library_macs(i: Instruction) -> int | None:
    """Multiply-adds of a library's product.

    Args:
        i: A `custom-call`.

    Returns:
        Those of one run, or None where it is no product or does not say which.
    """
    if len(i.operands) < 2:
        return None
    if i.target == "tpu_custom_call":
        return _ragged_macs(i)
    left, right = (operand.shape for operand in i.operands[:2])
    result = i.shape.parts[0] if i.shape.parts else i.shape  # scratch space may follow
    if i.target.startswith(_GEMM):
        return _gemm_macs(i.config, left, right)
    if roles := _CONVOLUTIONS.get(i.target):
        shapes = (left.dims, right.dims, result.dims)
        if not (15 in i.raw and 16 in i.raw):
            return None
        return _convolution_macs(i, *(shapes[role] for role in roles))
    if i.target.startswith("__cudnn$fmha") and len(i.operands) > 2:
        config = i.config.get("cudnn_fmha_backend_config", {})
        widths = left.dims[-1], i.operands[2].shape.dims[-1]
        return _attention_macs(config, *widths, backward="Backward" in i.target)
    if i.target == "__onednn$matmul":
        # (b m k) (b k n) (b m n), whichever way the sides are turned
        batch = max(math.prod(right.dims[:-2]), 1)
        return math.isqrt(left.size * right.size * result.size // batch)
    return None


def _ragged_macs(i: Instruction) -> int | None:
    """A ragged product's kernel on TPU: indices, then (m k) (groups k n), giving (m n)."""
    if "ragged-dot" not in i.op_name.rpartition("/")[2] or i.shape.parts:
        return None
    left, right = (operand.shape for operand in i.operands[-2:])
    groups = max(math.prod(right.dims[:-2]), 1)
    return math.isqrt(left.size * right.size * i.shape.size // groups)


def _gemm_macs(config: dict[str, Any], left: Shape, right: Shape) -> int | None:
    config = config.get("gemm_backend_config", config)
    numbers = config.get("dot_dimension_numbers")
    if numbers is None:
        return None
    sides = ("rhs_contracting_dimensions", "rhs_batch_dimensions")
    taken = {int(side) for name in sides for side in numbers.get(name, ())}
    return left.size * math.prod(s for d, s in enumerate(right.dims) if d not in taken)


def _attention_macs(
    config: dict[str, Any], d_k: int, d_v: int, *, backward: bool
) -> int | None:
    """Fused attention: two products over the pairs that are not hidden, or the gradient's five.

    The gradient makes the scores again. Which hidden pairs fill up a tile is not known, nor
    how long padded sequences are: the former do not count, the latter count whole.

    Returns:
        Multiply-adds, or None where the call does not say the sizes.
    """
    dims = [int(d) for d in config.get("intermediate_tensor_shape", {}).get("dimensions", ())]
    if len(dims) != 4:
        return None
    batch, heads, t, s = dims
    pairs = t * s
    if "CAUSAL" in config.get("mask_type", ""):  # first query with first key
        seen = int(config.get("sliding_window_length") or s + t)
        pairs = sum(max(min(q + 1, s) - max(q + 1 - seen, 0), 0) for q in range(t))
    return batch * heads * pairs * (3 * d_k + 2 * d_v if backward else d_k + d_v)


def _convolution_macs(
    i: Instruction, sides: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...]
) -> int:
    at = i.convolution
    spatial = zip(i.window, at["spatial"], at["out_spatial"], strict=True)
    taps = math.prod(in_bounds_taps(w, sides[s], out[o]) for w, s, o in spatial)
    return taps * out[at["out_batch"]] * out[at["out_features"]] * kernel[at["kernel_in"]]


def in_bounds_taps(window: WindowDimension, side: int, out: int) -> int:
    """Pairs (output position, window position) of one dimension that meet a real element.

    Position o of the output and k of the window meet place ``p = o stride + k dilation -
    pad_low`` of the input spread out by the base dilation b: real where p is a multiple of b
    within ``[0, (side - 1) b]``. Padding and the gaps of a dilated input are not worked on.

    Args:
        window: Size, stride, padding and dilations.
        side: Elements of the input along this dimension.
        out: Elements of the output along it.

    Returns:
        The number of such pairs, in time proportional to the smaller of the two counts.

    Raises:
        ValueError: If both counts are beyond all reason.
    """
    if side <= 0 or out <= 0:
        return 0
    steps = [(window.size, window.dilation), (out, window.stride)]
    (few, few_step), (many, many_step) = sorted(steps)
    if few > MAX_WINDOW:
        raise ValueError(f"a window of {few:,} places is longer than {MAX_WINDOW:,}")
    last = (side - 1) * window.base_dilation
    total = 0
    for a in range(few):
        offset = a * few_step - window.pad_low
        total += _hits(offset, many_step, many, last, window.base_dilation)
    return total


def _hits(offset: int, step: int, count: int, last: int, base: int) -> int:
    """How many of ``offset + n step``, n < count, are multiples of base within [0, last]."""
    low = max(0, -(offset // step))  # first n with a place >= 0
    high = min(count - 1, (last - offset) // step)
    if high < low:
        return 0
    common = math.gcd(step, base)
    if offset % common:
        return 0
    period = base // common
    if period == 1:
        return high - low + 1
    first = (-offset // common) * pow(step // common, -1, period) % period
    first += -(-(low - first) // period) * period  # the first such n at or above low
    return 0 if first > high else (high - first) // period + 1


def rewritten_products(module: Module) -> dict[Instruction, int]:
    """The multiplications and sums that stand for a dot or a convolution.

    A multiplication named after a dot is one over a single element. A sum named after a dot is
    one only if a multiplication feeds it: on GPUs it may also add up parts of a dot.

    Args:
        module: The program.

    Returns:
        Instruction -> multiply-adds of one run: those of each such multiplication, and none
        for the sum over them.
    """
    passed = {
        parameter: i.operands[parameter.parameter]
        for i in _all(module)
        if i.opcode == "fusion" and i.called
        for parameter in i.called[0].instructions
        if parameter.opcode == "parameter" and parameter.parameter < len(i.operands)
    }
    found: dict[Instruction, int] = {}
    for i in _all(module):
        if i.opcode == "multiply" and _named_dot(i):
            found[i] = i.shape.size
        elif i.opcode == "reduce" and (_named_dot(i) or _of_convolution(i)):
            sums, origin = _origin(i, passed)
            if origin.opcode == "multiply":
                found.update(dict.fromkeys(sums, 0))
                found[origin] = origin.shape.size
    return found


def _all(module: Module) -> Iterator[Instruction]:
    for computation in module.computations.values():
        yield from computation.instructions


def _named_dot(i: Instruction) -> bool:
    return any(name.rpartition("/")[2] == "dot_general" for name in i.op_name.split(";"))


def _of_convolution(i: Instruction) -> bool:
    return any(_OF_CONVOLUTION.match(combiner.name) for combiner in i.called)


def _origin(
    i: Instruction, passed: dict[Instruction, Instruction]
) -> tuple[list[Instruction], Instruction]:
    """The sums on the way back from an instruction, and what feeds the first of them."""
    sums: list[Instruction] = []
    seen: set[Instruction] = set()
    while i not in seen:
        seen.add(i)
        if i.opcode in _SUMS and i.operands:
            sums.append(i)
            i = i.operands[0]
        elif i.opcode in _THROUGH and i.operands:
            i = i.operands[0]
        elif i.opcode == "fusion" and i.called:
            i = i.called[0].root
        elif i in passed:
            i = passed[i]
        else:
            break
    return sums, i
