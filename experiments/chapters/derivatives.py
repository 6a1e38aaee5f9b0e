"""Slopes, gradients and the chain rule: what training needs to know about a function."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import derivatives as figures
from experiments.ledger import claims
from experiments.rows import flops, row
from lintoolkit.cost import cost
from lintoolkit.layers import dense, init_mlp, mlp, mlp_flops

WIDTHS = (8, 16, 3)
BATCH = 32
STEPS = np.geomspace(1e-12, 1, 97)


def slopes(*, seed: int, full: bool):
    """The slope of x² at 3, exactly, by finite differences, and by the article's code."""
    del seed, full
    yield row(
        "calculus-derivative-x2",
        {"derivative": jax.grad(jnp.square)(3.0)},
        "jax.grad",
        flops=flops(jax.grad(jnp.square), 3.0),
    )
    h = 1e-4
    central = central_difference(jnp.square, 3.0, h)
    forward = (jnp.square(3.0 + h) - jnp.square(3.0)) / h
    single = central_difference(jnp.square, jnp.float32(3), jnp.float32(h))
    yield row(
        "calculus-numeric-value",
        {
            "central": central,
            "central_error_below_1e_9": bool(abs(central - 6) < 1e-9),
            "forward": forward,
            "forward_bias_is_h": forward - 6,
            "float32_central": single,
        },
        central_difference,
        flops=flops(lambda x: central_difference(jnp.square, x, h), 3.0),
    )
    yield figures.finite_differences(
        STEPS, {d: step_error(d) for d in (np.float32, np.float64)}
    )
    yield from broken_snippet()
    change = jnp.square(3.001) - jnp.square(3.0)
    yield row(
        "calculus-slope-meaning",
        {
            "change": change,
            "six_times": jax.grad(jnp.square)(3.0) * 0.001,
            "remainder": jax.grad(jax.grad(jnp.square))(3.0) / 2 * 0.001**2,
        },
        "jax.grad",
        note="The remainder is half the second derivative times the step squared.",
    )


def central_difference(fn, x, h):
    """The slope of `fn` over a step h to either side."""
    return (fn(x + h) - fn(x - h)) / (2 * h)


def step_error(dtype) -> np.ndarray:
    """How wrong the central difference of sin at 3 is at each of `STEPS`."""
    slope = central_difference(jnp.sin, dtype(3), jnp.asarray(STEPS, dtype))
    return abs(np.asarray(slope, float) - np.cos(3.0))


def broken_snippet():
    """Compile the article's expression as printed, and repair it in both possible ways."""
    printed = "f(x + h) - f(x - h)) / (2 * h)"
    try:
        compile(printed, "article", "eval")
        error = None
    except SyntaxError as problem:
        error = problem.msg
    names = {"f": lambda x: x**2, "x": 3.0, "h": 1e-4}
    dropped, added = (
        eval(code, names) for code in (printed.replace("h))", "h)"), f"({printed}")
    )
    yield row(
        "calculus-numeric-snippet-syntax",
        {"error": error, "drop_stray_bracket": dropped, "add_leading_bracket": added},
        "builtins.compile",
        note="Deleting the stray bracket makes it run, and divides only the second term: a "
        "slope of -44988. The missing one belongs in front.",
    )


def gradients(*, seed: int, full: bool):
    """One derivative for each weight: the gradient."""
    del seed, full

    def squared_error(w):
        return (w * 2.0 - 3.0) ** 2

    yield row(
        "calculus-loss-derivative",
        {"gradient": jax.grad(squared_error)(0.5), "by_hand": 2 * (0.5 * 2.0 - 3.0) * 2.0},
        "jax.grad",
        flops=flops(jax.grad(squared_error), 0.5),
    )

    def quadratic(x, y):
        return x**2 + 3 * x * y + y**2

    value, (dx, dy) = jax.value_and_grad(quadratic, argnums=(0, 1))(2.0, 1.0)
    yield row(
        "calculus-gradient-7-8",
        {
            "stdout": torch_print(dx) + torch_print(dy),
            "value": value,
            "dx": dx,
            "dy": dy,
            "hessian": jax.hessian(lambda p: quadratic(p[0], p[1]))(jnp.array([2.0, 1.0])),
        },
        "jax.value_and_grad",
        "jax.hessian",
        flops=flops(jax.grad(quadratic, argnums=(0, 1)), 2.0, 1.0),
    )
    params = init_mlp(jax.random.key(0), WIDTHS, dtype=jnp.float64)
    gradient = jax.grad(lambda p: mlp(p, jnp.ones(8)).sum())(params)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    yield row(
        "calculus-gradient-all-weights",
        {"weights": count(params), "derivatives": count(gradient)},
        mlp,
        "jax.grad",
    )
    yield row(
        "matrices-gradient-shape",
        {
            "weights": [layer["kernel"].shape for layer in params],
            "gradients": [layer["kernel"].shape for layer in gradient],
        },
        mlp,
        "jax.grad",
    )
    tracked = []

    def watched(x):
        tracked.append(isinstance(x, jax.core.Tracer))
        return x**2

    watched(3.0)
    jax.grad(watched)(3.0)
    yield row(
        "calculus-autodiff",
        {"tracked": tracked},
        "jax.grad",
        note="PyTorch marks tensors; JAX marks none and traces when asked for a gradient.",
    )


def torch_print(value) -> str:
    """A number as PyTorch prints a scalar tensor."""
    return f"tensor({np.format_float_positional(float(value), precision=4)})\n"


def chain_rule(*, seed: int, full: bool):
    """Factors multiply along a composition; the article drops one of them."""
    del seed, full
    inner = jax.grad(jnp.square)(3.0)
    two = jax.grad(jnp.sin)(9.0) * inner
    yield row(
        "calculus-chain-rule",
        {
            "analytic": two,
            "automatic": jax.grad(lambda x: jnp.sin(x**2))(3.0),
            "numeric": central_difference(lambda x: jnp.sin(x**2), 3.0, 1e-5),
        },
        "jax.grad",
        central_difference,
        flops=flops(jax.grad(lambda x: jnp.sin(x**2)), 3.0),
    )
    tape = walk((jnp.square, jnp.sin, jnp.exp), 3.0)
    yield row(
        "calculus-chain-grows",
        {"value": tape[0]["gradient"], "factors": len(tape)},
        walk,
        flops=flops(jax.grad(lambda x: jnp.exp(jnp.sin(x**2))), 3.0),
    )

    def article(x):
        return 2 * jnp.sin(x**2)

    value, right = jax.value_and_grad(article)(3.0)
    stated = float(claims()["calculus-chain-example"].stated.split()[-1])
    yield row(
        "calculus-chain-example",
        {
            "stdout": torch_print(right),
            "right": right,
            "stated": stated,
            "stated_is_6cos9": np.round(two, 3),
            "factor_missing": right / two,
            "forward_value": value,
        },
        "jax.grad",
        flops=flops(jax.grad(article), 3.0),
        note="The article's own error: 2 · cos 9 · 6 is -10.9336, not -5.467, which is "
        "cos 9 · 6 without the 2.",
    )
    yield figures.slopes(article, right, stated)
    steps = (jnp.square, jnp.sin, double)
    tape = walk(steps, 3.0)
    announced = claims()["calculus-two-layers-comment"].stated
    yield row(
        "calculus-two-layers-comment",
        {
            "comment_says": ("none", "one", "two", "three").index(announced),
            "transformations": len(jax.make_jaxpr(article)(3.0).eqns),
        },
        "jax.make_jaxpr",
        note="Square, sine, doubling: three steps, as the traced program shows.",
    )
    yield row(
        "calculus-graph-walk", {"nodes": len(tape), "gradient": tape[0]["gradient"]}, walk
    )
    yield figures.graph(tape)


def double(x):
    """The outer factor of the article's example."""
    return 2 * x


def walk(steps, x):
    """Backpropagation by hand along a chain: one record a step, in forward order.

    Each record has the step's input, output, local slope, and the slope of the end of the
    chain in the step's input, filled in on the way back.
    """
    tape = []
    for step in steps:
        tape.append({"step": step, "input": x, "output": step(x), "local": jax.grad(step)(x)})
        x = tape[-1]["output"]
    gradient = 1.0
    for record in reversed(tape):
        gradient = record["gradient"] = gradient * record["local"]
    return tape


def matrix_gradients(*, seed: int, full: bool):
    """Through a matrix product, gradients are matrix products again, with transposes."""
    del full
    generator = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(generator.standard_normal(shape))
    a, b = draw(3, 4), draw(4, 2)
    in_b = central_difference(lambda s: a @ b.at[2, 1].add(s), 0.0, 1e-3)
    in_a = central_difference(lambda s: a.at[0, 2].add(s) @ b, 0.0, 1e-3)
    yield row(
        "sense-weights-multipliers",
        {
            "dC_dB_equals_input": bool(jnp.allclose(in_b[:, 1], a[:, 2])),
            "dC_dA_equals_weight": bool(jnp.allclose(in_a[0], b[2])),
        },
        central_difference,
        flops=flops(jnp.matmul, a, b, formula=2 * 3 * 4 * 2),
    )
    w, x, g = draw(3, 4), draw(4), draw(3)
    _, pull_back = jax.vjp(jnp.matmul, w, x)
    dw, dx = pull_back(g)
    yield row(
        "need-backprop-same-matrices",
        {
            "dx_is_Wt_g": bool(jnp.allclose(dx, w.T @ g)),
            "dW_is_outer": bool(jnp.allclose(dw, jnp.outer(g, x))),
            "rank_of_dW": jnp.linalg.matrix_rank(dw),
        },
        "jax.vjp",
        flops=flops(lambda g: jax.vjp(jnp.matmul, w, x)[1](g), g, formula=2 * 2 * 3 * 4),
        note="Articles one and two write W x; the gradients are those of their W. The outer "
        "product counts as the product that it is, of one term an entry.",
    )
    yield from by_hand(draw)
    inputs, errors = draw(5, 4), draw(5, 3)
    update = jax.grad(lambda w: jnp.sum((inputs @ w) * errors))(jnp.zeros((4, 3)))
    outers = sum(jnp.outer(x, delta) for x, delta in zip(inputs, errors, strict=True))
    yield row(
        "multiply-weight-update-product",
        {
            "gradient_is_xT_delta": (inputs.T @ errors).shape,
            "equals_product": bool(jnp.allclose(update, inputs.T @ errors)),
            "equals_sum_of_outers": bool(jnp.allclose(update, outers)),
        },
        "jax.grad",
        flops=flops(lambda x, delta: x.T @ delta, inputs, errors, formula=2 * 4 * 5 * 3),
    )


def by_hand(draw):
    """A backward pass written out for a two-layer network, against the automatic one."""
    params = init_mlp(jax.random.key(0), WIDTHS, dtype=jnp.float64)
    x, y = draw(BATCH, WIDTHS[0]), draw(BATCH, WIDTHS[-1])

    def loss(params):
        return 0.5 * jnp.sum((mlp(params, x) - y) ** 2)

    hidden, _ = both_layers(params, x)
    ours = both_passes(params, x, y)
    automatic = jax.grad(loss)(params)
    nudged = lambda s: loss(
        (params[0] | {"kernel": params[0]["kernel"].at[2, 3].add(s)}, params[1])
    )
    error = abs(central_difference(nudged, 0.0, 1e-5) - ours[0]["kernel"][2, 3])
    forward_flops = cost(mlp, params, x).lowered.matmul_flops
    backward_flops = cost(backward, params[1]["kernel"], x, hidden, y).lowered.matmul_flops
    yield row(
        "matrices-backprop-transposes",
        {
            "matches_torch": bool(jax.tree.all(jax.tree.map(jnp.allclose, ours, automatic))),
            "finite_difference_error_below_1e_5": bool(error < 1e-5),
            "forward_matmul_flops": forward_flops,
            "backward_matmul_flops": backward_flops,
        },
        backward,
        mlp,
        flops=flops(
            both_passes,
            params,
            x,
            y,
            formula=3 * mlp_flops(n=BATCH, widths=WIDTHS, bias=False)
            - 2 * BATCH * WIDTHS[0] * WIDTHS[1],
        ),
        note="The automatic gradient compared with is jax.grad's. The backward pass has three "
        "products, X'D twice and D W' once: the input itself needs no gradient. The FLOP are "
        "of both passes, the closed form of their products.",
    )


def both_layers(params, x):
    """What the hidden layer and the last one give."""
    first, last = params
    hidden = jax.nn.relu(dense(first, x))
    return hidden, dense(last, hidden)


def both_passes(params, x, y):
    """The gradients of half the squared error, forward and back by hand."""
    hidden, output = both_layers(params, x)
    return backward(params[1]["kernel"], x, hidden, output - y)


def backward(kernel, x, hidden, delta):
    """Gradients of both layers from the error at the output, as products with transposes."""
    back = (delta @ kernel.T) * (hidden > 0)
    return (
        {"kernel": x.T @ back, "bias": back.sum(0)},
        {"kernel": hidden.T @ delta, "bias": delta.sum(0)},
    )


EXPERIMENTS = (slopes, gradients, chain_rule, matrix_gradients)
