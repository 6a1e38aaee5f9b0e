"""Training through faults, on many devices: ``python -m experiments.reliability``.

A small GPT learns by heart, data parallel over four devices of one CPU, while its processes are
killed, frozen and told to leave, and its checkpoints are damaged. Whatever happens, the run
must end on the parameters of the undisturbed one, to the bit; so must principal components of
rows in a file five times larger than the memory that a process may have, and training on them.
Writes results/cpu/reliability.json, in some 30 minutes on two cores; names of trials,
``layouts``, ``faults``, ``kills``, ``damages``, ``rows`` and ``batches``, run those alone;
``--quick`` a few of each, and writes nothing.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions

from experiments.runner import ROOT, dump, read, run_stamp, write
from experiments.writer import next_token_loss
from lintoolkit import layers, transformer
from lintoolkit.checkpoint import digest, restore
from lintoolkit.cost import cost
from lintoolkit.launch import member
from lintoolkit.pca import PCA, fit_pca_stream
from lintoolkit.train import Fit, fit, fit_in_chunks

STEPS, CHUNK, BATCH, SEED = 30, 3, 8, 0
SHARDS, CHUNK_ROWS, BATCH_ROWS = 32, 8192, 4096  # of rows in a file
LIMIT, HEARTBEAT = 90.0, 10  # seconds until a stalled process ends itself, and a silent peer's
CONFIG = transformer.GPTConfig(vocabulary=32, context=16, blocks=2, heads=4, width=32)
LOSS = next_token_loss(CONFIG)
OPTIMIZER = optax.adamw(3e-3)
RESULTS = Path(__file__).parent / "results" / "cpu" / "reliability.json"
FAULTS = ("kill a worker", "kill process 0", "stall", "stop", "term", "raise")


Alive = Callable[[], None]  # to be called at every step, see `member`

# One process of the job


def tokens(step: int) -> np.ndarray:
    """The batch of a step, of the seed and the step alone."""
    generator = np.random.default_rng((SEED, step))
    start = generator.integers(CONFIG.vocabulary, size=(BATCH, 1))
    return ((start + np.arange(CONFIG.context + 1) ** 2) % CONFIG.vocabulary).astype(np.int32)


def mesh(model: int = 1) -> Mesh:
    """All devices of the job, so many of them to one copy of the model."""
    sides = jax.device_count() // model, model
    return jax.make_mesh(sides, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def run(
    folder: Path, *, steps: int, look: Callable[[range], None], devices: Mesh | None = None
) -> Fit:
    """Train over all devices of the job, or go on; `look` is called before every chunk."""
    devices = devices or mesh()
    split = NamedSharding(devices, PartitionSpec(None, "data"))
    params = transformer.init_gpt(jax.random.key(SEED), CONFIG)
    params = transformer.shard_gpt(params, devices, config=CONFIG)

    def batches(steps: range) -> jax.Array:
        look(steps)
        drawn = np.stack([tokens(step) for step in steps])
        return jax.make_array_from_callback(drawn.shape, split, drawn.__getitem__)

    with CheckpointManager(folder, options=CheckpointManagerOptions(max_to_keep=4)) as manager:
        return fit_in_chunks(
            LOSS,
            params,
            batches,
            steps=steps,
            chunk=CHUNK,
            optimizer=OPTIMIZER,
            checkpoint=manager,
        )


def train(folder: Path, alive: Alive, *, steps: int, fault: str, model: int) -> Fit:
    """Train, suffer on the way, and leave the losses and what travels between devices."""

    def look(steps: range) -> None:
        alive()
        with (folder / f"seen-{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(f"{steps.start} {time.time()}\n")
        if fault == "term" and (folder / "fault").exists():
            time.sleep(1.5)  # it takes seconds to be known to all
        if STEPS // 2 in steps:
            suffer(folder, fault)

    fitted = run(folder / "steps", steps=steps, look=look, devices=mesh(model))
    if jax.process_index() == 0:
        write(folder / "losses", json.dumps(fitted.losses.tolist()))
    if model > 1:
        split = NamedSharding(mesh(model), PartitionSpec(None, "data"))
        batches = jax.device_put(np.stack([tokens(step) for step in range(CHUNK)]), split)
        priced = cost(partial(fit, LOSS, optimizer=OPTIMIZER), fitted.params, batches)
        found = [[c.opcode, c.group, c.times, c.bytes] for c in priced.collectives]
        write(folder / "collectives", json.dumps(sorted(found)))
    return fitted


def damage(folder: Path, alive: Alive, *, rounds: int, seed: int) -> None:
    """Damage each file of the newest checkpoint in turn, restore, and leave how each ended.

    The model lies on all devices, so that each process of a job writes a part of it.
    """
    train = lambda name, steps: run(
        folder / name, steps=steps, look=lambda _: alive(), devices=mesh(jax.device_count())
    )
    fitted = train("whole", 3 * CHUNK)
    # Told from runs of their own that end there.
    saved = {
        step: sha_of(train(f"to-{step}", step)[:2]) for step in (CHUNK, 2 * CHUNK, 3 * CHUNK)
    }
    rows: list[dict] = []
    generator = random.Random(seed)
    files = [
        path.relative_to(folder / "whole")
        for path in sorted((folder / "whole" / f"{3 * CHUNK}").rglob("*"))
        if path.is_file()
    ]
    for path, kind in itertools.product(files * rounds, [*DAMAGE, "delete"]):
        alive()
        copy = folder / f"damaged-{len(rows)}"
        if jax.process_index() == 0:
            shutil.copytree(folder / "whole", copy)
            raw = (copy / path).read_bytes()
            if kind == "delete" or not raw:
                (copy / path).unlink()
            else:
                (copy / path).write_bytes(DAMAGE[kind](raw, generator))
        multihost_utils.sync_global_devices(f"{copy} is there")
        with CheckpointManager(copy) as manager:
            try:
                restored = restore(manager, fitted)
                good = sha_of(restored.tree[:2]) == saved[restored.step]
                place = "the newest" if restored.step == 3 * CHUNK else "an older"
                end = f"{place} state" if good else "garbage"
            except (ValueError, FileNotFoundError) as error:
                end = f"a named error, {type(error).__name__}"
        rows.append({"damage": kind, "end": end})
    write(folder / f"rows-{jax.process_index()}", json.dumps(rows))


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": lambda raw, generator: flipped(raw, generator.randrange(8 * len(raw))),
    "truncate": lambda raw, generator: raw[: generator.randrange(len(raw))],
    "zero": lambda raw, _: bytes(len(raw)),
}


def flipped(raw: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Watched:
    """Rows of a file, with a call before each slice that is taken of them."""

    def __init__(self, path: Path, before: Callable[[], None]):
        self.rows = np.load(path, mmap_mode="r")
        self.shape, self.before = self.rows.shape, before

    def __getitem__(self, at: slice) -> np.ndarray:
        self.before()
        return self.rows[at]


def limit_memory(rows: np.ndarray) -> None:
    """Let the process have a fifth of what the rows take; the pages of a file do not count."""
    resource.setrlimit(resource.RLIMIT_DATA, (rows.nbytes // 5,) * 2)


def loads(path: Path) -> bool:
    """Whether a file can be read whole."""
    try:
        np.load(path)
    except MemoryError:
        return False
    return True


def decompose(folder: Path, alive: Alive, *, fault: str) -> PCA:
    """Find the components of rows in a file, in less memory than they take."""
    path, slices = folder.parent / "rows.npy", itertools.count()

    def look() -> None:
        alive()
        if next(slices) == 40:
            suffer(folder, fault)

    rows = Watched(path, look)
    fit = partial(fit_pca_stream, rank=8, chunk_rows=CHUNK_ROWS)
    # Compiled before the limit holds.
    fit(rows.rows[:CHUNK_ROWS])
    multihost_utils.sync_global_devices("all have compiled")
    limit_memory(rows.rows)
    fitted = fit(rows, checkpoint=folder / "shards", shards=SHARDS)
    if jax.process_index() == 0:
        write(folder / "loads", json.dumps(loads(path)))
    return fitted


def regress(folder: Path, alive: Alive, *, steps: int, waits: bool) -> Fit:
    """Train on rows in a file, in less memory than they take; waiting for each chunk or not."""
    path = folder.parent / "rows.npy"
    rows = np.load(path, mmap_mode="r")
    params = layers.init_mlp(jax.random.key(SEED), (rows.shape[1], 256, 1))
    optimizer = optax.sgd(1e-2)

    def error(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((layers.mlp(params, x)[:, 0] - x[:, 0]) ** 2)

    def batches(steps: range) -> jax.Array:
        alive()
        drawn = [np.random.default_rng((SEED, step)) for step in steps]
        places = [int(one.integers(len(rows) - BATCH_ROWS)) for one in drawn]
        return jnp.asarray(np.stack([rows[place : place + BATCH_ROWS] for place in places]))

    chunks = partial(fit_in_chunks, error, params, batches, chunk=8, optimizer=optimizer)
    fitted = chunks(steps=8)  # compiled before the limit holds
    limit_memory(rows)
    if waits:
        fitted = chunks(steps=steps)
    for at in range(8, 0 if waits else steps, 8):
        piece = batches(range(at, at + 8))
        state = fitted.params, piece
        fitted = fit(error, *state, optimizer=optimizer, opt_state=fitted.opt_state)
    write(folder / "loads", json.dumps(loads(path)))
    write(folder / "losses", json.dumps(fitted.losses.tolist()))
    return fitted


def work(folder: Path, task: str, **options: Any) -> None:
    """One process of a job: do the task, and leave the SHA of what it gave."""
    with member(limit=LIMIT, heartbeat=HEARTBEAT) as alive:
        sha = sha_of(TASKS[task](folder, alive, **options))
        if jax.process_index() == 0:
            write(folder / "sha", sha)


TASKS: dict[str, Callable[..., Any]] = {
    "train": train,
    "damage": damage,
    "decompose": decompose,
    "regress": regress,
}


def sha_of(tree: Any) -> str:
    """One hash of a state's every bit."""
    return hashlib.sha256(json.dumps(digest(tree)).encode()).hexdigest()


def suffer(folder: Path, fault: str) -> None:
    """Do this to oneself, once in the life of the job."""
    victim = 0 if fault == "kill process 0" else 1
    if not fault or jax.process_index() != victim or (folder / "fault").exists():
        return
    write(folder / "fault", str(time.time()))
    if fault == "stall":
        time.sleep(3600)
    if fault == "raise":
        raise RuntimeError("as told")
    signals = {"stop": signal.SIGSTOP, "term": signal.SIGTERM}
    os.kill(os.getpid(), signals.get(fault, signal.SIGKILL))


# What is done to the job


def start(
    folder: Path,
    task: str = "train",
    *,
    processes: int = 0,
    devices: int = 1,
    restarts: int = 10,
    **options: Any,
) -> subprocess.Popen:
    """Start the job, under the supervisor where its number of processes is given."""
    folder.mkdir(exist_ok=True)
    if task == "train":
        options = {"steps": STEPS, "fault": "", "model": 1} | options
    command = [sys.executable, "-m", "experiments.reliability", "--worker", str(folder)]
    command += ["--task", task, "--options", json.dumps(options)]
    if processes:
        launch = [sys.executable, "-m", "lintoolkit.launch", "--processes", str(processes)]
        command = [*launch, "--restarts", str(restarts), "--", *command]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # A process that starts again compiles nothing that one before it compiled.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def finish(job: subprocess.Popen, folder: Path) -> tuple[str, list[tuple[float, str]]]:
    """Wait for the job's end: its SHA, and what it said, with the times."""
    assert job.stderr is not None
    with job.stderr:
        said = [(time.time(), line) for line in job.stderr]
    if job.wait() != 0:
        raise RuntimeError("the job failed: " + "".join(line for _, line in said)[-3000:])
    return (folder / "sha").read_text(encoding="utf-8"), said


def seen(path: Path) -> list[tuple[int, float]]:
    """The steps that a process came to, and when."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(step), float(when)) for step, when in (line.split() for line in lines)]


def layouts(folder: Path, shapes: Sequence[tuple[int, int]]) -> list[dict]:
    """The SHA of the same steps on as many devices, in other processes."""
    rows = []
    for processes, devices in shapes:
        here = folder / f"{processes}x{devices}"
        job = start(here, processes=processes, devices=devices)
        rows.append({"layout": f"{processes} x {devices}", "sha": finish(job, here)[0]})
    return rows


def losses(folder: Path) -> np.ndarray:
    """What a job that trained saw."""
    return np.array(json.loads((folder / "losses").read_text(encoding="utf-8")))


def faults(folder: Path, names: Sequence[str], *, processes: int, devices: int) -> list[dict]:
    """Jobs that something happens to: seconds until all are gone, and training again."""
    rows = []
    for name in names:
        here = folder / name.replace(" ", "-")
        job = start(here, processes=processes, devices=devices, fault=name)
        sha, said = finish(job, here)
        struck = float((here / "fault").read_text(encoding="utf-8"))
        gone = next(w for w, line in said if line.startswith("launch: all") and w > struck)
        steps = [step for path in here.glob("seen-*") for step in seen(path)]
        rows.append(
            {
                "fault": name,
                "sha": sha,
                "seconds until all are gone": round(gone - struck, 1),
                "seconds until training again": round(
                    min(when for step, when in steps if when > gone and step) - gone, 1
                ),
                "restarts": sum(line.startswith("launch: all") for _, line in said),
            }
        )
    return rows


def kills(folder: Path, count: int, *, steps: int, seed: int) -> list[dict]:
    """Kill -9 at random times a process that trains and saves without a pause."""
    rows: list[dict] = []
    generator = random.Random(seed)
    committed, reached = 0, 0
    while len(rows) < count or not (folder / "sha").exists():
        job = start(folder, steps=steps)
        path = folder / f"seen-{job.pid}"
        resumed = 0
        # The first look of a run that goes on is for shapes alone.
        while job.poll() is None and len(seen(path)) < 2:
            time.sleep(0.01)
        if len(rows) == count:
            finish(job, folder)
            break
        time.sleep(generator.uniform(0, 0.6))
        if job.poll() is not None:
            raise RuntimeError(f"done after {len(rows)} of {count} kills: ask for more steps")
        job.kill()
        job.communicate()
        here = [step for step, _ in seen(path)]
        resumed = here[1] if committed else here[0]
        rows.append(
            {
                "resumed": resumed,
                "committed before": committed,
                "reached before": reached,
                "intervals lost": (reached - resumed) // CHUNK,
            }
        )
        reached, committed = here[-1], newest(folder / "steps")
    return rows


def newest(folder: Path) -> int:
    """The newest step that was committed."""
    with CheckpointManager(folder) as manager:
        return manager.latest_step() or 0


def damages(folder: Path, *, processes: int, rounds: int, seed: int) -> list[dict]:
    """How restoring ends, by what was done to one file; all processes must say the same."""
    job = start(
        folder,
        "damage",
        processes=processes,
        devices=4 // processes,
        restarts=0,
        rounds=rounds,
        seed=seed,
    )
    finish(job, folder)
    said = [json.loads((folder / f"rows-{i}").read_text()) for i in range(processes)]
    if said != said[:1] * processes:
        raise RuntimeError("processes restored different states")
    return said[0]


def hold_rows(folder: Path) -> Path:
    """A file of rows, written a few at a time, along directions of many lengths."""
    # A fifth of them holds what a process of four takes before it reads any, some 0.6 GB.
    n, width = 4_000_000, 256
    path = folder / "rows.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, width))
    generator = np.random.default_rng(SEED)
    lengths = np.linspace(2, 1, width, dtype=np.float32)
    for start in range(0, n, 50_000):
        part = rows[start : start + 50_000]
        part[:] = generator.standard_normal(part.shape, np.float32) * lengths + 3
    return path


# All together


def try_layouts(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Processes x devices, four in all; one device; and four times two that split the model."""
    del seed
    rows = layouts(folder, ((1, 4), (2, 2)) if quick else ((1, 4), (2, 2), (4, 1)))
    split = folder / "split"
    layouts(folder, [(1, 1)])
    finish(start(split, processes=1, devices=8, model=2), split)
    one, four, eight = (losses(at) for at in (folder / "1x1", folder / "1x4", split))
    # Over the model after attention and MLP, forwards and back; where three layers read the
    # same vectors their gradients are one sum. Over the data, whatever is left.
    size = 4 * BATCH // 4 * CONFIG.context * CONFIG.width
    times = CONFIG.blocks * CHUNK
    expected = [["all-reduce", 2, times, size * k] for k in (1, 1, 1, 3)]
    found = json.loads((split / "collectives").read_text(encoding="utf-8"))
    return {
        "steps": STEPS,
        "rows": rows,
        "one hash": len({row["sha"] for row in rows}) == 1,
        "most that a loss on 4 devices differs from 1": float(abs(four - one).max()),
        "most that a loss on 4 x 2 devices differs from 1": float(abs(eight - one).max()),
        "losses, first and last": [one[0], one[-1]],
        "collectives of 3 steps on 4 x 2: what, devices, times, bytes": found,
        "over the model as expected": [c for c in found if c[1] == 2] == expected,
        "over the data sums alone": {tuple(c[:2]) for c in found}
        <= {("all-reduce", 2), ("all-reduce", 4)},
    }


def try_faults(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Two processes of two devices, and one of four that nothing happens to."""
    del seed
    (undisturbed,) = layouts(folder, [(1, 4)])
    rows = faults(folder, FAULTS[:1] if quick else FAULTS, processes=2, devices=2)
    same = {row["sha"] for row in rows} == {undisturbed["sha"]}
    limits = {"a step, seconds": LIMIT, "a heartbeat, seconds": HEARTBEAT}
    return {"limits": limits, "rows": rows, "all end on the undisturbed hash": same}


def try_kills(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """One process that trains and saves without a pause."""
    steps, count = (90, 2) if quick else (3000, 100)
    rows = kills(folder / "killed", count, steps=steps, seed=seed)
    sha = (folder / "killed" / "sha").read_text(encoding="utf-8")
    undisturbed = finish(start(folder / "alone", steps=steps), folder / "alone")[0]
    return {
        "kills": len(rows),
        "steps": steps,
        "steps between saves": CHUNK,
        "committed steps lost": sum(row["resumed"] < row["committed before"] for row in rows),
        "most intervals lost": max(row["intervals lost"] for row in rows),
        "ends on the undisturbed hash": sha == undisturbed,
    }


def try_damages(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """How restoring ends, by what was done to one file of the newest checkpoint."""
    found: dict[str, Any] = {}
    for processes in (1, 2):
        here = folder / f"{processes}"
        rows = damages(here, processes=processes, rounds=1 if quick else 2, seed=seed)
        found[f"processes: {processes}"] = {"trials": len(rows)} | {
            kind: Counter(row["end"] for row in rows if row["damage"] == kind)
            for kind in [*DAMAGE, "delete"]
        }
    return found


def try_rows(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Principal components of rows in a file, by several processes, one of them killed."""
    del seed
    path, rows = hold_rows(folder), []
    for processes in (1, 2) if quick else (1, 2, 4):
        here = folder / f"by-{processes}"
        sha, _ = finish(
            start(here, "decompose", processes=processes, restarts=0, fault=""), here
        )
        rows.append({"processes": processes, "sha": sha})
    here = folder / "killed"
    killed = start(here, "decompose", processes=2, restarts=0, fault="kill a worker")
    killed.communicate()
    kept = len([*(here / "shards").glob("*.safetensors")])
    sha, _ = finish(start(here, "decompose", processes=4, restarts=0, fault=""), here)
    rows.append({"processes": "2, one of them killed, then 4", "sha": sha, "shards kept": kept})
    read = [json.loads(file.read_text()) for file in folder.glob("*/loads")]
    return {
        **sizes(path),
        "shards": SHARDS,
        "rows": rows,
        "one hash": len({row["sha"] for row in rows}) == 1,
        "read whole under the limit": any(read),
    }


def try_batches(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Training on rows in a file; and the same without a wait after each chunk."""
    del seed
    path, steps = hold_rows(folder), 96 if quick else 480
    here = folder / "waits"
    finish(start(here, "regress", steps=steps, waits=True), here)
    try:
        finish(start(folder / "queues", "regress", steps=steps, waits=False), folder / "queues")
        queued = "ends well"
    except RuntimeError as error:
        # The rows that wait are in NumPy's memory and in JAX's: either may be refused.
        refused = any(said in str(error) for said in ("RESOURCE_EXHAUSTED", "MemoryError"))
        queued = "runs out of memory" if refused else str(error)
    seen = losses(here)
    return {
        **sizes(path),
        "steps": steps,
        "bytes drawn": steps * BATCH_ROWS * 256 * 4,
        "losses, first and last": [seen[0], seen[-1]],
        "without waiting for each chunk": queued,
        "read whole under the limit": json.loads((here / "loads").read_text()),
    }


def sizes(path: Path) -> dict[str, Any]:
    """What a file of rows takes, and what a process may have."""
    rows = np.load(path, mmap_mode="r")
    return {"bytes of rows": rows.nbytes, "bytes a process may have": rows.nbytes // 5}


TRIALS = {
    "layouts": try_layouts,
    "faults": try_faults,
    "kills": try_kills,
    "damages": try_damages,
    "rows": try_rows,
    "batches": try_batches,
}


def main() -> None:
    """Run the trials and put each into the results as it ends; or be one process of a job."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reliability")
    parser.add_argument("trials", nargs="*", help=f"of {', '.join(TRIALS)}; default all")
    parser.add_argument("--quick", action="store_true", help="a few of each, nothing written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.task, **options.options)
        return
    if unknown := set(options.trials) - TRIALS.keys():
        parser.error(f"trials must be of {', '.join(TRIALS)}, got {', '.join(sorted(unknown))}")
    for name in options.trials or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            found = TRIALS[name](Path(folder), options.quick, options.seed)
        print(dump({name: found}))
        if not options.quick:
            stamp = {"run": run_stamp(seed=options.seed, full=True)}
            write(RESULTS, dump(read(RESULTS, {}) | {name: found | stamp}))


if __name__ == "__main__":
    main()
