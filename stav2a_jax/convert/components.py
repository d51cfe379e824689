"""The parts that checkpoints are made of: how to know one, its sizes, its table, and the parameter groups it fills."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from stav2a_jax.config import ModelConfig
from stav2a_jax.convert import sizes
from stav2a_jax.convert.rules import Rule, prefixed
from stav2a_jax.convert.sizes import Sizes
from stav2a_jax.convert.tables import adapters, autoencoder, cavp, controlnet, text, unet, vocoder
from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead
from stav2a_jax.models.autoencoder import Autoencoder
from stav2a_jax.models.cavp import VideoEncoder
from stav2a_jax.models.cnn14 import SpecEncoder
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.models.vocoder import Vocoder
from stav2a_jax.tensors import Entry, Shape, Tensors


def unchanged(tensors: Tensors) -> Tensors:
    """The tensors as they are."""
    return tensors


def _nothing(model: ModelConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    return {}


def _everything_has_a_counterpart(model: ModelConfig) -> list[str]:
    return []


class Component(NamedTuple):
    """One network as some PyTorch code names it.

    groups: parameter groups that it fills. witness: keys that only this naming has (one pattern each, all needed).
    sizes: (tensors, config.json) -> fields of ModelConfig. rules: table, with the group before every parameter.
    prepare: what is done to the tensors first. buffers: what the class wants besides parameters, for weights that
    never had it, from the model and the shapes of the rest. foreign: what of a model the PyTorch class cannot do.
    """

    name: str
    groups: tuple[str, ...]
    witness: tuple[str, ...]
    sizes: Callable[[Tensors, Mapping[str, Any]], Sizes]
    rules: Callable[[ModelConfig], tuple[Rule, ...]]
    prepare: Callable[[Tensors], Tensors] = unchanged
    buffers: Callable[[ModelConfig, Mapping[str, Shape]], dict[str, np.ndarray]] = _nothing
    foreign: Callable[[ModelConfig], list[str]] = _everything_has_a_counterpart


def _foreign(section: str, *varies: str) -> Callable[[ModelConfig], list[str]]:
    """What of a section of the config the PyTorch class lacks: every field but ``varies`` has to have its default."""

    def differing(model: ModelConfig) -> list[str]:
        used = getattr(model, section)
        fields = [f for f in dataclasses.fields(used) if f.name not in varies]
        return [f"{section}.{f.name} = {v}" for f in fields if (v := getattr(used, f.name)) != f.default]

    return differing


def _cavp_buffers(model: ModelConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    counters = [key.removesuffix("running_var") for key in shapes if key.endswith(".running_var")]
    zero = np.zeros((), np.int64)
    initial = np.asarray(np.log(1 / 0.07), np.float32)
    return {f"{key}num_batches_tracked": zero for key in counters} | {"logit_scale": initial}


def _speecht5_buffers(model: ModelConfig, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    bins = shapes["conv_pre.weight"][1]
    return {"mean": np.zeros(bins, np.float32), "scale": np.ones(bins, np.float32)}


def fold_weight_norm(tensors: Tensors) -> Tensors:
    """Weight-normalised weights made plain, one at a time as they are read."""
    endings = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
    out = dict(tensors.entries)

    def folded(name: str, pair: dict[str, Entry]) -> Callable[[], np.ndarray]:
        return lambda: vocoder.fold_weight_norm({key: e.read() for key, e in pair.items()})[f"{name}.weight"]

    for size, direction in endings:
        for key in [key for key in out if key.endswith(direction)]:
            name = key.removesuffix(direction)
            if name + size not in out:
                continue  # the table will name it
            pair = {name + size: out.pop(name + size), key: out.pop(key)}
            out[f"{name}.weight"] = Entry(pair[key].shape, pair[key].dtype, folded(name, pair))
    return Tensors(out)


_UNET_SIZES = (
    *("channels", "block_out_channels", "attention", "num_heads", "layers_per_block", "cross_attention_dim"),
    *("norm_groups", "linear_projection", "control_channels", "mask_control"),
)
_VIDEO_SIZES = ("fps", "size", "base_channels", "depths", "temporal_kernels", "features")
_AUTOENCODER_SIZES = (
    *("base_channels", "channel_mult", "num_res_blocks", "z_channels", "embed_channels", "norm_groups"),
    "scale_factor",
)
_VOCODER_SIZES = (
    *("mel_bins", "initial_channels", "upsample_rates", "upsample_kernels"),
    *("resblock_kernels", "resblock_dilations"),
)

UNET = Component(
    "unet",
    ("unet",),
    (r"conv_in\.weight", r"up_blocks\.\d+\.resnets\."),
    sizes.unet,
    lambda m: prefixed(unet.unet_rules(m.unet), flax="unet/"),
    foreign=_foreign("unet", *_UNET_SIZES),
)
CONTROLNET = Component(
    "controlnet",
    ("controlnet",),
    (r"controlnet_down_blocks\.\d+\.",),
    sizes.unet,
    lambda m: prefixed(controlnet.controlnet_rules(m.unet), flax="controlnet/"),
    foreign=_foreign("unet", *_UNET_SIZES),
)
_T5_KEY = r"encoder\.block\.\d+\.layer\.0\.SelfAttention\."
T5 = Component(
    "t5",
    ("text",),
    (_T5_KEY, r"encoder\.embed_tokens\.weight", r"shared\.weight"),
    sizes.text,
    lambda m: prefixed(text.TEXT, flax="text/"),
)
T5_ONCE = T5._replace(name="t5-once", witness=(_T5_KEY,), rules=lambda m: prefixed(text.UNTIED, flax="text/"))
CAVP = Component(
    "cavp",
    ("video", "spec"),
    (r"video_encoder\.conv1\.", r"video_project_head\."),
    sizes.cavp,
    lambda m: cavp.BOTH,
    buffers=_cavp_buffers,
    foreign=_foreign("video", *_VIDEO_SIZES),
)
ONSET = Component(
    "onset",
    ("local", "onset"),
    (r"trans_cvap_feature\.fc1\.", r"pre_onset\.l1\."),
    sizes.onset,
    lambda m: (
        prefixed(adapters.LOCAL, "trans_cvap_feature.", "local/") + prefixed(adapters.ONSET, "pre_onset.", "onset/")
    ),
    foreign=lambda m: [] if m.local.windows in sizes.WINDOWS else [f"local.windows = {m.local.windows}"],
)
POOLING = Component(
    "pooling",
    ("pooling",),
    (r"fga\.un_models\.0\.",),
    sizes.pooling,
    lambda m: prefixed(adapters.POOLING, flax="pooling/"),
)
AUTOENCODER = Component(
    "autoencoder",
    ("autoencoder",),
    (r"encoder\.down\.0\.block\.0\.", r"decoder\.up\.0\.block\.0\."),
    sizes.autoencoder,
    lambda m: prefixed(autoencoder.original_rules(m.autoencoder), flax="autoencoder/"),
    foreign=_foreign("autoencoder", *_AUTOENCODER_SIZES),
)
AUTOENCODER_KL = AUTOENCODER._replace(
    name="autoencoder-kl",
    witness=(r"encoder\.mid_block\.attentions\.0\.to_q\.", r"decoder\.up_blocks\.0\."),
    sizes=sizes.autoencoder_diffusers,
    rules=lambda m: prefixed(autoencoder.diffusers_rules(m.autoencoder), flax="autoencoder/"),
)
AUTOENCODER_KL_OLD = AUTOENCODER_KL._replace(
    name="autoencoder-kl-0.16",
    witness=(r"encoder\.mid_block\.attentions\.0\.query\.", r"decoder\.up_blocks\.0\."),
    rules=lambda m: prefixed(autoencoder.diffusers_rules(m.autoencoder, before_0_17=True), flax="autoencoder/"),
)
SCALE = Component(
    "scale",
    (),
    (r"scale_factor\Z",),
    sizes.scale_factor,
    lambda m: (Rule("scale_factor", None, why="a number of the config: autoencoder.scale_factor"),),
    buffers=lambda m, shapes: {"scale_factor": np.asarray(m.autoencoder.scale_factor, np.float32)},
)
HIFIGAN = Component(
    "hifigan",
    ("vocoder",),
    (r"conv_pre\.weight\Z", r"ups\.0\.weight\Z"),
    sizes.vocoder,
    lambda m: prefixed(vocoder.RULES, flax="vocoder/"),
    foreign=_foreign("vocoder", *_VOCODER_SIZES),
)
HIFIGAN_NORM = HIFIGAN._replace(
    name="hifigan-weight-norm",
    witness=(r"conv_pre\.(?:weight_v|parametrizations)", r"ups\.0\.(?:weight_v|parametrizations)"),
    prepare=fold_weight_norm,
)
SPEECHT5_HIFIGAN = HIFIGAN._replace(
    name="speecht5-hifigan",
    witness=(r"conv_pre\.weight\Z", r"upsampler\.0\.weight\Z"),
    rules=lambda m: prefixed(vocoder.TRANSFORMERS_RULES, flax="vocoder/"),
    buffers=_speecht5_buffers,
)


@functools.cache
def expected(model: ModelConfig, group: str) -> dict[str, Shape]:
    """Every parameter of a group, "group/module/.../leaf", with its shape; nothing is computed."""
    module, inputs = _module(model, group)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return {f"{group}/{path}": leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()}


def _module(model: ModelConfig, group: str) -> tuple[Any, tuple[Any, ...]]:
    """(module, inputs of its init); the inputs' lengths do not matter."""
    f32, i32 = jnp.float32, jnp.int32

    def like(*shape: int, dtype: Any = f32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    video, size = model.video, model.video.size
    mel = like(1, 64, model.latent.mel_bins)
    bins = 2 ** (len(model.unet.block_out_channels) - 1) * model.unet.fold
    noisy = (
        like(1, 64, bins, model.unet.channels),
        like(1, dtype=i32),
        like(1, 4, model.unet.cross_attention_dim),
        like(1, 4),
    )
    made: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
        "autoencoder": lambda: (Autoencoder(model.autoencoder), (like(*mel.shape, 1),)),
        "vocoder": lambda: (Vocoder(model.vocoder), (like(1, 64, model.vocoder.mel_bins),)),
        "video": lambda: (VideoEncoder(video), (like(1, 4, size, size, 3),)),
        "spec": lambda: (SpecEncoder(model.spec), (like(1, 64, model.spec.mel_bins),)),
        "text": lambda: (TextEncoder(model.text), (like(1, 4, dtype=i32), like(1, 4, dtype=i32))),
        "unet": lambda: (UNet(model.unet), noisy),
        "t2a": lambda: (UNet(model.unet), noisy),
        "controlnet": lambda: (ControlNet(model.unet), (*noisy, like(1, 64, model.unet.control_channels))),
        "local": lambda: (LocalAdapter(model.local), (like(1, 8, video.features),)),
        "onset": lambda: (
            OnsetHead(model.local),
            (like(1, 8, model.local.dim * (1 + len(model.local.windows))),),
        ),
        "pooling": lambda: (AttentivePooling(model.pooling), (like(1, 8, video.features),)),
    }
    return made[group]()
