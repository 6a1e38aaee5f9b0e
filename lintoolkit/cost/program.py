"""From a JAX function to the two programs that XLA keeps of it.

JAX promises none of the accessors that give the serialised program, so they are all here, the
compiled one with a fallback.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax

from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.kernels import pallas_kernels
from lintoolkit.cost.report import Cost, Memory, View, view
from lintoolkit.cost.walk import Kernels, Loop, Rule, WhileTrips, count_module, names_scope


def cost(
    fn: Callable | jax.stages.Lowered | jax.stages.Compiled,
    *args: Any,
    while_trips: WhileTrips | None = None,
    cond: Rule = "max",
    target: str | None = None,
    **kwargs: Any,
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
        while_trips: Trips of the loops whose number the program does not fix (unknown, or
            bounded only): one number for all, a dict from scope (the path of names, or its
            end) to number, or a function of the `Loop`, None for no opinion. Such a loop's
            kind is "user".
        cond: What counts of a conditional whose branch the program does not fix: the branch
            of "max" FLOPs, the "mean" of all or their "sum".
        target: Hardware to compile for instead, present or not: ``"cpu"``, ``"cuda:h100"``,
            ``"tpu:v5e:2x2"``. A process of its own compiles ahead of time, on any machine; see
            `lintoolkit.cost.target`.
        **kwargs: The function's keyword arguments, alike.

    Returns:
        A `Cost`; print it for a table.

    Raises:
        TypeError: If `fn` cannot be called or priced, or arguments or a target come with a
            program that already has them.
        ValueError: If `while_trips` is negative or names a scope without such a loop, `cond` is
            none of the three, or `target` is unknown, lacks its compiler or is too small.

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
    if cond not in get_args(Rule):
        raise ValueError(f"cost: cond must be 'max', 'mean' or 'sum', got {cond!r}.")
    if isinstance(fn, jax.stages.Lowered | jax.stages.Compiled):
        if args or kwargs:
            raise TypeError(
                f"cost: a {type(fn).__name__} program already has its arguments, got "
                f"{len(args) + len(kwargs)} more. Pass the program alone, or the function."
            )
        if target is not None:
            raise TypeError(
                f"cost: a {type(fn).__name__} program is already made for its platform, got "
                f"target {target!r} too. Pass the function and its arguments."
            )
        return _price(_stages(fn), "program", while_trips, cond)
    if not callable(fn):
        raise TypeError(
            f"cost: fn must be a function or a lowered or compiled program, got "
            f"{type(fn).__name__}. Pass the function itself, then its arguments: cost(f, x)."
        )
    jitted = fn if hasattr(fn, "lower") else jax.jit(fn)
    name = getattr(fn, "__name__", type(fn).__name__)
    if target is None:
        stages = _stages(*_lower(jitted, name, args, kwargs))
    else:
        # Imported when used: that module is also a program of its own, which needs this one.
        from lintoolkit.cost.target import stages_for

        stages = stages_for(target, jitted, name, args, kwargs)
    return _price(stages, name, while_trips, cond)


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


def _lower(
    jitted: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[jax.stages.Lowered, Kernels | None]:
    """Lower a jitted function, also one of a library that wraps jax's, such as flax's nnx."""
    try:
        traced = jitted.trace(*args, **kwargs) if hasattr(jitted, "trace") else None
        if isinstance(traced, jax.stages.Traced):
            return traced.lower(), pallas_kernels(traced.jaxpr)
        lowered = jitted.lower(*args, **kwargs)
        return getattr(lowered, "lowered", lowered), None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        said = str(error).partition("\n")[0].rstrip(". ")
        raise kind(
            f"cost: {name} does not trace with these arguments: {said}. Pass what it is called "
            "with: arrays, or jax.ShapeDtypeStructs in their place."
        ) from error


def _stages(
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


def _price(stages: Stages, name: str, while_trips: WhileTrips | None, cond: Rule) -> Cost:
    options: Any = {"while_trips": while_trips, "cond": cond, "kernels": stages.kernels}

    def read(stage: str, data: bytes | None) -> View | None:
        if data is None:
            return None
        module = read_module(data)
        return view(stage, count_module(module, **options))

    lowered, compiled = read("lowered", stages.lowered), read("compiled", stages.compiled)
    totals = compiled or lowered
    if totals is None:
        raise TypeError(
            "cost: this runtime does not show the compiled program. Pass the function or the "
            "lowered program, which is then priced as written."
        )
    _check_scopes(while_trips, (lowered or totals).loops)
    return Cost(
        **{field.name: getattr(totals, field.name) for field in dataclasses.fields(View)},
        name=name,
        platform=stages.platform,
        devices=stages.devices,
        lowered=lowered or totals,
        compiled=totals,
        xla_flops=stages.xla_flops,
        memory=stages.memory,
        read_from=stages.read_from,
    )


def _check_scopes(while_trips: WhileTrips | None, loops: tuple[Loop, ...]) -> None:
    """Refuse a scope that is no loop's: its trips would be dropped in silence."""
    scopes = {loop.scope for loop in loops}
    for key in while_trips if isinstance(while_trips, Mapping) else ():
        if not any(names_scope(key, scope) for scope in scopes):
            raise ValueError(
                f"cost: while_trips names scope {key!r}, which holds no loop; the loops are in "
                f"{sorted(scopes)} ('' is the top level)."
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
