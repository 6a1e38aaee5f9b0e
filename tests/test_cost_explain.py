"""What compiling changed, said in words; two programs side by side; the table as HTML."""

import jax
import jax.numpy as jnp
import pytest

from lintoolkit.cost import compare, cost, walk


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


X = spec(64, 64)


def test_nothing_is_said_where_nothing_changed():
    assert cost(lambda x: jnp.tanh(x @ x), X).explain() == []
    compiled = jax.jit(lambda x: x @ x).lower(X).compile()
    assert cost(compiled).explain() == []


def test_shared_and_unused_products_are_named_by_scope():
    def twice(x):
        with jax.named_scope("first"):
            a = x @ x
        with jax.named_scope("again"):
            b = x @ x
        return a + b

    c = cost(twice, X)
    assert c.lowered.matmul_flops == 2 * c.compiled.matmul_flops
    (said,) = c.explain()
    assert f"{2 * 64**3:,} FLOPs of products are not run" in said
    assert "first" in said or "again" in said


def test_small_changes_are_said_on_demand_with_their_instructions():
    c = cost(lambda x: x @ x + 2 * x / x.sum(axis=1, keepdims=True), X)
    before, after = c.lowered.elementwise_flops, c.compiled.elementwise_flops
    assert 0 < abs(before - after) < 0.01 * c.lowered.flops
    assert c.explain() == []
    (said,) = c.explain(least=0)
    assert f"went from {before:,} to {after:,} FLOPs" in said
    assert f"divide {64 * 64:,} to 64" in said  # by 64 reciprocals, a row each


def test_remat_outside_a_scan_is_reported_as_undone():
    def loss(w, x):
        step = jax.checkpoint(lambda h: jnp.tanh(jnp.tanh(h @ w) @ w), prevent_cse=False)
        return (step(x) ** 2).sum()

    c = cost(jax.grad(loss), X, X)
    if c.lowered.matmul_flops == c.compiled.matmul_flops:
        pytest.fail("the compiler kept the recomputation: this test shows nothing")
    assert any("Remat was undone" in said for said in c.explain())


def test_side_of_one_products_become_multiplications():
    c = cost(lambda a, b: a @ b, spec(64, 1), spec(1, 64))
    assert c.lowered.matmul_flops == 2 * 64 * 64
    if c.compiled.matmul_flops == 0:
        assert any("became multiplications" in said for said in c.explain())


def test_comparison_has_ratios_scopes_and_a_table():
    def net(depth):
        def run(x):
            with jax.named_scope("stack"):
                for _ in range(depth):
                    x = x @ x
            return x

        return run

    both = compare(cost(net(2), X), cost(net(6), X))
    assert both.ratios()["products"] == 3
    assert both.by_scope()["stack"] == (2 * 2 * 64**3, 6 * 2 * 64**3)
    assert "3" in str(both).splitlines()[2].split()


def test_html_holds_the_table_and_escapes_names():
    def net(x):
        with jax.named_scope("<b>"):
            return x @ x

    html = cost(net, X)._repr_html_()
    assert f"{2 * 64**3:,}" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_loops_that_one_stage_knows_and_the_other_does_not_are_all_that_is_said(monkeypatch):
    def triangle(x):
        inner = lambda i, h: jax.lax.fori_loop(0, i, lambda _, g: jnp.tanh(g @ x), h)
        with jax.named_scope("rows"):
            return jax.lax.fori_loop(0, 9, inner, x)

    assert cost(triangle, X).explain() == []
    # Trips times operations of the outer loop: few as written, more as compiled.
    monkeypatch.setattr(walk, "MAX_WALK", 9 * len(cost(triangle, X).lowered.ops))
    c = cost(triangle, X)
    assert [loop.kind for loop in c.lowered.loops] == ["exact", "exact"]
    assert [loop.kind for loop in c.compiled.loops] == ["exact", "unknown"]
    (said,) = c.explain()
    assert said.startswith("Loop rows: 8 trips (exact) as lowered, 1 (unknown) as compiled")
