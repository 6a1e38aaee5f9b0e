"""The leaves of a tree of parameters by path: which are meant, what is said of each."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lintoolkit._lowrank import LowRank, check_fits, check_layout

Where = str | Sequence[str] | Callable[[str, Any], bool]


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def is_floating(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def by_path(function: str, tree: PyTree) -> tuple[dict[str, Any], Any]:
    """Leaves by path, and the structure."""
    flat, structure = jax.tree.flatten_with_path(tree)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat
    }
    if len(leaves) < len(flat):
        raise ValueError(f"{function}: two leaves of the parameters have one path; rename one.")
    return leaves, structure


def chosen_by(function: str, params: PyTree, where: Where) -> dict[str, Any]:
    """The leaves to adapt."""
    every = by_path(function, params)[0]
    able = {p: leaf for p, leaf in every.items() if is_floating(leaf) and leaf.ndim > 1}
    if callable(where):
        chosen = {path: leaf for path, leaf in able.items() if where(path, leaf)}
        missed = [] if chosen else ["the function"]
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        hit = lambda pattern: {p for p in able if _finds(function, "where", pattern, p)}
        missed = [pattern for pattern in patterns if not hit(pattern)]
        wanted = set[str]().union(*map(hit, patterns))
        chosen = {path: leaf for path, leaf in able.items() if path in wanted}
    if missed or not chosen:
        listed = ", ".join(list(able)[:6]) + (", ..." if len(able) > 6 else "")
        raise ValueError(
            f"{function}: where must find floating arrays of two axes or more; "
            f"{', '.join(map(repr, missed)) or 'nothing'} finds none of {listed or 'none'}."
        )
    return chosen


def said_of(function: str, option: str, given: Any, path: str) -> Any:
    """What an option says of one leaf: itself, by path, by pattern or by function."""
    if callable(given):
        return given(path)
    if not isinstance(given, Mapping):
        return given
    if path in given:
        return given[path]
    for pattern, value in given.items():
        if _finds(function, option, pattern, path):
            return value
    raise ValueError(
        f"{function}: {option} must say something of {path}, got {dict(given)!r:.80}."
    )


def _finds(function: str, option: str, pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise ValueError(
            f"{function}: {option} must be a regular expression, got {pattern!r:.60}: {error}; "
            "re.escape makes one of a path."
        ) from None


def layout_of(function: str, given: Any, path: str, leaf: Any) -> str:
    try:
        layout = said_of(function, "layout", given, path)
    except ValueError:
        layout = None  # what `layouts` did not find
    if layout is None and leaf.ndim == 2:
        layout = "i o"
    if layout is None:
        raise ValueError(
            f"{function}: layout must say of {path} {leaf.shape} which axes are in, out or "
            "stacked, such as layout={'" + path + "': 'b i o'}; lora.layouts reads it off a "
            "program."
        )
    check_layout(function, path, layout, leaf.ndim)
    return " ".join(layout.split())


def alike(function: str, base: PyTree, tuned: PyTree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaves of two trees of one structure."""
    before, after = by_path(function, base)[0], by_path(function, tuned)[0]
    for path in before | after:
        shapes = [
            np.shape(each[path]) if path in each else "absent" for each in (before, after)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{function}: base and tuned must be alike, but {path} is {shapes[0]} and "
                f"{shapes[1]}."
            )
    return before, after


def check_adapters(
    function: str, leaves: Mapping[str, Any], adapters: Mapping[str, LowRank]
) -> None:
    if not isinstance(adapters, Mapping):
        raise TypeError(
            f"{function}: adapters must be a dict from path to LowRank, got {adapters!r:.40}."
        )
    for path, low in adapters.items():
        if path not in leaves:
            listed = ", ".join(list(leaves)[:6]) + (", ..." if len(leaves) > 6 else "")
            raise ValueError(f"{function}: adapter {path} has no leaf; there are {listed}.")
        check_fits(function, path, leaves[path], low)
