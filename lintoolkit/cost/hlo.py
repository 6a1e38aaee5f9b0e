"""Read a serialised `HloModuleProto` without protobuf: wire bytes to plain objects.

Only the fields that pricing needs are decoded, by number; unknown ones are skipped, so newer
versions of XLA, which only ever add fields, read alike. The numbers are those of `hlo.proto`
and `xla_data.proto` in the XLA sources.
"""

import json
import math
import re
import struct
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

# Element types: code in the file -> (name, bits).
_DTYPES: dict[int, tuple[str, int]] = {
    1: ("pred", 8), 2: ("s8", 8), 3: ("s16", 16), 4: ("s32", 32), 5: ("s64", 64),
    6: ("u8", 8), 7: ("u16", 16), 8: ("u32", 32), 9: ("u64", 64),
    10: ("f16", 16), 11: ("f32", 32), 12: ("f64", 64), 13: ("tuple", 0), 14: ("opaque", 0),
    15: ("c64", 64), 16: ("bf16", 16), 17: ("token", 0), 18: ("c128", 128),
    19: ("f8e5m2", 8), 20: ("f8e4m3fn", 8), 21: ("s4", 4), 22: ("u4", 4),
    23: ("f8e4m3b11fnuz", 8), 24: ("f8e5m2fnuz", 8), 25: ("f8e4m3fnuz", 8),
    26: ("s2", 2), 27: ("u2", 2), 28: ("f8e4m3", 8), 29: ("f8e3m4", 8),
    30: ("s1", 1), 31: ("u1", 1), 32: ("f4e2m1fn", 4), 33: ("f8e8m0fnu", 8),
}  # fmt: skip

# Where a literal keeps its elements: field, and how it packs them.
_VARINTS = {"pred": 2, "s32": 4, "s64": 5, "u32": 6, "u64": 7}
_PACKED = {
    "u8": (3, "B"), "s8": (15, "b"), "u16": (16, "H"), "s16": (17, "h"),
    "f16": (11, "e"), "f32": (8, "f"), "f64": (9, "d"),
}  # fmt: skip

# Files of the libraries that models are written with.
_FRAMEWORK = re.compile(
    r"[/\\](?:site|dist)-packages[/\\](?:jax|flax|equinox|haiku|optax|chex|jaxtyping|beartype)[/\\]"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """An array's element type and sides, or a tuple of shapes."""

    dtype: str
    dims: tuple[int, ...] = ()
    bits: int = 0
    parts: tuple["Shape", ...] = ()

    @property
    def size(self) -> int:
        """Number of elements of an array; of a tuple, of all its arrays."""
        return sum(p.size for p in self.parts) if self.parts else math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the array, or of all arrays of the tuple."""
        if self.parts:
            return sum(part.bytes for part in self.parts)
        return -(-self.size * self.bits // 8)

    @property
    def is_complex(self) -> bool:
        """Whether the elements are complex."""
        return self.dtype in ("c64", "c128")

    @property
    def is_float(self) -> bool:
        """Whether arithmetic on the elements is floating-point (real or complex)."""
        return self.dtype.startswith(("f", "bf", "c"))


@dataclass(frozen=True, slots=True)
class WindowDimension:
    """One spatial side of a window, as XLA's `WindowDimension`."""

    size: int = 1
    stride: int = 1
    pad_low: int = 0
    pad_high: int = 0
    dilation: int = 1
    base_dilation: int = 1


@dataclass(eq=False)
class Instruction:
    """One HLO instruction; the rarer fields are decoded when asked for."""

    raw: dict[int, list[Any]] = field(repr=False)
    id: int
    name: str
    opcode: str
    shape: Shape
    op_name: str
    frame: int
    operands: list["Instruction"] = field(default_factory=list, repr=False)
    called: list["Computation"] = field(default_factory=list, repr=False)

    def number(self, key: int, default: int = 0) -> int:
        """A scalar integer field."""
        return _integer(self.raw, key, default)

    def numbers(self, key: int) -> list[int]:
        """A repeated integer field, packed or not."""
        return _integers(self.raw.get(key, ()))

    def text(self, key: int) -> str:
        """A string field."""
        return _text(self.raw, key)

    @property
    def parameter(self) -> int:
        """Which parameter of its computation this instruction is."""
        return self.number(9)

    @property
    def tuple_index(self) -> int:
        """Which element `get-tuple-element` takes."""
        return self.number(13)

    @property
    def target(self) -> str:
        """What a custom call calls."""
        return self.text(28)

    @property
    def direction(self) -> str:
        """LT, LE, GT, GE, EQ or NE of a `compare`."""
        return self.text(63)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The backend's configuration, where it is JSON."""
        try:
            value = json.loads(self.text(43) or "{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def attributes(self) -> dict[str, str]:
        """What the frontend noted about the instruction."""
        return _read_attributes(self.raw, 68)

    @cached_property
    def window(self) -> tuple[WindowDimension, ...]:
        """The window of a convolution or windowed reduction."""
        sides = []
        for dimension in _messages(self.raw.get(15, ()), 1):
            get = lambda key, default, d=dimension: _signed(d[key][-1]) if key in d else default
            sides.append(
                WindowDimension(
                    get(1, 1),
                    get(2, 1) or 1,
                    get(3, 0),
                    get(4, 0),
                    get(5, 1) or 1,
                    get(6, 1) or 1,
                )
            )
        return tuple(sides)

    @cached_property
    def convolution(self) -> dict[str, Any]:
        """Which side is what in a convolution's operands and result."""
        numbers = _fields(self.raw[16][-1])
        one = lambda key: _integer(numbers, key)
        many = lambda key: _integers(numbers.get(key, ()))
        return {
            "kernel_in": one(3), "kernel_out": one(4), "kernel_spatial": many(6),
            "batch": one(7), "features": one(8), "spatial": many(11),
            "out_batch": one(9), "out_features": one(10), "out_spatial": many(12),
        }  # fmt: skip

    @cached_property
    def dot(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Contracting sides of left and right, batch sides of left and right."""
        if self.opcode == "ragged-dot":
            numbers = _fields(_fields(self.raw[90][-1])[1][-1])
        else:
            numbers = _fields(self.raw[30][-1]) if 30 in self.raw else {}
        left, right, left_batch, right_batch = (
            _integers(numbers.get(k, ())) for k in range(1, 5)
        )
        return left, right, left_batch, right_batch

    @property
    def precision(self) -> str:
        """What a product asks for: "default", "high" or "highest"; of two, the lower."""
        if 51 not in self.raw:
            return "default"
        fields = _fields(self.raw[51][-1])
        if _integer(fields, 2) == 11:  # the algorithm of float32 throughout
            return "highest"
        asked = min(_integers(fields.get(1, ())), default=0)
        return {1: "high", 2: "highest"}.get(asked, "default")

    @cached_property
    def ragged_group(self) -> list[int]:
        """The group sides of a ragged product's right operand."""
        return _integers(_fields(self.raw[90][-1]).get(3, ()))

    @cached_property
    def group_size(self) -> int:
        """How many devices take part together in a collective; 1 where it does not say."""
        if 52 in self.raw:  # pairs of sender and receiver: as many as pass among each other
            return _largest_circle([_fields(pair) for pair in self.raw[52]])
        if 49 in self.raw:  # a list of groups
            return len(_integers(_fields(self.raw[49][0]).get(1, ())))
        if 87 in self.raw:  # the same, wrapped
            groups = _fields(self.raw[87][-1])
            if 1 in groups:
                return len(_integers(_fields(groups[1][0]).get(1, ())))
            return _integer(_fields(groups[2][-1]), 2, 1)
        if 92 in self.raw:  # an iota of groups by size
            return _integer(_fields(self.raw[92][-1]), 2, 1)
        if 93 in self.raw:  # axes of a mesh
            of = _fields(self.raw[93][-1])
            sides = [_integer(axis, 2, 1) for axis in _messages(of.get(1, ()), 1)]
            return math.prod(sides[_integer(_fields(axis), 1)] for axis in of.get(2, ()))
        return 1

    @cached_property
    def slice(self) -> list[tuple[int, int]]:
        """Where a `slice` starts on each side, and its stride."""
        sides = [_fields(side) for side in self.raw.get(17, ())]
        return [(_integer(side, 1), _integer(side, 3, 1)) for side in sides]

    @cached_property
    def literal(self) -> tuple[int | float, ...] | None:
        """The elements of a constant, row by row; None where their type is not read."""
        if self.opcode != "constant" or 8 not in self.raw:
            return None
        fields, dtype = _fields(self.raw[8][-1]), self.shape.dtype
        if dtype in _VARINTS:
            found = tuple(_integers(fields.get(_VARINTS[dtype], ())))
        elif dtype in _PACKED:
            key, code = _PACKED[dtype]
            parts = fields.get(key, ())
            data = b"".join(struct.pack("<I", x) if isinstance(x, int) else x for x in parts)
            found = tuple(x for (x,) in struct.iter_unpack(f"<{code}", data))
        else:
            return None
        return found if len(found) == self.shape.size else None


@dataclass(eq=False)
class Computation:
    """A list of instructions in order, the last of which need not be the root.

    `known` is a place for what its runs are found to give, by their arguments.
    """

    id: int
    name: str
    instructions: list[Instruction]
    root: Instruction
    known: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class Module:
    """A whole program: its entry computation, its sources, the axes of its device meshes.

    A compiled one is scheduled: its instructions stand in the order that they run in.
    """

    name: str
    entry: Computation
    computations: dict[int, Computation]
    frames: list[tuple[str, str, int]]
    axes: dict[str, int]
    scheduled: bool


def read_module(data: bytes) -> Module:
    """Decode a serialised `HloModuleProto`.

    Args:
        data: The wire bytes.

    Returns:
        The module with operands and called computations linked.

    Raises:
        ValueError: If the bytes are not such a module.
    """
    try:
        top = _fields(data)
        # Operands and callees stand before their users, so nothing can be circular.
        computations: dict[int, Computation] = {}
        for body in top.get(3, ()):
            computation = _read_computation(_fields(body), computations)
            computations[computation.id] = computation
        entry = computations[_integer(top, 6)]
        name = _text(top, 1)
        meshes = _read_attributes(top, 19).get("xla.sdy.meshes", "")
        axes = {axis: int(side) for axis, side in re.findall(r'"([^"]+)"=(\d+)', meshes)}
        return Module(name, entry, computations, _read_frames(top), axes, scheduled=7 in top)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"read_module: data must be a serialised HloModuleProto, got {len(data)} bytes "
            f"that do not decode as one ({type(error).__name__}: {error})"
        ) from error


def _read_computation(
    fields: dict[int, list[Any]], callees: dict[int, Computation]
) -> Computation:
    by_id: dict[int, Instruction] = {}
    for body in fields.get(2, ()):
        i = _read_instruction(_fields(body))
        i.operands = [by_id[key] for key in _integers(i.raw.get(36, ()))]
        i.called = [callees[key] for key in _integers(i.raw.get(38, ()))]
        by_id[i.id] = i
    return Computation(
        id=_integer(fields, 5),
        name=_text(fields, 1),
        instructions=list(by_id.values()),
        root=by_id[_integer(fields, 6)],
    )


def _read_instruction(raw: dict[int, list[Any]]) -> Instruction:
    metadata = _fields(raw[7][-1]) if 7 in raw else {}
    return Instruction(
        raw=raw,
        id=_integer(raw, 35),
        name=_text(raw, 1),
        opcode=_text(raw, 2),
        shape=_read_shape(raw[3][-1].tobytes()),
        op_name=_text(metadata, 2),
        frame=_integer(metadata, 15),
    )


def _largest_circle(pairs: list[dict[int, list[Any]]]) -> int:
    """How many devices are linked, at most, by pairs of sender and receiver."""
    circles: list[set[int]] = []
    for pair in pairs:
        linked = {_integer(pair, 1), _integer(pair, 2)}
        for circle in [circle for circle in circles if circle & linked]:
            circles.remove(circle)
            linked |= circle
        circles.append(linked)
    return max(map(len, circles))


def _read_attributes(fields: dict[int, list[Any]], key: int) -> dict[str, str]:
    """The frontend's attributes, a map of texts."""
    return {_text(pair, 1): _text(pair, 2) for pair in _messages(fields.get(key, ()), 1)}


@lru_cache(maxsize=4096)
def _read_shape(data: bytes) -> Shape:
    fields = _fields(data)
    name, bits = _DTYPES.get(fields.get(2, [0])[-1], ("unknown", 0))
    parts = tuple(_read_shape(body.tobytes()) for body in fields.get(4, ()))
    dims = tuple(_integers(fields.get(3, ())))
    if min(dims, default=0) < 0:
        raise IndexError(f"a shape with sides {dims}")
    return Shape(name, dims, bits, parts)


def _read_frames(top: dict[int, list[Any]]) -> list[tuple[str, str, int]]:
    """(file, function, line) that each stack frame stands for; entry 0 stands for none.

    That is the innermost place outside the frameworks' own files: a layer of flax is named by
    the line of the model that calls it.

    Args:
        top: The module's fields.

    Returns:
        The places by the number that instructions refer to.
    """
    if 17 not in top:
        return [("", "", 0)]
    index = _fields(top[17][-1])
    texts = lambda key: ["", *(_text({0: [text]}, 0) for text in index.get(key, ()))]
    files, functions = texts(1), texts(2)
    places = [("", "", 0)]
    for body in index.get(3, ()):
        place = _fields(body)
        file, function = files[_integer(place, 1)], functions[_integer(place, 2)]
        places.append((file, function, _integer(place, 3)))
    frames = [("", "", 0)]
    callers = [0]
    for body in index.get(4, ()):
        frame = _fields(body)
        frames.append(places[_integer(frame, 1)])
        callers.append(_integer(frame, 2))
    return [_outside_frameworks(frames, callers, at) for at in range(len(frames))]


def _outside_frameworks(
    frames: list[tuple[str, str, int]], callers: list[int], innermost: int
) -> tuple[str, str, int]:
    at = innermost
    for _ in frames:  # no further, should the callers run in a circle
        if not 0 < at < len(frames):
            break
        if not _FRAMEWORK.search(frames[at][0]):
            return frames[at]
        at = callers[at]
    return frames[innermost]


# --- protobuf wire format ------------------------------------------------------------------


def _fields(data: Any) -> dict[int, list[Any]]:
    """Field number -> its values in order: ints (unsigned) or memoryviews."""
    found: dict[int, list[Any]] = {}
    value: Any
    view = memoryview(data)
    at, end = 0, len(view)
    while at < end:
        tag = view[at]  # most numbers are one byte
        at += 1
        if tag > 127:
            tag, at = _varint(view, at - 1)
        kind = tag & 7
        if kind in (0, 2):
            value = view[at]
            at += 1
            if value > 127:
                value, at = _varint(view, at - 1)
            if kind == 2:
                value, at = view[at : at + value], at + value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = view[at : at + size], at + size
        else:
            raise IndexError(f"wire type {kind} at byte {at}")
        if at > end:
            raise IndexError(f"field {tag >> 3} runs past the end")
        key = tag >> 3
        if key in found:
            found[key].append(value)
        else:
            found[key] = [value]
    return found


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(f"varint longer than ten bytes before byte {at}")


def _signed(value: int) -> int:
    """A 64-bit varint as the signed integer that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def _integers(values: Any) -> list[int]:
    """A repeated integer field, each value plain or a packed run."""
    numbers = []
    for value in values:
        if isinstance(value, int):
            numbers.append(_signed(value))
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                numbers.append(_signed(number))
    return numbers


def _integer(fields: dict[int, list[Any]], key: int, default: int = 0) -> int:
    """A scalar integer field; a default value is left out of the wire."""
    return _signed(fields[key][-1]) if key in fields else default


def _text(fields: dict[int, list[Any]], key: int) -> str:
    """A string field, empty where it is left out."""
    return fields[key][-1].tobytes().decode(errors="replace") if key in fields else ""


def _messages(values: Any, key: int) -> list[dict[int, list[Any]]]:
    """The repeated sub-messages number `key` of the last message in `values`."""
    return [_fields(body) for body in _fields(values[-1]).get(key, ())] if values else []
