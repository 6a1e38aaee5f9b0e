"""What reductions, windows and scatters fold with, and how often."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from lintoolkit.cost import cost, stages
from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.walk import count_module

F32 = jnp.float32


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


zero = lambda: jnp.zeros((), F32)
# A jitted function is a call in the lowered program: of one comparison and one selection.
larger = jax.jit(lambda a, b: jnp.where(a > b, a, b))
plain = lambda a, b: lax.select(a > b, a, b)
FOLDS = {
    # name: (program with a combiner, its arguments, applications of the combiner)
    "reduce": (lambda f: lambda x: lax.reduce(x, zero(), f, (1,)), (spec(5, 9),), 5 * 8),
    "reduce-window": (
        lambda f: lambda x: lax.reduce_window(x, zero(), f, (3,), (1,), "VALID"),
        (spec(9),),
        7 * 2,
    ),
    "scatter": (
        lambda f: lambda x, at: x.at[at].apply(lambda old: f(old, jnp.ones_like(old))),
        (spec(9), spec(4, dtype=jnp.int32)),
        4,
    ),
}


@pytest.mark.parametrize("combiner", [larger, plain], ids=["jitted", "plain"])
@pytest.mark.parametrize("name", FOLDS)
def test_a_combiner_counts_with_all_that_it_calls(name, combiner):
    program, args, times = FOLDS[name]
    lowered = cost(program(combiner), *args).lowered
    assert lowered.reduction_flops == times * 2
    assert lowered.exact


def test_a_combiner_with_a_loop_is_named_and_not_free():
    power = lambda a, b: lax.fori_loop(0, 3, lambda _, h: h * b, a)
    lowered = jax.jit(lambda x: lax.reduce(x, zero(), jax.jit(power), (0,))).lower(spec(9))
    tally = count_module(read_module(stages.lowered_bytes(lowered)))
    assert tally.uncounted == {"reduce": 1}


CUMULATIVE = {
    # name: (function, arguments, FLOPs of one fold, folds: a side less one, for each line)
    "sum": (jnp.cumsum, (spec(4096),), 1, 4095),
    "sum of rows, reversed": (
        lambda x: lax.cumsum(x, axis=1, reverse=True),
        (spec(5, 100),),
        1,
        5 * 99,
    ),
    "largest": (lambda x: lax.cummax(x, axis=0), (spec(30, 2),), 1, 29 * 2),
    "product in a loop": (
        lambda x: lax.fori_loop(0, 3, lambda _, h: jnp.cumprod(h), x),
        (spec(17),),
        1,
        3 * 16,
    ),
    "over both sides": (
        lambda x: lax.reduce_window(x, zero(), lax.add, (4, 6), (1, 1), ((3, 0), (0, 5))),
        (spec(4, 6),),
        1,
        3 * 6 + 5 * 4,
    ),
    "of one": (jnp.cumsum, (spec(1),), 1, 0),
    "of none": (jnp.cumsum, (spec(0),), 1, 0),
    # a maximum and three sums, abs and negate, comparison and selection; exp and log apart
    "log of sums of exponentials": (
        lambda x: lax.cumlogsumexp(x, axis=0),
        (spec(10),),
        8,
        9,
    ),
}


@pytest.mark.parametrize("name", CUMULATIVE)
def test_cumulative_folds_are_one_less_than_the_side(name):
    fn, args, fold, times = CUMULATIVE[name]
    lowered = cost(fn, *args).lowered
    assert lowered.reduction_flops == fold * times
    assert lowered.exact


def test_compiled_windows_count_as_they_run():
    # Sixteen numbers are one window each: 1 + 2 + ... + 15 additions.
    c = cost(jnp.cumsum, spec(16))
    assert (c.lowered.flops, c.compiled.flops) == (15, 15 * 16 // 2)
    (said,) = c.explain()
    assert "reduce-window 15 to 120" in said


def test_a_window_short_of_its_side_or_padded_at_both_ends_folds_its_taps():
    window = lambda size, pad: (
        lambda x: lax.reduce_window(x, zero(), lax.add, (size,), (1,), (pad,))
    )
    short = cost(window(5, (4, 0)), spec(9)).lowered  # windows of 1, 2, 3, 4 and five of 5
    assert short.reduction_flops == 1 + 2 + 3 + 4 * 5
    centred = cost(window(5, (2, 2)), spec(5)).lowered  # of 3, 4, 5, 4 and 3
    assert centred.reduction_flops == 2 + 3 + 4 + 3 + 2
