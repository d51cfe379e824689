"""AA-Align and AV-Align from peak times: the released scores, and bounded ones to judge models by.

Everything here works on lists of times in seconds. 'released' is bit-faithful to the authors' scripts, for comparison
with the paper's tables. 'matched' pairs peaks one to one and lies in [0, 1]; its chance level is in ``chance``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

WINDOWS = (0.025, 0.05, 0.1, 0.2)
"""Seconds; the curve every matched score is reported over."""


def trajectory_peaks(flow: ArrayLike, fps: float, floor: float = 0.1) -> np.ndarray:
    """Times (s) of the peaks of a motion trajectory (N,) in pixels: strictly above both neighbours and the floor."""
    y = np.asarray(flow, np.float64)
    inner = y[1:-1]
    return (np.flatnonzero((inner > y[:-2]) & (inner > y[2:]) & (inner > floor)) + 1) / fps


def released_aa_align(reference: ArrayLike, generated: ArrayLike, window: float = 0.1) -> float:
    """Released AA-Align of true and generated onset times; NaN where both are empty, where the script dies.

    Each GENERATED onset within the window of any true one counts, so the score is asymmetric and may exceed 1.
    """
    return _released(generated, reference, window)


def released_av_align(audio: ArrayLike, video: ArrayLike, fps: float) -> float:
    """Released AV-Align of audio onsets and motion peaks (s); the window is one frame, 1 / fps. NaN as above."""
    return _released(audio, video, 1.0 / fps)


def _released(counted: ArrayLike, others: ArrayLike, window: float) -> float:
    a, b = np.asarray(counted, np.float64)[:, None], np.asarray(others, np.float64)[None, :]
    if a.size + b.size == 0:
        return float("nan")
    # the bounds and not |a - b|: rounding decides at the edge, and this is the scripts' form
    hits = int(((b - window < a) & (a < b + window)).any(axis=1).sum())
    return hits / (a.size + b.size - hits)


@dataclasses.dataclass(frozen=True)
class MatchedScore:
    """Scores of one pair of peak lists after one-to-one matching; NaN where both lists are empty."""

    f1: float
    iou: float


def count_matches(reference: ArrayLike, detected: ArrayLike, window: float) -> int:
    """Size of the largest one-to-one matching of times strictly within ``window`` s.

    The number of pairs of ``events.match``, without the choice of them, in linear time: of the two earliest unmatched
    times either both are a pair, or the earlier one has no partner.
    """
    a, b = (np.sort(np.asarray(x, np.float64)).tolist() for x in (reference, detected))
    i = j = hits = 0
    while i < len(a) and j < len(b):
        if abs(a[i] - b[j]) < window:
            i, j, hits = i + 1, j + 1, hits + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return hits


def matched_align(reference: ArrayLike, detected: ArrayLike, window: float = 0.1) -> MatchedScore:
    """F1 and intersection over union of two peak lists matched one to one strictly within ``window`` seconds."""
    total = np.size(reference) + np.size(detected)
    if total == 0:
        return MatchedScore(float("nan"), float("nan"))
    hits = count_matches(reference, detected, window)
    return MatchedScore(2 * hits / total, hits / (total - hits))


@dataclasses.dataclass(frozen=True)
class CorpusScore:
    """Mean over the files with a defined score, its 95 % bootstrap interval, and how many files were (un)defined."""

    mean: float
    low: float
    high: float
    n: int
    undefined: int


def corpus_score(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> CorpusScore:
    """Mean over files and percentile bootstrap over files. NaNs are counted as undefined, never averaged silently."""
    scores = np.asarray(values, np.float64)
    defined = scores[~np.isnan(scores)]
    undefined = len(scores) - len(defined)
    if not len(defined):
        return CorpusScore(float("nan"), float("nan"), float("nan"), 0, undefined)
    low, high = np.percentile(resampled_means(defined, resamples, seed), [2.5, 97.5])
    return CorpusScore(float(defined.mean()), float(low), float(high), len(defined), undefined)


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over clips drawn with replacement, (..., n) -> (..., resamples); the same draw for every row."""
    n, rng = values.shape[-1], np.random.default_rng(seed)
    step = max(1, 4_000_000 // n)  # so many draws are in memory at a time
    parts = (rng.integers(n, size=(min(step, resamples - k), n)) for k in range(0, resamples, step))
    return np.concatenate([values[..., picks].mean(axis=-1) for picks in parts], axis=-1)


def paired_difference(first: ArrayLike, second: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> CorpusScore:
    """Corpus score of ``first - second`` file by file, for two systems on the same files in the same order."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape=} and {b.shape=} must be scores of the same files")
    return corpus_score(a - b, resamples=resamples, seed=seed)
