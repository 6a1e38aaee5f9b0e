"""Eigenvectors and principal components: directions that a matrix keeps, and that data take.

Rows are examples. Variances are divided by n, as the articles divide them; the library's are
divided by n - 1.
"""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer

from experiments.chapters.pca_uses import (
    bottleneck,
    compression,
    denoising,
    fingerprints,
    map_of_digits,
    thousand_to_fifty,
    variance_and_information,
)
from experiments.data import digits
from experiments.figures import pca as figures
from experiments.ledger import ARTICLES, claims
from experiments.rows import flops, row
from lintoolkit.eigen import power_iteration, top_eigh
from lintoolkit.pca import fit_pca, moments, pca_encode, pca_encode_flops
from lintoolkit.svd import svd


def kept_directions(*, seed: int, full: bool):
    """What a matrix does to its eigenvectors, and what other matrices do instead."""
    del seed, full
    matrix = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    values, vectors, _ = top_eigh(matrix, rank=2)
    yield row(
        "need-eigen-definition",
        {
            "eigenvalues": values[::-1],
            "residual_zero": bool(jnp.allclose(matrix @ vectors, values * vectors)),
            "vectors": jnp.abs(vectors.T[::-1]).round(6),
        },
        top_eigh,
        flops=flops(lambda a, v: a @ v, matrix, vectors[:, 0], formula=2 * 2 * 2),
        note="Magnitudes of the entries, as a vector's sign is free. The FLOP are of A v.",
    )
    yield figures.turned_or_not(matrix, values, vectors)

    anything = jnp.array([0.3, -0.7])
    turn = jnp.linalg.eigvals(jnp.array([[0.0, -1.0], [1.0, 0.0]]))
    mirror = jnp.diag(jnp.array([1.0, -1.0]))
    flipped = top_eigh(mirror, rank=2).vectors[:, 1]
    yield row(
        "need-eigen-every-other",
        {
            "identity_keeps_any_vector": bool(jnp.array_equal(jnp.eye(2) @ anything, anything)),
            "quarter_turn_eigenvalues": jnp.sort(turn.imag),
            "real_parts": turn.real,
            "negative_eigenvalue_flips": mirror @ flipped,
        },
        "jax.numpy.linalg.eigvals",
        top_eigh,
        note="The quarter turn's eigenvalues are ±i: their imaginary parts are shown.",
    )


def covariance(*, seed: int, full: bool):
    """The covariance of the digits: by its definition, and without the centring."""
    del seed, full
    x = jnp.asarray(digits()[0])
    n, d = x.shape
    _, mean, scatter = moments(x)
    matrix = scatter / n
    by_hand = sum(np.outer(r, r) for r in np.asarray(x) - np.asarray(x).mean(axis=0)) / n
    unbiased = jnp.cov(x.T)
    yield row(
        "need-covariance-formula",
        {
            "n": n,
            "shape": matrix.shape,
            "equals_matrix_form": bool(np.allclose(matrix, by_hand)),
            "equals_numpy_bias_true": bool(np.allclose(matrix, np.cov(x.T, bias=True))),
            "symmetric": bool(jnp.allclose(matrix, matrix.T)),
            "one_over_n_minus_1_ratio": jnp.trace(unbiased) / jnp.trace(matrix),
            "trace": jnp.trace(matrix),
        },
        moments,
        flops=flops(lambda c: c.T @ c, x - mean, formula=2 * n * d * d),
        note="Compared with one outer product for each digit, added up. The FLOP are of the "
        "product of the centred rows.",
    )

    first = fit_pca(x, rank=d).components[0]
    raw = x.T @ x / n
    top = top_eigh(raw, rank=1).vectors[:, 0]
    towards_mean = mean / jnp.linalg.norm(mean)
    centred = x - mean
    yield row(
        "matrices-covariance-uncentred",
        {
            "uncentred_is_covariance_plus_mean_outer": bool(
                jnp.allclose(raw, matrix + jnp.outer(mean, mean))
            ),
            "top_uncentred_vs_mean_direction": round(float(abs(top @ towards_mean)), 4),
            "top_uncentred_vs_true_pc1": round(float(abs(top @ first)), 4),
            "centred_formula_equals_covariance": bool(
                jnp.allclose(centred.T @ centred / n, matrix)
            ),
        },
        moments,
        fit_pca,
        top_eigh,
        flops=flops(lambda x: x.T @ x, x, formula=2 * n * d * d),
        note="Cosines to four digits. Without the centring, the first direction merely points "
        "at the mean.",
    )
    cloud = np.random.RandomState(0).randn(300, 2) * [1.6, 0.5] + [1.0, 4.0]
    axes = (np.linalg.svd(points)[2][0] for points in (cloud, cloud - cloud.mean(axis=0)))
    yield figures.uncentred(cloud, *axes)


def most_variance(*, seed: int, full: bool):
    """Eigenvectors of the covariance are the directions along which the digits vary most."""
    del full
    x = jnp.asarray(digits()[0])
    n, d = x.shape
    pca = fit_pca(x, rank=d)
    variances = pca.explained_variance * (n - 1) / n
    codes = pca_encode(pca, x)
    along = codes.var(axis=0)
    directions = np.random.RandomState(seed).randn(d, 500)
    directions /= np.linalg.norm(directions, axis=0)
    centred = x - x.mean(axis=0)
    decomposition = svd(centred)
    first = bool(jnp.allclose(decomposition.vt[0], pca.components[0]))
    counted = flops(pca_encode, pca, x, formula=pca_encode_flops(n=n, d=d, r=d))
    yield row(
        "need-pcs-max-variance",
        {
            "first_pc_variance": along[0],
            "equals_first_eigenvalue": bool(jnp.isclose(along[0], variances[0])),
            "best_of_500_random_directions_smaller": bool(
                (centred @ directions).var(axis=0).max() < along[0]
            ),
            "svd_agrees": first and bool(jnp.isclose(decomposition.s[0] ** 2 / n, along[0])),
        },
        fit_pca,
        pca_encode,
        svd,
        flops=counted,
    )
    correlated = codes.T @ codes / n
    yield row(
        "need-eigenvalues-are-variance",
        {
            "all_axes_match": bool(jnp.allclose(along, variances)),
            "sum_equals_total_variance": bool(
                jnp.isclose(variances.sum(), x.var(axis=0).sum())
            ),
            "total": variances.sum(),
            "decorrelated": bool(jnp.allclose(correlated, jnp.diag(variances), atol=1e-9)),
        },
        fit_pca,
        pca_encode,
        flops=counted,
    )
    matrix = moments(x).scatter / n
    start = jnp.asarray(np.random.RandomState(seed).randn(d))
    found = power_iteration(start, matrix, tol=1e-9)
    yield row(
        "matrices-eigenvectors-max-variance",
        {
            "power_iteration_finds_first": bool(
                jnp.isclose(abs(found.vector @ pca.components[0]), 1)
            ),
            "rayleigh": found.vector @ matrix @ found.vector,
            "first_eigenvalue": variances[0],
            "iterations": found.iterations,
        },
        power_iteration,
        fit_pca,
        flops=flops(lambda v, a: a @ v, start, matrix, formula=2 * d * d),
        note="The FLOP are of one iteration; how many it takes depends on the start.",
    )


def correlations(*, seed: int, full: bool):
    """Measurements of one thing go together: thirty numbers about each of 569 tumours."""
    del seed, full
    table = jnp.asarray(load_breast_cancer().data)
    _, _, scatter = moments(table)
    scale = jnp.sqrt(jnp.diagonal(scatter))
    r = scatter / scale / scale[:, None]
    pairs = r[np.triu_indices(len(r), 1)]
    yield row(
        "matrices-correlated-features",
        {
            "features": len(r),
            "pairs": pairs.size,
            "pairs_over_0_7": (pairs > 0.7).sum(),
            "largest": round(float(pairs.max()), 4),
        },
        moments,
        note="Thirty here; the article speaks of hundreds.",
    )
    yield figures.correlations(r)


def who_needs_eigenvectors(*, seed: int, full: bool):
    """Whether the articles can do without the subject that one of them advises to skip."""
    del seed, full
    about = {c.article for c in claims().values() if c.chapter in ("pca", "svd")}
    needed = [name for name in ARTICLES if name in about - {"calculus"}]
    yield row(
        "calculus-skip-svd-eigen",
        {"documents_in_this_set_that_need_eigen_or_svd": len(needed), "documents": needed},
        note="Counted: the other articles with claims in the chapters on PCA and SVD.",
    )


EXPERIMENTS = (
    kept_directions,
    covariance,
    most_variance,
    correlations,
    compression,
    variance_and_information,
    map_of_digits,
    denoising,
    fingerprints,
    thousand_to_fifty,
    bottleneck,
    who_needs_eigenvectors,
)
