"""Singular values: what any matrix does, and how few of them a photograph needs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.svd_images import (
    exercise,
    importance,
    low_rank_world,
    photographs_at_rank_fifty,
    storage,
    sum_of_pictures,
)
from experiments.figures import svd as figures
from experiments.rows import flops, row
from lintoolkit.layers import dense, dense_flops
from lintoolkit.svd import SVD, low_rank, reconstruct, reconstruct_flops, svd, tail_error


def factors(*, seed: int, full: bool):
    """Any matrix is an orthogonal one, a scaling along axes, and another orthogonal one."""
    del full
    x = jnp.asarray(np.random.RandomState(seed).randn(5, 3))
    thin = svd(x)
    # The columns that U lacks to be square span what the thin ones leave out.
    rest = svd(jnp.eye(5) - thin.u @ thin.u.T).u[:, :2]
    u = jnp.concatenate([thin.u, rest], axis=1)
    sigma = jnp.zeros(x.shape).at[jnp.arange(3), jnp.arange(3)].set(thin.s)
    is_orthogonal = lambda q: jnp.allclose(q.T @ q, jnp.eye(len(q)))
    found = {
        "shapes": [u.shape, sigma.shape, thin.vt.shape],
        "reconstructs": bool(jnp.allclose(u @ sigma @ thin.vt, x)),
        "orthogonal": bool(is_orthogonal(u) & is_orthogonal(thin.vt)),
        "sorted_nonnegative": bool((jnp.diff(thin.s) <= 0).all() & (thin.s >= 0).all()),
    }
    counted = flops(reconstruct, thin, formula=reconstruct_flops(n=5, r=3, d=3))
    note = "The FLOP are of multiplying the thin factors out."
    yield row("need-svd-definition", found, svd, flops=counted, note=note)
    yield row("matrices-svd-formula", found, svd, flops=counted, note=note)

    gram = x.T @ x
    nilpotent = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    yield row(
        "need-svd-generalises-eigen",
        {
            "sigma_squared_are_eigenvalues": bool(
                jnp.allclose(thin.s[::-1] ** 2, jnp.linalg.eigvalsh(gram))
            ),
            "symmetric_psd_agree": bool(
                jnp.allclose(svd(gram).s[::-1], jnp.linalg.eigvalsh(gram))
            ),
            "nilpotent_singular": svd(nilpotent).s,
            "nilpotent_eigen": jnp.linalg.eigvals(nilpotent).real,
        },
        svd,
        "jax.numpy.linalg.eigvalsh",
        "jax.numpy.linalg.eigvals",
        flops=flops(lambda x: x.T @ x, x, formula=2 * 5 * 3 * 3),
        note="The FLOP are of AᵀA.",
    )

    a, b = jnp.asarray(np.random.RandomState(seed).randn(2, 3))
    layer = {"kernel": x.T, "bias": jnp.ones(5)}
    weight = {"kernel": x.T}
    sums = lambda params: jnp.allclose(
        dense(params, a + b), dense(params, a) + dense(params, b)
    )
    in_turn = thin.u @ (thin.s * (thin.vt @ a))
    yield row(
        "need-linear-rotates-scales",
        {
            "additive": bool(sums(weight)),
            "with_bias_additive": bool(sums(layer)),
            "rotate_scale_rotate": bool(jnp.allclose(in_turn, dense(weight, a))),
        },
        dense,
        svd,
        flops=flops(dense, weight, a, formula=dense_flops(n=1, d_in=3, d_out=5, bias=False)),
    )


def determinant_signs(*, seed: int, full: bool):
    """The two orthogonal factors may be reflections; rotations alone are not enough."""
    del full
    swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    u, s, vt, _ = svd(swap)
    random = jax.vmap(svd)(jnp.asarray(np.random.RandomState(seed).randn(100, 3, 3)))
    reflected = (jnp.linalg.det(random.u) < 0) | (jnp.linalg.det(random.vt) < 0)
    yield row(
        "matrices-svd-rotations",
        {
            "swap_det_u_times_det_v": round(float(jnp.linalg.det(u) * jnp.linalg.det(vt))),
            "swap_singular_values": s,
            "det_of_swap": round(float(jnp.linalg.det(swap))),
            "some_random_factor_is_reflection": bool(reflected.any()),
            "random_with_a_reflection_of_100": reflected.sum(),
        },
        svd,
        "jax.numpy.linalg.det",
        note="Signs of singular vectors are free in pairs, so where the determinant of the "
        "matrix is negative no choice makes both factors rotations.",
    )


def circle(*, seed: int, full: bool):
    """The unit circle through the three stages of one 2 x 2 matrix."""
    del seed, full
    matrix = jnp.array([[3.0, 0.0], [4.0, 5.0]])
    u, s, vt, _ = svd(matrix)
    # Signs are free in pairs; choose them so that Vᵀ turns and does not reflect.
    sign = jnp.array([1.0, jnp.sign(jnp.linalg.det(vt))])
    u, vt = u * sign, vt * sign[:, None]
    angle = lambda q: jnp.degrees(jnp.arctan2(q[1, 0], q[0, 0]))
    turn = jnp.linspace(0, 2 * jnp.pi, 3601)
    unit = jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    stages = {"the unit circle": unit, "after Vᵀ": vt @ unit}
    stages["after Σ"] = s[:, None] * stages["after Vᵀ"]
    stages["after U"] = u @ stages["after Σ"]
    lengths = jnp.linalg.norm(matrix @ unit, axis=0)
    both_turn = jnp.allclose(jnp.array([jnp.linalg.det(u), jnp.linalg.det(vt)]), 1)
    yield row(
        "need-svd-rotate-scale-rotate",
        {
            "singular_values": s,
            "longest_and_shortest_radius": [lengths.max(), lengths.min()],
            "v_first_turn_degrees": angle(vt),
            "u_second_turn_degrees": angle(u),
            "determinants_u_vt": [jnp.linalg.det(u), jnp.linalg.det(vt)],
            "determinant": s.prod(),
            "three_stages_equal_matrix": bool(jnp.allclose(stages["after U"], matrix @ unit)),
            "circle_becomes_ellipse": bool(
                jnp.allclose(jnp.sum((u.T @ matrix @ unit / s[:, None]) ** 2, axis=0), 1)
            ),
            "condition_number": s[0] / s[1],
        },
        svd,
        flops=flops(lambda a, v: a @ v, matrix, unit[:, 0], formula=2 * 2 * 2),
        holds=bool(
            both_turn
            & jnp.allclose(stages["after U"], matrix @ unit)
            & jnp.allclose(jnp.stack([lengths.max(), lengths.min()]), s, 1e-5)
        ),
        note="Both factors chosen to be rotations, which a positive determinant allows. The "
        "FLOP are of one vector through the matrix.",
    )
    yield figures.stages(stages)


def nothing_closer(*, seed: int, full: bool):
    """The truncated decomposition against four hundred competitors of the same rank."""
    del full
    random = np.random.RandomState(seed)
    n, d, rank = 30, 20, 5
    x = jnp.asarray(random.randn(n, d))
    best = low_rank(x, rank=rank)
    s = svd(x).s
    error = jnp.linalg.norm(x - best)
    # Half are the nearest to x within a random column space, half the best of a neighbour of x.
    bases = jnp.linalg.qr(jnp.asarray(random.randn(200, n, rank)))[0]
    projected = bases @ (bases.mT @ x)
    sizes = 10.0 ** np.linspace(-3, 0, 200)
    near = x + jnp.asarray(sizes[:, None, None] * random.randn(200, n, d))
    competitors = jnp.concatenate([projected, jax.vmap(partial(low_rank, rank=rank))(near)])
    errors = jnp.linalg.norm(competitors - x, axis=(1, 2))
    found = {
        "frobenius_error_is_tail": bool(jnp.isclose(error, tail_error(s, rank=rank))),
        "spectral_error_is_next_sigma": bool(
            jnp.isclose(jnp.linalg.norm(x - best, 2), s[rank])
        ),
        "nothing_closer_in_400_tries": bool((errors > error).all() & (len(errors) == 400)),
        "nearest_try_over_best": errors.min() / error,
    }
    counted = flops(
        reconstruct,
        SVD(jnp.ones((n, rank)), jnp.ones(rank), jnp.ones((rank, d)), jnp.array(True)),
        formula=reconstruct_flops(n=n, r=rank, d=d),
    )
    note = (
        "200 projections on random column spaces and 200 truncations of matrices close by. "
        "The FLOP are of multiplying the five triples out."
    )
    functions = low_rank, svd, tail_error
    yield row("need-eckart-young", found, *functions, flops=counted, note=note)
    yield row("matrices-truncated-best", found, *functions, flops=counted, note=note)
    yield figures.competitors(errors[:200], errors[200:], error)


EXPERIMENTS = (
    factors,
    determinant_signs,
    circle,
    nothing_closer,
    sum_of_pictures,
    importance,
    photographs_at_rank_fifty,
    storage,
    low_rank_world,
    exercise,
)
