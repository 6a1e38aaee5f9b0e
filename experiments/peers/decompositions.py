"""Truncated SVD and PCA beside scikit-learn, ARPACK, torch, fbpca and NumPy.

``python -m experiments.peers.decompositions [SHAPE ...]`` runs every spectrum at the shapes
named (all of them if none is), such as 20000x1000, or ``batch``, and puts the rows into
results/<platform>/decompositions.json. Errors are relative excesses over the optimum, in
float64. Ours also runs with LAPACK on one thread: its threads wait in a loop for a while after
each call, on cores that XLA's next product needs. On a GPU the peers are torch's there and
cuSOLVER's whole SVD, the latter once a shape: its time does not hang on the spectrum.
"""

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.peers.measure import ON_GPU, medians, product_rate, timed, write
from lintoolkit import pca, svd
from lintoolkit._triplets import Leading, leading, products_of
from lintoolkit.cost import cost

if not ON_GPU:
    import fbpca
    import threadpoolctl
    from scipy.sparse.linalg import svds
    from sklearn.decomposition import PCA
    from sklearn.utils.extmath import randomized_svd

SHAPES = ((20000, 1000), (100000, 256), (2000, 2000), (1000, 20000), (60000, 784))
RANK, ROUNDS = 50, 5 if ON_GPU else 3
PEERS = ("torch",) if ON_GPU else ("scikit-learn", "scipy", "torch", "fbpca", "numpy")
WHOLE = "cuSOLVER, all triplets"
ONE_THREAD = "lintoolkit, LAPACK on one thread"


def matrices(n: int, d: int, *, seed: int):
    """Float32 matrices of known spectra: slow, fast, very fast, and a signal under noise."""
    rng = np.random.default_rng(seed)
    r = min(n, d)
    u, v = (
        np.linalg.qr(rng.standard_normal((side, r), dtype=np.float32))[0] for side in (n, d)
    )
    i = np.arange(1, r + 1)
    for name, s in {
        "slow": i**-0.5,
        "fast": np.exp(-i / 7),
        "very fast": 2e-5 ** ((i - 1) / (RANK - 1)),
    }.items():
        yield name, np.ascontiguousarray((u * s.astype(np.float32)) @ v.T)
    noise = rng.standard_normal((n, d), dtype=np.float32) / np.sqrt(n + d).astype(np.float32)
    signal = (u[:, :20] * (10 / i[:20]).astype(np.float32)) @ v[:, :20].T
    yield "noise", signal + noise


def spectrum(x: np.ndarray) -> np.ndarray:
    """Singular values from the smaller Gram matrix: enough to tell norms of differences."""
    a = on_device(x)
    square = a @ a.T if x.shape[0] < x.shape[1] else a.T @ a
    return np.sqrt(np.maximum(torch.linalg.eigvalsh(square).cpu().numpy()[::-1], 0))


def on_device(x: np.ndarray) -> torch.Tensor:
    """The same numbers in torch, where it computes."""
    return torch.from_numpy(x).to("cuda" if ON_GPU else "cpu")


def as_numpy(x: Any) -> np.ndarray:
    """The numbers of an array of any library."""
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def excess(x: np.ndarray, factors: Any, best: float) -> float:
    """How far above the best the spectral error of an approximation is."""
    u, s, vt = (np.asarray(part, np.float64) for part in factors)
    return float(spectrum(x - (u * s) @ vt)[0] / best - 1)


OURS = {
    "svd": jax.jit(partial(svd.truncated_svd, rank=RANK)),
    "pca": jax.jit(partial(pca.fit_pca, rank=RANK)),
}


@partial(jax.jit, static_argnames="task")
def search(a: jax.Array, task: str) -> Leading:
    """What our programs find their triplets with, and how many steps that takes."""
    centre = a.mean(axis=0) if task == "pca" else None
    return leading(products_of(a, centre), None, rank=RANK, tol=None, max_restarts=30)


def on_one_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call, and its end, while no library for linear algebra uses more threads."""
    controller = threadpoolctl.ThreadpoolController()

    def limited() -> Any:
        with controller.limit(limits=1, user_api="blas"):
            return jax.block_until_ready(call())

    return limited


def decompose(x: np.ndarray, *, whole: bool) -> dict[str, Callable[[], Any]]:
    """The contenders for the 50 leading triplets."""
    a, t = jnp.asarray(x), on_device(x)
    in_torch = lambda q: torch.svd_lowrank(t, RANK + 10, niter=q)
    calls = {
        "lintoolkit": lambda: OURS["svd"](a),
        "torch svd_lowrank": lambda: in_torch(2),
        "torch svd_lowrank, niter 7": lambda: in_torch(7),
    }
    if not ON_GPU:
        calls |= {
            ONE_THREAD: on_one_thread(calls["lintoolkit"]),
            "sklearn randomized_svd": lambda: randomized_svd(x, RANK, random_state=0),
            "scipy svds": lambda: svds(x, RANK),
            "fbpca": lambda: fbpca.pca(x, RANK, raw=True),
        }
    elif whole:
        calls[WHOLE] = lambda: jnp.linalg.svd(a, full_matrices=False)
    return calls


def leading_triplets(name: str, found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, s, Vᵀ of rank 50, largest first, whatever a library returns."""
    u, s, vt = map(as_numpy, found[:3])
    if name.startswith("torch"):
        vt = vt.T
    order = np.argsort(-s)[:RANK]
    return u[:, order], s[order], vt[order]


def fit(x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The contenders for the 50 principal components."""
    a, t = jnp.asarray(x), on_device(x)
    calls = {
        "lintoolkit": lambda: OURS["pca"](a).components,
        "torch pca_lowrank": lambda: torch.pca_lowrank(t, RANK)[2].T,
    }
    if not ON_GPU:
        randomized = PCA(RANK, svd_solver="randomized")
        calls |= {
            ONE_THREAD: on_one_thread(calls["lintoolkit"]),
            "sklearn PCA auto": lambda: PCA(RANK).fit(x).components_,
            "sklearn PCA randomized": lambda: randomized.fit(x).components_,
            "fbpca": lambda: fbpca.pca(x, RANK)[2],
        }
    return calls


def compile_seconds(lowered: jax.stages.Lowered) -> float | None:
    """Seconds to compile a program, unless a cache may have it."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    return timed(lambda: lowered.compile() and None)


def flops(x: np.ndarray, task: str, compiled: dict) -> int:
    """FLOPs of our program for the steps that it took; of its branches, the dearest, once."""
    a = jnp.asarray(x)
    if "round" not in compiled:
        at = lambda **trips: (
            cost(OURS[task], a, while_trips={"refinements": 1, **trips}).lowered.flops
        )
        compiled["round"] = at(rounds=1, steps=0)
        compiled["step"] = at(rounds=1, steps=1) - compiled["round"]
    found = search(a, task)
    return int(found.rounds) * compiled["round"] + int(found.products) * compiled["step"]


def compare(
    task: str, case: dict, x: np.ndarray, calls: dict, rate: float, compiled: dict
) -> list[dict]:
    """One row a contender: seconds, error, and for ours the compilation and the FLOPs.

    What one shape's programs cost is kept in `compiled`.
    """
    exact = x.astype(np.float64)
    if task == "pca":
        exact -= exact.mean(axis=0)
    whole = spectrum(exact)
    if not compiled:
        lowered = OURS[task].lower(jnp.asarray(x))
        compiled["seconds"] = compile_seconds(lowered)
    results = {name: call() for name, call in calls.items()}
    seconds = medians({name: call for name, call in calls.items() if name != WHOLE}, ROUNDS)
    seconds |= medians({name: call for name, call in calls.items() if name == WHOLE}, 1)
    rows = []
    for name, found in results.items():
        if task == "svd":
            error = excess(exact, leading_triplets(name, found), whole[RANK])
        else:
            q = np.linalg.qr(as_numpy(found).astype(np.float64).T)[0]
            error = float(1 - np.sum((exact @ q) ** 2) / np.sum(whole[:RANK] ** 2))
        row = case | {"task": task, "contender": name, "seconds": seconds[name], "error": error}
        if name == "lintoolkit":
            count = flops(x, task, compiled)
            row |= {
                "flops": count,
                "share_of_product_rate": count / seconds[name] / rate,
            }
            if compiled["seconds"]:
                row["compile_seconds"] = compiled["seconds"]
        rows.append(row)
    for row in rows[1:]:
        row["time_over_ours"] = row["seconds"] / rows[0]["seconds"]
        row["at_least_as_accurate"] = row["error"] <= max(rows[0]["error"], 1e-7)
    return rows


def at_shape(n: int, d: int, rate: float) -> list[dict]:
    """Every spectrum at one shape."""
    rows: list[dict] = []
    compiled: tuple[dict, dict] = {}, {}
    for name, x in matrices(n, d, seed=0):
        case = {"shape": f"{n}x{d}", "spectrum": name, "rank": RANK}
        calls = decompose(x, whole=name == "slow")
        rows += compare("svd", case, x, calls, rate, compiled[0])
        if n > d:
            rows += compare("pca", case, x, fit(x), rate, compiled[1])
    return rows


def batch(rate: float) -> list[dict]:
    """All singular triplets of a thousand matrices of 64 x 64."""
    x = np.random.default_rng(0).standard_normal((1000, 64, 64), dtype=np.float32)
    a, t = jnp.asarray(x), on_device(x)
    many = jax.jit(jax.vmap(svd.svd))
    lowered = many.lower(a)
    calls = {
        "lintoolkit": lambda: many(a),
        "torch": lambda: torch.linalg.svd(t, full_matrices=False),
    }
    if ON_GPU:
        calls[WHOLE] = lambda: jnp.linalg.svd(a, full_matrices=False)
    else:
        calls["numpy"] = lambda: np.linalg.svd(x, full_matrices=False)
    for call in calls.values():
        timed(call)
    seconds = medians(calls, ROUNDS)
    count = cost(many, a).lowered.flops
    rows: list[dict] = [
        {"shape": "batch", "task": "svd of 1000 x 64 x 64", "contender": name, "seconds": value}
        for name, value in seconds.items()
    ]
    if seconds_to_compile := compile_seconds(lowered):
        rows[0]["compile_seconds"] = seconds_to_compile
    rows[0] |= {
        "flops": count,
        "share_of_product_rate": count / seconds["lintoolkit"] / rate,
    }
    for row in rows[1:]:
        row["time_over_ours"] = row["seconds"] / seconds["lintoolkit"]
    return rows


def main(names: list[str]) -> None:
    """Run, print and write the comparison at the shapes named."""
    warnings.filterwarnings("ignore", module="fbpca|sklearn")
    rate = product_rate()
    for name in names or [*(f"{n}x{d}" for n, d in SHAPES), "batch"]:
        n, _, d = name.partition("x")
        rows = batch(rate) if name == "batch" else at_shape(int(n), int(d), rate)
        for row in rows:
            print({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()})
        write("decompositions", rows, key="shape", peers=PEERS)


if __name__ == "__main__":
    main(sys.argv[1:])
