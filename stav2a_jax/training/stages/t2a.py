"""Stage 4: text-to-audio. The U-Net and, at tiny size, the text encoder learn from (latent, caption) pairs."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.data.batches import Piece
from stav2a_jax.data.cache import Derived
from stav2a_jax.diffusion.loss import diffusion_loss
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.system import denoiser, encode_text, join
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.training.stages.base import Loss, Stage, frame_mask, index_of, stack_captions, stack_rows
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    derive_latents(ws)
    cfg, model = ws.cfg, ws.model_config()
    schedule = make_schedule(model.schedule)
    crop = round(cfg.stages.t2a.crop_seconds * model.latent.frames_per_second)
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    latents = {split: Derived(ws.derived_folder(split), "latent") for split in caches}
    tokenizer = ws.tokenizer()
    null_ids, null_mask = tokenizer([""], model.text.max_length, pad_to=model.text.max_length)

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array, drop: float) -> Loss:
        ids, mask = drop_text(batch["ids"], batch["ids_mask"], null_ids, null_mask, keys, drop)
        cond = join(encode_text(model, params, ids, mask), mask)
        x0 = sample_latent(batch["moments"], model.autoencoder.scale_factor, keys)
        rows = diffusion_loss(
            denoiser(model, params), schedule, x0, cond, keys, snr_gamma=cfg.loss.snr_gamma, mask=batch["mask"]
        )
        return rows.mean(), {}

    def batch(split: str, pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
        ids, ids_mask = stack_captions(caches[split], pieces, tokenizer, model.text.max_length)
        return {
            "moments": stack_rows(latents[split], pieces, crop),
            "ids": ids,
            "ids_mask": ids_mask,
            "mask": frame_mask(pieces, crop),
            "index": index_of(pieces),
        }

    return Stage(
        init_t2a(ws),
        {},
        lambda p, f, b, k: loss(p, f, b, k, cfg.loss.drop_text),
        lambda p, f, b, k: loss(p, f, b, k, 0.0),
        batch,
    )


def init_t2a(ws: Workspace) -> Params:
    cfg = ws.cfg.model
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 2))
    x = jnp.zeros(cfg.latent.shape(1, 32))
    context, mask = jnp.zeros((1, 4, cfg.unet.cross_attention_dim)), jnp.ones((1, 4))
    return {
        "unet": jax.jit(UNet(cfg.unet).init)(a, x, jnp.zeros((1,), jnp.int32), context, mask)["params"],
        "text": jax.jit(TextEncoder(cfg.text).init)(b, jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))[
            "params"
        ],
    }


def coin(keys: jax.Array, salt: int, probability: float) -> jax.Array:
    """(B,) True with the probability, one independent draw per example and salt."""
    return jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, salt), probability))(keys)


def drop_text(
    ids: jax.Array, mask: jax.Array, null_ids: np.ndarray, null_mask: np.ndarray, keys: jax.Array, probability: float
) -> tuple[jax.Array, jax.Array]:
    """Replace a caption by the padded empty prompt, which is also what guidance uses (decision in docs/model.md)."""
    drop = coin(keys, 101, probability)[:, None]
    return jnp.where(drop, null_ids, ids), jnp.where(drop, null_mask, mask)


def sample_latent(moments: jax.Array, scale_factor: float, keys: jax.Array) -> jax.Array:
    """Draw z from stored (mean, logvar) and scale it to unit variance."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 102), mean.shape[1:]))(keys)
    return scale_factor * (mean + jnp.exp(0.5 * logvar) * noise)
