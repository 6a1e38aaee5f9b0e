"""What type checkers make of a user's program: mypy reads this file too, in the lint step.

A signature that a decorator hides is Any, and then every ``type: ignore`` here is unused, which
mypy reports.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from lintoolkit import attention, layers, svd


@pytest.mark.usefixtures("as_a_user")
def test_signatures_are_seen_through_the_jit_decorator():
    params = {"kernel": jnp.eye(3)}
    x = jnp.ones((2, 3))
    assert_type(layers.dense(params, x), Array)
    assert_type(svd.svd(x), svd.SVD)
    assert_type(svd.svd(x).s, Array)
    assert_type(layers.dense.lower(params, x), jax.stages.Lowered)
    with pytest.raises(TypeError, match="'x'"):
        layers.dense(params)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="rang"):
        svd.truncated_svd(x, rank=1, rang=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="size"):
        layers.frames(x[0], size="2", hop=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="masc"):
        attention.attention(x[:, None], x[:, None], x[:, None], masc=None)  # type: ignore[call-arg]
