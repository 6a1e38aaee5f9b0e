"""Whether the experiments' numbers really come from the functions that their rows name.

Each function of the library is replaced, wherever chapters imported it, by one that answers
wrongly; the rows that name it must then change or fail. Chapters may not read the ledger's
answers either.
"""

import ast
import functools
import importlib
import pkgutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import experiments.chapters
from experiments.rows import Row, full_name
from lintoolkit import attention, eigen, factorize, layers, pca, similarity, svd, train

LIBRARY = (layers, attention, similarity, train, pca, eigen, svd, factorize)

# Which experiments to run for a function: small ones, and all rows naming it are looked at.
EXPERIMENTS = {
    layers.dense: ("layers.seeded_forward_pass", "recommenders.viewing"),
    layers.dense_flops: ("products_examples.practice",),
    layers.mlp: ("layers.seeded_forward_pass", "layers_depth.depth"),
    layers.mlp_flops: ("layers.seeded_forward_pass",),
    layers.layer_norm: ("layers.layer_sizes",),
    layers.embed: ("attention.sentence", "words.tokens"),
    layers.patches: ("attention.modalities",),
    layers.frames: ("attention.modalities",),
    layers.spectrogram: ("objects.sound",),
    layers.im2col: ("edges.columns",),
    layers.conv2d: ("edges.square_corner", "edges.columns"),
    layers.sinusoidal_positions: ("language.objective",),
    attention.attention: ("attention_pieces.formula", "attention.sentence"),
    attention.attention_weights: ("attention_pieces.formula", "attention.sentence"),
    attention.multi_head_attention: ("attention.heads",),
    attention.init_multi_head: ("attention.heads",),
    similarity.dot: ("similarity.dot_products", "similarity.length_and_direction"),
    similarity.dot_flops: ("similarity.dot_products",),
    similarity.cosine_similarity: (
        "similarity.dot_products",
        "similarity.length_and_direction",
    ),
    similarity.top_k: ("similarity.search", "words.analogies"),
    similarity.analogy: ("words.analogies",),
    train.fit: ("seeing.one_answer",),
    pca.fit_pca_stream: ("pca_uses.variance_and_information", "pca_uses.fingerprints"),
    pca.fit_pca: ("pca.most_variance", "pca_uses.map_of_digits", "pca_uses.denoising"),
    pca.explained_variance_ratio: ("pca_uses.map_of_digits", "pca_uses.fingerprints"),
    pca.pca_encode: ("pca.most_variance", "pca_uses.map_of_digits"),
    pca.pca_decode: ("pca_uses.denoising",),
    pca.moments: ("pca.covariance", "pca.correlations"),
    factorize.als: ("recommenders_factors.factors",),
    factorize.predict_rating: ("recommenders_factors.factors",),
    factorize.recommend: ("recommenders_factors.factors",),
    svd.truncated_svd: ("recommenders_factors.factors",),
    svd.svd: ("svd.factors", "svd.determinant_signs", "svd.circle"),
    svd.low_rank: ("svd.nothing_closer",),
    svd.tail_error: ("svd.nothing_closer", "svd_images.importance"),
    svd.rank_for_energy: ("svd_images.importance",),
    svd.reconstruct: ("svd_images.sum_of_pictures",),
    eigen.top_eigh: ("pca.kept_directions", "pca.covariance"),
    eigen.power_iteration: ("pca.most_variance", "recommenders.web"),
    eigen.pagerank: ("recommenders.web",),
}

# Imported for inputs or for the FLOP cell alone, or named by rows of slow experiments only.
NOT_PERTURBED = {
    layers.init_dense,
    layers.init_mlp,
    layers.conv2d_flops,
    pca.pca_encode_flops,
    pca.pca_decode_flops,
    svd.reconstruct_flops,
    factorize.implicit_als,
    attention.attention_flops,
    attention.multi_head_attention_flops,
}

# Rows that no wrong number and no wrong shape can move.
HOLD_ANYWAY = {
    "need-code-forward-two-products",  # counts the products of the program
    "sense-sentence-vectors-context",  # asks only whether two outputs differ
}


def other_numbers(value):
    """The same shape with other numbers, the more so the farther back they stand."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 2
    if isinstance(value, jax.Array) and value.dtype == jnp.int32:
        return value + 2  # counts, numbers of rows
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    ramp = jnp.linspace(1.25, 2, value.size, dtype=value.dtype).reshape(value.shape)
    return value * ramp + jnp.asarray(0.1, value.dtype)


def other_shape(value):
    """One more number at the end of the last axis."""
    if not isinstance(value, jax.Array) or value.ndim == 0:
        return value
    return jnp.concatenate([value, value[..., -1:]], axis=-1)


def modules() -> list:
    """The chapters and what they import of the experiments' own."""
    for chapter in pkgutil.iter_modules(experiments.chapters.__path__, "experiments.chapters."):
        importlib.import_module(chapter.name)
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("experiments.") and name != "experiments.reliability"
    ]


def forget_traces():
    """Drop the compiled chapter functions: they hold what they called when they were traced."""
    for module in modules():
        for value in vars(module).values():
            if hasattr(value, "clear_cache"):
                value.clear_cache()
    train.fit.clear_cache()  # holds the chapters' losses


@pytest.fixture
def chapters(monkeypatch, as_a_user):
    """The chapters' modules without their FLOP cells, which would compile."""
    del as_a_user
    for module in modules():
        if hasattr(module, "flops") and module.__name__ != "experiments.rows":
            monkeypatch.setattr(module, "flops", lambda *_, **__: None)


def rows(experiment: str, *, until: frozenset[str] = frozenset()) -> dict[str, Row]:
    """An experiment's rows by claim, as far as it gets, or until these are there."""
    chapter, name = experiment.split(".")
    run = getattr(sys.modules[f"experiments.chapters.{chapter}"], name)
    found = {}
    forget_traces()
    try:
        with jax.numpy_dtype_promotion("standard"):  # as the runner leaves it
            for item in run(seed=0, full=False):
                if isinstance(item, Row):
                    found[item.claim] = item
                if until and until <= found.keys():
                    break
    except Exception as error:
        found["failed"] = Row(claim="failed", computed={"error": repr(error)})
    forget_traces()
    return found


right_rows = functools.cache(rows)


def rows_with(function, perturb, experiment: str, claims: set[str]) -> dict[str, Row]:
    """An experiment's rows when a function of the library gives perturbed answers."""

    @functools.wraps(function)
    def wrong(*args, **options):
        return jax.tree.map(perturb, function(*args, **options))

    with pytest.MonkeyPatch.context() as patch:
        for module in modules():
            for name, value in list(vars(module).items()):
                if value is function:
                    patch.setattr(module, name, wrong)
        return rows(experiment, until=frozenset(claims))


@pytest.mark.usefixtures("chapters")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", EXPERIMENTS, ids=lambda function: function.__name__)
def test_rows_that_name_a_function_change_with_it(function):
    named = 0
    for experiment in EXPERIMENTS[function]:
        right = right_rows(experiment)
        assert "failed" not in right, right["failed"].computed
        ours = {claim for claim, row in right.items() if full_name(function) in row.by}
        named += len(ours)
        ours -= HOLD_ANYWAY
        for perturb in (other_numbers, other_shape):
            if not ours:
                break
            wrong = rows_with(function, perturb, experiment, ours)
            ours = {
                claim
                for claim in ours
                if claim in wrong and wrong[claim].computed == right[claim].computed
            }
        assert not ours, f"{experiment}: {ours} are the same without {full_name(function)}"
    assert named


def test_every_function_that_chapters_import_is_perturbed():
    public = {
        value
        for module in LIBRARY
        for name, value in vars(module).items()
        if callable(value)
        and not isinstance(value, type)  # the shape of a result
        and not name.startswith("_")
        and value.__module__ == module.__name__
    }
    imported = {
        value for module in modules() for value in vars(module).values() if callable(value)
    }
    assert public & imported == EXPERIMENTS.keys() | NOT_PERTURBED


def answers_read(source: str) -> list[int]:
    """Lines that touch an answer of the ledger: an attribute or key of that name."""
    answers = {"expect", "expected"}
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in answers)
        or (isinstance(node, ast.Constant) and node.value in answers)
    ]


def sources() -> list[Path]:
    """Every program text that a computed value can come from."""
    root = Path(experiments.__file__).parent
    harness = {"ledger.py", "runner.py", "report.py", "__main__.py"}
    helpers = {path for path in root.glob("*.py") if path.name not in harness}
    return sorted(helpers | set(root.glob("chapters/*.py")) | set(root.glob("figures/*.py")))


@pytest.mark.parametrize("path", sources(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_chapter_reads_the_ledgers_answers(path):
    assert not answers_read(path.read_text(encoding="utf-8"))
    assert "claims.jsonl" not in path.read_text(encoding="utf-8")


def test_reading_an_answer_would_be_noticed():
    assert answers_read("claims()['sense-relu'].expect['once']") == [1]
    assert answers_read("x = 1\ngetattr(claim, 'expected')") == [2]
    assert not answers_read("row(name, {'value': 1}, holds=claim.stated == '3')")
