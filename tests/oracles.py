"""The same mathematics again, by another road: NumPy loops and sums in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ("float32", "float64", "bfloat16")


def draw(rng, *shape, dtype="float64"):
    """Standard normal numbers, as they are in ``dtype``."""
    return jnp.asarray(rng.standard_normal(shape), dtype=dtype)


class Stored:
    """Rows that are read by slices alone, as those of a zarr array are, and which were read."""

    def __init__(self, rows):
        self.rows, self.shape, self.read = rows, rows.shape, []

    def __getitem__(self, at):
        assert type(at) is slice
        self.read.append((at.start, at.stop, at.step))
        return self.rows[at]


def exact(x):
    """The numbers of an array, in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), x)


def assert_agrees(actual, expected, *, ulps=32):
    """Compare within some roundings of the largest number, in the dtype of ``actual``."""
    expected = np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape
    tolerance = ulps * float(jnp.finfo(actual.dtype).eps) * max(1e-30, np.abs(expected).max())
    np.testing.assert_allclose(exact(actual), expected, rtol=0, atol=tolerance)


def differs(actual, expected):
    """Whether two arrays are far from equal: what a control asks."""
    return not np.allclose(exact(actual), exact(expected), rtol=1e-2, atol=1e-2)


def dense(params, x):
    kernel, bias = params["kernel"], params.get("bias", np.zeros(params["kernel"].shape[1]))
    rows = [sum(x_i * w for x_i, w in zip(row, kernel, strict=True)) + bias for row in x]
    return np.stack(rows)


def mlp(params, x, activation):
    for layer in params[:-1]:
        x = activation(dense(layer, x))
    return dense(params[-1], x)


def layer_norm(x, scale, bias, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def rms_norm(x, scale, epsilon):
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True) / x.shape[-1] + epsilon) * scale


def patches(image, size):
    h, w = image.shape[:2]
    corners = itertools.product(range(0, h, size), range(0, w, size))
    return np.stack([image[i : i + size, j : j + size].ravel() for i, j in corners])


def frames(signal, size, hop):
    starts = range(0, len(signal) - size + 1, hop)
    return np.stack([signal[start : start + size] for start in starts])


def spectrogram(signal, size, hop):
    j = np.arange(size)
    window = np.sin(np.pi * j / size) ** 2
    transform = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), j) / size)
    return np.abs(transform @ (frames(signal, size, hop) * window).T)


def margins(length, width, stride, padding):
    """Zeros before and after one axis; `width` from a filter's first tap to its last."""
    if padding == "VALID":
        return 0, 0
    missing = max(0, (-(-length // stride) - 1) * stride + width - length)
    return missing // 2, missing - missing // 2  # the odd one goes to the far end


def conv2d(x, kernel, padding="VALID", strides=(1, 1), dilation=(1, 1)):
    kh, kw = ((k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True))
    if isinstance(padding, str):
        sizes = zip(x.shape[1:3], (kh, kw), strides, strict=True)
        padding = [margins(*size, padding) for size in sizes]
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    out_h, out_w = (
        len(range(0, n - k + 1, s))
        for n, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True)
    )
    y = np.zeros((len(x), out_h, out_w, kernel.shape[-1]))
    for i, j in itertools.product(range(out_h), range(out_w)):
        top, left = i * strides[0], j * strides[1]
        window = x[:, top : top + kh : dilation[0], left : left + kw : dilation[1]]
        y[:, i, j] = np.tensordot(window, kernel, axes=3)
    return y


def taps_on_the_image(length, width, padding, stride=1, dilation=1):
    """Pairs of an output and a tap of the filter that fall on a number, along one axis."""
    ones = np.ones((1, length, 1, 1)), np.ones((width, 1, 1, 1))
    return conv2d(*ones, padding, (stride, 1), (dilation, 1)).sum()


def sinusoidal_positions(t, d):
    table = np.zeros((t, d))
    for p, i in itertools.product(range(t), range(d // 2)):
        angle = p / 10000 ** (2 * i / d)
        table[p, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    return table


def attention_weights(q, k, visible, scale):
    """One sequence: q (t, h, d_k), k (s, h, d_k), visible (h, t, s)."""
    (t, h, _), s = q.shape, len(k)
    weights = np.zeros((h, t, s))
    for head, i in itertools.product(range(h), range(t)):
        seen = np.flatnonzero(visible[head, i])
        if len(seen):
            scores = np.array([scale * np.dot(q[i, head], k[j, head]) for j in seen])
            odds = np.exp(scores - scores.max())
            weights[head, i, seen] = odds / odds.sum()
    return weights


def attention(q, k, v, visible, scale):
    weights = attention_weights(q, k, visible, scale)
    y = np.zeros((len(q), *v.shape[1:]))
    for head, i, j in itertools.product(*map(range, weights.shape)):
        y[i, head] += weights[head, i, j] * v[j, head]
    return y


def attention_and_gradients(q, k, v, dy, visible, bias, scale, softcap):
    """Attention of a batch (b, t, h, d), and what dy pulls back to q, k, v and the bias."""
    (b, s, n, _), h = k.shape, q.shape[2]
    k_, v_ = (np.repeat(x, h // n, axis=2) for x in (k, v))
    product = scale * np.einsum("bthd,bshd->bhts", q, k_)
    squashed = softcap * np.tanh(product / softcap) if softcap else product
    scores = np.where(visible, squashed + bias, -np.inf)
    seen = visible.any(-1, keepdims=True)
    odds = np.where(
        visible, np.exp(scores - np.where(seen, scores.max(-1, keepdims=True), 0)), 0
    )
    p = odds / np.where(seen, odds.sum(-1, keepdims=True), 1)
    dp = np.einsum("bthd,bshd->bhts", dy, v_)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    slope = 1 - (squashed / softcap) ** 2 if softcap else 1
    own = lambda x: x.reshape(b, s, n, h // n, -1).sum(3)
    return np.einsum("bhts,bshd->bthd", p, v_), (
        scale * np.einsum("bhts,bshd->bthd", slope * ds, k_),
        own(scale * np.einsum("bhts,bthd->bshd", slope * ds, q)),
        own(np.einsum("bhts,bthd->bshd", p, dy)),
        ds,
    )


def rope(x, positions, base):
    """One sequence (t, h, d), each pair of entries one complex number."""
    half = x.shape[-1] // 2
    turns = np.exp(1j * positions[:, None] * base ** (-2.0 * np.arange(half) / (2 * half)))
    z = (x[..., :half] + 1j * x[..., half:]) * turns[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


def multi_head_attention(params, x, heads, visible):
    width = x.shape[1] // heads
    columns = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = (x @ params[name]["kernel"][:, own] for name in ("query", "key", "value"))
        y = attention(q[:, None], k[:, None], v[:, None], visible[None], width**-0.5)
        columns.append(y[:, 0])
    return np.concatenate(columns, axis=1) @ params["out"]["kernel"]


def gelu(x):
    """The tanh form, that GPT-2 uses."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gpt2(tensors, tokens, heads):
    """Logits (t, v) of one sequence, from tensors under GPT-2's names."""
    w = tensors.__getitem__
    norm = lambda name, x: layer_norm(x, w(f"{name}.weight"), w(f"{name}.bias"), 1e-5)
    affine = lambda name, x: x @ w(f"{name}.weight") + w(f"{name}.bias")
    t = len(tokens)
    x = w("wte.weight")[tokens] + w("wpe.weight")[:t]
    width = x.shape[1]
    visible = np.broadcast_to(np.tri(t, dtype=bool), (heads, t, t))
    for i in range(sum(name.endswith("ln_1.bias") for name in tensors)):
        mixed = affine(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x))
        columns = (mixed[:, j * width : (j + 1) * width] for j in range(3))
        q, k, v = (part.reshape(t, heads, -1) for part in columns)
        y = attention(q, k, v, visible, (width // heads) ** -0.5).reshape(t, width)
        x = x + affine(f"h.{i}.attn.c_proj", y)
        y = gelu(affine(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x)))
        x = x + affine(f"h.{i}.mlp.c_proj", y)
    return norm("ln_f", x) @ w("wte.weight").T


def vit(params, image, patch, heads):
    """Class scores of one image; `params` are ours."""
    x = dense(params["patches"], patches(image, patch)) + params["positions"]["embedding"]
    t, width = x.shape
    visible = np.ones((heads, t, t), bool)
    for i in range(len(params["blocks"]["attention_norm"]["scale"])):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        normed = layer_norm(x, **own["attention_norm"], epsilon=1e-5)
        q, k, v = (
            dense(own["attention"][name], normed).reshape(t, heads, -1)
            for name in ("query", "key", "value")
        )
        y = attention(q, k, v, visible, (width // heads) ** -0.5).reshape(t, width)
        x = x + dense(own["attention"]["out"], y)
        x = x + mlp(own["mlp"], layer_norm(x, **own["mlp_norm"], epsilon=1e-5), gelu)
    pooled = layer_norm(x, **params["norm"], epsilon=1e-5).mean(axis=0)
    return dense(params["head"], pooled[None])[0]


def truncated(probabilities, top_k, top_p):
    """Which tokens of one distribution may be drawn, by counting them off."""
    falling = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:top_k]
    whole, held, stay = sum(probabilities[i] for i in falling), 0.0, set()
    for i in falling:
        if held >= top_p * whole:
            break
        stay.add(i)
        held += probabilities[i]
    return stay


def cosine_similarity(a, b):
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def als(q, users, items, ratings, shape, l2, iterations):
    """Explicit feedback: user factors and biases, item factors and biases."""
    mean, rank = ratings.mean(), q.shape[1]
    p, b, c = np.zeros((shape[0], rank)), np.zeros(shape[0]), np.zeros(shape[1])

    def half(rows, columns, n, q, c):
        found = np.zeros((n, rank + 1))
        for row in range(n):
            left, right = l2 * np.eye(rank + 1), np.zeros(rank + 1)
            for e in np.flatnonzero(rows == row):
                y = np.append(q[columns[e]], 1)
                left += np.outer(y, y)
                right += (ratings[e] - mean - c[columns[e]]) * y
            found[row] = np.linalg.solve(left, right)
        return found[:, :-1], found[:, -1]

    for _ in range(iterations):
        p, b = half(users, items, shape[0], q, c)
        q, c = half(items, users, shape[1], p, b)
    return p, b, q, c


def implicit_als(q, users, items, amounts, shape, l2, iterations, alpha):
    """Implicit feedback with every pair written out: user factors, item factors."""
    seen = np.zeros(shape)
    np.add.at(seen, (users, items), amounts)

    def half(seen, other):
        found = np.zeros((len(seen), other.shape[1]))
        for row, amount in enumerate(seen):
            confidence = np.diag(1 + alpha * amount)
            left = other.T @ confidence @ other + l2 * np.eye(other.shape[1])
            found[row] = np.linalg.solve(left, other.T @ confidence @ (amount > 0))
        return found

    for _ in range(iterations):
        p = half(seen, q)
        q = half(seen.T, p)
    return p, q
