"""Pictures for TensorBoard: time goes to the right, and what is high is above."""

import numpy as np

from stav2a_jax.training.show import GAP, onset_track, similarity, spectrograms


def test_spectrograms_stand_below_each_other_in_one_colour_scale():
    quiet, loud = np.full((7, 5), -8.0), np.full((7, 5), -8.0)
    loud[2, 4] = 1.0  # the third frame, the highest band
    picture = spectrograms(quiet, loud)
    assert (picture.shape, picture.dtype) == ((5 + GAP + 5, 7, 3), np.uint8)
    brightness = picture.astype(int).sum(-1)
    assert brightness[:5].max() == brightness[:5].min()
    lower = brightness[5 + GAP :]
    assert np.unravel_index(lower.argmax(), lower.shape) == (0, 2)
    assert (lower == lower.min()).sum() == 34


def test_a_silent_spectrogram_can_be_drawn():
    assert spectrograms(np.zeros((3, 4))).shape == (4, 3, 3)


def test_an_onset_track_is_as_high_as_it_is_probable():
    picture = onset_track(np.array([0.0, 0.5, 1.0]), np.array([1, 0, 0]), height=10)
    assert picture.shape == (10, 12, 3)
    blue = (picture == (47, 109, 179)).all(-1).sum(0)
    assert blue.tolist() == [0] * 4 + [5] * 4 + [10] * 4
    orange = (picture == (217, 84, 30)).all(-1).sum(0)
    assert orange.tolist() == [3] * 4 + [0] * 8


def test_equal_rows_are_brightest():
    rows = np.eye(3)
    brightness = similarity(rows, rows).astype(int).sum(-1)
    assert (brightness.argmax(1) == [0, 1, 2]).all()
