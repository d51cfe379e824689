"""The record of one prepared clip: its fields, and how to read a prepared set back. Docs: docs/data.md.

A prepared set is a plain tensorflow-datasets folder of array_record shards. It is read without TensorFlow, at random,
by ``open_records`` (a source for Grain) or by ``tfds.builder_from_directory``.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from stav2a_jax.types import UserError


class Field(NamedTuple):
    """dtype 'text' or a NumPy name; shape without the example, None where the length varies."""

    dtype: str
    shape: tuple[int | None, ...] = ()


BASE: dict[str, Field] = {
    "id": Field("text"),
    "caption": Field("text"),
    "caption_source": Field("text"),
    "label": Field("text"),
    "seconds": Field("float32"),
    "av_align": Field("float32"),
    "onsets": Field("float32", (None,)),
    "wave": Field("int16", (None,)),
}
"""What every record has: seconds, length of the clip; av_align, NaN where it is not known; onsets, times in seconds;
wave, mono at the set's sample rate, full scale 32768, round(seconds * rate) samples."""

FRAMES: dict[str, Field] = {"frames": Field("uint8", (None,)), "frame_sizes": Field("int32", (None,))}
"""Stored pictures: JPEG or PNG files end to end, and the bytes of each; see :func:`decode_frames`."""


def feature_fields(video: int, text: int, moments: tuple[int, int] | None) -> dict[str, Field]:
    """Fields of the features, float16: video (T, D), text (L, d), moments (frames, bins, 2 C), which may be absent."""
    fields = {"video": Field("float16", (None, video)), "text": Field("float16", (None, text))}
    return fields if moments is None else {**fields, "moments": Field("float16", (None, *moments))}


def example(row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The record of a clip's row (``prepare.steps``) and arrays (``prepare.features``)."""
    score = row["av_align"]
    return {
        "id": row["id"],
        "caption": row["caption"],
        "caption_source": row["caption_source"],
        "label": row["label"],
        "seconds": np.float32(row["seconds"]),
        "av_align": np.float32(np.nan if score is None else score),
        "onsets": np.asarray(row["onsets"], np.float32),
        **arrays,
    }


def encode_frames(pictures: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, 3) uint8 RGB -> (bytes (n,) uint8, size of each picture (N,) int32). 'png' is exact, 'jpeg' is not."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    coded = [cv2.imencode(f".{kind}", picture[..., ::-1], options)[1].reshape(-1) for picture in pictures]
    return np.concatenate(coded), np.array([len(c) for c in coded], np.int32)


def decode_frames(frames: np.ndarray, sizes: np.ndarray, start: int = 0, count: int | None = None) -> np.ndarray:
    """Stored pictures ``start`` to ``start + count``, (count, H, W, 3) uint8 RGB; the last one is held."""
    ends = np.cumsum(sizes)
    wanted = np.arange(start, len(sizes) if count is None else start + count)
    pictures: dict[int, np.ndarray] = {}
    for i in np.unique(np.minimum(wanted, len(sizes) - 1)).tolist():
        coded = np.ascontiguousarray(frames[ends[i] - sizes[i] : ends[i]])
        pictures[i] = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]
    return np.stack([pictures[min(int(i), len(sizes) - 1)] for i in wanted])


class Records:
    """Random access to the records of one split: ``len(records)``, ``records[i]``; can be sent to worker processes.

    A record is a dict of :data:`BASE` and what ``fields`` lists beside it; texts are str, the rest NumPy arrays.
    ``info``: sample_rate, frame_fps, latent_fps, bundle and the settings of the preparation.
    """

    def __init__(self, folder: pathlib.Path, split: str) -> None:
        self.folder, self.split = pathlib.Path(folder), split
        self._open()

    def _open(self) -> None:
        import tensorflow_datasets as tfds

        place = find_set(self.folder)
        builder = tfds.builder_from_directory(str(place))
        self.info: dict[str, Any] = json.loads((place / "metadata.json").read_text())
        self.fields: dict[str, Field] = {k: Field(d, tuple(s)) for k, (d, s) in self.info["fields"].items()}
        if self.split.split("[")[0] not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits))
            raise UserError(f"{place} has no split {self.split!r}; it has {known}.")
        self._source = builder.as_data_source(self.split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        record = self._source[index]
        texts = {k: record[k].decode() for k, field in self.fields.items() if field.dtype == "text"}
        return {**record, **texts}

    def __getstate__(self) -> tuple[pathlib.Path, str]:
        return self.folder, self.split

    def __setstate__(self, state: tuple[pathlib.Path, str]) -> None:
        self.folder, self.split = state
        self._open()


def open_records(folder: pathlib.Path, split: str) -> Records:
    """Records of a split ('train', 'train[:500]') of a prepared set; ``folder`` is --out of ``stav2a prepare``, or
    the folder of the shards. UserError where there is no such set or split."""
    return Records(folder, split)


def find_set(folder: pathlib.Path) -> pathlib.Path:
    """The folder with the shards: itself, or the only NAME/VERSION below it."""
    for pattern in (".", "*", "*/*"):
        found = sorted(path.parent for path in pathlib.Path(folder).glob(f"{pattern}/dataset_info.json"))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{folder} holds several sets ({', '.join(map(str, found))}); name one of them.")
    raise UserError(f"{folder} holds no prepared set; make one with stav2a prepare.")
