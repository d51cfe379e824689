"""Parts shared by the U-Net and the ControlNet: time embedding, group norm, residual block, resampling.

Channels last; parameters and norms float32, everything else in ``dtype``. Same arithmetic as the diffusers 0.20
modules that the reference builds on (constants in the docstrings).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from stav2a_jax.nn.conv2d import conv3x3, upsampled_conv3x3

RESNET_EPS = 1e-5  # group norm of residual blocks and of the output head


def timestep_features(t: jax.Array, width: int) -> jax.Array:
    """Sinusoidal features of a timestep, cosine half first (diffusers: flip_sin_to_cos, freq_shift 0).

    t (B,) int or float, width even -> (B, width) float32; frequency j is 10000 ** (-j / (width / 2)).
    """
    if width % 2:
        raise ValueError(f"{width=} of the timestep features must be even")
    half = width // 2
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class TimeEmbedding(nn.Module):
    """Timestep -> features -> Dense, SiLU, Dense, all in float32. (B,) -> (B, 4 * channels)."""

    channels: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        x = timestep_features(t, self.channels)
        x = nn.silu(nn.Dense(4 * self.channels, name="linear_1")(x))
        return nn.Dense(4 * self.channels, name="linear_2")(x)


class GroupNorm(nn.Module):
    """Group normalisation over all axes but the first and, group by group, the last. (B, ..., C) -> (B, ..., C).

    Statistics in float32 and in two passes (the inputs of a denoiser can be far from mean zero), ``eps`` explicit
    because the reference uses 1e-5 in residual blocks and 1e-6 in attention blocks. Raises ValueError where the
    groups do not divide C. Channels are averaged before they are grouped, so the big array is never reshaped.
    """

    groups: int
    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        axes = tuple(range(1, x.ndim - 1))
        centred = x - self._of_group(jnp.mean(x, axes, keepdims=True))
        variance = self._of_group(jnp.mean(jnp.square(centred), axes, keepdims=True))
        return (centred * (jax.lax.rsqrt(variance + self.eps) * scale) + bias).astype(self.dtype)

    def _of_group(self, x: jax.Array) -> jax.Array:
        """Channel averages (B, 1.., C) -> each channel's group average, same shape."""
        grouped = x.reshape(*x.shape[:-1], self.groups, -1)
        return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(x.shape)


class ResBlock(nn.Module):
    """Norm, SiLU, conv; plus the time embedding per channel; norm, SiLU, conv; plus the input.

    x (B, T, F, C), temb (B, D) before its SiLU -> (B, T, F, channels).
    """

    channels: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array) -> jax.Array:
        h = nn.silu(GroupNorm(self.groups, RESNET_EPS, self.dtype, name="norm1")(x))
        h = Conv3x3(self.channels, self.dtype, name="conv1")(h)
        shift = nn.Dense(self.channels, dtype=self.dtype, name="time_proj")(nn.silu(temb))
        h = h + shift[:, None, None]
        h = nn.silu(GroupNorm(self.groups, RESNET_EPS, self.dtype, name="norm2")(h))
        h = Conv3x3(self.channels, self.dtype, name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="shortcut")(x)  # a 1x1 convolution
        return x + h


class Downsample(nn.Module):
    """3x3 convolution, stride 2, one zero on every side. (B, T, F, C) -> (B, T/2, F/2, C), rounded up."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(x.shape[-1], (3, 3), (2, 2), ((1, 1), (1, 1)), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution. (B, T, F, C) -> (B, 2T, 2F, C), or ``size`` (2T - 1, ..) of these.

    A level of odd length was rounded up by its downsampling; it comes back as long as its skips are.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        _, t, f, c = x.shape
        return Conv3x3(c, self.dtype, upsample=True, name="conv")(x, size or (2 * t, 2 * f))


class Conv3x3(nn.Module):
    """3x3 convolution with one zero on every side; the parameters of ``nn.Conv``, the arithmetic of ``nn/conv2d.py``.

    ``zero`` starts the kernel at 0 (ControlNet); ``upsample`` repeats every position first, up to ``size``.
    x (B, T, F, C) -> (B, T, F, channels), or (B, *size, channels).
    """

    channels: int
    dtype: jnp.dtype = jnp.float32
    zero: bool = False
    upsample: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        init = nn.initializers.zeros if self.zero else nn.linear.default_kernel_init
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        return (upsampled_conv3x3(x, kernel, size) if self.upsample else conv3x3(x, kernel)) + bias
