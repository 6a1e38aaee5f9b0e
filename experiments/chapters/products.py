"""The matrix product: its rule, its shapes, worked examples and exercises with answers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.products_examples import (
    MATMUL,
    matmul_flops,
    practice,
    product_shape,
    row_by_column,
    worked_examples,
)
from experiments.figures import products as figures
from experiments.rows import flops, row
from lintoolkit.layers import dense, dense_flops
from lintoolkit.similarity import dot


def entries(*, seed: int, full: bool):
    """Each entry of a product is a row dotted with a column, and needs no other entry."""
    del full
    draw = np.random.RandomState(seed)
    a, b = jnp.asarray(draw.randn(3, 4)), jnp.asarray(draw.randn(4, 5))
    product = a @ b
    (m, k), n = a.shape, b.shape[1]
    yield row(
        "sense-cij-formula",
        {
            "max_abs_difference_below_1e_12": bool(
                jnp.max(jnp.abs(product - row_by_column(a, b))) < 1e-12
            ),
            "flops_2mkn": matmul_flops(a, b),
            "multiplies": m * n * k,
            "adds": m * n * (k - 1),
        },
        MATMUL,
        flops=flops(jnp.matmul, a, b, formula=matmul_flops(a, b)),
    )
    i, j = 1, 3
    yield row(
        "sense-cij-dot-product",
        {
            "entry_is_dot": bool(jnp.allclose(product[i, j], dot(a[i], b[:, j]))),
            "column_is_combination": bool(
                jnp.allclose(product[:, j], jnp.einsum("k,ik->i", b[:, j], a))
            ),
        },
        dot,
        MATMUL,
    )
    left, right = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[5.0, 6.0], [7.0, 8.0]])
    yield row(
        "calculus-matmul-rows-columns",
        {"product": left @ right, "entry_01": dot(left[0], right[:, 1])},
        MATMUL,
        dot,
        flops=flops(jnp.matmul, left, right, formula=matmul_flops(left, right)),
    )

    a, b = jnp.asarray(draw.randn(7, 4)), jnp.asarray(draw.randn(4, 9))
    count = a.shape[0] * b.shape[1]
    order = jnp.asarray(draw.permutation(count))
    one_by_one = jax.lax.map(
        lambda place: dot(a[place // b.shape[1]], b[:, place % b.shape[1]]), order
    )
    scattered = jnp.zeros(count).at[order].set(one_by_one).reshape(a.shape[0], -1)
    yield row(
        "need-mn-independent",
        {"entries": one_by_one.size, "any_order_same": bool(jnp.allclose(scattered, a @ b))},
        dot,
        MATMUL,
        flops=flops(jnp.matmul, a, b, formula=matmul_flops(a, b)),
    )
    all_dots = jax.vmap(jax.vmap(dot, in_axes=(None, 1)), in_axes=(0, None))
    at_once = all_dots(a, b)
    yield row(
        "matrices-entries-independent",
        {"entries": at_once.size, "any_order_same": bool(jnp.allclose(at_once, a @ b))},
        dot,
        "jax.vmap",
        MATMUL,
        flops=flops(all_dots, a, b, formula=matmul_flops(a, b)),
    )


def shapes(*, seed: int, full: bool):
    """Two matrices multiply when their inner sizes agree; the outer sizes remain."""
    del full
    draw = np.random.RandomState(seed)
    tokens, weight = jnp.asarray(draw.randn(3, 4)), jnp.asarray(draw.randn(4, 5))
    yield row(
        "calculus-3x4-4x5",
        {
            "stdout": f"{dense({'kernel': weight}, tokens).shape}\n",
            "flops": matmul_flops(tokens, weight),
        },
        dense,
        dense_flops,
        flops=flops(jnp.matmul, tokens, weight, formula=matmul_flops(tokens, weight)),
    )
    examples = (((2, 3), (3, 4)), ((1, 7), (7, 1)), ((5, 1), (1, 5)), ((3, 4), (3, 4)))
    results = [product_shape(*pair) for pair in examples]
    yield row(
        "calculus-shape-rule",
        {"pairs": examples, "results": results, "mismatch_raises": results[-1] is None},
        "jax.eval_shape",
        MATMUL,
    )
    table = jnp.arange(10).reshape(2, 5)
    yield row(
        "multiply-shape-order",
        {"shape": table.shape, "rows": len(table), "columns": len(table.T)},
        "jax.numpy.reshape",
        holds=table.shape == (2, 5) and len(table[0]) == 5,
    )

    sides = list(itertools.product(range(1, 5), repeat=2))
    outcome = {pair: product_shape(*pair) for pair in itertools.product(sides, repeat=2)}
    yield row(
        "multiply-compatibility-rule",
        {
            "shape_pairs_tried": len(outcome),
            "agree": sum(
                result == ((m, q) if n == p else None)
                for ((m, n), (p, q)), result in outcome.items()
            ),
        },
        "jax.eval_shape",
        MATMUL,
    )
    yield figures.shape_pairs(sides, outcome)

    for claim, first, second in (
        ("multiply-shapes-3442", (3, 4), (4, 2)),
        ("multiply-shapes-5228", (5, 2), (2, 8)),
    ):
        a, b = draw.randint(-5, 10, first) * 1.0, draw.randint(-5, 10, second) * 1.0
        yield row(
            claim,
            {
                "result": jnp.matmul(a, b).shape,
                "numpy": np.matmul(a, b).shape,
                "flops": matmul_flops(a, b),
            },
            MATMUL,
            flops=flops(jnp.matmul, a, b, formula=matmul_flops(a, b)),
        )
    yield row(
        "multiply-shapes-5242",
        {
            "raises": product_shape((5, 2), (4, 2)) is None,
            "with_transpose": product_shape((5, 2), (4, 2)[::-1]),
        },
        "jax.eval_shape",
        MATMUL,
    )

    sizes = [tuple(draw.randint(1, 13, 3)) for _ in range(50)]
    pairs = [(draw.randint(-9, 10, (m, k)), draw.randint(-9, 10, (k, n))) for m, k, n in sizes]
    yield row(
        "multiply-pattern-any-size",
        {
            "random_shapes": len(pairs),
            "agree": sum(
                np.array_equal(jnp.matmul(a, b), row_by_column(a, b)) for a, b in pairs
            ),
        },
        MATMUL,
    )


def transposes(*, seed: int, full: bool):
    """Rows become columns: not a reshape, and a product turns round."""
    del full
    draw = np.random.RandomState(seed)
    a, b = jnp.asarray(draw.randn(3, 4)), jnp.asarray(draw.randn(4, 5))
    yield row(
        "matrices-transpose-identity",
        {
            "identity_holds": bool(jnp.allclose((a @ b).T, b.T @ a.T)),
            "shapes": [(a @ b).T.shape, b.T.shape, a.T.shape],
        },
        MATMUL,
        "jax.numpy.transpose",
    )
    table = jnp.asarray([[1, 2, 3], [4, 5, 6]])
    yield row(
        "calculus-transpose",
        {"stdout": f"{table.shape}\n{table.T.shape}\n", "values": table.T},
        "jax.numpy.transpose",
    )
    reshaped = table.reshape(3, 2)
    yield row(
        "calculus-transpose-is-not-reshape",
        {
            "transpose": table.T,
            "reshape": reshaped,
            "equal": bool(jnp.array_equal(table.T, reshaped)),
        },
        "jax.numpy.transpose",
        "jax.numpy.reshape",
    )
    yield row(
        "multiply-matrix-array",
        {"shape": table.shape, "row": table[1], "column": table[:, 1]},
        "jax.numpy.asarray",
    )
    plain = jnp.asarray([1.0, 2.0, 3.0])
    yield row(
        "multiply-one-dimensional",
        {
            "row": plain[None, :].shape,
            "column": plain[:, None].shape,
            "plain": plain.shape,
            "inner": dot(plain, plain),
            "outer_shape": (plain[:, None] @ plain[None, :]).shape,
        },
        dot,
        MATMUL,
    )
    yield row("multiply-row-column-names", None)


def graphics(*, seed: int, full: bool):
    """A cube turned and moved: graphics is the same product, four numbers to a vertex."""
    del seed, full
    turn = jnp.eye(4).at[:2, :2].set(jnp.asarray([[0.0, -1.0], [1.0, 0.0]]))
    shift = jnp.eye(4).at[0, 3].set(10.0)
    corners = jnp.asarray(list(itertools.product((0.0, 1.0), repeat=3)))
    vertices = jnp.concatenate([corners, jnp.ones((len(corners), 1))], axis=1)

    def move(points, *matrices):
        """Apply matrices in turn; points are rows, hence the transposed kernels."""
        for matrix in matrices:
            points = dense({"kernel": matrix.T}, points)
        return points

    corner = int(jnp.argmax(jnp.all(corners == jnp.asarray([1.0, 1.0, 0.0]), axis=1)))
    turned, shifted = move(vertices, turn, shift), move(vertices, shift, turn)
    million = jax.ShapeDtypeStruct((1_000_000, 4), jnp.float32)
    matrix = {"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}
    formula = dense_flops(n=million.shape[0], d_in=4, d_out=4, bias=False)
    yield row(
        "need-graphics-4x4",
        {
            "vertices": len(vertices),
            "point_110_rotate_then_shift": turned[corner],
            "point_110_shift_then_rotate": shifted[corner],
            "one_matrix_does_both": bool(jnp.allclose(move(vertices, shift @ turn), turned)),
            "macs_per_million_vertices": formula // 2,
        },
        dense,
        flops=flops(dense, matrix, million, formula=formula),
    )
    larger = vertices * jnp.asarray([4.0, 4.0, 4.0, 1.0])  # else the shift dwarfs the cube
    yield figures.cubes(
        {
            "turn, then shift": [larger, move(larger, turn), move(larger, turn, shift)],
            "shift, then turn": [larger, move(larger, shift), move(larger, shift, turn)],
        }
    )


EXPERIMENTS = (entries, shapes, transposes, worked_examples, practice, graphics)
