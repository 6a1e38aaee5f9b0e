"""Programs whose products were counted by hand from their shapes, and the inspector's answers.

`PROGRAMS` holds the products of matrices and the convolutions, which both stages of a program
must report to the last FLOP. `CHANGED` holds those that compiling changes, and why.
"""

import functools
import importlib
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.experimental import sparse

from lintoolkit import attention, layers
from lintoolkit.cost import cost
from lintoolkit.cost.trips import MAX_ELEMENTS

F32 = jnp.float32


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


class Program(NamedTuple):
    """A function, its abstract arguments and the FLOPs of its products."""

    fn: Callable
    args: tuple[Any, ...]
    total: int


class Changed(NamedTuple):
    """The same, with the FLOPs as written and as compiled."""

    fn: Callable
    args: tuple[Any, ...]
    lowered: int
    compiled: int


# Sides of the programs below: batch, sequences, heads, their width, model, layers.
B, T, S, H, K, D, L = 2, 8, 12, 4, 16, 24, 5
N = 6
CUBE = 2 * N**3
square = spec(N, N)


# --- loops -----------------------------------------------------------------------------------


def tanh_layer(h, w):
    return jnp.tanh(h @ w), None


def scanned(weights, x, *, layer=tanh_layer, **options):
    return lax.scan(layer, x, weights, **options)[0]


def two_level(policy=None):
    """A scan of scans with a checkpoint around each."""
    inner = jax.checkpoint(tanh_layer, policy=policy)

    def group(h, weights):
        return lax.scan(inner, h, weights)[0], None

    outer = jax.checkpoint(group, policy=policy)
    return lambda weights, x: lax.scan(outer, x, weights)[0].sum()


def grad_of(fn, argnums=(0, 1)):
    """The gradient of the squares' sum of what a function gives."""
    return jax.grad(lambda *args: (fn(*args) ** 2).sum(), argnums=argnums)


def counted(start, test, change):
    """A `while` loop of products with a counter."""

    def program(x):
        body = lambda s: (change(s[0]), s[1] @ x)
        return lax.while_loop(lambda s: test(s[0]), body, (start, x))[1]

    return program


def repeat(trips, start=0):
    return lambda x: lax.fori_loop(start, trips, lambda _, h: h @ x, x)


def triangle(x):
    inner = lambda i, h: lax.fori_loop(0, i, lambda _, g: g @ x, h)
    return lax.fori_loop(0, 5, inner, x)


def causal_blocks(x):
    """Row blocks of a triangular product: the inner limit is the outer counter plus one."""
    inner = lambda i, h: lax.fori_loop(0, i + 1, lambda _, g: g @ x, h)
    return lax.fori_loop(2, 7, inner, x)


def associative_products(n):
    """Products that `associative_scan` combines n elements with: halves, then evens."""
    if n < 2:
        return 0
    half = n // 2
    return half + associative_products(half) + (half - 1 if n % 2 == 0 else half)


@jax.custom_vjp
def own_rule(x, w):
    return x @ w


own_rule.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda saved, g: (g @ saved[1].T, saved[0].T @ g @ jnp.eye(N, dtype=F32)),
)


def pytree_scan(layers_, x):
    """A scan over a tree of weights that carries a tree too."""

    def block(carry, p):
        x, memory = carry
        h = jax.nn.relu(x @ p["up"]["kernel"] + p["up"]["bias"])
        return (x + h @ p["down"], memory + h.sum()), h.mean()

    return lax.scan(block, (x, jnp.zeros((), F32)), layers_)


weights = spec(L, N, N)
rows = spec(T, N)
layer = 2 * T * N * N
stack = spec(3, L, N, N)
signed, small = jnp.int32, jnp.uint8

LOOPS = {
    "scan": Program(scanned, (weights, rows), L * layer),
    "scan in reverse": Program(
        functools.partial(scanned, reverse=True), (weights, rows), L * layer
    ),
    "scan, unrolled by two": Program(
        functools.partial(scanned, unroll=2), (weights, rows), L * layer
    ),
    "scan, unrolled whole": Program(
        functools.partial(scanned, unroll=True), (weights, rows), L * layer
    ),
    "scan without trips": Program(scanned, (spec(0, N, N), rows), 0),
    "scan of one trip": Program(scanned, (spec(1, N, N), rows), layer),
    "scan over a tree": Program(
        pytree_scan,
        ({"up": {"kernel": spec(L, N, D), "bias": spec(L, D)}, "down": spec(L, D, N)}, rows),
        L * 2 * (2 * T * N * D),
    ),
    "scan in a scan": Program(
        lambda w, x: lax.scan(lambda h, ws: (scanned(ws, h), None), x, w)[0],
        (stack, rows),
        3 * L * layer,
    ),
    "vmap of a scan": Program(
        jax.vmap(scanned, in_axes=(None, 0)), (weights, spec(B, T, N)), B * L * layer
    ),
    "scan of a vmap": Program(
        lambda w, x: scanned(w, x, layer=lambda h, w: (jax.vmap(jnp.matmul)(h, w), None)),
        (spec(L, B, N, N), spec(B, T, N)),
        L * B * layer,
    ),
    "gradient of a scan": Program(grad_of(scanned), (weights, rows), 3 * L * layer),
    "gradient of a scan, by weights only": Program(
        # The first layer's input gradient is computed all the same: a scan's trips are alike.
        grad_of(scanned, argnums=0),
        (weights, rows),
        3 * L * layer,
    ),
    "remat": Program(
        jax.grad(two_level(jax.checkpoint_policies.everything_saveable), argnums=(0, 1)),
        (stack, rows),
        3 * (3 * L * layer),
    ),
    "remat, two levels": Program(
        # forward, the outer recomputation, the inner one, and two products backward
        jax.grad(two_level(jax.checkpoint_policies.nothing_saveable), argnums=(0, 1)),
        (stack, rows),
        5 * (3 * L * layer),
    ),
    "remat, products saved": Program(
        jax.grad(two_level(jax.checkpoint_policies.dots_saveable), argnums=(0, 1)),
        (stack, rows),
        3 * (3 * L * layer),
    ),
    "custom_vjp in a scan": Program(
        grad_of(lambda w, x: scanned(w, x, layer=lambda h, w: (own_rule(h, w), None))),
        (weights, rows),
        L * (3 * layer + CUBE),
    ),
    "fori_loop": Program(repeat(7), (square,), 7 * CUBE),
    "fori_loop from a negative start": Program(repeat(4, start=-3), (square,), 7 * CUBE),
    "fori_loop that never runs": Program(repeat(2, start=5), (square,), 0),
    "fori_loop with traced constants": Program(
        repeat(signed(9), start=signed(2)), (square,), 7 * CUBE
    ),
    "fori_loop of a traced limit known from outside": Program(
        lambda x: jax.jit(lambda n, h: repeat(n)(h))(signed(5), x), (square,), 5 * CUBE
    ),
    "triangular loop": Program(triangle, (square,), (0 + 1 + 2 + 3 + 4) * CUBE),
    "causal blocks": Program(causal_blocks, (square,), (3 + 4 + 5 + 6 + 7) * CUBE),
    "while up": Program(counted(0, lambda i: i < 20, lambda i: i + 3), (square,), 7 * CUBE),
    "while down": Program(counted(20, lambda i: i >= -4, lambda i: i - 3), (square,), 9 * CUBE),
    "while up to and with": Program(
        counted(-2, lambda i: i <= 10, lambda i: i + 4), (square,), 4 * CUBE
    ),
    "while unequal": Program(
        counted(9, lambda i: i != -3, lambda i: i - 4), (square,), 3 * CUBE
    ),
    "while doubling": Program(
        counted(1, lambda i: i < 100, lambda i: i * 2), (square,), 7 * CUBE
    ),
    "while of two tests": Program(
        lambda x: lax.while_loop(
            lambda s: (s[0] < 20) & (s[2] < 7),
            lambda s: (s[0] + 1, s[1] @ x, s[2] + 2),
            (0, x, 0),
        )[1],
        (square,),
        4 * CUBE,
    ),
    "while unsigned, down": Program(
        counted(np.uint32(7), lambda i: i > 0, lambda i: i - np.uint32(1)), (square,), 7 * CUBE
    ),
    "while in eight bits that wrap": Program(
        # 0, 100, 200, 44, 144, 244, 88, ...: the first at or above 250 ends it
        counted(small(0), lambda i: i < small(250), lambda i: i + small(100)),
        (square,),
        next(n for n in range(256) if 100 * n % 256 >= 250) * CUBE,
    ),
    "vmap of a while": Program(
        jax.vmap(counted(0, lambda i: i < 4, lambda i: i + 1)), (spec(3, N, N),), 4 * 3 * CUBE
    ),
    "lax.map": Program(lambda x: lax.map(lambda a: a @ a, x), (spec(11, N, N),), 11 * CUBE),
    "lax.map in batches with a remainder": Program(
        lambda x: lax.map(lambda a: a @ a, x, batch_size=4), (spec(11, N, N),), 11 * CUBE
    ),
    "associative_scan, even": Program(
        functools.partial(lax.associative_scan, jnp.matmul),
        (spec(8, N, N),),
        associative_products(8) * CUBE,
    ),
    "associative_scan, odd": Program(
        functools.partial(lax.associative_scan, jnp.matmul),
        (spec(13, N, N),),
        associative_products(13) * CUBE,
    ),
    "switch with a known index": Program(
        lambda x: lax.fori_loop(
            0,
            6,
            lambda i, h: lax.switch(
                i % 3, [lambda y: y, lambda y: y @ x, lambda y: y @ x @ x], h
            ),
            x,
        ),
        (square,),
        (0 + 1 + 2 + 0 + 1 + 2) * CUBE,
    ),
}


# --- branches and limits from tables ----------------------------------------------------------


def flagged(flags, *, of=lambda flag: flag):
    """A scan over weights that skips the layers without a flag."""

    def net(w, x):
        def step(h, inputs):
            layer, flag = inputs
            return lax.cond(of(flag), lambda h: h @ layer, lambda h: h, h), None

        return lax.scan(step, x, (w, flags()))[0]

    return net


def indexed(table):
    """A loop of as many products as the numbers of a table say, one after the other."""
    return lambda x: lax.fori_loop(
        0,
        len(table),
        lambda i, h: lax.fori_loop(0, jnp.asarray(table)[i], lambda _, h: h @ x, h),
        x,
    )


TABLE = np.array([3, 0, 4, 1, 5], np.int32)
every_third = np.arange(L) % 3 == 0
on = int(every_third.sum())
TABLES = {
    "flags, a constant": Program(
        flagged(lambda: jnp.asarray(every_third)), (weights, rows), on * layer
    ),
    "flags, computed": Program(
        flagged(lambda: jnp.arange(L, dtype=jnp.int32) % 3 == 0), (weights, rows), on * layer
    ),
    "flags, in rows of a table": Program(
        flagged(
            lambda: jnp.arange(2 * L, dtype=jnp.int32).reshape(L, 2), of=lambda row: row[1] > 5
        ),
        (weights, rows),
        sum(2 * k + 1 > 5 for k in range(L)) * layer,
    ),
    "flags, floats": Program(
        flagged(lambda: jnp.asarray(every_third, F32), of=lambda flag: flag > 0),
        (weights, rows),
        on * layer,
    ),
    "flags' gradient": Program(  # by the weights, and by what comes in
        grad_of(flagged(lambda: jnp.asarray(every_third))), (weights, rows), 3 * on * layer
    ),
    "flags, carried": Program(
        lambda x: lax.fori_loop(
            0,
            7,
            lambda _, s: (lax.cond(s[1], lambda h: h @ x, lambda h: h, s[0]), ~s[1]),
            (x, jnp.array(True)),
        )[0],
        (square,),
        4 * CUBE,
    ),
    "limits": Program(indexed(TABLE), (square,), int(TABLE.sum()) * CUBE),
    "limits, reversed": Program(
        indexed(TABLE[::-1].copy()), (square,), int(TABLE.sum()) * CUBE
    ),
    "while in floats": Program(
        counted(np.float32(1), lambda i: i < 10, lambda i: i * 2), (square,), 4 * CUBE
    ),
    "while in floats that round": Program(
        # ten times 0.1 is less than 1 in float64, more in float32
        counted(np.float32(0), lambda i: i < 1, lambda i: i + np.float32(0.1)),
        (square,),
        10 * CUBE,
    ),
}


def test_a_table_that_the_program_does_not_hold_settles_nothing():
    given = lambda w, x, flags: flagged(lambda: flags)(w, x)
    c = cost(given, weights, rows, spec(L, dtype=jnp.bool_))
    assert (c.matmul_flops, c.exact) == (L * layer, False)
    long = lambda x: lax.scan(
        lambda h, flag: (lax.cond(flag, lambda h: h @ x, lambda h: h, h), None),
        x,
        jnp.asarray(np.arange(MAX_ELEMENTS + 1) % 2 == 0),
    )[0]
    assert not cost(long, square).exact


def test_a_float_counter_that_may_round_once_or_twice_is_not_known():
    step = lambda i: i * np.float32(1.5) + np.float32(0.1)
    c = cost(counted(np.float32(0), lambda i: i < 1, step), square)
    assert [loop.kind for loop in c.loops] == ["unknown"]
    assert not c.exact


# --- derivatives -----------------------------------------------------------------------------


def dense_tanh(x, w):
    return jnp.tanh(x @ w)


wave = lambda y, c: (jnp.sin(y @ c) ** 2).sum()

DERIVATIVES = {
    "jacfwd": Program(
        # the primal product and one for each of the input's T N directions
        jax.jacfwd(dense_tanh),
        (rows, spec(N, K)),
        (1 + T * N) * 2 * T * N * K,
    ),
    "jacrev": Program(jax.jacrev(dense_tanh), (rows, spec(N, K)), (1 + T * K) * 2 * T * N * K),
    "hessian": Program(
        # the primal, and for each of N directions one product forward and one back
        jax.hessian(lambda w, x: (jnp.tanh(x @ w) ** 2).sum()),
        (spec(N, 1), rows),
        (1 + 2 * N) * 2 * T * N,
    ),
    "gradient of a gradient": Program(
        # y C; the inner gradient's derivative by its product; back to y
        jax.grad(lambda y, c: jax.grad(wave)(y, c).sum()),
        (rows, square),
        3 * layer,
    ),
    "jvp": Program(
        lambda x, dx, w: jax.jvp(lambda y: dense_tanh(y, w), (x,), (dx,)),
        (rows, rows, square),
        2 * layer,
    ),
    "recurrent network's gradient": Program(
        # T products with a vector, as many back, and T outer products
        jax.grad(
            lambda w, x: lax.scan(
                lambda h, v: (jnp.tanh(w @ h + v), None), jnp.zeros(N, F32), x
            )[0].sum()
        ),
        (square, rows),
        3 * T * 2 * N * N,
    ),
    "vjp by both": Program(grad_of(dense_tanh), (rows, square), 3 * layer),
    "vjp by one": Program(grad_of(dense_tanh, argnums=0), (rows, square), 2 * layer),
}


# --- products --------------------------------------------------------------------------------


def attend(q, k, v):
    scores = jnp.einsum("bthd,bshd->bhts", q, k)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)


def grouped_query(q, k, v):
    scores = jnp.einsum("btgrd,bsgd->bgrts", q, k)
    return jnp.einsum("bgrts,bsgd->btgrd", jax.nn.softmax(scores), v)


def accumulated_in(out):
    return lambda a, b: lax.dot(a, b, preferred_element_type=out)


pair = lambda dtype: (spec(T, N, dtype=dtype), spec(N, K, dtype=dtype))
heads = spec(B, T, H, K), spec(B, S, H, K), spec(B, S, H, K)
attention_total = 2 * (2 * B * H * T * S * K)

PRODUCTS = {
    "matrix product": Program(jnp.matmul, pair(F32), 2 * T * N * K),
    "matrix and vector": Program(jnp.matmul, (spec(70, 30), spec(30)), 2 * 70 * 30),
    "vector and matrix": Program(jnp.matmul, (spec(70), spec(70, 30)), 2 * 70 * 30),
    "inner product": Program(jnp.vdot, (spec(900), spec(900)), 2 * 900),
    "rows' inner products": Program(
        lambda a, b: jnp.einsum("bi,bi->b", a, b), (spec(30, 9), spec(30, 9)), 2 * 30 * 9
    ),
    "outer product": Program(lambda a, b: a[:, None] @ b[None], (spec(7), spec(9)), 2 * 7 * 9),
    "outer product, complex": Program(
        lambda a, b: a[:, None] @ b[None],
        (spec(7, dtype=jnp.complex64), spec(9, dtype=jnp.complex64)),
        8 * 7 * 9,
    ),
    "inner product in bfloat16": Program(
        jnp.vdot, (spec(900, dtype=jnp.bfloat16), spec(900, dtype=jnp.bfloat16)), 2 * 900
    ),
    "batched": Program(jnp.matmul, (spec(B, H, T, N), spec(B, H, N, K)), B * H * 2 * T * N * K),
    "vmap over both": Program(jax.vmap(jnp.matmul), (spec(B, T, N), spec(B, N)), B * 2 * T * N),
    "several sides at once": Program(
        lambda a, b: lax.dot_general(a, b, (((1, 4), (3, 0)), ((0, 2), (1, 2)))),
        (spec(2, 3, 4, 5, 6), spec(6, 2, 4, 3, 7)),
        2 * (2 * 4) * 5 * 7 * (3 * 6),
    ),
    "tensordot": Program(
        lambda a, b: jnp.tensordot(a, b, 2), (spec(3, 4, 5), spec(4, 5, 6)), 2 * 3 * (4 * 5) * 6
    ),
    "einsum of three": Program(
        lambda a, b, c: jnp.einsum("ij,jk,kl->il", a, b, c, optimize=[(0, 1), (0, 1)]),
        (spec(3, 4), spec(4, 5), spec(5, 6)),
        2 * 3 * 4 * 5 + 2 * 3 * 5 * 6,
    ),
    "bilinear einsum": Program(
        lambda x, w, y: jnp.einsum("bi,ijk,bj->bk", x, w, y, optimize=[(0, 1), (0, 1)]),
        (spec(7, 3), spec(3, 4, 5), spec(7, 4)),
        2 * 7 * 3 * (4 * 5) + 2 * 7 * 4 * 5,
    ),
    "matrix power": Program(
        # 10 = 0b1010: three squarings and one product
        lambda a: jnp.linalg.matrix_power(a, 10),
        (square,),
        4 * CUBE,
    ),
    "attention": Program(attend, heads, attention_total),
    "attention's gradient": Program(
        grad_of(attend, argnums=(0, 1, 2)), heads, 3 * attention_total
    ),
    "attention of one query": Program(
        lambda q, k, v: attend(q[:, None], k, v)[:, 0],
        (spec(B, H, K), spec(B, S, H, K), spec(B, S, H, K)),
        2 * (2 * B * H * S * K),
    ),
    "attention of jax.nn, causal": Program(
        functools.partial(jax.nn.dot_product_attention, is_causal=True),
        (spec(B, T, H, K),) * 3,
        2 * (2 * B * H * T * T * K),
    ),
    "grouped-query attention": Program(
        grouped_query,
        (spec(B, T, 2, 3, K), spec(B, S, 2, K), spec(B, S, 2, K)),
        2 * (2 * B * (2 * 3) * T * S * K),
    ),
    "bfloat16": Program(jnp.matmul, pair(jnp.bfloat16), 2 * T * N * K),
    "bfloat16 into float32": Program(accumulated_in(F32), pair(jnp.bfloat16), 2 * T * N * K),
    "eight-bit floats": Program(accumulated_in(F32), pair(jnp.float8_e4m3fn), 2 * T * N * K),
    "int8": Program(accumulated_in(jnp.int32), pair(jnp.int8), 2 * T * N * K),
    "complex": Program(jnp.matmul, pair(jnp.complex64), 8 * T * N * K),
    "ragged, on CPU": Program(
        # every row meets every group, masked
        lax.ragged_dot,
        (spec(32, N), spec(4, N, K), spec(4, dtype=jnp.int32)),
        4 * 2 * 32 * N * K,
    ),
    "sparse times dense": Program(
        # each of 20 stored elements times a row of the dense matrix, then scattered
        lambda data, at, b: sparse.BCOO((data, at), shape=(9, 8)) @ b,
        (spec(20), spec(20, 2, dtype=jnp.int32), spec(8, K)),
        2 * 20 * K,
    ),
    "segment sum of products": Program(
        lambda x, w, at: jax.ops.segment_sum(x @ w, at, 5),
        (spec(20, N), spec(N, K), spec(20, dtype=jnp.int32)),
        2 * 20 * N * K,
    ),
    "nested jit, called often": Program(
        (lambda g: lambda x: g(g(g(x))) + g(2 * x))(jax.jit(lambda x: jnp.tanh(x @ x))),
        (square,),
        4 * CUBE,
    ),
    "no products": Program(jnp.cumsum, (spec(64),), 0),
}


# --- convolutions ----------------------------------------------------------------------------


def taps(side, size, *, stride=1, low=0, high=0, dilation=1, base=1):
    """Pairs of output and kernel positions that meet an element, one by one."""
    spread = (side - 1) * base + 1
    out = (spread + low + high - (size - 1) * dilation - 1) // stride + 1
    places = (o * stride + k * dilation - low for o in range(out) for k in range(size))
    return sum(0 <= place < spread and place % base == 0 for place in places)


NHWC = ("NHWC", "HWIO", "NHWC")


def convolution(numbers=NHWC, stride=(1, 1), padding="VALID", **options):
    return lambda x, k: lax.conv_general_dilated(
        x, k, stride, padding, dimension_numbers=numbers, **options
    )


class Case(NamedTuple):
    fn: Callable
    args: tuple[Any, ...]
    total: int


image, kernel = spec(2, 9, 8, 4), spec(3, 3, 4, 5)
CASES = {
    "plain": Case(convolution(), (image, kernel), 2 * 2 * 4 * 5 * (7 * 3) * (6 * 3)),
    "same": Case(
        convolution(padding="SAME"),
        (image, kernel),
        2 * 2 * 4 * 5 * taps(9, 3, low=1, high=1) * taps(8, 3, low=1, high=1),
    ),
    "one by one": Case(
        convolution(padding="SAME"), (image, spec(1, 1, 4, 5)), 2 * 2 * (9 * 8) * 4 * 5
    ),
    "strided": Case(
        convolution(stride=(2, 3), padding="SAME"),
        (image, kernel),
        (2 * 2 * 4 * 5)
        * taps(9, 3, stride=2, low=1, high=1)
        * taps(8, 3, stride=3, high=1),
    ),
    "dilated": Case(
        convolution(padding=((2, 2), (0, 3)), rhs_dilation=(2, 3)),
        (image, kernel),
        2 * 2 * 4 * 5 * taps(9, 3, low=2, high=2, dilation=2) * taps(8, 3, high=3, dilation=3),
    ),
    "transposed": Case(
        # lax pads (2, 1) for "SAME" with three taps and stride two
        lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"),
        (image, kernel),
        2 * 2 * 4 * 5 * taps(9, 3, low=2, high=1, base=2) * taps(8, 3, low=2, high=1, base=2),
    ),
    "grouped": Case(
        convolution(feature_group_count=2),
        (image, spec(3, 3, 2, 6)),
        2 * 2 * 2 * 6 * (7 * 3) * (6 * 3),
    ),
    "depthwise": Case(
        convolution(feature_group_count=4),
        (image, spec(3, 3, 1, 8)),
        2 * 2 * 1 * 8 * (7 * 3) * (6 * 3),
    ),
    "one side, causal": Case(
        convolution(("NHC", "HIO", "NHC"), (2,), ((4, 0),), rhs_dilation=(2,)),
        (spec(2, 19, 3), spec(3, 3, 5)),
        2 * 2 * 3 * 5 * taps(19, 3, stride=2, low=4, dilation=2),
    ),
    "three sides": Case(
        convolution(("NDHWC", "DHWIO", "NDHWC"), (1, 2, 1), "SAME"),
        (spec(2, 5, 7, 6, 3), spec(3, 3, 2, 3, 4)),
        2 * 2 * 3 * 4
        * taps(5, 3, low=1, high=1) * taps(7, 3, stride=2, low=1, high=1) * taps(6, 2, high=1),
    ),
    "channels first": Case(
        convolution(("NCHW", "OIHW", "NCHW"), (2, 1), ((1, 2), (0, 1)), rhs_dilation=(1, 2)),
        (spec(2, 4, 9, 8), spec(6, 4, 3, 3)),
        2 * 2 * 4 * 6 * taps(9, 3, stride=2, low=1, high=2) * taps(8, 3, high=1, dilation=2),
    ),
}  # fmt: skip

CONVOLUTIONS = {
    **{f"convolution, {name}": Program(*case) for name, case in CASES.items()},
    **{
        f"gradient of the convolution, {name}": Program(
            grad_of(case.fn), case.args, 3 * case.total
        )
        for name, case in CASES.items()
    },
    "convolution in a scan": Program(
        lambda ks, x: lax.scan(lambda h, k: (convolution(padding="SAME")(h, k), None), x, ks)[
            0
        ],
        (spec(L, 3, 3, 4, 4), image),
        L * 2 * 2 * 4 * 4 * taps(9, 3, low=1, high=1) * taps(8, 3, low=1, high=1),
    ),
    "convolution by kernels of their own": Program(
        jax.vmap(convolution()),
        (spec(3, *image.shape), spec(3, *kernel.shape)),
        3 * CASES["plain"].total,
    ),
    "convolution in bfloat16": Program(
        convolution(),
        (spec(*image.shape, dtype=jnp.bfloat16), spec(*kernel.shape, dtype=jnp.bfloat16)),
        CASES["plain"].total,
    ),
    "complex convolution": Program(
        # as jax writes it: three real ones (Gauss), where a complex product would take four
        convolution(),
        (spec(*image.shape, dtype=jnp.complex64), spec(*kernel.shape, dtype=jnp.complex64)),
        3 * CASES["plain"].total,
    ),
    "convolution by groups of the batch": Program(
        convolution(batch_group_count=2),
        (spec(4, 9, 8, 3), spec(3, 3, 3, 6)),
        2 * 2 * 3 * 6 * (7 * 3) * (6 * 3),
    ),
    "convolution to one place": Program(
        convolution(), (spec(4, 5, 5, 1), spec(5, 5, 1, 1)), 2 * 4 * 5 * 5
    ),
    "complex convolution to one place": Program(
        convolution(),
        (spec(4, 5, 5, 1, dtype=jnp.complex64), spec(5, 5, 1, 1, dtype=jnp.complex64)),
        3 * 2 * 4 * 5 * 5,
    ),
    "np.convolve of equal lengths": Program(
        functools.partial(jnp.convolve, mode="valid"), (spec(128), spec(128)), 2 * 128
    ),
    "np.convolve": Program(
        functools.partial(jnp.convolve, mode="full"), (spec(20), spec(5)), 2 * 20 * 5
    ),
}


# --- training --------------------------------------------------------------------------------


def train_step(loss, optimizer, params, *batch):
    """One step, its parameters and optimizer state donated."""

    def step(params, state, *batch):
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = jax.eval_shape(optimizer.init, params)
    return jax.jit(step, donate_argnums=(0, 1)), (params, state, *batch)


def block_loss(params, x, y):
    h = x + attention.multi_head_attention(params["attention"], x, heads=H, causal=True)
    h = h + layers.mlp(params["mlp"], layers.rms_norm(params["norm"], h))
    return ((h - y) ** 2).mean()


WIDTHS = (13, 29, 31, 7)
mlp_params = jax.eval_shape(lambda k: layers.init_mlp(k, WIDTHS, dtype=F32), jax.random.key(0))
block_params = {
    "attention": {name: {"kernel": spec(D, D)} for name in ("query", "key", "value", "out")},
    "mlp": ({"kernel": spec(D, 4 * D)}, {"kernel": spec(4 * D, D)}),
    "norm": {"scale": spec(D)},
}
mlp_weights = sum(a * b for a, b in pairwise(WIDTHS))
mlp_loss = lambda p, x, y: ((layers.mlp(p, x) - y) ** 2).mean()

TRAINING = {
    "training step of an MLP": Program(
        # 6 n parameters, less the first layer's input gradient
        *train_step(mlp_loss, optax.adamw(1e-3), mlp_params, spec(17, 13), spec(17, 7)),
        6 * 17 * mlp_weights - 2 * 17 * 13 * 29,
    ),
    "training step of a transformer block": Program(
        # 12 d² weights and two products of t² d; no gradient for the data through q, k and v
        *train_step(block_loss, optax.adamw(1e-3), block_params, spec(B, T, D), spec(B, T, D)),
        3 * (2 * B * T * 12 * D * D + 4 * B * T * T * D) - 3 * (2 * B * T * D * D),
    ),
}

PROGRAMS = {**LOOPS, **TABLES, **DERIVATIVES, **PRODUCTS, **CONVOLUTIONS, **TRAINING}


# --- flax ------------------------------------------------------------------------------------


class Vision(nn.Module):
    """A linen model: a convolution, two dense layers, attention over the rows between."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(D, (3, 3), name="stem")(x))
        x = x.mean(1)
        x = x + nn.MultiHeadDotProductAttention(H, name="attention")(x)
        h = nn.gelu(nn.Dense(4 * D, name="up")(nn.LayerNorm()(x)))
        return nn.Dense(N, name="down")(h)


class Block(nnx.Module):
    """A transformer block of nnx, which names nothing: its lines do."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(H, D, decode=False, rngs=rngs)
        self.up = nnx.Linear(D, 4 * D, rngs=rngs)
        self.down = nnx.Linear(4 * D, D, rngs=rngs)
        self.norm = nnx.LayerNorm(D, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        h = jax.nn.gelu(
            self.up(x),
        )
        return x + self.down(h)


def linen(module, *args):
    """A function of parameters and inputs, and their shapes."""
    params = jax.eval_shape(module.init, jax.random.key(0), *args)
    return module.apply, (params, *args)


def of_nnx(build, *args):
    """The same of an nnx module."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    return (lambda state, *args: nnx.merge(graph, state)(*args)), (state, *args)


# Products of each part, by hand: (8, 7) pixels, then rows of seven pixels.
VISION = {
    "stem": 2 * B * 3 * D * taps(8, 3, low=1, high=1) * taps(7, 3, low=1, high=1),
    "attention": 4 * (2 * B * 7 * D * D) + 2 * (2 * B * 7 * 7 * D),
    "up": 2 * B * 7 * D * 4 * D,
    "down": 2 * B * 7 * 4 * D * N,
}
BLOCK = {
    "self.attention(": 4 * (2 * B * T * D * D) + 2 * (2 * B * T * T * D),
    "self.up(": 2 * B * T * D * 4 * D,
    "self.down(": 2 * B * T * 4 * D * D,
}
FLAX = {
    "a linen model": Program(*linen(Vision(), spec(B, 8, 7, 3)), sum(VISION.values())),
    "a block of nnx": Program(*of_nnx(Block, spec(B, T, D)), sum(BLOCK.values())),
    "gradient of a block of nnx": Program(
        *(lambda fn, args: (grad_of(fn), args))(*of_nnx(Block, spec(B, T, D))),
        3 * sum(BLOCK.values()),
    ),
}
PROGRAMS |= FLAX


# --- programs that compiling changes ---------------------------------------------------------

CHANGED = {
    "common products are shared": Changed(
        lambda x: (x @ x) + jnp.tanh(x @ x), (square,), 2 * CUBE, CUBE
    ),
    "both branches of a vmapped cond run, and share a product": Changed(
        jax.vmap(lambda p, x: lax.cond(p, lambda y: y @ y, lambda y: y @ y @ y, x)),
        (spec(3, dtype=jnp.bool_), spec(3, N, N)),
        3 * 3 * CUBE,
        3 * 2 * CUBE,
    ),
    "remat without prevent_cse is undone outside of loops": Changed(
        grad_of(
            lambda w, x: jax.checkpoint(
                lambda h: jnp.tanh(jnp.tanh(h @ w) @ w), prevent_cse=False
            )(x)
        ),
        (square, rows),
        # forward 2, again 2, backward 4
        8 * layer,
        6 * layer,
    ),
}


@functools.lru_cache
def priced(name):
    program = PROGRAMS.get(name) or CHANGED[name]
    with jax.numpy_dtype_promotion("standard"):
        return cost(program.fn, *program.args)


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_those_counted_by_hand(name):
    c = priced(name)
    assert (c.lowered.matmul_flops, c.compiled.matmul_flops) == 2 * (PROGRAMS[name].total,)
    assert c.exact
    assert c.lowered.exact


@pytest.mark.parametrize("name", CHANGED)
def test_what_compiling_changes_is_counted_as_written_and_as_compiled(name):
    c, program = priced(name), CHANGED[name]
    assert (c.lowered.matmul_flops, c.compiled.matmul_flops) == program[2:]


@pytest.mark.parametrize("name", [*PROGRAMS, *CHANGED])
def test_parts_sum_to_the_whole(name):
    c = priced(name)
    for view in (c, c.lowered, c.compiled):
        parts = [view.by_scope(depth) for depth in (1, 2, 3)]
        parts += [view.by_phase(), view.by_source(), view.by_dtype()]
        parts += [view.by_op(), view.by_category()]
        assert {sum(part.values()) for part in parts} == {view.flops}


@pytest.mark.parametrize(
    "name",
    [
        "scan",
        "scan in a scan",
        "gradient of a scan",
        "while down",
        "lax.map",
        "triangular loop",
    ],
)
def test_xla_counts_a_loops_body_once(name):
    assert 0 < priced(name).xla_flops < 0.6 * PROGRAMS[name].total


def products_by(view, key):
    totals = Counter()
    for op in view.ops:
        totals[key(op)] += op.work.products
    return +totals


def test_a_linen_models_modules_have_their_products():
    view = priced("a linen model").lowered
    module = lambda op: next((name for name in VISION if f"/{name}/" in op.name), "")
    found = products_by(view, module)
    assert found == VISION


def test_an_nnx_models_lines_have_their_products():
    lines = Path(__file__).read_text().splitlines()
    at = lambda text: next(n for n, line in enumerate(lines, 1) if text in line)
    found = products_by(priced("a block of nnx").lowered, lambda op: op.source[1:])
    expected = {("Block.__call__", at(name)): total for name, total in BLOCK.items()}
    assert found == expected


LINALG = {
    # name: (function, arguments, FLOPs of factorisations and solves, of Fourier transforms)
    "cholesky": (jnp.linalg.cholesky, (spec(7, 7),), 7**3 / 3, 0),
    "cholesky solve": (
        lambda a, b: jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(a), True), b),
        (spec(7, 7), spec(7, 5)),
        7**3 / 3 + 2 * (7 * 7 * 5),
        0,
    ),
    "lu solve in a scan": (
        lambda a, b: lax.scan(
            lambda h, _: (
                jax.scipy.linalg.lu_solve(jax.scipy.linalg.lu_factor(a + h.T @ h), b),
                None,
            ),
            b,
            None,
            length=L,
        )[0],
        (spec(7, 7), spec(7, 7)),
        L * ((7**3 - 7**3 / 3) + 2 * (7 * 7 * 7)),
        0,
    ),
    "cholesky under vmap in a loop": (
        jax.vmap(lambda a: lax.fori_loop(0, 4, lambda _, h: jnp.linalg.cholesky(h @ h.T), a)),
        (spec(3, 6, 6),),
        4 * 3 * 6**3 / 3,
        0,
    ),
    "fft in a scan": (
        lambda x: lax.scan(lambda h, _: (jnp.fft.fft(h), None), x, None, length=6)[0],
        (spec(8, dtype=jnp.complex64),),
        0,
        6 * 5 * 8 * 3,
    ),
    "two-dimensional fft": (
        jnp.fft.fft2,
        (spec(3, 8, 16, dtype=jnp.complex64),),
        0,
        3 * 5 * (8 * 16) * (3 + 4),
    ),
    "convolution by fft": (
        lambda a, b: jnp.fft.irfft(jnp.fft.rfft(a) * jnp.fft.rfft(b), 32),
        (spec(32), spec(32)),
        0,
        3 * 5 * 32 * 5 / 2,
    ),
}


@pytest.mark.parametrize("name", LINALG)
def test_factorisations_and_transforms_are_those_counted_by_hand(name):
    fn, args, linalg, fft = LINALG[name]
    c = cost(fn, *args)
    for view in (c.lowered, c.compiled):
        assert view.linalg_flops == pytest.approx(linalg, abs=L * 2)
        assert view.fft_flops == fft
        assert not view.uncounted


PEERS = ["matrix product", "batched", "attention", "vjp by both", "training step of an MLP"]


@pytest.mark.peer
@pytest.mark.parametrize("name", PEERS)
def test_torch_counts_alike(name):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    from torch.utils.flop_counter import FlopCounterMode

    def tensor(*sides):
        return torch.ones(sides, requires_grad=True)

    def attend_in_torch(q, k, v):
        scores = torch.einsum("bthd,bshd->bhts", q, k).softmax(-1)
        return torch.einsum("bhts,bshd->bthd", scores, v)

    def mlp_step():
        sizes = pairwise(WIDTHS)
        layers_ = [torch.nn.Linear(a, b) for a, b in sizes]
        h = torch.ones(17, WIDTHS[0])
        for dense in layers_[:-1]:
            h = dense(h).relu()
        layers_[-1](h).square().mean().backward()

    runs = {
        "matrix product": lambda: tensor(T, N) @ tensor(N, K),
        "batched": lambda: tensor(B, H, T, N) @ tensor(B, H, N, K),
        "attention": lambda: attend_in_torch(*(tensor(*s.shape) for s in heads)),
        "vjp by both": lambda: (tensor(T, N) @ tensor(N, N)).tanh().square().sum().backward(),
        "training step of an MLP": mlp_step,
    }
    with FlopCounterMode(display=False) as counter:
        runs[name]()
    assert counter.get_total_flops() == PROGRAMS[name].total


def test_functions_jitted_by_flax_are_priced_too():
    model = nnx.Linear(7, 3, rngs=nnx.Rngs(0))
    jitted = nnx.jit(lambda model, x: model(x))
    assert cost(jitted, model, spec(5, 7)).matmul_flops == 2 * 5 * 7 * 3


class Halves(nnx.Module):
    """A model with layers that bear the names of a jitted function's methods."""

    def __init__(self, rngs):
        self.lower = nnx.Linear(7, 5, rngs=rngs)
        self.trace = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.trace(self.lower(x))


class Methods:
    """A callable with methods of these names, one of them jitted."""

    def __call__(self, x):
        return x @ x

    def lower(self, x):
        return x

    trace = functools.partial(jax.jit, static_argnums=0)(__call__)


def test_models_whose_layers_are_called_lower_or_trace_are_priced():
    halves = Halves(nnx.Rngs(0))
    assert cost(halves, spec(4, 7)).matmul_flops == 2 * 4 * 7 * 5 + 2 * 4 * 5 * 3
    model = Methods()
    for called in (model, model.trace):
        assert cost(called, square).matmul_flops == CUBE


def test_a_program_exported_for_any_batch_is_priced_at_the_one_it_is_called_with(monkeypatch):
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(scanned))(weights, spec(batch, N))
    c = cost(exported.call, weights, rows)
    assert c.lowered.matmul_flops == c.compiled.matmul_flops == L * layer
    assert c.lowered.stage == "lowered"
    assert c.exact
    assert c.lowered.exact
    monkeypatch.setattr(importlib, "import_module", lambda _: object())
    with pytest.raises(ValueError, match="exported for any batch"):
        cost(exported.call, weights, rows)


def test_a_constant_that_looks_like_an_open_side_is_none():
    least = np.iinfo(np.int64).min
    c = cost(lambda x: jnp.maximum(x, least), spec(7, dtype=jnp.int64))
    assert c.lowered.integer_ops == 7
