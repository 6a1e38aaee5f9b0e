"""What every array function asks of its arguments, while it is traced.

The messages name the function, the argument, what was expected, what came, and what to do.
"""

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.typing import DTypeLike


class _Undecided(ValueError):
    """Arrays are split over an explicit mesh axis, and where a result of them lies is open."""

    def __init__(self, function: str, asked: str):
        super().__init__(
            f"{function}: an array is split over an axis of an explicit mesh in a way that "
            f"leaves open where what comes of it lies ({asked}). Gather it, jax.reshard(x, "
            f"jax.P()), or let the compiler choose, jax.sharding.auto_axes({function}, "
            "out_sharding=jax.P())(...)."
        )
        self.asked = asked


@contextmanager
def scope(function: str) -> Iterator[None]:
    """`jax.named_scope`, in whose name what an explicit mesh refuses inside is refused."""
    try:
        with jax.named_scope(function):
            yield
    except _Undecided as error:  # of a function that this one calls
        raise _Undecided(function, error.asked) from None
    except Exception as error:
        if type(error).__name__ != "ShardingTypeError":  # which has no public address
            raise
        raise _Undecided(
            function, textwrap.shorten(str(error), 120, placeholder=" ...")
        ) from None


def arrays(function: str, **arguments: Any) -> None:
    """Refuse what is not an array, JAX's or NumPy's, and arrays with nothing in them."""
    for name, value in arguments.items():
        masked = isinstance(value, np.ma.MaskedArray)
        if masked or not isinstance(value, jax.Array | np.ndarray):
            remedy = "wrap it in jnp.asarray"
            if masked:
                remedy = f"fill its gaps, {name}.filled(...)"
            elif hasattr(value, "todense"):
                remedy = f"{name}.todense() is one"
            raise TypeError(
                f"{function}: {name} must be one array, got {_kind(value)}; {remedy}."
            )
        if value.size == 0:
            raise ValueError(
                f"{function}: {name} has shape {value.shape}, so there is nothing in it; "
                "every axis must be at least 1 long."
            )


def floats(function: str, **arguments: Any) -> None:
    """Refuse what is not a non-empty array of a real floating dtype."""
    arrays(function, **arguments)
    for name, value in arguments.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(
                f"{function}: {name} must be floating, got {value.dtype}; "
                f"convert it first, {name}.astype(jnp.float32)."
            )


def same_dtype(function: str, **arguments: jax.Array) -> None:
    """Refuse operands of different dtypes: promotion would be silent."""
    if len({x.dtype for x in arguments.values()}) > 1:
        got = ", ".join(f"{name} {x.dtype}" for name, x in arguments.items())
        raise TypeError(f"{function}: operands must share one dtype, got {got}; cast them.")


def keys(function: str, params: object, *, required: str = "", optional: str = "") -> None:
    """Refuse params with a missing key or a misspelt one, which would be ignored."""
    needed, allowed = set(required.split()), set((required + " " + optional).split())
    if not isinstance(params, Mapping):
        got: object = _kind(params)
    elif needed <= set(params) <= allowed:
        return
    else:
        got = sorted(params)
    wanted = f"keys {sorted(needed)}" if needed else "no key"
    also = f" and at most {sorted(allowed - needed)} besides" if allowed > needed else ""
    raise ValueError(f"{function}: params must be a dict with {wanted}{also}, got {got}.")


def random_key(function: str, key: Any) -> None:
    """Refuse what is not one key, typed or legacy."""
    one = isinstance(key, jax.Array | np.ndarray) and (
        (key.ndim == 0 and jnp.issubdtype(key.dtype, jax.dtypes.prng_key))
        or (key.ndim == 1 and key.dtype == jnp.uint32)
    )
    if not one:
        raise TypeError(
            f"{function}: key must be one random key, such as jax.random.key(0), got "
            f"{_kind(key)}; jax.vmap takes many."
        )


def float_dtype(function: str, dtype: DTypeLike) -> None:
    """Refuse to make integer, boolean or complex arrays."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{function}: dtype must be floating, got {jnp.dtype(dtype)}.")


def positive(function: str, **arguments: int) -> None:
    """Refuse sizes that are not whole numbers from one up."""
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"{function}: {name} must be a whole number of at least 1, got {value!r}."
            )


def heads(function: str, d_model: int, heads: int) -> None:
    """Refuse heads that do not divide the width."""
    positive(function, d_model=d_model, heads=heads)
    if d_model % heads:
        raise ValueError(
            f"{function}: heads must divide the width, got {heads} heads for {d_model}; the "
            f"width must be a multiple of heads."
        )


def number(function: str, **arguments: Any) -> None:
    """Refuse what is not one real number, be it Python's, NumPy's or an array's."""
    for name, value in arguments.items():
        dtype = value.dtype if hasattr(value, "dtype") else np.result_type(type(value))
        real = jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)
        if not real or np.ndim(value):
            raise ValueError(f"{function}: {name} must be one number, got {value!r:.60}.")


def manager(function: str, **arguments: Any) -> None:
    """Refuse what is no orbax checkpoint manager, a directory's name above all."""
    for name, value in arguments.items():
        if not hasattr(value, "all_steps"):
            raise TypeError(
                f"{function}: {name} must be an orbax.checkpoint.CheckpointManager, got "
                f"{_kind(value)}; pass CheckpointManager(directory)."
            )


def devices(x: jax.Array) -> int:
    """At least as many devices as x may lie on: those here, or of its mesh elsewhere."""
    mesh = jax.typeof(x).sharding.mesh
    if set(mesh.axis_types) == {AxisType.Manual}:  # a device's own part within jax.shard_map
        return 1
    return max(jax.device_count(), mesh.size)


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to accumulate in: float32 for half precision, else the same."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def row_numbers(ids: Any) -> Any:
    """An array of ids in a dtype that holds any row's: in a narrow one a bound may wrap."""
    return ids.astype(np.int32) if ids.dtype.itemsize < 4 else ids


def _kind(value: object) -> str:
    # A traced array's own type is a name from inside JAX.
    if isinstance(value, jax.Array):
        return f"an array of {value.dtype} and shape {value.shape}"
    return type(value).__name__
