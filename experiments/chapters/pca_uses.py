"""What principal components are used for: compression, maps, cleaning, fingerprints."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage.data
from sklearn.datasets import load_breast_cancer
from sklearn.manifold import TSNE

from experiments.data import digits, photograph
from experiments.figures import pca_uses as figures
from experiments.rows import flops, row
from lintoolkit.pca import (
    PCA,
    explained_variance_ratio,
    fit_pca,
    fit_pca_stream,
    pca_decode,
    pca_decode_flops,
    pca_encode,
    pca_encode_flops,
)
from lintoolkit.train import fit

# Where the ledger gives figures of made-up data and not how they were made.
OTHERS = 5  # draws that nobody chose
OURS = (
    "The sizes and RandomState(0) are ours, found by their meeting the ledger's figures; "
    f"beside them stands the mean of {OTHERS} other draws."
)


def first(pca: PCA, k: int) -> PCA:
    """The same fit with its first k components alone."""
    return pca._replace(
        components=pca.components[:k], explained_variance=pca.explained_variance[:k]
    )


def standardised(table: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1."""
    return (table - table.mean(axis=0)) / table.std(axis=0)


def compression(*, seed: int, full: bool):
    """How many components hold 95 % of the variance, and what is lost with the others."""
    del seed, full
    tables = {
        "digits": digits()[0],
        "rows of camera": photograph("camera").astype(float),
        "breast cancer": standardised(load_breast_cancer().data),
        "face crops": skimage.data.lfw_subset()[:100].reshape(100, -1).astype(float),
        "white noise": np.random.RandomState(0).randn(1797, 64),
    }
    fits = {name: fit_pca_stream([x], rank=min(x.shape)) for name, x in tables.items()}
    held = {name: explained_variance_ratio(pca).cumsum() for name, pca in fits.items()}
    x, pca = jnp.asarray(tables["digits"]), first(fits["digits"], 50)
    n, d = x.shape
    needed = lambda name: len(fit_pca_stream([tables[name]], variance=0.95).components)
    rebuilt = pca_decode(pca, pca_encode(pca, x))
    error = jnp.sum((x - rebuilt) ** 2) / jnp.sum((x - pca.mean) ** 2)
    yield row(
        "need-50-eigenvalues-95",
        {
            "digits_k95": needed("digits"),
            "digits_top50": held["digits"][49],
            "digits_lost_with_50": error,
            "camera_rows_top50": held["rows of camera"][49],
            "camera_rows_k95": needed("rows of camera"),
        },
        fit_pca_stream,
        explained_variance_ratio,
        pca_encode,
        pca_decode,
        flops=flops(
            lambda pca, x: pca_decode(pca, pca_encode(pca, x)),
            pca,
            x,
            formula=pca_encode_flops(n=n, d=d, r=50) + pca_decode_flops(n=n, d=d, r=50),
        ),
        note="What is lost is measured: the squared error of the rebuilt digits over their "
        "squared distance from the mean.",
    )
    yield figures.cumulative(held)
    yield figures.eigenfaces(fits["face crops"], side=25)

    kept, same = np.array([kept_of_embeddings(draw) for draw in range(OTHERS + 1)]).T
    vectors = embeddings(0)
    pca = fit_pca_stream([vectors], rank=50)
    codes = pca_encode(pca, vectors)
    yield row(
        "need-pca-embedding-compress",
        {
            "from_dim": vectors.shape[1],
            "to_dim": codes.shape[1],
            "kept_variance": round(kept[0], 4),
            "same_nearest_neighbour": same[0],
            "size_ratio": vectors.size / codes.size,
            "mean_of_other_draws": {
                "kept_variance": round(kept[1:].mean(), 4),
                "same_nearest_neighbour": same[1:].mean(),
            },
        },
        fit_pca_stream,
        pca_encode,
        explained_variance_ratio,
        flops=flops(pca_encode, pca, vectors, formula=pca_encode_flops(n=500, d=768, r=50)),
        fitted=True,
        note=f"Vectors of 40 hidden directions with noise of 0.05. {OURS}",
    )


def embeddings(draw: int) -> jax.Array:
    """Five hundred vectors along 40 directions of 768, and a little noise."""
    random = np.random.RandomState(draw)
    signal = random.randn(500, 40) @ (random.randn(40, 768) / np.sqrt(40))
    return jnp.asarray(signal + 0.05 * random.randn(500, 768))


def kept_of_embeddings(draw: int) -> tuple[float, float]:
    """What fifty components keep: the share of the variance, and of nearest neighbours."""
    vectors = embeddings(draw)
    pca = fit_pca_stream([vectors], rank=50)
    same = nearest(vectors) == nearest(pca_encode(pca, vectors))
    return float(explained_variance_ratio(pca).sum()), float(same.mean())


def nearest(x: jax.Array) -> jax.Array:
    """For each row the other row at the smallest distance."""
    squares = jnp.sum(x**2, axis=1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    return jnp.argmin(distances + jnp.diag(jnp.full(len(x), jnp.inf)), axis=1)


def variance_and_information(*, seed: int, full: bool):
    """Two classes that differ only along the direction of least variance."""
    del seed, full
    labels = np.repeat([False, True], 500)

    def bands(draw: int) -> jax.Array:
        random = np.random.RandomState(draw)
        across = 10 * random.randn(1000)
        return jnp.stack([across, np.where(labels, 1, -1) + 0.1 * random.randn(1000)], axis=1)

    def accuracies(draw: int) -> list[float]:
        x = bands(draw)
        codes = pca_encode(fit_pca_stream([x], rank=2), x)
        right = [nearest_class(code[:, None], labels, 2) == labels for code in codes.T]
        return [float(found.mean()) for found in right]

    kept, discarded = np.array([accuracies(draw) for draw in range(OTHERS + 1)]).T
    x = bands(0)
    pca = fit_pca_stream([x], rank=2)
    yield row(
        "need-variance-is-not-information",
        {
            "kept_variance": round(float(explained_variance_ratio(pca)[0]), 2),
            "accuracy_on_kept": kept[0],
            "accuracy_on_discarded": discarded[0],
            "mean_of_other_draws": {
                "accuracy_on_kept": kept[1:].mean(),
                "accuracy_on_discarded": discarded[1:].mean(),
            },
        },
        fit_pca_stream,
        pca_encode,
        explained_variance_ratio,
        flops=flops(pca_encode, pca, x, formula=pca_encode_flops(n=1000, d=2, r=2)),
        fitted=True,
        note=f"Each point goes to the class whose mean is nearer. {OURS}",
    )
    yield figures.two_classes(x, labels)


def nearest_class(codes: jax.Array, labels: np.ndarray, classes: int) -> jax.Array:
    """The class whose mean is nearest to each row."""
    member = jnp.asarray(labels == np.arange(classes)[:, None], float)
    means = member @ codes / member.sum(axis=1, keepdims=True)
    return jnp.argmin(jnp.sum((codes[:, None] - means) ** 2, axis=-1), axis=1)


def map_of_digits(*, seed: int, full: bool):
    """The digits as points in the plane of their first two components."""
    del seed, full
    pixels, labels = digits()
    x = jnp.asarray(pixels)
    pca = fit_pca(x, rank=x.shape[1])
    share = explained_variance_ratio(pca)
    plane = first(pca, 2)
    codes = pca_encode(plane, x)
    right = nearest_class(codes, labels, 10) == labels
    n, d = x.shape
    yield row(
        "need-pca-2d",
        {
            "share_2d": share[:2].sum(),
            "share_3d": share[:3].sum(),
            "nearest_centroid_accuracy_2d": round(float(right.mean()), 2),
        },
        fit_pca,
        explained_variance_ratio,
        pca_encode,
        flops=flops(pca_encode, plane, x, formula=pca_encode_flops(n=n, d=d, r=2)),
    )
    yield figures.digit_map(codes, labels)
    yield row(
        "need-tsne-umap-start",
        {
            "sklearn_tsne_default_init": inspect.signature(TSNE).parameters["init"].default,
            "umap_default_init": UMAP_DEFAULT_INIT,
        },
        "sklearn.manifold.TSNE",
        note="Read from the scikit-learn that is installed; UMAP's is the default that its "
        "documentation gives (umap-learn 0.5, API guide).",
    )


UMAP_DEFAULT_INIT = "spectral"


def denoising(*, seed: int, full: bool):
    """Few components drop the digit with the noise, many keep the noise with the digit."""
    del seed, full
    clean = jnp.asarray(digits()[0])
    n, d = clean.shape
    noisy = clean + 4 * np.random.RandomState(0).randn(n, d)
    pca = fit_pca(noisy, rank=d)
    counts = np.arange(1, d + 1)
    # All at once: of every digit the codes with the tail cut off, one row for each k.
    keep = counts[:, None] >= counts
    codes = pca_encode(pca, noisy)
    rebuilt = jax.lax.map(lambda kept: pca_decode(pca, codes * kept), jnp.asarray(keep, float))
    rmse = jnp.sqrt(jnp.mean((rebuilt - clean) ** 2, axis=(1, 2)))
    before = jnp.sqrt(jnp.mean((noisy - clean) ** 2))
    best = int(rmse.argmin())
    yield row(
        "need-pca-denoise",
        {
            "noisy_rmse": round(float(before), 2),
            "k16_rmse": round(float(rmse[15]), 2),
            "k4_rmse": round(float(rmse[3]), 2),
            "k64_rmse": round(float(rmse[63]), 2),
            "best_is_interior": 0 < best < d - 1,
            "best_k": counts[best],
        },
        fit_pca,
        pca_encode,
        pca_decode,
        flops=flops(pca_encode, pca, noisy, formula=pca_encode_flops(n=n, d=d, r=d)),
        note="To two digits; the components are those of the noisy digits.",
    )
    shown = slice(0, 8)
    rows = {"clean": clean, "noisy": noisy} | {f"k = {k}": rebuilt[k - 1] for k in (4, 16)}
    yield figures.denoised(
        counts, rmse, before, {name: x[shown].reshape(-1, 8, 8) for name, x in rows.items()}
    )


def fingerprints(*, seed: int, full: bool):
    """The eigenvalues of three tables, and over how many directions each is spread."""
    del seed, full
    tables = {
        "digits": digits()[0],
        "breast cancer": standardised(load_breast_cancer().data),
        "white noise": np.random.RandomState(0).randn(1797, 64),
    }
    fits = {name: fit_pca_stream([x], rank=x.shape[1]) for name, x in tables.items()}
    shares = {name: explained_variance_ratio(pca) for name, pca in fits.items()}
    # As many as there are equal shares would give this sum of squares.
    spread = {name: 1 / jnp.sum(share**2) for name, share in shares.items()}
    cancer = shares["breast cancer"]
    yield row(
        "need-spectrum-fingerprint",
        {
            "digits_participation": spread["digits"],
            "white_noise_participation": spread["white noise"],
            "breast_cancer_standardised_first": cancer[0],
            "breast_cancer_k95": len(
                fit_pca_stream([tables["breast cancer"]], variance=0.95).components
            ),
        },
        fit_pca_stream,
        explained_variance_ratio,
        note="The noise is as large as the digits, from RandomState(0).",
    )
    yield figures.spectra(shares)


def thousand_to_fifty(*, seed: int, full: bool):
    """A thousand numbers become fifty: with fifty directions in the data, and with none."""
    del seed, full
    n, d, k = 2000, 1000, 50

    def along_fifty(draw: int) -> jax.Array:
        random = np.random.RandomState(draw)
        directions = np.linalg.qr(random.randn(d, k))[0].T
        codes = random.randn(n, k) * np.linspace(30, 10, k)
        return jnp.asarray(codes @ directions + random.randn(n, d))

    noise = jnp.asarray(np.random.RandomState(0).randn(n, d))
    fits = {
        name: fit_pca_stream([x], rank=d)
        for name, x in (("structured", along_fifty(0)), ("white noise", noise))
    }
    share = {name: explained_variance_ratio(pca) for name, pca in fits.items()}
    variances = share["structured"]
    others = [
        explained_variance_ratio(fit_pca_stream([along_fifty(draw)], rank=k)).sum()
        for draw in range(1, OTHERS + 1)
    ]
    yield row(
        "matrices-1000-to-50",
        {
            "factor": d // k,
            "kept_when_structured": round(float(variances[:k].sum()), 3),
            "kept_when_white_noise": round(float(share["white noise"][:k].sum()), 2),
            "gap_after_50_over_20": bool(variances[k - 1] > 20 * variances[k]),
            "mean_of_other_draws": {
                "kept_when_structured": round(float(np.mean(others)), 3),
            },
        },
        fit_pca_stream,
        explained_variance_ratio,
        flops=flops(
            pca_encode,
            first(fits["structured"], k),
            noise,
            formula=pca_encode_flops(n=n, d=d, r=k),
        ),
        fitted=True,
        note=f"Fifty directions with deviations from 30 down to 10 in noise of deviation 1. "
        f"{OURS} The FLOP are of encoding all 2,000.",
    )
    yield figures.thousand(share, k)


def bottleneck(*, seed: int, full: bool):
    """A linear autoencoder learns by gradient descent what PCA computes."""
    del seed
    x = jnp.asarray(digits()[0]) / 16
    n, d = x.shape
    pca = fit_pca(x, rank=d)
    sizes = (2, 4, 8, 16) if full else (4, 8, 16)
    optimal = {k: mean_error(first(pca, k), x) for k in sizes}
    # The squared error of a linear autoencoder needs of the data only their covariance.
    covariance = (x - pca.mean).T @ (x - pca.mean) / n
    steps = jnp.broadcast_to(covariance, (800, d, d))
    optimizer = optax.adam(0.02)
    learned = {}
    for k in sizes:
        random = np.random.RandomState(0)
        weights = {
            "encoder": jnp.asarray(random.randn(d, k) / np.sqrt(d)),
            "decoder": jnp.asarray(random.randn(k, d) / np.sqrt(d)),
        }
        trained = fit(autoencoder_loss, weights, steps, optimizer=optimizer).params
        rebuilt = (x - pca.mean) @ trained["encoder"] @ trained["decoder"] + pca.mean
        learned[k] = jnp.mean(jnp.sum((x - rebuilt) ** 2, axis=1))
    yield row(
        "need-latent-bottleneck",
        {
            "bottleneck": 8,
            "pca_error": optimal[8],
            "autoencoder_within_1pct": bool(optimal[8] <= learned[8] <= 1.01 * optimal[8]),
            "autoencoder_error": round(float(learned[8]), 3),
        },
        fit_pca,
        pca_encode,
        pca_decode,
        fit,
        flops=flops(
            lambda x, w: x @ w["encoder"] @ w["decoder"],
            x,
            {"encoder": pca.components[:8].T, "decoder": pca.components[:8]},
            formula=2 * n * d * 8 * 2,
        ),
        note="Squared error of one digit with pixels in 0..1. The FLOP are of all digits "
        "through the eight units.",
    )
    yield figures.bottleneck(optimal, learned)


def mean_error(pca: PCA, x: jax.Array) -> jax.Array:
    """The squared error of a row through the components, on average."""
    return jnp.mean(jnp.sum((x - pca_decode(pca, pca_encode(pca, x))) ** 2, axis=1))


def autoencoder_loss(weights: dict, covariance: jax.Array) -> jax.Array:
    """Mean squared error of centred rows through an encoder and a decoder matrix."""
    missing = jnp.eye(len(covariance)) - weights["encoder"] @ weights["decoder"]
    return jnp.sum(missing * (covariance @ missing))
