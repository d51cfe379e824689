"""The optical flow of a video: what is measured, that it is measured once, and anew for a changed video."""

import json

import numpy as np
import pytest

from stav2a_jax.metrics.flow_cache import FlowConfig, cached_trajectory, content_key, flow_peaks, flow_trajectory
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import write_video, write_with_audio

FPS, SIZE = 12.5, 96
STEPS = (0, 0, 2, 0, 0, 0, 3, 0, 0, 1, 0, 0)
"""Pixels by which the picture is moved before each frame."""


def moving(steps=STEPS, size=SIZE, scale=1):
    """(N, size, size, 3): a smooth random texture that moves to the right."""
    import cv2

    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (SIZE, 2 * SIZE)).astype(np.uint8), (0, 0), 2.0)
    texture = cv2.resize(cv2.equalizeHist(texture), None, fx=scale, fy=scale)
    places = scale * np.cumsum(steps)
    frames = np.stack([texture[:, size - p : 2 * size - p] for p in places])
    return np.repeat(frames[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "moving.mp4"
    write_video(path, moving(), FPS, crf=5)
    return path


def test_the_flow_is_the_movement_in_pixels(video):
    found = flow_trajectory(video)
    assert found.fps == FPS
    assert found.values.shape == (len(STEPS),)
    assert found.values[0] == found.values[1]
    np.testing.assert_allclose(found.values[1:], STEPS[1:], atol=0.35)


def test_peaks_are_where_the_picture_moves(video):
    times, fps = flow_peaks(video)
    np.testing.assert_allclose(times, np.array([2, 6, 9]) / fps)
    np.testing.assert_array_equal(flow_peaks(video, seconds=0.4)[0], times[:1])  # five frames


def test_a_picture_that_stands_still_has_no_peak(tmp_path):
    write_video(tmp_path / "still.mp4", moving((0,) * 8), FPS)
    assert not flow_peaks(tmp_path / "still.mp4")[0].size
    write_video(tmp_path / "one.mp4", moving((0,)), FPS)
    assert flow_trajectory(tmp_path / "one.mp4").values.tolist() == [0.0]


def test_a_video_is_measured_once_whatever_its_name_and_sound(video, tmp_path):
    cached_trajectory(video, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").glob("*/*.json")
    entry.write_text(json.dumps({"fps": 7.0, "values": [1.0, 2.0]}))  # shows whether it is read
    loud = write_with_audio(video, np.zeros(16_000, np.float32), 16_000, tmp_path / "loud.mp4")
    for path in (video, loud):
        found = cached_trajectory(path, tmp_path / "cache")
        assert (found.values.tolist(), found.fps) == ([1.0, 2.0], 7.0)
    assert list((tmp_path / "cache").glob("*/*.json")) == [entry]


def test_another_picture_under_the_same_name_is_measured_anew(video, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(video.read_bytes())
    old = content_key(path)
    write_video(path, moving(STEPS[::-1]), FPS)
    assert content_key(path) != old
    assert content_key(path) != content_key(path, FlowConfig(height=48))


def test_a_damaged_entry_is_made_again(video, tmp_path):
    first = cached_trajectory(video, tmp_path)
    entry = next(tmp_path.glob("*/*.json"))
    entry.write_text(entry.read_text()[:20])
    np.testing.assert_array_equal(cached_trajectory(video, tmp_path).values, first.values)
    assert entry.stat().st_size > 20


def test_a_lower_size_and_rate_see_the_same_movement_smaller(tmp_path):
    path = tmp_path / "large.mp4"
    write_video(path, moving(size=2 * SIZE, scale=2), 2 * FPS, crf=5)
    full = flow_trajectory(path)
    small = flow_trajectory(path, FlowConfig(height=SIZE))
    np.testing.assert_allclose(small.values[1:], STEPS[1:], atol=0.35)
    np.testing.assert_allclose(full.values[1:], 2 * np.array(STEPS[1:]), atol=0.7)
    slow = flow_trajectory(path, FlowConfig(height=SIZE, fps=FPS))
    assert slow.fps == FPS
    np.testing.assert_allclose(slow.values[1:], np.add(STEPS[1:-1:2], STEPS[2::2]), atol=0.35)


def test_a_file_that_is_no_video_is_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UserError, match="is not a video"):
        flow_peaks(tmp_path / "a.mp4", tmp_path)
