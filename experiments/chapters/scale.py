"""How big the matrices of published models are, and what it takes to multiply them."""

import math
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import jax
import jax.numpy as jnp

from experiments import published
from experiments.chapters.scale_devices import paper, scaling
from experiments.chapters.scale_hardware import cores, memory
from experiments.chapters.scale_map import concepts, systems
from experiments.published import A100, FP16, H100, M40, MODELS, TIME_SHARES, V100
from experiments.rows import flops, row
from lintoolkit.layers import dense_flops, embed

YEAR = 365 * 24 * 3600
DAY = 24 * 3600
TRILLION = 10**12
ADAM_FP32 = 4 * 4  # bytes of a weight in training: itself, its gradient, two moments

GPT3, LLAMA, LLAMA70 = MODELS["gpt3"], MODELS["llama-7b"], MODELS["llama2-70b"]


def sizes(*, seed: int, full: bool):
    """Parameters of published models, counted from the shapes of their layers."""
    del seed, full
    count = published.parameters
    totals = {name: count(model) for name, model in MODELS.items()}
    yield row(
        "sense-training-scale-params",
        {"parameters": totals, "largest": max(totals.values())},
        count,
        holds=10**9 < max(totals.values()) < TRILLION,
        note="Those of the bare models: BERT without its pooler and the heads of its training.",
    )
    card = H100.memory_bytes
    yield row(
        "sense-7-to-70-billion",
        {
            "llama_7b": count(LLAMA),
            "llama2_70b": count(LLAMA70),
            "fp16_gb_7b": 7e9 * FP16 / 1e9,
            "fp16_gb_70b": 70e9 * FP16 / 1e9,
            "fits_one_80gb_gpu": [count(model) * FP16 <= card for model in (LLAMA, LLAMA70)],
        },
        count,
    )
    yield row(
        "sense-trillion",
        {
            "power_of_ten": round(math.log10(TRILLION)),
            "fp16_terabytes": TRILLION * FP16 / 1e12,
            "fp32_adam_state_terabytes": TRILLION * ADAM_FP32 / 1e12,
            "h100_80gb_needed_fp16": math.ceil(TRILLION * FP16 / card),
        },
    )
    mixtral = MODELS["mixtral-8x7b"]
    # The gradient of one looked-up row says which rows of the table were used.
    table = {"embedding": jnp.ones((LLAMA.vocabulary, 1))}
    touched = jax.grad(lambda table: embed(table, jnp.array([7])).sum())(table)["embedding"]
    yield row(
        "sense-every-weight-every-word",
        {
            "mixtral_total": count(mixtral),
            "mixtral_active": count(mixtral, active=True),
            "active_share": count(mixtral, active=True) / count(mixtral),
            "dense_bytes_per_word_1t_fp16": float(TRILLION * FP16),
            "embedding_rows_used_of_32000": jnp.count_nonzero(touched),
        },
        count,
        embed,
        "jax.grad",
    )
    dense = ("gpt2-small", "gpt3", "llama-7b", "llama2-70b", "llama3.1-405b")
    blocks = {name: MODELS[name].blocks for name in dense}
    matrices = published.attention_matrices(GPT3) + published.mlp_matrices(GPT3)
    yield row(
        "sense-hundreds-of-layers",
        {
            "blocks": blocks,
            "any_block_count_over_200": any(count > 200 for count in blocks.values()),
            "gpt3_weight_matrices": GPT3.blocks * len(matrices),
        },
        published.attention_matrices,
        published.mlp_matrices,
    )
    yield row(
        "sense-layer-millions-values",
        {name: published.block_weights(MODELS[name]) for name in dense},
        published.block_weights,
    )
    in_matrices = published.matrix_parameters(LLAMA70)
    yield row(
        "matrices-70b-parameters",
        {
            "published_shape_total": count(LLAMA70),
            "in_matrices": in_matrices,
            "in_vectors": published.vector_parameters(LLAMA70),
            "matrix_share": in_matrices / count(LLAMA70),
        },
        published.matrix_parameters,
        published.vector_parameters,
    )
    in_matrices = published.matrix_parameters(LLAMA)
    yield row(
        "multiply-billions-live-in-matrices",
        {
            "llama_7b_parameters": count(LLAMA),
            "llama_7b_in_matrices": in_matrices,
            "matrix_share": in_matrices / count(LLAMA),
        },
        published.matrix_parameters,
        holds=in_matrices > 10**9 and in_matrices / count(LLAMA) > 0.999,
    )


def array(*shape):
    """An array of float32 that is priced, not made."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def price_products(model, *, tokens):
    """The FLOP cell of every matrix product of a forward pass, at the published shape."""

    def block(x, weights):
        query, key, value, out, *up, down = weights
        heads = lambda kernel: (x @ kernel).reshape(tokens, model.heads, -1)
        scores = jnp.einsum("thd,shd->hts", heads(query), heads(key))
        blend = jnp.einsum("hts,shd->thd", scores, heads(value)).reshape(x.shape) @ out
        return reduce(jnp.multiply, [blend @ kernel for kernel in up]) @ down, None

    def forward(x, blocks, table):
        x, _ = jax.lax.scan(block, x, blocks)
        return x @ table.T

    shapes = published.attention_matrices(model) + published.mlp_matrices(model)
    return flops(
        forward,
        array(tokens, model.width),
        tuple(array(model.blocks, *shape) for shape in shapes),
        array(model.vocabulary, model.width),
        formula=2 * published.forward_macs(model, tokens=tokens),
    )


def forward_pass(*, seed: int, full: bool):
    """Multiply-adds of one token and of a full context, compiled at the published shape."""
    del seed, full
    tokens = GPT3.context
    weights = published.weight_macs(GPT3, tokens=tokens)
    scores = published.score_macs(GPT3, tokens=tokens)
    total = published.forward_macs(GPT3, tokens=tokens)
    one_token = published.forward_macs(GPT3, tokens=1)
    stated = 3.5e14  # the article's
    shapes = published.attention_matrices(GPT3) + published.mlp_matrices(GPT3)
    yield row(
        "need-gpt3-macs",
        {
            "parameters": published.parameters(GPT3),
            "macs_2048_tokens_weights": weights,
            "macs_2048_tokens_attention": 2 * scores,
            "total": total,
            "stated_over_computed": stated / total,
            "macs_one_token": one_token,
            "flops_2048_tokens": 2 * total,
            "tokens_for_stated": stated / published.weight_macs(GPT3, tokens=1),
        },
        published.forward_macs,
        published.parameters,
        flops=price_products(GPT3, tokens=tokens),
    )
    yield row(
        "need-second-year-by-hand",
        {"gpt3_one_token_macs": one_token, "years_at_one_mac_per_second": one_token / YEAR},
        published.forward_macs,
    )
    yield row(
        "sense-forward-billions-madds",
        {
            "macs_per_token_7b": 7e9,
            "macs_per_token_70b": 70e9,
            "macs_per_token_1t": float(TRILLION),
            "llama_7b_exact_macs_first_token": published.forward_macs(LLAMA, tokens=1),
        },
        published.forward_macs,
        flops=price_products(LLAMA, tokens=1),
        note="The round figures are one multiply-add for each weight; the FLOP are of the "
        "first token of LLaMA-7B.",
    )
    yield row(
        "need-mostly-matmul",
        {"gpt3_matmul_share": round(published.matmul_share(GPT3, tokens=tokens), 4)},
        published.matmul_share,
        fitted=True,
        note=published.COUNTED,
    )
    bert = replace(MODELS["bert-large"], vocabulary=0)
    yield row(
        "need-every-gpu-cycle",
        {
            "bert_large_flop_share": round(
                published.matmul_share(bert, tokens=bert.context), 4
            ),
            "quoted_time_share_low": TIME_SHARES.low,
            "quoted_time_share_high": TIME_SHARES.high,
        },
        published.matmul_share,
        fitted=True,
        note=f"{published.COUNTED} An encoder has no next-token output to count. The shares of "
        "time are of inference.",
    )
    mlp = GPT3.blocks * tokens * published.entries(published.mlp_matrices(GPT3))
    yield row(
        "need-every-breakthrough",
        {
            "gpt3_mlp_share_of_macs": mlp / total,
            "gpt3_score_and_blend_share": 2 * scores / total,
        },
        published.forward_macs,
    )
    n, d, hidden = LLAMA.context, LLAMA.width, LLAMA.hidden
    up = dense_flops(n=n, d_in=d, d_out=hidden, bias=False)
    yield row(
        "multiply-huge-matrices",
        {
            "llama_7b_mlp_up_projection_2048_tokens": up,
            "gpt3_largest_weight": max(shapes, key=math.prod),
        },
        dense_flops,
        published.mlp_matrices,
        flops=flops(jnp.matmul, array(n, d), array(d, hidden), formula=up),
    )


def training(*, seed: int, full: bool):
    """Updates, tokens and device time of published training runs."""
    del seed, full
    gpt3 = published.training_flops(parameters=175e9, tokens=300e9)
    llama70 = published.training_flops(parameters=70e9, tokens=2e12)
    trillion = published.training_flops(parameters=1e12, tokens=15e12)
    seconds = published.device_seconds
    a100 = {"peak": A100.fp16, "utilisation": 0.45}
    h100 = {"peak": H100.fp16, "utilisation": 0.4}
    yield row(
        "sense-training-weeks-months",
        {
            "gpt3_flops_6ND": gpt3,
            "gpt3_days_1024_a100_45pct": seconds(gpt3, devices=1024, **a100) / DAY,
            "llama2_70b_days_2048_a100_45pct": seconds(llama70, devices=2048, **a100) / DAY,
            "trillion_x_15T_days_20000_h100_40pct": seconds(trillion, devices=20000, **h100)
            / DAY,
        },
        published.training_flops,
        seconds,
    )
    old = seconds(gpt3, devices=1000, peak=M40.fp32, utilisation=0.3)
    yield row(
        "sense-decade-ago",
        {
            "gpt3_years_on_1000_m40_30pct": old / YEAR,
            "gpt3_days_on_1024_h100_40pct": seconds(gpt3, devices=1024, **h100) / DAY,
        },
        seconds,
    )
    yield row(
        "sense-hardware-only-recently",
        {
            "peak_tflops": {
                "M40, 2015, fp32": M40.fp32 / 1e12,
                "V100, 2017, fp16": V100.fp16 / 1e12,
                "A100, 2020, fp16": A100.fp16 / 1e12,
                "H100, 2022, fp16": H100.fp16 / 1e12,
            },
            "gpt3_device_years_at_peak": seconds(gpt3, devices=1, peak=H100.fp16, utilisation=1)
            / YEAR,
        },
        seconds,
    )
    total = published.training_flops(parameters=1e12, tokens=1e13)
    yield row(
        "sense-training-total-compute",
        {
            "one_trillion_x_10T_tokens": total,
            "h100_years": seconds(total, devices=1, **h100) / YEAR,
        },
        published.training_flops,
    )
    updates = {
        name: model.tokens // model.batch_tokens
        for name, model in MODELS.items()
        if model.tokens
    }
    until = (0, 252e6, 2.87e12, MODELS["llama3.1-405b"].tokens)  # section 3.4.1 of its paper
    grown = sum(
        (b - a) / batch for (a, b), batch in zip(pairwise(until), (4e6, 8e6, 16e6), strict=True)
    )
    yield row(
        "sense-billions-examples-millions-iterations",
        {"updates": updates, "llama3.1-405b_as_its_batch_grew": math.ceil(grown)},
        holds=all(9e4 < count < 1e6 for count in updates.values()) and grown < 2e6,
        note="Tokens of the run divided by tokens of one update, the largest. Llama 3.1's was "
        "4e6 up to 252e6 tokens, 8e6 up to 2.87e12, then 16e6: one run of a million and a bit, "
        "as is its published schedule of 1.2e6.",
    )
    tokens = LLAMA70.tokens
    passes = {
        "token_passes": tokens,
        "sequences": tokens // LLAMA70.context,
        "updates": tokens // LLAMA70.batch_tokens,
    }
    yield row(
        "sense-training-billions-of-times",
        passes,
        holds=not any(1e9 <= count < 1e12 for count in passes.values()),
        note="Llama-2-70B: 2e12 tokens, context 4,096, 4e6 tokens an update.",
    )
    in_block = published.attention_matrices(GPT3) + published.mlp_matrices(GPT3)
    per_pass = GPT3.blocks * len(in_block) + 1
    yield row(
        "matrices-trillions-of-times",
        {
            "gpt3_training_scalar_macs": gpt3 / 2,
            "gpt3_weight_matmuls_per_forward": per_pass,
        },
        published.training_flops,
        note="Whole products of GPT-3 with a weight matrix, forward and backward: "
        f"{3 * per_pass * GPT3.tokens / GPT3.context:.1e} if each sequence has its own, "
        f"{3 * per_pass * GPT3.tokens / GPT3.batch_tokens:.1e} if each update has.",
    )


def words(*, seed: int, full: bool):
    """What is said about markets and history: nothing to compute, and said so."""
    del seed, full
    yield row("need-nvidia-most-valuable", None)
    yield row("need-hardware-caught-up", None)
    yield row("need-historical", None)
    yield row("matrices-chip-demand", None)


EXPERIMENTS = (
    sizes,
    forward_pass,
    training,
    memory,
    cores,
    scaling,
    paper,
    concepts,
    systems,
    words,
)
