"""The released behaviour is a config: every point of it can be switched on, and ours stays the default."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax import released
from stav2a_jax.audio import front_end, mel, wav
from stav2a_jax.audio.wav import to_int16, to_int16_released
from stav2a_jax.bundle import load_bundle
from stav2a_jax.config import GuidanceConfig, LossConfig, ModelConfig, PipelineConfig, SoundConfig
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.pipeline import Clip, VideoToAudio
from stav2a_jax.training.stages.stav2a import Draws, draw_all, losses
from stav2a_jax.training.stages.t2a import encode_captions
from stav2a_jax.types import LatentSpec, UserError

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]
FRAMES = 5  # of the video; the release's 40


@pytest.fixture(scope="module")
def model(tiny_bundle):
    """The tiny bundle with the released behaviour, for clips of 1.28 s and 5 frames of 16 pixels."""
    bundle = load_bundle(str(tiny_bundle))
    config = released.released(bundle.model)
    config = dataclasses.replace(
        config,
        latent=LatentSpec(seconds=1.28),
        video=dataclasses.replace(config.video, size=16),
        pipeline=dataclasses.replace(config.pipeline, video_frames=FRAMES),
    )
    return VideoToAudio(dataclasses.replace(bundle, model=config))


def moving(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_ours_is_the_default_and_the_release_differs_in_every_point():
    for ours, theirs in ((SoundConfig(), released.SOUND), (PipelineConfig(), released.PIPELINE)):
        for field in dataclasses.fields(ours):
            assert getattr(ours, field.name) != getattr(theirs, field.name), field.name
    config = released.released(ModelConfig(unet=dataclasses.replace(ModelConfig().unet, fold=2)))
    assert not config.unet.mask_control
    assert config.unet.fold == 2  # sizes stay
    assert (config.video.fps, config.video.size, config.pipeline.video_frames) == (4.0, 224, 40)
    assert (GuidanceConfig().sampler, released.GUIDANCE.sampler, released.GUIDANCE.steps) == ("dpmpp", "ddpm", 200)
    assert (released.LOSS.drop_text, released.LOSS.drop_global, released.LOSS.drop_local) == (0.1, 0.0, 0.0)


def test_200_released_steps_run_from_996_to_1():
    steps = make_schedule(released.released(ModelConfig()).schedule).timesteps(released.GUIDANCE.steps)
    assert steps.tolist() == list(range(996, 0, -5))


def test_a_short_video_gets_rows_of_zeros_and_a_long_one_is_cut(model):
    short, long = moving(3), moving(9, seed=1)
    rows = model.features([Clip(short, 0.75), Clip(long, 2.25)], 32)
    alone, cut = (model._encode(model._params, frames[None])[0] for frames in (short, long[:FRAMES]))
    np.testing.assert_allclose(rows[0, :3], alone, atol=1e-6)
    np.testing.assert_array_equal(rows[0, 3:], 0.0)
    np.testing.assert_allclose(rows[1], cut, atol=1e-6)


def test_given_features_take_the_place_of_the_frames(model):
    given = np.float32(np.random.default_rng(0).normal(size=(4, model.config.video.features)))
    [rows] = model.features([Clip.of_features(given, 1.0)], 32)
    np.testing.assert_array_equal(rows, np.concatenate([given, np.zeros_like(given[:1])]))
    with pytest.raises(UserError, match=r"features must be \(N, 8\) with N > 0, got \(4, 7\)"):
        model.features([Clip.of_features(given[:, :7], 1.0)], 32)


def test_given_features_are_held_to_the_end_where_frames_are(tiny_bundle):
    ours, given = VideoToAudio.from_bundle(tiny_bundle), np.float32(np.random.default_rng(0).normal(size=(4, 8)))
    rows = ours.features([Clip.of_features(given, 0.16), Clip(moving(4), 0.16)], 8)
    np.testing.assert_array_equal(rows[0], given[[0, 1, 2, 3, 3, 3, 3, 3]])
    np.testing.assert_allclose(rows[1], ours.features([Clip(moving(4), 0.16)], 8)[0], atol=1e-6)


def test_prompts_are_padded_to_the_longest_and_the_empty_prompt_as_far(model):
    prompts = ["a wooden ball bounces", "a"]
    ids, _ = model.tokenizer(prompts)
    chain, _ = model.conditions(prompts, jnp.ones((2, FRAMES, 8)), 32)
    for condition in chain:
        assert condition.context.shape[1] == ids.shape[1] + 4
    assert chain[2].mask[:, : ids.shape[1]].sum(axis=1).tolist() == [1, 1]  # </s> alone


def test_a_result_is_a_whole_clip_with_truncated_samples(model):
    sounds = model.generate([Clip(moving(2), 0.5), Clip(moving(9), 2.25)], ["a ball", ""], steps=2)
    for sound in sounds:
        assert sound.wave.shape == sound.int16.shape == (32 * 4 * 160,)  # what this vocoder makes of 128 mel frames
        assert (sound.seconds, len(sound.log_mel), len(sound.onset_probability)) == (1.28, 128, 32)
        np.testing.assert_array_equal(sound.int16, to_int16_released(sound.wave))
        assert not np.array_equal(sound.int16, to_int16(sound.wave))


def test_int16_samples_are_written_as_they_are(tmp_path):
    samples = np.array([-32768, -1, 0, 1, 32767], np.int16)
    wav.write(tmp_path / "a.wav", samples, 16_000)
    np.testing.assert_array_equal(wav.read(tmp_path / "a.wav", 16_000) * 32768, samples)


def test_a_dropped_caption_becomes_zeros_or_the_empty_prompt(tiny_model, tiny_params):
    ids, mask = np.array([[9, 7, 1], [5, 1, 0]], np.int32), np.array([[1, 1, 1], [1, 1, 0]], np.int32)
    null, drop = (np.array([[1, 0, 0, 0]], np.int32),) * 2, np.array([True, False])
    kept, _ = encode_captions(tiny_model, tiny_params, ids, mask, null, np.zeros(2, bool), "prompt")
    text, same = encode_captions(tiny_model, tiny_params, ids, mask, null, drop, "zeros")
    np.testing.assert_array_equal(text[0], 0.0)
    np.testing.assert_array_equal(text[1], kept[1])
    np.testing.assert_array_equal(same, mask)
    text, other = encode_captions(tiny_model, tiny_params, ids, mask, null, drop, "prompt")
    empty, _ = encode_captions(tiny_model, tiny_params, null[0][:, :3], null[1][:, :3], null, drop[1:], "prompt")
    np.testing.assert_allclose(text[0], empty[0], atol=1e-6)
    assert other.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_the_losses_follow_their_config(tiny_model, tiny_params):
    rng = np.random.default_rng(0)
    batch = {
        "video": jnp.asarray(rng.normal(size=(2, 8, 8)), jnp.float32),
        "ids": jnp.array([[9, 1], [5, 1]]),
        "ids_mask": jnp.ones((2, 2), jnp.int32),
        "onset": jnp.asarray(np.arange(8)[None] >= np.array([[8], [2]]), jnp.int32),  # only where none counts
        "mask": jnp.asarray(np.arange(8)[None] < np.array([[8], [2]]), jnp.float32),
    }
    x0, eps = (jnp.asarray(rng.normal(size=(2, 8, 16, 8)), jnp.float32) for _ in range(2))
    nothing = jnp.zeros(2, bool)
    draws = Draws(jnp.array([900, 300]), eps, nothing, nothing, nothing, None)
    schedule, null = make_schedule(tiny_model.schedule), (np.array([[1, 0]]),) * 2

    @jax.jit
    def both(params):
        ours = LossConfig(snr_gamma=5.0)
        theirs = dataclasses.replace(ours, snr_weight="released", count_padding=True)
        return [losses(tiny_model, cfg, schedule, params, batch, x0, null, draws) for cfg in (ours, theirs)]

    (ours, onset), (theirs, all_onset) = both(tiny_params)
    snr = schedule.snr[np.array([900, 300])]
    np.testing.assert_allclose(theirs / ours, (snr + 1) / snr, rtol=1e-5)
    assert abs(float(onset) - float(all_onset)) > 1e-3


def test_the_front_end_follows_its_config():
    spec, rng = LatentSpec(seconds=0.32), np.random.default_rng(0)
    stereo = np.float32(rng.uniform(-0.2, 0.2, (8000, 2)))
    ours = front_end.prepare(stereo, 16_000, SoundConfig(), spec)
    want = stereo.mean(axis=1)
    np.testing.assert_allclose(ours, (want - want.mean())[: spec.samples], atol=1e-6)
    theirs = front_end.prepare(stereo, 16_000, released.SOUND, spec, start=100)
    np.testing.assert_allclose(theirs, mel.normalise_released(stereo[:, 0], spec.samples, 100), atol=1e-6)
    assert np.abs(theirs).max() == 0.5
    short = front_end.prepare(stereo[:1000], 16_000, SoundConfig(), spec, start=500)
    assert short.shape == (spec.samples,)
    assert short[:1000].any()
    assert not short[1000:].any()


def test_a_sound_file_is_read_through_the_front_end(tmp_path):
    spec, tone = LatentSpec(seconds=0.32), np.sin(np.arange(22_050) / 9.0).astype(np.float32)
    wav.write(tmp_path / "a.wav", 0.5 * np.stack([tone, 0 * tone], axis=1), 22_050, subtype="FLOAT")
    read = front_end.read_clip(tmp_path / "a.wav", released.SOUND, spec)
    want = front_end.prepare(0.5 * tone[:, None], 22_050, released.SOUND, spec)
    np.testing.assert_allclose(read, want, atol=1e-6)


@pytest.mark.parametrize(("own", "share"), [(None, 0.1), (0.5, 0.5), (0.0, 0.0)])
def test_the_full_model_drops_captions_as_often_as_its_own_loss_says(own, share):
    keys = jax.random.split(jax.random.key(0), 4000)
    cfg = LossConfig(drop_text=0.1, drop_global=0.2, stav2a_drop_text=own)
    draws = draw_all(cfg, keys, (2, 2, 1), 1000, training=True)
    assert float(draws.drop_text.mean()) == pytest.approx(share, abs=0.03)
    assert float(draws.drop_global.mean()) == pytest.approx(0.2, abs=0.03)
    assert not draw_all(cfg, keys, (2, 2, 1), 1000, training=False).drop_text.any()
