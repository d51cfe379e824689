"""Scores of sets of embeddings and of classifier outputs: FD and FAD, KL, IS, KID. Host arithmetic, no network here.

``released`` in a name means: the arithmetic of the authors' evaluator (audioldm_eval), for comparison with the paper.
Where a formula has one exact value, as the Frechet distance, there is one function only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

KL_EPSILON = 1e-6
IS_SPLITS, SHUFFLE_SEED = 10, 2020
NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and a factor F (r, d) of a covariance F^T F, r <= min(n, d): a set of ``count`` rows, reduced."""

    mean: np.ndarray
    factor: np.ndarray
    count: int


def gaussian(rows: ArrayLike) -> Gaussian:
    """Mean and covariance (divided by n - 1) of rows (n, d), n >= 2.

    The covariance stays in factored form: with fewer rows than dimensions it has no inverse and hardly a root.
    """
    x = np.asarray(rows, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"{x.shape=}, expected at least two rows (n, d)")
    mean = x.mean(axis=0)
    factor = (x - mean) / np.sqrt(len(x) - 1)
    if len(factor) > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")  # the same F^T F from d rows
    return Gaussian(mean, factor, len(x))


def frechet_distance(first: ArrayLike | Gaussian, second: ArrayLike | Gaussian) -> float:
    """Frechet distance of the Gaussians of two sets of rows, (n, d) and (m, d); exact for n or m below d too.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), where the last trace is the sum of the singular values of A B^T
    for S1 = A^T A, S2 = B^T B. No matrix root is taken (SciPy's of a singular product is wrong in some releases), and
    the result is the same to rounding where the released evaluator gives one. Serves FD and FAD.
    """
    a = first if isinstance(first, Gaussian) else gaussian(first)
    b = second if isinstance(second, Gaussian) else gaussian(second)
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"rows of {a.mean.size} and {b.mean.size} numbers cannot be compared")
    cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    spread = np.square(a.factor).sum() + np.square(b.factor).sum()
    # below zero by rounding only
    return float(max(np.square(a.mean - b.mean).sum() + spread - 2 * cross, 0.0))


def frechet_resampler(first: ArrayLike, second: ArrayLike) -> Callable[[np.ndarray, np.ndarray], float]:
    """A function (rows of first, rows of second) -> Frechet distance of these rows, repeats allowed.

    For bootstraps. Where n and m are below d all inner products are taken once, and a call costs O(n m min(n, m)).
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if max(len(x), len(y)) > x.shape[1]:
        return lambda i, j: frechet_distance(x[i], y[j])
    centre = (x.mean(axis=0) + y.mean(axis=0)) / 2  # moves nothing but the rounding
    x, y = x - centre, y - centre
    xx, yy, xy = x @ x.T, y @ y.T, x @ y.T

    def distance(i: np.ndarray, j: np.ndarray) -> float:
        own, other, mixed = xx[np.ix_(i, i)], yy[np.ix_(j, j)], xy[np.ix_(i, j)]
        n, m = len(i), len(j)
        means = own.mean() + other.mean() - 2 * mixed.mean()
        spread = (np.trace(own) - n * own.mean()) / (n - 1) + (np.trace(other) - m * other.mean()) / (m - 1)
        centred = mixed - mixed.mean(axis=0) - mixed.mean(axis=1, keepdims=True) + mixed.mean()
        cross = np.linalg.svd(centred, compute_uv=False).sum() / np.sqrt((n - 1) * (m - 1))
        return float(max(means + spread - 2 * cross, 0.0))

    return distance


def kernel_distance(
    generated: ArrayLike, reference: ArrayLike, *, subsets: int = 100, size: int = 1000, seed: int = SHUFFLE_SEED
) -> tuple[float, float]:
    """KID: unbiased squared MMD with the kernel (x . y / d + 1)^3 over random subsets; (mean, population std).

    Unlike FD its expectation does not depend on the number of clips. Both sets need ``size`` rows.
    """
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    if min(len(x), len(y)) < size or size < 2:
        raise ValueError(f"subsets of {size} rows from {len(x)} and {len(y)}")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a, b = x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)]
        aa, bb, ab = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
        within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (size * (size - 1))
        values.append(within - 2 * ab.mean())
    return float(np.mean(values)), float(np.std(values))


def released_kl(reference: ArrayLike, generated: ArrayLike, kind: str = "softmax") -> np.ndarray:
    """KL of each pair of logits (n, classes), (n,): sum_c p_c (ln p_c - ln(q_c + 1e-6)), p the true clip's.

    ``kind`` "softmax" (the printed one) or "sigmoid" (every class on its own). The corpus value is the mean.

    In float32 term by term as the evaluator, with every exponential, logarithm and product rounded correctly, so that
    the value is the same on every processor. Equal logits come out slightly negative because of the 1e-6; what is left
    of the value there is the rounding of float32 logarithms, which differs between mathematics libraries by 3e-4 of it.
    """
    if kind not in ("softmax", "sigmoid"):
        raise ValueError(f"{kind=}, expected 'softmax' or 'sigmoid'")
    probability = _softmax32 if kind == "softmax" else _sigmoid32
    p, q = probability(np.asarray(reference, np.float32)), probability(np.asarray(generated, np.float32))
    if p.shape != q.shape:
        raise ValueError(f"{p.shape} and {q.shape} are not logits of pairs")
    smallest = np.finfo(np.float32).tiny  # p ln p is 0 at 0
    return (p * _log32(np.maximum(p, smallest)) - p * _log32(q + np.float32(KL_EPSILON))).sum(axis=1, dtype=np.float64)


def _log32(x: np.ndarray) -> np.ndarray:
    return np.log(x, dtype=np.float64).astype(np.float32)


def _exp32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # to infinity, whose inverse is 0
        return np.exp(x, dtype=np.float64).astype(np.float32)


def _softmax32(logits: np.ndarray) -> np.ndarray:
    raised = _exp32(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _sigmoid32(logits: np.ndarray) -> np.ndarray:
    return np.float32(1) / (np.float32(1) + _exp32(-logits))


def kl_divergence(reference: ArrayLike, generated: ArrayLike) -> np.ndarray:
    """KL of each pair of softmax distributions in float64 and without an epsilon, (n,): 0 for equal logits, never
    negative, and not capped at about 13.8 as the released one."""
    log_p, log_q = (log_softmax(np.asarray(x, np.float64), axis=1) for x in (reference, generated))
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)


@dataclasses.dataclass(frozen=True)
class InceptionScore:
    """exp of the mean KL between a clip's classes and those of its split; mean and population std over splits.

    NaN for fewer clips than splits. ``information`` (n,) is each clip's KL, in the order of the clips.
    """

    mean: float
    std: float
    information: np.ndarray


def inception_score(logits: ArrayLike, *, splits: int = IS_SPLITS, shuffle: bool = True) -> InceptionScore:
    """IS of generated logits (n, classes), as the evaluator computes it: shuffled with seed 2020, 10 splits.

    Depends on n: ten clips give 1 whatever they are, since every split holds one.
    """
    x = np.asarray(logits, np.float64)
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(x)) if shuffle else np.arange(len(x))
    information = np.full(len(x), NAN)
    if len(x) < splits:
        return InceptionScore(NAN, NAN, information)
    log_p = log_softmax(x[order], axis=1)
    p = np.exp(log_p)
    scores = []
    for i in range(splits):
        rows = slice(i * len(x) // splits, (i + 1) * len(x) // splits)
        with np.errstate(divide="ignore"):
            log_q = np.log(p[rows].mean(axis=0))
        kl = np.where(p[rows] > 0, p[rows] * (log_p[rows] - log_q), 0.0).sum(axis=1)
        information[order[rows]] = kl
        scores.append(np.exp(kl.mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), information)
