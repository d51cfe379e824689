"""Stage 5: the onset pretext task (paper sec. 2.2): predict from the picture when the sound starts.

Trains the local adapter and the onset head on the features of the frozen video encoder. With
``loss.onset_trains_video`` the encoder goes on learning too, from the pictures, with the contrast of its own stage as a
companion, so that it does not forget what sounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax import parallel
from stav2a_jax.data.batches import Piece
from stav2a_jax.models.adapters import LocalAdapter, OnsetHead, onset_loss
from stav2a_jax.models.cavp import is_statistic
from stav2a_jax.models.system import encode_video, local_control
from stav2a_jax.training.show import onset_tracks
from stav2a_jax.training.stages.base import (
    Loss,
    Shown,
    Stage,
    frame_mask,
    index_of,
    stack_onsets,
    stack_rows,
    stack_video,
    stack_waves,
)
from stav2a_jax.training.stages.cavp import contrast, derive_features
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Batch, Params


def build(ws: Workspace) -> Stage:
    cfg = ws.cfg
    spec = cfg.model.latent
    ratio = cfg.model.video.fps / spec.frames_per_second
    caches = {split: ws.clips(split) for split in ("train", "valid")}
    trains_video = cfg.loss.onset_trains_video
    if not trains_video:
        derive_features(ws, "cavp")
    features = {} if trains_video else {split: ws.rows(split, "video") for split in caches}

    def loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        everything = {**frozen, **params}
        video = encode_video(cfg.model, everything, batch["video"]) if trains_video else batch["video"]
        logits, _ = local_control(cfg.model, everything, video, None, batch["onset"].shape[1])
        bce = onset_loss(logits, batch["onset"], None if cfg.loss.count_padding else batch["mask"])
        if not trains_video:
            return bce, {"onset": bce}
        companion, metrics = contrast(ws, everything, video, batch)
        return bce + cfg.loss.onset_contrast * companion, {"onset": bce, **metrics}

    def valid_loss(params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        _, metrics = loss(params, frozen, batch, keys)
        return metrics["onset"], metrics

    def batch(split: str, pieces: Sequence[Piece], crop: int) -> dict[str, np.ndarray]:
        clips = caches[split]
        if trains_video:
            wave = stack_waves(clips, pieces, crop, spec.hop * spec.downsample)
            seen = {"video": stack_video(clips, pieces, crop, ratio), "wave": wave}
        else:
            seen = {"video": stack_rows(features[split], pieces, crop, ratio)}
        return {
            **seen,
            "mask": frame_mask(pieces, crop),
            "onset": stack_onsets(caches[split], pieces, crop, spec.frames_per_second),
            "index": index_of(pieces),
        }

    @jax.jit
    def probability(params: Params, frozen: Params, batch: Batch) -> jax.Array:
        everything = {**frozen, **params}
        video = encode_video(cfg.model, everything, batch["video"]) if trains_video else batch["video"]
        logits, _ = local_control(cfg.model, everything, video, None, batch["onset"].shape[1])
        return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])

    def show(params: Params, frozen: Params, batch: dict[str, np.ndarray]) -> Shown:
        return Shown(onset_tracks(parallel.fetch(probability(params, frozen, batch)), batch["onset"]))

    params = init_local(ws)
    return Stage(
        ws.begin("onset", {**params, **ws.result("cavp")[0]} if trains_video else params),
        {},
        loss,
        valid_loss,
        batch,
        is_frozen=is_statistic if trains_video else None,
        whole_batch=trains_video,
        show=show,
    )


def init_local(ws: Workspace) -> Params:
    cfg = ws.cfg.model
    a, b = jax.random.split(jax.random.key(ws.cfg.seed + 1))
    adapter = LocalAdapter(cfg.local)
    features = jnp.zeros((1, 8, cfg.video.features))
    local = ws.compute(adapter.init, a, features)["params"]
    windowed = jnp.zeros((1, 8, cfg.local.dim * (1 + len(cfg.local.windows))))
    return {"local": local, "onset": ws.compute(OnsetHead(cfg.local).init, b, windowed)["params"]}
