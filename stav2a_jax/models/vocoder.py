"""Vocoder: log-mel to waveform. HiFi-GAN's generator as released with AudioLDM, or the same with an iSTFT head.

Sources: Kong et al. 2020, "HiFi-GAN" (V1 generator); Kaneko et al. 2022, "iSTFTNet".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import initializers

from stav2a_jax.config import VocoderConfig

SLOPE = 0.1
LAST_SLOPE = 0.01
"""The reference's last leaky relu is called without a slope and so has PyTorch's default."""
MAX_LOG_MAGNITUDE = 5.0


class ResBlock(nn.Module):
    """Dilated convolutions, each followed by a plain one, with residuals. (B, T, C) -> (B, T, C)."""

    kernel: int
    dilations: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Small residual branches at the start: five stages of them would otherwise blow the signal up.
        small = initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
        for j, dilation in enumerate(self.dilations):
            h = nn.leaky_relu(x, SLOPE)
            h = _conv(x.shape[-1], self.kernel, self.dtype, f"conv1_{j}", dilation=dilation)(h)
            h = nn.leaky_relu(h, SLOPE)
            x = x + _conv(x.shape[-1], self.kernel, self.dtype, f"conv2_{j}", init=small)(h)
        return x


def _conv(features: int, kernel: int, dtype: Any, name: str, *, dilation: int = 1, init: Any = None) -> nn.Conv:
    pad = dilation * (kernel - 1) // 2
    init = initializers.lecun_normal() if init is None else init
    return nn.Conv(
        features, (kernel,), padding=[(pad, pad)], kernel_dilation=(dilation,), dtype=dtype, kernel_init=init, name=name
    )


class Upsample(nn.Module):
    """PyTorch's ConvTranspose1d(kernel, stride=rate, padding=(kernel - rate) // 2). (B, T, C) -> (B, T', features).

    Every frame makes ``kernel`` output frames by one matrix product, and these are added with overlap. The same numbers
    as ``nn.ConvTranspose(transpose_kernel=True)``, whose gradient by the kernel is some 50 times slower on a CPU.
    """

    features: int
    kernel: int
    rate: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        init = initializers.variance_scaling(self.rate, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", init, (self.kernel, self.features, width))
        bias = self.param("bias", initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        cut = (self.kernel - self.rate) // 2
        wave = overlap_add(jnp.einsum("bti,koi->btko", x, kernel), self.rate)
        return wave[:, cut : wave.shape[1] - cut] + bias


def overlap_add(segments: jax.Array, hop: int) -> jax.Array:
    """Sum of segments that start ``hop`` apart. (B, F, n, C) -> (B, (F - 1) hop + n, C)."""
    batch, frames, size, channels = segments.shape
    rows = -(-size // hop)
    segments = jnp.pad(segments, ((0, 0), (0, 0), (0, rows * hop - size), (0, 0)))
    segments = segments.reshape(batch, frames, rows, hop * channels)
    shifted = [jnp.pad(segments[:, :, r], ((0, 0), (r, rows - 1 - r), (0, 0))) for r in range(rows)]
    return sum(shifted[1:], shifted[0]).reshape(batch, -1, channels)[:, : (frames - 1) * hop + size]


class Vocoder(nn.Module):
    """Log-mel (B, T, mel_bins) -> waveform (B, n) float32.

    n is 160 T + 32 for the paper's kernels (kernel 16 with stride 5 gives 5 T + 1 samples in the first stage), and
    exactly the product of the rates and the hop, times T, with an iSTFT head and kernels of the rates' parity.
    """

    cfg: VocoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mel: jax.Array) -> jax.Array:
        cfg, blocks = self.cfg, len(self.cfg.resblock_kernels)
        if mel.ndim != 3 or mel.shape[-1] != cfg.mel_bins:
            raise ValueError(f"{mel.shape=}, expected (B, T, {cfg.mel_bins})")
        x = (mel - cfg.mel_shift) / cfg.mel_scale
        x = _conv(cfg.initial_channels, 7, self.dtype, "conv_pre")(x)
        for i, (rate, kernel) in enumerate(zip(cfg.upsample_rates, cfg.upsample_kernels, strict=True)):
            width = cfg.initial_channels >> (i + 1)
            x = Upsample(width, kernel, rate, self.dtype, name=f"up_{i}")(nn.leaky_relu(x, SLOPE))
            branches = [
                ResBlock(k, d, self.dtype, name=f"resblock_{i * blocks + j}")(x)
                for j, (k, d) in enumerate(zip(cfg.resblock_kernels, cfg.resblock_dilations, strict=True))
            ]
            x = sum(branches[1:], branches[0]) / blocks
        x = nn.leaky_relu(x, LAST_SLOPE)
        if cfg.istft is None:
            return jnp.tanh(_conv(1, 7, self.dtype, "conv_post")(x).astype(jnp.float32))[..., 0]
        n_fft, hop = cfg.istft
        x = jnp.concatenate([x[:, 1:2], x], axis=1)  # reflected on the left: n + 1 centred frames are n hops
        small = initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
        x = _conv(n_fft + 2, 7, self.dtype, "conv_post", init=small)(x).astype(jnp.float32)
        log_magnitude, phase = jnp.split(x, 2, axis=-1)
        return inverse_stft(jnp.exp(jnp.minimum(log_magnitude, MAX_LOG_MAGNITUDE)), jnp.sin(phase), n_fft, hop)


def inverse_stft(magnitude: jax.Array, phase: jax.Array, n_fft: int, hop: int) -> jax.Array:
    """Inverse STFT with a periodic Hann window, centred frames. 2 x (B, F, n_fft / 2 + 1) -> (B, (F - 1) hop).

    Windowed overlap-add divided by the sum of squared windows, as ``torch.istft``. n_fft is small in a vocoder, so the
    inverse transform is one real matrix product with the window folded in, and the overlap-add a sum of shifted blocks.
    """
    frames, window = magnitude.shape[1], _hann(n_fft)
    basis = jnp.asarray(_inverse_basis(n_fft) * window, magnitude.dtype)
    parts = jnp.concatenate([magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)], axis=-1)
    segments = jnp.matmul(parts, basis, precision=jax.lax.Precision.HIGHEST)
    envelope = np.zeros((frames - 1) * hop + n_fft)
    for f in range(frames):
        envelope[f * hop : f * hop + n_fft] += window**2
    keep = slice(n_fft // 2, n_fft // 2 + (frames - 1) * hop)
    wave = overlap_add(segments[..., None], hop)[:, keep, 0]
    return wave / jnp.asarray(envelope[keep], wave.dtype)


def _hann(n: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def _inverse_basis(n_fft: int) -> np.ndarray:
    """Matrix of the inverse real DFT on stacked real and imaginary parts, (n_fft + 2, n_fft)."""
    eye = np.eye(n_fft // 2 + 1)
    return np.fft.irfft(np.concatenate([eye, 1j * eye]), n=n_fft, axis=-1)
