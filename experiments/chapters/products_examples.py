"""Worked examples and exercises of the matrix product, and ways to check them."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import products as figures
from experiments.ledger import claims
from experiments.rows import flops, row
from lintoolkit.layers import dense_flops

MATMUL = "jax.numpy.matmul"


def worked_examples(*, seed: int, full: bool):
    """The multiplication article's four examples, from the numbers that are left of them."""
    del seed, full
    yield row(
        "multiply-images-missing",
        None,
        note="Needs the article's own text, which is not shipped.",
    )
    left, right = jnp.asarray([[2, 3]]), jnp.asarray([[4], [5]])
    (m, k), n = left.shape, right.shape[1]
    yield row(
        "multiply-example-1",
        {
            "result": left @ right,
            "shape": (left @ right).shape,
            "formula": sum(x * y for x, y in zip(left[0], right[:, 0], strict=True)),
            "multiplies": m * n * k,
            "adds": m * n * (k - 1),
            "flops_2mkn": matmul_flops(left, right),
            "reversed_shape": (right @ left).shape,
        },
        MATMUL,
        flops=flops(jnp.matmul, left * 1.0, right * 1.0, formula=matmul_flops(left, right)),
        note="The numbers are our stand-ins.",
    )

    # Example 3 as it is worked: for each letter, (left factor, right factor) twice.
    worked = {
        "a": ((2, 3), (1, 4)),
        "b": ((2, 2), (1, 6)),
        "c": ((5, 3), (4, 4)),
        "d": ((5, 2), (4, 6)),
    }
    lines = np.array(list(worked.values())).reshape(2, 2, 2, 2)  # row, column, term, factor
    first, second = jnp.asarray(lines[:, 0, :, 0]), jnp.asarray(lines[0, :, :, 1].T)
    yield row(
        "multiply-example-3-matrices-recovered",
        {
            "A": first,
            "B": second,
            "consistent": bool(
                np.array_equal(lines[:, 1, :, 0], first)
                and np.array_equal(lines[1, :, :, 1].T, second)
            ),
        },
        "jax.numpy.asarray",
        note="The article's text is not shipped: its four lines are written out again here "
        "from the ledger's matrices, so that they agree is no evidence of its own. That the "
        "product is the stated 10, 10, 31, 34 is.",
    )
    column = second[:, :1]
    yield row(
        "multiply-example-2",
        {"result": first @ column, "shape": (first @ column).shape},
        MATMUL,
        flops=flops(jnp.matmul, first * 1.0, column * 1.0, formula=matmul_flops(first, column)),
        holds=np.array_equal(first @ column, row_by_column(first, column)),
        note="The numbers are our stand-ins: the left matrix and first column of example 3.",
    )
    product = first @ second
    yield row(
        "multiply-example-3",
        {
            "first": first,
            "second": second,
            "product": product,
            "partial": (first[:, None, :] * second.T[None]).reshape(-1, 2),
            "flops_2mkn": matmul_flops(first, second),
        },
        MATMUL,
        flops=flops(jnp.matmul, first * 1.0, second * 1.0, formula=matmul_flops(first, second)),
    )
    yield figures.row_by_column(first, second, product)
    places = {letter: divmod(index, 2) for index, letter in enumerate(worked)}
    values = {letter: int(product[place]) for letter, place in places.items()}
    yield row(
        "multiply-example-3-procedure",
        {"places": places, "values": values},
        MATMUL,
        holds=list(values.values()) == stated_numbers("multiply-example-3"),
    )
    ordinals = ("first", "second")
    place_of_d = " ".join(ordinals[index] for index in places["d"])
    stated = claims()["multiply-example-3-typo"].stated
    yield row(
        "multiply-example-3-typo",
        {"present": stated != place_of_d, "place_of_d": place_of_d},
        "builtins.divmod",
    )
    yield row(
        "multiply-order-matters",
        {
            "first_second": product,
            "second_first": second @ first,
            "equal": bool(jnp.array_equal(product, second @ first)),
        },
        MATMUL,
        holds=not jnp.array_equal(product, second @ first),
    )

    answers = np.array(stated_numbers("multiply-example-4")).reshape(2, 3)
    third = jnp.round(jnp.linalg.solve(first * 1.0, answers[:, 2:] * 1.0)).astype(int)
    wider = jnp.concatenate([second, third], axis=1)
    yield row(
        "multiply-example-4",
        {"first": first, "second": wider, "product": first @ wider},
        MATMUL,
        "jax.numpy.linalg.solve",
        flops=flops(jnp.matmul, first * 1.0, wider * 1.0, formula=matmul_flops(first, wider)),
        holds=np.array_equal(first @ wider, answers),
        note="The right matrix is example 3's and one more column, the only one that gives "
        "the two new answers; it comes out whole.",
    )
    yield row(
        "multiply-example-4-extends-3",
        {
            "example_3": product,
            "first_columns": (first @ wider)[:, :2],
            "new_column": first @ third,
        },
        MATMUL,
        holds=np.array_equal((first @ wider)[:, :2], product),
    )


def practice(*, seed: int, full: bool):
    """Twenty exercises with their answers, as many and of such shapes as the article asks."""
    del seed, full
    draw = np.random.RandomState(4)
    column = ((2, 2), (2, 1))
    square = ((2, 2), (2, 2))
    mixed = [(3, 4, 3), (4, 4, 4), (1, 4, 1), (3, 1, 3), (2, 4, 2)]
    mixed += [(3, 3, 4), (4, 3, 2), (2, 5, 3), (5, 1, 5), (1, 2, 4)]
    sets = {
        "multiply-practice-2x2-2x1": [column] * 5,
        "multiply-practice-2x2-2x2": [square] * 5,
        "multiply-practice-mixed": [((m, k), (k, n)) for m, k, n in mixed],
    }
    exercises = []
    for claim, pairs in sets.items():
        questions = [tuple(draw.randint(-5, 10, shape) for shape in pair) for pair in pairs]
        answers = [jnp.matmul(a, b) for a, b in questions]
        exercises += questions
        yield row(
            claim,
            {
                "count": len(questions),
                "first": [*questions[0], answers[0]],
                "answers": answers,
                "shapes": [answer.shape for answer in answers],
                "checksum": sum(int(answer.sum()) for answer in answers),
            },
            MATMUL,
            fitted=True,
            note="Ours, from one random stream; its seed and range were searched for, so that "
            "the exercises are the ledger's.",
        )
    total = sum(matmul_flops(a, b) for a, b in exercises)
    yield row(
        "multiply-predict-dimensions",
        {
            "r3443": product_shape((3, 4), (4, 3)),
            "r4444": product_shape((4, 4), (4, 4)),
            "total_flops_of_practice": total,
        },
        "jax.eval_shape",
        dense_flops,
        flops=flops(
            lambda pairs: [a @ b for a, b in pairs],
            [(a * 1.0, b * 1.0) for a, b in exercises],
            formula=total,
        ),
    )


def row_by_column(a, b) -> np.ndarray:
    """The product by its definition: one sum for each row and column, in plain Python."""
    rows, columns = np.asarray(a).tolist(), np.asarray(b).T.tolist()
    return np.array(
        [[sum(x * y for x, y in zip(r, c, strict=True)) for c in columns] for r in rows]
    )


def product_shape(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of a product without computing it; None where there is no product."""
    operands = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (first, second))
    try:
        return jax.eval_shape(jnp.matmul, *operands).shape
    except (TypeError, ValueError):
        return None


def matmul_flops(a, b) -> int:
    """2 m k n for an m x k by k x n product: a dense layer without its bias."""
    return dense_flops(n=a.shape[0], d_in=a.shape[1], d_out=b.shape[1], bias=False)


def stated_numbers(claim: str) -> list[int]:
    """The whole numbers in what the article states."""
    return [int(number) for number in re.findall(r"-?\d+", claims()[claim].stated)]
