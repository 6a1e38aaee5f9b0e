"""How often a loop runs: its trip count from what XLA noted, else by induction analysis.

The body and the condition are run on abstract values: an integer that is known, an element of
the loop's state plus a constant (`Counter`), a comparison of such an element (`Test`), a tuple
of these, or None for everything else. That finds the induction variable, its start, step and
limit, whatever copies, calls and fusions stand between, in any direction. What is not affine
(``i *= 2``) is stepped through with known integers instead.
"""

from dataclasses import dataclass
from typing import Any, Literal

from lintoolkit.cost.hlo import Computation, Instruction

Kind = Literal["exact", "bound", "user", "unknown"]

# Stepping through a loop that is not affine gives up after this many trips.
MAX_STEPS = 10_000

_SAME = {"copy", "convert", "bitcast", "reshape", "broadcast", "optimization-barrier"}
_MIRROR = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "EQ": "EQ", "NE": "NE"}
_OPPOSITE = {"LT": "GE", "LE": "GT", "GT": "LE", "GE": "LT", "EQ": "NE", "NE": "EQ"}


@dataclass(frozen=True, slots=True)
class Counter:
    """Element `index` of the loop's state, plus `offset`."""

    index: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Test:
    """``state[index] + offset`` compared with `limit`; `alone` unless other tests join it."""

    index: int
    offset: int
    direction: str
    limit: int
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Trips:
    """A trip count: exact, an upper bound, or unknown (then 1 stands for it)."""

    count: int
    kind: Kind


class Scope:
    """Abstract values inside one call of a computation, worked out when asked for."""

    def __init__(self, computation: Computation, arguments: tuple[Any, ...] = ()):
        self.computation = computation
        self.arguments = arguments
        self._known: dict[int, Any] = {}

    def root(self) -> Any:
        """The abstract result of the call."""
        return self.value(self.computation.root)

    def value(self, instruction: Instruction) -> Any:
        """The abstract value of one instruction."""
        key = instruction.id
        if key not in self._known:
            self._known[key] = None  # a cycle cannot occur; a failure stays unknown
            self._known[key] = self._work_out(instruction)
        return self._known[key]

    def inside(self, instruction: Instruction, callee: Computation) -> "Scope":
        """The scope of a computation that this instruction calls with its own operands."""
        return Scope(callee, tuple(self.value(operand) for operand in instruction.operands))

    def _work_out(self, i: Instruction) -> Any:
        if i.opcode == "constant":
            return i.scalar
        if i.opcode == "parameter":
            return self.arguments[i.parameter] if i.parameter < len(self.arguments) else None
        if i.opcode == "tuple":
            return tuple(self.value(operand) for operand in i.operands)
        if i.opcode == "get-tuple-element":
            whole = self.value(i.operands[0])
            return whole[i.tuple_index] if isinstance(whole, tuple) else None
        if i.opcode in ("call", "fusion"):
            return self.inside(i, i.called[0]).root()
        if i.opcode == "while":
            # Only what the loop leaves alone is known after it.
            return invariants(i.called[0], self.value(i.operands[0]))
        if i.opcode in _SAME:
            small = not i.shape.dims or i.opcode != "broadcast"
            return self.value(i.operands[0]) if small else None
        if i.shape.dims or not i.operands:
            return None
        return _arithmetic(i, [self.value(operand) for operand in i.operands])


def _arithmetic(i: Instruction, values: list[Any]) -> Any:
    """An integer operation on abstract scalars; None where nothing is known of it."""
    first, second = values[0], values[1] if len(values) > 1 else None
    if all(isinstance(v, int) for v in values):
        return _on_integers(i, values)
    if i.opcode in ("add", "subtract"):
        if isinstance(first, Counter) and isinstance(second, int):
            sign = 1 if i.opcode == "add" else -1
            return Counter(first.index, first.offset + sign * second)
        if isinstance(first, int) and isinstance(second, Counter) and i.opcode == "add":
            return Counter(second.index, second.offset + first)
    if i.opcode == "compare":
        if isinstance(first, Counter) and isinstance(second, int):
            return Test(first.index, first.offset, i.direction, second)
        if isinstance(first, int) and isinstance(second, Counter):
            return Test(second.index, second.offset, _MIRROR[i.direction], first)
    if i.opcode == "and":
        for test, other in ((first, second), (second, first)):
            if isinstance(test, Test):
                if other == 1:
                    return test
                return Test(test.index, test.offset, test.direction, test.limit, alone=False)
    if i.opcode == "not" and isinstance(first, Test) and first.alone:
        return Test(first.index, first.offset, _OPPOSITE[first.direction], first.limit)
    return None


def _on_integers(i: Instruction, values: list[int]) -> int | None:
    a, b = values[0], values[1] if len(values) > 1 else 0
    match i.opcode:
        case "add":
            return a + b
        case "subtract":
            return a - b
        case "multiply":
            return a * b
        case "divide":  # toward zero, as XLA divides
            return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        case "maximum":
            return max(a, b)
        case "minimum":
            return min(a, b)
        case "negate":
            return -a
        case "and":
            return a & b
        case "or":
            return a | b
        case "not":
            return 1 - a if i.shape.dtype == "pred" else ~a
        case "select":
            return values[1] if a else values[2]
        case "compare":
            return int(_holds(a, i.direction, b))
    return None


def _holds(a: int, direction: str, b: int) -> bool:
    return {"LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b, "EQ": a == b, "NE": a != b}[
        direction
    ]


def invariants(body: Computation, start: Any) -> tuple[Any, ...] | None:
    """The loop state with what the body changes, or nobody knows, replaced by None."""
    if not isinstance(start, tuple):
        return None
    symbols = tuple(Counter(k) for k in range(len(start)))
    after = Scope(body, (symbols,)).root()
    if not isinstance(after, tuple):
        return None
    return tuple(s if a == c else None for s, a, c in zip(start, after, symbols, strict=True))


def count_trips(loop: Instruction, scope: Scope) -> Trips:
    """How often the body of a `while` runs.

    Args:
        loop: The `while` instruction.
        scope: Where it stands, with what is known there.

    Returns:
        The count and how far to trust it.
    """
    noted = loop.config.get("known_trip_count", {})
    if "n" in noted:
        return Trips(int(noted["n"]), "exact")
    body, condition = loop.called
    start = scope.value(loop.operands[0])
    kept = invariants(body, start)
    if kept is None:
        return Trips(1, "unknown")
    symbols = tuple(Counter(k) if v is None else v for k, v in enumerate(kept))
    test = Scope(condition, (symbols,)).root()
    if isinstance(test, Test):
        begin = start[test.index]
        after = Scope(body, (symbols,)).root()[test.index]
        affine = isinstance(after, Counter) and after.index == test.index
        if isinstance(begin, int) and affine:
            found = _solve(begin + test.offset, after.offset, test.direction, test.limit)
            if found is not None:
                return Trips(found, "exact" if test.alone else "bound")
    return _step_through(body, condition, start)


def _solve(begin: int, step: int, direction: str, limit: int) -> int | None:
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


def _step_through(body: Computation, condition: Computation, start: tuple[Any, ...]) -> Trips:
    state: Any = start
    for trips in range(MAX_STEPS):
        runs = Scope(condition, (state,)).root()
        if not isinstance(runs, int):
            break
        if not runs:
            return Trips(trips, "exact")
        state = Scope(body, (state,)).root()
    return Trips(1, "unknown")
