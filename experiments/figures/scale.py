"""The pictures of the chapter "Scale and hardware"."""

from matplotlib.figure import Figure as Canvas

from experiments.published import H100
from experiments.rows import Figure


def roofline(squares: dict[int, float], batches: dict[int, float]) -> Figure:
    """What speed memory allows, and where products stand under it: FLOP per byte by size."""
    figure = Canvas(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    attainable = lambda x: min(H100.fp16, x * H100.bytes_per_second) / 1e12
    line = [0.5, H100.fp16 / H100.bytes_per_second, 3000]
    axes.loglog(line, [attainable(x) for x in line], color="0.3", linewidth=1.5)
    series = (
        ("square products, by n", squares, "C0", (6, -12)),
        ("4096-wide layer, by batch", batches, "C1", (-8, 8)),
    )
    for label, points, colour, offset in series:
        speeds = [attainable(x) for x in points.values()]
        axes.plot(list(points.values()), speeds, "o", color=colour, label=label)
        for n, x in points.items():
            axes.annotate(
                f"{n:,}",
                (x, attainable(x)),
                textcoords="offset points",
                xytext=offset,
                color=colour,
                ha="left" if offset[0] > 0 else "right",
            )
    axes.set(xlabel="FLOP per byte moved", ylabel="attainable TFLOP/s", ylim=(1, 2500))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return Figure(
        name="roofline",
        figure=figure,
        caption="The H100 roofline in fp16: attainable speed against FLOP per byte. Square "
        "products climb with n / 3; each series has a point where it first meets the peak.",
    )


def peaks() -> Figure:
    """Peak speeds of one card as bars, in times of its ordinary cores."""
    figure = Canvas(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    bars = {
        "cores, fp32": H100.fp32,
        "cores, fp16": H100.fp16_cores,
        "tensor cores, fp16": H100.fp16,
        "tensor cores, fp16 sparse": H100.fp16_sparse,
        "tensor cores, fp8 sparse": H100.fp8_sparse,
    }
    values = [peak / 1e12 for peak in bars.values()]
    drawn = axes.barh(list(bars), values, color=["0.6", "0.6", "C0", "0.8", "0.8"])
    labels = [f"{value:,.0f}  ({value * 1e12 / H100.fp32:.1f}x)" for value in values]
    axes.bar_label(drawn, labels, padding=4)
    hundredfold = 100 * H100.fp32 / 1e12
    axes.axvline(hundredfold, color="C3", linestyle="--", linewidth=1)
    axes.text(hundredfold - 80, 0, "100x", color="C3", ha="right", va="center")
    axes.invert_yaxis()
    axes.set(xlabel="TFLOP/s (in brackets: times the fp32 cores)", xlim=(0, 7200))
    axes.spines[["top", "right"]].set_visible(False)
    return Figure(
        name="h100-peaks",
        figure=figure,
        caption="Peak arithmetic of one H100 by unit and number format. The bars to compare "
        "are dense fp16 tensor cores against the ordinary cores. A hundredfold (dashed) is "
        "beyond every bar.",
    )
