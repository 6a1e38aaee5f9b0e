"""Jobs that are killed end where they would have: a few of `experiments.reliability`."""

import ast
import sys
from pathlib import Path

import jax
import pytest

import lintoolkit
from experiments import reliability
from lintoolkit import launch
from lintoolkit.launch import member, supervise

ROOT = Path(lintoolkit.__file__).parent.parent


def python(program):
    return [sys.executable, "-c", program]


def test_a_process_that_fails_has_all_started_again(tmp_path, capfd):
    """Process 1 dies the first time, process 0 would wait for it for good."""
    program = f"""
import os, pathlib, time
address, processes, process = os.environ["LINTOOLKIT_JOB"].split()
assert address.startswith("127.0.0.1:") and processes == "2"
mark = pathlib.Path({str(tmp_path)!r}) / process
mark.write_text(mark.read_text() + "again" if mark.exists() else "first")
if mark.read_text() == "first":
    time.sleep(600 * (process == "0"))
    while not (mark.parent / "0").exists():
        time.sleep(0.01)
    raise SystemExit(3)
"""
    assert supervise(python(program), processes=2) == 0
    assert [(tmp_path / f"{i}").read_text() for i in range(2)] == ["firstagain"] * 2
    assert (
        "the first with status 3: starting all again, 9 restarts left" in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["1", "--", "./no-such-program"], "No such file or directory: ./no-such-program"),
        (["0", "--", "true"], "processes must be a whole number of at least 1, got 0."),
        (["2", "--here", "1", "--", "true"], "address must name a port that all hosts know"),
    ],
)
def test_a_bad_command_line_is_one_sentence(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["launch", "--processes", *arguments])
    assert launch._main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith("launch: ")
    assert said in errors
    assert errors.count("\n") == 1


def test_a_process_that_stands_still_ends_itself(capfd):
    program = """
import time
from lintoolkit.launch import member
with member(limit=0.5) as alive:
    for pause in (0.1, 0.4, 600):
        alive()
        time.sleep(pause)
"""
    assert supervise(python(program), processes=1, restarts=0) == 1
    said = capfd.readouterr().err
    assert "Timeout (0:00:00.500000)!" in said
    assert "giving up" in said


def test_an_exception_ends_the_process_at_once(capfd):
    program = """
import atexit, time
from lintoolkit.launch import member
atexit.register(time.sleep, 600)
with member(limit=60.0):
    raise RuntimeError("as told")
"""
    assert supervise(python(program), processes=1, restarts=0) == 71
    assert "RuntimeError: as told" in capfd.readouterr().err


def test_alone_a_process_is_a_job_of_one():
    with member(limit=60.0) as alive:
        alive()
        assert jax.process_count() == 1


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_ends_on_the_same_bits(tmp_path):
    """On the same number of devices, in one process undisturbed and in two that were killed."""
    (whole,) = reliability.layouts(tmp_path, [(1, 2)])
    (killed,) = reliability.faults(tmp_path, ["kill a worker"], processes=2, devices=1)
    assert killed["restarts"] == 1
    assert killed["sha"] == whole["sha"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", reliability.FAULTS[1:])
def test_any_fault_ends_on_the_same_bits(tmp_path, fault):
    (whole,) = reliability.layouts(tmp_path, [(1, 2)])
    (struck,) = reliability.faults(tmp_path, [fault], processes=2, devices=1)
    assert struck["restarts"] == 1
    assert struck["sha"] == whole["sha"]


@pytest.mark.slow
def test_kills_lose_no_committed_step(tmp_path):
    rows = reliability.kills(tmp_path / "killed", 5, steps=300, seed=0)
    assert len(rows) == 5
    for row in rows:
        assert row["resumed"] >= row["committed before"]
        assert row["intervals lost"] <= 2
    alone = tmp_path / "alone"
    undisturbed = reliability.finish(reliability.start(alone, steps=300), alone)[0]
    assert (tmp_path / "killed" / "sha").read_text() == undisturbed


@pytest.mark.slow
def test_processes_agree_on_what_they_restore(tmp_path):
    """Whichever file of the newest step was damaged, a part of it each process's own."""
    rows = reliability.damages(tmp_path, processes=2, rounds=1, seed=0)
    assert {row["end"] for row in rows} == {"an older state", "the newest state"}


# Nothing that runs what a file says


SOURCES = [
    path for room in ("lintoolkit", "experiments") for path in (ROOT / room).rglob("*.py")
]
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe(text):
    """What could run a file's contents: modules, built-in calls, pickled arrays."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module} & UNSAFE_MODULES
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
                yield node.func.id
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell"):
                    yield keyword.arg


def test_no_file_is_unpickled_or_run():
    assert SOURCES
    for path in SOURCES:
        found = {*unsafe(path.read_text("utf-8"))}
        if path.parent.name == "chapters":  # some run lines of code that an article prints
            found -= UNSAFE_CALLS
        assert not found, path
    control = "import pickle; from dill import load; eval('1'); np.load(f, allow_pickle=True)"
    assert [*unsafe(control)] == ["pickle", "dill", "eval", "allow_pickle"]
