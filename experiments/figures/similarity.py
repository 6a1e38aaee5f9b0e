"""The pictures of the chapter "Dot products and angles"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def cosines(samples: dict[int, jax.Array]) -> Figure:
    """One histogram for each number of dimensions, on one scale."""
    canvas = Canvas(figsize=(9, 2.8))
    panels = canvas.subplots(1, len(samples), sharex=True)
    for place, (panel, (d, sample)) in enumerate(zip(panels, samples.items(), strict=True)):
        panel.hist(sample, bins=np.linspace(-1, 1, 81), density=True, color=f"C{place}")
        if d > 2:
            x = np.linspace(-1, 1, 801)
            normal = np.sqrt(d / (2 * np.pi)) * np.exp(-d * x**2 / 2)
            panel.plot(x, normal, color="0.3", linewidth=1, linestyle="--")
        panel.set(title=f"d = {d}: spread {sample.std():.3f}", xlabel="cosine", yticks=[])
        panel.spines["left"].set_visible(False)
    panels[0].set_ylabel("density of pairs")
    return Figure(
        name="random-cosines",
        figure=canvas,
        caption="Cosines of 4,000 pairs of random directions. In the plane any angle is "
        "common; at the width of a language model nearly all pairs are perpendicular, and a "
        "cosine of 0.2 means something. The dashed curve is a normal one of spread 1/√d.",
    )
