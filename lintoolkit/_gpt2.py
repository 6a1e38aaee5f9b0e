"""GPT-2's files: what tensors are called, which there must be, and where we keep them.

Blocks are stacked here and stand apart there, ``h.3.mlp.c_fc.weight``; queries, keys and values
stand apart here and side by side there, in ``attn.c_attn``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lintoolkit._files import read_json, read_tensors

EPSILON = 1e-5  # in every norm
PREFIX = "transformer."
DTYPES = "float16", "bfloat16", "float32", "float64"
# Once, and in every block; several places stand side by side in one tensor.
OUTSIDE: dict[str, tuple] = {
    "wte.weight": ("tokens", "embedding"),
    "wpe.weight": ("positions", "embedding"),
    "ln_f.weight": ("norm", "scale"),
    "ln_f.bias": ("norm", "bias"),
}
INSIDE: dict[str, list[tuple]] = {
    "ln_1.weight": [("attention_norm", "scale")],
    "ln_1.bias": [("attention_norm", "bias")],
    "attn.c_attn.weight": [("attention", x, "kernel") for x in ("query", "key", "value")],
    "attn.c_attn.bias": [("attention", x, "bias") for x in ("query", "key", "value")],
    "attn.c_proj.weight": [("attention", "out", "kernel")],
    "attn.c_proj.bias": [("attention", "out", "bias")],
    "ln_2.weight": [("mlp_norm", "scale")],
    "ln_2.bias": [("mlp_norm", "bias")],
    "mlp.c_fc.weight": [("mlp", 0, "kernel")],
    "mlp.c_fc.bias": [("mlp", 0, "bias")],
    "mlp.c_proj.weight": [("mlp", 1, "kernel")],
    "mlp.c_proj.bias": [("mlp", 1, "bias")],
}
# What transformers' config.json may say otherwise of a network with the same tensors.
GPT2 = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}


def read(path: Path, heads: int | None) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors without their prefix, and the sizes that they and what stands beside tell."""
    described = _description(path.with_name("config.json"))
    every, metadata = read_tensors("load_gpt2", path)
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in every.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))  # masks, not learned
    }
    if len({name.removeprefix(PREFIX) for name in every}) < len(every):
        raise ValueError(f"load_gpt2: {path} has tensors both with and without {PREFIX!r}.")
    told = str((described | metadata).get("n_head", ""))
    told_heads = int(told) if re.fullmatch("[0-9]{1,6}", told) else 0
    return tensors, _sizes(path, tensors, heads or told_heads, described)


def params_of(path: Path, tensors: Mapping[str, np.ndarray], shapes: PyTree) -> PyTree:
    """Parameters of these shapes, or a refusal that names what does not fit."""
    tensors = dict(tensors)
    head = tensors.pop("lm_head.weight", None)
    wanted, got = _wanted(shapes), {name: x.shape for name, x in tensors.items()}
    wrong = [
        f"{name} must be {wanted.get(name, 'absent')}, got {got.get(name, 'nothing')}"
        for name in sorted(wanted | got)
        if wanted.get(name) != got.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"load_gpt2: {path} is no GPT-2: {'; '.join(wrong[:3])}{more}.")
    if head is not None and not np.array_equal(head, tensors["wte.weight"]):
        raise ValueError(
            f"load_gpt2: {path} has an lm_head.weight other than wte.weight; GPT-2 reads and "
            "writes with one table."
        )
    check_dtypes("load_gpt2", tensors=tensors)
    leaves = {where: tensors[name] for name, where in OUTSIDE.items()}
    for name, places in INSIDE.items():
        stack = np.stack([tensors[f"h.{i}.{name}"] for i in range(_blocks(shapes))])
        parts = np.split(stack, len(places), axis=-1)
        leaves |= {("blocks", *at): x for at, x in zip(places, parts, strict=True)}
    step = lambda key: key.idx if isinstance(key, jax.tree_util.SequenceKey) else key.key
    return jax.tree.map_with_path(
        lambda path, _: jnp.asarray(leaves[tuple(map(step, path))]), shapes
    )


def check_dtypes(function: str, **arguments: PyTree) -> None:
    """Refuse arrays of several dtypes, or of one that the files do not hold."""
    for name, tree in arguments.items():
        dtypes = sorted({str(x.dtype) for x in jax.tree.leaves(tree)})
        if len(dtypes) > 1 or dtypes[0] not in DTYPES:
            raise TypeError(
                f"{function}: {name} must be of one floating dtype out of "
                f"{', '.join(DTYPES)}, got {' and '.join(dtypes)}."
            )


def tensors_of(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `params_of`."""
    tensors = {name: np.asarray(_at(params, where)) for name, where in OUTSIDE.items()}
    for name, places in INSIDE.items():
        stacks = [np.asarray(_at(params["blocks"], where)) for where in places]
        for i, rows in enumerate(zip(*stacks, strict=True)):
            tensors[f"h.{i}.{name}"] = np.concatenate(rows, axis=-1)
    return tensors


def _description(path: Path) -> dict[str, Any]:
    """What transformers says of the network in its config.json, where there is one."""
    try:
        described = read_json("load_gpt2", path)
    except FileNotFoundError:
        return {}
    for name, value in GPT2.items():
        if described.get(name, value) != value:
            raise ValueError(
                f"load_gpt2: {path} says {name} is {described[name]!r:.60}; only GPT-2's own, "
                f"{value!r}, is computed here."
            )
    return described


def _sizes(
    path: Path, tensors: Mapping[str, np.ndarray], heads: int, described: Mapping[str, Any]
) -> dict[str, int]:
    """The fields of a `GPTConfig`; whether all tensors agree with them is checked after."""
    for name in ("wte.weight", "wpe.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise ValueError(
                f"load_gpt2: {path} is no GPT-2: {name} must be a table (rows, d)."
            )
    (vocabulary, width), context = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
    # As many as there are, not as the highest says: a name is not to ask for memory.
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    for name, found in {
        "n_layer": blocks,
        "n_embd": width,
        "vocab_size": vocabulary,
        "n_positions": context,
        "n_inner": 4 * width,
    }.items():
        if described.get(name) not in (None, found):
            raise ValueError(
                f"load_gpt2: {path} is not the file that its config.json describes: {name} is "
                f"{described[name]!r:.60} there and {found} here; fetch both again."
            )
    if heads < 1 or width % heads:
        raise ValueError(
            f"load_gpt2: heads must divide the width, {width}, got {heads or 'none'}; where "
            "neither metadata nor config.json tell, pass heads=: 12 for GPT-2 small."
        )
    return {
        "vocabulary": vocabulary,
        "context": context,
        "blocks": max(blocks, 1),
        "heads": heads,
        "width": width,
    }


def _wanted(shapes: PyTree) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that there must be."""
    wanted = {name: _at(shapes, where).shape for name, where in OUTSIDE.items()}
    for name, places in INSIDE.items():
        _, *shape, width = _at(shapes["blocks"], places[0]).shape
        for i in range(_blocks(shapes)):
            wanted[f"h.{i}.{name}"] = (*shape, width * len(places))
    return wanted


def _blocks(shapes: PyTree) -> int:
    return jax.tree.leaves(shapes["blocks"])[0].shape[0]


def _at(tree: Any, where: tuple) -> Any:
    for step in where:
        tree = tree[step]
    return tree
