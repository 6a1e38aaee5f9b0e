"""Files that are read whole or not at all, and replaced whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

Contents = Callable[[Path], Any]  # writes a file of this name


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


def read_json(function: str, path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{function}: {path} is not JSON ({error}).") from None
    if not isinstance(described, dict):
        got = type(described).__name__
        raise ValueError(f"{function}: {path} must hold one JSON object, got a {got}.")
    return described


def tensors_file(tensors: Mapping[str, Any], metadata: dict[str, str]) -> Contents:
    """A safetensors file, for `write`."""
    whole = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    return lambda at: safetensors.numpy.save_file(whole, at, metadata)


def json_file(described: Mapping[str, Any]) -> Contents:
    """A JSON file, for `write`."""
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    return lambda at: at.write_text(text, encoding="utf-8")


def write(files: Mapping[Path, Contents]) -> None:
    """Files that others see as the old ones or the whole new ones, whatever happens here."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, contents in files.items():
            with _named(path):
                contents(temporary[path])
                with temporary[path].open("rb") as written:
                    os.fsync(written.fileno())
        # Nothing is replaced before all are on the disk, where there may be no room for them.
        for path in files:
            with _named(path):
                temporary[path].replace(path)
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file could not be written; safetensors does not, nor does a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except safetensors.SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
