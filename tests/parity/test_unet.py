"""U-Net and ControlNet against the PyTorch modules, output by output and block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.convert.rules import to_flax, to_torch
from stav2a_jax.convert.tables.controlnet import controlnet_rules
from stav2a_jax.convert.tables.controlnet import module_path as control_path
from stav2a_jax.convert.tables.unet import module_path, unet_config_from_diffusers, unet_rules
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.unet import UNet

WIDTHS = ("tiny_lin", "tiny_conv", "sta128", pytest.param("tango", marks=pytest.mark.slow))


def _arguments(case):
    """Channels-last inputs: latents, timestep vector, context, mask, control."""
    x = jnp.asarray(case.inputs["sample"]).transpose(0, 2, 3, 1)
    t = jnp.broadcast_to(jnp.asarray(case.inputs["timestep"], jnp.int32), x.shape[:1])
    names = ("encoder_hidden_states", "encoder_attention_mask", "controlnet_cond")
    return x, t, *(jnp.asarray(case.inputs[n]) for n in names)


def _load(case, role, cls, rules, *arguments):
    model = cls(unet_config_from_diffusers(case.meta["config"]))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()}
    flat = to_flax(case.weights(role), rules(model.cfg), expected)
    return model, {"params": unflatten_dict({p: jnp.asarray(a) for p, a in flat.items()}, sep="/")}


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


@pytest.mark.parametrize("width", WIDTHS)
def test_unet_equals_the_reference_block_by_block(oracle, width):
    case = oracle(f"unet_{width}")
    x, t, context, mask, _ = _arguments(case)
    model, params = _load(case, "unet", UNet, unet_rules, x, t, context, mask)
    run = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    out, state = run(params, x, t, context, mask)
    case.check("sample", _channels_first(out))
    _check_blocks(case, state["intermediates"], module_path)
    # the same compiled function: a mask of ones is no mask (tests/test_unet.py)
    case.check("sample_without_mask", _channels_first(run(params, x, t, context, jnp.ones_like(mask))[0]))
    if "sample_small_input" in case.outputs:  # where the eps of the norms shows
        case.check("sample_small_input", _channels_first(run(params, x * 1e-3, t, context, mask)[0]))


@pytest.mark.parametrize("width", WIDTHS)
def test_controlnet_equals_the_reference_block_by_block(oracle, width):
    case = oracle(f"controlnet_{width}")
    x, t, context, _, control = _arguments(case)
    model, params = _load(case, "controlnet", ControlNet, controlnet_rules, x, t, context, None, control)
    run = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    (down, middle), state = run(params, x, t, context, None, control)
    for i, residual in enumerate(down):
        case.check(f"down_{i:02d}", _channels_first(residual))
    assert f"down_{len(down):02d}" not in case.outputs
    case.check("mid", _channels_first(middle))
    embedded = state["intermediates"]["control_in"]["__call__"][0]
    case.check("cond_embedding", _channels_first(embedded))
    _check_blocks(case, state["intermediates"], control_path)


@pytest.mark.parametrize("width", WIDTHS)
def test_unet_with_controlnet_residuals_equals_the_reference(oracle, width):
    case = oracle(f"unet_controlnet_{width}")
    x, t, context, mask, control = _arguments(case)
    unet, unet_params = _load(case, "unet", UNet, unet_rules, x, t, context, mask)
    net, params = _load(case, "controlnet", ControlNet, controlnet_rules, x, t, context, None, control)
    residuals = jax.jit(net.apply)(params, x, t, context, None, control)
    out = jax.jit(unet.apply)(unet_params, x, t, context, mask, residuals)
    case.check("sample", _channels_first(out))


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
