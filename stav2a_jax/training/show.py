"""What the stages show at a validation: spectrograms, onset tracks, similarities, sounds. Plain arrays in and out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.config import ModelConfig
from stav2a_jax.diffusion.samplers import dpmpp_2m, draw_noise
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.autoencoder import Autoencoder, from_latent
from stav2a_jax.models.system import denoiser
from stav2a_jax.models.vocoder import Vocoder
from stav2a_jax.nn.call import apply
from stav2a_jax.training.stages.base import Shown
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Conditioning, Params

STEPS = 20
"""Denoising steps of a shown sample; it is made without guidance, from noise that is the same at every validation."""
SEED = 0
GAP = 2  # pixels between two pictures


def spectrograms(*mels: np.ndarray) -> np.ndarray:
    """Log-mels (T, bins) below each other, time to the right, low bins below, one colour scale. -> (H, T, 3) uint8."""
    low, high = min(m.min() for m in mels), max(m.max() for m in mels)
    return _stacked([_coloured((mel.T[::-1] - low) / max(high - low, 1e-6)) for mel in mels])


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of every row of a (N, D) with every row of b (M, D), from -1 to 1. -> (N, M, 3) uint8."""
    return _coloured((a @ b.T + 1.0) / 2.0)


def onset_track(probability: np.ndarray, labels: np.ndarray, height: int = 48) -> np.ndarray:
    """Probabilities (T,) as blue bars, labels (T,) as orange lines from above. -> (height, 4 T, 3) uint8."""
    picture = np.full((height, len(probability), 3), 255, np.uint8)
    level = np.arange(height, 0, -1)[:, None] <= np.round(probability * height)[None]
    picture[level] = (47, 109, 179)
    picture[: height // 3][:, labels > 0] = (217, 84, 30)
    return np.repeat(picture, 4, axis=1)


def onset_tracks(probability: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """An :func:`onset_track` by name for every example."""
    return {f"example_{i}/onsets": onset_track(*pair) for i, pair in enumerate(zip(probability, labels, strict=True))}


def _coloured(x: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    return (colormaps["magma"](np.clip(x, 0.0, 1.0))[..., :3] * 255).astype(np.uint8)


def _stacked(pictures: list[np.ndarray]) -> np.ndarray:
    gap = np.full((GAP, *pictures[0].shape[1:]), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1])


def sampler(
    ws: Workspace, model: ModelConfig, condition: Callable[[Params, dict[str, Any]], Conditioning]
) -> Callable[[Params, dict[str, Any], int], tuple[np.ndarray, np.ndarray | None]] | None:
    """(params, batch, frames) -> log-mels (B, T, bins) and, where the vocoder is trained, sounds (B, n); None where the
    run has no VAE to decode with (its clips came with latents).

    ``condition(params, batch)`` is what the sample is made for. The decoders are those of the run's earlier stages.
    """
    if not ws.done("vae"):
        return None
    decoders = {"autoencoder": ws.result("vae")[0]["autoencoder"]}
    if ws.done("vocoder"):
        decoders["vocoder"] = ws.result("vocoder")[0]["vocoder"]
    schedule, autoencoder = make_schedule(model.schedule), Autoencoder(model.autoencoder)

    @functools.partial(jax.jit, static_argnums=3)
    def sample(params: Params, decoders: Params, batch: dict[str, Any], frames: int) -> Any:
        cond = condition(params, batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(SEED), batch["index"])
        noise = draw_noise(keys, 0, model.latent.shape(1, frames)[1:])
        x0 = dpmpp_2m(denoiser(model, params), noise, schedule, cond, None, steps=STEPS)
        latent = from_latent(x0.astype(jnp.float32), model.autoencoder.scale_factor)
        mel = apply(autoencoder, decoders["autoencoder"], latent, method="decode")[..., 0]
        return mel, apply(Vocoder(model.vocoder), decoders["vocoder"], mel) if "vocoder" in decoders else None

    return lambda params, batch, frames: parallel.fetch(sample(params, decoders, batch, frames))


def samples(mels: np.ndarray, sounds: np.ndarray | None) -> Shown:
    """Pictures and sounds of what :func:`sampler` made."""
    numbered = [] if sounds is None else [(f"sample_{i}/sound", np.clip(s, -1.0, 1.0)) for i, s in enumerate(sounds)]
    return Shown({f"sample_{i}/mel": spectrograms(mel) for i, mel in enumerate(mels)}, dict(numbered))
