import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.config import AutoencoderConfig
from stav2a_jax.convert import rules
from stav2a_jax.convert.tables import autoencoder as table
from stav2a_jax.models.autoencoder import (
    Autoencoder,
    Posterior,
    from_latent,
    from_patches,
    kl,
    repeat2,
    to_latent,
    to_patches,
)

TINY = AutoencoderConfig(base_channels=8, channel_mult=(1, 2, 2), num_res_blocks=1, norm_groups=4)


def shapes_of(cfg):
    return jax.eval_shape(Autoencoder(cfg).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), jnp.float32), shapes_of(TINY))


def apply(cfg, params, *inputs, dtype=jnp.float32):
    return jax.jit(Autoencoder(cfg, dtype).apply)(params, *inputs)


def mel(batch=2, frames=8):
    return jax.random.normal(jax.random.key(1), (batch, frames, 8, 1))


def test_both_axes_shrink_by_four_and_grow_back(params):
    reconstruction, posterior = apply(TINY, params, mel())
    assert posterior.mean.shape == posterior.logvar.shape == (2, 2, 2, 8)
    assert reconstruction.shape == (2, 8, 8, 1)


def test_a_length_that_four_does_not_divide_is_named_in_the_error(params):
    with pytest.raises(ValueError, match=r"\(2, 10, 8, 1\).*multiples of 4"):
        Autoencoder(TINY).apply(params, mel(frames=10), method="encode")


def test_shift_and_scale_of_the_mel_live_in_the_config(params):
    shifted = dataclasses.replace(TINY, mel_shift=-4.0, mel_scale=2.0)
    plain, wide = apply(TINY, params, mel()), apply(shifted, params, 2.0 * mel() - 4.0)
    np.testing.assert_allclose(wide[1].mean, plain[1].mean, atol=1e-5)
    np.testing.assert_allclose(wide[0], 2.0 * plain[0] - 4.0, atol=1e-4)


def test_log_variance_is_clamped(params):
    _, posterior = apply(TINY, jax.tree.map(lambda x: 1e4 * x, params), mel())
    assert posterior.logvar.min() >= -30
    assert posterior.logvar.max() <= 20


def test_bfloat16_compute_keeps_float32_parameters_and_outputs(params):
    exact, rough = (apply(TINY, params, mel(), dtype=d)[0] for d in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(exact - rough).max() < 0.1


def test_patches_are_put_back_where_they_were():
    x = jnp.arange(2.0 * 4 * 6).reshape(2, 4, 6, 1)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(patches[0, 0, 0], [0.0, 1.0, 6.0, 7.0])  # two rows of two neighbours
    np.testing.assert_array_equal(from_patches(patches, 2), x)


def test_every_pixel_is_repeated_twice_on_each_axis():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(repeat2(x), x.repeat(2, axis=1).repeat(2, axis=2))


def test_latent_is_the_scaled_sample():
    posterior = Posterior(jnp.full((2, 1, 1, 1), 3.0), jnp.full((2, 1, 1, 1), np.log(4.0)))
    noise = jnp.array([1.0, -1.0]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(to_latent(posterior, noise, 0.5).ravel(), [2.5, 0.5])
    np.testing.assert_allclose(to_latent(posterior, None, 0.5).ravel(), [1.5, 1.5])
    np.testing.assert_allclose(from_latent(to_latent(posterior, None, 0.5), 0.5), posterior.mean)


def test_keys_per_example_draw_the_same_noise_alone_and_in_a_batch():
    posterior = Posterior(jnp.zeros((3, 2, 2, 8)), jnp.zeros((3, 2, 2, 8)))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(3))
    batch = to_latent(posterior, keys, 1.0)
    alone = to_latent(Posterior(*(x[1:2] for x in posterior)), keys[1:2], 1.0)
    np.testing.assert_array_equal(batch[1:2], alone)
    assert to_latent(posterior, jax.random.key(0), 1.0).shape == (3, 2, 2, 8)


def test_kl_is_a_mean_and_zero_for_the_standard_normal():
    zeros = jnp.zeros((2, 4, 2, 8))
    np.testing.assert_array_equal(kl(Posterior(zeros, zeros)), [0, 0])
    np.testing.assert_allclose(kl(Posterior(zeros + 2, zeros)), [2, 2])


@pytest.mark.parametrize("make_rules", [table.original_rules, table.diffusers_rules])
@pytest.mark.parametrize("mult", [(1, 2, 4), (1, 2, 2), (1, 1), (1,)])
def test_tables_are_a_bijection(make_rules, mult):
    cfg = AutoencoderConfig(base_channels=8, channel_mult=mult, num_res_blocks=1, norm_groups=4)
    shapes = shapes_of(cfg)["params"]
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in flatten_dict(shapes, sep="/").items()}
    state = rules.to_torch(params, make_rules(cfg))
    back = rules.to_flax(state, make_rules(cfg), {k: v.shape for k, v in params.items()})
    assert len(state) == len(params)
    assert all(np.array_equal(back[k], v) for k, v in params.items())
