"""Lifted programs beside merged ones, the zoo of what they may be made of, and the files."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from oracles import draw

from lintoolkit import lora

KEY = jax.random.key(0)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A function of weights and of x, and which layouts its weights have."""

    fn: Any
    x: tuple
    layout: dict[str, str]  # which are of the weights in `shapes`
    shapes: dict[str, tuple]
    merged: str = ""  # the primitive that needs the sum, where one does
    guessed: dict[str, str] | None = None  # what `layouts` finds, if another

    def at(self, rng, dtype="float64"):
        params = {name: draw(rng, *shape, dtype=dtype) for name, shape in self.shapes.items()}
        adapters = {
            name: drawn(rng, self.shapes[name], layout, dtype)
            for name, layout in self.layout.items()
        }
        return params, adapters, draw(rng, *self.x, dtype=dtype)


def drawn(rng, shape, layout, dtype="float64", rank=2, scale=0.5):
    """A change of an array, of random factors."""
    params = {"w": jax.ShapeDtypeStruct(shape, dtype)}
    like = partial(lora.init, where="w", layout=layout, alpha=scale * rank)
    shapes = jax.eval_shape(lambda key: like(key, params, rank), KEY)
    return jax.tree.map(lambda leaf: draw(rng, *leaf.shape, dtype=dtype), shapes["w"])


def one(fn, x, shape, layout="i o", **rest):
    return Program(
        fn=lambda p, x: fn(p["w"], x), x=x, shapes={"w": shape}, layout={"w": layout}, **rest
    )


def scanned(w, x, wrap=lambda f: f, **options):
    step = wrap(lambda x, w: (jnp.tanh(x @ w), x.sum()))
    return lax.scan(step, x, w, **options)


def convolution(w, x, numbers=("NHWC", "HWIO", "NHWC"), **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def experts(w, x):
    return jnp.einsum("ti,tio->to", x, w[jnp.array([2, 0, 0, 1, 2])])


@jax.custom_jvp
def doubled(w, x):
    return x @ (2 * w)


@doubled.defjvp
def _(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return doubled(w, x), 3 * (x @ dw) + 2 * (dx @ w)  # its own idea of a derivative


@jax.custom_vjp
def tripled(w, x):
    return x @ (3 * w)


tripled.defvjp(lambda w, x: (tripled(w, x), (w, x)), lambda s, t: (7 * s[1].T @ t, t @ s[0].T))

ROWS = jnp.array([[1, 0, 6], [4, 4, 1]])
SLIDING = {"window_strides": (2, 1), "padding": [(2, 1), (0, 3)], "rhs_dilation": (1, 2)}

ZOO = {
    "product": one(lambda w, x: x @ w, (3, 5), (5, 7)),
    "vector": one(lambda w, x: x @ w, (5,), (5, 7)),
    "transposed": one(lambda w, x: x @ w.T, (3, 5), (7, 5), "o i"),
    "from the left": one(lambda w, x: w @ x, (5, 3), (7, 5), "o i"),
    "factors the other way": one(
        lambda w, x: x @ w, (3, 5), (5, 7), "o i", guessed={"w": "i o"}
    ),
    "batch of rows": one(lambda w, x: x @ w, (2, 3, 5), (5, 7)),
    "heads out": one(lambda w, x: jnp.einsum("td,dhk->thk", x, w), (3, 5), (5, 2, 7), "i o o"),
    "heads in": one(
        lambda w, x: jnp.einsum("thk,hkd->td", x, w), (3, 2, 7), (2, 7, 5), "i i o"
    ),
    "heads of a batch": one(
        lambda w, x: jnp.einsum("thk,hkd->thd", x, w), (3, 2, 7), (2, 7, 5), "b i o"
    ),
    "heads each in": one(
        lambda w, x: jnp.einsum("thk,hkd->thd", x, w),
        (3, 2, 7),
        (2, 7, 5),
        "i i o",
        guessed={"w": "b i o"},
    ),
    "split": one(
        lambda w, x: jnp.einsum("td,dhk->htk", x, w.reshape(5, 2, 7)), (3, 5), (5, 14)
    ),
    "joined": one(lambda w, x: x @ w.reshape(5, 14), (3, 5), (5, 2, 7), "i o o"),
    "both axes": one(lambda w, x: jnp.einsum("tio,io->t", x, w), (3, 5, 7), (5, 7), guessed={}),
    "cast": one(
        lambda w, x: (x.astype("float32") @ w.astype("float32")).astype("float64"),
        (3, 5),
        (5, 7),
    ),
    "scaled": one(lambda w, x: x @ (-(2.0 * w) / x.sum() * x[0, 0]), (3, 5), (5, 7)),
    "jit": one(lambda w, x: jax.jit(lambda w, x: x @ w)(w, x), (3, 5), (5, 7)),
    "remat": one(lambda w, x: jax.checkpoint(lambda x: jnp.sin(x @ w))(x), (3, 5), (5, 7)),
    "named": one(lambda w, x: x @ checkpoint_name(w, "w"), (3, 5), (5, 7)),
    "barrier": one(lambda w, x: jnp.matmul(*lax.optimization_barrier((x, w))), (3, 5), (5, 7)),
    "scan": one(scanned, (3, 5), (2, 5, 5), "b i o"),
    "scan back": one(partial(scanned, reverse=True, unroll=2), (3, 5), (3, 5, 5), "b i o"),
    "scan of remat": one(partial(scanned, wrap=jax.checkpoint), (3, 5), (2, 5, 5), "b i o"),
    "scan of one": one(scanned, (3, 5), (1, 5, 5), "b i o"),
    "scan over rows": one(
        lambda w, x: lax.scan(lambda y, wx: (y + wx[1] * wx[0], ()), jnp.zeros(7), (w, x))[0],
        (5,),
        (5, 7),
        merged="mul",
        guessed={},
    ),
    "scan, constant": one(
        lambda w, x: lax.scan(lambda x, _: (jnp.tanh(x @ w), ()), x, length=2)[0],
        (3, 5),
        (5, 5),
    ),
    "loop": one(
        lambda w, x: lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ w[i]), x),
        (3, 5),
        (2, 5, 5),
        "b i o",
    ),
    "index": one(lambda w, x: x @ w[1], (3, 5), (2, 5, 7), "b i o"),
    "index that counts from the end": one(
        lambda w, x: x @ w[jnp.array(-1)] @ w[-2], (3, 5), (3, 5, 5), "b i o"
    ),
    "slices": one(lambda w, x: x[:, :2] @ w[1:3, ::2], (3, 5), (5, 7)),
    "dynamic slice": one(
        lambda w, x: x[:, :2] @ lax.dynamic_slice(w, (ROWS[1, 2], ROWS[0, 2]), (2, 3)),
        (3, 5),
        (5, 7),
    ),
    "cond": one(
        lambda w, x: lax.cond(x.sum() > 0, lambda w: x @ w, lambda w: 2 * x @ w, w),
        (3, 5),
        (5, 7),
    ),
    "vmap": one(lambda w, x: jax.vmap(lambda x: x @ w)(x), (3, 5), (5, 7)),
    "vmap over a stack": one(jax.vmap(lambda w, x: x @ w), (2, 3, 5), (2, 5, 7), "b i o"),
    "broadcast": one(
        lambda w, x: jnp.matmul(x, jnp.broadcast_to(w, (2, 5, 7))), (2, 3, 5), (5, 7)
    ),
    "experts": one(
        lambda w, x: jnp.einsum("ecd,edf->ecf", x, w), (3, 2, 5), (3, 5, 7), "b i o"
    ),
    "experts by row": one(experts, (5, 7), (3, 7, 11), "b i o"),
    "experts by row, as rows": one(
        experts, (5, 7), (3, 7, 11), "i o o", guessed={"w": "b i o"}, merged=""
    ),
    "ragged experts": one(
        lambda w, x: lax.ragged_dot(x, w, jnp.array([2, 0, 3], "int32")),
        (5, 7),
        (3, 7, 11),
        "b i o",
    ),
    "lookup": one(lambda w, x: w[ROWS] * x, (2, 3, 5), (7, 5)),
    "lookup, out": one(
        lambda w, x: w[:, ROWS] @ x, (3, 2), (5, 7), "i o", guessed={"w": "o i"}
    ),
    "take": one(lambda w, x: jnp.take(w, ROWS - 3, axis=0) * x, (2, 3, 5), (7, 5)),
    "take, clipped": one(
        lambda w, x: jnp.take(w, 3 * ROWS, axis=0, mode="clip") * x, (2, 3, 5), (7, 5)
    ),
    "tied head": one(lambda w, x: (w[ROWS] * x) @ w.T, (2, 3, 5), (7, 5)),
    "convolution": one(convolution, (2, 5, 7, 3), (3, 2, 3, 11), "i i i o"),
    "convolution, channels first": one(
        partial(convolution, numbers=("NCHW", "OIHW", "NCHW")),
        (2, 3, 5, 7),
        (11, 3, 3, 2),
        "o i i i",
    ),
    "convolution, sliding": one(
        partial(convolution, **SLIDING), (2, 5, 7, 3), (3, 2, 3, 11), "i i i o"
    ),
    "convolution, window after": one(
        partial(convolution, **SLIDING),
        (2, 5, 7, 3),
        (3, 2, 3, 11),
        "o o i o",
        guessed={"w": "i i i o"},
    ),
    "convolution, separable": one(
        partial(convolution, **SLIDING),
        (2, 5, 7, 3),
        (3, 2, 3, 11),
        "i o i o",
        guessed={"w": "i i i o"},
    ),
    "convolution, factors the other way": one(
        convolution, (2, 5, 7, 3), (3, 2, 3, 11), "o i o i", guessed={"w": "i i i o"}
    ),
    "gradient inside": one(
        lambda w, x: jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w) ** 2))(x), (3, 5), (5, 7)
    ),
    "two layers": Program(
        fn=lambda p, x: jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"],
        x=(3, 5),
        shapes={"up": (5, 7), "down": (7, 5), "bias": (7,)},
        layout={"up": "i o", "down": "i o"},
    ),
    # What needs the sum
    "squared": one(lambda w, x: x @ w + jnp.sum(w**2), (3, 5), (5, 7), merged="integer_pow"),
    "normalised": one(
        lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)), (3, 5), (5, 7), merged="mul"
    ),
    "times itself": one(lambda w, x: x @ (w @ w.T), (3, 5), (5, 7), merged="dot_general"),
    "side by side": Program(
        fn=lambda p, x: x @ jnp.concatenate([p["q"], p["k"]], axis=1),
        x=(3, 5),
        shapes={"q": (5, 7), "k": (5, 2)},
        layout={"q": "i o"},
        merged="concatenate",
        guessed={},
    ),
    "axes of both mixed": one(
        lambda w, x: x @ w.reshape(7, 5), (3, 7), (5, 7), merged="reshape", guessed={"w": ""}
    ),
    "own derivative": one(doubled, (3, 5), (5, 7), merged="custom_jvp_call", guessed={}),
    "own pullback": one(tripled, (3, 5), (5, 7), merged="custom_vjp_call", guessed={}),
    "stopped": one(
        lambda w, x: x @ lax.stop_gradient(w) + x @ w, (3, 5), (5, 7), merged="stop_gradient"
    ),
    "carried": one(
        lambda w, x: lax.scan(
            lambda c, _: ((c[0], jnp.tanh(c[1] @ c[0])), ()), (w, x), length=2
        ),
        (3, 5),
        (5, 5),
        merged="scan",
        guessed={},
    ),
    "groups": one(
        partial(convolution, feature_group_count=2),
        (2, 5, 7, 4),
        (3, 2, 2, 6),
        "i i i o",
        merged="conv_general_dilated",
        guessed={},
    ),
    "outer product": one(
        lambda w, x: jnp.einsum("t,io->tio", x, w), (3,), (5, 7), merged="dot_general"
    ),
    "returned": one(lambda w, x: (w.T, x), (3,), (5, 7), merged="the result", guessed={}),
}


def scalar(out):
    """A number that every entry of the results has its own share in."""
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(out)]
    return sum(jnp.sum(jnp.sin(leaf) * jnp.cos(jnp.arange(leaf.size))) for leaf in leaves)


@pytest.mark.parametrize("name", ZOO)
def test_lifted_is_merged(name, rng):
    program = ZOO[name]
    params, adapters, x = program.at(rng)
    strict = not program.merged

    @jax.jit
    def every(adapters, x):
        lifted = lambda ads, x: scalar(lora.lift(program.fn, strict=strict)(params, ads, x))
        merged = lambda ads, x: scalar(program.fn(lora.merge(params, ads), x))
        both = (jax.value_and_grad(f, (0, 1))(adapters, x) for f in (lifted, merged))
        return *both, scalar(program.fn(params, x))

    lifted, merged, without = every(adapters, x)
    close = {"rtol": 2e-5, "atol": 2e-5} if name == "cast" else {"rtol": 1e-10, "atol": 1e-10}
    jax.tree.map(partial(np.testing.assert_allclose, **close), lifted, merged)
    assert not np.allclose(merged[0], without, **close)  # control: the change matters
