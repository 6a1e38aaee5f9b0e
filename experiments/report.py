"""The report: one HTML file with everything inline, built from a results directory.

`python -m experiments.report` writes the README's table of verdicts from the kept rows.
"""

import importlib
import inspect
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

from experiments.ledger import ARTICLES, CHAPTERS, VERDICTS, Claim, claims
from experiments.template import PAGE, STYLE
from experiments.wording import (
    breakable,
    compact,
    count,
    count_or_text,
    paragraphs,
    plain,
    prose,
    text,
    values,
    words,
)

LABELS = VERDICTS | {"differs": "differs", "todo": "not yet computed"}
SEVERITIES = {"error": "Errors", "overstated": "Overstated", "imprecise": "Imprecise"}
# How rows stand to what is expected of them, and what fitted ones are fitted by.
STANDINGS = {
    "full": "met in full",
    "part": "met in part",
    "missed": "missed",
    "unheld": "computed, with nothing to hold them to",
    "none": "not computed",
}
FITTED = "a convention, seed or made-up data chosen to meet the ledger's figure"
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


def stages(flops: dict) -> dict[int, str]:
    """Each count of a FLOP cell once, with the stages that have it.

    A closed form of the products alone says so.
    """
    alone = flops["formula"] not in (None, flops["lowered"])
    names: dict[int, list[str]] = {}
    for key, name in (
        ("formula", "closed form = products" if alone else "closed form"),
        ("lowered", "lowered"),
        ("compiled", "compiled"),
    ):
        if flops[key] is not None:
            names.setdefault(flops[key], []).append(name)
    return {value: " = ".join(found) for value, found in names.items()}


def plain_flops(flops: dict) -> str:
    """A FLOP cell in a line: 260 closed form = lowered, 6.144 M compiled."""
    return ", ".join(f"{compact(value)} {said}" for value, said in stages(flops).items())


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
    short = [line if len(line) <= 90 else f"{line[:88].rsplit(' ', 1)[0]} …" for line in lines]
    ours = "".join(f"<dd>{count_or_text(line)}</dd>" for line in short[:keep])
    theirs = f"<dt>Article</dt><dd>{count_or_text(row['stated'])}</dd>" if row["stated"] else ""
    return f"<dl class=versus>{theirs}<dt>Here</dt>{ours}</dl>"


def held_to_less(row: dict) -> list[str]:
    """The keys of the value expected of a row that it is not held to, or does not have."""
    expected, computed = row["expected"], row["computed"] or {}
    if not isinstance(expected, dict):
        return []
    return [key for key in expected if key in row["not_compared"] or key not in computed]


def standing(row: dict) -> str:
    """How a row stands to what is expected of it, a key of `STANDINGS`."""
    if row["agrees"] is None:
        return "none" if row["computed"] is None else "unheld"
    if not row["agrees"]:
        return "missed"
    return "part" if held_to_less(row) else "full"


def misses(rows: dict[str, dict]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Rows that miss the value expected of them, and rows that meet it in part."""
    stands = {name: standing(row) for name, row in rows.items()}
    out, apart = (
        {name: row for name, row in rows.items() if stands[name] == which}
        for which in ("missed", "part")
    )
    return out, apart


def tally(rows: dict[str, dict]) -> str:
    """How many rows meet what is expected of them, in full and in part, and how many do not."""
    counts = Counter(standing(row) for row in rows.values())
    fitted = sum(row["fitted"] and standing(row) == "full" for row in rows.values())
    chosen = f", of which {fitted} by {FITTED}" if fitted else ""
    parts = [
        f"{counts[key]} {said}{chosen if key == 'full' else ''}"
        for key, said in STANDINGS.items()
        if counts[key]
    ]
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {'; '.join(parts)}"


def missed(rows: dict[str, dict]) -> str:
    """What is not within its tolerance or not held to it: expected, computed, and why."""
    out, apart = misses(rows)
    parts = [
        f"<p>{tally(rows)}. Expected is, within the tolerance, the value that an independent "
        "computation gave, or, where that is not known here, a law that it has to obey.</p>"
    ]
    for found, said in (
        (out, "These miss it."),
        (apart, "These meet it in part: the values shown hang on a draw or on a text that "
         "nobody published, and are held to less or are not computed."),
    ):  # fmt: skip
        body = "".join(
            f'<tr class="v-{row["verdict"]}" data-article="{row["article"]}">'
            f'<td data-label=Claim><a href="#{name}">{text(row["claim"])}</a> '
            f"{article_name(row['article'])}</td>"
            f"<td data-label=Expected>{pick(row, 'expected')}</td>"
            f'<td data-label="Computed here">{pick(row, "computed")}</td>'
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


def pick(row: dict, which: str) -> str:
    """The values of a row that are held to less; all of a row that misses."""
    picked = row[which]
    if row["agrees"] is not False:
        picked = {key: picked.get(key, "not computed") for key in held_to_less(row)}
    return values(picked, row["shapes"])


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
    gone = [figure["file"] for figure in experiment["figures"] if figure["file"] not in figures]
    if gone:
        parts.append(
            f'<p class="failed">No longer in <code>figures</code>: {text(", ".join(gone))}. '
            f"<code>python -m experiments {chapter}</code> draws them anew.</p>"
        )
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
    computed = values(row["computed"], row["shapes"])
    if row["computed"] is None:
        missing = "nothing to compute" if row["expected"] is None else "not computed"
        computed = f"<span class=none>{missing}</span>"
    if row["agrees"] is False:
        computed += (
            f"<div class=expected>expected {values(row['expected'], row['shapes'])}</div>"
        )
    by = f"<code>{linked(row['function'])}</code>" if row["computed"] is not None else ""
    asides = {
        "met in part": standing(row) == "part",
        "met by a choice made for it": row["fitted"],
    }
    aside = "".join(f"<div class=none>{said}</div>" for said, true in asides.items() if true)
    stated = count_or_text(row["stated"]) if row["stated"] else "<span class=none>–</span>"
    cost = flop_cell(row["flops"])
    return (
        f'<tr id="{name}" class="v-{row["verdict"]}" data-article="{row["article"]}">'
        f"<td data-label=Claim>{text(row['claim'])}{note}"
        f'<div class=source><a href="#{name}">{name}</a> {by}</div></td>'
        f'<td data-label="Article says"{"" if row["stated"] else " class=blank"}>{stated}</td>'
        f'<td data-label="Computed here">{computed}</td>'
        f"<td data-label=Verdict><span class=badge>{text(label(row))}</span>{aside}</td>"
        f"<td data-label=FLOPs{'' if cost else ' class=blank'}>{cost}</td></tr>"
    )


def flop_cell(flops: dict) -> str:
    """Closed form, lowered, compiled, each count once; XLA's own where it differs by over 1 %.

    Below stands what compiling changed.
    """
    entries = [
        f"<div><dt>{said}</dt><dd>{count(value)}</dd></div>"
        for value, said in stages(flops).items()
    ]
    xla, ours = flops["xla"], flops["compiled"]
    if xla is not None and ours is not None and abs(xla - ours) > 0.01 * ours:
        entries.append(f"<div><dt>XLA counts otherwise</dt><dd>{count(xla)}</dd></div>")
    said = flops.get("changed")
    changed = (
        "<details class=changed><summary>what compiling changed</summary>"
        f"{text(said)}</details>"
        if said
        else ""
    )
    return f"<dl class=flops>{''.join(entries)}</dl>{changed}" if entries else ""


def article_name(article: str) -> str:
    """The article's key, with its title for whoever points at it."""
    return f'<span class=article title="{text(ARTICLES[article])}">{article}</span>'


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
