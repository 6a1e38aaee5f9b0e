"""The pictures of the chapter "Edges and convolution"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def square_corner(maps: dict[str, jax.Array]) -> Figure:
    """A square, the maps of its edges and of their corner, side by side."""
    canvas = Canvas(figsize=(8, 2.3), layout="constrained")
    for axes, (title, values) in zip(canvas.subplots(1, 4), maps.items(), strict=True):
        axes.imshow(values, cmap="Greys", vmin=0, vmax=1.3)
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
    return Figure(
        name="square-corner",
        figure=canvas,
        caption="Two filters of the first layer find the left and the upper side of a square; "
        "one unit of the second layer fires only where both do, at the corner.",
    )


def edge_maps(images: dict[str, np.ndarray], strengths: list[jax.Array]) -> Figure:
    """Photographs above, how strong their edges are below."""
    canvas = Canvas(figsize=(8, 6), layout="constrained")
    panels = canvas.subplots(2, len(images)).T
    for column, (name, image), strength in zip(panels, images.items(), strengths, strict=True):
        column[0].imshow(image, cmap="gray")
        column[0].set_title(name, fontsize=10)
        column[1].imshow(strength, cmap="Greys", vmax=np.quantile(strength, 0.99))
        for axes in column:
            axes.axis("off")
    return Figure(
        name="edge-maps",
        figure=canvas,
        caption="Photographs and the strength of their edges: the length of the vector that "
        "the Sobel filter and its transpose give at each pixel (dark is strong).",
    )


def first_features(shares: np.ndarray, components: np.ndarray, learned: np.ndarray) -> Figure:
    """The leading components of patches above, learned filters (h, w, n) below."""
    canvas = Canvas(figsize=(8, 2.6), layout="constrained")
    grid = canvas.subplots(2, learned.shape[-1])
    for k, (upper, lower) in enumerate(grid.T):
        upper.set_title(f"{shares[k]:.1%}", fontsize=9)
        for axes, values in ((upper, components[k]), (lower, learned[..., k])):
            limit = np.abs(values).max()
            axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set(xticks=[], yticks=[])
    grid[0, 0].set_ylabel("patches", fontsize=9)
    grid[1, 0].set_ylabel("learned", fontsize=9)
    return Figure(
        name="first-features",
        figure=canvas,
        caption="Above: the leading principal components of 8 x 8 patches of a photograph with "
        "their share of the variance: a flat patch, the two gradients, then finer waves. "
        "Below: the eight 5 x 5 filters of a small network that learned the ten digits; some "
        "became bars and edges.",
    )
