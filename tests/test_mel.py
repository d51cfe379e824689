import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.audio import mel
from stav2a_jax.types import LatentSpec


def tone(frequency, samples=16_000, amplitude=0.5):
    return jnp.asarray(amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / 16_000), jnp.float32)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (16, 5), (16, 16), (8, 20)])
def test_magnitudes_equal_a_plain_fourier_sum_of_each_frame(n_fft, hop):
    wave = np.random.default_rng(0).normal(size=50).astype(np.float32)
    padded, window = np.pad(wave, n_fft // 2, mode="reflect"), 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = [padded[i * hop : i * hop + n_fft] * window for i in range(1 + 50 // hop)]
    got = mel.stft_magnitude(jnp.asarray(wave), n_fft, hop)
    np.testing.assert_allclose(got, np.abs(np.fft.rfft(np.stack(frames))), atol=1e-5)


def test_one_frame_per_hop_and_batch_axes_are_kept():
    assert mel.log_mel(jnp.zeros((2, 3, 1600))).shape == (2, 3, 10, 64)
    assert mel.log_mel(jnp.zeros(1600), last_frame=True).shape == (11, 64)
    spec = LatentSpec(mel_bins=32, hop=200)
    assert mel.log_mel(jnp.zeros(1600), spec).shape == (8, 32)


def test_silence_is_the_log_of_the_floor():
    np.testing.assert_allclose(mel.log_mel(jnp.zeros(1600)), np.log(1e-5), rtol=1e-6)
    np.testing.assert_allclose(mel.log_mel(jnp.zeros(1600), floor=1e-3), np.log(1e-3), rtol=1e-6)


def test_a_tone_is_loudest_in_the_band_of_its_frequency():
    filters = mel.mel_filters(16_000, 1024, 64, 0.0, 8000.0)
    bins = mel.log_mel(tone(1000.0))[50]
    assert int(bins.argmax()) == int(filters[1000 * 1024 // 16_000].argmax())


def test_twice_the_amplitude_is_log_two_more():
    quiet, loud = mel.log_mel(tone(1000.0)), mel.log_mel(tone(1000.0, amplitude=1.0))
    np.testing.assert_allclose((loud - quiet)[50, quiet[50] > -5], np.log(2), atol=1e-3)


@pytest.mark.parametrize("wave", [jnp.zeros(1600), tone(1000.0, 1600)])
def test_the_gradient_is_finite_even_for_silence(wave):
    gradient = jax.grad(lambda x: mel.log_mel(x).sum())(wave)
    assert jnp.isfinite(gradient).all()


def test_the_gradient_agrees_with_finite_differences():
    wave, direction = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1600)), jnp.float32)
    slope = jnp.vdot(jax.grad(lambda x: mel.stft_magnitude(x).sum())(wave), direction)
    up, down = (float(mel.stft_magnitude(wave + e * direction).sum()) for e in (1e-2, -1e-2))
    assert float(slope) == pytest.approx((up - down) / 2e-2, rel=1e-2)


def test_a_wave_too_short_to_reflect_is_refused():
    with pytest.raises(ValueError, match="more than 512 samples"):
        mel.log_mel(jnp.zeros(512))


def test_pad_or_cut_works_on_any_axis():
    x = jnp.ones((2, 3))
    assert mel.pad_or_cut(x, 2).shape == (2, 2)
    np.testing.assert_array_equal(mel.pad_or_cut(x, 3, axis=0), [[1, 1, 1], [1, 1, 1], [0, 0, 0]])


def test_released_normalisation_brings_every_clip_to_half_scale():
    for amplitude in (0.01, 0.9):
        wave = mel.normalise_released(tone(440.0, amplitude=amplitude) + 0.05, 20_000)
        assert wave.shape == (20_000,)
        assert float(jnp.abs(wave).max()) == pytest.approx(0.5)


def test_released_normalisation_crops_from_the_start_it_is_given():
    wave = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, 100), jnp.float32)
    cropped = mel.normalise_released(wave, 10, start=7)
    part = (wave - wave.mean())[7:17]
    np.testing.assert_allclose(cropped, 0.5 * part / jnp.abs(part).max(), atol=1e-6)


def test_released_normalisation_of_silence_is_silence():
    np.testing.assert_array_equal(mel.normalise_released(jnp.zeros(10), 12), np.zeros(12))


def test_our_normalisation_keeps_the_loudness():
    wave = mel.normalise_ours(tone(400.0, amplitude=0.1) + 0.3)
    np.testing.assert_allclose(wave, tone(400.0, amplitude=0.1), atol=1e-6)
    assert float(jnp.abs(mel.normalise_ours(tone(400.0, amplitude=3.0))).max()) == 1.0


def test_cavp_spectrogram_has_sixteen_frames_per_video_frame():
    spectrogram = mel.cavp_log_mel(jnp.zeros((2, 160_000)))
    assert spectrogram.shape == (2, 640, 128)
    np.testing.assert_array_equal(spectrogram, 0)
