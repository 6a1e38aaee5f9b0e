"""How often a loop runs: induction analysis, stepping through, or what XLA noted.

The body and the condition are run on abstract values: a number that is known (of its dtype's
width, so it wraps and rounds as the hardware does; of an array, all its elements), the
`Elements` of a small array, an element of the loop's state plus a constant (`Counter`), a
conjunction of comparisons of such elements (`Tests`), a tuple of these, or None for everything
else. That finds the induction variable, its start, step and limit, whatever copies, calls and
fusions stand between, in any direction. What is not affine (``i *= 2``), wraps around or counts
in floats is stepped through with known numbers instead.
"""

import itertools
import math
import operator
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lintoolkit.cost.hlo import Computation, Instruction, Shape

Number = int | float
Kind = Literal["exact", "bound", "user", "unknown"]

# Stepping through a loop that is not affine gives up after this many trips.
MAX_STEPS = 10_000
# Arrays of up to so many elements are followed, such as a flag for each layer.
MAX_ELEMENTS = 256
# Runs of a computation whose results are kept.
MAX_KNOWN = 256

_SAME = frozenset("copy bitcast reshape broadcast opt-barrier optimization-barrier".split())
_ROUNDS = {"f16": "e", "f32": "f", "f64": "d"}
_OF_ALL: dict[str, Callable[..., Number]] = {  # in integers as in floats
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "maximum": max,
    "minimum": min, "negate": operator.neg, "abs": abs,
}  # fmt: skip
_MIRROR = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "EQ": "EQ", "NE": "NE"}
_OPPOSITE = {"LT": "GE", "LE": "GT", "GT": "LE", "GE": "LT", "EQ": "NE", "NE": "EQ"}


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of an array, row by row."""

    values: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """Element `index` of the loop's state, plus `offset`."""

    index: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Test:
    """``state[index] + offset`` compared with `limit`."""

    index: int
    offset: int
    direction: str
    limit: int


@dataclass(frozen=True, slots=True)
class Tests:
    """All of these hold; `whole` unless something unknown must hold too."""

    items: tuple[Test, ...]
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Trips:
    """A trip count: exact, an upper bound, or unknown (then 1 stands for it).

    `wraps` where its counter passes the ends of its dtype before it meets the limit.
    """

    count: int
    kind: Kind
    wraps: bool = False


class Scope:
    """Abstract values inside one call of a computation, worked out when asked for."""

    def __init__(
        self,
        computation: Computation,
        arguments: tuple[Any, ...] = (),
        *,
        within_loop: bool = False,
    ):
        self.computation = computation
        self.arguments = arguments
        self.within_loop = within_loop  # that is stepped through; those inside are not
        self._known: dict[int, Any] = {}

    def root(self) -> Any:
        """The abstract result of the call, kept: nested loops ask for it again and again."""
        key, known = (self.arguments, self.within_loop), self.computation.known
        if key not in known:
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[key] = self.value(self.computation.root)
        return known[key]

    def value(self, instruction: Instruction) -> Any:
        """The abstract value of one instruction; operands first, without recursion."""
        known, waiting = self._known, [instruction]
        while waiting:
            i = waiting[-1]
            if i.id in known:
                waiting.pop()
            elif not _may_be_known(i.shape):
                known[i.id] = None
            elif open_operands := [o for o in i.operands if o.id not in known]:
                waiting += open_operands
            else:
                known[i.id] = self._work_out(i)
        return known[instruction.id]

    def inside(self, instruction: Instruction, callee: Computation) -> "Scope":
        """The scope of a computation that this instruction calls with its own operands."""
        return Scope(callee, tuple(self.value(operand) for operand in instruction.operands))

    def _work_out(self, i: Instruction) -> Any:
        values = [self._known[operand.id] for operand in i.operands]
        if i.opcode == "constant":
            return _elements(i.literal, i.shape)
        if i.opcode == "iota":
            return _iota(i)
        if i.opcode == "parameter":
            return self.arguments[i.parameter] if i.parameter < len(self.arguments) else None
        if i.opcode == "tuple":
            return tuple(values)
        if i.opcode == "get-tuple-element":
            return values[0][i.tuple_index] if isinstance(values[0], tuple) else None
        if i.opcode in ("call", "fusion") and i.called:
            return Scope(i.called[0], tuple(values), within_loop=self.within_loop).root()
        if i.opcode == "while":
            return _after(i, self)
        if i.opcode in _SAME and values:
            return _moved(i, values[0])
        if i.opcode == "convert" and values:
            return _converted(i, values[0])
        if i.opcode in ("slice", "dynamic-slice"):
            return _sliced(i, values)
        if i.opcode == "dynamic-update-slice":
            return _updated(i, values)
        if i.opcode == "bitcast-convert" and i.shape.bits == i.operands[0].shape.bits:
            same_kind = i.shape.is_float == i.operands[0].shape.is_float
            return wrap(values[0], i.shape) if same_kind and _is_number(values[0]) else None
        return _arithmetic(i, values) if values else None


def wrap(value: Number, shape: Shape) -> Number | None:
    """A number as its dtype holds it; None if it holds none."""
    if shape.is_float:
        code = _ROUNDS[shape.dtype]
        try:
            return struct.unpack(code, struct.pack(code, value))[0]
        except OverflowError:
            return math.copysign(math.inf, value)
    if shape.dtype == "pred" or not shape.bits:
        return int(bool(value))
    if not math.isfinite(value):
        return None
    bits = int(value) & (1 << shape.bits) - 1
    held = _signed(bits, shape.bits) if shape.dtype.startswith("s") else bits
    return None if isinstance(value, float) and held != int(value) else held


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _may_be_known(shape: Shape) -> bool:
    """Tuples can be, and real numbers, unless there are many."""
    if shape.dtype == "tuple":
        return True
    numbers = shape.dtype == "pred" or shape.dtype[0] in "su" or shape.dtype in _ROUNDS
    return numbers and shape.size <= MAX_ELEMENTS


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _elements(values: Sequence[Number | None] | None, shape: Shape) -> Any:
    """An array of these elements, or the number that all of them are."""
    if not values:
        return None
    held = []
    for value in values:
        if value is None or (one := wrap(value, shape)) is None:
            return None
        held.append(one)
    return held[0] if len(set(held)) == 1 else Elements(tuple(held))


def _iota(i: Instruction) -> Any:
    dims, along = i.shape.dims, (i.numbers(14) or [0])[0]
    inner = math.prod(dims[along + 1 :])
    return _elements([k // inner % dims[along] for k in range(i.shape.size)], i.shape)


def _moved(i: Instruction, same: Any) -> Any:
    """What is only moved: a number, or an array whose elements stay in order."""
    if _is_number(same) or i.shape.dtype == "tuple":
        return same
    one_side = sum(side > 1 for side in i.shape.dims) <= 1
    ordered = one_side or i.opcode not in ("bitcast", "broadcast")
    return same if ordered and i.shape.size == i.operands[0].shape.size else None


def _converted(i: Instruction, value: Any) -> Any:
    before, after = i.operands[0].shape, i.shape
    if _is_number(value):
        return wrap(value, after)
    if isinstance(value, Elements):
        return _elements(value.values, after)
    # A counter in fewer bits may wrap where it did not, in floats it may be rounded, and
    # without a sign, or with a new one, it may become another number.
    signed, still = (shape.dtype.startswith("s") for shape in (before, after))
    same = before.bits <= after.bits if signed == still else before.bits < after.bits and still
    kept = same and before.is_float == after.is_float
    return None if isinstance(value, Counter) and not kept else value


def _sliced(i: Instruction, values: list[Any]) -> Any:
    array, *starts = values
    if not isinstance(array, Elements):
        return array if _is_number(array) else None
    places = _places(i.operands[0].shape, i.shape, i.slice or starts)
    return places and _elements([array.values[place] for place in places], i.shape)


def _updated(i: Instruction, values: list[Any]) -> Any:
    array, update, *starts = values
    places = _places(i.shape, i.operands[1].shape, starts)
    if places is None or not all(
        isinstance(x, int | float | Elements) for x in (array, update)
    ):
        return None
    found = list(_each(array, i.shape.size))
    for place, value in zip(places, _each(update, len(places)), strict=True):
        found[place] = value
    return _elements(found, i.shape)


def _each(value: Any, size: int) -> Sequence[Number]:
    return value.values if isinstance(value, Elements) else (value,) * size


def _places(whole: Shape, part: Shape, starts: Sequence[Any]) -> list[int] | None:
    """Where the elements of a part stand in the whole; None if nobody knows where it begins.

    Args:
        whole: The shape of an array.
        part: The shape of a slice of it.
        starts: Where it begins, for each side; moved so that the slice is inside. Or its
            (start, stride) for each side.

    Returns:
        Their numbers, row by row.
    """
    sides, ranges = whole.dims, []
    for start, side, size in zip(starts, sides, part.dims, strict=True):
        if not isinstance(start, int | tuple):
            return None
        first, step = start if isinstance(start, tuple) else (min(start, side - size), 1)
        ranges.append([max(0, first) + k * step for k in range(size)])
    strides = [math.prod(sides[k + 1 :]) for k in range(len(sides))]
    return [
        sum(k * stride for k, stride in zip(place, strides, strict=True))
        for place in itertools.product(*ranges)
    ]


def _arithmetic(i: Instruction, values: list[Any]) -> Any:
    """An operation on abstract values; None where nothing is known of it."""
    if all(_is_number(v) for v in values):
        known = _on_numbers(i, values)
        return None if known is None else wrap(known, i.shape)
    if all(_is_number(v) or isinstance(v, Elements) for v in values):
        each = [_each(v, i.shape.size) for v in values]
        if any(len(v) != i.shape.size for v in each):
            return None
        found = [_on_numbers(i, list(of)) for of in zip(*each, strict=True)]
        return _elements(found, i.shape)
    if i.operands[0].shape.is_float:
        return None
    first, second = values[0], values[1] if len(values) > 1 else None
    if i.opcode in ("add", "subtract"):
        if isinstance(second, Counter) and isinstance(first, int) and i.opcode == "add":
            first, second = second, first
        if isinstance(first, Counter) and isinstance(second, int):
            step = second if i.opcode == "add" else -second
            # An unsigned step down is written as an enormous one up.
            return replace(first, offset=_signed(first.offset + step, i.shape.bits))
    if i.opcode == "compare":
        if isinstance(first, Counter) and isinstance(second, int):
            return Tests((Test(first.index, first.offset, i.direction, second),))
        if isinstance(first, int) and isinstance(second, Counter):
            return Tests((Test(second.index, second.offset, _MIRROR[i.direction], first),))
    if i.opcode == "and":
        if 0 in values:
            return 0
        tests = [v for v in values if isinstance(v, Tests)]
        if tests:
            whole = all(v == 1 or (isinstance(v, Tests) and v.whole) for v in values)
            return Tests(tuple(item for test in tests for item in test.items), whole)
    if i.opcode == "not" and isinstance(first, Tests) and first.whole and len(first.items) == 1:
        test = first.items[0]
        return Tests((replace(test, direction=_OPPOSITE[test.direction]),))
    return None


def _on_numbers(i: Instruction, values: list[Any]) -> Number | None:
    """The result of an operation on numbers, before its dtype wraps or rounds it."""
    if i.opcode == "compare":
        return int(_holds(values[0], i.direction, values[1]))
    if i.opcode == "select":
        return values[1] if values[0] else values[2]
    try:
        if i.shape.is_float and not _is_defined(i, values):
            return None
        if i.opcode in _OF_ALL:
            return _OF_ALL[i.opcode](*values)
        if i.shape.is_float:
            return values[0] / values[1] if i.opcode == "divide" else None
        return _on_integers(i, values)
    except (ArithmeticError, TypeError):  # 1.0 / 0.0; a bit operation on floats
        return None


def _is_defined(i: Instruction, values: list[Number]) -> bool:
    """Whether there is one result in floats."""
    if i.opcode in ("add", "subtract"):
        # A product may be added without being rounded first, or not: nobody says.
        return all(operand.opcode != "multiply" for operand in i.operands)
    return i.opcode not in ("maximum", "minimum") or not any(map(math.isnan, values))


def _on_integers(i: Instruction, values: list[int]) -> int | None:
    a, b = values[0], values[1] if len(values) > 1 else 0
    shape = i.operands[0].shape
    match i.opcode:
        case "divide":  # toward zero, as XLA divides
            return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        case "remainder":  # the sign of the dividend
            return None if b == 0 else abs(a) % abs(b) * (-1 if a < 0 else 1)
        case "power":
            return a**b if 0 <= b <= 64 else None
        case "clamp":
            return max(a, min(b, values[2]))
        case "sign":
            return (a > 0) - (a < 0)
        case "and":
            return a & b
        case "or":
            return a | b
        case "xor":
            return a ^ b
        case "not":
            return 1 - a if shape.dtype == "pred" else ~a
        case "shift-left":
            return a << b if 0 <= b < shape.bits else 0
        case "shift-right-arithmetic":
            return _signed(a, shape.bits) >> min(b, shape.bits) if b >= 0 else None
        case "shift-right-logical":
            return (a & ((1 << shape.bits) - 1)) >> b if 0 <= b < shape.bits else 0
    return None


def _holds(a: Number, direction: str, b: Number) -> bool:
    return {"LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b, "EQ": a == b, "NE": a != b}[
        direction
    ]


def invariants(body: Computation, start: Any) -> Any:
    """The loop state with what the body changes, or nobody knows, replaced by None."""
    if not isinstance(start, tuple):  # one array
        return start if Scope(body, (Counter(0),)).root() == Counter(0) else None
    symbols = tuple(Counter(k) for k in range(len(start)))
    after = Scope(body, (symbols,)).root()
    if not isinstance(after, tuple) or len(after) != len(start):
        return None
    return tuple(s if a == c else None for s, a, c in zip(start, after, symbols, strict=True))


def _each_part(state: Any) -> tuple[Any, ...]:
    """The parts of a loop's state, which may be one array."""
    return state if isinstance(state, tuple) else (state,)


def _after(loop: Instruction, scope: Scope) -> Any:
    """What is known of a loop's state after it.

    That is all that a body of few trips makes of what is known, such as flags it stacks for
    the loop of a gradient; of others what they leave alone.

    Args:
        loop: The `while` instruction.
        scope: Where it stands.

    Returns:
        The state.
    """
    body, start = loop.called[0], scope.value(loop.operands[0])
    kept = invariants(body, start)
    if scope.within_loop or all(s is None for s in _each_part(start)):
        return kept
    trips = count_trips(loop, scope)
    if trips.kind != "exact" or trips.count * len(body.instructions) > MAX_STEPS:
        return kept
    state = start
    for _ in range(trips.count):
        state = Scope(body, (state,), within_loop=True).root()
    return state


def count_trips(loop: Instruction, scope: Scope) -> Trips:
    """How often the body of a `while` runs.

    Our own analysis comes first: XLA's note is wrong for counters that wrap around, such as
    unsigned ones that count down. The note settles what the analysis cannot, unless that saw
    the counter wrap.

    Args:
        loop: The `while` instruction.
        scope: Where it stands, with what is known there.

    Returns:
        The count and how far to trust it.
    """
    ours = _analyse(loop, scope)
    noted = loop.config.get("known_trip_count", {}).get("n")
    if ours.kind == "exact" or ours.wraps or not str(noted).isdecimal():
        return ours
    step = int(loop.config.get("known_init_step", {}).get("step", 0))
    return ours if abs(step) >= 1 << 31 else Trips(int(noted), "exact")


def _analyse(loop: Instruction, scope: Scope) -> Trips:
    body, condition = loop.called
    shape = loop.operands[0].shape
    start = scope.value(loop.operands[0])
    kept = invariants(body, start)
    if kept is None and shape.dtype == "tuple":
        return Trips(1, "unknown")
    parts = tuple(Counter(k) if v is None else v for k, v in enumerate(_each_part(kept)))
    symbols = parts if shape.dtype == "tuple" else parts[0]
    tests = Scope(condition, (symbols,)).root()
    bound, wraps = None, False
    if isinstance(tests, Tests):
        before, after = _each_part(start), _each_part(Scope(body, (symbols,)).root())
        shapes = shape.parts or (shape,)
        counted = [test for test in tests.items if _is_counted(test.index, before, after)]
        solved = [_solve(test, before, after, shapes[test.index]) for test in counted]
        found = [trips for trips in solved if trips is not None]
        if found and tests.whole and len(found) == len(tests.items):
            return Trips(min(found), "exact")
        wraps = None in solved
        pairs = zip(counted, solved, strict=True)
        limits = [n for test, n in pairs if n is not None and _limits(test, shapes[test.index])]
        bound = min(limits, default=None)
    stepped = _step_through(body, condition, start)
    if stepped.kind == "exact":
        return stepped
    return Trips(1, "unknown", wraps) if bound is None else Trips(bound, "bound", wraps)


def _is_counted(index: int, before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Whether a part of the state begins at a known number and changes by a constant."""
    moved = after[index]
    known = isinstance(before[index], int)
    return known and isinstance(moved, Counter) and moved.index == index


def _solve(test: Test, start: tuple, after: tuple, shape: Shape) -> int | None:
    """Trips until a test of a counter fails; None if it would wrap before."""
    begin, moved = start[test.index], after[test.index]
    trips = _affine_trips(begin + test.offset, moved.offset, test.direction, test.limit)
    if trips is None:
        return None
    end = begin + trips * moved.offset
    visited = (begin, begin + test.offset, end, end + test.offset)
    return trips if all(wrap(value, shape) == value for value in visited) else None


def _limits(test: Test, shape: Shape) -> bool:
    """Whether the limit was meant: the last number that a dtype holds says "for ever"."""
    signed = shape.dtype.startswith("s")
    last = (1 << shape.bits - signed) - 1
    return test.limit != last and not (signed and test.limit == -last - 1)


def _affine_trips(begin: int, step: int, direction: str, limit: int) -> int | None:
    """Trips of ``for (i = begin; i direction limit; i += step)``; None if it never ends."""
    if not _holds(begin, direction, limit):
        return 0
    if direction == "EQ":
        return 1 if step else None
    if direction == "NE":
        trips, rest = divmod(limit - begin, step) if step else (0, 1)
        return trips if rest == 0 and trips > 0 else None
    if direction in ("GT", "GE"):
        begin, step, limit = -begin, -step, -limit
    last = limit - (direction in ("LT", "GT"))  # the largest value that still runs
    return (last - begin) // step + 1 if step > 0 else None


def _step_through(body: Computation, condition: Computation, start: Any) -> Trips:
    state: Any = start
    for trips in range(MAX_STEPS):
        runs = Scope(condition, (state,)).root()
        if not isinstance(runs, int):
            break
        if not runs:
            return Trips(trips, "exact")
        state = Scope(body, (state,)).root()
    return Trips(1, "unknown")
