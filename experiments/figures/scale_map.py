"""The map of the chapter "Scale and hardware"."""

from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def table(rows: dict[str, tuple], prices: dict[str, dict[str, int]]) -> Figure:
    """Concept, operation, where it is shown, and the FLOPs of a small instance."""
    canvas = Canvas(figsize=(8.6, 0.34 * (len(rows) + 1)))
    panel = canvas.subplots()
    columns = (0.0, 2.7, 4.7, 8.4)
    for x, name in zip(columns, ("concept", "operation", "shown in", "FLOPs"), strict=True):
        panel.text(x, 0, name, weight="bold", ha="right" if x == columns[-1] else "left")
    for i, (name, (operation, *_, claim)) in enumerate(rows.items(), start=1):
        panel.axhline(0.45 - i, color="0.85", lw=0.8)
        count = f"{prices[name]['lowered_products']:,}"
        for x, text in zip(columns, (name, operation, claim, count), strict=True):
            panel.text(x, -i, text, fontsize=9, ha="right" if x == columns[-1] else "left")
    panel.set(xlim=(0, 8.4), ylim=(-len(rows) - 0.4, 0.6))
    panel.set_axis_off()
    return Figure(
        name="map",
        figure=canvas,
        caption="Eleven concepts, each a matrix operation of these chapters, and the FLOPs of "
        "the matrix products in an instance with 16 rows of width 32.",
    )
