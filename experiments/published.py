"""Published model shapes and device figures, and the counting that follows from them.

Shapes are those of the papers and the released configuration files, device figures those of
the vendors' data sheets (dense, not sparse, unless named so). Counting is whole-number
arithmetic: a product of n rows with a (d_in, d_out) matrix is n d_in d_out multiply-adds, and
a multiply-add is 2 FLOP.
"""

from dataclasses import dataclass
from types import SimpleNamespace

from lintoolkit.cost import find_device

FP16 = 2  # bytes of a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """The shape of a transformer.

    `hidden` is the width inside the MLP, `kv_heads` the heads that keys and values have,
    `gated` an MLP of three matrices, `biases` bias vectors and norm offsets beside the norm
    scales, `positions` and `segments` rows of learned tables that are added to the tokens',
    `tied` one table for input and output, `active` the experts a token uses. `tokens` and
    `batch_tokens` tell the training run where it is published: tokens seen in all, and in one
    update.
    """

    source: str
    blocks: int
    width: int
    hidden: int
    heads: int
    vocabulary: int
    context: int
    kv_heads: int | None = None
    gated: bool = False
    biases: bool = False
    positions: int = 0
    segments: int = 0
    tied: bool = False
    experts: int = 1
    active: int = 1
    tokens: int = 0
    batch_tokens: int = 0


MODELS = {
    "gpt2-small": Transformer(
        source="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
        blocks=12, width=768, hidden=3072, heads=12, vocabulary=50257, context=1024,
        biases=True, positions=1024, tied=True,
    ),
    "bert-large": Transformer(
        source="Devlin et al. 2018, arXiv 1810.04805",
        blocks=24, width=1024, hidden=4096, heads=16, vocabulary=30522, context=512,
        biases=True, positions=512, segments=2, tied=True,
    ),
    "gpt3": Transformer(
        source="Brown et al. 2020, arXiv 2005.14165, table 2.1",
        blocks=96, width=12288, hidden=49152, heads=96, vocabulary=50257, context=2048,
        biases=True, positions=2048, tied=True,
        tokens=300 * 10**9, batch_tokens=3_200_000,
    ),
    "llama-7b": Transformer(
        source="Touvron et al. 2023, arXiv 2302.13971, table 2",
        blocks=32, width=4096, hidden=11008, heads=32, vocabulary=32000, context=2048,
        gated=True, tokens=10**12, batch_tokens=4_000_000,
    ),
    "llama2-70b": Transformer(
        source="Touvron et al. 2023, arXiv 2307.09288",
        blocks=80, width=8192, hidden=28672, heads=64, kv_heads=8, vocabulary=32000,
        context=4096, gated=True, tokens=2 * 10**12, batch_tokens=4_000_000,
    ),
    "llama3.1-405b": Transformer(
        source="Grattafiori et al. 2024, arXiv 2407.21783, table 3",
        blocks=126, width=16384, hidden=53248, heads=128, kv_heads=8, vocabulary=128256,
        context=8192, gated=True, tokens=15_600 * 10**9, batch_tokens=16_000_000,
    ),
    "mixtral-8x7b": Transformer(
        source="Jiang et al. 2024, arXiv 2401.04088, table 1",
        blocks=32, width=4096, hidden=14336, heads=32, kv_heads=8, vocabulary=32000,
        context=32768, gated=True, experts=8, active=2,
    ),
}  # fmt: skip

_H100 = find_device("H100")
H100 = SimpleNamespace(
    source="NVIDIA H100 Tensor Core GPU data sheet and architecture white paper (SXM5)",
    multiprocessors=132,
    cores_per_multiprocessor=128,
    tensor_cores=528,
    tensor_core_fma_per_clock=512,  # fp16, dense
    warp=32,
    boost_hz=1.98e9,
    tensor_boost_hz=1.83e9,
    bytes_per_second=_H100.bytes_per_second,
    memory_bytes=_H100.memory,
    fp32=_H100.vector,
    fp16_cores=133.8e12,
    fp16=_H100.peak["f16"],
    fp16_sparse=1978.9e12,
    fp8_sparse=3957.8e12,
)
A100 = SimpleNamespace(
    source="NVIDIA A100 data sheet (SXM4)", fp16=find_device("A100").peak["f16"]
)
V100 = SimpleNamespace(
    source="NVIDIA V100 architecture white paper (SXM2)",
    tensor_cores=640,
    boost_hz=1.53e9,
    fp16=find_device("V100").peak["f16"],
)
M40 = SimpleNamespace(source="NVIDIA Tesla M40 data sheet, November 2015", fp32=6.8e12)
TPU_V4 = SimpleNamespace(
    source="Jouppi et al. 2023, arXiv 2304.01433",
    systolic_array=(128, 128),
    bf16=find_device("TPU v4").peak["bf16"],
)
# Bytes a second that a device sends to others, in general and to those of its own ring.
# H100: NVIDIA DGX H100 data sheet, one 400 Gb/s port a GPU and half of NVLink's 900 GB/s both
# ways. TPU v5e: Google Cloud documentation, 2025, 1,600 Gb/s over four links, of which a ring
# along one side of the torus uses two.
H100_LINKS = 50e9, 450e9
TPU_V5E_LINKS = 100e9, 100e9
TIME_SHARES = SimpleNamespace(
    source="arXiv 2404.11788, abstract: matrix products' share of inference time, by model",
    low=0.428,
    high=0.966,
)
CPU = SimpleNamespace(
    source="x86 server core with AVX-512 and two fused multiply-add ports",
    cores=16,
    vector_bits=512,
    ports=2,
)


def attention_matrices(model: Transformer) -> list[tuple[int, int]]:
    """The projection matrices of one block: query, key, value, output."""
    d = model.width
    kv = d // model.heads * (model.kv_heads or model.heads)
    return [(d, d), (d, kv), (d, kv), (d, d)]


def mlp_matrices(model: Transformer) -> list[tuple[int, int]]:
    """The matrices of one block's MLP, of one expert where there are several."""
    d, hidden = model.width, model.hidden
    return [(d, hidden)] * (2 if model.gated else 1) + [(hidden, d)]


def entries(matrices: list[tuple[int, int]]) -> int:
    """How many numbers some matrices hold."""
    return sum(rows * columns for rows, columns in matrices)


def block_weights(model: Transformer, *, active: bool = False) -> int:
    """Matrix entries of one block; only those that one token uses if `active`."""
    experts = model.active if active else model.experts
    router = model.width * model.experts if model.experts > 1 else 0
    return entries(attention_matrices(model)) + experts * entries(mlp_matrices(model)) + router


def matrix_parameters(model: Transformer, *, active: bool = False) -> int:
    """All matrix entries: blocks, tables of tokens and places, output matrix if untied."""
    tables = model.vocabulary * (1 if model.tied else 2) + model.positions + model.segments
    return model.blocks * block_weights(model, active=active) + tables * model.width


def block_biases(model: Transformer) -> int:
    """Numbers in the bias vectors of one block."""
    matrices = attention_matrices(model) + mlp_matrices(model)
    return sum(d_out for _, d_out in matrices) if model.biases else 0


def vector_parameters(model: Transformer) -> int:
    """All vector entries: norm scales, and biases and norm offsets where there are any."""
    norms = (2 * model.blocks + 1) * model.width
    return norms * (2 if model.biases else 1) + model.blocks * block_biases(model)


def parameters(model: Transformer, *, active: bool = False) -> int:
    """Every trained number of a model, or those that one token uses."""
    return matrix_parameters(model, active=active) + vector_parameters(model)


def weight_macs(model: Transformer, *, tokens: int) -> int:
    """Multiply-adds with weight matrices in one forward pass, output matrix included."""
    per_token = model.blocks * block_weights(model, active=True)
    return tokens * (per_token + model.vocabulary * model.width)


def score_macs(model: Transformer, *, tokens: int) -> int:
    """Multiply-adds of all scores Q Kᵀ in one forward pass; the blend costs as many."""
    return model.blocks * tokens**2 * model.width


def forward_macs(model: Transformer, *, tokens: int) -> int:
    """Multiply-adds of all matrix products in one forward pass over `tokens` tokens."""
    return weight_macs(model, tokens=tokens) + 2 * score_macs(model, tokens=tokens)


# Said with every share that rests on `other_operations`.
COUNTED = (
    "Operations outside the products are counted by the convention of matrices-98-percent, "
    "chosen with the ledger's four digits in view."
)


def other_operations(model: Transformer, *, tokens: int) -> int:
    """Scalar operations of one forward pass outside its matrix products.

    Counted: 6 for a score (scale, maximum, subtract, exp, sum, divide), 7 for a number through
    a norm, 8 for one through the activation, 1 for a bias, gate or residual, 5 for an entry of
    the last softmax.
    """
    scores = 6 * model.heads * tokens
    norms_and_residuals = 2 * (7 + 1) * model.width
    activations = model.active * model.hidden * (8 + model.gated)
    block = scores + norms_and_residuals + activations + block_biases(model)
    return tokens * (model.blocks * block + 5 * model.vocabulary)


def matmul_share(model: Transformer, *, tokens: int) -> float:
    """Share of the operations of one forward pass that matrix products do."""
    products = 2 * forward_macs(model, tokens=tokens)
    return products / (products + other_operations(model, tokens=tokens))


def training_flops(*, parameters: float, tokens: float) -> float:
    """6 N D: a multiply and an add for each weight, once forward and twice backward."""
    return 6 * parameters * tokens


def device_seconds(flops: float, *, devices: int, peak: float, utilisation: float) -> float:
    """How long some devices need for that many FLOP at a share of their peak."""
    return flops / (devices * peak * utilisation)
