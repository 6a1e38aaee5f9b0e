"""Bytes that one HLO instruction reads and writes, and those that a program has to."""

from typing import Any

from lintoolkit.cost.hlo import Computation, Instruction, Module
from lintoolkit.cost.trips import Scope, count_trips

# Instructions whose bytes are those of what they contain, or none.
_NO_TRAFFIC = frozenset(
    "add-dependency after-all bitcast call conditional constant domain get-dimension-size "
    "get-tuple-element opt-barrier optimization-barrier parameter partition-id replica-id "
    "reshape tuple while".split()
)
# Instructions whose result holds their operand's elements, each once.
_SAME = frozenset(
    "bitcast convert copy opt-barrier optimization-barrier reshape transpose".split()
)
_Users = dict[Instruction, list[tuple[Instruction, int]]]


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
        elif user.opcode == "scatter" and place < len(user.operands) // 2:
            total += user.operands[len(user.operands) // 2 + 1 + place].shape.bytes
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
    if root.opcode == "scatter":
        return sum(part.shape.bytes for part in root.operands[len(root.operands) // 2 + 1 :])
    return root.shape.bytes


def compulsory_bytes(module: Module, aliased: int) -> int:
    """Bytes that a program has to move whatever compiles it: arguments in, results out, once.

    Of an argument that is only sliced, gathered from or updated, the part that is touched
    counts, in a loop of known trips once a trip.

    Args:
        module: The program, without dead code.
        aliased: Bytes of its results that take the place of donated arguments. They may be
            written in part, so none of them count.

    Returns:
        Bytes read plus bytes written.
    """
    users, trips = _users(module)
    kept = None if aliased else module.entry.root
    arguments = [i for i in module.entry.instructions if i.opcode == "parameter"]
    read = sum(_bytes_needed(argument, 1, users, trips, kept) for argument in arguments)
    return read + max(module.entry.root.shape.bytes - aliased, 0)


def held_constants(module: Module) -> int:
    """Bytes of the arrays that a program holds itself: tables, or weights it closes over."""
    computations = module.computations.values()
    return sum(i.shape.bytes for computation in computations for i in _constants(computation))


def constant_bytes(module: Module) -> int:
    """Bytes that a program has to read of the arrays that it holds itself, each once.

    Args:
        module: The program.

    Returns:
        Those of different arrays, counted like arguments; what a branch alone reads does not
        count.
    """
    if not held_constants(module):
        return 0
    users, trips = _users(module)
    runs = {module.entry: 1}
    needed: dict[tuple[Any, ...], int] = {}
    for computation in reversed(module.computations.values()):  # callers first
        times = runs.get(computation, 0)
        for i in computation.instructions:
            if i.opcode != "conditional":
                again = times * trips.get(i, 1)
                runs |= {called: runs.get(called, 0) + again for called in i.called}
        for i in _constants(computation):
            elements = tuple(i.raw.get(8, ()))
            read = _bytes_needed(i, times, users, trips, module.entry.root)
            needed[elements] = max(read, needed.get(elements, 0))
    return sum(needed.values())


def _constants(computation: Computation) -> list[Instruction]:
    """Its constants but for numbers; XLA writes an array of one number as its broadcast."""
    return [i for i in computation.instructions if i.opcode == "constant" and i.shape.size > 1]


def _users(module: Module) -> tuple[_Users, dict[Instruction, int]]:
    """The users of every instruction, and how often each loop's body runs at least."""
    users: _Users = {}
    trips: dict[Instruction, int] = {}
    for computation in module.computations.values():
        for user in computation.instructions:
            if user.opcode == "while":
                found = count_trips(user, Scope(computation))
                trips[user] = found.count if found.kind == "exact" else 1
            for place, operand in enumerate(user.operands):
                users.setdefault(operand, []).append((user, place))
    return users, trips


def _bytes_needed(
    value: Instruction,
    runs: int,
    users: _Users,
    trips: dict[Instruction, int],
    kept: Instruction | None,
) -> int:
    """Bytes of an array that are looked at, at least, where so many runs begin with it."""
    whole = value.shape.size
    elements = runs * _elements_read(value, None, whole, users, trips, kept)
    return -(-min(elements, whole) * value.shape.bytes // max(whole, 1))


def _elements_read(
    value: Instruction,
    part: int | None,
    whole: int,
    users: _Users,
    trips: dict[Instruction, int],
    kept: Instruction | None,
) -> int:
    """At least how many elements of a value, or of one part of a tuple, are looked at.

    Args:
        value: Where to start.
        part: Which part of the tuple `value`; None where it is an array.
        whole: The number of its elements, at which there is no need to go on.
        users: The users of every instruction, and the place at which each takes it.
        trips: How often each loop's body runs at least.
        kept: The program's root, if what reaches it unread has to be copied.

    Returns:
        Their number, at least; more than `whole` where some are looked at again.
    """
    # A value, its part, how often it is reached, and the calls that it stands in.
    todo: list[tuple[Instruction, int | None, int, tuple[Instruction, ...]]]
    todo = [(value, part, 1, ())]
    seen = set()
    total = 0
    while todo and total < whole:
        value, part, times, calls = todo.pop()
        if (value, part, calls) in seen:
            continue
        seen.add((value, part, calls))
        if value is kept:
            return whole
        if calls and value is calls[-1].called[0].root:
            todo.append((calls[-1], part, times, calls[:-1]))
        alternatives: dict[Instruction, list[int]] = {}
        for user, place in users.get(value, ()):
            op = user.opcode
            if op == "get-tuple-element":
                if user.tuple_index == part:
                    todo.append((user, None, times, calls))
            elif op == "tuple":
                todo.append((user, place, times, calls))
            elif op in _SAME:
                todo.append((user, part, times, calls))
            elif op in ("call", "fusion", "async-start") and user.called:
                inner = _parameter(user.called[0], place)
                todo.append((inner, part, times, (*calls, user)))
            elif op == "while":
                body, condition = user.called
                if _is_carried_on(body, part):
                    runs = times * trips[user]
                    todo.append((user, part, times, calls))
                else:  # what the first trip reads, and no more
                    runs = times
                todo.append((_parameter(body, 0), part, runs, ()))
                todo.append((_parameter(condition, 0), part, times, ()))
            elif op == "conditional" and place:
                branch = _parameter(user.called[place - 1], 0)
                read = times * _elements_read(branch, part, whole, users, trips, None)
                alternatives.setdefault(user, []).append(read)
            elif op in ("dynamic-slice", "slice", "gather") and place == 0:
                total += times * user.shape.size
            elif op == "dynamic-update-slice" and place == 0:
                todo.append((user, None, times, calls))
            elif op == "scatter" and place < (half := len(user.operands) // 2):
                todo.append((user, place if half > 1 else None, times, calls))
            elif op not in _NO_TRAFFIC:
                return whole
        for user, reads in alternatives.items():  # a branch that takes another operand reads 0
            total += min(reads) if len(reads) == len(user.called) else 0
    return total


def _parameter(computation: Computation, number: int) -> Instruction:
    parameters = (i for i in computation.instructions if i.opcode == "parameter")
    return next(i for i in parameters if i.parameter == number)


def _is_carried_on(body: Computation, part: int | None) -> bool:
    """Whether a loop's body hands a part of its state on as it is."""
    last = body.root
    if part is not None and last.opcode == "tuple":
        last = last.operands[part]
    while last.opcode in ("bitcast", "copy"):
        last = last.operands[0]
    if last.opcode == "get-tuple-element" and last.tuple_index == part:
        last = last.operands[0]
    return last.opcode == "parameter"
