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
"""
