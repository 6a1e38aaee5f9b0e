"""`python -m lintoolkit.cost`: a table or JSON for a good call, one sentence for a bad one."""

import json

import pytest

from lintoolkit.cost.__main__ import main


def test_prices_a_function_by_name(capsys):
    assert main(["jax.numpy:dot", "f32[128,784]", "f32[784,10]"]) == 0
    assert "2,007,040" in capsys.readouterr().out
    assert main(["jax.numpy:dot", "f64[3,5]", "f64[5,7]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matmul_flops"] == 210


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["jax.numpy:dotty", "f32[3]"], "no attribute 'dotty'"),
        (["no_such_module:f"], "does not name a function"),
        (["jax.numpy:dot", "f3[3]"], "is not a shape"),
        (["jax.numpy:pi"], "fn must be a function"),
        (["jax.numpy:dot", "f32[3]", "f32[4]"], "same shape"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_a_bad_call_gets_one_sentence(capsys, call, message):
    assert main(call) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
