import numpy as np
import pytest

from stav2a_jax.audio.onsets import onset_labels, onset_times


def clicks(times, rate=16_000, seconds=4.0):
    wave, decay = np.zeros(int(rate * seconds), np.float32), np.exp(-np.arange(rate // 20) / (0.008 * rate))
    ring = 0.7 * decay * np.cos(2 * np.pi * 1800 * np.arange(rate // 20) / rate)
    for t in times:
        wave[int(t * rate) :][: len(ring)] += ring[: len(wave) - int(t * rate)]
    return wave


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_every_click_is_found_once_and_in_time(rate):
    want = np.array([0.5, 1.3, 2.2, 3.1])
    times = onset_times(clicks(want, rate), rate)
    assert times.shape == want.shape
    assert np.abs(times - want).max() < 0.04


@pytest.mark.parametrize("samples", [0, 1, 1000, 40_000])
def test_silence_has_no_onsets_at_any_length(samples):
    assert onset_times(np.zeros(samples, np.float32), 16_000).shape == (0,)


def test_a_label_marks_the_frame_that_holds_the_onset():
    labels = onset_labels(np.array([0.0, 0.039, 0.04, 0.2]), 6, 25.0)
    np.testing.assert_array_equal(labels, [1, 1, 0, 0, 0, 1])


def test_times_outside_the_clip_are_ignored():
    assert onset_labels(np.array([-0.01, 0.24, 9.0]), 6, 25.0).sum() == 0
    np.testing.assert_array_equal(onset_labels(np.array([]), 3, 25.0), [0, 0, 0])
