"""The experiments' real input: bundled photographs, digits, and the articles' own numbers.

Nothing is downloaded: scikit-image and scikit-learn ship these files.
"""

from functools import cache

import numpy as np

GREY = ("camera", "coins", "brick", "grass", "moon", "page")
COLOUR = ("astronaut", "chelsea", "coffee", "china", "flower")


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


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 bundled 8 x 8 digits: pixels (1797, 64) in 0..16, and labels (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target
