"""Walk a program and multiply every instruction by how often it runs."""

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, SupportsIndex

from lintoolkit.cost.hlo import Computation, Instruction, Module
from lintoolkit.cost.names import scope_of
from lintoolkit.cost.price import Price, Work, price, price_macs
from lintoolkit.cost.products import rewritten_products
from lintoolkit.cost.traffic import bytes_accessed
from lintoolkit.cost.trips import Kind, Scope, count_trips, invariants


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
    precision: str = "default"

    def plus(self, other: "Op") -> "Op":
        """Both together."""
        return replace(
            self,
            times=self.times + other.times,
            work=self.work.plus(other.work),
            bytes=self.bytes + other.bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop of the program.

    `name` is its op name, `trips` how often its body runs each time it is reached (the most,
    where an outer loop varies it), `kind` how that is known (exact, an upper bound, given by
    the user, or unknown, then counted once), `runs` the runs of its body in the whole program.
    """

    name: str
    trips: int
    kind: Kind
    runs: int

    @property
    def scope(self) -> str:
        """The program's own names on the way to the loop, such as ``"encoder/block"``."""
        return "/".join(scope_of(self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """A conditional whose branch the program does not fix: FLOPs of every branch at one run."""

    name: str
    flops: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective: its opcode, bytes of its full array, devices a group, and runs."""

    name: str
    opcode: str
    bytes: int
    group: int
    times: int


WhileTrips = (
    SupportsIndex | Mapping[str, SupportsIndex] | Callable[[Loop], SupportsIndex | None]
)
Rule = Literal["max", "mean", "sum"]
Kernels = Callable[[Instruction], Price | None]
# What goes wrong in reading a damaged module.
_MALFORMED = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
# Instructions that may be walked when all calls are written out.
MAX_INSTRUCTIONS = 5_000_000
# Trips times operations that may be walked one trip at a time, in one loop and in all.
MAX_WALK = 100_000
MAX_WALKS = 1_000_000
_COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-", "ragged-all",
)  # fmt: skip


class NamedError(ValueError):
    """An error that already says what is wrong with what."""


@dataclass(slots=True)
class Tally:
    """What a walk has found so far."""

    ops: list[Op] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    branches: list[Branches] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    uncounted: Counter[str] = field(default_factory=Counter)
    estimates: Counter[str] = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        """FLOPs of all operations."""
        return self.work.flops

    @property
    def work(self) -> Work:
        """All work; tuples of it compare by FLOPs first."""
        return Work(*(sum(kind) for kind in zip(*(op.work for op in self.ops), strict=True)))

    @property
    def rank(self) -> tuple[Work, int]:
        """All work, then bytes: the dearest of several branches has the largest."""
        return self.work, sum(op.bytes for op in self.ops)

    @property
    def sure(self) -> bool:
        """Whether every trip count and every branch taken is known."""
        return not self.branches and all(loop.kind == "exact" for loop in self.loops)

    def add(self, other: "Tally") -> None:
        """Take over another walk's findings."""
        self.ops += other.ops
        self.loops += other.loops
        self.branches += other.branches
        self.collectives += other.collectives
        self.uncounted += other.uncounted
        self.estimates += other.estimates


def count_module(
    module: Module,
    *,
    while_trips: WhileTrips | None = None,
    cond: Rule = "max",
    kernels: Kernels | None = None,
) -> Tally:
    """Price every instruction of a module, loops multiplied out.

    Args:
        module: The program.
        while_trips: Trips of loops whose number the program does not fix.
        cond: Which branch of a conditional counts, where the program does not fix it.
        kernels: Price of one run of a custom kernel, None where that is not known; see
            `lintoolkit.cost.kernels`.

    Returns:
        Its operations, loops, conditionals, collectives, and what could not be counted.

    Raises:
        ValueError: If the module is damaged, or calls more than can be walked.
    """
    sizes: dict[Computation, int] = {}
    for computation in module.computations.values():  # callees first
        called = (c for i in computation.instructions for c in i.called)
        sizes[computation] = len(computation.instructions) + sum(sizes[c] for c in called)
    if sizes[module.entry] > MAX_INSTRUCTIONS:
        raise ValueError(
            f"count_module: {module.name} is {sizes[module.entry]:,} instructions with all its "
            f"calls written out; at most {MAX_INSTRUCTIONS:,} can be walked."
        )
    names = (i.op_name.partition("/")[0] for i in module.entry.instructions if i.op_name)
    base = next((name for name in names if name.startswith(("jit(", "pmap("))), "")
    walk = _Walk(
        module=module,
        base=base,
        rewritten=rewritten_products(module),
        while_trips=while_trips,
        cond=cond,
        tally=Tally(),
        kernels=kernels,
        budget=[MAX_WALKS],
    )
    walk.computation(module.entry, Scope(module.entry), 1, "", fused=False)
    return walk.tally


@dataclass(frozen=True, slots=True)
class _Walk:
    """One walk: what is walked, what users say, the findings, how much may still be walked."""

    module: Module
    base: str
    rewritten: Mapping[Instruction, int]
    while_trips: WhileTrips | None
    cond: Rule
    tally: Tally
    kernels: Kernels | None
    budget: list[int]

    def apart(self) -> "_Walk":
        """The same walk with findings of its own."""
        return replace(self, tally=Tally())

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
            try:
                self.any(i, scope, times, self.full_name(i.op_name, prefix), fused=fused)
            except NamedError:
                raise
            except _MALFORMED as error:
                raise NamedError(
                    f"count_module: cannot count the {i.opcode} {i.name!r}, which is not as "
                    f"XLA writes it ({type(error).__name__}: {error})"
                ) from error

    def any(self, i: Instruction, scope: Scope, times: int, name: str, *, fused: bool) -> None:
        """Add one instruction with all that it calls."""
        if i.opcode == "while":
            self.loop(i, scope, times, name, fused=fused)
        elif i.opcode == "conditional":
            self.conditional(i, scope, times, name, fused=fused)
        elif i.opcode in ("call", "async-start") and i.called:
            inner = scope.inside(i, i.called[0])
            runs = times * self.shards(i, scope.computation)
            self.computation(i.called[0], inner, runs, name, fused=fused)
        else:
            if i.opcode == "fusion":
                inner = scope.inside(i, i.called[0])
                self.computation(i.called[0], inner, times, name, fused=True)
            self.instruction(i, times, name, fused=fused)

    def shards(self, call: Instruction, within: Computation) -> int:
        """How many devices run the body of a `shard_map`, whose shapes are one device's."""
        if not call.called[0].name.startswith("xla.sdy.manual_computation_body"):
            return 1
        source = lambda i: i.operands[0] if i.opcode == "get-tuple-element" else i
        # Its axes are noted where arrays are cut for it and where they are put together again.
        before = [source(operand) for operand in call.operands]
        after = [i for i in within.instructions if call in map(source, i.operands)]
        for border in (*before, *after):
            if axes := border.attributes.get("xla.sdy.manual_axes", ""):
                named = re.findall(r'"([^"]+)"', axes)
                return math.prod(self.module.axes.get(axis, 1) for axis in named)
        return 1

    def loop(self, i: Instruction, scope: Scope, times: int, name: str, *, fused: bool) -> None:
        """Add a `while`: its body `trips` times, its condition once more."""
        trips = count_trips(i, scope)
        found = Loop(name=name, trips=trips.count, kind=trips.kind, runs=times * trips.count)
        if trips.kind != "exact" and (given := self.given(found)) is not None:
            found = Loop(name=name, trips=given, kind="user", runs=times * given)
        body, condition = i.called
        start = scope.value(i.operands[0])
        kept = (invariants(body, start),)  # known in every trip
        inside = self.apart()
        inside.computation(body, Scope(body, kept), found.runs, name, fused=fused)
        if found.kind == "exact" and not inside.tally.sure:
            walked = self.trip_by_trip(body, start, found.trips, times, name, fused=fused)
            inside = walked or inside
        self.tally.loops.append(found)
        self.tally.add(inside.tally)
        self.computation(
            condition, Scope(condition, kept), found.runs + times, name, fused=fused
        )

    def given(self, loop: Loop) -> int | None:
        """What the user says of a loop whose trips the program does not fix."""
        said = self.while_trips
        where = f" for the loop in scope {loop.scope!r}"
        if isinstance(said, Mapping):
            fits = [key for key in said if names_scope(key, loop.scope)]
            said = said[max(fits, key=len)] if fits else None
        elif callable(said):
            try:
                said = said(loop)
            except Exception as error:
                raise NamedError(
                    f"cost: the function while_trips raised {type(error).__name__}{where}: "
                    f"{error}"
                ) from error
        return None if said is None else whole_trips(said, where)

    def trip_by_trip(
        self, body: Computation, state: Any, trips: int, times: int, name: str, *, fused: bool
    ) -> "_Walk | None":
        """Walk each trip with what is known in it: inner limits and branches may depend on it.

        Returns:
            The walk of all trips, or None where that settles nothing or would take too long.
        """
        together = self.apart()
        for trip in range(trips):
            once = self.apart()
            once.computation(body, Scope(body, (state,)), times, name, fused=fused)
            self.budget[0] -= len(once.tally.ops) + 1
            too_long = trips * len(once.tally.ops) > MAX_WALK or self.budget[0] < 0
            if too_long or not once.tally.sure:
                return None
            together.tally.add(once.tally)
            if trip + 1 < trips:
                state = Scope(body, (state,)).root()
        together.tally.ops[:] = _merged(together.tally.ops)
        together.tally.loops[:] = _merged_loops(together.tally.loops)
        return together

    def conditional(
        self, i: Instruction, scope: Scope, times: int, name: str, *, fused: bool
    ) -> None:
        """Add the branch that is taken where it is known, else what `cond` says."""
        tallies = []
        for branch, operand in zip(i.called, i.operands[1:], strict=True):
            walk = self.apart()
            inner = Scope(branch, (scope.value(operand),))
            walk.computation(branch, inner, times, name, fused=fused)
            tallies.append(walk.tally)
        chosen = scope.value(i.operands[0])
        if isinstance(chosen, int):
            if i.operands[0].shape.dtype == "pred":  # the true branch comes first
                chosen = 0 if chosen else 1
            self.tally.add(tallies[chosen if 0 <= chosen < len(tallies) else -1])
            return
        each = tuple(tally.flops // max(times, 1) for tally in tallies)
        first, *others = ((*tally.rank, tally.uncounted, tally.estimates) for tally in tallies)
        if any(other != first for other in others):
            self.tally.branches.append(Branches(name=name, flops=each))
        dearest = max(tallies, key=lambda tally: tally.rank)
        before = len(self.tally.ops)
        for tally in [dearest] if self.cond == "max" else tallies:
            self.tally.add(tally)
        if self.cond == "mean":
            self.tally.ops[before:] = _shared(self.tally.ops[before:], len(tallies))
        for tally in tallies:  # unknown work in any branch leaves the whole uncertain
            self.tally.uncounted |= tally.uncounted
            self.tally.estimates |= tally.estimates
            if self.cond == "max" and tally is not dearest:
                self.tally.loops += [loop for loop in tally.loops if loop.kind != "exact"]

    def instruction(self, i: Instruction, times: int, name: str, *, fused: bool) -> None:
        """Add one instruction that contains no control flow."""
        if (macs := self.rewritten.get(i)) is not None:
            category, work, estimate = price_macs(i, macs)
        else:
            category, work, estimate = price(i, as_run=self.module.scheduled)
        if category == "uncounted" and self.kernels and (known := self.kernels(i)):
            category, work, estimate = known
        what = f"custom-call {i.target}" if i.opcode == "custom-call" else i.opcode
        if category == "uncounted":
            self.tally.uncounted[what] += times
        elif estimate:
            self.tally.estimates[what] += times
        traffic = 0 if fused else bytes_accessed(i)
        if any(work) or traffic:
            op = Op(
                name=name,
                opcode=i.opcode,
                category=category,
                dtype=_dtype(i, category),
                source=self.module.frames[i.frame if i.frame < len(self.module.frames) else 0],
                times=times,
                work=work.times(times),
                bytes=traffic * times,
                precision=i.precision,
            )
            self.tally.ops.append(op)
        if i.opcode.startswith(_COLLECTIVES) and not i.opcode.endswith("-done"):
            self.tally.collectives.append(_collective(i, times, name))


def _shared(ops: list[Op], ways: int) -> list[Op]:
    """One of `ways` equal shares in whole numbers: what is over from an op the next one has."""
    shares = []
    over = [ways // 2] * 5
    for op in ops:
        amounts = (op.work.flops - op.work.products, *op.work[1:], op.bytes)
        split = [
            divmod(amount + more, ways) for amount, more in zip(amounts, over, strict=True)
        ]
        over = [rest for _, rest in split]
        apart, products, transcendentals, integer, moved = (share for share, _ in split)
        work = Work(apart + products, products, transcendentals, integer)
        shares.append(replace(op, work=work, bytes=moved))
    return shares


def _dtype(i: Instruction, category: str) -> str:
    """The element type that the work is done in: of the operands where they are numbers."""
    numbers = [operand.shape.dtype for operand in i.operands if operand.shape.is_float]
    if category == "product" or i.shape.dtype in ("pred", "tuple"):
        return numbers[0] if numbers else i.operands[0].shape.dtype if i.operands else "tuple"
    return i.shape.dtype


def whole_trips(said: Any, where: str = "") -> int:
    """A user's number of trips, of whichever integer type, as Python's.

    Args:
        said: What is given.
        where: For which loop, in the words of the error.

    Returns:
        The number.

    Raises:
        NamedError: If it is no whole number, or negative.
    """
    try:
        trips = operator.index(said)
    except TypeError:
        trips = -1
    if trips < 0:
        raise NamedError(
            f"cost: while_trips must be a whole number of at least 0, got {said!r}"
            f"{where}. Give how often the loop's body runs."
        )
    return trips


def names_scope(key: str, scope: str) -> bool:
    """Whether a user's key means a scope: the whole path or its last names."""
    return key == scope or scope.endswith(f"/{key}")


def _collective(i: Instruction, times: int, name: str) -> Collective:
    opcode = i.opcode.removesuffix("-start")
    held = sum(operand.shape.bytes for operand in i.operands)
    whole = held * i.group_size if opcode == "all-gather" else held
    return Collective(name=name, opcode=opcode, bytes=whole, group=i.group_size, times=times)


def _merged(ops: list[Op]) -> list[Op]:
    """One operation for all those that differ in their number of runs alone."""
    found: dict[tuple, Op] = {}
    for op in ops:
        key = (op.name, op.opcode, op.category, op.dtype, op.precision, op.source)
        found[key] = found[key].plus(op) if key in found else op
    return list(found.values())


def _merged_loops(loops: list[Loop]) -> list[Loop]:
    """One loop for each name, with the most trips and all runs."""
    found: dict[str, Loop] = {}
    for loop in loops:
        if before := found.get(loop.name):
            trips, runs = max(before.trips, loop.trips), before.runs + loop.runs
            loop = replace(loop, trips=trips, runs=runs)
        found[loop.name] = loop
    return list(found.values())
