"""What other libraries' calls are called here: every right-hand side runs as it stands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import CheckpointManager

import lintoolkit
from lintoolkit import transformer
from lintoolkit.cost import cost

TABLE = Path(lintoolkit.__file__).with_name("coming_from.md").read_text(encoding="utf-8")
OURS = dict.fromkeys(re.findall(r" \| `([^|]+)` \|$", TABLE, re.MULTILINE))
# These look at values, at files or at programs; the others are traced, which is enough to see
# that they are called as they want to be.
ON_THE_HOST = re.compile(r"cost\(|variance=|stream|linear_operator|pagerank|save|load|_als")


@pytest.fixture
def names(tmp_path):
    """What the table's expressions speak of, float32 as a user has it."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape, jnp.float32)
    config = transformer.GPTConfig(vocabulary=11, context=8, blocks=2, heads=2, width=6)
    x, y = draw(0, 20, 6), draw(1, 20, 3)
    given = {name: getattr(lintoolkit, name) for name in dir(lintoolkit)} | {
        "cost": cost,
        "key": jax.random.key(0),
        "x": x,
        "y": y,
        "a": x.T @ x,
        "ids": jnp.array([3, 1]),
        "images": draw(2, 2, 8, 8, 3),
        "kernel": draw(3, 3, 3, 3, 4),
        "image": draw(4, 3, 8, 8),
        **{name: draw(5, 5, 2, 4) for name in "qkv"},
        "params": {"kernel": draw(6, 6, 3), "bias": jnp.zeros(3, jnp.float32)},
        "batches": draw(7, 4, 20, 6),
        "adam": optax.adam(0.1),
        "config": config,
        "gpt": transformer.init_gpt(jax.random.key(0), config),
        "folder": tmp_path,
        "memmap": np.asarray(x),
        "double": jax.tree_util.Partial(jnp.multiply, jnp.full(6, 2, jnp.float32)),
        "sources": np.array([0, 1, 1, 2]),
        "targets": np.array([1, 0, 2, 0]),
        "users": np.array([0, 0, 1, 2]),
        "items": np.array([0, 1, 0, 2]),
        "amounts": np.ones(4, np.float32),
        "f": lambda params, x: x @ params["kernel"] + params["bias"],
    }
    given["loss"] = lambda params, x: (given["f"](params, x) ** 2).mean()
    given["adapters"] = {"kernel": lintoolkit.lora.LowRank(draw(8, 6, 2), draw(9, 2, 3))}
    return given


@pytest.mark.parametrize("expression", OURS)
def test_ours_is_as_the_table_has_it(expression, names, as_a_user, tmp_path):
    del as_a_user
    if "fitted" in expression:
        names["fitted"] = lintoolkit.pca.fit_pca(names["x"], rank=2)
        names["codes"] = names["x"][:, :2]
    if "load_gpt2" in expression:
        file = tmp_path / "model.safetensors"
        transformer.save_gpt2(file, names["gpt"], config=names["config"])
    run = lambda: eval(expression, names)
    with jax.numpy_dtype_promotion("standard"):
        if "manager" in expression:
            with CheckpointManager(tmp_path) as names["manager"]:
                run()
        elif ON_THE_HOST.search(expression):
            run()
        else:
            assert jax.tree.leaves(jax.eval_shape(run))


def test_the_table_is_read_whole():
    assert len(re.findall("^[|] `|^[|] [a-z]", TABLE, re.MULTILINE)) >= len(OURS) > 35
