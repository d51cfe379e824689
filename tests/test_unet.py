import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.config import UNetConfig
from stav2a_jax.convert.tables.unet import module_path, unet_config_from_diffusers
from stav2a_jax.models.controlnet import ControlEmbedding, ControlNet, init_from_unet
from stav2a_jax.models.unet import UNet, fold_bins
from stav2a_jax.nn.blocks import GroupNorm, Upsample, timestep_features
from stav2a_jax.types import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = UNetConfig(
    channels=3,
    block_out_channels=(8, 16),
    attention=(False, True),
    num_heads=(2, 2),
    layers_per_block=1,
    cross_attention_dim=6,
    norm_groups=4,
    control_channels=5,
)


def _inputs(cfg=TINY, batch=2, frames=8, bins=4, tokens=5):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, frames, bins, cfg.channels))
    context = jax.random.normal(keys[1], (batch, tokens, cfg.cross_attention_dim))
    control = jax.random.normal(keys[2], (batch, frames, cfg.control_channels))
    return x, jnp.arange(batch) * 100 + 3, context, jnp.ones((batch, tokens)), control


def _noisy(params, seed=7):
    """Random values in every parameter, so that nothing is hidden behind a zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)])


@functools.cache  # compiling is the cost of these tests
def _unet(cfg=TINY, **sizes):
    *inputs, _ = _inputs(cfg, **sizes)
    model = UNet(cfg)
    params = jax.jit(model.init)(jax.random.key(1), *inputs)["params"]
    return jax.jit(lambda p, *a: model.apply({"params": p}, *a)), params, inputs


@functools.cache
def _both(cfg=TINY, **sizes):
    apply, unet, inputs = _unet(cfg, **sizes)
    control = _inputs(cfg, **sizes)[-1]
    model = ControlNet(cfg)
    params = jax.jit(model.init)(jax.random.key(2), *inputs, control)["params"]
    return apply, unet, jax.jit(lambda p, *a: model.apply({"params": p}, *a)), params, inputs, control


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 2},
        {"block_out_channels": (8, 8, 8), "attention": (True, False, True), "num_heads": (1, 2, 4)},
        {"block_out_channels": (8, 8, 8, 16), "attention": (False,) * 4, "num_heads": (2,) * 4},
        {"fold": 2},
    ],
)
def test_output_has_the_shape_of_the_latent_and_there_is_a_residual_for_every_skip(change):
    cfg = dataclasses.replace(TINY, **change)
    *inputs, control = _inputs(cfg, frames=16, bins=8)
    (down, middle), _ = jax.eval_shape(ControlNet(cfg).init_with_output, jax.random.key(0), *inputs, control)
    levels = len(cfg.block_out_channels)
    assert len(down) == 1 + levels * cfg.layers_per_block + levels - 1
    assert middle.shape[1:] == (16 // 2 ** (levels - 1), 8 // cfg.fold // 2 ** (levels - 1), cfg.block_out_channels[-1])
    out, _ = jax.eval_shape(UNet(cfg).init_with_output, jax.random.key(0), *inputs, (down, middle))
    assert out.shape == inputs[0].shape


def test_the_paper_size_has_the_parameters_of_the_reference():
    shapes = [
        jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 256, 16, 8), (1,), (1, 9, 1024), (1, 9), (1, 256, 128))
    ]
    unet = jax.eval_shape(UNet(UNetConfig()).init, jax.random.key(0), *shapes[:4])
    control = jax.eval_shape(ControlNet(UNetConfig()).init, jax.random.key(0), *shapes)
    count = [sum(a.size for a in jax.tree.leaves(tree)) / 1e6 for tree in (unet, control)]
    assert [round(c, 1) for c in count] == [187.9, 82.2]


def test_a_fresh_controlnet_changes_nothing():
    apply, unet, control_apply, params, inputs, control = _both()
    params = init_from_unet(unet, params)
    residuals = control_apply(params, *inputs, control)
    assert all(not r.any() for r in jax.tree.leaves(residuals))
    np.testing.assert_array_equal(apply(unet, *inputs, residuals), apply(unet, *inputs))


def test_controlnet_starts_from_the_encoder_and_the_middle_of_the_unet():
    _, unet, _, params, *_ = _both()
    new = init_from_unet(_noisy(unet), params)
    assert jax.tree.structure(new) == jax.tree.structure(dict(params))
    for path, leaf in flatten_dict(new, sep="/").items():
        source = params if path.startswith(("control_in", "residual_")) else _noisy(unet)
        np.testing.assert_array_equal(leaf, flatten_dict(source, sep="/")[path], err_msg=path)


def test_copying_from_another_width_names_the_parts_that_do_not_fit():
    *_, params, _, _ = _both()
    _, wide, _ = _unet(dataclasses.replace(TINY, block_out_channels=(8, 24)))
    with pytest.raises(ValueError, match="down_1, mid do not fit"):
        init_from_unet(wide, params)


def test_residuals_are_added_to_skips_and_middle():
    apply, unet, control_apply, params, inputs, control = _both()
    residuals = control_apply(_noisy(params), *inputs, control)
    assert all(r.any() for r in jax.tree.leaves(residuals))
    assert not np.allclose(apply(unet, *inputs, residuals), apply(unet, *inputs), atol=1e-3)
    with pytest.raises(ValueError, match="zip"):
        apply(unet, *inputs, (residuals[0][:-1], residuals[1]))


def test_padding_of_the_context_does_not_change_the_answer():
    apply, unet, (x, t, context, mask) = _unet()
    padded = jnp.concatenate([context, jnp.full((2, 3, 6), 5.0)], axis=1)
    longer = jnp.concatenate([mask, jnp.zeros((2, 3))], axis=1)
    np.testing.assert_allclose(apply(unet, x, t, padded, longer), apply(unet, x, t, context, mask), atol=1e-5)


def test_a_mask_of_ones_is_no_mask():
    apply, unet, (x, t, context, mask) = _unet()
    np.testing.assert_allclose(apply(unet, x, t, context, mask), apply(unet, x, t, context), atol=1e-6)


def test_an_example_in_a_batch_has_the_answer_it_has_alone():
    apply, unet, inputs = _unet()
    alone = apply(unet, *(a[1:] for a in inputs))
    np.testing.assert_allclose(apply(unet, *inputs)[1:], alone, atol=1e-5)


def test_half_precision_computes_in_half_and_keeps_float32_parameters():
    *inputs, _ = _inputs()
    model = UNet(TINY, dtype=jnp.bfloat16)
    params = jax.eval_shape(model.init, jax.random.key(1), *inputs)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, params, *inputs).dtype == jnp.bfloat16


def test_fold_moves_neighbouring_bins_into_the_channels():
    x = jnp.arange(2 * 3).reshape(1, 1, 2, 3) * jnp.ones((1, 2, 1, 1), int)
    assert fold_bins(dataclasses.replace(TINY, block_out_channels=(8,), fold=2), x).tolist() == [
        [[[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4, 5]]]
    ]


def test_bins_that_do_not_divide_by_the_fold_are_an_error_with_the_numbers():
    *inputs, _ = _inputs(frames=8, bins=5)
    with pytest.raises(ValueError, match="5 bins must divide by fold 2"):
        UNet(dataclasses.replace(TINY, fold=2)).init(jax.random.key(0), *inputs)


def test_a_control_of_another_length_is_an_error_with_the_numbers():
    *inputs, control = _inputs()
    with pytest.raises(ValueError, match=r"\(2, 7, 5\), expected \(2, 8, 5\)"):
        ControlNet(TINY).init(jax.random.key(0), *inputs, control[:, 1:])


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 8])
def test_control_embedding_is_the_convolution_of_the_repeated_control(bins):
    control = jax.random.normal(jax.random.key(0), (2, 6, 5))
    model = ControlEmbedding(7)
    params = _noisy(model.init(jax.random.key(1), control, bins))
    kernel, bias = params["params"]["conv"]["kernel"], params["params"]["conv"]["bias"]
    tiled = jnp.repeat(control[:, :, None], bins, axis=2)
    want = jax.lax.conv_general_dilated(tiled, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(model.apply(params, control, bins), want + bias, atol=1e-5)


def test_timestep_features_start_with_the_cosines():
    np.testing.assert_allclose(
        timestep_features(jnp.asarray([0, 3]), 4),
        [[1, 1, 0, 0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)]],
        atol=1e-6,
    )


def test_group_norm_has_mean_zero_and_variance_one_in_every_group_even_far_from_zero():
    x = 300.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 6, 5, 8))
    model = GroupNorm(groups=2, eps=1e-6)
    y = np.asarray(model.apply(model.init(jax.random.key(1), x), x)).reshape(2, 6, 5, 2, 4)
    np.testing.assert_allclose(y.mean((1, 2, 4)), 0, atol=1e-4)
    np.testing.assert_allclose(y.var((1, 2, 4)), 1, atol=1e-4)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        GroupNorm(groups=4, eps=1e-5).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))


def test_upsample_comes_back_to_an_odd_length():
    x, model = jax.random.normal(jax.random.key(0), (1, 3, 2, 4)), Upsample()
    params = _noisy(model.init(jax.random.key(1), x))
    odd, even = model.apply(params, x, (5, 3)), model.apply(params, x)
    np.testing.assert_allclose(odd[:, :4, :2], even[:, :4, :2], atol=1e-6)
    assert odd.shape == (1, 5, 3, 4)


def test_upsample_is_nearest_neighbour_then_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    model = Upsample()
    params = _noisy(model.init(jax.random.key(1), x))
    kernel, bias = params["params"]["conv"]["kernel"], params["params"]["conv"]["bias"]
    big = x.repeat(2, axis=1).repeat(2, axis=2)
    want = jax.lax.conv_general_dilated(big, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(model.apply(params, x), want + bias, atol=1e-5)


DIFFUSERS = {
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": [2, 4],
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
    "use_linear_projection": True,
}


def test_a_diffusers_config_is_read_with_head_dim_as_a_count():
    assert unet_config_from_diffusers(DIFFUSERS, fold=2) == UNetConfig(
        channels=8,
        block_out_channels=(32, 64),
        attention=(True, False),
        num_heads=(2, 4),
        layers_per_block=1,
        cross_attention_dim=64,
        norm_groups=8,
        linear_projection=True,
        fold=2,
        mask_control=False,
    )
    assert unet_config_from_diffusers(DIFFUSERS | {"attention_head_dim": 8}).num_heads == (8, 8)


def test_a_diffusers_config_lists_every_unsupported_option_at_once():
    with pytest.raises(UserError) as error:
        unet_config_from_diffusers(
            DIFFUSERS | {"act_fn": "gelu", "freq_shift": 1, "out_channels": 4, "up_block_types": ["UpBlock2D"] * 2}
        )
    assert all(
        word in str(error.value) for word in ("act_fn='gelu'", "freq_shift=1", "out_channels=4", "up_block_types")
    )


def test_module_paths_translate():
    assert module_path("down_blocks.1.attentions.0") == "down_1/attn_0"
    assert module_path("mid_block") == "mid"
    assert module_path("encoder.block.0") is None


@pytest.mark.parametrize("same_control", [True, False])
def test_conditions_of_the_same_latents_share_what_comes_before_the_first_attention(same_control):
    unet, params, net, net_params, (x, t, context, mask), control = _both()
    others = jnp.roll(context, 1, axis=0) + 0.3
    contexts, masks = jnp.concatenate([context, others]), jnp.concatenate([mask, mask.at[:, -2:].set(0)])
    controls = control if same_control else jnp.concatenate([control, -control])
    twice = [jnp.concatenate([a, a]) for a in (x, t)]
    whole = jnp.concatenate([control, control]) if same_control else controls
    params, net_params = _noisy(params), _noisy(net_params)
    want_net = net(net_params, *twice, contexts, masks, whole)
    got_net = net(net_params, x, t, contexts, masks, controls)
    jax.tree.map(equal_but_for_rounding, got_net, want_net)
    want = unet(params, *twice, contexts, masks, want_net)
    got = unet(params, x, t, contexts, masks, want_net)
    equal_but_for_rounding(got, want)

    rows = _rows_of_convolutions(lambda *a: unet(params, *a, want_net), x, t, contexts, masks)
    assert min(rows.count(2), rows.count(4)) >= 3  # the first level, without attention, has the rows of x


def equal_but_for_rounding(got, want):
    """A batch of another size may add up in another order."""
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(jnp.abs(want).max()))


def _rows_of_convolutions(function, *args):
    """Rows of the input of every convolution in the traced function."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                found.append(eqn.invars[0].aval.shape[0])
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):  # of a nested jit
                    visit(inner.jaxpr)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found
