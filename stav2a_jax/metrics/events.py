"""Event times in sound: matching to the truth, scores, and a detector of impacts.

For clips whose event times are known. The detector is not librosa's (see ``align``): librosa normalises each clip by
its own maximum, so it finds onsets in noise and in silence; this one has a floor relative to full scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import librosa
import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import maximum_filter1d
from scipy.optimize import linear_sum_assignment
from scipy.signal import find_peaks

from stav2a_jax.types import UserError

NAN = float("nan")


def match(reference: ArrayLike, detected: ArrayLike, window: float) -> list[tuple[int, int]]:
    """Largest one-to-one matching of times strictly closer than ``window`` s; of those, the least total offset.

    Returns pairs (index into reference, index into detected) in the order of the reference.
    """
    a, b = np.asarray(reference, np.float64), np.asarray(detected, np.float64)
    offset = np.abs(a[:, None] - b[None, :])
    # one forbidden pair costs more than all allowed ones together, so the number of matches comes first
    cost = np.where(offset < window, offset, (min(a.size, b.size) + 1) * window)
    rows, columns = linear_sum_assignment(cost)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if offset[i, j] < window]


@dataclasses.dataclass(frozen=True)
class EventScores:
    """Pooled over all clips; intervals (low, high) are 95 % bootstrap intervals over clips. NaN = undefined.

    ``median_abs_offset_ms`` and ``median_offset_ms`` (detected minus true) are over the matched pairs.
    """

    precision: float
    recall: float
    f1: float
    median_abs_offset_ms: float
    median_offset_ms: float
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]
    offset_interval_ms: tuple[float, float]
    window: float
    clips: int
    events: int
    detections: int
    matches: int


def event_scores(
    clips: Sequence[tuple[ArrayLike, ArrayLike]], window: float = 0.05, *, resamples: int = 1000, seed: int = 0
) -> EventScores:
    """Precision, recall and F1 of detected against true event times, of (reference, detected) pairs in seconds."""
    counts, offsets, owner = np.zeros((len(clips), 3)), [], []
    for index, (reference, detected) in enumerate(clips):
        a, b = np.asarray(reference, np.float64), np.asarray(detected, np.float64)
        pairs = match(a, b, window)
        counts[index] = a.size, b.size, len(pairs)
        offsets += [1000 * (b[j] - a[i]) for i, j in pairs]
        owner += [index] * len(pairs)
    ms, clip = np.asarray(offsets), np.asarray(owner, int)
    rng = np.random.default_rng(seed)
    picks = rng.integers(max(len(clips), 1), size=(resamples, len(clips)))
    spread = _ratios(counts[picks].sum(axis=1))
    order = np.argsort(np.abs(ms))
    medians = [_weighted_median(np.abs(ms)[order], np.bincount(p, minlength=len(clips))[clip[order]]) for p in picks]
    precision, recall, f1 = _ratios(counts.sum(axis=0, keepdims=True))[:, 0]
    events, detections, matches = (int(x) for x in counts.sum(axis=0))
    return EventScores(
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        median_abs_offset_ms=float(np.median(np.abs(ms))) if ms.size else NAN,
        median_offset_ms=float(np.median(ms)) if ms.size else NAN,
        precision_interval=_interval(spread[0]),
        recall_interval=_interval(spread[1]),
        f1_interval=_interval(spread[2]),
        offset_interval_ms=_interval(np.asarray(medians)),
        window=window,
        clips=len(clips),
        events=events,
        detections=detections,
        matches=matches,
    )


def _ratios(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 (3, N) of counts (N, 3): events, detections, matches."""
    events, detections, matches = counts.T
    tops, bottoms = np.stack([matches, matches, 2 * matches]), np.stack([detections, events, events + detections])
    return np.divide(tops, bottoms, out=np.full(tops.shape, NAN), where=bottoms > 0)


def _weighted_median(ascending: np.ndarray, weights: np.ndarray) -> float:
    total = np.cumsum(weights)
    if not total.size or not total[-1]:
        return NAN
    # the two in the middle of an even number, as np.median has it
    middle = [np.searchsorted(total, total[-1] / 2, side) for side in ("left", "right")]
    return float(ascending[middle].mean())


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not defined.size:
        return NAN, NAN
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What :func:`detect_events` listens for. Times in seconds, levels in dB; full scale is a sine of amplitude 1.

    A band counts with the part of its rise beyond ``dead_zone``, at most ``cap``: rises of a single band, such as the
    beating of two partials, then stay small beside an impact, which lifts many. ``threshold`` is on the mean over
    bands. The rise is from the loudest frame of the last ``before`` s to the loudest of the next ``after`` s.
    """

    sample_rate: int = 16_000
    hop: int = 80
    n_fft: int = 512
    bands: int = 40
    f_min: float = 60.0
    floor_db: float = -60.0
    threshold: float = 1.0
    dead_zone: float = 4.0
    cap: float = 18.0
    before: float = 0.04
    after: float = 0.025
    separation: float = 0.06
    time_bias: float = -0.005


def detect_events(wave: ArrayLike, sample_rate: int, config: DetectorConfig | None = None) -> np.ndarray:
    """Times (s), ascending, of the impacts in a mono wave (N,) in [-1, 1]. Silence and steady noise have none.

    Raises:
        UserError: the wave is not one-dimensional floating point, or not finite.
    """
    config = config or DetectorConfig()
    level = _band_levels(wave, sample_rate, config)
    return _pick(level, _strength(level, config), config)


def calibrate(
    clips: Sequence[tuple[ArrayLike, ArrayLike]],
    config: DetectorConfig | None = None,
    *,
    window: float = 0.05,
    floors: Sequence[float] = (-70.0, -65.0, -60.0, -55.0, -50.0),
    thresholds: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0),
) -> DetectorConfig:
    """Detector with the floor, threshold and time bias that suit (wave at ``config.sample_rate``, true times) pairs.

    The best pooled F1 at ``window`` s wins (a tie goes to the higher threshold, then the higher floor); the bias is
    the median signed offset of its matches. Use training clips here, never those that are reported on.
    """
    base = dataclasses.replace(config or DetectorConfig(), time_bias=0.0)
    best, chosen = (-1.0, -1.0, -1.0), base
    for floor in floors:
        trial = dataclasses.replace(base, floor_db=floor)
        levels = [_band_levels(wave, trial.sample_rate, trial) for wave, _ in clips]
        strengths = [_strength(level, trial) for level in levels]
        for threshold in thresholds:
            trial = dataclasses.replace(trial, threshold=threshold)
            found = [_pick(level, strength, trial) for level, strength in zip(levels, strengths)]
            pairs = [(times, times_found) for (_, times), times_found in zip(clips, found)]
            scores = event_scores(pairs, window, resamples=0)
            rank = (np.nan_to_num(scores.f1), threshold, floor)
            if rank > best:
                bias = 0.0 if np.isnan(scores.median_offset_ms) else scores.median_offset_ms / 1000
                best, chosen = rank, dataclasses.replace(trial, time_bias=bias)
    return chosen


def _band_levels(wave: ArrayLike, sample_rate: int, config: DetectorConfig) -> np.ndarray:
    """Mel-band levels (bands, frames) in dB of full scale, no lower than the floor; frame i is centred at i * hop."""
    y = np.asarray(wave)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.floating):
        raise UserError(f"Event detection takes a mono floating-point wave, got {y.dtype} of shape {y.shape}.")
    if not np.isfinite(y).all():
        raise UserError("Event detection got a wave with NaN or infinite samples; check how it was made.")
    y = y.astype(np.float32)
    if sample_rate != config.sample_rate:
        y = librosa.resample(y, orig_sr=sample_rate, target_sr=config.sample_rate, res_type="soxr_hq")
    y = np.pad(y, (0, max(0, config.n_fft - y.size)))
    window = librosa.filters.get_window("hann", config.n_fft)
    spectrum = librosa.stft(y, n_fft=config.n_fft, hop_length=config.hop, window=window, pad_mode="constant")
    # neither end of the file may look like an event: frames reaching over the start are scaled up by the share of the
    # window that lies inside, frames reaching over the end, where the cut itself splatters, repeat the last whole one
    spectrum = spectrum[:, : 1 + (y.size - config.n_fft // 2) // config.hop]
    inside = config.n_fft // 2 + config.hop * np.arange(spectrum.shape[1])
    share = np.cumsum(window[::-1] ** 2)[np.minimum(inside, config.n_fft) - 1] / np.sum(window**2)
    power = np.abs(spectrum * (2 / window.sum())) ** 2 / share
    # bands of equal peak height and not of equal area: a sine of amplitude 1 then stands at 0 dB in any band
    mel = librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.bands, fmin=config.f_min, htk=True, norm=None
    )
    return 10 * np.log10(np.maximum(mel @ power, 10 ** (config.floor_db / 10)))


def _strength(level: np.ndarray, config: DetectorConfig) -> np.ndarray:
    """Mean capped rise over the bands (frames,) in dB."""
    before, after = _frames(config.before, config), _frames(config.after, config)
    # the first frame stands for all before it: a clip that begins within a sound has no event at 0
    padded = np.pad(level, ((0, 0), (before + 1, after)), mode="edge")
    past, future = (maximum_filter1d(padded, size, axis=1, mode="nearest") for size in (before, after + 1))
    n = level.shape[1]
    # the filters are centred: shift them to cover [i - before, i - 1] and [i, i + after]
    past = past[:, before // 2 + 1 :][:, :n]
    future = future[:, before + 1 + (after + 1) // 2 :][:, :n]
    return np.clip(future - past - config.dead_zone, 0, config.cap).mean(axis=0)


def _frames(seconds: float, config: DetectorConfig) -> int:
    return max(1, round(seconds * config.sample_rate / config.hop))


def _pick(level: np.ndarray, strength: np.ndarray, config: DetectorConfig) -> np.ndarray:
    """Times of the strongest peaks first, none closer than ``separation`` to a stronger one; ascending."""
    peaks, _ = find_peaks(np.pad(strength, 1), height=config.threshold)
    times: list[float] = []
    for peak in sorted(peaks - 1, key=lambda i: -strength[i]):
        time = _rise_time(level, int(peak), config)
        if all(abs(time - other) >= config.separation for other in times):
            times.append(time)
    return np.maximum(np.sort(np.asarray(times, np.float64)) - config.time_bias, 0.0)


def _rise_time(level: np.ndarray, peak: int, config: DetectorConfig) -> float:
    """Time (s) of the rise found at frame ``peak``: the median over the risen bands of where each is half risen.

    Half of the amplitude is reached when the analysis window is centred on the attack, whatever the loudness.
    """
    before, after = _frames(config.before, config), _frames(config.after, config)
    start = max(0, peak - before)
    part = level[:, start : peak + after + 3]
    split = max(1, peak - start)
    past = part[:, :split].max(axis=1)
    top = split + part[:, split:].argmax(axis=1) if part.shape[1] > split else np.full(len(part), split - 1)
    high = np.take_along_axis(part, top[:, None], axis=1)[:, 0]
    weight = np.clip(high - past - config.dead_zone, 0, config.cap)
    risen = weight > 0
    if not risen.any():
        return peak * config.hop / config.sample_rate
    low_power, high_power = 10 ** (past / 10), 10 ** (high / 10)
    target = 10 * np.log10(low_power + (high_power - low_power) / 4)
    below = (part < target[:, None]) & (np.arange(part.shape[1]) < top[:, None])
    last = part.shape[1] - 1 - below[:, ::-1].argmax(axis=1)  # the last frame below, just before the crossing
    risen &= below.any(axis=1)
    bands = np.flatnonzero(risen)
    a, b = part[bands, last[bands]], part[bands, last[bands] + 1]
    frames = last[bands] + (target[bands] - a) / np.maximum(b - a, 1e-9)
    order = np.argsort(frames)
    share = np.cumsum(weight[bands][order])
    frame = start + frames[order][np.searchsorted(share, share[-1] / 2)]
    return float(frame * config.hop / config.sample_rate)
