"""PyTorch's CPU random numbers in NumPy, so that its seeded snippets can be repeated.

The third article's code draws with ``torch.manual_seed(s)``. Both libraries use the Mersenne
Twister; what differs is how its 32-bit words become floats. A `RandomState(s)` here stands
for the generator after ``manual_seed(s)`` and advances word by word as PyTorch's does.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.random import RandomState


def words(state: RandomState, n: int) -> np.ndarray:
    """The generator's next n raw 32-bit words."""
    return state.randint(0, 2**32, size=n, dtype=np.uint32)


def uniform(state: RandomState, *shape: int) -> np.ndarray:
    """``torch.rand``: the low 24 bits of one word each, float32 in [0, 1)."""
    low = words(state, math.prod(shape)) & (2**24 - 1)
    return (low.astype(np.float32) / 2**24).reshape(shape)


def randint(state: RandomState, high: int, *shape: int) -> np.ndarray:
    """``torch.randint(0, high, shape)``: one word each, modulo `high`."""
    return (words(state, math.prod(shape)) % high).astype(np.int64).reshape(shape)


def randn(state: RandomState, *shape: int) -> np.ndarray:
    """``torch.randn`` in float32.

    PyTorch fills 16 numbers or more in blocks of 16, pairing entry j with j + 8, and draws
    the last block afresh when it overlaps; fewer are paired one by one from 53-bit doubles.
    """
    n = math.prod(shape)
    if n < 16:
        if n % 2:
            raise ValueError(
                f"randn: expected an even number of values below 16, got {n}. PyTorch keeps "
                "the spare one for the next small draw; draw an even number."
            )
        high, low = words(state, 2 * n).astype(np.uint64).reshape(n, 2).T
        u = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
        return box_muller(u[1::2], u[0::2], axis=1).astype(np.float32).reshape(shape)
    u = uniform(state, n)
    values = np.empty(n, np.float32)
    for start in range(0, n - 15, 16):
        block = u[start : start + 16]
        values[start : start + 16] = box_muller(block[:8], block[8:], axis=0)
    if n % 16:
        block = uniform(state, 16)
        values[-16:] = box_muller(block[:8], block[8:], axis=0)
    return values.reshape(shape)


def box_muller(radial: np.ndarray, angular: np.ndarray, *, axis: int) -> np.ndarray:
    """Normal numbers from uniform ones, the cosines and sines stacked on `axis`, flat."""
    radius = np.sqrt(-2 * np.log1p(-radial))
    angle = 2 * np.pi * angular
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis).ravel()


def linear(state: RandomState, d_in: int, d_out: int) -> dict[str, np.ndarray]:
    """A new ``torch.nn.Linear(d_in, d_out)``: kernel (weight transposed) and bias."""
    bound = np.float32(1 / math.sqrt(d_in))
    weight = bound * (2 * uniform(state, d_out, d_in) - 1)
    return {"kernel": weight.T, "bias": bound * (2 * uniform(state, d_out) - 1)}


def mlp(state: RandomState, widths: tuple[int, ...]) -> tuple[dict[str, np.ndarray], ...]:
    """Fresh linear layers of these widths, made in order."""
    return tuple(linear(state, d_in, d_out) for d_in, d_out in pairwise(widths))
