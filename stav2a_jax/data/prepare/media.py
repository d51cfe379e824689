"""The pictures and the sound of a clip, whether it is a file or generated, on the clock whose zero is picture 0."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import av
import numpy as np

from stav2a_jax.audio.onsets import ANALYSIS_RATE
from stav2a_jax.audio.wav import sinc_resample
from stav2a_jax.config import SoundConfig
from stav2a_jax.data import foley
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.store import Row
from stav2a_jax.types import UserError
from stav2a_jax.video.container import best_video, open_container, probe
from stav2a_jax.video.decode import read_frames
from stav2a_jax.video.sound import fit, read_channels, resample

_SHORT = 0.5
"""Seconds by which the pictures that are there may end before the container says they do; more is a truncated file."""


class Dropped(Exception):
    """A clip cannot be used. reason: one of :data:`REASONS`; detail: a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Shape(NamedTuple):
    """seconds: exact length. width, height: as shown, in pixels; fps: mean pictures per second."""

    seconds: float
    width: int
    height: int
    fps: float


@functools.lru_cache(maxsize=1)
def generated(seed: int, split: str, index: int) -> foley.Clip:
    """A generated clip; the last one is remembered, because every step asks for it."""
    return foley.make_clip(seed, split, index)


def examine(row: Row, cfg: PrepareSettings) -> Shape:
    """Length and size of a clip, or :class:`Dropped` with what is wrong with it. One picture is decoded."""
    if "generated" in row:
        return Shape(generated(*row["generated"]).seconds, cfg.frame_size, cfg.frame_size, cfg.frame_fps)
    path = row["path"]
    if not os.path.isfile(path):
        raise Dropped("not_a_file", f"{path} is a folder or something else that is no file")
    if not os.path.getsize(path):
        raise Dropped("empty", f"{path} has zero bytes")
    try:
        stated = _streams(path)
        info = probe(path)
    except (UserError, av.error.FFmpegError) as error:
        raise Dropped("unreadable", str(error)) from None
    if info.seconds < stated - _SHORT:
        raise Dropped("truncated", f"{path} ends after {info.seconds:.2f} of {stated:.2f} s")
    if info.seconds < cfg.min_seconds:
        raise Dropped("too_short", f"{path}: {info.seconds:.2f} s, at least {cfg.min_seconds:g} are wanted")
    if info.seconds > cfg.max_seconds:
        raise Dropped("too_long", f"{path}: {info.seconds:.2f} s, at most {cfg.max_seconds:g} are wanted")
    if info.width * info.height > cfg.max_pixels:
        raise Dropped("too_large", f"{path}: {info.width}x{info.height}, at most {cfg.max_pixels} pixels are wanted")
    return Shape(info.seconds, info.width, info.height, info.fps)


def _streams(path: str) -> float:
    """The length in seconds that the container states (0 where it states none); Dropped without picture or sound."""
    with open_container(path) as container:
        stream = best_video(container)
        if stream is None:
            raise Dropped("no_video", f"{path} has no video stream")
        if not container.streams.audio:
            raise Dropped("no_audio", f"{path} has no audio track")
        if stream.duration:
            return float(stream.duration * stream.time_base)
        # Matroska and FLV state one end for all streams, and the pictures may well end before the sound
        start = (container.start_time or 0) / av.time_base
        stated = (container.duration or 0) / av.time_base - start
        ends = [float((p.pts + (p.duration or 0)) * p.time_base) for p in container.demux() if p.pts is not None]
        return stated if max(ends, default=start) - start < stated - _SHORT else 0.0


def onset_sound(row: Row) -> np.ndarray:
    """Mean of the channels at the rate of the onset detector, (n,) float32, as ``librosa.load`` gives it."""
    if "generated" in row:
        return foley.render_audio(generated(*row["generated"]), ANALYSIS_RATE)
    samples, rate = _channels(row["path"])
    return resample(samples.mean(0, dtype=np.float32), rate, ANALYSIS_RATE)


def sound(row: Row, sample_rate: int, cfg: SoundConfig) -> np.ndarray:
    """The clip's sound at ``sample_rate`` Hz: round(seconds * rate) samples, float32.

    Channel and resampler are as :class:`SoundConfig` says; its level is left to whoever reads the record.
    """
    if "generated" in row:
        wave = foley.render_audio(generated(*row["generated"]), sample_rate)
    else:
        samples, rate = _channels(row["path"])
        mono = samples[0] if cfg.channel == "first" else samples.mean(0, dtype=np.float32)
        wave = (sinc_resample if cfg.resampler == "sinc" else resample)(mono, rate, sample_rate)
    return fit(wave, round(row["seconds"] * sample_rate))


def _channels(path: str) -> tuple[np.ndarray, int]:
    try:
        samples, rate, _ = read_channels(path)
    except (UserError, av.error.FFmpegError) as error:
        raise Dropped("unreadable", str(error)) from None
    if not np.any(samples):
        raise Dropped("silent", f"{path}: every sample of its sound is zero")
    return samples, rate


def pictures(row: Row, fps: float, size: int) -> np.ndarray:
    """Square pictures at a steady rate, (N, size, size, 3) uint8 RGB with N = max(1, round(seconds * fps))."""
    if "generated" in row:
        return foley.render_video(generated(*row["generated"]), size, fps)
    try:
        return read_frames(row["path"], fps, size).frames
    except (UserError, av.error.FFmpegError) as error:
        raise Dropped("unreadable", str(error)) from None
