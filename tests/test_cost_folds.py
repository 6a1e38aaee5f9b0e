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
