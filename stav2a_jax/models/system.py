"""How the modules make one system: video and text to conditioning, conditioning to a denoiser (paper Fig. 1).

``params`` is a dict of module groups: ``text``, ``video``, ``local``, ``onset``, ``pooling``, ``unet``,
``controlnet``, ``autoencoder``, ``vocoder``. Everything here is a pure function of (config, params, arrays).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stav2a_jax.config import ModelConfig
from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead, resample_frames
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.nn.call import apply
from stav2a_jax.types import Conditioning, DenoiseFn, Params


def encode_text(cfg: ModelConfig, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Token ids (B, L) and mask (B, L) -> (B, L, d_model)."""
    return apply(TextEncoder(cfg.text), params["text"], ids, mask)


def local_control(
    cfg: ModelConfig, params: Params, video: jax.Array, video_mask: jax.Array | None, frames: int
) -> tuple[jax.Array, jax.Array]:
    """Video features (B, T, D) -> (onset logits (B, frames, 2), control (B, frames, C)); paper sec. 2.2."""
    x = apply(LocalAdapter(cfg.local), params["local"], video, video_mask)
    length = None if video_mask is None else video_mask.sum(axis=1).astype(jnp.int32)
    x = resample_frames(x, frames, cfg.video.fps, cfg.latent.frames_per_second, cfg.local.interpolation, length=length)
    control, logits = apply(OnsetHead(cfg.local), params["onset"], x)
    return logits, control


def global_tokens(
    cfg: ModelConfig,
    params: Params,
    video: jax.Array,
    video_mask: jax.Array | None,
    dropout: jax.Array | None = None,
) -> jax.Array:
    """Video features (B, T, D) -> (B, K, d) tokens (paper eqs. 2-3); ``dropout`` (B,) keys, in training only."""
    pooling = AttentivePooling(cfg.pooling)
    if dropout is None:
        return apply(pooling, params["pooling"], video, video_mask, deterministic=True)
    mask = jnp.ones(video.shape[:2]) if video_mask is None else video_mask

    def one(row: jax.Array, row_mask: jax.Array, key: jax.Array) -> jax.Array:
        # One key per example, not per batch: the same example drops the same units on any number of devices.
        return apply(pooling, params["pooling"], row[None], row_mask[None], deterministic=False, rngs={"dropout": key})[
            0
        ]

    return jax.vmap(one)(video, mask, dropout)


def join(
    text: jax.Array,
    text_mask: jax.Array,
    tokens: jax.Array | None = None,
    control: jax.Array | None = None,
    keep_tokens: jax.Array | None = None,
) -> Conditioning:
    """[text ; video tokens] along the token axis (paper sec. 2.3); ``keep_tokens`` (B,) 0 hides the video tokens."""
    mask = text_mask.astype(jnp.float32)
    if tokens is None:
        return Conditioning(text, mask, control)
    seen = jnp.ones(tokens.shape[:2], jnp.float32)
    if keep_tokens is not None:
        seen = seen * keep_tokens[:, None]
    return Conditioning(
        jnp.concatenate([text, tokens.astype(text.dtype)], axis=1), jnp.concatenate([mask, seen], axis=1), control
    )


def denoiser(cfg: ModelConfig, params: Params) -> DenoiseFn:
    """The U-Net, with the ControlNet's residuals where the conditioning carries a control."""
    unet, controlnet = UNet(cfg.unet), ControlNet(cfg.unet)

    def denoise(x: jax.Array, t: jax.Array, cond: Conditioning) -> jax.Array:
        residuals = None
        if cond.control is not None:
            mask = cond.mask if cfg.unet.mask_control else None
            residuals = apply(controlnet, params["controlnet"], x, t, cond.context, mask, cond.control)
        return apply(unet, params["unet"], x, t, cond.context, cond.mask, residuals)

    return denoise
