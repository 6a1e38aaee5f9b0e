"""Files from elsewhere: refused by name or read, never run nor followed out of a folder."""

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from test_cost_damaged import damaged

from experiments import own, runner
from lintoolkit import checkpoint, lora, transformer

ROOT = Path(__file__).parent.parent
KEY = jax.random.key(0)
GPT = transformer.GPTConfig(vocabulary=13, context=8, blocks=2, heads=2, width=6)
WEIGHTS = {"w": jnp.ones((2, 5, 3), "float32")}
NAMES = {"w": "layers.{}.proj"}
MEMORY = 32 * 2**20  # bytes that reading a file of some kilobytes may take


def write_gpt2(folder):
    params = transformer.init_gpt(KEY, GPT)
    transformer.save_gpt2(folder / "model.safetensors", params, config=GPT)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2}))


def write_peft(folder):
    adapters = lora.init(KEY, WEIGHTS, 2, where="w", layout="b i o", alpha=2)
    lora.save_peft(folder, adapters, NAMES)
    file = folder / "adapter_config.json"
    patterns = {"rank_pattern": {r".*\.proj": 2}, "alpha_pattern": {"layers.0.proj": 2}}
    file.write_text(json.dumps(json.loads(file.read_text()) | patterns))


def write_own(folder):
    lines = [f"u{u},i{i},{u + i}.5" for u in range(6) for i in range(5)]
    (folder / "ratings.csv").write_text("\n".join(lines))
    (folder / "text.txt").write_text("Grüße, 世界!\n" * 99)
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "Ġking": 1}))
    (folder / "claims.json").write_text(json.dumps({"one": {"chapter": "pca", "value": 1}}))
    for name in ("photo.png", "photo.jpg"):
        Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)).save(folder / name)


def load_peft(folder):
    return lora.load_peft(folder, WEIGHTS, NAMES, "b i o")


# The file to damage, what writes a good one, what reads it.
FILES = {
    "model.safetensors": (write_gpt2, transformer.load_gpt2),
    "config.json": (write_gpt2, transformer.load_gpt2),
    "adapter_model.safetensors": (write_peft, load_peft),
    "adapter_config.json": (write_peft, load_peft),
    "ratings.csv": (write_own, lambda folder: own.read_ratings(folder / "ratings.csv")),
    "text.txt": (write_own, lambda folder: own.read_text(folder / "text.txt")),
    "vocab.json": (write_own, lambda folder: own.read_vocabulary(folder / "vocab.json")),
    "claims.json": (write_own, runner.read_claims),
    "photo.png": (write_own, lambda folder: own.thumbnail(folder / "photo.png")),
    "photo.jpg": (write_own, lambda folder: own.thumbnail(folder / "photo.jpg")),
}


def other_values(draw, value):
    """A JSON value with something in it that should not be there."""
    strange = [
        None, True, -1, 0, 2**80, 0.5, 1e999, "", "x", "../../x", "(", "(a+)+$", [], [1], {},
        {"x": []}, 10**400,
    ]  # fmt: skip
    if isinstance(value, dict) and value and draw.random() < 0.8:
        name = draw.choice(sorted(value))
        changed = dict(value)
        match draw.randrange(4):
            case 0:
                del changed[name]
            case 1:
                changed[draw.choice(["x", "h.99999999999.x", "../x", ""])] = changed.pop(name)
            case _:
                changed[name] = other_values(draw, value[name])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.7:
        changed = list(value)
        changed[draw.randrange(len(value))] = other_values(draw, value[0])
        return changed
    return draw.choice(strange)


def forged(draw, name, good):
    """A file with its bytes damaged, or with other JSON in it, or too deep a JSON."""
    if not name.endswith((".json", ".safetensors")) or draw.random() < 0.5:
        return damaged(good, draw)
    if name.endswith(".json"):
        if draw.random() < 0.05:
            return b'{"x":' * 100_000
        return json.dumps(other_values(draw, json.loads(good))).encode()
    if draw.random() < 0.1:
        return draw.choice([2**63, 2**40, len(good)]).to_bytes(8, "little") + good[8:]
    size = int.from_bytes(good[:8], "little")
    header = json.dumps(other_values(draw, json.loads(good[8 : 8 + size]))).encode()
    return len(header).to_bytes(8, "little") + header + good[8 + size :]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_forged_file_is_refused_by_name_or_read(name, tmp_path):
    write, read = FILES[name]
    write(tmp_path)
    read(tmp_path)
    file, draw = tmp_path / name, random.Random(0)
    good, refused = file.read_bytes(), 0
    tracemalloc.start()
    try:
        for _ in range(100):
            file.write_bytes(forged(draw, name, good))
            try:
                read(tmp_path)
            except (ValueError, TypeError) as error:
                refused += 1
                said = str(error)
                assert str(tmp_path) in said or said.startswith(("load_gpt2: ", "load_peft: "))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert refused > 10
    file.write_bytes(good)
    read(tmp_path)  # control: it was the file


def test_a_pattern_of_a_file_cannot_hold_us_up(tmp_path):
    write_peft(tmp_path)
    file = tmp_path / "adapter_config.json"
    good = json.loads(file.read_text())
    for pattern in ("(a|a)*b", r"(.*)+x", "((.*)*)*y", ".*" * 9 + "z"):
        file.write_text(json.dumps(good | {"rank_pattern": {pattern: 2}}))
        with pytest.raises(ValueError, match=r"load_peft: .* rank_pattern"):
            load_peft(tmp_path)


@pytest.mark.usefixtures("as_a_user")
def test_a_forged_checkpoint_is_passed_over(tmp_path):
    """Whatever its files hold, a step is as it was saved or not good; nothing else is said."""
    tree = {"../../outside": jnp.arange(6.0), "/etc/x": jnp.ones(3)}
    before = set(tmp_path.parent.iterdir())
    with ocp.CheckpointManager(tmp_path / "good") as manager:
        checkpoint.save(manager, 1, tree)
        manager.wait_until_finished()
    assert set(tmp_path.parent.iterdir()) == before  # paths of leaves are no paths of files
    assert not (Path("/etc") / "x").exists()
    draw = random.Random(0)
    files = [file for file in (tmp_path / "good").rglob("*") if file.is_file()]
    (stored,) = [file for file in files if b'"leaves"' in file.read_bytes()]
    ended = {"restored": 0, "refused": 0}
    for i in range(24):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "good", folder)
        file = folder / (stored if i % 2 else draw.choice(files)).relative_to(tmp_path / "good")
        data = file.read_bytes()
        file.write_bytes(forged(draw, "x.json", data) if i % 2 else damaged(data or b"x", draw))
        try:
            with ocp.CheckpointManager(folder) as manager:
                found = checkpoint.restore(manager, tree)
        except (ValueError, FileNotFoundError):
            ended["refused"] += 1
        else:
            ended["restored"] += 1
            assert all(map(np.array_equal, found.tree.values(), tree.values()))
    assert ended["refused"] > 8, ended


def test_what_is_written_replaces_a_link_and_not_what_it_points_to(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "results"
    outside.write_text("mine")
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "model", "claims.json"):
        (folder / name).symlink_to(outside)
    adapters = lora.init(KEY, WEIGHTS, 2, where="w", layout="b i o", alpha=2)
    lora.save_peft(folder, adapters, NAMES)
    params = transformer.init_gpt(KEY, GPT)
    transformer.save_gpt2(folder / "model", params, config=GPT)
    runner.write(folder / "claims.json", "{}")
    assert outside.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_names_in_files_lead_nowhere(tmp_path):
    """Tensors, modules and chapters may be called what they like; no file is opened for it."""
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    write_peft(tmp_path)
    file = tmp_path / "adapter_config.json"
    names = {"base_model_name_or_path": "/etc/passwd", "revision": "../../secret"}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    (tmp_path / "claims.json").write_text(json.dumps({"../../x": {"chapter": "/etc/passwd"}}))
    (tmp_path / "vocab.json").write_text(json.dumps({"../../x": 0}))
    opened.clear()
    load_peft(tmp_path)
    runner.read_claims(tmp_path)
    own.read_vocabulary(tmp_path / "vocab.json")
    strangers = {str(path) for path in opened if "etc" in str(path) or "secret" in str(path)}
    assert not strangers
    assert any(str(path) == str(file) for path in opened)  # control: openings are seen


RUNS_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def runs_code(source, *calls):
    """Lines on which a file could be unpickled, or text run by one of these calls."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            text = ast.unparse(node.func)
            loose = any(word.arg == "allow_pickle" for word in node.keywords)
            if loose or text in {"torch.load", "os.system", *calls}:
                found.append(node.lineno)
        if any(name.partition(".")[0] in RUNS_CODE for name in names):
            found.append(node.lineno)
    return found


def test_nothing_is_unpickled_or_run():
    # A chapter runs the articles' own listings, which stand in it.
    for room, calls in (("lintoolkit", ("eval", "exec")), ("experiments", ())):
        paths = list((ROOT / room).rglob("*.py"))
        assert len(paths) > 20
        for path in paths:
            assert not runs_code(path.read_text(encoding="utf-8"), *calls), path
    bad = "import pickle\nnp.load(f, allow_pickle=True)\ntorch.load(f)\nfrom dill import x"
    assert sorted(runs_code(f"{bad}\neval(x)", "eval")) == [1, 2, 3, 4, 5]


OFFLINE = """
import importlib, pkgutil, sys
asked = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        asked.append((event, str(arguments[1:])))
sys.addaudithook(watch)
import lintoolkit
for module in pkgutil.walk_packages(lintoolkit.__path__, "lintoolkit."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from experiments.__main__ import main
status = main(["objects", "--out", sys.argv[1]])
before = len(asked)
import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
print(status, before, len(asked) > before, asked[:3])
"""


def test_nothing_asks_the_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("0 0 True")
