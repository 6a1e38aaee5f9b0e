"""`python -m lintoolkit.cost`: a table or JSON for a good call, one sentence for a bad one."""

import json
import subprocess
import sys

import jax
import pytest

from lintoolkit.cost.__main__ import main


def test_prices_a_function_by_name(capsys):
    assert main(["jax.numpy:dot", "f32[128,784]", "f32[784,10]"]) == 0
    assert "2,007,040" in capsys.readouterr().out
    assert main(["jax.numpy:dot", "f64[3,5]", "f64[5,7]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matmul_flops"] == 210


def test_parts_instead_of_the_table(capsys):
    call = ["jax.numpy:dot", "f32[128,784]", "f32[784,10]"]
    assert main([*call, "--by", "dtype"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["2,007,040", "100.00%", "f32"]
    assert last.split() == ["2,007,040", "100.00%", "all"]
    for by in ("scope", "phase", "source", "category", "op"):
        assert main([*call, "--by", by, "--json"]) == 0
        assert sum(json.loads(capsys.readouterr().out).values()) == 2_007_040
    assert main([*call, "--by", "scope", "--depth", "2"]) == 0
    assert "all" in capsys.readouterr().out


def until_large(x):
    return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ x, x)


def test_trips_of_a_loop_that_nothing_fixes(capsys):
    call = [f"{__name__}:until_large", "f32[8,8]", "--json"]
    products = lambda *more: [main([*call, *more]), json.loads(capsys.readouterr().out)][1]
    assert products()["matmul_flops"] == 2 * 8**3
    assert products("--while-trips", "5")["matmul_flops"] == 5 * 2 * 8**3
    assert products("--while-trips", "5")["loops"][0]["kind"] == "user"


def talks(x):
    sys.stdout.write(f"tracing {x.shape}\n")
    return x @ x


def test_what_a_function_prints_is_no_part_of_the_result(capsys):
    assert main([f"{__name__}:talks", "f32[8,8]", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["matmul_flops"] == 2 * 8**3
    assert said.err == "tracing (8, 8)\n"


def positive(x):
    return x[x > 0]


def unfinished(x):
    raise NotImplementedError


def looked_up(x):
    return {}[f"two\nlines {x}"]


def leaves(x):
    sys.exit(x.ndim + 2)


@pytest.fixture
def odd_modules(tmp_path, monkeypatch):
    (tmp_path / "oddly_leaves.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "oddly_fails.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["jax.numpy:dotty", "f32[3]"], "no attribute 'dotty'"),
        (["no_such_module:f"], "does not name a function"),
        (["jax.numpy:dot", "f3[3]"], "is not a shape"),
        (["jax.numpy:pi"], "fn must be a function"),
        (["jax.numpy:dot", "f32[3]", "f32[4]"], "same shape"),
        (["jax.numpy:dot", "f32[3]", "f32[3]", "--by", "weekday"], "invalid choice: 'weekday'"),
        (["jax.numpy:dot", "f32[3]", "f32[3]", "--depth", "2"], "together with --by scope"),
        (["jax.numpy:dot", "f32[3]", "f32[3]", "--by", "scope", "--depth", "0"], "at least 1"),
        (["jax.numpy"], "'jax.numpy' does not name a function; write module:function"),
        (["jax.numpy:"], "'jax.numpy:' does not name a function; write module:function"),
        (["./here.py:f"], "or mymodule:f for a file mymodule.py here"),
        (["oddly_leaves:f"], "does not name a function (SystemExit: 3)"),
        (["oddly_fails:f"], "does not name a function (ZeroDivisionError: division by zero)"),
        ([f"{__name__}:positive", "f32[3]"], "Array boolean indices must be concrete"),
        ([f"{__name__}:unfinished", "f32[3]"], "error: NotImplementedError"),
        ([f"{__name__}:looked_up", "f32[3]"], "error: KeyError: "),
        ([f"{__name__}:leaves", "f32[3]"], "error: SystemExit: 3"),
    ],
)
@pytest.mark.usefixtures("as_a_user", "odd_modules")
def test_a_bad_call_gets_one_sentence(capsys, call, message):
    assert main(call) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_reader_that_leaves_early_gets_no_traceback():
    call = [sys.executable, "-m", "lintoolkit.cost", "jax.numpy:dot", "f32[4,4]", "f32[4,4]"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before anything is written
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
