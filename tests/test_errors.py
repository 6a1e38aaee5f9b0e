"""What a user reads after a wrong call: the function, the argument, what to do."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO, BCSR

from lintoolkit import (
    attention,
    checkpoint,
    eigen,
    factorize,
    launch,
    layers,
    lora,
    pca,
    regression,
    similarity,
    svd,
    train,
    transformer,
)

pytestmark = pytest.mark.usefixtures("as_a_user")

a = lambda *shape: jnp.ones(shape)
whole = lambda *shape: jnp.ones(shape, int)
KERNEL = {"kernel": a(4, 2)}
HEADS = {name: {"kernel": a(6, 6)} for name in ("query", "key", "value", "out")}
FITTED = pca.PCA(a(3), a(2, 3), a(2), a(), jnp.array(True))
QKV = a(5, 3, 7), a(2, 3, 7), a(2, 3, 11)
GET = jax.random.key(0)
squared = lambda w, x: (w - x) ** 2
fit = partial(train.fit, optimizer=optax.sgd(0.1))
chunks = partial(train.fit_in_chunks, chunk=2, optimizer=optax.sgd(0.1))
stream = partial(pca.fit_pca_stream, rank=1)
rank = partial(eigen.pagerank, n=3)
truncated = partial(svd.truncated_svd, rank=2)
randomized = partial(svd.randomized_svd, GET, rank=2)
operator = partial(svd.linear_operator, jnp.negative, jnp.negative)

ALS = {"shape": (3, 2), "rank": 1}
MODEL = factorize.Recommender(
    factorize.Side(a(3, 1), a(3)), factorize.Side(a(2, 1), a(2)), a(), jnp.array(True)
)
als = lambda *args, **o: factorize.als(GET, *args, **ALS | o)
implicit_als = lambda *args, **o: factorize.implicit_als(GET, *args, **ALS | o)
SMALL = transformer.GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
GPT = transformer.init_gpt(GET, SMALL)
MESH = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
shard = lambda params=GPT, **o: transformer.shard_gpt(params, MESH, config=SMALL, **o)
gpt = partial(transformer.gpt, config=SMALL)
generate = partial(transformer.generate, GET, GPT, config=SMALL)
VISION = transformer.ViTConfig(image=(4, 6, 3), patch=2, classes=5, blocks=2, heads=2, width=6)

TREE = {"w": a(5, 3), "heads": a(2, 5, 7), "bias": a(3), "ids": whole(3, 3)}
LOW = lora.LowRank(a(5, 2), a(2, 3))
adapters = lambda rank=2, where="w", **o: lora.init(GET, TREE, rank, where=where, **o)
lifted = lambda low: lora.lift(lambda p: p["w"])(TREE, low)
as_asked = lambda call, make: call(make())
not_finite = {"w": a(5, 3).at[1, 1].set(jnp.nan)}

WRONG = {
    "init_dense: width 0": (
        lambda: layers.init_dense(GET, 0, 2),
        "d_in must be a whole number",
    ),
    "init_dense: integers": (
        lambda: layers.init_dense(GET, 3, 2, dtype=int),
        "dtype must be floating, got int64",
    ),
    "init_dense: many keys": (
        lambda: layers.init_dense(jax.random.split(GET, 2), 3, 2),
        r"key must be one random key.* got an array of key<fry> and shape \(2,\)",
    ),
    "init_dense: seed": (lambda: layers.init_dense(0, 3, 2), "key must be one random key"),
    "init_mlp: seed": (lambda: layers.init_mlp(0, (3, 2)), "key must be one random key"),
    "init_multi_head: seed": (
        lambda: attention.init_multi_head(0, 6, 2),
        "key must be one random key",
    ),
    "init_dense: width 2.5": (lambda: layers.init_dense(GET, 2, 2.5), "d_out .* got 2.5"),
    "dense: inner dimensions": (
        lambda: layers.dense(KERNEL, a(5, 2)),
        r"\(5, 2\) @ kernel \(4, 2\): inner dimensions 2 and 4 differ",
    ),
    "dense: scalar": (lambda: layers.dense(KERNEL, a()), "inner dimensions none and 4"),
    "dense: integers": (
        lambda: layers.dense(KERNEL, whole(5, 4)),
        "x must be floating, got int64",
    ),
    "dense: list": (lambda: layers.dense(KERNEL, [1.0] * 4), "x must be one array, got list"),
    "dense: empty": (lambda: layers.dense(KERNEL, a(0, 4)), r"x has shape \(0, 4\)"),
    "dense: kernel rank": (lambda: layers.dense({"kernel": a(4)}, a(4)), "kernel must be"),
    "dense: bias shape": (
        lambda: layers.dense(KERNEL | {"bias": a(4)}, a(4)),
        r"bias must have shape \(2,\)",
    ),
    "dense: no kernel": (lambda: layers.dense({}, a(4)), r"keys \['kernel'\]"),
    "dense: misspelt key": (
        lambda: layers.dense(KERNEL | {"Bias": a(2)}, a(4)),
        "got .*'Bias'",
    ),
    "dense: bare kernel": (lambda: layers.dense(a(4, 2), a(4)), "params must be a dict"),
    "init_mlp: one width": (lambda: layers.init_mlp(GET, (3,)), "widths must hold"),
    "mlp: no layer": (lambda: layers.mlp((), a(4)), "params must be a tuple"),
    "mlp: one layer's params": (lambda: layers.mlp(KERNEL, a(4)), "params must be a tuple"),
    "mlp: activation": (
        lambda: layers.mlp((KERNEL, KERNEL), a(4), activation="relu"),
        "activation must be a function.*got 'relu'",
    ),
    "layer_norm: width": (lambda: layers.layer_norm({"bias": a(3)}, a(5, 2)), "bias must have"),
    "layer_norm: integers": (lambda: layers.layer_norm({}, whole(3)), "x must be floating"),
    "layer_norm: key": (lambda: layers.layer_norm({"gamma": a(3)}, a(3)), "got .*'gamma'"),
    "layer_norm: scalar": (lambda: layers.layer_norm({}, a()), "x must be rows"),
    "rms_norm: scalar": (lambda: layers.rms_norm({}, a()), "x must be rows"),
    "rms_norm: no params": (lambda: layers.rms_norm(None, a(2)), "no key and at most .'scale'"),
    "rms_norm: width": (lambda: layers.rms_norm({"scale": a(1)}, a(5, 2)), "scale must have"),
    "rms_norm: key": (lambda: layers.rms_norm({"bias": a(2)}, a(2)), "got .*'bias'"),
    "embed: float ids": (lambda: layers.embed({"embedding": a(4, 2)}, a(3)), "ids must be int"),
    "embed: table rank": (lambda: layers.embed({"embedding": a(4)}, whole(3)), "must be .v, d"),
    "embed: integer table": (
        lambda: layers.embed({"embedding": whole(4, 2)}, whole(3)),
        "embedding must be floating",
    ),
    "patches: rank": (lambda: layers.patches(a(2, 4, 4, 3), size=2), "image must be"),
    "patches: size": (lambda: layers.patches(a(4, 6), size=4), "size 4 must divide"),
    "frames: rank": (
        lambda: layers.frames(a(4, 6), size=2, hop=1),
        "signal must be one vector",
    ),
    "frames: hop": (lambda: layers.frames(a(6), size=2, hop=0), "hop must be"),
    "frames: short": (lambda: layers.frames(a(6), size=7, hop=1), "one frame of size 7"),
    "spectrogram: integers": (
        lambda: layers.spectrogram(whole(6), size=4, hop=1),
        "signal must be floating",
    ),
    "spectrogram: size": (
        lambda: layers.spectrogram(a(6), size=0, hop=1),
        "size must be a whole number",
    ),
    "im2col: three sizes": (
        lambda: layers.im2col(a(1, 5, 5), size=(2, 2, 2)),
        r"size must be one whole number or a tuple of two, at least 1, got \(2, 2, 2\)",
    ),
    "im2col: half a size": (lambda: layers.im2col(a(1, 5, 5), size=1.5), "size .* got 1.5"),
    "im2col: dilation": (
        lambda: layers.im2col(a(1, 5, 5), size=3, dilation=3),
        "7 x 7 does not fit in 5 x 5",
    ),
    "im2col: rank": (lambda: layers.im2col(a(5, 5), size=2), r"x must be \(c, h, w\)"),
    "im2col: size": (lambda: layers.im2col(a(1, 5, 5), size=6), "6 x 6 does not fit in 5 x 5"),
    "im2col: zero": (lambda: layers.im2col(a(1, 5, 5), size=(0, 2)), r"size .* got \(0, 2\)"),
    "conv2d: channels": (lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 3, 4)), "with one c_in"),
    "conv2d: rank": (lambda: layers.conv2d(a(5, 5, 2), a(3, 3, 2, 4)), "x must be"),
    "conv2d: size": (lambda: layers.conv2d(a(1, 2, 5, 2), a(3, 3, 2, 4)), "does not fit"),
    "conv2d: padding": (
        lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 2, 4), padding="same"),
        "must be 'VALID' or 'SAME' or two pairs, got 'same'",
    ),
    "conv2d: strides": (
        lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 2, 4), strides=0),
        "strides must be .* at least 1, got 0",
    ),
    "conv2d: margins": (
        lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 2, 4), padding=((1, -1), (0, 0))),
        r"padding must be .* at least 0, got \(1, -1\)",
    ),
    **{
        f"{function}: padding {padding!r}": (call(padding), "padding must be .* got")
        for function, call in {
            "conv2d": lambda p: lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 2, 4), padding=p),
            "im2col": lambda p: lambda: layers.im2col(a(1, 5, 5), size=3, padding=p),
            "conv2d_flops": lambda p: (
                lambda: layers.conv2d_flops(
                    n=1, h=5, w=5, kh=3, kw=3, c_in=1, c_out=1, padding=p
                )
            ),
        }.items()
        for padding in (-1, 1.5, None)
    },
    "conv2d: one margin": (
        lambda: layers.conv2d(a(1, 5, 5, 2), a(3, 3, 2, 4), padding=((1, 1),)),
        "padding must be .*top, bottom",
    ),
    "conv2d_flops: padding": (
        lambda: layers.conv2d_flops(n=1, h=5, w=5, kh=3, kw=3, c_in=1, c_out=1, padding="FULL"),
        "padding must be",
    ),
    "sinusoidal_positions: integers": (
        lambda: layers.sinusoidal_positions(3, 4, dtype=int),
        "dtype must be floating, got int64",
    ),
    "sinusoidal_positions: odd": (
        lambda: layers.sinusoidal_positions(4, 3),
        "d must be even, got 3",
    ),
    "attention_weights: rank": (
        lambda: attention.attention_weights(a(5, 7), a(2, 7)),
        r"must be \(..., length, heads, width\)",
    ),
    "attention: widths": (
        lambda: attention.attention(QKV[0], a(2, 3, 5), QKV[2]),
        "q and k must agree",
    ),
    "attention: batches": (
        lambda: attention.attention(QKV[0][None], *QKV[1:]),
        "q and k must agree",
    ),
    "attention: values": (
        lambda: attention.attention(*QKV[:2], a(3, 3, 11)),
        "k and v must agree",
    ),
    "attention: dtypes": (
        lambda: attention.attention(QKV[0].astype("float32"), *QKV[1:]),
        "one dtype, got q float32, k float64",
    ),
    "attention: integers": (lambda: attention.attention(whole(1, 1, 1), *QKV[1:]), "q must be"),
    "attention: mask dtype": (
        lambda: attention.attention(*QKV, mask=a(5, 2)),
        "mask must be boolean",
    ),
    "attention: mask shape": (
        lambda: attention.attention(*QKV, mask=jnp.ones((5, 3), bool)),
        r"mask of shape \(5, 3\) does not broadcast to .* \(3, 5, 2\): its axis -1",
    ),
    "attention: mask of numbers": (
        lambda: attention.attention(*QKV, mask=lambda i, j: i - j),
        r"must give booleans",
    ),
    "attention_weights: mask of another shape": (
        lambda: attention.attention_weights(
            *QKV[:2], mask=lambda *_: jnp.ones((1, 3, 3), bool)
        ),
        r"what mask gives of shape \(1, 3, 3\)",
    ),
    "multi_head_attention: lengths beyond the keys": (
        lambda: attention.multi_head_attention(
            attention.init_multi_head(jax.random.key(0), 6, 2),
            a(5, 6),
            heads=2,
            lengths=jnp.array(6),
        ),
        "lengths must be from 0 to the 5 keys",
    ),
    "attention: bias shape": (
        lambda: attention.attention(*QKV, bias=a(2, 1, 2)),
        r"bias of shape \(2, 1, 2\) does not .*: its axis -3 must be 1 or 3 long, got 2",
    ),
    "attention: bias dtype": (
        lambda: attention.attention(*QKV, bias=whole(5, 2)),
        "bias must be floating",
    ),
    "attention: heads": (
        lambda: attention.attention(QKV[0], a(2, 2, 7), a(2, 2, 11)),
        "heads of k must divide those of q.* got 2 for 3",
    ),
    "attention: window": (
        lambda: attention.attention(*QKV, window=-1),
        "window must be a whole number of keys from 0 up.* got -1",
    ),
    "attention: half a window": (
        lambda: attention.attention(*QKV, window=(0.5, 2)),
        r"window must be .* got \(0.5, 2\)",
    ),
    "attention: three windows": (
        lambda: attention.attention(*QKV, window=(1, 2, 3)),
        r"window must be .* got \(1, 2, 3\)",
    ),
    "attention_flops: window": (
        lambda: attention.attention_flops(t=5, s=5, h=1, d_k=1, d_v=1, window=-2),
        "window must be",
    ),
    "attention: lengths": (
        lambda: attention.attention(*QKV, lengths=jnp.array(3)),
        "lengths must be from 0 to the 2 keys, got 3 to 3",
    ),
    "attention_weights: lengths below 0": (
        lambda: attention.attention_weights(*QKV[:2], lengths=jnp.array(-1)),
        "lengths must be from 0",
    ),
    "attention: lengths of no batch": (
        lambda: attention.attention(*QKV, lengths=whole(2)),
        r"lengths must have shape \(\), got \(2,\)",
    ),
    "attention: float lengths": (
        lambda: attention.attention(*QKV, lengths=a()),
        "lengths must be integers, got float64",
    ),
    "attention: segments": (
        lambda: attention.attention(*QKV, segment_ids=whole(5)),
        r"kv_segment_ids must have shape \(2,\), got \(5,\)",
    ),
    "attention: segments of keys alone": (
        lambda: attention.attention(*QKV, kv_segment_ids=whole(2)),
        "kv_segment_ids without segment_ids",
    ),
    "attention: segment dtypes": (
        lambda: attention.attention(
            *QKV, segment_ids=whole(5), kv_segment_ids=whole(2).astype("int8")
        ),
        "share one dtype, got segment_ids int64, kv_segment_ids int8",
    ),
    "attention: soft cap": (
        lambda: attention.attention(*QKV, softcap=0.0),
        "softcap must be above 0, got 0.0",
    ),
    "attention: slopes": (
        lambda: attention.attention(*QKV, alibi=a(2)),
        r"alibi must hold one slope a head, \(3,\), got \(2,\)",
    ),
    "attention: traced scale": (
        lambda: jax.jit(lambda scale: attention.attention(*QKV, scale=scale))(0.1),
        "scale must be known while the program is traced, got a traced array; pass a number",
    ),
    "init_mlp: widths in an array": (
        lambda: layers.init_mlp(GET, whole(3)),
        r"widths must be known .* got an array of shape \(3,\); .* tuple\(x\)",
    ),
    "attention: mask by name": (
        lambda: attention.attention(*QKV, mask="causal"),
        "mask must be an array or a tree of arrays, got str in it",
    ),
    "fit: misspelt": (
        lambda: train.fit(squared, a(), a(3), optimiser=optax.sgd(0.1)),
        "got an unexpected keyword argument 'optimiser'",
    ),
    "dense: misspelt": (
        lambda: layers.dense(KERNEL, a(4), rate="fast"),
        "got an unexpected keyword argument 'rate'",
    ),
    "fit: generator": (
        lambda: fit(squared, a(), (a() for _ in range(3))),
        "batches must be an array or a tree of arrays, got generator in it; .*jnp.stack",
    ),
    "attention: lengths beyond keys by name": (
        lambda: attention.attention(QKV[0], k=QKV[1], v=QKV[2], lengths=jnp.array(9)),
        "lengths must be from 0 to the 2 keys, got 9",
    ),
    "attention: mask that gives nothing": (
        lambda: attention.attention(*QKV, mask=lambda *_: None),
        "must give booleans.* got NoneType",
    ),
    "attention_flops: no query": (
        lambda: attention.attention_flops(t=0, s=5, h=1, d_k=1, d_v=1),
        "t must be a whole number of at least 1, got 0",
    ),
    "rope: base": (lambda: attention.rope(a(5, 3, 8), base=0.0), "base must be above 0"),
    "combine: one set": (
        lambda: lora.combine({"w": LOW}, [1.0]),
        r"adapters must be a list of sets.* got one dict; pass \[adapters\]",
    ),
    "init: no regular expression": (
        lambda: adapters(where="("),
        r"where must be a regular expression, got '\('",
    ),
    "init: no regular expression for a rank": (
        lambda: adapters({"(": 2}),
        r"rank must be a regular expression, got '\('",
    ),
    "save_peft: scale": (
        lambda: lora.save_peft("never", {"w": replace(LOW, scale=np.nan)}, {"w": "w"}),
        "scale of w must be finite, got nan",
    ),
    "rope: width": (lambda: attention.rope(a(5, 3, 7)), "an even width, got .5, 3, 7."),
    "rope: positions": (
        lambda: attention.rope(a(5, 3, 8), whole(4)),
        r"positions of shape \(4,\) does not broadcast to .* \(5,\): its axis -1",
    ),
    "rope: float positions": (
        lambda: attention.rope(a(5, 3, 8), a(5)),
        "positions must be integers, got float64",
    ),
    "attention: mask rank": (
        lambda: attention.attention(*QKV, mask=jnp.ones((1, 1, 1, 1), bool)),
        "does not broadcast",
    ),
    "init_multi_head: heads": (
        lambda: attention.init_multi_head(GET, 6, 4),
        "got 4 heads for 6",
    ),
    "init_multi_head: kv_heads": (
        lambda: attention.init_multi_head(GET, 6, 3, kv_heads=2),
        "kv_heads 2 must divide heads 3",
    ),
    "multi_head_attention: narrow keys": (
        lambda: attention.multi_head_attention(
            {**HEADS, "key": {"kernel": a(6, 4)}}, a(5, 6), heads=2
        ),
        "keys 4 wide are no whole number of heads",
    ),
    "multi_head_attention: heads": (
        lambda: attention.multi_head_attention(HEADS, a(5, 6), heads=4),
        "got 4 heads for 6",
    ),
    "multi_head_attention: keys": (
        lambda: attention.multi_head_attention({"query": {}}, a(5, 6), heads=2),
        r"got \['query'\]",
    ),
    "multi_head_attention: rank": (
        lambda: attention.multi_head_attention(HEADS, a(6), heads=2),
        "x must be",
    ),
    "init_block: seed": (lambda: transformer.init_block(0, 6, 2), "key must be one random key"),
    "init_block: depth": (
        lambda: transformer.init_block(GET, 6, 2, depth=0),
        "depth must be a whole number",
    ),
    "block: keys": (lambda: transformer.block(KERNEL, a(5, 6), heads=2), r"got \['kernel'\]"),
    "init_gpt: vocabulary": (
        lambda: transformer.init_gpt(GET, SMALL.replace(vocabulary=0)),
        "vocabulary must be a whole number",
    ),
    "init_gpt: blocks": (
        lambda: transformer.init_gpt(GET, SMALL.replace(blocks=0)),
        "blocks must be a whole number",
    ),
    "init_gpt: integers": (
        lambda: transformer.init_gpt(GET, SMALL, dtype=int),
        "dtype must be floating, got int64",
    ),
    "gpt: token too high": (lambda: gpt(GPT, whole(3) * 11), r"in 0\.\.10, .* got 11"),
    "gpt: token below zero": (lambda: gpt(GPT, -whole(3)), r"in 0\.\.10, .* got -1"),
    "gpt: floats": (lambda: gpt(GPT, a(3)), "tokens must be integers, got float64"),
    "gpt: context": (lambda: gpt(GPT, whole(9)), r"at most the context, 8, got shape \(9,\)"),
    "gpt: list": (lambda: gpt(GPT, [1, 2]), "tokens must be one array, got list"),
    "gpt: other parameters": (
        lambda: gpt(GPT | {"positions": {"embedding": a(9, 6)}}, whole(3)),
        r"params\['positions'\]\['embedding'\] must be \(8, 6\) by config, got \(9, 6\)",
    ),
    "gpt: missing parameters": (
        lambda: gpt({name: GPT[name] for name in ("tokens", "positions", "blocks")}, whole(3)),
        r"params\['norm'\]\['bias'\] must be \(6,\) by config, got nothing",
    ),
    "gpt_parts: length": (
        lambda: transformer.gpt_parts(SMALL, t=0),
        "t must be a whole number",
    ),
    "generate: context": (
        lambda: generate(whole(3), steps=6),
        r"must fit the context, 8, got 3 \+ 6",
    ),
    "generate: token": (lambda: generate(whole(3) * 11, steps=2), "got 11"),
    "generate: steps": (lambda: generate(whole(3), steps=0), "steps must be a whole number"),
    "generate: temperature": (
        lambda: generate(whole(3), steps=2, temperature=-1.0),
        "temperature must be at least 0, got -1.0",
    ),
    "generate: many temperatures": (
        lambda: generate(whole(3), steps=2, temperature=a(2)),
        "temperature must be one number",
    ),
    "generate: temperature that is NaN": (
        lambda: generate(whole(3), steps=2, temperature=jnp.nan),
        "temperature must be at least 0, got nan",
    ),
    "generate: top_k": (
        lambda: generate(whole(3), steps=2, top_k=12),
        r"in 1\.\.11, .* got 12",
    ),
    "generate: top_p": (
        lambda: generate(whole(3), steps=2, top_p=0.0),
        "top_p must be above 0 and at most 1, got 0.0",
    ),
    "generate: seed": (
        lambda: transformer.generate(0, GPT, whole(3), config=SMALL, steps=2),
        "key must be one random key",
    ),
    "truncate_logits: scalar": (lambda: transformer.truncate_logits(a()), "logits must be"),
    "truncate_logits: top_k": (
        lambda: transformer.truncate_logits(a(3), top_k=0),
        "top_k must be a whole number",
    ),
    **{
        f"{function}: top_p {top_p!r}": (call(top_p), f"top_p must be {wanted}")
        for function, call in {
            "truncate_logits": lambda p: lambda: transformer.truncate_logits(a(3), top_p=p),
            "generate": lambda p: lambda: generate(whole(3), steps=2, top_p=p),
        }.items()
        for top_p, wanted in {
            0: "above 0 and at most 1, got 0",
            1.5: "above 0 and at most 1, got 1.5",
            np.float32(-1): "above 0",
            "most": "one number, got 'most'",
        }.items()
    },
    "truncate_logits: top_p of an array": (
        lambda: transformer.truncate_logits(a(3), top_p=0 * a()),
        "top_p must be above 0",
    ),
    "generate: many top_p": (
        lambda: generate(whole(3), steps=2, top_p=a(2)),
        "top_p must be one number",
    ),
    "truncate_logits: integers": (
        lambda: transformer.truncate_logits(whole(3)),
        "logits must be floating",
    ),
    **{
        f"{function}: {name}": (partial(as_asked, call, config), said)
        for function, call in {
            "init_gpt": lambda config: transformer.init_gpt(GET, config),
            "shard_gpt": lambda config: transformer.shard_gpt(GPT, MESH, config=config),
            "gpt": lambda config: transformer.gpt(GPT, whole(3), config=config),
            "gpt_parts": lambda config: transformer.gpt_parts(config),
            "generate": lambda config: generate(whole(3), config=config, steps=2),
            "save_gpt2": lambda config: transformer.save_gpt2("never", GPT, config=config),
        }.items()
        for name, config, said in (  # made where types are not checked
            ("no config", lambda: None, "config must be a GPTConfig, got NoneType"),
            ("ViT's config", lambda: VISION, "config must be a GPTConfig, got ViTConfig"),
            (
                "heads",
                lambda: SMALL.replace(heads=4),
                "heads must divide the width, got 4 heads for 6",
            ),
            (
                "half a head",
                lambda: SMALL.replace(heads=0.5),
                "heads must be a whole .* got 0.5",
            ),
        )
    },
    **{
        f"{function}: {name}": (partial(as_asked, call, config), said)
        for function, call in {
            "init_vit": lambda config: transformer.init_vit(GET, config),
            "vit": lambda config: transformer.vit({}, a(4, 6, 3), config=config),
            "vit_flops": lambda config: transformer.vit_flops(config=config),
        }.items()
        for name, config, said in (  # made where types are not checked
            ("no config", lambda: None, "config must be a ViTConfig, got NoneType"),
            (
                "flat image",
                lambda: VISION.replace(image=(4, 6)),
                r"image must be \(h, w, c\), got \(4",
            ),
            (
                "side of an image",
                lambda: VISION.replace(image=4),
                r"image must be \(h, w, c\), got 4",
            ),
            (
                "heads",
                lambda: VISION.replace(heads=4),
                "heads must divide the width, got 4 heads for 6",
            ),
        )
    },
    "init_block: heads": (
        lambda: transformer.init_block(GET, 6, 4),
        "heads must divide the width, got 4 heads for 6",
    ),
    "generate: no temperature": (
        lambda: generate(whole(3), steps=2, temperature=None),
        "temperature must be one number, got None",
    ),
    **{
        f"load_gpt2: heads {heads!r}": (
            lambda heads=heads: transformer.load_gpt2("never", heads=heads),
            f"heads must be a whole number of at least 1, got {heads!r}",
        )
        for heads in (2.0, "2", 0)
    },
    "pagerank: damping as a word": (
        lambda: rank(whole(2), whole(2), damping="a"),
        "damping must be one number, got 'a'",
    ),
    "pagerank: tol as a word": (
        lambda: rank(whole(2), whole(2), tol="x"),
        "tol must be one number, got 'x'",
    ),
    "pagerank: several tol": (
        lambda: rank(whole(2), whole(2), tol=a(2)),
        "tol must be one number, got Array",
    ),
    "save_gpt2: other parameters": (
        lambda: transformer.save_gpt2("never", GPT, config=SMALL.replace(blocks=3)),
        r"params\['blocks'\].* must be \(3, .*got \(2, ",
    ),
    "init_vit: patch": (
        lambda: transformer.init_vit(GET, VISION.replace(patch=4)),
        "patch 4 must divide the image, 4 x 6",
    ),
    "init_vit: classes": (
        lambda: transformer.init_vit(GET, VISION.replace(classes=0)),
        "classes must be a whole number",
    ),
    "vit: image": (
        lambda: transformer.vit({}, a(4, 6), config=VISION),
        r"image must be \(h, w, c\) = \(4, 6, 3\) as in config, got \(4, 6\)",
    ),
    "vit: parameters": (
        lambda: transformer.vit({}, a(4, 6, 3), config=VISION),
        "got nothing; pass the config",
    ),
    "svd: rank": (
        lambda: svd.svd(a(2, 3, 4)),
        r"x must be one matrix \(n, d\), got \(2, 3, 4\); jax.vmap takes many",
    ),
    "svd: four axes": (lambda: svd.svd(a(1, 2, 3, 4)), "x must be one matrix"),
    "svd: vector": (lambda: svd.svd(a(3)), r"x must be one matrix \(n, d\), got \(3,\)"),
    "svd: empty": (lambda: svd.svd(a(0, 4)), r"x has shape \(0, 4\), so there is nothing"),
    "svd: integers": (lambda: svd.svd(whole(5, 4)), "x must be floating, got int64"),
    "svd: complex": (
        lambda: svd.svd(a(5, 4).astype(complex)),
        "x must be floating, got complex128",
    ),
    "svd: list": (lambda: svd.svd([[1.0]]), "x must be one array, got list"),
    "truncated_svd: SciPy's": (
        lambda: truncated(scipy.sparse.coo_array(np.eye(3))),
        r"x must be JAX's or NumPy's, got coo_array; .*x.toarray\(\) is not",
    ),
    "truncated_svd: rank 0": (
        lambda: truncated(a(5, 4), rank=0),
        "rank must be a whole number of at least 1, got 0",
    ),
    "truncated_svd: negative rank": (lambda: truncated(a(5, 4), rank=-1), "rank .* got -1"),
    "truncated_svd: half a rank": (lambda: truncated(a(5, 4), rank=1.5), "rank .* got 1.5"),
    "truncated_svd: rank too high": (
        lambda: truncated(a(5, 4), rank=5),
        r"rank must be between 1 and 4, the shorter side of x \(5, 4\), got 5",
    ),
    "truncated_svd: rank too high for an operator": (
        lambda: truncated(operator(shape=(3, 3)), rank=4),
        "rank must be between 1 and 3",
    ),
    "truncated_svd: vector": (lambda: truncated(a(5)), "x must be one matrix"),
    "truncated_svd: empty": (lambda: truncated(a(4, 0)), r"x has shape \(4, 0\)"),
    "truncated_svd: integers": (lambda: truncated(whole(5, 4)), "x must be floating"),
    "truncated_svd: list": (lambda: truncated([[1.0]]), "x must be one array, got list"),
    "truncated_svd: sparse integers": (
        lambda: truncated(BCOO.fromdense(whole(5, 4))),
        "x.data must be floating, got int64",
    ),
    "truncated_svd: nothing in it": (
        lambda: truncated(BCOO.fromdense(0 * a(5, 4))),
        "x.data has shape .0,., so there is nothing in it",
    ),
    "truncated_svd: sparse batch": (
        lambda: truncated(BCOO.fromdense(a(2, 5, 4), n_batch=1)),
        r"sparse x must be one matrix .* got shape \(2, 5, 4\), n_batch=1, n_dense=0",
    ),
    "truncated_svd: sparse vector": (
        lambda: truncated(BCOO.fromdense(a(5))),
        "sparse x must be one matrix",
    ),
    "truncated_svd: compressed batch": (
        lambda: truncated(BCSR.fromdense(a(2, 5, 4), n_batch=1)),
        "sparse x must be one matrix",
    ),
    "truncated_svd: dense axis": (
        lambda: truncated(BCOO.fromdense(a(5, 4), n_dense=1)),
        "n_dense=1",
    ),
    "truncated_svd: seed": (lambda: truncated(a(5, 4), key=0), "key must be one random key"),
    "truncated_svd: many keys": (
        lambda: truncated(a(5, 4), key=jax.random.split(GET, 2)),
        "key must be one random key",
    ),
    "truncated_svd: tol": (lambda: truncated(a(5, 4), tol=-1.0), "tol must not be negative"),
    "truncated_svd: NaN": (lambda: truncated(a(5, 4), tol=float("nan")), "tol .* got nan"),
    "truncated_svd: max_restarts": (
        lambda: truncated(a(5, 4), max_restarts=-1),
        "max_restarts must not be negative, got -1",
    ),
    "randomized_svd: seed": (
        lambda: svd.randomized_svd(0, a(5, 4), rank=2),
        "key must be one random key",
    ),
    "randomized_svd: order": (
        lambda: svd.randomized_svd(a(5, 4), GET, rank=2),
        "x must be (one array|floating)",
    ),
    "randomized_svd: rank": (lambda: randomized(a(5, 4), rank=5), "between 1 and 4"),
    "randomized_svd: rank 0": (lambda: randomized(a(5, 4), rank=0), "rank must be"),
    "randomized_svd: vector": (lambda: randomized(a(5)), "x must be one matrix"),
    "randomized_svd: integers": (lambda: randomized(whole(5, 4)), "x must be floating"),
    "randomized_svd: oversample": (
        lambda: randomized(a(5, 4), oversample=-1),
        "oversample must not be negative, got -1",
    ),
    "randomized_svd: power_iters": (
        lambda: randomized(a(5, 4), power_iters=-2),
        "power_iters must not be negative, got -2",
    ),
    "low_rank: rank": (lambda: svd.low_rank(a(5, 4), rank=5), "between 1 and 4"),
    "low_rank: rank 0": (lambda: svd.low_rank(a(5, 4), rank=0), "rank must be a whole"),
    "low_rank: sparse": (
        lambda: svd.low_rank(BCOO.fromdense(a(5, 4)), rank=2),
        "x must be one array, got BCOO",
    ),
    "low_rank: vector": (lambda: svd.low_rank(a(4), rank=1), "x must be one matrix"),
    "linear_operator: matrix": (
        lambda: svd.linear_operator(None, jnp.negative, shape=(3, 3)),
        "matvec must be a function of a vector, got None",
    ),
    "linear_operator: no transpose": (
        lambda: svd.linear_operator(jnp.negative, 3, shape=(3, 3)),
        "rmatvec must be a function of a vector, got 3",
    ),
    "linear_operator: integers": (
        lambda: operator(shape=(3, 3), dtype=int),
        "dtype must be floating, got int64",
    ),
    "linear_operator: shape": (
        lambda: operator(shape=(3,)),
        r"shape must be \(n, d\), got \(3,\)",
    ),
    "linear_operator: empty": (lambda: operator(shape=(0, 3)), "n must be a whole number"),
    "reconstruct: shapes": (
        lambda: svd.reconstruct(svd.SVD(a(5, 2), a(3), a(3, 4), True)),
        r"u \(n, r\), s \(r,\) and vt \(r, d\), got \(5, 2\), \(3,\) and \(3, 4\)",
    ),
    "reconstruct: batch": (
        lambda: svd.reconstruct(svd.SVD(a(2, 5, 3), a(2, 3), a(2, 3, 4), True)),
        "jax.vmap takes many",
    ),
    "reconstruct: integers": (
        lambda: svd.reconstruct(svd.SVD(a(5, 3), whole(3), a(3, 4), True)),
        "s must be floating",
    ),
    "tail_error: rank": (
        lambda: svd.tail_error(a(4), rank=5),
        r"rank must be a whole number in 0\.\.4, got 5",
    ),
    "tail_error: negative rank": (lambda: svd.tail_error(a(4), rank=-1), "got -1"),
    "tail_error: half a rank": (lambda: svd.tail_error(a(4), rank=0.5), "got 0.5"),
    "tail_error: matrix": (lambda: svd.tail_error(a(4, 3), rank=1), "s must be a vector"),
    "tail_error: integers": (
        lambda: svd.tail_error(whole(4), rank=1),
        "s must be floating",
    ),
    "linear_operator: half precision": (
        lambda: operator(shape=(3, 3), dtype="float16"),
        "dtype must be float32 or float64, got float16",
    ),
    "rank_for_energy: 0": (
        lambda: svd.rank_for_energy(a(4), energy=0.0),
        r"energy must be in \(0, 1\], got 0.0",
    ),
    "rank_for_energy: percent": (lambda: svd.rank_for_energy(a(4), energy=95), "got 95"),
    "rank_for_energy: NaN": (
        lambda: svd.rank_for_energy(a(4), energy=float("nan")),
        "got nan",
    ),
    "rank_for_energy: matrix": (
        lambda: svd.rank_for_energy(a(4, 3)),
        r"s must be a vector of singular values, got shape \(4, 3\)",
    ),
    "rank_for_energy: integers": (lambda: svd.rank_for_energy(whole(4)), "s must be floating"),
    "dot: widths": (lambda: similarity.dot(a(3), a(2)), r"a \(3,\) and b \(2,\)"),
    "dot: broadcast": (lambda: similarity.dot(a(3, 2), a(4, 2)), "do not broadcast"),
    "dot: integers": (lambda: similarity.dot(whole(3), whole(3)), "a must be floating"),
    "dot: dtypes": (lambda: similarity.dot(a(3), a(3).astype("float32")), "share one dtype"),
    "cosine_similarity: scalars": (lambda: similarity.cosine_similarity(a(), a()), "last axes"),
    "top_k: k": (lambda: similarity.top_k(a(3), a(4, 3), k=5), "between 1 and the 4 rows"),
    "top_k: widths": (lambda: similarity.top_k(a(2), a(4, 3), k=1), "with one d"),
    "top_k: measure": (
        lambda: similarity.top_k(a(3), a(4, 3), k=1, measure="l2"),
        "measure must be 'cosine' or 'dot', got 'l2'",
    ),
    "top_k: half a row": (
        lambda: similarity.top_k(a(3), a(4, 3), k=0.5),
        "k must be a whole number",
    ),
    "analogy: list": (lambda: similarity.analogy(a(4, 3), [0], 1, 2), "a must be one integer"),
    "analogy: k": (lambda: similarity.analogy(a(4, 3), 0, 1, 2, k=2), "the 1 rows"),
    "analogy: table": (lambda: similarity.analogy(a(4), 0, 1, 2), "table must be"),
    "analogy: rows": (lambda: similarity.analogy(a(4, 3), 0, 1, 2.0), "c must be one integer"),
    "fit_pca: integers": (lambda: pca.fit_pca(whole(5, 3), rank=1), "x must be floating"),
    "fit_pca: a list": (lambda: pca.fit_pca([[1.0], [2.0]], rank=1), "x must be one array"),
    "fit_pca: masked": (
        lambda: pca.fit_pca(np.ma.ones((5, 3)), rank=1),
        "x must be one array, got MaskedArray; fill its gaps, x.filled",
    ),
    "fit_pca: vector": (
        lambda: pca.fit_pca(a(5), rank=1),
        "x must be one matrix",
    ),
    "fit_pca: 4-D": (lambda: pca.fit_pca(a(2, 2, 5, 3), rank=1), "jax.vmap takes many"),
    "fit_pca: one row": (lambda: pca.fit_pca(a(1, 3), rank=1), "2 rows or more"),
    "fit_pca: empty": (lambda: pca.fit_pca(a(5, 0), rank=1), "x has shape"),
    "fit_pca: rank 0": (
        lambda: pca.fit_pca(a(5, 3), rank=0),
        "rank must be a whole number of at least 1, got 0",
    ),
    "fit_pca: negative rank": (lambda: pca.fit_pca(a(5, 3), rank=-1), "at least 1, got -1"),
    "fit_pca: rank 4": (
        lambda: pca.fit_pca(a(5, 3), rank=4),
        "rank must be between 1 and 3, the shorter side, got 4",
    ),
    "fit_pca: no size": (lambda: pca.fit_pca(a(5, 3)), "give either rank or variance"),
    "fit_pca: two sizes": (
        lambda: pca.fit_pca(a(5, 3), rank=2, variance=0.5),
        "give either rank or variance, got rank=2 and variance=0.5",
    ),
    "fit_pca: variance 0": (
        lambda: pca.fit_pca(a(5, 3), variance=0.0),
        r"variance must be a share in \(0, 1\], got 0.0",
    ),
    "fit_pca: variance 2": (lambda: pca.fit_pca(a(5, 3), variance=2.0), "share in .* got 2.0"),
    "fit_pca: variance NaN": (
        lambda: pca.fit_pca(a(5, 3), variance=float("nan")),
        "share in .* got nan",
    ),
    "fit_pca: variance under jit": (
        lambda: jax.jit(partial(pca.fit_pca, variance=0.5))(a(5, 3)),
        "variance chooses a size.* pass rank",
    ),
    "fit_pca: where": (
        lambda: pca.fit_pca(a(5, 3), rank=1, where=a(5)),
        r"where must be boolean, one flag a row, shape \(5,\), got float64 \(5,\)",
    ),
    "fit_pca: short where": (
        lambda: pca.fit_pca(a(5, 3), rank=1, where=jnp.ones(3, bool)),
        r"where must be boolean.* got bool \(3,\)",
    ),
    "fit_pca: where, list": (
        lambda: pca.fit_pca(a(5, 3), rank=1, where=[True] * 5),
        "where must be one array, got list",
    ),
    "fit_pca: where, sparse": (
        lambda: pca.fit_pca(BCOO.fromdense(a(5, 3)), rank=1, where=jnp.ones(5, bool)),
        "where is for dense x",
    ),
    "fit_pca: solver": (
        lambda: pca.fit_pca(a(5, 3), rank=1, solver="full"),
        "solver must be one of .* got 'full'",
    ),
    "fit_pca: seed": (
        lambda: pca.fit_pca(a(5, 3), rank=1, key=0),
        "key must be one random key",
    ),
    "explained_variance_ratio: integers": (
        lambda: pca.explained_variance_ratio(FITTED._replace(total_variance=whole())),
        "total_variance must be floating",
    ),
    "pca_encode: integers": (lambda: pca.pca_encode(FITTED, whole(5, 3)), "x must be floating"),
    "pca_encode: width": (
        lambda: pca.pca_encode(FITTED, a(5, 2)),
        r"x \(5, 2\) must have rows of 3, the width that was fitted",
    ),
    "pca_encode: scalar": (lambda: pca.pca_encode(FITTED, a()), "must have rows of 3"),
    "pca_decode: integers": (
        lambda: pca.pca_decode(FITTED, whole(5, 2)),
        "codes must be floating",
    ),
    "pca_decode: width": (
        lambda: pca.pca_decode(FITTED, a(5, 3)),
        r"codes \(5, 3\) must have one coordinate for each of the 2 components",
    ),
    "moments: integers": (lambda: pca.moments(whole(5, 3)), "x must be floating"),
    "moments: vector": (lambda: pca.moments(a(5)), "x must be one matrix"),
    "moments: where": (
        lambda: pca.moments(a(5, 3), where=a(5)),
        "where must be boolean, one flag a row",
    ),
    "merge_moments: widths": (
        lambda: pca.merge_moments(pca.moments(a(5, 3)), pca.moments(a(5, 2))),
        r"rows must have one width, got \(3,\) and \(2,\)",
    ),
    "merge_moments: integers": (
        lambda: pca.merge_moments(pca.moments(a(5, 3))._replace(mean=whole(3)), FITTED),
        "a.mean must be floating",
    ),
    "pca_of_moments: rank": (
        lambda: pca.pca_of_moments(pca.moments(a(5, 3)), rank=4),
        "rank must be between 1 and 3",
    ),
    "pca_of_moments: integers": (
        lambda: pca.pca_of_moments(pca.moments(a(5, 3))._replace(scatter=whole(3, 3)), rank=1),
        "scatter must be floating",
    ),
    "fit_pca_stream: widths": (
        lambda: stream([a(5, 3), a(5, 3), a(5, 2)]),
        "chunk 2 has 2 columns, the chunks before it 3",
    ),
    "fit_pca_stream: integers": (
        lambda: stream([a(5, 3), whole(5, 3)]),
        "chunk 1 must be floating, got int64",
    ),
    "fit_pca_stream: vector": (
        lambda: stream([a(5)]),
        r"chunk 0 must be a matrix with rows in it, got shape \(5,\)",
    ),
    "fit_pca_stream: empty": (lambda: stream([a(5, 3), a(0, 3)]), "chunk 1 must be a matrix"),
    "fit_pca_stream: masked": (
        lambda: stream([np.ma.ones((5, 3))]),
        "chunk 0 is a masked array",
    ),
    "fit_pca_stream: no chunk": (lambda: stream([]), "two rows or more are needed, got 0"),
    "fit_pca_stream: one row": (
        lambda: stream([a(1, 3)]),
        "two rows or more are needed, got 1",
    ),
    "fit_pca_stream: 4-D": (lambda: stream(np.ones((2, 2, 5, 3))), "must be a matrix .n, d."),
    "fit_pca_stream: chunk_rows": (
        lambda: stream(np.ones((5, 3)), chunk_rows=0),
        "chunk_rows must be a whole number",
    ),
    "fit_pca_stream: shards": (
        lambda: stream(np.ones((5, 3)), shards=0),
        "shards must be a whole number",
    ),
    "fit_pca_stream: checkpoint": (
        lambda: stream([a(5, 3)], checkpoint="moments"),
        "checkpoint needs chunks to be one array with rows to slice, .* got list",
    ),
    "fit_pca_stream: rank": (lambda: stream([a(5, 3)], rank=4), "rank must be between 1 and 3"),
    "fit_pca_stream: no size": (
        lambda: stream([a(5, 3)], rank=None),
        "give either rank or variance",
    ),
    "fit_pca_stream: variance": (
        lambda: pca.fit_pca_stream([a(5, 3)], variance=-0.1),
        "variance must be a share",
    ),
    "power_iteration: matrix": (
        lambda: eigen.power_iteration(a(3), a(3, 2)),
        r"matrix must be \(n, n\) and start \(n,\) with one n, got \(3, 2\) and \(3,\)",
    ),
    "power_iteration: start": (lambda: eigen.power_iteration(a(3, 1), a(3, 3)), "one vector"),
    "power_iteration: integers": (
        lambda: eigen.power_iteration(a(3), whole(3, 3)),
        "matrix must be floating, got int64",
    ),
    "power_iteration: list": (
        lambda: eigen.power_iteration(a(3), [[1.0]]),
        "matrix must be one array, got list",
    ),
    "power_iteration: SciPy's": (
        lambda: eigen.power_iteration(a(3), scipy.sparse.csr_array(np.eye(3))),
        r"matrix must be JAX's or NumPy's, got csr_array; .*BCOO.from_scipy_sparse\(matrix\)",
    ),
    "power_iteration: dtypes": (
        lambda: eigen.power_iteration(a(3), a(3, 3).astype("float32")),
        "share one dtype",
    ),
    "power_iteration: function": (
        lambda: eigen.power_iteration(a(3), lambda v: v[:2]),
        r"matrix must map a vector of shape \(3,\)",
    ),
    "power_iteration: tol": (
        lambda: eigen.power_iteration(a(3), a(3, 3), tol=0.0),
        "tol must be positive, got 0.0",
    ),
    "power_iteration: max_iters": (
        lambda: eigen.power_iteration(a(3), a(3, 3), max_iters=0),
        "max_iters must be a whole number",
    ),
    "pagerank: no node": (lambda: rank(whole(2), whole(2), n=0), "n must be a whole number"),
    "pagerank: node numbers": (
        lambda: rank(whole(2), 3 * whole(2)),
        "targets must number nodes from 0 to n - 1 = 2, got numbers from 3 to 3",
    ),
    "pagerank: negative node": (lambda: rank(-whole(2), whole(2)), "sources must number nodes"),
    "pagerank: floats": (lambda: rank(a(2), whole(2)), "sources must be an integer array"),
    "pagerank: list": (lambda: rank([0], whole(1)), "sources must be an integer array.*list"),
    "pagerank: lengths": (lambda: rank(whole(2), whole(3)), r"\(2,\) and targets \(3,\)"),
    "pagerank: rank": (lambda: rank(whole(2, 2), whole(2, 2)), "must be one vector"),
    "pagerank: damping 1": (
        lambda: rank(whole(2), whole(2), damping=1.0),
        "damping must be one number, at least 0 and below 1, got 1.0",
    ),
    "pagerank: many dampings": (
        lambda: rank(whole(2), whole(2), damping=a(2) / 2),
        "damping must be one number",
    ),
    "pagerank: personalization shape": (
        lambda: rank(whole(2), whole(2), personalization=a(2)),
        r"must have shape \(3,\), one number a node, got \(2,\)",
    ),
    "pagerank: personalization": (
        lambda: rank(whole(2), whole(2), personalization=-a(3)),
        "personalization must be finite, not negative, and positive somewhere",
    ),
    "pagerank: zero personalization": (
        lambda: rank(whole(2), whole(2), personalization=0 * a(3)),
        "positive somewhere",
    ),
    "pagerank: NaN": (
        lambda: rank(whole(2), whole(2), personalization=jnp.nan * a(3)),
        "personalization must be finite",
    ),
    "pagerank: integer personalization": (
        lambda: rank(whole(2), whole(2), personalization=whole(3)),
        "personalization must be floating",
    ),
    "pagerank: tol": (lambda: rank(whole(2), whole(2), tol=-1.0), "tol must be positive"),
    "pagerank: max_iters": (
        lambda: rank(whole(2), whole(2), max_iters=0.5),
        "max_iters must be a whole number",
    ),
    "als: seed": (
        lambda: factorize.als(0, whole(4), whole(4), a(4), **ALS),
        "key must be one random key",
    ),
    "als: lists": (lambda: als([0], [1], [2.0]), "ratings must be one array, got list"),
    "als: floating ids": (lambda: als(a(4), whole(4), a(4)), "users must be integers"),
    "als: whole ratings": (lambda: als(whole(4), whole(4), whole(4)), "ratings must be float"),
    "als: lengths": (
        lambda: als(whole(4), whole(4), a(5)),
        r"users \(4,\), items \(4,\) and ratings \(5,\) must be vectors of one length",
    ),
    "als: no rating": (lambda: als(whole(0), whole(0), a(0)), "there is nothing in it"),
    "als: shape": (lambda: als(whole(4), whole(4), a(4), shape=3), "shape must be"),
    "als: no item": (
        lambda: als(whole(4), whole(4), a(4), shape=(3, 0)),
        r"shape\[1\] must be a whole number",
    ),
    "als: rank": (lambda: als(whole(4), whole(4), a(4), rank=0), "rank must be a whole"),
    "als: sweeps": (lambda: als(whole(4), whole(4), a(4), iterations=0), "iterations must be"),
    "als: user out of range": (
        lambda: als(3 * whole(4), whole(4), a(4)),
        "users must be numbers from 0 to 2 .*got 3",
    ),
    "als: item below 0": (
        lambda: als(whole(4), np.array([0, 1, -2, 1]), np.ones(4)),
        "items must be numbers from 0 to 1 .*got -2",
    ),
    "als: missing as NaN": (
        lambda: als(whole(4), whole(4), a(4).at[2].set(jnp.nan)),
        "ratings must be finite, got 1 that are not; leave missing",
    ),
    "als: l2": (lambda: als(whole(4), whole(4), a(4), l2=0.0), "l2 must be finite and above 0"),
    "als: several l2": (
        lambda: als(whole(4), whole(4), a(4), l2=a(2)),
        "l2 must be one number, got .*1",
    ),
    "als: l2 as a word": (
        lambda: als(whole(4), whole(4), a(4), l2="1"),
        "l2 must be one number, got '1'",
    ),
    "implicit_als: several alphas": (
        lambda: implicit_als(whole(4), whole(4), a(4), alpha=np.ones(2)),
        "alpha must be one number, got array",
    ),
    "implicit_als: NaN": (
        lambda: implicit_als(whole(4), whole(4), a(4) * jnp.nan),
        "amounts must be finite, got 4",
    ),
    "implicit_als: zero": (
        lambda: implicit_als(whole(4), whole(4), a(4).at[0].set(0)),
        "amounts must be above 0, got 0.0",
    ),
    "implicit_als: alpha": (
        lambda: implicit_als(whole(4), whole(4), a(4), alpha=-1.0),
        "alpha must be finite and at least 0, got -1.0",
    ),
    "predict_rating: names": (
        lambda: factorize.predict_rating(MODEL, a(2), whole(2)),
        "users must be integers",
    ),
    "predict_rating: shapes": (
        lambda: factorize.predict_rating(MODEL, whole(3), whole(2)),
        r"users \(3,\) and items \(2,\) do not broadcast",
    ),
    "recommend: k": (lambda: factorize.recommend(MODEL, 0, k=3), "the 2 items, got 3"),
    "recommend: name": (lambda: factorize.recommend(MODEL, a(), k=1), "users must be integers"),
    "recommend: half an item": (
        lambda: factorize.recommend(MODEL, 0, k=0.5),
        "k must be a whole number",
    ),
    "recommend: exclude": (
        lambda: factorize.recommend(MODEL, whole(3), k=1, exclude=whole(2)),
        r"exclude must be \(3, 'left_out'\)",
    ),
    "recommend: exclude by mask": (
        lambda: factorize.recommend(MODEL, 0, k=1, exclude=jnp.array([True, False])),
        "exclude must be integers",
    ),
    "normal_equation: integers": (
        lambda: regression.normal_equation(whole(4, 2), a(4)),
        "x must be floating",
    ),
    "normal_equation: dtypes": (
        lambda: regression.normal_equation(a(4, 2), a(4).astype("float32")),
        "operands must share one dtype",
    ),
    "normal_equation: few examples": (
        lambda: regression.normal_equation(a(2, 4), a(2)),
        "x has 2 examples and 4 features",
    ),
    "least_squares: lengths": (
        lambda: regression.least_squares(a(4, 2), a(5)),
        r"a row for each example, got \(4, 2\) and \(5,\)",
    ),
    "least_squares: few examples": (
        lambda: regression.least_squares(a(2, 4), a(2)),
        "ridge.* picks small ones",
    ),
    "ridge: vector": (lambda: regression.ridge(a(4), a(4), l2=1.0), r"x must be \(n, d\)"),
    "ridge: no penalty": (
        lambda: regression.ridge(a(4, 2), a(4), l2=None),
        "l2 must be one number, got a NoneType",
    ),
    "ridge: many penalties": (
        lambda: regression.ridge(a(4, 2), a(4), l2=a(3)),
        "l2 must be one number",
    ),
    "init: a number for a key": (
        lambda: lora.init(0, TREE, 2, where="w"),
        "key must be one random key",
    ),
    "init: no leaf": (lambda: adapters(where="nothing"), "'nothing' finds none of heads, w"),
    "init: one pattern in vain": (
        lambda: adapters(where=["w", "bias"]),
        "where must find floating arrays of two axes or more; 'bias' finds none",
    ),
    "init: integers": (lambda: adapters(where="ids"), "where must find floating arrays"),
    "init: no pattern": (lambda: adapters(where=[]), "where must .* nothing finds none"),
    "init: no such leaf by function": (
        lambda: adapters(where=lambda path, leaf: leaf.ndim > 3),  # noqa: ARG005
        "'the function' finds none",
    ),
    "init: rank 0": (lambda: adapters(0), r"rank of w must be a whole number in 1\.\.3, got 0"),
    "init: rank too large": (lambda: adapters(4), r"rank of w .* in 1\.\.3, got 4"),
    "init: half a rank": (lambda: adapters(2.5), "rank of w .* got 2.5"),
    "init: no rank for a leaf": (
        lambda: adapters({"heads": 2}),
        "rank must say something of w",
    ),
    "init: three axes": (
        lambda: adapters(where="heads"),
        r"layout must say of heads \(2, 5, 7\) which axes are in, out or stacked",
    ),
    "init: layout": (
        lambda: adapters(layout="i o o"),
        "layout of w must have one of b, i, o for each of its 2 axes",
    ),
    "init: layout without out": (lambda: adapters(layout="b i"), "layout of w must have one"),
    "init: beginning": (
        lambda: adapters(init="gauss"),
        "init must be 'kaiming' or 'embedding'",
    ),
    "init: dtype": (lambda: adapters(dtype=int), "dtype must be floating, got int64"),
    "parameters: rank 0": (
        lambda: lora.parameters(d_in=3, d_out=5, r=0),
        "r must be a whole number",
    ),
    "merge: no leaf": (
        lambda: lora.merge(TREE, {"v": LOW}),
        "adapter v has no leaf; there are bias, heads, ids, w",
    ),
    "merge: shape": (
        lambda: lora.merge(TREE, {"w": lora.LowRank(a(5, 2), a(2, 7))}),
        r"adapter w must have a \(5, 2\) and b \(2, 3\) for an array \(5, 3\) of layout 'i o'",
    ),
    "merge: ranks": (
        lambda: lora.merge(TREE, {"w": lora.LowRank(a(5, 2), a(1, 3))}),
        r"got \(5, 2\) and \(1, 3\)",
    ),
    "merge: layout": (
        lambda: lora.merge(TREE, {"w": lora.LowRank(a(5, 2), a(2, 3), 1.0, "io")}),
        "layout of w must have one of b, i, o",
    ),
    "merge: integers": (
        lambda: lora.merge(TREE, {"ids": lora.LowRank(a(3, 1), a(1, 3))}),
        "ids must be a floating array to have an adapter, got int64",
    ),
    "merge: an array": (
        lambda: lora.merge(TREE, {"w": a(5, 3)}),
        "adapter w must be a LowRank",
    ),
    "merge: a list": (lambda: lora.merge(TREE, [LOW]), "adapters must be a dict"),
    "lift: no function": (lambda: lora.lift(TREE), "fun must be a function"),
    "lift: no leaf": (lambda: lifted({"v": LOW}), "adapter v has no leaf"),
    "lift: shape": (lambda: lifted({"heads": LOW}), "layout of heads must have one"),
    "lift: strict": (
        lambda: lora.lift(lambda p: jnp.exp(p["w"]), strict=True)(TREE, {"w": LOW}),
        "w goes into exp, which has no factored form",
    ),
    "extract: nothing said of the rank": (
        lambda: lora.extract(TREE, TREE, where="w"),
        "give rank or energy, one of them",
    ),
    "extract: both said": (
        lambda: lora.extract(TREE, TREE, where="w", rank=1, energy=0.5),
        "give rank or energy, one of them",
    ),
    "extract: shapes": (
        lambda: lora.extract(TREE, TREE | {"w": a(5, 2)}, where="w", rank=1),
        r"base and tuned must be alike, but w is \(5, 3\) and \(5, 2\)",
    ),
    "extract: trees": (
        lambda: lora.extract(TREE, {"w": a(5, 3)}, where="w", rank=1),
        "must be alike, but bias is .* and absent",
    ),
    "extract: NaN": (
        lambda: lora.extract({"w": a(5, 3)}, not_finite, where="w", rank=1),
        "w must be finite, got NaN",
    ),
    "extract: rank": (
        lambda: lora.extract(TREE, TREE, where="w", rank=4),
        r"rank of w .* in 1\.\.3, got 4",
    ),
    "rank_for_energy: of an extraction": (
        lambda: lora.extract(TREE, TREE, where="w", energy=1.5),
        "energy must be in",
    ),
    "residual: trees": (lambda: lora.residual(TREE, {}, {}), "base and tuned must be alike"),
    "pissa: infinity": (
        lambda: lora.pissa({"w": a(5, 3) / 0}, 1, where="w"),
        "w must be finite",
    ),
    "combine: weights": (
        lambda: lora.combine([{"w": LOW}], [1.0, 2.0]),
        "weights must be one number for each set of adapters, got 2 for 1",
    ),
    "combine: nothing": (lambda: lora.combine([], []), "weights must be one number"),
    "combine: shapes": (
        lambda: lora.combine([{"w": LOW}, {"w": lora.LowRank(a(7, 2), a(2, 3))}], [1.0, 1.0]),
        "adapters of w must be of one layout and shape",
    ),
    "combine: rank": (
        lambda: lora.combine([{"w": LOW}], [1.0], rank=3),
        r"rank of w must be a whole number in 1\.\.2, got 3",
    ),
    "combine: both said": (
        lambda: lora.combine([{"w": LOW}], [1.0], rank=1, energy=0.5),
        "give rank or energy, one of them",
    ),
    "resize: nothing said": (lambda: lora.resize({"w": LOW}), "give rank or energy"),
    "fold: an array": (lambda: lora.fold({"w": a(3)}), "adapter w must be a LowRank"),
    "save_peft: an array": (
        lambda: lora.save_peft("nowhere", {"w": a(3)}, {"w": "w"}),
        "adapter w must be a LowRank",
    ),
    "fit: integers": (lambda: fit(squared, jnp.array(1), a(3)), "params must be floating"),
    "fit: steps": (
        lambda: fit(squared, a(), {"x": a(3), "y": a(4)}),
        r"batches\['x'\] \(3,\), batches\['y'\] \(4,\)",
    ),
    "fit: no axis": (lambda: fit(squared, a(), a()), "must be the step"),
    "fit: no batch": (lambda: fit(squared, a(), ()), "got no array"),
    "fit: no step": (lambda: fit(squared, a(), a(0)), r"batches has shape \(0,\)"),
    "fit: loss with extras": (
        lambda: fit(lambda w, x: (squared(w, x), x), a(), a(3)),
        "one floating scalar, alone, got tuple",
    ),
    "fit: complex loss": (
        lambda: fit(lambda w, x: squared(w, x).astype(complex), a(), a(3)),
        "one floating scalar, alone, got complex128",
    ),
    "fit: no function": (lambda: fit(3, a(), a(3)), "loss_fn must be a function.*got 3"),
    "fit: optimizer not made": (
        lambda: fit(squared, a(), a(3), optimizer=optax.sgd),
        "optimizer must be an optax transformation",
    ),
    "fit: another optimizer's state": (
        lambda: fit(squared, a(), a(3), opt_state=optax.adam(0.1).init(a())),
        "opt_state must be what this optimizer keeps",
    ),
    "fit: other parameters' state": (
        lambda: train.fit(
            squared, a(), a(3), optimizer=optax.adam(0.1), opt_state=optax.adam(0.1).init(a(2))
        ),
        "opt_state must be what this optimizer keeps",
    ),
    "fit: a loss that is not passed on": (
        lambda: fit(squared, a(), a(4), optimizer=optax.MultiSteps(optax.polyak_sgd(), 2)),
        "optimizer has a part that asks for the loss.*such as optax.MultiSteps",
    ),
    "fit: metrics left out": (
        lambda: fit(squared, a(), a(3), has_aux=True),
        r"must return \(loss, metrics\), got",
    ),
    "fit: vector loss with metrics": (
        lambda: fit(lambda w, x: (squared(w, x)[None], x), a(), a(3), has_aux=True),
        r"a scalar, got shape \(1,\)",
    ),
    "fit_in_chunks: chunk": (
        lambda: train.fit_in_chunks(squared, a(), a(3), chunk=0, optimizer=optax.sgd(0.1)),
        "chunk must be a whole number",
    ),
    "fit_in_chunks: a function, and no end": (
        lambda: chunks(squared, a(), lambda steps: a(len(steps))),
        "steps must be given where batches is a function",
    ),
    "fit_in_chunks: an end that the arrays have": (
        lambda: chunks(squared, a(), a(3), steps=3),
        "steps must be given where batches is a function.*only there, got steps=3",
    ),
    "fit_in_chunks: no step": (
        lambda: chunks(squared, a(), lambda steps: a(len(steps)), steps=0),
        "steps must be a whole number",
    ),
    "fit_in_chunks: batches without their step": (
        lambda: chunks(squared, a(), lambda _: a(4), steps=4),
        r"batches\(range\(0, 2\)\) must give .* these 2 steps, got batches \(4,\); jnp.stack",
    ),
    "fit_in_chunks: one batch for all": (
        lambda: chunks(squared, a(), lambda at: {"x": a(1), "y": a(len(at))}, steps=4),
        r"these 2 steps, got batches\['x'\] \(1,\); jnp.stack",
    ),
    "fit_in_chunks: no batch": (
        lambda: chunks(squared, a(), lambda _: None, steps=4),
        "these 2 steps, got no array",
    ),
    "fit_in_chunks: lengths": (
        lambda: chunks(lambda *_: 1 / 0, a(), {"x": a(10), "y": a(8)}),
        r"of one length, got batches\['x'\] \(10,\), batches\['y'\] \(8,\); jnp.stack",
    ),
    "fit_in_chunks: no axis": (
        lambda: chunks(squared, a(), (a(3), a())),
        r"batches\[1\] \(\); jnp.stack",
    ),
    "fit_in_chunks: list of numbers": (
        lambda: chunks(squared, a(), [1.0, 2.0]),
        r"batches\[0\] must be an array whose first axis is the step, got float",
    ),
    "fit_in_chunks: generator": (
        lambda: chunks(squared, a(), (a() for _ in range(3))),
        "batches must be an array .* got generator; jnp.stack the batches",
    ),
    **{
        f"{function}: the name of a folder": (
            call,
            "must be an orbax.checkpoint.CheckpointManager, got str; pass CheckpointManager",
        )
        for function, call in {
            "fit_in_chunks": lambda: chunks(squared, a(), a(3), checkpoint="folder"),
            "save": lambda: checkpoint.save("folder", 1, a(3)),
            "finish": lambda: checkpoint.finish("folder"),
            "restore": lambda: checkpoint.restore("folder", a(3)),
        }.items()
    },
    "fingerprint: number": (
        lambda: checkpoint.fingerprint(np.ones(3).tolist()),
        "x must be one array, got list",
    ),
    "digest: number": (
        lambda: checkpoint.digest({"w": a(3), "rate": 0.1}),
        r"the leaf at \['rate'\] must be an array, got float",
    ),
    "save: step": (lambda: checkpoint.save(None, -1, a(3)), "step must be .* got -1"),
    "save: two leaves of one name": (
        lambda: checkpoint.save(None, 1, {"a.b": a(3), "a": {"b": a(3)}}),
        r"leaves at \['a'\]\['b'\] and \['a.b'\] would both be written as 'a.b'; rename",
    ),
    "save: number": (lambda: checkpoint.save(None, 1, 0.1), "the leaf at the root must be"),
    "save: nothing in it": (
        lambda: checkpoint.save(None, 1, {"w": a(3), "e": a(0, 3)}),
        r"the leaf at \['e'\] has shape \(0, 3\), so there is nothing",
    ),
    "save: four bits": (
        lambda: checkpoint.save(None, 1, [a(3), a(2).astype("uint4")]),
        r"the leaf at \[1\] must be of a dtype that orbax writes, got uint4",
    ),
    "shard_gpt: axis": (lambda: shard(axis="heads"), r"one of the mesh's, \('model',\)"),
    "shard_gpt: params": (lambda: shard({}), "params"),
    **{
        f"member: limit {limit!r}": (lambda limit=limit: launch.member(limit=limit), said)
        for limit, said in {
            0: "limit must be above 0 seconds and below 9223372036, got 0",
            np.inf: "above 0 seconds and below 9223372036, got inf",
            1e10: "above 0 seconds and below 9223372036, got 10000000000.0",
            "60": "limit must be one number, got '60'",
        }.items()
    },
    "supervise: nothing": (
        lambda: launch.supervise([], processes=1),
        "command must name a program",
    ),
    **{
        f"supervise: {name} {value!r}": (
            lambda option=(name, value): launch.supervise(
                ["true"], processes=1, **dict([option])
            ),
            f"{name} must be {said}, got {value!r}",
        )
        for name, value, said in (
            ("restarts", -1, "a whole number of at least 0"),
            ("restarts", 1.5, "a whole number of at least 0"),
            ("first", "0", "a whole number of at least 0"),
            ("grace", "1", "one number"),
            ("grace", -1.0, "at least 0 seconds"),
            ("address", "localhost", "HOST:PORT, .*"),
            ("address", "localhost:x", "HOST:PORT, .*"),
            ("address", "localhost:70000", "HOST:PORT, .*"),
        )
    },
    "supervise: elsewhere": (
        lambda: launch.supervise(["true"], processes=1, address="192.0.2.1:0"),
        "address must be this machine's for port 0, got host '192.0.2.1'",
    ),
    "supervise: none": (lambda: launch.supervise(["true"], processes=0), "must be a whole"),
    "supervise: others": (
        lambda: launch.supervise(["true"], processes=2, first=2, here=1),
        "first must be a number of the 2 processes with 0 after it, got 2",
    ),
    "supervise: port": (
        lambda: launch.supervise(["true"], processes=2, here=1),
        "a port that all hosts know, got '127.0.0.1:0'",
    ),
    "fit: vector loss": (lambda: fit(squared, a(2), a(3)), r"a scalar, got shape \(2,\)"),
}


@pytest.mark.filterwarnings("ignore:Python iterable type 'generator'")  # JAX's own word
@pytest.mark.parametrize("case", WRONG)
def test_the_message_names_the_function_and_the_fault(case):
    call, piece = WRONG[case]
    function = case.partition(":")[0]
    with pytest.raises((TypeError, ValueError), match=f"{function}: .*{piece}") as caught:
        call()
    assert len(str(caught.value)) < 300


IMAGE, FILTER = a(1, 5, 7, 2), a(3, 3, 2, 4)
SETTLED = {
    "number in an array": (
        lambda scale: attention.attention(*QKV, scale=scale),
        jnp.float32(0.5),
        0.5,
    ),
    "list": (lambda window: attention.attention(*QKV, window=window), [1, 0], (1, 0)),
    "option of an option": (
        lambda window: attention.multi_head_attention(HEADS, a(5, 6), heads=2, window=window),
        [1, jnp.array(0)],
        (1, 0),
    ),
    "NumPy's number": (lambda x: layers.layer_norm({}, a(3), epsilon=x), np.array(0.5), 0.5),
    "base": (lambda base: attention.rope(a(5, 3, 8), base=base), jnp.float32(100), 100.0),
    "list by place": (lambda x: layers.init_mlp(GET, x), [3, 4], (3, 4)),
    "lists in a list": (
        lambda x: layers.conv2d(IMAGE, FILTER, strides=x[0], padding=x[1:]),
        [[2, 1], [1, 1], [0, 1]],
        ((2, 1), (1, 1), (0, 1)),
    ),
    "list of sizes": (
        lambda shape: factorize.als(GET, whole(4), whole(4), a(4), shape=shape, rank=1),
        [3, 2],
        (3, 2),
    ),
    "list in a config": (
        lambda image: transformer.init_vit(GET, VISION.replace(image=image)),
        [4, 6, 3],
        (4, 6, 3),
    ),
}


@pytest.mark.parametrize("case", SETTLED)
def test_static_options_come_as_lists_and_arrays_too(case):
    call, loose, settled = SETTLED[case]
    jax.tree.map(np.testing.assert_array_equal, call(loose), call(settled))
    with jax.disable_jit():
        call(loose)


def test_the_messages_come_while_tracing_too():
    shape = jax.ShapeDtypeStruct((5, 2), "float32")
    with pytest.raises(ValueError, match="inner dimensions 2 and 4 differ"):
        jax.eval_shape(lambda x: layers.dense(KERNEL, x), shape)
    with pytest.raises(ValueError, match="inner dimensions 2 and 4 differ"):
        jax.vmap(partial(layers.dense, KERNEL))(a(3, 5, 2))


def test_masked_arrays_are_refused_by_jax_itself():
    with pytest.raises((TypeError, ValueError), match="masked"):
        layers.dense(KERNEL, np.ma.masked_array(np.ones(4), mask=[0, 1, 0, 0]))


@pytest.mark.parametrize("case", ["dense", "attention"])
def test_a_right_call_raises_nothing(case):
    {
        "dense": lambda: layers.dense(KERNEL, a(5, 4)),
        "attention": lambda: attention.attention(*QKV),
    }[case]()
