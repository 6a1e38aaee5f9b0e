"""Eigenvectors and principal components."""

from experiments.ledger import ARTICLES, claims
from experiments.rows import row


def who_needs_eigenvectors(*, seed: int, full: bool):
    """Whether the articles can do without the subject that one of them advises to skip."""
    del seed, full
    about = {c.article for c in claims().values() if c.chapter in ("pca", "svd")}
    needed = [name for name in ARTICLES if name in about - {"calculus"}]
    yield row(
        "calculus-skip-svd-eigen",
        {"documents_in_this_set_that_need_eigen_or_svd": len(needed), "documents": needed},
        note="Counted: the other articles with claims in the chapters on PCA and SVD.",
    )


EXPERIMENTS = (who_needs_eigenvectors,)
