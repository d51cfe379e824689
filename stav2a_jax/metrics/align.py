"""AA-Align and AV-Align from peak times: the released scores, and bounded ones to judge models by.

Everything here works on lists of times in seconds. 'released' is bit-faithful to the authors' scripts, for comparison
with the paper's tables. 'matched' pairs peaks one to one, lies in [0, 1] and comes with a chance level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from stav2a_jax.metrics.events import match

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


def matched_align(reference: ArrayLike, detected: ArrayLike, window: float = 0.1) -> MatchedScore:
    """F1 and intersection over union of two peak lists matched one to one strictly within ``window`` seconds."""
    total = np.size(reference) + np.size(detected)
    if total == 0:
        return MatchedScore(float("nan"), float("nan"))
    hits = len(match(reference, detected, window))
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
    rng = np.random.default_rng(seed)
    means = defined[rng.integers(len(defined), size=(resamples, len(defined)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return CorpusScore(float(defined.mean()), float(low), float(high), len(defined), undefined)


def paired_difference(first: ArrayLike, second: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> CorpusScore:
    """Corpus score of ``first - second`` file by file, for two systems on the same files in the same order."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape=} and {b.shape=} must be scores of the same files")
    return corpus_score(a - b, resamples=resamples, seed=seed)


Score = Callable[[np.ndarray, np.ndarray], float]
"""(reference times, detected times) -> score of one file, for example ``lambda r, d: matched_align(r, d).f1``."""


def chance_level(
    references: Sequence[ArrayLike], detections: Sequence[ArrayLike], score: Score, *, shifts: int = 20
) -> float:
    """Mean score of mismatched pairs: every detection list against the reference of another file.

    All cyclic shifts of the file list are used up to ``shifts``, then evenly spread ones; NaN below two files.
    """
    n = len(references)
    if len(detections) != n:
        raise ValueError(f"{n} reference lists and {len(detections)} detection lists must be of the same files")
    if n < 2:
        return float("nan")
    offsets = np.unique(np.linspace(1, n - 1, min(shifts, n - 1)).round().astype(int))
    refs, dets = [np.asarray(r, np.float64) for r in references], [np.asarray(d, np.float64) for d in detections]
    scores = np.array([score(refs[(i + offset) % n], dets[i]) for offset in offsets for i in range(n)])
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if len(scores) else float("nan")


def chance_corrected(score: float, chance: float) -> float:
    """(score - chance) / (1 - chance): 1 is perfect, 0 is no better than another clip's sound."""
    return (score - chance) / (1 - chance) if chance < 1 else float("nan")


def window_curve(
    references: Sequence[ArrayLike], detections: Sequence[ArrayLike], windows: Sequence[float] = WINDOWS
) -> dict[float, tuple[CorpusScore, float]]:
    """Per window (s): the corpus score of the matched F1 and its chance level."""
    curve = {}
    for window in windows:
        score: Score = lambda r, d, w=window: matched_align(r, d, w).f1  # type: ignore[misc]  # noqa: E731
        values = [score(np.asarray(r), np.asarray(d)) for r, d in zip(references, detections, strict=True)]
        curve[window] = (corpus_score(values), chance_level(references, detections, score))
    return curve
