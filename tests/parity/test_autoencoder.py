"""The mel autoencoder against the original, and against diffusers through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.config import AutoencoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import autoencoder as table
from stav2a_jax.models.autoencoder import Autoencoder, Posterior, from_latent, kl, to_latent

TINY = AutoencoderConfig(base_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1)
PAPER = AutoencoderConfig()


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def shapes_of(model, *inputs):
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}


def load(case, cfg):
    model = Autoencoder(cfg)
    state = {k: v for k, v in case.weights("vae").items() if not k.startswith("vocoder.")}
    flat = rules.to_flax(state, table.original_rules(cfg), shapes_of(model, jnp.zeros((1, 16, 64, 1))))
    return model, {"params": unflatten_dict(flat, sep="/")}


@pytest.mark.parametrize(("name", "cfg"), [("vae_tiny", TINY), ("vae_paper", PAPER)])
def test_encoder_and_decoder_equal_the_original(oracle, name, cfg):
    case = oracle(name)
    model, params = load(case, cfg)
    encode = jax.jit(lambda mel: model.apply(params, mel, method="encode"))
    decode = jax.jit(lambda latent: model.apply(params, latent, method="decode"))
    posterior = encode(channels_last(case.inputs["mel"]))
    case.check("moments", channels_first(jnp.concatenate(posterior, axis=-1)))
    case.check("mean", channels_first(posterior.mean))
    case.check("logvar", channels_first(posterior.logvar))
    case.check("kl", kl(posterior))
    noise = channels_last(case.inputs["posterior_noise"])
    case.check("first_stage_sample", channels_first(to_latent(posterior, noise, cfg.scale_factor)))
    latent = from_latent(channels_last(case.inputs["latents"]), cfg.scale_factor)
    case.check("mel_from_latents", channels_first(decode(latent)))
    case.check("mel_from_mean", channels_first(decode(posterior.mean)))


def test_small_inputs_show_the_epsilon_of_the_norms(oracle):
    case = oracle("vae_tiny")
    model, params = load(case, TINY)
    scale = case.meta["config"].get("small_scale", 1e-3)
    posterior = model.apply(params, scale * channels_last(case.inputs["mel"]), method="encode")
    case.check("moments_small_input", channels_first(jnp.concatenate(posterior, axis=-1)))
    latent = from_latent(scale * channels_last(case.inputs["latents"]), TINY.scale_factor)
    case.check("mel_small_latents", channels_first(model.apply(params, latent, method="decode")))


def test_random_parameters_give_the_same_output_in_diffusers(recwarn):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    cfg = AutoencoderConfig(base_channels=16, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=8)
    model, mel = Autoencoder(cfg), jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    params = model.init(jax.random.key(0), mel)
    state = rules.to_torch(flatten_dict(params["params"], sep="/"), table.diffusers_rules(cfg))
    other = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
    ).eval()
    other.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    with torch.no_grad():
        want = other.encode(torch.tensor(channels_first(mel))).latent_dist
        wave = other.decode(want.mean).sample
    got = model.apply(params, mel, method="encode")
    assert isinstance(got, Posterior)
    np.testing.assert_allclose(channels_first(got.mean), want.mean, atol=1e-4)
    np.testing.assert_allclose(channels_first(model.apply(params, got.mean, method="decode")), wave, atol=1e-4)
