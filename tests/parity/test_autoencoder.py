"""The mel autoencoder against the original, and against diffusers through the converter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.audio.wav import to_int16_released
from stav2a_jax.config import AutoencoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import autoencoder as table
from stav2a_jax.convert.tables.vocoder import RULES as VOCODER
from stav2a_jax.models.autoencoder import Autoencoder, Posterior, from_latent, kl, to_latent
from stav2a_jax.models.vocoder import Vocoder


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def load(case):
    """Jitted encoder and decoder with the fixture's weights, and its scale factor."""
    cfg = case.autoencoder_config(case.meta["config"])
    model = Autoencoder(cfg)
    state = {k: v for k, v in case.weights("vae").items() if not k.startswith("vocoder.")}
    params = case.params(model, table.original_rules(cfg), channels_last(case.inputs["mel"]), state=state)
    run = (jax.jit(functools.partial(model.apply, params, method=name)) for name in ("encode", "decode"))
    return *run, cfg.scale_factor


@pytest.mark.given("vae_*")
def test_encoder_decoder_and_the_vocoder_inside_equal_the_original(case):
    encode, decode, scale = load(case)
    mel, latents = channels_last(case.inputs["mel"]), channels_last(case.inputs["latents"])
    posterior = encode(mel)
    case.check("moments", channels_first(jnp.concatenate(posterior, axis=-1)))
    case.check("mean", channels_first(posterior.mean))
    case.check("logvar", channels_first(posterior.logvar))
    case.check("kl", kl(posterior))
    noise = channels_last(case.inputs["posterior_noise"])
    case.check("first_stage_sample", channels_first(to_latent(posterior, noise, scale)))
    decoded = decode(from_latent(latents, scale))
    case.check("mel_from_latents", channels_first(decoded))
    case.check("mel_from_mean", channels_first(decode(posterior.mean)))
    if "moments_small_input" in case.outputs:  # where the epsilon of the norms shows
        small = channels_first(jnp.concatenate(encode(1e-3 * mel), axis=-1))
        case.check("moments_small_input", small)
        case.check("mel_small_latents", channels_first(decode(from_latent(1e-3 * latents, scale))))
    vocoder = Vocoder(case.vocoder_config(case.meta["config"]["vocoder"]))
    params = case.params(vocoder, VOCODER, decoded[..., 0], state=case.weights("vae", "vocoder."))
    wave = jax.jit(vocoder.apply)(params, decoded[..., 0])
    case.check("wav", wave)
    case.check("wav_int16", to_int16_released(wave))


RANDOM = {
    # config, mel frames: the latent's length is odd, and so is its number of bins in the first
    "widths differ": (
        AutoencoderConfig(base_channels=16, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=8),
        (28, 20),
    ),
    "one width, more blocks": (
        AutoencoderConfig(base_channels=16, channel_mult=(1, 1), num_res_blocks=2, norm_groups=4, embed_channels=8),
        (22, 8),
    ),
}


@pytest.mark.standalone
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", RANDOM)
def test_random_parameters_give_the_same_output_in_diffusers(name, random_params):
    import diffusers
    import torch

    cfg, (frames, bands) = RANDOM[name]
    model, levels = Autoencoder(cfg), len(cfg.channel_mult)
    mel = np.random.default_rng(1).standard_normal((2, frames, bands, 1), np.float32)
    params = {"params": random_params(model, mel)}
    state = rules.to_torch(flatten_dict(params["params"], sep="/"), table.diffusers_rules(cfg))
    other = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(cfg.base_channels * m for m in cfg.channel_mult),
        layers_per_block=cfg.num_res_blocks,
        latent_channels=cfg.embed_channels,
        norm_num_groups=cfg.norm_groups,
    ).eval()
    other.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        moments = other.encode(torch.tensor(channels_first(mel))).latent_dist
        latent = 0.1 * moments.mean
        decoded = other.decode(latent).sample
    posterior = jax.jit(functools.partial(model.apply, method="encode"))(params, mel)
    assert isinstance(posterior, Posterior)
    assert posterior.mean.shape[1] % 2
    got = jax.jit(functools.partial(model.apply, method="decode"))(params, channels_last(latent.numpy()))
    for ours, theirs in ((posterior.mean, moments.mean), (posterior.logvar, moments.logvar), (got, decoded)):
        theirs = theirs.numpy()
        assert np.abs(channels_first(ours) - theirs).max() <= 1e-4 * np.sqrt(np.mean(theirs**2))
