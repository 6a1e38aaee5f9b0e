"""Files that are read whole or not at all, and replaced whole or not at all."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy


def read_tensors(function: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{function}: {path} is not a whole safetensors file ({error}); fetch it again."
        ) from None


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """A safetensors file, seen by others as the old one or the whole new one."""
    whole = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    _write(path, lambda at: safetensors.numpy.save_file(whole, at, metadata))


def read_json(function: str, path: Path) -> dict[str, Any]:
    """What a JSON file says."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{function}: {path} is not JSON ({error}).") from None


def write_json(path: Path, described: Mapping[str, Any]) -> None:
    """A JSON file, seen by others as the old one or the whole new one."""
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    _write(path, lambda at: at.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
