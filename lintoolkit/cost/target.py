"""Compile for hardware that is not there: a TPU or GPU program on any machine with a CPU.

XLA's compilers need a description of the chip, not the chip. They read environment variables
before JAX is imported, so compiling takes a process of its own: the parent lowers and exports
the program for the platform, ``python -m lintoolkit.cost.target FOLDER`` compiles it and
leaves the module in the folder, with what XLA says of its memory.

The compilers come with the extras ``aot-tpu`` and ``aot-cuda``. JAX looks for their hardware
whenever it starts; on a machine without it ``JAX_PLATFORMS=cpu`` keeps it from complaining.
"""

import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from lintoolkit.cost.hlo import Module, read_module
from lintoolkit.cost.kernels import pallas_kernels
from lintoolkit.cost.report import Memory
from lintoolkit.cost.stages import Stages, compiled_bytes, lowered_bytes, memory, xla_flops
from lintoolkit.cost.walk import Kernels

# Generations of TPU, each with its smallest topology.
TPUS = {
    "v2": "2x2", "v3": "2x2", "v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2",
    "tpu7x": "2x2x1",
}  # fmt: skip


class Gpu(NamedTuple):
    """What XLA's compiler asks of a GPU, from its data sheet."""

    description: str
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    fpus: int  # single-precision units of one core
    shared: int  # bytes of shared memory of one core
    clock: float  # GHz
    bandwidth: int  # bytes a second
    cache: int  # bytes of L2
    memory: int  # bytes


GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 164 << 10, 1.41, 2_039_000_000_000,
        40 << 20, 85_100_068_864,
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 228 << 10, 1.98, 3_352_000_000_000,
        50 << 20, 84_942_979_072,
    ),
    "h200": Gpu(
        "NVIDIA H200", (9, 0), 132, 128, 228 << 10, 1.98, 4_800_000_000_000,
        50 << 20, 151_397_597_184,
    ),
    "b200": Gpu(
        "NVIDIA B200", (10, 0), 148, 128, 228 << 10, 1.965, 7_672_000_000_000,
        132_644_864, 191_514_411_008,
    ),
}  # fmt: skip
# The rest of the description, alike on all of them.
_GPU_LIMITS = (
    "threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 "
    "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
    "shared_memory_per_block: 49152 registers_per_core_limit: 65536 "
    "registers_per_block_limit: 65536"
)
# Without these the plugins ask for devices, hosts and drivers, and fill the terminal.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# How XLA says that a program does not fit a TPU: bytes needed, bytes there.
_OVERFLOW = re.compile(
    r"(?:\(|Used )([\d.]+)([KMGT]?)(?:\) exceeds available HBM \(| of )([\d.]+)([KMGT]?)"
)


class Target(NamedTuple):
    """Hardware to compile for: its platform and, of that, the model and the topology."""

    text: str
    platform: Literal["cpu", "cuda", "tpu"]
    model: str = ""
    topology: str = ""


def parse_target(text: str) -> Target:
    """Read ``"tpu:v5e:2x2"``, ``"cuda:h100"`` or ``"cpu"``.

    Args:
        text: Platform, then the model, then for TPUs the topology (the smallest if left out).

    Returns:
        The target.

    Raises:
        ValueError: If it is none of the known ones.
    """
    match text.split(":") if isinstance(text, str) else ():
        case ["cpu"]:
            return Target(text, "cpu")
        case ["cuda", model] if model in GPUS:
            return Target(text, "cuda", model)
        case ["tpu", model, *rest] if model in TPUS and len(rest) < 2:
            topology = rest[0] if rest else TPUS[model]
            if re.fullmatch(r"\d+(x\d+){1,2}", topology):
                return Target(f"tpu:{model}:{topology}", "tpu", model, topology)
    known = ", ".join(["cpu", *(f"cuda:{m}" for m in GPUS), *(f"tpu:{m}" for m in TPUS)])
    raise ValueError(
        f"cost: target {text!r} is not known; the targets are {known}, a TPU with or without "
        "its topology, such as tpu:v5e:2x2."
    )


def stages_for(
    text: str, jitted: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Stages:
    """Lower a function for a target here, compile it in a process of its own.

    Args:
        text: The target.
        jitted: The jitted function.
        name: What messages call it.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        Both stages of the program; its platform is the target.

    Raises:
        ValueError: If the target is unknown, its compiler is not installed, the program has no
            form for it or one that cannot leave this process, needs more devices than it has,
            does not fit their memory, or is refused by XLA.
    """
    target = parse_target(text)
    _need(target)
    module, exported, donated, kernels = _lower(jitted, name, target, args, kwargs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "program").write_bytes(exported.serialize())
        request = {**target._asdict(), "donated": donated}
        (folder / "request.json").write_text(json.dumps(request))
        reply = _ask(folder, exported.nr_devices)
        found = folder / "module"
        compiled = found.read_bytes() if found.exists() else None
    held = Memory(*reply["memory"]) if reply.get("memory") else None
    if sizes := _too_big(target, held, reply.get("error", "")):
        needed, available = sizes
        raise ValueError(
            f"cost: {name} does not fit {target.text}: it needs {needed:,} bytes of a device's "
            f"memory, which has {available:,}; {needed - available:,} too many. Shard it over "
            "more devices or choose a target with more memory."
        )
    if "error" in reply:
        error = _first_line(reply["error"])
        raise ValueError(f"cost: {name} does not compile for {target.text}: {error}.")
    return Stages(
        lowered=module,
        compiled=compiled,
        read_from=reply["read_from"],
        platform=target.text,
        devices=exported.nr_devices,
        xla_flops=reply["xla_flops"],
        memory=held,
        kernels=kernels,
    )


def _lower(
    jitted: Any, name: str, target: Target, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[bytes, jax.export.Exported, list[int], Kernels]:
    """The lowered module, the exported program, which arguments are donated, the kernels."""
    platforms = (target.platform,)
    try:
        traced = jitted.trace(*args, **kwargs)
        lowered = traced.lower(lowering_platforms=platforms)
        module = lowered_bytes(lowered)
        # Export vouches for the stability of some library calls only; nothing is kept here.
        calls = _calls(module)
        checks = [jax.export.DisabledSafetyCheck.custom_call(call) for call in calls]
        export = jax.export.export(jitted, platforms=platforms, disabled_checks=checks)
        exported = export(*args, **kwargs)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"cost: {name} cannot be lowered for {target.text} ({_first_line(str(error))}). "
            "Leave that operation out or price it where it runs."
        ) from error
    if exported.nr_devices == 1 and any(call.startswith("xla.sdy.Global") for call in calls):
        raise ValueError(
            f"cost: {name} maps over a mesh that none of its arguments lives on. Give them a "
            "sharding: jax.ShapeDtypeStruct(..., sharding=NamedSharding(mesh, spec))."
        )
    leaves = jax.tree.leaves(lowered.args_info)
    donated = [k for k, leaf in enumerate(leaves) if leaf.donated]
    # Flat, so that the other process need not know the program's own pytrees.
    flat = jax.tree.structure((tuple(exported.in_avals), {}))
    results = jax.tree.structure(tuple(exported.out_avals))
    exported = dataclasses.replace(exported, in_tree=flat, out_tree=results)
    return module, exported, donated, pallas_kernels(traced.jaxpr)


def _ask(folder: Path, devices: int) -> dict[str, Any]:
    """Have another process compile the program of a folder; what it says of the result."""
    environment = os.environ | _ENVIRONMENT
    environment["JAX_ENABLE_X64"] = str(int(jax.config.read("jax_enable_x64")))
    environment["JAX_NUM_CPU_DEVICES"] = str(devices)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "lintoolkit.cost.target", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    reply = folder / "reply.json"
    if reply.exists():
        return json.loads(reply.read_text())
    last = done.stderr.strip().rpartition("\n")[2] or "in silence"
    return {"error": f"its compiler ended with status {done.returncode}, {last}"}


def _too_big(target: Target, held: Memory | None, error: str) -> tuple[int, int] | None:
    """Bytes needed and there, of a program that does not fit; on GPUs XLA only warns of it."""
    if sizes := _OVERFLOW.search(error):
        return _size(sizes[1], sizes[2]), _size(sizes[3], sizes[4])
    available = GPUS[target.model].memory if target.platform == "cuda" else math.inf
    return (held.total, int(available)) if held and held.total > available else None


def _need(target: Target) -> None:
    """Refuse a target whose compiler is not installed."""
    found = {
        "cpu": True,
        "cuda": any(_installed(f"jax_plugins.xla_cuda{version}") for version in (12, 13)),
        "tpu": _installed("libtpu"),
    }
    if not found[target.platform] or not _installed("flatbuffers"):
        extra = f"lintoolkit[aot-{target.platform}]"
        what = "flatbuffers" if target.platform == "cpu" else f"'{extra}'"
        raise ValueError(
            f"cost: target {target.text!r} needs a package that is not installed; "
            f"pip install {what}."
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def _calls(module: bytes) -> set[str]:
    """The names of a module's custom calls."""
    read: Module = read_module(module)
    every = (i for computation in read.computations.values() for i in computation.instructions)
    return {i.target for i in every if i.opcode == "custom-call"}


def _size(number: str, unit: str) -> int:
    """Bytes of a size as XLA writes it, such as 15.75G."""
    return round(float(number) * 1024 ** " KMGT".index(unit or " "))


def _first_line(error: str) -> str:
    return error.strip().partition("\n")[0].rstrip(".")


def _devices(platform: str, model: str, topology: str, count: int) -> Sequence[Any]:
    """Descriptions of a target's devices; the first use of a platform loads its compiler."""
    if platform == "cpu":
        return jax.devices()
    if platform == "tpu":
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{model}:{topology}"
        )
        return found.devices
    described = topologies.get_topology_desc(
        platform="cuda",
        topology=f"1x{-(-count // 8)}x{min(count, 8)}",  # eight to a machine
        target_config=_describe(GPUS[model]),
    )
    return described.devices


def _describe(gpu: Gpu) -> str:
    """A GPU in the text form that XLA's compiler reads."""
    major, minor = gpu.capability
    return f"""
    gpu_device_info {{ {_GPU_LIMITS}
      core_count: {gpu.cores} fpus_per_core: {gpu.fpus}
      shared_memory_per_core: {gpu.shared}
      shared_memory_per_block_optin: {gpu.shared - 1024}
      memory_bandwidth: {gpu.bandwidth} l2_cache_size: {gpu.cache}
      clock_rate_ghz: {gpu.clock} device_memory_size: {gpu.memory}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
    }}
    platform_name: "CUDA" device_description_str: "{gpu.description}"
    dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 13 minor: 0 }}
    """


def _compile(
    exported: jax.export.Exported, devices: Sequence[Any], donated: Sequence[int]
) -> jax.stages.Compiled:
    """Compile an exported program for the first of these devices, as many as it spans."""
    if exported.nr_devices > len(devices):
        raise ValueError(
            f"the program spans {exported.nr_devices} devices and there are {len(devices)}"
        )
    sources, results = _shardings(exported, devices[: exported.nr_devices])
    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
        for aval, sharding in zip(exported.in_avals, sources, strict=True)
    ]
    jitted = jax.jit(exported.call, donate_argnums=tuple(donated), out_shardings=results)
    # Nothing runs: the module is the same where the CPU's machine code is not made good.
    plain: dict[str, str | bool] = {}
    if devices[0].platform == "cpu":
        plain = {"xla_backend_optimization_level": "0"}
    return jitted.lower(*arguments).compile(compiler_options=plain)


def _shardings(
    exported: jax.export.Exported, devices: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Where arguments and results live: as exported, on these devices."""
    if len(devices) == 1:
        place = SingleDeviceSharding(devices[0])
        return [place] * len(exported.in_avals), (place,) * len(exported.out_avals)
    same: Any = None  # the abstract mesh of the export
    named: list[Any] = [*exported.in_shardings_jax(same), *exported.out_shardings_jax(same)]
    meshes = [sharding.mesh for sharding in named if sharding is not None]
    if not meshes:  # only the program itself names a mesh
        everywhere = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec())
        return [everywhere] * len(exported.in_avals), (None,) * len(exported.out_avals)
    grid = np.array(devices).reshape(meshes[0].axis_sizes)
    mesh = Mesh(grid, meshes[0].axis_names, axis_types=meshes[0].axis_types)
    return exported.in_shardings_jax(mesh), tuple(exported.out_shardings_jax(mesh))


def main(folder: Path) -> None:
    """Compile the program of a folder and leave the result, or the error, beside it."""
    request = json.loads((folder / "request.json").read_text())
    exported = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
    reply: dict[str, Any]
    try:
        devices = _devices(
            request["platform"], request["model"], request["topology"], exported.nr_devices
        )
        compiled = _compile(exported, devices, request["donated"])
        module, read_from = compiled_bytes(compiled)
        if module is not None:
            (folder / "module").write_bytes(module)
        reply = {
            "read_from": read_from,
            "memory": memory(compiled),
            "xla_flops": xla_flops(compiled),
        }
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        reply = {"error": str(error)}
    (folder / "reply.json").write_text(json.dumps(reply))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
