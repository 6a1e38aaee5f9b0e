"""The linear algebra of AI as pure JAX functions, and what it costs, exactly.

- `lintoolkit.layers`: one vector through a layer: dense, mlp, norms, tables, patches,
  frames, convolution.
- `lintoolkit.attention`: vectors that look at each other: weights, exact attention in O(n)
  memory, heads, rotations.
- `lintoolkit.transformer`: blocks, a GPT that trains, writes and reads GPT-2's files, a ViT.
- `lintoolkit.svd`: full, truncated and randomized decompositions, low-rank approximation.
- `lintoolkit.pca`: principal components: exact, streaming, sharded, sparse.
- `lintoolkit.similarity`: dot products, cosines, the nearest rows, analogies.
- `lintoolkit.eigen`: the dominant eigenvector, PageRank.
- `lintoolkit.factorize`: recommenders: alternating least squares on sparse ratings.
- `lintoolkit.regression`: the normal equation, least squares by QR, ridge.
- `lintoolkit.lora`: changes of low rank beside frozen parameters of any function, PEFT files.
- `lintoolkit.train`: one optax loop as a scan, with checkpoints that it goes on from.
- `lintoolkit.checkpoint`: states on disk that come back to the bit or not at all.
- `lintoolkit.launch`: jobs of several processes that outlive the death of any.
- `lintoolkit.cost`: the work, bytes and memory of any JAX function, from what XLA compiled.

Import the module you mean, ``from lintoolkit import layers``: the file is the namespace.

.. include:: tour.md
.. include:: coming_from.md
.. include:: CHANGELOG.md
"""

from importlib import import_module
from typing import Any

__all__ = [
    "attention", "checkpoint", "cost", "eigen", "factorize", "launch", "layers", "lora", "pca",
    "regression", "similarity", "svd", "train", "transformer",
]  # fmt: skip
__dir__ = lambda: __all__


def __getattr__(name: str) -> Any:
    # A module is imported when it is first named: nobody pays for what they do not use.
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"lintoolkit has no module {name!r}; it has {', '.join(__all__)}.")
