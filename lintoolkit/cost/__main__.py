"""Price a function from the shell.

``python -m lintoolkit.cost jax.numpy:dot 'f32[128,784]' 'f32[784,10]'`` prints a table.
Arguments are shapes as HLO writes them, one for each array; nothing is allocated. ``--by``
prints the parts instead, ``--target tpu:v5e:2x2`` compiles for hardware that is not here.
"""

import argparse
import importlib
import json
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lintoolkit.cost import Cost, cost

PARTS = ("scope", "phase", "source", "dtype", "category", "op")
_DTYPES = {
    "f64": jnp.float64, "f32": jnp.float32, "f16": jnp.float16, "bf16": jnp.bfloat16,
    "c64": jnp.complex64, "c128": jnp.complex128, "pred": jnp.bool_,
    "s8": jnp.int8, "s16": jnp.int16, "s32": jnp.int32, "s64": jnp.int64,
    "u8": jnp.uint8, "u16": jnp.uint16, "u32": jnp.uint32, "u64": jnp.uint64,
}  # fmt: skip


def parse_shape(text: str) -> jax.ShapeDtypeStruct:
    """Read ``f32[128,784]`` or ``s32[]``.

    Args:
        text: Element type and sides.

    Returns:
        The abstract array.

    Raises:
        ValueError: If the text is not of that form.
    """
    match = re.fullmatch(r"(\w+)\[(\d+(?:,\d+)*)?\]", text.replace(" ", ""))
    if not match or match[1] not in _DTYPES:
        raise ValueError(
            f"{text!r} is not a shape; write an element type ({', '.join(_DTYPES)}) and sides, "
            "such as f32[128,784], or s32[] for a scalar."
        )
    sides = tuple(int(side) for side in match[2].split(",")) if match[2] else ()
    return jax.ShapeDtypeStruct(sides, _DTYPES[match[1]])


def find_function(name: str) -> object:
    """Import ``module:function``; dots after the colon reach into classes.

    Args:
        name: Such as ``jax.numpy:dot``.

    Returns:
        What the name stands for.

    Raises:
        ValueError: If there is no such module or name in it, or importing it fails.
    """
    module, _, path = name.partition(":")
    if not path or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(
            f"{name!r} does not name a function; write module:function, such as jax.numpy:dot, "
            "or mymodule:f for a file mymodule.py here."
        )
    try:
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # a module may do anything
        raise ValueError(
            f"{name!r} does not name a function ({_said(error)}); write module:function, such "
            "as jax.numpy:dot."
        ) from error
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when a table was printed, 2 for a bad call."""
    try:
        options = _options(arguments)
    except (argparse.ArgumentError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        sys.path.insert(0, str(Path.cwd()))
        if any("64[" in text or "128[" in text for text in options.shapes):
            jax.config.update("jax_enable_x64", True)
        shapes = [parse_shape(text) for text in options.shapes]
        given: dict[str, Any] = {"while_trips": options.while_trips, "target": options.target}
        given = {name: value for name, value in given.items() if value is not None}
        with redirect_stdout(sys.stderr):  # what a module or a function prints is no result
            priced = cost(find_function(options.function), *shapes, **given)  # type: ignore[arg-type]
        parts = _parts(priced, options.by, options.depth) if options.by else None
    except (Exception, SystemExit) as error:  # so may a function
        print(f"error: {_said(error)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(priced.to_dict() if parts is None else parts, indent=2))
    else:
        print(priced if parts is None else _table(parts))
    return 0


def _said(error: BaseException) -> str:
    """The first line of an error, with its kind where that is not plain from it."""
    first = str(error).strip().partition("\n")[0]
    plain = isinstance(error, ImportError | AttributeError | TypeError | ValueError)
    return first if plain and first else f"{type(error).__name__}: {first}".rstrip(": ")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lintoolkit.cost", description=__doc__, exit_on_error=False
    )
    parser.add_argument("function", help="module:function")
    parser.add_argument("shapes", nargs="*", help="one shape an argument, such as f32[128,784]")
    parser.add_argument("--target", help="compile for this instead, such as tpu:v5e:2x2")
    parser.add_argument("--by", choices=PARTS, help="print FLOPs by this instead of the table")
    parser.add_argument("--depth", type=int, help="names of a scope to keep, with --by scope")
    parser.add_argument("--while-trips", type=int, help="trips of loops that nothing fixes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.depth is not None and options.by != "scope":
        raise ValueError("--depth says how deep scopes go; give it together with --by scope.")
    return options


def _parts(priced: Cost, by: str, depth: int | None) -> dict[str, int]:
    """FLOPs by scope, phase, source, dtype, category or op."""
    split = getattr(priced, f"by_{by}")
    return split() if depth is None else split(depth)


def _table(parts: dict[str, int]) -> str:
    """One line a part: FLOPs, share of all, name."""
    whole = sum(parts.values())
    rows = [*parts.items(), ("all", whole)]
    return "\n".join(f"{n:>24,}  {n / (whole or 1):>7.2%}  {name}" for name, n in rows)


if __name__ == "__main__":
    try:
        try:
            status = main()
        finally:  # after --help too
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
