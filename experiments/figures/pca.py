"""The pictures of the chapter "Eigenvectors and principal components"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def turned_or_not(matrix: jax.Array, values: jax.Array, vectors: jax.Array) -> Figure:
    """Unit vectors before and after a matrix, eigenvectors in colour."""
    canvas = Canvas(figsize=(4.2, 4.2))
    panel = canvas.subplots()
    angles = np.linspace(0, 2 * np.pi, 25)[:-1]
    before = np.stack([np.cos(angles), np.sin(angles)])
    grey = {"arrowstyle": "->", "color": "0.75"}
    for (x, y), (to_x, to_y) in zip(before.T, (np.asarray(matrix) @ before).T, strict=True):
        panel.annotate("", (to_x, to_y), (x, y), arrowprops=grey)
    panel.plot(*before, "o", color="0.4", ms=3)
    for colour, value, (x, y) in zip(
        ("C1", "C0"), values, vectors.T * values[:, None], strict=True
    ):
        arrow = {"arrowstyle": "->", "color": colour, "lw": 2}
        panel.annotate("", (x, y), (0, 0), arrowprops=arrow)
        panel.text(1.1 * x, 1.1 * y, f"λ = {value:.0f}", color=colour)
    panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    panel.set(xlabel="first entry", ylabel="second entry")
    return Figure(
        name="turned-or-not",
        figure=canvas,
        caption="Each grey arrow leads from a unit vector to where the matrix (2 1; 1 2) sends "
        "it. Only along two directions is a vector not turned: there it is stretched by λ.",
    )


def uncentred(cloud: np.ndarray, raw: np.ndarray, first: np.ndarray) -> Figure:
    """A cloud away from the origin, with its first directions without and with centring."""
    canvas = Canvas(figsize=(5, 4))
    panel = canvas.subplots()
    panel.scatter(cloud[:, 0], cloud[:, 1], s=5, color="0.6", rasterized=True)
    x, y = cloud.mean(axis=0)
    for colour, start, (dx, dy), name in (
        ("C1", (0.0, 0.0), raw * np.sign(raw @ (x, y)) * np.hypot(x, y), "of XᵀX / n"),
        ("C0", (x, y), 3 * first * np.sign(first[0]), "of the covariance"),
    ):
        arrow = {"arrowstyle": "->", "color": colour, "lw": 2}
        panel.annotate("", (start[0] + dx, start[1] + dy), start, arrowprops=arrow)
        panel.plot([], [], color=colour, label=f"first direction {name}")
    panel.plot(0, 0, "+", color="0.2", ms=9)
    panel.set(aspect="equal", ylim=(-0.5, 7.5), xlabel="first feature", ylabel="second feature")
    panel.legend(loc="upper left", fontsize=9)
    return Figure(
        name="uncentred",
        figure=canvas,
        caption="A cloud that is wide from left to right, far from the origin (+). Without the "
        "centring the first direction points from the origin to the cloud, not along it.",
    )


def correlations(r: jax.Array) -> Figure:
    """A correlation matrix as colours."""
    canvas = Canvas(figsize=(4.2, 3.6))
    panel = canvas.subplots()
    shown = panel.imshow(r, cmap="RdBu_r", vmin=-1, vmax=1)
    panel.set(xticks=[], yticks=[], xlabel="feature", ylabel="feature")
    canvas.colorbar(shown, ax=panel, label="correlation", shrink=0.9)
    return Figure(
        name="correlations",
        figure=canvas,
        caption="Correlations of the thirty breast-cancer measurements. The blocks of deep red "
        "are sizes: radius, perimeter and area of the same nuclei.",
    )
