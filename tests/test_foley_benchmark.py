"""The benchmark tells systems apart whose scores are known."""

import types

import numpy as np
import pytest

from stav2a_jax import foley_benchmark as benchmark
from stav2a_jax.data import foley
from stav2a_jax.video.decode import probe

pytestmark = pytest.mark.long


class Oracle:
    """Knows the clips: answers a film with its true sound, heard late by ``delay`` seconds."""

    def __init__(self, clips, delay=0.0):
        self.clips, self.delay, self.seen = clips, delay, 0
        self.bundle = types.SimpleNamespace(name="oracle", params={})

    def read(self, path):
        clip = self.clips[self.seen]
        self.seen += 1
        assert abs(probe(path).seconds - clip.seconds) < 1e-6  # the film is the clip's
        return clip

    def bucket(self, seconds):
        return 0

    def generate(self, films, prompts, *, numbers):
        late = round(self.delay * benchmark.RATE)
        waves = [foley.render_audio(clip, benchmark.RATE) for clip in films]
        return [types.SimpleNamespace(wave=np.r_[np.zeros(late, np.float32), w][: len(w)]) for w in waves]


@pytest.fixture(scope="module")
def report():
    def make(delay=0.0, count=6, seed=4):
        clips = [foley.make_clip(seed, "test", i) for i in range(count)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(benchmark, "CLASSIFIER_CLIPS", 60)
            patch.setattr(benchmark, "CALIBRATION_CLIPS", 20)
            return benchmark.run(
                Oracle(clips, delay), seed=seed, count=count, batch=4, split="test", show=lambda *a: None
            )

    return make


def test_the_truth_scores_what_the_ceiling_says(report):
    scores = report()
    assert scores["event_f1_100ms"] == scores["ceiling_f1_100ms"] > 0.9
    assert scores["event_f1_random"] < 0.6
    assert scores["event_f1_shuffled"] < 0.6
    assert scores["swap_event_f1_new_video"] > 0.9 > scores["swap_event_f1_old_video"]
    assert scores["t2a_event_f1_100ms"] is None
    text = benchmark.markdown(scores)
    assert f"| event F1, 100 ms | {scores['event_f1_100ms']:.3f} |" in text


def test_sound_that_comes_late_is_seen_to_come_late(report):
    scores = report(delay=0.07)
    assert abs(scores["offset_ms"] - 70) < 10
    assert scores["event_f1_50ms"] < 0.4 < scores["event_f1_100ms"]
