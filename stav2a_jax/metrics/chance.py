"""Chance levels of alignment from mismatched pairs, and bootstraps of what is no mean of clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from stav2a_jax.metrics.align import CorpusScore, resampled_means

PAIRS = 10_000
"""At most so many mismatched pairs, but at least one per clip."""


def mismatched(
    references: Sequence[np.ndarray],
    detections: Sequence[np.ndarray],
    score: Callable[[np.ndarray, np.ndarray], float] | Sequence[Callable[[np.ndarray, np.ndarray], float]],
    seconds: Sequence[tuple[float, float]] | None = None,
    *,
    pairs: int = PAIRS,
) -> np.ndarray:
    """Mean score of each clip's detections against the references of other clips, (n,); NaN where none is defined.

    Evenly spread cyclic shifts of the file list, all of them up to ``pairs`` pairs. ``seconds`` (length of the
    reference, of the detected sound) cuts both lists to the time that the two share: a longer partner is no worse.
    ``score`` may be one function for each reference, where it depends on the film (its frame rate).
    """
    n = len(references)
    if len(detections) != n:
        raise ValueError(f"{n} reference lists and {len(detections)} detection lists must be of the same files")
    if n < 2:
        return np.full(n, np.nan)
    shifts = np.unique(np.linspace(1, n - 1, min(n - 1, max(1, pairs // n))).round().astype(int))
    table = np.full((len(shifts), n), np.nan)
    for row, shift in enumerate(shifts):
        for i in range(n):
            reference, detected, other = references[(i + shift) % n], detections[i], (i + shift) % n
            if seconds is not None:
                shared = min(seconds[other][0], seconds[i][1])
                reference, detected = reference[reference < shared], detected[detected < shared]
            table[row, i] = (score if callable(score) else score[other])(reference, detected)
    defined = ~np.isnan(table)
    counts = defined.sum(axis=0)
    return np.where(counts > 0, np.where(defined, table, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A chance-corrected score, the chance level it was corrected by, and each clip's share, whose mean it is."""

    score: CorpusScore
    chance: float
    per_clip: np.ndarray


def corrected(scores: ArrayLike, by_chance: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Corrected:
    """(mean score - chance) / (1 - chance) with a bootstrap over clips that draws the chance level as well.

    ``scores`` (n,) and ``by_chance`` (n,) of :func:`mismatched` belong to the same clips.
    """
    a, b = np.asarray(scores, np.float64), np.asarray(by_chance, np.float64)
    defined = ~np.isnan(a) & ~np.isnan(b)
    undefined, x, c = int((~defined).sum()), a[defined], b[defined]
    chance = float(c.mean()) if len(c) else float("nan")
    if not len(x) or not chance < 1:
        nan = float("nan")
        return Corrected(CorpusScore(nan, nan, nan, 0, undefined), chance, np.full(len(a), nan))
    drawn_x, level = resampled_means(np.stack([x, c]), resamples, seed)
    drawn = (drawn_x - level) / np.maximum(1 - level, 1e-9)
    low, high = np.percentile(drawn, [2.5, 97.5])
    per_clip = np.where(defined, (a - chance) / (1 - chance), np.nan)
    score = CorpusScore(float((x.mean() - chance) / (1 - chance)), float(low), float(high), len(x), undefined)
    return Corrected(score, chance, per_clip)


def bootstrap_interval(
    value: float, statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic of a set of clips, such as FD: 1.96 bootstrap standard deviations to each side.

    Around the value itself: a set drawn with repeats looks less varied than it is, which alone raises FD by far more
    than its spread, so that percentiles of the draws would not even contain the value. The interval says how much
    another choice of as many clips would differ, not how far the value is from that of infinitely many.
    ``statistic`` gets n row numbers, repeats among them.
    """
    if n < 2 or resamples < 2 or np.isnan(value):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rng.integers(n, size=n)) for _ in range(resamples)])
    half = 1.96 * float(np.nanstd(drawn, ddof=1)) if np.isfinite(drawn).sum() > 1 else float("nan")
    return value - half, value + half
