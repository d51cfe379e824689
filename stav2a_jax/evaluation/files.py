"""What is compared with what: pairs by name, complete or an error, and the lists that go with them."""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.types import UserError

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac")
FILMS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
SHOWN = 20
"""Names that an error message lists before it counts the rest."""


class Pair(NamedTuple):
    """A clip: its generated and its true sound, and the film that shows it (None: there is none)."""

    name: str
    generated: pathlib.Path
    reference: pathlib.Path
    film: pathlib.Path | None


def pair_up(generated: pathlib.Path, reference: pathlib.Path, videos: pathlib.Path | None = None) -> list[Pair]:
    """Pairs of files whose names agree up to the suffix, in the order of the names.

    In a folder with NAME.wav and NAME.mp4 the sound is that of the first and the picture that of the second. Films come
    from ``videos`` if that is given, else from the reference, else from the generated folder. Raises UserError naming
    every file without a partner, and names that two files claim.
    """
    ours, true = listing(generated), listing(reference)
    lacking = [f"{name} in {generated}" for name in sorted(set(true) - set(ours))]
    surplus = [f"{name} in {reference}" for name in sorted(set(ours) - set(true))]
    if lacking or surplus:
        raise UserError(
            f"the folders do not hold the same clips ({len(set(ours) & set(true))} pairs); missing: "
            f"{some([*lacking, *surplus])}; add the files, or leave their partners out of both folders"
        )
    # one folder for all: a clip judged on another film than the rest would not be comparable
    with_films = [f for f in (true, ours) if any(film for _, film in f.values())]
    shown = listing(videos) if videos is not None else with_films[0] if with_films else {}
    nothing = (None, None)
    return [Pair(n, _sound(ours[n]), _sound(true[n]), shown.get(n, nothing)[1]) for n in sorted(true)]


Found = tuple[pathlib.Path | None, pathlib.Path | None]
"""(sound file, film) of one name; at least one of them is there."""


def _sound(found: Found) -> pathlib.Path:
    return next(path for path in found if path is not None)


def listing(folder: pathlib.Path) -> dict[str, Found]:
    """Sound files and films of a folder by name without suffix; hidden files and other kinds do not count."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder with the sound files")
    out: dict[str, list[pathlib.Path | None]] = {}
    twice = []
    for path in sorted(folder.iterdir()):
        kind = next((k for k, ends in enumerate((SOUNDS, FILMS)) if path.suffix.lower() in ends), None)
        if kind is None or path.name.startswith(".") or not path.is_file():
            continue
        entry = out.setdefault(path.stem, [None, None])
        if entry[kind] is not None:
            twice.append(f"{entry[kind].name} and {path.name}")  # type: ignore[union-attr]
        entry[kind] = path
    if twice:
        raise UserError(f"{folder} has two files for one name: {some(twice)}; keep one of each")
    if not out:
        raise UserError(f"{folder} holds no sound file or film ({', '.join(SOUNDS + FILMS)})")
    return {name: (entry[0], entry[1]) for name, entry in out.items()}


def some(names: Sequence[str], limit: int = SHOWN) -> str:
    """The names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def read_column(path: pathlib.Path, column: str, names: Iterable[str]) -> dict[str, str]:
    """A text for every name, such as its caption. Raises UserError naming those that have none.

    The file is a JSON object {name: text}, a CSV with the columns ``name`` and ``column``, or JSON lines with ``name``
    (or ``location``, a path, as in the release) and ``column`` (or ``captions``).
    """
    try:
        if path.suffix.lower() == ".csv":
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows: list[Mapping[str, Any]] = list(csv.DictReader(file))
        elif path.suffix.lower() == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            rows = [{"name": k, column: v} for k, v in data.items()] if isinstance(data, dict) else list(data)
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = dict(_name_and_text(row, column) for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); it must be JSON {{name: {column}}}, JSON lines or CSV with the columns "
            f"name and {column}"
        ) from error
    missing = [name for name in names if found.get(name) is None or not str(found[name]).strip()]
    if missing:
        raise UserError(f"{path} has no {column} for {some(missing)}; add them")
    return {name: str(found[name]) for name in names}


def _name_and_text(row: Mapping[str, Any], column: str) -> tuple[str, str]:
    name = row["name"] if "name" in row else pathlib.PurePath(row["location"]).stem
    keys = [k for k in row if k in (column, f"{column}s") or k.endswith(f"_{column}")]
    if not keys:
        raise KeyError(column)
    return str(name), row[keys[0]]


def read_events(path: pathlib.Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """True event times (s) of every name, from a JSON object {name: [times]}; an empty list is a clip without any."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        events = {name: np.sort(np.asarray(times, np.float64).reshape(-1)) for name, times in data.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as JSON {{name: [seconds, ...]}} ({error})") from error
    missing = [name for name in names if name not in events]
    if missing:
        raise UserError(f"{path} has no event times for {some(missing)}; add them (an empty list where there are none)")
    return {name: events[name] for name in names}


def checksum(path: pathlib.Path) -> str:
    """Hexadecimal SHA-256 of a file's content; a file that cannot be read is a UserError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def read_scores(path: pathlib.Path, names: Sequence[str]) -> tuple[dict[str, float], str]:
    """(score of every name, checksum of the file): what another program measured clip by clip.

    JSON {name: number}, CSV with the columns name and score, or JSON lines with name (or location) and a ``score`` or a
    key that ends in ``_score``, as the release's scripts for PAM (``q_score``), AA-Align and AV-Align write them.
    """
    out = {}
    for name, text in read_column(path, "score", names).items():
        try:
            out[name] = float(text)
        except ValueError as error:
            raise UserError(f"{path}: the score of {name} is no number ({text!r})") from error
    return out, checksum(path)
