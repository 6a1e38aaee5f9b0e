"""The pictures of the chapter "Attention, piece by piece"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def growth(lengths: list[int], curves: dict[str, list[int]], *, d: int) -> Figure:
    """FLOP of the parts of an attention layer of width d against the number of tokens."""
    canvas = Canvas(figsize=(6.5, 3.6), layout="constrained")
    axes = canvas.subplots()
    for label, counted in curves.items():
        axes.loglog(lengths, counted, "o-", ms=4, label=label)
    axes.axvline(2 * d, color="0.5", linestyle=":")
    axes.set(xlabel="tokens n", ylabel="FLOP, compiled")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return Figure(
        name="attention-flops",
        figure=canvas,
        caption=f"What one attention layer of width d = {d} compiles to, against the number "
        "of tokens n, both axes logarithmic: the four projections grow with n, scores and "
        f"blend with n². They cost the same at n = 2 d, {2 * d:,} tokens (dotted).",
    )


def memory(lengths: list[int], curves: dict[str, list[int]]) -> Figure:
    """Memory of two ways to compute the same attention against the number of tokens."""
    canvas = Canvas(figsize=(6.5, 3.6), layout="constrained")
    axes = canvas.subplots()
    for label, counted in curves.items():
        colour = "C1" if label.startswith("jax") else "C0"
        style = "--" if label.endswith("gradient") else "-"
        axes.loglog(
            lengths, np.divide(counted, 2**20), style, c=colour, marker=".", label=label
        )
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.minorticks_off()
    axes.set(xlabel="tokens n", ylabel="temporaries, MiB")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return Figure(
        name="attention-memory",
        figure=canvas,
        caption="What eight heads of width 64 hold besides operands and results, as compiled: "
        "the whole table of scores grows with n², blocks of queries that make their scores, "
        "use them and drop them with n. Both compute the same numbers.",
    )


def saturation(widths: tuple[int, ...], found: dict[str, list[dict]]) -> Figure:
    """Largest weight and softmax gradient against width, one curve a way of scaling."""
    canvas = Canvas(figsize=(8, 3.3), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for label, curve in found.items():
        left.semilogx(widths, [f["largest"].mean() for f in curve], "o-", ms=4, label=label)
        right.loglog(widths, [np.median(f["jacobian"]) for f in curve], "o-", ms=4)
    left.set(xlabel="width d_k", ylabel="largest weight, mean", ylim=(0, 1))
    right.set(xlabel="width d_k", ylabel="norm of softmax gradient, median")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return Figure(
        name="softmax-saturates",
        figure=canvas,
        caption="Attention over 64 random keys, means and medians of 100 draws. Without the "
        "division by √d_k the largest weight goes to 1 as the width grows, and the softmax "
        "passes hardly any gradient on; with it, neither depends on the width.",
    )


def weights(tables: dict[str, jax.Array]) -> Figure:
    """Tables of attention weights with their numbers."""
    canvas = Canvas(figsize=(7, 3.2), layout="constrained")
    panels = canvas.subplots(1, len(tables))
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title, xlabel="key", ylabel="query")
        for (i, j), share in np.ndenumerate(np.asarray(table)):
            colour = "white" if share > 0.6 else "0.2"
            label = f"{share:.2f}" if share else ""
            axes.text(j, i, label, ha="center", va="center", color=colour, size=8)
    return Figure(
        name="attention-weights",
        figure=canvas,
        caption="The attention weights of the article's snippet: each row sums to 1. With the "
        "causal mask a token sees itself and the tokens before it.",
    )


def it_the_cat(tokens: list[str], weights: jax.Array) -> Figure:
    """The weights that one token gives to all, as bars."""
    canvas = Canvas(figsize=(7, 2.4), layout="constrained")
    axes = canvas.subplots()
    colours = ["C0" if word in ("cat", "mat") else "0.7" for word in tokens]
    bars = axes.bar(range(len(tokens)), weights, color=colours)
    axes.bar_label(bars, [f"{w:.2f}" for w in weights], size=8, padding=2)
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set(ylabel='weight of "it"', ylim=(0, 0.85))
    axes.spines[["top", "right"]].set_visible(False)
    return Figure(
        name="it-the-cat",
        figure=canvas,
        caption='Where "it" looks, with hand-set vectors: its query asks for a noun, more '
        "strongly for an animate one. It shows that the mechanism can, not that a model does.",
    )


def look_alike(image: np.ndarray, weights: np.ndarray, *, size: int) -> Figure:
    """Where three patches of a photograph look, painted over it."""
    side = image.shape[0] // size
    canvas = Canvas(figsize=(8, 2.9), layout="constrained")
    for axes, (y, x) in zip(canvas.subplots(1, 3), ((3, 29), (20, 5), (29, 28)), strict=True):
        seen = weights[y * side + x].reshape(side, side)
        opacity = np.kron(seen / np.quantile(seen, 0.98), np.ones((size, size)))
        axes.imshow(image.mean(axis=-1), cmap="gray")
        blue = np.broadcast_to((0.2, 0.6, 1.0), image.shape)
        axes.imshow(np.dstack([blue, 0.8 * opacity.clip(0, 1)]))
        axes.plot(size * (x + 0.5), size * (y + 0.5), "s", ms=6, mfc="none", mec="red", mew=2)
        axes.axis("off")
    return Figure(
        name="photo-attention",
        figure=canvas,
        caption="A colour photograph as 1,024 patches of 16 x 16 pixels that attend to each "
        "other. Nothing is trained: queries and keys are the patches themselves, centred and "
        "of length 1, so each marked patch (red) looks at patches of its own colour (blue: the "
        "weight).",
    )
