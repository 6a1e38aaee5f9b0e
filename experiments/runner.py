"""Runs chapters, judges every row against the ledger and writes the results directory.

`claims.json` holds all rows, `<chapter>.json` one chapter's, `figures/` the pictures,
`run.json` where and how the last run was made, `timings.json` its wall times, kept apart so
that two runs with the same seed write the same rows to the byte. A chapter whose file says
that the same code made it on the same machine is done: no run computes it again.
"""

import base64
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import matplotlib
from matplotlib.rcsetup import cycler
from PIL import Image

from experiments import report
from experiments.ledger import ARTICLES, CHAPTERS, Claim, agrees, claims
from experiments.rows import Figure, Row
from experiments.template import PAGE
from lintoolkit import _files

ROOT = Path(__file__).parent.parent
FLOPS = ("formula", "products", "lowered", "compiled", "xla", "changed")
# What numbers and figures rest on, beside Python.
PACKAGES = (
    "lintoolkit", "jax", "jaxlib", "numpy", "optax", "matplotlib", "pillow", "scikit-image",
    "scikit-learn",
)  # fmt: skip

# Files of all chapters together.
SHARED = ("claims.json", "run.json", "timings.json", "report.html")

# What the report reads: results of another version may lack some of it.
STAMP = frozenset(("seed", "full", "device", "versions", "commit"))
RECORD = frozenset(("chapter", "title", "about", "run", "sources", "experiments"))
EXPERIMENT = frozenset(("name", "about", "error", "figures", "claims"))
ROW = frozenset((
    "article", "chapter", "section", "kind", "claim", "stated", "computed", "expected", "tol",
    "verdict", "severity", "agrees", "not_compared", "fitted", "note", "function", "experiment",
    "flops", "shapes",
))  # fmt: skip

# Text stays text, so that a picture can be searched and read aloud; ids must not change
# from run to run. Colours keep apart for colour-blind readers and in grey print, and can be
# read as text on the paper, all but the fifth.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lintoolkit",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6470",
    "axes.labelcolor": "#2b3038",
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.grid": False,
    "axes.prop_cycle": cycler(
        color=["#2f6690", "#b84a20", "#2c7855", "#8a5a9e", "#a87512", "#5b6470", "#b23a5e"]
    ),
    "grid.color": "#d7dade",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": "#2b3038",
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "font.size": 10,
    "image.cmap": "gray",
}

Experiment = Callable[..., Iterable[Row | Figure]]


def exists(chapter: str) -> bool:
    """Whether the chapter's module has been written yet."""
    return importlib.util.find_spec(f"experiments.chapters.{chapter}") is not None


def run(
    names: Iterable[str],
    *,
    seed: int,
    full: bool,
    out: Path,
    progress: Callable[[int, int], AbstractContextManager[Callable[[str], None]]],
    own: Mapping[str, Experiment] = MappingProxyType({}),
    article: str | None = None,
) -> list[dict]:
    """Run chapters, write each as it ends, then the report; returns the chapters' records.

    `progress(done, total)` opens a display and gives a function called with each experiment's
    name as it starts. `own` has an experiment more, on the user's data, for some chapters.
    `article` is the one the report shows first. Chapters that are done are not run again.
    """
    stamp, digest = run_stamp(seed=seed, full=full), sources()
    matplotlib.use("Agg")
    with jax.enable_x64(True), matplotlib.rc_context(STYLE):
        chapters = {name: load(name) for name in names if exists(name)}
        for name, more in own.items():
            about, experiments = chapters[name]
            chapters[name] = about, (*experiments, more)
        left_by_us = {name: chapters[name] for name in chapters if name not in own}
        records = done_before(out, left_by_us, stamp, digest)
        clear_half_files(out / shared for shared in SHARED)
        timings = read(out / "timings.json", {})
        seen: dict[str, str] = {}
        rest = {name: chapter for name, chapter in chapters.items() if name not in records}
        total = sum(len(experiments) for _, experiments in chapters.values())
        ready = sum(len(record["experiments"]) for record in records.values())
        try:
            with progress(ready, total) as step:
                for name, (about, experiments) in rest.items():
                    record: dict[str, Any] = {
                        "chapter": name,
                        "title": CHAPTERS[name],
                        "about": about,
                        "run": stamp,
                        "sources": digest,
                        "experiments": [],
                    }
                    figures: dict[str, str] = {}
                    traces, seconds = [], {}
                    for experiment in experiments:
                        step(f"{name}: {experiment.__name__.replace('_', ' ')}")
                        start = time.perf_counter()
                        result, drawn, trace = run_experiment(
                            experiment, name, seed=seed, full=full, seen=seen
                        )
                        seconds[experiment.__name__] = round(time.perf_counter() - start, 3)
                        record["experiments"].append(result)
                        figures |= drawn
                        traces.append(trace)
                    write_chapter(out, record, figures, "\n".join(filter(None, traces)))
                    records[name], timings[name] = record, seconds
                    write(out / "timings.json", dump(timings))
                    jax.clear_caches()  # what a chapter compiles serves no other, and is large
            write(out / "run.json", dump(stamp))
            page = report.page(*read_results(out), run=stamp, article=article)
            write(out / "report.html", page)
        except KeyboardInterrupt:
            kept = len(done_before(out, left_by_us, stamp, digest))
            raise KeyboardInterrupt(
                f"Interrupted; {out} keeps {kept} of {len(chapters)} chapters, whole. "
                "The same command goes on from there."
            ) from None
    return [records[name] for name in chapters]


def done_before(
    out: Path,
    chapters: Mapping[str, tuple[str, tuple[Experiment, ...]]],
    stamp: dict,
    digest: str,
) -> dict[str, dict]:
    """The records of those chapters that the same code has done, whichever run it was.

    The same means the same sources, seed, size, versions and machine. A chapter that failed,
    that had the user's data or whose rows or figures are gone is not done.
    """
    rows = read_claims(out)
    records = {name: read(out / f"{name}.json", {}) for name in chapters}
    return {
        name: record
        for name, record in records.items()
        if fits(record)
        and (record["run"], record["sources"]) == (stamp, digest)
        and [(part["name"], part["error"]) for part in record["experiments"]]
        == [(experiment.__name__, None) for experiment in chapters[name][1]]
        and report.rows_of(record).items() <= rows.items()
        and all(path.exists() for path in figure_paths(out, record))
    }


def sources() -> str:
    """A digest of all the code that a number can come from."""
    digest = hashlib.sha256()
    for room in ("experiments", "lintoolkit"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update((ROOT / "experiments" / "claims.jsonl").read_bytes())
    return digest.hexdigest()


def clear_half_files(paths: Iterable[Path]) -> None:
    """Remove what `write` had under way of these files when an earlier run was killed."""
    for path in paths:
        half = re.compile(re.escape(f".{path.name}.") + r"\d+")
        for found in path.parent.glob(".*"):
            if half.fullmatch(found.name):
                found.unlink(missing_ok=True)


def load(chapter: str) -> tuple[str, tuple[Experiment, ...]]:
    """A chapter's introduction and experiments; where its import fails, one that fails so."""
    try:
        module = importlib.import_module(f"experiments.chapters.{chapter}")
        return inspect.getdoc(module) or "", module.EXPERIMENTS
    except Exception as caught:
        error = caught

        def importing(**_: Any) -> Iterable[Row | Figure]:
            """The chapter cannot be imported."""
            raise error

        return "", (importing,)


def run_experiment(
    experiment: Experiment, chapter: str, *, seed: int, full: bool, seen: dict[str, str]
) -> tuple[dict, dict[str, str], str | None]:
    """One experiment's record, its figures as SVG by file stem, its traceback if it failed.

    An exception ends this experiment alone; what it had yielded stays. `seen` collects who
    computed each claim.
    """
    name = experiment.__name__
    full_name = f"{experiment.__module__}.{name}"
    record: dict[str, Any] = {
        "name": name,
        "about": inspect.getdoc(experiment) or "",
        "error": None,
        "figures": [],
        "claims": {},
    }
    figures: dict[str, str] = {}
    try:
        for item in experiment(seed=seed, full=full):
            if isinstance(item, Figure):
                stem = f"{chapter}-{item.name.removeprefix(f'{chapter}-')}"
                figures[stem] = svg(item, stem)
                record["figures"].append({"file": stem, "caption": item.caption})
            else:
                claim = find_claim(item.claim, chapter, seen)
                seen[item.claim] = full_name
                record["claims"][item.claim] = judge(item, claim, full_name)
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
        record["error"] = anonymous(last)
        return record, figures, anonymous(traceback.format_exc())
    return record, figures, None


def find_claim(name: str, chapter: str, seen: dict[str, str]) -> Claim:
    """The ledger's claim of that name: it must exist, be this chapter's, and come once."""
    if name not in claims():
        near = difflib.get_close_matches(name, claims(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"claim {name!r} is not in the ledger{hint}")
    if name in seen:
        raise ValueError(f"claim {name!r} was already computed by {seen[name]}: drop one row")
    claim = claims()[name]
    if claim.chapter != chapter:
        raise ValueError(
            f"claim {name!r} is of chapter {claim.chapter!r}, not {chapter!r}: move the row"
        )
    return claim


def judge(row: Row, claim: Claim, experiment: str) -> dict:
    """A row of `claims.json`: what the article states, what we computed, and the verdict.

    The ledger's verdict stands only while our value agrees with the ledger's; where the
    ledger has something to compute, computing nothing is a disagreement, unless it says
    itself that the data are missing. Values that are shown without being compared have to
    meet the experiment's own check.
    """
    if claim.expect is not None and row.computed is None:
        agreed: bool | None = None if claim.verdict == "needs-data" else False
    elif isinstance(claim.expect, dict):
        held = {k: v for k, v in claim.expect.items() if k not in row.not_compared}
        agreed = agrees(held, row.computed, claim.tol)
        if any(key in (row.computed or {}) for key in row.not_compared):
            agreed = agreed and bool(row.holds)
    else:
        agreed = row.holds
    return {
        "article": claim.article,
        "chapter": claim.chapter,
        "section": claim.section,
        "kind": claim.kind,
        "claim": claim.claim,
        "stated": claim.stated,
        "computed": row.computed,
        "expected": claim.expect,
        "tol": claim.tol,
        "verdict": "differs" if agreed is False else claim.verdict,
        "severity": claim.severity if agreed is not False else None,
        "agrees": agreed,
        "not_compared": list(row.not_compared),
        "fitted": row.fitted,
        "shapes": list(row.shapes),
        "note": " ".join(filter(None, (claim.note, row.note))) or None,
        "function": ", ".join(row.by) or experiment,
        "experiment": experiment,
        "flops": {key: (row.flops or {}).get(key) for key in FLOPS},
    }


def svg(item: Figure, stem: str) -> str:
    """A figure as an SVG element: no margins, no date, ids that no other figure has."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": stem}):
        item.figure.savefig(
            text, format="svg", dpi=120, bbox_inches="tight", pad_inches=0.05, metadata=nothing
        )
    drawing = re.sub(r"data:image/png;base64,([^\"]+)", smaller, text.getvalue())
    drawing = drawing[drawing.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)(?!' + stem + ")", rf"\g<1>{stem}-", drawing)


def smaller(found: re.Match) -> str:
    """An embedded picture's address: JPEG for a photograph, which is a fifth of its PNG.

    Drawings and enlarged pixels compress well as they are, and stay sharp.
    """
    png = base64.b64decode(found[1])
    picture, packed = Image.open(io.BytesIO(png)), io.BytesIO()
    opaque = picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    picture.convert("RGB").save(packed, "JPEG", quality=85)
    if not opaque or len(png) < 2 * len(packed.getvalue()):
        return found[0]
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def write_chapter(out: Path, record: dict, figures: dict[str, str], log: str) -> None:
    """Replace what the directory holds of one chapter, and its rows in `claims.json`."""
    name = record["chapter"]
    before = read(out / f"{name}.json", {})
    rows = {key: row for key, row in read_claims(out).items() if row["chapter"] != name}
    for experiment in record["experiments"]:
        rows |= experiment["claims"]
    order = {key: place for place, key in enumerate(claims())}
    rows = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
    (out / "figures").mkdir(exist_ok=True)
    drawn = {out / "figures" / f"{stem}.svg": drawing for stem, drawing in figures.items()}
    clear_half_files((*drawn, *(out / f"{name}.{kind}" for kind in ("json", "log"))))
    (out / f"{name}.json").unlink(missing_ok=True)  # which has no claim to the new figures
    for path, drawing in drawn.items():
        write(path, drawing)
    write(out / f"{name}.json", dump(record))
    write(out / "claims.json", dump(rows))
    for old in figure_paths(out, before) if fits(before) else ():
        if old not in drawn:
            old.unlink(missing_ok=True)
    if log:
        write(out / f"{name}.log", log)
    else:
        (out / f"{name}.log").unlink(missing_ok=True)


def figure_paths(out: Path, record: dict) -> list[Path]:
    """The files of a record's figures."""
    return [
        out / "figures" / f"{figure['file']}.svg"
        for experiment in record["experiments"]
        for figure in experiment["figures"]
    ]


def fits(record: Any) -> bool:
    """Whether a chapter's record has all that this version reads of it."""

    def has(value: Any, keys: frozenset[str]) -> bool:
        return isinstance(value, dict) and keys <= value.keys()

    def row_fits(row: Any) -> bool:
        return (
            has(row, ROW)
            and has(row["flops"], frozenset(FLOPS))
            and row["article"] in ARTICLES
            and row["verdict"] in report.LABELS
        )

    def figure_fits(figure: Any) -> bool:
        return has(figure, frozenset(("file", "caption"))) and bool(
            re.fullmatch(rf"{record['chapter']}-[\w-]+", figure["file"])
        )

    try:
        return (
            has(record, RECORD)
            and record["chapter"] in CHAPTERS
            and has(record["run"], STAMP)
            and all(has(part, EXPERIMENT) for part in record["experiments"])
            and all(map(figure_fits, chain(*(p["figures"] for p in record["experiments"]))))
            and all(map(row_fits, report.rows_of(record).values()))
        )
    except (AttributeError, TypeError):  # such as a text where a list should stand
        return False


def refuse_foreign(out: Path) -> None:
    """Raise where a file that a run would replace holds something else than a run's."""
    read_claims(out)
    chapter_records(out)
    if (stamp := read(out / "run.json", {})) and not stamp.keys() >= STAMP:
        raise ValueError(broken(out / "run.json", "no run's circumstances"))
    if not read(out / "timings.json", {}).keys() <= CHAPTERS.keys():
        raise ValueError(broken(out / "timings.json", "times of no chapter"))
    begins = {out / "report.html": PAGE[: PAGE.index("<style>")]}
    begins |= {out / f"{name}.log": "Traceback (most recent call last)" for name in CHAPTERS}
    for path, begin in begins.items():
        ours = path.is_file() and path.read_bytes().startswith(begin.encode())
        if path.exists() and not ours:
            raise ValueError(broken(path, "no text of a run", kind="left by"))


def read_claims(out: Path) -> dict[str, dict]:
    """The rows that `claims.json` holds, none where there is no such file."""
    rows = read(out / "claims.json", {})
    if not all(isinstance(row, dict) and "chapter" in row for row in rows.values()):
        raise ValueError(broken(out / "claims.json", "a row without its chapter"))
    return rows


def chapter_records(out: Path) -> dict[str, dict]:
    """Every chapter's record in a results directory, in story order."""
    records = {name: read(out / f"{name}.json", {}) for name in CHAPTERS}
    for name, record in records.items():
        if record and not {"chapter", "about", "run", "experiments"} <= record.keys():
            raise ValueError(broken(out / f"{name}.json", "no chapter's record"))
    return {name: record for name, record in records.items() if record}


def outdated(out: Path) -> list[str]:
    """The chapters whose records are of another version, which the report leaves out."""
    return [name for name, record in chapter_records(out).items() if not fits(record)]


def read_results(out: Path) -> tuple[list[dict], dict[str, str]]:
    """The chapters' records that fit this version, in story order, and their figures."""
    records = [record for record in chapter_records(out).values() if fits(record)]
    paths = [path for record in records for path in figure_paths(out, record) if path.exists()]
    return records, {path.stem: path.read_text(encoding="utf-8") for path in paths}


def read(path: Path, default: Any) -> Any:
    """A JSON object from a file, `default` where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(broken(path, str(error))) from None
    if not isinstance(value, dict):
        raise ValueError(broken(path, f"a {type(value).__name__}"))
    return value


def broken(path: Path, found: str, *, kind: str = "a JSON object of") -> str:
    """What to say of a results file that is not ours to overwrite."""
    return (
        f"{path} should be {kind} an earlier run, but holds something else "
        f"({found}); it is left as it is: move it away, or choose another --out"
    )


def write(path: Path, text: str) -> None:
    """Write a whole file or none of it: readers see the old text or the new, never half."""
    _files.write({path: lambda at: at.write_text(text, encoding="utf-8")})


def dump(value: Any) -> str:
    """Indented JSON that any reader accepts, with each list of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    numbers = re.compile(r"\[\s+((?:[-+.\deE]+|true|false|null)(?:,\s+|\s+\]))+")
    return numbers.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def run_stamp(*, seed: int, full: bool) -> dict:
    """What a number needs to be trusted: device, versions, seed, size and commit."""
    devices = jax.devices()
    return {
        "seed": seed,
        "full": full,
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "cores": cores(),
        },
        "versions": {
            **{package: version(package) for package in PACKAGES},
            "python": platform.python_version(),
        },
        "commit": commit(),
    }


def cores() -> int | None:
    """How many cores this process may use: the last digits of long sums hang on that."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def version(package: str) -> str | None:
    """The installed version; None where it runs from a checkout that is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, marked where tracked files have changed; None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT.resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def anonymous(text: str) -> str:
    """A traceback without this machine's directories."""
    for directory in (str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())):
        if len(directory) > 1:
            text = text.replace(directory + os.sep, "")
    return text
