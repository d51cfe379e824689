"""Onset pseudo-labels of a sound track: what the onset head learns to predict.

The release does not contain how its labels were made. This is librosa's detector with its defaults at 22,050 Hz, which
is also the detector of the AA-Align and AV-Align metrics. At 16 kHz the hop is 32 ms, the minimum wait rounds to zero
frames, and onsets come in pairs.
"""

from __future__ import annotations

import librosa
import numpy as np

from stav2a_jax.audio.wav import resample

ANALYSIS_RATE = 22_050
_N_FFT = 2048


def onset_times(wave: np.ndarray, sample_rate: int, analysis_rate: int = ANALYSIS_RATE) -> np.ndarray:
    """Times of the onsets in seconds, ascending, (k,) float64. ``wave`` (n,) at ``sample_rate`` Hz.

    The wave is resampled to ``analysis_rate`` first. Silence and an empty wave have no onsets.
    """
    frames = onset_frames(wave, sample_rate, analysis_rate)
    return librosa.frames_to_time(frames, sr=analysis_rate).astype(np.float64)


def onset_frames(wave: np.ndarray, sample_rate: int, analysis_rate: int = ANALYSIS_RATE) -> np.ndarray:
    """The same as numbers of analysis frames, 512 samples apart, (k,) int64."""
    envelope = onset_envelope(wave, sample_rate, analysis_rate)
    if not np.any(envelope > 0):
        return np.zeros(0, np.int64)
    return librosa.onset.onset_detect(onset_envelope=envelope, sr=analysis_rate)


def onset_envelope(wave: np.ndarray, sample_rate: int, analysis_rate: int = ANALYSIS_RATE) -> np.ndarray:
    """Onset strength every 512 samples at ``analysis_rate``, (1 + n // 512,) float32."""
    wave = resample(np.asarray(wave, np.float32), sample_rate, analysis_rate)
    wave = np.pad(wave, (0, max(0, _N_FFT - len(wave))))  # librosa's window must fit at least once
    return librosa.onset.onset_strength(y=wave, sr=analysis_rate)


def onset_labels(times: np.ndarray, frames: int, frames_per_second: float) -> np.ndarray:
    """1 in every latent frame that holds an onset: label[floor(t * frames_per_second)]. (k,) -> (frames,) int32.

    Times before 0, and at or after the end, are ignored.
    """
    index = np.floor(np.asarray(times, np.float64) * frames_per_second).astype(np.int64)
    labels = np.zeros(frames, np.int32)
    labels[index[(index >= 0) & (index < frames)]] = 1
    return labels
