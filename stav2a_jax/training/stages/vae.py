"""Stage 1: the mel VAE. L1 on the log-mel plus a small KL (AudioLDM's first stage without its discriminator)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.audio.mel import log_mel
from stav2a_jax.data.batches import Piece
from stav2a_jax.data.cache import has_derived, write_derived
from stav2a_jax.data.clips import ids_digest
from stav2a_jax.models.autoencoder import Autoencoder, kl
from stav2a_jax.models.system import dtype_of
from stav2a_jax.nn.call import apply
from stav2a_jax.training.show import spectrograms
from stav2a_jax.training.stages.base import Loss, Shown, Stage, index_of, stack_waves
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    cfg = ws.cfg
    spec, model = cfg.model.latent, Autoencoder(cfg.model.autoencoder, dtype_of(cfg.model))
    crop = round(cfg.stages.vae.crop_seconds * spec.frames_per_second)
    per_frame = spec.hop * spec.downsample
    caches = {split: ws.clips(split) for split in ("train", "valid")}

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        mel = log_mel(batch["wave"], spec)[:, : batch["wave"].shape[1] // spec.hop, :, None]
        posterior = apply(model, params["autoencoder"], mel, method="encode")
        noise = jax.vmap(lambda k: jax.random.normal(k, posterior.mean.shape[1:]))(keys)
        z = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
        out = apply(model, params["autoencoder"], z, method="decode")
        reconstruction = jnp.abs(out - mel).mean() / cfg.model.autoencoder.mel_scale
        divergence = kl(posterior).mean()
        return reconstruction + cfg.loss.vae_kl * divergence, {"l1": reconstruction, "kl": divergence}

    def batch(split: str, pieces: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        return {"wave": stack_waves(caches[split], pieces, crop, per_frame), "index": index_of(pieces)}

    @jax.jit
    def rebuilt(params: Params, wave: jax.Array) -> tuple[jax.Array, jax.Array]:
        mel = log_mel(wave, spec)[:, : wave.shape[1] // spec.hop, :, None]
        z = apply(model, params["autoencoder"], mel, method="encode").mean
        return mel[..., 0], apply(model, params["autoencoder"], z, method="decode")[..., 0]

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        pairs = zip(*parallel.fetch(rebuilt(params, batch["wave"])), strict=True)
        return Shown({f"example_{i}/mel_true_rebuilt": spectrograms(*pair) for i, pair in enumerate(pairs)})

    mel = jnp.zeros((1, crop * spec.downsample, spec.mel_bins, 1))
    params = {"autoencoder": ws.compute(jax.jit(model.init), jax.random.key(cfg.seed), mel)["params"]}
    return Stage(ws.begin("vae", params), {}, loss, loss, batch, lambda best: _measure(ws, best), show=show)


def _measure(ws: Workspace, params: Params) -> dict[str, Any]:
    """The latent scale factor: 1 / std of the latents, as AudioLDM takes it from its first batch."""
    count = total = squares = 0.0
    for moments in encode_clips(ws, params, "valid"):
        mean = moments[..., : moments.shape[-1] // 2].astype(np.float64)
        count, total, squares = count + mean.size, total + mean.sum(), squares + np.square(mean).sum()
    return {"scale_factor": float((squares / count - (total / count) ** 2) ** -0.5)}


def encode_clips(ws: Workspace, params: Params, split: str) -> Iterator[np.ndarray]:
    """Moments (frames, bins, 2 * channels) of every whole clip, one by one, with a tail of silence behind it."""
    from rich.progress import track

    spec, cache = ws.cfg.model.latent, ws.clips(split)
    model, per_frame = Autoencoder(ws.cfg.model.autoencoder), spec.hop * spec.downsample

    @jax.jit
    def encode(p: Params, wave: jax.Array) -> jax.Array:
        mel = log_mel(wave, spec)[:, : wave.shape[1] // spec.hop, :, None]
        posterior = apply(model, p, mel, method="encode")
        return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)

    for i in track(range(len(cache)), f"encoding {split} clips"):
        frames = int(np.ceil(cache.records[i]["seconds"] * spec.frames_per_second))
        # At least one second of silence behind the end, so that the row held there is silence; few shapes to compile.
        padded = -(-(frames + 25) // 32) * 32
        wave = cache.wave(i, 0, padded * per_frame)
        yield np.asarray(encode(params["autoencoder"], wave[None]))[0]


def derive_latents(ws: Workspace) -> None:
    """Write the moments of all clips for the diffusion stages, once; prepared clips may have them already."""
    if ws.given("moments"):
        return
    params, _ = ws.result("vae")
    for split in ("train", "valid"):
        folder, clips = ws.derived_folder(split), ws.clips(split)
        folder.mkdir(parents=True, exist_ok=True)
        if not has_derived(folder, "latent", len(clips), ids_digest(clips)):
            write_derived(folder, "latent", encode_clips(ws, params, split), ids_digest(clips))
