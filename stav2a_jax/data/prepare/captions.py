"""Captions by clip: a list in the manner of Auto-ACD (csv or JSON lines), a file beside a video, or the class label."""

from __future__ import annotations

import csv
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from stav2a_jax.data.prepare.source import file_names
from stav2a_jax.data.prepare.store import Row
from stav2a_jax.types import UserError

IDS = (
    *("id", "youtube_id", "video_id", "vggsound_id", "ytid"),
    *("file", "filename", "file_name", "video", "audio", "path", "video_location"),
)
STARTS = ("start", "start_time", "start_seconds")
CAPTIONS = ("caption", "captions", "text", "description")
"""Names of columns (csv) and fields (JSON lines), in order of preference."""


def read_captions(path: pathlib.Path) -> dict[str, str]:
    """Captions by the name that the list uses (a clip's id, a YouTube id, a file name); the first of a name counts.

    Raises UserError for a file that is absent, unreadable, or has no column of ids or of captions.
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
        name, caption = _first(row, IDS), _first(row, CAPTIONS)
        if isinstance(caption, list):
            caption = caption[0] if caption else None
        if name is None or caption is None or not str(caption).strip():
            continue
        name, start = _name(str(name)), _first(row, STARTS)
        if start is not None and re.fullmatch(r"\d+(\.0*)?", str(start)):
            name = f"{name}_{int(float(start)):06d}"
        found.setdefault(name, " ".join(str(caption).split()))
    if not found:
        raise UserError(f"{path} holds no caption: it needs a column of {', '.join(IDS[:3])} and one of {CAPTIONS[0]}.")
    return found


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _name(text: str) -> str:
    """'videos/abc_30.flac' -> 'abc_30'; a name without a suffix of two to four letters stays as it is."""
    return re.sub(r"\.[A-Za-z]\w{1,3}$", "", pathlib.PurePosixPath(text.strip()).name)


def _csv_rows(file: Any, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file)
    columns = [str(c).strip().lower() for c in reader.fieldnames or ()]
    if not set(columns) & set(IDS) or not set(columns) & set(CAPTIONS):
        raise UserError(
            f"{path}: the first line must name a column of ids ({', '.join(IDS[:3])}) and one of captions "
            f"({', '.join(CAPTIONS)}), found {', '.join(columns) or 'nothing'}."
        )
    reader.fieldnames = columns
    yield from reader


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


def find_caption(row: Row, listed: Mapping[str, str]) -> tuple[str, str]:
    """(caption, where it is from) of a clip: 'list', 'file' beside the video, 'label', or 'none' with an empty one."""
    for name in _names(row):
        if name in listed:
            return listed[name], "list"
    caption = _beside(pathlib.Path(row["path"])) if "path" in row else ""
    if caption:
        return caption, "file"
    return (sentence(row["label"]), "label") if row.get("label") else ("", "none")


def _names(row: Row) -> list[str]:
    if "youtube" in row:
        names = file_names(row["youtube"], row["start"])
        return [*names, *(f"Y{name}" for name in names)]  # AudioSet's file names begin with a Y
    return [row["id"], pathlib.PurePosixPath(row["id"]).name]


def _beside(video: pathlib.Path) -> str:
    """Text of NAME.txt, or 'caption' of NAME.json, beside NAME.mp4; empty where there is none."""
    try:
        return " ".join(video.with_suffix(".txt").read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        pass
    try:
        found = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
        return " ".join(str(found.get("caption", "")).split())
    except (OSError, ValueError, AttributeError):
        return ""


def sentence(label: str) -> str:
    """A class label as a caption: 'dog barking' -> 'The sound of dog barking.'"""
    return f"The sound of {label.strip().rstrip('.')}."
