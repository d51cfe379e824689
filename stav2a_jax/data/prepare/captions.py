"""Captions by clip: a list in the manner of Auto-ACD (csv or JSON lines), a file beside a video, or the class label."""

from __future__ import annotations

import collections
import csv
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stav2a_jax.data.prepare.source import file_names
from stav2a_jax.data.prepare.store import Row
from stav2a_jax.types import UserError

IDS = (
    *("vggsound_id", "youtube_id", "ytid", "video_id"),
    *("file", "filename", "file_name", "video", "audio", "path", "video_location"),
    "id",  # last, because beside another one it is often the number of the line
)
STARTS = ("start", "start_time", "start_seconds")
CAPTIONS = ("caption", "captions", "text", "description")
"""Names of columns (csv) and fields (JSON lines), in order of preference."""

_ANY = "*/"
"""Before the end of a path: whatever its folder, as in '*/a' for 'train/a'."""


def read_captions(path: pathlib.Path) -> dict[str, str]:
    """Captions by the name that the list uses (a clip's id, a YouTube id, a path); the first of a name counts.

    Names have no suffix. Behind them come the ends of paths, '*/a' for 'train/a', but none that paths with different
    captions share. Raises UserError for a file that is absent, unreadable, or has no column of ids or of captions, and
    for a csv line with more cells than columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(_json_rows(file, path) if path.suffix in (".jsonl", ".json") else _csv_rows(file, path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a csv or JSON-lines list of captions.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a list of captions ({error}).") from None
    found: dict[str, str] = {}
    for row in rows:
        name, caption = _first(row, IDS), _text(_first(row, CAPTIONS))
        if name is not None and caption:
            found.setdefault(_with_start(_name(str(name)), _first(row, STARTS)), caption)
    if not found:
        raise UserError(f"{path} holds no caption: it needs a column of ids (as youtube_id) and one of {CAPTIONS[0]}.")
    return found | _by_ends(found)


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _text(caption: Any) -> str:
    """One line of a caption, of the first of several; empty where there is none."""
    if isinstance(caption, list):
        caption = caption[0] if caption else None
    return "" if caption is None else " ".join(str(caption).split())


def _name(text: str) -> str:
    """'./videos/abc_30.flac' -> 'videos/abc_30'; a name without a suffix of two to four letters stays as it is."""
    return re.sub(r"\.[A-Za-z]\w{1,3}$", "", str(pathlib.PurePosixPath(text.strip())))


def _with_start(name: str, start: Any) -> str:
    """'abcdefghijk', 30 -> 'abcdefghijk_000030'; a file's name that ends in its start already stays as it is."""
    if not re.fullmatch(r"\d+(\.0*)?", str(start)):
        return name
    seconds = int(float(start))
    ends = tuple(file_names("", seconds)[:-1])
    bare = re.fullmatch(r"Y?[\w-]{11}", name)  # a YouTube id may end in _30 by chance
    return name if name.endswith(ends) and not bare else f"{name}_{seconds:06d}"


def _ends(path: str) -> list[str]:
    """'x/train/a' -> ['x/train/a', 'train/a', 'a']"""
    parts = pathlib.PurePosixPath(path).parts
    return [str(pathlib.PurePosixPath(*parts[k:])) for k in range(len(parts))]


def _by_ends(captions: Mapping[str, str]) -> dict[str, str]:
    """Captions by the ends of their paths; an end of paths with different captions belongs to none of them."""
    found: dict[str, set[str]] = {}
    for path, caption in captions.items():
        for end in _ends(path)[1:]:
            found.setdefault(_ANY + end, set()).add(caption)
    return {end: several.pop() for end, several in found.items() if len(several) == 1}


def _csv_rows(file: Any, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file, restkey="cells behind the last column")
    columns = [str(c).strip().lower() for c in reader.fieldnames or ()]
    if not set(columns) & set(IDS) or not set(columns) & set(CAPTIONS):
        raise UserError(
            f"{path}: the first line must name a column of ids (youtube_id, file_name, id) and one of captions "
            f"({', '.join(CAPTIONS)}), found {', '.join(columns) or 'nothing'}."
        )
    reader.fieldnames = columns
    for row in reader:
        if any(cell.strip() for cell in row.pop(reader.restkey, ())):
            raise UserError(
                f"{path}: line {reader.line_num} has more cells than the first line has columns; "
                "quote captions that contain commas."
            )
        yield row


def _json_rows(file: Any, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not an object with an id and a caption.")
        yield row


def join_captions(rows: Iterable[Row], listed: Mapping[str, str]) -> dict[str, str]:
    """The list's caption of every usable row by the row's id, empty where the list has none.

    The end of a listed path (see :func:`read_captions`) is not used where several rows end so: of 'train/a' and
    'valid/a', one that is not listed must not get the caption of the other.
    """
    usable = [row for row in rows if "trouble" not in row]
    shared = collections.Counter(end for row in usable for end in _ends(row["id"]))
    clear = {name: text for name, text in listed.items() if name[: len(_ANY)] != _ANY or shared[name[len(_ANY) :]] < 2}
    return {row["id"]: _listed(row, clear) for row in usable}


def find_caption(row: Row, listed: Mapping[str, str]) -> tuple[str, str]:
    """(caption, where it is from) of a clip: 'list', 'file' beside the video, 'label', or 'none' with an empty one.

    listed: of :func:`read_captions` or :func:`join_captions`. Raises UserError for a file beside the video that cannot
    be read.
    """
    if caption := _listed(row, listed):
        return caption, "list"
    if "path" in row and (caption := _beside(pathlib.Path(row["path"]))):
        return caption, "file"
    return (sentence(row["label"]), "label") if row.get("label") else ("", "none")


def _listed(row: Row, listed: Mapping[str, str]) -> str:
    if "youtube" in row:
        names = file_names(row["youtube"], row["start"])
        names += [f"Y{name}" for name in names]  # AudioSet's file names begin with a Y
    else:
        names = _ends(row["id"])
    return next((listed[key] for name in names for key in (name, _ANY + name) if key in listed), "")


def _beside(video: pathlib.Path) -> str:
    """Text of NAME.txt, or 'caption' of NAME.json, beside NAME.mp4; empty where there is none."""
    if caption := _text(_read(video.with_suffix(".txt"))):
        return caption
    path = video.with_suffix(".json")
    try:
        found = json.loads(_read(path) or "null")
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); mend it or take it away.") from None
    return _text(found.get("caption")) if isinstance(found, dict) else ""


def _read(path: pathlib.Path) -> str | None:
    """The text of a file, None where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def sentence(label: str) -> str:
    """A class label as a caption: 'dog barking' -> 'The sound of dog barking.'"""
    return f"The sound of {label.strip().rstrip('.')}."
