"""The pictures of the chapter "Numbers, lists, grids: what data look like to a model"."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from experiments.rows import Figure


def shuffled_row(line: jax.Array, shuffled: jax.Array) -> Figure:
    """Two rows of pixels as stripes with their values beneath."""
    canvas = Canvas(figsize=(8, 4))
    panels = canvas.subplots(
        2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": (1, 3)}
    )
    for column, (title, values) in enumerate((("in order", line), ("shuffled", shuffled))):
        stripe, plot = panels[:, column]
        stripe.imshow(values[None], cmap="gray", vmin=0, vmax=255, aspect="auto")
        stripe.set(title=title, yticks=[])
        plot.plot(values, linewidth=0.8, color="C0")
        plot.set(xlabel="column", xlim=(0, values.size - 1))
    panels[1, 0].set_ylabel("brightness")
    return Figure(
        name="row-shuffled",
        figure=canvas,
        caption="Row 100 of the cameraman, in order and shuffled: the same numbers, but only "
        "their positions made them a picture.",
    )


def channels(image: jax.Array) -> Figure:
    """A photograph and its red, green and blue matrices."""
    canvas = Canvas(figsize=(9, 2.2))
    first, *others = canvas.subplots(1, 4)
    first.imshow(image)
    height, width, depth = image.shape
    first.set_title(f"{height} x {width} x {depth}")
    for channel, (panel, name) in enumerate(zip(others, ("red", "green", "blue"), strict=True)):
        panel.imshow(image[..., channel], cmap="gray", vmin=0, vmax=255)
        panel.set_title(f"{name}: {height} x {width}")
    for panel in (first, *others):
        panel.set_axis_off()
    return Figure(
        name="colour-channels",
        figure=canvas,
        caption="A colour photograph and the three matrices that it is made of. Bright means "
        "a large number: the fur is strong in red, weak in blue.",
    )


def patch_tokens(image: jax.Array, tokens: jax.Array, side: int) -> Figure:
    """A photograph under its patch grid, one patch enlarged, and the matrix of all patches."""
    canvas = Canvas(figsize=(9, 3.2))
    photo, detail, matrix = canvas.subplots(1, 3, width_ratios=(1, 0.75, 2))
    across = image.shape[1] // side
    chosen = 2 * across + 6
    top, left = (side * index for index in divmod(chosen, across))
    photo.imshow(image)
    cuts = np.arange(side, image.shape[0], side) - 0.5
    photo.hlines(cuts, -0.5, image.shape[1] - 0.5, color="white", linewidth=0.4)
    photo.vlines(cuts, -0.5, image.shape[0] - 0.5, color="white", linewidth=0.4)
    corner = (left - 0.5, top - 0.5)
    photo.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="C0", linewidth=2))
    photo.set_title(f"{len(tokens)} patches")
    detail.imshow(image[top : top + side, left : left + side])
    detail.set_title(f"patch {chosen}: 16 x 16 x 3")
    for panel in (photo, detail):
        panel.set_axis_off()
    matrix.imshow(tokens, cmap="gray", vmin=0, vmax=1, aspect="auto")
    matrix.axhline(chosen, color="C0", linewidth=1.2)
    matrix.set_title("token matrix, 196 x 768")
    matrix.set(xlabel="number within the patch", ylabel="patch")
    return Figure(
        name="patch-tokens",
        figure=canvas,
        caption="A 224 x 224 photograph cut into a 14 x 14 grid of patches; each patch, read "
        "row by row with its three colours, is one row of the token matrix (in blue).",
    )


def sound(signal: jax.Array, magnitudes: jax.Array, *, rate: int, hop: int) -> Figure:
    """A waveform around its middle, and its spectrogram."""
    canvas = Canvas(figsize=(9, 3.2))
    wave, grid = canvas.subplots(1, 2, width_ratios=(1, 1.4))
    middle = signal.size // 2
    extract = slice(middle - rate // 100, middle + rate // 100)
    seconds = np.arange(signal.size) / rate
    wave.plot(seconds[extract], signal[extract], linewidth=0.9, color="C0")
    wave.set(title="vector", xlabel="time (s)", ylabel="amplitude")
    decibels = 20 * jnp.log10(jnp.maximum(magnitudes / magnitudes.max(), 1e-4))
    extent = (0, magnitudes.shape[1] * hop / rate, 0, rate / 2)
    shown = grid.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma")
    grid.set(title="matrix", xlabel="time (s)", ylabel="frequency (Hz)")
    canvas.colorbar(shown, label="dB below the peak")
    return Figure(
        name="spectrogram",
        figure=canvas,
        caption="Half a second at 500 Hz, then half a second at 2,000 Hz: as a vector of "
        "samples (an extract around the change), and as a matrix of frequency over time.",
    )
