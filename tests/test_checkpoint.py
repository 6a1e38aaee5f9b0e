import json
import os
import shutil
import signal
import warnings
import zlib
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import draw
from orbax.checkpoint import CheckpointManager

from lintoolkit import checkpoint, train
from lintoolkit.checkpoint import digest, fingerprint, finish, restore, save
from lintoolkit.train import fit_in_chunks

ADAM, MOMENTUM = optax.adam(0.1), optax.sgd(0.1, momentum=0.9)
STEPS = 12

# Bits


DTYPES = (
    "bool uint8 int16 int64 float8_e4m3fn float16 bfloat16 float32 float64 complex64 complex128"
).split()


def scrambled(word):
    """MurmurHash3's finaliser, in Python's numbers."""
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def words(x):
    """The oracle: the sum as it is defined, of the array's bytes."""
    x = np.asarray(x)
    part = 2 if jnp.issubdtype(x.dtype, jnp.complexfloating) else 1
    bits = np.frombuffer(x.tobytes(), f"u{min(x.dtype.itemsize // part, 4)}").tolist()
    return sum(scrambled(b ^ scrambled(i)) for i, b in enumerate(bits, start=1)) % 2**32


def of_dtype(rng, dtype, *shape):
    x = jnp.asarray(rng.standard_normal(shape) * 9, "float64")
    return x > 0 if dtype == "bool" else x.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fingerprint_is_the_sum_of_the_hashes_of_the_words(rng, dtype):
    x = of_dtype(rng, dtype, 3, 5, 7)
    assert int(fingerprint(x)) == words(x)
    assert fingerprint(x) != fingerprint(x[::-1])  # control: places count


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_flip_of_any_one_bit_shows(rng, dtype):
    x = jnp.asarray(rng.standard_normal((11, 13)), dtype)
    whole = int(fingerprint(x))
    raw = np.asarray(x).tobytes()
    for bit in rng.choice(8 * len(raw), 200, replace=False):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert (
            int(fingerprint(jnp.asarray(np.frombuffer(flipped, x.dtype).reshape(x.shape))))
            != whole
        )
    assert int(fingerprint(jnp.asarray(np.frombuffer(raw, x.dtype).reshape(x.shape)))) == whole


def test_other_damage_shows(rng):
    x = jnp.asarray(rng.standard_normal((11, 13)), "float32")
    swapped = x.at[jnp.array([2, 7])].set(x[jnp.array([7, 2])])
    for other in (swapped, x.at[3].set(0), jnp.zeros_like(x), jnp.roll(x, 1), x.T):
        assert fingerprint(other) != fingerprint(x)
    assert digest({"a": x, "b": [x]}) == {
        path: [[11, 13], "float32", int(fingerprint(x))] for path in ("['a']", "['b'][0]")
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_damage_of_several_elements_shows(rng, dtype):
    x = of_dtype(rng, dtype, 64, 8)
    damaged = [x[::-1], x.T.reshape(x.shape), x[rng.permutation(64)]]
    if dtype not in ("bool", "uint8"):
        damaged.append(-x)
    raw = np.frombuffer(np.asarray(x).tobytes(), np.uint8).reshape(x.size, -1)
    top = 1 if dtype == "bool" else 128
    for first in rng.choice(x.size, 20, replace=False):
        flipped = raw.copy()
        flipped[[first, (first + 1) % x.size], -1] ^= top  # the same bit of two elements
        bits = np.frombuffer(flipped.tobytes(), x.dtype).reshape(x.shape)
        damaged.append(jnp.asarray(bits))
    assert int(fingerprint(x)) not in {int(fingerprint(other)) for other in damaged}


def test_masks_of_as_many_ones_differ(rng):
    mask = jnp.arange(512) < 256
    for dtype in (bool, "float32"):
        shuffled = [mask[rng.permutation(512)].astype(dtype) for _ in range(2000)]
        assert len({int(fingerprint(x)) for x in shuffled}) == 2000


# Files


def state(rng):
    params = {"kernel": draw(rng, 5, 3), "half": draw(rng, 7, dtype="bfloat16")}
    return {"fit": (params, ADAM.init(params)), "key": jax.random.key(3)}


@pytest.fixture
def manager(tmp_path):
    with CheckpointManager(tmp_path / "steps") as manager:
        yield manager


def assert_bits_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert digest(actual) == digest(expected)


def test_what_is_saved_comes_back_to_the_bit(rng, manager):
    first, second = state(rng), state(rng)
    save(manager, 3, second)
    save(manager, 5, first)
    save(manager, 5, second)  # replaces
    finish(manager)
    restored = restore(manager, jax.tree.map(jnp.zeros_like, first))
    assert (restored.step, restored.skipped) == (5, {})
    assert_bits_equal(restored.tree, second)
    assert digest(first) != digest(second)  # control


def test_nothing_is_cast_or_reshaped(rng, manager):
    save(manager, 3, {"kernel": draw(rng, 5, 3)})
    finish(manager)
    for other, message in {
        "dtype": (
            {"kernel": jnp.zeros((5, 3), "float32")},
            r"float64 \(5, 3\) at \['kernel'\], not float32",
        ),
        "shape": ({"kernel": jnp.zeros((3, 5))}, r"not float64 \(3, 5\)"),
        "more": (
            {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)},
            r"nothing at \['bias'\]",
        ),
        "less": ({}, r"\(5, 3\) at \['kernel'\], not nothing"),
    }.values():
        with pytest.raises(ValueError, match=rf"restore: step 3 holds .*{message}"):
            restore(manager, other)


def test_other_containers_are_no_damage(rng, manager):
    x, y = draw(rng, 3), draw(rng, 2)
    listed, numbered = {"a": [x, [y]]}, {"a": {0: x, 1: [y]}}
    for saved, other, said in [
        (listed, numbered, "a list or tuple at a, not a dict"),
        (numbered, listed, "a dict at a, not a list or tuple"),
    ]:
        save(manager, 3, saved)
        finish(manager)
        with pytest.raises(ValueError, match=f"restore: step 3 holds {said}; pass"):
            restore(manager, other)
        assert_bits_equal(restore(manager, saved).tree, saved)


def test_arrays_of_numpy_say_what_is_wanted(rng, manager):
    saved = {"kernel": draw(rng, 5, 3), "a.b": draw(rng, 2), "a": {"c": draw(rng, 2)}}
    save(manager, 3, saved)
    finish(manager)
    restored = restore(manager, jax.tree.map(np.zeros_like, saved))
    assert_bits_equal(restored.tree, saved)
    for like in (saved | {"kernel": 0.0}, lambda _: saved | {"kernel": 0.0}):
        with pytest.raises(TypeError, match=r"of like at \['kernel'\] must be .* got float"):
            restore(manager, like)


def test_an_empty_directory_has_no_state(manager):
    with pytest.raises(FileNotFoundError, match=r"restore: there is no step in .*steps"):
        restore(manager, jnp.zeros(3))


def test_a_step_of_other_fingerprints_is_refused_and_not_taken_for_damaged(manager):
    tree = {"kernel": jnp.ones((5, 3))}
    save(manager, 3, tree)
    finish(manager)
    file = manager.directory / "3" / "digest" / "metadata"
    record = json.loads(file.read_text())
    leaves = {"['kernel']": [[5, 3], "float64", 7]}
    older = {"leaves": leaves, "sum": zlib.crc32(json.dumps(leaves).encode())}
    assert set(record) == {*older, "version"}  # as the first version wrote it
    file.write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"step 3 in .* version 1, .* those of 2; restore"):
        restore(manager, tree)
    file.write_text(json.dumps(record | {"version": 3}))
    with pytest.raises(ValueError, match=r"no step .* the digest itself is damaged"):
        restore(manager, tree)


DAMAGE = {
    "flip": lambda raw: raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:],
    "truncate": lambda raw: raw[: len(raw) // 2],
    "zero": lambda raw: bytes(len(raw)),
}


def damage(path, kind):
    """Do this to a file; deleted where the kind is another word."""
    if kind in DAMAGE:
        path.write_bytes(DAMAGE[kind](path.read_bytes()))
    else:
        path.unlink()


@pytest.mark.parametrize("kind", [*DAMAGE, "delete"])
def test_a_damaged_state_is_passed_over_and_the_reason_said(rng, tmp_path, kind):
    """Whichever file was damaged: a state that was saved, and no other."""
    like, passed = jax.tree.map(jnp.zeros_like, state(rng)), 0
    states = {3: state(rng), 5: state(rng)}
    with CheckpointManager(tmp_path / "whole") as manager:
        for step, tree in states.items():
            save(manager, step, tree)
    files = [path for path in (tmp_path / "whole" / "5").rglob("*") if path.is_file()]
    for i, path in enumerate(files):
        copy = Path(shutil.copytree(tmp_path / "whole", tmp_path / f"{i}"))
        damage(copy / path.relative_to(tmp_path / "whole"), kind)
        with CheckpointManager(copy) as manager:
            restored = restore(manager, like)
        assert_bits_equal(restored.tree, states[restored.step])
        if restored.skipped:
            assert (restored.step, list(restored.skipped)) == (3, [5])
            assert len(restored.skipped[5]) > 9
            passed += 1
    assert passed > 1  # control: the damage is real


def test_where_nothing_is_good_the_reasons_are_said(rng, manager):
    for step in (3, 5):
        save(manager, step, {"kernel": draw(rng, 53, 31)})
    finish(manager)
    for step in (3, 5):
        for path in Path(manager.directory / f"{step}" / "state").rglob("d/*"):
            damage(path, "truncate")
    with pytest.raises(ValueError, match=r"no step in .* is good\. step 5: .*; step 3: "):
        restore(manager, {"kernel": jnp.zeros((53, 31))})


# Training that goes on


def loss(params, batch):
    return jnp.mean((batch @ params["kernel"] - 1) ** 2)


def with_metrics(params, batch):
    return loss(params, batch), {"rows": jnp.array(len(batch))}


def drawn(steps):
    """Batches that depend on a seed and the step alone."""
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in steps]
    return jnp.stack([jax.random.normal(key, (11, 5)) for key in keys])


START = {"kernel": jnp.ones((5, 1))}


class KilledError(Exception):
    pass


def dying(at, batches=drawn):
    """Batches that end in an exception when those of a step are asked for."""

    def take(steps):
        if at in steps:
            raise KilledError
        return batches(steps)

    return take


@pytest.mark.parametrize("has_aux", [False, True])
def test_a_run_that_died_goes_on_to_the_same_bits(manager, has_aux):
    run = partial(
        fit_in_chunks,
        with_metrics if has_aux else loss,
        START,
        chunk=4,
        optimizer=MOMENTUM,
        has_aux=has_aux,
    )
    undisturbed = run(drawn, steps=STEPS)
    assert_bits_equal(undisturbed, run(drawn(range(STEPS))))
    for at in (6, 9):
        with pytest.raises(KilledError):
            run(dying(at), steps=STEPS, checkpoint=manager)
    asked = []
    resumed = run(
        lambda steps: asked.append(steps) or drawn(steps), steps=STEPS, checkpoint=manager
    )
    assert asked[1:] == [range(8, 12)]  # the first is for its shapes
    assert_bits_equal(resumed, undisturbed)
    other = run(lambda steps: drawn([step + 1 for step in steps]), steps=STEPS)
    assert digest(other) != digest(undisturbed)  # control: batches count
    # A longer run goes on from there; a shorter one is none.
    longer = run(drawn, steps=STEPS + 4, checkpoint=manager)
    assert_bits_equal(longer, run(drawn, steps=STEPS + 4))
    with pytest.raises(
        ValueError, match="fit_in_chunks: checkpoint holds step 16, beyond the 4"
    ):
        run(drawn, steps=4, checkpoint=manager)


def test_a_run_that_goes_on_asks_for_whole_batches_first(manager):
    run = partial(fit_in_chunks, loss, START, chunk=4, optimizer=MOMENTUM, checkpoint=manager)
    run(drawn, steps=4)
    with pytest.raises(ValueError, match=r"batches\(range\(0, 4\)\) must give .* 4 steps"):
        run(lambda _: drawn([0]), steps=STEPS)


def test_every_step_of_a_run_is_good(manager):
    """Saved while the run went on: what is written must not change under the writer."""
    run = partial(fit_in_chunks, loss, START, drawn, chunk=4, optimizer=MOMENTUM)
    last = run(steps=32, checkpoint=manager)
    for step in range(32, 0, -4):
        restored = restore(manager, last)
        assert (restored.step, restored.skipped) == (step, {})
        np.testing.assert_array_equal(restored.tree.losses[:step], last.losses[:step])
        assert np.isnan(restored.tree.losses[step:]).all()
        manager.delete(step)


def test_a_run_that_stopped_stays_so(manager):
    run = partial(fit_in_chunks, loss, START, drawn, steps=STEPS, chunk=4, optimizer=MOMENTUM)
    until = float(run().losses[2])
    stopped = run(until=until, checkpoint=manager)
    assert np.isnan(stopped.losses[4:]).all()
    chex.assert_trees_all_equal(run(until=until, checkpoint=manager), stopped)


def test_a_damaged_step_is_deleted_with_a_warning_and_made_again(manager):
    run = partial(fit_in_chunks, loss, START, drawn, steps=STEPS, chunk=4, optimizer=MOMENTUM)
    undisturbed = run(checkpoint=manager)
    damage(manager.directory / "12" / "state" / "manifest.ocdbt", "truncate")
    with pytest.warns(
        UserWarning, match=r"step 12 in .* is damaged and was deleted; .* step 8"
    ):
        assert_bits_equal(run(checkpoint=manager), undisturbed)
    with warnings.catch_warnings(action="error"):
        assert restore(manager, undisturbed).step == STEPS


def test_another_optimizer_is_refused(manager):
    run = partial(fit_in_chunks, loss, START, drawn, steps=STEPS, chunk=4, checkpoint=manager)
    run(optimizer=MOMENTUM)
    with pytest.raises(ValueError, match=r"restore: step 12 holds .*not nothing"):
        run(optimizer=optax.sgd(0.1))


def test_sigterm_saves_and_leaves(tmp_path):
    def terminated(steps):
        if 6 in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return drawn(steps)

    run = partial(fit_in_chunks, loss, START, steps=STEPS, chunk=4, optimizer=MOMENTUM)
    handler = signal.getsignal(signal.SIGTERM)
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(SystemExit) as left:
            run(terminated, checkpoint=manager)
        assert left.value.code == train.PREEMPTED == 75
        assert manager.latest_step() == 8
        assert signal.getsignal(signal.SIGTERM) is handler
        assert_bits_equal(run(drawn, checkpoint=manager), run(drawn))


@pytest.mark.parametrize(
    ("damaged", "said"),
    [(1, "saved[.]"), (2, "saved, nor is 1 other[.]"), (3, "saved, nor are 2 others[.]")],
)
def test_what_is_damaged_is_counted(tmp_path, monkeypatch, damaged, said):
    tree = {name: jnp.arange(3.0) for name in "abcd"}
    with CheckpointManager(tmp_path) as manager:
        save(manager, 1, tree)
        finish(manager)
        changed = {name: x + float("abcd".index(name) < damaged) for name, x in tree.items()}
        monkeypatch.setattr(checkpoint, "_read", lambda *_: changed)
        with pytest.raises(ValueError, match=said):
            restore(manager, tree)
