"""Stage 3: the video encoder, by contrast with the sound (CAVP: Diff-Foley's contrastive audio-visual pre-training).

Two contrasts in both directions: clip against clip (what sounds), and frame against frame (what, and when; CAVP
contrasts segments, and at 25 features per second a segment is a frame).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.audio.mel import log_mel
from stav2a_jax.data.batches import Piece, order_of
from stav2a_jax.data.cache import has_derived, write_derived
from stav2a_jax.data.clips import ids_digest
from stav2a_jax.models.cavp import VideoEncoder, calibrated, is_statistic
from stav2a_jax.models.cnn14 import SpecEncoder
from stav2a_jax.models.system import dtype_of, encode_video
from stav2a_jax.nn.call import apply
from stav2a_jax.training.show import similarity
from stav2a_jax.training.stages.base import Loss, Shown, Stage, frame_mask, index_of, stack_video, stack_waves
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    cfg = ws.cfg
    spec = cfg.model.latent
    crop = round(cfg.stages.cavp.crop_seconds * spec.frames_per_second)
    ratio = cfg.model.video.fps / spec.frames_per_second
    caches = {split: ws.clips(split) for split in ("train", "valid")}

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        video = encode_video(cfg.model, params, batch["video"])
        return contrast(ws, params, video, batch)

    def batch(split: str, rows: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        return {
            "video": stack_video(caches[split], rows, crop, ratio),
            "wave": stack_waves(caches[split], rows, crop, spec.hop * spec.downsample),
            "mask": frame_mask(rows, crop),
            "index": index_of(rows),
        }

    @jax.jit
    def features(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        video = encode_video(cfg.model, params, batch["video"])
        return video, sound_features(ws, params, scaled_mel(ws, batch["wave"]), video.shape[1])

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        pairs = zip(*parallel.fetch(features(params, batch)), strict=True)
        return Shown({f"example_{i}/picture_against_sound": similarity(*pair) for i, pair in enumerate(pairs)})

    frames_per_second = spec.frames_per_second
    keep, size = ws.kept("train"), cfg.stages.cavp.batch_size
    first = order_of(caches["train"], cfg.seed, size, (crop,), frames_per_second, keep).pieces(0)
    params = ws.begin("cavp", ws.compute(functools.partial(init_encoders, ws), batch("train", first, crop)))
    return Stage(params, {}, loss, loss, batch, is_frozen=is_statistic, whole_batch=True, show=show)


def init_encoders(ws: Workspace, batch: Mapping[str, np.ndarray]) -> Params:
    """Fresh encoders, their frozen normalisation measured on ``batch``."""
    cfg = ws.cfg.model
    video, spec = VideoEncoder(cfg.video), SpecEncoder(cfg.spec)
    a, b = jax.random.split(jax.random.key(ws.cfg.seed))
    frames, mel = jnp.asarray(batch["video"]), scaled_mel(ws, jnp.asarray(batch["wave"]))
    return {
        "video": calibrated(video, jax.jit(video.init)(a, frames[:1])["params"], frames),
        "spec": calibrated(spec, jax.jit(spec.init)(b, mel[:1])["params"], mel),
        "logit_scale": {"value": np.float32(np.log(1.0 / ws.cfg.loss.cavp_temperature))},
    }


def scaled_mel(ws: Workspace, wave: jax.Array) -> jax.Array:
    """The log-mel as the spectrogram encoder takes it. (B, n) -> (B, n / hop, bins)."""
    mel = log_mel(wave, ws.cfg.model.latent)[:, : wave.shape[1] // ws.cfg.model.latent.hop]
    return (mel - ws.cfg.model.vocoder.mel_shift) / ws.cfg.model.vocoder.mel_scale


def contrast(ws: Workspace, params: Params, video: jax.Array, batch: Batch) -> Loss:
    """InfoNCE between unit video features (B, T, D) and the sound's features at the same rate.

    Silent frames are alike and cannot be told apart, so frames count by how far their sound stands out of its clip.
    """
    cfg, mel = ws.cfg, scaled_mel(ws, batch["wave"])
    video = jnp.asarray(video, jnp.float32)
    audio = sound_features(ws, params, mel, video.shape[1])
    scale = jnp.exp(jnp.clip(params["logit_scale"]["value"], 0.0, jnp.log(50.0)))
    frames = video.shape[1]
    mask = batch["mask"][:, np.arange(frames) * batch["mask"].shape[1] // frames]  # from latent to video frames
    weight = mask * (0.1 + audibility(mel, frames))
    clip_loss = _clip_contrast(video, audio, weight, scale)
    frame_loss = _frame_contrast(video, audio, mask, weight, scale)
    total = clip_loss + cfg.loss.cavp_frame * frame_loss
    return total, {"clip_contrast": clip_loss, "frame_contrast": frame_loss}


def sound_features(ws: Workspace, params: Params, mel: jax.Array, frames: int) -> jax.Array:
    """Unit features of the sound, one row per video frame. (B, T, bins) -> (B, frames, D)."""
    audio = apply(SpecEncoder(ws.cfg.model.spec, dtype_of(ws.cfg.model)), params["spec"], mel)
    if audio.shape[1] != frames:
        audio = jax.image.resize(audio, (audio.shape[0], frames, audio.shape[2]), "linear")
    return audio / (jnp.linalg.norm(audio, axis=-1, keepdims=True) + 1e-6)


def audibility(mel: jax.Array, frames: int) -> jax.Array:
    """0 where a frame is as loud as its clip's median frame, 1 where it stands out. (B, T, bins) -> (B, frames)."""
    level = mel.mean(axis=-1)
    level = jax.image.resize(level, (level.shape[0], frames), "linear")
    return jax.nn.sigmoid((level - jnp.median(level, axis=1, keepdims=True) - 0.3) / 0.1)


def _pooled(x: jax.Array, weight: jax.Array) -> jax.Array:
    mean = (x * weight[..., None]).sum(1) / weight.sum(1)[:, None]
    return mean / (jnp.linalg.norm(mean, axis=-1, keepdims=True) + 1e-6)


def _clip_contrast(video: jax.Array, audio: jax.Array, weight: jax.Array, scale: jax.Array) -> jax.Array:
    logits = scale * _pooled(video, weight) @ _pooled(audio, weight).T
    rows = -jax.nn.log_softmax(logits, axis=1).diagonal() - jax.nn.log_softmax(logits, axis=0).diagonal()
    return 0.5 * rows.mean()


def _frame_contrast(
    video: jax.Array, audio: jax.Array, mask: jax.Array, weight: jax.Array, scale: jax.Array
) -> jax.Array:
    """A frame's partner is the sound of the same frame, among all frames of the batch: the others of its clip say
    when, those of the other clips say what. Its direct neighbours count neither for nor against it."""
    frames, rows = video.shape[1], video.shape[0] * video.shape[1]
    logits = scale * video.reshape(rows, -1) @ audio.reshape(rows, -1).T
    place = jnp.arange(rows)
    near = (jnp.abs(place[:, None] - place[None]) == 1) & (place[:, None] // frames == place[None] // frames)
    seen = mask.reshape(-1) > 0
    logits = jnp.where(near | ~seen[:, None] | ~seen[None], -1e9, logits)
    nll = 0.5 * (jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)) - logits.diagonal()
    weight = weight.reshape(-1)
    return jnp.where(seen, nll * weight, 0.0).sum() / weight.sum()


def derive_features(ws: Workspace, stage: str) -> None:
    """Write the video features of all clips, from the encoder that ``stage`` left, once; prepared clips have them."""
    if ws.given("video"):
        return
    params, _ = ws.result(stage)
    for split in ("train", "valid"):
        folder, clips = ws.derived_folder(split), ws.clips(split)
        folder.mkdir(parents=True, exist_ok=True)
        if not has_derived(folder, "video", len(clips), ids_digest(clips)):
            write_derived(folder, "video", _features(ws, params, split), ids_digest(clips))


def _features(ws: Workspace, params: Params, split: str) -> Iterator[np.ndarray]:
    """Video features (frames, D) of every whole clip, one by one, with some still frames behind its end."""
    from rich.progress import track

    encode, clips = jax.jit(VideoEncoder(ws.cfg.model.video).apply), ws.clips(split)
    for i in track(range(len(clips)), f"features of {split} clips"):
        padded = -(-(clips.records[i]["frames"] + 8) // 32) * 32
        yield np.asarray(encode({"params": params["video"]}, clips.video(i, 0, padded)[None]))[0]
