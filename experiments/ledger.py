"""The ledger: every checkable statement of the five articles, and when a value agrees.

One JSON object a line in `claims.jsonl`, in the articles' order: what is claimed, what the
article states, what an independent float64 computation gave (`expect`), how closely it must
be met (`tol`, relative) and the verdict. Reading it needs the standard library alone, so that
`python -m experiments list` answers at once.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ARTICLES = {
    "sense": "Making Sense of AI Through Linear Algebra",
    "need": "Linear Algebra Is All You Need",
    "matrices": "Matrices in Artificial Intelligence",
    "calculus": "Linear Algebra and Calculus: The Math Your AI Model Runs On",
    "multiply": "Math for Deep Learning I",
}

CHAPTERS = {
    "objects": "Numbers, lists, grids: what data look like to a model",
    "products": "The matrix product",
    "similarity": "Dot products and angles",
    "layers": "One layer, many layers, and why they bend",
    "derivatives": "Derivatives, gradients and the chain rule",
    "descent": "Walking downhill",
    "edges": "Edges and convolution",
    "seeing": "Learning to see",
    "pca": "Eigenvectors and principal components",
    "svd": "Singular values of photographs",
    "recommenders": "PageRank and recommenders",
    "words": "Words as vectors",
    "attention": "Attention, piece by piece",
    "language": "A small language model",
    "lora": "Low-rank adaptation",
    "scale": "Scale and hardware",
}

VERDICTS = {
    "reproduces": "holds",
    "approximately": "approximately",
    "document-wrong": "article is wrong",
    "illustrative-random": "illustrative",
    "hardware-fact": "hardware fact",
    "needs-data": "needs data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of an article, with what a correct computation gives.

    `expect` is a dict of values, ``"withheld"`` where the ledger keeps the value aside, or
    None where there is nothing to compute. `tol` is relative. `verdict` is a key of
    `VERDICTS`; `severity` (error, overstated, imprecise) goes with ``document-wrong`` alone.
    """

    id: str
    article: str
    chapter: str
    section: str
    kind: str
    claim: str
    compute: str
    stated: Any
    expect: dict | str | None
    tol: float
    verdict: str
    expected: str | None = None
    severity: str | None = None
    note: str | None = None
    plot: str | None = None


@cache
def claims() -> dict[str, Claim]:
    """All claims by id, in the articles' order."""
    text = (Path(__file__).parent / "claims.jsonl").read_text(encoding="utf-8")
    rows = [Claim(**json.loads(line)) for line in text.splitlines()]
    return {row.id: row for row in rows}


def agrees(expected: Any, computed: Any, tol: float) -> bool:
    """Whether a computed JSON value meets the ledger's: same structure, same numbers.

    Numbers agree when ``|computed - expected| <= tol * |expected|`` (an expected zero allows
    ``tol`` itself); whole numbers must be equal unless the claim widens `tol`; texts, booleans
    and nulls must be equal. A dict must have every expected key and may have more.
    """
    if isinstance(expected, dict):
        return isinstance(computed, dict) and all(
            key in computed and agrees(value, computed[key], tol)
            for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(computed, list)
            and len(expected) == len(computed)
            and all(agrees(e, c, tol) for e, c in zip(expected, computed, strict=True))
        )
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        return type(expected) is type(computed) and expected == computed
    if isinstance(computed, bool) or not isinstance(computed, int | float):
        return False
    if not math.isfinite(computed):
        return False
    if isinstance(expected, int) and tol <= 1e-6:
        return computed == expected
    return abs(computed - expected) <= tol * (abs(expected) or 1.0)
