"""Reading the sound of any video or sound file, sample 0 at the first picture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import av
import numpy as np

from stav2a_jax.types import UserError
from stav2a_jax.video.container import PathLike, best_video, decode_packets, open_container, probe

_GAP = 0.02  # seconds; a shorter hole between audio frames is rounding (Matroska counts milliseconds), not a hole


class Audio(NamedTuple):
    """wave (n,) float32 mono, sample 0 at ``start`` of the video's clock; channels and native_rate of the source."""

    wave: np.ndarray
    sample_rate: int
    channels: int
    native_rate: int


def read_audio(
    path: PathLike, sample_rate: int | None = None, *, start: float = 0.0, seconds: float | None = None
) -> Audio:
    """Mono sound of a video (or sound) file: mean of its channels, resampled with soxr HQ, as ``librosa.load`` does.

    Encoder priming and end padding are removed, so that sample 0 belongs to the first picture and the length is
    that of the audio stream. ``sample_rate`` None keeps the source's rate. ``seconds`` gives exactly
    ``round(seconds * sample_rate)`` samples, zeros behind the end. Raises :class:`UserError` without an audio track.
    """
    with open_container(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise UserError(f"{path}: has no audio track.")
        has_picture = best_video(container) is not None
    origin = probe(path).start if has_picture else None
    with open_container(path) as container:
        stream = container.streams.audio[0]
        last = math.inf if seconds is None else start + seconds + 1.0
        wave, rate, channels = _decode_mono(container, stream, origin, last)
    if not wave.size:
        raise UserError(f"{path}: no sound could be decoded from its audio track.")
    if sample_rate is not None and sample_rate != rate:
        wave, rate, native = resample(wave, rate, sample_rate), sample_rate, rate
    else:
        native = rate
    wave = wave[round(start * rate) :]
    if seconds is not None:
        wave = fit(wave, round(seconds * rate))
    return Audio(np.ascontiguousarray(wave), rate, channels, native)


def resample(wave: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """soxr HQ along the first axis; ceil(n * target / source) samples, as librosa counts them."""
    import soxr

    count = math.ceil(len(wave) * (float(target_rate) / source_rate))
    return fit(soxr.resample(wave, source_rate, target_rate, quality="HQ").astype(np.float32, copy=False), count)


def fit(wave: np.ndarray, count: int) -> np.ndarray:
    """Exactly ``count`` samples along the first axis: cut, or zeros appended."""
    return np.pad(wave[:count], [(0, max(0, count - len(wave)))] + [(0, 0)] * (wave.ndim - 1))


def _decode_mono(container: Any, stream: Any, origin: float | None, last: float) -> tuple[np.ndarray, int, int]:
    """(wave, rate, channels): mean of the channels, placed on the clock whose zero is ``origin`` (None: first sample).

    The mean is taken here because the decoder's own mono down-mix is louder by sqrt(2).
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
            chunks.append(np.zeros(max(0, position), np.float32))
        if source != (source := (frame.format.name, frame.layout.name, frame.sample_rate)):
            converter = av.AudioResampler(format="fltp", layout=layout, rate=rate)  # broadcasts change in mid-stream
        if frame.time is not None:
            gap = round((frame.time - base) * rate) - position
            if gap > _GAP * rate:
                chunks.append(np.zeros(max(0, min(gap, gap + position)), np.float32))
                position += gap
        for piece in converter.resample(frame):
            mono = piece.to_ndarray().mean(0, dtype=np.float32)
            chunks.append(mono[max(0, -position) :])
            position += len(mono)
        if position > last * rate:
            break
    if not chunks:
        return np.zeros(0, np.float32), rate, channels
    wave = np.concatenate(chunks)
    if stream.duration is not None:  # the last packet of AAC holds padding that belongs to no one
        begin = (stream.start_time or 0) * float(stream.time_base)
        wave = wave[: max(0, round((begin - base + float(stream.duration * stream.time_base)) * rate))]
    return wave, rate, channels
