"""How fast a device can run a program at most: the roofline, of public devices and measured.

A `Device` is what a vendor says it can do, or what `measure_device` found. Against it stand a
program's products, by element type, its other FLOPs, and its bytes.
"""

import difflib
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Number = int | float
# Types that products may have, as the keys of a device's peaks.
_PRODUCTS = re.compile(
    r"f64|f16|bf16|c128|(f32|c64)( high| highest)?|pred|[su](2|4|8|16|32|64)|(f4|f8)\w*"
)
# Of those, what runs outside tensor cores where a device's peaks do not say otherwise.
_PLAIN = frozenset("pred s16 u16 s32 u32 s64 u64".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one device can do at most.

    Attributes:
        name: What people call it.
        peak: FLOP/s of products by the element type of their operands, as HLO writes it
            (``"f32"``, ``"bf16"``, ``"s8"``; ``"f8"`` and ``"f4"`` stand for all their kinds),
            dense, at JAX's default precision: float32 runs in TF32 on GPUs that have it, in
            bfloat16 on TPUs. For others see `rate`.
        bytes_per_second: Bandwidth of its memory.
        memory: Bytes of it, or None where nobody says.
        vector: FLOP/s in float32 outside products, or None where nobody says.
        source: Where the figures are from.
        platform: What JAX calls its platform (``"cpu"``, ``"gpu"``, ``"tpu"``), or None
            for one that nothing was compiled for.
    """

    name: str
    peak: Mapping[str, Number]
    bytes_per_second: Number
    memory: Number | None
    source: str
    vector: Number | None = None
    platform: str | None = None

    def __post_init__(self) -> None:
        if unknown := [dtype for dtype in self.peak if not _PRODUCTS.fullmatch(str(dtype))]:
            raise ValueError(
                f"Device: peak of {self.name} names {unknown[0]!r}, which is no type of "
                "products. Name them as HLO does: f64, f32, f16, bf16, f8, f4, c64, c128, s8, "
                "s4, u8, pred or the like; with a precision, 'f32 highest'."
            )
        rates = {"bytes_per_second": self.bytes_per_second, **self.peak}
        if self.vector is not None:
            rates["vector"] = self.vector
        for what, rate in rates.items():
            if not isinstance(rate, Real) or not 0 < rate < math.inf:
                raise ValueError(
                    f"Device: {what} of {self.name} must be a positive number a second, got "
                    f"{rate!r}. Give FLOP/s and bytes/s, not TFLOP/s."
                )

    def rate(self, dtype: str) -> Number:
        """FLOP/s of products of one element type; complex ones run at their parts' rate.

        Float32 of ``jax.lax.Precision.HIGHEST`` runs outside the tensor cores of a GPU, at
        `vector` where that is known; on a TPU it takes six passes in bfloat16, of ``HIGH``
        three. Elsewhere they have the default's rate. Booleans and integers of 16 bits or more
        run at `vector` too.

        Args:
            dtype: As HLO writes it, such as ``"bf16"`` or ``"c64"``; for another precision
                than the default that follows, such as ``"f32 highest"``.

        Returns:
            Its entry in `peak`, or what follows from it.

        Raises:
            ValueError: If there is none: nothing is guessed from another type's rate.
        """
        if dtype in self.peak:
            return self.peak[dtype]
        dtype, _, precision = dtype.partition(" ")
        parts = {"c64": "f32", "c128": "f64", "u8": "s8"}
        for name in (dtype, parts.get(dtype, dtype[:2])):
            if name in self.peak:
                rate = self.peak[name]
                if name == "f32" and self.platform == "tpu":
                    return rate / {"high": 3, "highest": 6}.get(precision, 1)
                if name == "f32" and precision == "highest" and self.vector is not None:
                    return min(rate, self.vector)
                return rate
        if dtype in _PLAIN and self.vector is not None:
            return self.vector
        raise ValueError(
            f"roofline: {self.name} has no known rate for products of {dtype}, only for "
            f"{', '.join(self.peak)}. Cast them, or pass a Device whose peak has {dtype!r}."
        )


_HOPPER = "NVIDIA H100 Tensor Core GPU architecture white paper, 2022, and data sheet (SXM5)"
_TPU_DOCS = "Google Cloud documentation of TPU {}, 2025, a chip"
_TPU_CORES = "; JAX shows its two cores as two devices"
_Row = tuple[str, dict[str, float], float, float, float | None, str]
# Name, FLOP/s of products, bytes a second, bytes, FLOP/s in float32 outside products, source.
# Dense figures: where a data sheet prints them with sparsity they are halved.
_TABLE: tuple[_Row, ...] = (
    ("H100 SXM",
     {"f64": 66.9e12, "f32": 494.7e12, "f16": 989.4e12, "bf16": 989.4e12, "f8": 1978.9e12,
      "s8": 1978.9e12},
     3.35e12, 80e9, 66.9e12, _HOPPER),
    ("H200",
     {"f64": 67e12, "f32": 494.5e12, "f16": 989.5e12, "bf16": 989.5e12, "f8": 1979e12,
      "s8": 1979e12},
     4.8e12, 141e9, 67e12, "NVIDIA H200 Tensor Core GPU data sheet, 2024 (SXM)"),
    ("A100 80 GB",
     {"f64": 19.5e12, "f32": 156e12, "f16": 312e12, "bf16": 312e12, "s8": 624e12},
     2.039e12, 80e9, 19.5e12, "NVIDIA A100 Tensor Core GPU data sheet, 2021 (SXM4)"),
    ("V100",
     {"f64": 7.8e12, "f32": 15.7e12, "f16": 125e12},
     900e9, 32e9, 15.7e12, "NVIDIA V100 Tensor Core GPU data sheet, 2020 (SXM2, 32 GB)"),
    ("L4",
     {"f32": 60e12, "f16": 121e12, "bf16": 121e12, "f8": 242.5e12, "s8": 242.5e12},
     300e9, 24e9, 30.3e12, "NVIDIA L4 Tensor Core GPU data sheet, 2023"),
    ("T4",
     {"f32": 8.1e12, "f16": 65e12, "s8": 130e12},
     320e9, 16e9, 8.1e12, "NVIDIA T4 Tensor Core GPU product brief, 2019"),
    ("B200",
     {"f64": 40e12, "f32": 1.1e15, "f16": 2.25e15, "bf16": 2.25e15, "f8": 4.5e15,
      "f4": 9e15, "s8": 4.5e15},
     8e12, 192e9, 80e12, "NVIDIA Blackwell architecture technical brief, 2024 (HGX B200)"),
    ("TPU v2", {"f32": 46e12, "bf16": 46e12}, 700e9, 16 * 2**30, None,
     "Jouppi et al., A Domain-Specific Supercomputer for Training Deep Neural Networks, "
     "CACM 2020, a chip" + _TPU_CORES),
    ("TPU v3", {"f32": 123e12, "bf16": 123e12}, 900e9, 32 * 2**30, None,
     _TPU_DOCS.format("v3") + _TPU_CORES),
    ("TPU v4", {"f32": 275e12, "bf16": 275e12, "s8": 275e12}, 1.2e12, 32 * 2**30, None,
     _TPU_DOCS.format("v4")),
    ("TPU v5e", {"f32": 197e12, "bf16": 197e12, "s8": 393e12}, 819e9, 16e9, None,
     _TPU_DOCS.format("v5e")),
    ("TPU v5p", {"f32": 459e12, "bf16": 459e12}, 2.765e12, 95e9, None,
     _TPU_DOCS.format("v5p")),
    ("TPU v6e", {"f32": 918e12, "bf16": 918e12, "s8": 1836e12}, 1.638e12, 32e9, None,
     _TPU_DOCS.format("v6e")),
)  # fmt: skip
DEVICES = tuple(
    Device(
        name=name,
        peak=peak,
        bytes_per_second=speed,
        memory=memory,
        vector=vector,
        source=source,
        platform="tpu" if name.startswith("TPU") else "gpu",
    )
    for name, peak, speed, memory, vector, source in _TABLE
)


# What JAX calls those that it does not call by these names, as `device_kind`.
_KINDS = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA A100-SXM4-80GB": "A100",
    "Tesla V100-SXM2-32GB": "V100",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
}


def find_device(device: str | Device | jax.Device) -> Device:
    """Look a public device up by name: ``"H100"``, ``"a100 80GB"``, ``"tpu-v5e"``, ``"v5e"``.

    Args:
        device: A name, in capitals or not, one of `jax.devices`, which goes by its
            ``device_kind``, or a `Device`, which is given back.

    Returns:
        The device with its figures and their source.

    Raises:
        TypeError: If it is none of them.
        ValueError: If the table has no such name.

    Examples:
        >>> find_device("h100").bytes_per_second
        3350000000000.0
    """
    if isinstance(device, Device):
        return device
    device = getattr(device, "device_kind", device)
    if not isinstance(device, str):
        raise TypeError(
            f"find_device: device must be a name or a Device, got {type(device).__name__}. "
            "Name one of lintoolkit.cost.DEVICES, or measure_device()."
        )
    names = {_plain(known.name): known for known in DEVICES}
    names |= {_plain(known.name.removeprefix("TPU ").split()[0]): known for known in DEVICES}
    names |= {_plain(kind): names[_plain(name)] for kind, name in _KINDS.items()}
    if found := names.get(_plain(device)):
        return found
    near = difflib.get_close_matches(_plain(device), names, n=1, cutoff=0.5)
    hint = f"Did you mean {names[near[0]].name!r}? " if near else ""
    raise ValueError(
        f"find_device: no device is called {device!r}. {hint}The table has "
        f"{', '.join(known.name for known in DEVICES)}; pass a Device for any other, such as "
        "measure_device() for the present one."
    )


def _plain(name: str) -> str:
    """A name without capitals, spaces, signs and the maker's."""
    return re.sub(r"nvidia|tesla|google|cuda|tpu|[^a-z0-9]", "", name.casefold())


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """What a device makes of a program at best; see `roofline`.

    Attributes:
        device: The device.
        flops: FLOPs that count here.
        bytes: Bytes read and written.
        compute_seconds: How long the FLOPs take at the device's peaks.
        memory_seconds: How long the bytes take at its bandwidth.
        compiled_for: The other platform that the program was compiled for, so that `bytes` are
            those of its arguments, constants and results; None where they are all it moves.
    """

    device: Device
    flops: Number
    bytes: Number
    compute_seconds: float
    memory_seconds: float
    compiled_for: str | None = None

    @property
    def seconds(self) -> float:
        """The least time that the program can take."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        """What takes that time: ``"compute"`` (also when both do) or ``"memory"``."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"

    @property
    def intensity(self) -> float:
        """FLOPs a byte; infinite where nothing is moved."""
        if not self.bytes:
            return math.inf if self.flops else 0.0
        return self.flops / self.bytes

    @property
    def peak(self) -> float:
        """FLOP/s of the device on this mix of work, memory aside."""
        return self.flops / self.compute_seconds if self.compute_seconds else 0.0

    @property
    def ridge(self) -> float:
        """FLOPs a byte from which on this mix is bound by compute."""
        return self.peak / self.device.bytes_per_second

    @property
    def attainable(self) -> float:
        """The most FLOP/s that the program can reach: min(peak, intensity x bandwidth)."""
        return self.flops / self.seconds if self.seconds else 0.0

    @property
    def share_of_peak(self) -> float:
        """`attainable` over `peak`, from 0 to 1."""
        return self.compute_seconds / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """One sentence."""
        moved = ""
        if self.compiled_for:
            moved = f" (arguments and results alone, as compiled for {self.compiled_for})"
        return (
            f"{self.device.name}: bound by {self.bound}, {self.intensity:.3g} FLOP a byte"
            f"{moved} against a ridge of {self.ridge:.3g}; at least {self.seconds:.3g} s, at "
            f"most {self.attainable:.3g} FLOP/s, {self.share_of_peak:.3g} of the peak"
        )


def roofline(
    device: str | Device | jax.Device,
    *,
    products: Mapping[str, Number],
    moved: Number,
    other: Number = 0,
) -> Roofline:
    r"""Bound a program's speed by a device's arithmetic and by its memory.

    With products of $F_t$ FLOP in element type $t$, $G$ other FLOP and $B$ bytes, the two
    ceilings are $T_c = \sum_t F_t / \mathrm{peak}_t + G / \mathrm{vector}$ and
    $T_m = B / \mathrm{bandwidth}$. Arithmetic and memory overlap, units of arithmetic take
    turns, so at best a run takes $\max(T_c, T_m)$ and reaches
    $(\sum_t F_t + G) / \max(T_c, T_m)$ FLOP/s. Latency, caches and launches are left out: it
    is a ceiling, not a forecast. All other FLOP run at the float32 rate outside products, and
    so do products of booleans and of integers from 16 bits on, unless the device says
    otherwise; where nobody publishes one (TPUs), they count neither as work nor as time, since
    any rate would be a guess and they are few beside the products.

    Args:
        device: A name, see `find_device`, or a `Device`; one that has no rate for one of the
            other products is refused.
        products: FLOP of dots and convolutions by element type, such as ``{"bf16": 2 * n**3}``,
            and by precision where that is not the default, such as ``"f32 highest"``.
        moved: Bytes read and written.
        other: FLOP of everything else.

    Returns:
        Seconds of both kinds, the bound, the attainable FLOP/s and share of the peak.

    Cost:
        A few divisions; nothing is compiled or run.

    Examples:
        A square product of n rows in float16 moves 6 n² bytes, so it does n / 3 FLOP a byte:

        >>> square = lambda n: roofline("H100", products={"f16": 2 * n**3}, moved=6 * n**2)
        >>> print(f"{square(300).intensity:.0f} of {square(300).ridge:.1f}")
        100 of 295.3
        >>> square(886).bound, square(887).bound
        ('memory', 'compute')

    References:
        Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model for
        Multicore Architectures, CACM 52(4), 2009.
    """
    on = find_device(device)
    products = _rated(on, products)
    seconds = _product_seconds(on, products)
    flops = sum(products.values())
    if on.vector is not None:
        flops += other
        seconds += other / on.vector
    return Roofline(
        device=on,
        flops=flops,
        bytes=moved,
        compute_seconds=seconds,
        memory_seconds=moved / on.bytes_per_second,
    )


def mfu(
    device: str | Device | jax.Device, *, products: Mapping[str, Number], seconds: Number
) -> float:
    r"""Model FLOP utilisation: what share of a device's peak a run reached.

    With products of $F_t$ FLOP in element type $t$ done in $T$ seconds on one device, it is
    $\sum_t (F_t / \mathrm{peak}_t) / T$, which for one type is
    $F / (T \, \mathrm{peak})$. Products alone count, those of booleans and integers as in
    `roofline`.

    Args:
        device: A name, see `find_device`, or a `Device`.
        products: FLOP of dots and convolutions on one device, by element type.
        seconds: How long they took, measured with `jax.block_until_ready`.

    Returns:
        A share, from 0 to 1 where the time and the device are right.

    Raises:
        TypeError: If `seconds` is not a number.
        ValueError: If it is not a positive one.

    Cost:
        A few divisions.

    Examples:
        >>> print(f"{mfu('H100', products={'bf16': 2 * 8192**3}, seconds=1.5e-3):.3f}")
        0.741

    References:
        Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, appendix B.
    """
    if not isinstance(seconds, Real):
        raise TypeError(
            f"mfu: seconds must be a number, got {type(seconds).__name__}. They come before "
            "the device, as in c.mfu(1e-3, 'H100'); of an array take float(seconds)."
        )
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"mfu: seconds must be a positive number, got {seconds!r}. Time a run that ends in "
            "jax.block_until_ready, after a first one that compiles."
        )
    on = find_device(device)
    return _product_seconds(on, _rated(on, products)) / seconds


def _rated(device: Device, products: Mapping[str, Number]) -> dict[str, Number]:
    """Products but for those of integers that run at a rate which nobody publishes."""
    unknown = _PLAIN - set(device.peak) if device.vector is None else ()
    return {dtype: flops for dtype, flops in products.items() if dtype not in unknown}


def _product_seconds(device: Device, products: Mapping[str, Number]) -> float:
    return sum((flops / device.rate(dtype) for dtype, flops in products.items()), start=0.0)


def measure_device(*dtypes: DTypeLike, n: int = 4096) -> Device:
    """Measure the ceilings of the present device: products and a copy.

    A product of two (n, n) matrices is 2 n³ FLOP; negating 8 n² float32 numbers reads and
    writes 64 n² bytes. Each is compiled and run once, then timed five times, and the median
    $t$ gives ``peak = 2 n³ / t`` and ``bytes_per_second = 64 n² / t``. A measured ceiling is
    what a well-tuned program can reach; a data sheet's is often a tenth or more above it.

    Args:
        *dtypes: Floating element types of the products; float32 if none is named.
        n: Side of the matrices: large enough that launching does not matter (8192 on a large
            accelerator), small enough for 64 n² bytes of memory.

    Returns:
        A `Device` named after the present one.

    Raises:
        ValueError: If `n` is not a whole number from one up, or a type is not floating.

    Cost:
        12 n³ FLOP for each type and 64 n² bytes of memory.

    Examples:
        >>> here = measure_device("float32", n=256)
        >>> sorted(here.peak)
        ['f32']

    References:
        Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009, which takes its ceilings
        from such microbenchmarks.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(
            f"measure_device: n must be a whole number of at least 1, got {n!r}. Leave it out "
            "for 4096."
        )
    peak = {}
    for dtype in [jnp.dtype(dtype) for dtype in dtypes or ("float32",)]:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"measure_device: types of products must be floating, got {dtype}. Name "
                "float32, bfloat16 or the like."
            )
        square = jnp.ones((n, n), dtype)
        seconds = _median_seconds(jax.jit(jnp.matmul), square, square)
        peak[dtype.name.replace("float", "f").partition("_")[0]] = 2 * n**3 / seconds
    numbers = jnp.ones((8, n, n), jnp.float32)
    seconds = _median_seconds(jax.jit(jnp.negative), numbers)
    here = next(iter(numbers.devices()))
    return Device(
        name=here.device_kind,
        peak=peak,
        bytes_per_second=2 * numbers.nbytes / seconds,
        memory=(here.memory_stats() or {}).get("bytes_limit"),
        source=f"measured, median of 5, products of {n} rows",
        platform=here.platform,
    )


def _median_seconds(run: Callable[..., jax.Array], *args: jax.Array) -> float:
    """Median time of five runs after one that compiles."""
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)
