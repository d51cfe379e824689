"""Denoising U-Net over latents (paper sec. 2.3; torch: diffusers UNet2DConditionModel as the reference uses it).

Its encoder half, :func:`encode`, is also the ControlNet's: the same code, the same parameter paths.
Module names mirror the PyTorch ones (``down_1/attn_0`` is ``down_blocks.1.attentions.0``; see convert/tables/unet.py).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stav2a_jax.config import UNetConfig
from stav2a_jax.nn.attention import SpatialTransformer, mask_bias
from stav2a_jax.nn.blocks import RESNET_EPS, Conv3x3, Downsample, GroupNorm, ResBlock, TimeEmbedding, Upsample

Residuals = tuple[tuple[jax.Array, ...], jax.Array]
"""ControlNet output: one residual per skip connection, in the order the skips are made, and one of the middle."""


class DownBlock(nn.Module):
    """One level of the encoder: [residual block, attention] x layers, then a downsampling except at the last level.

    x (B, T, F, C), temb (B, D), context (B, L, E), bias (B, 1, 1, L) or None -> (x, its skips, in order).
    """

    cfg: UNetConfig
    level: int
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, temb: jax.Array, context: jax.Array, bias: jax.Array | None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        cfg, skips = self.cfg, []
        for j in range(cfg.layers_per_block):
            x = _layer(cfg, self.level, self.dtype, self.remat, j, x, temb, context, bias)
            skips.append(x)
        if self.level < len(cfg.block_out_channels) - 1:
            x = Downsample(self.dtype, name="downsample")(x)
            skips.append(x)
        return x, tuple(skips)


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest level. Shapes as :class:`DownBlock`, -> x."""

    cfg: UNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, context: jax.Array, bias: jax.Array | None) -> jax.Array:
        cfg, width = self.cfg, self.cfg.block_out_channels[-1]
        residual, transformer = (rematted(block, self.remat) for block in (ResBlock, SpatialTransformer))
        x = residual(width, cfg.norm_groups, self.dtype, name="res_0")(x, temb)
        x = transformer(cfg.num_heads[-1], cfg.norm_groups, self.dtype, name="attn_0")(x, context, bias)
        return residual(width, cfg.norm_groups, self.dtype, name="res_1")(x, temb)


class UpBlock(nn.Module):
    """One level of the decoder: [residual block on (x, skip), attention] x (layers + 1), then an upsampling.

    The finest level has no upsampling. ``skips`` are this level's, last one first; ``size`` (T, F) is the next level's,
    None at the finest. Shapes as :class:`DownBlock`, -> x.
    """

    cfg: UNetConfig
    level: int  # of the encoder: the coarsest is the first to run
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        skips: tuple[jax.Array, ...],
        temb: jax.Array,
        context: jax.Array,
        bias: jax.Array | None,
        size: tuple[int, int] | None,
    ) -> jax.Array:
        for j, skip in enumerate(skips):
            x = jnp.concatenate([x, skip], axis=-1)
            x = _layer(self.cfg, self.level, self.dtype, self.remat, j, x, temb, context, bias)
        return x if size is None else Upsample(self.dtype, name="upsample")(x, size)


def _layer(
    cfg: UNetConfig,
    level: int,
    dtype: jnp.dtype,
    remat: bool,
    j: int,
    x: jax.Array,
    temb: jax.Array,
    context: jax.Array,
    bias: jax.Array | None,
) -> jax.Array:
    """Residual block ``res_j`` and, where the level has attention, ``attn_j`` of the calling compact module."""
    residual, transformer = (rematted(block, remat) for block in (ResBlock, SpatialTransformer))
    x = residual(cfg.block_out_channels[level], cfg.norm_groups, dtype, name=f"res_{j}")(x, temb)
    if not cfg.attention[level]:
        return x
    return transformer(cfg.num_heads[level], cfg.norm_groups, dtype, name=f"attn_{j}")(x, context, bias)


def rematted(block: type[nn.Module], remat: bool) -> Any:
    """The block, with ``remat`` computed again for its gradient; its parameters have the same paths either way."""
    return nn.remat(block) if remat else block


def encode(
    cfg: UNetConfig,
    dtype: jnp.dtype,
    x: jax.Array,
    t: jax.Array,
    context: jax.Array,
    bias: jax.Array | None,
    control: jax.Array | None = None,
    remat: bool = False,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The encoder and the middle, as submodules of the calling compact module.

    x (B, T, F, C) a folded latent, t (B,), context (B, L, E), bias (B, 1, 1, L) or None, control like the output of
    ``conv_in``, added to it before the first skip -> (middle output, time embedding, skips in the order they are made).

    context may have N B rows, N conditions of the same latents, one condition after the other; then so has the answer,
    and control has B or N B. What comes before the first attention, and before a control of N B, is computed for B.
    """
    rows = context.shape[0]
    temb = TimeEmbedding(cfg.block_out_channels[0], name="time_embedding")(t)
    x = Conv3x3(cfg.block_out_channels[0], dtype, name="conv_in")(x)
    if control is not None:
        x = repeated(x, control.shape[0]) + control
    skips = [x]
    for level, attention in enumerate(cfg.attention):
        x = repeated(x, rows) if attention else x
        block = DownBlock(cfg, level, dtype, remat, name=f"down_{level}")
        x, new = block(x, repeated(temb, x.shape[0]), context, bias)
        skips.extend(new)
    x, temb = repeated(x, rows), repeated(temb, rows)
    x = MiddleBlock(cfg, dtype, remat, name="mid")(x, temb, context, bias)
    return x, temb, tuple(repeated(skip, rows) for skip in skips)


def repeated(x: jax.Array, rows: int) -> jax.Array:
    """x (B, ...) one time after the other, until there are so many rows (a multiple of B): (rows, ...)."""
    return x if x.shape[0] == rows else jnp.concatenate([x] * (rows // x.shape[0]))


class UNet(nn.Module):
    """Predicts epsilon or v, as the schedule says, from a noisy latent.

    x (B, T, F, C) noisy latent; t (B,) int timestep; context (B, L, D) tokens; mask (B, L) 1 = keep, or None for all;
    residuals of a ControlNet, or None. T and F may have any length (F divided by ``cfg.fold`` must be whole).

    N conditions of the same latents go in as N B rows of context and mask (and residuals), all B of the first
    condition before those of the second; the work before the first attention is then done once.

    Shapes: -> (B, T, F, C), or (N B, T, F, C), float32 or ``dtype``.
    """

    cfg: UNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        context: jax.Array,
        mask: jax.Array | None = None,
        residuals: Residuals | None = None,
    ) -> jax.Array:
        cfg, bias = self.cfg, mask_bias(mask)
        context = context.astype(self.dtype)
        h, temb, skips = encode(cfg, self.dtype, fold_bins(cfg, x), t, context, bias, remat=self.remat)
        if residuals is not None:
            skips = tuple(skip + extra for skip, extra in zip(skips, residuals[0], strict=True))
            h = h + residuals[1]
        stack, count = list(skips), cfg.layers_per_block + 1
        for i, level in enumerate(reversed(range(len(cfg.block_out_channels)))):
            mine = tuple(stack.pop() for _ in range(count))
            size = (stack[-1].shape[1], stack[-1].shape[2]) if stack else None
            block = UpBlock(cfg, level, self.dtype, self.remat, name=f"up_{i}")
            h = block(h, mine, temb, context, bias, size)
        h = nn.silu(GroupNorm(cfg.norm_groups, RESNET_EPS, self.dtype, name="norm_out")(h))
        h = Conv3x3(cfg.channels * cfg.fold, self.dtype, name="conv_out")(h)
        return h.reshape(-1, *x.shape[1:])  # undoes the fold


def fold_bins(cfg: UNetConfig, x: jax.Array) -> jax.Array:
    """Moves ``fold`` neighbouring bins into the channels: (B, T, F, C) -> (B, T, F / fold, fold * C); checks the shape.

    A reshape with channels last. Raises ValueError, with the numbers, where the latent does not fit the U-Net.
    """
    b, frames, bins, channels = x.shape
    if channels != cfg.channels:
        raise ValueError(f"latent {x.shape=} has {channels} channels, expected {cfg.channels}")
    if bins % cfg.fold:
        raise ValueError(f"latent {x.shape=}: {bins} bins must divide by fold {cfg.fold}")
    return x.reshape(b, frames, bins // cfg.fold, channels * cfg.fold)
