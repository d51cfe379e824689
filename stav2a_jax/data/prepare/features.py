"""What the encoders of a bundle make of a clip: video features, text embeddings, moments of the mel VAE, in float16.

The encoders run in the main process (they want the accelerator, or all cores), the decoding of videos in workers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.audio.mel import log_mel
from stav2a_jax.audio.wav import to_int16
from stav2a_jax.bundle import find_bundle, load_params, load_part, read_settings
from stav2a_jax.config import ModelConfig
from stav2a_jax.data.prepare import media
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.store import Row, digest, file_digest
from stav2a_jax.data.records import Field, encode_frames, feature_fields
from stav2a_jax.models.autoencoder import Autoencoder
from stav2a_jax.models.system import encode_text, encode_video
from stav2a_jax.nn.call import apply
from stav2a_jax.tensors import read_safetensors
from stav2a_jax.tokenizer import FILES, Tokenizer
from stav2a_jax.types import Params, UserError

TAIL = 25
"""Latent frames of silence behind the end of a clip at the least, so that the last row, which is held, is silence."""
BUCKET = 32
"""Rows are rounded up to a multiple of so many latent frames: few programs to compile."""


class Loaded(NamedTuple):
    """A decoded clip. wave (n,) int16; pictures (N, size, size, 3) uint8, None where nothing needs them; frames,
    frame_sizes: the stored pictures, see ``records.encode_frames``."""

    wave: np.ndarray
    pictures: np.ndarray | None
    frames: np.ndarray | None
    frame_sizes: np.ndarray | None


def load(row: Row, settings: PrepareSettings, model: ModelConfig) -> Loaded:
    """Sound and pictures of a clip as the encoders, or the record, need them. Raises media.Dropped."""
    wave = to_int16(media.sound(row, model.latent.sample_rate, model.sound))
    pictures = frames = sizes = None
    if settings.bundle is not None or settings.frames != "none":
        pictures = media.pictures(row, model.video.fps, model.video.size)
    if settings.frames != "none":
        assert pictures is not None
        frames, sizes = encode_frames(pictures, settings.frames)
    return Loaded(wave, pictures if settings.bundle is not None else None, frames, sizes)


def model_config(settings: PrepareSettings) -> ModelConfig:
    """The bundle's config; without a bundle the defaults with the settings' rate and size of pictures and sound."""
    if settings.bundle is not None:
        return read_settings(find_bundle(settings.bundle))[0]
    model = ModelConfig()
    video = dataclasses.replace(model.video, fps=settings.frame_fps, size=settings.frame_size)
    latent = dataclasses.replace(model.latent, sample_rate=settings.sample_rate)
    return dataclasses.replace(model, video=video, latent=latent)


def encoders_digest(settings: PrepareSettings, vae: pathlib.Path | None) -> str:
    """Of all that the features depend on: weights, config and tokenizer, and of what is stored.

    Files are named by what they are for: those of ``vae`` and of the bundle may have one name.
    """
    stored = [settings.frames, settings.frame_fps, settings.frame_size, settings.sample_rate]
    if settings.bundle is None:
        return digest("features 1", None, stored)
    folder = find_bundle(settings.bundle)
    files = {name: folder / name for name in ("config.json", "weights.safetensors", *FILES)}
    given = files | ({"vae": vae} if vae else {})
    return digest("features 1", stored, {role: file_digest(path) for role, path in given.items() if path.is_file()})


def encoder_fields(settings: PrepareSettings, vae: pathlib.Path | None) -> dict[str, Field]:
    """Fields of a record that the encoders make; no weight is read. UserError where the bundle lacks an encoder.

    A bundle for sampling has no encoder of the VAE; ``vae`` is a safetensors file that holds it (group
    ``autoencoder``), for example params.safetensors of the stage ``vae`` of a run. Without one there are no moments.
    """
    if settings.bundle is None:
        return {}
    folder = find_bundle(settings.bundle)
    model = read_settings(folder)[0]
    groups = {tuple(key.split("/")[:2]) for key in read_safetensors(folder / "weights.safetensors")}
    lacking = sorted({"video", "text"} - {group for group, *_ in groups})
    if lacking:
        raise UserError(f"the bundle {settings.bundle!r} lacks the weights of {', '.join(lacking)}; give another.")
    more = {tuple(key.split("/")[:2]) for key in read_safetensors(vae)} if vae else set()
    needed = {("autoencoder", "encoder"), ("autoencoder", "quant_conv")}
    if vae and not needed <= more:
        raise UserError(f"{vae} holds no encoder of a VAE (autoencoder/encoder); give the stage's params file.")
    shape = (model.latent.bins, 2 * model.autoencoder.embed_channels) if needed <= groups | more else None
    return feature_fields(model.video.features, model.text.d_model, shape)


class Encoders:
    """The encoders of a bundle, for what :func:`encoder_fields` lists; callable."""

    def __init__(self, settings: PrepareSettings, vae: pathlib.Path | None = None) -> None:
        assert settings.bundle is not None
        self.fields = encoder_fields(settings, vae)
        part = load_part(settings.bundle, ("video", "text", "autoencoder"))
        self.config, self.batch = part.model, settings.batch
        given = load_params(vae, ("autoencoder",)) if vae else {}
        self._params = jax.device_put({**part.params, **given})
        self._tokenizer = Tokenizer.load(part.folder)
        self._video = jax.jit(functools.partial(encode_video, self.config))
        self._text = jax.jit(functools.partial(encode_text, self.config))
        self._moments = jax.jit(functools.partial(moments, self.config))

    def __call__(self, captions: Sequence[str], clips: Sequence[Loaded]) -> list[dict[str, np.ndarray]]:
        """video (T, D), text (L, d) and moments (frames, bins, 2 C), float16, of every clip.

        Rows go on behind the end of the clip for a second or more, the picture held and the sound silent.
        """
        texts = self._texts(captions)
        found: list[dict[str, np.ndarray]] = [{"text": text} for text in texts]
        rows = [self._rows(clip) for clip in clips]
        for count in sorted(set(rows)):
            mine = [i for i, n in enumerate(rows) if n == count]
            for k in range(0, len(mine), self.batch):
                group = mine[k : k + self.batch]
                for name, arrays in self._group([clips[i] for i in group], count).items():
                    for i, array in zip(group, arrays):
                        found[i][name] = array
        return [{name: _half(array, name) for name, array in one.items()} for one in found]

    def _rows(self, clip: Loaded) -> int:
        latent = self.config.latent
        frames = math.ceil(len(clip.wave) / (latent.hop * latent.downsample) - 1e-6)
        return -(-(frames + TAIL) // BUCKET) * BUCKET

    def _group(self, clips: Sequence[Loaded], rows: int) -> dict[str, np.ndarray]:
        """Features of clips of one length class, padded to a whole batch so that one program serves all."""
        latent, video = self.config.latent, self.config.video
        padded = [*clips, *([clips[-1]] * (self.batch - len(clips)))]
        count = round(rows / latent.frames_per_second * video.fps)
        pictures = np.stack([_held(clip.pictures, count) for clip in padded])
        out = {"video": np.asarray(self._video(self._params, pictures))}
        if "moments" in self.fields:
            samples = rows * latent.hop * latent.downsample
            waves = np.stack([_level(clip.wave, self.config.sound.level, samples) for clip in padded])
            out["moments"] = np.asarray(self._moments(self._params, waves))
        return out

    def _texts(self, captions: Sequence[str]) -> list[np.ndarray]:
        limit, out = self.config.text.max_length, []
        for k in range(0, len(captions), self.batch):
            group = [*captions[k : k + self.batch]]
            ids, mask = self._tokenizer(group + [""] * (self.batch - len(group)), limit, pad_to=limit)
            rows = np.asarray(self._text(self._params, ids, mask))
            out += [row[: int(keep.sum())] for row, keep in zip(rows[: len(group)], mask)]
        return out


def moments(cfg: ModelConfig, params: Params, wave: jax.Array) -> jax.Array:
    """Mean and log-variance of the VAE's posterior of waves (B, n): (B, frames, bins, 2 C); n a multiple of a frame."""
    mel = log_mel(wave, cfg.latent)[:, : wave.shape[1] // cfg.latent.hop, :, None]
    posterior = apply(Autoencoder(cfg.autoencoder), params["autoencoder"], mel, method="encode")
    return jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)


def _level(wave: np.ndarray, level: str, samples: int) -> np.ndarray:
    """(n,) int16 -> (samples,) float32 without its mean, at its own level or with a peak of 0.5, then silence."""
    x = wave.astype(np.float32) / 32768
    x = x - x.mean()
    if level == "peak":
        x = 0.5 * x / (np.abs(x).max() + 1e-8)
    return np.pad(np.clip(x, -1.0, 1.0), (0, samples - len(x)))


def _held(pictures: np.ndarray | None, count: int) -> np.ndarray:
    assert pictures is not None
    return np.concatenate([pictures[:count], np.repeat(pictures[-1:], max(0, count - len(pictures)), axis=0)])


def _half(array: np.ndarray, name: str) -> np.ndarray:
    half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"the {name} features exceed what float16 holds (largest {np.abs(array).max():.3g}).")
    return half
