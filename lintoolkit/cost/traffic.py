"""Bytes that one HLO instruction reads and writes."""

from lintoolkit.cost.hlo import Instruction

# Instructions whose bytes are those of what they contain, or none.
_NO_TRAFFIC = frozenset(
    "add-dependency after-all bitcast call conditional constant domain get-dimension-size "
    "get-tuple-element opt-barrier optimization-barrier parameter partition-id replica-id "
    "reshape tuple while".split()
)


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
