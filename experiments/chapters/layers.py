"""One layer, y = f(W x + b), and many of them.

Rows are examples, so a kernel is the articles' W transposed: (d_in, d_out).
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.layers_depth import depth, expansion, without_activation
from experiments.data import digits, photograph
from experiments.figures import layers as figures
from experiments.rows import flops, row
from lintoolkit.layers import (
    dense,
    dense_flops,
    init_dense,
    init_mlp,
    layer_norm,
    mlp,
    mlp_flops,
)


def one_layer(*, seed: int, full: bool):
    """A matrix and a bias take a vector of one width to a vector of another."""
    del full
    key = jax.random.key(seed)
    state = jnp.asarray(photograph("camera")[96:102, 160:168]) / 255
    params = init_dense(key, 8, 5)
    yield row(
        "sense-layer-as-matrix",
        {"state": state.shape, "next_state": dense(params, state).shape},
        dense,
        flops=flops(dense, params, state, formula=dense_flops(n=6, d_in=8, d_out=5)),
        note="The state is a corner of a photograph.",
    )

    params = {
        "kernel": jnp.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).T,
        "bias": jnp.asarray([0.5, 0.0, -0.5]),
    }
    x = jnp.asarray([10.0, -1.0])
    y = dense(params, x)
    by_hand = jnp.asarray([1 * 10 - 2 + 0.5, 3 * 10 - 4, 5 * 10 - 6 - 0.5])
    yield row(
        "need-layer-formula",
        {"W": params["kernel"].T.shape, "y": y},
        dense,
        flops=flops(dense, params, x, formula=dense_flops(n=1, d_in=2, d_out=3)),
        holds=bool(jnp.array_equal(y, by_hand)),
    )

    params = init_dense(key, 5, 3, dtype=jnp.float64)
    weight, bias = np.asarray(params["kernel"]).T, np.asarray(params["bias"])
    x = jnp.linspace(-1.0, 1.0, 5)
    y = jnp.tanh(dense(params, x))
    yield row(
        "matrices-layer-formula",
        {
            "weight_shape": weight.shape,
            "output": y.size,
            "matches_torch": bool(np.allclose(y, np.tanh(np.asarray(x) @ weight.T + bias))),
            "parameters": weight.size + bias.size,
        },
        dense,
        flops=flops(dense, params, x, formula=dense_flops(n=1, d_in=5, d_out=3)),
        note="Compared with PyTorch's documented formula x Wᵀ + b, written out in NumPy.",
    )

    table = jnp.asarray([[0.2, 0.1, 0.4], [0.5, -0.2, 0.3], [0.1, 0.5, 0.4], [-0.3, 0.2, 0.3]])
    params = {"kernel": table.T}
    yield row(
        "calculus-w-4x3",
        {
            "stdout": f"{table.shape}\n",
            "shape": table.shape,
            "times_123": dense(params, jnp.asarray([1.0, 2.0, 3.0])),
            "rank": jnp.linalg.matrix_rank(table),
            "row_vector_input": table.shape[0],
        },
        dense,
        "jax.numpy.linalg.matrix_rank",
        flops=flops(
            dense, params, jnp.ones(3), formula=dense_flops(n=1, d_in=3, d_out=4, bias=False)
        ),
        fitted=True,
        note="The weights are ours, chosen to give the ledger's product: the article's are "
        "not shipped.",
    )

    params = init_dense(key, 128, 256)
    rows = jnp.asarray(photograph("camera")[:32, :128], jnp.float32) / 255
    fits, refused = dense(params, rows[0]), refusal(dense, params, rows[0, :127])
    yield row(
        "calculus-dimension-sizes",
        {"weight": params["kernel"].T.shape, "output": fits.shape, "refusal_of_127": refused},
        dense,
        holds=fits.shape == (256,) and refused is not None,
    )
    outputs = dense(params, rows)
    matmul = dense_flops(n=32, d_in=128, d_out=256, bias=False)
    biased = dense_flops(n=32, d_in=128, d_out=256)
    yield row(
        "calculus-linear-128-256",
        {
            "stdout": f"torch.Size({list(outputs.shape)})\n",
            "stored_weight": params["kernel"].T.shape,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "matmul_flops": matmul,
            "with_bias_adds": biased,
        },
        dense,
        dense_flops,
        flops=flops(dense, params, rows, formula=biased),
    )


def layer_sizes(*, seed: int, full: bool):
    """The widths of language models, compiled without allocating a single weight."""
    del full
    make = partial(init_dense, d_in=4096, d_out=11008, bias=False, dtype=jnp.float16)
    key = jax.random.key(seed)
    params = jax.eval_shape(make, key)
    x = jax.ShapeDtypeStruct((4096,), jnp.float16)
    y = jax.eval_shape(dense, params, x)
    kernel = params["kernel"]
    count = dense_flops(n=1, d_in=4096, d_out=11008, bias=False)
    moved = sum(array.size * array.dtype.itemsize for array in (kernel, x, y))
    yield row(
        "matrices-4096-11008",
        {
            "shape": kernel.shape[::-1],
            "entries": kernel.size,
            "flops_matvec": count,
            "fp16_megabytes": kernel.size * kernel.dtype.itemsize / 1e6,
            "batch1_flop_per_byte_fp16": count / moved,
        },
        dense,
        dense_flops,
        flops=flops(dense, params, x, formula=count),
        note="A CPU widens half precision; XLA's own count takes each conversion for "
        "arithmetic.",
    )

    d = 768
    widths = (d, 4 * d, d)
    params = jax.eval_shape(partial(init_mlp, widths=widths, bias=False), key)
    up, down = (layer["kernel"] for layer in params)
    token = jax.ShapeDtypeStruct((d,), jnp.float32)
    count = mlp_flops(n=1, widths=widths, bias=False)
    yield row(
        "need-mlp-dims",
        {
            "hidden": up.shape[1],
            "W1": up.shape[::-1],
            "W2": down.shape[::-1],
            "weights": up.size + down.size,
            "macs_per_token": count // 2,
            "flops_per_token": count,
        },
        mlp,
        mlp_flops,
        flops=flops(partial(mlp, activation=jax.nn.gelu), params, token, formula=count),
        note="The closed form counts the products; what the program has more is the GELU.",
    )

    values = jnp.linspace(-1.0, 1.0, 8)
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (2,), "VALID")
    layers: dict[str, tuple[Callable, dict]] = {
        "linear": (dense, init_dense(key, 8, 4, dtype=jnp.float64)),
        "layernorm": (layer_norm, {"scale": jnp.ones(8), "bias": jnp.zeros(8)}),
        "maxpool": (lambda _, x: pool(x), {}),
        "relu": (lambda _, x: jax.nn.relu(x), {}),
    }
    yield row(
        "matrices-wxb-every-layer",
        {
            name: [held[key].T.shape for key in sorted(held, reverse=True)]
            for name, (_, held) in layers.items()
        }
        | {"outputs": {name: fn(held, values).shape for name, (fn, held) in layers.items()}},
        dense,
        layer_norm,
        "jax.lax.reduce_window",
        "jax.nn.relu",
    )


def activations(*, seed: int, full: bool):
    """The bend after each product: ReLU, where it opens, and a softmax that cannot overflow."""
    del full
    a, b = jnp.asarray([[1.0, -2.0], [3.0, 0.5]]), jnp.asarray([[1.0, -1.0], [2.0, 1.0]])
    product = dense({"kernel": b}, a)
    yield row(
        "sense-matmul-then-relu",
        {"C": product, "after_relu": jax.nn.relu(product)},
        dense,
        "jax.nn.relu",
        flops=flops(
            dense, {"kernel": b}, a, formula=dense_flops(n=2, d_in=2, d_out=2, bias=False)
        ),
    )
    x = jnp.asarray([-2.0, -0.5, 0.0, 0.5, 2.0])
    once = jax.nn.relu(x)
    yield row(
        "sense-relu",
        {"once": once, "twice": jax.nn.relu(once)},
        "jax.nn.relu",
        holds=bool(
            jnp.all(once == jnp.where(x > 0, x, 0)) & jnp.all(jax.nn.relu(once) == once)
        ),
    )

    unit = {"kernel": jnp.asarray([[2.0]]), "bias": jnp.asarray([-1.0])}
    inputs = jnp.arange(-2000, 2001)[:, None] / 1000
    positive = jax.nn.relu(dense(unit, inputs)) > 0
    gaussian = np.random.RandomState(seed).randn(200_000)
    yield row(
        "sense-relu-threshold",
        {
            "threshold_no_bias": 0 / unit["kernel"][0, 0],
            "threshold_w2_bminus1": -unit["bias"][0] / unit["kernel"][0, 0],
            "found": inputs[jnp.argmax(positive), 0],
            "half_of_gaussian_suppressed": round(
                float(jnp.mean(jax.nn.relu(gaussian) == 0)), 2
            ),
        },
        dense,
        "jax.nn.relu",
        note="Found on a grid of thousandths: the first positive output is one step above.",
    )

    def naive(scores: jax.Array) -> jax.Array:
        return jnp.exp(scores) / jnp.sum(jnp.exp(scores))

    limit = jnp.log(jnp.finfo(jnp.float32).max.astype(jnp.float32))
    over = jnp.asarray([89.0, 0.0], jnp.float32)
    far = jnp.asarray([1000.0, 999.0], jnp.float32)
    yield row(
        "sense-numerical-stability",
        {
            "float32_exp_limit": limit,
            "naive_at_89_is_nan": bool(jnp.isnan(naive(over)[0])),
            "stable_1000_999": jax.nn.softmax(far)[0],
        },
        "jax.nn.softmax",
        note="Computed in float32, where the overflow is.",
    )


def networks(*, seed: int, full: bool):
    """Layers in a row: what a small network holds, computes and costs."""
    del full
    key = jax.random.key(seed)
    params = init_mlp(key, (4, 5, 2), bias=False)
    edges = [layer["kernel"].size for layer in params]
    units = [layer["kernel"].shape[0] for layer in params] + [params[-1]["kernel"].shape[1]]
    yield row(
        "sense-figure-weights-layers",
        {"units": units, "edges": edges, "total_weights": sum(edges)},
        init_mlp,
    )
    yield figures.network([layer["kernel"] for layer in params])

    params = init_mlp(key, (64, 16, 4, 1))
    states = [jnp.asarray(digits()[0][:1], jnp.float32) / 16]
    for layer in params:
        states.append(jax.nn.relu(dense(layer, states[-1])))
    yield row(
        "multiply-collapse",
        {"shapes": [state.shape for state in states]},
        dense,
        flops=flops(
            mlp, params, states[0], formula=mlp_flops(n=1, widths=(64, 16, 4, 1)) + 16 + 4
        ),
        note="The 64 numbers are a handwritten digit. The closed form counts biases and ReLUs.",
    )

    widths = (4, 8, 6, 3)
    params = init_mlp(key, widths, dtype=jnp.float64)
    x = jnp.asarray([[1.0, 0.5, -0.3, 0.8]])
    first, second, last = params
    hidden = jax.nn.relu(x @ first["kernel"] + first["bias"])
    hidden = jax.nn.relu(hidden @ second["kernel"] + second["bias"])
    written_out = hidden @ last["kernel"] + last["bias"]
    yield row(
        "need-three-layer-ffn",
        {
            "matches_stacked": bool(jnp.allclose(written_out, mlp(params, x))),
            "output": written_out.shape[-1],
            "matmul_flops": mlp_flops(n=1, widths=widths, bias=False),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        },
        mlp,
        mlp_flops,
        flops=flops(mlp, params, x, formula=mlp_flops(n=1, widths=widths) + 8 + 6),
        note="The closed form of the FLOP cell counts biases and ReLUs too.",
    )

    unbiased = [{"kernel": layer["kernel"]} for layer in params]

    def forward(x: jax.Array) -> jax.Array:
        return jax.nn.relu(mlp(unbiased, x))

    count = operations(forward, x)
    yield row(
        "need-forward-interleaved",
        {
            "matmuls": count["dot_general"],
            "nonlinearities": count["max"],
            "scaling_positive_homogeneous": bool(jnp.allclose(forward(3 * x), 3 * forward(x))),
        },
        mlp,
        flops=flops(forward, x, formula=mlp_flops(n=1, widths=widths, bias=False) + 8 + 6 + 3),
    )

    def loss(params: tuple, x: jax.Array) -> jax.Array:
        return jnp.sum(mlp(params, x) ** 2)

    there = operations(loss, params[:2], x)["dot_general"]
    and_back = operations(jax.grad(loss), params[:2], x)["dot_general"]
    yield row(
        "multiply-everything-is-matrix-algebra",
        {
            "forward_products_of_2_layer_net": there,
            "backward_products": and_back - there,
        },
        mlp,
        "jax.grad",
        flops=flops(jax.grad(loss), params[:2], x),
    )


def seeded_forward_pass(*, seed: int, full: bool):
    """The article's NumPy network, number for number, by our layers."""
    del seed, full
    draw = np.random.RandomState(42)  # the article's own seed
    first, second = draw.randn(8, 4) * 0.5, draw.randn(3, 8) * 0.5
    params = tuple(
        {"kernel": jnp.asarray(weight.T), "bias": jnp.zeros(len(weight))}
        for weight in (first, second)
    )
    x = jnp.asarray([1.0, 0.5, -0.3, 0.8])
    y = mlp(params, x)
    shown = [np.array2string(np.asarray(vector)) for vector in (x, y)]
    widths = (4, 8, 3)
    relus = widths[1]
    counted = flops(mlp, params, x, formula=mlp_flops(n=1, widths=widths) + relus)
    yield row(
        "need-code-forward",
        {
            "stdout": f"Input:  {shown[0]}\nOutput: {shown[1]}\n"
            f"Shape:  {x.shape} → {y.shape}\n",
            "output": y,
            "W1_first": first[0, 0],
            "relu_alive": jnp.sum(dense(params[0], x) > 0),
        },
        mlp,
        dense,
        flops=counted,
    )
    bias_adds = sum(layer["bias"].size for layer in params)
    products = mlp_flops(n=1, widths=widths, bias=False)
    yield row(
        "need-code-forward-two-products",
        {
            "matvecs": operations(mlp, params, x)["dot_general"],
            "matvec_flops": products,
            "bias_adds": bias_adds,
            "relus": relus,
            "total_scalar_ops": products + bias_adds + relus,
        },
        mlp,
        mlp_flops,
        flops=counted,
    )


def refusal(fn: Callable, *args) -> str | None:
    """The error that a call ends in, None where it works."""
    try:
        fn(*args)
    except ValueError as error:
        return str(error)
    return None


def operations(fn: Callable, *args) -> Counter:
    """How often each primitive stands in a traced function, the functions it calls included."""

    def walk(jaxpr) -> Counter:
        count = Counter(equation.primitive.name for equation in jaxpr.eqns)
        for equation in jaxpr.eqns:
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):  # a function that is called
                    count += walk(value.jaxpr)
        return count

    return walk(jax.make_jaxpr(fn)(*args).jaxpr)


EXPERIMENTS = (
    one_layer,
    activations,
    networks,
    seeded_forward_pass,
    without_activation,
    depth,
    expansion,
    layer_sizes,
)
