"""Log-mels in pure JAX: of the mel autoencoder (AudioLDM's front end) and of CAVP's audio side. Differentiable.

Waves are float arrays (..., n) in [-1, 1]. The arithmetic is that of the released code; deliberate differences are
the ``ours`` functions.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np

from stav2a_jax.types import LatentSpec

N_FFT = 1024
LOG_FLOOR = 1e-5
"""Smallest magnitude before the logarithm; log(1e-5) = -11.51 is the value of digital silence."""


@functools.lru_cache(maxsize=16)
def mel_filters(sample_rate: int, n_fft: int, bins: int, low: float, high: float) -> np.ndarray:
    """Slaney mel filters as librosa makes them, (n_fft // 2 + 1, bins) float32. Frequencies in Hz."""
    filters = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=bins, fmin=low, fmax=high).T.copy()
    filters.setflags(write=False)
    return filters


def hann(n: int) -> np.ndarray:
    """Periodic Hann window, (n,) float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def stft_magnitude(wave: jax.Array, n_fft: int = N_FFT, hop: int = 160, pad_mode: str = "reflect") -> jax.Array:
    """|STFT| with a periodic Hann window and centred frames. (..., n) -> (..., 1 + n // hop, n_fft // 2 + 1).

    ``pad_mode`` of ``jnp.pad`` says what lies beyond both ends, n_fft / 2 samples each ("reflect", "constant");
    ValueError where n is too short to be reflected.
    """
    samples = wave.shape[-1]
    if pad_mode == "reflect" and samples <= n_fft // 2:
        raise ValueError(f"{wave.shape=}, expected more than {n_fft // 2} samples")
    frames, rows = 1 + samples // hop, -(-n_fft // hop)
    wide = [(0, 0)] * (wave.ndim - 1)
    wave = jnp.pad(wave, [*wide, (n_fft // 2, n_fft // 2)], mode=pad_mode)
    total = (frames - 1 + rows) * hop
    wave = jnp.pad(wave, [*wide, (0, max(0, total - wave.shape[-1]))])[..., :total]
    # A frame is a few neighbouring rows of hop samples: shifted slices, where indexing would need a gather (and its
    # gradient a scatter).
    blocks = wave.reshape(*wave.shape[:-1], -1, hop)
    framed = jnp.concatenate([blocks[..., r : r + frames, :] for r in range(rows)], axis=-1)[..., :n_fft]
    spectrum = jnp.fft.rfft(framed * jnp.asarray(hann(n_fft), wave.dtype), axis=-1)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.sqrt(jnp.maximum(power, 1e-20))  # the slope of sqrt at 0 is infinite; 1e-10 is far below the log floor


def log_mel(
    wave: jax.Array, spec: LatentSpec | None = None, *, floor: float = LOG_FLOOR, last_frame: bool = False
) -> jax.Array:
    """Natural log of the mel magnitude. (..., n) -> (..., n // hop, mel_bins), or one frame more with ``last_frame``.

    Centred frames are n // hop + 1; the release cuts the last off, which is centred on the end of the wave.
    """
    spec = spec or LatentSpec()
    magnitude = stft_magnitude(wave, N_FFT, spec.hop)
    if not last_frame:
        magnitude = magnitude[..., :-1, :]
    filters = mel_filters(spec.sample_rate, N_FFT, spec.mel_bins, 0.0, spec.sample_rate / 2)
    mel = jnp.matmul(magnitude, jnp.asarray(filters), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, floor))


def pad_or_cut(x: jax.Array, length: int, axis: int = -1) -> jax.Array:
    """``x`` with exactly ``length`` entries on an axis: cut at the end, or filled with zeros (the release's
    ``_pad_spec``; mind that a zero in a log-mel is loud, silence is log(floor))."""
    have = x.shape[axis]
    if have >= length:
        return jax.lax.slice_in_dim(x, 0, length, axis=axis)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - have)
    return jnp.pad(x, widths)


def normalise_released(wave: jax.Array, samples: int, start: int | jax.Array = 0) -> jax.Array:
    """The release's preparation of a clip: peak 0.5, crop or pad, peak 0.5 again. (..., n) -> (..., samples).

    A longer wave is cropped from ``start`` (0 in Tango, random in AudioLDM), a shorter one gets zeros at its end.
    Silence stays silence, where the reference divides by zero and mends the NaN later.
    """
    wave = wave - jnp.mean(wave, axis=-1, keepdims=True)
    wave = 0.5 * wave / (jnp.max(jnp.abs(wave), axis=-1, keepdims=True) + 1e-8)
    if wave.shape[-1] > samples:
        wave = jax.lax.dynamic_slice_in_dim(wave, start, samples, axis=-1)
    wave = pad_or_cut(wave, samples)
    peak = jnp.max(jnp.abs(wave), axis=-1, keepdims=True)
    wave = jnp.where(peak > 0, 0.5 * wave / jnp.where(peak > 0, peak, 1.0), 0.0)
    return jnp.clip(wave, -1.0, 1.0)


def normalise_ours(wave: jax.Array) -> jax.Array:
    """Removes the mean and clips to [-1, 1]. (..., n) -> (..., n).

    Differs from the release, which scales each clip to the same peak: loudness says how hard and how far something
    was hit, so it stays.
    """
    return jnp.clip(wave - jnp.mean(wave, axis=-1, keepdims=True), -1.0, 1.0)


def cavp_log_mel(
    wave: jax.Array, *, sample_rate: int = 16_000, hop: int = 250, bins: int = 128, pad_mode: str = "constant"
) -> jax.Array:
    """Spectrogram of CAVP's audio side (Diff-Foley), in [0, 1]. (..., n) -> (..., 1 + (n - 1) // hop, bins).

    Decibels from -80 to 20, 125 to 7600 Hz. The last sample is dropped, so that 10 s at hop 250 are 640 frames: 16 per
    video frame at 4 fps (the release's preprocessing script uses hop 256 instead). ``pad_mode`` "constant" is librosa
    since 0.10, "reflect" before.
    """
    magnitude = stft_magnitude(wave[..., :-1], N_FFT, hop, pad_mode)
    filters = jnp.asarray(mel_filters(sample_rate, N_FFT, bins, 125.0, 7600.0))
    mel = jnp.matmul(magnitude, filters, precision=jax.lax.Precision.HIGHEST)
    decibels = 20.0 * jnp.log10(jnp.maximum(mel, 1e-5))
    return jnp.clip((decibels - 20.0 + 100.0) / 100.0, 0.0, 1.0)
