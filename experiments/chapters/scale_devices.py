"""Training on many devices, on paper: what each of them computes, holds and sends."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from experiments.figures import scale_devices as figures
from experiments.published import H100_LINKS, TPU_V5E_LINKS
from experiments.writer import next_token_loss
from lintoolkit.cost import Collective, Cost, cost, find_device
from lintoolkit.train import fit
from lintoolkit.transformer import GPTConfig, gpt_flops, init_gpt, shard_gpt

SMALL = GPTConfig(vocabulary=256, context=64, blocks=4, heads=8, width=128)
# The shape of GPT-3 6.7B; Brown et al. 2020, arXiv 2005.14165, table 2.1.
LARGE = GPTConfig(vocabulary=50257, context=2048, blocks=32, heads=32, width=4096)
AXES = "data", "model"


class Layout(NamedTuple):
    """Devices along the axes of data and of model, and sequences in a batch.

    `paper` tells along which axis something travels by their lengths: they must differ.
    """

    data: int
    model: int
    batch: int


STRONG = Layout(1, 1, 64), Layout(8, 1, 64), Layout(8, 8, 64)
WEAK = Layout(1, 1, 1), Layout(8, 1, 8), Layout(8, 8, 64)


def training_step(config: GPTConfig) -> Callable:
    """One step of Adam from parameters and a batch; deep stacks recompute their blocks."""
    loss = next_token_loss(config, remat=config.blocks > SMALL.blocks)
    return partial(fit, loss, optimizer=optax.adam(1e-3))


def laid_out(config: GPTConfig, layout: Layout, dtype: DTypeLike) -> tuple[Any, Any]:
    """Shapes of the parameters and of one step's batch, placed on a mesh of no devices."""
    kinds = (AxisType.Auto,) * 2
    mesh = AbstractMesh(layout[:2], AXES, axis_types=kinds)
    shapes = jax.eval_shape(partial(init_gpt, config=config, dtype=dtype), jax.random.key(0))
    # Where each is split does not depend on sizes: a GPT of width 1 tells.
    least = GPTConfig(vocabulary=1, context=1, blocks=1, heads=1, width=1)
    here = jax.make_mesh((1, 1), AXES, axis_types=kinds)
    none = jax.eval_shape(partial(init_gpt, config=least), jax.random.key(0))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), none)
    placed = shard_gpt(zeros, here, config=least)

    def place(shape: jax.ShapeDtypeStruct, like: jax.Array) -> jax.ShapeDtypeStruct:
        where = NamedSharding(mesh, like.sharding.spec)  # type: ignore[attr-defined]
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)

    batch = (1, layout.batch, config.context + 1)
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.tree.map(place, shapes, placed), jax.ShapeDtypeStruct(
        batch, jnp.int32, sharding=rows
    )


def priced(config: GPTConfig, layout: Layout, dtype: DTypeLike, target: str) -> Cost:
    """What one device does in a step, read from the program compiled for all of them."""
    return cost(training_step(config), *laid_out(config, layout, dtype), target=target)


def sent(collective: Collective) -> float:
    """Bytes that one device of a ring sends: a sum passes its shares round twice."""
    rounds = 2 if collective.opcode == "all-reduce" else 1
    share = (collective.group - 1) / collective.group
    return rounds * share * collective.bytes * collective.times


def scaling(*, seed: int, full: bool):
    """One training step of a small GPT on 1, 8 and 64 devices: each one's share of it.

    The devices are forced on the CPU and share its cores, so no time is read: the work of one
    device, its memory and what it sends are those of the program that would run.
    """
    del seed, full
    layouts = list(dict.fromkeys(STRONG + WEAK))
    with ThreadPoolExecutor(2) as threads:
        each = threads.map(
            lambda layout: priced(SMALL, layout, jnp.float32, "cpu"), reversed(layouts)
        )
        found = dict(zip(reversed(layouts), each, strict=True))
    for name, series, grows in (
        ("strong-scaling", STRONG, "the batch stays, 64 sequences"),
        ("weak-scaling", WEAK, "the batch grows with the devices, one sequence each"),
    ):
        alone = found[series[0]].matmul_flops
        rows = []
        for layout in series:
            one, devices = found[layout], layout.data * layout.model
            ideal = alone * layout.batch / series[0].batch / devices
            rows.append((
                f"{layout.data} x {layout.model}", f"{layout.batch}",
                f"{one.matmul_flops:,}", f"{one.matmul_flops / ideal:.2f}",
                f"{one.bytes_accessed:,}", f"{held(one):,}",
                f"{sum(c.times for c in one.collectives)}",
                f"{sum(map(sent, one.collectives)):,.0f}",
            ))  # fmt: skip
        kinds = {c.opcode for layout in series for c in found[layout].collectives}
        yield figures.table(
            name,
            ("data x model", "batch", "product FLOPs", "of ideal", "bytes", "memory",
             "collectives", "bytes sent"),
            rows,
            f"A step of Adam on a GPT of {SMALL.blocks} blocks and width {SMALL.width}: "
            f"{grows}. Everything is of one device; ideal is the single device's products "
            f"divided evenly. All that travels is {', '.join(sorted(kinds))}.",
        )  # fmt: skip


def held(one: Cost, *, everything: bool = True) -> int:
    """Bytes of a device's memory in use, or those of arguments and results alone."""
    if one.memory is None:
        return 0
    return one.memory.total - (0 if everything else one.memory.temps)


def paper(*, seed: int, full: bool):
    """A GPT of 6.7 billion parameters on 256 TPU v5e and on 64 H100: a step takes at least.

    Three bounds of one device: its products at the peak, its bytes at the memory's bandwidth,
    and what it sends at its links'. They overlap at best and add up at worst.
    """
    del seed, full
    plans = (
        ("TPU v5e", "tpu:v5e:16x16", Layout(32, 8, 128), TPU_V5E_LINKS),
        ("H100", "cuda:h100", Layout(16, 4, 128), H100_LINKS),
    )
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda plan: ahead_of_time(plan[1], plan[2]), plans))
    useful = 3 * gpt_flops(config=LARGE, n=128, t=LARGE.context)
    rows, compilers, foreign = [], [], False
    for (name, _, layout, links), (compiler, one) in zip(plans, found, strict=True):
        device, devices = find_device(name), layout.data * layout.model
        compute = one.matmul_flops / device.peak["bf16"]
        roofline = one.roofline(device)
        memory = roofline.memory_seconds
        travel = sum(sent(c) / links[c.group == layout.model] for c in one.collectives)
        best, worst = max(compute, memory, travel), compute + memory + travel
        share = useful / devices / device.peak["bf16"]
        milliseconds = lambda seconds: f"{seconds * 1e3:,.0f} ms"
        rows.append((
            f"{devices} x {name}", f"{layout.data} x {layout.model}",
            f"{held(one, everything=not roofline.compiled_for) / 1e9:.1f} of "
            f"{(device.memory or 0) / 1e9:.0f} GB",
            milliseconds(compute), milliseconds(memory), milliseconds(travel),
            f"{milliseconds(best)} to {milliseconds(worst)}",
            f"{share / worst:.0%} to {share / best:.0%}",
        ))  # fmt: skip
        compilers.append(f"{name} by {compiler}")
        foreign |= roofline.compiled_for is not None
    yield figures.table(
        "paper",
        ("devices", "data x model", "memory", "products", "bytes", "links", "a step",
         "of peak"),
        rows,
        f"{LARGE.blocks} blocks of width {LARGE.width}, bfloat16, 128 sequences of "
        f"{LARGE.context} tokens. Compiled for {' and '.join(compilers)}. Of peak: the closed "
        "form's FLOPs, three forward passes, over what the devices could do in that time."
        + (
            " What the CPU's compiler keeps and moves in between is its own affair, so memory "
            "and bytes are those of arguments and results; its sums travel in float32, up to "
            "twice what the device would send."
            if foreign
            else ""
        ),
    )  # fmt: skip


def ahead_of_time(hardware: str, layout: Layout) -> tuple[str, Cost]:
    """The step compiled for hardware that is not there, by the CPU's compiler if need be."""
    try:
        return "its own compiler", priced(LARGE, layout, jnp.bfloat16, hardware)
    except ValueError as error:
        if "not installed" not in str(error):
            raise
    forced = f"the CPU's compiler on {layout.data * layout.model} forced devices"
    return forced, priced(LARGE, layout, jnp.bfloat16, "cpu")
