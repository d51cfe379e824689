"""Weights on disk, one tensor at a time: a lazy mapping, and safetensors files read and written as a stream.

A file is never held in memory as a whole: a converted checkpoint costs its largest tensor. The library's own writer
wants every tensor at once, so the file is written here; the format is an 8-byte length, a JSON header and the data.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from stav2a_jax.types import UserError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The format's names of the dtypes that are read and written."""

Shape = tuple[int, ...]
Progress = Callable[[int], object]
"""Called with the bytes just done."""


class Entry(NamedTuple):
    """A tensor that is not read yet."""

    shape: Shape
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Tensors(Mapping[str, np.ndarray]):
    """Read-only mapping key -> array that reads a tensor each time it is asked for, and knows every shape before."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = dict(entries)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Tensors:
        """Tensors that are in memory."""

        def entry(array: np.ndarray) -> Entry:
            return Entry(array.shape, array.dtype, lambda: array)

        return cls({key: entry(np.asarray(value)) for key, value in arrays.items()})

    def __getitem__(self, key: str) -> np.ndarray:
        return self.entries[key].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: Tensors) -> Tensors:
        """Both; the right one's where both have a key."""
        return Tensors(self.entries | other.entries)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {key: entry.shape for key, entry in self.entries.items()}

    @property
    def nbytes(self) -> int:
        return sum(size(entry) for entry in self.entries.values())

    def where(self, keep: Callable[[str], bool]) -> Tensors:
        return Tensors({key: entry for key, entry in self.entries.items() if keep(key)})

    def under(self, prefix: str) -> Tensors:
        """What lies below a prefix, without it."""
        n = len(prefix)
        return Tensors({key[n:]: entry for key, entry in self.entries.items() if key.startswith(prefix)})

    def prefixed(self, prefix: str) -> Tensors:
        return Tensors({prefix + key: entry for key, entry in self.entries.items()})

    def cast(self, dtype: np.dtype) -> Tensors:
        """Floating tensors in another dtype; the others as they are."""
        return Tensors({key: _cast(entry, np.dtype(dtype)) for key, entry in self.entries.items()})


def is_float(dtype: np.dtype) -> bool:
    """Floating point, bfloat16 included."""
    return dtype.kind == "f" or dtype == DTYPES["BF16"]


def size(entry: Entry) -> int:
    """Bytes of a tensor."""
    return math.prod(entry.shape) * entry.dtype.itemsize


def _cast(entry: Entry, dtype: np.dtype) -> Entry:
    if not is_float(entry.dtype) or entry.dtype == dtype:
        return entry
    return Entry(entry.shape, dtype, lambda: entry.read().astype(dtype))


def read_safetensors(path: pathlib.Path) -> Tensors:
    """Tensors of a safetensors file. Raises UserError where it is damaged or has an unknown dtype, or OSError."""
    try:
        with safe_open(path, "numpy"):  # the library checks lengths, overlaps and holes
            pass
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, ValueError, struct.error) as e:
        raise UserError(f"{path} cannot be read as safetensors, it is damaged or cut short ({e}): copy it again") from e
    header.pop("__metadata__", None)
    unknown = sorted({item["dtype"] for item in header.values()} - set(DTYPES))
    if unknown:
        raise UserError(f"{path} holds tensors of type {', '.join(unknown)}, which cannot be read; store it as F32")
    return Tensors({key: _entry(path, 8 + length, item) for key, item in header.items()})


def _entry(path: pathlib.Path, start: int, item: Mapping) -> Entry:
    shape, dtype, (begin, end) = tuple(item["shape"]), DTYPES[item["dtype"]], item["data_offsets"]

    def read() -> np.ndarray:
        # read, not mapped: mapped pages would stay in the process's memory
        return np.fromfile(path, np.uint8, end - begin, offset=start + begin).view(dtype).reshape(shape)

    return Entry(shape, dtype, read)


def write_safetensors(
    path: pathlib.Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = lambda done: None,
) -> None:
    """Write a safetensors file under a temporary name, one tensor in memory at a time, and put it in its place."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    # wide numbers first, as the library does: every tensor is then aligned
    order = sorted(tensors.entries, key=lambda key: (-tensors.entries[key].dtype.itemsize, key))
    position = 0
    for key in order:
        entry = tensors.entries[key]
        end = position + size(entry)
        header[key] = {"dtype": names[entry.dtype], "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key in order:
            entry, array = tensors.entries[key], tensors[key]
            if array.shape != entry.shape or array.dtype != entry.dtype:
                raise ValueError(f"{key}: {array.dtype} {array.shape}, announced as {entry.dtype} {entry.shape}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            progress(size(entry))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name beside ``path`` that takes its place at the end, or is removed where something goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
