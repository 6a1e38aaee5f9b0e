"""What compiling changed, and how two programs differ, in words and numbers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lintoolkit.cost import tables
from lintoolkit.cost.names import phase_of, scope_of, totals_of
from lintoolkit.cost.tables import TOTALS

if TYPE_CHECKING:
    from lintoolkit.cost.report import Cost, View

# Differences below this share of a program's FLOPs go unsaid.
WORTH_SAYING = 0.01


def differences(cost: "Cost", share: float | int) -> list[str]:
    """One sentence for each difference between the stages above a share of all FLOPs."""
    lowered, compiled = cost.lowered, cost.compiled
    if lowered.stage == compiled.stage:
        return []
    least = share * max(lowered.flops, compiled.flops)
    if cost.devices > 1:
        return [
            f"The compiled program is one of {cost.devices} devices' part: "
            f"{compiled.flops:,} FLOPs of the {lowered.flops:,} of the whole."
        ]
    if loops := list(_loops(lowered, compiled)):
        return loops  # which would make all that follows look changed
    found = [*_products(lowered, compiled, least), *_upcasts(lowered, compiled, least)]
    for kind in ("elementwise_flops", "reduction_flops", "linalg_flops", "fft_flops"):
        before, after = getattr(lowered, kind), getattr(compiled, kind)
        if abs(after - before) > least:
            name = kind.removesuffix("_flops")
            found.append(
                f"{name.capitalize()} work went from {before:,} to {after:,} FLOPs: "
                + ("shared or dropped" if after < before else "expanded or done again")
                + f" by the compiler ({_opcodes(lowered, compiled, name)})."
            )
    before, after = lowered.transcendentals, compiled.transcendentals
    if abs(after - before) > share * max(before, after):
        found.append(f"Transcendentals went from {before:,} to {after:,}.")
    return found


def _loops(lowered: "View", compiled: "View") -> Iterable[str]:
    """Loops whose trips one stage knows and the other does not."""
    for name in dict.fromkeys(loop.name for loop in lowered.loops):
        before = [loop for loop in lowered.loops if loop.name == name]
        after = [loop for loop in compiled.loops if loop.name == name]
        if after and {x.kind for x in before}.isdisjoint(x.kind for x in after):
            yield (
                f"Loop {tables.place(name)}: {before[0].trips:,} trips ({before[0].kind}) as "
                f"lowered, {after[0].trips:,} ({after[0].kind}) as compiled, so the FLOPs of "
                "the two do not compare."
            )


def _products(lowered: "View", compiled: "View", least: float | int) -> Iterable[str]:
    """Products that went, came, or turned into multiplications."""
    change = compiled.matmul_flops - lowered.matmul_flops
    if abs(change) <= least:
        return
    if change > 0:
        ragged = any(op.opcode == "ragged-dot" for op in lowered.ops)
        why = (
            "ragged products run densely, once a group" if ragged else "the compiler added them"
        )
        yield f"Products grew by {change:,} FLOPs to {compiled.matmul_flops:,}: {why}."
        return
    gone = -change
    again = _recomputed(lowered) - _recomputed(compiled)
    if again > least:
        yield (
            f"Remat was undone: {again:,} FLOPs of recomputed products were merged with the "
            "forward pass. jax.checkpoint inside a scan, or prevent_cse=True, keeps them."
        )
        gone -= again
    grown = compiled.elementwise_flops + compiled.reduction_flops
    grown -= lowered.elementwise_flops + lowered.reduction_flops
    if gone > least and grown > gone / 4:
        yield (
            f"{gone:,} FLOPs of products with a side of one became multiplications and sums: "
            "the lowered count is the product's."
        )
    elif gone > least:
        where = ", ".join(_scopes_that_shrank(lowered, compiled)) or "no named scope"
        yield (
            f"{gone:,} FLOPs of products are not run: equal ones are shared and unused ones "
            f"dropped ({where})."
        )


def _opcodes(lowered: "View", compiled: "View", category: str) -> str:
    """The three instructions of a category whose FLOPs changed most: divide 48 to 6."""
    before, after = (
        totals_of((op.opcode, op.work.flops) for op in view.ops if op.category == category)
        for view in (lowered, compiled)
    )
    pairs = {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}
    most = sorted(pairs, key=lambda name: -abs(pairs[name][1] - pairs[name][0]))[:3]
    changed = (name for name in most if pairs[name][0] != pairs[name][1])
    return ", ".join("{} {:,} to {:,}".format(name, *pairs[name]) for name in changed)


def _recomputed(view: "View") -> int:
    """FLOPs of products that remat runs again."""
    phases = ((phase_of(op.name, trains=True), op.work.products) for op in view.ops)
    return sum(products for phase, products in phases if phase == "recompute")


def _scopes_that_shrank(lowered: "View", compiled: "View") -> list[str]:
    """Scopes with fewer product FLOPs compiled than lowered, by at least their hundredth."""
    before, after = _by_scope(lowered), _by_scope(compiled)
    return [
        scope
        for scope, products in before.items()
        if scope and after.get(scope, 0) < (1 - WORTH_SAYING) * products
    ]


def _by_scope(view: "View") -> dict[str, int]:
    """FLOPs of products by the whole path of names."""
    return totals_of(("/".join(scope_of(op.name)), op.work.products) for op in view.ops)


def _upcasts(lowered: "View", compiled: "View", least: float | int) -> Iterable[str]:
    """Element types whose products run in another one."""
    before, after = _by_dtype(lowered), _by_dtype(compiled)
    for dtype, products in before.items():
        moved = products - after.get(dtype, 0)
        into = [other for other in after if after[other] - before.get(other, 0) > least]
        if moved > least and into:
            yield f"{moved:,} FLOPs of products asked for in {dtype} run in {into[0]}."


def _by_dtype(view: "View") -> dict[str, int]:
    """FLOPs of products by their operands' element type."""
    return totals_of((op.dtype, op.work.products) for op in view.ops)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two costs side by side; `str()` gives a table of totals and scopes with their ratio."""

    first: "Cost"
    second: "Cost"

    def ratios(self) -> dict[str, float]:
        """Second over first, for each total that the first has."""
        pairs = ((label.strip(), pick(self.first), pick(self.second)) for label, pick in TOTALS)
        return {label: after / before for label, before, after in pairs if before}

    def by_scope(self, depth: int = 1) -> dict[str, tuple[int, int]]:
        """FLOPs of each scope in the first and the second program."""
        before, after = self.first.by_scope(depth), self.second.by_scope(depth)
        return {name: (before.get(name, 0), after.get(name, 0)) for name in {**before, **after}}

    def __str__(self) -> str:
        """A table of totals, then of scopes."""
        rows = [
            _side_by_side(label, pick(self.first), pick(self.second))
            for label, pick in TOTALS
            if pick(self.first) or pick(self.second)
        ]
        scopes = [_side_by_side(f"  {name}", *pair) for name, pair in self.by_scope().items()]
        heads = (self.first.name, self.second.name, "ratio")
        parts = [tables.Section(("", *heads), rows)]
        parts.append(tables.Section(("FLOPs by scope", "", "", ""), scopes))
        return tables.as_text(parts, title=f"{self.first.name} and {self.second.name}")


def compare(first: "Cost", second: "Cost") -> Comparison:
    """Put two costs side by side.

    Args:
        first: What the ratios refer to.
        second: What is compared with it.

    Returns:
        A `Comparison`; print it for a table.

    Raises:
        TypeError: If one is no `Cost`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from lintoolkit.cost import cost
        >>> x = jnp.ones((8, 8), "float32")
        >>> once, twice = cost(lambda x: x @ x, x), cost(lambda x: x @ x @ x, x)
        >>> print(compare(once, twice).ratios()["products"])
        2.0
    """
    from lintoolkit.cost.report import Cost  # which imports this module

    for each in (first, second):
        if not isinstance(each, Cost):
            raise TypeError(
                f"compare: both must be costs, got {type(each).__name__}. Price the functions "
                "first: compare(cost(f, x), cost(g, x))."
            )
    return Comparison(first, second)


def _side_by_side(label: str, before: int, after: int) -> tuple[str, ...]:
    ratio = f"{after / before:.3g}" if before else "new" if after else ""
    return (label, f"{before:,}", f"{after:,}", ratio)
