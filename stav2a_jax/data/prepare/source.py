"""Which clips there are: VGGSound's list and a folder of files, a folder of own videos, or generated clips.

Nothing is opened here. A row that cannot become a clip (missing file, unusable name, listed twice) is kept with its
reason, so that the counts of the report add up to what was asked for.
"""

from __future__ import annotations

import csv
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stav2a_jax.data.prepare.store import Row
from stav2a_jax.types import UserError

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".flv", ".3gp", ".mpg", ".mpeg", ".ts")
"""Files with these names are videos; where two have one name, the earlier suffix is taken."""

SPLITS = {"train": "train", "test": "test", "valid": "valid", "val": "valid", "validation": "valid"}
_YOUTUBE = re.compile(r"[\w-]{11}")
_CLIP_SECONDS = 10  # VGGSound's length, which some downloaders put into the file name


class Source(NamedTuple):
    """rows: every clip that was asked for, in a fixed order. unlisted: video files that no row asked for.

    name: of the data set, 'vggsound' or 'foley'.
    """

    name: str
    rows: list[Row]
    unlisted: int


def from_vggsound(listing: pathlib.Path, folder: pathlib.Path, limit: int | None = None) -> Source:
    """VGGSound's csv (YouTube id, start in seconds, label, split) and the folder with what one has of it.

    Files may lie in subfolders and be named ID_000030, ID_30, ID_30_40, ID_30000_40000 or, where the list has one start
    of it, ID (any of SUFFIXES). The first ``limit`` lines are taken; the others still say which files are listed.
    Raises UserError for an absent or empty list or folder.
    """
    files, rows = _index(folder), []
    starts: dict[str, set[int]] = {}
    for number, cells in _csv_rows(listing):
        row = _vggsound_row(cells, number)
        if "trouble" not in row:
            known = starts.setdefault(row["youtube"], set())
            if row["start"] in known:
                row["trouble"] = ("duplicate", f"line {number}: {row['id']} was listed before")
            known.add(row["start"])
        rows.append(row)
    if not rows:
        raise UserError(f"{listing} lists no clip; expected lines like 'id,start,label,split'.")
    used = {_find(row, files, starts[row["youtube"]]) for row in rows if "trouble" not in row}
    return Source("vggsound", rows[:limit], len(files) - len(used - {None}))


def _find(row: Row, files: dict[str, pathlib.Path], starts: set[int]) -> pathlib.Path | None:
    """The file named as the row says; the row gets its path, or a trouble. starts: all that the list has of its id."""
    names = file_names(row["youtube"], row["start"])
    found = next((files[name] for name in names if name in files), None)
    if found is None:
        row["trouble"] = ("missing", f"no file {row['id']}.* in the folder")
    elif found.stem == row["youtube"] and len(starts) > 1:  # else several clips would have the same sound
        detail = f"{found.name} does not say which of the {len(starts)} starts that the list has of it is meant"
        row["trouble"] = ("missing", f"no file {row['id']}.* in the folder; {detail}")
    else:
        row["path"] = str(found)
    return found


def file_names(youtube: str, start: int) -> list[str]:
    """File names, without suffix, under which people keep a clip; the usual one first."""
    end = start + _CLIP_SECONDS
    numbers = [f"{start:06d}", f"{start}", f"{start}_{end}", f"{start:06d}_{end:06d}", f"{start * 1000}_{end * 1000}"]
    return [*(f"{youtube}_{n}" for n in numbers), youtube]


def _csv_rows(listing: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """(line number in the file, cells) of every line but comments and a header."""
    try:
        with open(listing, newline="", encoding="utf-8-sig") as file:
            reader, first = csv.reader(file), True
            for cells in reader:
                if not cells or cells[0].startswith("#"):
                    continue
                cells = [cell.strip() for cell in cells]
                if not (first and _is_header(cells)):
                    yield reader.line_num, cells
                first = False
    except FileNotFoundError:
        raise UserError(f"{listing}: no such file; give VGGSound's csv.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{listing} cannot be read as csv ({error}).") from None


def _is_header(cells: list[str]) -> bool:
    """Whether a column is named as no clip's could be: 'youtube_id,start_seconds,label,split'."""
    return any(cell.lower().startswith("start") for cell in cells[1:2]) or cells[-1].lower() == "split"


def _vggsound_row(cells: list[str], number: int) -> Row:
    """The row of a csv line, with a trouble where it is not 'id,start,label,split'."""
    name = f"line_{number}"
    if len(cells) != 4:
        return _bad(name, f"line {number} has {len(cells)} cells, expected id,start,label,split")
    youtube, start, label, split = cells
    if not _YOUTUBE.fullmatch(youtube):
        return _bad(name, f"line {number}: {youtube!r} is no YouTube id")
    if not re.fullmatch(r"\d{1,6}(\.0*)?", start):
        return _bad(name, f"line {number}: the start {start!r} is no number of seconds")
    if split.lower() not in SPLITS:
        return _bad(name, f"line {number}: unknown split {split!r}")
    seconds = int(float(start))
    return {
        "id": f"{youtube}_{seconds:06d}",
        "youtube": youtube,
        "start": seconds,
        "label": label,
        "split": SPLITS[split.lower()],
    }


def _bad(name: str, detail: str, split: str = "train") -> Row:
    return {"id": name, "split": split, "trouble": ("bad_name", detail)}


def _index(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name without suffix -> video file, of a folder and all below it."""
    found: dict[str, pathlib.Path] = {}
    for path in _videos(folder):
        known = found.get(path.stem)
        if known is None or _rank(path) < _rank(known):
            found[path.stem] = path
    return found


def _rank(path: pathlib.Path) -> int:
    return SUFFIXES.index(path.suffix.lower())


def _videos(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Video files (or what is named like one) of a folder and its subfolders, in alphabetical order.

    Links to folders are entered, unless they lead to a folder in which they lie.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the videos.")
    above = {os.fspath(folder): {os.path.realpath(folder)}}  # place -> itself and the folders around it, without links
    for place, folders, files in os.walk(folder, followlinks=True):
        around = above.pop(place)
        named = [n for n in folders if n.lower().endswith(SUFFIXES)]
        real = {n: os.path.realpath(os.path.join(place, n)) for n in folders}
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in named and real[n] not in around)
        above |= {os.path.join(place, n): around | {real[n]} for n in folders}
        for name in sorted([*files, *named]):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield pathlib.Path(place, name)


def from_folder(folder: pathlib.Path, limit: int | None = None) -> Source:
    """Every video of a folder. Videos below train/, valid/ or test/ are of that split, the others of train.

    A clip's id is its path below the folder without suffix. Raises UserError for an absent or empty folder.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for path in _videos(folder):
        if limit is not None and len(rows) >= limit:
            break
        below = path.relative_to(folder)
        split = SPLITS.get(below.parts[0].lower(), "train") if len(below.parts) > 1 else "train"
        try:
            name = below.with_suffix("").as_posix()
            name.encode()
        except UnicodeEncodeError:
            shown = below.as_posix().encode(errors="backslashreplace").decode()
            rows.append(_bad(shown, f"the name of {shown} is not UTF-8", split))
            continue
        row: Row = {"id": name, "split": split, "label": "", "start": 0, "path": str(path)}
        if name in seen:
            row["trouble"] = ("duplicate", f"{below} has the name of another video but for its suffix")
        seen.add(name)
        rows.append(row)
    if not rows:
        raise UserError(f"{folder} holds no video ({', '.join(SUFFIXES)}).")
    return Source("vggsound", rows, 0)


def from_foley(counts: Iterable[tuple[str, int]], seed: int, limit: int | None = None) -> Source:
    """Generated clips: (split, how many) of each split wanted; only the first ``limit`` of all."""
    rows = [
        {"id": f"foley_{seed}_{split}_{i:06d}", "split": split, "label": "", "start": 0, "generated": [seed, split, i]}
        for split, count in counts
        for i in range(count)
    ]
    return Source("foley", rows[:limit], 0)


def stamped(row: Row) -> Row:
    """The row with size and time of its file, by which a changed file is noticed."""
    if "path" not in row:
        return row
    try:
        stat = os.stat(row["path"])
    except OSError:
        return {**row, "stamp": None}
    return {**row, "stamp": [stat.st_size, stat.st_mtime_ns]}
