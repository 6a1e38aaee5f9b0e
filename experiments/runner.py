"""Runs chapters, judges every row against the ledger and writes the results directory.

`claims.json` holds all rows, `<chapter>.json` one chapter's, `figures/` the pictures,
`run.json` where and how the last run was made, `timings.json` its wall times, kept apart so
that two runs with the same seed write the same rows to the byte. While a run is under way,
`unfinished.json` says which chapters it has done, for the next to go on from there.
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
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import matplotlib
from matplotlib.rcsetup import cycler
from PIL import Image

from experiments import report
from experiments.ledger import CHAPTERS, Claim, agrees, claims
from experiments.rows import Figure, Row
from lintoolkit import _files

ROOT = Path(__file__).parent.parent
UNFINISHED = "unfinished.json"
FLOPS = ("formula", "products", "lowered", "compiled", "xla", "changed")

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
    `article` is the one the report shows first. Chapters that the same run had done when it
    was interrupted are not run again.
    """
    stamp = run_stamp(seed=seed, full=full)
    matplotlib.use("Agg")
    with jax.enable_x64(True), matplotlib.rc_context(STYLE):
        chapters = {name: load(name) for name in names if exists(name)}
        for name, more in own.items():
            about, experiments = chapters[name]
            chapters[name] = about, (*experiments, more)
        whole = {"run": stamp, "sources": sources(), "chapters": list(chapters)}
        done = done_before(out, whole)
        records = {name: read(out / f"{name}.json", {}) for name in done}
        timings = dict(done)
        seen: dict[str, str] = {}
        rest = {name: chapter for name, chapter in chapters.items() if name not in done}
        clear_half_files(out)
        write(out / UNFINISHED, dump(whole | {"done": done}))
        total = sum(len(experiments) for _, experiments in chapters.values())
        ready = sum(len(record["experiments"]) for record in records.values())
        with progress(ready, total) as step:
            for name, (about, experiments) in rest.items():
                record: dict[str, Any] = {
                    "chapter": name,
                    "title": CHAPTERS[name],
                    "about": about,
                    "run": stamp,
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
                if not any(traces) and name not in own:
                    done[name] = seconds
                    write(out / UNFINISHED, dump(whole | {"done": done}))
                jax.clear_caches()  # what one chapter compiles serves no other, and is large
    write(out / "run.json", dump(stamp))
    write(out / "timings.json", dump({name: timings[name] for name in chapters}))
    write(out / "report.html", report.page(*read_results(out), run=stamp, article=article))
    (out / UNFINISHED).unlink()
    return [records[name] for name in chapters]


def done_before(out: Path, whole: dict) -> dict[str, dict[str, float]]:
    """The chapters that the same run had done when it was interrupted, with their timings.

    The same means the same chapters from the same sources, seed and machine. A chapter that
    failed, that had the user's data or whose files are gone is not done.
    """
    begun = read(out / UNFINISHED, {})
    if {key: begun.get(key) for key in whole} != whole:
        return {}
    rows = read_claims(out)
    return {
        name: seconds
        for name, seconds in begun.get("done", {}).items()
        if (record := read(out / f"{name}.json", {})).get("run") == whole["run"]
        and report.rows_of(record).keys() <= rows.keys()
    }


def sources() -> str:
    """A digest of all the code that a number can come from."""
    digest = hashlib.sha256()
    for room in ("experiments", "lintoolkit"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update((ROOT / "experiments" / "claims.jsonl").read_bytes())
    return digest.hexdigest()


def clear_half_files(out: Path) -> None:
    """Remove what `write` had under way when an earlier run was killed."""
    for path in (*out.glob(".*"), *(out / "figures").glob(".*")):
        if re.fullmatch(r"\..+\.(json|html|svg|log)\.\d+", path.name):
            path.unlink(missing_ok=True)


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
    rows = {key: row for key, row in read_claims(out).items() if row["chapter"] != name}
    for experiment in record["experiments"]:
        rows |= experiment["claims"]
    order = {key: place for place, key in enumerate(claims())}
    rows = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
    pictures = out / "figures"
    pictures.mkdir(exist_ok=True)
    for stem, drawing in figures.items():
        write(pictures / f"{stem}.svg", drawing)
    write(out / f"{name}.json", dump(record))
    write(out / "claims.json", dump(rows))
    for old in pictures.glob(f"{name}-*.svg"):
        if old.stem not in figures:
            old.unlink()
    if log:
        write(out / f"{name}.log", log)
    else:
        (out / f"{name}.log").unlink(missing_ok=True)


def read_claims(out: Path) -> dict[str, dict]:
    """The rows that `claims.json` holds, none where there is no such file."""
    rows = read(out / "claims.json", {})
    if not all(isinstance(row, dict) and "chapter" in row for row in rows.values()):
        raise ValueError(broken(out / "claims.json", "a row without its chapter"))
    return rows


def read_results(out: Path) -> tuple[list[dict], dict[str, str]]:
    """Every chapter's record in a results directory, in story order, and all figures."""
    records = []
    for name in CHAPTERS:
        record = read(out / f"{name}.json", {})
        if record and not {"chapter", "about", "run", "experiments"} <= record.keys():
            raise ValueError(broken(out / f"{name}.json", "no chapter's record"))
        records.append(record)
    figures = {
        path.stem: path.read_text(encoding="utf-8") for path in (out / "figures").glob("*.svg")
    }
    return [record for record in records if record], figures


def read(path: Path, default: Any) -> Any:
    """A JSON object from a file, `default` where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (ValueError, RecursionError) as error:
        raise ValueError(broken(path, str(error))) from None
    if not isinstance(value, dict):
        raise ValueError(broken(path, f"a {type(value).__name__}"))
    return value


def broken(path: Path, found: str) -> str:
    """What to say of a results file that is not ours to overwrite."""
    return (
        f"{path} should be a JSON object of an earlier run, but holds something else "
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
            "lintoolkit": version("lintoolkit"),
            "jax": version("jax"),
            "jaxlib": version("jaxlib"),
            "numpy": version("numpy"),
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
