"""Accelerators on paper: arithmetic against memory, and what one clock can do."""

import math

import jax
import jax.numpy as jnp

from experiments.figures import scale as figures
from experiments.published import CPU, FP16, H100, TPU_V4, V100
from experiments.rows import row

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
    full_square = next(n for n in range(1, 5000) if square(n) >= RIDGE)
    yield row(
        "need-large-matmul-compute-bound",
        {
            "ridge": RIDGE,
            "square_intensity_is_n_over_3": all(
                math.isclose(square(n), n / 3) for n in (64, 256, 4096)
            ),
            "smallest_compute_bound_square": full_square,
            "intensity_4096": square(4096),
            "intensity_256": square(256),
        },
        intensity,
    )
    d = 4096
    batch = lambda n: intensity(n=n, d_in=d, d_out=d)
    share = lambda n: min(1.0, batch(n) / RIDGE)
    full_batch = next(n for n in range(1, d) if share(n) == 1)
    yield row(
        "need-batch-utilisation",
        {
            "d": d,
            "attainable_share": {str(n): round(share(n), 4) for n in (1, 8, 64, 256, 1024)},
            "smallest_compute_bound_batch": full_batch,
        },
        intensity,
    )
    yield figures.roofline(
        {n: square(n) for n in (256, full_square, 4096)},
        {n: batch(n) for n in (1, 8, 64, full_batch)},
    )


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
    yield figures.peaks()
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
