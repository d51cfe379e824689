"""Sound as long as the picture, the same for the same seed, and the same alone as in company."""

import math
import shutil

import numpy as np
import pytest

from stav2a_jax.bundle import load_params, save_params
from stav2a_jax.pipeline import BUCKET, VideoToAudio, output_path
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import write_video

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return VideoToAudio.from_bundle(tiny_bundle)


def moving(count, seed=0, size=24):
    """Frames (count, size, size, 3) uint8 of coloured noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def test_the_sound_is_exactly_as_long_as_an_array_of_frames(model):
    for count, fps in ((5, 25.0), (25, 25.0), (117, 50.0), (1, 30.0), (7, 29.97)):
        [sound] = model(moving(count), "a ball", fps=fps)
        seconds = count / fps
        assert sound.seconds == pytest.approx(seconds)
        assert sound.wave.shape == (round(seconds * 16_000),)
        assert sound.wave.dtype == np.float32
        assert np.isfinite(sound.wave).all()
        assert sound.log_mel.shape == (math.ceil(len(sound.wave) / 160), 64)
        assert sound.onset_probability.shape == (math.ceil(len(sound.wave) / 640),)
        assert 0 <= sound.onset_probability.min() <= sound.onset_probability.max() <= 1


@pytest.mark.parametrize(("count", "fps"), [(2, 10.0), (30, 30.0), (117, 50.0)])
def test_the_sound_is_exactly_as_long_as_a_file(model, tmp_path, count, fps):
    write_video(tmp_path / "clip.mp4", moving(count, size=32), fps)
    [sound] = model(tmp_path / "clip.mp4")
    assert sound.wave.shape == (round(count / fps * 16_000),)
    assert (sound.sample_rate, sound.seed, sound.sample) == (16_000, 0, 0)


def test_a_seed_decides_the_sound(model):
    frames = moving(25)
    first, again, other = (model(frames, "a ball", fps=25.0, seed=s)[0].wave for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_samples_of_one_video_differ_and_each_can_be_made_alone(model):
    clip = model.from_array(moving(25), 25.0)
    one, two = model(moving(25), "a ball", fps=25.0, samples=2)
    assert (one.sample, two.sample) == (0, 1)
    assert np.abs(one.wave - two.wave).max() > 1e-3
    np.testing.assert_array_equal(one.onset_probability, two.onset_probability)  # of the same picture
    [alone] = model.generate([clip], ["a ball"], numbers=[1])
    close(alone, two)


def close(a, b):
    """Equal within 1e-4 of full scale."""
    for name in ("wave", "log_mel", "onset_probability"):
        x, y = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(x, y, atol=1e-4 * max(1.0, float(np.abs(y).max())), err_msg=name)


def test_a_sound_made_in_a_batch_is_the_one_made_alone(model):
    counts, prompts = (25, 5, 30, 59), ("a ball", "", "drops of water", "steps")
    clips = [model.from_array(moving(n, seed=n), 25.0) for n in counts]
    together = model.generate(clips, prompts, seed=7)
    assert [len(s.wave) for s in together] == [n * 640 for n in counts]
    for clip, prompt, sound in zip(clips, prompts, together, strict=True):
        [alone] = model.generate([clip], [prompt], seed=7)
        close(alone, sound)


def test_prompt_and_picture_and_guidance_change_the_sound(model):
    frames = moving(25)
    base = model(frames, "a ball", fps=25.0)[0].wave
    changed = [
        model(frames, "water", fps=25.0),
        model(moving(25, seed=1), "a ball", fps=25.0),
        model(frames, "a ball", fps=25.0, guidance=4.0),
        model(frames, "a ball", fps=25.0, guidance_global=2.0),
        model(frames, "a ball", fps=25.0, guidance_local=3.0),
        model(frames, "a ball", fps=25.0, steps=3),
        model(frames, "a ball", fps=25.0, sampler="ddpm"),
    ]
    for number, [sound] in enumerate(changed):
        assert np.abs(sound.wave - base).max() > 1e-4, number


def test_text_alone_does_not_see_the_picture(model):
    waves = [model(moving(25, seed=s), "a ball", fps=25.0, text_only=True)[0].wave for s in (0, 1)]
    np.testing.assert_array_equal(*waves)
    other = model(moving(25), "water", fps=25.0, text_only=True)[0].wave
    assert np.abs(other - waves[0]).max() > 1e-4
    assert np.abs(model(moving(25), "a ball", fps=25.0)[0].wave - waves[0]).max() > 1e-4


def test_text_alone_needs_its_own_weights(tiny_bundle, tmp_path):
    folder = shutil.copytree(tiny_bundle, tmp_path / "without")
    params = load_params(folder / "weights.safetensors")
    del params["t2a"]
    save_params(folder / "weights.safetensors", params)
    model = VideoToAudio.from_bundle(folder)
    with pytest.raises(UserError, match="'without' holds no text-to-audio weights"):
        model(moving(5), fps=25.0, text_only=True)


def test_progress_is_reported_from_the_first_step_to_the_last(model):
    seen = []
    model(moving(5), fps=25.0, report=lambda *what: seen.append(what))
    assert [row for row in seen if row[0] == "sampling"] == [("sampling", k, 2) for k in range(3)]
    assert [row[0] for row in seen[::2]] == ["looking", "sampling", "sampling", "decoding"]


def test_lengths_share_programs_in_buckets(model):
    assert [model.bucket(s) for s in (0.01, 1.0, 1.28, 1.29, 2.34, 4.4)] == [BUCKET, BUCKET, 32, 64, 64, 128]


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), 25.0, "must be uint8"),
        (np.zeros((3, 8, 8), np.uint8), 25.0, "must be uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), 25.0, "with N > 0"),
        (np.zeros((3, 8, 8, 3), np.uint8), None, "pass fps="),
        (np.zeros((3, 8, 8, 3), np.uint8), -1.0, "pass fps="),
    ],
)
def test_frames_that_are_none_are_refused(model, frames, fps, words):
    with pytest.raises(UserError, match=words):
        model(frames, fps=fps)


def test_an_unknown_sampler_is_answered_with_the_nearest(model):
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        model(moving(5), fps=25.0, sampler="dim")


def test_frames_are_taken_at_their_moments(model):
    shown = np.repeat(np.arange(10, dtype=np.uint8) * 20, 1)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    clip = model.from_array(shown, 12.5)  # half of the encoder's rate: every frame twice
    assert clip.seconds == 0.8
    np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], np.repeat(np.arange(10) * 20, 2))
    clip = model.from_array(shown, 50.0)
    np.testing.assert_array_equal(clip.frames[:, 0, 0, 0], np.arange(0, 10, 2) * 20)


def test_output_names_carry_the_sample_only_where_there_are_several(tmp_path):
    assert output_path(tmp_path, "a.b", 0, 1, ".mp4").name == "a.b.mp4"
    assert output_path(tmp_path, "a.b", 1, 3, ".mp4").name == "a.b.1.mp4"
