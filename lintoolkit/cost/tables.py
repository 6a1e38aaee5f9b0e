"""A cost as a table: sections of labelled rows, written as text or as HTML."""

import textwrap
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from lintoolkit.cost.names import COMPILER, OTHERS, UNSCOPED, scope_of

if TYPE_CHECKING:
    from lintoolkit.cost.report import Cost, View
    from lintoolkit.cost.walk import Loop


# Names of scopes and instructions stay whole.
_SENTENCES = textwrap.TextWrapper(
    80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
)


class Section(NamedTuple):
    """Rows of a label and values under column heads; a row without values is a sentence."""

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


TOTALS = (
    ("FLOPs", lambda v: v.flops),
    ("  products", lambda v: v.matmul_flops),
    ("  elementwise", lambda v: v.elementwise_flops),
    ("  reductions", lambda v: v.reduction_flops),
    ("  linalg", lambda v: v.linalg_flops),
    ("  fft", lambda v: v.fft_flops),
    ("transcendentals", lambda v: v.transcendentals),
    ("bytes accessed", lambda v: v.bytes_accessed),
)


def sections(cost: "Cost") -> list[Section]:
    """All that a cost has to say: totals by stage, remarks, FLOPs by scope, how sure it is."""
    stages = [cost.lowered, cost.compiled][cost.lowered.stage == cost.compiled.stage :]
    scopes = cost.by_scope()
    found = [totals(stages), Section((), [(line,) for line in remarks(cost)])]
    if set(scopes) - {UNSCOPED, COMPILER, OTHERS}:
        rows: list[tuple[str, ...]] = [(f"  {k}", f"{v:,}") for k, v in scopes.items()]
        found.append(Section(("FLOPs by scope", ""), rows))
    sure = "exact: nothing left out or estimated, every trip count known"
    found.append(Section((), [(sure if cost.exact else "not exact: see above",)]))
    return found


def totals(stages: "Iterable[View]") -> Section:
    """One column a stage, one row a kind of work that there is."""
    stages = list(stages)
    rows: list[tuple[str, ...]] = []
    for label, pick in TOTALS:
        values = [pick(stage) for stage in stages]
        if any(values) or label in ("FLOPs", "bytes accessed"):
            rows.append((label, *(f"{value:,}" for value in values)))
    rows.append(("FLOPs per byte", *(f"{stage.intensity:.3g}" for stage in stages)))
    return Section(("", *(stage.stage for stage in stages)), rows)


def remarks(cost: "Cost") -> Iterable[str]:
    """Memory, devices, XLA's own count where it is off, loops, exchanges, what is unsure."""
    if cost.memory:
        parts = cost.memory._asdict().items()
        held = ", ".join(f"{part} {size:,}" for part, size in parts if size)
        yield f"memory {cost.memory.total:,} bytes: {held or 'nothing'}"
    if cost.devices > 1:
        whole = f"{cost.global_flops:,} FLOPs in all"
        yield f"compiled: on each of {cost.devices} devices, {whole}"
    if cost.xla_flops is not None and abs(cost.xla_flops - cost.flops) > 0.01 * cost.flops:
        ratio = f", {cost.xla_flops / cost.flops:.3g} of ours" if cost.flops else ""
        yield f"XLA's own count: {cost.xla_flops:,} FLOPs{ratio}"
    yield from dict.fromkeys(f"loop {place(loop.name)}: {_trips(loop)}" for loop in cost.loops)
    if cost.parts is not cost.lowered:
        yield (
            "lowered: only compiling settles how often loops run or which branch is taken; "
            "parts, roofline and mfu are as compiled"
        )
    for exchange in cost.collectives:
        yield (
            f"{exchange.opcode} {place(exchange.name)}: {exchange.bytes:,} bytes among "
            f"{exchange.group}, {exchange.times:,} x"
        )
    for cond in cost.branches:
        each = " or ".join(f"{flops:,}" for flops in cond.flops)
        yield f"branches {place(cond.name)}: {each} FLOPs"
    for what, runs in cost.uncounted.items():
        yield f"not counted: {what}, {runs:,} x"
    for what, runs in cost.estimates.items():
        yield f"estimated: {what}, {runs:,} x"


def _trips(loop: "Loop") -> str:
    """How often a loop's body runs, and how that is known."""
    if loop.kind == "unknown":
        return "trips unknown, counted once"
    return f"{loop.trips:,} trip{'s' * (loop.trips != 1)}, {loop.kind}"


def place(name: str) -> str:
    """Where an op stands, for people."""
    return "/".join(scope_of(name)) or "at top level"


def as_text(parts: Iterable[Section], *, title: str) -> str:
    """The sections in monospaced columns."""
    lines = [title]
    for part in parts:
        width = max([24, *(len(row[0]) for row in part.rows if len(row) > 1)])
        for row in ([part.heads] if part.heads else []) + part.rows:
            label, *values = row
            if values:
                numbers = "".join(f"{value:>24}" for value in values)
                lines.append(f"{label:<{width}}{numbers}".rstrip())
            else:
                lines += _SENTENCES.wrap(label)
    return "\n".join(lines)


def as_html(parts: Iterable[Section], *, title: str) -> str:
    """The sections as an HTML fragment that needs nothing else."""
    number = "text-align:right;font-variant-numeric:tabular-nums;padding:0 0 0 2em"
    out = [f"<div><strong>{escape(title)}</strong>"]
    for part in parts:
        if not any(len(row) > 1 for row in part.rows):
            out += [f"<div>{escape(row[0])}</div>" for row in part.rows]
            continue
        out.append('<table style="border-collapse:collapse">')
        for at, row in enumerate([part.heads, *part.rows]):
            tag = "th" if at == 0 else "td"
            label, *values = row
            left = f"text-align:left;padding-left:{'2em' if label.startswith(' ') else '0'}"
            cells = f'<{tag} style="{left}">{escape(label)}</{tag}>'
            cells += "".join(f'<{tag} style="{number}">{escape(v)}</{tag}>' for v in values)
            out.append(f"<tr>{cells}</tr>")
        out.append("</table>")
    return "\n".join([*out, "</div>"])
