"""What each HLO instruction costs, and a walk of the program that multiplies loops out.

Conventions: a multiply-add is 2 FLOPs; complex work is counted in real operations; products
(dot, convolution) take in-bounds terms only; elementwise work is one FLOP an output element
for arithmetic, comparison and selection on floating-point numbers, as XLA counts it, while
integer and boolean work is kept apart; a transcendental function is one transcendental, no
FLOP. What moves or renames data is free of FLOPs. What this module does not know is listed.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from lintoolkit.cost import linalg
from lintoolkit.cost.hlo import Computation, Instruction, Module, WindowDimension
from lintoolkit.cost.trips import Kind, Scope, count_trips, invariants

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
# Custom calls that only annotate, and so cost nothing.
ANNOTATIONS = (
    "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "LayoutConstraint",
    "annotate_device_placement", "MoveToHost", "MoveToDevice", "xla.sdy.",
)  # fmt: skip
# Instructions whose bytes are those of what they contain, or none.
_NO_TRAFFIC = frozenset(
    "add-dependency after-all bitcast call conditional constant domain get-dimension-size "
    "get-tuple-element opt-barrier optimization-barrier parameter partition-id replica-id "
    "reshape tuple while".split()
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One instruction of the program with the work of all its runs."""

    name: str
    opcode: str
    category: str
    dtype: str
    source: tuple[str, str, int]
    times: int
    work: Work
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop: where, how often its body runs each time it is reached, and how that is known."""

    name: str
    trips: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """A conditional: FLOPs of every branch at one run; the dearest is the one counted."""

    name: str
    flops: tuple[int, ...]


@dataclass(slots=True)
class Tally:
    """What a walk has found so far."""

    ops: list[Op] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    branches: list[Branches] = field(default_factory=list)
    uncounted: Counter[str] = field(default_factory=Counter)
    estimates: Counter[str] = field(default_factory=Counter)


def count_module(module: Module) -> Tally:
    """Price every instruction of a module, loops multiplied out.

    Args:
        module: The program.

    Returns:
        Its operations, loops, conditionals, and what could not be counted.
    """
    tally = Tally()
    _Walk(module, tally).computation(module.entry, Scope(module.entry), 1, "", fused=False)
    return tally


class _Walk:
    """The walk's constants: the module, and where findings go."""

    def __init__(self, module: Module, tally: Tally):
        self.module = module
        self.tally = tally
        names = (i.op_name.partition("/")[0] for i in module.entry.instructions if i.op_name)
        self.base = next((name for name in names if name.startswith(("jit(", "pmap("))), "")

    def full_name(self, op_name: str, prefix: str) -> str:
        """Names inside called computations may be relative to the caller's."""
        first = op_name.partition("/")[0]
        if not prefix or not op_name or (self.base and first == self.base):
            return op_name or prefix
        return f"{prefix}/{op_name}"

    def computation(
        self, computation: Computation, scope: Scope, times: int, prefix: str, *, fused: bool
    ) -> None:
        """Add all that `times` runs of a computation do."""
        for i in computation.instructions:
            name = self.full_name(i.op_name, prefix)
            if i.opcode == "while":
                self.loop(i, scope, times, name, fused=fused)
            elif i.opcode == "conditional":
                self.conditional(i, scope, times, name, fused=fused)
            elif i.opcode in ("call", "async-start") and i.called:
                inner = scope.inside(i, i.called[0])
                self.computation(i.called[0], inner, times, name, fused=fused)
            else:
                if i.opcode == "fusion":
                    inner = scope.inside(i, i.called[0])
                    self.computation(i.called[0], inner, times, name, fused=True)
                self.instruction(i, times, name, fused=fused)

    def loop(self, i: Instruction, scope: Scope, times: int, name: str, *, fused: bool) -> None:
        """Add a `while`: its body `trips` times, its condition once more."""
        trips = count_trips(i, scope)
        self.tally.loops.append(Loop(name=name, trips=trips.count, kind=trips.kind))
        body, condition = i.called
        kept = (invariants(body, scope.value(i.operands[0])),)  # known in every trip
        self.computation(body, Scope(body, kept), times * trips.count, name, fused=fused)
        again = times * (trips.count + 1)
        self.computation(condition, Scope(condition, kept), again, name, fused=fused)

    def conditional(
        self, i: Instruction, scope: Scope, times: int, name: str, *, fused: bool
    ) -> None:
        """Add the branch with the most FLOPs, and list what every branch would take."""
        tallies = []
        for branch, operand in zip(i.called, i.operands[1:], strict=True):
            tally = Tally()
            inner = Scope(branch, (scope.value(operand),))
            walk = _Walk(self.module, tally)
            walk.base = self.base
            walk.computation(branch, inner, times, name, fused=fused)
            tallies.append(tally)
        totals = [sum(op.work.flops for op in tally.ops) for tally in tallies]
        each = tuple(total // max(times, 1) for total in totals)
        self.tally.branches.append(Branches(name=name, flops=each))
        dearest = tallies[max(range(len(totals)), key=totals.__getitem__)]
        self.tally.ops += dearest.ops
        self.tally.loops += dearest.loops
        self.tally.branches += dearest.branches
        for tally in tallies:  # unknown work in any branch leaves the whole uncertain
            self.tally.uncounted |= tally.uncounted
            self.tally.estimates |= tally.estimates

    def instruction(self, i: Instruction, times: int, name: str, *, fused: bool) -> None:
        """Add one instruction that contains no control flow."""
        category, work, estimate = price(i)
        what = f"custom-call {i.target}" if i.opcode == "custom-call" else i.opcode
        if category == "uncounted":
            self.tally.uncounted[what] += times
        elif estimate:
            self.tally.estimates[what] += times
        traffic = 0 if fused else bytes_accessed(i)
        if any(work) or traffic:
            frame = i.frame if i.frame < len(self.module.frames) else 0
            op = Op(
                name=name,
                opcode=i.opcode,
                category=category,
                dtype=i.operands[0].shape.dtype if category == "product" else i.shape.dtype,
                source=self.module.frames[frame],
                times=times,
                work=work.times(times),
                bytes=traffic * times,
            )
            self.tally.ops.append(op)


# --- operations ----------------------------------------------------------------------------


def price(i: Instruction) -> Price:
    """What one run of an instruction costs.

    Args:
        i: Any instruction but control flow.

    Returns:
        Its category (product, elementwise, reduction, linalg, fft, movement or uncounted) and
        work.
    """
    op = i.opcode
    if op in FREE or op == "fusion":
        return Price("movement", Work())
    if op in _PRODUCTS:
        flops = _PRODUCTS[op](i) * (8 if i.operands[0].shape.is_complex else 2)
        return Price("product", Work(flops=flops, products=flops))
    if op in ARITHMETIC or op in TRANSCENDENTAL or op in INTEGER:
        return Price("elementwise", _elementwise(i))
    if op in ("reduce", "reduce-window", "scatter", "select-and-scatter", "map"):
        return Price("reduction", _reduction(i))
    if op in ("all-reduce", "all-reduce-start", "reduce-scatter"):
        return Price("reduction", _fold(i.called[0]).times(i.operands[0].shape.size))
    if op in ("cholesky", "triangular-solve"):
        return Price("linalg", Work(flops=_triangular_flops(i)))
    if op == "fft":
        return Price("fft", Work(flops=_fft_flops(i)))
    if op == "custom-call":
        if i.target.startswith(ANNOTATIONS):
            return Price("movement", Work())
        if called := linalg.price_call(i):
            return Price("linalg", Work(flops=round(called.flops)), called.estimate)
    return Price("uncounted", Work())


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


def _fold(combiner: Computation) -> Work:
    """Work of one application of the function that a reduction folds with."""
    total = Work()
    for inner in combiner.instructions:
        total = total.plus(price(inner).work)
    return total


def _reduction(i: Instruction) -> Work:
    """Folding m values into one takes m - 1 applications of the combiner."""
    first = i.operands[0].shape
    out = i.shape.parts[0].size if i.shape.parts else i.shape.size
    if i.opcode == "reduce":
        return _fold(i.called[0]).times(max(first.size - out, 0))
    if i.opcode == "map":
        return _fold(i.called[0]).times(out)
    if i.opcode == "scatter":  # operands: n arrays, the indices, n updates
        updates = i.operands[len(i.operands) // 2 + 1].shape
        return _fold(i.called[0]).times(updates.size)
    if i.opcode == "select-and-scatter":  # choose within each window, then add its source
        source = i.operands[1].shape
        taps = _window_taps(i.window, first.dims, source.dims)
        choose = _fold(i.called[0]).times(max(taps - source.size, 0))
        return choose.plus(_fold(i.called[1]).times(source.size))
    dims = i.shape.parts[0].dims if i.shape.parts else i.shape.dims
    return _fold(i.called[0]).times(max(_window_taps(i.window, first.dims, dims) - out, 0))


def _window_taps(
    window: tuple[WindowDimension, ...], sides: tuple[int, ...], out: tuple[int, ...]
) -> int:
    """Window positions that fall on real elements, over all outputs."""
    each = zip(window, sides, out, strict=True)
    return math.prod(in_bounds_taps(w, side, o) for w, side, o in each)


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
    """
    if side <= 0 or out <= 0:
        return 0
    steps = [(window.size, window.dilation), (out, window.stride)]
    (few, few_step), (many, many_step) = sorted(steps)
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


def _dot_macs(i: Instruction) -> int:
    left = i.operands[0].shape.dims
    return i.shape.size * math.prod(left[d] for d in i.dot[0])


def _ragged_macs(i: Instruction) -> int:
    """Each row of the left operand meets one group of the right one."""
    left, right = i.operands[0].shape, i.operands[1].shape.dims
    _, contracted, _, batch = i.dot
    skipped = {*contracted, *batch, *i.ragged_group}
    return left.size * math.prod(side for d, side in enumerate(right) if d not in skipped)


def _convolution_macs(i: Instruction) -> int:
    sides, kernel, out = i.operands[0].shape.dims, i.operands[1].shape.dims, i.shape.dims
    at = i.convolution
    spatial = zip(i.window, at["spatial"], at["out_spatial"], strict=True)
    taps = math.prod(in_bounds_taps(w, sides[s], out[o]) for w, s, o in spatial)
    return taps * out[at["out_batch"]] * out[at["out_features"]] * kernel[at["kernel_in"]]


_PRODUCTS = {"dot": _dot_macs, "convolution": _convolution_macs, "ragged-dot": _ragged_macs}


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


# --- bytes ---------------------------------------------------------------------------------


def bytes_accessed(i: Instruction) -> int:
    """Bytes that one run of an instruction reads and writes: operands and result.

    A slice, gather or in-place update touches the part that it moves, not the whole array, and
    so does a fusion that only slices an operand or updates part of it.

    Args:
        i: An instruction outside fusions.

    Returns:
        Bytes read plus bytes written.
    """
    op = i.opcode
    if op in _NO_TRAFFIC or op.endswith("-done"):
        return 0
    if op in ("dynamic-slice", "slice"):
        return 2 * i.shape.bytes
    if op == "gather":
        return 2 * i.shape.bytes + i.operands[1].shape.bytes
    if op == "dynamic-update-slice":
        return 2 * i.operands[1].shape.bytes
    if op == "scatter":  # operands: n arrays, the indices, n updates
        half = len(i.operands) // 2
        updates = sum(operand.shape.bytes for operand in i.operands[half + 1 :])
        return 3 * updates + i.operands[half].shape.bytes
    if op == "fusion":
        return _fusion_bytes(i)
    return i.shape.bytes + sum(operand.shape.bytes for operand in i.operands)


def _fusion_bytes(fusion: Instruction) -> int:
    inside = fusion.called[0]
    users: dict[int, list[tuple[Instruction, int]]] = {}
    for user in inside.instructions:
        for place, operand in enumerate(user.operands):
            users.setdefault(operand.id, []).append((user, place))
    parameters = [i for i in inside.instructions if i.opcode == "parameter"]
    read = sum(_bytes_read(parameter, users) for parameter in parameters)
    roots = inside.root.operands if inside.root.opcode == "tuple" else [inside.root]
    return read + sum(_bytes_written(root) for root in roots)


def _bytes_read(value: Instruction, users: dict[int, list[tuple[Instruction, int]]]) -> int:
    """Bytes of a fusion's operand that its users look at."""
    total = 0
    for user, place in users.get(value.id, ()):
        if user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            total += user.shape.bytes
        elif user.opcode == "dynamic-update-slice" and place == 0:
            continue  # updated in place
        elif user.opcode == "bitcast":
            total += _bytes_read(user, users)
        else:
            return value.shape.bytes
    return min(total, value.shape.bytes)


def _bytes_written(root: Instruction) -> int:
    while root.opcode == "bitcast":
        root = root.operands[0]
    if root.opcode == "dynamic-update-slice":
        return root.operands[1].shape.bytes
    return root.shape.bytes
