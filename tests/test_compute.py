"""The type and the memory of the computation are settings; the weights and what they mean are not touched by them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import ComputeConfig
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.system import denoiser, encode_text, encode_video, global_tokens, join, local_control
from stav2a_jax.models.unet import UNet

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def case(tiny_model, random_params):
    """A model with one level, its parameters, and a batch: (config, params, x, t, condition)."""
    sizes = {"block_out_channels": (8,), "attention": (True,), "num_heads": (2,), "layers_per_block": 1}
    model = dataclasses.replace(tiny_model, unet=dataclasses.replace(tiny_model.unet, **sizes))
    rng = np.random.default_rng(0)
    x, text, control = (rng.normal(size=size).astype(np.float32) for size in ((2, 4, 16, 8), (2, 5, 8), (2, 4, 4)))
    t, mask = np.array([30, 700]), np.ones((2, 5), np.float32)
    params = {
        "unet": random_params(UNet(model.unet), x, t, text, mask),
        "controlnet": random_params(ControlNet(model.unet), x, t, text, mask, control),
    }
    return model, params, x, t, join(text, mask, control=control)


def value_and_gradient(case, **compute):
    model, params, x, t, cond = case
    model = dataclasses.replace(model, compute=ComputeConfig(**compute))

    def loss(p):
        return jnp.square(denoiser(model, p)(x, t, cond).astype(jnp.float32)).mean()

    return jax.jit(jax.value_and_grad(loss)), params


@pytest.fixture(scope="module")
def plain(case):
    function, params = value_and_gradient(case)
    return function(params)


def test_blocks_that_are_computed_again_give_the_same_gradient(case, plain):
    function, params = value_and_gradient(case, remat=True)
    value, gradient = function(params)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradient, plain[1])
    traced = [f.trace(params).jaxpr for f in (function, value_and_gradient(case)[0])]
    rematted = [str(jaxpr).count("remat2[") + str(jaxpr).count("checkpoint[") for jaxpr in traced]
    assert rematted == [2 * (2 + 3) + 4, 0]  # both encoders with 2 blocks down and 3 in the middle; 4 up


def test_blocks_that_are_computed_again_have_their_parameters_in_the_same_places(case):
    model, _, x, t, cond = case

    def shapes(module, *inputs):
        return jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), *inputs))

    inputs = (x, t, cond.context, cond.mask)
    assert shapes(UNet(model.unet, remat=True), *inputs) == shapes(UNet(model.unet), *inputs)
    inputs = (*inputs, cond.control)
    assert shapes(ControlNet(model.unet, remat=True), *inputs) == shapes(ControlNet(model.unet), *inputs)


def test_half_precision_computes_nearly_the_same_with_float32_weights(case, plain):
    function, params = value_and_gradient(case, dtype="bfloat16")
    value, gradient = function(params)
    np.testing.assert_allclose(value, plain[0], rtol=0.03)
    assert {x.dtype for x in jax.tree.leaves((params, gradient))} == {np.dtype(np.float32)}
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (gradient, plain[1]))
    assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.995
    assert "bf16" in str(function.trace(params).jaxpr)


def test_half_precision_is_for_every_network_and_what_is_compared_stays_float32(tiny_model, tiny_params):
    model = dataclasses.replace(tiny_model, compute=ComputeConfig(dtype="bfloat16"))
    frames, ids = jnp.zeros((1, 8, 16, 16, 3), jnp.uint8), jnp.zeros((1, 4), jnp.int32)
    features = jnp.zeros((1, 8, 8))
    calls = {
        "text": lambda: encode_text(model, tiny_params, ids, jnp.ones((1, 4), jnp.int32)),
        "video": lambda: encode_video(model, tiny_params, frames),
        "onset": lambda: local_control(model, tiny_params, features, None, 8)[0],
        "tokens": lambda: global_tokens(model, tiny_params, features, None),
    }
    for name, call in calls.items():
        assert "bf16" in str(jax.make_jaxpr(call)()), name
    dtypes = {name: jax.eval_shape(call).dtype for name, call in calls.items()}
    assert dtypes == {"text": jnp.float32, "video": jnp.float32, "onset": jnp.float32, "tokens": jnp.bfloat16}
