"""Stage 6: the full model. The U-Net, from T2A weights, is trained TOGETHER with the ControlNet (paper sec. 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.data.batches import Piece
from stav2a_jax.data.cache import Derived
from stav2a_jax.diffusion.loss import diffusion_loss
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.adapters import AttentivePooling, onset_loss
from stav2a_jax.models.controlnet import ControlNet, init_from_unet
from stav2a_jax.models.system import denoiser, encode_text, global_tokens, join, local_control
from stav2a_jax.training.stages.base import Loss, Stage, frame_mask, index_of, stack_captions, stack_onsets, stack_rows
from stav2a_jax.training.stages.cavp import derive_features
from stav2a_jax.training.stages.t2a import coin, drop_text, sample_latent
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    derive_latents(ws)
    derive_features(ws, "onset" if ws.cfg.loss.onset_trains_video else "cavp")
    cfg, model = ws.cfg, ws.model_config()
    schedule = make_schedule(model.schedule)
    crop = round(cfg.stages.stav2a.crop_seconds * model.latent.frames_per_second)
    ratio = model.video.fps / model.latent.frames_per_second
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    latents = {split: Derived(ws.derived_folder(split), "latent") for split in caches}
    videos = {split: Derived(ws.derived_folder(split), "video") for split in caches}
    tokenizer = ws.tokenizer()
    null_ids, null_mask = tokenizer([""], model.text.max_length, pad_to=model.text.max_length)

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array, training: bool) -> Loss:
        drop = cfg.loss if training else None
        ids, ids_mask = drop_text(
            batch["ids"], batch["ids_mask"], null_ids, null_mask, keys, drop.drop_text if drop else 0.0
        )
        logits, control = local_control(model, params, batch["video"], None, crop)
        tokens = global_tokens(model, params, batch["video"], None, keys if training else None)
        keep_tokens = 1.0 - coin(keys, 103, drop.drop_global if drop else 0.0).astype(jnp.float32)
        keep_control = 1.0 - coin(keys, 104, drop.drop_local if drop else 0.0).astype(jnp.float32)
        text = encode_text(model, frozen, ids, ids_mask)
        cond = join(text, ids_mask, tokens, control * keep_control[:, None, None], keep_tokens)
        x0 = sample_latent(batch["moments"], model.autoencoder.scale_factor, keys)
        rows = diffusion_loss(
            denoiser(model, params), schedule, x0, cond, keys, snr_gamma=cfg.loss.snr_gamma
        )  # no mask: behind a clip's end the picture stands still and the sound is silence
        onset = onset_loss(logits, batch["onset"], batch["mask"])
        return rows.mean() + cfg.loss.stav2a_onset * onset, {"diffusion": rows.mean(), "onset": onset}

    def batch(split: str, pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
        ids, ids_mask = stack_captions(caches[split], pieces, tokenizer, model.text.max_length)
        return {
            "moments": stack_rows(latents[split], pieces, crop),
            "video": stack_rows(videos[split], pieces, crop, ratio),
            "ids": ids,
            "ids_mask": ids_mask,
            "onset": stack_onsets(caches[split], pieces, crop, model.latent.frames_per_second),
            "mask": frame_mask(pieces, crop),
            "index": index_of(pieces),
        }

    trainable, frozen = init_stav2a(ws)
    return Stage(
        trainable,
        frozen,
        lambda p, f, b, k: loss(p, f, b, k, True),
        lambda p, f, b, k: loss(p, f, b, k, False),
        batch,
    )


def init_stav2a(ws: Workspace) -> tuple[Params, Params]:
    """(trainable, frozen): T2A's U-Net, its copy as ControlNet, the onset stage's local branch, a fresh pooling."""
    cfg = ws.cfg.model
    t2a, local = ws.result("t2a")[0], ws.result("onset")[0]
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 3))
    x, t = jnp.zeros(cfg.latent.shape(1, 32)), jnp.zeros((1,), jnp.int32)
    context, mask = jnp.zeros((1, 4, cfg.unet.cross_attention_dim)), jnp.ones((1, 4))
    control = jnp.zeros((1, 32, cfg.unet.control_channels))
    controlnet = jax.jit(ControlNet(cfg.unet).init)(a, x, t, context, mask, control)["params"]
    pooling = AttentivePooling(cfg.pooling).init(b, jnp.zeros((1, 8, cfg.video.features)), None, deterministic=True)
    trainable = {
        "unet": t2a["unet"],
        "controlnet": init_from_unet(t2a["unet"], controlnet),
        "local": local["local"],
        "onset": local["onset"],
        "pooling": pooling["params"],
    }
    return trainable, {"text": t2a["text"]}
