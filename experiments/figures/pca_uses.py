"""More pictures of the chapter "Eigenvectors and principal components"."""

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure
from lintoolkit.pca import PCA


def cumulative(held: dict[str, jax.Array]) -> Figure:
    """The share of the variance that so many components hold, for several tables."""
    canvas = Canvas(figsize=(6.4, 3.6))
    panel = canvas.subplots()
    for name, shares in held.items():
        count = int(np.argmax(np.asarray(shares) >= 0.95)) + 1
        share = np.concatenate([[0], np.asarray(shares)[:100]])
        panel.plot(np.arange(len(share)), share, label=f"{name}: {count}")
    panel.axhline(0.95, color="0.3", lw=1, ls="--")
    panel.text(99, 0.94, "95 %", ha="right", va="top", color="0.3")
    panel.set(xlim=(0, 100), ylim=(0, 1.03), xlabel="components", ylabel="share of variance")
    panel.legend(title="components for 95 %", loc="lower right", fontsize=9, title_fontsize=9)
    return Figure(
        name="cumulative",
        figure=canvas,
        caption="How much of the variance the first components hold. Real tables cross the "
        "95 % line early; white noise of 64 columns has no direction to spare.",
    )


def eigenfaces(pca: PCA, *, side: int) -> Figure:
    """The mean face and the directions in which faces differ most."""
    canvas = Canvas(figsize=(8, 1.5))
    shares = np.asarray(pca.explained_variance / pca.total_variance)
    pictures = [("mean", pca.mean), *zip(shares, np.asarray(pca.components), strict=True)]
    for panel, (share, picture) in zip(canvas.subplots(1, 8), pictures, strict=False):
        panel.imshow(np.asarray(picture).reshape(side, side))
        panel.set_title(share if isinstance(share, str) else f"{share:.0%}", fontsize=9)
        panel.set_axis_off()
    return Figure(
        name="eigenfaces",
        figure=canvas,
        caption="The mean of a hundred face crops and their first seven components, each with "
        "its share of the variance: where the light comes from, then what faces differ in.",
    )


def two_classes(x: jax.Array, labels: np.ndarray) -> Figure:
    """Two classes as points, apart along the direction of small variance."""
    canvas = Canvas(figsize=(6.4, 2.4))
    panel = canvas.subplots()
    for colour, chosen in (("C0", labels), ("C1", ~labels)):
        across, up = np.asarray(x)[chosen].T
        panel.scatter(across, up, s=3, color=colour, rasterized=True)
    spread = np.asarray(x).var(axis=0)
    first = f"first component: {spread[0] / spread.sum():.0%} of the variance"
    panel.set(xlabel=first, ylabel="second", ylim=(-2, 2))
    return Figure(
        name="two-classes",
        figure=canvas,
        caption="Most variance, no information: the two colours differ in the second component "
        "alone, which a projection on the first throws away.",
    )


def digit_map(codes: jax.Array, labels: np.ndarray) -> Figure:
    """The digits in the plane of two components, coloured by class."""
    canvas = Canvas(figsize=(6, 4.8))
    panel = canvas.subplots()
    points = np.asarray(codes)
    panel.scatter(
        points[:, 0], points[:, 1], c=labels, cmap="tab10", s=7, alpha=0.5, rasterized=True
    )
    for digit in range(10):
        x, y = np.median(points[labels == digit], axis=0)
        panel.text(x, y, str(digit), size=15, weight="bold", ha="center", va="center")
    panel.set(xlabel="first component", ylabel="second component", aspect="equal")
    return Figure(
        name="digit-map",
        figure=canvas,
        caption="1,797 digits on the plane of their first two components, each class at its "
        "median: 64 numbers became two, and most classes still keep together.",
    )


def denoised(
    counts: np.ndarray, rmse: jax.Array, before: jax.Array, images: dict[str, jax.Array]
) -> Figure:
    """The error against the number of components, and what some digits look like."""
    canvas = Canvas(figsize=(8.4, 3.2))
    grid = canvas.add_gridspec(len(images), 16)
    panel = canvas.add_subplot(grid[:, :7])
    panel.plot(counts, rmse)
    panel.axhline(float(before), color="0.4", lw=1, ls="--")
    panel.text(2, float(before), "noisy", va="bottom", color="0.4")
    panel.set(xlabel="components kept", ylabel="RMSE to the clean digit", ylim=(2, None))
    for i, (name, pictures) in enumerate(images.items()):
        for j, picture in enumerate(pictures):
            cell = canvas.add_subplot(grid[i, 8 + j])
            cell.imshow(picture, cmap="Greys", vmin=0, vmax=16)
            cell.set(xticks=[], yticks=[], ylabel="" if j else name)
    return Figure(
        name="denoised",
        figure=canvas,
        caption="Digits with noise of deviation 4 on pixels of 0 to 16, rebuilt from k "
        "components. The best k is in the middle: fewer lose the digit, more let the noise in.",
    )


def spectra(shares: dict[str, jax.Array]) -> Figure:
    """Sorted shares of the variance on a logarithmic scale."""
    canvas = Canvas(figsize=(5.6, 3.4))
    panel = canvas.subplots()
    for name, share in shares.items():
        count = np.arange(1, len(share) + 1)
        panel.semilogy(count, np.maximum(np.asarray(share), 1e-7), label=name)
    panel.set(xlabel="component", ylabel="share of variance", ylim=(1e-6, 1))
    panel.legend()
    return Figure(
        name="spectra",
        figure=canvas,
        caption="Eigenvalue spectra side by side. Three pixels of the digits never vary, so "
        "their last components fall to nothing.",
    )


def thousand(shares: dict[str, jax.Array], k: int) -> Figure:
    """Two spectra of a thousand dimensions, with the cut after k."""
    canvas = Canvas(figsize=(5.6, 3.2))
    panel = canvas.subplots()
    for name, share in shares.items():
        kept = float(share[:k].sum())
        panel.semilogy(np.arange(1, 151), np.asarray(share)[:150], label=f"{name}: {kept:.1%}")
    panel.axvline(k + 0.5, color="0.4", lw=1, ls="--")
    panel.set(xlabel="component", ylabel="share of variance")
    panel.legend(title=f"kept by {k}", title_fontsize=9)
    return Figure(
        name="thousand-to-fifty",
        figure=canvas,
        caption="A thousand dimensions become fifty. Where fifty directions are in the data a "
        "cliff follows them; white noise slopes on, and most of it would be lost.",
    )


def bottleneck(optimal: dict[int, jax.Array], learned: dict[int, jax.Array]) -> Figure:
    """Reconstruction error against the size of the bottleneck, computed and learned."""
    canvas = Canvas(figsize=(5, 3.2))
    panel = canvas.subplots()
    panel.plot(list(optimal), [float(e) for e in optimal.values()], label="PCA")
    panel.plot(
        list(learned), [float(e) for e in learned.values()], "o", color="C1",
        label="linear autoencoder, trained",
    )  # fmt: skip
    panel.set(xlabel="units of the bottleneck", ylabel="squared error", ylim=(0, None))
    panel.legend()
    return Figure(
        name="bottleneck",
        figure=canvas,
        caption="A linear autoencoder cannot do better than principal components of the same "
        "number, and training brings it there.",
    )
