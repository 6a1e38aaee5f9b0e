"""PageRank and recommenders: preferences as vectors and matrices."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.recommenders_factors import clicks, factors
from experiments.figures import recommenders as figures
from experiments.rows import flops, row
from lintoolkit.eigen import pagerank, power_iteration
from lintoolkit.layers import dense, dense_flops


def viewing(*, seed: int, full: bool):
    """One viewer is a vector, all viewers a matrix, and a prediction two products."""
    del seed, full
    # How much a viewer liked four films: finished, stopped after five minutes, rewatched, half.
    viewer = jnp.array([0.9, 0.1, 1.0, 0.5])
    yield row(
        "multiply-netflix-vector",
        {"ndim": viewer.ndim, "as_row_matrix": viewer[None].shape},
        "jax.numpy.array",
    )
    viewers = jnp.stack([viewer, viewer[::-1], 1 - viewer])
    yield row(
        "multiply-netflix-is-a-matrix",
        {"one_user_ndim": viewer.ndim, "many_users_ndim": viewers.ndim},
        "jax.numpy.stack",
    )
    scores = jnp.array(SCORES)
    genres = {"kernel": jnp.array(FILM_GENRES)}
    new_films = {"kernel": jnp.array(GENRE_NEW_FILMS)}
    taste = dense(genres, scores)
    predicted = dense(new_films, taste)
    shapes = [x.shape for x in (scores, genres["kernel"], new_films["kernel"], predicted)]
    yield row(
        "multiply-netflix-predict",
        {"taste": taste, "predicted": predicted, "best": predicted.argmax(), "shapes": shapes},
        dense,
        flops=flops(
            lambda x, a, b: dense(b, dense(a, x)),
            scores,
            genres,
            new_films,
            formula=dense_flops(n=1, d_in=4, d_out=2, bias=False)
            + dense_flops(n=1, d_in=2, d_out=3, bias=False),
        ),
        fitted=True,
        note="The scores and genres are ours, chosen to give the ledger's tastes.",
    )
    yield row("multiply-recommenders-everywhere", None)


# One viewer's scores for four films, how much each film belongs to two genres, and how much
# each genre speaks for three new films: one of the first, one of the second, one of both.
SCORES = [[5.0, 1.0, 3.0, 1.0]]
FILM_GENRES = [[1.0, 0.0], [0.1, 0.9], [1.0, 0.0], [0.2, 0.8]]
GENRE_NEW_FILMS = [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]


def web(*, seed: int, full: bool):
    """PageRank of a small web is an eigenvector, and it is the damping that makes it one."""
    del seed, full
    sources, targets = jnp.array(LINKS).T
    found = pagerank(sources, targets, 4, tol=1e-7)
    matrix = chances(LINKS, 4, damping=0.85)
    start = jnp.ones(4)
    top = power_iteration(start, matrix, tol=1e-6)
    magnitudes = np.sort(np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))))
    yield row(
        "matrices-pagerank",
        {
            "ranks": found.scores,
            "dominant_eigenvalue": top.value,
            "equals_eigenvector": bool(
                jnp.abs(found.scores - top.vector / top.vector.sum()).max() < 1e-5
            ),
            "second_eigenvalue_at_most_0_85": bool(magnitudes[-2] <= 0.85 + 1e-6),
            "columns_sum_to_one": bool(jnp.allclose(matrix.sum(axis=0), 1)),
        },
        pagerank,
        power_iteration,
        "numpy.linalg.eigvals",
        flops=flops(lambda v, m: m @ v, start, matrix, formula=2 * 4 * 4),
        note="The FLOPs are of one iteration with the matrix written out.",
    )
    links, n = power_law(nodes=50_000, edges=500_000), 50_000
    large = pagerank(jnp.asarray(links[0]), jnp.asarray(links[1]), n, tol=1e-9)
    yield figures.ranks(np.asarray(large.scores), np.bincount(links[1], minlength=n))
    multiplicity = {
        d: int(np.isclose(np.linalg.eigvals(np.asarray(chances(LOOPS, 4, damping=d))), 1).sum())
        for d in (1.0, 0.85)
    }
    yield row(
        "matrices-pagerank-needs-damping",
        {
            "eigenvalue_one_multiplicity_bare": multiplicity[1.0],
            "multiplicity_damped": multiplicity[0.85],
        },
        "numpy.linalg.eigvals",
    )


def power_law(*, nodes: int, edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets of links, most of them to few pages; many pages link to nothing."""
    random = np.random.RandomState(0)
    weight = 1 / np.arange(1, nodes + 1)
    targets = random.choice(nodes, edges, p=weight / weight.sum())
    return random.randint(0, nodes // 2, edges), random.permutation(nodes)[targets]


def chances(links: list, n: int, *, damping: float) -> jax.Array:
    """The matrix whose entry (t, s) is the surfer's chance to go from s to t."""
    sources, targets = jnp.array(links).T
    counts = jnp.zeros((n, n)).at[targets, sources].add(1)
    out = counts.sum(axis=0)
    follows = jnp.where(out > 0, counts / jnp.maximum(out, 1), 1 / n)  # from no links: anywhere
    return damping * follows + (1 - damping) / n


# Links from a page to a page: four pages, of which nobody links to the last, and two pairs.
LINKS = [(0, 1), (0, 2), (1, 2), (2, 0), (3, 0), (3, 2)]
LOOPS = [(0, 1), (1, 0), (2, 3), (3, 2)]

EXPERIMENTS = (viewing, factors, clicks, web)
