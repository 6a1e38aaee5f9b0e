"""The experiments' real input: bundled photographs, digits, and the articles' own numbers.

Nothing is downloaded: scikit-image and scikit-learn ship these files.
"""

from functools import cache

import numpy as np


@cache
def photograph(name: str) -> np.ndarray:
    """A bundled photograph, uint8: (height, width), or (height, width, 3) in colour."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        image = getattr(skimage.data, name)()
    image.setflags(write=False)
    return image


def grey(name: str) -> np.ndarray:
    """A bundled photograph as one matrix of brightness, 0..255, float64.

    Of colours, 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).
    """
    image = photograph(name).astype(float)
    return image @ [0.299, 0.587, 0.114] if image.ndim == 3 else image


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 bundled 8 x 8 digits: pixels (1797, 64) in 0..16, and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


def tones(*hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    """Pure tones one after the other, each so many seconds: amplitudes in -1..1."""
    time = np.arange(round(rate * seconds)) / rate
    return np.concatenate([np.sin(2 * np.pi * pitch * time) for pitch in hertz])


@cache
def corpus() -> tuple[tuple[str, ...], ...]:
    """Ninety sentences of 63 different words, written to contain known relations.

    A person is royal or common, male or female, grown or young, and each property has
    contexts of its own, so the three combine like coordinates; food shares no word with
    people, and hot and cold stand in the same places. There is no "the": it would be a
    neighbour of everything. A sentence is one context: its other words are the neighbours.
    """
    royal, common = ["king", "queen", "prince", "princess"], ["man", "woman", "boy", "girl"]
    male, female = royal[::2] + common[::2], royal[1::2] + common[1::2]
    grown, young = royal[:2] + common[:2], royal[2:] + common[2:]
    deeds = (
        (royal, "inherits ancient, guards splendid, praises famous, admires golden",
         "kingdom crown palace throne"),
        (common, "visits busy, repairs shabby, sells dusty, remembers little",
         "farm market barn workshop"),
        (male, "combs his, strokes his, trims his", "beard moustache whiskers"),
        (female, "folds her, mends her, wears her", "gown shawl veil"),
        (grown, "pays, owes", "taxes"),
        (young, "climbs, shakes", "trees"),
    )  # fmt: skip
    # Each does every deed once, and the things rotate, so that all are used alike.
    people = [
        f"{who} {deed} {things.split()[(i + j) % len(things.split())]}"
        for group, does, things in deeds
        for i, who in enumerate(group)
        for j, deed in enumerate(does.split(", "))
    ]
    meals = [
        f"{does} {temperature} {food}"
        for does in ("cook stirs", "waiter serves", "guest sips")
        for temperature in ("hot", "cold")
        for food in ("soup", "water", "tea")
    ]
    return tuple(tuple(sentence.split()) for sentence in people + meals)
