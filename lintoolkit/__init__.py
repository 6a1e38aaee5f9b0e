"""The linear algebra of AI as pure JAX functions, and what it costs, exactly.

- `lintoolkit.layers`: one vector through a layer: dense, mlp, norms, tables, patches,
  frames, convolution.
- `lintoolkit.attention`: vectors that look at each other: weights, attention, heads.
- `lintoolkit.transformer`: blocks, a GPT that trains, writes and reads GPT-2's files, a ViT.
- `lintoolkit.similarity`: dot products, cosines, the nearest rows, analogies.
- `lintoolkit.train`: one optax loop as a scan.
- `lintoolkit.cost`: the work, bytes and memory of any JAX function, from what XLA compiled.

Import the module you mean, ``from lintoolkit import layers``: the file is the namespace.
"""
