"""The tables of many devices in the chapter "Scale and hardware"."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def table(
    name: str, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str
) -> Figure:
    """Words under their headings, the first column to the left and the others to the right."""
    widths = [
        max(len(line[column]) for line in (header, *rows)) + 3 for column in range(len(header))
    ]
    canvas = Canvas(figsize=(0.085 * sum(widths), 0.3 * (len(rows) + 1.5)))
    panel = canvas.subplots()
    for y, line in enumerate((header, *rows)):
        if y:
            panel.axhline(0.5 - y, color="0.85", lw=0.8)
        for column, word in enumerate(line):
            x = sum(widths[: column + 1]) - 3 if column else 0
            panel.text(
                x, -y, word, fontsize=9, ha="right" if column else "left", va="center",
                weight="normal" if y else "bold",
            )  # fmt: skip
    panel.set(xlim=(0, sum(widths)), ylim=(-len(rows) - 0.5, 0.6))
    panel.set_axis_off()
    return Figure(name=name, figure=canvas, caption=caption)
