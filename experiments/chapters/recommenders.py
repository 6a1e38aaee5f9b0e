"""PageRank and recommenders: preferences as vectors and matrices."""

import jax.numpy as jnp

from experiments.rows import flops, row
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
        note="The scores and genres are ours, chosen to give the ledger's tastes.",
    )
    yield row("multiply-recommenders-everywhere", None)


# One viewer's scores for four films, how much each film belongs to two genres, and how much
# each genre speaks for three new films: one of the first, one of the second, one of both.
SCORES = [[5.0, 1.0, 3.0, 1.0]]
FILM_GENRES = [[1.0, 0.0], [0.1, 0.9], [1.0, 0.0], [0.2, 0.8]]
GENRE_NEW_FILMS = [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]

EXPERIMENTS = (viewing,)
