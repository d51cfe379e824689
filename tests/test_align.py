import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.metrics.align import (
    corpus_score,
    count_matches,
    matched_align,
    paired_difference,
    released_aa_align,
    released_av_align,
    trajectory_peaks,
)
from stav2a_jax.metrics.chance import bootstrap_interval, corrected, mismatched
from stav2a_jax.metrics.events import match
from stav2a_jax.metrics.flow import motion_peaks
from stav2a_jax.metrics.flow_cache import Trajectory

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


@settings(max_examples=50, deadline=None)
@given(PEAKS, PEAKS, st.floats(0.01, 1))
def test_counting_pairs_is_as_good_as_choosing_them(a, b, window):
    assert count_matches(a, b, window) == len(match(a, b, window))


def test_chance_is_the_score_of_other_files():
    clips = [np.array([t]) for t in (1.0, 2.0, 3.0)]
    assert mismatched(clips, clips, f1).tolist() == [0, 0, 0]
    assert mismatched(clips[:1] * 3, clips[:1] * 3, f1).tolist() == [1, 1, 1]
    assert np.isnan(mismatched(clips[:1], clips[:1], f1)).all()
    with pytest.raises(ValueError, match="3 reference lists"):
        mismatched(clips, clips[:2], f1)


def test_mismatched_clips_are_compared_where_both_have_sound():
    references, detections = [np.array([1.0]), np.array([1.0, 5.0])], [np.array([1.0]), np.array([1.0, 5.0])]
    seconds = [(2.0, 2.0), (6.0, 6.0)]
    assert mismatched(references, detections, f1, seconds).tolist() == [1, 1]
    assert mismatched(references, detections, f1).tolist() == pytest.approx([2 / 3, 2 / 3])


def test_chance_may_be_counted_by_a_rule_of_each_film():
    references, detections = [np.array([1.0]), np.array([1.0])], [np.array([1.03]), np.array([1.03])]
    rules = [lambda film, sound, fps=fps: released_av_align(sound, film, fps) for fps in (10, 50)]
    assert mismatched(references, detections, rules).tolist() == [0, 1]


def test_clicks_all_the_time_score_nothing_above_chance():
    rng = np.random.default_rng(1)
    references = [np.sort(rng.uniform(0, 10, 60)) for _ in range(20)]
    clicks = [np.arange(0, 10, 0.1)] * 20
    scores = [f1(r, d) for r, d in zip(references, clicks)]
    result = corrected(scores, mismatched(references, clicks, f1))
    assert np.mean(scores) > 0.5
    assert abs(result.score.mean) < 0.05
    assert result.score.low <= 0 <= result.score.high
    assert result.score.mean == pytest.approx(result.per_clip.mean())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(1, 6))
def test_shuffled_pairs_score_about_nothing_after_correction(seed, rate):
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(0, 10, rng.poisson(10 * rate))) for _ in range(40)]
    shuffled = times[1:] + times[:1]
    result = corrected([f1(r, d) for r, d in zip(times, shuffled)], mismatched(times, shuffled, f1))
    assert abs(result.score.mean) < 0.15
    perfect = corrected([f1(t, t) for t in times], mismatched(times, times, f1))
    assert perfect.score.mean == pytest.approx(1)


def test_a_score_that_chance_reaches_too_cannot_be_corrected():
    assert np.isnan(corrected([1.0, 1.0], [1.0, 1.0]).score.mean)
    result = corrected([np.nan, 1.0], [0.4, 0.4])
    assert (result.score.mean, result.score.n, result.score.undefined, result.chance) == (1.0, 1, 1, 0.4)


def test_an_interval_of_a_biased_statistic_still_holds_its_value():
    def spread(rows):
        return float(len(set(rows.tolist())))  # repeats lower it in every draw

    low, high = bootstrap_interval(30.0, spread, 30)
    assert low < 30 < high
    assert np.isnan(bootstrap_interval(1.0, spread, 1)[0])


def test_doubled_pictures_are_no_motion_peaks():
    single = np.array([0.3, 0.3, 0.8, 0.2, 0.9, 0.5])
    doubled = np.zeros(12)
    doubled[0:2], doubled[2::2] = single[0], single[1:]
    doubled[1] = 0  # picture 1 repeats picture 0, and value 0 is its copy
    doubled[0] = 0
    assert motion_peaks(Trajectory(single, 10.0), np.zeros(0)).tolist() == [0.2, 0.4]
    assert motion_peaks(Trajectory(doubled, 20.0), np.arange(12) / 20).tolist() == [0.2, 0.4]
    assert trajectory_peaks(doubled, 20.0).size > 2
    assert motion_peaks(Trajectory(np.zeros(5), 25.0), np.zeros(0)).size == 0
