"""Line drawings made on the spot: labelled pictures where no photographs are bundled.

A kind is a list of strokes, each a polyline in the square from -1 to 1 with y downwards. Every
drawing has its own place, size, slant and noise, so that one pixel alone says little.
"""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 24
# Chosen for drawings about as hard on raw pixels as the ledger's.
NOISE = 0.26


def arc(start: float, stop: float, *, radius: float = 1.0, x: float = 0.0, y: float = 0.0):
    """Part of a circle as a polyline; angles in turns."""
    angles = 2 * np.pi * np.linspace(start, stop, 9)
    return [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles]


SOURCE_KINDS = {
    "circle": [arc(0, 1)],
    "square": [[(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]],
    "triangle": [[(0, -1), (1, 1), (-1, 1), (0, -1)]],
    "plus": [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    "zigzag": [[(-1, 1), (-0.4, -1), (0.4, 1), (1, -1)]],
    "hook": [[(0.6, -1), (0.6, 0.4)], arc(0, 0.5, radius=0.6, y=0.4)],
    "ladder": [
        [(-0.6, -1), (-0.6, 1)],
        [(0.6, -1), (0.6, 1)],
        [(-0.6, -0.3), (0.6, -0.3)],
        [(-0.6, 0.4), (0.6, 0.4)],
    ],
    "arrow": [[(-1, 0), (1, 0)], [(0.3, -0.7), (1, 0), (0.3, 0.7)]],
}
NEW_KINDS = {
    "cross": [[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]],
    "diamond": [[(0, -1), (1, 0), (0, 1), (-1, 0), (0, -1)]],
    "tee": [[(-1, -1), (1, -1)], [(0, -1), (0, 1)]],
    "moon": [arc(0.2, 0.8), arc(0.2, 0.8, radius=0.85, x=0.55)],
    "house": [[(-0.8, 1), (-0.8, -0.1), (0, -1), (0.8, -0.1), (0.8, 1), (-0.8, 1)]],
}


def head(ear: list[tuple[float, float]]):
    """A face with two eyes and the same ear on both sides."""
    other = [(-x, y) for x, y in ear]
    eyes = [[(x, 0.1), (x, 0.2)] for x in (-0.25, 0.25)]
    return [arc(0, 1, radius=0.7, y=0.2), *eyes, ear, other]


HEADS = {
    "cat": head([(0.15, -0.45), (0.55, -1.0), (0.65, -0.1)]),
    "dog": head([(0.35, -0.4), (0.9, -0.3), (1.0, 0.5), (0.75, 0.4)]),
}


def labelled_drawings(
    generator: np.random.RandomState, kinds: dict, n: int
) -> tuple[jax.Array, jax.Array]:
    """n drawings of every kind, shuffled: (len(kinds) * n, SIDE, SIDE), float32, and labels."""
    drawings = np.concatenate([draw(generator, strokes, n) for strokes in kinds.values()])
    labels = np.repeat(np.arange(len(kinds)), n)
    order = generator.permutation(len(labels))
    return jnp.asarray(drawings[order]), jnp.asarray(labels[order])


def draw(generator: np.random.RandomState, strokes: list, n: int) -> np.ndarray:
    """n drawings of one kind: (n, SIDE, SIDE), float32, ink near 1 on paper near 0."""
    lines = [np.asarray(stroke, np.float32) for stroke in strokes]
    segments = np.concatenate([np.stack([line[:-1], line[1:]], 1) for line in lines])
    half = SIDE * generator.uniform(0.18, 0.38, n)
    centre = SIDE / 2 + generator.uniform(-1, 1, (n, 2)) * (SIDE / 2 - 1 - half)[:, None]
    slant = generator.uniform(-0.3, 0.3, n)
    turn = np.stack([np.cos(slant), -np.sin(slant), np.sin(slant), np.cos(slant)], 1)
    scaled = (half[:, None] * turn).reshape(n, 1, 2, 2).astype(np.float32)
    ends = segments @ scaled + centre.astype(np.float32)[:, None, None]

    # Distance of every pixel from the nearest point of every segment.
    y, x = np.indices((SIDE, SIDE), np.float32).reshape(2, -1)
    start, along = ends[:, :, :1], ends[:, :, 1:] - ends[:, :, :1]
    to_pixel = np.stack([x, y], -1) - start
    share = np.einsum("nspc,nspc->nsp", to_pixel, along) / (along**2).sum(-1)
    gap = to_pixel - np.clip(share, 0, 1)[..., None] * along
    distance = np.sqrt(np.einsum("nspc,nspc->nsp", gap, gap).min(1))
    ink = np.clip(1.5 - distance, 0, 1).reshape(n, SIDE, SIDE)
    return (ink + NOISE * generator.randn(n, SIDE, SIDE)).astype(np.float32)
