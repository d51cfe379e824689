"""Means, intervals, agreement and paired tests of ratings (raters, clips, systems), NaN where nothing was rated.

Every function takes one scale. Clips are what a paired test pairs; raters and clips are both drawn anew by the
bootstrap, because the question is how other raters would judge other clips.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

Interval = tuple[float, float]
NOTHING = (math.nan, math.nan)


class Estimate(NamedTuple):
    """Of one system: mean and deviation over ``n`` ratings, and three 95 % intervals of the mean.

    t_ratings: Student's t, all ratings taken as independent, as papers often do; too narrow. t_clips: Student's t over
    clips, each the mean of its raters. bootstrap: percentiles of the crossed bootstrap.
    """

    mean: float
    deviation: float
    n: int
    t_ratings: Interval
    t_clips: Interval
    bootstrap: Interval


class Pair(NamedTuple):
    """System a minus system b, paired by clip (n clips): mean difference, 95 % intervals, two-sided p values."""

    difference: float
    n: int
    t_interval: Interval
    bootstrap: Interval
    p_t: float
    p_wilcoxon: float


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Student's interval of the mean of (n,) values, NaNs left out; NaN for fewer than two."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return NOTHING
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def crossed_bootstrap(ratings: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means (resamples, systems) over raters drawn with replacement times clips drawn with replacement (Owen 2007).

    The same draw for all systems, so that differences of columns are paired. Of a single rater, or a single clip, only
    the other factor varies.
    """
    raters, clips, systems = ratings.shape
    rng = np.random.default_rng(seed)
    there, out = np.isfinite(ratings), np.empty((resamples, systems))
    flat, count = (np.where(there, ratings, 0.0).reshape(raters, -1), there.astype(float).reshape(raters, -1))
    for start in range(0, resamples, 1000):
        size = min(1000, resamples - start)
        by_rater = rng.multinomial(raters, np.full(raters, 1 / raters), size).astype(float)
        by_clip = rng.multinomial(clips, np.full(clips, 1 / clips), size).astype(float)
        sums, weights = (
            np.einsum("bc,bcs->bs", by_clip, (by_rater @ x).reshape(size, clips, -1)) for x in (flat, count)
        )
        out[start : start + size] = np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)
    return out


def percentiles(draws: np.ndarray, level: float = 0.95) -> Interval:
    """Limits of the middle ``level`` of (n,) draws, NaNs left out."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return NOTHING
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def clip_means(ratings: np.ndarray) -> np.ndarray:
    """(raters, clips, systems) -> (clips, systems): means over the raters that rated."""
    count = np.isfinite(ratings).sum(0)
    return np.divide(np.nansum(ratings, 0), count, out=np.full(count.shape, np.nan), where=count > 0)


def estimate(ratings: np.ndarray, draws: np.ndarray) -> Estimate:
    """Of one system: ratings (raters, clips), and its column (resamples,) of the crossed bootstrap."""
    values = ratings[np.isfinite(ratings)]
    return Estimate(
        mean=float(values.mean()) if len(values) else math.nan,
        deviation=float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        n=len(values),
        t_ratings=t_interval(values),
        t_clips=t_interval(clip_means(ratings[:, :, None])[:, 0]),
        bootstrap=percentiles(draws),
    )


def paired(means: np.ndarray, draws: np.ndarray, a: int, b: int) -> Pair:
    """Systems a and b: clip means (clips, systems) and crossed bootstrap draws (resamples, systems).

    Paired t test and Wilcoxon's signed-rank test (clips without a difference left out) over clips.
    """
    difference = means[:, a] - means[:, b]
    difference = np.round(difference[np.isfinite(difference)], 9)  # equal means differ by rounding only
    n = len(difference)
    p_t = p_wilcoxon = math.nan
    if n and np.ptp(difference) == 0:  # all equal: no spread to test against
        p_t = 1.0 if difference[0] == 0 else 0.0 if n > 1 else math.nan
    elif n > 1:
        p_t = float(stats.ttest_1samp(difference, 0.0).pvalue)
    if n and not difference.any():
        p_wilcoxon = 1.0
    elif n:
        p_wilcoxon = float(stats.wilcoxon(difference[difference != 0]).pvalue)
    return Pair(
        difference=float(difference.mean()) if n else math.nan,
        n=n,
        t_interval=t_interval(difference),
        bootstrap=percentiles(draws[:, a] - draws[:, b]),
        p_t=p_t,
        p_wilcoxon=p_wilcoxon,
    )


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) corrected p values of (n,) p values, in their order; NaNs stay and are not counted."""
    p = np.asarray(p, float)
    out = np.full(len(p), np.nan)
    order = [k for k in np.argsort(p, kind="stable") if np.isfinite(p[k])]
    worst = 0.0
    for rank, k in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p[k]))
        out[k] = worst
    return out


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for interval data: 1 perfect, 0 as by chance, NaN where it is undefined.

    ratings (raters, units); a unit that fewer than two raters rated is left out. 1 - D_o / D_e with squared
    differences (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability), whose double sums over pairs of values
    are written as sums of squared distances from a mean.
    """
    kept = ratings[:, np.isfinite(ratings).sum(0) > 1]
    values = kept[np.isfinite(kept)]
    if not len(values) or not np.ptp(values):
        return math.nan
    count = np.isfinite(kept).sum(0)
    inside = np.nansum((kept - np.nansum(kept, 0) / count) ** 2, 0)
    observed = np.sum(count * inside / (count - 1)) / len(values)
    return float(1 - observed / (np.sum((values - values.mean()) ** 2) / (len(values) - 1)))


def agreement(ratings: np.ndarray, resamples: int, seed: int) -> tuple[float, Interval]:
    """Alpha over all (clip, system) and its 95 % interval, a bootstrap over clips. ratings (raters, clips, systems)."""
    rng = np.random.default_rng(seed)
    raters, clips, _ = ratings.shape
    draws = rng.integers(clips, size=(resamples, clips))
    spread = np.array([krippendorff_alpha(ratings[:, d].reshape(raters, -1)) for d in draws])
    return krippendorff_alpha(ratings.reshape(raters, -1)), percentiles(spread)


def with_the_others(ratings: np.ndarray) -> list[float]:
    """Spearman's correlation of each rater with the mean of the others, over (clip, system); NaN where undefined."""
    flat = ratings.reshape(len(ratings), -1)
    out = []
    for k in range(len(flat)):
        others = clip_means(np.delete(flat, k, 0)[:, :, None])[:, 0] if len(flat) > 1 else np.full_like(flat[0], np.nan)
        both = np.isfinite(flat[k]) & np.isfinite(others)
        varied = both.sum() > 1 and np.ptp(flat[k][both]) > 0 and np.ptp(others[both]) > 0
        out.append(float(stats.spearmanr(flat[k][both], others[both]).statistic) if varied else math.nan)
    return out
