"""The committed results of all benchmarks as tables, written by program.

A comparison is of one peer at one case; `peers.md` beside the results has them all, a file for
each platform. Many on CPUs had a target, how many times faster to be than whom: README.md tells
by peer how often it was met. A test holds all files to the results.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from experiments import runner
from lintoolkit.cost import find_device

RESULTS = Path(__file__).parent.parent / "results"
PLATFORMS = "cpu", "gpu"
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- peers, {}: python -m experiments.peers table -->\n", "<!-- /peers -->"


class Comparison(NamedTuple):
    """One peer at one case: its time over ours, and how many times faster ours was to be."""

    task: str
    case: str
    peer: str
    seconds: float  # ours
    ratio: float
    target: float | None = None
    accuracy: str = ""  # the peer's
    memory: float | None = None  # ours over the peer's
    flops: int | None = None  # ours
    share: float | None = None  # of this machine's measured rate of products, ours


def decompositions(report: dict) -> Iterator[Comparison]:
    """A peer is as accurate if its error is no larger than ours or than rounding's.

    The fastest of these has a row of its own; where all are less accurate there is none.
    """
    on_cpu = _device(report)["platform"] == "cpu"
    pca = {"20000x1000": 1.7, "60000x784": 1.2, "100000x256": 1.0}
    names = {"svd": "svd.truncated_svd", "pca": "pca.fit_pca"}
    case_of = lambda row: (row["shape"], row.get("spectrum"), row["task"])
    for (shape, spectrum, task), rows in groupby(report["rows"], case_of):
        ours, *peers = rows
        targets = {
            "sklearn randomized_svd": 1.5,
            "sklearn PCA auto": pca.get(shape),
            "numpy": 1,
        }
        one = Comparison(
            names.get(task, "jax.vmap(svd.svd)"),
            f"{shape}, {spectrum} decay" if spectrum else task,
            *("", ours["seconds"], 0.0),
            flops=ours["flops"],
            share=ours["share_of_product_rate"],
        )
        others = (row for row in peers if not row["contender"].startswith("lintoolkit"))
        accurate = [row for row in others if row.get("at_least_as_accurate")]
        for row in peers:
            yield one._replace(
                peer=row["contender"],
                ratio=row["time_over_ours"],
                target=targets.get(row["contender"]),
                accuracy={None: "", True: "as accurate", False: "less accurate"}[
                    row.get("at_least_as_accurate")
                ],
            )
        if task == "svd" and accurate:
            yield one._replace(
                peer="the fastest as accurate",
                ratio=min(row["time_over_ours"] for row in accurate),
                target=2 if on_cpu else None,
                accuracy="as accurate",
            )


def attention(report: dict) -> Iterator[Comparison]:
    """XLA's form holds all weights; torch's kernel is written by hand, and so is cuDNN's.

    On a GPU the share is of its data sheet's peak.
    """
    device = _device(report)
    on_cpu = device["platform"] == "cpu"
    names = {
        "jax_nn": "jax.nn, XLA's form",
        "jax_nn_cudnn": "jax.nn, cuDNN's form",
        "ours_plain": "our own form, which options take",
        "torch": "torch's kernel",
    }
    for row in report["rows"]:
        far, gradient, ours = row["length"] >= 4096, row["gradient"], row["ours"]
        targets = {
            "jax_nn": 5 if far and gradient else 3,
            "torch": 0.7 if gradient else 0.8,
        }
        one = Comparison(
            f"attention.attention, {'gradient' if gradient else 'forward'}",
            row["case"].rpartition(", ")[0],
            *("", ours["seconds"], 0.0),
            flops=ours["matmul_flops"],
        )
        if not on_cpu:
            peak = find_device(device["kind"]).peak["bf16"]
            one = one._replace(share=ours["matmul_flops"] / ours["seconds"] / peak)
        for peer, name in names.items():
            if peer in row:
                yield one._replace(
                    peer=name,
                    ratio=row[peer]["seconds"] / ours["seconds"],
                    target=targets.get(peer) if on_cpu else None,
                    memory=row["temps_of_jax_nn"] if peer == "jax_nn" else None,
                )


def transformer(report: dict) -> Iterator[Comparison]:
    """Blocks from the same numbers with the same output; a step of training had targets."""
    for name in report["cases"]:
        on_cpu = _device(report["cases"][name])["platform"] == "cpu"
        for row in report["cases"][name]["rows"]:
            if name == "generation":
                seconds = row["steps"] / row["tokens_per_second"]["lintoolkit"]
                case = f"{row['prompt']} tokens and {row['steps']} more"
                same = "same tokens" if row["same_tokens"] else "other tokens"
                yield Comparison(
                    *("transformer.generate", case, "transformers", seconds),
                    *(row["times_faster"], None, same),
                )
            elif name != "convolution":
                targets = {"flax.nnx": 1.3, "torch eager": 1.0}
                one = Comparison(
                    f"transformer.block, {row['pass']}",
                    f"{row['blocks']} of {row.get('width', 768)}, {row['length']} tokens",
                    *("", row["seconds"]["lintoolkit"], 0.0),
                    flops=row["flops"],
                    share=row.get("products_of_peak", {}).get("lintoolkit"),
                )
                for peer, ratio in row["times_faster"].items():
                    if not peer.startswith("lintoolkit"):
                        aimed = on_cpu and row["pass"] == "AdamW step"
                        target = targets.get(peer) if aimed else None
                        yield one._replace(peer=peer, ratio=ratio, target=target)


def lora(report: dict) -> Iterator[Comparison]:
    """Full fine-tuning is our own; peft's share is of torch's own, so not in this table."""
    for row in report["rows"]:
        seconds, case = row["seconds"], f"{row.get('width')} wide, rank {row.get('rank')}"
        if row["case"] == "combine":
            one = Comparison("lora.combine", "3 of rank 16, 1024 wide", "", 0, 0)
            targets = {"dense SVD": 10.0}
        else:
            one = Comparison("lora.lift, AdamW step", case, "", 0, 0)
            one = one._replace(flops=row.get("gradient_flops", {}).get("lintoolkit"))
            targets = {"full fine-tuning": 1 / 0.75, "flax.nnx.LoRA": 1.0, "qwix": 1.0}
        for peer in seconds if "lintoolkit" in seconds else ():
            if peer != "lintoolkit":
                yield one._replace(
                    peer=peer,
                    seconds=seconds["lintoolkit"],
                    ratio=seconds[peer] / seconds["lintoolkit"],
                    target=targets.get(peer),
                )


def factorize(report: dict) -> Iterator[Comparison]:
    """From the same start; accuracy is of the objective, or of held-out stars."""
    for row in report["rows"]:
        measure = "objective" if "objective" in row else "held_out_rmse"
        worse = row[f"peer_{measure}"] / row[measure] - 1
        yield Comparison(
            "factorize.implicit_als" if measure == "objective" else "factorize.als",
            f"rank {row['rank']}",
            row["peer"],
            row["seconds"],
            row["ratio"],
            1.0,
            "as accurate" if worse <= 1e-6 else f"{worse:.2%} above ours",
            flops=row["flops"],
        )


def graphs(report: dict) -> Iterator[Comparison]:
    """From the edges to the ranks, so with what a peer needs to be made of the edges first."""
    rows = dict(report["rows"])
    whole = lambda row: (
        row["seconds"] + (0 if row["prepare_is_in_seconds"] else row["prepare_seconds"])
    )
    ours = rows.pop("lintoolkit float64")
    rows.pop("lintoolkit float32")
    for peer, row in rows.items():
        yield Comparison(
            "eigen.pagerank",
            f"{report['graph']['edges']:,} edges, float64",
            peer,
            ours["seconds"],
            whole(row) / ours["seconds"],
            {"networkx": 10.0, "scipy": 1.0}.get(peer),
            "as accurate" if row["l1_error"] < 1.01 * ours["l1_error"] else "less accurate",
            flops=ours["flops"],
        )


BENCHMARKS: dict[str, Callable[[dict], Iterator[Comparison]]] = {
    "attention": attention,
    "transformer": transformer,
    "decompositions": decompositions,
    "graphs": graphs,
    "factorize": factorize,
    "lora": lora,
}


def _device(report: dict) -> dict:
    return report["run"]["device"]


def comparisons(platform: str) -> list[Comparison]:
    """What a platform's results hold; not every benchmark was run on a GPU."""
    return [
        one
        for name, rows in BENCHMARKS.items()
        if (path := RESULTS / platform / f"{name}.json").exists() or platform == "cpu"
        for one in rows(json.loads(path.read_text(encoding="utf-8")))
    ]


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [[*head], *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def span(numbers: list[float], form: str) -> str:
    """The middle, and both ends where there are several."""
    if len(numbers) < 2:
        return "".join(format(number, form) for number in numbers)
    low, middle, high = (f(numbers) for f in (min, statistics.median, max))
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def met(one: Comparison) -> bool:
    """Whether the target was."""
    return one.target is not None and one.ratio >= one.target


def summary(of: list[Comparison]) -> str:
    """A line for each peer, the cases together; if there are targets, those that have one.

    And those beside that are faster than ours, in the middle.
    """
    aimed = any(one.target is not None for one in of)
    lines: dict[tuple[str, str], list[Comparison]] = {}
    for one in of:
        lines.setdefault((one.task, one.peer), []).append(one)
    rows = []
    for (task, peer), cases in lines.items():
        targeted = [one for one in cases if one.target is not None]
        faster = statistics.median(one.ratio for one in cases) < 1
        if aimed and not targeted and (not faster or peer.startswith("lintoolkit")):
            continue
        cases = targeted or cases
        name, comma, rest = task.partition(",")
        less = sum(one.accuracy not in {"", "as accurate"} for one in cases)
        targets = dict.fromkeys(format(one.target, ".3g") for one in cases if one.target)
        row = [
            f"`{name}`{comma}{rest}",
            peer + (f", less accurate in {less} of {len(cases)}" if less else ""),
            span([one.ratio for one in cases], ".2f"),
            span([one.memory for one in cases if one.memory is not None], ".0%"),
            span([one.share for one in cases if one.share is not None], ".0%"),
        ]
        met_ = [f"≥ {' or '.join(targets)}", f"{sum(map(met, cases))} of {len(cases)}"]
        rows.append(row + ((met_ if targets else ["", ""]) if aimed else []))
    head = ["ours", "against", "times faster", "memory", "of product rate"]
    return markdown(head + (["target", "met"] if aimed else []), rows)


def everything(of: list[Comparison]) -> str:
    """All comparisons, a line each."""
    show = lambda value, form: "" if value is None else format(value, form)
    rows = (
        (
            one.task,
            one.case,
            one.peer,
            f"{one.seconds:.3g}",
            f"{one.ratio:.2f}",
            one.accuracy,
            show(one.memory, ".1%"),
            show(one.flops, ","),
            show(one.share, ".1%"),
            show(one.target, ".3g"),
            "" if one.target is None else "met" if met(one) else "missed",
        )
        for one in of
    )
    head = "ours, case, against, our seconds, times faster, the peer is, memory, our FLOPs"
    return markdown([*head.split(", "), "of product rate", "target", ""], rows)


def with_summaries(readme: str) -> str:
    """README.md with its tables made anew."""
    for platform in PLATFORMS:
        before, begin, rest = readme.partition(BEGIN.format(platform))
        table = summary(comparisons(platform))
        readme = before + begin + table + END + rest.partition(END)[2]
    return readme


def write() -> None:
    """All files."""
    for platform in PLATFORMS:
        runner.write(RESULTS / platform / "peers.md", everything(comparisons(platform)))
    runner.write(README, with_summaries(README.read_text(encoding="utf-8")))
