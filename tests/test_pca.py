import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR
from jax.test_util import check_grads
from oracles import Stored, differs, draw, exact

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


def assert_is_pca(fitted, x, rtol, directions=None):
    """Agrees with the oracle; in directions to 100 times the tolerance, or as told."""
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
    np.testing.assert_allclose(found, components[:rank], atol=directions or 100 * rtol)


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
        # Steps end when values are right to eps: vectors are to its root.
        assert_is_pca(fitted, x, rtol, rtol**0.5 if solver == "krylov" else None)
    # The last spectrum is out of the covariance's reach.
    deviations = np.sqrt(reference(x)[2][:RANK])
    found = np.sqrt(exact(fitted.explained_variance))
    np.testing.assert_allclose(found, deviations, rtol=1e-3)
    if dtype == "float32":  # control
        assert not np.allclose(by_covariance(x, RANK), deviations, rtol=0.5, atol=0)


def test_columns_of_rounding_take_nothing_from_the_largest(rng):
    # What lies below the rounding of the first direction leans on it, in the dtype of x.
    for _ in range(6):
        u, v = (np.linalg.qr(rng.standard_normal((53, 53)))[0] for _ in range(2))
        x = jnp.asarray((u * 2e-5 ** (np.arange(53) / 10)) @ v.T, jnp.float32)
        found = fit_pca(x, rank=5)
        deviations = np.sqrt(reference(x)[2][:5])
        np.testing.assert_allclose(np.sqrt(exact(found.explained_variance)), deviations, 4e-6)


def test_half_precision_is_computed_in_float32(rng):
    x = with_spectrum(rng, 53, 7, "slow", "bfloat16")
    fitted = fit_pca(x, rank=3)
    assert {part.dtype for part in fitted[:-1]} == {jnp.dtype("float32")}
    assert_is_pca(fitted, x, 1e-5)


@pytest.mark.parametrize("n", [211, 2503])
def test_a_large_mean_does_not_drown_the_deviations(rng, n):
    x = jnp.asarray(1e4 + rng.standard_normal((n, 29)) * np.linspace(1, 2, 29), "float32")
    expected = reference(x)[2]
    state = moments(x)
    for fitted in (fit_pca(x, rank=29), pca_of_moments(state, rank=29)):
        np.testing.assert_allclose(fitted.explained_variance, expected, rtol=1e-4)
        np.testing.assert_allclose(fitted.total_variance, expected.sum(), rtol=1e-4)
    mean = x.mean(axis=0)
    uncentred = np.linalg.eigvalsh(x.T @ x - n * mean[:, None] * mean)[::-1] / (n - 1)
    assert differs(uncentred, expected)  # control


# Laws


def test_all_components_hold_all_variance_and_any_shift_the_same(rng):
    x = draw(rng, 31, 7)
    fitted = fit_pca(x, rank=7)
    np.testing.assert_allclose(fitted.explained_variance.sum(), fitted.total_variance)
    np.testing.assert_allclose(fitted.total_variance, x.var(axis=0, ddof=1).sum())
    np.testing.assert_allclose(explained_variance_ratio(fitted).sum(), 1)
    some = fit_pca(x, rank=3)
    ratio = some.explained_variance / x.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(explained_variance_ratio(some), ratio)
    shift = 100 * draw(rng, 7)
    moved = fit_pca(x + shift, rank=7)
    np.testing.assert_allclose(moved.mean, fitted.mean + shift)
    np.testing.assert_allclose(moved.explained_variance, fitted.explained_variance)
    np.testing.assert_allclose(moved.components, fitted.components, atol=1e-11)
    order = rng.permutation(31)
    mixed = fit_pca(x[order], rank=7)
    np.testing.assert_allclose(mixed.components, fitted.components, atol=1e-12)


@pytest.mark.parametrize("shape", [(31, 7), (5, 13)])
def test_the_largest_entry_of_a_component_is_positive(rng, shape):
    for x in (draw(rng, *shape), -draw(rng, *shape)):
        components = fit_pca(x, rank=4).components
        assert (components.max(axis=1) == jnp.abs(components).max(axis=1)).all()


def test_codes_are_coordinates_and_decode_to_the_projection(rng):
    x, other = draw(rng, 31, 7), draw(rng, 2, 3, 7)
    fitted = fit_pca(x, rank=3)
    mean, components, variances = reference(x)
    components = components[:3]
    codes = pca_encode(fitted, other)
    np.testing.assert_allclose(codes, (exact(other) - mean) @ components.T, atol=1e-12)
    projected = mean + (exact(other) - mean) @ components.T @ components
    np.testing.assert_allclose(pca_decode(fitted, codes), projected, atol=1e-12)
    np.testing.assert_allclose(pca_decode(fitted, pca_encode(fitted, projected)), projected)
    lost = jnp.square(x - pca_decode(fitted, pca_encode(fitted, x))).sum() / 30
    np.testing.assert_allclose(lost, variances[3:].sum())

    white = pca_encode(fitted, x, whiten=True)
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-12)
    assert differs(np.cov(pca_encode(fitted, x).T), np.eye(3))  # control
    again = pca_decode(fitted, white, whiten=True)
    np.testing.assert_allclose(again, pca_decode(fitted, pca_encode(fitted, x)), atol=1e-12)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95, 0.999, 1.0])
def test_a_share_of_the_variance_takes_the_fewest_components(rng, share):
    x = draw(rng, 31, 13) * jnp.linspace(1, 5, 13)
    shares = reference(x)[2] / reference(x)[2].sum()
    rank = 13 if share == 1 else int((np.cumsum(shares) < share).sum()) + 1
    chunks = [x[:11], x[11:]]
    for fitted in (fit_pca(x, variance=share), fit_pca_stream(chunks, variance=share)):
        assert fitted.components.shape == (rank, 13)
        assert fitted.explained_variance.shape == (rank,)
        np.testing.assert_allclose(explained_variance_ratio(fitted), shares[:rank])


def test_rows_that_do_not_differ_have_no_variance():
    x = jnp.broadcast_to(jnp.array([3.0, -0.1, 1e6]), (5, 3))
    for fitted in (fit_pca(x, rank=2), pca_of_moments(moments(x), rank=2)):
        assert fitted.ok
        assert fitted.total_variance == 0
        assert (fitted.explained_variance == 0).all()
        assert (explained_variance_ratio(fitted) == 0).all()
        np.testing.assert_allclose(fitted.components @ fitted.components.T, jnp.eye(2))
        assert (pca_encode(fitted, x, whiten=True) == 0).all()
        np.testing.assert_allclose(pca_decode(fitted, pca_encode(fitted, x)), x)
    assert len(fit_pca(x, variance=1.0).components) <= 3


def test_a_constant_column_takes_no_part(rng):
    x = draw(rng, 31, 7).at[:, 2].set(1e3)
    fitted = fit_pca(x, rank=7)
    np.testing.assert_allclose(fitted.components[:6, 2], 0, atol=1e-12)
    np.testing.assert_allclose(fitted.explained_variance[6], 0, atol=1e-12)
    rest = fit_pca(jnp.delete(x, 2, axis=1), rank=6)
    np.testing.assert_allclose(fitted.explained_variance[:6], rest.explained_variance)


# Rows that do not count


@pytest.mark.parametrize("shape", [(31, 7), (13, 29), (2503, 7)])
@pytest.mark.parametrize("garbage", [1e30, -1.7e308, jnp.nan])
def test_masked_rows_are_as_if_dropped(rng, shape, garbage):
    where = rng.random(shape[0]) < 0.8
    x = draw(rng, *shape)
    x = jnp.where(where[:, None], x, garbage)
    kept, mask = x[np.flatnonzero(where)], jnp.asarray(where)
    masked = fit_pca(x, rank=5, where=mask)
    for part, expected in zip(masked, fit_pca(kept, rank=5), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-10, atol=1e-12)
    for part, expected in zip(moments(x, where=mask), moments(kept), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-10, atol=1e-12)
    assert masked.ok
    control = fit_pca(x, rank=5)
    assert not control.ok or differs(control.mean, masked.mean)


def test_one_row_that_counts_is_too_few(rng):
    x = draw(rng, 7, 3)
    for where in (jnp.arange(7) == 3, jnp.zeros(7, bool)):
        fitted = fit_pca(x, rank=2, where=where)
        assert not fitted.ok
        assert np.isnan(fitted.components).all()
        assert np.isnan(fitted.explained_variance).all()
        assert not pca_of_moments(moments(x, where=where), rank=2).ok


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("shape", [(31, 7), (7, 31)])
def test_a_bad_item_is_flagged_and_spares_its_neighbours(rng, shape, bad):
    x = draw(rng, 3, *shape)
    fit = partial(fit_pca, rank=3)
    good = jax.vmap(fit)(x)
    found = jax.vmap(fit)(x.at[1, 4, 2].set(bad))
    assert found.ok.tolist() == [True, False, True]
    for part, expected in zip(found[:-1], good[:-1], strict=True):
        assert np.isnan(part[1]).all()
        np.testing.assert_array_equal(part[::2], expected[::2])
    assert not fit_pca(x[1].at[4, 2].set(bad), variance=0.5).ok
    assert not fit_pca_stream([x[0], x[1].at[4, 2].set(bad)], rank=2).ok


# Sparse rows


@pytest.mark.parametrize("shape", [(211, 29), (29, 211), (131, 311)])
@pytest.mark.parametrize("kind", [BCOO, BCSR])
def test_sparse_rows_are_as_if_dense(rng, shape, kind):
    x = 1 + draw(rng, *shape) * jnp.asarray(rng.random(shape[1]))
    x = x * jnp.asarray(rng.random(shape) < 0.1, x.dtype)
    fitted = fit_pca(kind.fromdense(x), rank=5)
    assert_is_pca(fitted, x, 1e-12, 1e-6)


@pytest.mark.parametrize("stored", ["once", "in parts"])
def test_sparse_rows_far_from_zero_keep_their_variance(rng, stored):
    x = np.zeros((20_011, 13), np.float32)  # a year beside what is mostly not there
    x[:, 0] = 2015 + rng.integers(-5, 6, len(x))
    x[np.arange(len(x)), rng.integers(1, 13, len(x))] = 1
    sparse = BCOO.fromdense(jnp.asarray(x))
    if stored == "in parts":
        parts = jnp.concatenate([sparse.data / 4, 3 * sparse.data / 4])
        sparse = BCOO((parts, jnp.concatenate([sparse.indices] * 2)), shape=x.shape)
    found = fit_pca(sparse, rank=5)
    deviations = x.astype(float) - x.mean(axis=0, dtype=float)
    values = np.linalg.svd(deviations, compute_uv=False) ** 2 / (len(x) - 1)
    assert found.ok
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(found.total_variance, values.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.explained_variance, values[:5], rtol=1e-3)
    entries, mean = exact(sparse.data), exact(found.mean)
    control = np.float32((entries**2).sum()) - np.float32(len(x) * (mean**2).sum())
    assert abs(control / (len(x) - 1) / values.sum() - 1) > 0.01


@pytest.mark.parametrize("scale", [1e-23, 1e-30])
def test_variances_that_leave_the_range_are_nan(rng, scale):
    x = draw(rng, 31, 7, dtype="float32")
    assert fit_pca(x, rank=3).ok
    fitted = fit_pca(x * jnp.float32(scale), rank=3)
    assert not fitted.ok
    assert np.isnan(fitted.components).all()


def test_sparse_rows_are_not_made_dense(rng):
    n, d, stored = 3001, 907, 2000
    places = jnp.asarray(rng.integers(0, (n, d), (stored, 2)))
    x = BCOO((draw(rng, stored, dtype="float32"), places), shape=(n, d))
    temps = lambda f, x: jax.jit(f).lower(x).compile().memory_analysis().temp_size_in_bytes
    fit = partial(fit_pca, rank=5)
    assert temps(fit, x) < 4 * n * d / 2
    assert temps(lambda x: fit(x.todense()), x) > 4 * n * d  # control


# States that merge


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([1, 3, 11]), min_size=1, max_size=7),
    st.integers(0, 999),
    st.sampled_from(["float32", "float64"]),
)
def test_moments_of_any_parts_in_any_order_merge_into_the_whole(sizes, seed, dtype):
    rng = np.random.default_rng(seed)
    x = draw(rng, sum(sizes), 5, dtype=dtype) + 100
    parts = [moments(part) for part in jnp.split(x, np.cumsum(sizes)[:-1])]
    parts = [parts[i] for i in rng.permutation(len(parts))]
    while len(parts) > 1:  # any two neighbours, so any tree
        i = rng.integers(len(parts) - 1)
        parts[i : i + 2] = [merge_moments(*parts[i : i + 2])]
    n, mean, scatter = parts[0]
    wide = exact(x)
    centred = wide - wide.mean(axis=0)
    eps = 100 * float(jnp.finfo(dtype).eps)
    assert n == len(x)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=eps)
    np.testing.assert_allclose(scatter, centred.T @ centred, rtol=0, atol=1e3 * eps * len(x))


def test_no_rows_change_nothing(rng):
    some = moments(draw(rng, 13, 3))
    empty = Moments(jnp.zeros(()), jnp.zeros(3), jnp.zeros((3, 3)))
    for merged in (merge_moments(some, empty), merge_moments(empty, some)):
        for part, expected in zip(merged, some, strict=True):
            np.testing.assert_array_equal(part, expected)
    for part in merge_moments(empty, empty):
        assert (part == 0).all()


@pytest.mark.parametrize("n", [211, 2503])
def test_components_of_moments_are_those_of_the_rows(rng, n):
    x = with_spectrum(rng, n, 29, "slow")
    parts = [moments(part) for part in (x[:97], x[97:])]
    fitted = pca_of_moments(merge_moments(*parts), rank=RANK)
    assert_is_pca(fitted, x, 1e-12)


# Streams


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_is_as_if_in_memory(rng, tmp_path, dtype):
    x = np.asarray(with_spectrum(rng, 211, 29, "slow", dtype))
    np.save(tmp_path / "rows.npy", x)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    safetensors.numpy.save_file({"rows": x}, tmp_path / "rows.safetensors")
    file = safetensors.safe_open(tmp_path / "rows.safetensors", framework="numpy")
    parts = np.split(x, [1, 80, 103])  # each of another length
    rtol = 1e-5 if dtype == "float32" else 1e-12
    for chunks, rows in (
        (parts, 1),
        ((part for part in parts), 1),
        ((jnp.asarray(part) for part in parts), 1),
        (mapped, 64),
        (mapped, 1000),
        (file.get_slice("rows"), 64),
        (x, 65),
    ):
        fitted = fit_pca_stream(chunks, rank=RANK, chunk_rows=rows)
        assert {part.dtype for part in fitted[:-1]} == {jnp.dtype(dtype)}
        assert_is_pca(fitted, x, rtol)


def test_stored_rows_are_read_once_and_in_order(rng):
    x = np.asarray(with_spectrum(rng, 211, 29, "slow"))
    stored = Stored(x)
    fitted = fit_pca_stream(stored, rank=RANK, chunk_rows=64)
    assert bits(fitted) == bits(fit_pca_stream(x, rank=RANK, chunk_rows=64))
    assert stored.read == [(0, 64, None), (64, 128, None), (128, 192, None), (192, 211, None)]


class DiedError(Exception):
    pass


class Counted:
    """Rows that count the slices taken of them, and end in an exception at one."""

    def __init__(self, rows, until=np.inf):
        self.rows, self.shape, self.taken, self.until = rows, rows.shape, 0, until

    def __getitem__(self, at):
        if len(self.rows[at]) > 1:
            self.taken += 1
        if self.taken > self.until:
            raise DiedError
        return self.rows[at]


def bits(fitted):
    return [np.asarray(part).tobytes() for part in fitted]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_stream_that_died_goes_on_to_the_same_bits(rng, tmp_path, dtype):
    x = np.asarray(with_spectrum(rng, 211, 29, "slow", dtype))
    fit = partial(fit_pca_stream, rank=RANK, chunk_rows=16, shards=5)
    rows = Counted(x)
    undisturbed = fit(rows, checkpoint=tmp_path / "whole")
    assert rows.taken == 15  # three chunks a shard
    assert_is_pca(undisturbed, x.astype("float64"), 1e-12 if dtype == "float64" else 1e-5)
    for until in (2, 4, 7):
        with pytest.raises(DiedError):
            fit(Counted(x, until), checkpoint=tmp_path / "died")
    rows = Counted(x)
    assert bits(fit(rows, checkpoint=tmp_path / "died")) == bits(undisturbed)
    assert 0 < rows.taken < 15
    rows = Counted(x)
    assert bits(fit(rows, checkpoint=tmp_path / "died")) == bits(undisturbed)
    assert rows.taken == 0
    assert len([*(tmp_path / "died").iterdir()]) == 5
    # Control: another order of the sums shows in the bits.
    assert bits(fit(x, checkpoint=tmp_path / "four", shards=4)) != bits(undisturbed)


@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_a_damaged_shard_is_made_again(rng, tmp_path, kind):
    x = np.asarray(with_spectrum(rng, 211, 29, "slow", "float64"))
    fit = partial(fit_pca_stream, rank=RANK, chunk_rows=16, shards=5, checkpoint=tmp_path)
    undisturbed = fit(x)
    path = tmp_path / "00003.safetensors"
    raw = path.read_bytes()
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 4]) * (kind == "flip") + raw[-8:])
    rows = Counted(x)
    assert bits(fit(rows)) == bits(undisturbed)
    assert rows.taken == 3
    assert bits(fit(rows)) == bits(undisturbed)
    assert rows.taken == 3


def test_moments_of_other_rows_are_refused(rng, tmp_path):
    x = np.asarray(with_spectrum(rng, 211, 29, "slow", "float64"))
    fit = partial(fit_pca_stream, rank=RANK, shards=5, checkpoint=tmp_path)
    fit(x)
    last = x.copy()
    last[42] += 100  # of the first shard
    for other, options in (
        (x + 1, {}),
        (last, {}),
        (x[:-1], {}),
        (x.astype("float32"), {}),
        (x, {"chunk_rows": 9}),
    ):
        with pytest.raises(
            ValueError, match=r"checkpoint holds moments of other rows, .*00000"
        ):
            fit(other, **options)


# Derivatives


def corners(kind):
    """Rows about zero; two largest deviations are equal, or not."""
    first, second = {"repeated": (2.0, 2.0), "distinct": (3.0, 2.0)}[kind]
    tall = np.concatenate([np.diag([first, second, 1]), -np.diag([first, second, 1])])
    wave = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    wide = wave * [first, second, 1] @ np.eye(3, 7)
    return {"tall": jnp.asarray(tall), "wide": jnp.asarray(wide)}


def rebuilt(x, **options):
    fitted = fit_pca(jnp.asarray(x), rank=2, **options)
    return pca_decode(fitted, pca_encode(fitted, jnp.asarray(x)))


@pytest.mark.parametrize("kind", ["repeated", "distinct"])
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_derivatives_are_those_of_differences(kind, shape):
    x = corners(kind)[shape]
    padded = jnp.zeros((len(x) + 2, x.shape[1])).at[1:-1].set(x).at[jnp.array([0, -1])].set(5)
    mask = jnp.ones(len(padded), bool).at[jnp.array([0, -1])].set(False)
    for of in (
        rebuilt,
        lambda x, **o: fit_pca(jnp.asarray(x), rank=2, **o).explained_variance.sum(),
        lambda x, **o: fit_pca(jnp.asarray(x), rank=2, **o).total_variance,
        lambda x, **o: fit_pca(jnp.asarray(x), rank=1, **o).mean,
    ):
        check_grads(of, (x,), order=1)
        check_grads(partial(of, where=mask), (padded,), order=1)


def test_derivatives_by_the_plain_road_are_not_finite_where_variances_repeat():
    def plain(x):
        y = x - x.mean(axis=0)
        _, _, vt = jnp.linalg.svd(y, full_matrices=False)
        return (y @ vt[:2].T @ vt[:2]).sum()

    def by_covariance(x):
        y = x - x.mean(axis=0)
        v = jnp.linalg.eigh(y.T @ y)[1][:, ::-1][:, :2]
        return (y @ v @ v.T).sum()

    for x in corners("repeated").values():
        for naive in (plain, by_covariance):
            assert not np.isfinite(jax.grad(naive)(x)).all()
        assert np.isfinite(jax.grad(lambda x: rebuilt(x).sum())(x)).all()


# Where the rows do not fit, or are not all in one place

ROOT = Path(__file__).parent.parent


def run(program, *args, background=False):
    """Run a program in a process of its own, which prints one line of JSON."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process if background else result(process)


def result(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def as_pca(parts):
    return [np.asarray(parts[name]) for name in ("mean", "components", "variances")]


OUT_OF_CORE = """
import json, re, resource, sys
from pathlib import Path
import numpy as np
from lintoolkit.pca import fit_pca_stream

rows = np.load(sys.argv[1], mmap_mode="r")
fit = lambda rows: fit_pca_stream(rows, rank=5, chunk_rows=8192)
fit(rows[:8192])  # compiled before the limit holds
used = int(re.search(r"VmData:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
room = used + rows.nbytes // 2
resource.setrlimit(resource.RLIMIT_DATA, (room, room))
fitted = fit(rows)
try:
    np.load(sys.argv[1])
    loads = True
except MemoryError:
    loads = False
print(json.dumps({
    "loads": loads,
    "mean": fitted.mean.tolist(),
    "components": fitted.components.tolist(),
    "variances": fitted.explained_variance.tolist(),
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data")
def test_a_stream_needs_the_memory_of_a_chunk(rng, tmp_path):
    n, d = 200_003, 64
    x = rng.standard_normal((n, d), "float32") * np.linspace(5, 1, d, dtype="float32") + 3
    np.save(tmp_path / "rows.npy", x)
    found = run(OUT_OF_CORE, tmp_path / "rows.npy")
    assert not found["loads"]  # control
    mean, components, variances = as_pca(found)
    wide = x.astype(float)
    values, vectors = np.linalg.eigh(np.cov(wide.T))
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variances, values[::-1][:5], rtol=1e-5)
    cosines = np.abs((components * vectors.T[::-1][:5]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)


SHARDED = """
import json, re, sys
from functools import partial
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from lintoolkit.pca import fit_pca, moments

jax.config.update("jax_num_cpu_devices", 8)
n, d = int(sys.argv[1]), int(sys.argv[2])
rows = np.random.default_rng(0).standard_normal((n, d)) * 0.7 ** np.arange(d) + 2
padded = np.full((-(-n // 8) * 8, d), 7.0)
padded[:n] = rows
alone = fit_pca(jnp.asarray(rows, "float32"), rank=5)
fit = partial(fit_pca, rank=5)

def numbers(result):
    sides = re.findall(r"\\w+\\[([\\d,]*)\\]", result)
    return sum(int(np.prod([int(side) for side in s.split(",") if side])) for s in sides)

def error(fitted):
    off = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(fitted[:-1], alone[:-1])]
    return float(max(off))

def on(mesh):
    by_rows = NamedSharding(mesh, PartitionSpec("rows"))
    x = jax.device_put(padded.astype("float32"), by_rows)
    where = jax.device_put(np.arange(len(padded)) < n, by_rows)
    program = jax.jit(lambda x, where: fit(x, where=where)).lower(x, where).compile()
    text = program.as_text()
    inside, outside = program(x, where), fit(x, where=where)
    count, mean, scatter = moments(x, where=where)
    centred = rows - rows.mean(0)
    return {
        "errors": [error(inside), error(outside)],
        "moments": [
            float(abs(count - n)),
            float(np.abs(mean - rows.mean(0)).max()),
            float(np.abs(scatter / n - centred.T @ centred / n).max()),
        ],
        "sums": [numbers(r) for r in re.findall(r"= (.*?) all-reduce(?:-start)?\\(", text)],
        "others": sorted(set(re.findall(
            r"(all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)",
            text,
        ))),
        "temp": program.memory_analysis().temp_size_in_bytes,
        "shard": x.nbytes // 8,
    }

kinds = AxisType.Auto, AxisType.Explicit
print(json.dumps({
    kind.name: on(jax.make_mesh((8,), ("rows",), axis_types=(kind,))) for kind in kinds
}))
"""


@pytest.mark.parametrize("shape", [(40_003, 31), (24_005, 131)])  # all eigenvectors, or steps
def test_only_sums_over_rows_travel_between_devices(shape):
    d = shape[1]
    by_kind = run(SHARDED, *shape)
    assert set(by_kind) == {"Auto", "Explicit"}
    for found in by_kind.values():
        assert max(found["errors"]) < 2e-6
        assert max(found["moments"]) < 1e-4
        assert found["others"] == []
        assert found["sums"]
        assert max(found["sums"]) <= d**2 + d
        # The centred rows, at most as many numbers again along them, and matrices of d by d.
        assert found["temp"] < 2 * found["shard"] + (32 * d**2 if d < 99 else 0)


PROCESS = """
import hashlib, json, os, signal, sys
from functools import partial
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from lintoolkit.pca import fit_pca, fit_pca_stream, moments

path, folder, port = sys.argv[1:4]
count, process, dies = map(int, sys.argv[4:])
jax.config.update("jax_num_cpu_devices", 1)
if count > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}", count, process, cluster_detection_method="deactivate",
        coordinator_bind_address=f"127.0.0.1:{port}",
        initialization_timeout=60, shutdown_timeout_seconds=30,
    )
rows = np.load(path)
size = len(rows) // count
own = slice(process * size, (process + 1) * size)
mesh = jax.make_mesh((count,), ("rows",), axis_types=(AxisType.Auto,))
by_rows = NamedSharding(mesh, PartitionSpec("rows"))
share = partial(jax.make_array_from_process_local_data, by_rows)
where = np.arange(len(rows)) < len(rows) - 3
x, where = share(rows[own]), share(where[own])
fitted = fit_pca(x, rank=5, where=where)
state = moments(x, where=where)

class Rows:
    shape, taken = rows.shape, 0

    def __getitem__(self, at):
        self.taken += 1
        if self.taken == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows[at]

streamed = fit_pca_stream(Rows(), rank=5, chunk_rows=2048, checkpoint=folder, shards=5)
print(json.dumps({
    "mean": fitted.mean.tolist(),
    "components": fitted.components.tolist(),
    "variances": fitted.explained_variance.tolist(),
    "scatter": state.scatter.tolist(),
    "streamed": hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in streamed)).hexdigest(),
}))
"""


def test_processes_that_share_the_rows_find_what_one_finds(rng, tmp_path):
    """Within rounding where they add up over a mesh; to the bit by shards, after a kill too."""
    x = rng.standard_normal((24_004, 31)) * 0.7 ** np.arange(31) + 2
    path = tmp_path / "rows.npy"
    np.save(path, x.astype("float32"))
    expected = fit_pca(jnp.asarray(x[:-3], "float32"), rank=5)
    scatter = moments(jnp.asarray(x[:-3], "float32")).scatter
    killed = run(PROCESS, path, tmp_path / "2", 0, 1, 0, 16, background=True)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len([*(tmp_path / "2").glob("[!.]*")]) == 1
    streamed = set()
    for count in (1, 2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        workers = [
            run(PROCESS, path, tmp_path / f"{count}", port, count, i, 0, background=True)
            for i in range(count)
        ]
        for worker in workers:
            found = result(worker)
            for part, whole in zip(as_pca(found), expected, strict=False):
                np.testing.assert_allclose(part, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
            np.testing.assert_allclose(
                found["scatter"], scatter, rtol=0, atol=2e-6 * scatter.max()
            )
            streamed.add(found["streamed"])
    assert len(streamed) == 1
