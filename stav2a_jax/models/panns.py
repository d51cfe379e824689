"""PANNs' Cnn14 at 16 kHz: the network behind the printed FD, KL and IS; source: Kong et al. 2020, "PANNs".

Not CAVP's spectrogram encoder (``cnn14.py``), which is the same trunk with another input and head. The front end runs
on the host, so that clips of any length share a compiled program.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.audio.mel import mel_filters
from stav2a_jax.models.cavp import FrozenBatchNorm, he_normal

SAMPLE_RATE, N_FFT, HOP = 16_000, 512, 160
LOW, HIGH, FLOOR = 50.0, 8000.0, 1e-10
LABELS = "AudioSet, 527 classes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PannsConfig:
    """Sizes; the defaults are those of ``Cnn14_16k_mAP=0.438.pth``."""

    mel_bins: int = 64
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    classes: int = 527


class PannsOutput(NamedTuple):
    """embedding (B, channels[-1]): first dense layer after its ReLU; logits (B, classes): before the sigmoid."""

    embedding: jax.Array
    logits: jax.Array


def log_mel(wave: np.ndarray, mel_bins: int = 64) -> np.ndarray:
    """PANNs' front end: 10 log10 of the mel power, at least -100. (n,) at 16 kHz -> (1 + n // 160, mel_bins) float32.

    A periodic Hann window of 512 centred on every 160th sample, the wave reflected at its ends; n > 256. Slaney's mel
    bands from 50 to 8000 Hz.
    """
    if len(wave) <= N_FFT // 2:
        raise ValueError(f"{len(wave)=}, expected more than {N_FFT // 2} samples")
    padded = np.pad(np.asarray(wave, np.float32), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=-1))).astype(np.float32)
    mel = power @ mel_filters(SAMPLE_RATE, N_FFT, mel_bins, LOW, HIGH)
    return (10.0 * np.log10(np.maximum(mel, FLOOR))).astype(np.float32)


class _Block(nn.Module):
    """Two convolutions with frozen batch norm, then an average pool that drops the rest, as PyTorch's.

    Frames from ``lengths`` on are kept zero, which is what a shorter input has there: padding. (B, T, F, C), (B,) ->
    (B, T // pool, F // pool, features), (B,).
    """

    features: int
    pool: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        for i in (1, 2):
            conv = nn.Conv(
                self.features, (3, 3), use_bias=False, kernel_init=he_normal, dtype=self.dtype, name=f"conv{i}"
            )
            x = hide(nn.relu(FrozenBatchNorm(self.features, name=f"norm{i}")(conv(x))), lengths)
        if self.pool > 1:
            x = nn.avg_pool(x, (self.pool, self.pool), strides=(self.pool, self.pool))
            lengths = lengths // self.pool
        return hide(x, lengths), lengths


def hide(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Zeros in the frames from ``lengths`` (B,) on of (B, T, ...)."""
    shown = jnp.arange(x.shape[1])[None] < lengths[:, None]
    return jnp.where(shown.reshape(*shown.shape, *(1,) * (x.ndim - 2)), x, 0)


class Cnn14(nn.Module):
    """Embedding and logits of a clip. ``lengths`` (B,): frames that count; what lies behind them changes nothing.

    A clip needs at least 32 frames (0.3 s); the released evaluator pads all to 2 s.
    Shapes: (B, T, mel_bins), (B,) -> PannsOutput of (B, channels[-1]) and (B, classes).
    """

    cfg: PannsConfig = PannsConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, log_mel: jax.Array, lengths: jax.Array) -> PannsOutput:
        cfg = self.cfg
        x = FrozenBatchNorm(cfg.mel_bins, name="norm")(log_mel.astype(self.dtype))
        x = hide(x, lengths)[..., None]
        for i, features in enumerate(cfg.channels, start=1):
            pool = 1 if i == len(cfg.channels) else 2
            x, lengths = _Block(features, pool, self.dtype, name=f"block{i}")(x, lengths)
        x = x.astype(jnp.float32).mean(axis=2)
        # x >= 0, so that hidden frames never win the maximum
        x = x.max(axis=1) + x.sum(axis=1) / lengths[:, None]
        embedding = nn.relu(nn.Dense(cfg.channels[-1], name="fc1")(x))
        return PannsOutput(embedding, nn.Dense(cfg.classes, name="classes")(embedding))
