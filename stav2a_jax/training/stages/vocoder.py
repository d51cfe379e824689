"""Stage 2: the vocoder, from true log-mels. Multi-resolution STFT and mel distances, no discriminator at tiny size."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.audio.mel import log_mel, stft_magnitude
from stav2a_jax.data.batches import Piece
from stav2a_jax.models.vocoder import Vocoder
from stav2a_jax.nn.call import apply
from stav2a_jax.training.show import spectrograms
from stav2a_jax.training.stages.base import Loss, Shown, Stage, index_of, stack_waves
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))


def spectral_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Spectral convergence + L1 of log magnitudes over three resolutions (Parallel WaveGAN). (B, n) -> ()."""
    total = jnp.zeros(())
    for n_fft, hop in RESOLUTIONS:
        x, y = stft_magnitude(a, n_fft, hop), stft_magnitude(b, n_fft, hop)
        convergence = jnp.sqrt(jnp.sum((x - y) ** 2) + 1e-8) / jnp.sqrt(jnp.sum(y**2) + 1e-4)
        logs = jnp.abs(jnp.log(jnp.maximum(x, 1e-3)) - jnp.log(jnp.maximum(y, 1e-3))).mean()
        total += convergence + logs
    return total / len(RESOLUTIONS)


def build(ws: Workspace) -> Stage:
    cfg = ws.cfg
    spec, model = cfg.model.latent, Vocoder(cfg.model.vocoder)
    crop = round(cfg.stages.vocoder.crop_seconds * spec.frames_per_second)
    per_frame = spec.hop * spec.downsample
    caches = {split: ws.clips(split) for split in ("train", "valid")}

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        wave = batch["wave"]
        frames = wave.shape[1] // spec.hop
        mel = log_mel(wave, spec)[:, :frames]
        out = apply(model, params["vocoder"], mel)[:, : wave.shape[1]]
        again = log_mel(out, spec)[:, :frames]
        mel_l1 = jnp.abs(again - mel).mean()
        stft = spectral_distance(out, wave)
        return stft + mel_l1, {"mel_l1": mel_l1, "stft": stft}

    def batch(split: str, pieces: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        return {"wave": stack_waves(caches[split], pieces, crop, per_frame), "index": index_of(pieces)}

    @jax.jit
    def heard(params: Params, wave: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        frames = wave.shape[1] // spec.hop
        mel = log_mel(wave, spec)[:, :frames]
        out = apply(model, params["vocoder"], mel)[:, : wave.shape[1]]
        return mel, log_mel(out, spec)[:, :frames], jnp.clip(out, -1.0, 1.0)

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        mels, again, out = parallel.fetch(heard(params, batch["wave"]))
        pictures = {f"example_{i}/mel_true_made": spectrograms(*m) for i, m in enumerate(zip(mels, again, strict=True))}
        kinds = {"true": batch["wave"], "made": out}
        return Shown(pictures, {f"example_{i}/{kind}": s for kind, rows in kinds.items() for i, s in enumerate(rows)})

    mel = jnp.zeros((1, crop * spec.downsample, spec.mel_bins))
    params = {"vocoder": ws.compute(jax.jit(model.init), jax.random.key(cfg.seed), mel)["params"]}
    return Stage(ws.begin("vocoder", params), {}, loss, loss, batch, whole_batch=True, show=show)
