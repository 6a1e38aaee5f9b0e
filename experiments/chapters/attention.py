"""Attention, piece by piece and at work: heads, the article's lines, words, photographs."""

import ast
import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.attention_pieces import (
    INDEPENDENT,
    by_matrices,
    formula,
    project_and_attend,
    projections,
    scores,
    single_head,
    snippet_arrays,
    softmax,
    weigh,
)
from experiments.data import photograph, tones
from experiments.figures import attention as figures
from experiments.ledger import claims
from experiments.published import MODELS, block_weights, forward_macs, score_macs
from experiments.rows import flops, row
from lintoolkit.attention import (
    attention,
    attention_flops,
    attention_weights,
    init_multi_head,
    multi_head_attention,
    multi_head_attention_flops,
)
from lintoolkit.layers import dense_flops, embed, frames, patches

# The article's two examples, in our own words and with its numbers: a layer pair that draws
# first, and attention that goes on with the same random state.
LAYERS = """
import numpy as np

np.random.seed(42)
first, second = np.random.randn(8, 4) * 0.5, np.random.randn(3, 8) * 0.5
hidden = np.maximum(0, first @ np.array([1.0, 0.5, -0.3, 0.8]))
output = second @ hidden
"""
ATTENTION = """
import numpy as np

def softmax(s):
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def attend(X, W_Q, W_K, W_V):
    Q = X @ W_Q
    K = X @ W_K
    V = X @ W_V
    weights = softmax(Q @ K.T / np.sqrt(K.shape[-1]))
    return weights @ V

X = np.random.randn(6, 8)
W_Q, W_K, W_V = (np.random.randn(8, 4) * 0.5 for _ in range(3))
output = attend(X, W_Q, W_K, W_V)
"""


def heads(*, seed: int, full: bool):
    """Several heads side by side: the same four matrices, cut into narrower products."""
    del full
    t, d, h = 5, 12, 3
    d_k = d // h
    params = init_multi_head(jax.random.key(seed), d, h, dtype=jnp.float64)
    x = np.random.default_rng(seed).standard_normal((t, d))
    ours = multi_head_attention(params, jnp.asarray(x), heads=h)
    kernels = {name: np.asarray(layer["kernel"]) for name, layer in params.items()}
    per_head = [
        by_matrices(*(x @ kernels[name][:, i : i + d_k] for name in ("query", "key", "value")))
        for i in range(0, d, d_k)
    ]
    independent = np.concatenate(per_head, axis=1) @ kernels["out"]
    width = lambda name: MODELS[name].width // MODELS[name].heads
    yield row(
        "need-multihead-formula",
        {
            "d": d,
            "heads": h,
            "dk": d_k,
            "head_shape": per_head[0].shape,
            "matches_torch": bool(np.allclose(ours, independent, rtol=1e-12)),
            "output_shape": ours.shape,
            "gpt2_small_dk": width("gpt2-small"),
            "gpt3_dk": width("gpt3"),
        },
        multi_head_attention,
        flops=flops(
            lambda params, x: multi_head_attention(params, x, heads=h),
            params,
            x,
            formula=multi_head_attention_flops(t=t, d_model=d),
        ),
        note=f"{INDEPENDENT} The closed form counts the six products, not the softmax.",
    )
    draw = lambda d, h: jax.eval_shape(lambda: init_multi_head(jax.random.key(0), d, h))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    cut = {attention_flops(t=t, s=t, h=n, d_k=d // n, d_v=d // n) for n in (1, 2, 3, 4, 6, 12)}
    yield row(
        "need-multihead-output-projection",
        {
            "WO": params["out"]["kernel"].shape,
            "parameters_4d2": count(params),
            "gpt2_small_4d2": count(draw(MODELS["gpt2-small"].width, 12)),
            "flops_independent_of_heads": len(cut) == 1,
        },
        init_multi_head,
    )
    yield row("need-heads-specialise", None)
    found = list(primitives(jax.make_jaxpr(lambda x: heads_by_hand(params, x, h))(x)))
    yield row(
        "need-mha-only-matmul-softmax",
        {
            "products": found.count("dot_general"),
            "other_arithmetic": sorted(set(found) - {"dot_general"} - REARRANGING),
            "same_numbers": bool(jnp.allclose(heads_by_hand(params, x, h), ours)),
        },
        "jax.make_jaxpr",
        note="The primitives of a version by hand, softmax counted as one; lintoolkit's own "
        "multiplies by 1 / √d_k instead of dividing.",
    )
    three_kernels = [kernels[name] for name in ("query", "key", "value")]
    yield row(
        "matrices-three-matmuls",
        {
            "products_in_formula": count_products(single_head, x, x, x),
            "with_three_projections": count_products(project_and_attend, x, three_kernels),
            "with_output_projection": found.count("dot_general"),
            "transposes": ATTENTION.count(".T"),
        },
        "jax.make_jaxpr",
        attention,
        note="The one transpose is that of K. Scores, blend and output projection are three "
        "as well, if the projections of the input are left out.",
    )
    d = MODELS["gpt2-small"].width
    yield row(
        "matrices-map-sqrt-d",
        {
            "gpt2_small_sqrt_dk": width("gpt2-small") ** 0.5,
            "gpt2_small_sqrt_d": round(d**0.5, 4),
            "ratio": (d / width("gpt2-small")) ** 0.5,
        },
    )
    gpt3 = MODELS["gpt3"]
    # A block spends one multiply-add on each weight, and 2 n d on scores and blend.
    equal = block_weights(gpt3) // (2 * gpt3.width)
    yield row(
        "matrices-qkt-heart",
        {
            "gpt3_score_share": score_macs(gpt3, tokens=gpt3.context)
            / forward_macs(gpt3, tokens=gpt3.context),
            "context_where_scores_and_blend_equal_weight_work": equal,
            "six_d": 6 * gpt3.width,
        },
        score_macs,
        forward_macs,
    )
    yield row("matrices-models-named", None)


# Primitives that move numbers and compute none.
REARRANGING = {"reshape", "transpose", "broadcast_in_dim", "squeeze", "convert_element_type"}


@jax.jit
def _softmax(x):
    return jax.nn.softmax(x)


def heads_by_hand(params, x, heads: int):
    """Multi-head attention with the fewest operations it takes."""
    split = lambda name: (x @ params[name]["kernel"]).reshape(len(x), heads, -1).swapaxes(0, 1)
    q, k, v = split("query"), split("key"), split("value")
    weights = _softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)
    return (weights @ v).swapaxes(0, 1).reshape(x.shape) @ params["out"]["kernel"]


def primitives(jaxpr):
    """Names of all primitives that a jaxpr runs, a jitted softmax as one."""
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        name = equation.params.get("name")
        if inner is None or name == "_softmax":
            yield name or str(equation.primitive)
        else:
            yield from primitives(inner)


def count_products(fn, *args) -> int:
    """How many matrix products a function traces to."""
    return list(primitives(jax.make_jaxpr(fn)(*args))).count("dot_general")


def printed(x, output) -> str:
    """What the snippet prints about its input and output."""
    with np.printoptions(precision=3, suppress=True):
        return (
            f"Input shape:   {x.shape}\nOutput shape:  {output.shape}\n"
            f"Attention out:\n{np.asarray(output)}\n"
        )


def execute(*texts: str) -> dict:
    """The names that some program texts leave behind, none if one of them fails."""
    names: dict = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for text in texts:
                exec(text, names)
    except Exception:
        return {}
    return names


def snippet(*, seed: int, full: bool):
    """The article's few lines of attention, run, counted and priced."""
    del seed, full
    x, kernels = snippet_arrays(after_layers=True)
    (n, d), d_k = x.shape, kernels[0].shape[1]
    projection = dense_flops(n=n, d_in=d, d_out=d_k, bias=False)
    pairs = attention_flops(t=n, s=n, h=1, d_k=d_k, d_v=0)
    each = [projection, projection, projection, pairs, pairs]
    for claim, after_layers in (
        ("need-code-attention-same-file", True),
        ("need-code-attention-own-seed", False),
    ):
        x, kernels = snippet_arrays(after_layers=after_layers)
        output = project_and_attend(x, kernels)
        text = LAYERS if after_layers else "import numpy as np; np.random.seed(42)"
        yield row(
            claim,
            {"stdout": printed(x, output), "output": output},
            attention,
            flops=flops(project_and_attend, x, kernels, formula=sum(each)),
            holds=bool(np.allclose(output, execute(text, ATTENTION)["output"])),
        )
    forget = "import numpy as np; np.random.seed()"
    once, again = (execute(forget, ATTENTION)["output"] for _ in range(2))
    tree = ast.parse(ATTENTION)
    yield row(
        "need-code-attention-unseeded",
        {
            "snippet_sets_a_seed": any(
                isinstance(node, ast.Attribute) and node.attr == "seed"
                for node in ast.walk(tree)
            ),
            "two_runs_differ": not np.allclose(once, again),
            "shape": once.shape,
        },
    )
    lines = [line for line in ATTENTION.splitlines() if line.strip()]
    through_return = 1 + next(i for i, line in enumerate(lines) if "weights @ V" in line)
    stated = claims()["need-fifteen-lines"].stated
    yield row(
        "need-fifteen-lines",
        {"lines": through_return, "stated": stated},
        holds=through_return <= int(stated),
        note="That fifteen are enough is checked by our own writing of the snippet; the "
        "article's lines are not here to be counted.",
    )
    products = sum(isinstance(node, ast.MatMult) for node in ast.walk(tree))
    yield row(
        "need-comment-three-matmuls",
        {
            "at_signs_in_code": products,
            "comment_says": int(claims()["need-comment-three-matmuls"].stated),
        },
    )
    yield row(
        "need-five-matmuls",
        {"products": products, "flops_of_each": each, "flops": sum(each)},
        attention,
        flops=flops(project_and_attend, x, kernels, formula=sum(each)),
        holds=products == len(each),
        note="The closed form counts the five products; the softmax comes on top.",
    )
    yield row(
        "need-runnable-as-is",
        {
            "first_runs": bool(execute(LAYERS)),
            "second_runs": bool(execute(LAYERS, ATTENTION)),
            "second_runs_alone": bool(execute(ATTENTION)),
        },
        note="Run in our own writing of both examples.",
    )


def sentence(*, seed: int, full: bool):
    """A word's vector after attention depends on its neighbours; "it" can find the cat."""
    del full
    rng = np.random.default_rng(seed)
    words = ["river", "money", "bank", "the"]
    table = {"embedding": jnp.asarray(rng.standard_normal((len(words), 8)))}
    kernels = jnp.asarray(rng.standard_normal((3, 8, 8)) / 8**0.5)
    ids = jnp.array(
        [[words.index(w) for w in s.split()] for s in ("the river bank", "the money bank")]
    )
    before = embed(table, ids)
    after = jnp.stack([project_and_attend(x, kernels) for x in before])
    yield row(
        "sense-sentence-vectors-context",
        {
            "same_input_vector": bool((before[0, 2] == before[1, 2]).all()),
            "outputs_differ": not bool(jnp.allclose(after[0, 2], after[1, 2])),
            "sentence_shape": before[0].shape,
        },
        embed,
        attention,
    )
    tokens = "the cat slept . the mat was warm . it purred".split()
    features = np.zeros((len(tokens), 3))  # noun, animate, pronoun
    for word, which in (("cat", [0, 1]), ("mat", [0]), ("it", [2])):
        features[tokens.index(word), which] = 1
    # A pronoun asks for a noun, and more strongly for an animate one.
    query = features @ np.array([[0.0, 0], [0, 0], [2, 3]])
    key = features @ np.array([[1.0, 0], [0, 1], [0, 0]])
    weights = weigh(query, key)[tokens.index("it")]
    yield row(
        "matrices-it-the-cat",
        {
            "attends_most": tokens[int(weights.argmax())],
            "weight_cat": weights[tokens.index("cat")],
            "weight_mat": weights[tokens.index("mat")],
            "tokens": len(tokens),
        },
        attention_weights,
        fitted=True,
        note="Sentences, features and the strengths 1, 2 and 3 are ours, set so that the "
        "weights are the ledger's.",
    )
    yield figures.it_the_cat(tokens, weights)
    keys = jnp.asarray(np.linalg.qr(np.random.RandomState(0).randn(8, 8))[0])
    values = jnp.asarray(rng.standard_normal((8, 3)))
    look = lambda beta: attention(keys[2:3, None], keys[:, None], values[:, None], scale=beta)
    returns = lambda beta: bool(jnp.allclose(look(beta)[0, 0], values[2]))
    yield row(
        "need-attention-lookup-table",
        {
            "hard_returns_row": returns(50.0),
            "soft_returns_row": returns(1.0),
            "weight_on_match_beta1": weigh(keys[2:3], keys, scale=1.0)[0, 2],
        },
        attention,
    )


def modalities(*, seed: int, full: bool):
    """One block of attention for words, pieces of a photograph and a tone."""
    del full
    d, heads = 16, 4
    key = jax.random.key(seed)
    params = init_multi_head(key, d, heads)
    text = embed({"embedding": jax.random.normal(key, (10, d))}, jnp.array([3, 1, 4]))
    camera = jnp.asarray(photograph("camera"), jnp.float32) / 255
    thumbnail = camera.reshape(64, 8, 64, 8).mean(axis=(1, 3))
    picture = patches(thumbnail, size=4)
    tone = jnp.asarray(tones(440.0, rate=4096, seconds=256 / 4096), jnp.float32)
    sound = frames(tone, size=d, hop=d)
    block = lambda params, x: multi_head_attention(params, x, heads=heads)
    yield row(
        "need-modality-agnostic",
        {"output_shapes": [block(params, x).shape for x in (text, picture, sound)]},
        multi_head_attention,
        embed,
        patches,
        frames,
        flops=flops(
            block,
            params,
            picture,
            formula=multi_head_attention_flops(t=len(picture), d_model=d),
        ),
        note="FLOP of the photograph's 256 tokens; the closed form leaves the softmax out.",
    )
    image, size = photograph("astronaut") / np.float32(255), 16
    tokens = patches(jnp.asarray(image), size=size)
    tokens -= tokens.mean(axis=0)
    tokens /= jnp.linalg.norm(tokens, axis=1, keepdims=True)
    yield figures.look_alike(image, np.asarray(weigh(tokens, tokens, scale=12.0)), size=size)


EXPERIMENTS = (
    projections,
    scores,
    softmax,
    formula,
    heads,
    snippet,
    sentence,
    modalities,
)
