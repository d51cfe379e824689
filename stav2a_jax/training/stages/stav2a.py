"""Stage 6: the full model. The U-Net, from T2A weights, is trained TOGETHER with the ControlNet (paper sec. 2.4).

The recipe and the model's conditions leave out what the rows of the paper's Table III leave out (docs/training.md).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.config import LossConfig, ModelConfig
from stav2a_jax.data.batches import Piece
from stav2a_jax.diffusion.loss import draw, loss_at
from stav2a_jax.diffusion.schedule import Schedule, make_schedule
from stav2a_jax.models.adapters import AttentivePooling, centred, onset_loss
from stav2a_jax.models.controlnet import ControlNet, init_from_unet
from stav2a_jax.models.system import denoiser, encode_text, join, local_control, video_tokens
from stav2a_jax.training.show import onset_tracks, sampler, samples
from stav2a_jax.training.stages.base import (
    Loss,
    Shown,
    Stage,
    frame_mask,
    index_of,
    stack_captions,
    stack_onsets,
    stack_rows,
)
from stav2a_jax.training.stages.cavp import derive_features
from stav2a_jax.training.stages.onset import init_local
from stav2a_jax.training.stages.t2a import DROP_TEXT, coin, encode_captions, sample_latent
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.training.workspace import video_stage as video_stage
from stav2a_jax.types import Batch, Conditioning, Params

DROP_GLOBAL, DROP_LOCAL = 103, 104
"""Salts of the draws that drop the video tokens and the control."""

MEASURED = 1000
"""Clips whose features the start of the pooling is fitted to."""


def build(ws: Workspace) -> Stage:
    derive_latents(ws)
    derive_features(ws, video_stage(ws.cfg))
    cfg, model = ws.cfg, ws.model_config()
    ratio = model.video.fps / model.latent.frames_per_second
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    latents, videos = ({split: ws.rows(split, name) for split in caches} for name in ("latent", "video"))
    tokenizer = ws.tokenizer()
    null = tokenizer([""], model.text.max_length, pad_to=model.text.max_length)
    # A fresh local branch has no onset labels: what the control means is learnt by denoising alone.
    labels = cfg.loss.stav2a_onset if cfg.recipe.local == "onset" else 0.0
    loss = make_loss(dataclasses.replace(cfg.loss, stav2a_onset=labels), model, null)

    def batch(split: str, pieces: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        plain = cfg.loss.stav2a_plain_text if split == "train" else 0.0
        ids, ids_mask = stack_captions(caches[split], pieces, tokenizer, model, plain)
        return {
            "moments": stack_rows(latents[split], pieces, crop),
            "video": stack_rows(videos[split], pieces, crop, ratio),
            "ids": ids,
            "ids_mask": ids_mask,
            "onset": stack_onsets(caches[split], pieces, crop, model.latent.frames_per_second),
            "mask": frame_mask(pieces, crop),
            "index": index_of(pieces),
        }

    def condition(params: Params, batch: Batch) -> Conditioning:
        _, control = local_control(model, params, batch["video"], None, batch["mask"].shape[1])
        text = encode_text(model, params, batch["ids"], batch["ids_mask"])
        return join(text, batch["ids_mask"], video_tokens(model, params, batch["video"], None), control)

    sample = sampler(ws, model, condition)

    @jax.jit
    def probability(params: Params, batch: Batch) -> jax.Array:
        logits, _ = local_control(model, params, batch["video"], None, batch["mask"].shape[1])
        return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        assert sample is not None
        made = samples(*sample({**frozen, **params}, batch, batch["mask"].shape[1]))
        tracks = onset_tracks(parallel.fetch(probability(params, batch)), batch["onset"])
        return made._replace(images={**made.images, **tracks})

    trainable = init_stav2a(ws)
    kept = {} if cfg.recipe.train_unet else {"unet": trainable.pop("unet")}
    return Stage(
        trainable,
        {"text": ws.result("t2a")[0]["text"], **kept},
        functools.partial(loss, training=True),
        functools.partial(loss, training=False),
        batch,
        show=show if sample else None,
        kept=kept,
    )


def make_loss(cfg: LossConfig, model: ModelConfig, null: tuple[np.ndarray, np.ndarray]) -> Callable[..., Loss]:
    """(params, frozen, batch, keys (B,), training) -> (mean loss, its parts). ``null``: ids and mask of "", (1, L)."""
    schedule = make_schedule(model.schedule)

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array, training: bool) -> Loss:
        x0 = sample_latent(batch["moments"], model.autoencoder.scale_factor, keys)
        draws = draw_all(cfg, keys, x0.shape[1:], schedule.train_steps, training)
        rows, onset = losses(model, cfg, schedule, {**frozen, **params}, batch, x0, null, draws)
        return rows.mean() + cfg.stav2a_onset * onset, {"diffusion": rows.mean(), "onset": onset}

    return loss


class Draws(NamedTuple):
    """What one step draws, one row per example: timestep t (B,), noise eps like x0, what is dropped (B,) bool, and
    keys (B,) for the pooling's dropout, or None for none."""

    t: jax.Array
    eps: jax.Array
    drop_text: jax.Array
    drop_global: jax.Array
    drop_local: jax.Array
    dropout: jax.Array | None


def draw_all(cfg: LossConfig, keys: jax.Array, shape: tuple[int, ...], train_steps: int, training: bool) -> Draws:
    """Draws from one key per example; in validation (``training`` False) nothing is dropped."""
    t, eps = draw(keys, shape, train_steps)
    drop_text = cfg.drop_text if cfg.stav2a_drop_text is None else cfg.stav2a_drop_text

    def dropped(salt: int, probability: float) -> jax.Array:
        return coin(keys, salt, probability if training else 0.0)

    return Draws(
        t,
        eps,
        dropped(DROP_TEXT, drop_text),
        dropped(DROP_GLOBAL, cfg.drop_global),
        dropped(DROP_LOCAL, cfg.drop_local),
        keys if training else None,
    )


def losses(
    model: ModelConfig,
    cfg: LossConfig,
    schedule: Schedule,
    params: Params,
    batch: Batch,
    x0: jax.Array,
    null: tuple[np.ndarray, np.ndarray],
    draws: Draws,
) -> tuple[jax.Array, jax.Array]:
    """Diffusion losses (B,) of clean latents x0 (B, frames, bins, C), and the onset loss () (paper sec. 2.4).

    ``params`` holds all groups that conditioning and denoising need. ``batch``: video (B, T, D), ids and ids_mask
    (B, L), onset and mask (B, frames). ``null``: ids and mask of the empty prompt.
    """
    logits, control = local_control(model, params, batch["video"], None, x0.shape[1])
    tokens = video_tokens(model, params, batch["video"], None, draws.dropout)
    text, mask = encode_captions(model, params, batch["ids"], batch["ids_mask"], null, draws.drop_text, cfg.null_text)
    keep_tokens, keep_control = (1.0 - drop.astype(jnp.float32) for drop in (draws.drop_global, draws.drop_local))
    cond = join(text, mask, tokens, control * keep_control[:, None, None], keep_tokens)
    rows = loss_at(
        denoiser(model, params),
        schedule,
        x0,
        cond,
        draws.t,
        draws.eps,
        snr_gamma=cfg.snr_gamma,
        snr_weight=cfg.snr_weight,
    )  # no mask: behind a clip's end the picture stands still and the sound is silence
    return rows, onset_loss(logits, batch["onset"], None if cfg.count_padding else batch["mask"])


def init_stav2a(ws: Workspace) -> Params:
    """T2A's U-Net, its copy as ControlNet, the onset stage's local branch or a fresh one, pooling fitted to clips."""
    cfg, unet = ws.cfg.model, ws.result("t2a")[0]["unet"]
    local = init_local(ws) if ws.cfg.recipe.local == "fresh" else ws.result("onset")[0]
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 3))
    params = {
        "unet": unet,
        "controlnet": ws.compute(jax.jit(functools.partial(_controlnet, cfg)), a, unet),
        "local": local["local"],
        "onset": local["onset"],
    }
    if cfg.conditions.global_tokens:
        params["pooling"] = ws.compute(functools.partial(_pooling, cfg), b, _mean_features(ws))
    return ws.begin("stav2a", params)


def _pooling(cfg: ModelConfig, key: jax.Array, means: jax.Array) -> Params:
    """A pooling that is fitted to clips of these mean features (N, D)."""
    fresh = AttentivePooling(cfg.pooling).init(key, jnp.zeros((1, 8, cfg.video.features)), None, deterministic=True)
    return centred(fresh["params"], means)


def _mean_features(ws: Workspace) -> np.ndarray:
    """(N, D) float32, the mean features of clips of ``train``, at most MEASURED of them, evenly spaced."""
    rows, records, fps = ws.rows("train", "video"), ws.clips("train").records, ws.cfg.model.video.fps
    chosen = range(0, len(records), -(-len(records) // MEASURED))
    return np.stack([rows.rows(i, 0, max(round(records[i]["seconds"] * fps), 1)).mean(axis=0) for i in chosen])


def _controlnet(cfg: ModelConfig, key: jax.Array, unet: Params) -> Params:
    """A ControlNet that starts as a copy of the U-Net."""
    x, t = jnp.zeros(cfg.latent.shape(1, 32)), jnp.zeros((1,), jnp.int32)
    context, mask = jnp.zeros((1, 4, cfg.unet.cross_attention_dim)), jnp.ones((1, 4))
    control = jnp.zeros((1, 32, cfg.unet.control_channels))
    return init_from_unet(unet, ControlNet(cfg.unet).init(key, x, t, context, mask, control)["params"])
