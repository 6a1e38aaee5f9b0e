"""Walking downhill: the update rule, what rates do, and the losses an article printed."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import torch_random
from experiments.chapters.descent_landscape import landscape
from experiments.classifier import cross_entropy
from experiments.figures import descent as figures
from experiments.ledger import claims
from experiments.rows import flops, row
from lintoolkit.cost import cost
from lintoolkit.layers import dense, mlp, mlp_flops
from lintoolkit.regression import least_squares, normal_equation, ridge
from lintoolkit.train import fit

RATE = 0.01  # the article's, for its regression
STEPS = 100
SHOWN = slice(0, STEPS, 20)  # the article prints every twentieth loss
# One object for all runs: a new optimiser is a new static argument, hence a compilation.
REGRESSION = optax.sgd(RATE)
ADAMW = optax.adamw(1e-3)


def update_rule(*, seed: int, full: bool):
    """Subtract the rate times the gradient."""
    del seed, full
    sgd = optax.sgd(0.1)
    step = lambda w, gradient: w + sgd.update(gradient, sgd.init(w))[0]
    weights, gradient = jnp.array([[1, -2], [0.5, 3]]), jnp.array([[0.2, -0.4], [0, 1.0]])
    yield row(
        "matrices-gd-rule",
        {"updated": step(weights, gradient)},
        "optax.sgd",
        flops=flops(step, weights, gradient, formula=2 * weights.size),
    )
    yield row(
        "calculus-update-rule",
        {"after": step(jnp.ones(2), jnp.array([2.0, -2.0]))},
        "optax.sgd",
    )
    parabola = lambda w: (w - 3) ** 2
    cases = []
    for start in (5.0, 1.0):
        slope = jax.grad(parabola)(start)
        after = step(start, slope)
        cases.append([start, slope, after, bool(parabola(after) < parabola(start))])
    yield row("calculus-sign-rule", {"cases": cases}, "jax.grad", "optax.sgd")
    yield figures.parabola(parabola, starts=(5.0, 1.0), rate=0.1, steps=12)
    w, x, y = (
        jnp.asarray(np.random.RandomState(0).randn(*s)) for s in ((3, 4), (6, 4), (6, 3))
    )
    gradient = jax.grad(lambda w: 0.5 * jnp.sum((x @ w.T - y) ** 2))(w)
    yield row(
        "multiply-updates-are-matrices",
        {
            "update_shape": gradient.shape,
            "weight_shape": w.shape,
            "update_is_a_product": bool(jnp.allclose(gradient, (x @ w.T - y).T @ x)),
        },
        "jax.grad",
        flops=flops(lambda residual, x: residual.T @ x, y, x, formula=2 * 3 * 6 * 4),
    )


def exact_solution(*, seed: int, full: bool):
    """Linear regression has an exact solution, as long as the columns differ."""
    del full
    from sklearn.datasets import load_diabetes

    features, y = load_diabetes(return_X_y=True)
    x = with_ones(jnp.asarray(features))
    theta = normal_equation(x, y).weights
    residual = y - x @ theta
    yield row(
        "matrices-normal-equation",
        {
            "samples": x.shape[0],
            "coefficients": x.shape[1],
            "matches_lstsq": bool(jnp.allclose(theta, jnp.linalg.lstsq(x, y)[0])),
            "intercept": theta[-1],
            "residual_orthogonal": bool(jnp.abs(x.T @ residual).max() < 1e-9 * x.size),
            "r_squared": 1 - residual.var() / y.var(),
        },
        normal_equation,
        flops=flops(lambda x: x.T @ x, x, formula=2 * x.size * x.shape[1]),
        note="The FLOP are those of XᵀX alone; solving the 11 equations adds little.",
    )
    generator = np.random.default_rng(seed)
    column = generator.standard_normal(50)
    near = np.stack([column, column + 1e-6 * generator.standard_normal(50)], axis=1)
    twice = jnp.ones((10, 2)) * jnp.arange(1.0, 11)[:, None]
    condition = jnp.linalg.cond(near)
    yield row(
        "matrices-normal-equation-conditioning",
        {
            "cond_squares": bool(
                jnp.isclose(jnp.linalg.cond(near.T @ near), condition**2, 1e-2)
            ),
            "cond_over_1e5": bool(condition > 1e5),
            "duplicate_feature_rank": jnp.linalg.matrix_rank(twice.T @ twice),
            "pinv_still_works": bool(jnp.allclose(jnp.linalg.pinv(twice) @ twice[:, 0], 0.5)),
        },
        "jax.numpy.linalg.pinv",
        note="XᵀX squares the condition number, so twice as many digits are lost as by a "
        "factorisation of X itself.",
    )
    yield figures.errors_by_condition(
        {dtype: errors_by_condition(dtype, seed=seed) for dtype in ("float32", "float64")}
    )


def errors_by_condition(dtype: str, *, seed: int):
    """Relative errors of weights by solver, where there is an answer, with their conditions.

    Fifty examples of five features whose true weights are known; the median of 20 draws.
    """
    generator = np.random.default_rng(seed)
    decades = 8 if dtype == "float32" else 16
    conditions = np.logspace(0, decades, 2 * decades + 1)
    draws = 20
    u = np.linalg.qr(generator.standard_normal((draws, 50, 5)))[0]
    v = np.linalg.qr(generator.standard_normal((draws, 5, 5)))[0]
    true = generator.standard_normal((draws, 5))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    spectra = conditions[:, None] ** -np.linspace(0, 1, 5)
    x = np.einsum("sij,cj,skj->csik", u, spectra, v)
    y = np.einsum("csik,sk->csi", x, true)
    l2 = float(jnp.finfo(dtype).eps)
    solvers: dict[str, Callable] = {
        "normal equation": normal_equation,
        "QR": least_squares,
        "ridge, λ = ε": partial(ridge, l2=l2),
    }
    errors = {}
    for name, solver in solvers.items():
        found = jax.vmap(jax.vmap(solver))(jnp.asarray(x, dtype), jnp.asarray(y, dtype))
        error = np.linalg.norm(np.asarray(found.weights, float) - true, axis=-1)
        # NaN as soon as half of the draws have no answer.
        errors[name] = np.median(np.where(found.ok, error, np.inf), axis=1)
    return conditions, errors


def with_ones(x):
    """A matrix of examples with a last column of ones for the intercept."""
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


@jax.jit
def least_error(x, y):
    """The mean squared error that no weights undercut."""
    return jnp.mean((x @ normal_equation(x, y).weights - y) ** 2)


def printed_losses(*, seed: int, full: bool):
    """The article's regression, run with its generator, and its impossible listing."""
    del full
    runs = np.stack([regression_losses(s) for s in range(20)])
    shown = runs[:, SHOWN]
    yield row(
        "calculus-regression-run",
        {
            "seed0": shown[0],
            "every_run_falls": bool((np.diff(runs) < 0).all()),
            "runs": len(runs),
            "median_first_below_2": bool(np.median(runs[:, 0]) < 2),
        },
        dense,
        fit,
        torch_random.randn,
        torch_random.linear,
        note="The draws are PyTorch's own, replayed: model, inputs, targets, in this order.",
    )
    stated = np.array(
        [float(x) for x in claims()["calculus-regression-run"].stated.split(", ")]
    )
    rolls = second_differences(random_problems(seed, 500))
    yield row(
        "calculus-printed-losses-impossible",
        {
            "drops": np.round(-np.diff(stated), 4),
            "second_difference": np.round(np.diff(stated, 2).min(), 4),
            "smallest_second_difference_in_500_runs_nonnegative": bool(rolls.min() >= 0),
            "smallest_in_20_torch_runs_above_minus_rounding": bool(
                second_differences(shown).min() > -1e-6
            ),
        },
        random_problems,
        fit,
        note="The article's own error. On a fixed quadratic the excess loss is a sum of "
        "c ρ^t with c, ρ >= 0, so every drop is at most the one before. Its second drop, "
        "0.2789, exceeds its first, 0.2529: no data, seed, start or rate gives that listing.",
    )
    yield figures.drops(-np.diff(stated), -np.diff(shown))
    yield row(
        "calculus-printed-format",
        {
            "code_prints": f"step {0} | loss {stated[0]:.4f}",
            "document_shows": claims()["calculus-printed-format"].stated.strip("'"),
        },
        "builtins.format",
        note="The article's code is not shipped: its format is as the ledger tells it.",
    )


def regression_loss(params, batch):
    """Mean squared error of one linear layer."""
    x, y = batch
    return jnp.mean((dense(params, x) - y) ** 2)


def regression_losses(seed: int):
    """The article's run with this ``torch.manual_seed``: 100 losses, float32 as there."""
    state = np.random.RandomState(seed)
    params = torch_random.linear(state, 4, 1)
    x, y = torch_random.randn(state, 10, 4), torch_random.randn(state, 10, 1)
    batches = jax.tree.map(lambda a: np.broadcast_to(a, (STEPS, *a.shape)), (x, y))
    return np.asarray(fit(regression_loss, params, batches, optimizer=REGRESSION).losses)


def random_problems(seed: int, count: int):
    """The losses that runs on random data with random starts and rates would print.

    Rates reach up to the critical one, beyond which nothing falls.
    """
    generator = np.random.default_rng(seed)
    x = with_ones(generator.standard_normal((count, 10, 4)))
    y, start = generator.standard_normal((count, 10)), generator.standard_normal((count, 5))
    rate = generator.uniform(size=count) * jax.vmap(critical_rate)(x)
    losses = jax.vmap(partial(descend, steps=STEPS))(x, y, 3 * start, rate)[1]
    return np.asarray(losses[:, SHOWN])


def second_differences(losses):
    """By how much each drop is smaller than the one before; zero where that is rounding."""
    differences = np.diff(losses, 2)
    return np.where(abs(differences) < 1e-14 * losses[:, :1], 0, differences)


@partial(jax.jit, static_argnames="steps")
def descend(x, y, w, rate, *, steps):
    """Plain gradient descent on mean squared error: all weights visited, all losses."""

    def step(w, _):
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
        return w - rate * gradient, (w, loss)

    return jax.lax.scan(step, w, length=steps)[1]


@jax.jit
def critical_rate(x):
    """The rate beyond which descent on mean squared error diverges: 2 / largest curvature."""
    return 2 / jnp.linalg.eigvalsh(2 / len(x) * x.T @ x)[-1]


SMALL_PROBLEM = "Inputs and targets are drawn by RandomState(0), as in the ledger."


@cache
def small_problem():
    """Ten examples with four features and an intercept, as in the article's regression."""
    state = np.random.RandomState(0)
    return with_ones(jnp.asarray(state.randn(10, 4))), jnp.asarray(state.randn(10))


def rates(*, seed: int, full: bool):
    """Where descent ends, and what too high and too low a rate do."""
    del full
    x, y = small_problem()
    best = normal_equation(x, y).weights
    weights, _ = descend(x, y, jnp.ones(5), 0.1, steps=4000)
    generator = np.random.default_rng(seed)
    many_x = with_ones(generator.standard_normal((2000, 10, 4)))
    many_y = generator.standard_normal((2000, 10))
    floors = jax.vmap(least_error)(many_x, many_y)
    yield row(
        "calculus-regression-converges",
        {
            "reaches_normal_equation": bool(jnp.allclose(weights[-1], best)),
            "expected_floor": 1 - x.shape[1] / x.shape[0],
            "mean_floor_2000": np.round(floors.mean(), 1),
            "floor_is_not_zero": bool(floors.min() > 0),
        },
        descend,
        normal_equation,
        note="Five parameters explain half of the noise in ten targets, and no more.",
    )
    critical = critical_rate(x)
    below, above = (
        descend(x, y, jnp.ones(5), factor * critical, steps=201)[1] for factor in (0.95, 1.05)
    )
    yield row(
        "calculus-rate-too-high",
        {
            "critical_rate": critical,
            # Once converged the loss moves by its rounding, up as well as down.
            "just_below_falls": bool((jnp.diff(below) < 1e-14).all()),
            "just_above_explodes": bool(above[-1] > 1000 * above[0]),
        },
        critical_rate,
        descend,
        "jax.numpy.linalg.eigvalsh",
        note=SMALL_PROBLEM,
    )
    tried = (0.01, 0.1, 0.95 * critical, 1.05 * critical)
    curves = [
        descend(x, y, jnp.ones(5), rate, steps=101)[1] - least_error(x, y) for rate in tried
    ]
    yield figures.rates(tried, curves)
    # The first step at which a twentieth of the excess is left.
    slow, fast = (int(jnp.argmax(curve <= 0.05 * curve[0])) for curve in curves[:2])
    yield row(
        "calculus-rate-too-low",
        {
            "steps_lr_0_01": slow,
            "steps_lr_0_1": fast,
            "ratio_about_10": bool(8 < slow / fast < 12),
        },
        descend,
        note=f"{SMALL_PROBLEM} Descent starts from ones.",
    )


def optimisers(*, seed: int, full: bool):
    """AdamW, clipping, and steps that do not lower the loss."""
    del seed, full
    gradient = jnp.array([1000.0, 0.001])
    moved = {
        name: -optimizer.update(gradient, optimizer.init(jnp.zeros(2)), jnp.zeros(2))[0]
        for name, optimizer in (("adam_steps", optax.adamw(0.1)), ("sgd_steps", optax.sgd(0.1)))
    }
    yield row(
        "calculus-adamw-per-parameter",
        {"adam_steps": np.round(moved["adam_steps"], 5), "sgd_steps": moved["sgd_steps"]},
        "optax.adamw",
        "optax.sgd",
        note="Rounded to five digits: AdamW adds 1e-8 to what it divides by, which takes a "
        "hundred-thousandth off the second step.",
    )
    gradients = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([12.0])}
    clip = optax.clip_by_global_norm(1.0)
    clipped, _ = clip.update(gradients, optax.EmptyState())
    norm = optax.global_norm(gradients)
    yield row(
        "calculus-gradient-clipping",
        {"norm": norm, "clipped": clipped, "norm_after": optax.global_norm(clipped)},
        "optax.clip_by_global_norm",
        "optax.global_norm",
        flops=flops(lambda g: clip.update(g, optax.EmptyState())[0], gradients),
        holds=bool(
            norm == jnp.hypot(jnp.hypot(3, 4), 12)
            and jnp.allclose(clipped["a"] * norm, gradients["a"])
            and jnp.isclose(optax.global_norm(clipped), 1)
        ),
        note="All gradients shrink by one factor, so the direction stays.",
    )
    once = one_update()
    yield row(
        "calculus-update-reduces-loss",
        once,
        fit,
        "optax.adamw",
        holds=bool(once["adamw_falls"] > 95 and once["quadratic_at_rate_1_1"][1] > 1),
        note="A small step does; on w² from 1 a step at rate 1.1 lands farther out.",
    )
    growth = random_layers()
    yield row(
        "calculus-exploding-gradients",
        {
            "layers": growth.shape[1] - 1,
            "log2_norm_growth": np.round(growth[:, -1] - growth[:, 0], 1),
        },
        random_layers,
        flops=flops(jnp.matmul, jnp.ones(64), jnp.ones((64, 64)), formula=2 * 64 * 64),
        note="A gain of 1 keeps the norm on average; every other is raised to the depth. Its "
        "-0.4 is the draw's, RandomState(0) from a vector of ones. The FLOP are of one layer.",
    )
    yield figures.norms((0.5, 1.0, 2.0), growth)


def one_update() -> dict:
    """How often a step of AdamW lowers the loss, and one step too long for a quadratic."""
    falls = 0
    for s in range(100):
        params, batch = two_layer_problem(s)
        twice = jax.tree.map(lambda a: np.stack([a, a]), batch)
        before, after = fit(cross_entropy, params, twice, optimizer=ADAMW).losses
        falls += int(after < before)
    quadratic = jnp.square
    after = quadratic(1 - 1.1 * jax.grad(quadratic)(1.0))
    return {"adamw_runs": 100, "adamw_falls": falls, "quadratic_at_rate_1_1": [1.0, after]}


def random_layers():
    """log2 of a vector's norm before and after each of 20 random layers, one row a gain."""
    state = np.random.RandomState(0)
    rows = []
    for gain in (0.5, 1.0, 2.0):
        x = jnp.ones(64)
        norms = [jnp.linalg.norm(x)]
        for _ in range(20):
            x = x @ (gain / np.sqrt(64) * state.randn(64, 64))
            norms.append(jnp.linalg.norm(x))
        rows.append(jnp.log2(jnp.stack(norms)))
    return np.stack(rows)


def two_layer_problem(seed: int):
    """The article's 8-16-3 network, 32 inputs and labels, with PyTorch's draws."""
    state = np.random.RandomState(seed)
    params = torch_random.mlp(state, (8, 16, 3))
    return params, (torch_random.randn(state, 32, 8), torch_random.randint(state, 3, 32))


def two_layer_net(*, seed: int, full: bool):
    """One forward and backward pass of the article's 8-16-3 network."""
    del seed, full
    losses = [float(cross_entropy(*two_layer_problem(s))) for s in range(30)]
    params, batch = two_layer_problem(0)
    gradient = jax.grad(cross_entropy)(params, batch)
    forward = cost(mlp, params, batch[0]).lowered.matmul_flops
    both = cost(jax.value_and_grad(cross_entropy), params, batch).lowered.matmul_flops
    yield row(
        "calculus-two-layer-net",
        {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "logits": mlp(params, batch[0]).shape,
            "log_3": np.log(3),
            "mean_loss_near_log3": bool(abs(np.mean(losses) / np.log(3) - 1) < 0.05),
            "forward_matmul_flops": forward,
            "backward_matmul_flops_no_input_gradient": both - forward,
            "seed0_loss": losses[0],
        },
        mlp,
        "jax.value_and_grad",
        flops=flops(
            jax.value_and_grad(cross_entropy),
            params,
            batch,
            formula=3 * mlp_flops(n=32, widths=(8, 16, 3), bias=False) - 2 * 32 * 8 * 16,
        ),
        note="The draws are PyTorch's own, replayed: model, inputs, labels, in this order. The "
        "FLOP are of both passes, the closed form of their products: three of each of the "
        "forward pass, less the one that would lead to the input.",
    )
    matches = jax.tree.map(
        lambda p, g: p.shape == g.shape and bool(jnp.any(g != 0)), params, gradient
    )
    yield row(
        "calculus-every-weight-has-gradient",
        {"tensors": len(jax.tree.leaves(gradient)), "all_present": jax.tree.all(matches)},
        mlp,
        "jax.grad",
    )


EXPERIMENTS = (
    update_rule,
    exact_solution,
    printed_losses,
    rates,
    optimisers,
    two_layer_net,
    landscape,
)
