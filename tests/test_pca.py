import json
import os
import socket
import subprocess
import sys
from functools import partial, reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR
from jax.test_util import check_grads
from oracles import differs, draw, exact

from lintoolkit.pca import (
    Moments,
    explained_variance_ratio,
    fit_pca,
    fit_pca_stream,
    merge_moments,
    moments,
    pca_decode,
    pca_encode,
    pca_of_moments,
)

RANK = 11

# Deviations, the first one 1; those of "very fast" reach 2e-5 within the rank.
SPECTRA = {
    "slow": lambda i: 1 / np.sqrt(i + 1),
    "fast": lambda i: 0.8**i,
    "very fast": lambda i: 2e-5 ** (i / (RANK - 1)),
}


def with_spectrum(rng, n, d, spectrum, dtype="float64"):
    """Rows with these deviations along random directions about a random mean."""
    k = min(n - 1, d)
    u = rng.standard_normal((n, k))
    u, v = (np.linalg.qr(a)[0] for a in (u - u.mean(axis=0), rng.standard_normal((d, k))))
    x = np.sqrt(n) * (u * SPECTRA[spectrum](np.arange(k))) @ v.T + rng.standard_normal(d)
    return jnp.asarray(x, dtype)


def reference(x):
    """Oracle: mean, components and variances by a full SVD in float64."""
    x = exact(x)
    mean = x.mean(axis=0)
    _, s, vt = np.linalg.svd(x - mean, full_matrices=False)
    largest = np.abs(vt).argmax(axis=1)
    vt *= np.sign(vt[np.arange(len(vt)), largest])[:, None]
    return mean, vt, s**2 / (len(x) - 1)


def assert_is_pca(fitted, x, rtol, gap=0.0):
    """Agrees with the oracle on all; on directions as far as their gaps allow."""
    mean, components, variances = reference(x)
    rank = len(fitted.components)
    assert fitted.ok
    size = np.sqrt(variances.sum())
    np.testing.assert_allclose(exact(fitted.mean), mean, atol=rtol * (size + abs(mean).max()))
    np.testing.assert_allclose(exact(fitted.total_variance), variances.sum(), rtol=rtol)
    deviations = np.sqrt(variances[:rank])
    # In the working precision of the rows, not of their squares.
    np.testing.assert_allclose(
        np.sqrt(exact(fitted.explained_variance)),
        deviations,
        rtol=rtol,
        atol=rtol * deviations[0] / 10,
    )
    found = exact(fitted.components)
    np.testing.assert_allclose(found @ found.T, np.eye(rank), atol=rtol)
    np.testing.assert_allclose(found, components[:rank], atol=max(gap, 100 * rtol))


def by_covariance(x, rank):
    """Control: deviations from all eigenvalues of the covariance, in the dtype of x."""
    y = x - x.mean(axis=0)
    square = y.T @ y if x.shape[0] > x.shape[1] else y @ y.T
    values = jnp.linalg.eigvalsh(square)[::-1][:rank]
    return np.sqrt(exact(jnp.maximum(values, 0)) / (len(x) - 1))


# Against a full SVD in float64


@pytest.mark.parametrize(
    ("shape", "dtype", "solver"),
    [
        ((211, 29), "float32", "auto"),  # all eigenvectors
        ((211, 29), "float64", "auto"),
        ((29, 211), "float32", "auto"),
        ((53, 53), "float32", "auto"),
        ((2503, 31), "float32", "auto"),  # and rows in blocks
        ((311, 131), "float32", "auto"),  # eigenvectors first, then products
        ((617, 523), "float32", "auto"),  # products alone
        ((131, 311), "float64", "krylov"),
        ((2503, 131), "float32", "krylov"),
    ],
)
def test_components_are_those_of_a_full_svd(rng, shape, dtype, solver):
    rtol = 1e-5 if dtype == "float32" else 1e-13
    for spectrum in SPECTRA:
        x = with_spectrum(rng, *shape, spectrum, dtype)
        fitted = fit_pca(x, rank=RANK, solver=solver)
        assert {part.dtype for part in fitted[:-1]} == {jnp.dtype(dtype)}
        assert_is_pca(fitted, x, rtol)
    # The last spectrum is out of the covariance's reach.
    deviations = np.sqrt(reference(x)[2][:RANK])
    found = np.sqrt(exact(fitted.explained_variance))
    np.testing.assert_allclose(found, deviations, rtol=1e-3)
    if dtype == "float32":  # control
        assert not np.allclose(by_covariance(x, RANK), deviations, rtol=0.5, atol=0)
