"""Lifted programs beside merged ones, the zoo of what they may be made of, and the files."""

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from oracles import DTYPES, assert_agrees, differs, draw, exact

from lintoolkit import _lift, lora, svd
from lintoolkit.cost import cost
from lintoolkit.lora import LowRank

KEY = jax.random.key(0)
QUICKLY = {"xla_backend_optimization_level": 0}  # of programs that run once


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
        merged="add",
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
    "take, filled": one(
        lambda w, x: jnp.take(w, 2 * ROWS, axis=0, mode="fill", fill_value=0.5) * x,
        (2, 3, 5),
        (7, 5),
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
    "divided by": one(lambda w, x: x @ (2 / w), (3, 5), (5, 7), merged="div", guessed={}),
    "squared": one(lambda w, x: x @ w + jnp.sum(w**2), (3, 5), (5, 7), merged="integer_pow"),
    "normalised": one(
        lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)),
        (3, 5),
        (5, 7),
        merged="mul|div",
        guessed={},
    ),
    "times itself": one(
        lambda w, x: x @ (w @ w.T), (3, 5), (5, 7), merged="dot_general", guessed={}
    ),
    "side by side": Program(
        fn=lambda p, x: x @ jnp.concatenate([p["q"], p["k"]], axis=1),
        x=(3, 5),
        shapes={"q": (5, 7), "k": (5, 2)},
        layout={"q": "i o"},
        merged="concatenate",
        guessed={},
    ),
    "axes of both mixed": one(
        lambda w, x: x @ w.reshape(7, 5), (3, 7), (5, 7), merged="reshape", guessed={}
    ),
    "own derivative": one(doubled, (3, 5), (5, 7), merged="custom_jvp_call", guessed={}),
    "own pullback": one(tripled, (3, 5), (5, 7), merged="custom_vjp_call", guessed={}),
    "stopped": one(
        lambda w, x: x @ lax.stop_gradient(w) + x @ w, (3, 5), (5, 7), merged="stop_gradient"
    ),
    "carried": one(
        lambda w, x: lax.scan(
            lambda c, _: ((c[0] / 2, jnp.tanh(c[1] @ c[0])), ()), (w, x), length=2
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
        lambda w, x: jnp.einsum("t,io->tio", x, w),
        (3,),
        (5, 7),
        merged="dot_general",
        guessed={},
    ),
    "returned": one(lambda w, x: (w.T, x), (3,), (5, 7), merged="the result", guessed={}),
}


def scalar(out):
    """A number that every entry of the results has its own share in."""
    share = lambda leaf: jnp.cos(jnp.arange(leaf.size)).astype(leaf.dtype)
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(out)]
    return sum(jnp.sum(jnp.sin(leaf) * share(leaf)).astype("float64") for leaf in leaves)


@pytest.mark.parametrize("name", ZOO)
def test_lifted_is_merged(name, rng):
    program = ZOO[name]
    params, adapters, x = program.at(rng)
    strict = not program.merged

    @partial(jax.jit, compiler_options=QUICKLY)
    def every(adapters, x):
        lifted = lambda ads, x: scalar(lora.lift(program.fn, strict=strict)(params, ads, x))
        merged = lambda ads, x: scalar(program.fn(lora.merge(params, ads), x))
        both = (jax.value_and_grad(f, (0, 1))(adapters, x) for f in (lifted, merged))
        return *both, scalar(program.fn(params, x))

    lifted, merged, without = every(adapters, x)
    close = {"rtol": 2e-5, "atol": 2e-5} if name == "cast" else {"rtol": 1e-10, "atol": 1e-10}
    jax.tree.map(partial(np.testing.assert_allclose, **close), lifted, merged)
    assert not np.allclose(merged[0], without, **close)  # control: the change matters


@pytest.fixture
def standard_promotion():
    """Optax's Adam takes a float to the power of an integer."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", ZOO)
def test_programs_are_explained_and_layouts_read_off(name, rng):
    program = ZOO[name]
    params, adapters, x = program.at(rng)
    ways = [
        way for path in adapters for way in lora.explain(program.fn, params, adapters, x)[path]
    ]
    summed = {way for way in ways if not way.startswith("factored:")}
    assert summed == set(program.merged.split("|")) - {""}
    assert ways
    if program.merged:
        with pytest.raises(
            ValueError, match=f"lift: .* goes into ({program.merged}), which has"
        ):
            lora.lift(program.fn, strict=True)(params, adapters, x)
    found = lora.layouts(program.fn, params, x)
    assert found == (program.layout if program.guessed is None else program.guessed)


def test_the_numbers_are_those_of_numpy(rng):
    x, w, head = draw(rng, 3, 5), draw(rng, 5, 7), draw(rng, 7, 2, 11)
    ads = {"w": drawn(rng, (5, 7), "i o"), "head": drawn(rng, (7, 2, 11), "i o o")}
    fn = lambda p, x: jnp.einsum("td,dhk->thk", jnp.tanh(x @ p["w"]), p["head"])
    loss = lambda ads: jnp.sum(lora.lift(fn, strict=True)({"w": w, "head": head}, ads, x) ** 2)
    value, gradient = jax.value_and_grad(loss)(ads)
    x, w, head, low = exact((x, w, head, ads))
    h = np.tanh(x @ (w + 0.5 * low["w"].a @ low["w"].b))
    kernel = head.reshape(7, 22) + 0.5 * low["head"].a @ low["head"].b.reshape(2, 22)
    y = h @ kernel
    assert_agrees(value, (y**2).sum())
    assert_agrees(gradient["head"].a, 0.5 * h.T @ (2 * y) @ low["head"].b.reshape(2, 22).T)
    dh = (2 * y) @ kernel.T * (1 - h**2)
    assert_agrees(gradient["w"].b, 0.5 * low["w"].a.T @ x.T @ dh)
    assert_agrees(gradient["w"].a, 0.5 * x.T @ dh @ low["w"].b.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_summed_in_float32(rng, dtype):
    x, w = draw(rng, 13, 31, dtype=dtype), draw(rng, 31, 17, dtype=dtype)
    low = drawn(rng, (31, 17), "i o", dtype="float32" if dtype == "bfloat16" else dtype)
    merged = lora.merge({"w": w}, {"w": low})["w"]
    kernel = exact(w) + 0.5 * exact(low.a) @ exact(low.b)
    assert merged.dtype == dtype
    assert_agrees(merged, kernel, ulps=1 if dtype == "bfloat16" else 32)
    lifted = lora.lift(lambda p, x: x @ p["w"], strict=True)({"w": w}, {"w": low}, x)
    assert lifted.dtype == dtype
    assert_agrees(lifted, exact(x) @ kernel, ulps=4 if dtype == "bfloat16" else 32)


def test_half_precision_has_gradients_of_every_product(rng):
    for name in ("product", "convolution", "ragged experts", "lookup", "scan of remat"):
        params, adapters, x = ZOO[name].at(rng, "bfloat16")
        lifted = lambda ads, name=name, params=params, x=x: scalar(
            lora.lift(ZOO[name].fn, strict=True)(params, ads, x)
        )
        assert jax.eval_shape(jax.grad(lifted), adapters)["w"].b.dtype == "bfloat16"


# Transformations around the lifted function


def network(params, x):
    for layer in ("one", "two"):
        p = params[layer]
        x = x + jax.nn.relu(x @ p["up"]) @ p["down"]
    return x


def stack(rng, d, dtype="float32"):
    return {
        layer: {
            "up": draw(rng, d, 4 * d, dtype=dtype),
            "down": draw(rng, 4 * d, d, dtype=dtype),
        }
        for layer in ("one", "two")
    }


def test_adapters_of_a_batch_ride_along(rng):
    params, x = stack(rng, 5), draw(rng, 3, 2, 5, dtype="float32")
    ads = [
        jax.tree.map(
            lambda a: draw(rng, *a.shape, dtype="float32"), lora.init(KEY, params, 2, where=".")
        )
        for _ in range(3)
    ]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ads)
    together = jax.vmap(lora.lift(network, strict=True), (None, 0, 0))(params, many, x)
    for one, row, y in zip(ads, x, together, strict=True):
        np.testing.assert_allclose(y, network(lora.merge(params, one), row), rtol=2e-4)


def test_adapters_on_adapters_add_up(rng):
    params, adapters, x = ZOO["product"].at(rng)
    again = {"w": drawn(rng, (5, 7), "i o")}
    fn = ZOO["product"].fn
    twice = lora.lift(lora.lift(fn, strict=True), strict=True)(params, again, adapters, x)
    assert_agrees(twice, fn(lora.merge(lora.merge(params, again), adapters), x))
    both = lora.combine([adapters, again], [1.0, 1.0])
    assert_agrees(lora.lift(fn, strict=True)(params, both, x), twice)


def test_adapters_of_one_shape_share_a_program(rng):
    params, adapters, x = ZOO["product"].at(rng)
    chex.clear_trace_counter()
    lifted = jax.jit(chex.assert_max_traces(lora.lift(ZOO["product"].fn), n=1))
    one = lifted(params, lora.fold(adapters), x)
    rescaled = {"w": replace(adapters["w"], scale=-2.0)}
    other = lifted(params, lora.fold(rescaled), x)
    base = ZOO["product"].fn(params, x)
    assert_agrees(other - base, exact(-4 * (one - base)), ulps=256)


def test_what_is_no_array_stays_what_it_is(rng):
    params = {"w": draw(rng, 5, 5), "depth": 3, "activation": jnp.tanh}

    def fn(params, x, *, scale):
        assert type(scale) is float
        for _ in range(params["depth"]):
            x = params["activation"](x @ params["w"]) * scale
        return x

    ads, x = {"w": drawn(rng, (5, 5), "i o")}, draw(rng, 3, 5)
    lifted = lora.lift(fn, strict=True)(params, ads, x, scale=0.5)
    merged = lora.merge(params, ads)
    assert merged["activation"] is jnp.tanh
    assert_agrees(lifted, exact(fn(merged, x, scale=0.5)))


def test_the_loop_that_cannot_be_taken_apart_gets_sums(rng, monkeypatch):
    monkeypatch.setattr(_lift, "_scan_counts", lambda _: None)
    params, adapters, x = ZOO["scan"].at(rng)
    fn = ZOO["scan"].fn
    assert lora.explain(fn, params, adapters, x) == {"w": ["scan"]}
    lifted, merged = lora.lift(fn)(params, adapters, x), fn(lora.merge(params, adapters), x)
    jax.tree.map(lambda a, b: assert_agrees(a, exact(b)), lifted, merged)


def test_without_names_and_contexts_the_numbers_are_the_same(rng, monkeypatch):
    placed = _lift._as_placed
    monkeypatch.setattr(_lift, "_as_placed", lambda _: placed(None))
    params, adapters, x = ZOO["two layers"].at(rng)
    fn = ZOO["two layers"].fn
    lifted = lora.lift(fn, strict=True)(params, adapters, x)
    assert_agrees(lifted, exact(fn(lora.merge(params, adapters), x)))


def test_loops_that_the_data_end_are_lifted(rng):
    def fn(params, x):
        step = lambda c: (c[0] + 1, jnp.tanh(c[1] @ params["w"]) + 0.1)
        return lax.while_loop(lambda c: (c[0] < 5) & (c[1].sum() < 9), step, (0, x))[1]

    params, ads, x = {"w": draw(rng, 5, 5)}, {"w": drawn(rng, (5, 5), "i o")}, draw(rng, 3, 5)
    lifted = lora.lift(fn, strict=True)(params, ads, x)
    # Each turn amplifies the roundings of those before.
    assert_agrees(lifted, exact(fn(lora.merge(params, ads), x)), ulps=512)
    assert differs(lifted, fn(params, x))


def test_scopes_and_shardings_of_the_program_stay(rng):
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    at = jax.NamedSharding(mesh, jax.P("rows", None))

    def fn(params, x):
        with jax.named_scope("here"):
            return x @ lax.with_sharding_constraint(params["w"], at)

    params, adapters, x = ZOO["product"].at(rng)
    text = (
        jax.jit(lora.lift(fn, strict=True)).lower(params, adapters, x).as_text(debug_info=True)
    )
    places = set(re.findall(r'"[^"]*lift/([^"]*)/dot_general', text))
    assert places == {"here"}
    assert "sharding_constraint" in text


def test_nothing_is_leaked(rng):
    for name in ("scan", "squared", "carried", "cond", "scan of remat"):
        params, adapters, x = ZOO[name].at(rng)
        with jax.checking_leaks():
            jax.jit(lora.lift(ZOO[name].fn))(params, adapters, x)


# Flax's modules


class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        y = linen.MultiHeadDotProductAttention(num_heads=2)(linen.LayerNorm()(x))
        return x + linen.Dense(6)(jax.nn.gelu(linen.Dense(10)(y)))


class Stack(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        table = linen.Embed(11, 6)
        body = linen.scan(
            linen.remat(lambda module, x, _: (module(x), None)),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = body(Block(), table(tokens), None)
        return table.attend(x)


class Classifier(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jax.nn.relu(linen.Conv(5, (3, 2), strides=2)(x))
        return linen.Dense(3)(x.mean((-3, -2)))


class Pieces(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(11, 6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.general = nnx.LinearGeneral((2, 3), 5, axis=(-2, -1), rngs=rngs)
        self.einsum = nnx.Einsum("tk,kde->tde", (5, 2, 7), rngs=rngs)

    def __call__(self, tokens):
        x = self.attention(self.table(tokens))
        return self.einsum(self.general(x.reshape(-1, 2, 3)))


TOKENS = jnp.array([3, 1, 4, 1, 5])


def of_linen(module, x):
    return module.init(KEY, x), module.apply, x


def of_nnx():
    graph, state = nnx.split(Pieces(nnx.Rngs(0)))
    return state, lambda state, tokens: nnx.merge(graph, state)(tokens), TOKENS


MODULES = {
    "attention, scan, remat, tied head": lambda: of_linen(Stack(), TOKENS),
    "convolution": lambda: of_linen(Classifier(), jnp.ones((2, 5, 7, 3), "float32")),
    "nnx": of_nnx,
}
LAYOUTS = {
    "attention, scan, remat, tied head": {"b i o o", "b i i o", "b i o", "i o"},
    "convolution": {"i i i o", "i o"},
    "nnx": {"i o o", "i i o", "i o"},
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_flax_are_lifted_as_they_are(name, rng):
    params, apply, x = MODULES[name]()
    layouts = lora.layouts(apply, params, x)
    assert set(layouts.values()) == LAYOUTS[name]
    shapes = jax.eval_shape(
        lambda key: lora.init(key, params, 2, where="kernel|embedding", layout=layouts), KEY
    )
    assert set(shapes) == set(layouts)
    adapters = jax.tree.map(lambda a: draw(rng, *a.shape, dtype=a.dtype) / 4, shapes)

    @partial(jax.jit, compiler_options=QUICKLY)
    def both(adapters):
        return lora.lift(apply, strict=True)(params, adapters, x), apply(
            lora.merge(params, adapters), x
        )

    lifted, merged = both(adapters)
    np.testing.assert_allclose(lifted, merged, rtol=2e-5, atol=2e-5)
    assert differs(lifted, apply(params, x))


# What it costs


def count_products(jaxpr, shapes):
    """How many products in a program, at any depth, have one of these shapes."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            count += eqn.outvars[0].aval.shape in shapes
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            count += count_products(inner, shapes) if hasattr(inner, "eqns") else 0
    return count


D, ROWS_IN, RANK = 128, 64, 2


def abstract_stack():
    shape = lambda *s: jax.ShapeDtypeStruct(s, "float32")
    params = {k: {"up": shape(D, 4 * D), "down": shape(4 * D, D)} for k in ("one", "two")}
    ads = jax.eval_shape(lambda key: lora.init(key, params, RANK, where="."), KEY)
    return params, ads, shape(ROWS_IN, D)


def square(y):
    return jnp.mean(y**2)


def test_the_gradient_forms_no_kernel():
    params, ads, x = abstract_stack()
    lifted = lambda ads, params, x: square(lora.lift(network)(params, ads, x))
    merged = lambda ads, params, x: square(network(lora.merge(params, ads), x))
    shapes = {(D, 4 * D), (4 * D, D)}
    of = lambda fn: count_products(jax.make_jaxpr(jax.grad(fn))(ads, params, x).jaxpr, shapes)
    assert of(lifted) == 0
    assert of(merged) == 8  # control: the sums, and the gradients of the sums


def test_the_gradient_costs_two_thirds_and_no_more_than_by_hand():
    params, ads, x = abstract_stack()

    def by_hand(ads, params, x):
        dense = lambda x, path: (
            x @ params[path[:3]][path[4:]] + (x @ ads[path].a) @ ads[path].b * ads[path].scale
        )
        for layer in ("one", "two"):
            x = x + dense(jax.nn.relu(dense(x, f"{layer}/up")), f"{layer}/down")
        return square(x)

    lifted = lambda ads, params, x: square(lora.lift(network)(params, ads, x))
    merged = lambda ads, params, x: square(network(lora.merge(params, ads), x))
    flops = lambda fn, *args: cost(jax.grad(fn), *args).flops
    full = flops(lambda params, x: square(network(params, x)), params, x)
    ours = flops(lifted, ads, params, x)
    assert ours / full <= 0.69
    assert ours / flops(by_hand, ads, params, x) == pytest.approx(1, abs=0.01)
    assert flops(merged, ads, params, x) / full > 1  # control: merging saves nothing


@pytest.mark.usefixtures("standard_promotion")
def test_scan_and_remat_keep_the_memory_down():
    shape = lambda *s: jax.ShapeDtypeStruct(s, "float32")
    params, x = shape(8, 256, 256), shape(64, 256)
    make = partial(lora.init, layout="b i o", where="")
    ads = jax.eval_shape(lambda key: make(key, params, 4), KEY)
    step = jax.checkpoint(lambda x, w: (x + jnp.tanh(x @ w), None))
    fn = lambda w, x: square(lax.scan(step, x, w)[0])
    lifted = lambda ads, w, x: lora.lift(fn, strict=True)(w, ads, x)
    merged = lambda ads, w, x: fn(lora.merge(w, ads), x)

    def trained(fn, values, *rest):
        """Memory of a step of Adam."""
        adam = optax.adam(1e-3)

        def step(values, state, *rest):
            updates, state = adam.update(jax.grad(fn)(values, *rest), state)
            return optax.apply_updates(values, updates), state

        donated = jax.jit(step, donate_argnums=(0, 1))
        return (
            donated.lower(values, jax.eval_shape(adam.init, values), *rest)
            .compile()
            .memory_analysis()
        )

    peak = lambda m: m.argument_size_in_bytes + m.temp_size_in_bytes
    ours, theirs = trained(lifted, ads, params, x), trained(merged, ads, params, x)
    assert peak(ours) / peak(trained(fn, params, x)) <= 0.45
    assert ours.temp_size_in_bytes / theirs.temp_size_in_bytes <= 0.30


def test_sixteen_adapters_in_a_batch_cost_little_more_than_none():
    params, ads, _ = abstract_stack()
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((16, *a.shape), a.dtype), ads)
    x = jax.ShapeDtypeStruct((16, 32, D), "float32")
    lifted = cost(jax.vmap(lora.lift(network), (None, 0, 0)), params, many, x)
    base = cost(jax.vmap(network, (None, 0)), params, x)
    assert lifted.flops / base.flops <= 1.12
    merged = jax.vmap(lambda p, a, x: network(lora.merge(p, a), x), (None, 0, 0))
    assert cost(merged, params, many, x).memory.temps > 3 * lifted.memory.temps  # control


# Making and training adapters


def test_fresh_adapters_change_nothing_and_draw_by_path(rng):
    params = stack(rng, 5) | {
        "head": draw(rng, 5, 2, 7),
        "norm": jnp.ones(5),
        "ids": jnp.ones((3, 3), int),
    }
    some = lora.init(KEY, params, 2, where="up")
    every = lora.init(KEY, params, 2, where=["up", "down", "head"], layout={"head": "i o o"})
    assert set(some) == {"one/up", "two/up"}
    assert set(every) == {"one/up", "two/up", "one/down", "two/down", "head"}
    np.testing.assert_array_equal(some["one/up"].a, every["one/up"].a)
    assert differs(every["one/up"].a, every["two/up"].a)
    merged = lora.merge(params, every)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    bound = 1 / math.sqrt(20)
    low = lora.init(KEY, {"w": jnp.ones((20, 300))}, 20, where="w")["w"]
    a = low.a
    assert a.size + low.b.size == lora.parameters(d_in=20, d_out=300, r=20)
    assert bound * 0.95 < jnp.abs(a).max() <= bound
    assert abs(float(a.std()) / (bound / math.sqrt(3)) - 1) < 0.1


def test_each_leaf_has_its_own_rank_scale_and_layout(rng):
    params = {
        "q": draw(rng, 5, 7),
        "kv": draw(rng, 7, 5),
        "table": draw(rng, 11, 5, dtype="bfloat16"),
    }
    ads = lora.init(
        KEY, params, {"^q$": 3, ".": 2}, where=lambda _, leaf: leaf.ndim == 2,
        alpha=lambda path: 6.0 if path == "q" else 1.0, rslora=True,
        layout={"kv": "o i"}, init={"table": "embedding", ".": "kaiming"},
    )  # fmt: skip
    shapes = {path: (low.a.shape, low.b.shape) for path, low in ads.items()}
    assert shapes == {"q": ((5, 3), (3, 7)), "kv": ((5, 2), (2, 7)), "table": ((11, 2), (2, 5))}
    assert ads["q"].scale == 6 / math.sqrt(3)
    assert ads["kv"].scale == 1 / math.sqrt(2)
    assert not ads["table"].a.any()
    assert ads["table"].b.all()
    assert ads["table"].b.dtype == "float32"


@pytest.mark.usefixtures("standard_promotion")
def test_optax_trains_the_adapters_alone(rng):
    params, x = stack(rng, 5), draw(rng, 31, 5, dtype="float32")
    goal = jax.tree.map(lambda w: draw(rng, *w.shape, dtype="float32") / 9 + w, params)
    y = network(goal, x)
    loss = lambda ads: jnp.mean((lora.lift(network, strict=True)(params, ads, x) - y) ** 2)
    ads, adam = lora.init(KEY, params, 2, where="."), optax.adam(3e-2)

    @jax.jit
    def train(ads):
        def step(carry, _):
            ads, state = carry
            updates, state = adam.update(jax.grad(loss)(ads), state)
            return (optax.apply_updates(ads, updates), state), None

        return lax.scan(step, (ads, adam.init(ads)), length=100)[0][0]

    trained = train(ads)
    assert jax.jit(loss)(trained) < jax.jit(loss)(ads) / 3
    assert sum(a.size for a in jax.tree.leaves(adam.init(ads))) < 2 * 4 * 2 * 25 + 9


# Decompositions of changes


def frobenius(x):
    return np.linalg.norm(exact(x).ravel())


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_extracted_changes_meet_the_bound_of_eckart_and_young(rng, rank):
    base, tuned = ({"w": draw(rng, 11, 7), "heads": draw(rng, 2, 7, 3, 5)} for _ in range(2))
    ads = lora.extract(base, tuned, where=".", rank=rank, layout={"heads": "b i o o"})
    values = np.linalg.svd(exact(tuned["w"] - base["w"]), compute_uv=False)
    merged = lora.merge(base, ads)
    bound = np.sqrt((values[rank:] ** 2).sum())
    np.testing.assert_allclose(frobenius(tuned["w"] - merged["w"]), bound, rtol=1e-9, atol=1e-9)
    stack = exact(tuned["heads"] - base["heads"]).reshape(2, 7, 15)
    values = np.linalg.svd(stack, compute_uv=False)
    bound = np.sqrt((values[:, rank:] ** 2).sum())
    missed = frobenius(tuned["heads"] - merged["heads"])
    np.testing.assert_allclose(missed, bound, rtol=1e-9, atol=1e-9)
    errors = lora.residual(base, tuned, ads)
    np.testing.assert_allclose(errors["heads"], missed / np.linalg.norm(stack), atol=1e-12)
    worse = {"w": replace(ads["w"], scale=0.9)}  # control
    assert lora.residual(base, tuned, worse)["w"] > errors["w"]


def test_energy_chooses_the_rank(rng):
    base, tuned = ({"w": draw(rng, 11, 7)} for _ in range(2))
    values = np.linalg.svd(exact(tuned["w"] - base["w"]), compute_uv=False)
    for energy in (0.3, 0.8, 0.99):
        low = lora.extract(base, tuned, where="w", energy=energy)
        rank = 1 + int(np.argmax(np.cumsum(values**2) >= energy * (values**2).sum()))
        assert low["w"].a.shape == (11, rank)
        assert lora.residual(base, tuned, low)["w"] <= math.sqrt(1 - energy)
        assert lora.resize(lora.extract(base, tuned, where="w", rank=7), energy=energy)[
            "w"
        ].a.shape == (11, rank)


def test_the_residual_names_what_changed_and_has_no_adapter(rng):
    base = {"w": draw(rng, 5, 3), "v": draw(rng, 5, 3), "bias": draw(rng, 3), "n": jnp.array(3)}
    tuned = base | {"w": base["w"] + 1, "bias": base["bias"] - 1}
    errors = lora.residual(base, tuned, lora.extract(base, tuned, where="w", rank=1))
    assert set(errors) == {"w", "bias"}
    assert errors["w"] < 1e-12
    assert errors["bias"] == 1
    low = {"v": drawn(rng, (5, 3), "i o")}
    assert lora.residual(base, tuned, low) == {"w": 1, "bias": 1, "v": math.inf}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_pissa_splits_an_array_in_two(rng, dtype):
    params = {"w": draw(rng, 11, 7, dtype=dtype), "other": jnp.ones(3)}
    frozen, ads = lora.pissa(params, 3, where="w")
    u, s, vt = np.linalg.svd(exact(params["w"]))
    rest = exact(params["w"]) - (u[:, :3] * s[:3]) @ vt[:3]
    assert_agrees(frozen["w"], rest)
    assert frozen["other"] is params["other"]
    # Both summands round.
    assert_agrees(
        lora.merge(frozen, ads)["w"], exact(params["w"]), ulps=2 if dtype == "bfloat16" else 32
    )


def test_combined_changes_are_their_sum(rng):
    shape, layout = (2, 7, 3, 5), "b i o o"
    sets = [{"w": drawn(rng, shape, layout, rank=r, scale=s)} for r, s in ((2, 0.5), (3, 2.0))]
    sets[1]["v"] = drawn(rng, (7, 5), "o i")
    zero = {"w": jnp.zeros(shape), "v": jnp.zeros((7, 5))}
    dense = 0.7 * lora.merge(zero, sets[0])["w"] - 1.3 * lora.merge(zero, sets[1])["w"]
    whole = lora.combine(sets, [0.7, -1.3])
    assert_agrees(lora.merge(zero, whole)["w"], exact(dense))
    assert_agrees(lora.merge(zero, whole)["v"], -1.3 * exact(lora.merge(zero, sets[1])["v"]))
    assert whole["w"].a.shape == (2, 7, 5)
    u, s, vt = np.linalg.svd(exact(dense).reshape(2, 7, 15), full_matrices=False)
    for rank in (1, 2, 4):
        nearest = ((u[..., :rank] * s[:, None, :rank]) @ vt[:, :rank]).reshape(shape)
        few = lora.combine(sets, [0.7, -1.3], rank={"w": rank, "v": 1})
        assert_agrees(lora.merge(zero, few)["w"], nearest)
        assert_agrees(lora.merge(zero, lora.resize({"w": whole["w"]}, rank=rank))["w"], nearest)
    averaged = replace(
        sets[0]["w"], a=sets[0]["w"].a * 0.7
    )  # control: one of them is not the sum
    assert differs(lora.merge(zero, {"w": averaged})["w"], dense)


def test_combining_forms_no_dense_change():
    shape = lambda *s: jax.ShapeDtypeStruct(s, "float32")
    d, r = 1024, 16
    low = LowRank(shape(d, r), shape(r, d))
    combine = lambda *lows: lora.combine([{"w": one} for one in lows], [0.5, 0.3, 0.2], rank=8)
    jaxpr = jax.make_jaxpr(combine)(low, low, low)
    dense = lambda *lows: svd.truncated_svd(sum(one.a @ one.b for one in lows), rank=8)
    assert str(jaxpr).count(f"[1,{d},{d}]") + str(jaxpr).count(f"[{d},{d}]") == 0
    assert f"[{d},{d}]" in str(jax.make_jaxpr(dense)(low, low, low))  # control
