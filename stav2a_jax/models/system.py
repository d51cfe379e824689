"""How the modules make one system: video and text to conditioning, conditioning to a denoiser (paper Fig. 1).

``params`` is a dict of module groups: ``text``, ``video``, ``local``, ``onset``, ``pooling``, ``unet``,
``controlnet``, ``autoencoder``, ``vocoder``. Everything here is a pure function of (config, params, arrays).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from stav2a_jax.config import ModelConfig
from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead, resample_frames
from stav2a_jax.models.autoencoder import Autoencoder, from_latent
from stav2a_jax.models.cavp import VideoEncoder
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.models.vocoder import Vocoder
from stav2a_jax.nn.call import apply
from stav2a_jax.types import Conditioning, DenoiseFn, Params


def dtype_of(cfg: ModelConfig) -> Any:
    """The type that the networks compute in; parameters are float32 always."""
    return jnp.dtype(cfg.compute.dtype)


def encode_text(cfg: ModelConfig, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Token ids (B, L) and mask (B, L) -> (B, L, d_model)."""
    return apply(TextEncoder(cfg.text, dtype_of(cfg)), params["text"], ids, mask)


def encode_video(cfg: ModelConfig, params: Params, frames: jax.Array) -> jax.Array:
    """Frames (B, T, H, W, 3) uint8 or in [0, 1] -> features (B, T, D) of unit length."""
    return apply(VideoEncoder(cfg.video, dtype_of(cfg)), params["video"], frames)


def local_control(
    cfg: ModelConfig, params: Params, video: jax.Array, video_mask: jax.Array | None, frames: int
) -> tuple[jax.Array, jax.Array]:
    """Video features (B, T, D) -> (onset logits (B, frames, 2), control (B, frames, C)); paper sec. 2.2."""
    x = apply(LocalAdapter(cfg.local, dtype_of(cfg)), params["local"], video, video_mask)
    length = None if video_mask is None else video_mask.sum(axis=1).astype(jnp.int32)
    x = resample_frames(x, frames, cfg.video.fps, cfg.latent.frames_per_second, cfg.local.interpolation, length=length)
    control, logits = apply(OnsetHead(cfg.local, dtype_of(cfg)), params["onset"], x)
    return logits, control


def global_tokens(
    cfg: ModelConfig,
    params: Params,
    video: jax.Array,
    video_mask: jax.Array | None,
    dropout: jax.Array | None = None,
) -> jax.Array:
    """Video features (B, T, D) -> (B, K, d) tokens (paper eqs. 2-3); ``dropout`` (B,) keys, in training only."""
    pooling = AttentivePooling(cfg.pooling, dtype_of(cfg))
    if dropout is None:
        return apply(pooling, params["pooling"], video, video_mask, deterministic=True)
    mask = jnp.ones(video.shape[:2]) if video_mask is None else video_mask

    def one(row: jax.Array, row_mask: jax.Array, key: jax.Array) -> jax.Array:
        # One key per example, not per batch: the same example drops the same units on any number of devices.
        return apply(pooling, params["pooling"], row[None], row_mask[None], deterministic=False, rngs={"dropout": key})[
            0
        ]

    return jax.vmap(one)(video, mask, dropout)


def video_tokens(
    cfg: ModelConfig,
    params: Params,
    video: jax.Array,
    video_mask: jax.Array | None,
    dropout: jax.Array | None = None,
) -> jax.Array | None:
    """:func:`global_tokens`, or None for a model without them."""
    return global_tokens(cfg, params, video, video_mask, dropout) if cfg.conditions.global_tokens else None


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


def condition_chain(
    cfg: ModelConfig,
    params: Params,
    prompt: tuple[jax.Array, jax.Array],
    null: tuple[jax.Array, jax.Array],
    video: jax.Array,
    frames: int,
) -> tuple[tuple[Conditioning, ...], jax.Array]:
    """Conditions of growing content (nothing, + local, + global, + text), and onset logits (B, frames, 2).

    ``prompt`` and ``null`` are ids and mask (B, L); video features (B, T, D). What ``cfg.conditions`` leaves out is not
    there; without a control the logits are 0.
    """
    logits, control, silent = jnp.zeros((video.shape[0], frames, 2)), None, None
    if cfg.conditions.control:
        logits, control = local_control(cfg, params, video, None, frames)
        silent = jnp.zeros_like(control)
    tokens = video_tokens(cfg, params, video, None)
    text, empty = (encode_text(cfg, params, *pair) for pair in (prompt, null))
    hidden = jnp.zeros(video.shape[0])
    nothing = join(empty, null[1], tokens, silent, hidden)
    local = join(empty, null[1], tokens, control, hidden)
    both = join(empty, null[1], tokens, control)
    return (nothing, local, both, join(text, prompt[1], tokens, control)), logits


def one_control(chain: Sequence[Conditioning]) -> tuple[Conditioning, ...]:
    """A :func:`condition_chain` whose members but the first have the same array as control, as they did when it was
    made: a jit gives every member its own, and a guided denoiser could not see that it may share."""
    nothing, *others = chain
    return (nothing, *(member._replace(control=others[-1].control) for member in others))


def decode(cfg: ModelConfig, params: Params, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Latents (B, frames, bins, C) -> log-mel (B, mel frames, bands) and wave (B, all samples of the vocoder)."""
    latent = from_latent(x0, cfg.autoencoder.scale_factor)
    mel = apply(Autoencoder(cfg.autoencoder), params["autoencoder"], latent, method="decode")[..., 0]
    return mel, apply(Vocoder(cfg.vocoder), params["vocoder"], mel)


def denoiser(cfg: ModelConfig, params: Params) -> DenoiseFn:
    """The U-Net, with the ControlNet's residuals where the conditioning carries a control.

    N conditions of the same latents may come as N B rows beside x and t of B (``guidance.combined`` with ``repeat``
    False): what they have in common is computed once.
    """
    dtype, remat = dtype_of(cfg), cfg.compute.remat
    unet, controlnet = UNet(cfg.unet, dtype, remat), ControlNet(cfg.unet, dtype, remat)

    def denoise(x: jax.Array, t: jax.Array, cond: Conditioning) -> jax.Array:
        residuals = None
        if cond.control is not None:
            mask = cond.mask if cfg.unet.mask_control else None
            residuals = apply(controlnet, params["controlnet"], x, t, cond.context, mask, cond.control)
        return apply(unet, params["unet"], x, t, cond.context, cond.mask, residuals)

    return denoise
