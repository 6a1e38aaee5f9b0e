"""`cost`: from a JAX function to what its two programs cost."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import jax

from lintoolkit.cost.hlo import read_module
from lintoolkit.cost.kernels import pallas_kernels
from lintoolkit.cost.report import Cost, View, view
from lintoolkit.cost.stages import Stages, compile_stages
from lintoolkit.cost.traffic import compulsory_bytes, constant_bytes, held_constants
from lintoolkit.cost.walk import (
    Kernels,
    Loop,
    Rule,
    WhileTrips,
    count_module,
    names_scope,
    whole_trips,
)


def cost(
    fn: Callable | jax.stages.Traced | jax.stages.Lowered | jax.stages.Compiled,
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
        fn: A function, jitted or not, or a `jax.stages.Traced`, `jax.stages.Lowered` or
            `jax.stages.Compiled`; of a `jax.export.Exported` its ``call``.
        *args: Its arguments: arrays of any shape and dtype, or `jax.ShapeDtypeStruct`s, for
            which nothing is allocated. None with a traced, lowered or compiled program.
        while_trips: Trips of the loops whose number the program does not fix (unknown, or
            bounded only): one number for all, a dict from scope (the path of names, or its
            end) to number, or a function of the `Loop`, None for no opinion. Such a loop's
            kind is "user".
        cond: What counts of a conditional whose branch the program does not fix: the branch
            of "max" FLOPs, the "mean" of all or their "sum".
        target: Hardware to compile for instead, present or not: ``"cpu"``, ``"cuda:h100"``,
            ``"tpu:v5e:2x2"``. A process of its own compiles ahead of time, on any machine; see
            `lintoolkit.cost.target`.
        **kwargs: The function's keyword arguments, alike. Those called ``while_trips``,
            ``cond`` or ``target``, as options here are, bind with `functools.partial`.

    Returns:
        A `Cost`; print it for a table.

    Raises:
        TypeError: If `fn` cannot be called or priced, arguments or a target come with a
            program that already has them, or `cond` or `target` is no string.
        ValueError: If `while_trips` is no whole number, is negative, raises or names a scope
            without such a loop, `cond` is none of the three, or `target` is unknown, lacks its
            compiler or is too small.

    Cost:
        One trace and one compilation; reading grows with the number of instructions.

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
    for option, given in (("cond", cond), ("target", target)):
        if not isinstance(given, str) and (option == "cond" or given is not None):
            raise TypeError(
                f"cost: {option} is an option of cost itself and must be a string, got "
                f"{type(given).__name__}. Bind an argument of that name to the function: "
                f"cost(functools.partial(f, {option}=...), ...)."
            )
    if cond not in get_args(Rule):
        raise ValueError(f"cost: cond must be 'max', 'mean' or 'sum', got {cond!r}.")
    if not (while_trips is None or callable(while_trips) or isinstance(while_trips, Mapping)):
        while_trips = whole_trips(while_trips)
    if isinstance(fn, jax.stages.Traced | jax.stages.Lowered | jax.stages.Compiled):
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
        if isinstance(fn, jax.stages.Traced):
            stages = compile_stages(fn.lower(), pallas_kernels(fn.jaxpr))
            return _price(stages, fn.fun_name, while_trips, cond)
        return _price(compile_stages(fn), "program", while_trips, cond)
    if not callable(fn):
        call = "exported.call" if isinstance(fn, jax.export.Exported) else "f"
        raise TypeError(
            f"cost: fn must be a function or a traced, lowered or compiled program, got "
            f"{type(fn).__name__}. Pass the function itself, then its arguments: "
            f"cost({call}, x)."
        )
    jitted, name = _jitted(fn), getattr(fn, "__name__", type(fn).__name__)
    if target is None:
        stages = compile_stages(*_lower(jitted, name, args, kwargs))
    else:
        # Imported when used: that module is also run as a program of its own.
        from lintoolkit.cost.target import stages_for

        stages = stages_for(target, jitted, name, args, kwargs)
    return _price(stages, name, while_trips, cond)


def _jitted(fn: Callable) -> Any:
    """The function jitted, unless jax has done so, or a library that wraps jax's `jit`."""
    # Whatever is called may have attributes of these names: a layer, or a method of its own.
    if hasattr(fn, "__wrapped__") and callable(getattr(type(fn), "lower", None)):
        return fn
    if {"lower", "trace"} & set(getattr(fn, "__dict__", ())):
        return jax.jit(lambda *args, **kwargs: fn(*args, **kwargs))  # `jit` would copy them
    return jax.jit(fn)


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


def _price(stages: Stages, name: str, while_trips: WhileTrips | None, cond: Rule) -> Cost:
    modules = {}
    options: Any = {"while_trips": while_trips, "cond": cond, "kernels": stages.kernels}

    def read(stage: str, data: bytes | None) -> View | None:
        if data is None:
            return None
        modules[stage] = module = read_module(data)
        return view(stage, count_module(module, **options))

    lowered, compiled = read("lowered", stages.lowered), read("compiled", stages.compiled)
    totals = compiled or lowered
    if totals is None:
        raise TypeError(
            "cost: this runtime does not show the compiled program. Pass the function or the "
            "lowered program, which is then priced as written."
        )
    _check_scopes(while_trips, (lowered or totals).loops)
    run, memory = modules[totals.stage], stages.memory
    return Cost(
        **{field.name: getattr(totals, field.name) for field in dataclasses.fields(View)},
        name=name,
        platform=stages.platform,
        devices=stages.devices,
        lowered=lowered or totals,
        compiled=totals,
        xla_flops=stages.xla_flops,
        memory=memory and memory._replace(constants=held_constants(run)),
        read_from=stages.read_from,
        # A compiler may hold its own arrays in a wider type, or twice.
        compulsory_bytes=compulsory_bytes(run, memory.aliased if memory else 0)
        + min(map(constant_bytes, modules.values())),
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
