"""Scalars, vectors, matrices and tensors: photographs, sound and text as arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import photograph, tones
from experiments.figures import objects as figures
from experiments.ledger import claims
from experiments.rows import flops, row
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
        fitted=True,
        note="Row 100, shuffled by RandomState(0): found by trying, they give the ledger's "
        "ratio. Any row loses its smoothness.",
    )
    yield figures.shuffled_row(line, shuffled)

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
    yield figures.channels(cat)

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
    yield figures.patch_tokens(image, tokens, side)


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
    yield figures.sound(melody, magnitudes, rate=rate, hop=hop)


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


EXPERIMENTS = (pixels, lists, tensors, patch_tokens, sound)
