"""What training needs of a set of clips, wherever they come from, and which of them a run leaves out."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pathlib
from typing import Any, Protocol

import cv2
import numpy as np

from stav2a_jax.config import DataConfig
from stav2a_jax.metrics.align import released_av_align, trajectory_peaks
from stav2a_jax.metrics.flow_cache import RELEASED, mean_flow
from stav2a_jax.types import UserError


class Clips(Protocol):
    """Random access to the clips of a split; can be sent to worker processes.

    ``records[i]``: ``seconds``, ``caption``, ``onsets`` (s), ``frames`` and ``samples`` (how many there are),
    and perhaps ``plain_caption``, which leaves to the picture what the picture shows.
    """

    records: list[dict[str, Any]]

    def __len__(self) -> int: ...

    def video(self, i: int, start: int, count: int) -> np.ndarray:
        """(count, H, W, 3) uint8 from frame ``start``; behind the end the last frame is held."""

    def wave(self, i: int, start: int, count: int) -> np.ndarray:
        """(count,) float32 from sample ``start``; zeros behind the end."""


class Rows(Protocol):
    """Rows of all clips at some rate: latents, features."""

    def rows(self, i: int, start: int, count: int) -> np.ndarray:
        """(count, ...) float32 from row ``start``; behind a clip's end its last row is held."""


def ids_digest(clips: Clips) -> str | None:
    """SHA-256 of the clips' ids in their order; None for generated clips, which have none (their seed says it all)."""
    ids = [record.get("id") for record in clips.records]
    return None if not ids or None in ids else hashlib.sha256(json.dumps(ids).encode()).hexdigest()


class ForeignPictures:
    """Clips, a ``share`` of which show the picture of another one: what an unfiltered collection is like.

    Sound, caption and onsets stay. Which clips these are is a function of (seed, clip).
    """

    def __init__(self, clips: Clips, share: float, seed: int) -> None:
        self._made_of = clips, share, seed
        self._clips = clips
        self.shown = np.array([self._picture_of(i, share, seed, len(clips)) for i in range(len(clips))])
        """Whose picture every clip shows."""
        self.records = [
            {**clips.records[i], "frames": clips.records[j]["frames"]} for i, j in enumerate(self.shown.tolist())
        ]

    @staticmethod
    def _picture_of(clip: int, share: float, seed: int, count: int) -> int:
        rng = np.random.default_rng((seed, clip, 3))
        if count < 2 or rng.random() >= share:
            return clip
        return int((clip + rng.integers(1, count)) % count)

    def __reduce__(self) -> tuple[Any, ...]:
        return ForeignPictures, self._made_of

    def __len__(self) -> int:
        return len(self._clips)

    def video(self, i: int, start: int, count: int) -> np.ndarray:
        return self._clips.video(int(self.shown[i]), start, count)

    def wave(self, i: int, start: int, count: int) -> np.ndarray:
        return self._clips.wave(i, start, count)


def kept(clips: Clips, cfg: DataConfig) -> np.ndarray | None:
    """(N,) bool, the clips that the filters of ``cfg`` leave; None without a filter.

    Raises UserError where AV-Align was never measured, and where nothing is left.
    """
    if cfg.min_av_align is None and not cfg.drop_speech:
        return None
    keep = np.ones(len(clips), bool)
    if cfg.min_av_align is not None:
        scores = np.array([record.get("av_align", np.nan) for record in clips.records], np.float64)
        if np.isnan(scores).all():
            raise UserError(
                "data.min_av_align is set, but AV-Align was not measured on these clips; prepare them with "
                "--av-align measure, or set data.min_av_align=None"
            )
        keep &= scores >= cfg.min_av_align  # not defined (NaN): no event to be seen or heard
    if cfg.drop_speech:
        from stav2a_jax.data.prepare.speech import speech_word

        keep &= np.array([speech_word(record["caption"]) is None for record in clips.records])
    if not keep.any():
        raise UserError(f"the filters leave none of {len(clips)} clips; lower data.min_av_align")
    return keep


def measure_av_align(clips: Clips, fps: float, path: pathlib.Path) -> None:
    """Put ``av_align`` (released definition, on the pictures as they are stored) into the records of ``clips``.

    What has been measured is kept in the file ``path``, and only the clips that it lacks are measured.
    """
    from rich.progress import track

    scores: list[float] = json.loads(path.read_text()) if path.exists() else []
    missing = range(len(scores), len(clips))
    for i in track(missing, "AV-Align of the clips") if missing else ():
        scores.append(_av_align(clips, i, fps))
        if (i + 1) % 100 == 0 or i + 1 == len(clips):
            temporary = path.with_suffix(".part")
            temporary.write_text(json.dumps(scores))
            os.replace(temporary, path)
    clips.records = [{**r, "av_align": score} for r, score in zip(clips.records, scores, strict=False)]


def _av_align(clips: Clips, i: int, fps: float) -> float:
    record = clips.records[i]
    frames = clips.video(i, 0, min(record["frames"], round(record["seconds"] * fps)))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flow = [mean_flow(a, b) for a, b in itertools.pairwise(grey)] or [0.0]
    return released_av_align(record["onsets"], trajectory_peaks([flow[0], *flow], fps, RELEASED.floor), fps)
