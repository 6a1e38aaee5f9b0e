"""Library calls: formulas by routine, batch and mode, inside loops and under jit alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lintoolkit.cost import Priced, cost, linalg, register_custom_call

M, N, BATCH = 11, 7, 3


def tall(dtype=jnp.float32):
    return jax.ShapeDtypeStruct((BATCH, M, N), dtype)


def square(dtype=jnp.float32):
    return jax.ShapeDtypeStruct((BATCH, N, N), dtype)


# Program -> FLOPs of one matrix by the textbook, and whether it is iterative.
ROUTINES = {
    "cholesky": (jnp.linalg.cholesky, square, N**3 / 3, False),
    "lu": (jax.lax.linalg.lu, tall, M * N**2 - N**3 / 3, False),
    "qr": (
        lambda x: jnp.linalg.qr(x),
        tall,
        (2 * M * N**2 - 2 * N**3 / 3) + (4 * M * N * N - 2 * (M + N) * N**2 + 4 * N**3 / 3),
        False,
    ),
    "eigh": (lambda x: jnp.linalg.eigh(x), square, 9 * N**3, True),
    "eig": (lambda x: jnp.linalg.eig(x), square, 25 * N**3, True),
    "eigvals": (jnp.linalg.eigvals, square, 10 * N**3, True),
    "svd thin": (
        lambda x: jnp.linalg.svd(x, full_matrices=False),
        tall,
        min(6 * M * N**2 + 20 * N**3, 14 * M * N**2 + 8 * N**3),
        True,
    ),
    "svd full": (
        lambda x: jnp.linalg.svd(x),
        tall,
        min(4 * M**2 * N + 22 * N**3, 4 * M**2 * N + 8 * M * N**2 + 9 * N**3),
        True,
    ),
    "singular values": (
        lambda x: jnp.linalg.svd(x, compute_uv=False),
        tall,
        min(2 * M * N**2 + 2 * N**3, 4 * M * N**2 - 4 * N**3 / 3),
        True,
    ),
}


@pytest.mark.parametrize("name", ROUTINES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_factorisations_follow_their_formulas(name, dtype):
    fn, operand, once, iterative = ROUTINES[name]
    if dtype == jnp.complex64 and name.startswith("eig"):
        once = 25 * N**3 if name == "eig" else once
    c = cost(fn, operand(dtype))
    expected = BATCH * once * (4 if dtype == jnp.complex64 else 1)
    for view in (c.lowered, c.compiled):
        assert view.linalg_flops == pytest.approx(expected, abs=2)
        assert bool(view.estimates) == iterative
        assert not view.uncounted
    assert c.exact != iterative
    # The control: XLA sees nothing of it.
    assert c.xla_flops is None or c.xla_flops != pytest.approx(expected, rel=0.1)


def test_solves_count_factor_and_both_triangles():
    right = jax.ShapeDtypeStruct((BATCH, N, 5), jnp.float32)
    c = cost(jnp.linalg.solve, square(), right)
    expected = BATCH * (N**3 - N**3 / 3 + 2 * N**2 * 5)
    assert c.linalg_flops == pytest.approx(expected, abs=2)


def test_a_factorisation_in_a_loop_counts_once_a_trip():
    def repeated(x):
        return jax.lax.scan(lambda h, _: (jnp.linalg.qr(h)[0], None), x, None, length=13)[0]

    one, many = cost(lambda x: jnp.linalg.qr(x)[0], tall()), cost(repeated, tall())
    assert many.linalg_flops == 13 * one.linalg_flops > 0


def test_rules_can_be_registered_for_any_custom_call(monkeypatch):
    monkeypatch.setattr(linalg, "_registered", [])

    def program(x):
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, out, x, vmap_method="sequential")

    operand = jax.ShapeDtypeStruct((BATCH, N), jnp.float32)
    assert list(cost(program, operand).uncounted) == ["custom-call xla_ffi_python_cpu_callback"]

    register_custom_call(r"xla_.*callback", lambda call: 10 * call.operands[0].size)
    counted = cost(program, operand)
    assert counted.flops == 10 * BATCH * N
    assert counted.exact

    register_custom_call(r"xla_.*callback", lambda _: Priced(1, estimate=True))
    assert not cost(program, operand).exact

    with pytest.raises(ValueError, match="must be a regular expression"):
        register_custom_call("(", lambda _: 0)


@pytest.mark.parametrize(
    ("rule", "said"),
    [(lambda call: call.operands[7].size, "IndexError"), (lambda _: None, "TypeError")],
)
def test_a_rule_that_fails_is_named(monkeypatch, rule, said):
    monkeypatch.setattr(linalg, "_registered", [])
    register_custom_call("lapack_.*", rule)
    with pytest.raises(RuntimeError, match=rf"the rule '<lambda>' for 'lapack_\.\*'.*{said}"):
        cost(jnp.linalg.cholesky, jnp.eye(4, dtype=jnp.float32))
