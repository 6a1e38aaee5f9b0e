"""How often loops run and which branches are taken, where that is hard to say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lintoolkit.cost import cost, stages, trips
from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.trips import Scope
from lintoolkit.cost.walk import count_module

F32 = jnp.float32
N = 6
CUBE = 2 * N**3


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def dynamic(n, x):
    """As many products as an argument says."""
    with jax.named_scope("inner"):
        return lax.fori_loop(0, n, lambda _, h: h @ x, x)


DYNAMIC = spec(dtype=jnp.int32), spec(N, N)


@pytest.mark.parametrize("number", [np.int8(100), np.int32(100), np.array(100), jnp.int32(100)])
def test_trips_are_of_any_integer_type_and_count_as_pythons(number):
    # In numpy's own integers 100 trips of this many FLOPs overflow.
    for given in (number, {"inner": number}, lambda _: number):
        c = cost(dynamic, *DYNAMIC, while_trips=given)
        assert c.matmul_flops == 100 * CUBE
        assert json.loads(json.dumps(c.to_dict()))["loops"][0]["trips"] == 100


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("number", [-1, np.int32(-1), 2.5, 2.0, float("nan"), [3], "3", (1, 2)])
def test_trips_that_are_no_whole_number_are_refused_in_one_sentence(number):
    said = r"^cost: while_trips must be a whole number of at least 0, got .*"
    for given in ({"inner": number}, lambda _: number):
        with pytest.raises(ValueError, match=said + r"for the loop in scope 'inner'\. Give"):
            cost(dynamic, *DYNAMIC, while_trips=given)
    with pytest.raises(ValueError, match=said + r"\. Give how often"):  # no loop asks for it
        cost(jnp.tanh, spec(3), while_trips=number)


def test_an_error_of_the_users_function_is_named():
    with pytest.raises(ValueError, match="function while_trips raised KeyError for the loop"):
        cost(dynamic, *DYNAMIC, while_trips=lambda loop: {}[loop.scope])


# Branches that differ in what they move or leave uncounted, not in what they compute.
SIDE = 1024
flip = lambda h: h[::-1].T
same = lambda h: h


def test_of_branches_that_only_move_data_the_dearest_counts_in_any_order():
    args = spec(dtype=jnp.bool_), spec(SIDE, SIDE)
    one, other = (
        cost(lambda p, h, pair=pair: lax.cond(p, *pair, h), *args)
        for pair in ((flip, same), (same, flip))
    )
    for view, swapped in ((one.lowered, other.lowered), (one.compiled, other.compiled)):
        assert view.bytes_accessed == swapped.bytes_accessed >= 2 * 4 * SIDE**2
    assert len(one.lowered.branches) == 1
    assert not one.lowered.exact
    alike = cost(lambda p, h: lax.cond(p, flip, lambda h: h[::-1].T, h), *args)
    assert alike.lowered.exact


def test_a_branch_that_only_moves_data_counts_in_the_trips_that_take_it():
    step = lambda i, h: lax.cond(i == 0, lambda h: h[::-1], same, h)
    c = cost(lambda h: lax.fori_loop(0, 9, step, h), spec(SIDE, SIDE))
    once = 2 * 4 * SIDE**2
    assert once <= c.lowered.bytes_accessed < 1.001 * once
    assert c.lowered.exact


@pytest.mark.parametrize(("until", "sorts"), [(5, 0), (1, 1)])
def test_what_cannot_be_counted_is_named_as_often_as_it_runs(until, sorts):
    step = lambda i, h: lax.cond(i > until, jnp.sort, same, h)
    c = cost(lambda h: lax.fori_loop(0, 3, step, h), spec(64))
    for view in (c.lowered, c.compiled):
        assert dict(view.uncounted) == ({"sort": sorts} if sorts else {})
        assert view.exact == (not sorts)


def to(dtype):
    return lambda i: i.astype(dtype)


CONVERTED = {
    # name: (first value, what the limit is compared with, limit, runs)
    "signed as unsigned": (jnp.int32(-5), to(jnp.uint32), 10, 0),  # 2^32 - 5 is no less
    "unsigned as signed": (jnp.uint32(2**32 - 6), to(jnp.int32), 5, 11),  # -6 to 4
    "fewer bits, signed as unsigned": (jnp.int8(-5), to(jnp.uint32), 10, 0),
    "unsigned as signed of more bits": (jnp.uint8(3), to(jnp.int32), 10, 7),
    "signed as signed of more bits": (jnp.int8(-5), to(jnp.int32), 10, 15),
    "unsigned as unsigned of more bits": (jnp.uint8(3), to(jnp.uint32), 10, 7),
}


def test_a_counter_that_is_converted_counts_as_it_runs():
    for name, (start, seen, limit, runs) in CONVERTED.items():
        test = lambda s, seen=seen, limit=limit: seen(s[0]) < limit
        loop = lambda x, start=start, test=test: lax.while_loop(
            test, lambda s: (s[0] + jnp.ones_like(start), s[1] @ x), (start, x)
        )
        c = cost(loop, spec(N, N))
        for view in (c.lowered, c.compiled):
            found = [(loop.trips, loop.kind) for loop in view.loops]
            # A loop that never runs may be gone when compiled.
            assert found == [(runs, "exact")] or (runs == 0 and not found), name
            assert view.matmul_flops == runs * CUBE, name


def test_a_counter_that_wraps_is_not_counted_as_if_it_did_not(monkeypatch):
    monkeypatch.setattr(trips, "MAX_STEPS", 100)  # stepping through takes its time
    # Up from 32,757 past the ends of 16 bits: 21,849 trips, and four in XLA's note.
    start, step = jnp.int16(32757), jnp.int16(3)
    around = lambda x: lax.while_loop(
        lambda s: s[0] >= jnp.int16(-32767), lambda s: (s[0] + step, s[1] @ x), (start, x)
    )
    c = cost(around, spec(N, N))
    for view in (c.lowered, c.compiled):
        assert [(loop.trips, loop.kind) for loop in view.loops] == [(1, "unknown")]


ONE_ARRAY = {
    # name: (first value, test, step, runs)
    "counted": (jnp.int32(0), lambda i: i < 10, lambda i: i + 1, 10),
    "counted for long": (jnp.int32(0), lambda i: i < 10**6, lambda i: i + 1, 10**6),
    "stepped": (jnp.int32(1), lambda i: i < 100, lambda i: 2 * i, 7),
}


@pytest.mark.parametrize("name", ONE_ARRAY)
def test_a_state_of_one_array_is_followed(name):
    start, test, step, runs = ONE_ARRAY[name]
    loop = lambda x: x * lax.while_loop(test, step, start).astype(F32)
    c = cost(loop, spec(N))
    for view in (c.lowered, c.compiled):
        # A loop over known numbers may be gone when compiled.
        found = [(loop.trips, loop.kind) for loop in view.loops]
        assert found == [(runs, "exact")] or (view is c.compiled and not found)
    assert c.lowered.exact
    # What it leaves is the next loop's limit, where it takes few trips.
    after = lambda x: lax.fori_loop(0, lax.while_loop(test, step, start), lambda _, h: h @ x, x)
    known = [loop.kind for loop in cost(after, spec(N, N)).lowered.loops]
    assert known == ["exact", "unknown" if runs > 10**5 else "exact"]


def test_a_state_of_one_matrix_is_unknown():
    until = lambda x: lax.while_loop(lambda h: h[0, 0] < 3, lambda h: h @ h, x)
    c = cost(until, spec(N, N))
    assert [(loop.trips, loop.kind) for loop in c.loops] == [(1, "unknown")]


EVER = {
    # name: (first value, step, comparison)
    "up to the largest": (jnp.int32(0), 1, lambda i: i < 2**31 - 1),
    "down to the smallest": (jnp.int32(0), -1, lambda i: i > -(2**31)),
    "up to the largest without a sign": (jnp.uint8(0), 1, lambda i: i < jnp.uint8(255)),
}


@pytest.mark.parametrize("name", EVER)
def test_a_limit_that_no_counter_reaches_is_no_bound(name):
    start, step, test = EVER[name]
    change = jnp.asarray(step, start.dtype)
    until = lambda x: lax.while_loop(
        lambda s: test(s[0]) & (s[1][0, 0] < 3), lambda s: (s[0] + change, s[1] @ x), (start, x)
    )
    c = cost(until, spec(N, N))
    for view in (c.lowered, c.compiled):
        assert [(loop.trips, loop.kind) for loop in view.loops] == [(1, "unknown")]
        assert view.matmul_flops == CUBE
    assert cost(until, spec(N, N), while_trips=4).matmul_flops == 4 * CUBE


def test_limits_just_before_the_largest_are_bounds_and_counted_ones_are_exact():
    start, one = jnp.uint8(0), jnp.uint8(1)
    body = lambda x: lambda s: (s[0] + one, s[1] @ x)
    until = lambda x: lax.while_loop(
        lambda s: (s[0] < jnp.uint8(254)) & (s[1][0, 0] < 3), body(x), (start, x)
    )
    assert [(loop.trips, loop.kind) for loop in cost(until, spec(N, N)).loops] == [
        (254, "bound")
    ]
    counted = lambda x: lax.while_loop(lambda s: s[0] < jnp.uint8(255), body(x), (start, x))
    assert [(loop.trips, loop.kind) for loop in cost(counted, spec(N, N)).loops] == [
        (255, "exact")
    ]


def test_random_numbers_that_are_drawn_until_accepted_count_one_draw():
    draw = lambda key: jax.random.poisson(key, jnp.ones((8, 8), F32))
    c = cost(draw, jax.eval_shape(lambda: jax.random.key(0)))
    for view in (c.lowered, c.compiled):
        unsure = [(loop.trips, loop.kind) for loop in view.loops if loop.kind != "exact"]
        assert set(unsure) == {(1, "unknown")}
        assert 0 < view.flops < 100_000  # of 64 numbers, not 2^31 times


def nest(depth, x, h):
    """Loops of two trips within one another."""
    if not depth:
        return h @ x
    return lax.fori_loop(0, 2, lambda _, g: nest(depth - 1, x, g), h)


def test_reading_nested_loops_takes_a_level_as_long_as_the_last(monkeypatch):
    work_out, looked_at = Scope._work_out, []
    monkeypatch.setattr(
        Scope, "_work_out", lambda self, i: looked_at.append(i) or work_out(self, i)
    )
    steps = []
    for depth in (2, 4, 6):
        lowered = jax.jit(lambda x, depth=depth: nest(depth, x, x)).lower(spec(N, N))
        module = read_module(stages.lowered_bytes(lowered))
        looked_at.clear()
        ops = count_module(module).ops
        assert sum(op.work.products for op in ops) == 2**depth * CUBE
        steps.append(len(looked_at))
    assert steps[2] - steps[1] < 1.5 * (steps[1] - steps[0])
