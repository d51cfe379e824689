"""Stage 5: the onset pretext task (paper sec. 2.2): predict from the picture when the sound starts.

Trains the local adapter and the onset head; with ``loss.onset_trains_video`` the video encoder goes on learning
too, with the contrast of its own stage as a companion, so that it does not forget what sounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.data.batches import Piece
from stav2a_jax.models.adapters import LocalAdapter, OnsetHead, onset_loss
from stav2a_jax.models.cavp import VideoEncoder, is_statistic
from stav2a_jax.models.system import local_control
from stav2a_jax.nn.call import apply
from stav2a_jax.training.stages.base import Loss, Stage, frame_mask, index_of, stack_onsets, stack_video, stack_waves
from stav2a_jax.training.stages.cavp import contrast
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    cfg = ws.cfg
    spec = cfg.model.latent
    crop = round(cfg.stages.onset.crop_seconds * spec.frames_per_second)
    ratio = cfg.model.video.fps / spec.frames_per_second
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    encoders, _ = ws.result("cavp")
    trains_video = cfg.loss.onset_trains_video

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        everything = {**frozen, **params}
        video = apply(VideoEncoder(cfg.model.video), everything["video"], batch["video"])
        logits, _ = local_control(cfg.model, everything, video, None, crop)
        bce = onset_loss(logits, batch["onset"], batch["mask"])
        if not trains_video:
            return bce, {"onset": bce}
        companion, metrics = contrast(ws, everything, video, batch)
        return bce + cfg.loss.onset_contrast * companion, {"onset": bce, **metrics}

    def valid_loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        _, metrics = loss(params, frozen, batch, keys)
        return metrics["onset"], metrics

    def batch(split: str, pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
        return {
            "video": stack_video(caches[split], pieces, crop, ratio),
            "wave": stack_waves(caches[split], pieces, crop, spec.hop * spec.downsample),
            "mask": frame_mask(pieces, crop),
            "onset": stack_onsets(caches[split], pieces, crop, spec.frames_per_second),
            "index": index_of(pieces),
        }

    params = init_local(ws)
    return Stage(
        {**params, **encoders} if trains_video else params,
        {} if trains_video else encoders,
        loss,
        valid_loss,
        batch,
        is_frozen=is_statistic if trains_video else None,
    )


def init_local(ws: Workspace) -> Params:
    cfg = ws.cfg.model
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 1))
    adapter = LocalAdapter(cfg.local)
    features = jnp.zeros((1, 8, cfg.video.features))
    local = adapter.init(a, features)["params"]
    width = apply(adapter, local, features).shape[-1]
    return {"local": local, "onset": OnsetHead(cfg.local).init(b, jnp.zeros((1, 8, width)))["params"]}
