"""The pictures of the layers chapter."""

from collections.abc import Callable

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def network(kernels: list[jax.Array]) -> Figure:
    """Units as dots, weights as lines between them."""
    canvas = Canvas(figsize=(6, 3))
    panel = canvas.subplots()
    sizes = [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]
    heights = [np.arange(size) - (size - 1) / 2 for size in sizes]
    largest = max(float(abs(kernel).max()) for kernel in kernels)
    for level, kernel in enumerate(kernels):
        for (i, j), weight in np.ndenumerate(np.asarray(kernel)):
            ends = heights[level][i], heights[level + 1][j]
            width = 4 * abs(weight) / largest
            panel.plot((level, level + 1), ends, color="C0" if weight > 0 else "C1", lw=width)
    for level, height in enumerate(heights):
        x = np.full(height.size, level)
        panel.scatter(x, height, s=220, color="white", edgecolor="0.3", zorder=3)
        panel.text(level, -2.9, f"{height.size} units", ha="center")
    for level, kernel in enumerate(kernels):
        panel.text(level + 0.5, -2.9, f"{kernel.size} weights", ha="center")
    panel.set(xlim=(-0.3, len(sizes) - 0.7), ylim=(-3.2, 2.5))
    panel.set_axis_off()
    return Figure(
        name="network",
        figure=canvas,
        caption="A network of 4, 5 and 2 units. Each line is one number of a weight matrix: "
        "thick where it is large, blue where positive, red where negative.",
    )


def decision_regions(
    points: jax.Array, labels: jax.Array, models: dict[str, Callable]
) -> Figure:
    """Each model's probability over the plane, under the points it was trained on."""
    canvas = Canvas(figsize=(8, 3.9))
    panels = canvas.subplots(1, len(models), sharey=True)
    side = np.linspace(-2.6, 2.6, 81)
    grid = np.stack(np.meshgrid(side, side), axis=-1).astype(np.float32)
    for panel, (name, model) in zip(panels, models.items(), strict=True):
        chance, levels = np.asarray(model(grid)), np.linspace(0, 1, 11)
        shown = panel.contourf(side, side, chance, levels, cmap="RdBu", alpha=0.5)
        panel.contour(side, side, chance, [0.5], colors="0.2", linewidths=1.2)
        right = np.mean((np.asarray(model(points.astype("float32"))) > 0.5) == labels)
        for outer, colour in ((False, "C1"), (True, "C0")):
            chosen = np.asarray(points)[np.asarray(labels) == outer]
            panel.scatter(*chosen.T, s=6, color=colour)
        panel.set(title=f"{name}: {right:.0%} right", aspect="equal", xlabel="first input")
    panels[0].set_ylabel("second input")
    canvas.colorbar(shown, ax=panels, label="probability of the outer ring", shrink=0.85)
    return Figure(
        name="decision-regions",
        figure=canvas,
        caption="The same network, 2-16-16-1, trained on the same rings. Without an activation "
        "its three layers are one, and its boundary a straight line.",
    )


def sawtooth(x: jax.Array, curves: dict[int, jax.Array], pieces: list[int]) -> Figure:
    """The folded line for each depth, and its pieces against the units spent."""
    canvas = Canvas(figsize=(9, 3.2))
    grid = canvas.add_gridspec(len(curves), 2, width_ratios=(1.3, 1))
    for line, (layers, curve) in enumerate(curves.items()):
        panel = canvas.add_subplot(grid[line, 0])
        panel.plot(x, curve, linewidth=1)
        panel.set(xlim=(0, 1), ylim=(-0.15, 1.15), xticks=[], yticks=[])
        panel.set_ylabel(f"{layers}", rotation=0, labelpad=12, va="center")
    panel.set(xticks=(0, 0.5, 1), xlabel="input; one row for each number of layers")
    panel = canvas.add_subplot(grid[:, 1])
    panel.plot([2 * layers for layers in curves], pieces, "o-", label="layers of 2 units")
    width = np.arange(1, pieces[-1])
    panel.plot(width, width + 1, "--", label="one hidden layer")
    panel.set(xlabel="units", ylabel="straight pieces")
    panel.set_yscale("log", base=2)
    panel.set_yticks(pieces, [str(count) for count in pieces])
    panel.legend()
    return Figure(
        name="sawtooth",
        figure=canvas,
        caption="Folding a line: each further layer of two ReLUs doubles the pieces. One wide "
        "layer can draw the same curve, at a unit for each bend.",
    )
