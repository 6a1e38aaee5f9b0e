"""PageRank of a power-law graph: ours beside networkx, SciPy, igraph and scikit-network.

``python -m experiments.peers.graphs`` runs all of them in turn, in one process, and writes
results/<platform>/graphs.json. Every time is a median of calls after one to warm up.
"""

from collections.abc import Callable
from importlib.metadata import version

import igraph
import jax
import jax.numpy as jnp
import networkx
import numpy as np
import scipy.sparse
import sknetwork.ranking

from experiments.peers.measure import RESULTS, medians, timed
from experiments.runner import dump, run_stamp, write
from lintoolkit.cost import cost
from lintoolkit.eigen import pagerank

NODES, EDGES, DAMPING, ROUNDS = 100_000, 1_000_000, 0.85, 7
TOL = {"float64": 1e-9, "float32": 1e-6}  # of the L1 distance to the exact ranks
WRITTEN = RESULTS / jax.default_backend() / "graphs.json"


def power_law_graph(*, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets of distinct edges; node k is drawn in proportion to a power of k."""
    rng = np.random.default_rng(seed)

    def draw(power: float) -> np.ndarray:
        weights = (10.0 + np.arange(NODES)) ** -power
        return rng.permutation(NODES)[rng.choice(NODES, 2 * EDGES, p=weights / weights.sum())]

    edges = np.unique(draw(0.6) * NODES + draw(0.8))
    edges = rng.permutation(edges)[:EDGES]
    return edges // NODES, edges % NODES


def link_matrix(sources: np.ndarray, targets: np.ndarray) -> scipy.sparse.csr_array:
    """1 where a row's node is entered by a column's."""
    ones = np.ones(len(sources))
    return scipy.sparse.csr_array((ones, (targets, sources)), shape=(NODES, NODES))


def power_iteration(links: scipy.sparse.csr_array, tol: float) -> tuple[np.ndarray, int]:
    """The same iteration and the same test of its end as ours, on SciPy's product."""
    degrees = np.bincount(links.indices, minlength=NODES)
    dangling, degrees = degrees == 0, np.maximum(degrees, 1)
    x, iterations, change = np.full(NODES, 1 / NODES), 0, np.inf
    while change * DAMPING / (1 - DAMPING) > tol:
        before, iterations = x, iterations + 1
        jumps = (1 - DAMPING + DAMPING * x[dangling].sum()) / NODES
        x = DAMPING * (links @ (x / degrees)) + jumps
        change = np.abs(x - before).sum()
    return x / x.sum(), iterations


def main() -> None:
    """Run, print and write the comparison."""
    jax.config.update("jax_enable_x64", True)
    sources, targets = power_law_graph(seed=0)
    links = link_matrix(sources, targets)
    exact, _ = power_iteration(links, 1e-15)
    edges = tuple(jnp.asarray(x, jnp.int32) for x in (sources, targets))
    uniform = {dtype: jnp.ones(NODES, dtype) for dtype in TOL}

    def ours(dtype: str, *, max_iters: int = 1000) -> Callable:
        return lambda s, t: pagerank(
            s,
            t,
            NODES,
            damping=DAMPING,
            personalization=uniform[dtype],
            tol=TOL[dtype],
            max_iters=max_iters,
        )

    pairs = np.stack([sources, targets], axis=1)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(NODES))
    graph.add_edges_from(pairs.tolist())
    own_graph = igraph.Graph(NODES, pairs, directed=True)
    limit = TOL["float64"] * (1 - DAMPING) / DAMPING  # of the last change
    surfer = sknetwork.ranking.PageRank(
        damping_factor=DAMPING, solver="piteration", n_iter=1000, tol=limit
    )
    outward = scipy.sparse.csr_matrix(links.T)  # it knows no csr_array
    rank = {
        "lintoolkit float64": lambda: ours("float64")(*edges).scores,
        "lintoolkit float32": lambda: ours("float32")(*edges).scores,
        "scipy": lambda: power_iteration(links, TOL["float64"])[0],
        "networkx": lambda: list(
            networkx.pagerank(graph, DAMPING, tol=limit / NODES, max_iter=1000).values()
        ),
        "igraph": lambda: own_graph.pagerank(damping=DAMPING),
        "scikit-network": lambda: surfer.fit_predict(outward),
    }
    prepare = {
        "lintoolkit float64": lambda: ours("float64", max_iters=1)(*edges).scores,
        "lintoolkit float32": lambda: ours("float32", max_iters=1)(*edges).scores,
        "scipy": lambda: link_matrix(sources, targets),
        "igraph": lambda: igraph.Graph(NODES, pairs, directed=True),
        "scikit-network": lambda: scipy.sparse.csr_matrix(link_matrix(targets, sources)),
    }
    compiling = {name: timed(rank[name]) for name in rank if name.startswith("lintoolkit")}
    l1 = {name: np.abs(np.asarray(call(), float) - exact).sum() for name, call in rank.items()}
    for call in prepare.values():
        call()
    times, before = medians(rank, ROUNDS), medians(prepare, ROUNDS)
    rows = {}
    for name in rank:
        rows[name] = {
            "seconds": times[name],
            "prepare_seconds": before.get(name),
            "prepare_is_in_seconds": name.startswith("lintoolkit") or name == "networkx",
            "l1_error": float(l1[name]),
        }
    for dtype in TOL:
        row, iterations = rows[f"lintoolkit {dtype}"], int(ours(dtype)(*edges).iterations)
        counted = cost(ours(dtype), *edges, while_trips=iterations - 1)
        row |= {
            "first_call_seconds": compiling[f"lintoolkit {dtype}"],
            "iterations": iterations,
            "flops": counted.lowered.flops,
        }
    rows["scipy"]["iterations"] = power_iteration(links, TOL["float64"])[1]
    report = {
        "graph": {
            "nodes": NODES,
            "edges": EDGES,
            "dangling": int((np.bincount(sources, minlength=NODES) == 0).sum()),
            "most_links_into_a_node": int(np.bincount(targets).max()),
        },
        "damping": DAMPING,
        "tol": TOL,
        "rounds": ROUNDS,
        "rows": rows,
        "run": run_stamp(seed=0, full=True),
        "peers": {p: version(p) for p in ("networkx", "scipy", "igraph", "scikit-network")},
    }
    WRITTEN.parent.mkdir(parents=True, exist_ok=True)
    write(WRITTEN, dump(report))
    for name, row in rows.items():
        print(f"{name:20}", row)


if __name__ == "__main__":
    main()
