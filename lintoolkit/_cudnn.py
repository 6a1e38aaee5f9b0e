"""cuDNN's attention where it applies and the program is for CUDA, ours elsewhere."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def applies(q: Array, k: Array, v: Array, *, causal: bool) -> bool:
    """Whether plain attention of these operands is cuDNN's, on the machine that traces it.

    JAX refuses to trace cuDNN's attention where cuDNN is not installed, so programs exported
    from elsewhere are ours.

    Returns:
        True if so.
    """
    return (
        jax.default_backend() == "gpu"
        and jax.devices()[0].device_kind.startswith("NVIDIA")
        and all(isinstance(n, int) for n in q.shape)  # known, where a program is exported
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] == v.shape[-1]
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 128
        and q.shape[-3] % 2 == k.shape[-3] % 2 == 0  # or JAX may refuse the gradient
        and not (causal and q.shape[-3] != k.shape[-3])  # it aligns the first rows
    )


def attend(
    ours: Callable, q: Array, k: Array, v: Array, *, causal: bool, scale: float
) -> Array:
    """Attention by cuDNN on CUDA, whatever the number of leading axes; else by ours."""
    fast = partial(
        jax.nn.dot_product_attention, is_causal=causal, scale=scale, implementation="cudnn"
    )
    four = lambda x: x.reshape(-1, *x.shape[-3:])
    return prefer_on_cuda(fast, ours)(four(q), four(k), four(v)).reshape(q.shape)


def prefer_on_cuda(fast: Callable, ours: Callable) -> Callable[..., Array]:
    """The fast function and its gradient on CUDA; all else, and higher orders, from ours.

    The gradient starts from what the fast function saves for it; where ours runs, zeros stand
    there, and it starts anew. There is no forward mode.

    Returns:
        A function of q, k and v.
    """

    def fast_and_saved(*qkv: Any) -> tuple[Array, list[Array]]:
        y, pull = jax.vjp(fast, *qkv)
        known = [y, *qkv]  # which are kept in any case
        leaves = jax.tree.leaves(pull)
        return y, [leaf for leaf in leaves if not any(leaf is x for x in known)]

    def ours_and_zeros(*qkv: Any) -> tuple[Array, list[Array]]:
        saved = jax.eval_shape(fast_and_saved, *qkv)[1]
        return ours(*qkv), [jnp.zeros_like(x) for x in saved]

    def fast_pull(y: Array, saved: list[Array], dy: Any, *qkv: Any) -> Any:
        # For the form of what is saved alone: this pass gives nothing, so XLA drops it.
        again, pull = jax.vjp(fast, *qkv)
        leaves, tree = jax.tree.flatten(pull)
        rest = iter(saved)
        here = lambda leaf: (
            y if leaf is again else leaf if any(leaf is x for x in qkv) else next(rest)
        )
        return jax.tree.unflatten(tree, map(here, leaves))(dy)

    def ours_pull(_: Array, __: list[Array], dy: Any, *qkv: Any) -> Any:
        return jax.vjp(ours, *qkv)[1](dy)

    def chosen(fast: Callable, ours: Callable) -> Callable:
        both = jax.custom_jvp(
            lambda *x: jax.lax.platform_dependent(*x, cuda=fast, default=ours)
        )
        both.defjvp(lambda primals, tangents: jax.jvp(ours, primals, tangents))
        return both

    first = chosen(fast_and_saved, ours_and_zeros)
    backward = chosen(fast_pull, ours_pull)

    def forward(*qkv: Any) -> tuple[Array, Any]:
        y, saved = first(*qkv)
        return y, (y, saved, qkv)

    attention = jax.custom_vjp(chosen(fast, ours))
    attention.defvjp(forward, lambda kept, dy: backward(*kept[:2], dy, *kept[2]))
    return attention
