"""Mel front ends, resampling and onset labels against the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.audio import mel, onsets, wav


def test_mel_front_end_equals_the_original(oracle):
    case = oracle("mel_frontend")
    wave = mel.normalise_released(jnp.asarray(case.inputs["waveform"])[None], 163_840)
    case.check("normalised", wave)
    magnitude = mel.stft_magnitude(wave)
    case.check("frames_before_pad", np.array([magnitude.shape[1]]), tolerance=0)
    case.check("energy", jnp.linalg.norm(magnitude, axis=-1))
    stored = np.exp(case.outputs["log_magnitude"])
    error = case.case.thin("log_magnitude", np.maximum(magnitude, 1e-5)[:, :1024, :512]) - stored
    assert np.abs(error).max() <= 1e-4 * np.sqrt(np.mean(stored**2))
    case.check("fbank", mel.log_mel(wave))
    case.check("mel_basis", mel.mel_filters(16_000, 1024, 64, 0.0, 8000.0).T)


def test_log_of_the_linear_spectrum_equals_the_original(oracle):
    # In float64: a float32 FFT errs by 1e-7 of the largest bin, which the logarithm of a near-zero bin shows as 9e-3.
    case = oracle("mel_frontend")
    with jax.enable_x64(True):
        wave = mel.normalise_released(jnp.asarray(case.inputs["waveform"], jnp.float64)[None], 163_840)
        log_magnitude = jnp.log(jnp.maximum(mel.stft_magnitude(wave), 1e-5))[:, :1024, :512]
    assert case.case.check("log_magnitude", np.asarray(log_magnitude))["max_abs"] <= 1e-3


def test_long_files_are_cropped_between_the_two_normalisations(oracle):
    case = oracle("mel_frontend")
    wave = jnp.asarray(case.inputs["long_waveform"])[None]
    case.check("cropped", mel.normalise_released(wave, 163_840, start=case.meta["config"]["crop_start"]))


@pytest.mark.parametrize("hop", [250, 256])
@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
def test_cavp_spectrogram_equals_the_original(oracle, hop, pad_mode):
    case = oracle("cavp_mel")
    wave = mel.pad_or_cut(jnp.asarray(case.inputs["waveform"]), 160_000)
    case.check(f"mel_hop{hop}_{pad_mode}", mel.cavp_log_mel(wave, hop=hop, pad_mode=pad_mode).T)


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050])
def test_sinc_resampling_equals_torchaudio(oracle, rate):
    case = oracle("resample")
    case.check(f"resampled_{rate}", wav.sinc_resample(case.inputs[f"wave_{rate}"], rate, 16_000))


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_onset_labels_equal_the_original_stage_by_stage(oracle, rate):
    case = oracle("onset_labels")
    wave = case.inputs["waveform"]
    case.check(f"envelope_{rate}", onsets.onset_envelope(wave, 16_000, rate))
    times = onsets.onset_times(wave, 16_000, rate)
    case.check(f"onset_times_{rate}", times)
    case.check(f"labels_{rate}", onsets.onset_labels(times, 256, 25.0), tolerance=0)
