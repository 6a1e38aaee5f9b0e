"""Alternating least squares: ours beside `implicit`, and beside loops in NumPy.

``OPENBLAS_NUM_THREADS=1 python -m experiments.peers.factorize`` runs all of them in turn, in
one process, and writes results/<platform>/factorize.json. (`implicit` spreads rows over threads
of its own and asks for a BLAS of one.) Every time is a median of whole fits after one to warm
up, our sorting of the ratings and `implicit`'s transpose among them.
"""

import os
from collections.abc import Callable
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares

from experiments.peers.measure import RESULTS, medians, timed
from experiments.runner import dump, run_stamp, write
from lintoolkit.cost import cost
from lintoolkit.factorize import Recommender, _plan, als, implicit_als, predict_rating

SHAPE = 20_000, 5_000
RATINGS, HELD_OUT = 1_000_000, 100_000
PLANTED = 8  # factors behind the ratings
L2, ALPHA, SWEEPS, ROUNDS, THREADS = 5.0, 2.0, 4, 3, 2
EXPLICIT_RANK, IMPLICIT_RANKS = 32, (32, 64, 128)
WRITTEN = RESULTS / jax.default_backend() / "factorize.json"


def long_tailed_ratings(*, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct pairs, few users and items having most of them, and planted stars with noise."""
    rng = np.random.default_rng(seed)
    wanted, (n, m) = RATINGS + HELD_OUT, SHAPE

    def draw(count: int, power: float) -> np.ndarray:
        weights = (20.0 + np.arange(count)) ** -power
        return rng.permutation(count)[rng.choice(count, 3 * wanted, p=weights / weights.sum())]

    pairs = np.unique(draw(n, 0.6) * m + draw(m, 0.8))
    users, items = np.divmod(rng.permutation(pairs)[:wanted], m)
    p, q = (rng.standard_normal((count, PLANTED)) / PLANTED**0.25 for count in SHAPE)
    b, c = (0.5 * rng.standard_normal(count) for count in SHAPE)
    planted = 3 + b[users] + c[items] + 0.5 * (p[users] * q[items]).sum(1)
    stars = planted + 0.5 * rng.standard_normal(wanted)
    return users.astype(np.int32), items.astype(np.int32), stars.astype(np.float32)


def numpy_als(
    start: np.ndarray, users: np.ndarray, items: np.ndarray, ratings: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The same sweeps in float64, one row at a time; gives a function that predicts."""
    rank = start.shape[1]
    p, q = np.zeros((SHAPE[0], rank + 1)), np.hstack([start, np.zeros((SHAPE[1], 1))])
    centred = ratings.astype(np.float64) - ratings.mean(dtype=np.float64)

    def half(rows: np.ndarray, columns: np.ndarray, n: int, other: np.ndarray) -> np.ndarray:
        order = np.argsort(rows, kind="stable")
        columns, target = columns[order], (centred - other[columns, -1])[order]
        y = np.hstack([other[:, :-1], np.ones((len(other), 1))])
        found = np.zeros((n, rank + 1))
        ends = np.searchsorted(rows[order], np.arange(n + 1))
        for i in range(n):
            mine = slice(ends[i], ends[i + 1])
            a = y[columns[mine]]
            found[i] = np.linalg.solve(a.T @ a + L2 * np.eye(rank + 1), a.T @ target[mine])
        return found

    for _ in range(SWEEPS):
        p = half(users, items, SHAPE[0], q)
        q = half(items, users, SHAPE[1], p)
    return lambda u, i: (
        ratings.mean(dtype=np.float64)
        + p[u, -1]
        + q[i, -1]
        + (p[u, :-1] * q[i, :-1]).sum(axis=1)
    )


def implicit_objective(
    p: np.ndarray, q: np.ndarray, users: np.ndarray, items: np.ndarray, amounts: np.ndarray
) -> float:
    """What Hu, Koren and Volinsky minimise, over all pairs, in float64."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    scores = (p[users] * q[items]).sum(axis=1)
    seen = (1 + ALPHA * amounts) * (1 - scores) ** 2 - scores**2
    return float(
        seen.sum() + ((p.T @ p) * (q.T @ q)).sum() + L2 * ((p**2).sum() + (q**2).sum())
    )


def flops(fit: Callable, arguments: tuple, width: int) -> int:
    """FLOPs of a fit, with the turns of the inner loops that these ratings take on average."""
    trips = {}
    for name, ids, n in zip(("users", "items"), arguments[1:3], SHAPE, strict=True):
        length, block, chunk = _plan(len(ids), n, width)
        runs = -(-np.bincount(ids, minlength=n) // length)
        blocks = range(0, n, block)
        turns = sum(-(-int(runs[first : first + block].sum()) // chunk) for first in blocks)
        trips[name] = round(turns / len(blocks))
    return cost(fit, *arguments, while_trips=trips).lowered.flops


def explicit(key: jax.Array, data: tuple) -> list[dict]:
    """Held-out error and time against the loops."""
    train = tuple(x[:RATINGS] for x in data)
    users, items, stars = (x[RATINGS:] for x in data)

    def fit(*arguments: jax.Array) -> Recommender:
        return als(*arguments, shape=SHAPE, rank=EXPLICIT_RANK, l2=L2, iterations=SWEEPS)

    arguments = (key, *map(jnp.asarray, train))
    first = timed(lambda: fit(*arguments))
    start = np.asarray(jax.random.normal(key, (SHAPE[1], EXPLICIT_RANK))) / EXPLICIT_RANK**0.5
    rmse = lambda predicted: float(np.sqrt(np.mean((np.asarray(predicted) - stars) ** 2)))
    peer: dict[str, Callable] = {}

    def loops() -> None:
        peer["predict"] = numpy_als(start, *train)

    seconds = medians({"lintoolkit": lambda: fit(*arguments), "numpy": loops}, 1)
    seconds |= medians({"lintoolkit": lambda: fit(*arguments)}, ROUNDS)
    return [
        {
            "case": "explicit, with biases",
            "rank": EXPLICIT_RANK,
            "peer": "numpy float64 loops, one run",
            "seconds": seconds["lintoolkit"],
            "first_call_seconds": first,
            "peer_seconds": seconds["numpy"],
            "ratio": seconds["numpy"] / seconds["lintoolkit"],
            "flops": flops(fit, arguments, 8 * (EXPLICIT_RANK // 8 + 1)),
            "held_out_rmse": rmse(predict_rating(fit(*arguments), users, items)),
            "peer_held_out_rmse": rmse(peer["predict"](users, items)),
            "held_out_rmse_of_the_mean": rmse(train[2].mean()),
            "noise": 0.5,
        }
    ]


def implicit(key: jax.Array, data: tuple) -> list[dict]:
    """Objective and time against the package, with its exact and its approximate solver."""
    users, items, _ = (x[:RATINGS] for x in data)
    amounts = np.random.default_rng(1).geometric(0.5, RATINGS).astype(np.float32)
    confidence = scipy.sparse.csr_matrix((1 + ALPHA * amounts, (users, items)), SHAPE)
    arguments = (key, *map(jnp.asarray, (users, items, amounts)))
    rows = []
    for rank in IMPLICIT_RANKS:

        def fit(*arguments: jax.Array, rank: int = rank) -> Recommender:
            return implicit_als(
                *arguments, shape=SHAPE, rank=rank, l2=L2, alpha=ALPHA, iterations=SWEEPS
            )

        def package(use_cg: bool, rank: int = rank) -> AlternatingLeastSquares:
            model = AlternatingLeastSquares(
                rank,
                regularization=L2,
                use_cg=use_cg,
                iterations=SWEEPS,
                num_threads=THREADS,
                random_state=0,
            )
            # Our start, so that both walk the same way.
            model.item_factors = np.array(jax.random.normal(key, (SHAPE[1], rank))) / rank**0.5
            model.user_factors = np.zeros((SHAPE[0], rank), np.float32)
            model.fit(confidence, show_progress=False)
            return model

        calls = {
            "lintoolkit": lambda: fit(*arguments),
            "Cholesky": lambda: package(False),
            "CG": lambda: package(True),
        }
        first = timed(calls["lintoolkit"])
        model = fit(*arguments)
        p, q = np.asarray(model.users.factors), np.asarray(model.items.factors)
        own = implicit_objective(p, q, users, items, amounts)
        peers = {name: calls[name]() for name in ("Cholesky", "CG")}  # warm-up too
        seconds = medians(calls, ROUNDS)
        counted = flops(fit, arguments, rank)
        rows += [
            {
                "case": "implicit",
                "rank": rank,
                "peer": f"implicit, {name}",
                "seconds": seconds["lintoolkit"],
                "first_call_seconds": first,
                "peer_seconds": seconds[name],
                "ratio": seconds[name] / seconds["lintoolkit"],
                "flops": counted,
                "objective": own,
                "peer_objective": implicit_objective(
                    peer.user_factors, peer.item_factors, users, items, amounts
                ),
            }
            for name, peer in peers.items()
        ]
    return rows


def main() -> None:
    """Run, print and write the comparison."""
    data, key = long_tailed_ratings(seed=0), jax.random.key(0)
    rows = implicit(key, data) + explicit(key, data)
    report = {
        "data": {
            "users": SHAPE[0],
            "items": SHAPE[1],
            "ratings": RATINGS,
            "held_out": HELD_OUT,
            "most_ratings_of_a_user": int(np.bincount(data[0]).max()),
            "most_ratings_of_an_item": int(np.bincount(data[1]).max()),
        },
        "settings": {
            "sweeps": SWEEPS,
            "l2": L2,
            "alpha": ALPHA,
            "dtype": "float32",
            "threads_of_implicit": THREADS,
            "rounds": ROUNDS,
            "ratio": "peer's seconds / ours",
            "flops": "lintoolkit.cost, lowered; inner loops with their mean number of turns",
        },
        "rows": rows,
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("implicit", "numpy", "scipy")},
        "run": run_stamp(seed=0, full=True),
    }
    WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    write(WRITTEN, dump(report))
    for row in rows:
        print(*(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
