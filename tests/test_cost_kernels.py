"""Pallas: interpreted kernels are ordinary programs, compiled ones are priced by the trace."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from lintoolkit.cost import cost, stages
from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.kernels import pallas_kernels
from lintoolkit.cost.walk import count_module

M, K, N, TRIPS = 32, 256, 384, 3
ROWS, COLUMNS, DEPTH = 8, 128, 128


def product_kernel(x, y, out):
    @pl.when(pl.program_id(2) == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    out[...] += jnp.dot(x[...], y[...], preferred_element_type=jnp.float32)


def pallas_product(x, y, *, interpret):
    """A product in blocks, summed over the last side of the grid."""
    return pl.pallas_call(
        product_kernel,
        grid=(M // ROWS, N // COLUMNS, K // DEPTH),
        in_specs=[
            pl.BlockSpec((ROWS, DEPTH), lambda i, _, k: (i, k)),
            pl.BlockSpec((DEPTH, COLUMNS), lambda _, j, k: (k, j)),
        ],
        out_specs=pl.BlockSpec((ROWS, COLUMNS), lambda i, j, _: (i, j)),
        out_shape=jax.ShapeDtypeStruct((M, N), x.dtype),
        interpret=interpret,
    )(x, y)


ARGS = jax.ShapeDtypeStruct((M, K), jnp.float32), jax.ShapeDtypeStruct((K, N), jnp.float32)
TOTAL = 2 * M * K * N


def repeated(x, y, *, interpret):
    step = lambda h, _: (jax.nn.relu(pallas_product(h, y, interpret=interpret))[:, :K], None)
    return jax.lax.scan(step, x, None, length=TRIPS)[0]


@pytest.fixture
def thirty_two_bits():
    """Pallas kernels for TPU take no 64-bit indices."""
    with jax.enable_x64(False):
        yield


@pytest.mark.usefixtures("thirty_two_bits")
def test_an_interpreted_kernel_is_an_ordinary_program():
    c = cost(lambda x, y: repeated(x, y, interpret=True), *ARGS)
    assert c.lowered.matmul_flops == c.compiled.matmul_flops == TRIPS * TOTAL
    # The control: XLA's number holds one block of one trip.
    assert c.xla_flops < 0.1 * c.matmul_flops


@pytest.mark.usefixtures("thirty_two_bits")
def test_a_kernel_for_tpu_is_counted_from_the_trace():
    traced = jax.jit(lambda x, y: repeated(x, y, interpret=False)).trace(*ARGS)
    module = read_module(stages.lowered_bytes(traced.lower(lowering_platforms=("tpu",))))
    alone = count_module(module)
    assert alone.uncounted == {"custom-call tpu_custom_call": TRIPS}
    tally = count_module(module, kernels=pallas_kernels(traced.jaxpr))
    assert not tally.uncounted
    assert not tally.estimates
    assert sum(op.work.products for op in tally.ops) == TRIPS * TOTAL


@pytest.mark.usefixtures("thirty_two_bits")
def test_a_kernel_that_cannot_be_told_is_left_uncounted(monkeypatch):
    traced = jax.jit(lambda x, y: pallas_product(x, y, interpret=False)).trace(*ARGS)
    module = read_module(stages.lowered_bytes(traced.lower(lowering_platforms=("tpu",))))
    another = jax.make_jaxpr(lambda x: x + 1)(1.0)
    assert count_module(module, kernels=pallas_kernels(another)).uncounted

    def refuse(*_, **__):
        raise AttributeError("not this way any more")

    monkeypatch.setattr(jax, "jit", refuse)
    assert count_module(module, kernels=pallas_kernels(traced.jaxpr)).uncounted
