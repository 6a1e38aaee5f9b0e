"""The report: one HTML file with everything inline, built from a results directory.

`python -m experiments.report` writes the README's table of verdicts from the kept rows.
"""

import html
import importlib
import inspect
import json
import math
import re
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from experiments.ledger import ARTICLES, CHAPTERS, VERDICTS, Claim, claims

LABELS = VERDICTS | {"differs": "differs", "todo": "not yet computed"}
SEVERITIES = {"error": "Errors", "overstated": "Overstated", "imprecise": "Imprecise"}
TERMINAL = {
    "reproduces": "green",
    "approximately": "yellow",
    "document-wrong": "red",
    "illustrative-random": "magenta",
    "hardware-fact": "blue",
    "needs-data": "dim",
    "differs": "bold white on red",
}


def rows_of(record: dict) -> dict[str, dict]:
    """All rows of a chapter's record, in the order they were computed."""
    return {
        name: row
        for experiment in record["experiments"]
        for name, row in experiment["claims"].items()
    }


def score(rows: dict[str, dict], scope: dict[str, Claim]) -> dict[str, Counter]:
    """How many of each article's claims in `scope` have each verdict."""
    counts: dict[str, Counter] = {}
    for name, claim in scope.items():
        verdict = rows[name]["verdict"] if name in rows else "todo"
        counts.setdefault(claim.article, Counter())[verdict] += 1
    return {article: counts[article] for article in ARTICLES if article in counts}


def label(row: dict) -> str:
    """A row's verdict in words."""
    severity = f" ({row['severity']})" if row["severity"] else ""
    return LABELS[row["verdict"]] + severity


def number(value: float) -> str:
    """A number as people write it: 45,088,768 or 0.714286 or 3.15 × 10^23."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if isinstance(value, int) and size < 10**15:
        return f"{value:,}" if size >= 10_000 else str(value)
    if size == 0 or 1e-4 <= size < 1e6:
        return f"{value:,.6g}" if size >= 10_000 else f"{value:.6g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')} × 10^{int(exponent)}"


def plain(value: Any) -> str:
    """Any JSON value as one line of text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{words(key)} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return listing(value)
    return " ".join(str(value).split())


def listing(value: list, *, keep: int = 12) -> str:
    """A list in brackets; past `keep` entries its beginning and its shape."""
    count = len(leaves(value))
    if count <= keep:
        return f"[{', '.join(plain(item) for item in value)}]"
    first = ", ".join(plain(item) for item in leaves(value)[:4])
    return f"{' × '.join(str(side) for side in shape(value))} entries: {first}, …"


def leaves(value: Any) -> list:
    """The entries of nested lists, in order."""
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in leaves(item)]


def shape(value: Any) -> tuple[int, ...]:
    """The sides of a regular nested list; a ragged one counts its rows alone."""
    if not isinstance(value, list):
        return ()
    inner = {shape(item) for item in value}
    return (len(value), *(inner.pop() if len(inner) == 1 else ()))


def words(key: str) -> str:
    """A ledger key as words: `lr_0_01` is lr 0.01 and `below_1e_9` below 1e-9."""
    key = re.sub(r"(?<=_\de)_(?=\d)", "-", key)
    key = re.sub(r"(?<=_\d)_(?=\d{1,2}(?!\d))", ".", key)
    return key.replace("_", " ")


def plain_flops(flops: dict) -> str:
    """Closed form, lowered and compiled, said once where all are equal."""
    counts = [number(flops[key]) for key in ("formula", "lowered", "compiled") if flops[key]]
    return " / ".join(dict.fromkeys(counts))


def page(
    records: list[dict], figures: dict[str, str], *, run: dict, article: str | None
) -> str:
    """The whole report; `article` is the one whose rows are shown at first."""
    rows = {name: row for record in records for name, row in rows_of(record).items()}
    written = {record["chapter"]: record for record in records}
    chapters = [
        chapter_section(name, written.get(name), figures, run, rows) for name in CHAPTERS
    ]
    return PAGE.format(
        style=STYLE + filter_rules(),
        contents=contents(rows),
        filters=filters(article),
        lead=lead(rows),
        scores=scores(rows),
        wrong=wrong_list(rows),
        missed=missed(rows),
        chapters="\n".join(chapters),
        code=code(rows),
        stamp=stamp_list(run),
    )


def lead(rows: dict[str, dict]) -> str:
    """The first paragraph: how far this run got and how the articles fared."""
    counts = Counter(row["verdict"] for row in rows.values())
    computed = sum(row["computed"] is not None for row in rows.values())
    nothing = len(rows) - computed
    parts = [
        f"{counts[verdict]} {said}"
        for verdict, said in (
            ("reproduces", "hold"),
            ("approximately", "hold approximately"),
            ("document-wrong", f"do not hold as the article has them ({severities(rows)})"),
            ("differs", "differ from the value expected of our own code"),
        )
        if counts[verdict]
    ]
    rest = sum(counts[key] for key in ("illustrative-random", "hardware-fact", "needs-data"))
    if rest:
        parts.append(f"{rest} illustrate, quote hardware or need data that is not to be had")
    outcome = f" Of all these {'; '.join(parts)}." if parts else ""
    return (
        f"The articles make {len(claims())} statements that can be checked. "
        f"{computed} of them are computed here"
        f"{f', {nothing} leave nothing to compute' if nothing else ''}.{outcome}"
    )


def severities(rows: dict[str, dict]) -> str:
    """How grave the disagreements are: 2 errors, 1 overstated."""
    found = Counter(row["severity"] for row in rows.values())
    return ", ".join(
        f"{found[key]} {key}{'s' if key == 'error' and found[key] > 1 else ''}"
        for key in SEVERITIES
        if found[key]
    )


def contents(rows: dict[str, dict]) -> str:
    """The chapters as links, with how many of each one's claims are computed."""
    total = Counter(claim.chapter for claim in claims().values())
    done = Counter(row["chapter"] for row in rows.values())
    return "\n".join(
        f'<li{"" if done[name] else " class=empty"}><a href="#{name}">{text(title)}</a> '
        f"<small>{done[name]}/{total[name]}</small></li>"
        for name, title in CHAPTERS.items()
    )


def filters(article: str | None) -> str:
    """One choice among the articles, and one box for disagreements; CSS does the rest."""
    options = {"all": "All five", **ARTICLES}
    radios = "\n".join(
        f'<label><input type=radio name=article id="only-{key}"'
        f"{' checked' if key == (article or 'all') else ''}> {text(title)}</label>"
        for key, title in options.items()
    )
    box = "<label><input type=checkbox id=only-wrong> Only where the article is wrong</label>"
    return f"{radios}\n{box}"


def filter_rules() -> str:
    """Hide what the chosen filter leaves out, and sections that it leaves empty."""
    rules = []
    chosen = {f"#only-{key}": f'[data-article="{key}"]' for key in ARTICLES}
    for control, kept in (chosen | {"#only-wrong": ".v-document-wrong"}).items():
        body = f"body:has({control}:checked)"
        rules.append(
            f"{body} [data-article]:not({kept}),"
            f"{body} .experiment:not(:has({kept})),"
            f"{body} .chapter:not(:has({kept})){{display:none}}"
        )
    return "\n".join(rules)


def scores(rows: dict[str, dict]) -> str:
    """Per article a stacked bar of verdicts with the counts in words below it."""
    parts = []
    for article, counts in score(rows, claims()).items():
        present = [verdict for verdict in LABELS if counts[verdict]]
        bar = "".join(
            f'<i class="v-{verdict}" style="flex:{counts[verdict]}"></i>' for verdict in present
        )
        own = {name: row for name, row in rows.items() if row["article"] == article}
        said = LABELS | {"document-wrong": f"article is wrong: {severities(own)}"}
        legend = "".join(
            f'<li class="v-{verdict}"><b>{counts[verdict]}</b> {text(said[verdict])}</li>'
            for verdict in present
        )
        parts.append(
            f"<div class=score><h3>{text(ARTICLES[article])} {article_name(article)}</h3>"
            f"<div class=bar aria-hidden=true>{bar}</div><ul>{legend}</ul></div>"
        )
    return "\n".join(parts)


def wrong_list(rows: dict[str, dict]) -> str:
    """Where the articles are wrong, worst first, article by article, linked to the rows."""
    order = list(ARTICLES)
    rows = dict(sorted(rows.items(), key=lambda item: order.index(item[1]["article"])))
    parts = []
    for severity in SEVERITIES:
        found = {name: row for name, row in rows.items() if row["severity"] == severity}
        if not found:
            continue
        items = "\n".join(
            f'<li class="v-document-wrong" data-article="{row["article"]}">'
            f'<a href="#{name}">{text(row["claim"])}</a> {article_name(row["article"])}'
            f"{versus(row)}<div>{prose(row['note'] or '')}</div></li>"
            for name, row in found.items()
        )
        parts.append(
            f"<h3>{SEVERITIES[severity]} <small>{len(found)}</small></h3>"
            f"<ul class=wrong>{items}</ul>"
        )
    return "\n".join(parts) or "<p>None among the claims computed so far.</p>"


def versus(row: dict) -> str:
    """The article's value beside the first of ours; the row has them all."""
    if not isinstance(row["computed"], dict):
        return ""
    keep = 4 if row["severity"] == "error" else 2
    lines = [f"{words(key)}: {plain(value)}" for key, value in row["computed"].items()]
    ours = "".join(
        f"<dd>{count_or_text(textwrap.shorten(line, 90, placeholder=' …'))}</dd>"
        for line in lines[:keep]
    )
    theirs = f"<dt>Article</dt><dd>{count_or_text(row['stated'])}</dd>" if row["stated"] else ""
    return f"<dl class=versus>{theirs}<dt>Here</dt>{ours}</dl>"


def misses(rows: dict[str, dict]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Rows that miss the value expected of them, and rows with values not held to it."""
    out = {name: row for name, row in rows.items() if row["agrees"] is False}
    apart = {
        name: row
        for name, row in rows.items()
        if any(key in (row["computed"] or {}) for key in row["not_compared"])
    }
    return out, apart


def within(rows: dict[str, dict]) -> str:
    """How many rows meet what is expected of them."""
    checked = [row["agrees"] for row in rows.values() if row["agrees"] is not None]
    return f"{sum(checked)} of {len(checked)} rows that can be checked are within tolerance"


def missed(rows: dict[str, dict]) -> str:
    """What is not within its tolerance or not held to it: expected, computed, and why."""
    out, apart = misses(rows)
    parts = [
        f"<p>{within(rows)}: of the value that an independent computation gave, or, where that "
        "is not known here, of a law that it has to obey.</p>"
    ]
    for found, said in (
        (out, "These are not."),
        (apart, "These values hang on a draw or on a text that nobody published: they are held "
         "to less."),
    ):  # fmt: skip
        body = "".join(
            f'<tr class="v-{row["verdict"]}" data-article="{row["article"]}">'
            f'<td data-label=Claim><a href="#{name}">{text(row["claim"])}</a> '
            f"{article_name(row['article'])}</td>"
            f"<td data-label=Expected>{values(pick(row, 'expected'))}</td>"
            f'<td data-label="Computed here">{values(pick(row, "computed"))}</td>'
            f"<td data-label=Why>{prose(row['note'] or '')}</td></tr>"
            for name, row in found.items()
        )
        if found:
            parts.append(
                f'<p>{said}</p><table class="claims missed"><thead><tr><th scope=col>Claim'
                "<th scope=col>Expected<th scope=col>Computed here<th scope=col>Why</tr>"
                f"</thead><tbody>{body}</tbody></table>"
            )
    return "\n".join(parts)


def pick(row: dict, which: str) -> Any:
    """The values of a row that are not compared; all of a row that misses."""
    if row["agrees"] is False:
        return row[which]
    return {key: row[which][key] for key in row["not_compared"] if key in row[which]}


@cache
def source_of(name: str) -> tuple[str, str] | None:
    """Where a function of ours stands, and its text; None for another's."""
    module, _, attribute = name.rpartition(".")
    if module.split(".")[0] not in ("lintoolkit", "experiments"):
        return None
    try:
        function = inspect.unwrap(getattr(importlib.import_module(module), attribute))
        lines, first = inspect.getsourcelines(function)
    except (ImportError, AttributeError, TypeError, OSError):
        return None
    path = Path(inspect.getfile(function)).relative_to(Path(__file__).parent.parent)
    return f"{path.as_posix()}, line {first}", "".join(lines)


def code(rows: dict[str, dict]) -> str:
    """The source of each function of ours that a row names, folded up."""
    named = {name for row in rows.values() for name in row["function"].split(", ")}
    found = {name: source for name in sorted(named) if (source := source_of(name))}
    return "\n".join(
        f"<details><summary><code>{text(name)}</code> {text(place)}</summary>"
        f'<pre id="{source_id(name)}">{text(source)}</pre></details>'
        for name, (place, source) in found.items()
    )


def source_id(name: str) -> str:
    """Where in the report a function's source stands."""
    return f"code-{name.replace('.', '-')}"


def linked(names: str) -> str:
    """Functions' names, ours as links to their source."""
    return ", ".join(
        f'<a href="#{source_id(name)}">{breakable(name)}</a>'
        if source_of(name)
        else breakable(name)
        for name in names.split(", ")
    )


def chapter_section(
    name: str, record: dict | None, figures: dict[str, str], run: dict, rows: dict[str, dict]
) -> str:
    """One chapter: its introduction, its experiments, and the claims still to do."""
    parts = []
    if record:
        parts.append(paragraphs(record["about"]))
        if record["run"] != run:
            parts.append(
                f"<p class=stamp>This chapter is from another run: {stamp(record)}</p>"
            )
        parts += [experiment_section(name, part, figures) for part in record["experiments"]]
    todo = {
        key: claim
        for key, claim in claims().items()
        if claim.chapter == name and key not in rows
    }
    if todo:
        items = "".join(
            f'<li data-article="{claim.article}">{text(claim.claim)} '
            f"{article_name(claim.article)}</li>"
            for claim in todo.values()
        )
        noun = "claim" if len(todo) == 1 else "claims"
        parts.append(
            f"<details><summary>{len(todo)} {noun} not yet computed</summary>"
            f"<ul>{items}</ul></details>"
        )
    body = "\n".join(parts)
    return (
        f'<section class=chapter id="{name}"><h2>{text(CHAPTERS[name])}</h2>\n{body}</section>'
    )


def experiment_section(chapter: str, experiment: dict, figures: dict[str, str]) -> str:
    """One experiment: what it does, what it drew, what it found."""
    name = experiment["name"]
    parts = [f"<h3>{text(words(name).capitalize())}</h3>", paragraphs(experiment["about"])]
    if experiment["error"]:
        parts.append(
            f'<p class="failed">This experiment failed: <code>{text(experiment["error"])}'
            f"</code>. The traceback is in <code>{chapter}.log</code>.</p>"
        )
    drawn = [
        f'<figure style="flex-basis:{width(figures[figure["file"]]) + 26:.0f}px">'
        f'<div class=paper tabindex=0 role=group aria-label="{text(words(name))}">'
        f"{figures[figure['file']]}</div>"
        f"<figcaption>{prose(figure['caption'])}</figcaption></figure>"
        for figure in experiment["figures"]
        if figure["file"] in figures
    ]
    if drawn:
        parts.append(f"<div class=figures>{''.join(drawn)}</div>")
    if experiment["claims"]:
        body = "\n".join(claim_row(key, row) for key, row in experiment["claims"].items())
        parts.append(
            "<table class=claims><thead><tr><th scope=col>Claim<th scope=col>Article says"
            "<th scope=col>Computed here<th scope=col>Verdict<th scope=col>FLOPs</tr></thead>"
            f"\n<tbody>{body}</tbody></table>"
        )
    content = "\n".join(parts)
    return f'<section class=experiment id="{chapter}-{name}">\n{content}</section>'


def width(drawing: str) -> float:
    """An SVG's own width in CSS pixels: figures stand side by side only where that fits."""
    points = re.search(r'<svg[^>]*? width="([\d.]+)pt"', drawing)
    return float(points[1]) * 4 / 3 if points else 0


def claim_row(name: str, row: dict) -> str:
    """One claim as a table row; on a narrow screen each cell becomes a labelled line."""
    note = f"<div class=note>{prose(row['note'])}</div>" if row["note"] else ""
    computed = values(row["computed"])
    if row["computed"] is None:
        missing = "nothing to compute" if row["expected"] is None else "not computed"
        computed = f"<span class=none>{missing}</span>"
    if row["agrees"] is False:
        computed += f"<div class=expected>expected {values(row['expected'])}</div>"
    by = f"<code>{linked(row['function'])}</code>" if row["computed"] is not None else ""
    stated = count_or_text(row["stated"]) if row["stated"] else "<span class=none>–</span>"
    cost = flop_cell(row["flops"])
    return (
        f'<tr id="{name}" class="v-{row["verdict"]}" data-article="{row["article"]}">'
        f"<td data-label=Claim>{text(row['claim'])}{note}"
        f'<div class=source><a href="#{name}">{name}</a> {by}</div></td>'
        f'<td data-label="Article says"{"" if row["stated"] else " class=blank"}>{stated}</td>'
        f'<td data-label="Computed here">{computed}</td>'
        f"<td data-label=Verdict><span class=badge>{text(label(row))}</span></td>"
        f"<td data-label=FLOPs{'' if cost else ' class=blank'}>{cost}</td></tr>"
    )


def flop_cell(flops: dict) -> str:
    """Closed form, lowered, compiled, each count once; XLA's own where it is over 1 % off.

    A closed form of the products alone says so. Below stands what compiling changed.
    """
    alone = flops["formula"] not in (None, flops["lowered"])
    stages: dict[int, list[str]] = {}
    for key, name in (
        ("formula", "closed form = products" if alone else "closed form"),
        ("lowered", "lowered"),
        ("compiled", "compiled"),
    ):
        if flops[key] is not None:
            stages.setdefault(flops[key], []).append(name)
    entries = [
        f"<div><dt>{' = '.join(names)}</dt><dd>{count(value)}</dd></div>"
        for value, names in stages.items()
    ]
    xla, ours = flops["xla"], flops["compiled"]
    if xla is not None and ours is not None and abs(xla - ours) > 0.01 * ours:
        entries.append(f"<div class=off><dt>XLA says</dt><dd>{count(xla)}</dd></div>")
    said = flops.get("changed")
    changed = (
        "<details class=changed><summary>what compiling changed</summary>"
        f"{text(said)}</details>"
        if said
        else ""
    )
    return f"<dl class=flops>{''.join(entries)}</dl>{changed}" if entries else ""


def values(value: Any) -> str:
    """A computed value: dicts as definition lists, small matrices as matrices."""
    if isinstance(value, dict):
        entries = "".join(
            f"<div><dt>{text(words(key))}</dt><dd>{values_of(key, item)}</dd></div>"
            for key, item in value.items()
        )
        return f"<dl>{entries}</dl>"
    if isinstance(value, list):
        return matrix(value) if is_matrix(value) else count_or_text(listing(value))
    if isinstance(value, str) and "\n" in value:
        return f"<pre>{text(value.rstrip())}</pre>"
    return count_or_text(plain(value))


def values_of(key: str, value: Any) -> str:
    """A value under its key: a list of shapes is a list, though it looks like a matrix."""
    if isinstance(value, list) and {"shape", "shapes"} & set(key.split("_")):
        return count_or_text(listing(value, keep=24))
    return values(value)


def is_matrix(value: list) -> bool:
    """Whether a nested list is a grid of numbers that is small enough to draw as one."""
    sides = shape(value)
    return (
        len(sides) == 2
        and 0 < sides[0] <= 8
        and 0 < sides[1] <= 5
        and all(type(leaf) in (int, float) for leaf in leaves(value))
        and all(sum(len(brief(leaf)) for leaf in row) <= 20 for row in value)
    )


def matrix(value: list) -> str:
    """A small matrix between its brackets."""
    entries = "".join(f"<span>{count_or_text(brief(leaf))}</span>" for leaf in leaves(value))
    return f'<span class=matrix style="--columns:{len(value[0])}">{entries}</span>'


def brief(value: float) -> str:
    """A number to four digits, where several stand in a row."""
    return number(value if isinstance(value, int) else float(f"{value:.4g}"))


def count(value: float) -> str:
    """A number as HTML."""
    return count_or_text(number(value))


def count_or_text(line: str) -> str:
    """Escaped text with true minus signs and raised exponents in its numbers."""
    line = re.sub(r"(?<![\w-])-(?=\d)", "−", text(line))
    return re.sub(r" × 10\^(−?\d+)", " × 10<sup>\\1</sup>", line)


def article_name(article: str) -> str:
    """The article's key, with its title for whoever points at it."""
    return f'<span class=article title="{text(ARTICLES[article])}">{article}</span>'


def text(value: Any) -> str:
    """Anything as escaped HTML text."""
    return html.escape(str(value))


def prose(value: str) -> str:
    """Escaped text in which back-quoted words are code."""
    return re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", text(value))


def paragraphs(value: str) -> str:
    """A docstring as paragraphs."""
    return "".join(f"<p>{prose(part)}</p>" for part in value.split("\n\n") if part.strip())


def breakable(name: str) -> str:
    """Dotted names that may break after a dot."""
    return text(name).replace(".", ".<wbr>")


def stamp(record: dict) -> str:
    """A run's circumstances in one line."""
    return ", ".join(f"{key} {value}" for key, value in circumstances(record["run"]).items())


def stamp_list(run: dict) -> str:
    """A run's circumstances as a definition list."""
    return "".join(
        f"<div><dt>{text(key)}</dt><dd>{text(value)}</dd></div>"
        for key, value in circumstances(run).items()
    )


def circumstances(run: dict) -> dict[str, str]:
    """Where and how a run was made, in words."""
    device = run["device"]
    versions = {name: value for name, value in run["versions"].items() if value}
    return {
        "device": f"{device['count']} × {device['kind']} ({device['platform']})",
        "cores of the host": str(device.get("cores", "not noted")),
        "seed": str(run["seed"]),
        "size": "full" if run["full"] else "default",
        **versions,
        "commit": run["commit"] or "not from a checkout",
    }


STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf7;--card:#fff;--ink:#20242a;--soft:#606873;
--rule:#e2dfd8;--link:#2a5d86;--paper:#fff;--holds:#1f7048;--near:#856000;--wrong:#b0331e;
--sketch:#76468f;--metal:#2a5d86;--data:#606873;--todo:#cfcbc2}
@media screen and (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1b1f24;--ink:#d9dde3;
--soft:#99a2ad;--rule:#2e343b;--link:#8bbce2;--paper:#f4f2ee;--holds:#6cc79b;--near:#dcb45c;
--wrong:#f28d78;--sketch:#c9a0e2;--metal:#8bbce2;--data:#99a2ad;--todo:#4a515a}}
.v-reproduces{--v:var(--holds)}.v-approximately{--v:var(--near)}
.v-document-wrong,.v-differs{--v:var(--wrong)}.v-illustrative-random{--v:var(--sketch)}
.v-hardware-fact{--v:var(--metal)}.v-needs-data{--v:var(--data)}.v-todo{--v:var(--todo)}
*{box-sizing:border-box}
html{scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:88rem;padding:0 1.5rem 4rem;background:var(--bg);color:var(--ink);
font:1.0625rem/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif;
display:grid;grid-template:auto auto 1fr/15rem minmax(0,1fr);gap:0 3rem}
h1,h2,h3,nav,aside,th,dl,.badge,.source,.score ul,summary,.article,figcaption,.stamp,small,
.none,.expected,footer{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
a:focus-visible,input:focus-visible,summary:focus-visible,.paper:focus-visible{
outline:2px solid var(--link);outline-offset:2px;border-radius:2px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--card);
padding:.5rem 1rem;z-index:2}
header,main,footer{grid-column:2}
header{padding-top:3.5rem}
h1{font-size:clamp(1.7rem,4vw,2.6rem);line-height:1.12;letter-spacing:-.02em;margin:0 0 1rem;
text-wrap:balance}
.lead{font-size:1.2rem;max-width:42rem;margin:0 0 1rem;text-wrap:pretty}
h2{font-size:1.6rem;letter-spacing:-.015em;line-height:1.2;margin:4.5rem 0 .75rem;
padding-top:1.25rem;border-top:1px solid var(--rule);text-wrap:balance}
h3{font-size:1.05rem;margin:2.5rem 0 .25rem;line-height:1.3}
h3 small{color:var(--soft);font-weight:400}
p{max-width:42rem;margin:.4rem 0 1rem;text-wrap:pretty}
code,pre{font:.86em/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace;
overflow-wrap:anywhere}
pre{white-space:pre-wrap;margin:.2rem 0}
aside{grid-area:1/1/span 3;font-size:.86rem;line-height:1.4}
aside>div{position:sticky;top:0;max-height:100vh;overflow-y:auto;padding:3.5rem 0 2rem}
nav ol{list-style:none;margin:0;padding:0}nav li{display:flex;gap:.5rem;
justify-content:space-between;padding:.22rem 0}
#code pre{padding:.7rem;background:var(--card);border:1px solid var(--rule);border-radius:6px}
nav a{color:inherit;text-decoration:none}nav a:hover{text-decoration:underline}
nav small{color:var(--soft);font-variant-numeric:tabular-nums;font-size:.78rem}
.empty{color:var(--soft)}
fieldset{border:0;border-top:1px solid var(--rule);margin:1.25rem 0 0;padding:.9rem 0 0}
legend{float:left;width:100%;font-weight:600;margin-bottom:.35rem}
legend~*{clear:left}
label{display:flex;gap:.5rem;padding:.2rem 0;align-items:baseline;cursor:pointer}
label:last-child{margin-top:.5rem}
input{accent-color:var(--link);margin:0;transform:translateY(1px);flex:none}
.score{margin:1.4rem 0}.score h3{margin:0 0 .4rem;font-size:1rem}
.bar{display:flex;gap:2px;height:.8rem;border-radius:3px;overflow:hidden;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.bar i{background:var(--v);min-width:2px}
i.v-differs,.score li.v-differs::before{background:repeating-linear-gradient(135deg,
var(--v) 0 3px,transparent 3px 5px)}
.score ul{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;list-style:none;padding:0;
margin:.45rem 0 0;font-size:.84rem;color:var(--soft)}
.score li::before{content:"";display:inline-block;width:.6rem;height:.6rem;border-radius:2px;
background:var(--v);margin-right:.4rem}
.score b{color:var(--ink);font-variant-numeric:tabular-nums}
.article{font-size:.72rem;color:var(--soft);border:1px solid var(--rule);border-radius:3px;
padding:.05rem .35rem;white-space:nowrap}
.wrong{padding:0;list-style:none;margin:.5rem 0;
columns:24rem 2;column-gap:2.5rem}
.wrong li{break-inside:avoid;margin:0 0 .9rem;padding-left:.8rem;border-left:3px solid var(--v)}
.wrong a{color:inherit}
.versus{display:grid;grid-template-columns:auto 1fr;gap:0 .7rem;margin:.25rem 0}
.versus dt{grid-column:1}.versus dd{grid-column:2;text-align:left;margin:0}
.wrong div{font-size:.92rem;color:var(--soft)}
.figures{display:flex;flex-wrap:wrap;gap:1.25rem;margin:1rem 0 1.5rem}
figure{margin:0;flex:1 1;max-width:46rem;min-width:0}
.paper{background:var(--paper);border:1px solid var(--rule);border-radius:6px;padding:.75rem;
color:#20242a}
.paper svg{display:block;max-width:100%;height:auto;margin:0 auto;overflow:visible}
.paper svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",
sans-serif!important}
figcaption{font-size:.84rem;line-height:1.45;color:var(--soft);margin-top:.5rem}
table.claims{width:100%;border-collapse:collapse;table-layout:fixed;margin:1rem 0;
background:var(--card);border:1px solid var(--rule);border-radius:6px}
.claims th{font-size:.74rem;font-weight:600;color:var(--soft);text-align:left;
padding:.5rem .7rem}
.claims th:nth-child(1){width:31%}.claims th:nth-child(2){width:13%}
.claims th:nth-child(4){width:8.2rem}.claims th:nth-child(5){width:17%}
.missed th:nth-child(n){width:19%}.missed th:nth-child(4){width:36%}
.claims td[data-label=Verdict]{padding-right:0}
.claims td{padding:.7rem;vertical-align:top;border-top:1px solid var(--rule);
overflow-wrap:anywhere;font-size:.94rem;line-height:1.45}
.claims tr:target{background:color-mix(in srgb,var(--link) 9%,transparent)}
.note{margin:.45rem 0 0;padding-left:.7rem;border-left:3px solid var(--v);font-size:.9rem;
color:var(--soft)}
.source{margin-top:.5rem;font-size:.74rem;color:var(--soft);line-height:1.6}
.source a{color:inherit;text-decoration-color:var(--rule)}.source code{display:block;
font-size:.72rem}
dl{margin:0;font-size:.82rem;line-height:1.4;font-variant-numeric:tabular-nums}
dl>div{display:flex;flex-wrap:wrap;gap:0 .5rem;justify-content:space-between;
padding:.12rem 0}
dl>div+div{border-top:1px dotted var(--rule)}
dt{color:var(--soft)}dd{margin:0 0 0 auto;text-align:right;min-width:0}
dd dl{margin-left:.5rem}
.matrix{display:inline-grid;grid-template-columns:repeat(var(--columns),auto);gap:0 .6rem;
padding:.1rem .45rem;position:relative;text-align:right;font-size:.74rem;white-space:nowrap}
.matrix::before,.matrix::after{content:"";position:absolute;top:0;bottom:0;left:0;width:.25rem;
border:1px solid var(--soft);border-right:0}
.matrix::after{left:auto;right:0;border:1px solid var(--soft);border-left:0}
dd pre{text-align:left}
.badge{display:inline-block;font-size:.72rem;font-weight:600;line-height:1.3;color:var(--v);
overflow-wrap:normal;padding:.12rem .4rem;border-radius:4px;
background:color-mix(in srgb,var(--v) 13%,transparent)}
.v-differs .badge{background:var(--v);color:var(--card)}
.expected{margin-top:.5rem;padding-top:.4rem;border-top:2px solid var(--v);font-size:.78rem;
color:var(--v)}
.failed{border-left:3px solid var(--wrong);padding-left:.8rem}
.none{color:var(--soft);font-size:.82rem}
.flops>div{display:flex;flex-direction:column-reverse}
.flops dt{font-size:.72rem}.flops dd{margin:0;text-align:left;white-space:nowrap}
.changed{margin:.3rem 0 0;font:.72rem/1.4 system-ui,sans-serif}
.changed summary{font-size:inherit}
.flops .off{color:var(--near)}.flops .off dt{color:inherit}
details{margin:1rem 0;color:var(--soft);font-size:.94rem}summary{cursor:pointer;
font-size:.86rem}details li{margin:.25rem 0}
.stamp{font-size:.8rem;color:var(--soft)}
footer{margin-top:5rem;border-top:1px solid var(--rule);padding-top:1rem;font-size:.86rem;
color:var(--soft)}
footer dl{columns:2;max-width:42rem;column-gap:3rem}footer dl>div{break-inside:avoid}
@media screen and (max-width:78rem){body{display:block;padding:0 1rem 3rem}
header{padding-top:1.5rem}
aside>div{position:static;max-height:none;padding:1rem 0;border-bottom:1px solid var(--rule)}
nav ol{columns:2 16rem;column-gap:2rem}nav li{break-inside:avoid;padding:.3rem 0}}
@media screen and (max-width:60rem){
.claims thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.claims,.claims tbody,.claims tr,.claims td{display:block;width:auto}
.claims tr+tr{border-top:1px solid var(--rule)}.claims tr{padding:.7rem .8rem}
.claims td{border:0;padding:.25rem 0}.claims .blank{display:none}
.claims td:not(:first-child)::before{content:attr(data-label);display:block;
font:600 .72rem/1.6 system-ui,sans-serif;color:var(--soft)}
.claims td[data-label=Verdict]::before{display:none!important}
figure{flex-basis:100%!important}.paper{overflow-x:auto}
.paper svg{max-width:none;width:max(32rem,100%)}footer dl{columns:1}.wrong{columns:auto}}
@media print{html{font-size:9pt}body{display:block;max-width:none;padding:0;
--bg:#fff;--card:#fff;--ink:#000}aside,.skip,#code{display:none}
details::details-content{content-visibility:visible;block-size:auto}
h2{margin-top:2rem}h2,h3,.chapter p,thead{break-after:avoid}.figures{display:block}
figure{margin-bottom:1rem}tr,figure{break-inside:avoid}
.badge{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<title>Five articles on the linear algebra of AI, claim by claim</title>
<style>{style}</style>
</head>
<body>
<a class=skip href="#story">Skip to the story</a>
<header>
<h1>Five articles on the linear algebra of AI, claim by claim</h1>
<p class=lead>{lead}</p>
</header>
<aside><div>
<nav aria-label="Chapters"><ol>
<li><a href="#score">Score</a></li>
<li><a href="#wrong">Where the articles are wrong</a></li>
<li><a href="#missed">Within tolerance, and not</a></li>
{contents}
<li><a href="#code">The functions that did it</a></li>
</ol></nav>
<form><fieldset><legend>Show claims of</legend>
{filters}
</fieldset></form>
</div></aside>
<main>
<section id=score><h2>Score</h2>
{scores}
</section>
<section id=wrong><h2>Where the articles are wrong</h2>
{wrong}
</section>
<section id=missed><h2>Within tolerance, and not</h2>
{missed}
</section>
<div id=story>
{chapters}
</div>
<section id=code><h2>The functions that did it</h2>
<p>What rows name, as it stands in this version; other libraries’ functions are left out.</p>
{code}
</section>
</main>
<footer>
<p>Each value was computed by the functions named beside it and compared with an independent
float64 computation. A FLOP is one floating-point operation, so that a multiply-add is two:
<b>closed form</b> is the textbook formula, <b>lowered</b> counts the program that JAX handed to
the compiler, <b>compiled</b> the one that runs; XLA’s own count stands beside them where it is
more than 1 % off. Full values are in <code>claims.json</code>, each under its claim’s name.</p>
<dl>{stamp}</dl>
</footer>
</body>
</html>
"""


def tabled(readme: str, rows: dict[str, dict]) -> str:
    """The README with the table of these rows' verdicts in its place."""
    counts = score(rows, claims())
    shown = [verdict for verdict in LABELS if any(found[verdict] for found in counts.values())]
    lines = [
        ["article", *(LABELS[verdict] for verdict in shown)],
        ["---", *("---:" for _ in shown)],
        *(
            [ARTICLES[article], *(str(found[verdict]) for verdict in shown)]
            for article, found in counts.items()
        ),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    mark = "<!-- python -m experiments.report -->"
    before, _, after = readme.split(mark)
    return f"{before}{mark}\n\n{table}\n\n{mark}{after}"


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    kept = json.loads((root / "experiments/results/cpu/claims.json").read_text("utf-8"))
    target = root / "README.md"
    target.write_text(tabled(target.read_text("utf-8"), kept), "utf-8")
