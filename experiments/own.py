"""The user's own data: photographs in folders, ratings, a text.

Files are read piece by piece, and all of a file counts: what cannot be used is refused by
file, line, what was expected and what was found, and nothing is skipped but hidden files and
blank lines.
"""

import csv
import io
import json
import math
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

SIDE = 32  # pixels to which a photograph is brought
PIXELS = 2**27  # of a photograph at most, and at most so many to a byte of its file
TO_A_BYTE = 1000
PHOTOGRAPHS = 5  # at least, of every kind
RATINGS = 20  # at least
CHARACTERS = 1000  # at least


class Photographs(NamedTuple):
    """Grey photographs (n, SIDE, SIDE), uint8, the number of each one's kind, the kinds."""

    images: np.ndarray
    labels: np.ndarray
    kinds: tuple[str, ...]


class Ratings(NamedTuple):
    """Who gave what to which: numbers into the names of users and items, and the ratings."""

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    user_names: tuple[str, ...]
    item_names: tuple[str, ...]


class Text(NamedTuple):
    """The characters that occur, in order, and the text as their numbers."""

    letters: str
    numbers: np.ndarray


def read_photographs(folder: Path) -> Photographs:
    """One folder a kind, such as cat and dog, with photographs in it."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of folders, got {what(folder)}")
    kinds = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in kinds:
        if not path.is_dir():
            raise ValueError(f"{path}: expected one folder a kind and no file beside them")
    if len(kinds) < 2:
        raise ValueError(
            f"{folder}: expected two folders or more, one a kind, such as cat and dog, got "
            f"{len(kinds)}"
        )
    images, labels = [], []
    for label, kind in enumerate(kinds):
        files = sorted(path for path in kind.iterdir() if not path.name.startswith("."))
        if len(files) < PHOTOGRAPHS:
            raise ValueError(
                f"{kind}: expected {PHOTOGRAPHS} photographs or more, got {len(files)}"
            )
        images += [thumbnail(file) for file in files]
        labels += [label] * len(files)
    return Photographs(np.stack(images), np.array(labels), tuple(kind.name for kind in kinds))


def thumbnail(file: Path) -> np.ndarray:
    """A photograph, grey, brought to SIDE x SIDE pixels."""
    try:
        # Not from the file itself, of which as much would be asked as a number in it says.
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.width * image.height
            if pixels > min(PIXELS, TO_A_BYTE * len(content)):
                raise ValueError(f"it says {image.width:,} x {image.height:,} pixels")
            image.draft("L", (2 * SIDE, 2 * SIDE))  # a JPEG need not be decoded whole
            return np.asarray(image.convert("L").resize((SIDE, SIDE)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow names the stream that it is given, which nobody knows.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no format that it knows" if unknown else error
        raise ValueError(
            f"{file}: expected a photograph that Pillow can read, got {what(file)} ({reason})"
        ) from None


def read_ratings(file: Path) -> Ratings:
    """Lines of user, item and rating, parted by comma, semicolon or tab.

    More columns may follow. A first line whose third entry is no number is a header.
    """
    users, items, values = array("i"), array("i"), array("d")
    names: tuple[dict[str, int], dict[str, int]] = {}, {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=next((c for c in "\t;" if c in first), ","))
            for entries in reader:
                if not entries:
                    continue
                where = f"{file}, line {reader.line_num}"
                if len(entries) < 3:
                    raise ValueError(f"{where}: expected user, item, rating, got {entries}")
                user, item, rating = (entry.strip() for entry in entries[:3])
                try:
                    value = float(rating)
                except ValueError:
                    if reader.line_num == 1:
                        continue
                    value = math.nan
                if not user or not item or not math.isfinite(value):
                    raise ValueError(
                        f"{where}: expected user, item and a finite number as third entry, "
                        f"got {entries[:3]}"
                    )
                for ids, known, name in zip((users, items), names, (user, item), strict=True):
                    ids.append(known.setdefault(name, len(known)))
                values.append(value)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a readable csv file, got {error}") from None
    if len(values) < RATINGS or min(map(len, names)) < 2:
        raise ValueError(
            f"{file}: expected {RATINGS} ratings or more, of two users and items or more, got "
            f"{len(values)} of {len(names[0])} users and {len(names[1])} items"
        )
    who, which = (np.frombuffer(numbers, np.int32) for numbers in (users, items))
    return Ratings(who, which, np.frombuffer(values), tuple(names[0]), tuple(names[1]))


def read_text(file: Path) -> Text:
    """A text in UTF-8, as numbers of characters: read once to know them, again to number."""
    seen: set[str] = set()
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    seen.update(line.decode())
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{file}, line {number}: expected UTF-8, got byte "
                        f"{line[error.start]:#04x} at column {error.start + 1}"
                    ) from None
        letters = "".join(sorted(seen))
        table = np.zeros(1 + max(map(ord, letters), default=0), np.int32)
        table[[ord(letter) for letter in letters]] = np.arange(len(letters))
        small = np.uint8 if len(letters) <= 256 else np.uint16
        with file.open(encoding="utf-8", newline="") as lines:
            parts = [
                table[np.frombuffer(part.encode("utf-32-le"), np.uint32)].astype(small)
                for part in iter(lambda: lines.read(1 << 20), "")
            ]
    except OSError as error:
        raise ValueError(f"{file}: expected a text file, got {error.strerror}") from None
    numbers = np.concatenate(parts) if parts else np.zeros(0, small)
    if numbers.size < CHARACTERS or len(letters) < 2:
        raise ValueError(
            f"{file}: expected {CHARACTERS} characters or more, of two kinds or more, got "
            f"{numbers.size} of {len(letters)}"
        )
    return Text(letters, numbers)


def read_vocabulary(file: Path) -> dict[str, int] | None:
    """GPT-2's `vocab.json`, a number for each token; None where there is none."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, got {error}") from None
    if not isinstance(found, dict) or not all(type(n) is int for n in found.values()):
        raise ValueError(f"{file}: expected one object of tokens and their numbers")
    return found


def what(path: Path) -> str:
    """What a path is, in words."""
    if not path.exists():
        return "nothing"
    size = path.stat().st_size
    return "a folder" if path.is_dir() else f"a file of {size:,} byte{'s' * (size != 1)}"
