import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.metrics.events import DetectorConfig, calibrate, detect_events, event_scores, match
from stav2a_jax.types import UserError

RATE = 16_000
TIMES = st.lists(st.integers(0, 60), max_size=5).map(lambda ms: np.array(ms) / 100)


def impact(rng, kind, n):
    """A struck object, peak 1: decaying partials (those of metal beat and ring for seconds) and a burst of contact."""
    t = np.arange(n) / RATE
    if kind == "noise":
        wave = rng.normal(size=n) * np.exp(-t / rng.uniform(0.02, 0.1))
    else:
        partials, decay = ((1, 2.76, 5.4), (2, 6)) if kind == "metal" else ((1, 1.7, 2.4), (20, 60))
        base = rng.uniform(300, 1200)
        wave = 0.5 * rng.normal(size=n) * np.exp(-t / 0.004)
        for ratio in partials:
            f, beat = base * ratio, 1 + rng.uniform(0.002, 0.008)
            tone = np.sin(2 * np.pi * f * t) + (0.8 * np.sin(2 * np.pi * f * beat * t) if kind == "metal" else 0)
            wave = wave + np.exp(-t * rng.uniform(*decay)) * tone
    return wave / np.abs(wave).max()


def clip(seed, kind=None, loudness_range=20.0):
    """Four seconds of impacts at least 100 ms apart over the tails of the earlier ones, hiss at -60 dB."""
    rng = np.random.default_rng(seed)
    gaps = rng.uniform(0.05, 0.4) + np.cumsum(0.1 + rng.exponential(0.3, size=40))
    times, wave = gaps[gaps < 3.9], 0.001 * rng.normal(size=4 * RATE)
    for time in times:
        start, gain = round(time * RATE), 0.5 * 10 ** (-rng.uniform(0, loudness_range) / 20)
        wave[start:] += gain * impact(rng, kind or rng.choice(["metal", "wood", "noise"]), len(wave) - start)
    return np.clip(wave, -1, 1).astype(np.float32), times


def test_matching_is_one_to_one():
    assert match([1.0], [0.95, 1.0, 1.05], 0.1) == [(0, 1)]
    assert match([0.95, 1.0, 1.05], [1.0], 0.1) == [(1, 0)]
    assert match([], [1.0], 0.1) == []
    assert match([], [], 0.1) == []


def test_more_matches_are_better_than_closer_ones():
    assert match([1.0, 1.08], [0.95, 1.0], 0.1) == [(0, 0), (1, 1)]


def test_a_match_is_strictly_within_the_window():
    assert match([0.5], [0.625], 0.125) == []
    assert match([0.5], [0.625], 0.126) == [(0, 0)]


@settings(max_examples=60, deadline=None)
@given(TIMES, TIMES)
def test_the_matching_is_the_best_of_all(reference, detected):
    window = 0.105

    def all_matchings():
        for size in range(min(len(reference), len(detected)) + 1):
            for rows in itertools.combinations(range(len(reference)), size):
                for columns in itertools.permutations(range(len(detected)), size):
                    offsets = [abs(reference[i] - detected[j]) for i, j in zip(rows, columns)]
                    if all(offset < window for offset in offsets):
                        yield -size, sum(offsets)

    pairs = match(reference, detected, window)
    got = (-len(pairs), sum(abs(reference[i] - detected[j]) for i, j in pairs))
    best = min(all_matchings())
    assert got[0] == best[0]
    assert got[1] == pytest.approx(best[1], abs=1e-9)


def test_scores_agree_with_counting_by_hand():
    scores = event_scores([([1.0, 2.0, 3.0], [1.01, 2.03]), ([1.0], [0.98, 2.0, 3.0])], 0.05)
    assert (scores.clips, scores.events, scores.detections, scores.matches) == (2, 4, 5, 3)
    assert scores.precision == pytest.approx(3 / 5)
    assert scores.recall == pytest.approx(3 / 4)
    assert scores.f1 == pytest.approx(6 / 9)
    assert scores.median_abs_offset_ms == pytest.approx(20)
    assert scores.median_offset_ms == pytest.approx(10)
    assert scores.f1_interval == pytest.approx((2 * 1 / 4, 4 / 5))


def test_undefined_scores_are_nan_and_nothing_warns():
    empty = event_scores([([], [])])
    assert np.isnan([empty.precision, empty.recall, empty.f1, empty.median_abs_offset_ms]).all()
    assert np.isnan(event_scores([]).f1)
    silent = event_scores([([1.0], [])])
    assert np.isnan(silent.precision)
    assert (silent.recall, silent.f1) == (0, 0)


def test_the_interval_of_one_clip_is_its_value():
    scores = event_scores([([1.0, 2.0, 3.0, 4.0], [1.01, 2.02, 3.03, 4.04])], 0.1, resamples=20)
    assert scores.median_abs_offset_ms == pytest.approx(25)
    assert scores.offset_interval_ms == pytest.approx((25, 25))


def test_the_interval_narrows_with_the_number_of_clips_and_holds_the_score():
    rng = np.random.default_rng(0)
    pairs = [(np.arange(5.0), np.arange(5.0) + rng.choice([0, 0.4], size=5)) for _ in range(200)]
    few, many = event_scores(pairs[:10]), event_scores(pairs)
    width = [high - low for low, high in (few.f1_interval, many.f1_interval)]
    assert width[1] < width[0] / 2
    assert many.f1_interval[0] < many.f1 < many.f1_interval[1]
    assert event_scores(pairs) == many


@pytest.mark.parametrize(("kind", "recall"), [("metal", 0.97), ("wood", 0.99), ("noise", 0.9), (None, 0.97)])
def test_impacts_over_a_range_of_20_db_are_found_on_the_tails_of_earlier_ones(kind, recall):
    clips = [clip(seed, kind) for seed in range(20)]
    scores = event_scores([(times, detect_events(wave, RATE)) for wave, times in clips], 0.05)
    assert scores.recall > recall  # a quiet burst within the tail of a burst 20 dB louder cannot be heard either
    assert scores.precision > 0.98
    assert scores.median_abs_offset_ms < 5


def sounds_without_impacts():
    rng, t = np.random.default_rng(0), np.arange(6 * RATE) / RATE
    hiss = rng.normal(size=t.size)
    bell = [(400, 2.3), (1100, 5.1), (2150, 7.3), (3500, 9.1), (5200, 11.7)]
    beating = sum(np.sin(2 * np.pi * f * t) + np.sin(2 * np.pi * (f + d) * t) for f, d in bell)
    return {
        "silence": 0 * t,
        "loud hiss": 0.1 * hiss,
        "quiet hiss": 0.003 * hiss,
        "rising hiss": 0.1 * hiss * np.minimum(1, t / 3),
        "swelling hiss": 0.05 * hiss * (1 + 0.3 * np.sin(2 * np.pi * 3 * t)),
        "fading bell": 0.1 * beating * np.exp(-t),
        "siren": 0.3 * np.sin(2 * np.pi * 800 * t + 8 * np.sin(2 * np.pi * 5 * t)),
    }


@pytest.mark.parametrize("name", sounds_without_impacts())
def test_sounds_without_impacts_have_no_events(name):
    wave = sounds_without_impacts()[name].clip(-1, 1).astype(np.float32)
    assert len(detect_events(wave, RATE)) == 0


def test_one_click_is_found_once_wherever_it_is_and_however_loud():
    for time, gain in itertools.product((0.03, 0.5, 0.9), (0.05, 0.9)):
        wave = np.zeros(RATE, np.float32)
        start = round(time * RATE)
        wave[start:] = gain * impact(np.random.default_rng(1), "wood", RATE - start)
        found = detect_events(wave, RATE)
        assert len(found) == 1
        assert abs(found[0] - time) < 0.01


def test_the_sample_rate_of_the_file_does_not_matter():
    wave, times = clip(3)
    doubled = np.repeat(wave, 3)  # 48 kHz
    scores = event_scores([(times, detect_events(doubled, 3 * RATE))], 0.03)
    assert scores.f1 > 0.95


def test_calibration_finds_a_threshold_and_removes_the_bias():
    clips = [clip(seed) for seed in range(6)]
    late = [(wave, times - 0.02) for wave, times in clips]
    config = calibrate(late, DetectorConfig(threshold=9.0))
    found = [(times, detect_events(wave, RATE, config)) for wave, times in late]
    scores = event_scores(found, 0.05)
    assert scores.f1 > 0.97
    assert abs(scores.median_offset_ms) < 1
    assert config == calibrate(late)
    assert dataclasses.is_dataclass(config)


def test_bad_waves_are_refused():
    with pytest.raises(UserError, match="mono"):
        detect_events(np.zeros((2, RATE), np.float32), RATE)
    with pytest.raises(UserError, match="int16"):
        detect_events(np.zeros(RATE, np.int16), RATE)
    with pytest.raises(UserError, match="NaN"):
        detect_events(np.full(RATE, np.nan), RATE)
    assert len(detect_events(np.zeros(0, np.float32), RATE)) == 0
