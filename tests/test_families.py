"""Every family of checkpoints is recognised, sized and converted both ways, or refused with what is wrong with it."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from stav2a_jax.commands import convert as command
from stav2a_jax.config import ModelConfig
from stav2a_jax.convert.families import FAMILIES, released_config, schedule_fields
from stav2a_jax.convert.transfer import convert, detect, explain, export
from stav2a_jax.released import GUIDANCE
from stav2a_jax.tensors import Tensors
from stav2a_jax.types import UserError


@pytest.fixture(scope="module")
def file_of(released_model, released_weights):
    """``file_of(family)``: PyTorch state dict of random weights, as that family's users have it."""
    made = {}

    def make(name):
        if name not in made:
            tensors, _ = export(Tensors.of(released_weights), released_model, FAMILIES[name])
            made[name] = dict(tensors)
        return dict(made[name])

    return make


def converted(state, name, config=None):
    """The conversion of a state dict (arrays by key) that must have no problem."""
    out = convert(Tensors.of(state), FAMILIES[name], config)
    assert not out.problems, explain(out.problems)
    return out


def problems(state, name):
    return explain(convert(Tensors.of(state), FAMILIES[name]).problems)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_come_back_as_they_were_with_their_sizes(name, file_of, released_model, released_weights):
    out = converted(file_of(name), name)
    for path, array in out.tensors.items():
        if not path.startswith("kept/"):
            np.testing.assert_array_equal(array, released_weights[path], err_msg=path)
    for section, fields in out.fields.items():
        for field, value in fields.items():
            assert value == getattr(getattr(released_model, section), field), f"{section}.{field}"
    back, _ = export(out.tensors, released_model, FAMILIES[name], out.form)
    assert back.shapes == {key: array.shape for key, array in file_of(name).items()}
    for key, array in file_of(name).items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_recognised_by_its_keys(name, file_of):
    assert detect(Tensors.of(file_of(name)))[0].name == name


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_half_precision(dtype, file_of):
    state = {key: array.astype(dtype) if array.dtype == np.float32 else array for key, array in file_of("cavp").items()}
    out = converted(state, "cavp")
    assert {a.dtype for path, a in out.tensors.items() if not path.startswith("kept/")} == {np.dtype(dtype)}
    assert out.tensors["kept/cavp/spec_encoder.bn.num_batches_tracked"].dtype == np.int64


def test_parts_of_a_whole_file_are_found_under_their_prefix(file_of, released_weights):
    for name, prefix in (("unet", "unet."), ("controlnet", "controlnet."), ("t5", "text_encoder.")):
        out = converted(file_of("stav2a"), name)
        assert out.form["root"] == prefix
        assert any("another model" in text for text in out.aside)
    np.testing.assert_array_equal(out.tensors["text/embedding"], released_weights["text/embedding"])


def test_weight_norm_is_folded_and_plain_weights_are_written(file_of, released_model):
    plain = file_of("audioldm")
    state = {}
    for key, array in plain.items():
        name = key.removesuffix(".weight")
        if "vocoder." in key and key.endswith(".weight"):
            length = np.sqrt(np.square(array, dtype=np.float64).sum(axis=tuple(range(1, array.ndim)), keepdims=True))
            state |= {f"{name}.weight_g": length.astype(np.float32), f"{name}.weight_v": 3 * array}
        else:
            state[key] = array
    out = converted(state, "audioldm")
    back, _ = export(out.tensors, released_model, FAMILIES["audioldm"], out.form)
    assert back.shapes == {key: array.shape for key, array in plain.items()}
    for key, array in plain.items():
        np.testing.assert_allclose(back[key], array, rtol=1e-6, err_msg=key)


def test_old_attention_names_of_diffusers_are_written_as_they_were_read(file_of, released_model):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, array in file_of("autoencoder-kl").items():
        for new, before in names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[key] = array
    out = converted(old, "autoencoder-kl")
    assert export(out.tensors, released_model, FAMILIES["autoencoder-kl"], out.form)[0].keys() == old.keys()


def test_an_embedding_that_is_stored_once_is_enough(file_of, released_model):
    state = file_of("t5")
    del state["encoder.embed_tokens.weight"]
    out = converted(state, "t5")
    assert export(out.tensors, released_model, FAMILIES["t5"], out.form)[0].keys() == state.keys()
    assert export(out.tensors, released_model, FAMILIES["t5"])[0].keys() == file_of("t5").keys()


def test_a_whole_t5_gives_its_encoder(file_of):
    decoder = {"decoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((2, 2)), "lm_head.weight": np.zeros((3, 2))}
    out = converted(file_of("t5") | decoder, "t5")
    assert [text.split(" (")[0] for text in out.aside] == ["1 tensor decoder.*", "1 tensor lm_head.*"]


def test_heads_and_groups_come_from_the_config_where_there_is_one(file_of, released_model):
    config = {
        "in_channels": 8,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "attention_head_dim": [2, 4],
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "norm_num_groups": 16,
    }
    out = converted(file_of("unet"), "unet", {"unet": config})
    assert (out.fields["unet"]["num_heads"], out.fields["unet"]["norm_groups"]) == ((2, 4), 16)
    assert not out.assumed
    with pytest.raises(UserError, match=r"other weights: block_out_channels \(64, 128\) \(weights: \(32, 64\)\)"):
        converted(file_of("unet"), "unet", {"unet": config | {"block_out_channels": [64, 128]}})
    with pytest.raises(UserError, match="lacks attention_head_dim"):
        converted(file_of("unet"), "unet", {"unet": {k: v for k, v in config.items() if k != "attention_head_dim"}})
    with pytest.raises(UserError, match="act_fn='gelu'"):
        converted(file_of("unet"), "unet", {"unet": config | {"act_fn": "gelu"}})


def test_a_linear_projection_has_heads_of_width_64(released_model):
    from stav2a_jax.convert.components import expected

    unet = dataclasses.replace(
        released_model.unet, block_out_channels=(64, 128), num_heads=(1, 2), linear_projection=True
    )
    model = dataclasses.replace(released_model, unet=unet)
    params = Tensors.of({path: np.zeros(shape, np.float32) for path, shape in expected(model, "unet").items()})
    out = converted(export(params, model, FAMILIES["unet"])[0], "unet")
    assert out.fields["unet"]["num_heads"] == (1, 2)
    assert out.assumed == ("U-Net: 1, 2 heads, 32 norm groups (no config.json)",)


def test_the_text_encoder_is_compared_with_its_config(file_of):
    config = {"d_model": 16, "relative_attention_max_distance": 64, "feed_forward_proj": "gated-gelu"}
    assert converted(file_of("t5"), "t5", {"t5": config}).fields["text"]["relative_max_distance"] == 64
    with pytest.raises(UserError, match=r"other weights: d_model 32 \(weights: 16\)"):
        converted(file_of("t5"), "t5", {"t5": config | {"d_model": 32}})
    with pytest.raises(UserError, match="feed_forward_proj 'relu'"):
        converted(file_of("t5"), "t5", {"t5": config | {"feed_forward_proj": "relu"}})


def test_an_adapter_without_windows_is_known_by_its_width(file_of):
    state = file_of("onset")
    state["pre_onset.l1.weight"] = state["pre_onset.l1.weight"][:, :4]
    assert converted(state, "onset").fields["local"]["windows"] == ()
    state["pre_onset.l1.weight"] = np.zeros((6, 7), np.float32)
    with pytest.raises(UserError, match="takes 7 numbers"):
        convert(Tensors.of(state), FAMILIES["onset"])


def test_a_renamed_prefix_is_told_from_what_is_there(file_of):
    state = {key.replace("controlnet.", "control_net.", 1): a for key, a in file_of("stav2a").items()}
    with pytest.raises(UserError, match=r"no stav2a file: it lacks controlnet\.\*.*begin with .*control_net \(\d+\)"):
        convert(Tensors.of(state), FAMILIES["stav2a"])
    with pytest.raises(UserError, match="it looks like audioldm"):
        convert(Tensors.of(file_of("audioldm")), FAMILIES["cavp"])


def test_half_a_file_lists_what_is_missing_by_its_keys(file_of):
    state = file_of("unet")
    for key in [key for key in state if key.startswith("down_blocks.1.")]:
        del state[key]
    text = problems(state, "unet")
    assert "missing (down_blocks.1.attentions.0.norm.bias, " in text
    assert text.count(";") == 0


def test_one_tensor_of_another_width_is_named_alone(file_of):
    state = file_of("stav2a")
    state["unet.down_blocks.0.resnets.0.conv1.weight"] = np.zeros((48, 32, 3, 3), np.float32)
    text = problems(state, "stav2a")
    assert text.startswith("1 of another shape (unet.down_blocks.0.resnets.0.conv1.weight: (3, 3, 32, 48) does not fit")


def test_a_key_too_many_is_named(file_of):
    state = file_of("cavp") | {"video_encoder.extra": np.zeros(1), "other": np.zeros(1)}
    assert problems(state, "cavp") == "2 not known to it (other, video_encoder.extra)"


def test_a_model_that_pytorch_does_not_have_is_not_written(tiny_model, tiny_params):
    from flax.traverse_util import flatten_dict

    params = Tensors.of(flatten_dict(tiny_params, sep="/"))
    with pytest.raises(UserError, match=r"cannot do what this model does: unet\.fold = 2"):
        export(params, tiny_model, FAMILIES["unet"])
    with pytest.raises(UserError, match=r"vocoder\.istft"):
        export(params, tiny_model, FAMILIES["hifigan"])
    with pytest.raises(UserError, match="the bundle has no spec, which a cavp file needs"):
        export(params, tiny_model, FAMILIES["cavp"])


def test_a_converted_model_has_the_released_behaviour():
    model, guidance = released_config({"unet": {"channels": 8}}, {"prediction": "epsilon"})
    assert guidance == GUIDANCE
    assert not model.unet.mask_control
    assert model.schedule.prediction == "epsilon"
    assert model.text == ModelConfig().text


def test_a_scheduler_file_becomes_the_schedule():
    config = {
        "beta_start": 0.001,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "steps_offset": 1,
    }
    assert schedule_fields(config) == {"beta_start": 0.001, "steps_offset": 1, "prediction": "v"}
    with pytest.raises(UserError, match=r"beta_schedule 'linear'.*prediction_type 'sample'"):
        schedule_fields({"beta_schedule": "linear", "prediction_type": "sample"})


def test_every_family_has_its_command():
    assert {*command.FAMILIES, "stav2a"} == set(FAMILIES)
