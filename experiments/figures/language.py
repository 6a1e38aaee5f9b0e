"""The pictures of the chapter "A small language model"."""

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def shares(widths: tuple[int, ...], closed: list[float], lowered: list[float]) -> Figure:
    """Matrix products' share of a block's operations against its width."""
    canvas = Canvas(figsize=(6, 3.2), layout="constrained")
    axes = canvas.subplots()
    axes.semilogx(widths, closed, "o-", label="every scalar operation, by hand", base=2)
    axes.semilogx(widths, lowered, "s--", label="the lowered program", base=2)
    axes.axhline(0.98, color="0.6", lw=0.8)
    axes.text(widths[-1], 0.981, "98 %", ha="right", va="bottom", color="0.4")
    axes.set(xlabel="width d, context 2 d", ylabel="share of matrix products")
    axes.set(xticks=widths, xticklabels=widths)
    axes.minorticks_off()
    axes.legend(loc="lower right")
    return Figure(
        name="matmul-share",
        figure=canvas,
        caption="One transformer block. The wider, the more of its operations are matrix "
        "products; of its operations, not of its time.",
    )


def temperature(distributions: dict[float, np.ndarray]) -> Figure:
    """Three scores as probabilities at several temperatures."""
    canvas = Canvas(figsize=(6.5, 2.4), layout="constrained")
    panels = canvas.subplots(1, len(distributions), sharey=True)
    for axes, (heat, chances) in zip(panels, distributions.items(), strict=True):
        bars = axes.bar(("2", "1", "0"), chances, width=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
        axes.set(title=f"temperature {heat:g}", xlabel="score", ylim=(0, 1.1))
    panels[0].set_ylabel("probability")
    return Figure(
        name="temperature",
        figure=canvas,
        caption="The same three scores: below 1 a temperature sharpens the choice of the next "
        "token, above 1 it levels it. The article's 0.8 is in the middle.",
    )


def learning(
    losses, floor: float, words: int, moments: tuple[int, ...], samples: list[str]
) -> Figure:
    """The loss by step, with what the model says at several steps."""
    canvas = Canvas(figsize=(7, 3.6), layout="constrained")
    axes = canvas.subplots()
    axes.plot(losses)
    for level, name in ((losses[0], f"chance, ln {words}"), (floor, "entropy of a neighbour")):
        axes.axhline(level, color="0.7", lw=0.8, zorder=0)
        axes.text(len(losses), level - 0.05, name, ha="right", va="top", color="0.4")
    for i, (step, text) in enumerate(zip(moments, samples, strict=True)):
        axes.plot(step, losses[step], "ko", ms=4)
        axes.text(4, 3.35 - 0.22 * i, f"step {step}:  {text}", fontsize=9)
    axes.set(xlabel="step", ylabel="loss, nats", ylim=(floor - 0.3, losses[0] + 0.15))
    return Figure(
        name="learning",
        figure=canvas,
        caption=f"Loss while {words} words learn their neighbours, and what comes when each "
        "next word is drawn as a neighbour of the last: any words at first, in the end more "
        "that belong together.",
    )


def writing(losses: dict[str, np.ndarray], unigram: float, samples: list[str]) -> Figure:
    """Loss by step for two sizes, and what the larger one writes on the way."""
    canvas = Canvas(figsize=(7, 5.2), layout="constrained")
    axes, page = canvas.subplots(2, 1, height_ratios=(3, 2))
    steps = len(next(iter(losses.values())))
    window = max(1, steps // 50)
    for name, values in losses.items():
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axes.plot(np.arange(smooth.size) + window / 2, smooth, label=name)
    axes.axhline(unigram, color="0.7", lw=0.8, zorder=0)
    axes.text(steps, unigram + 0.05, "entropy of a character", ha="right", color="0.4")
    axes.set(xlabel="step", ylabel="loss, nats a character", ylim=(0, None))
    axes.legend()
    page.axis("off")
    for i, text in enumerate(samples):
        step = steps * i // (len(samples) - 1)
        line = "\u23ce".join(text.splitlines())
        y = 1 - i / len(samples)
        page.text(0, y, f"step {step}", fontsize=9, va="top", transform=page.transAxes)
        page.text(
            0.11, y, line, fontsize=8, family="monospace", va="top", transform=page.transAxes,
            parse_math=False,
        )  # fmt: skip
    return Figure(
        name="writing",
        figure=canvas,
        caption="Two GPTs read Python's reference, character by character; below, what the "
        "larger one writes after the same start: letters, then syllables, then words.",
    )
