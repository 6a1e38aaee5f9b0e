"""The two serialised modules that XLA keeps of a program, and what its runtime says.

JAX promises none of the accessors that give them, so they are all here, the compiled one with
a fallback.
"""

import importlib
from typing import Any, NamedTuple

import jax

from lintoolkit.cost.report import Memory
from lintoolkit.cost.walk import Kernels

# The smallest 64-bit integer on the wire, which says that a side is open; a constant may be it.
_OPEN = b"\x80" * 9 + b"\x01"


class Stages(NamedTuple):
    """A program's two serialised modules, where it runs, and what the runtime says of it.

    `kernels` prices the custom kernels that the trace holds and the modules hide.
    """

    lowered: bytes | None
    compiled: bytes | None
    read_from: str
    platform: str
    devices: int
    xla_flops: int | None
    memory: Memory | None
    kernels: Kernels | None = None


def compile_stages(
    stage: jax.stages.Lowered | jax.stages.Compiled, kernels: Kernels | None = None
) -> Stages:
    """Compile a program where that is still to do, for the devices it names."""
    lowered = None
    if isinstance(stage, jax.stages.Lowered):
        lowered = lowered_bytes(stage)
        stage = stage.compile()
    compiled, read_from = compiled_bytes(stage)
    devices = _devices(stage)
    return Stages(
        lowered=lowered,
        compiled=compiled,
        read_from=read_from,
        platform=devices[0].platform if devices else jax.default_backend(),
        devices=max(len(devices), 1),
        xla_flops=xla_flops(stage),
        memory=memory(stage),
        kernels=kernels,
    )


def lowered_bytes(lowered: jax.stages.Lowered) -> bytes:
    """The serialised HLO module before optimisation, its sides those of the arguments."""
    module: Any = lowered.compiler_ir("hlo")
    data = module.as_serialized_hlo_module_proto()
    return _refined(lowered) if _OPEN in data and "?x" in lowered.as_text() else data


def _refined(lowered: jax.stages.Lowered) -> bytes:
    """The module of a program that was exported for any batch and is called with one.

    JAX fixes its sides when it compiles, and so do we, by the same function.

    Args:
        lowered: A program with sides that are left open.

    Returns:
        The serialised HLO module.

    Raises:
        ValueError: If this version of jax has that function elsewhere.
    """
    try:
        mlir = importlib.import_module("jax._src.interpreters.mlir")
        fixed = mlir.refine_polymorphic_shapes(lowered.compiler_ir("stablehlo"))
        convert = importlib.import_module("jaxlib._jax").mlir.mlir_module_to_xla_computation
    except (ImportError, AttributeError) as error:
        raise ValueError(
            "cost: the program was exported for any batch, and this version of jax does not "
            "show it with its own. Pass the function itself, or the compiled program."
        ) from error
    module = convert(mlir.module_to_bytecode(fixed), use_tuple_args=False)
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


def memory(compiled: jax.stages.Compiled) -> Memory | None:
    """What the program holds on each device, or None where the runtime does not say."""
    try:
        stats: Any = compiled.memory_analysis()
        return Memory(
            arguments=stats.argument_size_in_bytes,
            outputs=stats.output_size_in_bytes,
            temps=stats.temp_size_in_bytes,
            aliased=stats.alias_size_in_bytes,
        )
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _devices(compiled: jax.stages.Compiled) -> list[Any]:
    """The devices that the program runs on."""
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    return list({device for sharding in shardings for device in sharding.device_set})
