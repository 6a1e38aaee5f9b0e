"""Training through faults, on many devices: ``python -m experiments.reliability``.

A small GPT learns by heart, data parallel over four devices of one CPU, while its processes are
killed, frozen and told to leave, and its checkpoints are damaged. Whatever happens, the run
must end on the parameters of the undisturbed one, to the bit. Writes
results/cpu/reliability.json, in some 20 minutes on two cores; names of trials, ``layouts``,
``faults``, ``kills`` and ``damages``, run those alone; ``--quick`` a few of each, and writes
nothing.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions

from experiments.runner import ROOT, dump, read, run_stamp, write
from lintoolkit import transformer
from lintoolkit.checkpoint import digest, restore
from lintoolkit.launch import member
from lintoolkit.train import Fit, fit_in_chunks

STEPS, CHUNK, BATCH, SEED = 30, 3, 8, 0
LIMIT, HEARTBEAT = 90.0, 10  # seconds until a stalled process ends itself, and a silent peer's
CONFIG = transformer.GPTConfig(vocabulary=32, context=16, blocks=2, heads=4, width=32)
OPTIMIZER = optax.adamw(3e-3)
RESULTS = Path(__file__).parent / "results" / "cpu" / "reliability.json"
FAULTS = ("kill a worker", "kill process 0", "stall", "stop", "term", "raise")


# One process of the job


def loss(params, tokens):
    """Mean surprise at each next token."""
    logits = transformer.gpt(params, tokens[:, :-1], config=CONFIG)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return entropy(logits, tokens[:, 1:]).mean()


def tokens(step: int) -> np.ndarray:
    """The batch of a step, of the seed and the step alone."""
    generator = np.random.default_rng((SEED, step))
    start = generator.integers(CONFIG.vocabulary, size=(BATCH, 1))
    return ((start + np.arange(CONFIG.context + 1) ** 2) % CONFIG.vocabulary).astype(np.int32)


def run(folder: Path, *, steps: int, look: Callable[[range], None]) -> Fit:
    """Train over all devices of the job, or go on; `look` is called before every chunk."""
    devices = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(devices, PartitionSpec(None, "data"))
    params = transformer.init_gpt(jax.random.key(SEED), CONFIG)
    params = jax.device_put(params, NamedSharding(devices, PartitionSpec()))

    def batches(steps: range) -> jax.Array:
        look(steps)
        drawn = np.stack([tokens(step) for step in steps])
        return jax.make_array_from_callback(drawn.shape, split, drawn.__getitem__)

    with CheckpointManager(folder, options=CheckpointManagerOptions(max_to_keep=4)) as manager:
        return fit_in_chunks(
            loss,
            params,
            batches,
            steps=steps,
            chunk=CHUNK,
            optimizer=OPTIMIZER,
            checkpoint=manager,
        )


def work(folder: Path, steps: int, fault: str) -> None:
    """One process: train, suffer on the way, and write the end's SHA to ``folder``/sha."""
    with member(limit=LIMIT, heartbeat=HEARTBEAT) as alive:

        def look(steps: range) -> None:
            alive()
            with (folder / f"seen-{os.getpid()}").open("a", encoding="utf-8") as file:
                file.write(f"{steps.start} {time.time()}\n")
            if fault == "term" and (folder / "fault").exists():
                time.sleep(1.5)  # it takes seconds to be known to all
            if STEPS // 2 in steps:
                suffer(folder, fault)

        sha = sha_of(run(folder / "steps", steps=steps, look=look))
        if jax.process_index() == 0:
            write(folder / "sha", sha)


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
    folder: Path, *, processes: int = 0, devices: int = 1, steps: int = STEPS, fault: str = ""
) -> subprocess.Popen:
    """Start the job, under the supervisor where its number of processes is given."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "experiments.reliability", "--worker", str(folder)]
    command += ["--steps", str(steps), "--fault", fault]
    if processes:
        launch = [sys.executable, "-m", "lintoolkit.launch", "--processes", str(processes)]
        command = [*launch, "--", *command]
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


def damages(folder: Path, *, rounds: int, seed: int) -> list[dict]:
    """Damage each file of the newest checkpoint in turn, and restore."""
    rows: list[dict] = []
    generator = random.Random(seed)
    whole = folder / "whole"
    fitted = run(whole, steps=3 * CHUNK, look=lambda _: None)

    # Told from runs of their own that end there.
    saved = {
        step: sha_of(run(folder / f"to-{step}", steps=step, look=lambda _: None)[:2])
        for step in (CHUNK, 2 * CHUNK, 3 * CHUNK)
    }
    files = [
        path.relative_to(whole)
        for path in sorted((whole / f"{3 * CHUNK}").rglob("*"))
        if path.is_file()
    ]
    for path, kind in itertools.product(files * rounds, [*DAMAGE, "delete"]):
        copy = Path(shutil.copytree(whole, folder / f"damaged-{len(rows)}"))
        raw = (copy / path).read_bytes()
        if kind == "delete" or not raw:
            (copy / path).unlink()
        else:
            (copy / path).write_bytes(DAMAGE[kind](raw, generator))
        with CheckpointManager(copy) as manager:
            try:
                restored = restore(manager, fitted)
                good = sha_of(restored.tree[:2]) == saved[restored.step]
                place = "the newest" if restored.step == 3 * CHUNK else "an older"
                end = f"{place} state" if good else "garbage"
            except (ValueError, FileNotFoundError) as error:
                end = f"a named error, {type(error).__name__}"
        rows.append({"damage": kind, "end": end})
        shutil.rmtree(copy)
    return rows


# All together


def try_layouts(folder: Path, quick: bool, seed: int) -> dict[str, Any]:
    """Processes x devices, always four devices in all."""
    del seed
    rows = layouts(folder, ((1, 4), (2, 2)) if quick else ((1, 4), (2, 2), (4, 1)))
    return {"steps": STEPS, "rows": rows, "one hash": len({row["sha"] for row in rows}) == 1}


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
    rows = damages(folder, rounds=1 if quick else 2, seed=seed)
    ends = sorted({row["end"] for row in rows})
    count = lambda kind: {end: rows.count({"damage": kind, "end": end}) for end in ends}
    return {"trials": len(rows)} | {kind: count(kind) for kind in [*DAMAGE, "delete"]}


TRIALS = {
    "layouts": try_layouts,
    "faults": try_faults,
    "kills": try_kills,
    "damages": try_damages,
}


def main() -> None:
    """Run the trials and put each into the results as it ends; or be one process of a job."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reliability")
    parser.add_argument("trials", nargs="*", help=f"of {', '.join(TRIALS)}; default all")
    parser.add_argument("--quick", action="store_true", help="a few of each, nothing written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fault", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.steps, options.fault)
        return
    for name in options.trials or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            found = TRIALS[name](Path(folder), options.quick, options.seed)
        print(dump({name: found}))
        if not options.quick:
            stamp = {"run": run_stamp(seed=options.seed, full=True)}
            write(RESULTS, dump(read(RESULTS, {}) | {name: found | stamp}))


if __name__ == "__main__":
    main()
