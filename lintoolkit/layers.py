# ruff: noqa: DOC502 (what Raises promises is raised in _checks)
r"""One vector through a layer: dense, norms, tables, patches, frames, convolution.

Rows are examples: $y = x W + b$ with a kernel $W$ of shape (d_in, d_out), flax's names and
layout. Texts that write $W x$ mean ``kernel.T`` of ours. Parameters are nested dicts of
arrays; they are cast to the dtype of ``x``, which is the dtype of the result.

Letters: n rows, d width (d_in, d_out), t time, c channels, h × w image, kh × kw filter,
v vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, Key, Shaped, UInt32

from lintoolkit import _checks
from lintoolkit._jit import jit

__all__ = [
    "init_dense", "dense", "dense_flops", "init_mlp", "mlp", "mlp_flops", "layer_norm",
    "rms_norm", "embed", "patches", "frames", "spectrogram", "im2col", "conv2d",
    "conv2d_flops", "sinusoidal_positions",
]  # fmt: skip
__dir__ = lambda: __all__

AnyKey = Key[Array, ""] | UInt32[Array, "2"]
Margins = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


@jit(static_argnames=("d_in", "d_out", "bias", "dtype"))
@_checks.scope("init_dense")
def init_dense(
    key: AnyKey, d_in: int, d_out: int, *, bias: bool = True, dtype: DTypeLike = jnp.float32
) -> dict[str, Float[Array, "..."]]:
    r"""Draw the parameters of a dense layer.

    $W_{ij} \sim \mathcal{N}(0, s^2)$, cut at $\pm 2 s$ with
    $s = 1.137 / \sqrt{d_\mathrm{in}}$: after the cut the variance is $1/d_\mathrm{in}$, so that
    a unit-variance input gives a unit-variance output; $b = 0$.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        d_in: Width of the input.
        d_out: Width of the output.
        bias: Whether there is a bias.
        dtype: Of the parameters.

    Returns:
        ``{"kernel": (d_in, d_out), "bias": (d_out,)}``, the latter where asked for.

    Raises:
        TypeError: If ``key`` is not one key, or ``dtype`` is not floating.
        ValueError: If a width is below 1.

    Cost:
        d_in d_out draws; no products.

    Examples:
        >>> params = init_dense(jax.random.key(0), 3, 2)
        >>> {name: value.shape for name, value in params.items()}
        {'bias': (2,), 'kernel': (3, 2)}

    References:
        LeCun, Bottou, Orr and Müller, Efficient BackProp (1998), section 4.6.
    """
    _checks.random_key("init_dense", key)
    _checks.positive("init_dense", d_in=d_in, d_out=d_out)
    _checks.float_dtype("init_dense", dtype)
    params = {"kernel": jax.nn.initializers.lecun_normal()(key, (d_in, d_out), dtype)}
    if bias:
        params["bias"] = jnp.zeros(d_out, dtype)
    return params


@jit
@_checks.scope("dense")
def dense(
    params: Mapping[str, Float[Array, "..."]], x: Float[Array, "*batch d_in"]
) -> Float[Array, "*batch d_out"]:
    """Apply an affine map to the last axis.

    y = x W + b, with W the ``kernel`` and b the ``bias``, where there is one.

    Args:
        params: ``{"kernel": (d_in, d_out), "bias": (d_out,)}``; ``bias`` may be absent.
        x: Rows; leading axes ride along.

    Returns:
        The mapped rows, in the dtype of ``x``.

    Raises:
        TypeError: If an argument is not a floating array.
        ValueError: If the shapes do not fit, or keys are missing or unknown.

    Cost:
        2 n d_in d_out + n d_out FLOP for n rows, see `dense_flops`.

    Examples:
        >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.ones(2)}
        >>> print(dense(params, jnp.array([1.0, -1.0])))
        [-1. -1.]

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.1.
    """
    _checks.keys("dense", params, required="kernel", optional="bias")
    _checks.floats("dense", x=x, **params)
    kernel, bias = params["kernel"], params.get("bias")
    if kernel.ndim != 2:
        raise ValueError(f"dense: kernel must be (d_in, d_out), got shape {kernel.shape}.")
    d_in, d_out = kernel.shape
    if x.ndim == 0 or x.shape[-1] != d_in:
        inner = x.shape[-1] if x.ndim else "none"
        raise ValueError(
            f"dense: x {x.shape} @ kernel {kernel.shape}: inner dimensions {inner} and {d_in} "
            "differ; the last axis of x must match the first of kernel, (d_in, d_out). "
            "A matrix written for W x is kernel.T."
        )
    y = x @ kernel.astype(x.dtype)
    if bias is None:
        return y
    if bias.shape != (d_out,):
        raise ValueError(
            f"dense: bias must have shape ({d_out},) to match kernel {kernel.shape}, "
            f"got {bias.shape}."
        )
    return y + bias.astype(x.dtype)


def dense_flops(*, n: int, d_in: int, d_out: int, bias: bool = True) -> int:
    """FLOP of one `dense`: a multiply and an add count one each.

    Args:
        n: Rows: the product of the leading axes of ``x``.
        d_in: Width of the input.
        d_out: Width of the output.
        bias: Whether a bias is added.

    Returns:
        2 n d_in d_out, and n d_out for the bias.
    """
    return 2 * n * d_in * d_out + bias * n * d_out


@jit(static_argnames=("widths", "bias", "dtype"))
@_checks.scope("init_mlp")
def init_mlp(
    key: AnyKey, widths: tuple[int, ...], *, bias: bool = True, dtype: DTypeLike = jnp.float32
) -> tuple[dict[str, Float[Array, "..."]], ...]:
    """Draw the parameters of a stack of dense layers.

    Layer i maps width ``widths[i]`` to ``widths[i + 1]``; each is an `init_dense` of its
    own key.

    Args:
        key: A typed key (`jax.random.key`) or a legacy one.
        widths: A tuple, not a list: the input's width, the hidden ones, the output's.
        bias: Whether the layers have biases.
        dtype: Of the parameters.

    Returns:
        One dict of `dense` parameters a layer.

    Raises:
        TypeError: If ``key`` is not one key, or ``dtype`` is not floating.
        ValueError: If there are fewer than two widths, or one is below 1.

    Cost:
        The draws of each layer; no products.

    Examples:
        >>> params = init_mlp(jax.random.key(0), (4, 8, 2))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        58

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), chapter 6.
    """
    _checks.random_key("init_mlp", key)
    if len(widths) < 2:
        raise ValueError(
            f"init_mlp: widths must hold the input's and the output's at least, got {widths}."
        )
    layers = zip(jax.random.split(key, len(widths) - 1), pairwise(widths), strict=True)
    return tuple(init_dense(k, a, b, bias=bias, dtype=dtype) for k, (a, b) in layers)


@jit(static_argnames=("activation",))
@_checks.scope("mlp")
def mlp(
    params: Sequence[Mapping[str, Float[Array, "..."]]],
    x: Float[Array, "*batch d_in"],
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> Float[Array, "*batch d_out"]:
    r"""Apply a stack of dense layers, with an activation between them.

    $x_{i+1} = \sigma(x_i W_i + b_i)$, and the last layer without $\sigma$.

    Args:
        params: One dict of `dense` parameters a layer.
        x: Rows; leading axes ride along.
        activation: $\sigma$, elementwise: any function of `jax.nn`. A lambda made anew
            at each call compiles anew at each call.

    Returns:
        The last layer's output, in the dtype of ``x``.

    Raises:
        TypeError: If ``activation`` is no function.
        ValueError: If there is no layer; and what `dense` raises.

    Cost:
        The sum of the layers' `dense_flops`, see `mlp_flops`; activations come on top.

    Examples:
        >>> params = ({"kernel": jnp.eye(2)}, {"kernel": jnp.ones((2, 1))})
        >>> print(mlp(params, jnp.array([3.0, -5.0])))
        [3.]

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.4.
    """
    if not isinstance(params, tuple | list) or not params:
        raise ValueError(
            "mlp: params must be a tuple of dense params, one a layer, and hold at least one; "
            "pass what init_mlp returns."
        )
    if not callable(activation):
        raise TypeError(
            f"mlp: activation must be a function, such as jax.nn.relu, got {activation!r}."
        )
    *hidden, last = params
    for layer in hidden:
        x = activation(dense(layer, x))
    return dense(last, x)


def mlp_flops(*, n: int, widths: Sequence[int], bias: bool = True) -> int:
    """FLOP of one `mlp` without its activations.

    Args:
        n: Rows.
        widths: As in `init_mlp`.
        bias: Whether biases are added.

    Returns:
        The sum of the layers' `dense_flops`.
    """
    return sum(dense_flops(n=n, d_in=a, d_out=b, bias=bias) for a, b in pairwise(widths))


@jit(static_argnames=("epsilon",))
@_checks.scope("layer_norm")
def layer_norm(
    params: Mapping[str, Float[Array, " d"]],
    x: Float[Array, "*batch d"],
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*batch d"]:
    r"""Shift and scale each row to mean 0 and variance 1, then by the parameters.

    $y = \gamma\,(x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$, with $\mu$ and $\sigma^2$
    the mean and the population variance of the row, taken in float32 at least.

    Args:
        params: ``{"scale": (d,), "bias": (d,)}``, γ and β; either may be absent.
        x: Rows; leading axes ride along.
        epsilon: Keeps constant rows finite; with 0 the result ignores the scale of ``x``, as
            long as squares stay in the range: numbers from 1e-17 to 1e17 in float32.

    Returns:
        The normalised rows, in the dtype of ``x``.

    Raises:
        TypeError: If an argument is not a floating array.
        ValueError: If ``x`` has no axis, a parameter is not as wide, or a key is unknown.

    Cost:
        About 9 n d elementwise FLOP; no products.

    Examples:
        >>> print(layer_norm({}, jnp.array([1.0, 3.0]), epsilon=0.0))
        [-1.  1.]

    References:
        Ba, Kiros and Hinton, Layer Normalization (2016), section 3, arXiv:1607.06450.
    """
    _check_norm("layer_norm", params, x, optional="scale bias")
    wide = x.astype(_checks.wide(x.dtype))
    mean, variance = (f(wide, axis=-1, keepdims=True) for f in (jnp.mean, jnp.var))
    y = jax.nn.standardize(wide, mean=mean, variance=variance, epsilon=epsilon)
    if "scale" in params:
        y *= params["scale"].astype(y.dtype)
    if "bias" in params:
        y += params["bias"].astype(y.dtype)
    return y.astype(x.dtype)


@jit(static_argnames=("epsilon",))
@_checks.scope("rms_norm")
def rms_norm(
    params: Mapping[str, Float[Array, " d"]],
    x: Float[Array, "*batch d"],
    *,
    epsilon: float = 1e-6,
) -> Float[Array, "*batch d"]:
    r"""Scale each row to root mean square 1, then by the parameters.

    $y = \gamma\,x / \sqrt{\tfrac{1}{d} \sum_i x_i^2 + \epsilon}$, the mean in float32 at
    least.

    Args:
        params: ``{"scale": (d,)}``, γ; may be empty.
        x: Rows; leading axes ride along.
        epsilon: Keeps zero rows finite; with 0 the result ignores the scale of ``x``, in the
            range of `layer_norm`.

    Returns:
        The normalised rows, in the dtype of ``x``.

    Raises:
        TypeError: If an argument is not a floating array.
        ValueError: If ``x`` has no axis, ``scale`` is not as wide, or a key is unknown.

    Cost:
        About 4 n d elementwise FLOP; no products.

    Examples:
        >>> print(rms_norm({}, jnp.array([2.0, -2.0]), epsilon=0.0))
        [ 1. -1.]

    References:
        Zhang and Sennrich, Root Mean Square Layer Normalization (2019), section 4,
        arXiv:1910.07467.
    """
    _check_norm("rms_norm", params, x, optional="scale")
    wide = x.astype(_checks.wide(x.dtype))
    y = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)
    if "scale" in params:
        y *= params["scale"].astype(y.dtype)
    return y.astype(x.dtype)


def _check_norm(function: str, params: Mapping[str, Array], x: Array, *, optional: str) -> None:
    _checks.keys(function, params, optional=optional)
    _checks.floats(function, x=x, **params)
    if x.ndim == 0:
        raise ValueError(f"{function}: x must be rows, (..., d), got one number.")
    for name, value in params.items():
        if value.shape != x.shape[-1:]:
            raise ValueError(
                f"{function}: {name} must have shape {x.shape[-1:]} to match x of shape "
                f"{x.shape}, got {value.shape}."
            )


@jit
@_checks.scope("embed")
def embed(
    params: Mapping[str, Float[Array, "v d"]], ids: Integer[Array, "*batch"]
) -> Float[Array, "*batch d"]:
    r"""Look up rows of a table.

    $y_i = E_{\mathrm{ids}_i}$, equal to a one-hot row times $E$, without the product.

    Args:
        params: ``{"embedding": (v, d)}``, E.
        ids: Row numbers; negative ones count from the end. One outside the table gives a
            row of NaN, since no error can be raised on values under jit.

    Returns:
        One row an id, in the table's dtype.

    Raises:
        TypeError: If ``ids`` are not integers or the table is not floating.
        ValueError: If the table is not a matrix, or a key is missing or unknown.

    Cost:
        0 FLOP; n d numbers read. The one-hot product would cost 2 n v d.

    Examples:
        >>> print(embed({"embedding": jnp.array([[1.0, 2.0], [3.0, 4.0]])}, jnp.array([1, 0])))
        [[3. 4.]
         [1. 2.]]

    References:
        Bengio, Ducharme, Vincent and Jauvin, A Neural Probabilistic Language Model (2003),
        section 2.
    """
    _checks.keys("embed", params, required="embedding")
    _checks.floats("embed", embedding=params["embedding"])
    _checks.arrays("embed", ids=ids)
    table = params["embedding"]
    if table.ndim != 2:
        raise ValueError(f"embed: embedding must be (v, d), got shape {table.shape}.")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"embed: ids must be integers, got {ids.dtype}; they number rows.")
    return jnp.take(table, _checks.row_numbers(ids), axis=0, mode="fill")


@jit(static_argnames=("size",))
@_checks.scope("patches")
def patches(image: Shaped[Array, "h w *c"], *, size: int) -> Shaped[Array, "n p"]:
    """Cut an image into square patches, one a row.

    An (h, w, c) image becomes n = (h / size)(w / size) rows of p = size² c numbers:
    patches in row-major order, and inside a patch rows, columns, channels.

    Args:
        image: Grey (h, w) or with channels last (h, w, c), of any dtype.
        size: Side of a patch in pixels; divides h and w.

    Returns:
        The patches, in the dtype of ``image``.

    Raises:
        TypeError: If ``image`` is not an array.
        ValueError: If the image has another rank, or ``size`` does not divide it.

    Cost:
        0 FLOP: a transpose.

    Examples:
        >>> print(patches(jnp.arange(8).reshape(2, 4), size=2))
        [[0 1 4 5]
         [2 3 6 7]]

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words (2021), section 3.1,
        arXiv:2010.11929.
    """
    _checks.arrays("patches", image=image)
    _checks.positive("patches", size=size)
    if image.ndim not in (2, 3):
        raise ValueError(
            f"patches: image must be (h, w) or (h, w, c), got shape {image.shape}; "
            "jax.vmap(patches) takes many."
        )
    h, w = image.shape[:2]
    if h % size or w % size:
        raise ValueError(
            f"patches: size {size} must divide height {h} and width {w}; crop or pad the image."
        )
    grid = image.reshape(h // size, size, w // size, size, -1)
    return grid.swapaxes(1, 2).reshape((h // size) * (w // size), -1)


@jit(static_argnames=("size", "hop"))
@_checks.scope("frames")
def frames(signal: Shaped[Array, " t"], *, size: int, hop: int) -> Shaped[Array, "n size"]:
    """Cut a signal into overlapping frames, one a row.

    Row i is ``signal[i * hop : i * hop + size]``, for the n = 1 + (t - size) // hop frames
    that fit whole.

    Args:
        signal: Samples, of any dtype.
        size: Samples a frame.
        hop: Samples from one frame's start to the next.

    Returns:
        The frames, in the dtype of ``signal``.

    Raises:
        TypeError: If ``signal`` is not an array.
        ValueError: If ``signal`` is not a vector, is shorter than a frame, or a size is
            below 1.

    Cost:
        0 FLOP: a gather of n size numbers.

    Examples:
        >>> print(frames(jnp.arange(6), size=4, hop=2))
        [[0 1 2 3]
         [2 3 4 5]]

    References:
        Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd ed. (2010),
        section 10.3.
    """
    _checks.arrays("frames", signal=signal)
    _checks.positive("frames", size=size, hop=hop)
    if signal.ndim != 1:
        raise ValueError(
            f"frames: signal must be one vector (t,), got shape {signal.shape}; "
            "jax.vmap(frames) takes many."
        )
    if signal.size < size:
        raise ValueError(
            f"frames: one frame of size {size} is longer than the signal, {signal.size}; "
            "pad the signal or take a smaller size."
        )
    starts = jnp.arange(0, signal.size - size + 1, hop)
    return signal[starts[:, None] + jnp.arange(size)]


@jit(static_argnames=("size", "hop"))
@_checks.scope("spectrogram")
def spectrogram(signal: Float[Array, " t"], *, size: int, hop: int) -> Float[Array, "f n"]:
    r"""Turn a signal into a matrix of magnitudes, frequency by time.

    $S_{fi} = \bigl|\sum_j w_j\, s_{i\,\mathrm{hop} + j}\, e^{-2\pi\mathrm{i} f j /
    \mathrm{size}}\bigr|$ with the periodic Hann window
    $w_j = \tfrac12 - \tfrac12 \cos(2\pi j / \mathrm{size})$. Row f stands for
    f · rate / size hertz. No padding and no scaling.

    Args:
        signal: Samples.
        size: Samples a frame; the matrix has size // 2 + 1 rows.
        hop: Samples from one frame's start to the next.

    Returns:
        Magnitudes, in the dtype of ``signal``; half precision is transformed in float32. In
        float16 those above 65504 are inf: scale the signal by 2 / size, or convert it.

    Raises:
        TypeError: If ``signal`` is not a floating array.
        ValueError: What `frames` raises.

    Cost:
        n real FFTs, about 2.5 n size log₂ size FLOP.

    Examples:
        >>> tone = jnp.cos(2 * jnp.pi * jnp.arange(16.0) / 4)
        >>> print(spectrogram(tone, size=8, hop=8).argmax(axis=0))
        [2 2]

    References:
        Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd ed. (2010),
        sections 7.5 and 10.3.
    """
    _checks.floats("spectrogram", signal=signal)
    _checks.positive("spectrogram", size=size, hop=hop)
    wide = _checks.wide(signal.dtype)
    window = 0.5 - 0.5 * jnp.cos(2 * jnp.pi * jnp.arange(size, dtype=wide) / size)
    rows = frames(signal, size=size, hop=hop).astype(wide) * window
    return jnp.abs(jnp.fft.rfft(rows)).T.astype(signal.dtype)


@jit(static_argnames=("size", "strides", "padding", "dilation"))
@_checks.scope("im2col")
def im2col(
    x: Shaped[Array, "c h w"],
    *,
    size: int | tuple[int, int],
    strides: int | tuple[int, int] = 1,
    padding: str | int | Margins = "VALID",
    dilation: int | tuple[int, int] = 1,
) -> Shaped[Array, "taps positions"]:
    """Lay the windows of an image out as columns, so that convolution is one product.

    Column j holds the c · kh · kw numbers under the filter at its j-th position:
    ``kernels.reshape(c_out, -1) @ im2col(x, size=(kh, kw))`` correlates with kernels of
    shape (c_out, c, kh, kw). The columns hold each number up to kh · kw times: `conv2d`
    gives the same without storing them.

    Args:
        x: One image, channels first, of any dtype.
        size: The filter's (kh, kw), or one number for a square.
        strides: As in `conv2d`.
        padding: As in `conv2d`.
        dilation: As in `conv2d`.

    Returns:
        A matrix (c kh kw, out_h out_w); with the defaults out_h = h - kh + 1 and
        out_w = w - kw + 1.

    Raises:
        TypeError: If ``x`` is not an array.
        ValueError: If ``x`` is not (c, h, w), the filter does not fit in it, or an option is
            not what `conv2d` takes.

    Cost:
        0 FLOP: a gather. The product after it: `conv2d_flops`.

    Examples:
        >>> print(im2col(jnp.arange(6).reshape(1, 2, 3), size=2))
        [[0 1]
         [1 2]
         [3 4]
         [4 5]]

    References:
        Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for
        Document Processing (2006), section 2.1.
    """
    _checks.arrays("im2col", x=x)
    sides = _pair("im2col", "size", size)
    if x.ndim != 3:
        raise ValueError(
            f"im2col: x must be (c, h, w), got shape {x.shape}; jax.vmap(im2col) takes many."
        )
    slides = _slides("im2col", x.shape[1:], sides, strides, padding, dilation)
    x = jnp.pad(x, ((0, 0), *(slide.margins for slide in slides)))
    down, across = (
        jnp.arange(k)[:, None] * slide.dilation + jnp.arange(slide.out) * slide.stride
        for k, slide in zip(sides, slides, strict=True)
    )
    windows = x[:, down][..., across]  # c, kh, out_h, kw, out_w
    return windows.swapaxes(2, 3).reshape(
        x.shape[0] * sides[0] * sides[1], slides[0].out * slides[1].out
    )


@jit(static_argnames=("strides", "padding", "dilation"))
@_checks.scope("conv2d")
def conv2d(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in c_out"],
    *,
    strides: int | tuple[int, int] = 1,
    padding: str | int | Margins = "VALID",
    dilation: int | tuple[int, int] = 1,
) -> Float[Array, "n out_h out_w c_out"]:
    r"""Slide filters over images.

    $y_{nijo} = \sum_{abc} x_{n,\,si+da,\,sj+db,\,c}\, k_{abco}$ with stride s and dilation d: a
    correlation, as in every deep-learning library. Flip the first two axes of ``kernel`` for
    a convolution.

    Args:
        x: Images, channels last.
        kernel: Filters, in the layout of flax.
        strides: Pixels from one position to the next, down and across; one number for both.
        padding: "VALID" keeps the positions where the filter fits; "SAME" pads with zeros
            to keep the size (divided by the stride, rounded up); ``((top, bottom),
            (left, right))`` pads with so many, and one number with that many all round.
        dilation: Pixels between a filter's taps, down and across; one number for both.

    Returns:
        The filtered images, in the dtype of ``x``.

    Raises:
        TypeError: If an argument is not a floating array.
        ValueError: If the shapes do not fit, or an option is not as above.

    Cost:
        2 n c_in c_out FLOP a tap on the image, see `conv2d_flops`.

    Examples:
        >>> edge = jnp.array([[1.0, -1.0]]).reshape(1, 2, 1, 1)
        >>> print(conv2d(jnp.array([0.0, 0, 5, 5]).reshape(1, 1, 4, 1), edge).ravel())
        [ 0. -5.  0.]

    References:
        Goodfellow, Bengio and Courville, Deep Learning (2016), section 9.1.
    """
    _checks.floats("conv2d", x=x, kernel=kernel)
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "conv2d: x must be (n, h, w, c_in) and kernel (kh, kw, c_in, c_out) with one "
            f"c_in, got {x.shape} and {kernel.shape}."
        )
    slides = _slides("conv2d", x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=[slide.stride for slide in slides],
        padding=[slide.margins for slide in slides],
        rhs_dilation=[slide.dilation for slide in slides],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv2d_flops(
    *,
    n: int,
    h: int,
    w: int,
    kh: int,
    kw: int,
    c_in: int,
    c_out: int,
    strides: int | tuple[int, int] = 1,
    padding: str | int | Margins = "VALID",
    dilation: int | tuple[int, int] = 1,
) -> int:
    """FLOP of one `conv2d`; taps that fall on padding are no work and are not counted.

    Args:
        n: Images.
        h: Their height.
        w: Their width.
        kh: The filter's height.
        kw: Its width.
        c_in: Channels of the images.
        c_out: Filters.
        strides: As in `conv2d`.
        padding: As in `conv2d`.
        dilation: As in `conv2d`.

    Returns:
        2 n c_in c_out times the taps: by default (h - kh + 1) kh (w - kw + 1) kw.

    Raises:
        ValueError: If the filter does not fit, or an option is not what `conv2d` takes.
    """
    taps = 1
    slides = _slides("conv2d_flops", (h, w), (kh, kw), strides, padding, dilation)
    for length, width, slide in zip((h, w), (kh, kw), slides, strict=True):
        starts = range(-slide.margins[0], slide.out * slide.stride, slide.stride)[: slide.out]
        taps *= sum(
            0 <= start + tap * slide.dilation < length
            for start in starts
            for tap in range(width)
        )
    return 2 * n * c_in * c_out * taps


class _Slide(NamedTuple):
    # How a filter moves along one axis: zeros before and after it, and positions it takes.
    stride: int
    margins: tuple[int, int]
    dilation: int
    out: int


def _slides(
    function: str,
    lengths: Sequence[int],
    sides: Sequence[int],
    strides: int | tuple[int, int],
    padding: str | int | Margins,
    dilation: int | tuple[int, int],
) -> list[_Slide]:
    steps = _pair(function, "strides", strides)
    gaps = _pair(function, "dilation", dilation)
    reach = [gap * (side - 1) + 1 for gap, side in zip(gaps, sides, strict=True)]
    if isinstance(padding, str):
        if padding not in ("VALID", "SAME"):
            raise ValueError(
                f"{function}: padding must be 'VALID' or 'SAME' or two pairs, got {padding!r}."
            )
        margins = jax.lax.padtype_to_pads(lengths, reach, steps, padding)
    elif isinstance(padding, int | np.integer):
        margins = [_pair(function, "padding", padding, least=0)] * 2
    else:
        if not isinstance(padding, tuple | list) or len(padding) != 2:
            raise ValueError(
                f"{function}: padding must be ((top, bottom), (left, right)), got {padding!r}."
            )
        margins = [_pair(function, "padding", pair, least=0) for pair in padding]
    room = [length + sum(pair) for length, pair in zip(lengths, margins, strict=True)]
    if any(far > whole for far, whole in zip(reach, room, strict=True)):
        raise ValueError(
            f"{function}: a filter of {' x '.join(map(str, reach))} does not fit in "
            f"{' x '.join(map(str, room))} pixels; pass padding='SAME' or larger images."
        )
    return [
        _Slide(step, (pair[0], pair[1]), gap, (whole - far) // step + 1)
        for step, pair, gap, whole, far in zip(steps, margins, gaps, room, reach, strict=True)
    ]


def _pair(
    function: str, name: str, value: int | tuple[int, int], *, least: int = 1
) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(part, int | np.integer) and part >= least for part in pair)
    if len(pair) != 2 or not whole:
        raise ValueError(
            f"{function}: {name} must be one whole number or a tuple of two, at least {least}, "
            f"got {value!r}."
        )
    return pair


@jit(static_argnames=("t", "d", "dtype"))
@_checks.scope("sinusoidal_positions")
def sinusoidal_positions(
    t: int, d: int, *, dtype: DTypeLike = jnp.float32
) -> Float[Array, "{t} {d}"]:
    r"""Make the table of sines and cosines that tells positions apart.

    $P_{p,2i} = \sin(p\,\omega_i)$ and $P_{p,2i+1} = \cos(p\,\omega_i)$ with
    $\omega_i = 10000^{-2i/d}$. The dot product of two rows depends on their distance only.

    Args:
        t: Positions.
        d: Width, even.
        dtype: Of the table.

    Returns:
        One row a position.

    Raises:
        TypeError: If ``dtype`` is not floating.
        ValueError: If ``d`` is odd or a size is below 1.

    Cost:
        t d transcendentals; no products.

    Examples:
        >>> print(sinusoidal_positions(1, 4))
        [[0. 1. 0. 1.]]

    References:
        Vaswani et al., Attention Is All You Need (2017), section 3.5, arXiv:1706.03762.
    """
    _checks.positive("sinusoidal_positions", t=t, d=d)
    _checks.float_dtype("sinusoidal_positions", dtype)
    if d % 2:
        raise ValueError(
            f"sinusoidal_positions: d must be even, got {d}; sines and cosines come in pairs."
        )
    wide = _checks.wide(jnp.dtype(dtype))
    frequencies = jnp.exp(jnp.arange(0, d, 2, dtype=wide) * (-math.log(10000.0) / d))
    angles = jnp.arange(t, dtype=wide)[:, None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(t, d).astype(dtype)
