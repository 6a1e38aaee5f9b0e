"""Write the bytes of small HLO modules, for what no machine at hand would compile."""

import itertools

F32, TUPLE, S8 = 11, 13, 2


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(fields):
    """Field number -> an integer, text, bytes, or a list of these; one message's bytes."""
    out = b""
    for key, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(key << 3) + varint(value)
            else:
                data = value.encode() if isinstance(value, str) else value
                out += varint(key << 3 | 2) + varint(len(data)) + data
    return out


def shape(*dims, dtype=F32):
    return message({2: dtype, 3: list(dims)})


def tuple_of(*shapes):
    return message({2: TUPLE, 4: list(shapes)})


class Builder:
    """One module; instructions and computations are numbered as they are added."""

    def __init__(self):
        self.ids = itertools.count(1)
        self.computations = []

    def computation(self, *instructions, number=None):
        """Add (id, bytes) pairs as one computation and give its number."""
        number = number or next(self.ids)
        body = {1: f"c{number}", 2: [data for _, data in instructions], 5: number}
        self.computations.append(message(body | {6: instructions[-1][0]}))
        return number

    def instruction(self, opcode, shape, operands=(), called=(), **fields):
        """An instruction: extra fields by number, as ``f28="target"``."""
        number = next(self.ids)
        known = {1: f"{opcode}.{number}", 2: opcode, 3: shape, 35: number}
        more = {int(key[1:]): value for key, value in fields.items()}
        links = {36: [i for i, _ in operands], 38: list(called)}
        return number, message(known | links | more)

    def parameters(self, *shapes):
        return [self.instruction("parameter", s, f9=n) for n, s in enumerate(shapes)]

    def module(self, entry):
        return message({1: "handmade", 3: self.computations, 6: entry})
