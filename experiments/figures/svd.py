"""The pictures of the chapter "Singular values of photographs": matrices in the plane."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def stages(stages: dict[str, jax.Array]) -> Figure:
    """The unit circle after each factor, with two marked points."""
    canvas = Canvas(figsize=(9, 2.7))
    panels = canvas.subplots(1, 4, sharey=True)
    for panel, (name, points) in zip(panels, stages.items(), strict=True):
        x, y = np.asarray(points)[:, ::20]
        panel.plot(x, y)
        for at, colour in ((0, "C1"), (len(x) // 4, "C2")):
            panel.plot([0, x[at]], [0, y[at]], color=colour)
            panel.plot(x[at], y[at], "o", color=colour)
        panel.set(title=name, aspect="equal", xlim=(-7.3, 7.3), ylim=(-7.3, 7.3))
        panel.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5), xlabel="first entry")
    panels[0].set_ylabel("second entry")
    return Figure(
        name="stages",
        figure=canvas,
        caption="The matrix (3 0; 4 5) in three steps: Vᵀ turns the circle, Σ stretches it to "
        "an ellipse along the axes, U turns the ellipse. Two points are marked.",
    )


def competitors(projected: jax.Array, near: jax.Array, best: jax.Array) -> Figure:
    """How far four hundred matrices of one rank are from the target, and the best of them."""
    canvas = Canvas(figsize=(6, 2.8))
    panel = canvas.subplots()
    bins = np.linspace(float(best), float(max(projected.max(), near.max())), 50).tolist()
    panel.hist(np.asarray(projected), bins, label="in random column spaces", alpha=0.8)
    panel.hist(np.asarray(near), bins, label="truncations of matrices close by", alpha=0.8)
    panel.axvline(float(best), color="0.2", ls="--", lw=1.2, label="truncated SVD")
    panel.set(xlabel="distance (Frobenius)", ylabel="matrices")
    panel.legend(fontsize=9)
    return Figure(
        name="competitors",
        figure=canvas,
        caption="Four hundred matrices of rank 5 and their distance to a random 30 x 20 one. "
        "None is nearer than the truncated decomposition.",
    )
