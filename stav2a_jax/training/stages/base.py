"""What every stage provides to the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.batches import Piece
from stav2a_jax.data.clips import Clips, Rows
from stav2a_jax.tokenizer import Tokenizer
from stav2a_jax.training.step import Loss as Loss
from stav2a_jax.training.step import LossFn
from stav2a_jax.types import Params


class Shown(NamedTuple):
    """For eye and ear. images: (H, W, 3) uint8 by name; sounds: (n,) float32 in [-1, 1] by name."""

    images: dict[str, np.ndarray]
    sounds: dict[str, np.ndarray] = {}  # noqa: RUF012 (never written to)


Show = Callable[[Params, Params, dict[str, np.ndarray]], Shown]
"""(params, frozen, a few rows of a validation batch) -> what they look and sound like."""


class Stage(NamedTuple):
    """One stage of the recipe, built from a workspace.

    params: initial trainable parameters by group. frozen: parameters that travel beside them.
    loss / valid_loss: see :data:`LossFn`; the validation loss draws its noise from fixed keys and drops nothing.
    batch: (split, pieces, crop in latent frames) -> named arrays; pickled for worker processes.
    finish: called with the best EMA parameters, returns what to record.
    whole_batch: the loss is no mean over examples and is computed over the whole batch, not device by device.
    show: what TensorBoard gets at a validation. kept: frozen groups that are part of the stage's result all the same.
    """

    params: Params
    frozen: Params
    loss: LossFn
    valid_loss: LossFn
    batch: Callable[[str, Sequence[Piece], int], dict[str, np.ndarray]]
    finish: Callable[[Params], dict[str, Any]] = lambda params: {}
    is_frozen: Callable[[tuple], bool] | None = None
    whole_batch: bool = False
    show: Show | None = None
    kept: Params = {}  # noqa: RUF012 (never written to)


def index_of(pieces: Sequence[Piece]) -> np.ndarray:
    return np.array([p.number for p in pieces], np.int32)


def frame_mask(pieces: Sequence[Piece], crop: int) -> np.ndarray:
    """(B, crop) 1 on the frames that belong to the clip."""
    return (np.arange(crop)[None] < np.array([p.length for p in pieces])[:, None]).astype(np.float32)


def stack_waves(cache: Clips, pieces: Sequence[Piece], crop: int, samples_per_frame: int) -> np.ndarray:
    """(B, crop * samples_per_frame) float32."""
    n = samples_per_frame
    return np.stack([cache.wave(p.clip, p.start * n, crop * n) for p in pieces])


def stack_video(cache: Clips, pieces: Sequence[Piece], crop: int, ratio: float) -> np.ndarray:
    """(B, crop * ratio, H, W, 3) uint8; ``ratio`` video frames per latent frame."""
    return np.stack([cache.video(p.clip, round(p.start * ratio), round(crop * ratio)) for p in pieces])


def stack_rows(rows: Rows, pieces: Sequence[Piece], crop: int, ratio: float = 1.0) -> np.ndarray:
    return np.stack([rows.rows(p.clip, round(p.start * ratio), round(crop * ratio)) for p in pieces])


def stack_onsets(cache: Clips, pieces: Sequence[Piece], crop: int, frames_per_second: float) -> np.ndarray:
    """(B, crop) onset pseudo-labels: label[floor(fps * t)] = 1."""
    labels = np.zeros((len(pieces), crop), np.int32)
    for row, p in zip(labels, pieces, strict=True):
        places = np.floor(np.array(cache.records[p.clip]["onsets"]) * frames_per_second).astype(int) - p.start
        row[places[(places >= 0) & (places < crop)]] = 1
    return labels


def stack_captions(
    cache: Clips, pieces: Sequence[Piece], tokenizer: Tokenizer, cfg: ModelConfig, plain: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask (B, L), padded as ``cfg.pipeline.text_padding`` says (another L compiles another step).

    ``plain``: how often a clip's plain caption is taken, where it has one, drawn by the piece's number.
    """
    limit = cfg.text.max_length
    pad_to = limit if cfg.pipeline.text_padding == "limit" else None
    return tokenizer([_caption(cache.records[p.clip], p.number, plain) for p in pieces], limit, pad_to=pad_to)


def _caption(record: dict[str, Any], number: int, plain: float) -> str:
    taken = plain > 0.0 and np.random.default_rng((number, 6)).random() < plain
    return str(record.get("plain_caption", record["caption"]) if taken else record["caption"])
