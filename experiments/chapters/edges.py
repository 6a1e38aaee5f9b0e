"""Edges: from differences of neighbouring pixels to filters, corners and convolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import digits, photograph
from experiments.figures import edges as figures
from experiments.rows import flops, row
from lintoolkit.layers import conv2d, conv2d_flops, dense, im2col
from lintoolkit.train import fit

SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def filter_grey(image, kernel):
    """One grey image (h, w) through one filter (kh, kw), where the filter fits."""
    x = jnp.asarray(image, float)[None, :, :, None]
    return conv2d(x, jnp.asarray(kernel, float)[:, :, None, None])[0, :, :, 0]


def neighbours(*, seed: int, full: bool):
    """An edge is a jump between neighbouring pixels: in a row, then in a whole photograph."""
    del seed, full
    line = jnp.array([[40, 40, 40, 210, 210, 210, 40, 40]])
    step = filter_grey(line, [[-1, 1]])[0]
    rising = jax.nn.relu(step)
    wrapped = jnp.diff(line[0].astype(jnp.uint8))
    yield row(
        "sense-edge-40-210",
        {
            "difference": step,
            "jump": step.max(),
            "boundary_after_pixel": step.argmax(),
            "after_relu": rising,
            "edges_kept_by_relu": (rising > 0).sum(),
            "difference_in_uint8": wrapped,
        },
        conv2d,
        jax.nn.relu,
        holds=bool(step.max() == 210 - 40 and step.argmax() == 2),
        note="ReLU keeps the rising edge and drops the falling one; in uint8 the falling edge "
        "wraps around from -170 to 86, so pixels are made floats first.",
    )
    camera = photograph("camera")
    across = filter_grey(camera, [[-1, 1]])
    down = filter_grey(camera, [[-1], [1]])
    size = jnp.abs(across)
    strongest = size >= jnp.quantile(size, 0.95)
    energy = across**2
    h, w = camera.shape
    image = jax.ShapeDtypeStruct((1, h, w, 1), float)
    yield row(
        "sense-edges-by-neighbours",
        {
            "differences": across.size + down.size,
            "share_of_gradient_energy_in_top_5pct": round(
                float(energy[strongest].sum() / energy.sum()), 3
            ),
            "median_abs_step": jnp.median(size),
            "convolution_is_difference": bool(
                (across == np.diff(camera.astype(float), axis=1)).all()
            ),
        },
        conv2d,
        flops=flops(
            conv2d,
            image,
            jax.ShapeDtypeStruct((1, 2, 1, 1), float),
            formula=conv2d_flops(n=1, h=h, w=w, kh=1, kw=2, c_in=1, c_out=1),
        ),
        note="Energy and median are of the horizontal differences.",
    )


def square_corner(*, seed: int, full: bool):
    """A second layer combines two edge maps into something new: a corner."""
    del seed, full
    picture = jnp.zeros((9, 9)).at[2:8, 2:8].set(1)
    vertical = jax.nn.relu(filter_grey(picture, [[-1, 1]]))[1:]
    horizontal = jax.nn.relu(filter_grey(picture, [[-1], [1]]))[:, 1:]
    corner = jax.nn.relu(vertical + horizontal - 1)
    yield row(
        "sense-depth-builds-features",
        {
            "vertical_edge_pixels": (vertical > 0).sum(),
            "horizontal_edge_pixels": (horizontal > 0).sum(),
            "corner_pixels": (corner > 0).sum(),
        },
        conv2d,
        jax.nn.relu,
        note="The square is ours, of side 6 as in the ledger.",
    )
    maps = {
        "square": picture[1:, 1:],
        "vertical edge": vertical,
        "horizontal edge": horizontal,
        "corner = ReLU(sum - 1)": corner,
    }
    yield figures.square_corner(maps)


def slide(*, seed: int, full: bool):
    """Sliding a filter over a photograph, by loops and by the library."""
    del full
    camera = photograph("camera")
    corner = camera[:40, :40].astype(float)
    drawn = np.random.default_rng(seed).standard_normal((3, 3))
    ours = filter_grey(corner, drawn)
    slid = np.array(
        [[(corner[i : i + 3, j : j + 3] * drawn).sum() for j in range(38)] for i in range(38)]
    )
    # Convolution in the mathematician's sense turns the filter around.
    turned = jax.scipy.signal.convolve2d(jnp.asarray(corner), jnp.asarray(drawn), mode="valid")
    h, w = camera.shape
    yield row(
        "matrices-conv-slide",
        {
            "sliding_matches_library": bool(jnp.allclose(ours, slid)),
            "sobel_shape": filter_grey(camera, SOBEL).shape,
            "library_convolution_is_correlation": bool(
                not jnp.allclose(ours, turned)
                and jnp.allclose(filter_grey(corner, drawn[::-1, ::-1]), turned)
            ),
        },
        conv2d,
        flops=flops(
            conv2d,
            jax.ShapeDtypeStruct((1, h, w, 1), float),
            jax.ShapeDtypeStruct((3, 3, 1, 1), float),
            formula=conv2d_flops(n=1, h=h, w=w, kh=3, kw=3, c_in=1, c_out=1),
        ),
    )
    images = {name: photograph(name) for name in ("camera", "coins", "brick")}
    strength = lambda image: jnp.hypot(filter_grey(image, SOBEL), filter_grey(image, SOBEL.T))
    yield figures.edge_maps(images, [strength(image) for image in images.values()])


def columns(*, seed: int, full: bool):
    """Convolution as one matrix product, and two other ways to the same numbers."""
    del full
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.standard_normal((2, 3, 8, 8)))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 4)))  # height, width, in, out
    weights = kernel.transpose(3, 2, 0, 1).reshape(4, -1)
    matrices = jax.vmap(lambda x: im2col(x, size=3))(images)
    product = (weights @ matrices).reshape(2, 4, 6, 6)
    direct = conv2d(images.transpose(0, 2, 3, 1), kernel).transpose(0, 3, 1, 2)
    larger = partial(conv2d_flops, n=8, kh=3, kw=3, c_in=3, c_out=16)
    lengths = jax.eval_shape(
        lambda x: im2col(x, size=3), jax.ShapeDtypeStruct((3, 32, 32), float)
    )
    yield row(
        "matrices-im2col",
        {
            "equal": bool(jnp.allclose(product, direct)),
            "column_matrix": matrices.shape[1:],
            "weight_matrix": weights.shape,
            "flops_valid": larger(h=32, w=32),
            # Counting the taps on the padding too, as the columns would hold its zeros.
            "flops_same_padding": larger(h=34, w=34),
            "memory_growth": lengths.size / (3 * 32 * 32),
        },
        im2col,
        conv2d,
        flops=flops(
            lambda x, w: w @ jax.vmap(lambda image: im2col(image, size=3))(x),
            jax.ShapeDtypeStruct((8, 3, 32, 32), float),
            jax.ShapeDtypeStruct((16, 27), float),
            formula=larger(h=32, w=32),
        ),
        note="Same padding without the taps on padding, as conv2d counts it: "
        f"{larger(h=32, w=32, padding='SAME'):,} FLOP.",
    )
    tile, taps = rng.standard_normal((4, 4)), rng.standard_normal((3, 3))
    plain = filter_grey(tile, taps)
    quick, multiplies = winograd(tile, taps)
    padded = jnp.fft.rfft2(tile) * jnp.fft.rfft2(taps[::-1, ::-1], s=tile.shape)
    fourier = jnp.fft.irfft2(padded, s=tile.shape)[2:, 2:]
    yield row(
        "matrices-frameworks-im2col",
        {
            "winograd_equal": bool(jnp.allclose(quick, plain)),
            "fft_equal": bool(jnp.allclose(fourier, plain)),
            "multiplies_direct": plain.size * taps.size,
            "multiplies_winograd": multiplies,
        },
        winograd,
        conv2d,
        "jax.numpy.fft.rfft2",
    )


def winograd(tile, taps):
    """F(2 x 2, 3 x 3) of Lavin and Gray (2016): 2 x 2 outputs, and its multiplications."""
    of_tile = jnp.array([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    of_taps = jnp.array([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    to_output = jnp.array([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    products = (of_taps @ taps @ of_taps.T) * (of_tile @ tile @ of_tile.T)
    return to_output @ products @ to_output.T, products.size


def first_features(*, seed: int, full: bool):
    """What small pieces of photographs are made of, and what a trained first layer looks at."""
    side = 8
    windows = np.asarray(im2col(jnp.asarray(photograph("camera"))[None], size=side))
    across = photograph("camera").shape[1] - side + 1
    pieces = (
        windows.reshape(side**2, -1, across)[:, ::4, ::4].reshape(side**2, -1).astype(float)
    )
    centred = pieces - pieces.mean(axis=1, keepdims=True)
    variances, vectors = map(np.asarray, jnp.linalg.eigh(centred @ centred.T))
    variances, components = variances[::-1], vectors.T[::-1]
    ramp = np.tile(np.arange(side) - (side - 1) / 2, (side, 1))
    plane = np.stack([ramp.ravel(), ramp.T.ravel()]) / np.linalg.norm(ramp)
    flat = np.ones(side**2) / side
    # Cosines of the angles between the two planes: 1 and 1 if they are the same.
    angles = np.linalg.svd(plane @ components[1:3].T, compute_uv=False)
    yield row(
        "sense-progressive-features",
        {
            "dc_alignment": round(abs(float(components[0] @ flat)), 2),
            "gradient_plane_alignment": round(float(angles.mean()), 2),
            "first_three_variance": round(float(variances[:3].sum() / variances.sum()), 2),
        },
        im2col,
        "jax.numpy.linalg.eigh",
        note="The 8 x 8 patches of camera that start at every fourth pixel, centred; rounded "
        "to two digits, as the ledger gives them.",
    )
    learned = np.asarray(first_layer(seed=seed, epochs=60 if full else 12))
    yield figures.first_features(
        variances / variances.sum(), components.reshape(-1, side, side), learned[..., 0, :]
    )


def first_layer(*, seed: int, epochs: int):
    """The filters (5, 5, 1, 8) that one convolution and one dense layer learn on the digits."""
    pixels, labels = digits()
    x = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(labels))[:1760] for _ in range(epochs)])
    batches = [a[order.reshape(-1, 80)] for a in (x, labels)]
    draw = lambda scale, *shape: (scale * rng.standard_normal(shape)).astype(np.float32)
    params = {
        "filters": draw(0.02, 5, 5, 1, 8),
        "dense": {"kernel": draw(0.1, 128, 10), "bias": np.zeros(10, np.float32)},
    }

    def loss(params, batch):
        images, classes = batch
        features = jax.nn.relu(conv2d(images, params["filters"]))
        scores = dense(params["dense"], features.reshape(len(images), -1))
        return optax.softmax_cross_entropy_with_integer_labels(scores, classes).mean()

    # Strong decay leaves in a filter only what the task keeps alive.
    optimizer = optax.adamw(3e-3, weight_decay=1.0)
    return fit(loss, params, batches, optimizer=optimizer).params["filters"]


EXPERIMENTS = (neighbours, square_corner, slide, columns, first_features)
