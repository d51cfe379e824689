"""Files of a preparation: one per step and chunk, whole or absent, each with the key of all that it depends on.

A file is a line of JSON (key, checksum, how long it took) and one line of JSON per clip. Whether a chunk is done is
asked of its file and of nothing else, so an interrupted run loses the chunks that it had in hand, and no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from stav2a_jax.types import UserError

Row = dict[str, Any]
"""A clip: ``id``, ``split``, and what the steps found out; ``dropped`` = {reason, detail} ends its way.

``again``: it was dropped by what may be mended (the machine, the program), so the next run tries it again.
"""


class Header(NamedTuple):
    """First line of a chunk's file. sha256: of its other lines; arrays: of the file of arrays beside it, if any.

    seconds: processor seconds that the chunk took; kept, dropped: numbers of clips; again: of the dropped ones that
    the next run tries again.
    """

    key: str
    sha256: str
    kept: int
    dropped: int
    seconds: float
    arrays: str = ""
    again: int = 0


def digest(*parts: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """UserError where ``path`` cannot be written: a full disk ends a run, and is no clip's fault."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}); make room, or choose another --out.") from None


def write_atomic(path: pathlib.Path, data: bytes) -> None:
    """Write a file under a temporary name, force it to disk, and put it in its place. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_chunk(path: pathlib.Path, key: str, rows: list[Row], seconds: float, arrays: str = "") -> Header:
    """Write the rows of a chunk; where it has arrays, their file must be there already."""
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    dropped, again = (sum(name in row for row in rows) for name in ("dropped", "again"))
    sha256 = hashlib.sha256(body).hexdigest()
    header = Header(key, sha256, len(rows) - dropped, dropped, round(seconds, 4), arrays, again)
    write_atomic(path, json.dumps(header._asdict()).encode() + b"\n" + body)
    return header


def read_header(path: pathlib.Path) -> Header | None:
    """The header of a chunk's file, None where there is no such file or it has no proper header."""
    try:
        with open(path, "rb") as file:
            return Header(**json.loads(file.readline()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def read_chunk(path: pathlib.Path, *, kept_only: bool = False) -> list[Row]:
    """Rows of a chunk; UserError where they are not the ones that were written."""
    try:
        with open(path, "rb") as file:
            header, body = Header(**json.loads(file.readline())), file.read()
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the preparation again.") from error
    if hashlib.sha256(body).hexdigest() != header.sha256:
        raise UserError(f"{path} is damaged (wrong checksum); delete it and run the preparation again.")
    rows = [json.loads(line) for line in body.splitlines()]
    return [row for row in rows if "dropped" not in row] if kept_only else rows


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Only one preparation at a time works in a folder; the lock goes with the process, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a")  # noqa: SIM115 (held until the block ends)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another --out.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another preparation is at work in {folder}; wait for it or stop it.") from None
        yield
