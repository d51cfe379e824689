"""Onsets and AA-Align of sound files and real clips, motion of frames: from the file to the released number."""

import itertools
import json
import pathlib

import cv2
import numpy as np
import pytest
import soundfile

from stav2a_jax.audio.onsets import onset_times
from stav2a_jax.metrics.align import released_aa_align, trajectory_peaks
from stav2a_jax.metrics.flow_cache import mean_flow
from stav2a_jax.video import decode

RATE, RTOL = 22_050, 1e-6


@pytest.fixture
def root(oracle):
    return pathlib.Path(oracle("align_metrics").case.path).parents[1]


@pytest.fixture
def golden(root):
    return json.loads((root / "metric_align_formulae.json").read_text())


def made(recipe):
    names = {"np": np}
    exec(recipe, names)
    return names


def peaks(path, length=None):
    """Onsets as the script has them: resampled, cut to a length in seconds, detected."""
    wave = decode.read_audio(path, RATE).wave
    return onset_times(wave if length is None else wave[: int(length * RATE)], RATE)


def test_sound_files_have_the_scripts_onsets(golden, tmp_path):
    for i, case in enumerate(golden["given"]["audio"]):
        names, path = made(case["recipe"]), tmp_path / f"{i}.wav"
        soundfile.write(path, names["pcm"], names["sr"], subtype="PCM_16")
        found = peaks(path)
        assert found.tolist() == case["peaks"], case["recipe"]
        assert peaks(path, 2.0).tolist() == case["peaks_length_2s"]
        assert released_aa_align(case["true_times"], found) == pytest.approx(case["aa_vs_true"], rel=RTOL)


def test_sounds_without_an_onset_have_none(golden):
    silence, one, constant = np.zeros(4 * RATE, np.float32), np.ones(1, np.float32), np.full(RATE, 0.5, np.float32)
    assert onset_times(silence, RATE).tolist() == golden["audio_edge"]["silence_4s"]
    assert onset_times(one, RATE).tolist() == golden["audio_edge"]["one_sample"]
    assert onset_times(constant, RATE).tolist() == golden["audio_edge"]["constant_dc"]


def test_moving_pictures_have_the_scripts_flow_and_peaks(golden):
    for case in golden["given"]["flow"]:
        grey = [cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_BGR2GRAY) for f in made(case["recipe"])["frames"]]
        values = [mean_flow(a, b) for a, b in itertools.pairwise(grey)]
        np.testing.assert_allclose([values[0], *values], case["flow"], rtol=RTOL)
        assert trajectory_peaks([values[0], *values], case["fps"]).tolist() == case["peaks"]


def test_real_clips_have_the_scripts_onsets_and_aa_align(root):
    """Their AV-Align is compared in test_flow.py."""
    clips = root.parent / "clips"
    for name, entry in json.loads((clips / "expected.json").read_text()).items():
        single = "audio_peaks" in entry  # one true clip, its sound beside it
        sounds = {"gt": entry} if single else {k: v for k, v in entry.items() if "audio_peaks" in v}
        onsets = {k: peaks(clips / name / ("gt_16k.wav" if single else f"{k}.mp4")) for k in sounds}
        for system, want in sounds.items():
            assert onsets[system].tolist() == want["audio_peaks"], (name, system)
            if "aa" in want:
                assert released_aa_align(onsets["gt"], onsets[system]) == pytest.approx(want["aa"], rel=RTOL)
