import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.metrics.align import (
    chance_corrected,
    chance_level,
    corpus_score,
    matched_align,
    paired_difference,
    released_aa_align,
    released_av_align,
    trajectory_peaks,
    window_curve,
)

PEAKS = st.lists(st.floats(0, 10), max_size=12)


def f1(reference, detected):
    return matched_align(reference, detected, 0.05).f1


def test_the_released_score_may_exceed_one_and_the_matched_one_may_not():
    assert released_aa_align([1.0], [0.95, 1.0, 1.05]) == 3.0
    assert matched_align([1.0], [0.95, 1.0, 1.05]).iou == pytest.approx(1 / 3)
    assert matched_align([1.0], [0.95, 1.0, 1.05]).f1 == pytest.approx(0.5)


def test_no_peaks_on_either_side_is_undefined_and_on_one_side_is_zero():
    assert np.isnan(released_aa_align([], []))
    assert np.isnan(released_av_align([], [], 30))
    assert np.isnan(matched_align([], []).f1)
    assert released_aa_align([1.0], []) == released_av_align([], [1.0], 30) == 0
    assert matched_align([1.0], []).f1 == matched_align([], [1.0]).iou == 0


@settings(max_examples=50, deadline=None)
@given(PEAKS, PEAKS, st.floats(0.01, 1))
def test_matched_scores_are_bounded_symmetric_and_grow_with_the_window(a, b, window):
    score = matched_align(a, b, window)
    if not a and not b:
        assert np.isnan(score.f1)
        return
    assert 0 <= score.iou <= score.f1 <= 1
    assert score == matched_align(b, a, window)
    assert matched_align(a, b, 2 * window).f1 >= score.f1
    if a:
        assert matched_align(a, a, window).iou == 1


def test_a_peak_stands_above_its_neighbours_and_the_floor():
    assert trajectory_peaks([0, 0.05, 0, 0.2, 0], 25).tolist() == [0.12]
    assert trajectory_peaks([0, 1, 1, 0], 25).size == trajectory_peaks([], 25).size == 0


def test_undefined_files_are_counted_and_left_out_of_the_mean():
    score = corpus_score([1.0, np.nan, 0.5])
    assert (score.mean, score.n, score.undefined) == (0.75, 2, 1)
    assert 0.5 <= score.low <= score.mean <= score.high <= 1
    assert np.isnan(corpus_score([np.nan]).mean)


def test_a_paired_difference_is_surer_than_the_two_scores():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0, 0.8, size=50)
    better, worse = difficulty + 0.1, difficulty + 0.01 * rng.normal(size=50)
    difference = paired_difference(better, worse)
    assert difference.low > 0.09
    assert corpus_score(better).low < corpus_score(worse).high
    with pytest.raises(ValueError, match="same files"):
        paired_difference([1.0], [1.0, 2.0])


def test_chance_is_the_score_of_other_files():
    clips = [[1.0], [2.0], [3.0]]
    assert chance_level(clips, clips, f1) == 0
    assert chance_level([[1.0]] * 3, [[1.0]] * 3, f1) == 1
    assert np.isnan(chance_level([[1.0]], [[1.0]], f1))
    with pytest.raises(ValueError, match="3 reference lists"):
        chance_level(clips, clips[:2], f1)


def test_clicks_all_the_time_score_nothing_above_chance():
    rng = np.random.default_rng(1)
    references = [np.sort(rng.uniform(0, 10, 60)) for _ in range(20)]
    clicks = [np.arange(0, 10, 0.1)] * 20
    score = corpus_score([f1(r, d) for r, d in zip(references, clicks)]).mean
    assert score > 0.5
    assert abs(chance_corrected(score, chance_level(references, clicks, f1))) < 0.05
    assert chance_corrected(1.0, 0.4) == 1
    assert np.isnan(chance_corrected(1.0, 1.0))


def test_the_curve_gives_every_window_its_score_and_its_chance_level():
    rng = np.random.default_rng(2)
    references = [np.sort(rng.uniform(0, 10, 8)) for _ in range(10)]
    detections = [r + 0.04 for r in references]
    curve = window_curve(references, detections)
    assert list(curve) == [0.025, 0.05, 0.1, 0.2]
    assert curve[0.05][0].mean == 1
    assert curve[0.025][0].mean < 0.3
    assert all(chance < 0.6 for _, chance in curve.values())
