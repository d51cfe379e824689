"""Mel front ends, resampling and onset labels against the original."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.audio import front_end, mel, onsets, wav
from stav2a_jax.released import SOUND
from stav2a_jax.types import LatentSpec


@pytest.mark.given("mel_frontend")
def test_mel_front_end_equals_the_original(case):
    sizes, samples = case.meta["config"], case.shape("normalised")[-1]
    spec = LatentSpec(sample_rate=sizes["sr"], hop=sizes["hop"], mel_bins=sizes["mels"], seconds=samples / sizes["sr"])
    short, long = (case.inputs[name][:, None] for name in ("waveform", "long_waveform"))  # one channel
    wave = front_end.prepare(short, spec.sample_rate, SOUND, spec)[None]
    case.check("normalised", wave)
    case.check("cropped", front_end.prepare(long, spec.sample_rate, SOUND, spec, start=sizes["crop_start"])[None])
    magnitude = mel.stft_magnitude(wave, sizes["n_fft"], spec.hop)
    case.check("frames_before_pad", np.array([magnitude.shape[1]]))
    case.check("energy", jnp.linalg.norm(magnitude, axis=-1))
    case.check("fbank", mel.log_mel(wave, spec))
    low, high = float(sizes["fmin"]), float(sizes["fmax"])
    case.check("mel_basis", mel.mel_filters(sizes["sr"], sizes["n_fft"], sizes["mels"], low, high).T)
    case.check("stft_window_row", mel.hann(sizes["win"]))
    check_log_magnitude(case, magnitude, short[:, 0], spec)


def check_log_magnitude(case, magnitude, wave, spec):
    """The magnitude within the usual tolerance; its logarithm, near-zero bins and all, in float64.

    A float32 FFT errs by 1e-7 of the largest bin, which the logarithm of a near-zero bin shows as 9e-3.
    """
    _, frames, bins = case.shape("log_magnitude")
    stored = np.exp(case.outputs["log_magnitude"])
    error = case.case.thin("log_magnitude", np.maximum(magnitude, 1e-5)[:, :frames, :bins]) - stored
    assert np.abs(error).max() <= 1e-4 * np.sqrt(np.mean(stored**2))
    with jax.enable_x64(True):
        wave = mel.normalise_released(jnp.asarray(wave, jnp.float64)[None], spec.samples)
        exact = mel.stft_magnitude(wave, case.meta["config"]["n_fft"], spec.hop)
        case.check("log_magnitude", jnp.log(jnp.maximum(exact, 1e-5))[:, :frames, :bins])


@pytest.mark.given("cavp_mel")
def test_cavp_spectrogram_equals_the_original(case):
    sizes = case.meta["config"]
    wave = mel.pad_or_cut(jnp.asarray(case.inputs["waveform"]), 10 * sizes["sr"])
    for name in case.outputs:
        hop, pad_mode = re.fullmatch(r"mel_hop(\d+)_(\w+)", name).groups()
        options = {"sample_rate": sizes["sr"], "bins": sizes["mels"], "hop": int(hop), "pad_mode": pad_mode}
        case.check(name, mel.cavp_log_mel(wave, **options).T)


@pytest.mark.given("resample")
def test_sinc_resampling_equals_torchaudio(case):
    sizes = case.meta["config"]
    for name in case.outputs:
        rate = int(name.removeprefix("resampled_"))
        wave, options = (
            case.inputs[f"wave_{rate}"],
            {"width": sizes["lowpass_filter_width"], "rolloff": sizes["rolloff"]},
        )
        case.check(name, wav.sinc_resample(wave, rate, 16_000, **options))


def test_the_released_front_end_takes_the_first_channel_and_resamples_with_a_sinc(oracle):
    case = oracle("resample")
    spec = dataclasses.replace(LatentSpec(), seconds=0.32)
    for name in case.outputs:
        rate = int(name.removeprefix("resampled_"))
        wave = case.inputs[f"wave_{rate}"]
        got = front_end.prepare(np.stack([wave, -wave], axis=1), rate, SOUND, spec)
        want = mel.normalise_released(jnp.asarray(case.outputs[name]), spec.samples)
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.given("onset_labels")
def test_onset_labels_equal_the_original_stage_by_stage(case):
    wave, sizes = case.inputs["waveform"], case.meta["config"]
    for name in (n for n in case.outputs if n.startswith("envelope_")):
        rate = int(name.removeprefix("envelope_"))
        case.check(name, onsets.onset_envelope(wave, 16_000, rate))
        times = onsets.onset_times(wave, 16_000, rate)
        case.check(f"onset_times_{rate}", times)
        case.check(f"onset_frames_{rate}", onsets.onset_frames(wave, 16_000, rate))
        case.check(f"labels_{rate}", onsets.onset_labels(times, sizes["frames"], sizes["rate"]))
