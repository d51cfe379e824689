"""Reading what the page exports: answers are held against the key, and inattentive raters are named with reasons."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stav2a_jax.errors import UserError
from stav2a_jax.listening.build import KEY, VERSION
from stav2a_jax.listening.design import HIGHEST, LOWEST, NAMES

ANSWERS = "stav2a-listen-answers"
TOLERANCE = 4  # of a slider from what a check asks for; what it asks for are multiples of ten


@dataclasses.dataclass(frozen=True)
class Key:
    """What a page's files are. media: id -> (clip, system); checks: id -> the value that all sliders must have."""

    path: pathlib.Path
    site: str
    title: str
    raters: int
    systems: tuple[str, ...]
    clips: tuple[str, ...]
    media: Mapping[str, tuple[str, str]]
    checks: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Session:
    """One rater's answers: media id -> {scale: value}; ``plays``: how often each was watched to its end."""

    path: pathlib.Path
    rater: int
    ratings: Mapping[str, Mapping[str, int]]
    plays: Mapping[str, int]


def read_json(path: pathlib.Path, wanted: str, what: str) -> dict[str, Any]:
    """A JSON object of the given format and of a version that is known, else UserError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path.") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON, or only a part of it; export the answers again.") from None
    if not isinstance(data, dict) or data.get("format") != wanted:
        raise UserError(f"{path}: is not {what} (its format is not {wanted!r}); leave it out.")
    if data.get("version") != VERSION:
        raise UserError(f"{path}: is of version {data.get('version')!r}, and only {VERSION} is known; update stav2a.")
    return data


def read_key(path: pathlib.Path) -> Key:
    """The key that ``build`` wrote."""
    data = read_json(path, KEY, "the key of a listening test")
    try:
        return Key(
            path=path,
            site=data["site"],
            title=data["title"],
            raters=data["raters"],
            systems=tuple(data["systems"]),
            clips=tuple(data["clips"]),
            media={i: (entry["clip"], entry["system"]) for i, entry in data["media"].items()},
            checks={i: int(value) for i, value in data["checks"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}); use the key as it was written by listen build.") from None


def find_key(files: Sequence[pathlib.Path]) -> Key:
    """The key of the answers' site among the *.key.json here, beside the answers, or one folder above them."""
    site = _site(files[0])
    folders = dict.fromkeys(
        f.resolve() for file in files for f in (pathlib.Path(), file.parent, file.resolve().parent.parent)
    )
    keys = []
    for path in (p for folder in folders for p in sorted(folder.glob("*.key.json"))):
        with contextlib.suppress(UserError):  # other programs call their files so too
            keys.append(read_key(path))
    fitting = [key for key in keys if key.site == site]
    if fitting:
        return fitting[0]
    if keys:
        said = ", ".join(f"{key.path} (of site {key.site})" for key in keys)
        raise UserError(
            f"{files[0]}: belongs to site {site}, but the keys found are {said}; name the right one as --key."
        )
    raise UserError(
        "No *.key.json of a listening test lies here, beside the answers, or one folder above; name it as --key."
    )


def _site(path: pathlib.Path) -> str:
    return str(read_json(path, ANSWERS, "a file of answers").get("site"))


def read_sessions(files: Sequence[pathlib.Path], key: Key) -> list[Session]:
    """All sessions by rater number. UserError for a bad file, answers for another site, and a rater given twice."""
    if not files:
        raise UserError("No answers are given; name the files that raters exported.")
    sessions = [read_session(path, key) for path in files]
    for rater, count in Counter(s.rater for s in sessions).items():
        if count > 1:
            same = ", ".join(str(s.path) for s in sessions if s.rater == rater)
            raise UserError(f"Rater {rater} is there {count} times ({same}); keep one of these files.")
    return sorted(sessions, key=lambda s: s.rater)


def read_session(path: pathlib.Path, key: Key) -> Session:
    """One file of answers, held against the key. Training is left out."""
    data = read_json(path, ANSWERS, "a file of answers")
    if data.get("site") != key.site:
        raise UserError(f"{path}: belongs to site {data.get('site')}, not to {key.site} of {key.path}; leave it out.")
    rater = data.get("rater")
    if type(rater) is not int or not 1 <= rater <= key.raters:
        raise UserError(f"{path}: its rater number {rater!r} does not lie between 1 and {key.raters}; leave it out.")
    ratings: dict[str, dict[str, int]] = {}
    plays: dict[str, int] = {}
    rows = data.get("answers")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: is damaged, 'answers' is not a list of objects; export the answers again.")
    for row in rows:
        if row.get("kind") == "training":
            continue
        name = str(row.get("media"))
        if name not in key.media and name not in key.checks:
            raise UserError(f"{path}: rates {name!r}, which the key does not know; leave the file out.")
        if name in plays:
            raise UserError(f"{path}: rates {name!r} twice; export the answers again.")
        plays[name] = row["plays"] if type(row.get("plays")) is int else 0
        values = {scale: row.get(scale) for scale in NAMES}
        if all(value is None for value in values.values()):  # a clip that could not be played
            continue
        wrong = [f"{s} {v!r}" for s, v in values.items() if type(v) is not int or not LOWEST <= v <= HIGHEST]
        if wrong:
            said = f"whole numbers from {LOWEST} to {HIGHEST}"
            raise UserError(f"{path}: {name} has {', '.join(wrong)} where {said} belong; leave the file out.")
        ratings[name] = values  # type: ignore[assignment]
    return Session(path, rater, ratings, plays)


def reasons(session: Session, key: Key, min_rated: float = 1.0) -> list[str]:
    """Why a rater's answers are not counted; empty for a good one.

    A failed attention check (any slider more than 4 from what was asked), less than ``min_rated`` of the clips rated,
    clips rated that were not watched to the end, one and the same value everywhere.
    """
    out = []
    for name, target in key.checks.items():
        given = session.ratings.get(name)
        if given is None:
            out.append(f"attention check not answered (asked for {target})")
        elif any(abs(value - target) > TOLERANCE for value in given.values()):
            said = ", ".join(f"{scale} {given[scale]}" for scale in NAMES)
            out.append(f"attention check failed (asked for {target}, given {said})")
    rated = [name for name in key.media if name in session.ratings]
    if len(rated) < min_rated * len(key.media) - 1e-9:
        out.append(f"{len(rated)} of {len(key.media)} clips rated")
    unheard = sum(session.plays.get(name, 0) < 1 for name in rated)
    if unheard:
        out.append(f"{unheard} of {len(rated)} rated clips not watched to the end")
    values = {value for name in rated for value in session.ratings[name].values()}
    if len(rated) > 1 and len(values) == 1:
        out.append(f"every slider of every clip at {values.pop()}")
    return out
