"""A scale for numbers whose squares, or whose inverse, may leave the range of their dtype."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def unit_of(x: Array, axis: int | None = None) -> Array:
    """A power of two near the largest magnitude, along an axis if one is given."""
    # To divide by it rounds nothing. 1 where all is zero or something is not finite.
    largest = jnp.abs(lax.stop_gradient(x)).max(axis=axis, keepdims=axis is not None)
    usable = (largest > 0) & jnp.isfinite(largest)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1))
    # Its inverse must not be subnormal either: that counts as zero.
    info = jnp.finfo(x.dtype)
    exponent = jnp.clip(exponent - 1, info.minexp + 2, info.maxexp - 4)
    return jnp.ldexp(jnp.ones((), x.dtype), exponent)
