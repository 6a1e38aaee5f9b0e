"""The pictures of the chapter "Low-rank adaptation"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def spectrum(change: jax.Array, noise: jax.Array) -> Figure:
    """Singular values of what fine-tuning changed, and of a random matrix as large."""
    canvas = Canvas(figsize=(6, 3.2), layout="constrained")
    axes = canvas.subplots()
    place = np.arange(1, len(change) + 1)
    axes.semilogy(place, np.maximum(change, 1e-6 * change[0]), label="the change")
    axes.semilogy(place, noise, "--", label="random numbers of the same norm")
    axes.axvline(8, color="0.7", lw=0.8, zorder=0)
    axes.text(9, float(change[0]), "8", va="top", color="0.4")
    axes.set(xlabel="number", ylabel="singular value", ylim=(1e-4 * change[0], 2 * change[0]))
    axes.legend(loc="upper right")
    return Figure(
        name="spectrum",
        figure=canvas,
        caption="Singular values of the change of a 256 × 256 layer that learnt to read digits "
        "lying on their side. A few directions hold most of it; random numbers have no such "
        "directions.",
    )


def ranks(
    scores: dict[int, float],
    sizes: dict[int, int],
    *,
    before: float,
    full: float,
    full_size: int,
) -> Figure:
    """Accuracy after fine-tuning by the rank of the change, with the numbers trained."""
    canvas = Canvas(figsize=(6, 3.4), layout="constrained")
    axes = canvas.subplots()
    axes.semilogx(list(scores), list(scores.values()), "o-", base=2, label="adapters")
    levels = ((full, f"all {full_size:,} numbers"), (before, "before"))
    for level, name in levels:
        axes.axhline(level, color="0.6", lw=0.8, ls="--", zorder=0)
        axes.text(min(scores), level - 0.015, name, ha="left", va="top", color="0.4")
    labels = [f"{rank}\n{sizes[rank]:,}" for rank in scores]
    axes.set(xticks=list(scores), xticklabels=labels, ylim=(0, 1.03))
    axes.set(xlabel="rank, and numbers trained", ylabel="accuracy")
    axes.minorticks_off()
    return Figure(
        name="ranks",
        figure=canvas,
        caption="A trained digit classifier sees the digits turned by 90 degrees; one layer of "
        "256 × 256 may change. Rank 8 trains a sixteenth of the layer's numbers and reaches "
        "its accuracy; rank 1 does not.",
    )
