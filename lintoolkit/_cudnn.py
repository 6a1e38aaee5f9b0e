"""cuDNN's attention where it applies and the program is for CUDA, ours elsewhere.

Not run on a GPU so far: what is tested is which program each platform gets, and that
derivatives which cuDNN lacks come from ours.
"""

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
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-1] == v.shape[-1]
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 128
        and not (causal and q.shape[-3] != k.shape[-3])  # it aligns the first rows
    )


def attend(q: Array, k: Array, v: Array, *, causal: bool, scale: float) -> Array:
    """Attention by cuDNN, whatever the number of leading axes."""
    four = lambda x: x.reshape(-1, *x.shape[-3:])
    y = jax.nn.dot_product_attention(
        four(q), four(k), four(v), is_causal=causal, scale=scale, implementation="cudnn"
    )
    return y.reshape(q.shape)


def prefer_on_cuda(fast: Callable, ours: Callable) -> Callable[..., Array]:
    """The fast function and its gradient on CUDA; all else, and higher orders, from ours.

    The gradient runs the forward pass again: what cuDNN saves for it cannot be saved here
    without giving up the higher orders, which cuDNN has not. There is no forward mode.

    Returns:
        A function of q, k and v.
    """

    def pull(fn: Callable, dy: Any, *qkv: Any) -> Any:
        return jax.vjp(fn, *qkv)[1](dy)

    def value_from(theirs: Callable, ours: Callable) -> Callable:
        chosen = jax.custom_jvp(
            lambda *x: jax.lax.platform_dependent(*x, cuda=theirs, default=ours)
        )
        chosen.defjvp(lambda primals, tangents: jax.jvp(ours, primals, tangents))
        return chosen

    value = value_from(fast, ours)
    backward = value_from(partial(pull, fast), partial(pull, ours))
    attention = jax.custom_vjp(value)
    attention.defvjp(lambda *qkv: (value(*qkv), qkv), lambda qkv, dy: backward(dy, *qkv))
    return attention
