"""Accelerators on paper: arithmetic against memory, and what one clock can do."""

import math

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure as Canvas

from experiments.published import CPU, FP16, H100, TPU_V4, V100
from experiments.rows import Figure, row

RIDGE = H100.fp16 / H100.bytes_per_second


def intensity(*, n: int, d_in: int, d_out: int) -> float:
    """FLOP per byte of (n, d_in) @ (d_in, d_out) in fp16, each array moved once."""
    return 2 * n * d_in * d_out / (FP16 * (n * d_in + d_in * d_out + n * d_out))


def memory(*, seed: int, full: bool):
    """When a product is limited by arithmetic and when by memory: the roofline."""
    del seed, full
    per_token = lambda weights: weights * FP16 / H100.bytes_per_second * 1e3
    yield row(
        "sense-throughput-versus-latency",
        {
            "ms_per_token_7b_fp16_one_h100_bandwidth": per_token(7e9),
            "ms_per_token_70b_fp16_one_h100_bandwidth": per_token(70e9),
            "ms_per_token_1t_fp16_one_h100_bandwidth": per_token(1e12),
            "ridge_flop_per_byte": RIDGE,
            "batch1_flop_per_byte": 2 / FP16,
        },
        note="At batch 1 a weight is read once for one multiply-add: 2 FLOP for 2 bytes.",
    )
    yield row(
        "need-h100-bandwidth",
        {
            "bytes_per_second": H100.bytes_per_second,
            "ridge_flop_per_byte_fp16": RIDGE,
            "seconds_to_read_80gb": H100.memory_bytes / H100.bytes_per_second,
        },
    )
    square = lambda n: intensity(n=n, d_in=n, d_out=n)
    yield row(
        "need-large-matmul-compute-bound",
        {
            "ridge": RIDGE,
            "square_intensity_is_n_over_3": all(
                math.isclose(square(n), n / 3) for n in (64, 256, 4096)
            ),
            "smallest_compute_bound_square": next(
                n for n in range(1, 5000) if square(n) >= RIDGE
            ),
            "intensity_4096": square(4096),
            "intensity_256": square(256),
        },
        intensity,
    )
    d = 4096
    batch = lambda n: intensity(n=n, d_in=d, d_out=d)
    share = lambda n: min(1.0, batch(n) / RIDGE)
    yield row(
        "need-batch-utilisation",
        {
            "d": d,
            "attainable_share": {str(n): round(share(n), 4) for n in (1, 8, 64, 256, 1024)},
            "smallest_compute_bound_batch": next(n for n in range(1, d) if share(n) == 1),
        },
        intensity,
    )
    yield Figure(name="roofline", figure=roofline(square, batch), caption=ROOFLINE)


ROOFLINE = (
    "The H100 roofline in fp16: attainable speed against FLOP per byte. Square products climb "
    "with n / 3 and meet the peak at n = 887; a 4096-wide layer needs a batch of 346."
)


def roofline(square, batch) -> Canvas:
    figure = Canvas(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    attainable = lambda x: min(H100.fp16, x * H100.bytes_per_second) / 1e12
    line = [0.5, RIDGE, 3000]
    axes.loglog(line, [attainable(x) for x in line], color="0.3", linewidth=1.5)
    series = (
        ("square products, by n", square, (256, 887, 4096), "C0", (6, -12)),
        ("4096-wide layer, by batch", batch, (1, 8, 64, 346), "C1", (-8, 8)),
    )
    for label, of, points, colour, offset in series:
        xs = [of(n) for n in points]
        ys = [attainable(x) for x in xs]
        axes.plot(xs, ys, "o", color=colour, label=label)
        for n, x, y in zip(points, xs, ys, strict=True):
            axes.annotate(
                f"{n:,}",
                (x, y),
                textcoords="offset points",
                xytext=offset,
                color=colour,
                ha="left" if offset[0] > 0 else "right",
            )
    axes.set(xlabel="FLOP per byte moved", ylabel="attainable TFLOP/s", ylim=(1, 2500))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return figure


def cores(*, seed: int, full: bool):
    """What one card's units do in a clock, and what its peaks say about a hundredfold."""
    del seed, full
    lanes = CPU.cores * CPU.ports * CPU.vector_bits // 32
    yield row(
        "need-cpu-16",
        {"scalar_reading": CPU.cores, "avx512_two_fma_ports_fp32_fma_per_clock": lanes},
    )
    yield row("matrices-cpu-16", {"scalar_reading": CPU.cores, "with_avx512": lanes})
    count = H100.multiprocessors * H100.cores_per_multiprocessor
    yield row(
        "need-h100-cores",
        {"cores": count, "fp32_tflops_at_1_98ghz": 2 * count * H100.boost_hz / 1e12},
    )
    fma = H100.tensor_cores * H100.tensor_core_fma_per_clock
    yield row(
        "need-thousands-dots-per-clock",
        {
            "fma_per_clock": count,
            "length_4096_dots_per_clock_cuda_cores": count / 4096,
            "tensor_core_fma_per_clock": fma,
            "length_4096_dots_per_clock_tensor_cores": fma / 4096,
        },
    )
    x, y = jnp.ones((8, 4)), jnp.ones((8, 4))
    jaxpr = jax.make_jaxpr(jax.vmap(jnp.dot))(x, y)
    yield row(
        "need-simd",
        {
            "threads_in_a_warp": H100.warp,
            "primitives_of_eight_dots": sorted(
                {str(equation.primitive) for equation in jaxpr.eqns}
            ),
        },
        "jax.vmap",
        note="Eight dot products become one batched product: the same single-instruction idea.",
    )
    small = 4 * 4 * 4
    yield row(
        "need-tensor-core-4x4",
        {
            "fma_4x4x4": small,
            "v100_tflops": 2 * V100.tensor_cores * small * V100.boost_hz / 1e12,
            "h100_if_4x4x4": 2 * H100.tensor_cores * small * H100.tensor_boost_hz / 1e12,
            "h100_fma_per_core_clock": round(
                H100.fp16 / (2 * H100.tensor_cores * H100.tensor_boost_hz)
            ),
        },
    )
    yield row(
        "need-h100-1000-tflops",
        {
            "dense": H100.fp16 / 1e12,
            "from_units": 2 * fma * H100.tensor_boost_hz / 1e12,
            "with_sparsity": H100.fp16_sparse / 1e12,
        },
    )
    yield row(
        "need-hundred-times",
        {
            "vs_fp32_cores": H100.fp16 / H100.fp32,
            "vs_fp16_cores": H100.fp16 / H100.fp16_cores,
            "sparse_vs_fp32": H100.fp16_sparse / H100.fp32,
            "fp8_sparse_vs_fp32": H100.fp8_sparse / H100.fp32,
        },
    )
    yield Figure(name="h100-peaks", figure=peaks(), caption=PEAKS)
    yield row(
        "matrices-gpu-tens-of-thousands",
        {
            "h100": count,
            "h100_tensor_cores": H100.tensor_cores,
            "over_ten_thousand": count > 10_000,
            "over_twenty_thousand": count > 20_000,
        },
    )
    yield row(
        "matrices-tensor-units-mac",
        {"h100_macs_per_second": H100.fp16 / 2, "per_clock": fma},
    )
    yield row(
        "sense-tpu-name",
        {
            "tpu_v4_systolic_array": TPU_V4.systolic_array,
            "tpu_v4_bf16_tflops": TPU_V4.bf16 / 1e12,
            "h100_fp16_tflops": H100.fp16 / 1e12,
        },
        note="A naming fact; the figures show what the unit is built around.",
    )


PEAKS = (
    "Peak arithmetic of one H100 by unit and number format. The bars to compare are dense "
    "fp16 tensor cores against the ordinary cores: 14.8 times fp32, 7.4 times fp16. A "
    "hundredfold (dashed) is beyond every bar."
)


def peaks() -> Canvas:
    figure = Canvas(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    bars = {
        "cores, fp32": H100.fp32,
        "cores, fp16": H100.fp16_cores,
        "tensor cores, fp16": H100.fp16,
        "tensor cores, fp16 sparse": H100.fp16_sparse,
        "tensor cores, fp8 sparse": H100.fp8_sparse,
    }
    values = [peak / 1e12 for peak in bars.values()]
    drawn = axes.barh(list(bars), values, color=["0.6", "0.6", "C0", "0.8", "0.8"])
    labels = [f"{value:,.0f}  ({value * 1e12 / H100.fp32:.1f}x)" for value in values]
    axes.bar_label(drawn, labels, padding=4)
    hundredfold = 100 * H100.fp32 / 1e12
    axes.axvline(hundredfold, color="C3", linestyle="--", linewidth=1)
    axes.text(hundredfold - 80, 0, "100x", color="C3", ha="right", va="center")
    axes.invert_yaxis()
    axes.set(xlabel="TFLOP/s (in brackets: times the fp32 cores)", xlim=(0, 7200))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
