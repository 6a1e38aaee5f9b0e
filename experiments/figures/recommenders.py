"""The pictures of the chapter "PageRank and recommenders"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def predicted(true: np.ndarray, masked: jax.Array, filled: jax.Array) -> Figure:
    """Held-out ratings against what two factorisations say of them."""
    canvas = Canvas(figsize=(7, 3.5))
    panels = canvas.subplots(1, 2, sharey=True)
    limit = float(np.abs(true).max())
    names = ("only what was rated", "missing taken for zero")
    for panel, name, guess in zip(panels, names, (masked, filled), strict=True):
        panel.plot([-limit, limit], [-limit, limit], color="0.7", lw=1)
        panel.plot(true, np.asarray(guess), ".", ms=2, alpha=0.4, rasterized=True)
        panel.set(title=name, xlabel="true rating", aspect="equal")
    panels[0].set_ylabel("predicted")
    return Figure(
        name="predicted",
        figure=canvas,
        caption="Ratings that were held out, against their predictions. Told that a missing "
        "rating is a zero, three factors learn to say nearly zero.",
    )


def by_rank(errors: dict[int, float]) -> Figure:
    """Held-out error against the number of factors."""
    canvas = Canvas(figsize=(4.6, 3))
    panel = canvas.subplots()
    panel.semilogy(list(errors), list(errors.values()), "o-")
    panel.axhline(0.1, color="0.4", ls="--", lw=1)
    panel.text(max(errors), 0.1, "noise", ha="right", va="bottom", color="0.4")
    panel.set(xlabel="factors", ylabel="held-out RMSE", xticks=list(errors))
    return Figure(
        name="by-rank",
        figure=canvas,
        caption="The ratings were made of three factors: fewer cannot express them, more begin "
        "to fit the noise.",
    )


def hits(precision: dict[str, np.ndarray]) -> Figure:
    """How many of the first recommendations please, for several recommenders."""
    canvas = Canvas(figsize=(5, 3))
    panel = canvas.subplots()
    for name, share in precision.items():
        panel.plot(np.arange(1, len(share) + 1), share, label=name)
    panel.set(xlabel="recommendations", ylabel="share that pleases", ylim=(0, 1))
    panel.legend(loc="lower left", fontsize=9)
    return Figure(
        name="hits",
        figure=canvas,
        caption="From clicks alone: how many of the first recommendations a viewer would like, "
        "by factors and by recommending to all what is clicked most.",
    )


def ranks(scores: np.ndarray, links: np.ndarray) -> Figure:
    """PageRank against the number of links that lead to a page."""
    canvas = Canvas(figsize=(5, 3.2))
    panel = canvas.subplots()
    panel.loglog(links + 1, scores * len(scores), ".", ms=1.5, alpha=0.3, rasterized=True)
    panel.set(xlabel="links to the page + 1", ylabel="rank, in averages")
    return Figure(
        name="ranks",
        figure=canvas,
        caption=f"PageRank of {len(scores):,} pages whose links follow a power law. Links "
        "count, and it counts from whom.",
    )
