"""Stage 4: text-to-audio. The U-Net learns from (latent, caption) pairs, and the text encoder if the recipe says so."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.batches import Piece
from stav2a_jax.diffusion.loss import diffusion_loss
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.system import denoiser, encode_text, join
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.training.show import sampler, samples
from stav2a_jax.training.stages.base import Loss, Shown, Stage, frame_mask, index_of, stack_captions, stack_rows
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Conditioning, Params

DROP_TEXT = 101
"""Salt of the draw that drops a caption."""


def build(ws: Workspace) -> Stage:
    derive_latents(ws)
    cfg, model = ws.cfg, ws.model_config()
    schedule = make_schedule(model.schedule)
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    latents = {split: ws.rows(split, "latent") for split in caches}
    tokenizer = ws.tokenizer()
    null = tokenizer([""], model.text.max_length, pad_to=model.text.max_length)

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array, drop: float) -> Loss:
        everything = {**frozen, **params}
        text, mask = encode_captions(
            model, everything, batch["ids"], batch["ids_mask"], null, coin(keys, DROP_TEXT, drop), cfg.loss.null_text
        )
        x0 = sample_latent(batch["moments"], model.autoencoder.scale_factor, keys)
        rows = diffusion_loss(
            denoiser(model, everything),
            schedule,
            x0,
            join(text, mask),
            keys,
            snr_gamma=cfg.loss.snr_gamma,
            snr_weight=cfg.loss.snr_weight,
            mask=None if cfg.loss.count_padding else batch["mask"],
        )
        return rows.mean(), {}

    def batch(split: str, pieces: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        ids, ids_mask = stack_captions(caches[split], pieces, tokenizer, model)
        return {
            "moments": stack_rows(latents[split], pieces, crop),
            "ids": ids,
            "ids_mask": ids_mask,
            "mask": frame_mask(pieces, crop),
            "index": index_of(pieces),
        }

    def condition(params: Params, batch: Batch) -> Conditioning:
        kept = jnp.zeros(len(batch["ids"]), bool)
        return join(*encode_captions(model, params, batch["ids"], batch["ids_mask"], null, kept, cfg.loss.null_text))

    sample = sampler(ws, model, condition)

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        assert sample is not None
        return samples(*sample({**frozen, **params}, batch, batch["mask"].shape[1]))

    params = ws.begin("t2a", init_t2a(ws))
    frozen = {} if cfg.recipe.train_text else {"text": params.pop("text")}
    return Stage(
        params,
        frozen,
        lambda p, f, b, k: loss(p, f, b, k, cfg.loss.drop_text),
        lambda p, f, b, k: loss(p, f, b, k, 0.0),
        batch,
        show=show if sample else None,
        kept=frozen,
    )


def init_t2a(ws: Workspace) -> Params:
    cfg = ws.cfg.model
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 2))
    x = jnp.zeros(cfg.latent.shape(1, 32))
    context, mask = jnp.zeros((1, 4, cfg.unet.cross_attention_dim)), jnp.ones((1, 4))
    ids = jnp.zeros((1, 4), jnp.int32)
    return {
        "unet": ws.compute(jax.jit(UNet(cfg.unet).init), a, x, jnp.zeros((1,), jnp.int32), context, mask)["params"],
        "text": ws.compute(jax.jit(TextEncoder(cfg.text).init), b, ids, jnp.ones((1, 4), jnp.int32))["params"],
    }


def coin(keys: jax.Array, salt: int, probability: float) -> jax.Array:
    """(B,) True with the probability, one independent draw per example and salt."""
    return jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, salt), probability))(keys)


def encode_captions(
    cfg: ModelConfig,
    params: Params,
    ids: jax.Array,
    mask: jax.Array,
    null: tuple[np.ndarray, np.ndarray],
    drop: jax.Array,
    null_text: str,
) -> tuple[jax.Array, jax.Array]:
    """Embeddings (B, L, D) and mask (B, L) of captions (B, L), those with ``drop`` (B,) replaced by the null text.

    'prompt': the padded empty prompt, ``null`` (1, L or longer), which is also what guidance uses. 'zeros': zeros in
    place of the embedding and the caption's own mask, as the release trains (it samples with the empty prompt).
    """
    if null_text == "zeros":
        return jnp.where(drop[:, None, None], 0.0, encode_text(cfg, params, ids, mask)), mask
    null_ids, null_mask = (array[:, : ids.shape[1]] for array in null)
    ids, mask = jnp.where(drop[:, None], null_ids, ids), jnp.where(drop[:, None], null_mask, mask)
    return encode_text(cfg, params, ids, mask), mask


def sample_latent(moments: jax.Array, scale_factor: float, keys: jax.Array) -> jax.Array:
    """Draw z from stored (mean, logvar) and scale it to unit variance."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 102), mean.shape[1:]))(keys)
    return scale_factor * (mean + jnp.exp(0.5 * logvar) * noise)
