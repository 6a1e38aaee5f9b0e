"""The pictures of experiments on the user's own data."""

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure

SHOWN = 8


def photographs(
    x: np.ndarray, y: np.ndarray, p: np.ndarray, kinds: tuple[str, ...], caption: str
) -> Figure:
    """Some photographs that were kept aside, with the answer and its probability."""
    canvas = Canvas(figsize=(8.8, 2))
    panels = canvas.subplots(1, SHOWN)
    for panel in panels:
        panel.set_axis_off()
    for panel, image, truth, answer in zip(panels, x, y, p, strict=False):
        guess = int(answer.argmax())
        panel.imshow(image, vmin=0, vmax=1)
        panel.set_title(
            f"{kinds[guess]} {answer[guess]:.0%}", fontsize=9, parse_math=False,
            color="C0" if guess == truth else "C1",
        )  # fmt: skip
    return Figure(name="your-photographs", figure=canvas, caption=caption)


def ratings(
    true: np.ndarray,
    predicted: np.ndarray,
    user: str,
    best: list[tuple[str, float]],
    caption: str,
) -> Figure:
    """Ratings kept aside against their predictions, and what to recommend to one user."""
    canvas = Canvas(figsize=(8, 3.2))
    panel, page = canvas.subplots(1, 2)
    shown = slice(0, 5000)
    panel.plot(true[shown], predicted[shown], ".", ms=2, alpha=0.4, rasterized=True)
    panel.set(xlabel="rating", ylabel="predicted")
    page.set_axis_off()
    lines = [f"{score:6.2f}  {item}" for item, score in best]
    heading = f"recommended to {user}, who rated most:" if best else f"{user} has rated all"
    for i, line in enumerate([heading, *lines]):
        page.text(0, 0.95 - 0.12 * i, line, family="monospace", fontsize=9, parse_math=False)
    return Figure(name="your-ratings", figure=canvas, caption=caption)


def text(losses: np.ndarray, unigram: float, samples: list[str], caption: str) -> Figure:
    """The loss by step, and what was written on the way."""
    canvas = Canvas(figsize=(7, 4.6))
    panel, page = canvas.subplots(2, 1, height_ratios=(3, 2))
    window = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    panel.plot(np.arange(smooth.size) + window / 2, smooth)
    panel.axhline(unigram, color="0.7", lw=0.8)
    panel.set(xlabel="step", ylabel="loss, nats a character", ylim=(0, None))
    page.set_axis_off()
    for i, sample in enumerate(samples):
        line = "".join(c if c.isprintable() else "·" for c in sample)
        page.text(
            0, 0.9 - i / len(samples), line, family="monospace", fontsize=8, parse_math=False
        )
    return Figure(name="your-text", figure=canvas, caption=caption)


def weights(
    needed: dict[str, list[int]], blocks: list[int], width: int, caption: str
) -> Figure:
    """How much of its rank each kind of matrix needs for 95 % of its energy, by block."""
    canvas = Canvas(figsize=(6, 3.2))
    panel = canvas.subplots()
    for name, ranks in needed.items():
        panel.plot(blocks, np.asarray(ranks) / width, "o-", ms=4, label=name)
    panel.set(xlabel="block", ylabel="rank for 95 % of the energy", ylim=(0, 1.02))
    panel.legend(ncols=3, fontsize=9, loc="lower left")
    return Figure(
        name="your-weights",
        figure=canvas,
        caption=f"{caption} Drawn: the part of its rank that each matrix needs.",
    )
