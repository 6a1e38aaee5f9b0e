"""Pictures of a cost: programs under a device's roofline, and FLOPs by scope as an icicle."""

from collections.abc import Mapping, Sequence
from typing import Any

from lintoolkit.cost.roofline import Roofline

# An icicle's labels: points, and inches that one character takes.
_FONT, _CHARACTER = 8, 0.065
_WIDTH = 8.0


def figure(
    rooflines: Mapping[str, Roofline], scopes: Mapping[str, int], *, name: str, depth: int
) -> Any:
    """Draw programs under the roofline of their device, and one program's scopes below.

    Args:
        rooflines: Programs by name, all on one device; none leaves that part out.
        scopes: FLOPs by path of scope, such as ``"block/attention"``.
        name: The program that the scopes are of.
        depth: How many names the paths have at most.

    Returns:
        A `matplotlib.figure.Figure`, free of pyplot's state.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot: matplotlib is not installed. Install it with pip install matplotlib."
        ) from error
    for each, line in rooflines.items():
        if not line.flops or not line.bytes:
            raise ValueError(
                f"plot: {each} does {line.flops:,} FLOPs on {line.bytes:,} bytes, which has no "
                "place on logarithmic axes. Leave it or the device out."
            )
    if sum(scopes.values()) <= 0:
        raise ValueError(f"plot: {name} does no FLOPs, so there is nothing to draw.")
    rows = _rectangles(scopes)
    heights = [3.6] * bool(rooflines) + [0.5 + 0.4 * len(rows)]
    canvas = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    panels = canvas.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    if rooflines:
        _draw_roofline(panels[0], rooflines)
    _draw_icicle(panels[-1], rows, name, depth)
    return canvas


def _draw_roofline(axes: Any, rooflines: Mapping[str, Roofline]) -> None:
    lines = list(rooflines.values())
    device = lines[0].device
    ridges = [line.ridge for line in lines]
    spots = [line.intensity for line in lines]
    left, right = min(spots + ridges) / 8, max(spots + ridges) * 8
    peaks = sorted({line.peak for line in lines}, reverse=True)
    scale, unit = (1e12, "TFLOP/s") if peaks[0] >= 1e12 else (1e9, "GFLOP/s")
    slope = device.bytes_per_second / scale
    roofs: list[float] = []  # a mix of types has a peak of its own; alike ones are drawn once
    for peak in (peak / scale for peak in peaks):
        if roofs and peak > 0.9 * roofs[-1]:
            continue
        roofs.append(peak)
        corner = peak / slope
        axes.plot([left, corner, right], [left * slope, peak, peak], color="0.4", linewidth=1.5)
        axes.annotate(
            f"{peak:,.4g} {unit} from {corner:,.3g} FLOP per byte on",
            (right, peak),
            textcoords="offset points",
            xytext=(-4, 6),
            ha="right",
            color="0.4",
            size=_FONT,
        )
    for place, (name, line) in enumerate(rooflines.items()):
        axes.plot(
            line.intensity,
            line.attainable / scale,
            "o",
            color=f"C{place % 10}",
            markersize=8,
            markeredgecolor="white",
            label=f"{name}: {line.bound}, {line.share_of_peak:.0%} of peak",
        )
    alone = any(line.compiled_for for line in lines)
    xlabel = "FLOP per byte" + " of arguments and results alone" * alone
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(None, 2.5 * roofs[0]))
    axes.set(xlabel=xlabel, ylabel=f"attainable {unit}", title=device.name)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")


# Name, FLOPs, FLOPs to its left, place of its outermost scope.
_Rectangle = tuple[str, int, int, int]


def _rectangles(scopes: Mapping[str, int]) -> list[list[_Rectangle]]:
    """Rows of an icicle from the outermost scopes down, each scope below the one it is in."""
    paths = {tuple(path.split("/")): flops for path, flops in scopes.items() if flops > 0}
    rows: list[list[_Rectangle]] = []

    def lay(prefix: tuple[str, ...], start: int, place: int) -> None:
        depth = len(prefix)
        sums: dict[str, int] = {}
        for path, flops in paths.items():
            if path[:depth] == prefix and len(path) > depth:
                sums[path[depth]] = sums.get(path[depth], 0) + flops
        for at, name in enumerate(sorted(sums, key=lambda name: -sums[name])):
            if len(rows) <= depth:
                rows.append([])
            outermost = place if depth else at
            rows[depth].append((name, sums[name], start, outermost))
            lay((*prefix, name), start, outermost)
            start += sums[name]

    lay((), 0, 0)
    return rows


def _draw_icicle(
    axes: Any, rows: Sequence[Sequence[_Rectangle]], name: str, depth: int
) -> None:
    whole = sum(flops for _, flops, _, _ in rows[0])
    _bar(axes, 0, (f"{name} {whole:,} FLOPs", whole, 0), whole, "0.85")
    for level, row in enumerate(rows, start=1):
        for scope, flops, start, outermost in row:
            strength = 1 - (level - 1) / (depth + 1)
            colour = "0.7" if scope.startswith("(") else (f"C{outermost % 10}", 0.7 * strength)
            _bar(axes, level, (f"{scope} {flops / whole:.0%}", flops, start), whole, colour)
    axes.set(xlim=(0, 1), ylim=(len(rows) + 1, 0))
    axes.set_axis_off()


def _bar(axes: Any, level: int, what: tuple[str, int, int], whole: int, colour: Any) -> None:
    """One rectangle; its label where it fits, whole or without the share."""
    label, flops, start = what
    width = flops / whole
    axes.barh(
        level + 0.5, width, 0.96, start / whole, color=[colour], edgecolor="white", linewidth=1
    )
    room = int((width * _WIDTH - 0.1) / _CHARACTER)
    text = label if len(label) <= room else label.rpartition(" ")[0]
    if len(text) <= room:
        axes.text(
            start / whole + width / 2, level + 0.5, text, ha="center", va="center", size=_FONT
        )
