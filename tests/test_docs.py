"""The docstrings have their sections, and imports between the modules run one way."""

import ast
import html
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_transforms import MODULES, public_functions

import lintoolkit
from lintoolkit import cost

FUNCTIONS = {
    f"{module.__name__}.{name}": fn
    for module in MODULES
    for name, fn in public_functions(module).items()
}
ROOT = Path(lintoolkit.__file__).parent
README = ROOT.parent / "README.md"

# Who may import whom. What is not listed may import its own parts and _checks alone.
MAY_IMPORT = {
    "_triplets": {"_krylov", "_rows", "_scale"},
    "attention": {"_blockwise", "_cudnn", "layers"},
    "_blocks": {"_gpt2", "attention", "layers"},
    "eigen": {"_krylov", "_rows", "_scale", "_triplets", "layers"},
    "_gpt2": {"_files"},
    "_leaves": {"_lowrank"},
    "_lift": {"_lowrank"},
    "_lowrank": {"svd"},
    "_peft": {"_files", "_lowrank"},
    "factorize": {"_rows", "similarity"},
    "launch": {"train"},
    "lora": {"_leaves", "_lift", "_lowrank", "_peft", "layers", "svd"},
    "_moments": {"_files", "_rows", "_triplets"},
    "pca": {"_moments", "_rows", "_triplets", "layers"},
    "regression": {"_rows", "_scale"},
    "similarity": {"_scale"},
    "svd": {"_krylov", "_rows", "_scale", "_triplets", "layers"},
    "train": {"checkpoint"},
    "transformer": {"_blocks", "_files", "_gpt2", "attention", "layers"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_have_their_sections(name):
    doc = inspect.getdoc(FUNCTIONS[name])
    first, _, rest = doc.partition("\n\n")
    assert first.endswith((".", ":"))
    assert "\n" not in first
    if name.endswith("_flops"):
        sections = ["Args:", "Returns:"]
    else:
        sections = ["Args:", "Returns:", "Raises:", "Cost:", "Examples:", "References:"]
        what = rest.partition("Args:")[0]  # an equation, or the shapes in words
        assert any(sign in what for sign in ("=", "become", "maps", "square"))
        assert ">>> " in rest
        if inspect.signature(FUNCTIONS[name]).return_annotation is None:
            sections.remove("Returns:")
    places = [rest.find(section) for section in sections]
    assert places == sorted(places), sections
    assert -1 not in places, sections


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_explained_and_annotated(name):
    fn = FUNCTIONS[name]
    signature = inspect.signature(fn)
    args = re.split("Args:|Returns:|Raises:", inspect.getdoc(fn))[1]
    for parameter in signature.parameters.values():
        assert f"\n    {parameter.name}: " in args
        assert parameter.annotation is not inspect.Parameter.empty
    assert signature.return_annotation is not inspect.Signature.empty


PRICING = {name: getattr(cost, name) for name in cost.__all__ if callable(getattr(cost, name))}
CLASSES = {name: thing for name, thing in PRICING.items() if inspect.isclass(thing)}


@pytest.mark.parametrize("name", [n for n in PRICING if n not in CLASSES])
def test_functions_that_price_explain_their_arguments(name):
    doc = inspect.getdoc(PRICING[name])
    assert doc.partition("\n")[0].endswith(".")
    assert "Args:" in doc
    assert "Examples:" in doc
    signature = inspect.signature(PRICING[name])
    assert ("Returns:" in doc) == (signature.return_annotation is not None)
    for parameter in signature.parameters.values():
        assert f"{parameter.name}: " in doc
        assert parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("name", CLASSES)
def test_everything_in_a_report_has_its_sentence(name):
    assert inspect.getdoc(CLASSES[name])
    for member, value in vars(CLASSES[name]).items():
        if member.startswith("_") or not (inspect.isfunction(value) or hasattr(value, "fget")):
            continue
        assert value.__doc__, member
        assert value.__doc__.partition("\n")[0].endswith("."), member


@pytest.mark.parametrize("report", [cost.View, cost.Cost])
def test_every_field_of_a_report_is_explained(report):
    attributes = inspect.getdoc(report).partition("Attributes:")[2]
    for field in report.__annotations__:
        assert f"    {field}: " in attributes


def test_the_table_of_contents_names_every_module():
    modules = {m.name for m in pkgutil.iter_modules(lintoolkit.__path__) if m.name[0] != "_"}
    listed = {word for word in modules if f"- `lintoolkit.{word}`: " in lintoolkit.__doc__}
    assert listed == modules


@pytest.mark.parametrize("module", [*MODULES, cost], ids=lambda module: module.__name__)
def test_completion_shows_what_is_public(module):
    """Functions, results and reports, and nothing that is imported."""
    assert dir(module) == sorted(module.__all__)
    of_its_own = {
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
    }
    assert of_its_own <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_modules_come_when_they_are_named():
    assert lintoolkit.layers.dense is importlib.import_module("lintoolkit.layers").dense
    assert set(dir(lintoolkit)) == {m.__name__.split(".")[1] for m in (*MODULES, cost)}
    with pytest.raises(AttributeError, match="no module 'layer'; it has attention"):
        lintoolkit.layer  # noqa: B018


def imported(path):
    """Full names of what a file imports, relative imports resolved."""
    package = [ROOT.name, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def test_imports_run_one_way():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        names = list(imported(path))
        assert not [name for name in names if name.split(".")[0] == "experiments"], path
        rooms = {name.split(".")[1] for name in names if name.startswith("lintoolkit.")}
        shared = set() if room == "cost" else {"_checks", "_jit"}
        assert rooms <= MAY_IMPORT.get(room, set()) | shared | {room}, path


def test_cost_stands_on_its_own():
    """Imported alone in a fresh process: prices programs without the rest of the library."""
    code = "import sys, lintoolkit.cost; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
    )
    rooms = {m.split(".")[1] for m in run.stdout.split() if m.startswith("lintoolkit.")}
    assert rooms == {"cost"}


def test_pages_hold_signatures_equations_and_examples(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is in the extra `docs`")
    (command,) = re.findall("^python (-m pdoc .*)$", README.read_text(encoding="utf-8"), re.M)
    words = [*shlex.split(command)[:-1], str(tmp_path)]
    run = subprocess.run(
        [sys.executable, *words], check=True, cwd=ROOT.parent, capture_output=True, text=True
    )
    assert "Warn" not in run.stderr
    text = lambda name: html.unescape(
        re.sub("<[^>]*>", "", (tmp_path / name).read_text(encoding="utf-8"))
    )
    pages = {path.stem for path in (tmp_path / "lintoolkit").iterdir()}
    assert pages == {*lintoolkit.__all__}
    for module in MODULES:
        page = text(f"{module.__name__.replace('.', '/')}.html")
        for name in public_functions(module):
            assert f"{name}(" in page
    attention = text("lintoolkit/attention.html")
    assert "causal: bool = False" in attention
    assert r"$A_{ij} = \operatorname{softmax}_j(s_{ij})$" in attention  # MathJax takes it on
    assert ">>> print(attention(q, q, v, causal=True).ravel())" in attention
    assert "A tour in ten minutes" in text("lintoolkit.html")
    assert "Coming from PyTorch" in text("lintoolkit.html")


def test_equations_name_functions_as_mathjax_does():
    bare = re.compile(r"\$[^$\n]*(?<![\\\w{])(?:sum|max|min|exp|log)\b[^$\n]*\$")
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                assert not bare.findall(ast.get_docstring(node) or ""), path
