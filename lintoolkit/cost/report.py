"""What a program costs, as people read it: totals, parts, and the two stages side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax

from lintoolkit.cost import explain, plot, tables
from lintoolkit.cost.names import COMPILER, OTHERS, UNSCOPED, phase_of, scope_of, totals_of
from lintoolkit.cost.roofline import Device, Roofline, find_device, mfu, roofline
from lintoolkit.cost.walk import Branches, Collective, Loop, Op, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One stage of a program, counted: `lowered` (as written) or `compiled` (as run).

    Attributes:
        stage: ``"lowered"`` or ``"compiled"``.
        ops: Every instruction that works or moves data, with all its runs.
        loops: Every loop as reached in the program.
        branches: Every conditional whose branch the program does not fix and whose branches
            differ.
        collectives: Every exchange between devices.
        uncounted: What is not priced, by name, with the number of runs.
        estimates: What is priced by an estimate (iterative routines), likewise.
    """

    stage: str
    ops: tuple[Op, ...]
    loops: tuple[Loop, ...]
    branches: tuple[Branches, ...]
    collectives: tuple[Collective, ...]
    uncounted: Mapping[str, int]
    estimates: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiply-add is two, transcendentals are apart."""
        return sum(op.work.flops for op in self.ops)

    @property
    def matmul_flops(self) -> int:
        """FLOPs of products, whatever their type: dots and convolutions."""
        return sum(op.work.products for op in self.ops)

    @property
    def linalg_flops(self) -> int:
        """FLOPs of factorisations and solves, by formula; see `lintoolkit.cost.linalg`."""
        return self.by_category().get("linalg", 0)

    @property
    def fft_flops(self) -> int:
        """FLOPs of Fourier transforms: 5 N log2 N each, half where one side is real."""
        return self.by_category().get("fft", 0)

    @property
    def elementwise_flops(self) -> int:
        """FLOPs of arithmetic, comparison and selection, one an output element."""
        return self.by_category().get("elementwise", 0)

    @property
    def reduction_flops(self) -> int:
        """FLOPs of sums, maxima and other folds."""
        return self.by_category().get("reduction", 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the products: half of `matmul_flops`."""
        return self.matmul_flops // 2

    @property
    def transcendentals(self) -> int:
        """Evaluations of exp, log, tanh, sqrt and their like, not part of `flops`."""
        return sum(op.work.transcendentals for op in self.ops)

    @property
    def integer_ops(self) -> int:
        """Integer and boolean operations (indices, random bits), not part of `flops`."""
        return sum(op.work.integer for op in self.ops)

    @property
    def bytes_accessed(self) -> int:
        """Bytes that the instructions read and write; a fusion counts from outside."""
        return sum(op.bytes for op in self.ops)

    @property
    def intensity(self) -> float:
        """FLOPs a byte; zero where nothing is moved."""
        moved = self.bytes_accessed
        return self.flops / moved if moved else 0.0

    @property
    def sure(self) -> bool:
        """Whether every trip count is known, and every branch taken or all alike."""
        return not self.branches and all(loop.kind == "exact" for loop in self.loops)

    @property
    def exact(self) -> bool:
        """Whether it is sure and nothing is uncounted or estimated."""
        return self.sure and not self.uncounted and not self.estimates

    def by_op(self) -> dict[str, int]:
        """FLOPs of each HLO opcode, largest first; they sum to `flops`."""
        return totals_of((op.opcode, op.work.flops) for op in self.ops)

    def by_category(self) -> dict[str, int]:
        """FLOPs of products, elementwise work, reductions, linalg, fft; they sum to `flops`."""
        return totals_of((op.category, op.work.flops) for op in self.ops)

    def by_scope(self, depth: int = 1) -> dict[str, int]:
        """FLOPs of each named scope down to `depth` names, largest first; they sum to `flops`.

        Args:
            depth: How many names of the path to keep, at least 1.

        Returns:
            ``"block/attention" -> FLOPs``; ops outside every scope stand under "(no scope)".

        Raises:
            ValueError: If `depth` is not a positive integer.
        """
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(
                f"by_scope: depth must be at least 1, got {depth!r}. Give a whole number of "
                "names to keep."
            )
        pairs = (("/".join(scope_of(op.name)[:depth]), op.work.flops) for op in self.ops)
        return totals_of((name or UNSCOPED, flops) for name, flops in pairs)

    def by_phase(self) -> dict[str, int]:
        """FLOPs forward, backward, recomputed (remat) and in the optimizer; sum to `flops`.

        What stands outside differentiation is "optimizer" in a program that has a backward
        pass, and "forward" in one that has none.

        Returns:
            Phase -> FLOPs, largest first.
        """
        names = [op.name for op in self.ops]
        trains = any("transpose(" in name for name in names)
        return totals_of((phase_of(op.name, trains=trains), op.work.flops) for op in self.ops)

    def by_source(self) -> dict[str, int]:
        """FLOPs by the function and line of the program that asked for them."""
        pairs = ((op.source, op.work.flops) for op in self.ops)
        return totals_of((f"{s[1]} ({s[0]}:{s[2]})" if s[0] else UNSCOPED, n) for s, n in pairs)

    def by_dtype(self) -> dict[str, int]:
        """FLOPs by element type: of the operands in products, of the result elsewhere."""
        return totals_of((op.dtype, op.work.flops) for op in self.ops)

    def to_dict(self) -> dict[str, Any]:
        """All totals and parts as JSON-ready values."""
        return {
            "flops": self.flops,
            "macs": self.macs,
            "matmul_flops": self.matmul_flops,
            "transcendentals": self.transcendentals,
            "integer_ops": self.integer_ops,
            "bytes_accessed": self.bytes_accessed,
            "intensity": self.intensity,
            "exact": self.exact,
            "loops": [asdict(loop) for loop in self.loops],
            "branches": [asdict(branches) for branches in self.branches],
            "collectives": [asdict(collective) for collective in self.collectives],
            "uncounted": dict(self.uncounted),
            "estimates": dict(self.estimates),
            "by_op": self.by_op(),
            "by_category": self.by_category(),
            "by_dtype": self.by_dtype(),
            "by_phase": self.by_phase(),
            "by_scope": self.by_scope(),
        }


def view(stage: str, tally: Tally) -> View:
    """A `View` of what a walk found."""
    return View(
        stage=stage,
        ops=tuple(tally.ops),
        loops=tuple(tally.loops),
        branches=tuple(tally.branches),
        collectives=tuple(tally.collectives),
        uncounted=dict(tally.uncounted),
        estimates=dict(tally.estimates),
    )


class Memory(NamedTuple):
    """Bytes that a program holds on each device: arguments, outputs, temporaries, constants.

    `aliased` bytes are both argument and output (donated buffers), `constants` the arrays that
    the program closes over. XLA's own peak leaves the temporaries out on CPU; `total` does not.
    """

    arguments: int
    outputs: int
    temps: int
    aliased: int
    constants: int = 0

    @property
    def total(self) -> int:
        """Arguments + outputs + temporaries + constants - aliased."""
        return self.arguments + self.outputs + self.temps + self.constants - self.aliased


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(View):
    """What one program costs: as compiled, as written, and by XLA's own account.

    The totals are the compiled program's, which is what runs; where the runtime does not show
    it they are the lowered one's (see `stage`). `str()` gives a table. Scopes, phases and types
    are the lowered program's, where they are complete; but where only compiling settles how
    often its loops run or which branch is taken, they are the compiled one's (see `parts`).

    Attributes:
        name: What was priced.
        platform: The platform that it was compiled for.
        devices: How many devices run it. The compiled program, and so every total, is one
            device's; the lowered one is the whole, before partitioning.
        lowered: The program before optimisation. Where a compiled program was given there is
            none, and the compiled view stands here too, as its `stage` says.
        compiled: The program after it; where the runtime hides it, the lowered view.
        xla_flops: ``cost_analysis()["flops"]``, or None where XLA gives none.
        memory: Bytes held on each device, or None where the runtime does not say.
        read_from: Which of JAX's accessors gave the compiled program.
        compulsory_bytes: Bytes of its arguments and of the arrays that it closes over that one
            device has to read, and of its results that it has to write, each once: what no
            compiler spares it.
    """

    name: str
    platform: str
    devices: int
    lowered: View
    compiled: View
    xla_flops: int | None
    memory: Memory | None
    read_from: str
    compulsory_bytes: int

    @property
    def global_flops(self) -> int:
        """FLOPs of all devices together."""
        return self.flops * self.devices

    @property
    def parts(self) -> View:
        """The stage whose names, types and products count: the lowered one, if that is sure."""
        return self.compiled if self.compiled.sure and not self.lowered.sure else self.lowered

    def by_scope(self, depth: int = 1) -> dict[str, int]:
        """FLOPs of each named scope, largest first; they sum to `flops`.

        Names are taken from the lowered program (see `parts`), where they are complete. What
        compiling adds or (negative) saves stands under "(compiler)".

        Args:
            depth: How many names of the path to keep, at least 1.

        Returns:
            ``"block/attention" -> FLOPs``.
        """
        return self._named(lambda view: View.by_scope(view, depth))

    def by_phase(self) -> dict[str, int]:
        """As `View.by_phase`, of `parts`, the rest under "(compiler)"."""
        return self._named(View.by_phase)

    def by_source(self) -> dict[str, int]:
        """As `View.by_source`, of `parts`, the rest under "(compiler)"."""
        return self._named(View.by_source)

    def by_dtype(self) -> dict[str, int]:
        """As `View.by_dtype`, of `parts`: as lowered, what was asked for, not upcast."""
        return self._named(View.by_dtype)

    def roofline(self, device: str | Device | jax.Device) -> Roofline:
        """What bounds the program on a device, and how fast it can be; see `roofline`.

        Products count by the element type and precision that were asked for, as lowered: a
        CPU's compiler turns bfloat16 into float32; see `parts`. Bytes depend on what was
        compiled for:

        - The device's own platform: all that the program moves, in the stage that moves fewer,
          since the lowered program is not fused and the compiled one carries upcasts; at least
          `compulsory_bytes`.
        - Another one, such as the CPU for ``"H100"``: `compulsory_bytes` alone, since how much
          goes through memory in between is each compiler's affair, and of the work beside
          products that of the stage that does less. The bound is then looser;
          ``cost(..., target="cuda:h100")`` compiles for the device.

        On several devices all is one device's, as compiled.

        Args:
            device: A name from the table, such as ``"H100"`` or ``"tpu v5e"``, a `Device`, or
                one of `jax.devices`.

        Returns:
            A `Roofline`: seconds of arithmetic and of memory, bound, attainable FLOP/s.

        Examples:
            >>> import jax, jax.numpy as jnp
            >>> from lintoolkit.cost import cost
            >>> half = jax.ShapeDtypeStruct((4096, 4096), "float16")
            >>> best = cost(jnp.matmul, half, half).roofline("H100")
            >>> print(best.bound, round(best.intensity), round(best.ridge), best.compiled_for)
            compute 1365 295 cpu
        """
        on = find_device(device)
        platform = self.platform.partition(":")[0].replace("cuda", "gpu")
        at_home = platform == on.platform
        stages = [self.compiled, self.parts] if self.devices == 1 else [self.compiled]
        moved = max(min(stage.bytes_accessed for stage in stages), self.compulsory_bytes)
        other = min(stage.flops - stage.matmul_flops for stage in stages)
        best = roofline(
            on,
            products=self._products(),
            moved=moved if at_home else self.compulsory_bytes,
            other=self.flops - self.matmul_flops if at_home else other,
        )
        return best if at_home else replace(best, compiled_for=self.platform)

    def mfu(self, seconds: int | float, device: str | Device | jax.Device) -> float:
        """Model FLOP utilisation of a run: products / (seconds x peak of their types).

        Products that rematerialisation does again are left out, as the term means it; on
        several devices it is each one's share of the work against its own peak.

        Args:
            seconds: How long one run took, measured with `jax.block_until_ready`.
            device: A name from the table or a `Device`.

        Returns:
            A share, from 0 to 1 where the time and the device are right.

        Examples:
            >>> import jax, jax.numpy as jnp
            >>> from lintoolkit.cost import cost
            >>> square = jax.ShapeDtypeStruct((8192, 8192), "bfloat16")
            >>> print(f"{cost(jnp.matmul, square, square).mfu(1.5e-3, 'H100'):.3f}")
            0.741
        """
        return mfu(device, products=self._products(recomputed=False), seconds=seconds)

    def plot(
        self,
        device: str | Device | jax.Device | None = None,
        *,
        others: Sequence["Cost"] = (),
        depth: int = 3,
    ) -> Any:
        """Draw the FLOPs by scope as an icicle and, on a device, the roofline above it.

        Each rectangle is as wide as its scope's FLOPs (of `parts`) and stands below the scope
        that contains it.

        Args:
            device: Draws the roofline of this device too: a name from the table or a `Device`.
            others: Further costs under the same roofline.
            depth: How many levels of scopes.

        Returns:
            A `matplotlib.figure.Figure`: show it in a notebook, or call its `savefig`.
        """
        lines: dict[str, Roofline] = {}
        if device is not None:
            for each in [self, *others]:
                label = f"{each.name} ({len(lines) + 1})" if each.name in lines else each.name
                lines[label] = each.roofline(device)
        return plot.figure(
            lines,
            self.parts.by_scope(depth),
            name=self.name,
            depth=depth,
        )

    def _products(self, *, recomputed: bool = True) -> dict[str, int | float]:
        """FLOPs of one device's products by the type and precision that were asked for."""
        asked = totals_of(
            (f"{op.dtype} {op.precision}".removesuffix(" default"), op.work.products)
            for op in self.parts.ops
            if recomputed or phase_of(op.name, trains=True) != "recompute"
        )
        # The lowered program is that of all devices; what each one gets, compiling decides.
        share = self.matmul_flops / (self.parts.matmul_flops or 1) if self.devices > 1 else 1
        return {dtype: share * flops for dtype, flops in asked.items()}

    def _named(self, parts_of: Callable[[View], dict[str, int]]) -> dict[str, int]:
        """Parts of the stage whose names count, and what compiling changed."""
        parts = parts_of(self.parts)
        rest = self.flops - self.parts.flops
        return {**parts, COMPILER if self.devices == 1 else OTHERS: rest} if rest else parts

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        return {
            "name": self.name,
            "platform": self.platform,
            "devices": self.devices,
            "memory": self.memory and {**self.memory._asdict(), "total": self.memory.total},
            "read_from": self.read_from,
            "xla_flops": self.xla_flops,
            "compulsory_bytes": self.compulsory_bytes,
            **View.to_dict(self),
            "lowered": self.lowered.to_dict(),
            "compiled": self.compiled.to_dict(),
        }

    def explain(self, *, least: float | int = explain.WORTH_SAYING) -> list[str]:
        """Say in sentences what compiling changed.

        Args:
            least: The share of the program's FLOPs below which a difference goes unsaid.

        Returns:
            One sentence a difference between the lowered and the compiled program; none where
            they agree.
        """
        return explain.differences(self, least)

    def to_html(self) -> str:
        """The table as an HTML fragment that needs nothing else."""
        return tables.as_html(tables.sections(self), title=f"{self.name} on {self.platform}")

    _repr_html_ = to_html

    def __str__(self) -> str:
        """A table: totals of both stages, XLA's own count where it is off, loops, scopes."""
        return tables.as_text(tables.sections(self), title=f"{self.name} on {self.platform}")
