"""Reading the sound of any video or sound file, sample 0 at the first picture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import av
import numpy as np

from stav2a_jax.types import UserError
from stav2a_jax.video.container import PathLike, best_video, decode_packets, open_container, probe

_GAP = 0.02  # seconds; a shorter hole between audio frames is rounding (Matroska counts milliseconds), not a hole
_LONGEST_HOLE = 3600.0  # seconds; a longer one, longer than the film too, is a jump of the clock and asks for gigabytes


class Audio(NamedTuple):
    """wave (n,) float32 mono, sample 0 at ``start`` of the video's clock; channels and native_rate of the source."""

    wave: np.ndarray
    sample_rate: int
    channels: int
    native_rate: int


class Channels(NamedTuple):
    """samples (channels, n) float32 at sample_rate; announced: length in s that the file claims, None if unknown."""

    samples: np.ndarray
    sample_rate: int
    announced: float | None


def read_audio(
    path: PathLike, sample_rate: int | None = None, *, start: float = 0.0, seconds: float | None = None
) -> Audio:
    """Mono sound of a video (or sound) file: mean of its channels, resampled with soxr HQ, as ``librosa.load`` does.

    Encoder priming and end padding are removed, so that sample 0 belongs to the first picture and the length is
    that of the audio stream. ``sample_rate`` None keeps the source's rate. ``seconds`` gives exactly
    ``round(seconds * sample_rate)`` samples, zeros behind the end. Raises :class:`UserError` without an audio track.
    """
    last = math.inf if seconds is None else start + seconds + 1.0
    samples, rate, _ = _read(path, last)
    channels, wave = len(samples), samples.mean(0, dtype=np.float32)
    if sample_rate is not None and sample_rate != rate:
        wave, rate, native = resample(wave, rate, sample_rate), sample_rate, rate
    else:
        native = rate
    wave = wave[round(start * rate) :]
    if seconds is not None:
        wave = fit(wave, round(seconds * rate))
    return Audio(np.ascontiguousarray(wave), rate, channels, native)


def read_channels(path: PathLike) -> Channels:
    """All the sound of a file at its own rate, every channel; placed on the clock and trimmed as :func:`read_audio`."""
    return _read(path, math.inf)


def _read(path: PathLike, last: float) -> Channels:
    """Decoded up to about ``last`` s.

    Raises :class:`UserError` without an audio track, where nothing is in it, or where its clock jumps.
    """
    with open_container(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise UserError(f"{path}: has no audio track.")
        film = best_video(container) is not None
        found = None if film else _decode(container, stream, None, last, _LONGEST_HOLE)
    if found is None:
        info = probe(path)
        with open_container(path) as container:
            longest = max(_LONGEST_HOLE, info.seconds)
            found = _decode(container, container.streams.audio[0], info.start, last, longest)
    if not found.samples.size:
        raise UserError(f"{path}: no sound could be decoded from its audio track.")
    return found


def resample(wave: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """soxr HQ along the first axis; ceil(n * target / source) samples, as librosa counts them."""
    import soxr

    count = math.ceil(len(wave) * (float(target_rate) / source_rate))
    return fit(soxr.resample(wave, source_rate, target_rate, quality="HQ").astype(np.float32, copy=False), count)


def fit(wave: np.ndarray, count: int) -> np.ndarray:
    """Exactly ``count`` samples along the first axis: cut, or zeros appended."""
    return np.pad(wave[:count], [(0, max(0, count - len(wave)))] + [(0, 0)] * (wave.ndim - 1))


def _decode(container: Any, stream: Any, origin: float | None, last: float, longest: float) -> Channels:
    """Every channel, placed on the clock whose zero is ``origin`` (None: first sample), holes filled with silence.

    Channels are kept apart because the decoder's own mono down-mix is louder by sqrt(2). Raises :class:`UserError` for
    a hole longer than ``longest`` s.
    """
    chunks: list[np.ndarray] = []
    position, rate, channels, base = 0, 0, 0, 0.0
    converter: Any = None
    source, layout = None, None
    for frame in decode_packets(container, stream):
        if source is None:
            rate, channels, layout = frame.sample_rate, frame.layout.nb_channels, frame.layout
            begin = frame.time if frame.time is not None else origin or 0.0
            base = begin if origin is None else origin
            position = round((begin - base) * rate)
            chunks.append(_silence(container.name, channels, position, rate, longest))
        if source != (source := (frame.format.name, frame.layout.name, frame.sample_rate)):
            converter = av.AudioResampler(format="fltp", layout=layout, rate=rate)  # broadcasts change in mid-stream
        if frame.time is not None:
            gap = round((frame.time - base) * rate) - position
            if gap > _GAP * rate:
                chunks.append(_silence(container.name, channels, min(gap, gap + position), rate, longest))
                position += gap
        for piece in converter.resample(frame):
            samples = piece.to_ndarray()
            chunks.append(samples[:, max(0, -position) :])
            position += samples.shape[1]
        if position > last * rate:
            break
    samples = np.concatenate(chunks, axis=1) if chunks else np.zeros((channels, 0), np.float32)
    announced = None
    if stream.duration is not None:  # the last packet of AAC holds padding that belongs to no one
        begin = (stream.start_time or 0) * float(stream.time_base)
        announced = begin - base + float(stream.duration * stream.time_base)
        samples = samples[:, : max(0, round(announced * rate))]
    return Channels(samples, rate, announced)


def _silence(path: str, channels: int, count: int, rate: int, longest: float) -> np.ndarray:
    if count > longest * rate:
        raise UserError(f"{path}: the time stamps of its sound jump by {count / rate:.0f} s; convert it again.")
    return np.zeros((channels, max(0, count)), np.float32)
