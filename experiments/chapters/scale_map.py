"""The map: what is said to be AI, the matrix operation that it is, and what that costs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data

from experiments.figures import scale_map as figures
from experiments.ledger import claims
from experiments.rows import flops, full_name, row
from lintoolkit.attention import attention, attention_flops
from lintoolkit.cost import cost
from lintoolkit.layers import dense, dense_flops, embed, im2col, mlp, mlp_flops
from lintoolkit.pca import fit_pca, pca_encode, pca_encode_flops
from lintoolkit.svd import reconstruct, reconstruct_flops, svd

N, D, R = 16, 32, 4  # rows, width and rank of the small instances


def concepts(*, seed: int, full: bool):
    """Eleven concepts of AI: the operation behind each, where it is shown, and its price."""
    del full
    random = np.random.RandomState(seed)
    draw = lambda *shape: jnp.asarray(random.randn(*shape))
    x, weight, heads, image = draw(N, D), {"kernel": draw(D, D)}, draw(N, 2, 8), draw(3, 10, 10)
    layers = ({"kernel": draw(D, D)}, {"kernel": draw(D, 1)})
    columns = im2col(image, size=3)
    filters = draw(8, len(columns))
    skinny = {"kernel": draw(D, R)}, {"kernel": draw(R, D)}
    pca, factors = fit_pca(x, rank=R), svd(x)
    plain = lambda d_in, d_out, n=N: dense_flops(n=n, d_in=d_in, d_out=d_out, bias=False)
    # Concept: the operation, its function, a small instance, what its products cost, a claim.
    table: dict[str, tuple[str, Callable, tuple, int, str]] = {
        "layers.dense": ("y = W x", dense, (weight, x), plain(D, D), "need-layer-formula"),
        "parameters": (
            "many layers", mlp, (layers, x), mlp_flops(n=N, widths=(D, D, 1), bias=False),
            "matrices-70b-parameters",
        ),
        "embeddings": (
            "a row of a table", embed, ({"embedding": x}, jnp.arange(3)), 0,
            "matrices-embedding-table",
        ),
        "attention": (
            "softmax(Q Kᵀ) V", attention, (heads, heads, heads),
            attention_flops(t=N, s=N, h=2, d_k=8, d_v=8), "matrices-attention-formula",
        ),
        "conv.im2col": (
            "filters · columns", jnp.matmul, (filters, columns),
            plain(len(columns), 8, n=columns.shape[1]), "matrices-im2col",
        ),
        "decomposition.pca": (
            "(x - μ) V", pca_encode, (pca, x),
            pca_encode_flops(n=N, d=D, r=R) - N * D, "matrices-1000-to-50",
        ),
        "recommender": (
            "P Qᵀ", scores, (x[:, :R], x[:, :R]), plain(R, N),
            "matrices-recommender-factorisation",
        ),
        "lora": (
            "x W + (x A) B", adapted, (weight, skinny, x),
            plain(D, D) + plain(D, R) + plain(R, D), "matrices-lora-formula",
        ),
        "decomposition.truncated_svd": (
            "U Σ Vᵀ", reconstruct, (factors,),
            reconstruct_flops(n=N, r=N, d=D) - N * N, "matrices-svd-image-compression",
        ),
        "training.backprop": (
            "transposed weights", jax.grad(squares), (layers, x),
            2 * plain(D, D) + 3 * plain(D, 1), "matrices-backprop-transposes",
        ),
        "roofline": (
            "FLOP per byte", jnp.matmul, (x.T, x), plain(N, D, n=D),
            "matrices-gpu-tens-of-thousands",
        ),
    }  # fmt: skip
    prices = {}
    for name, (_, fn, args, law, _) in table.items():
        counted = cost(fn, *args)
        prices[name] = {
            "closed_form": law,
            "lowered_products": counted.lowered.matmul_flops,
            "compiled_flops": counted.compiled.flops,
        }
    intensity = cost(jnp.matmul, x.T, x).compiled.intensity
    yield row(
        "matrices-map-table",
        {
            "rows": len(table),
            "capabilities": list(table),
            "operation": {name: entry[0] for name, entry in table.items()},
            "shown_in": {name: entry[-1] for name, entry in table.items()},
            "small_instance": prices,
            "closed_form_is_lowered": all(
                price["closed_form"] == price["lowered_products"] for price in prices.values()
            ),
            "flop_per_byte_of_roofline_instance": round(intensity, 3),
        },
        *dict.fromkeys(full_name(entry[1]) for entry in table.values() if is_public(entry[1])),
        holds=all(entry[-1] in claims() for entry in table.values()),
        note="The closed form counts the matrix products of the small instance; the compiled "
        "program counts everything.",
    )
    yield figures.table(table, prices)


def is_public(fn: Callable) -> bool:
    """Whether a function is the library's or JAX's own, with a name to be found by."""
    return full_name(fn).startswith(("lintoolkit.", "jax.numpy."))


def scores(p: jax.Array, q: jax.Array) -> jax.Array:
    """All users against all items."""
    return p @ q.T


def adapted(weight: dict, skinny: tuple[dict, dict], x: jax.Array) -> jax.Array:
    """A frozen layer plus a change of low rank."""
    down, up = skinny
    return dense(weight, x) + dense(up, dense(down, x))


def squares(layers: tuple, x: jax.Array) -> jax.Array:
    """A loss whose gradient goes back through two layers."""
    return jnp.sum(mlp(layers, x) ** 2)


def systems(*, seed: int, full: bool):
    """Four systems people know, and the operation here that each rests on."""
    del full
    crops = skimage.data.lfw_subset()
    x = jnp.asarray(crops.reshape(len(crops), -1), float)
    is_face = np.arange(len(x)) < 100
    order = np.random.RandomState(seed).permutation(len(x))
    train, test = order[:100], order[100:]
    pca = fit_pca(x[train], rank=20)
    codes = pca_encode(pca, x, whiten=True)
    means = [codes[train][is_face[train] == kind].mean(axis=0) for kind in (False, True)]
    far = jnp.stack([jnp.sum((codes[test] - mean) ** 2, axis=1) for mean in means])
    right = (far[1] < far[0]) == is_face[test]
    index = {
        "generating text": "calculus-cycle-trains-language-model",
        "recognising faces": "need-pca-2d",
        "recommending": "need-recommender-dot",
        "fine-tuning": "need-lora-formula",
    }
    yield row(
        "need-conclusion-map",
        {
            "systems": len(index),
            "shown_in": index,
            "crops": len(crops),
            "faces_told_from_the_rest": round(float(right.mean()), 2),
            "held_out": len(test),
        },
        fit_pca,
        pca_encode,
        flops=flops(pca_encode, pca, x, formula=pca_encode_flops(n=len(x), d=x.shape[1], r=20)),
        holds=all(claim in claims() for claim in index.values()) and bool(right.mean() > 0.7),
        note="Half of the 200 crops are faces. A hundred teach 20 components and two means, "
        "the others are told apart by the nearer mean. The FLOP are of encoding all.",
    )
