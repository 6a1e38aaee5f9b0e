"""More pictures of the chapter "Singular values of photographs": photographs."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def rank_one_pictures(pictures: np.ndarray) -> Figure:
    """The first terms of a photograph's sum, and the sums so far below them."""
    canvas = Canvas(figsize=(9, 3.1))
    grid = canvas.subplots(2, len(pictures))
    so_far = np.zeros(pictures[0].shape)
    for i, picture in enumerate(pictures):
        so_far = so_far + picture
        limit = float(np.abs(picture).max())
        grid[0, i].imshow(picture, vmin=-limit, vmax=limit, cmap="gray")
        grid[1, i].imshow(so_far, vmin=0, vmax=255, cmap="gray")
        grid[0, i].set_title(f"term {i + 1}", fontsize=10)
        for panel in grid[:, i]:
            panel.set(xticks=[], yticks=[])
    grid[0, 0].set_ylabel("rank one", fontsize=9)
    grid[1, 0].set_ylabel("sum so far", fontsize=9)
    return Figure(
        name="rank-one-pictures",
        figure=canvas,
        caption="The first five terms of china, each a column of brightness times a row, and "
        "below them what they add up to.",
    )


def log_spectrum(spectra: dict[str, jax.Array]) -> Figure:
    """Singular values on a logarithmic scale."""
    canvas = Canvas(figsize=(5.6, 3))
    panel = canvas.subplots()
    for name, s in spectra.items():
        panel.semilogy(np.arange(1, len(s) + 1), np.asarray(s), label=name)
    panel.set(xlabel="number", ylabel="singular value")
    panel.legend()
    return Figure(
        name="log-spectrum",
        figure=canvas,
        caption="All singular values of two photographs. The first is mostly the mean "
        "brightness; after it the fine texture of grass falls off slowly, camera fast.",
    )


def cumulative(spreads: dict[str, jax.Array], noise: jax.Array) -> Figure:
    """The share of the variance that so many components hold, for all photographs."""
    canvas = Canvas(figsize=(6.4, 3.6))
    panel = canvas.subplots()
    for name, s in (spreads | {"white noise": noise}).items():
        held = np.cumsum(np.asarray(s) ** 2)
        marked = {"grass": "C1", "white noise": "C4"}.get(name)
        panel.plot(
            np.arange(1, len(held) + 1), held / held[-1], color=marked or "C0",
            lw=2 if marked else 0.9, label=name if marked else None,
        )  # fmt: skip
    panel.plot([], [], color="C0", lw=0.9, label="ten other photographs")
    panel.axhline(0.95, color="0.3", lw=1, ls="--")
    panel.axvline(50, color="0.3", lw=1, ls="--")
    panel.set(xlim=(0, 200), ylim=(0, 1.03), xlabel="components", ylabel="share of variance")
    panel.legend(loc="lower right", fontsize=9)
    return Figure(
        name="cumulative",
        figure=canvas,
        caption="Ten photographs pass 95 % of the variance (mean brightness taken off) before "
        "fifty components; fine grass and white noise do not.",
    )


def at_ranks(
    image: np.ndarray,
    shown: dict[int, jax.Array],
    quality: dict[int, float],
    sizes: dict[int, int],
) -> Figure:
    """One photograph and its truncations, with quality and size."""
    canvas = Canvas(figsize=(10, 2.1))
    panels = canvas.subplots(1, 1 + len(shown))
    panels[0].imshow(image, vmin=0, vmax=255, cmap="gray")
    panels[0].set_title(f"original\n{image.size:,} bytes", fontsize=9)
    for panel, (k, rebuilt) in zip(panels[1:], shown.items(), strict=True):
        panel.imshow(np.clip(rebuilt, 0, 255), vmin=0, vmax=255, cmap="gray")
        panel.set_title(f"rank {k}: {quality[k]:.1f} dB\n{sizes[k]:,} bytes", fontsize=9)
    for panel in panels:
        panel.set_axis_off()
    return Figure(
        name="at-ranks",
        figure=canvas,
        caption="A cat at rank 5, 20, 50 and 100. Bytes are those of float32 factors against "
        "one byte a pixel: at rank 50 the saving is gone unless the factors are quantised.",
    )


def rank_needed(parts: dict[str, float]) -> Figure:
    """The part of the full rank that 95 % of the variance takes, as bars."""
    canvas = Canvas(figsize=(6, 3.4))
    panel = canvas.subplots()
    ordered = dict(sorted(parts.items(), key=lambda item: item[1]))
    names = [name.removesuffix("_512").replace("_", " ") for name in ordered]
    colours = ["C1" if name.endswith("_512") else "C0" for name in ordered]
    panel.barh(names, list(ordered.values()), color=colours)
    panel.set(xlabel="components for 95 % of the variance, part of the full rank", xlim=(0, 1))
    panel.tick_params(axis="y", length=0)
    return Figure(
        name="rank-needed",
        figure=canvas,
        caption="Photographs need a small part of their rank, grass a large one, noise most of "
        "it and the identity nearly all.",
    )
