"""Which clips and which pieces of them a step sees: a pure function of (seed, step)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from stav2a_jax.data.cache import ClipCache


class Piece(NamedTuple):
    """``start`` and ``length`` in latent frames; ``length`` < crop where the clip is shorter than the crop."""

    clip: int
    start: int
    length: int
    number: int


def length_of(cache: ClipCache, clip: int, frames_per_second: float) -> int:
    """Latent frames of a clip, the last one perhaps begun only; 4.4 s at 25 are 110, not ceil(110.00000000000001)."""
    return math.ceil(cache.records[clip]["seconds"] * frames_per_second - 1e-6)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, clips: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(clips)


def pieces(cache: ClipCache, seed: int, step: int, batch: int, crop: int, frames_per_second: float) -> list[Piece]:
    """The pieces of one step: every clip once an epoch in random order, cut at a random place."""
    chosen = []
    for number in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(number, len(cache))
        clip = int(_permutation(seed, epoch, len(cache))[place])
        total = length_of(cache, clip, frames_per_second)
        start = int(np.random.default_rng((seed, number, 1)).integers(0, max(total - crop, 0) + 1))
        chosen.append(Piece(clip, start, min(total - start, crop), number))
    return chosen


def fixed_pieces(cache: ClipCache, batch: int, count: int, crop: int, frames_per_second: float) -> list[list[Piece]]:
    """Validation: ``count`` batches over the first clips, always the same pieces, cut from the middle."""
    rows = []
    for number in range(batch * count):
        clip = number % len(cache)
        total = length_of(cache, clip, frames_per_second)
        start = max(total - crop, 0) // 2
        rows.append(Piece(clip, start, min(total - start, crop), number))
    return [rows[k * batch : (k + 1) * batch] for k in range(count)]


def prefetch(make: Callable[[int], dict[str, np.ndarray]], first: int, last: int) -> Iterator[dict[str, np.ndarray]]:
    """make(first), ..., make(last - 1), each built while the one before is in use."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, first) if first < last else None
        for step in range(first, last):
            assert ahead is not None
            batch = ahead.result()
            ahead = pool.submit(make, step + 1) if step + 1 < last else None
            yield batch
