# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""How alike vectors are: dot products, cosines, the nearest rows, analogies.

Letters: n rows, d width, k rows asked for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, Int, Integer

from lintoolkit import _checks
from lintoolkit._jit import jit
from lintoolkit._scale import unit_of

__all__ = [
    "TopK", "dot", "dot_flops", "cosine_similarity", "top_k", "analogy",
]  # fmt: skip
__dir__ = lambda: __all__


class TopK(NamedTuple):
    """The best rows, best first: their numbers and their scores."""

    indices: Int[Array, "*batch k"]
    scores: Float[Array, "*batch k"]


export.register_namedtuple_serialization(TopK, serialized_name="lintoolkit.similarity.TopK")


@jit
@_checks.scope("dot")
def dot(a: Float[Array, "*#batch d"], b: Float[Array, "*#batch d"]) -> Float[Array, "*batch"]:
    r"""Multiply two vectors entry by entry and add up.

    $a \cdot b = \sum_i a_i b_i = \lVert a \rVert \lVert b \rVert \cos\theta$, over the last
    axis; sums in float32 at least.

    Args:
        a: Vectors; leading axes broadcast.
        b: Vectors of the same width.

    Returns:
        One number a pair, in the dtype of ``a``.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If the widths differ, or leading axes do not broadcast.

    Cost:
        2 d FLOP a pair, see `dot_flops`.

    Examples:
        >>> print(dot(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
        11.0

    References:
        Strang, Introduction to Linear Algebra, 5th ed. (2016), section 1.2.
    """
    _check_pair("dot", a=a, b=b)
    wide = _checks.wide(a.dtype)
    return jnp.einsum("...d,...d->...", a, b, preferred_element_type=wide).astype(a.dtype)


def dot_flops(*, n: int, d: int) -> int:
    """FLOP of `dot`: a multiply and an add count one each.

    Args:
        n: Pairs.
        d: Their width.

    Returns:
        2 n d.
    """
    return 2 * n * d


@jit
@_checks.scope("cosine_similarity")
def cosine_similarity(
    a: Float[Array, "*#batch d"], b: Float[Array, "*#batch d"]
) -> Float[Array, "*batch"]:
    r"""Measure the cosine of the angle between two vectors.

    $\cos\theta = a \cdot b \,/\, (\lVert a \rVert \lVert b \rVert)$ over the last axis; 0,
    with gradient 0, where a vector is zero. Lengths are taken relative to the largest
    entry, so neither huge nor tiny vectors leave the range of the dtype.

    Args:
        a: Vectors; leading axes broadcast.
        b: Vectors of the same width.

    Returns:
        One number in [-1, 1] a pair, up to rounding, in the dtype of ``a``.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If the widths differ, or leading axes do not broadcast.

    Cost:
        2 d FLOP a pair in the product, see `dot_flops`; the lengths come on top.

    Examples:
        >>> print(cosine_similarity(jnp.array([3.0, 0.0]), jnp.array([[0.0, 2.0], [5.0, 0.0]])))
        [0. 1.]

    References:
        Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008),
        section 6.3.1.
    """
    _check_pair("cosine_similarity", a=a, b=b)
    return dot(_unit(a), _unit(b)).astype(a.dtype)


@jit(static_argnames=("k", "measure"))
@_checks.scope("top_k")
def top_k(
    query: Float[Array, "*batch d"],
    items: Float[Array, "n d"],
    *,
    k: int,
    measure: str = "cosine",
) -> TopK:
    r"""Find the rows most like a query.

    The k largest $s_i = q \cdot x_i$, or cosines $s_i = q \cdot x_i / (\lVert q \rVert
    \lVert x_i \rVert)$, over the rows $x_i$; ties go to the earlier row. A score that is not
    a number counts as -∞, so that a bad row comes last.

    Args:
        query: One vector, or several; leading axes ride along.
        items: The rows to search.
        k: How many to return.
        measure: "cosine" or "dot".

    Returns:
        Row numbers and scores, best first, the scores in the dtype of ``query``.

    Raises:
        TypeError: If an operand is not floating, or dtypes differ.
        ValueError: If the widths differ, k is not in 1..n, or ``measure`` is another word.

    Cost:
        2 n d FLOP a query in the product, `dot_flops`, and the selection.

    Examples:
        >>> items = jnp.array([[2.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
        >>> print(top_k(jnp.array([1.0, 0.0]), items, k=2).indices)
        [0 2]
        >>> print(top_k(jnp.array([1.0, 0.0]), items, k=2, measure="dot").indices)
        [2 0]

    References:
        Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008),
        section 7.1.
    """
    _check_search("top_k", query, items, k)
    if measure not in ("cosine", "dot"):
        raise ValueError(f"top_k: measure must be 'cosine' or 'dot', got {measure!r}.")
    scores = _scores(query, items, measure)
    best, indices = jax.lax.top_k(scores, k)
    return TopK(indices, best.astype(query.dtype))


@jit(static_argnames=("k",))
@_checks.scope("analogy")
def analogy(
    table: Float[Array, "n d"],
    a: Integer[Array, ""] | int,
    b: Integer[Array, ""] | int,
    c: Integer[Array, ""] | int,
    *,
    k: int = 1,
) -> Int[Array, "{k}"]:
    r"""Answer "a is to b as c is to ...?" with rows of a table.

    The rows of the largest cosine with $y = x_b - x_a + x_c$. Rows a, b and c are left out: on
    trained word vectors one of them is nearly always the nearest.

    Args:
        table: One vector a row. That a, b and c number rows of it is the caller's promise:
            under jit their values are not known.
        a: Number of a row: "man".
        b: Number of a row: "king".
        c: Number of a row: "woman".
        k: How many answers.

    Returns:
        Row numbers, best first: "queen".

    Raises:
        TypeError: If the table is not floating, or a row number is not an integer.
        ValueError: If the table is not a matrix, or has fewer than k rows beside a, b, c.

    Cost:
        2 n d FLOP in the product, `dot_flops`, and the selection.

    Examples:
        >>> royal, female = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
        >>> man = jnp.array([0.0, 0.0, 1.0])
        >>> table = jnp.stack([man, man + royal, man + female, royal, man + royal + female])
        >>> print(analogy(table, 0, 1, 2))
        [4]

    References:
        Mikolov, Yih and Zweig, Linguistic Regularities in Continuous Space Word
        Representations (2013), section 4.
    """
    _checks.floats("analogy", table=table)
    if table.ndim != 2:
        raise ValueError(f"analogy: table must be (n, d), got shape {table.shape}.")
    for name, row in (("a", a), ("b", b), ("c", c)):
        whole = isinstance(row, jax.Array) and jnp.issubdtype(row.dtype, jnp.integer)
        if not whole or jnp.ndim(row) != 0:  # under jit Python's integers are arrays too
            raise TypeError(
                f"analogy: {name} must be one integer, the number of a row; jax.vmap takes "
                "many."
            )
    table = table.astype(_checks.wide(table.dtype))  # where a difference may overflow
    target = table[b] - table[a] + table[c]
    _check_search("analogy", target, table, k, left_out=3)
    # Bad rows come last, but before those left out.
    scores = jnp.maximum(_scores(target, table, "cosine"), jnp.finfo(table.dtype).min)
    asked = jnp.stack([jnp.asarray(row, jnp.int32) for row in (a, b, c)])
    return jax.lax.top_k(scores.at[asked].set(-jnp.inf), k)[1]


def _scores(query: Array, items: Array, measure: str) -> Array:
    if measure == "cosine":
        query, items = _unit(query), _unit(items)
    wide = _checks.wide(query.dtype)
    scores = jnp.einsum("...d,nd->...n", query, items, preferred_element_type=wide)
    scores = jnp.where(scores == 0, 0, scores)  # a sort puts -0 below 0
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)  # and NaN at either end


def _unit(x: Array) -> Array:
    # Rows of length 1, in float32 at least; zero rows stay zero.
    x = x.astype(_checks.wide(x.dtype))
    zero = (x == 0).all(axis=-1, keepdims=True)
    x = jnp.where(zero, 1, x / unit_of(x, axis=-1))
    return jnp.where(zero, 0, x / jnp.linalg.norm(x, axis=-1, keepdims=True))


def _check_pair(function: str, *, a: Array, b: Array) -> None:
    _checks.floats(function, a=a, b=b)
    _checks.same_dtype(function, a=a, b=b)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{function}: a {a.shape} and b {b.shape} must have last axes of one length, the "
            "width of the vectors."
        )
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise ValueError(
            f"{function}: the leading axes of a {a.shape} and b {b.shape} do not broadcast; "
            "for all pairs pass a[:, None, :] and b."
        )


def _check_search(
    function: str, query: Array, items: Array, k: int, *, left_out: int = 0
) -> None:
    _checks.floats(function, query=query, items=items)
    _checks.same_dtype(function, query=query, items=items)
    if items.ndim != 2 or not query.ndim or query.shape[-1] != items.shape[1]:
        raise ValueError(
            f"{function}: query must be (..., d) and items (n, d) with one d, got "
            f"{query.shape} and {items.shape}."
        )
    _checks.positive(function, k=k)
    rows = items.shape[0] - left_out
    if k > rows:
        raise ValueError(
            f"{function}: k must be between 1 and the {rows} rows to choose from, got {k}."
        )
