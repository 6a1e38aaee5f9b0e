"""`python -m experiments`: run the story, print the table of claims, write `results/`.

Exit status: 0 when every row that ought to hold does, 1 when one does not or an experiment
fails, 2 when the command itself cannot be obeyed, 130 when it is interrupted.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from experiments.ledger import ARTICLES, CHAPTERS, Claim, claims

if TYPE_CHECKING:
    from rich.text import Text


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence, without the usage text around it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with status 2."""
        self.exit(2, f"experiments: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Obey a command line; returns the exit status."""
    parser = Parser(
        prog="python -m experiments",
        description="Reproduce five articles on the linear algebra of AI, claim by claim.",
        epilog="Chapters and articles: python -m experiments list",
        allow_abbrev=False,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a chapter, an article, or list; default all"
    )
    parser.add_argument("--full", action="store_true", help="the larger sizes; takes longer")
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="draws the random examples; figures that hang on one draw keep its own; default 0",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="what this code left there is not computed again; default results",
    )
    mine = parser.add_argument_group(
        "your own data", "read whole before anything runs; shown beside the chapter's own"
    )
    for name, (chapter, kind, said) in OWN.items():
        mine.add_argument(f"--{name}", type=Path, metavar=kind, help=f"{said} ({chapter})")
    options = parser.parse_args(arguments)
    given = {name: path for name in OWN if (path := getattr(options, name))}
    if options.names == ["list"]:
        print_list()
        return 0
    for name in options.names:
        if name not in ARTICLES and name not in CHAPTERS:
            parser.error(unknown(name))
    try:
        return run(options, given, parser)
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'Interrupted.'}", file=sys.stderr)
        return 130


def run(options: argparse.Namespace, given: dict[str, Path], parser: Parser) -> int:
    """Run what is asked for and print what was found; returns the exit status."""
    scope = chosen(options.names)
    chapters = {claim.chapter for claim in scope.values()}
    for name in given:
        if OWN[name][0] not in chapters:
            parser.error(f"--{name} is for the chapter {OWN[name][0]!r}: name it too")
    from experiments import runner

    try:
        own = read_own(given)
    except ValueError as error:
        parser.error(" ".join(str(error).split()))
    try:
        prepare(options.out)
        runner.refuse_foreign(options.out)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(
            f"--out {options.out} cannot be written to ({why(error)}): "
            "name a directory that is yours, or one that can be made"
        )
    for name in runner.outdated(options.out):
        print(
            f"{options.out / name}.json is of another version: {name} counts as not done, and "
            "the report leaves it out until it is run.",
            file=sys.stderr,
        )
    articles = {claim.article for claim in scope.values()}
    records = runner.run(
        [name for name in CHAPTERS if name in chapters],
        seed=options.seed,
        full=options.full,
        out=options.out,
        progress=progress,
        own=own,
        article=options.names[0] if set(options.names) == articles else None,
    )
    return print_results(records, scope, options.out)


# What a user can bring: the chapter that takes it, what it is, and what it is for.
OWN = {
    "images": ("seeing", "DIR", "photographs in one folder a kind, such as cat and dog"),
    "ratings": ("recommenders", "FILE", "csv of user, item, rating"),
    "text": ("language", "FILE", "UTF-8 text to learn to write from"),
    "weights": ("scale", "FILE", "GPT-2 safetensors; vocab.json beside it names the tokens"),
}


def read_own(given: dict[str, Path]) -> dict[str, Callable[..., Any]]:
    """The experiments on the user's own data, by chapter; none where nothing is given."""
    if not given:
        return {}
    from experiments.chapters.own_data import experiments_of

    return experiments_of(**given)


def seed(text: str) -> int:
    """A seed that NumPy and JAX both take."""
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to 4294967295, got {text!r}"
        )
    return value


def unknown(name: str) -> str:
    """What to say of a name that is neither a chapter nor an article."""
    if name == "list":
        return "'list' stands alone: python -m experiments list"
    near = difflib.get_close_matches(name, [*CHAPTERS, *ARTICLES, "list"], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"unknown name {name!r}{hint}: expected a chapter ({', '.join(CHAPTERS)}), "
        f"an article ({', '.join(ARTICLES)}) or list"
    )


def prepare(out: Path) -> None:
    """Make the output directory and prove that files can be written into it."""
    out.mkdir(parents=True, exist_ok=True)
    probe = out / f".probe.{os.getpid()}"
    probe.touch()
    probe.unlink()


def why(error: OSError) -> str:
    """The system's reason, said of the path as a directory."""
    return "Not a directory" if isinstance(error, FileExistsError) else str(error.strerror)


def chosen(names: Sequence[str]) -> dict[str, Claim]:
    """The claims of the named chapters and articles; all of them for no name."""
    return {
        key: claim
        for key, claim in claims().items()
        if not names or claim.chapter in names or claim.article in names
    }


def print_list() -> None:
    """Chapters and articles with how many claims each has."""
    counts = {key: 0 for key in (*CHAPTERS, *ARTICLES)}
    for claim in claims().values():
        counts[claim.chapter] += 1
        counts[claim.article] += 1
    for heading, names in (("Chapters", CHAPTERS), ("Articles", ARTICLES)):
        print(f"{heading}:")
        for name, title in names.items():
            print(f"  {name:<13}{counts[name]:>3} claims  {title}")


@contextmanager
def progress(done: int, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, one plain line an experiment anywhere else, both on stderr."""
    if done:
        rest = "" if done < total else " Nothing is left to compute; in another --out all is."
        print(
            f"Going on from {done} of {total} experiments.{rest}", file=sys.stderr, flush=True
        )
    if not sys.stderr.isatty():
        lines = iter(range(done + 1, total + 1))
        yield lambda name: print(f"[{next(lines)}/{total}] {name}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=total)
        started = iter(range(done, total))
        yield lambda name: display.update(task, completed=next(started), description=name)


def row_lines(name: str, row: dict, *, width: int, widest: int) -> Iterator["Text"]:
    """A row as lines of a terminal: its verdict and FLOPs, our value and the article's."""
    from rich.text import Text

    from experiments import report
    from experiments.wording import cut

    def said(label: str, value: str) -> Text:
        room = width - len(label) - 4
        return Text.assemble("  ", (label, "dim"), "  ", cut(value, room)) if value else Text()

    flops = said("FLOPs  ", report.plain_flops(row["flops"]))
    badge = max(map(len, report.LABELS.values())) if flops else 0
    verdict = Text(f"{report.LABELS[row['verdict']]:<{badge}}", report.TERMINAL[row["verdict"]])
    head = Text.assemble(f"{name:<{widest}}  ", verdict)
    here = said("here   ", report.plain(row["computed"]) if row["computed"] else "")
    article = said("article", report.plain(row["stated"]) if row["stated"] else "")
    for first, second in ((head, flops), (here, article)):
        whole = len(first) + len(second) <= width
        yield from filter(None, (first + second,) if whole else (first, second))


def print_results(records: list[dict], scope: dict[str, Claim], out: Path) -> int:
    """The table of claims, the score per article, what failed; returns the exit status."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from experiments import report

    console = Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 150
    shown: dict[str, dict[str, Any]] = {}
    for record in records:
        rows = {key: row for key, row in report.rows_of(record).items() if key in scope}
        if not rows:
            continue
        console.print(Text(f"\n{record['title']}", style="bold"))
        widest = max(map(len, rows))
        for name, row in rows.items():
            for line in row_lines(name, row, width=console.width, widest=widest):
                console.print(line, soft_wrap=True)
        shown |= rows

    counts = report.score(shown, scope)
    score = Table(box=None, pad_edge=False, header_style="bold")
    score.add_column("article")
    for article in counts:
        score.add_column(article, justify="right")
    for verdict, said in report.LABELS.items():
        found = [tally[verdict] for tally in counts.values()]
        if any(found):
            score.add_row(said, *(str(number or "·") for number in found))
    console.print()
    console.print(score)
    console.print()

    failures = [
        f"{record['chapter']}: {experiment['name']} failed: {experiment['error']} "
        f"(traceback in {out / record['chapter']}.log)"
        for record in records
        for experiment in record["experiments"]
        if experiment["error"]
    ]
    failures += [
        f"{name} differs: expected {report.plain(row['expected'])}, "
        f"computed {report.plain(row['computed'])}"
        + (f" ({row['note']})" if row["note"] else "")
        for name, row in shown.items()
        if row["agrees"] is False
    ]
    for failure in failures:
        console.print(f"✗ {failure}", style="red", soft_wrap=True)
    _, apart = report.misses(shown)
    less = f" In part: {', '.join(apart)}." if apart else ""
    console.print(f"{report.tally(shown)}.{less}", soft_wrap=True)
    console.print(f"{len(shown)} of {len(scope)} claims answered. ", end="", soft_wrap=True)
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        try:
            status = main()
        finally:  # after --help too
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
