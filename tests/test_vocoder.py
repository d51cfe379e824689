import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from stav2a_jax.config import VocoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import vocoder as table
from stav2a_jax.models.vocoder import Upsample, Vocoder, inverse_stft, overlap_add

HIFIGAN = VocoderConfig(initial_channels=32, resblock_kernels=(3,), resblock_dilations=((1,),))
ISTFT = VocoderConfig(
    initial_channels=32,
    upsample_rates=(5, 2),
    upsample_kernels=(11, 4),
    resblock_kernels=(3, 7),
    resblock_dilations=((1, 3), (2,)),
    istft=(64, 16),
)


def random_params(cfg):
    rng, shapes = np.random.default_rng(0), jax.eval_shape(Vocoder(cfg).init, jax.random.key(0), jnp.zeros((1, 6, 64)))
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), shapes)


def apply(cfg, mel):
    return jax.jit(Vocoder(cfg).apply)(random_params(cfg), mel)


MEL = jax.random.normal(jax.random.key(1), (2, 6, 64))


def test_the_papers_kernels_give_32_samples_more_than_the_audio():
    wave = apply(HIFIGAN, MEL)
    assert wave.shape == (2, 6 * 160 + 32)
    assert jnp.abs(wave).max() <= 1


def test_istft_head_gives_exactly_one_hop_per_frame():
    wave = apply(ISTFT, MEL)
    assert wave.shape == (2, 6 * 160)
    assert wave.std() > 1e-4


def test_gradients_of_every_parameter_are_finite_and_used():
    grads = jax.jit(jax.grad(lambda p: jnp.mean(jnp.abs(Vocoder(ISTFT).apply(p, MEL)))))(random_params(ISTFT))
    for path, grad in flatten_dict(grads, sep="/").items():
        assert jnp.isfinite(grad).all(), path
        assert jnp.abs(grad).max() > 0, path


def test_a_mel_with_other_bins_is_refused():
    with pytest.raises(ValueError, match=r"expected \(B, T, 64\)"):
        Vocoder(HIFIGAN).init(jax.random.key(0), jnp.zeros((1, 6, 80)))


def test_shift_and_scale_of_the_mel_live_in_the_config():
    shifted = dataclasses.replace(ISTFT, mel_shift=-4.0, mel_scale=2.0)
    np.testing.assert_allclose(apply(shifted, 2 * MEL - 4), apply(ISTFT, MEL), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "rate"), [(16, 5), (11, 5), (4, 2), (8, 2), (3, 3)])
def test_upsampling_equals_the_transposed_convolution_of_flax(kernel, rate):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6))
    module, pad = Upsample(4, kernel, rate), kernel - 1 - (kernel - rate) // 2
    params = module.init(jax.random.key(1), x)
    flax = nn.ConvTranspose(4, (kernel,), (rate,), padding=[(pad, pad)], transpose_kernel=True)
    np.testing.assert_allclose(module.apply(params, x), flax.apply(params, x), atol=1e-5)


def test_overlap_add_by_hand():
    segments = jnp.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(overlap_add(segments, 2).ravel(), [1, 2, 13, 20, 30])


def test_inverse_stft_undoes_the_stft():
    n_fft, hop = 64, 16
    wave = np.random.default_rng(0).normal(size=160)
    window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
    padded = np.pad(wave, n_fft // 2, mode="reflect")
    frames = np.stack([padded[i : i + n_fft] * window for i in range(0, len(wave) + 1, hop)])
    spectrum = np.fft.rfft(frames)[None]
    back = inverse_stft(
        jnp.asarray(np.abs(spectrum), jnp.float32), jnp.asarray(np.angle(spectrum), jnp.float32), 64, 16
    )
    np.testing.assert_allclose(back[0], wave, atol=1e-5)


@pytest.mark.parametrize("cfg", [HIFIGAN, ISTFT])
@pytest.mark.parametrize("table_rules", [table.RULES, table.TRANSFORMERS_RULES])
def test_tables_are_a_bijection(cfg, table_rules):
    params = flatten_dict(random_params(cfg)["params"], sep="/")
    state = rules.to_torch(params, table_rules)
    unused = {r.torch: np.zeros(64, np.float32) for r in table_rules if r.flax is None}
    back = rules.to_flax(state | unused, table_rules, {k: v.shape for k, v in params.items()})
    assert len(state) == len(params)
    assert all(np.array_equal(back[k], v) for k, v in params.items())


@pytest.mark.parametrize(
    ("size", "direction"),
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")],
)
def test_weight_norm_folds_under_its_old_and_new_names(size, direction):
    state = {
        f"ups.0.{size}": np.array([[[10.0]], [[2.0]]], np.float32),
        f"ups.0.{direction}": np.array([[[3.0, 4.0]], [[0.0, 1.0]]], np.float32),
        "ups.0.bias": np.ones(1, np.float32),
    }
    folded = table.fold_weight_norm(state)
    assert sorted(folded) == ["ups.0.bias", "ups.0.weight"]
    np.testing.assert_allclose(folded["ups.0.weight"], [[[6.0, 8.0]], [[0.0, 2.0]]])
