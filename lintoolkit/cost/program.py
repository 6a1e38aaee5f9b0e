"""From a JAX function to the two programs that XLA keeps of it.

JAX promises none of the accessors that give the serialised program, so they are all here, the
compiled one with a fallback.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax

from lintoolkit.cost.count import count_module
from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.report import Cost, View, view


def cost(
    fn: Callable | jax.stages.Lowered | jax.stages.Compiled, *args: Any, **kwargs: Any
) -> Cost:
    """Price a JAX program: FLOPs, bytes and loops, read from what XLA compiled.

    The program is traced once, lowered and compiled for the default device (or for where its
    arguments live), and not run. Loops count by their trips: with body cost c, n trips cost
    n c, nested loops multiply. ``flops = products + elementwise + reductions + linalg + fft``,
    transcendentals apart; a multiply-add is two. What could not be counted is listed by name,
    and `exact` says whether the count is sure.

    Args:
        fn: A function, jitted or not, or a `jax.stages.Lowered` or `jax.stages.Compiled`.
        *args: Its arguments: arrays of any shape and dtype, or `jax.ShapeDtypeStruct`s, for
            which nothing is allocated. None with a lowered or compiled program.
        **kwargs: Its keyword arguments, alike.

    Returns:
        A `Cost`; print it for a table.

    Raises:
        TypeError: If `fn` cannot be called or priced, or arguments come with a program that
            already has them.

    Cost:
        One trace and one compilation; reading takes about 50 µs an instruction.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def layers(weights, x):
        ...     return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)[0]
        >>> weights = jax.ShapeDtypeStruct((12, 512, 512), "float32")
        >>> priced = cost(layers, weights, jax.ShapeDtypeStruct((512, 512), "float32"))
        >>> print(f"{priced.matmul_flops:,}")
        3,221,225,472

    References:
        Cost conventions: Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 1.1.
    """
    if isinstance(fn, jax.stages.Lowered | jax.stages.Compiled):
        if args or kwargs:
            raise TypeError(
                f"cost: a {type(fn).__name__} program already has its arguments, got "
                f"{len(args) + len(kwargs)} more. Pass the program alone, or the function."
            )
        return _price(fn, "program")
    if not callable(fn):
        raise TypeError(
            f"cost: fn must be a function or a lowered or compiled program, got "
            f"{type(fn).__name__}. Pass the function itself, then its arguments: cost(f, x)."
        )
    jitted = fn if hasattr(fn, "lower") else jax.jit(fn)
    return _price(jitted.lower(*args, **kwargs), getattr(fn, "__name__", type(fn).__name__))


def _price(stage: jax.stages.Lowered | jax.stages.Compiled, name: str) -> Cost:
    lowered: View | None = None
    compiled: View | None = None
    if isinstance(stage, jax.stages.Lowered):
        lowered = view("lowered", count_module(read_module(lowered_bytes(stage))))
        stage = stage.compile()
    data, read_from = compiled_bytes(stage)
    if data is not None:
        compiled = view("compiled", count_module(read_module(data)))
    totals = compiled or lowered
    if totals is None:
        raise TypeError(
            "cost: this runtime does not show the compiled program. Pass the function or the "
            "lowered program, which is then priced as written."
        )
    return Cost(
        **{field.name: getattr(totals, field.name) for field in dataclasses.fields(View)},
        name=name,
        platform=_platform(stage),
        lowered=lowered or totals,
        compiled=totals,
        xla_flops=xla_flops(stage),
        read_from=read_from,
    )


def lowered_bytes(lowered: jax.stages.Lowered) -> bytes:
    """The serialised HLO module before optimisation."""
    module: Any = lowered.compiler_ir("hlo")
    return module.as_serialized_hlo_module_proto()


def compiled_bytes(compiled: jax.stages.Compiled) -> tuple[bytes | None, str]:
    """The serialised HLO module after optimisation, and which accessor gave it.

    Args:
        compiled: A compiled program.

    Returns:
        The bytes, or None where the runtime shows neither the module nor its text.
    """
    try:
        executable: Any = compiled.runtime_executable()
        return executable.hlo_modules()[0].as_serialized_hlo_module_proto(), "hlo_modules"
    except (AttributeError, IndexError, NotImplementedError, jax.errors.JaxRuntimeError):
        pass
    try:
        parsed = importlib.import_module("jaxlib._hlo").hlo_module_from_text(compiled.as_text())
        return parsed.as_serialized_hlo_module_proto(), "as_text"
    except (ImportError, AttributeError, TypeError, ValueError, jax.errors.JaxRuntimeError):
        return None, "lowered only"


def xla_flops(compiled: jax.stages.Compiled) -> int | None:
    """What ``cost_analysis()`` says, or None where it says nothing."""
    try:
        analysis = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    found = analysis.get("flops") if isinstance(analysis, dict) else None
    return None if found is None or found < 0 else round(found)


def _platform(compiled: jax.stages.Compiled) -> str:
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    devices = [device for sharding in shardings for device in sharding.device_set]
    return devices[0].platform if devices else jax.default_backend()
