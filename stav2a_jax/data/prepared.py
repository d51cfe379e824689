"""Training on the records of a prepared folder (``stav2a prepare``): the clips, and the features stored with them."""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.cache import cut
from stav2a_jax.data.records import decode_frames, find_set, open_records
from stav2a_jax.tensors import read_safetensors
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import atomic

INDEXED = ("id", "caption", "seconds", "av_align", "onsets")
RECENT = 64
"""Records that are kept read: a batch asks for the features and for the latents of the same clips."""

ENCODERS = {
    "video": ("video/",),
    "text": ("text/",),
    "moments": ("autoencoder/encoder/", "autoencoder/quant_conv/"),
    "decoder": ("autoencoder/decoder/", "autoencoder/post_quant_conv/"),
}
"""Weights that make a stored field. The decoder makes none: it tells a VAE whose encoder was left out of a bundle."""


class PreparedClips:
    """``Clips`` of one split of a prepared folder.

    ``index`` is a folder for the list of what all records say (lengths, captions, onsets, AV-Align), which is read
    through once. ``level`` as in ``SoundConfig``: 'kept' removes the mean, 'peak' also sets the peak to 0.5.
    """

    def __init__(self, folder: pathlib.Path, split: str, index: pathlib.Path, level: str) -> None:
        self._made_of = pathlib.Path(folder), split, index, level
        self._source, self._level = open_records(folder, split), level
        self.info, self.fields = self._source.info, self._source.fields
        self.records = self._indexed(index)
        self.read = functools.lru_cache(RECENT)(self._source.__getitem__)

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedClips, self._made_of

    def __len__(self) -> int:
        return len(self.records)

    def video(self, i: int, start: int, count: int) -> np.ndarray:
        record = self.read(i)
        if "frames" not in record:
            raise UserError(
                f"{self._source.folder} stores no pictures, which this stage trains on; prepare it with --frames jpeg"
            )
        return decode_frames(record["frames"], record["frame_sizes"], start, count)

    def wave(self, i: int, start: int, count: int) -> np.ndarray:
        x = self.read(i)["wave"].astype(np.float32) / 32768
        x = x - x.mean()
        if self._level == "peak":
            x = 0.5 * x / (np.abs(x).max() + 1e-8)
        return cut(np.clip(x, -1.0, 1.0), start, count)

    def _indexed(self, folder: pathlib.Path) -> list[dict[str, Any]]:
        place = find_set(self._source.folder)
        # the set's own files say nothing of its words: a corrected caption may leave every size as it was
        files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(place.iterdir())]
        key = hashlib.sha256(json.dumps(["index 2", str(place.absolute()), files]).encode()).hexdigest()[:16]
        split = "".join(c if c.isalnum() or c in "-%" else "_" for c in self._source.split)
        path = folder / f"prepared_{key}_{split}.json"
        if not path.exists():
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(self._lines()))
        return json.loads(path.read_text())

    def _lines(self) -> list[dict[str, Any]]:
        from rich.progress import track

        lines = []
        for i in track(range(len(self._source)), f"reading {self._source.split} records"):
            record = self._source[i]
            line = {name: np.asarray(record[name]).tolist() for name in INDEXED}
            pictures = len(record["frame_sizes"]) if "frame_sizes" in record else 0
            lines.append({**line, "frames": pictures, "samples": len(record["wave"])})
        return lines


class PreparedRows:
    """Rows of a field of all records, such as ``video`` or ``moments``; behind a clip's end its last row is held."""

    def __init__(self, clips: PreparedClips, field: str) -> None:
        self._clips, self._field = clips, field

    def rows(self, i: int, start: int, count: int) -> np.ndarray:
        return cut(self._clips.read(i)[self._field], start, count, hold=True).astype(np.float32)


def encoder_digests(weights: Mapping[str, np.ndarray], parts: Collection[str] = tuple(ENCODERS)) -> dict[str, str]:
    """SHA-256 of those of :data:`ENCODERS` that flat ``weights`` ("group/path" -> array) hold, by name.

    Of their values in float16, so that a run's float32 parameters and the bundle made of them agree.
    """
    found = {}
    for part in parts:
        digest, names = hashlib.sha256(), sorted(name for name in weights if name.startswith(ENCODERS[part]))
        for name in names:
            with np.errstate(over="ignore"):
                half = weights[name].astype("<f2")
            digest.update(f"{name} {half.shape}\n".encode() + half.tobytes())
        if names:
            found[part] = digest.hexdigest()
    return found


def digests_of_files(bundle: pathlib.Path, vae: pathlib.Path | None) -> dict[str, str]:
    """:func:`encoder_digests` of a bundle's weights file; with ``vae``, a file with an autoencoder, of that one's."""
    weights = read_safetensors(bundle)
    if vae is not None:
        weights = weights.where(lambda key: not key.startswith("autoencoder/"))
        weights |= read_safetensors(vae).where(lambda key: key.startswith("autoencoder/"))
    return encoder_digests(weights)


def same_encoder(known: Mapping[str, str], field: str, weights: Mapping[str, np.ndarray]) -> bool:
    """Whether a field's encoder, one of the ``known`` digests of a set, is the one in flat ``weights``.

    Where either side has no encoder of the VAE, as a bundle for sampling has none, their decoders are compared. True
    too where there is nothing to compare.
    """
    for part in (field, "decoder") if field == "moments" else (field,):
        found = encoder_digests(weights, (part,)).get(part) if part in known else None
        if found is not None:
            return found == known[part]
    return True


def open_clips(folder: str, split: str, index: pathlib.Path, model: ModelConfig) -> PreparedClips:
    """The clips of a split for a model. Raises UserError where the set was prepared for another one."""
    clips = PreparedClips(pathlib.Path(folder), split, index, model.sound.level)
    wanted: dict[str, Any] = {"sample_rate": model.latent.sample_rate, "latent_fps": model.latent.frames_per_second}
    found = {name: clips.info[name] for name in wanted}
    if {"frames", "video"} & clips.fields.keys():
        wanted |= {"video_fps": model.video.fps, "frame_size": model.video.size}
        found |= {name: clips.info[name] for name in ("video_fps", "frame_size")}
    shapes = {"video": (model.video.features,), "moments": (model.latent.bins, 2 * model.autoencoder.embed_channels)}
    for field, shape in shapes.items():
        if field in clips.fields:
            wanted[field], found[field] = shape, tuple(clips.fields[field].shape[1:])
    wrong = [f"{name} {found[name]} (config: {value})" for name, value in wanted.items() if found[name] != value]
    if wrong:
        raise UserError(f"{folder} was prepared for another model: {', '.join(wrong)}")
    return clips
