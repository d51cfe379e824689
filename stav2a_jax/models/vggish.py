"""VGGish: the network behind FAD; source: Hershey et al. 2017 and AudioSet's published front end.

As the released evaluator uses it: no PCA, no quantisation, and no ReLU behind the last layer.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.models.cavp import he_normal

SAMPLE_RATE, WINDOW, HOP, N_FFT = 16_000, 400, 160, 512
LOW, HIGH, LOG_OFFSET = 125.0, 7500.0, 0.01
FRAMES = 96
"""Frames of one patch: 0.96 s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VggishConfig:
    """Sizes; the defaults are those of ``vggish-10086976.pth``. Every stage ends in a 2 x 2 maximum."""

    mel_bins: int = 64
    channels: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512))
    hidden: int = 4096
    features: int = 128


@functools.lru_cache(maxsize=4)
def _filters(mel_bins: int) -> np.ndarray:
    """Triangles of height 1, evenly spaced on the HTK mel scale, the constant bin left out: (257, mel_bins)."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(LOW), mel(HIGH), mel_bins + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1))[:, None]
    filters = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    filters[0] = 0.0
    return filters


def patches(wave: np.ndarray, mel_bins: int = 64) -> np.ndarray:
    """VGGish's front end: log(mel magnitude + 0.01). (n,) at 16 kHz -> (n's whole 0.96 s, 96, mel_bins) float32.

    Frames of 400 samples every 160 begin at the first sample, nothing is padded; what does not fill a patch is left
    out, so that a wave below 15,600 samples has none.
    """
    wave = np.asarray(wave, np.float64)
    if len(wave) < WINDOW:
        return np.zeros((0, FRAMES, mel_bins), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitude = np.abs(np.fft.rfft(frames * window, N_FFT, axis=-1))
    log_mel = np.log(magnitude @ _filters(mel_bins) + LOG_OFFSET).astype(np.float32)
    count = len(log_mel) // FRAMES
    return log_mel[: count * FRAMES].reshape(count, FRAMES, mel_bins)


class Vggish(nn.Module):
    """Embedding of a patch. Shapes: (B, 96, mel_bins) -> (B, features)."""

    cfg: VggishConfig = VggishConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, log_mel: jax.Array) -> jax.Array:
        x = log_mel.astype(self.dtype)[..., None]
        for stage, widths in enumerate(self.cfg.channels, start=1):
            for i, features in enumerate(widths, start=1):
                conv = nn.Conv(features, (3, 3), kernel_init=he_normal, dtype=self.dtype, name=f"conv{stage}_{i}")
                x = nn.relu(conv(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)  # time, then frequency, then channel, as TensorFlow's
        for i in (1, 2):
            x = nn.relu(nn.Dense(self.cfg.hidden, kernel_init=he_normal, dtype=self.dtype, name=f"fc{i}")(x))
        return nn.Dense(self.cfg.features, dtype=jnp.float32, name="fc3")(x)
