"""Generated clips rendered once to disk, and quantities derived from them, read by memory map.

A cache is a folder of shards, each written whole and renamed, so that an interrupted preparation goes on where it
stopped. Frames are at the video encoder's rate and size; waveforms are 16-bit.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from stav2a_jax.audio.onsets import onset_times
from stav2a_jax.config import VideoEncoderConfig

SHARD = 50
"""Clips per file."""
FORMAT = 2
"""What the records hold; clips that were rendered when they held less are rendered again."""


def cache_folder(
    root: pathlib.Path, seed: int, split: str, video: VideoEncoderConfig, sample_rate: int
) -> pathlib.Path:
    """Where the clips of (seed, split) at this frame rate, size and sample rate lie."""
    return root / f"foley{FORMAT}_s{seed}_{split}_{video.size}px_{video.fps:g}fps_{sample_rate}"


def prepare(
    folder: pathlib.Path,
    seed: int,
    split: str,
    count: int,
    video: VideoEncoderConfig,
    sample_rate: int,
    workers: int,
    shard_size: int = SHARD,
) -> None:
    """Render clips 0..count-1 that are not there yet, with progress; in this process if one worker is enough."""
    from rich.progress import track

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {k: min(shard_size, count - k * shard_size) for k in range(-(-count // shard_size))}
    jobs = [
        (folder, seed, split, k, video.fps, video.size, sample_rate, size, shard_size)
        for k, size in sizes.items()
        if _records(folder, k) < size
    ]
    if not jobs:
        return
    title, workers = f"rendering {split} clips", min(workers, len(jobs))
    if workers <= 1:
        for job in track(jobs, title):
            _render_shard(*job)
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the threads of jax
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        done = concurrent.futures.as_completed([pool.submit(_render_shard, *job) for job in jobs])
        for future in track(done, title, len(jobs)):
            future.result()


def _path(folder: pathlib.Path, shard: int, kind: str) -> pathlib.Path:
    return folder / f"{shard:05d}.{kind}"


def _records(folder: pathlib.Path, shard: int) -> int:
    """Clips that a shard holds; 0 where it is not there, fewer than its size where it was made for a smaller run."""
    path = _path(folder, shard, "json")
    return len(json.loads(path.read_text())) if path.exists() else 0


def _render_shard(
    folder: pathlib.Path,
    seed: int,
    split: str,
    shard: int,
    fps: float,
    size: int,
    sample_rate: int,
    count: int = SHARD,
    shard_size: int = SHARD,
) -> None:
    from stav2a_jax.data import foley

    frames, waves, records = [], [], []
    for index in range(shard * shard_size, shard * shard_size + count):
        clip = foley.make_clip(seed, split, index)
        wave = foley.render_audio(clip, sample_rate)
        frames.append(foley.render_video(clip, size, fps))
        waves.append(np.round(wave * 32767).astype(np.int16))
        record = foley.metadata(clip)
        record["onsets"] = [float(t) for t in onset_times(wave, sample_rate)]
        if clip.picture_shows_material:
            record["plain_caption"] = foley.plain_caption(clip)
        record["frames"], record["samples"] = len(frames[-1]), len(wave)
        records.append(record)
    _write(_path(folder, shard, "video.npy"), np.concatenate(frames))
    _write(_path(folder, shard, "wave.npy"), np.concatenate(waves))
    # The record comes last: a shard exists when it does.
    temporary = _path(folder, shard, "json.part")
    temporary.write_text(json.dumps(records))
    os.replace(temporary, _path(folder, shard, "json"))


def _write(path: pathlib.Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as f:
        np.save(f, array)
    os.replace(temporary, path)


class ClipCache:
    """Random access to prepared clips.

    ``records[i]``: metadata with ``caption``, ``events``, ``onsets`` (s, pseudo-labels from the audio), ``frames``, and
    ``plain_caption`` where the picture shows the material: a sentence that does not say it.
    """

    def __init__(self, folder: pathlib.Path, count: int, shard_size: int = SHARD) -> None:
        self.folder, self._made_of = folder, (folder, count, shard_size)
        self.records: list[dict[str, Any]] = []
        self._frames: list[tuple[int, int]] = []
        self._samples: list[tuple[int, int]] = []
        self._video, self._wave = [], []
        for shard in range(-(-count // shard_size)):
            frame = sample = 0
            for record in json.loads(_path(folder, shard, "json").read_text()):
                self.records.append(record)
                self._frames.append((shard, frame))
                self._samples.append((shard, sample))
                frame, sample = frame + record["frames"], sample + record["samples"]
            self._video.append(np.load(_path(folder, shard, "video.npy"), mmap_mode="r"))
            self._wave.append(np.load(_path(folder, shard, "wave.npy"), mmap_mode="r"))
        self.records = self.records[:count]

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipCache, self._made_of  # a worker process opens the files itself

    def __len__(self) -> int:
        return len(self.records)

    def video(self, i: int, start: int, count: int) -> np.ndarray:
        """(count, H, W, 3) uint8 from frame ``start``; behind the end the last frame is held."""
        shard, first = self._frames[i]
        return cut(self._video[shard][first : first + self.records[i]["frames"]], start, count, hold=True)

    def wave(self, i: int, start: int, count: int) -> np.ndarray:
        """(count,) float32 from sample ``start``; zeros behind the end."""
        shard, first = self._samples[i]
        return (
            cut(self._wave[shard][first : first + self.records[i]["samples"]], start, count).astype(np.float32) / 32767
        )


class Derived:
    """Rows of all clips in one float16 array; behind a clip's end its last row is held."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self._made_of = folder, name
        self._rows = np.load(folder / f"{name}.npy", mmap_mode="r")
        self._offsets = np.load(folder / f"{name}.offsets.npy")

    def __reduce__(self) -> tuple[Any, ...]:
        return Derived, self._made_of

    def length(self, i: int) -> int:
        return int(self._offsets[i + 1] - self._offsets[i])

    def rows(self, i: int, start: int, count: int) -> np.ndarray:
        return cut(self._rows[self._offsets[i] : self._offsets[i + 1]], start, count, hold=True).astype(np.float32)


def write_derived(folder: pathlib.Path, name: str, arrays: Iterable[np.ndarray], clips: str | None = None) -> None:
    """Store one (n_i, ...) array per clip as float16, one of them in memory at a time.

    ``clips``: whose rows they are, ``clips.ids_digest``. The offsets come last: rows without them are not there.
    """
    offsets, noted = folder / f"{name}.offsets.npy", folder / f"{name}.clips"
    for path in (offsets, noted):
        path.unlink(missing_ok=True)
    temporary, ends = folder / f"{name}.part", [0]
    row: tuple[int, ...] = ()
    with open(temporary, "wb") as file:  # written, not mapped: mapped pages would count as the process's memory
        for array in arrays:
            half = np.ascontiguousarray(array, "<f2")
            if not row:
                row = half.shape[1:]
                _write_header(file, (0, *row))
            file.write(half.data)
            ends.append(ends[-1] + len(half))
        file.seek(0)
        _write_header(file, (ends[-1], *row))
    os.replace(temporary, folder / f"{name}.npy")
    if clips is not None:
        noted.write_text(clips)
    _write(offsets, np.array(ends))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The start of a float16 .npy file. Its length is one for any number of rows: NumPy leaves room for the digits."""
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def has_derived(folder: pathlib.Path, name: str, count: int, clips: str | None = None) -> bool:
    """Whether the rows of all ``count`` clips are there, and are of those ``clips`` where they have ids."""
    path, noted = folder / f"{name}.offsets.npy", folder / f"{name}.clips"
    whole = path.exists() and (folder / f"{name}.npy").exists() and len(np.load(path)) == count + 1
    return whole and (clips is None or (noted.exists() and noted.read_text() == clips))


def cut(rows: np.ndarray, start: int, count: int, hold: bool = False) -> np.ndarray:
    """(count, ...) of ``rows`` (N, ...) from ``start``; behind the end zeros, or the last row if ``hold``."""
    piece = rows[start : start + count]
    missing = count - len(piece)
    if not missing:
        return np.asarray(piece)
    tail = np.repeat(rows[-1:], missing, axis=0) if hold else np.zeros((missing, *rows.shape[1:]), rows.dtype)
    return np.concatenate([piece, tail])
