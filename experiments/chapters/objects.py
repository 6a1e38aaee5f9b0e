"""Scalars, vectors, matrices and tensors: photographs, sound and text as arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from experiments.data import photograph, tones
from experiments.ledger import claims
from experiments.rows import Figure, flops, row
from lintoolkit.layers import (
    dense,
    dense_flops,
    frames,
    init_dense,
    patches,
    spectrogram,
)


def pixels(*, seed: int, full: bool):
    """One pixel is a scalar, a row of them a vector, a photograph a matrix."""
    del seed, full
    pixel = jnp.asarray(137, dtype=jnp.uint8)
    yield row(
        "sense-scalar-pixel",
        {
            "value": pixel,
            "levels": jnp.iinfo(pixel.dtype).max + 1,
            "fraction": pixel / 255,
            "ndim": pixel.ndim,
            "bits": pixel.dtype.itemsize * 8,
        },
        "jax.numpy.asarray",
    )

    camera = jnp.asarray(photograph("camera"), jnp.float64)
    yield row(
        "sense-vector-row",
        {"ndim": camera[0].ndim, "length": camera[0].size},
        "jax.numpy.asarray",
    )

    line = camera[100]
    shuffled = line[np.random.RandomState(0).permutation(line.size)]
    yield row(
        "sense-order-matters",
        {
            "same_multiset": bool(jnp.array_equal(jnp.sort(line), jnp.sort(shuffled))),
            "same_vector": bool(jnp.array_equal(line, shuffled)),
            "edge_energy_ratio": roughness(shuffled) / roughness(line),
        },
        "jax.numpy.diff",
    )
    yield Figure(
        name="row-shuffled",
        figure=draw_shuffled(line, shuffled),
        caption="Row 100 of the cameraman, in order and shuffled: the same numbers, but only "
        "their positions made them a picture.",
    )

    stacked = jnp.asarray(np.stack([camera[i] for i in range(camera.shape[0])]))
    yield row(
        "sense-matrix-image",
        {"shape": stacked.shape, "rank": jnp.linalg.matrix_rank(stacked)},
        "jax.numpy.linalg.matrix_rank",
    )

    poster = jax.ShapeDtypeStruct((1080, 1920), jnp.uint8)
    yield row(
        "matrices-1080-1920",
        {"shape": poster.shape, "entries": poster.size, "ndim": poster.ndim},
        "jax.ShapeDtypeStruct",
        holds=" x ".join(map(str, poster.shape)) == claims()["matrices-1080-1920"].stated,
    )


def lists(*, seed: int, full: bool):
    """What a program writes down as a scalar, and what only looks like a vector."""
    del seed, full
    learning_rate, temperature = jnp.asarray(0.001), jnp.asarray(0.8)
    yield row(
        "calculus-scalar-examples",
        {
            "values": [learning_rate, temperature],
            "ranks": [learning_rate.ndim, temperature.ndim],
        },
        "jax.numpy.asarray",
        holds=learning_rate.ndim == temperature.ndim == 0,
    )

    # Our numbers in the article's form: the dots are Python's Ellipsis, one more item.
    embedding = [0.12, -0.34, 0.56, 0.78, ...]
    pixel_row = [200, 201, 198, 190, ...]
    hidden_state = [0.0, 1.3, 0.4, ...]
    written = [embedding, pixel_row, hidden_state]
    yield row(
        "calculus-vector-lists",
        {
            "lengths_as_written": [len(items) for items in written],
            "contain_ellipsis": [... in items for items in written],
            "printed_numbers": [
                sum(isinstance(item, int | float) for item in items) for items in written
            ],
            "arrays": [is_numeric(items) for items in written],
            "real_row": photograph("camera")[0, :128].shape,
        },
        "jax.numpy.asarray",
        note="Our own numbers stand in the three lists; the form is the article's.",
    )
    yield row(
        "calculus-hidden-state-comment",
        {
            "comment_says_one_neuron": "one neuron"
            in claims()["calculus-hidden-state-comment"].claim
        },
        note="The comment itself is not shipped: this is the ledger's account of it. A dense "
        "layer's output has one activation for each neuron.",
    )


def tensors(*, seed: int, full: bool):
    """Colour adds an axis, a batch another; flattened, all of it is one vector."""
    del seed, full
    cat = jnp.asarray(photograph("chelsea"))
    channels_first = jnp.moveaxis(cat, -1, 0)
    yield row(
        "sense-colour-tensor",
        {
            "shape_hwc": cat.shape,
            "shape_chw": channels_first.shape,
            "ndim": cat.ndim,
            "channels": cat.shape[-1],
            "numbers": cat.size,
        },
        "jax.numpy.moveaxis",
    )
    yield Figure(
        name="colour-channels",
        figure=draw_channels(cat),
        caption="A colour photograph and the three matrices that it is made of. Bright means "
        "a large number: the fur is strong in red, weak in blue.",
    )

    astronaut = jnp.asarray(photograph("astronaut"))
    yield row(
        "matrices-colour-three",
        {
            "shape": astronaut.shape,
            "per_channel": [channel.shape for channel in jnp.moveaxis(astronaut, -1, 0)],
        },
        "jax.numpy.moveaxis",
    )

    batch = jnp.stack([cat, cat[:, ::-1]])
    ranks = [item.ndim for item in (cat[0, 0, 0], cat[0, 0], cat[0], cat, batch)]
    yield row("sense-tensor-generalises", {"ranks": ranks}, "jax.numpy.stack")

    image = jnp.moveaxis(square(astronaut), -1, 0)
    vector = jnp.ravel(image)
    yield row(
        "need-input-must-be-vector",
        {"shape": image.shape, "length": vector.size, "ndim": vector.ndim},
        "jax.numpy.ravel",
        holds=bool(jnp.array_equal(vector.reshape(image.shape), image)),
    )


def patch_tokens(*, seed: int, full: bool):
    """A photograph as a sequence: cut into patches, each a vector for a dense layer."""
    del full
    image = square(photograph("astronaut")) / 255
    side = 16
    tokens = patches(image, size=side)
    count, width = tokens.shape
    params = init_dense(jax.random.key(seed), width, width)
    yield row(
        "need-vit-patches",
        {
            "numbers": image.size,
            "patch_side": side,
            "patches": count,
            "patch_dim": width,
            "projected": dense(params, tokens).shape,
        },
        patches,
        dense,
        flops=flops(
            dense, params, tokens, formula=dense_flops(n=count, d_in=width, d_out=width)
        ),
        note="Cutting costs nothing; the FLOP are those of the dense layer that projects "
        "each patch into the model.",
    )
    yield Figure(
        name="patch-tokens",
        figure=draw_patches(image, tokens, side),
        caption="A 224 x 224 photograph cut into a 14 x 14 grid of patches; each patch, read "
        "row by row with its three colours, is one row of the token matrix (in blue).",
    )


def sound(*, seed: int, full: bool):
    """A sound is a vector of samples; its spectrogram is a matrix."""
    del seed, full
    rate = 16_000
    note = jnp.asarray(tones(440, rate=rate))
    yield row(
        "need-waveform-samples",
        {
            "rate": rate,
            "length": note.size,
            "cycles": jnp.argmax(jnp.abs(jnp.fft.rfft(note))),
        },
        "jax.numpy.fft.rfft",
    )

    rate, size, hop = 8_000, 256, 128
    melody = jnp.asarray(tones(500, 2_000, rate=rate, seconds=0.5))
    magnitudes = spectrogram(melody, size=size, hop=hop)
    bin_width = rate / size
    # The same transform as one dense layer: a matrix of cosines and sines, rows windowed.
    window = 0.5 - 0.5 * jnp.cos(2 * jnp.pi * jnp.arange(size) / size)
    waves = window[:, None] * jnp.fft.rfft(jnp.eye(size))
    params = {"kernel": jnp.concatenate([waves.real, waves.imag], axis=1)}
    windows = frames(melody, size=size, hop=hop)
    real, imaginary = jnp.split(dense(params, windows), 2, axis=1)
    yield row(
        "need-audio-spectrogram",
        {
            "shape": magnitudes.shape,
            "first_frame_peak_hz": bin_width * jnp.argmax(magnitudes[:, 0]),
            "last_frame_peak_hz": bin_width * jnp.argmax(magnitudes[:, -1]),
            "bin_width_hz": bin_width,
            "is_a_matrix_product": bool(jnp.allclose(jnp.hypot(real, imaginary).T, magnitudes)),
        },
        spectrogram,
        frames,
        dense,
        flops=flops(
            dense,
            params,
            windows,
            formula=dense_flops(
                n=windows.shape[0], d_in=size, d_out=params["kernel"].shape[1], bias=False
            ),
        ),
        note="The FLOP are those of the transform written as a matrix product.",
    )
    yield Figure(
        name="spectrogram",
        figure=draw_spectrogram(melody, magnitudes, rate=rate, hop=hop),
        caption="Half a second at 500 Hz, then half a second at 2,000 Hz: as a vector of "
        "samples (an extract around the change), and as a matrix of frequency over time.",
    )


def roughness(line: jax.Array) -> jax.Array:
    """Sum of squared differences between neighbours."""
    return jnp.sum(jnp.diff(line) ** 2)


def is_numeric(items: list) -> bool:
    """Whether JAX takes a list as an array."""
    try:
        jnp.asarray(items)
    except TypeError:
        return False
    return True


def square(image: np.ndarray | jax.Array) -> jax.Array:
    """A colour photograph at the 224 x 224 that vision models read."""
    return jax.image.resize(jnp.asarray(image, jnp.float32), (224, 224, 3), "linear")


def draw_shuffled(line: jax.Array, shuffled: jax.Array) -> Canvas:
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
    return canvas


def draw_channels(image: jax.Array) -> Canvas:
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
    return canvas


def draw_patches(image: jax.Array, tokens: jax.Array, side: int) -> Canvas:
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
    photo.set_title("196 patches")
    detail.imshow(image[top : top + side, left : left + side])
    detail.set_title(f"patch {chosen}: 16 x 16 x 3")
    for panel in (photo, detail):
        panel.set_axis_off()
    matrix.imshow(tokens, cmap="gray", vmin=0, vmax=1, aspect="auto")
    matrix.axhline(chosen, color="C0", linewidth=1.2)
    matrix.set_title("token matrix, 196 x 768")
    matrix.set(xlabel="number within the patch", ylabel="patch")
    return canvas


def draw_spectrogram(
    signal: jax.Array, magnitudes: jax.Array, *, rate: int, hop: int
) -> Canvas:
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
    return canvas


EXPERIMENTS = (pixels, lists, tensors, patch_tokens, sound)
