"""The vocoder against the original HiFi-GAN, and against transformers through the converter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.audio.wav import to_int16_released
from stav2a_jax.config import VocoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import vocoder as table
from stav2a_jax.models.vocoder import Vocoder, inverse_stft

PAPER = VocoderConfig()
TINY = dataclasses.replace(PAPER, initial_channels=64)


def load(state, cfg):
    model = Vocoder(cfg)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 64)))["params"]
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}
    return model, {"params": unflatten_dict(rules.to_flax(state, table.RULES, shapes), sep="/")}


@pytest.mark.parametrize(("name", "cfg"), [("hifigan_tiny", TINY), ("hifigan_paper", PAPER)])
def test_waveform_equals_the_original(oracle, name, cfg):
    case = oracle(name)
    model, params = load(case.weights(), cfg)
    wave = jax.jit(model.apply)(params, case.inputs["mel"])
    assert wave.shape[1] == 160 * case.inputs["mel"].shape[1] + 32
    case.check("wav", wave)
    case.check("wav_int16", to_int16_released(wave), tolerance=1)
    case.check("int16_probe_out", to_int16_released(case.inputs["int16_probe"]), tolerance=0)


@pytest.mark.parametrize(("name", "cfg"), [("hifigan_tiny_wn", TINY), ("hifigan_paper_wn", PAPER)])
def test_weight_norm_is_folded_into_the_weights(oracle, name, cfg):
    case = oracle(name)
    state = table.fold_weight_norm(case.weights())
    for key in ("conv_pre.weight", "ups.0.weight", "conv_post.weight"):
        case.check(f"effective/{key}", state[key])
    model, params = load(state, cfg)
    case.check("wav", jax.jit(model.apply)(params, case.inputs["mel"]))


def test_random_parameters_give_the_same_output_in_transformers():
    torch = pytest.importorskip("torch")
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    cfg = dataclasses.replace(PAPER, initial_channels=32)
    model, mel = Vocoder(cfg), jax.random.normal(jax.random.key(1), (2, 8, 64))
    params = jax.jit(model.init)(jax.random.key(0), mel)
    state = rules.to_torch(flatten_dict(params["params"], sep="/"), table.TRANSFORMERS_RULES)
    other = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            upsample_initial_channel=32,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            normalize_before=False,
        )
    ).eval()
    unused = {"mean": torch.zeros(64), "scale": torch.ones(64)}
    other.load_state_dict(unused | {k: torch.tensor(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        want = other(torch.tensor(np.asarray(mel))).numpy()
    got = np.asarray(jax.jit(model.apply)(params, mel))
    assert np.abs(got - want).max() < 1e-4 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (16, 4), (20, 8)])
def test_inverse_stft_equals_that_of_torch(n_fft, hop):
    torch = pytest.importorskip("torch")
    keys = jax.random.split(jax.random.key(0))
    magnitude = jnp.exp(jax.random.normal(keys[0], (2, 11, n_fft // 2 + 1)))
    phase = 3 * jax.random.normal(keys[1], magnitude.shape)
    spectrum = torch.polar(*(torch.tensor(np.swapaxes(x, 1, 2)) for x in (magnitude, phase)))
    want = torch.istft(spectrum, n_fft, hop, window=torch.hann_window(n_fft))
    np.testing.assert_allclose(inverse_stft(magnitude, phase, n_fft, hop), want, atol=2e-5)
