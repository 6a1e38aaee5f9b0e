"""How a value reads: as a line of text, and as HTML."""

import html
import math
import re
from collections.abc import Collection
from typing import Any


def number(value: float) -> str:
    """A number as people write it: 45,088,768 or 0.714286 or 3.15 × 10^23.

    What is not whole does not look so: it gets more digits, and ≈ where twelve are not enough.
    """
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if isinstance(value, int) and size < 10**15:
        return f"{value:,}" if size >= 10_000 else str(value)
    if size == 0 or 1e-4 <= size < 1e6:
        digits = next(
            (d for d in range(6, 13) if whole(value) == whole(f"{value:.{d}g}")), None
        )
        about = "≈ " if digits is None else ""
        return f"{about}{value:{',' if size >= 10_000 else ''}.{digits or 6}g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')} × 10^{int(exponent)}"


def compact(value: int) -> str:
    """A count to four digits where space is short: 9999 or 6.144 M or 3.15 × 10^23."""
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12)):
        if 10_000 <= value < 999.95 * size:
            return f"{value / size:.4g} {unit}"
    return number(value if value < 10_000 else float(f"{value:.4g}"))


def cut(line: str, width: int) -> str:
    """A line of text that is no longer than `width`, cut between two entries or words."""
    if len(line) <= width:
        return line
    kept = line[: width - 1]
    for between in (", ", " "):
        if between in kept[1:]:
            return f"{kept[: kept.rindex(between)]} …"
    return f"{kept}…"


def whole(value: float | str) -> bool:
    """Whether a number, or a text of one, has no fraction."""
    return float(value).is_integer()


def plain(value: Any) -> str:
    """Any JSON value as one line of text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{words(key)} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return listing(value)
    lines = str(value).splitlines()
    return lines[0] if len(lines) == 1 else " ".join(str(value).split())


def listing(value: list, *, keep: int = 12) -> str:
    """A list in brackets; past `keep` entries its beginning and its shape."""
    count = len(leaves(value))
    if count <= keep:
        return f"[{', '.join(plain(item) for item in value)}]"
    first = ", ".join(plain(item) for item in leaves(value)[:4])
    return f"{' × '.join(str(side) for side in shape(value))} entries: {first}, …"


def leaves(value: Any) -> list:
    """The entries of nested lists, in order."""
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


def shape(value: Any) -> tuple[int, ...]:
    """The sides of a regular nested list; a ragged one counts its rows alone."""
    if not isinstance(value, list):
        return ()
    inner = {shape(item) for item in value}
    return (len(value), *(inner.pop() if len(inner) == 1 else ()))


def words(key: str) -> str:
    """A ledger key as words: `lr_0_01` is lr 0.01 and `below_1e_9` below 1e-9."""
    key = re.sub(r"(?<=_\de)_(?=\d)", "-", key)
    key = re.sub(r"(?<=_\d)_(?=\d{1,2}(?!\d))", ".", key)
    return key.replace("_", " ")


def values(value: Any, shapes: Collection[str] = ()) -> str:
    """A computed value: dicts as definition lists, small matrices as matrices.

    What the keys in `shapes` hold are lists, though a list of shapes looks like a matrix.
    """
    if isinstance(value, dict):
        entries = "".join(
            f"<div><dt>{text(words(key))}</dt><dd>{values_of(key, item, shapes)}</dd></div>"
            for key, item in value.items()
        )
        return f"<dl>{entries}</dl>"
    if isinstance(value, list):
        return matrix(value) if is_matrix(value) else count_or_text(listing(value))
    if isinstance(value, str) and "\n" in value:
        return f"<pre>{text(value.rstrip())}</pre>"
    return count_or_text(plain(value))


def values_of(key: str, value: Any, shapes: Collection[str]) -> str:
    """A value under its key."""
    if key in shapes and isinstance(value, list):
        return count_or_text(listing(value, keep=24))
    return values(value, shapes)


def is_matrix(value: list) -> bool:
    """Whether a nested list is a grid of numbers that is small enough to draw as one."""
    sides = shape(value)
    return (
        len(sides) == 2
        and 0 < sides[0] <= 8
        and 0 < sides[1] <= 5
        and all(type(leaf) in (int, float) for leaf in leaves(value))
        and all(sum(len(brief(leaf)) for leaf in row) <= 20 for row in value)
    )


def matrix(value: list) -> str:
    """A small matrix between its brackets."""
    entries = "".join(f"<span>{count_or_text(brief(leaf))}</span>" for leaf in leaves(value))
    return f'<span class=matrix style="--columns:{len(value[0])}">{entries}</span>'


def brief(value: float) -> str:
    """A number to four digits, where several stand in a row."""
    return number(value if isinstance(value, int) else float(f"{value:.4g}"))


def count(value: float) -> str:
    """A number as HTML."""
    return count_or_text(number(value))


def count_or_text(line: str) -> str:
    """Escaped text with true minus signs and raised exponents in its numbers.

    Text with spaces in a row keeps them.
    """
    spaced = "  " in line
    line = re.sub(r"(?<![\w-])-(?=\d)", "−", text(line))
    line = re.sub(r" × 10\^(−?\d+)", " × 10<sup>\\1</sup>", line)
    return f"<code class=spaced>{line}</code>" if spaced else line


def text(value: Any) -> str:
    """Anything as escaped HTML text."""
    return html.escape(str(value))


def prose(value: str) -> str:
    """Escaped text in which back-quoted words are code."""
    return re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", text(value))


def paragraphs(value: str) -> str:
    """A docstring as paragraphs."""
    return "".join(f"<p>{prose(part)}</p>" for part in value.split("\n\n") if part.strip())


def breakable(name: str) -> str:
    """Dotted names that may break after a dot."""
    return text(name).replace(".", ".<wbr>")
