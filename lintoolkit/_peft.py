"""Adapters in the files of Hugging Face's PEFT.

``lora_A.weight`` is (r, in) and ``lora_B.weight`` (out, r) of each module; a table has
``lora_embedding_A`` and ``lora_embedding_B``; a convolution's A is (r, in, height, width). The
scale is in ``adapter_config.json`` alone.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lintoolkit._files import json_file, read_json, read_tensors, tensors_file, write
from lintoolkit._lowrank import LowRank, factor_shapes, matrices, sizes

Names = Mapping[str, str | Sequence[str]]

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
WHOLE = ".base_layer.weight"
SUFFIXES = {"linear": (".lora_A.weight", ".lora_B.weight")}
SUFFIXES |= {"convolution": SUFFIXES["linear"]}
SUFFIXES |= {"table": (".lora_embedding_A", ".lora_embedding_B")}

# Settings that say nothing of what the tensors do. What else is set is refused.
READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
READ |= {"peft_type", "bias", "init_lora_weights"}
IDLE = set(
    """
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config
    exclude_modules fan_in_fan_out inference_mode layers_pattern layers_to_transform
    loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size
    revision runtime_config target_modules task_type
    """.split()
)
# Other ways to begin change the frozen weights too.
BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


def save(
    folder: Path,
    adapters: Mapping[str, LowRank],
    names: Names,
    tables: str,
    described: Mapping[str, Any],
) -> None:
    """Write adapters as PEFT does."""
    if missing := [path for path in adapters if path not in names]:
        raise ValueError(
            f"save_peft: names must name the module of each adapter, got none for {missing[0]}."
        )
    places: dict[str, list[tuple[str, int]]] = {}  # of each module, side by side
    for path, named in names.items():
        if path not in adapters:
            if partners := [other for other in adapters if names[other] == named]:
                raise ValueError(
                    f"save_peft: {partners[0]} shares its module with {path}, which has no "
                    "adapter; give it one, of zeros if need be."
                )
            continue
        low = adapters[path]
        stacked = low.a.shape[: low.layout.split().count("b")]
        for index, module in enumerate(_modules("save_peft", path, named, stacked)):
            places.setdefault(module, []).append((path, index))
    tensors, ranks, alphas = {}, {}, {}
    for module, pieces in places.items():
        kinds = {_kind(path, adapters[path].layout, tables) for path, _ in pieces}
        if len(pieces) > 1 and kinds != {"linear"}:
            raise ValueError(f"save_peft: {module} may be shared by linear layers alone.")
        (kind,) = kinds
        each = [_to_torch(adapters[path], index, kind) for path, index in pieces]
        a, b, scale = each[0] if len(each) == 1 else _joined(each)
        scale = float(scale)  # JSON has no numbers of NumPy's
        for suffix, tensor in zip(SUFFIXES[kind], (a, b), strict=True):
            tensors[PREFIX + module + suffix] = tensor
        ranks[module], alphas[module] = len(a), scale * len(a)
    r, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    exactly = lambda module: "^" + re.escape(module)
    config = {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {exactly(m): value for m, value in ranks.items() if value != r},
        "alpha_pattern": {exactly(m): value for m, value in alphas.items() if value != alpha},
        "target_modules": sorted(places),
        "use_rslora": False,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write(
        {
            folder / TENSORS: tensors_file(tensors, {"format": "pt"}),
            folder / CONFIG: json_file({**config, **described}),
        }
    )


def load(
    folder: Path, leaves: Mapping[str, tuple[Any, str]], names: Names
) -> dict[str, LowRank]:
    """Read adapters as PEFT writes them, of leaves of these layouts."""
    config = read_json("load_peft", folder / CONFIG)
    _check_config(folder, config)
    tensors, _ = read_tensors("load_peft", folder / TENSORS)
    whole = {name: tensors.pop(name) for name in list(tensors) if name.endswith(WHOLE)}
    modules = _by_module(folder, tensors)
    widths: dict[str, int] = {}  # of what stands side by side in a module, so far
    found: dict[str, list[tuple[str, slice]]] = {}
    shapes = {path: (np.shape(leaf), layout) for path, (leaf, layout) in leaves.items()}
    for path, named in names.items():
        stacked, _, outer = sizes(*shapes[path])
        found[path] = []
        for module in _modules("load_peft", path, named, stacked):
            start = widths.get(module, 0)
            widths[module] = start + math.prod(outer)
            found[path].append((module, slice(start, widths[module])))
    if extra := sorted(set(modules) - set(widths)):
        raise ValueError(
            f"load_peft: names must name a leaf for every module in the file, got none for "
            f"{', '.join(extra[:3])}{', ...' if len(extra) > 3 else ''}."
        )
    adapters = {}
    for path, pieces in found.items():
        for index, (module, _) in enumerate(pieces):
            _check_whole(module, whole.pop(PREFIX + module + WHOLE, None), *leaves[path], index)
        if any(module in modules for module, _ in pieces):
            read = [
                _from_torch(
                    config, module, modules[module], shapes[path], columns, widths[module]
                )
                if module in modules
                else None  # a layer without a change
                for module, columns in pieces
            ]
            adapters[path] = _stacked(*shapes[path], read)
    if whole:
        raise ValueError(
            f"load_peft: {folder} has {next(iter(whole))} for which there is no leaf."
        )
    return adapters


def _modules(
    function: str, path: str, named: str | Sequence[str], stacked: Sequence[int]
) -> list[str]:
    """The module of each index of the stacked axes."""
    count = math.prod(stacked)
    if isinstance(named, str):
        named = [named.replace("{}", str(i)) for i in range(count)] if stacked else [named]
    if len(set(named)) != count:
        raise ValueError(
            f"{function}: names of {path} must be {count} different modules, one for each "
            f"index of its stacked axes, such as 'layers.{{}}.q_proj', got {list(named)!r:.60}."
        )
    return list(named)


# One module


def _kind(path: str, layout: str, tables: str) -> str:
    if re.search(tables, path):
        return "table"
    # A linear layer of three axes in would be taken for one; none is known.
    return "convolution" if layout.split().count("i") == 3 else "linear"


def _to_torch(low: LowRank, index: int, kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    """A, B and the scale of one matrix of a stack."""
    stacked = low.layout.split().count("b")
    a, b = (np.asarray(x) for x in (low.a, low.b))
    a, b = (x.reshape(-1, *x.shape[stacked:])[index] for x in (a, b))
    if kind == "convolution":
        a = np.moveaxis(a, (-1, _channels(low.layout)), (0, 1))
        return a, b.reshape(len(b), -1).T[:, :, None, None], low.scale
    return a.reshape(-1, a.shape[-1]).T, b.reshape(len(b), -1).T, low.scale


def _channels(layout: str) -> int:
    """Which axis in of a convolution's is that of channels: the one beside the axis out."""
    words = [word for word in layout.split() if word != "b"]
    return 0 if words[0] == "o" else 2


def _joined(each: Sequence[tuple[np.ndarray, np.ndarray, float]]) -> tuple:
    """Several changes side by side as one of the module that holds them all."""
    first, _, scale = each[0]
    if all(np.array_equal(a, first) and s == scale for a, _, s in each):
        return first, np.concatenate([b for _, b, _ in each]), scale
    a = np.concatenate([a for a, _, _ in each])
    b = np.zeros((sum(len(b) for _, b, _ in each), len(a)), a.dtype)
    row = column = 0
    for _, part, own in each:
        rows, columns = part.shape
        b[row : row + rows, column : column + columns] = part * np.asarray(own, part.dtype)
        row, column = row + rows, column + columns
    return a, b, 1.0


def _from_torch(
    config: Mapping[str, Any],
    module: str,
    pair: tuple[str, np.ndarray, np.ndarray],
    kind_of: tuple[Sequence[int], str],
    columns: slice,
    width: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Factors (in, r) and (r, out) of one matrix of a stack, and their scale."""
    (kind, a, b), (shape, layout) = pair, kind_of
    rank = _setting(config, "rank_pattern", module, config.get("r", 8))
    alpha = _setting(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    _, inner, _ = sizes(shape, layout)
    wanted: tuple = (rank, math.prod(inner)), (width, rank)
    if kind == "convolution":
        order = [_channels(layout), *(i for i in range(len(inner)) if i != _channels(layout))]
        wanted = (rank, *(inner[i] for i in order)), (width, rank, 1, 1)
    if (a.shape, b.shape) != wanted:
        raise ValueError(
            f"load_peft: {module} must have A {wanted[0]} and B {wanted[1]} by rank {rank} and "
            f"an array {tuple(shape)} of layout {layout!r}, got {a.shape} and {b.shape}."
        )
    if kind == "convolution":
        a = np.moveaxis(a, (0, 1), (-1, _channels(layout))).reshape(-1, rank).T
        b = b[:, :, 0, 0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return a.T, b[columns].T, float(scale)


def _setting(config: Mapping[str, Any], patterns: str, module: str, default: Any) -> Any:
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _stacked(shape: Sequence[int], layout: str, read: Sequence) -> LowRank:
    """One adapter of what was read for each index; ranks and scales may differ among them."""
    there = [each for each in read if each is not None]
    rank, scales = max(a.shape[1] for a, _, _ in there), {scale for *_, scale in there}
    same = len(scales) == 1
    scale = scales.pop() if same else 1.0
    _, inner, outer = map(math.prod, sizes(shape, layout))
    a = np.zeros((len(read), inner, rank), there[0][0].dtype)
    b = np.zeros((len(read), rank, outer), a.dtype)
    for i, each in enumerate(read):
        if each is not None:
            own_a, own_b, own = each
            a[i, :, : own_a.shape[1]] = own_a
            b[i, : len(own_b)] = own_b if same else own_b * np.asarray(own, a.dtype)
    shape_a, shape_b = factor_shapes(shape, layout, rank)
    return LowRank(
        jnp.asarray(a.reshape(shape_a)), jnp.asarray(b.reshape(shape_b)), scale, layout
    )


# What the files say


def _by_module(folder: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """Kind, A and B of each module, nothing left over."""
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        suffix = next((s for pair in SUFFIXES.values() for s in pair if name.endswith(s)), None)
        if suffix is None or not name.startswith(PREFIX) or not _is_floating(tensor):
            raise ValueError(
                f"load_peft: {folder} has a tensor {name} ({tensor.dtype}), which is no "
                "floating factor of a LoRA."
            )
        halves.setdefault(name.removeprefix(PREFIX).removesuffix(suffix), {})[suffix] = tensor
    modules = {}
    for module, own in halves.items():
        for kind in ("table", "linear"):
            if set(own) == set(SUFFIXES[kind]):
                a, b = (own[suffix] for suffix in SUFFIXES[kind])
                modules[module] = ("convolution" if a.ndim == 4 else kind), a, b
        if module not in modules:
            raise ValueError(f"load_peft: {folder} has of {module} {sorted(own)} alone.")
    return modules


def _check_whole(module: str, saved: Any, leaf: Any, layout: str, index: int) -> None:
    """Refuse a frozen table, which PEFT saves beside its adapter, that is not the leaf."""
    if saved is None:
        return
    kernel = np.asarray(matrices(jnp.asarray(leaf), layout)[index]).astype(saved.dtype)
    if not any(np.array_equal(each, saved) for each in (kernel, kernel.T)):
        raise ValueError(
            f"load_peft: the file has a frozen weight of {module} other than that of params, "
            "as of a table with more rows; put it into params first."
        )


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _is_quick(pattern: str) -> bool:
    """Whether it matches or not in good time: what is repeated twice over takes for ever."""
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError):
        return False
    plain = re.sub(r"\\.", "_", pattern)
    return not re.search(r"\)[*+{]", plain) and len(re.findall(r"[*+{]", plain)) <= 2


def _is_floating(tensor: np.ndarray) -> bool:
    return jnp.issubdtype(tensor.dtype, jnp.floating)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse adapters that are not, or not only, a product of two factors, or of no size."""
    for default, patterns, ok, what in (
        ("r", "rank_pattern", _is_rank, "a whole number from 1 up"),
        ("lora_alpha", "alpha_pattern", _is_scale, "a finite number"),
    ):
        given = config.get(patterns) or {}
        if not isinstance(given, dict):
            raise ValueError(f"load_peft: {folder} has a {patterns} that is no object.")
        for pattern in given:
            if not _is_quick(pattern):
                raise ValueError(
                    f"load_peft: {folder} has the {patterns} {pattern!r:.60}, which is no "
                    "regular expression, or one that repeats a group or more than two things."
                )
        for value in (config.get(default, 8), *given.values()):
            if not ok(value):
                raise ValueError(
                    f"load_peft: {folder} has in {default} or {patterns} {value!r:.60}, not "
                    f"{what}."
                )
    other = {name: value for name, value in config.items() if name not in READ | IDLE and value}
    if config.get("peft_type") != "LORA":
        other["peft_type"] = config.get("peft_type")
    if config.get("bias", "none") != "none":
        other["bias"] = config["bias"]
    if config.get("init_lora_weights") not in BEGINNINGS:
        other["init_lora_weights"] = config["init_lora_weights"]
    if other:
        name, value = next(iter(other.items()))
        raise ValueError(
            f"load_peft: {folder} has {name} {value!r:.60}, which is more than W + s B A; only "
            "plain LoRA is read."
        )
