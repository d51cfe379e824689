"""CAVP's spectrogram encoder, a Cnn14 (PANNs) that keeps the time axis; source: Diff-Foley's CAVP."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stav2a_jax.config import SpecEncoderConfig
from stav2a_jax.models.cavp import FrozenBatchNorm, he_normal, unit_length


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with frozen batch norm, then average pooling. (B, T, F, C) -> (B, T', F', features)."""

    features: int
    pool: tuple[int, int]  # (time, frequency)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in (1, 2):
            conv = nn.Conv(
                self.features, (3, 3), use_bias=False, kernel_init=he_normal, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(FrozenBatchNorm(self.features, name=f"norm{i}")(conv(x)))
        return nn.avg_pool(x, self.pool, strides=self.pool)


class SpecEncoder(nn.Module):
    """Features of a log-mel in [0, 1], one per prod(time pools) mel frames (16 in the release).

    ``cfg.pools`` are (time, frequency), one per block. ``normalise`` gives unit length; ``pooled=True`` takes the
    maximum over the clip before it, as the contrastive loss does.
    Shapes: (B, T, mel_bins) -> (B, T / 16, features), or (B, features) if pooled.
    """

    cfg: SpecEncoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, log_mel: jax.Array, *, normalise: bool = True, pooled: bool = False) -> jax.Array:
        cfg = self.cfg
        x = FrozenBatchNorm(cfg.mel_bins, name="norm")(log_mel.astype(self.dtype))[..., None]
        for i, (features, pool) in enumerate(zip(cfg.channels, cfg.pools, strict=True), start=1):
            x = ConvBlock(features, pool, self.dtype, name=f"block{i}")(x)
        x = x.mean(axis=2)
        # the zeros of the padding count in the average, as in the release; x >= 0, so they never win the maximum
        around = ((1, 1),)
        x = nn.max_pool(x, (3,), padding=around) + nn.avg_pool(x, (3,), padding=around)
        # the release applies one layer twice (it has no fc2); the weights were trained that way
        fc1 = nn.Dense(cfg.channels[-1], kernel_init=he_normal, dtype=self.dtype, name="fc1")
        x = nn.relu(fc1(nn.relu(fc1(x))))
        x = nn.Dense(cfg.features, dtype=jnp.float32, name="project")(x)
        if pooled:
            x = x.max(axis=1)
        return unit_length(x) if normalise else x
