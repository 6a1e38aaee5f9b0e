"""A full disk, missing rights: an error names the path, and what was there stays."""

import os
import sys
import tempfile

import pytest
from elsewhere import found_by

PROGRAM = """
import hashlib, json, os, resource, sys
from contextlib import suppress
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import CheckpointManager
from experiments.runner import write
from lintoolkit import lora
from lintoolkit.checkpoint import finish, restore, save
from lintoolkit.pca import fit_pca_stream
from lintoolkit.train import fit_in_chunks
from lintoolkit.transformer import GPTConfig, init_gpt, save_gpt2

config = GPTConfig(vocabulary=11, context=8, blocks=1, heads=2, width=16)
params = init_gpt(jax.random.key(0), config)
adapters = {"w": lora.LowRank(jnp.ones((50, 1)), jnp.ones((1, 30)))}
rows = np.arange(300.0).reshape(60, 5)

# Closed only where all went well: orbax raises its own error again when it closes.
def saved(folder, number):
    manager = CheckpointManager(folder)
    save(manager, number, jnp.full(3000, 1.0 * number))
    finish(manager)
    manager.close()

def trained(folder, number):
    manager = CheckpointManager(folder)
    fit_in_chunks(
        lambda w, x: ((w - x) ** 2).mean(), jnp.zeros(3000), jnp.ones((2 * number, 3000)),
        chunk=2, optimizer=optax.sgd(0.1), checkpoint=manager,
    )
    manager.close()

WRITERS = {
    "save_gpt2": lambda path, number: save_gpt2(
        path / "a.safetensors", jax.tree.map(lambda x: x * number, params), config=config
    ),
    "save_peft": lambda path, number: lora.save_peft(
        path, jax.tree.map(lambda x: x * number, adapters), names={"w": "proj"}
    ),
    "results": lambda path, number: write(path / "rows.json", f"{number}" * 9000),
    "fit_pca_stream": lambda path, number: fit_pca_stream(
        rows, rank=2, checkpoint=path if number == 1 else path / "more"
    ),
    "save": saved,
    "fit_in_chunks": trained,
}

def whole(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "orbax-checkpoint-tmp" not in str(path)
    }

def tried(folder):
    found = {}
    for name, writer in WRITERS.items():
        before = whole(folder)
        try:
            writer(folder / name, 2)
            said = None
        except OSError as error:
            said = str(error)
        found[name] = [said, whole(folder) == before]
    return found

folder = Path(sys.argv[1])
for name, writer in WRITERS.items():
    (folder / name).mkdir()
    writer(folder / name, 1)
found = {}
size = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, size[1]))
found["full"] = tried(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, size)
for path in [folder, *folder.rglob("*")]:
    with suppress(FileNotFoundError):  # threads of a save that failed clear up after it
        path.chmod(0o555 if path.is_dir() else 0o444)
if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
found["read-only"] = tried(folder)
with CheckpointManager(folder / "save") as manager:
    found["restored"] = float(restore(manager, jnp.zeros(3000)).tree[0])
print(json.dumps(found), flush=True)
os._exit(0)  # orbax's threads would wait five minutes for saves that failed
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent.is_relative_to(tempfile.gettempdir()):
            parent.chmod(parent.stat().st_mode | 0o055)  # for whom the process becomes
    words = "-c", PROGRAM, str(folder)
    return folder, found_by(*words, JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3")


WRITERS = "save_gpt2 save_peft results fit_pca_stream save fit_in_chunks".split()


@pytest.mark.skipif(sys.platform != "linux", reason="limits and rights as Linux has them")
@pytest.mark.parametrize("kind", ["full", "read-only"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_named_and_what_was_there_stays(found, kind, writer):
    folder, tried = found
    said, intact = tried[kind][writer]
    assert said is not None  # control: it could not
    assert str(folder / writer) in said
    assert ("File too large" if kind == "full" else "ermission denied") in said
    assert intact
    assert tried["restored"] == 1
