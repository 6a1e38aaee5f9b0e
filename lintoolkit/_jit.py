"""`jax.jit`, through which type checkers see the signature: JAX's own type forgets it.

What it refuses, a list for a static option above all, is put right or refused by name.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import jax
import numpy as np

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

if TYPE_CHECKING:

    class Jitted(Generic[P, R_co]):
        """A compiled function: its own signature, and what `jax.stages.Wrapped` has."""

        __name__: str
        __wrapped__: Callable[P, R_co]

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
            """Run it."""

        def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
            """Lower it for arguments of these shapes."""

        def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
            """Trace it for arguments of these shapes."""

    @overload
    def jit(fun: Callable[P, R_co], /) -> Jitted[P, R_co]: ...

    @overload
    def jit(
        *, static_argnames: Sequence[str]
    ) -> Callable[[Callable[P, R_co]], Jitted[P, R_co]]: ...

    def jit(fun: Any = None, /, *, static_argnames: Any = ()) -> Any:
        """`jax.jit`."""

else:

    def jit(fun=None, /, *, static_argnames=()):
        """`jax.jit`."""
        if fun is None:
            return functools.partial(jit, static_argnames=static_argnames)
        return _Jitted(fun, static_argnames)


class _Jitted:
    """What `jax.jit` makes, with its methods."""

    # Methods of a class: what is set on a function, `functools.wraps` copies to others.

    def __init__(self, fun: Callable, static: Sequence[str]):
        functools.update_wrapper(self, fun)
        self.__wrapped__ = fun
        self._compiled: Any = jax.jit(fun, static_argnames=static)
        self._again = functools.partial(_put_right, fun, static)
        # Makes options of what is given, before JAX sees any.
        self.prepare: Callable[..., dict[str, Any]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._through(self._compiled, args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._through(self._compiled.lower, args, kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        return self._through(self._compiled.trace, args, kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self._through(self._compiled.eval_shape, args, kwargs)

    def clear_cache(self) -> None:
        self._compiled.clear_cache()

    def _through(self, call: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.prepare is not None:
            kwargs = self.prepare(*args, **kwargs)
        _check_held(self.__wrapped__, args, kwargs)
        try:
            return call(*args, **kwargs)
        except (TypeError, ValueError):
            again = self._again(args, kwargs)
            if again is None:
                raise
        args, kwargs = again
        return call(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str:
        return self.__wrapped__.__qualname__

    def __repr__(self) -> str:
        return f"<jitted {self.__wrapped__.__module__}.{self.__wrapped__.__qualname__}>"


def _put_right(
    fun: Callable, static: Sequence[str], args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]] | None:
    """Arguments that `jax.jit` takes in place of some that it refused, if these were why."""
    function, signature = fun.__name__.lstrip("_"), inspect.signature(fun)
    try:
        signature.bind_partial(*args, **kwargs)  # what is misspelt before what is missing
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{function}: {error}.") from None
    places = [*zip(signature.parameters, args, strict=False), *kwargs.items()]
    values, changed = [], False
    for name, value in places:
        if name not in static:
            _check_leaves(function, name, value)
        elif not _is_hashable(value):
            value, changed = _settled(value), True
            if not _is_hashable(value):
                raise TypeError(
                    f"{function}: {name} must be known while the program is traced, got "
                    f"{_kind(value)}; pass a number, a tuple or a function, float(x) or "
                    "tuple(x), from outside jax.jit."
                )
        values.append(value)
    if not changed:
        return None
    return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def _check_held(fun: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuse NumPy's whole numbers where JAX, without those of 64 bits, would cut them."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "iu":
            continue
        dtype = jax.dtypes.canonicalize_dtype(value.dtype)
        for end in (value.min(), value.max()) if dtype != value.dtype and value.size else ():
            if not np.iinfo(dtype).min <= end <= np.iinfo(dtype).max:
                names: dict[Any, str] = dict(enumerate(inspect.signature(fun).parameters))
                name = names.get(place, place)  # asked for here: it is slow
                raise ValueError(
                    f"{fun.__name__.lstrip('_')}: {name} must hold numbers that JAX has, those "
                    f"of {dtype}, got {end}; jax_enable_x64 makes it have those of 64 bits."
                )


def _settled(value: Any) -> Any:
    """The number that an array holds, the tuple that a list could be, in configs too."""
    if type(value) in (list, tuple):  # no named tuple
        return tuple(map(_settled, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{n: _settled(x) for n, x in fields.items()})
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, jax.core.Tracer):
        return value.item() if value.ndim == 0 else value
    return value


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_leaves(function: str, name: str, value: Any) -> None:
    """Refuse what is no array and no tree of them."""
    # An iterator is said to be a leaf, or what JAX thinks of it would come first.
    for leaf in jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, Iterator)):
        if hasattr(leaf, "tocoo"):  # SciPy's
            raise TypeError(
                f"{function}: {name} must be JAX's or NumPy's, got {type(leaf).__name__}; "
                f"jax.experimental.sparse.BCOO.from_scipy_sparse({name}) is sparse, "
                f"{name}.toarray() is not."
            )
        number = isinstance(leaf, bool | int | float | complex)
        if not (number or hasattr(leaf, "dtype") or hasattr(leaf, "__jax_array__")):
            raise TypeError(
                f"{function}: {name} must be an array or a tree of arrays, got "
                f"{_kind(leaf)} in it; wrap it in jnp.asarray, or jnp.stack what it gives."
            )


def _kind(value: Any) -> str:
    if isinstance(value, jax.core.Tracer):
        return "a traced array"
    if hasattr(value, "shape"):
        return f"an array of shape {value.shape}"
    return type(value).__name__
