"""Scalars, vectors, matrices and tensors: photographs, sound and text as arrays."""

import jax.numpy as jnp

from experiments.data import photograph
from experiments.rows import row


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
    camera = jnp.asarray(photograph("camera"))
    yield row("sense-vector-row", {"ndim": camera[0].ndim, "length": len(camera[0])})


EXPERIMENTS = (pixels,)
