"""What one HLO instruction computes.

Conventions: a multiply-add is 2 FLOPs; complex work is counted in real operations; products
(dot, convolution) take in-bounds terms only, and count whatever their type and where nothing is
contracted too (an outer product is one of one term an entry: 2 FLOPs, as compiled programs do
not tell it from a side of one that is summed over); elementwise work is one FLOP an output
element for arithmetic, comparison and selection on floating-point numbers, as XLA counts it,
while integer and boolean work is kept apart; a transcendental function is one transcendental,
no FLOP. What moves or renames data is free of FLOPs. What this module does not know is
"uncounted".
"""

import math
from typing import NamedTuple

from lintoolkit.cost import linalg
from lintoolkit.cost.hlo import Computation, Instruction, WindowDimension
from lintoolkit.cost.products import PRODUCTS, in_bounds_taps, library_macs, product_macs

TRANSCENDENTAL = frozenset(
    "acos acosh asin asinh atan2 atanh cbrt cosh cosine erf exponential exponential-minus-one "
    "log log-plus-one logistic power rsqrt sine sinh sqrt tan tanh".split()
)
ARITHMETIC = frozenset(
    "abs add ceil clamp compare divide floor is-finite maximum minimum multiply negate "
    "remainder round-nearest-afz round-nearest-even select sign subtract".split()
)
# Integer work only, whatever the operands.
INTEGER = frozenset(
    "and or xor not shift-left shift-right-arithmetic shift-right-logical popcnt "
    "count-leading-zeros rng-bit-generator".split()
)
# What applies a function of its own to pairs of elements.
_FOLDS = frozenset(
    "all-reduce all-reduce-start map reduce reduce-scatter reduce-window scatter "
    "select-and-scatter".split()
)
# Data that are moved, renamed or made up; no arithmetic.
FREE = frozenset(
    "add-dependency after-all all-gather all-gather-done all-gather-start all-reduce-done "
    "all-to-all "
    "async-done async-update bitcast bitcast-convert broadcast collective-broadcast "
    "collective-permute collective-permute-done collective-permute-start complex concatenate "
    "constant convert copy copy-done copy-start domain dynamic-reshape dynamic-slice "
    "dynamic-update-slice gather get-dimension-size get-tuple-element imag iota "
    "opt-barrier optimization-barrier pad parameter partition-id ragged-all-to-all real "
    "reduce-precision replica-id reshape reverse rng-get-and-update-state "
    "set-dimension-size slice stochastic-convert transpose tuple".split()
)
# Custom calls that only annotate, move or renumber, and so cost no FLOPs.
ANNOTATIONS = (
    "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "LayoutConstraint",
    "annotate_device_placement", "MoveToHost", "MoveToDevice", "xla.sdy.",
    "AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast",
    "GatherScatterIndicesBitpacked", "X64Combine", "X64Split", "cu_lu_pivots_to_permutation",
)  # fmt: skip


class Work(NamedTuple):
    """Operations of one run of an instruction; `flops` includes `products`."""

    flops: int = 0
    products: int = 0
    transcendentals: int = 0
    integer: int = 0

    def times(self, n: int) -> "Work":
        """The same work, `n` times."""
        return Work(*(n * value for value in self))

    def plus(self, other: "Work") -> "Work":
        """Both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class Price(NamedTuple):
    """One run of an instruction: its category, its work, and whether that is an estimate."""

    category: str
    work: Work
    estimate: bool = False


def price(i: Instruction, *, as_run: bool = False) -> Price:
    """What one run of an instruction costs.

    Args:
        i: Any instruction but control flow.
        as_run: Whether it is a compiled program's, whose windows are each folded anew.

    Returns:
        Its category (product, elementwise, reduction, linalg, fft, movement or uncounted) and
        work.
    """
    op = i.opcode
    if op in FREE or op == "fusion":
        return Price("movement", Work())
    if op in PRODUCTS:
        return price_macs(i, product_macs(i))
    if op in ARITHMETIC or op in TRANSCENDENTAL or op in INTEGER:
        return Price("elementwise", _elementwise(i))
    if op in _FOLDS:
        folds = [fold for combiner in i.called if (fold := _fold(combiner)) is not None]
        if len(folds) < len(i.called):
            return Price("uncounted", Work())
        return Price("reduction", _reduction(i, folds, as_run=as_run))
    if op in ("cholesky", "triangular-solve"):
        return Price("linalg", Work(flops=_triangular_flops(i)))
    if op == "fft":
        return Price("fft", Work(flops=_fft_flops(i)))
    if op == "custom-call":
        if i.target.startswith(ANNOTATIONS) or i.op_name == "ragged-dot-metadata":
            return Price("movement", Work())
        if called := linalg.price_call(i):
            return Price("linalg", Work(flops=round(called.flops)), called.estimate)
        if (macs := library_macs(i)) is not None:
            return price_macs(i, macs)
    return Price("uncounted", Work())


def price_macs(i: Instruction, macs: int) -> Price:
    """An instruction that multiplies and adds: 2 FLOPs each, 8 where it is complex."""
    flops = macs * (8 if i.operands[0].shape.is_complex else 2)
    return Price("product", Work(flops=flops, products=flops))


def _elementwise(i: Instruction) -> Work:
    shape = i.operands[0].shape if i.opcode in ("compare", "abs", "is-finite") else i.shape
    n = i.shape.size
    if i.opcode in INTEGER or not shape.is_float:
        return Work(integer=n)
    if i.opcode in TRANSCENDENTAL:
        return Work(transcendentals=n)
    if not shape.is_complex:
        return Work(flops=n)
    if i.opcode == "abs":  # sqrt(re² + im²)
        return Work(flops=3 * n, transcendentals=n)
    real = {"multiply": 6, "divide": 11, "add": 2, "subtract": 2, "negate": 2}
    return Work(flops=real.get(i.opcode, 1) * n)


def _fold(combiner: Computation) -> Work | None:
    """Work of one run of the function that a reduction folds with; None where unknown."""
    total = Work()
    for i in combiner.instructions:
        if i.opcode in ("call", "fusion"):
            work = _fold(i.called[0])
        else:
            category, work, _ = price(i)
            work = None if category == "uncounted" else work
        if work is None:
            return None
        total = total.plus(work)
    return total


def _reduction(i: Instruction, folds: list[Work], *, as_run: bool) -> Work:
    """Folding m values into one takes m - 1 applications of the combiner."""
    fold, first = folds[0], i.operands[0].shape
    out = i.shape.parts[0].size if i.shape.parts else i.shape.size
    if i.opcode in ("all-reduce", "all-reduce-start", "reduce-scatter"):
        return fold.times(sum(operand.shape.size for operand in i.operands))
    if i.opcode == "reduce":
        return fold.times(max(first.size - out, 0))
    if i.opcode == "map":
        return fold.times(out)
    if i.opcode == "scatter":  # operands: n arrays, the indices, n updates
        updates = i.operands[len(i.operands) // 2 + 1].shape
        return fold.times(updates.size)
    if i.opcode == "select-and-scatter":  # choose within each window, then add its source
        source = i.operands[1].shape
        taps = _window_taps(i.window, first.dims, source.dims)
        return fold.times(max(taps - source.size, 0)).plus(folds[1].times(source.size))
    if not as_run and all(map(_runs_along, i.window, first.dims)):
        lines = [
            out - out // n for w, n in zip(i.window, first.dims, strict=True) if w.size > 1
        ]
        return fold.times(sum(lines))
    dims = i.shape.parts[0].dims if i.shape.parts else i.shape.dims
    return fold.times(max(_window_taps(i.window, first.dims, dims) - out, 0))


def _runs_along(w: WindowDimension, side: int) -> bool:
    """Whether a window gives the running folds of a side, as in `cumsum`, or leaves it be."""
    ends = WindowDimension(side, pad_low=side - 1), WindowDimension(side, pad_high=side - 1)
    return w in (*ends, WindowDimension())


def _window_taps(
    window: tuple[WindowDimension, ...], sides: tuple[int, ...], out: tuple[int, ...]
) -> int:
    """Window positions that fall on real elements, over all outputs."""
    each = zip(window, sides, out, strict=True)
    return math.prod(in_bounds_taps(w, side, o) for w, side, o in each)


def _triangular_flops(i: Instruction) -> int:
    """n³/3 for a Cholesky factor, n² for each right-hand side of a triangular solve."""
    shape = i.operands[0].shape
    n = shape.dims[-1]
    real = 4 if shape.is_complex else 1
    if i.opcode == "cholesky":
        return round(real * shape.size // max(n * n, 1) * linalg.potrf(n))
    return real * i.shape.size * n


def _fft_flops(i: Instruction) -> int:
    """The nominal 5 N log₂ N a transform, half of it where one side is real."""
    length = math.prod(i.numbers(32))
    real_in, real_out = not i.operands[0].shape.is_complex, not i.shape.is_complex
    whole = i.shape if real_out else i.operands[0].shape
    factor = 2.5 if real_in or real_out else 5.0
    return round(whole.size * factor * math.log2(length)) if length > 1 else 0
