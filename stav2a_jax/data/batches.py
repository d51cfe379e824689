"""Which clips and which pieces of them a step sees: a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.data.clips import Clips, ids_digest


class Piece(NamedTuple):
    """``start`` and ``length`` in latent frames; ``length`` < crop where the clip is shorter than the crop."""

    clip: int
    start: int
    length: int
    number: int


def length_of(cache: Clips, clip: int, frames_per_second: float) -> int:
    """Latent frames of a clip, the last one perhaps begun only; 4.4 s at 25 are 110, not ceil(110.00000000000001), also
    where the length was stored in float32 (a relative error of 6e-8)."""
    frames = cache.records[clip]["seconds"] * frames_per_second
    return math.ceil(frames - 1e-6 * max(1.0, frames))


@functools.lru_cache(maxsize=8)
def _permutation(seed: tuple[int, ...], clips: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(clips)


@dataclasses.dataclass(frozen=True)
class Order:
    """Which pieces every step takes. ``lengths``: of all clips, and ``crops``: ascending, both in latent frames;
    ``keep`` (N,) bool: the clips that are used, all where None. ``clips``: which they are, ``clips.ids_digest``.

    A clip belongs to the shortest crop that holds it, a longer one than all to the longest. A batch is of one crop.
    Every crop has its own epochs: all its clips once, in random order, then all again in another; the crops take
    turns in proportion to their clips, so that their epochs end together within one batch.
    """

    lengths: np.ndarray
    seed: int
    batch: int
    crops: tuple[int, ...]
    keep: np.ndarray | None = None
    clips: str | None = None

    def crop_of(self, step: int) -> int:
        """Latent frames of the batch of a step."""
        return self._members[self._turn(step)[0]][0]

    def pieces(self, step: int, rows: slice = slice(None)) -> list[Piece]:
        """The pieces of a step, or some rows of them, each cut at a random place."""
        bucket, turn = self._turn(step)
        crop, clips = self._members[bucket]
        chosen = []
        for row in range(self.batch)[rows]:
            epoch, place = divmod(turn * self.batch + row, len(clips))
            clip = int(clips[_permutation(self._seed(epoch, bucket), len(clips))[place]])
            number, total = step * self.batch + row, int(self.lengths[clip])
            start = int(np.random.default_rng((self.seed, number, 1)).integers(0, max(total - crop, 0) + 1))
            chosen.append(Piece(clip, start, min(total - start, crop), number))
        return chosen

    def _seed(self, epoch: int, bucket: int) -> tuple[int, ...]:
        return (self.seed, epoch, bucket, 2) if bucket else (self.seed, epoch)

    def fingerprint(self) -> dict[str, Any]:
        """What the pieces are a function of, beside the step, as JSON."""
        digest = hashlib.sha256(np.asarray(self.lengths, np.int64).tobytes()).hexdigest()
        known = {"seed": self.seed, "batch": self.batch, "crops": [*self.crops], "lengths": digest}
        known |= {} if self.clips is None else {"clips": self.clips}
        return known if self.keep is None else {**known, "kept": hashlib.sha256(self.keep.tobytes()).hexdigest()}

    def _turn(self, step: int) -> tuple[int, int]:
        """(crop, which batch of that crop) of a step."""
        crops, ranks = self._turns
        period, place = divmod(step, len(crops))
        bucket = int(crops[place])
        return bucket, period * len(self._members[bucket][1]) + int(ranks[place])

    @functools.cached_property
    def _members(self) -> list[tuple[int, np.ndarray]]:
        """(crop, its clips), crops without clips left out."""
        place = np.minimum(np.searchsorted(self.crops, self.lengths), len(self.crops) - 1)
        place = place if self.keep is None else np.where(self.keep, place, -1)
        return [(crop, np.flatnonzero(place == i)) for i, crop in enumerate(self.crops) if np.any(place == i)]

    @functools.cached_property
    def _turns(self) -> tuple[np.ndarray, np.ndarray]:
        """Crop and its rank of every batch of a period: as many batches of a crop as it has clips, evenly spread."""
        sizes = [len(clips) for _, clips in self._members]
        times = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
        order = np.argsort(times, kind="stable")
        crops = np.repeat(np.arange(len(sizes)), sizes)[order]
        return crops, np.concatenate([np.arange(n) for n in sizes])[order]


def order_of(
    cache: Clips,
    seed: int,
    batch: int,
    crops: Sequence[int],
    frames_per_second: float,
    keep: np.ndarray | None = None,
) -> Order:
    """The :class:`Order` of prepared clips, or of those to ``keep``."""
    lengths = np.array([length_of(cache, clip, frames_per_second) for clip in range(len(cache))])
    return Order(lengths, seed, batch, tuple(sorted(set(crops))), keep, ids_digest(cache))


def fixed_pieces(
    cache: Clips, batch: int, count: int, crop: int, frames_per_second: float, keep: np.ndarray | None = None
) -> list[list[Piece]]:
    """Validation: ``count`` batches over the first clips (to ``keep``), always the same pieces, cut from the middle."""
    rows, clips = [], np.arange(len(cache)) if keep is None else np.flatnonzero(keep)
    for number in range(batch * count):
        clip = int(clips[number % len(clips)])
        total = length_of(cache, clip, frames_per_second)
        start = max(total - crop, 0) // 2
        rows.append(Piece(clip, start, min(total - start, crop), number))
    return [rows[k * batch : (k + 1) * batch] for k in range(count)]
