"""Ratings as products of two short vectors, fitted where they are known and nowhere else."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import recommenders as figures
from experiments.rows import flops, row
from lintoolkit.factorize import (
    Recommender,
    als,
    implicit_als,
    predict_rating,
    recommend,
)
from lintoolkit.layers import dense_flops
from lintoolkit.svd import reconstruct, truncated_svd

USERS, ITEMS, RANK = 120, 80, 3


@cache
def ratings() -> tuple[np.ndarray, np.ndarray]:
    """All ratings (users, items) of a made-up audience, and which of them are observed."""
    random = np.random.RandomState(0)
    tastes, traits = random.randn(USERS, RANK), random.randn(ITEMS, RANK)
    noise = 0.1 * random.randn(USERS, ITEMS)
    return tastes @ traits.T + noise, random.rand(USERS, ITEMS) < 0.3


def factorise(seen: np.ndarray, *, rank: int, seed: int, weight: float = 0.1) -> Recommender:
    """Alternating least squares on the ratings that are seen, as products alone."""
    values, _ = ratings()
    users, items = np.nonzero(seen)
    return als(
        jax.random.key(seed), users, items, values[users, items], shape=values.shape,
        rank=rank, l2=weight, iterations=20, biases=False,
    )  # fmt: skip


def all_scores(model: Recommender) -> jax.Array:
    """What the model predicts for every pair."""
    return predict_rating(model, jnp.arange(USERS)[:, None], jnp.arange(ITEMS))


def rmse(predicted: jax.Array, where: np.ndarray) -> float:
    """The root mean square error over some of the ratings."""
    return float(jnp.sqrt(jnp.mean((predicted - ratings()[0])[where] ** 2)))


def factors(*, seed: int, full: bool):
    """A third of the ratings tells the rest, unless a missing one is taken for a zero."""
    values, seen = ratings()
    model = factorise(seen, rank=RANK, seed=seed)
    predicted = all_scores(model)
    held_out = rmse(predicted, ~seen)
    p, q = model.users.factors, model.items.factors
    counted = flops(
        lambda p, q: p @ q.T,
        p,
        q,
        formula=dense_flops(n=USERS, d_in=RANK, d_out=ITEMS, bias=False),
    )
    one = float(predict_rating(model, 7, 11))
    yield row(
        "need-recommender-dot",
        {
            "users": USERS,
            "items": ITEMS,
            "observed_share": round(float(seen.mean()), 3),
            "one_prediction_is_a_dot": bool(jnp.isclose(one, p[7] @ q[11])),
            "held_out_rmse": held_out,
            "rating_std": values.std(),
        },
        als,
        predict_rating,
        flops=counted,
        note="Ratings drawn from RandomState(0) with known factors and noise of 0.1. The FLOP "
        "are of all predictions.",
    )
    yield row(
        "matrices-recommender-factorisation",
        {
            "matrix": values.shape,
            "rank": p.shape[1],
            "numbers_full": values.size,
            "numbers_factors": p.size + q.size,
            "held_out_rmse": held_out,
        },
        als,
        predict_rating,
        flops=counted,
        note="The FLOP are of all predictions.",
    )
    lengths = jnp.linalg.norm(q, axis=1)
    by_dot = recommend(model, jnp.arange(USERS), k=1).indices[:, 0]
    by_cosine = jnp.argmax(predicted / lengths, axis=1)
    yield row(
        "need-conclusion-recommender-cosine",
        {"share_of_users_whose_top_item_differs": jnp.mean(by_dot != by_cosine)},
        recommend,
        predict_rating,
        flops=counted,
        note="The dot product prefers items with long vectors, the cosine does not see length.",
    )
    zeros = jnp.asarray(np.where(seen, values, 0))
    filled = reconstruct(truncated_svd(zeros, rank=RANK))
    of_zeros, guess = rmse(filled, ~seen), rmse(jnp.zeros_like(filled), ~seen)
    yield row(
        "matrices-netflix-sparse",
        {
            "zero_filled_svd_over_masked_factorisation_over_5": of_zeros > 5 * held_out,
            "masked_rmse": held_out,
            "zero_filled_rmse": of_zeros,
            "guess_zero_rmse": guess,
        },
        als,
        predict_rating,
        truncated_svd,
        reconstruct,
        flops=counted,
        note="The FLOP are of all predictions.",
    )
    yield figures.predicted(values[~seen], predicted[~seen], filled[~seen])
    ranks = (1, 2, 3, 4, 6, 8) if full else (1, 3, 6)
    fits = {rank: factorise(seen, rank=rank, seed=seed) for rank in ranks}
    errors = {rank: rmse(all_scores(fit), ~seen) for rank, fit in fits.items()}
    yield figures.by_rank(errors)


def clicks(*, seed: int, full: bool):
    """Without ratings: what was watched, and what was left, is enough to recommend by."""
    del full
    values, seen = ratings()
    liked = values > 1.5
    users, items = np.nonzero(liked & seen)
    model = implicit_als(
        jax.random.key(seed), users, items, np.ones(len(users)), shape=values.shape,
        rank=RANK, alpha=5.0, l2=1.0,
    )  # fmt: skip
    order = np.argsort(-np.asarray(all_scores(model)), axis=1)
    popular = np.tile(np.argsort(-(liked & seen).sum(axis=0)), (USERS, 1))
    yield figures.hits(
        {
            "implicit factorisation": hits(order, liked, seen),
            "most popular": hits(popular, liked, seen),
        }
    )


def hits(order: np.ndarray, liked: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Of what is recommended first, second, ... and was not seen yet, how much would please."""
    pleased = []
    for line, likes, old in zip(order, liked, seen, strict=True):
        pleased.append(likes[line[~old[line]][:20]])
    return np.cumsum(np.mean(pleased, axis=0)) / np.arange(1, 21)
