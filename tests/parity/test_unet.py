"""U-Net and ControlNet against the PyTorch modules, output by output and block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.config import ModelConfig
from stav2a_jax.convert.rules import to_torch
from stav2a_jax.convert.tables.controlnet import controlnet_rules
from stav2a_jax.convert.tables.controlnet import module_path as control_path
from stav2a_jax.convert.tables.unet import module_path, unet_config_from_diffusers, unet_rules
from stav2a_jax.models.controlnet import ControlNet, init_from_unet
from stav2a_jax.models.system import denoiser
from stav2a_jax.models.unet import UNet
from stav2a_jax.types import Conditioning

OWN = ("control_in", "residual_")  # what a ControlNet does not copy from the U-Net


def _arguments(case):
    """Channels-last inputs: latents, timestep vector, context, mask, control."""
    x = jnp.asarray(case.inputs["sample"]).transpose(0, 2, 3, 1)
    t = jnp.broadcast_to(jnp.asarray(case.inputs["timestep"], jnp.int32), x.shape[:1])
    names = ("encoder_hidden_states", "encoder_attention_mask", "controlnet_cond")
    return x, t, *(jnp.asarray(case.inputs[n]) for n in names)


def _load(case, role, cls, rules, *arguments):
    control = case.inputs["controlnet_cond"]
    model = cls(unet_config_from_diffusers(case.meta["config"], control_channels=control.shape[-1]))
    params = case.params(model, rules(model.cfg), *arguments, state=case.weights(role))
    return model, jax.tree.map(jnp.asarray, params)


def _channels_first(x):
    x = np.asarray(x)
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def _check_blocks(case, intermediates, path_of):
    """Every stored module output, found through the table of module paths."""
    captured, names = flatten_dict(intermediates, sep="/"), [n for n in case.outputs if n.startswith("mid/")]
    assert names
    for name in names:
        value = captured[f"{path_of(name.removeprefix('mid/'))}/__call__"][0]
        case.check(name, _channels_first(value[0] if isinstance(value, tuple) else value))


@functools.partial(jax.jit, static_argnums=0)  # two tests share the ControlNet's program
def _run(model, params, *arguments):
    return model.apply(params, *arguments, capture_intermediates=True)


@pytest.mark.given("unet_[!c]*")
def test_unet_equals_the_reference_block_by_block(case):
    x, t, context, mask, _ = _arguments(case)
    model, params = _load(case, "unet", UNet, unet_rules, x, t, context, mask)
    out, state = _run(model, params, x, t, context, mask)
    case.check("sample", _channels_first(out))
    _check_blocks(case, state["intermediates"], module_path)
    # the same program: a mask of ones is no mask (tests/test_unet.py)
    case.check("sample_without_mask", _channels_first(_run(model, params, x, t, context, jnp.ones_like(mask))[0]))
    if "sample_small_input" in case.outputs:  # where the eps of the norms shows
        case.check("sample_small_input", _channels_first(_run(model, params, x * 1e-3, t, context, mask)[0]))


@pytest.mark.given("controlnet_*")
def test_controlnet_equals_the_reference_block_by_block(case):
    x, t, context, _, control = _arguments(case)
    model, params = _load(case, "controlnet", ControlNet, controlnet_rules, x, t, context, None, control)
    (down, middle), state = _run(model, params, x, t, context, None, control)
    for i, residual in enumerate(down):
        case.check(f"down_{i:02d}", _channels_first(residual))
    case.check("mid", _channels_first(middle))
    case.check("cond_embedding", _channels_first(state["intermediates"]["control_in"]["__call__"][0]))
    _check_blocks(case, state["intermediates"], control_path)


@pytest.mark.given("unet_controlnet_*")
def test_unet_with_controlnet_residuals_equals_the_reference(case):
    x, t, context, mask, control = _arguments(case)
    net, params = _load(case, "controlnet", ControlNet, controlnet_rules, x, t, context, None, control)
    residuals = _run(net, params, x, t, context, None, control)[0]
    del params  # before the U-Net's
    unet, params = _load(case, "unet", UNet, unet_rules, x, t, context, mask)
    case.check("sample", _channels_first(jax.jit(unet.apply)(params, x, t, context, mask, residuals)))


@pytest.mark.given("unet_tiny_lin", outputs=())
def test_a_full_model_starts_as_the_text_to_audio_model(case):
    x, t, context, mask, control = _arguments(case)
    model, params = _load(case, "unet", UNet, unet_rules, x, t, context, mask)
    fresh = _fresh(ControlNet(model.cfg), x, t, context, None, control)
    params = {"unet": params["params"], "controlnet": init_from_unet(params["params"], fresh)}
    step = jax.jit(lambda params, cond: denoiser(ModelConfig(unet=model.cfg), params)(x, t, cond))
    prior, full = (step(params, Conditioning(context, mask, extra)) for extra in (None, control))
    np.testing.assert_array_equal(full, prior)


def _fresh(net, *arguments):
    """Initial parameters of what a ControlNet does not copy; NaN where it does, so that nothing else is used."""
    make = jax.jit(lambda key: {k: v for k, v in net.init(key, *arguments)["params"].items() if k.startswith(OWN)})
    shapes = jax.eval_shape(net.init, jax.random.key(0), *arguments)["params"]
    return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan), shapes) | make(jax.random.key(0))


@pytest.mark.parametrize("width", ["tiny_lin", "tiny_conv"])
@pytest.mark.parametrize("role", ["unet", "controlnet"])
def test_conversion_there_and_back_keeps_every_tensor(oracle, role, width):
    case = oracle(f"{role}_{width}")
    x, t, context, mask, control = _arguments(case)
    cls, rules = {"unet": (UNet, unet_rules), "controlnet": (ControlNet, controlnet_rules)}[role]
    extra = (control,) if role == "controlnet" else ()
    model, params = _load(case, role, cls, rules, x, t, context, mask, *extra)
    back = to_torch(flatten_dict(jax.device_get(params["params"]), sep="/"), rules(model.cfg))
    want = case.weights(role)
    assert back.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(back[key], want[key], err_msg=key)
