"""What an experiment yields: rows (one claim, computed) and figures."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure as MatplotlibFigure

import lintoolkit.cost
from lintoolkit.cost import cost

# JAX defines its functions in private modules; readers know them by these.
PUBLIC = (
    jax.numpy,
    jax.numpy.linalg,
    jax.numpy.fft,
    jax.nn,
    jax.scipy.special,
    jax.lax,
    jax.random,
    jax,
    optax,
    lintoolkit.cost,
    np,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One claim as this run computed it.

    `computed` has the ledger's keys (or our own where it withholds them) and is None where
    there is nothing to compute; `by` names the functions that did the work, ours first;
    `flops` comes from `flops()`; `holds` is the experiment's own check, used only where the
    ledger gives no value to compare with; `note` is added to the ledger's. `not_compared`
    names keys of the ledger's value that are not held to it, because they hang on a random
    draw or a text that nobody published (the note says which), but to `holds`. `fitted` says
    that a convention, a seed or made-up data were chosen to meet the ledger's value. `shapes`
    names the keys that hold shapes, which look like data once they are JSON.
    """

    claim: str
    computed: dict[str, Any] | None
    by: tuple[str, ...] = ()
    flops: dict[str, Any] | None = None
    holds: bool | None = None
    note: str | None = None
    not_compared: tuple[str, ...] = ()
    fitted: bool = False
    shapes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture for the report: a matplotlib figure, its file name stem and its caption."""

    name: str
    figure: MatplotlibFigure
    caption: str


def row(
    claim: str,
    computed: dict[str, Any] | None,
    *by: Callable | str,
    flops: dict[str, Any] | None = None,
    holds: bool | None = None,
    note: str | None = None,
    not_compared: tuple[str, ...] = (),
    fitted: bool = False,
) -> Row:
    """A `Row` from arrays and functions: arrays become lists, functions their full names.

    A tuple of whole numbers is a shape; data are lists and arrays.
    """
    names = tuple(name if isinstance(name, str) else full_name(name) for name in by)
    plain = None if computed is None else to_json(computed)
    return Row(
        claim=claim,
        computed=plain,
        by=names,
        flops=flops,
        holds=holds,
        note=note,
        not_compared=not_compared,
        fitted=fitted,
        shapes=tuple(dict.fromkeys(keys_of_shapes(computed))),
    )


def flops(fn: Callable, *args: Any, formula: int | None = None) -> dict[str, Any]:
    """The FLOP cell of a row: closed form, lowered and its products, compiled, XLA's count.

    `formula` counts the products alone or all of the lowered program, to the FLOP. `changed`
    is what the inspector says of what compiling changed.
    """
    counted = cost(fn, *args)
    products, lowered = counted.lowered.matmul_flops, counted.lowered.flops
    if formula not in (None, products, lowered):
        raise ValueError(
            f"flops: the closed form gives {formula:,}, but the program has {lowered:,}, of "
            f"them {products:,} in products: one of the two has to be mended"
        )
    return {
        "formula": formula,
        "products": products,
        "lowered": lowered,
        "compiled": counted.compiled.flops,
        "xla": counted.xla_flops,
        "changed": " ".join(counted.explain(least=0)) or None,
    }


def full_name(fn: Callable) -> str:
    """``lintoolkit.layers.dense`` for a function, jitted or not, by its public address."""
    name = getattr(fn, "__name__", "")
    for module in PUBLIC:
        if getattr(module, name, None) is fn:
            return f"{module.__name__}.{name}"
    inner = getattr(fn, "__wrapped__", fn)
    return f"{inner.__module__}.{inner.__qualname__}"


def keys_of_shapes(value: Any) -> Iterator[str]:
    """The keys, at any depth, under which a shape or a list of shapes stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            if any(map(is_shape, item if isinstance(item, list) else [item])):
                yield str(key)
            yield from keys_of_shapes(item)


def is_shape(value: Any) -> bool:
    """Whether a value is a tuple of whole numbers."""
    return isinstance(value, tuple) and all(type(side) is int for side in value)


def to_json(value: Any) -> Any:
    """Plain Python numbers, lists and dicts from arrays, shapes and pytrees of them.

    JSON has no infinities: ``inf``, ``-inf`` and ``nan`` become these words.
    """
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"row: computed holds {value!r} of type {type(value).__name__}, which JSON cannot "
        "carry: give numbers, texts, booleans, lists, dicts or arrays of them"
    )
