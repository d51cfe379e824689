"""From a sound file to the wave whose log-mel the autoencoder sees: ours or the release's, by ``SoundConfig``."""

from __future__ import annotations

import os

import jax.numpy as jnp
import numpy as np

from stav2a_jax.audio import mel, wav
from stav2a_jax.config import SoundConfig
from stav2a_jax.types import LatentSpec


def read_clip(path: str | os.PathLike[str], cfg: SoundConfig, spec: LatentSpec, start: int = 0) -> np.ndarray:
    """Wave (spec.samples,) float32 of an audio file, see :func:`prepare`; UserError as in ``wav.read_channels``."""
    return prepare(*wav.read_channels(path), cfg, spec, start)


def prepare(channels: np.ndarray, rate: int, cfg: SoundConfig, spec: LatentSpec, start: int = 0) -> np.ndarray:
    """Samples (n, channels) at ``rate`` Hz -> wave (spec.samples,) float32: one channel, resampled, levelled, cut.

    A longer wave is cut from its sample ``start`` on, counted after the resampling (the release draws it, Tango takes
    0); a shorter one gets zeros behind it.
    """
    mono = channels[:, 0] if cfg.channel == "first" else channels.mean(axis=1)
    resample = wav.sinc_resample if cfg.resampler == "sinc" else wav.resample
    wave = jnp.asarray(resample(mono, rate, spec.sample_rate))
    if cfg.level == "peak":
        return np.asarray(mel.normalise_released(wave, spec.samples, start))
    begin = start if len(wave) > spec.samples else 0
    return np.asarray(mel.pad_or_cut(mel.normalise_ours(wave)[begin:], spec.samples))
