"""`jax.jit`, through which type checkers see the signature: JAX's own type forgets it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import jax

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

    def jit(fun=None, /, *, static_argnames=()):
        """`jax.jit`."""

else:
    jit = jax.jit
