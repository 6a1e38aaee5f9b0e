"""Dot products and cosines: how alike two vectors are, and how unlike chance makes them."""

import math

import jax.numpy as jnp
import numpy as np

from experiments.figures import similarity as figures
from experiments.rows import flops, row
from lintoolkit.similarity import cosine_similarity, dot, dot_flops, top_k


def dot_products(*, seed: int, full: bool):
    """One number for two vectors, computed from their entries or from their angle."""
    del seed, full
    a, b = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([4.0, 5.0, 6.0])
    cosine = cosine_similarity(a, b)
    counted = flops(dot, a, b, formula=dot_flops(n=1, d=a.size))
    yield row(
        "need-dot-two-forms",
        {
            "sum_form": dot(a, b),
            "norm_form": jnp.linalg.norm(a) * jnp.linalg.norm(b) * cosine,
            "angle_degrees": jnp.degrees(jnp.arccos(cosine)),
            "cosine": cosine,
        },
        dot,
        cosine_similarity,
        flops=counted,
    )
    terms = a * b
    yield row(
        "calculus-dot-32",
        {
            "stdout": f"{dot(a, b):.0f}\n",
            "terms": terms,
            "dot": dot(a, b),
            "flops": dot_flops(n=1, d=a.size),
            "scalar_ops": terms.size + (terms.size - 1),
        },
        dot,
        dot_flops,
        flops=counted,
    )
    others = {
        "its_double": 2 * a,
        "perpendicular": jnp.asarray([3.0, 0.0, -1.0]),
        "opposite": -a,
        "longer_less_aligned": jnp.asarray([40.0, 0.0, 0.0]),
    }
    dots = {name: dot(a, other) for name, other in others.items()}
    # A right angle's is 0 but for the rounding of unit vectors.
    cosines = {
        name: jnp.round(cosine_similarity(a, other), 12) + 0.0 for name, other in others.items()
    }
    yield row(
        "calculus-dot-signs",
        {"dots": dots, "cosines": cosines},
        dot,
        cosine_similarity,
        flops=counted,
        holds=bool(
            dots["its_double"] > 0 == dots["perpendicular"] > dots["opposite"]
            and dots["longer_less_aligned"] > dots["its_double"]
            and cosines["longer_less_aligned"] < cosines["its_double"]
        ),
    )


def length_and_direction(*, seed: int, full: bool):
    """The dot product grows with length; the cosine sees direction alone."""
    del full
    query = jnp.asarray([1.0, 0.0])
    near, far = jnp.asarray([1.0, 0.1]), jnp.asarray([10.0, 30.0])
    yield row(
        "need-dot-similarity-direction",
        {
            "dot_near": dot(query, near),
            "dot_far": dot(query, far),
            "cos_near": cosine_similarity(query, near),
            "cos_far": cosine_similarity(query, far),
        },
        dot,
        cosine_similarity,
    )
    a, b = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([4.0, 5.0, 6.0])
    longer, shorter = 7.0 * a, 0.01 * b
    yield row(
        "need-cosine-scale-invariant",
        {
            "cos": cosine_similarity(a, b),
            "cos_scaled": cosine_similarity(longer, shorter),
            "dot_scaled": dot(longer, shorter),
            "negative_scale_flips": cosine_similarity(-longer, shorter),
        },
        cosine_similarity,
        dot,
    )
    draw = np.random.RandomState(seed)
    cosines = cosine_similarity(*(jnp.asarray(draw.randn(5_000, 3)) for _ in range(2)))
    yield row(
        "need-cosine-range",
        {
            "same": cosine_similarity(a, a),
            "opposite": cosine_similarity(a, -a),
            "all_within": bool(jnp.all(jnp.abs(cosines) <= 1 + jnp.finfo(cosines.dtype).eps)),
        },
        cosine_similarity,
        note="Within the last digit of the number format: a computed cosine may round past 1.",
    )


def random_directions(*, seed: int, full: bool):
    """In many dimensions two directions drawn at random are nearly perpendicular."""
    del seed, full
    draw = np.random.RandomState(0)
    cosines = {}
    for d in (2, 16, 768):
        a, b = (jnp.asarray(draw.randn(4_000, d)) for _ in range(2))
        cosines[d] = cosine_similarity(a, b)
    spread = {f"std_cos_d{d}": round(float(sample.std()), 3) for d, sample in cosines.items()}
    yield row(
        "need-dot-zero-orthogonal",
        {
            "orthogonal": dot(jnp.asarray([1.0, 2.0]), jnp.asarray([2.0, -1.0])),
            **spread,
            "theory_d768": 1 / math.sqrt(768),
        },
        cosine_similarity,
        dot,
        flops=flops(dot, a, b, formula=dot_flops(n=len(a), d=a.shape[1])),
        note="4,000 pairs for each width; the third digit hangs on the draw, here "
        "RandomState(0). The FLOP are those of the dot products of width 768.",
    )
    yield figures.cosines(cosines)


def search(*, seed: int, full: bool):
    """Search by cosine: sentences as rows of word weights, the query as one more."""
    del seed, full
    sentences = (
        "the cat sleeps on a warm sofa",
        "bread rises in the oven",
        "trains leave the station at noon",
        "the leading eigenvector shows where variance lies",
        "rain fell all night",
    )
    query = "eigenvector of greatest variance"
    words = sorted({word for sentence in sentences for word in sentence.split()})
    counts = jnp.asarray([[float(s.split().count(w)) for w in words] for s in sentences])
    asked = jnp.asarray([float(query.split().count(w)) for w in words])
    # A word counts less the more sentences have it (smoothed inverse document frequency).
    rarity = 1 + jnp.log((1 + len(sentences)) / (1 + jnp.sum(counts > 0, axis=0)))
    items, wanted = counts * rarity, asked * rarity
    found = top_k(wanted, items, k=len(sentences))
    by_sentence = jnp.zeros(len(sentences)).at[found.indices].set(found.scores)
    yield row(
        "need-semantic-search",
        {
            "documents": len(sentences),
            "top": found.indices[0],
            "scores": jnp.round(by_sentence, 3),
            "query": query,
            "best": sentences[int(found.indices[0])],
        },
        top_k,
        flops=flops(
            lambda q, x: top_k(q, x, k=1, measure="dot").scores,
            wanted,
            items,
            formula=dot_flops(n=len(sentences), d=len(words)),
        ),
        fitted=True,
        note="The sentences are ours, written so that the words they share and do not share "
        "give the ledger's score. The closed form counts the dot products; the program "
        "also tests each score for what is not a number.",
    )


EXPERIMENTS = (dot_products, length_and_direction, random_directions, search)
