import time

import numpy as np
import pytest
import soundfile

from stav2a_jax.audio import wav
from stav2a_jax.types import UserError


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


def test_sixteen_bits_come_back_within_half_a_step(tmp_path):
    wave = noise(1000)
    wav.write(tmp_path / "a.wav", wave, 16_000)
    back = wav.read(tmp_path / "a.wav", 16_000)
    assert back.dtype == np.float32
    assert np.abs(back - wave).max() <= 0.5 / 32768
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_float_files_come_back_exactly_even_beyond_full_scale(tmp_path):
    wave = 3 * noise(1000)
    wav.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(wav.read(tmp_path / "a.wav", 16_000), wave)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"


def test_stereo_is_averaged_unless_the_first_channel_is_asked_for(tmp_path):
    wave = noise(500, 2)
    wav.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(wav.read(tmp_path / "a.wav", 16_000), wave.mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(wav.read(tmp_path / "a.wav", 16_000, first_channel=True), wave[:, 0])


def test_other_rates_are_resampled(tmp_path):
    tone = lambda rate: 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)  # noqa: E731
    wav.write(tmp_path / "a.wav", tone(44_100), 44_100, subtype="FLOAT")
    got = wav.read(tmp_path / "a.wav", 16_000)
    assert got.shape == (16_000,)
    np.testing.assert_allclose(got[1000:-1000], tone(16_000)[1000:-1000], atol=1e-3)


def test_sinc_resampling_keeps_a_tone_and_the_rounded_up_length():
    tone = lambda rate: np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)  # noqa: E731
    got = wav.sinc_resample(tone(22_050), 22_050, 16_000)
    assert got.shape == (8000,)
    np.testing.assert_allclose(got[100:-100], tone(16_000)[100:-100], atol=2e-3)
    np.testing.assert_array_equal(wav.sinc_resample(got, 16_000, 16_000), got)


def test_a_write_leaves_nothing_else_in_the_folder_and_replaces_the_old_file(tmp_path):
    for wave in (noise(10), noise(20)):
        wav.write(tmp_path / "a.wav", wave, 16_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert len(wav.read(tmp_path / "a.wav", 16_000)) == 20


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_the_same_wave_gives_the_same_bytes(tmp_path, subtype):
    wav.write(tmp_path / "a.wav", noise(100), 16_000, subtype=subtype)
    first = (tmp_path / "a.wav").read_bytes()
    time.sleep(1.1)  # a time stamp in the header would show
    wav.write(tmp_path / "a.wav", noise(100), 16_000, subtype=subtype)
    assert (tmp_path / "a.wav").read_bytes() == first


def test_a_failed_write_keeps_the_old_file_and_cleans_up(tmp_path):
    wav.write(tmp_path / "a.wav", noise(10), 16_000)
    old = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(UserError, match="not finite"):
        wav.write(tmp_path / "a.wav", np.array([np.nan]), 16_000)
    assert (tmp_path / "a.wav").read_bytes() == old
    with pytest.raises(UserError, match="folder"):
        wav.write(tmp_path / "missing" / "a.wav", noise(10), 16_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"", "cannot be read"), (b"not audio" * 99, "cannot be read")]
)
def test_missing_and_unreadable_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"broken\.wav {message}"):
        wav.read(path, 16_000)


def test_empty_and_non_finite_files_are_named(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(UserError, match="no samples"):
        wav.read(tmp_path / "empty.wav", 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(10, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(UserError, match="not finite"):
        wav.read(tmp_path / "nan.wav", 16_000)
    with pytest.raises(UserError, match="PCM_24"):
        wav.write(tmp_path / "a.wav", noise(10), 16_000, subtype="PCM_24")


def test_ours_rounds_and_clips_where_the_release_truncates_and_wraps():
    wave = np.array([-1.0, -0.6 / 32768, 0.6 / 32768, 1.0, 1.5])
    np.testing.assert_array_equal(wav.to_int16(wave), [-32768, -1, 1, 32767, 32767])
    np.testing.assert_array_equal(wav.to_int16_released(wave), [-32768, 0, 0, -32768, -16384])
