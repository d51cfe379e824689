"""The vocoder against the original HiFi-GAN, and against transformers through the converter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.audio.wav import to_int16_released
from stav2a_jax.config import VocoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import vocoder as table
from stav2a_jax.models.vocoder import Vocoder, inverse_stft

PAPER = VocoderConfig()


def check_wave(case, state):
    """Waveform and int16 of the fixture's mel; the released length is 160 per frame and 32 more."""
    model, mel = Vocoder(case.vocoder_config(case.meta["config"])), case.inputs["mel"]
    wave = jax.jit(model.apply)(case.params(model, table.RULES, mel, state=state), mel)
    assert wave.shape[1] == 160 * mel.shape[1] + 32
    case.check("wav", wave)
    case.check("wav_int16", to_int16_released(wave))


@pytest.mark.given("hifigan_tiny", "hifigan_paper")
def test_waveform_equals_the_original(case):
    check_wave(case, case.weights())
    case.check("int16_probe_out", to_int16_released(case.inputs["int16_probe"]))


@pytest.mark.given("hifigan_*_wn")
def test_weight_norm_is_folded_into_the_weights(case):
    state = table.fold_weight_norm(case.weights())
    for name in case.outputs:
        if name.startswith("effective/"):
            case.check(name, state[name.removeprefix("effective/")])
    check_wave(case, state)


RANDOM = {
    "the release's rates": dataclasses.replace(PAPER, initial_channels=32),
    "other rates, kernels and dilations": VocoderConfig(
        mel_bins=20,
        initial_channels=16,
        upsample_rates=(4, 3),
        upsample_kernels=(8, 7),
        resblock_kernels=(3, 5),
        resblock_dilations=((1, 2), (1, 5)),
    ),
}


@pytest.mark.standalone
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", RANDOM)
def test_random_parameters_give_the_same_output_in_transformers(name, random_params):
    import torch
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    cfg = RANDOM[name]
    mel = np.random.default_rng(1).standard_normal((2, 7, cfg.mel_bins), np.float32)
    model = Vocoder(cfg)
    params = random_params(model, mel)
    state = rules.to_torch(flatten_dict(params, sep="/"), table.TRANSFORMERS_RULES)
    other = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=cfg.mel_bins,
            upsample_initial_channel=cfg.initial_channels,
            upsample_rates=cfg.upsample_rates,
            upsample_kernel_sizes=cfg.upsample_kernels,
            resblock_kernel_sizes=cfg.resblock_kernels,
            resblock_dilation_sizes=cfg.resblock_dilations,
            normalize_before=False,
        )
    ).eval()
    unused = {"mean": torch.zeros(cfg.mel_bins), "scale": torch.ones(cfg.mel_bins)}
    other.load_state_dict(unused | {k: torch.tensor(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        want = other(torch.tensor(mel)).numpy()
    got = np.asarray(jax.jit(model.apply)({"params": params}, mel))
    assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.standalone
@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (16, 4), (20, 8)])
def test_inverse_stft_equals_that_of_torch(n_fft, hop):
    import torch

    keys = jax.random.split(jax.random.key(0))
    magnitude = jnp.exp(jax.random.normal(keys[0], (2, 11, n_fft // 2 + 1)))
    phase = 3 * jax.random.normal(keys[1], magnitude.shape)
    spectrum = torch.polar(*(torch.tensor(np.swapaxes(x, 1, 2)) for x in (magnitude, phase)))
    want = torch.istft(spectrum, n_fft, hop, window=torch.hann_window(n_fft))
    np.testing.assert_allclose(inverse_stft(magnitude, phase, n_fft, hop), want, atol=2e-5)
