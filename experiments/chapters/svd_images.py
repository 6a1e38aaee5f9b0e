"""Photographs as sums of few rank-one matrices: quality, storage, and what is measured."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import grey
from experiments.figures import svd_images as figures
from experiments.rows import flops, row
from lintoolkit.attention import attention
from lintoolkit.layers import mlp
from lintoolkit.svd import (
    SVD,
    rank_for_energy,
    reconstruct,
    reconstruct_flops,
    svd,
    tail_error,
)

PHOTOGRAPHS = (
    "china", "flower", "camera", "astronaut", "chelsea", "coffee", "coins", "brick", "grass",
    "moon", "page",
)  # fmt: skip
WHITE = 255.0


@cache
def decomposed(name: str) -> SVD:
    """The singular values and vectors of a photograph's brightness."""
    return svd(jnp.asarray(grey(name)))


@cache
def values(name: str, *, centred: bool = False) -> jax.Array:
    """A photograph's singular values, with its mean brightness taken off if `centred`.

    Filled up with zeros where there are fewer than 512, so that what is computed of them is
    compiled once for all of these.
    """
    image = grey(name)
    s = svd(jnp.asarray(image - image.mean())).s if centred else decomposed(name).s
    return jnp.pad(s, (0, max(512 - len(s), 0)))


spread = partial(values, centred=True)


def first(factors: SVD, k: int) -> SVD:
    """The k largest triples."""
    return SVD(factors.u[:, :k], factors.s[:k], factors.vt[:k], factors.ok)


def share(s: jax.Array, k: int) -> jax.Array:
    """What part of all squares the k largest singular values hold."""
    return 1 - (tail_error(s, rank=k) / tail_error(s, rank=0)) ** 2


def psnr(image: np.ndarray, rebuilt: jax.Array) -> float:
    """Peak signal-to-noise ratio in dB, white being 255; values are not clipped."""
    mean_square = float(jnp.mean((rebuilt - image) ** 2))
    return float(10 * np.log10(WHITE**2 / mean_square))


def numbers(factors: SVD) -> int:
    """How many numbers the triples are."""
    return factors.u.size + factors.s.size + factors.vt.size


def multiplied_out() -> dict:
    """The FLOP cell of fifty triples of the photograph "camera"."""
    return flops(
        reconstruct,
        first(decomposed("camera"), 50),
        formula=reconstruct_flops(n=512, r=50, d=512),
    )


def sum_of_pictures(*, seed: int, full: bool):
    """A photograph is a sum of pictures of rank one; the first few are most of it."""
    del seed, full
    image = grey("china")
    u, s, vt, _ = decomposed("china")
    k = 20
    terms = jax.vmap(jnp.outer)((u * s).T[:k], vt[:k])
    total = terms.sum(axis=0)
    truncated = reconstruct(first(decomposed("china"), k))
    error = jnp.linalg.norm(total - image) / jnp.linalg.norm(image)
    yield row(
        "need-rank-one-sum",
        {
            "terms": k,
            "rank_of_sum": jnp.linalg.matrix_rank(total),
            "rank_of_first_term": jnp.linalg.matrix_rank(terms[0]),
            "sum_equals_truncated_svd": bool(jnp.allclose(total, truncated)),
            "relative_error": error,
            "error_from_tail": tail_error(s, rank=k) / tail_error(s, rank=0),
            "energy_share": share(values("china"), k),
            "variance_share": share(spread("china"), k),
            "psnr_db": psnr(image, total),
        },
        svd,
        reconstruct,
        tail_error,
        flops=flops(
            reconstruct,
            first(decomposed("china"), k),
            formula=reconstruct_flops(n=image.shape[0], r=k, d=image.shape[1]),
        ),
        holds=bool(
            jnp.allclose(total, truncated)
            & jnp.isclose(error, tail_error(s, rank=k) / tail_error(s, rank=0))
        ),
    )
    yield figures.rank_one_pictures(np.asarray(terms[:5]))

    image = grey("camera")
    s = decomposed("camera").s
    near = reconstruct(first(decomposed("camera"), 50))
    yield row(
        "need-truncated-formula",
        {
            "rank": jnp.linalg.matrix_rank(near),
            "relative_error": jnp.linalg.norm(near - image) / jnp.linalg.norm(image),
            "from_tail": tail_error(s, rank=50) / tail_error(s, rank=0),
        },
        svd,
        reconstruct,
        tail_error,
        flops=multiplied_out(),
        note="The FLOP are of multiplying the fifty triples out.",
    )


def importance(*, seed: int, full: bool):
    """The singular values of a photograph, from the largest to the least."""
    del seed, full
    s = decomposed("camera").s
    shares = {f"energy_share_top_{k}": share(s, k) for k in (1, 10, 50, 100)}
    yield row(
        "matrices-svd-importance",
        {
            "singular_values": len(s),
            "sorted_descending": bool((jnp.diff(s) <= 0).all()),
            "first_five": s[:5],
            "largest": s[0],
            "fiftieth": s[49],
            "smallest": s[-1],
            "first_over_second": s[0] / s[1],
            "first_over_fiftieth": s[0] / s[49],
            **shares,
            "rank_for_95_percent_energy": rank_for_energy(s, energy=0.95),
            "rank_for_99_percent_energy": rank_for_energy(s, energy=0.99),
        },
        svd,
        tail_error,
        rank_for_energy,
        holds=bool((jnp.diff(s) <= 0).all() & (s[-1] > 0)),
        note="Of the raw brightness, 0 to 255, mean included.",
    )
    yield figures.log_spectrum({name: decomposed(name).s for name in ("camera", "grass")})


def photographs_at_rank_fifty(*, seed: int, full: bool):
    """Eleven photographs and white noise: what fifty components hold depends on the measure."""
    del seed, full
    variance = {name: share(spread(name), 50) for name in PHOTOGRAPHS}
    energy = {name: share(values(name), 50) for name in PHOTOGRAPHS}
    needed = {name: rank_for_energy(spread(name), energy=0.95) for name in PHOTOGRAPHS}
    quality = {
        name: psnr(grey(name), reconstruct(first(decomposed(name), 50))) for name in PHOTOGRAPHS
    }
    good = [name for name in PHOTOGRAPHS if variance[name] >= 0.95]
    yield row(
        "need-top50-95",
        {
            "photographs": len(PHOTOGRAPHS),
            "variance_at_least_95_percent": len(good),
            "energy_at_least_95_percent": sum(bool(e >= 0.95) for e in energy.values()),
            "failing": [name for name in PHOTOGRAPHS if name not in good],
            "variance_share_top_50": variance,
            "energy_share_top_50": energy,
            "components_for_95_percent_variance": needed,
            "components_for_95_percent_energy": {
                name: rank_for_energy(values(name), energy=0.95) for name in PHOTOGRAPHS
            },
            "psnr_db_top_50": quality,
        },
        svd,
        reconstruct,
        tail_error,
        rank_for_energy,
        flops=flops(
            reconstruct,
            first(decomposed("china"), 50),
            formula=reconstruct_flops(n=427, r=50, d=640),
        ),
        holds=len(good) > len(PHOTOGRAPHS) / 2,
        note="Colours became brightness by BT.601; variance is energy once the mean brightness "
        "is taken off. The FLOP rebuild one photograph of 427 x 640.",
    )
    noise = np.random.RandomState(0).rand(512, 512)
    ones = [share(values(name), 1) for name in PHOTOGRAPHS]
    yield row(
        "need-top50-depends-on-measure",
        {
            "rank1_energy_min": round(float(min(ones)), 3),
            "rank1_energy_max": round(float(max(ones)), 3),
            "noise_energy_50": round(float(share(svd(jnp.asarray(noise)).s, 50)), 3),
            "noise_variance_50": round(
                float(share(svd(jnp.asarray(noise - noise.mean())).s, 50)), 3
            ),
            "grass_variance_50": round(float(variance["grass"]), 3),
        },
        svd,
        tail_error,
        note="To three digits. The noise is uniform, 512 x 512, from RandomState(0).",
    )
    yield figures.cumulative({name: spread(name) for name in PHOTOGRAPHS}, svd_noise())
    three = ("camera", "chelsea", "china")
    yield row(
        "matrices-svd-image-compression",
        {
            "psnr_50_db": {name: round(quality[name], 2) for name in three},
            "storage": {
                name: round(numbers(first(decomposed(name), 50)) / grey(name).size, 4)
                for name in three
            },
        },
        svd,
        reconstruct,
        flops=multiplied_out(),
        note="The FLOP are camera's.",
    )


def svd_noise() -> jax.Array:
    """The singular values of white noise as large as a photograph."""
    noise = np.random.RandomState(0).rand(512, 512)
    return svd(jnp.asarray(noise - noise.mean())).s


def storage(*, seed: int, full: bool):
    """What a truncated photograph takes: in numbers little, in bytes not so little."""
    del seed, full
    image, square = grey("china"), grey("camera")
    kept = first(decomposed("china"), 50)
    single = numbers(first(decomposed("china"), 1))
    yield row(
        "need-storage-fraction",
        {
            "numbers_full": image.size,
            "numbers_rank50": numbers(kept),
            "fraction": numbers(kept) / image.size,
            "break_even_rank": image.size // single,
            "square_512_fraction": numbers(first(decomposed("camera"), 50)) / square.size,
            "float32_factors_over_uint8_pixels": 4 * numbers(kept) / image.size,
        },
        svd,
        flops=flops(reconstruct, kept, formula=reconstruct_flops(n=427, r=50, d=640)),
        note="The FLOP are of rebuilding the photograph.",
    )
    image, factors = grey("chelsea"), decomposed("chelsea")
    shown = {k: reconstruct(first(factors, k)) for k in (5, 20, 50, 100)}
    yield figures.at_ranks(
        image,
        shown,
        {k: psnr(image, rebuilt) for k, rebuilt in shown.items()},
        {k: 4 * numbers(first(factors, k)) for k in shown},
    )


def low_rank_world(*, seed: int, full: bool):
    """How many components 95 % of the variance takes: photographs, noise, the identity."""
    del seed, full
    needed = {name: rank_for_energy(spread(name), energy=0.95) for name in PHOTOGRAPHS}
    identity = np.eye(512)
    others = {
        "white_noise_512": svd_noise(),
        "identity_512": svd(jnp.asarray(identity - identity.mean())).s,
    }
    all_needed = needed | {k: rank_for_energy(s, energy=0.95) for k, s in others.items()}
    sides = {name: min(grey(name).shape) for name in PHOTOGRAPHS} | dict.fromkeys(others, 512)
    parts = {name: int(count) / sides[name] for name, count in all_needed.items()}
    yield row(
        "need-lowrank-world",
        {
            "components_for_95_percent_variance": all_needed,
            "share_of_full_rank": parts,
            "photographs_median": np.median([int(k) for k in needed.values()]),
            "photographs_max": max(int(k) for k in needed.values()),
            "identity_512_with_its_mean": rank_for_energy(
                svd(jnp.asarray(identity)).s, energy=0.95
            ),
        },
        svd,
        rank_for_energy,
        holds=bool(
            max(parts[name] for name in PHOTOGRAPHS)
            < parts["white_noise_512"]
            < parts["identity_512"]
        ),
        note="Photographs are nearly of low rank; noise is not, and the identity least of all: "
        "structure is what makes a matrix compressible. Fine grass needs the most.",
    )
    yield figures.rank_needed(parts)


def exercise(*, seed: int, full: bool):
    """The closing exercise, in plain NumPy, against the library."""
    del full
    random = np.random.RandomState(seed)
    widths = (4, 8, 3)
    layers = [
        {"kernel": random.randn(a, b), "bias": random.randn(b)}
        for a, b in itertools.pairwise(widths)
    ]
    x = random.randn(4)
    state = x
    for i, layer in enumerate(layers):
        state = state @ layer["kernel"] + layer["bias"]
        state = state if i == len(layers) - 1 else np.maximum(state, 0)
    q, k, v = random.randn(3, 5, 8)
    scores = q @ k.T / np.sqrt(8)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    looked_up = weights / weights.sum(axis=1, keepdims=True) @ v
    image = grey("camera")
    u, s, vt = np.linalg.svd(image, full_matrices=False)
    rebuilt = u[:, :50] * s[:50] @ vt[:50]
    heads = [jnp.asarray(a)[:, None] for a in (q, k, v)]
    agree = {
        "forward_pass": bool(
            np.allclose(state, mlp(jax.tree.map(jnp.asarray, layers), jnp.asarray(x)))
        ),
        "attention": bool(np.allclose(looked_up, attention(*heads)[:, 0])),
        "image": bool(np.allclose(rebuilt, reconstruct(first(decomposed("camera"), 50)))),
    }
    yield row(
        "need-exercise-from-scratch",
        {
            "exercises": len(agree),
            "done": sum(agree.values()),
            "from_scratch_equals_library": agree,
            "attention_output_shape": looked_up.shape,
            "image_rank": np.linalg.matrix_rank(rebuilt),
            "image_relative_error": np.linalg.norm(rebuilt - image) / np.linalg.norm(image),
            "image_psnr_db": psnr(image, rebuilt),
            "elsewhere_here": [
                "need-code-forward", "need-code-attention-own-seed", "need-truncated-formula",
            ],
        },
        mlp,
        attention,
        svd,
        reconstruct,
        holds=all(agree.values()),
    )  # fmt: skip
