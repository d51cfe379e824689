"""What every stage provides to the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.data.batches import Piece
from stav2a_jax.data.cache import ClipCache, Derived
from stav2a_jax.tokenizer import Tokenizer
from stav2a_jax.training.step import Loss as Loss
from stav2a_jax.training.step import LossFn
from stav2a_jax.types import Params


class Stage(NamedTuple):
    """One stage of the recipe, built from a workspace.

    params: initial trainable parameters by group. frozen: parameters that travel beside them.
    loss / valid_loss: see :data:`LossFn`; the validation loss draws its noise from fixed keys and drops nothing.
    batch: pieces of a split -> named arrays. finish: called with the best EMA parameters, returns what to record.
    """

    params: Params
    frozen: Params
    loss: LossFn
    valid_loss: LossFn
    batch: Callable[[str, Sequence[Piece]], dict[str, np.ndarray]]
    finish: Callable[[Params], dict[str, Any]] = lambda params: {}
    is_frozen: Callable[[tuple], bool] | None = None


def index_of(pieces: Sequence[Piece]) -> np.ndarray:
    return np.array([p.number for p in pieces], np.int32)


def frame_mask(pieces: Sequence[Piece], crop: int) -> np.ndarray:
    """(B, crop) 1 on the frames that belong to the clip."""
    return (np.arange(crop)[None] < np.array([p.length for p in pieces])[:, None]).astype(np.float32)


def stack_waves(cache: ClipCache, pieces: Sequence[Piece], crop: int, samples_per_frame: int) -> np.ndarray:
    """(B, crop * samples_per_frame) float32."""
    n = samples_per_frame
    return np.stack([cache.wave(p.clip, p.start * n, crop * n) for p in pieces])


def stack_video(cache: ClipCache, pieces: Sequence[Piece], crop: int, ratio: float) -> np.ndarray:
    """(B, crop * ratio, H, W, 3) uint8; ``ratio`` video frames per latent frame."""
    return np.stack([cache.video(p.clip, round(p.start * ratio), round(crop * ratio)) for p in pieces])


def stack_rows(rows: Derived, pieces: Sequence[Piece], crop: int, ratio: float = 1.0) -> np.ndarray:
    return np.stack([rows.rows(p.clip, round(p.start * ratio), round(crop * ratio)) for p in pieces])


def stack_onsets(cache: ClipCache, pieces: Sequence[Piece], crop: int, frames_per_second: float) -> np.ndarray:
    """(B, crop) onset pseudo-labels: label[floor(fps * t)] = 1."""
    labels = np.zeros((len(pieces), crop), np.int32)
    for row, p in zip(labels, pieces, strict=True):
        places = np.floor(np.array(cache.records[p.clip]["onsets"]) * frames_per_second).astype(int) - p.start
        row[places[(places >= 0) & (places < crop)]] = 1
    return labels


def stack_captions(
    cache: ClipCache, pieces: Sequence[Piece], tokenizer: Tokenizer, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask (B, max_length)."""
    return tokenizer([cache.records[p.clip]["caption"] for p in pieces], max_length, pad_to=max_length)
