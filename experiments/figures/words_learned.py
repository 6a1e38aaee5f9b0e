"""More pictures of the chapter "Words as vectors": training, and a natural text."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def traces(losses: np.ndarray, cosines: dict[str, jax.Array], every: int) -> Figure:
    """The loss and some cosines, step by step."""
    canvas = Canvas(figsize=(8.4, 3))
    left, right = canvas.subplots(1, 2)
    left.plot(losses)
    left.set(xlabel="step", ylabel="loss")
    for name, trace in cosines.items():
        right.plot(every * np.arange(len(trace)), np.asarray(trace), label=name)
    right.axhline(0, color="0.7", lw=0.8)
    right.set(xlabel="step", ylabel="cosine", ylim=(-1, 1.05))
    right.legend(fontsize=9, loc="lower right")
    return Figure(
        name="traces",
        figure=canvas,
        caption="Training word vectors on ninety sentences. Hot and cold are opposites with "
        "the same neighbours: they end nearly parallel.",
    )


def neighbour_table(found: dict[str, list[str]]) -> Figure:
    """Words with their nearest ones."""
    canvas = Canvas(figsize=(7.4, 0.36 * (len(found) + 1)))
    panel = canvas.subplots()
    for i, (word, names) in enumerate(found.items()):
        panel.text(0, -i, word, weight="bold")
        for j, name in enumerate(names):
            panel.text(1 + 1.05 * j, -i, name, color="C0" if j == 0 else "0.3")
    panel.set(xlim=(0, 6.2), ylim=(0.8 - len(found), 0.8))
    panel.set_axis_off()
    return Figure(
        name="neighbours",
        figure=canvas,
        caption="Words of Python's language reference and the five nearest to each, from "
        "counting neighbours alone.",
    )


def opposites(every: np.ndarray, pairs: dict[str, float]) -> Figure:
    """Where pairs of opposites stand among all pairs."""
    canvas = Canvas(figsize=(7, 3.4))
    panel = canvas.subplots()
    panel.hist(every, np.linspace(-0.6, 1, 81).tolist(), color="0.75", density=True)
    heights = np.linspace(0.9, 3.4, len(pairs))
    for height, (name, cosine) in zip(heights, sorted(pairs.items()), strict=True):
        panel.plot([cosine, cosine], [0, height], color="C1", lw=0.8)
        panel.text(cosine, height, name, fontsize=7, ha="center", va="bottom", color="C1")
    panel.axvline(float(np.median(every)), color="0.3", ls="--", lw=1)
    panel.set(xlabel="cosine", ylabel="density of pairs", yticks=[], xlim=(-0.5, 1.05))
    return Figure(
        name="opposites",
        figure=canvas,
        caption="The cosines of all pairs of frequent words (grey, median dashed) and of "
        "thirteen pairs of opposites: far more alike than chance, not apart.",
    )
