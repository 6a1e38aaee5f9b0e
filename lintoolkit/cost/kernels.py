"""What Pallas kernels compute: a custom call says nothing of it, the traced program does.

A kernel is priced by lowering its own `pallas_call` for the interpreter, where it is ordinary
HLO in a loop over the grid. JAX promises none of what that takes, so it is all here; whatever
does not work out leaves the kernel uncounted, and named.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax

from lintoolkit.cost.hlo import Instruction, Shape, read_module
from lintoolkit.cost.price import Price, Work
from lintoolkit.cost.walk import count_module

_TARGETS = re.compile(
    r"tpu_custom_call|mosaic_gpu.*|triton_kernel_call|__gpu\$xla\.gpu\.triton"
)
_Signature = tuple[tuple[tuple[int, ...], int], ...]


def pallas_kernels(jaxpr: Any) -> Callable[[Instruction], Price | None]:
    """A function from custom calls to the price of the kernels of a traced program.

    Kernels are told apart by the shapes of their operands and results; where two of the same
    shapes differ in their work, neither is counted. A branch that the place in the grid does
    not settle counts as the dearer one, and the kernel as an estimate.

    Args:
        jaxpr: The traced program, such as ``jax.make_jaxpr(f)(*args)``.

    Returns:
        Custom call -> the price of one run, None where it is not known.
    """

    @cache
    def kernels() -> dict[_Signature, Price | None]:  # worked out if ever asked for
        known: dict[_Signature, Price | None] = {}
        for equation in _pallas_calls(getattr(jaxpr, "jaxpr", jaxpr)):
            values = [*equation.invars, *equation.outvars]
            key = tuple((v.aval.shape, v.aval.dtype.itemsize * 8) for v in values)
            price = _interpreted(equation)
            known[key] = price if known.get(key, price) == price else None
        return known

    def price_of(i: Instruction) -> Price | None:
        if not _TARGETS.fullmatch(i.target):
            return None
        results = i.shape.parts or (i.shape,)
        return kernels().get(_signature([*(operand.shape for operand in i.operands), *results]))

    return price_of


def _signature(shapes: list[Shape]) -> _Signature:
    return tuple((shape.dims, shape.bits) for shape in shapes)


def _pallas_calls(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _pallas_calls(inner)


def _interpreted(equation: Any) -> Price | None:
    """The price of a `pallas_call` by the interpreter's program; None where there is none."""
    run = lambda *args: equation.primitive.bind(*args, **equation.params | {"interpret": True})
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    try:
        module: Any = jax.jit(run).lower(*shapes).compiler_ir("hlo")
        tally = count_module(read_module(module.as_serialized_hlo_module_proto()))
    except Exception:  # kernels for one machine only, and whatever JAX may change
        return None
    if tally.uncounted or any(loop.kind != "exact" for loop in tally.loops):
        return None
    total = Work()
    for op in tally.ops:
        total = total.plus(op.work)
    category = "product" if total.products else "elementwise"
    return Price(category, total, estimate=bool(tally.branches or tally.estimates))
