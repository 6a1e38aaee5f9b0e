"""The user's own data: files that are used whole, or refused by name and line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import own, runner
from experiments.__main__ import main
from experiments.chapters import own_data
from lintoolkit.transformer import GPTConfig, init_gpt, save_gpt2

CONFIG = GPTConfig(vocabulary=13, context=8, blocks=2, heads=2, width=6)


def photographs(folder: Path, *, each: int = 7) -> Path:
    """Bright cats and dark dogs of several sizes and formats."""
    rng = np.random.default_rng(0)
    for kind, light in (("cat", 200), ("dog", 50)):
        (folder / kind).mkdir(parents=True)
        for i in range(each):
            pixels = np.clip(light + 30 * rng.standard_normal((41 + i, 53, 3)), 0, 255)
            name = f"{i}.{'png' if i % 2 else 'jpg'}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / name)
        (folder / kind / ".DS_Store").write_bytes(b"x")
    return folder


def csv_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rated(users: int = 11, items: int = 7) -> list[str]:
    """Every user's rating of every item but one; the best item is the last."""
    return [
        f"u{u},i{i},{1 + 4 * i / items}" for u in range(users) for i in range(items - u % 2)
    ]


def test_photographs_are_all_read(tmp_path):
    found = own.read_photographs(photographs(tmp_path / "animals"))
    assert found.kinds == ("cat", "dog")
    assert found.images.shape == (14, own.SIDE, own.SIDE)
    assert np.bincount(found.labels).tolist() == [7, 7]
    light = found.images.mean(axis=(1, 2))
    assert light[found.labels == 0].min() > 150 > 100 > light[found.labels == 1].max()


def test_ratings_keep_every_line(tmp_path):
    lines = rated()
    tables = [
        own.read_ratings(csv_file(tmp_path / "a.csv", "user,item,rating", *lines, "")),
        own.read_ratings(csv_file(tmp_path / "b.csv", *lines)),
        own.read_ratings(csv_file(tmp_path / "c.tsv", *(x.replace(",", "\t") for x in lines))),
        own.read_ratings(csv_file(tmp_path / "d.csv", *(f"{x},881250949" for x in lines))),
    ]
    for table in tables:
        said = [
            f"{table.user_names[u]},{table.item_names[i]},{value}"
            for u, i, value in zip(table.users, table.items, table.values, strict=True)
        ]
        assert said == lines


def test_text_comes_back_as_it_was(tmp_path):
    whole = "Grüße, 世界! 🙂\r\n\tMatrix × vector.\n" * 60
    file = tmp_path / "text.txt"
    file.write_bytes(whole.encode())
    letters, numbers = own.read_text(file)
    assert "".join(letters[i] for i in numbers) == whole
    assert numbers.dtype == np.uint8
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 1100)))
    file.write_text(many, encoding="utf-8")
    letters, numbers = own.read_text(file)
    assert letters == "".join(letters[i] for i in numbers) == many


def refusals() -> dict:
    """Option, what to write, and what must be said of it."""

    def nothing(path):
        del path

    def broken_photograph(path):
        (photographs(path) / "dog" / "3.png").write_bytes(b"no picture")

    def one_kind(path):
        (path / "cat").mkdir(parents=True)

    def few(path):
        photographs(path, each=4)

    def loose_file(path):
        (photographs(path) / "notes.txt").write_text("cats")

    lines = rated()
    table = lambda *rows: lambda path: csv_file(path, *rows)
    raw = lambda content: lambda path: path.write_bytes(content)
    return {
        "not there": ("images", nothing, "expected a folder of folders, got nothing"),
        "broken photograph": (
            "images", broken_photograph,
            r"data/dog/3.png: expected a photograph that Pillow can read, got a file of 10"
            r" bytes \(of no format that it knows\)",
        ),
        "one kind": ("images", one_kind, "expected two folders or more, one a kind, .* got 1"),
        "few photographs": ("images", few, "data/cat: expected 5 photographs or more, got 4"),
        "loose file": ("images", loose_file, "data/notes.txt: expected one folder a kind"),
        "no ratings file": ("ratings", nothing, "expected a readable csv file"),
        "word for a rating": (
            "ratings", table(*lines, "u1,i1,good"),
            rf"data, line {len(lines) + 1}: expected .* number .* got \['u1', 'i1', 'good'\]",
        ),
        "two columns": (
            "ratings", table(lines[0], "u1,i1", *lines),
            r"data, line 2: expected user, item, rating, got \['u1', 'i1'\]",
        ),
        "infinite rating": ("ratings", table(*lines, "u1,i1,inf"), "a finite number as third"),
        "nameless user": ("ratings", table(*lines, ",i1,3"), r"got \['', 'i1', '3'\]"),
        "few ratings": ("ratings", table(*lines[:5]), "expected 20 ratings or more, .* got 5"),
        "not csv": ("ratings", raw(b"\xff\xfe" * 40), "expected a readable csv file, got"),
        "not UTF-8": (
            "text", raw(b"good line\nbad \xff line\n" * 99),
            r"data, line 2: expected UTF-8, got byte 0xff at column 5",
        ),
        "short text": ("text", raw(b"abc\n"), "expected 1000 characters .* got 4 of 4"),
        "empty text": ("text", raw(b""), "expected 1000 characters or more, .* got 0 of 0"),
        "text is a folder": ("text", lambda path: path.mkdir(), "expected a text file, got"),
        "cut-off weights": ("weights", raw(b"\x08\0\0\0\0\0\0\0{"), "data"),
        "no weights": ("weights", nothing, "data"),
    }  # fmt: skip


@pytest.mark.parametrize("name", refusals())
def test_a_bad_file_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch, name):
    option, write, said = refusals()[name]
    write(tmp_path / "data")
    monkeypatch.setattr(runner, "run", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(SystemExit) as stopped:
        main([f"--{option}", str(tmp_path / "data"), "--out", str(tmp_path / "results")])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(tmp_path / "data") in told
    assert re.search(said, told), told
    assert not (tmp_path / "results").exists()


def test_data_go_with_their_chapter(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["objects", "--text", "x", "--out", str(tmp_path)])
    assert "--text is for the chapter 'language': name it too" in capsys.readouterr().err


def test_help_names_every_option():
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "--help"],
        cwd=Path(own.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    for option in ("--images DIR", "--ratings FILE", "--text FILE", "--weights FILE"):
        assert option in done.stdout


def captions(found, chapter: str) -> str:
    """The experiment run as the runner runs it, and what its figures say."""
    record, figures, trace = runner.run_experiment(
        found[chapter], chapter, seed=0, full=False, seen={}
    )
    assert record["error"] is None, trace
    assert record["name"].startswith("your_")
    assert len(figures) == 1
    return record["figures"][0]["caption"]


@pytest.mark.usefixtures("as_a_user")
def test_ratings_are_predicted(tmp_path):
    file = csv_file(tmp_path / "ratings.csv", *rated())
    with jax.numpy_dtype_promotion("standard"):
        said = captions(own_data.experiments_of(ratings=file), "recommenders")
    assert said.startswith("72 ratings of 7 items by 11 users.")
    ours, plain = map(float, re.findall(r"(?:RMSE of|has) ([\d.]+\d)", said))
    assert ours < plain


@pytest.mark.usefixtures("as_a_user")
def test_photographs_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "STEPS", (40, 40))
    found = own_data.experiments_of(images=photographs(tmp_path / "animals", each=10))
    with jax.numpy_dtype_promotion("standard"):
        assert "Of the 4 kept aside 100.0% are told right" in captions(found, "seeing")


@pytest.mark.usefixtures("as_a_user")
def test_weights_are_counted(tmp_path):
    params = init_gpt(jax.random.key(0), CONFIG)
    save_gpt2(tmp_path / "model.safetensors", params, config=CONFIG)
    words = ["Ġman", "Ġking", "Ġwoman", "Ġqueen", *"abcdefghi"]
    vocabulary = {word: i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with jax.numpy_dtype_promotion("standard"):
        said = captions(own_data.experiments_of(weights=tmp_path), "scale")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert said.startswith(f"{count:,} parameters in 2 blocks of width 6.")
    flops = said.split("takes ")[1].split(" FLOPs")[0]
    assert f"closed form {flops}." in said
    assert "King - man + woman is nearest to " in said
    (tmp_path / "vocab.json").write_text("[]")
    with pytest.raises(ValueError, match=r"vocab.json: expected one object of tokens"):
        own_data.experiments_of(weights=tmp_path)


@pytest.mark.usefixtures("as_a_user")
def test_text_is_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "WRITER", {"width": 32, "blocks": 1})
    monkeypatch.setattr(own_data, "WRITER_STEPS", (30, 30))
    file = tmp_path / "text.txt"
    file.write_text("one two three four five. " * 60)
    with jax.numpy_dtype_promotion("standard"):
        said = captions(own_data.experiments_of(text=file), "language")
    assert said.startswith("1,500 characters of 13 kinds. After 30 steps")
    kept, unigram = map(float, re.findall(r"(?:costs|comes,) ([\d.]+\d)", said))
    assert kept < unigram
