"""The pictures of the chapter "Words as vectors": maps of a small vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure
from lintoolkit.pca import fit_pca, pca_encode

PEOPLE = ("king", "queen", "prince", "princess", "man", "woman", "boy", "girl")
GROUPS = {
    "C0": PEOPLE,
    "C1": ("soup", "water", "tea", "hot", "cold", "cook", "waiter", "guest"),
    "C2": ("kingdom", "crown", "palace", "throne"),
    "C3": ("farm", "market", "barn", "workshop"),
}


def word_map(words: tuple[str, ...], table: jax.Array) -> Figure:
    """Some words in the plane of their first two components, coloured by use."""
    at = {word: i for i, word in enumerate(words)}
    chosen = [word for group in GROUPS.values() for word in group]
    rows = table[jnp.array([at[word] for word in chosen])]
    places = dict(zip(chosen, np.asarray(pca_encode(fit_pca(rows, rank=2), rows)), strict=True))
    canvas = Canvas(figsize=(6.4, 4))
    panel = canvas.subplots()
    for colour, group in GROUPS.items():
        spots: dict[tuple[float, float], list[str]] = {}
        for word in group:
            x, y = places[word].round(2)
            spots.setdefault((x, y), []).append(word)
        for i, ((x, y), names) in enumerate(spots.items()):
            panel.plot(x, y, "o", color=colour, ms=5)
            side = 1 if i % 2 == 0 else -1
            panel.annotate(
                "\n".join(names), (x, y), (6 * side, 0), textcoords="offset points",
                fontsize=8, color=colour, va="center", ha="left" if side > 0 else "right",
            )  # fmt: skip
    panel.set(xlabel="first component", ylabel="second component")
    panel.margins(0.12)
    return Figure(
        name="word-map",
        figure=canvas,
        caption="Words of the ninety sentences on a plane. Those used alike share a point or "
        "stand close; meals, places and people keep apart.",
    )


def parallelogram(vectors: dict[str, np.ndarray]) -> Figure:
    """Four words in the plane of the two relations between them."""
    man, king, woman, _ = vectors.values()
    royal, female = king - man, woman - man
    axes = np.stack([royal / np.linalg.norm(royal), female / np.linalg.norm(female)])
    canvas = Canvas(figsize=(4.6, 3.4))
    panel = canvas.subplots()
    places = {word: axes @ (vector - man) for word, vector in vectors.items()}
    for start, end, colour in (
        ("man", "king", "C0"), ("woman", "queen", "C0"), ("man", "woman", "C1"),
        ("king", "queen", "C1"),
    ):  # fmt: skip
        (x, y), (to_x, to_y) = places[start], places[end]
        arrow = {"arrowstyle": "->", "color": colour, "lw": 1.8, "shrinkA": 4, "shrinkB": 4}
        panel.annotate("", (to_x, to_y), (x, y), arrowprops=arrow)
    for word, (x, y) in places.items():
        panel.plot(x, y, "o", color="0.2", ms=5)
        panel.annotate(word, (x, y), (0, 8), textcoords="offset points", ha="center")
    panel.set(xlabel="royal", ylabel="female", aspect="equal")
    panel.margins(0.2)
    return Figure(
        name="parallelogram",
        figure=canvas,
        caption="King − man + woman = queen, drawn in the plane of the two relations: the same "
        "two arrows lead from man to queen in either order.",
    )
