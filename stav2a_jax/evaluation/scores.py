"""From what was measured on the files to the numbers of a report. Pure: no files, no networks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stav2a_jax.evaluation.cache import Features
from stav2a_jax.evaluation.catalogue import ALIGN_WINDOW, METRICS
from stav2a_jax.metrics import distribution
from stav2a_jax.metrics.align import (
    WINDOWS,
    CorpusScore,
    corpus_score,
    matched_align,
    released_aa_align,
    released_av_align,
)
from stav2a_jax.metrics.chance import bootstrap_interval, corrected, mismatched
from stav2a_jax.metrics.events import event_scores

FLOPS = 4e11
"""Arithmetic that a bootstrap of a Frechet distance may cost, about ten seconds on two processors."""
KID_SIZE, KL_SHIFTS = 1000, 10


@dataclasses.dataclass(frozen=True)
class Draws:
    """How intervals are made: resamples of means over clips, and the seed."""

    resamples: int = 2000
    seed: int = 0


Metric = dict[str, Any]
"""value, interval [low, high], n, undefined, per_clip {name: value} or None, and what else is known; JSON-ready."""


def number(value: float) -> float | None:
    """A number for JSON, None where it is not defined."""
    return None if not np.isfinite(value) else float(value)


def metric(
    value: float,
    interval: tuple[float, float],
    n: int,
    *,
    names: Sequence[str] = (),
    values: Sequence[float] | np.ndarray | None = None,
    undefined: int = 0,
    **more: Any,
) -> Metric:
    """A metric's entry. ``values`` belong to ``names``; None where a clip alone has no value."""
    per_clip = None if values is None else {k: number(v) for k, v in zip(names, values, strict=True)}
    low, high = interval
    head = {"value": number(value), "interval": [number(low), number(high)], "n": n, "undefined": undefined}
    return head | {"per_clip": per_clip} | more


def mean_metric(names: Sequence[str], values: Sequence[float] | np.ndarray, draws: Draws, **more: Any) -> Metric:
    """The mean over clips with its bootstrap interval."""
    score = corpus_score(values, resamples=draws.resamples, seed=draws.seed)
    return _of_score(score, names, values, **more)


def _of_score(score: CorpusScore, names: Sequence[str], values: Any, **more: Any) -> Metric:
    interval = (score.low, score.high)
    return metric(score.mean, interval, score.n, names=names, values=values, undefined=score.undefined, **more)


@dataclasses.dataclass(frozen=True)
class Tracks:
    """Peak times of all clips, in the order of ``names``: what is true, what was generated, and the lengths of both.

    For AV-Align ``reference`` are the films' motion peaks, ``film`` their released peaks and frame rates, and ``true``
    the onsets of the true sounds, whose own score is the ceiling.
    """

    names: Sequence[str]
    reference: Sequence[np.ndarray]
    generated: Sequence[np.ndarray]
    seconds: Sequence[tuple[float, float]]
    film: Sequence[tuple[np.ndarray, float]] | None = None
    true: Sequence[np.ndarray] = ()


def alignment(kind: str, tracks: Tracks, draws: Draws) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
    """(metrics of ``kind`` "aa" or "av", the curve over windows)."""
    pairs = list(zip(tracks.reference, tracks.generated, strict=True))
    more: dict[str, Any] = {}
    ceiling: dict[str, Any] = {}
    if tracks.film is None:
        released = [released_aa_align(r, g) for r, g in pairs]
        by_chance = mismatched(tracks.reference, tracks.generated, released_aa_align, tracks.seconds)
        more["chance"] = number(_mean(by_chance))
    else:
        released, own = (
            [released_av_align(sound, peaks, fps) for (peaks, fps), sound in zip(tracks.film, sounds, strict=True)]
            for sounds in (tracks.generated, tracks.true)
        )
        more["true_sound"] = number(_mean(np.asarray(own)))
        of_film = [functools.partial(_released_av, fps) for _, fps in tracks.film]
        by_chance = mismatched([peaks for peaks, _ in tracks.film], tracks.generated, of_film, tracks.seconds)
        more["chance"] = number(_mean(by_chance))
        f1_own = [_f1(ALIGN_WINDOW, r, t) for r, t in zip(tracks.reference, tracks.true, strict=True)]
        ceiling["true_sound"] = number(_mean(np.asarray(f1_own)))
    metrics = {f"{kind}_released": mean_metric(tracks.names, released, draws, **more)}
    curve = []
    for window in WINDOWS:
        scores = [matched_align(r, g, window) for r, g in pairs]
        f1 = np.array([s.f1 for s in scores])
        chance = mismatched(tracks.reference, tracks.generated, functools.partial(_f1, window), tracks.seconds)
        over = corrected(f1, chance, resamples=draws.resamples, seed=draws.seed)
        plain = mean_metric(tracks.names, f1, draws, chance=number(over.chance), window=window)
        above = _of_score(over.score, tracks.names, over.per_clip, chance=number(over.chance), window=window)
        curve.append({k: plain[k] for k in ("window", "value", "interval", "n", "chance")})
        curve[-1] |= {"corrected": above["value"], "corrected_interval": above["interval"]}
        if window == ALIGN_WINDOW:
            metrics[f"{kind}_f1"], metrics[f"{kind}_f1_corrected"] = plain | ceiling, above
            iou = [s.iou for s in scores]
            metrics[f"{kind}_iou"] = mean_metric(tracks.names, iou, draws, window=window)
    return metrics, curve


def _f1(window: float, reference: np.ndarray, detected: np.ndarray) -> float:
    return matched_align(reference, detected, window).f1


def _released_av(fps: float, peaks: np.ndarray, onsets: np.ndarray) -> float:
    return released_av_align(onsets, peaks, fps)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def events(
    names: Sequence[str], truth: Sequence[np.ndarray], found: Sequence[np.ndarray], draws: Draws
) -> dict[str, Metric]:
    """Precision, recall, F1 and offset of detected events against true times, pooled over clips."""
    pairs = list(zip(truth, found, strict=True))
    score = event_scores(pairs, ALIGN_WINDOW, resamples=min(draws.resamples, 1000), seed=draws.seed)
    each = [event_scores([pair], ALIGN_WINDOW, resamples=0) for pair in pairs]
    counts = {"events": score.events, "detections": score.detections, "matches": score.matches}
    rows = {
        "event_precision": (score.precision, score.precision_interval, [e.precision for e in each]),
        "event_recall": (score.recall, score.recall_interval, [e.recall for e in each]),
        "event_f1": (score.f1, score.f1_interval, [e.f1 for e in each]),
        "event_offset": (score.median_abs_offset_ms, score.offset_interval_ms, [e.median_abs_offset_ms for e in each]),
    }
    return {
        key: metric(
            value,
            interval,
            len(names),
            names=names,
            values=values,
            undefined=int(np.isnan(values).sum()),
            window=ALIGN_WINDOW,
            **counts,
        )
        for key, (value, interval, values) in rows.items()
    }


def _draws_for(cost: float, draws: Draws) -> int:
    return int(np.clip(FLOPS / max(cost, 1.0), 20, min(500, draws.resamples)))


def frechet(generated: np.ndarray, reference: np.ndarray, draws: Draws) -> Metric:
    """FD of one row per clip (n, d); the bootstrap draws pairs."""
    n, d = generated.shape
    if n < 2:
        return metric(float("nan"), (float("nan"),) * 2, n)
    value = distribution.frechet_distance(generated, reference)
    again = distribution.frechet_resampler(generated, reference)
    resamples = _draws_for(10 * n**3 if n <= d else 4 * n * d**2 + 10 * d**3, draws)
    low, high = bootstrap_interval(value, lambda rows: again(rows, rows), n, resamples=resamples, seed=draws.seed)
    return metric(value, (max(low, 0.0), high), n, dimensions=d, resamples=resamples, biased=n <= d)


def frechet_of_patches(generated: Sequence[np.ndarray], reference: Sequence[np.ndarray], draws: Draws) -> Metric:
    """FAD: all patches of all clips pooled, clip i has (p_i, d) of them; the bootstrap draws clips."""

    def pooled(clips: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
        return np.concatenate([clips[i] for i in rows])

    def value_of(rows: np.ndarray) -> float:
        a, b = pooled(generated, rows), pooled(reference, rows)
        return distribution.frechet_distance(a, b) if min(len(a), len(b)) > 1 else float("nan")

    n, d = len(generated), generated[0].shape[1]
    patches = sum(map(len, generated)) + sum(map(len, reference))
    resamples = _draws_for(2 * patches * d**2 + 10 * d**3, draws)
    value = value_of(np.arange(n))
    low, high = bootstrap_interval(value, value_of, n, resamples=resamples, seed=draws.seed)
    return metric(
        value, (max(low, 0.0), high), n, dimensions=d, patches=patches, resamples=resamples, biased=patches <= 2 * d
    )


def kid(generated: np.ndarray, reference: np.ndarray, draws: Draws) -> Metric:
    """KID x 1000: of the whole sets up to 1000 clips, then the mean over 100 subsets of 1000 as published."""
    n = len(generated)
    size, resamples = min(n, KID_SIZE), min(200, draws.resamples)
    if n < 2:
        return metric(float("nan"), (float("nan"),) * 2, n)
    value = 1000 * distribution.kernel_distance(generated, reference, subsets=100 if n > size else 1, size=size)[0]

    def value_of(rows: np.ndarray) -> float:
        part = rows[:size]
        return 1000 * distribution.kernel_distance(generated[part], reference[part], subsets=1, size=size)[0]

    low, high = bootstrap_interval(value, value_of, n, resamples=resamples, seed=draws.seed)
    narrow = np.sqrt(size / n)  # the spread of a smaller set, scaled to the number of clips
    interval = (value - narrow * (value - low), value + narrow * (high - value))
    return metric(value, interval, n, resamples=resamples, subset=size)


def inception(names: Sequence[str], logits: np.ndarray, reference: np.ndarray, draws: Draws) -> Metric:
    """IS; a clip's value is the KL between its classes and those of its split. With the score of the true sounds."""
    score, n = distribution.inception_score(logits), len(logits)
    resamples = _draws_for(60 * logits.size, draws)

    def value_of(rows: np.ndarray) -> float:
        return distribution.inception_score(logits[rows]).mean

    interval = bootstrap_interval(score.mean, value_of, n, resamples=resamples, seed=draws.seed)
    more: dict[str, Any] = {"std": number(score.std), "splits": distribution.IS_SPLITS, "resamples": resamples}
    more["true_sound"] = number(distribution.inception_score(reference).mean)
    return metric(score.mean, interval, n, names=names, values=score.information, **more)


def stacked(clips: Sequence[Features], key: str) -> np.ndarray:
    return np.stack([np.asarray(c[key], np.float64) for c in clips])


Sets = Callable[[str], tuple[np.ndarray, np.ndarray]]


def of_backbone(
    backbone: str,
    names: Sequence[str],
    generated: Sequence[Features],
    reference: Sequence[Features],
    wanted: set[str],
    draws: Draws,
) -> dict[str, Metric]:
    """The metrics of a backbone whose --metrics group is wanted."""
    both: Sets = lambda key: (stacked(generated, key), stacked(reference, key))  # noqa: E731

    def divergence(key: str, kind: str | None) -> Metric:
        ours, true = both(key)
        measure = distribution.kl_divergence if kind is None else functools.partial(distribution.released_kl, kind=kind)
        last = len(ours) - 1
        shifts = sorted({round(s) for s in np.linspace(1, last, KL_SHIFTS)}) if last else []
        others = [float(measure(np.roll(true, -shift, axis=0), ours).mean()) for shift in shifts]
        return mean_metric(names, measure(true, ours), draws, chance=number(float(np.mean(others or [np.nan]))))

    made: Mapping[str, Callable[[], Metric]] = {
        "fd_panns": lambda: frechet(*both("embedding"), draws),
        "kl_softmax_panns": lambda: divergence("logits", "softmax"),
        "kl_sigmoid_panns": lambda: divergence("logits", "sigmoid"),
        "is_panns": lambda: inception(names, *both("logits"), draws),
        "kid_panns": lambda: kid(*both("embedding"), draws),
        "fad_vggish": lambda: frechet_of_patches(
            [c["embedding"] for c in generated], [c["embedding"] for c in reference], draws
        ),
        "fd_soundnet": lambda: frechet(*both("embedding"), draws),
        "kl_objects_soundnet": lambda: divergence("objects", None),
        "kl_scenes_soundnet": lambda: divergence("scenes", None),
        "is_soundnet": lambda: inception(names, *both("objects"), draws),
        "kid_soundnet": lambda: kid(*both("embedding"), draws),
    }
    return {k: make() for k, make in made.items() if k.endswith(f"_{backbone}") and METRICS[k].group in wanted}
