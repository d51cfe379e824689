"""Reading and writing of audio files, resampling, and 16-bit conversion (ours, and the release's quirks)."""

from __future__ import annotations

import math
import os
import pathlib
import struct
import uuid

import numpy as np
import soundfile
import soxr

from stav2a_jax.types import UserError


def read(path: str | os.PathLike[str], sample_rate: int, *, first_channel: bool = False) -> np.ndarray:
    """Mono wave of an audio file at ``sample_rate`` Hz, (n,) float32, full scale 1.

    Channels are averaged, or the first is taken (``first_channel``, as the release does); soxr resamples. Formats and
    errors: :func:`read_channels`.
    """
    data, rate = read_channels(path)
    return resample(data[:, 0] if first_channel else data.mean(axis=1), rate, sample_rate)


def read_channels(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """All samples of an audio file, (n, channels) float32 with full scale 1, and their rate in Hz.

    Any format of libsndfile: WAV, FLAC, OGG, MP3. UserError for a missing, unreadable or empty file and for samples
    that are not finite numbers.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist or is not a file; check the path.")
    try:
        data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path} cannot be read as audio ({error}); convert it to WAV or FLAC.") from error
    if not len(data):
        raise UserError(f"{path} holds no samples; leave it out or record it again.")
    if not np.isfinite(data).all():
        raise UserError(f"{path} holds samples that are not finite numbers; export it again.")
    return data, rate


def write(path: str | os.PathLike[str], wave: np.ndarray, sample_rate: int, *, subtype: str = "PCM_16") -> None:
    """Writes a WAV file, whole or not at all: a reader never sees half of it.

    ``wave`` (n,) or (n, channels), full scale 1; beyond it 16-bit samples are clipped, and int16 samples are written
    as they are. ``subtype`` is "PCM_16" or "FLOAT" (32 bits, unclipped, no int16). UserError for a missing folder, an
    unknown subtype, an empty or non-finite wave.
    """
    path, wave = pathlib.Path(path), np.asarray(wave)
    if subtype not in ("PCM_16", "FLOAT"):
        raise UserError(f"unknown WAV subtype {subtype!r}; use 'PCM_16' or 'FLOAT'.")
    if not wave.size or not np.isfinite(wave).all():
        raise UserError(f"{path} is not written: the wave {wave.shape} is empty or has values that are not finite.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if subtype == "FLOAT":
            temporary.write_bytes(_float_wav(wave, sample_rate))
        else:
            samples = wave if wave.dtype == np.int16 else to_int16(wave)
            soundfile.write(temporary, samples, sample_rate, format="WAV", subtype=subtype)
        os.replace(temporary, path)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path} cannot be written ({error}); check that its folder exists and is writable.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _float_wav(wave: np.ndarray, sample_rate: int) -> bytes:
    """A float32 WAV file. libsndfile would put the time of day into it; the same wave shall give the same bytes."""
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    data = wave.astype("<f4").tobytes()
    form = struct.pack(
        "<4sIHHIIHHH", b"fmt ", 18, 3, channels, sample_rate, 4 * channels * sample_rate, 4 * channels, 32, 0
    )
    chunks = b"WAVE" + form + struct.pack("<4sII4sI", b"fact", 4, len(wave), b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """soxr at high quality along the first axis. (n,) -> (round(n to / from),) in the input's dtype."""
    if from_rate == to_rate or not len(wave):
        return wave
    return soxr.resample(wave, from_rate, to_rate, quality="HQ")


def sinc_resample(
    wave: np.ndarray, from_rate: int, to_rate: int, *, width: int = 6, rolloff: float = 0.99
) -> np.ndarray:
    """torchaudio's default resampler, which the release uses. (n,) -> (ceil(n to / from),) float32.

    A sinc with a Hann window of ``width`` zero crossings to each side, cut off at ``rolloff`` times the lower Nyquist.
    """
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    if old == new:
        return np.asarray(wave, np.float32)
    cutoff = min(old, new) * rolloff
    reach = math.ceil(width * old / cutoff)
    # Row p is the filter that makes output sample p of every group of `new`, from `old` input samples and their margin.
    times = np.arange(-reach, reach + old)[None] / old - np.arange(new)[:, None] / new
    times = np.clip(times * cutoff, -width, width)
    filters = np.sinc(times) * np.cos(times * np.pi / (2 * width)) ** 2 * (cutoff / old)
    padded = np.pad(np.asarray(wave, np.float64), (reach, reach + old))
    windows = np.lib.stride_tricks.sliding_window_view(padded, filters.shape[1])[::old]
    return (windows @ filters.T).reshape(-1)[: math.ceil(new * len(wave) / old)].astype(np.float32)


def to_int16(wave: np.ndarray) -> np.ndarray:
    """Full scale 1 -> int16, rounded to nearest and clipped. Reading it back gives the wave within half a step."""
    return np.clip(np.rint(np.asarray(wave, np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def to_int16_released(wave: np.ndarray) -> np.ndarray:
    """The release's conversion: truncated toward zero and NOT clipped, so +1.0 wraps around to -32768."""
    return np.trunc(np.asarray(wave, np.float32) * np.float32(32768.0)).astype(np.int64).astype(np.int16)
