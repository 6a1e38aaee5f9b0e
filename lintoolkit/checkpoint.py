# ruff: noqa: DOC502 (what Raises promises is raised in helpers)
r"""States on disk that come back to the bit or not at all: orbax, with a fingerprint a leaf.

Orbax writes steps whole or not at all, from any mesh and to any other; what it does not see is
a bit that flipped on the disk, or a dtype that is not the one asked for. Here each leaf's
fingerprint is stored beside it, and compared on the way back.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree, Shaped, UInt32

from lintoolkit import _checks
from lintoolkit._jit import jit

__all__ = [
    "Restored", "fingerprint", "digest", "save", "finish", "restore",
]  # fmt: skip
__dir__ = lambda: __all__

VERSION = 2  # of the fingerprints in a step's digest


class Restored(NamedTuple):
    """A state as it was saved: its step, itself, and why newer steps were passed over."""

    step: int
    tree: PyTree
    skipped: dict[int, str]


@jit
@jax.named_scope("fingerprint")
def fingerprint(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    r"""Sum up an array's bits into one number that does not depend on where they lie.

    $f = \sum_i h(b_i \oplus h(i + 1)) \bmod 2^{32}$ over the array's 32-bit words $b_i$ (or
    shorter elements), with $h$ the finaliser of MurmurHash3. Whole-number sums have no
    rounding, so the order of the terms does not matter: one device, any sharding and any number
    of processes give the same number. As $h$ is one to one, a change of any one word changes
    it; and as $h$ has no pattern, so do all but about one in $2^{32}$ of other changes, such as
    signs that flip or numbers that change places. It is no protection from who means to forge.

    Args:
        x: Any dtype, random keys too; may be sharded.

    Returns:
        The sum.

    Raises:
        TypeError: If ``x`` is not an array.

    Cost:
        About 20 whole-number operations a word, and between devices one sum.

    Examples:
        >>> x = jnp.array([1.0, 2.0, 3.0], jnp.float32)
        >>> print(fingerprint(x), fingerprint(-x) == fingerprint(x))
        3023071618 False

    References:
        Bellare and Micciancio, A New Paradigm for Collision-Free Hashing (1997), Eurocrypt:
        AdHASH, a sum of hashes of place and value.
    """
    if not isinstance(x, jax.Array):
        raise TypeError(
            f"fingerprint: x must be one array, got {type(x).__name__}; wrap it in jnp.asarray."
        )
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    words = _words(x)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * np.uint32(size % 2**32) + lax.broadcasted_iota(
            jnp.uint32, words.shape, axis
        )
    return jnp.sum(_scramble(words ^ _scramble(place + np.uint32(1))), dtype=jnp.uint32)


def digest(tree: PyTree) -> dict[str, list]:
    r"""Describe a pytree of arrays so exactly that another with the same description is it.

    The tree becomes one line a leaf: its path to its shape, its dtype and its `fingerprint`.
    What two processes, two machines or a file and the memory hold is the same if these are.

    Args:
        tree: Any pytree of arrays; they may be sharded, over processes too.

    Returns:
        ``{path: [shape, dtype, fingerprint]}``, of lists, strings and whole numbers alone.

    Raises:
        TypeError: If a leaf is not an array.

    Cost:
        That of `fingerprint` for each leaf, and one number a leaf fetched.

    Examples:
        >>> digest({"w": jnp.zeros((2, 3), jnp.float32)})
        {"['w']": [[2, 3], 'float32', 333329391]}

    References:
        Bellare and Micciancio, A New Paradigm for Collision-Free Hashing (1997), Eurocrypt:
        AdHASH, a sum of hashes of place and value.
    """
    leaves = _leaves("digest", tree)
    # One at a time: sums between devices that overlap can wait for each other for good.
    return {path: [*_layout(leaf), int(fingerprint(leaf))] for path, leaf in leaves.items()}


def save(manager: "orbax.checkpoint.CheckpointManager", step: int, tree: PyTree) -> None:
    r"""Save a pytree of arrays, with its digest, as a step of a checkpoint manager.

    What is on disk becomes the step's tree and its `digest`, both or neither. Where the manager
    saves asynchronously, as orbax's do by default, the arrays have been copied when this
    returns and are written while the program goes on: `finish` waits.
    A step of the same number is replaced. In a job of many processes all must call this.

    Args:
        manager: ``orbax.checkpoint.CheckpointManager(directory)``, which wants an absolute
            path; how many steps are kept and the rest is for its options to say.
        step: The state's number.
        tree: Any pytree of arrays, random keys too; over processes, of global arrays.

    Raises:
        TypeError: If a leaf is not an array or of a dtype that orbax cannot write, such as
            uint4, or ``manager`` no manager.
        ValueError: If the step is negative, there is nothing in a leaf, or two would be written
            under one name, as those of "a.b" and of "b" in "a".
        OSError: If this step or the one before cannot be written; it names the directory, whose
            older steps are as they were. Orbax's threads then hold up the process's exit for
            minutes; `lintoolkit.launch.member` does not wait for them.

    Cost:
        That of `digest`, a copy of the arrays to the host, and writing them.

    Examples:
        >>> import tempfile
        >>> from orbax.checkpoint import CheckpointManager
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with CheckpointManager(directory) as manager:
        ...         save(manager, 30, {"w": jnp.array([1.0, 2.0])})
        ...         finish(manager)
        ...         restored = restore(manager, {"w": jnp.zeros(2)})
        >>> print(restored.step, restored.tree["w"])
        30 [1. 2.]

    References:
        Eisenman et al., Check-N-Run: a Checkpointing System for Training Deep Learning
        Recommendation Models (2022), NSDI, section 3.
    """
    import orbax.checkpoint as ocp

    if not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"save: step must be a whole number of at least 0, got {step!r}.")
    _check_kept(_leaves("save", tree))
    _check_names(tree)
    _checks.manager("save", manager=manager)
    leaves = digest(tree)
    finish(manager)
    with _writing(manager):
        if step in manager.all_steps():
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"tree": tree}),  # not an array alone
                digest=ocp.args.JsonSave(
                    {"version": VERSION, "leaves": leaves, "sum": _sum(leaves, VERSION)}
                ),
            ),
            force=True,
        )


def finish(manager: "orbax.checkpoint.CheckpointManager") -> None:
    r"""Wait until what was saved is on disk.

    After it, the manager's newest step = the last that was given to `save`.

    Args:
        manager: As for `save`.

    Raises:
        TypeError: If ``manager`` is no manager.
        OSError: If it cannot be written; it names the directory, whose older steps are as they
            were.

    Cost:
        The rest of the writing.

    Examples:
        >>> import tempfile
        >>> from orbax.checkpoint import CheckpointManager
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with CheckpointManager(directory) as manager:
        ...         save(manager, 7, jnp.ones(3))
        ...         finish(manager)
        ...         print(manager.all_steps())
        [7]

    References:
        Eisenman et al., Check-N-Run: a Checkpointing System for Training Deep Learning
        Recommendation Models (2022), NSDI, section 3.
    """
    _checks.manager("finish", manager=manager)
    with _writing(manager):
        manager.wait_until_finished()


@contextmanager
def _writing(manager: Any) -> Iterator[None]:
    """Say which directory could not be written, and that in one way; orbax does neither."""
    try:
        yield
    except Exception as error:  # whatever orbax and its file formats raise
        raise OSError(
            f"{manager.directory} cannot be written; its older steps are as they were. "
            f"{_said(error)}."
        ) from error


def restore(
    manager: "orbax.checkpoint.CheckpointManager", like: PyTree | Callable[[dict], PyTree]
) -> Restored:
    r"""Restore the newest state that is as it was saved.

    A step is good if reading it raises nothing and its tree = what was saved: the `digest`
    stored beside it is that of what was read. Steps are tried from the newest on; each that is
    damaged is passed over, and why is said. The state comes in the dtypes, shapes and shardings
    asked for, whatever mesh and number of processes it was saved from; a state of other dtypes
    or shapes is refused, not cast.

    Args:
        manager: As for `save`.
        like: Arrays, or `jax.ShapeDtypeStruct`, in the structure that was saved; their
            shardings, if any, say where the state is to lie. Or a function that makes them of a
            step's `digest`, where shapes are not known before.

    Returns:
        The step, its tree, and the reasons that newer steps are not good.

    Raises:
        FileNotFoundError: If the manager has no step.
        TypeError: If ``manager`` is no manager, or a leaf of ``like`` has no shape and dtype.
        ValueError: If no step is good, or a good one has other paths, dtypes or shapes, or
            fingerprints of another version of lintoolkit.

    Cost:
        Reading one state, and that of `digest`; as often as steps are tried.

    Examples:
        >>> import tempfile
        >>> from orbax.checkpoint import CheckpointManager
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with CheckpointManager(directory) as manager:
        ...         for step in (1, 2):
        ...             save(manager, step, {"w": jnp.full(2, 1.0 * step)})
        ...         finish(manager)
        ...         (manager.directory / "2" / "state" / "manifest.ocdbt").unlink()
        ...         restored = restore(manager, {"w": jnp.zeros(2)})
        >>> print(restored.step, restored.tree["w"], *restored.skipped)
        1 [1. 1.] 2

    References:
        Eisenman et al., Check-N-Run: a Checkpointing System for Training Deep Learning
        Recommendation Models (2022), NSDI, section 3.
    """
    _checks.manager("restore", manager=manager)
    if not callable(like):
        _check_templates(like)
    skipped: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        tree, reason = None, ""
        try:
            version, stored = _stored(manager, step)
        except Exception as error:
            reason = _said(error)
        if not _everywhere(not reason):
            skipped[step] = reason or "another process could not read it"
            continue
        if version != VERSION:
            raise ValueError(
                f"restore: step {step} in {manager.directory} was saved with fingerprints of "
                f"version {version}, and this lintoolkit compares those of {VERSION}; restore "
                "it with the lintoolkit that saved it, and save what comes anew."
            )
        wanted = like(stored) if callable(like) else like
        _check_templates(wanted)
        _check_layout(step, stored, wanted)
        try:
            tree = _read(manager, step, wanted)
        except Exception as error:  # whatever orbax and its file formats raise
            reason = _said(error)
        if not _everywhere(not reason):
            _check_containers(manager, step, wanted)
            skipped[step] = reason or "another process could not read it"
            continue
        found = digest(tree)
        other = [path for path in stored if found[path] != stored[path]]
        if not other:
            return Restored(step, tree, skipped)
        more = len(other) - 1
        rest = f", nor {'is' if more == 1 else 'are'} {more} other{'s' * (more > 1)}"
        skipped[step] = f"{other[0]} is not what was saved{rest if more else ''}"
    if skipped:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in skipped.items())
        raise ValueError(f"restore: no step in {manager.directory} is good. {reasons}.")
    raise FileNotFoundError(
        f"restore: there is no step in {manager.directory}; save one first."
    )


def _stored(manager: Any, step: int) -> tuple[int, dict[str, list]]:
    import orbax.checkpoint as ocp

    read = manager.restore(step, args=ocp.args.Composite(digest=ocp.args.JsonRestore()))
    stored = read["digest"]
    version, leaves = stored.get("version", 1), stored["leaves"]  # the first did not say
    if _sum(leaves, version) != stored["sum"]:
        raise ValueError("the digest itself is damaged")
    return version, leaves


def _read(manager: Any, step: int, wanted: PyTree) -> PyTree:
    import orbax.checkpoint as ocp

    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        wanted,
    )
    # Without the structure named tuples would come back as plain ones.
    args = ocp.args.StandardRestore({"tree": shapes})
    place = manager.directory / str(step) / "state"
    if jax.process_count() == 1 or not place.exists():
        return manager.restore(step, args=ocp.args.Composite(state=args))["state"]["tree"]
    # Each process for itself: orbax would wait for those that a damaged file has stopped.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"{process}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        return reader.restore(place, args=args)["tree"]


def _check_kept(leaves: dict[str, Array]) -> None:
    import tensorstore  # with which orbax writes

    for path, leaf in leaves.items():
        if leaf.size == 0:
            raise ValueError(
                f"save: the leaf at {path or 'the root'} has shape {leaf.shape}, so there is "
                "nothing in it to write; leave it out."
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue  # orbax writes the numbers it is made of
        try:
            tensorstore.dtype(str(leaf.dtype))
        except (TypeError, ValueError):
            raise TypeError(
                f"save: the leaf at {path or 'the root'} must be of a dtype that orbax writes, "
                f"got {leaf.dtype}; convert it first."
            ) from None


def _check_names(tree: PyTree) -> None:
    # Orbax joins a path with dots, and of two leaves of one name keeps one.
    named: dict[str, str] = {}
    for path, _ in jax.tree.flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        here = jax.tree_util.keystr(path)
        if name in named:
            raise ValueError(
                f"save: the leaves at {named[name]} and {here} would both be written as "
                f"{name!r}; rename a key."
            )
        named[name] = here


def _check_templates(wanted: PyTree) -> None:
    for path, leaf in jax.tree.flatten_with_path(wanted)[0]:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"restore: the leaf of like at {jax.tree_util.keystr(path) or 'the root'} must "
                f"be an array or a jax.ShapeDtypeStruct, got {type(leaf).__name__}."
            )


def _check_layout(step: int, stored: dict[str, list], wanted: PyTree) -> None:
    paths, _ = jax.tree.flatten_with_path(wanted)
    asked = {jax.tree_util.keystr(path): _layout(leaf) for path, leaf in paths}
    for path in [*asked, *stored]:
        has, wants = (
            f"{layout[1]} {tuple(layout[0])}" if layout else "nothing"
            for layout in (stored.get(path), asked.get(path))
        )
        if has != wants:
            raise ValueError(
                f"restore: step {step} holds {has} at {path or 'the root'}, not {wants}; "
                "nothing is cast: pass arrays as they were saved, and convert what comes."
            )


def _check_containers(manager: Any, step: int, wanted: PyTree) -> None:
    # Dicts with numbers for keys have the paths of lists, but are other trees to orbax.
    held: dict[str, type] = {}
    with suppress(Exception):  # of a damaged step: why is known
        held = _containers(manager.item_metadata(step)["state"].tree["tree"])
    known = {jax.tree_util.DictKey: "a dict", jax.tree_util.SequenceKey: "a list or tuple"}
    for place, kind in _containers(wanted).items():
        has, wants = known.get(held.get(place, kind)), known.get(kind)
        if has and wants and has != wants:
            raise ValueError(
                f"restore: step {step} holds {has} at {place or 'the root'}, not {wants}; pass "
                "the structure that was saved."
            )


def _containers(tree: PyTree) -> dict[str, type]:
    """The kind of key by which each container of a tree is entered, by the way to it."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path[:i], simple=True, separator="."): type(key)
        for path, _ in paths
        for i, key in enumerate(path)
    }


def _leaves(function: str, tree: PyTree) -> dict[str, Array]:
    paths, _ = jax.tree.flatten_with_path(tree)
    for path, leaf in paths:
        if not isinstance(leaf, jax.Array):
            raise TypeError(
                f"{function}: the leaf at {jax.tree_util.keystr(path) or 'the root'} must be "
                f"an array, got {type(leaf).__name__}; wrap it in jnp.asarray."
            )
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def _layout(leaf: Any) -> list:
    return [list(leaf.shape), str(leaf.dtype)]


def _words(x: Array) -> Array:
    # 64-bit elements become two words on a last axis; shorter ones one each.
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    bits = jnp.finfo(x.dtype).bits if jnp.issubdtype(x.dtype, jnp.floating) else None
    bits = bits or jnp.iinfo(x.dtype).bits
    return lax.bitcast_convert_type(x, f"uint{min(bits, 32)}").astype(jnp.uint32)


def _scramble(x: Array) -> Array:
    # MurmurHash3's finaliser: each step can be undone, and every bit reaches all the others.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _sum(leaves: dict[str, list], version: int) -> int:
    what = leaves if version == 1 else [version, leaves]
    return zlib.crc32(json.dumps(what, sort_keys=True).encode())


def _said(error: Exception) -> str:
    # Of tensorstore's errors the cause comes last, but for all options in brackets.
    said = str(error).strip().partition("\n")[0]
    said = re.sub(r" \[(os_error_code|tensorstore_spec|source locations)=.*", "", said)
    if len(said) > 200:
        said = f"{said[:60]} ... {said[-135:]}"
    return f"{type(error).__name__}: {said}"


def _everywhere(good: bool) -> bool:
    """Whether all processes of the job say so: they must go on alike."""
    if jax.process_count() == 1:
        return good
    return bool(multihost_utils.process_allgather(np.array(good)).all())
