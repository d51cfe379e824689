"""Mel autoencoder with a diagonal Gaussian posterior: the first stage of AudioLDM, channels last.

Source: Rombach et al. 2022 (the network) and Liu et al. 2023, "AudioLDM" (on log-mels); the arithmetic is that of the
released ``AutoencoderKL``. Time and frequency shrink by 2 per level after the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from stav2a_jax.config import AutoencoderConfig
from stav2a_jax.nn.attention import attend
from stav2a_jax.nn.blocks import GroupNorm


class Posterior(NamedTuple):
    """Diagonal Gaussian over latents: mean and log-variance, both (B, T', F', embed_channels) float32."""

    mean: jax.Array
    logvar: jax.Array


def group_norm(groups: int, channels: int, name: str) -> GroupNorm:
    """The first stage's norm: eps 1e-6, float32, never more groups than channels."""
    return GroupNorm(min(groups, channels), 1e-6, name=name)


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut. (B, T, F, C) -> (B, T, F, features)."""

    features: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        for i in (1, 2):
            h = nn.silu(group_norm(self.groups, h.shape[-1], f"norm{i}")(h))
            h = nn.Conv(self.features, (3, 3), dtype=self.dtype, name=f"conv{i}")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual. (B, T, F, C) -> (B, T, F, C)."""

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, frames, bins, channels = x.shape
        h = group_norm(self.groups, channels, "norm")(x).reshape(batch, frames * bins, channels)
        q, k, v = (nn.Dense(channels, dtype=self.dtype, name=name)(h)[:, :, None] for name in ("q", "k", "v"))
        h = attend(q, k, v, scale=channels**-0.5)[:, :, 0]
        return x + nn.Dense(channels, dtype=self.dtype, name="out")(h).reshape(x.shape)


class Middle(nn.Module):
    """Residual block, attention, residual block. (B, T, F, C) -> (B, T, F, C)."""

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ResBlock(x.shape[-1], self.groups, self.dtype, name="res_1")(x)
        x = Attention(self.groups, self.dtype, name="attention")(x)
        return ResBlock(x.shape[-1], self.groups, self.dtype, name="res_2")(x)


class Encoder(nn.Module):
    """(B, T, F, 1) -> (B, T', F', 2 z_channels)."""

    cfg: AutoencoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, last = self.cfg, len(self.cfg.channel_mult) - 1
        x = to_patches(x, cfg.patch)
        x = nn.Conv(cfg.base_channels, (3, 3), dtype=self.dtype, name="conv_in")(x)
        for i, mult in enumerate(cfg.channel_mult):
            width = cfg.base_channels * mult
            for j in range(cfg.num_res_blocks):
                x = ResBlock(width, cfg.norm_groups, self.dtype, name=f"down_{i}_res_{j}")(x)
            if i < last:  # one zero on the right and at the bottom only, as in the reference
                pad = ((0, 1), (0, 1))
                x = nn.Conv(width, (3, 3), (2, 2), padding=pad, dtype=self.dtype, name=f"down_{i}_downsample")(x)
        x = Middle(cfg.norm_groups, self.dtype, name="mid")(x)
        x = nn.silu(group_norm(cfg.norm_groups, x.shape[-1], "norm_out")(x))
        return nn.Conv(2 * cfg.z_channels, (3, 3), dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """(B, T', F', z_channels) -> (B, T, F, 1). The level named up_0 is the finest, as in the reference."""

    cfg: AutoencoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg = self.cfg
        x = nn.Conv(cfg.base_channels * cfg.channel_mult[-1], (3, 3), dtype=self.dtype, name="conv_in")(x)
        x = Middle(cfg.norm_groups, self.dtype, name="mid")(x)
        for i in reversed(range(len(cfg.channel_mult))):
            width = cfg.base_channels * cfg.channel_mult[i]
            for j in range(cfg.num_res_blocks + 1):
                x = ResBlock(width, cfg.norm_groups, self.dtype, name=f"up_{i}_res_{j}")(x)
            if i > 0:
                x = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"up_{i}_upsample")(repeat2(x))
        x = nn.silu(group_norm(cfg.norm_groups, x.shape[-1], "norm_out")(x))
        return from_patches(nn.Conv(cfg.patch**2, (3, 3), dtype=self.dtype, name="conv_out")(x), cfg.patch)


def to_patches(x: jax.Array, patch: int) -> jax.Array:
    """Squares of the mel become channels. (B, T, F, C) -> (B, T / patch, F / patch, patch^2 C)."""
    b, t, f, c = x.shape
    x = x.reshape(b, t // patch, patch, f // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, t // patch, f // patch, patch * patch * c)


def from_patches(x: jax.Array, patch: int) -> jax.Array:
    """Inverse of :func:`to_patches`."""
    b, t, f, c = x.shape
    x = x.reshape(b, t, f, patch, patch, c // patch**2).swapaxes(2, 3)
    return x.reshape(b, t * patch, f * patch, c // patch**2)


def repeat2(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by 2. (B, T, F, C) -> (B, 2 T, 2 F, C)."""
    batch, frames, bins, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, frames, 2, bins, 2, channels))
    return x.reshape(batch, 2 * frames, 2 * bins, channels)


class Autoencoder(nn.Module):
    """Log-mel (B, T, mel_bins, 1) <-> latent (B, T / f, mel_bins / f, embed_channels), f = patch * 2^(levels - 1).

    The mel is shifted and scaled by the config on the way in and back on the way out. The latents here are
    unscaled: :func:`to_latent` and :func:`from_latent` apply the scale factor of the diffusion model.
    """

    cfg: AutoencoderConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.cfg, self.dtype)
        self.decoder = Decoder(self.cfg, self.dtype)
        self.quant_conv = nn.Dense(2 * self.cfg.embed_channels, dtype=self.dtype)
        self.post_quant_conv = nn.Dense(self.cfg.z_channels, dtype=self.dtype)

    def encode(self, mel: jax.Array) -> Posterior:
        """Log-mel (B, T, mel_bins, 1) -> posterior of (B, T / f, mel_bins / f, embed_channels); ValueError if f
        does not divide T and mel_bins. The log-variance is clamped to [-30, 20]."""
        factor = self.cfg.patch * 2 ** (len(self.cfg.channel_mult) - 1)
        if mel.ndim != 4 or mel.shape[-1] != 1 or mel.shape[1] % factor or mel.shape[2] % factor:
            raise ValueError(f"{mel.shape=}, expected (B, T, mel_bins, 1) with T and mel_bins multiples of {factor}")
        x = (mel - self.cfg.mel_shift) / self.cfg.mel_scale
        moments = self.quant_conv(self.encoder(x)).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, latent: jax.Array) -> jax.Array:
        """Unscaled latent (B, T', F', embed_channels) -> log-mel (B, f T', f F', 1) float32."""
        x = self.decoder(self.post_quant_conv(latent)).astype(jnp.float32)
        return x * self.cfg.mel_scale + self.cfg.mel_shift

    def __call__(self, mel: jax.Array, noise: jax.Array | None = None) -> tuple[jax.Array, Posterior]:
        """Reconstruction and posterior; ``noise`` as in :func:`to_latent`. Creates every parameter."""
        posterior = self.encode(mel)
        return self.decode(to_latent(posterior, noise, 1.0)), posterior


def to_latent(posterior: Posterior, noise: jax.Array | None, scale_factor: float | jax.Array) -> jax.Array:
    """scale_factor * (mean + std * noise), the diffusion model's x_0. (B, T', F', C) -> (B, T', F', C).

    ``noise`` is standard normal noise of the posterior's shape, a key, one key per example (B,), or None for the mean.
    """
    if noise is None:
        return scale_factor * posterior.mean
    if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
        shape = posterior.mean.shape
        if noise.ndim:
            noise = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(noise)
        else:
            noise = jax.random.normal(noise, shape)
    return scale_factor * (posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise)


def from_latent(latent: jax.Array, scale_factor: float | jax.Array) -> jax.Array:
    """Inverse of the scaling of :func:`to_latent`: what :meth:`Autoencoder.decode` expects."""
    return latent / scale_factor


def kl(posterior: Posterior) -> jax.Array:
    """KL divergence to the standard normal per example, (B,); the MEAN over time, frequency and channel, as in the
    reference, so that its weight does not depend on the length of the clip."""
    mean, logvar = posterior
    return 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar, axis=(1, 2, 3))
