"""The experiments' harness: command line, judging, results directory, report."""

import ast
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from experiments import report, runner
from experiments.__main__ import chosen, main, print_results, progress, row_lines
from experiments.figures import layers, pca, similarity, svd, words_learned
from experiments.ledger import ARTICLES, CHAPTERS, VERDICTS, agrees, claims
from experiments.rows import Figure, Row, flops, row, to_json

ROOT = Path(__file__).parent.parent
HELD = "sense-vector-row"  # expects {"ndim": 1, "length": 512}
GOOD = {"ndim": 1, "length": 512}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter in the checkout: x64 and matplotlib's settings are its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def experiments(*arguments: str) -> subprocess.CompletedProcess:
    return python("-m", "experiments", *arguments)


@pytest.fixture(scope="module")
def objects_run(tmp_path_factory):
    """The smallest chapter, run twice into two directories with the same seed."""
    runs = [tmp_path_factory.mktemp("results") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        done = pool.map(
            lambda out: experiments("objects", "--seed", "3", "--out", str(out)), runs
        )
        return runs, list(done)


def chapter(name="objects", *, computed=GOOD, drawn=(), **options) -> dict:
    """A chapter's record with one judged row, as the runner writes it."""
    experiment, _, _ = runner.run_experiment(
        made(Row(claim=HELD, computed=computed, **options)), name, seed=0, full=False, seen={}
    )
    experiment["figures"] = [{"file": stem, "caption": ""} for stem in drawn]
    stamp = runner.run_stamp(seed=0, full=False)
    return {
        "chapter": name,
        "title": CHAPTERS[name],
        "about": "",
        "run": stamp,
        "sources": runner.sources(),
        "experiments": [experiment],
    }


def made(*items, error: Exception | None = None):
    """An experiment that yields these items, then fails if told to."""

    def invented(*, seed, full):
        """Things <made up> for a test."""
        del seed, full
        yield from items
        if error:
            raise error

    return invented


# The command line


def test_list_names_everything_without_importing_jax():
    code = (
        "import sys; from experiments.__main__ import main; assert main(['list']) == 0;"
        "heavy = {'jax', 'numpy', 'matplotlib', 'rich', 'lintoolkit'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for name, title in (CHAPTERS | ARTICLES).items():
        assert re.search(rf"^  {name} +\d+ claims  {re.escape(title)}$", done.stdout, re.M)


def test_a_reader_that_leaves_early_gets_no_traceback():
    call = [sys.executable, "-m", "experiments", "list"]
    with subprocess.Popen(
        call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()  # before anything is written
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert not said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["objcts"], r"unknown name 'objcts' \(did you mean 'objects'\?\): expected a chapter"),
        (["list", "objects"], r"'list' stands alone"),
        (["--seed", "-1"], r"argument --seed: expected"),
        (["--seed", "many"], r"whole number from 0 to 4294967295, got 'many'"),
        (["--sede", "1"], r"unrecognized arguments"),
        (["--out", "pyproject.toml"], r"--out pyproject.toml cannot be written to"),
        (["--out", "pyproject.toml/x"], r"--out pyproject.toml/x cannot be written to"),
    ],
)
def test_bad_command_is_one_sentence_and_status_2(arguments, said):
    done = experiments(*arguments)
    assert done.returncode == 2
    assert re.search(said, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("named", [["objects"], ["seeing"]])
def test_a_command_that_cannot_be_obeyed_makes_no_directory(tmp_path, named):
    out = tmp_path / "results"
    with pytest.raises(SystemExit):
        main([*named, "--images", str(tmp_path / "nowhere"), "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("claims.json", '{"half":'),
        ("claims.json", '{"x": 1}'),
        ("objects.json", "[]"),
        ("svd.json", '{"x": 1}'),
        ("run.json", '{"mine": 1}'),
        ("timings.json", '{"mine": 1}'),
        ("report.html", "<h1>Mine</h1>"),
        ("words.log", "Mine."),
    ],
)
def test_what_no_run_wrote_is_refused_and_kept(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["objects", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert re.search(rf"{name} should be (a JSON object of|left by) an earlier run", said)
    assert said.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == [content]


def test_a_broken_function_turns_the_exit_status(tmp_path):
    code = (
        "import sys, experiments.data as data, experiments.__main__ as command;"
        "whole = data.photograph;"
        "data.photograph = lambda name: whole(name)[:, 1:];"
        "sys.exit(command.main(['objects', '--out', sys.argv[1]]))"
    )
    done = python("-c", code, str(tmp_path))
    broken = json.loads((tmp_path / "claims.json").read_text())[HELD]
    assert done.returncode == 1
    assert f"✗ {HELD} differs: expected ndim 1, length 512, computed ndim 1, length 511" in (
        done.stdout
    )
    assert broken["verdict"] == "differs"
    assert broken["agrees"] is False


def test_an_article_shows_its_own_rows_alone(tmp_path, capsys):
    record = chapter()
    assert print_results([record], chosen(["sense"]), tmp_path) == 0
    assert HELD in capsys.readouterr().out
    assert print_results([record], chosen(["need"]), tmp_path) == 0
    assert HELD not in capsys.readouterr().out
    assert {claim.article for claim in chosen(["need"]).values()} == {"need"}
    assert {claim.chapter for claim in chosen(["svd"]).values()} == {"svd"}
    assert chosen([]) == claims()


def test_what_differs_or_fails_turns_the_status(tmp_path, capsys):
    assert print_results([chapter(computed={"ndim": 2})], claims(), tmp_path) == 1
    assert f"{HELD} differs: expected ndim 1, length 512" in capsys.readouterr().out
    record = chapter()
    record["experiments"][0]["error"] = "ZeroDivisionError: by zero"
    assert print_results([record], claims(), tmp_path) == 1
    assert "objects: invented failed: ZeroDivisionError: by zero" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_terminal_cuts_no_name_and_no_number(width):
    for name, kept in kept_rows().items():
        lines = [str(line) for line in row_lines(name, kept, width=width, widest=len(name))]
        assert lines[0].startswith(f"{name}  {report.LABELS[kept['verdict']]}")
        assert max(map(len, lines)) <= width
        cells = [report.plain(kept["computed"]), report.plain(kept["stated"])]
        numbers = re.findall(
            r"[\d.,]*\d", " ".join((*cells, report.plain_flops(kept["flops"])))
        )
        shown = " ".join(lines).removeprefix(name)
        assert Counter(re.findall(r"[\d.,]*\d", shown)) <= Counter(numbers), name


def test_flops_name_their_stages_where_space_is_short():
    cell = {"formula": 260, "lowered": 260, "compiled": 33_685_504}
    assert report.plain_flops(cell) == "260 closed form = lowered, 33.69 M compiled"
    said = [report.compact(n) for n in (9999, 10_000, 999_949, 999_999, 10**9, 3 * 10**23)]
    assert said == ["9999", "10 k", "999.9 k", "1 M", "1 G", "3 × 10^23"]


# A real chapter


def test_objects_run_ends_well(objects_run):
    _, runs = objects_run
    for done in runs:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Report:" in done.stdout
        assert "[1/" in done.stderr


def test_same_seed_same_bytes(objects_run):
    (first, second), _ = objects_run
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert {"claims.json", "objects.json", "report.html", "run.json", "timings.json"} <= set(
        names
    )
    for name in names:
        if name != "timings.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_rows_have_the_promised_keys(objects_run):
    (out, _), _ = objects_run
    rows = json.loads((out / "claims.json").read_text())
    assert set(rows) == {key for key, claim in claims().items() if claim.chapter == "objects"}
    for key, found in rows.items():
        promised = {"stated", "computed", "verdict", "agrees", "note", "function", "flops"}
        assert promised <= set(found), key
        assert found["flops"].keys() == set(runner.FLOPS)
        assert found["verdict"] in VERDICTS
        assert found["stated"] == claims()[key].stated
        assert found["function"]
    assert [key for key, found in rows.items() if found["fitted"]] == ["sense-order-matters"]


def test_results_name_nothing_of_this_machine(objects_run):
    (out, _), _ = objects_run
    home = str(Path.home())
    for path in out.rglob("*"):
        if path.is_file():
            found = path.read_text()
            assert str(ROOT) not in found
            assert str(out) not in found
            assert home == "/" or home not in found
    run = json.loads((out / "run.json").read_text())
    assert run["seed"] == 3
    assert run["full"] is False
    assert {"jax", "jaxlib", "numpy", "python", "lintoolkit"} <= run["versions"].keys()


# Of two chapters the experiment alone that has a larger size.
LARGER = """
import sys
from experiments import runner
from experiments.__main__ import main

load, larger = runner.load, {"edges": "first_features", "pca": "bottleneck"}
found = {name: load(name) for name in larger}
runner.load = lambda name: (
    found[name][0], tuple(e for e in found[name][1] if e.__name__ == larger[name])
)
sys.exit(main([*larger, "--full", "--out", sys.argv[1]]))
"""


def test_the_larger_sizes_end_well(tmp_path):
    done = python("-c", LARGER, str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["full"] is True
    assert {row["chapter"] for row in runner.read_claims(tmp_path).values()} == {"edges", "pca"}


# Judging


@pytest.mark.parametrize(
    ("expected", "computed", "tol", "verdict"),
    [
        ({"a": 1.0}, {"a": 1.0 + 5e-7, "b": 2}, 1e-6, True),
        ({"a": 1.0}, {"a": 1.0 + 5e-6}, 1e-6, False),
        ({"a": 1.0}, {"b": 1.0}, 1e-6, False),
        ({"a": 0.0}, {"a": 5e-7}, 1e-6, True),
        ({"a": 0.0}, {"a": 5e-6}, 1e-6, False),
        ([1.0, 2.0], [1.0], 1e-6, False),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], 1e-6, True),
        ([[1, 2], [3, 4]], [[1, 3], [2, 4]], 1e-6, False),
        (10**9, 10**9 + 1, 1e-6, False),
        (100, 104, 0.05, True),
        (100, 106, 0.05, False),
        (1, True, 1e-6, False),
        (True, 1, 1e-6, False),
        (True, True, 1e-6, True),
        (1.0, float("nan"), 1e-6, False),
        (1.0, "nan", 1e-6, False),
        (None, None, 1e-6, True),
        (None, 0, 1e-6, False),
        ("(3, 5)", "(3, 5)", 1e-6, True),
        ("(3, 5)", "(5, 3)", 1e-6, False),
    ],
)
def test_agrees(expected, computed, tol, verdict):
    assert agrees(expected, computed, tol) is verdict


def test_every_claim_agrees_with_itself_and_not_with_nothing():
    for claim in claims().values():
        if isinstance(claim.expect, dict):
            assert agrees(claim.expect, claim.expect, claim.tol), claim.id
            assert not agrees(claim.expect, {}, claim.tol), claim.id


def first_claim(verdict: str, expect: object) -> str:
    return next(
        claim.id
        for claim in claims().values()
        if claim.verdict == verdict and claim.expect == expect
    )


@pytest.mark.parametrize(
    ("claim", "computed", "holds", "agreed", "verdict"),
    [
        (HELD, GOOD, None, True, "reproduces"),
        (HELD, GOOD, False, True, "reproduces"),  # the ledger's value decides where it has one
        (HELD, {"ndim": 2, "length": 512}, True, False, "differs"),
        (HELD, None, True, False, "differs"),
        (first_claim("reproduces", "withheld"), {"x": 1}, True, True, "reproduces"),
        (first_claim("reproduces", "withheld"), {"x": 1}, None, None, "reproduces"),
        (first_claim("reproduces", "withheld"), {"x": 1}, False, False, "differs"),
        (first_claim("reproduces", "withheld"), None, True, False, "differs"),
        (first_claim("needs-data", None), None, None, None, "needs-data"),
    ],
)
def test_judge(claim, computed, holds, agreed, verdict):
    judged = runner.judge(
        Row(claim=claim, computed=computed, holds=holds), claims()[claim], "f"
    )
    assert judged["agrees"] is agreed
    assert judged["verdict"] == verdict


@pytest.mark.parametrize(
    ("computed", "holds", "agreed"),
    [
        (GOOD | {"length": 511}, True, True),
        (GOOD | {"length": 511}, False, False),
        (GOOD | {"length": 511}, None, False),
        ({"ndim": 2, "length": 511}, True, False),
        ({"ndim": 1}, None, True),  # the text that it counts is not there
    ],
)
def test_values_that_are_not_compared_have_to_meet_our_own_check(computed, holds, agreed):
    found = Row(claim=HELD, computed=computed, holds=holds, not_compared=("length",))
    assert runner.judge(found, claims()[HELD], "f")["agrees"] is agreed


def test_an_exception_ends_one_experiment_and_keeps_its_rows():
    failing = made(Row(claim=HELD, computed=GOOD), error=ZeroDivisionError("by zero"))
    record, _, trace = runner.run_experiment(failing, "objects", seed=0, full=False, seen={})
    assert list(record["claims"]) == [HELD]
    assert record["error"] == "ZeroDivisionError: by zero"
    assert "Traceback" in trace
    assert str(ROOT) not in trace


@pytest.mark.parametrize(
    ("rows", "of", "said"),
    [
        (["sense-vector-roe"], "objects", "did you mean 'sense-vector-row'"),
        ([HELD, HELD], "objects", "already computed by"),
        ([HELD], "scale", "is of chapter 'objects'"),
    ],
)
def test_misplaced_rows_are_errors_by_name(rows, of, said):
    items = [Row(claim=name, computed=GOOD) for name in rows]
    record, _, _ = runner.run_experiment(made(*items), of, seed=0, full=False, seen={})
    assert said in record["error"]


def test_rows_are_plain_json():
    made = row(HELD, {"a": np.arange(4).reshape(2, 2), "b": (np.float32(0.5), np.inf)}, "f")
    assert made.computed == {"a": [[0, 1], [2, 3]], "b": [0.5, "inf"]}
    assert json.loads(runner.dump(made.computed)) == made.computed
    with pytest.raises(TypeError, match="of type complex, which JSON cannot carry"):
        to_json({"a": 1j})


def test_shapes_are_told_from_data_by_their_type():
    computed = {
        "weights": [(8, 16), (16, 3)],
        "out": {"last": (2, 3)},
        "table": [[1, 2], [3, 4]],
    }
    made = row(HELD, computed | {"array": np.eye(2)}, "f")
    assert made.shapes == ("weights", "last")
    shown = report.values(made.computed, made.shapes)
    assert "<dd>[[8, 16], [16, 3]]</dd>" in shown
    assert shown.count("<span class=matrix") == 2


def test_dump_keeps_values_and_puts_numbers_on_one_line():
    value = {"a": [1, -2.5e-7, None, True], "b": ["x,  y", "[ 1, 2 ]"], "c": [], "d": [[1], {}]}
    assert json.loads(runner.dump(value)) == value
    assert "[ 1, -2.5e-07, null, true ]" in runner.dump(value)


# FLOP cells


def test_a_closed_form_must_meet_the_program_to_the_flop():
    a, bias = np.ones((3, 5)), np.ones((5, 5))
    layer = lambda x, b: jax.nn.relu(x @ b + b[0])
    products, everything = 2 * 3 * 5 * 5, 2 * 3 * 5 * 5 + 15 + 15
    for formula in (products, everything, None):
        cell = flops(layer, a, bias, formula=formula)
        assert cell.keys() == set(runner.FLOPS)
        assert (cell["products"], cell["lowered"]) == (products, everything)
        assert cell["formula"] == formula
        assert cell["changed"] is None
    with pytest.raises(ValueError, match=r"gives 165, but the program has 180, of them 150 in"):
        flops(layer, a, bias, formula=products + 15)


def test_a_cell_tells_what_compiling_changed():
    cell = flops(lambda x: 2 * x / x.sum(axis=1, keepdims=True), np.ones((5, 7)))
    assert cell["lowered"] != cell["compiled"]
    assert "by the compiler (" in cell["changed"]
    assert "divide 35 to 5" in cell["changed"]  # by 5 reciprocals, a row each
    assert report.text(cell["changed"]) in report.flop_cell(cell)
    cell = {"formula": 6, "products": 6, "lowered": 9, "compiled": 9, "xla": 9, "changed": None}
    assert "<dt>closed form = products</dt><dd>6</dd>" in report.flop_cell(cell)
    assert "<dt>lowered = compiled</dt><dd>9</dd>" in report.flop_cell(cell)


def kept_rows() -> dict[str, dict]:
    """The rows of the run that is kept in the repository."""
    return runner.read(ROOT / "experiments" / "results" / "cpu" / "claims.json", {})


def test_kept_rows_have_no_unexplained_flop():
    rows = kept_rows()
    assert rows.keys() == claims().keys()
    for name, kept in rows.items():
        cell = kept["flops"]
        assert cell["formula"] in (None, cell["products"], cell["lowered"]), name
        assert cell["changed"] or cell["compiled"] == cell["lowered"], name


# The ledger, whole


def nodes(chapter: str) -> list[ast.AST]:
    """All that stands in a chapter's modules."""
    folder = ROOT / "experiments" / "chapters"
    paths = [folder / f"{chapter}.py", *folder.glob(f"{chapter}_*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return [node for tree in trees for node in ast.walk(tree)]


@pytest.mark.parametrize("chapter", [name for name in CHAPTERS if runner.exists(name)])
def test_a_chapter_names_each_of_its_claims_and_makes_no_row_twice(chapter):
    # A row that does not come, or comes twice, is seen when the chapter runs.
    named = {node.value for node in nodes(chapter) if isinstance(node, ast.Constant)}
    assert {key for key, claim in claims().items() if claim.chapter == chapter} <= named
    made = Counter(
        node.args[0].value
        for node in nodes(chapter)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "row"
        and isinstance(node.args[0], ast.Constant)
    )
    assert made
    assert max(made.values()) == 1


def test_every_disagreement_is_counted_and_has_its_correction():
    wrong = [claim for claim in claims().values() if claim.verdict == "document-wrong"]
    found = Counter(claim.severity for claim in wrong)
    assert found == {"error": 7, "overstated": 11, "imprecise": 31}
    assert all(claim.note for claim in wrong)
    rows = {
        claim.id: runner.judge(Row(claim=claim.id, computed=computed), claim, "f")
        for claim in wrong
        for computed in [claim.expect if isinstance(claim.expect, dict) else None]
        if computed or claim.expect is None
    }
    listed = report.wrong_list(rows)
    for name, made in rows.items():
        assert listed.count(f'href="#{name}"') == 1
        assert report.prose(made["note"]) in listed


def test_kept_rows_show_each_disagreement_and_meet_each_value():
    rows = kept_rows()
    counts = Counter(row["severity"] for row in rows.values() if row["severity"])
    assert counts == {"error": 7, "overstated": 11, "imprecise": 31}
    listed = report.wrong_list(rows)
    for name, claim in claims().items():
        kept = rows[name]
        assert (kept["verdict"], kept["severity"]) == (claim.verdict, claim.severity)
        assert kept["expected"] == claim.expect
        assert kept["agrees"] is not False
        if claim.severity:
            assert claim.note in kept["note"]
            assert listed.count(f'href="#{name}"') == 1
            assert report.prose(kept["note"]) in listed


def test_the_table_in_the_readme_is_that_of_the_kept_rows():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.tabled(readme, kept_rows()) == readme
    rows = kept_rows()
    rows[HELD] = rows[HELD] | {"verdict": "differs"}
    stale = report.tabled(readme, rows)
    assert "| differs |" in stale
    assert report.tabled(stale, kept_rows()) == readme


# A program for many devices, read without them


def test_a_step_on_absent_devices_gathers_nothing():
    from experiments.chapters.scale_devices import SMALL, STRONG, priced, sent

    alone, _, many = STRONG
    with jax.numpy_dtype_promotion("standard"):  # which optax's Adam needs
        one = priced(SMALL, many, np.float32, "cpu")
    assert one.devices == 64
    assert {c.opcode for c in one.collectives} == {"all-reduce"}
    # Over the mesh's other axis travel all gradients, and nobody sends more than they are.
    gradients = max(c.bytes for c in one.collectives)
    assert sent(max(one.collectives, key=lambda c: c.bytes * c.times)) < 2 * 4 * gradients
    assert alone.batch == many.batch
    assert one.lowered.matmul_flops < 64 * one.matmul_flops < 1.3 * one.lowered.matmul_flops


# The results directory


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "claims.json"
    runner.write(target, "old")

    def cut_off(path, text, **_):
        with path.open("w") as file:
            file.write(text[:1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", cut_off)
        with pytest.raises(KeyboardInterrupt):
            runner.write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    runner.write(target, "new")
    assert target.read_text() == "new"


def test_one_chapter_merges_into_the_others(tmp_path):
    (tmp_path / "figures").mkdir()
    mine = [tmp_path / "figures" / "objects-mine.svg", tmp_path / ".app.log.1"]
    for path in mine:
        path.write_text("Mine.")
    old = chapter("objects", drawn=["objects-old"])
    runner.write_chapter(tmp_path, old, {"objects-old": "<svg/>"}, "failed")
    other = next(claim for claim in claims().values() if claim.chapter == "products")
    record = chapter("objects") | {"chapter": "products"}
    judged = runner.judge(Row(claim=other.id, computed=None), other, "f")
    record["experiments"] = [record["experiments"][0] | {"claims": {other.id: judged}}]
    runner.write_chapter(tmp_path, record, {}, "")
    assert set(runner.read_claims(tmp_path)) == {HELD, other.id}
    assert (tmp_path / "objects.log").exists()

    half = tmp_path / "figures" / ".objects-new.svg.7"
    half.write_text("<sv")
    new = chapter(computed={"ndim": 2}, drawn=["objects-new"])
    runner.write_chapter(tmp_path, new, {"objects-new": "<svg/>"}, "")
    rows = runner.read_claims(tmp_path)
    assert set(rows) == {HELD, other.id}
    assert rows[HELD]["computed"] == {"ndim": 2}
    assert not (tmp_path / "objects.log").exists()
    found = {path.name for path in (tmp_path / "figures").iterdir()}
    assert found == {"objects-new.svg", "objects-mine.svg"}
    assert all(path.read_text() == "Mine." for path in mine)


def without(record: dict, *where: str | int) -> dict:
    """A record in which one entry, of whatever depth, is missing."""
    copy = json.loads(json.dumps(record))
    *path, last = where
    found = copy
    for step in path:
        found = found[step]
    del found[last]
    return copy


@pytest.mark.parametrize(
    "where",
    [
        ("sources",),
        ("run", "versions"),
        ("experiments", 0, "figures"),
        ("experiments", 0, "claims", HELD, "not_compared"),
        ("experiments", 0, "claims", HELD, "flops", "changed"),
    ],
)
def test_results_of_another_version_are_not_done_and_left_out(tmp_path, where):
    record = chapter()
    assert runner.fits(record)
    assert not runner.fits(without(record, *where))
    runner.write_chapter(tmp_path, record, {}, "")
    runner.write(tmp_path / "objects.json", json.dumps(without(record, *where)))
    assert runner.outdated(tmp_path) == ["objects"]
    assert runner.read_results(tmp_path) == ([], {})
    plan = {"objects": ("", (made(),))}
    assert runner.done_before(tmp_path, plan, record["run"], record["sources"]) == {}


def test_a_row_has_what_a_record_must_have():
    assert (
        runner.judge(Row(claim=HELD, computed=GOOD), claims()[HELD], "f").keys() == runner.ROW
    )


def test_a_figure_that_is_gone_is_missed(tmp_path):
    record = chapter(drawn=["objects-line"])
    runner.write_chapter(tmp_path, record, {"objects-line": "<svg/>"}, "")
    plan = {"objects": ("", (made(),))}
    before = partial(runner.done_before, tmp_path, plan, record["run"], record["sources"])
    assert list(before()) == ["objects"]
    (tmp_path / "figures" / "objects-line.svg").unlink()
    assert before() == {}
    records, figures = runner.read_results(tmp_path)
    listed = report.page(records, figures, run=record["run"], article=None)
    assert "No longer in <code>figures</code>: objects-line." in listed


# Interruptions of the whole run


# All sixteen chapters, with experiments that take a moment: they repeat the ledger's values.
QUICK = """
import sys, time
from experiments import runner
from experiments.__main__ import main
from experiments.ledger import claims
from experiments.rows import Figure, Row
from matplotlib.figure import Figure as Canvas

def load(chapter):
    def quick(*, seed, full):
        "Stands in for a chapter."
        for claim in claims().values():
            if claim.chapter == chapter:
                known = claim.expect if isinstance(claim.expect, dict) else {"seed": seed}
                yield Row(claim=claim.id, computed=known if claim.expect else None, holds=True)
        time.sleep(0.05)
        yield Figure(name="line", figure=Canvas(figsize=(1, 1)), caption="A figure.")
    return "About.", (quick,)

runner.load = load
sys.exit(main(sys.argv[1:]))
"""


def begin(*arguments: str) -> subprocess.Popen:
    """A run under way: its first experiment has started."""
    # What a job in the background hands down is to ignore Ctrl-C; a terminal does not.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    for line in process.stderr:
        if line.startswith("["):
            return process
    pytest.fail(f"ended with {process.wait()} before its first experiment")


def contents(out: Path) -> dict[str, bytes]:
    """What a results directory holds, apart from wall times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "timings.json"
    }


def undisturbed(out: Path, *command: str) -> tuple[dict[str, bytes], float]:
    """What a run leaves that nothing disturbs, and the seconds after its first experiment."""
    process = begin(*command, "--out", str(out))
    start = time.perf_counter()
    process.communicate()
    assert process.returncode == 0
    return contents(out), time.perf_counter() - start


def disturb(
    out: Path, whole: dict, wait: Callable[[], object], how: signal.Signals, *command: str
) -> int:
    """Strike a run after a wait, look at what it left, run it again; chapters it kept."""
    command = (*command, "--out", str(out))
    process = begin(*command)
    wait()
    process.send_signal(how)
    said = process.communicate()[1]
    left = contents(out)
    for name, content in left.items():
        if name.endswith(".json") and not name.startswith("."):
            json.loads(content)
    rows = json.loads(left.get("claims.json", b"{}"))
    answered = {row["chapter"] for row in rows.values()}
    kept = [name for name in CHAPTERS if f"{name}.json" in left and name in answered]
    for name in kept:
        assert left[f"{name}.json"] == whole[f"{name}.json"]
    if left == whole:  # struck while it printed, or as it ended
        assert process.returncode in (0, 130, -how)
    elif how == signal.SIGINT:
        assert process.returncode == 130
        last = said.strip().splitlines()[-1]
        assert f"keeps {len(kept)} of" in last
        assert last.endswith("chapters, whole. The same command goes on from there.")
    else:
        assert process.returncode == -how
    again = python(*command)
    assert again.returncode == 0, again.stderr
    assert ("Going on from" in again.stderr) == bool(kept)
    for name in kept:
        assert f"] {name}:" not in again.stderr
    assert contents(out) == whole
    return len(kept)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, how):
    command = ("-c", QUICK)
    whole, _ = undisturbed(tmp_path / "whole", *command)
    struck = tmp_path / "struck"

    def until_a_chapter_is_kept():
        while not (struck / "claims.json").exists():
            time.sleep(0.01)

    kept = disturb(struck, whole, until_a_chapter_is_kept, how, *command)
    assert 0 < kept < len(CHAPTERS)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_run_struck_at_any_moment_goes_on_to_the_same_bytes(tmp_path, rng, how):
    real = ("-m", "experiments", "objects", "similarity", "derivatives", "edges")
    kept = []
    for command, trials in (("-c", QUICK), 12), (real, 4):
        whole, seconds = undisturbed(tmp_path / f"whole{trials}", *command)
        for trial in range(trials):
            out = tmp_path / f"struck{trials}-{trial}"
            wait = partial(time.sleep, rng.uniform(0, seconds))
            kept.append(disturb(out, whole, wait, how, *command))
    assert any(kept)  # control: some were struck in their middle


def test_what_failed_or_used_the_users_data_is_run_again(tmp_path, monkeypatch):
    def stop(**_):
        raise KeyboardInterrupt

    plans = {
        "objects": made(),
        "products": made(error=ValueError("no")),
        "words": made(),
        "svd": stop,
    }
    monkeypatch.setattr(runner, "load", lambda name: ("", (plans[name],)))
    with pytest.raises(KeyboardInterrupt):
        runner.run(
            plans, seed=0, full=False, out=tmp_path, progress=progress, own={"words": made()}
        )
    done = {name: ("", (plans[name],)) for name in plans}
    stamp = runner.run_stamp(seed=0, full=False)
    kept = runner.done_before(tmp_path, done, stamp, runner.sources())
    assert list(kept) == ["objects"]


def test_another_seed_does_not_go_on(tmp_path):
    process = begin("-c", QUICK, "--out", str(tmp_path))
    time.sleep(1)
    process.kill()
    process.communicate()
    (tmp_path / ".claims.json.123").write_text("{")
    (tmp_path / ".mine.txt").write_text("kept")
    again = python("-c", QUICK, "--seed", "1", "--out", str(tmp_path))
    assert again.returncode == 0
    assert "Going on" not in again.stderr
    assert not (tmp_path / ".claims.json.123").exists()
    assert (tmp_path / ".mine.txt").exists()


def test_another_command_forgets_nothing(tmp_path, monkeypatch):
    def stop(**_):
        raise KeyboardInterrupt

    ran = []

    def plan(name: str) -> tuple:
        def counted(**_):
            """Says that it ran."""
            ran.append(name)
            yield from ()

        return "", (counted,)

    call = partial(runner.run, seed=0, full=False, out=tmp_path, progress=progress)
    stopping = {"similarity": ("", (stop,))}
    monkeypatch.setattr(runner, "load", lambda name: stopping.get(name) or plan(name))
    with pytest.raises(KeyboardInterrupt, match=r"keeps 1 of 3 chapters, whole\. The same"):
        call(["objects", "similarity", "products"])
    stopping.clear()
    call(["similarity"])
    call(["objects", "similarity", "products"])
    assert ran == ["objects", "similarity", "products"]


# The report


def page(*records: dict, figures: dict[str, str] | None = None, article=None) -> str:
    stamp = runner.run_stamp(seed=0, full=False)
    return report.page(list(records), figures or {}, run=stamp, article=article)


def drawing() -> tuple[dict, dict[str, str]]:
    """A chapter's record with one figure, and the figure."""
    canvas = Canvas(figsize=(2, 2))
    axes = canvas.add_subplot()
    axes.plot([0, 1], [1, 0], label="<tag> & $d_k$")
    axes.set_xlim(0, 0.5)
    axes.legend()
    record = chapter()
    record["experiments"][0], figures, _ = runner.run_experiment(
        made(Figure(name="line", figure=canvas, caption="A <b>line</b>")),
        "objects",
        seed=0,
        full=False,
        seen={},
    )
    return record, figures


def test_report_stands_alone(objects_run):
    (out, _), _ = objects_run
    record, figures = drawing()
    for html in ((out / "report.html").read_text(), page(record, figures=figures)):
        html = re.sub(r"<pre.*?</pre>", "", html, flags=re.S)  # sources
        loads = re.findall(r"(?:src|href|action|data)=[\"']?([^\"'\s>]+)|url\(([^)]+)\)", html)
        for target in filter(None, (link or loaded for link, loaded in loads)):
            assert target.strip("\"'").startswith(("#", "data:image/")), target
        assert "<script" not in html
        assert "@import" not in html
        assert "<link" not in html


def test_report_has_every_row_and_anchor(objects_run):
    (out, _), _ = objects_run
    html = (out / "report.html").read_text()
    ids = re.findall(r"\bid=\"?([^\"\s>]+)", html)
    assert len(ids) == len(set(ids))
    assert set(json.loads((out / "claims.json").read_text())) <= set(ids)
    assert set(re.findall(r"href=\"#([\w-]+)\"", html)) <= set(ids)


def test_report_escapes_what_it_is_given():
    hostile = "<script>alert('x')</script>"
    record = chapter(computed=GOOD | {hostile: hostile}, note=hostile, by=(hostile,))
    record["about"] = hostile
    record["experiments"][0]["error"] = hostile
    html = page(record)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5
    assert "Things &lt;made up&gt; for a test." in html


def test_report_says_what_differs_and_what_is_missing():
    html = page(chapter(computed={"ndim": 1, "length": 511}))
    assert "<span class=badge>differs</span>" in html
    assert "expected" in html
    assert "14 claims not yet computed" in html
    assert "<span class=badge>holds</span>" in page(chapter())


def test_report_has_the_source_of_our_functions():
    html = page(chapter(by=("lintoolkit.layers.dense", "optax.sgd")))
    assert (
        '<a href="#code-lintoolkit-layers-dense">lintoolkit.<wbr>layers.<wbr>dense</a>' in html
    )
    assert "optax.<wbr>sgd</code>" in html
    assert re.search(r"</code> lintoolkit/layers.py, line \d+</summary>", html)
    assert re.search(r'<pre id="code-lintoolkit-layers-dense">@.*?\bdef dense\(', html, re.S)
    assert "code-optax-sgd" not in html


def test_report_lists_what_misses_and_what_is_met_in_part():
    short = chapter(computed=GOOD | {"length": 511}, note="One is missing.")
    listed = report.missed(report.rows_of(short))
    assert "1 row: 1 missed." in listed
    assert "These miss it." in listed
    assert "One is missing." in listed
    assert all(f"<dd>{value}</dd>" in listed for value in (511, 512))
    for computed, said in ((GOOD | {"length": 511}, 511), ({"ndim": 1}, "not computed")):
        excused = chapter(
            computed=computed, holds=True, not_compared=("length",), note="A draw."
        )
        listed = report.missed(report.rows_of(excused))
        assert "1 row: 1 met in part." in listed
        assert "These miss it." not in listed
        assert "A draw." in listed
        assert f"<dd>{said}</dd>" in listed
        assert "ndim" not in listed  # which is compared
        assert "<div class=none>met in part</div>" in page(excused)
    assert "<table" not in report.missed(report.rows_of(chapter()))


def test_rows_are_counted_by_how_they_stand():
    nothing = first_claim("needs-data", None)
    rows = {
        "full": runner.judge(Row(claim=HELD, computed=GOOD), claims()[HELD], "f"),
        "fitted": runner.judge(
            Row(claim=HELD, computed=GOOD, fitted=True), claims()[HELD], "f"
        ),
        "none": runner.judge(Row(claim=nothing, computed=None), claims()[nothing], "f"),
        "unheld": runner.judge(Row(claim=nothing, computed={"x": 1}), claims()[nothing], "f"),
    }
    assert report.tally(rows) == (
        "4 rows: 2 met in full, of which 1 by a convention, seed or made-up data chosen to "
        "meet the ledger's figure; 1 computed, with nothing to hold them to; 1 not computed"
    )


def test_headings_descend_by_one_level_and_tables_have_heads():
    record, figures = drawing()
    html = page(record, chapter(), figures=figures)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert html.count("<table") == html.count("<thead><tr><th scope=col>")
    assert html.count("<figure") == html.count("<figcaption>") == html.count("<svg")


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rgb or #rrggbb."""
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_in_both_themes():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)
    light, dark = (
        dict(re.findall(r"--(\w+):(#\w+)", found))
        for found in re.findall(r":root\{(.*?)\}", report.STYLE, re.S)
    )
    assert light.keys() == dark.keys()
    written = light.keys() - {"bg", "card", "paper", "rule", "todo"}
    for theme in (light, dark):
        for name in written:
            for behind in ("bg", "card"):
                assert contrast(theme[name], theme[behind]) >= 4.5, (name, behind)
        lines = [part["color"] for part in runner.STYLE["axes.prop_cycle"]]
        gold = lines.pop(4)
        for drawn in (*lines, runner.STYLE["text.color"], runner.STYLE["xtick.color"]):
            assert contrast(drawn, theme["paper"]) >= 4.5
        assert contrast(gold, theme["paper"]) >= 3  # enough for a line


def test_report_has_xlas_count_where_it_differs():
    for xla, flagged in ((1000, False), (1009, False), (500, True), (None, False)):
        flops = dict.fromkeys(runner.FLOPS[:4], 1000) | {"xla": xla, "changed": None}
        assert ("XLA counts otherwise" in page(chapter(flops=flops))) is flagged


def test_report_opens_on_the_chosen_article():
    assert 'id="only-all" checked' in page(chapter())
    assert 'id="only-need" checked' in page(chapter(), article="need")


def test_figures_are_drawn_alike_twice_and_apart_from_each_other():
    _, first = drawing()
    _, second = drawing()
    assert first == second
    (text,) = first.values()
    assert "http://www.w3.org" in text  # a namespace, which loads nothing
    assert "<metadata>" not in text
    assert "&lt;tag&gt;" in text
    names = re.findall(r'\bid="([^"]+)"', text)
    assert all(name.startswith("objects-line") for name in names)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(names)


def test_drawings_of_the_plane_and_of_densities_name_both_axes():
    cloud, pair = np.ones((9, 2)), np.eye(2)
    flat = lambda grid: 0.5 + 0.1 * grid[..., 0]
    for made in (
        layers.decision_regions(cloud, cloud[:, 0] > 0, {"a": flat, "b": flat}),
        svd.stages(dict.fromkeys("abcd", np.ones((2, 400)))),
        pca.uncentred(cloud, pair[0], pair[1] + 1),
        pca.turned_or_not(pair, pair[0], pair),
        words_learned.opposites(cloud[:, 0], {"hot cold": 0.5}),
        similarity.cosines({2: cloud[:, 0], 3: cloud[:, 0]}),
    ):
        panels = made.figure.axes
        assert panels[0].get_ylabel(), made.name
        assert all(panel.get_xlabel() or panel.get_label() == "<colorbar>" for panel in panels)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (512, "512"),
        (45_088_768, "45,088,768"),
        (3.15e23, "3.15 × 10^23"),
        (10**24, "1 × 10^24"),
        (5 / 7, "0.714286"),
        (1234567.0, "1.23457 × 10^6"),
        (-0.00001, "-1 × 10^-5"),
        (0.0, "0"),
        (6.0000000000127, "6.00000000001"),
        (0.9999999, "0.9999999"),
        (-44987.99944998999, "-44,987.999"),
        (2005.0, "2005"),
        (0.9999999999999998, "≈ 1"),
        ("step  0 | loss", "step  0 | loss"),
        (True, "yes"),
        (None, "–"),
        ("two\n lines", "two lines"),
        ([[1, 2], [3, 4]], "[[1, 2], [3, 4]]"),
        ([[0.5] * 64] * 64, "64 × 64 entries: 0.5, 0.5, 0.5, 0.5, …"),
        ({"first_row": [1, 2], "rank": 2}, "first row [1, 2], rank 2"),
    ],
)
def test_values_in_plain_text(value, said):
    assert report.plain(value) == said


def test_spaces_in_a_row_are_kept_in_html():
    for shown in (report.values("step  0"), page(chapter(computed={"line": "step  0"}))):
        assert "<code class=spaced>step  0</code>" in shown
    assert ".spaced{white-space:pre-wrap}" in report.STYLE


def test_numbers_in_html_have_true_minus_signs_and_raised_exponents():
    assert report.count(-1.5e-6) == "−1.5 × 10<sup>−6</sup>"
    assert report.count_or_text("x-1 <b>") == "x-1 &lt;b&gt;"
