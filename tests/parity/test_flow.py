"""Optical flow and AV-Align against the released scripts: made pictures, and real clips to 1e-6."""

import itertools
import json
import os
import pathlib

import numpy as np
import pytest

from stav2a_jax.audio.onsets import ANALYSIS_RATE, onset_times
from stav2a_jax.metrics.align import released_av_align, trajectory_peaks
from stav2a_jax.metrics.flow_cache import flow_peaks, mean_flow
from stav2a_jax.video.decode import read_audio

ROOT = pathlib.Path(os.environ.get("STAV2A_PARITY", pathlib.Path(__file__).parents[2].parent / "shared"))


def clips():
    """(video, file with its sound, AV-Align, motion peaks, frames per second) of every clip listed."""
    path = ROOT / "clips" / "expected.json"
    if not path.exists():
        return
    for name, entry in json.loads(path.read_text()).items():
        folder = path.parent / name
        if "video_peaks" in entry:  # the sound was measured on the wave file beside the video
            yield folder / "gt.mp4", folder / "gt_16k.wav", entry["av"], [entry["video_peaks"]], entry["fps"]
            continue
        peaks = [group["video_peaks"] for group in entry["video"].values()]
        fps = next(iter(entry["video"].values()))["fps"]
        for system, values in entry.items():
            if "av" in values:
                yield folder / f"{system}.mp4", folder / f"{system}.mp4", values["av"], peaks, fps


def test_the_flow_of_made_pictures_is_the_released_one():
    cases = json.loads((ROOT / "parity" / "metric_align_formulae.json").read_text())["given"]["flow"]
    assert cases
    for case in cases:
        names = {"np": np}
        exec(case["recipe"], names)
        frames = [frame[..., 0] for frame in names["frames"]]
        values = [mean_flow(a, b) for a, b in itertools.pairwise(frames)]
        np.testing.assert_allclose([values[0], *values], case["flow"], rtol=1e-5, atol=1e-6)
        assert trajectory_peaks([values[0], *values], case["fps"]).tolist() == case["peaks"]


@pytest.mark.long
def test_av_align_of_real_clips_is_the_released_one(tmp_path):
    """Systems that share their pictures share one entry of the cache."""
    wrong, count = [], 0
    for video, sound, want, peaks, fps in clips():
        times, rate = flow_peaks(video, tmp_path)
        score = released_av_align(onset_times(read_audio(sound, ANALYSIS_RATE).wave, ANALYSIS_RATE), times, rate)
        count += 1
        if not (abs(score - want) <= 1e-6 and times.tolist() in peaks and rate == fps):
            wrong.append(f"{video.parent.name}/{video.name}: {score}, want {want}")
    assert count
    assert not wrong, wrong
    assert len(list(tmp_path.glob("*/*.json"))) < count
