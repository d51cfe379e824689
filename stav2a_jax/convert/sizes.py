"""Sizes of a network read off the shapes of its checkpoint, and off its config.json where it has one.

Every function takes (tensors, config.json or {}) and returns :class:`Sizes`. Widths are the most common of several
witnesses, so that one tensor of a wrong shape is reported as such instead of changing the whole model.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stav2a_jax.config import (
    AutoencoderConfig,
    LocalConfig,
    SpecEncoderConfig,
    TextConfig,
    UNetConfig,
    VocoderConfig,
)
from stav2a_jax.convert.tables.unet import unet_config_from_diffusers
from stav2a_jax.tensors import Tensors
from stav2a_jax.types import UserError

Config = Mapping[str, Any]

WINDOWS = (LocalConfig().windows, ())
"""Windows of the released local adapter: with ``--use_feature_window`` and without."""


class Sizes(NamedTuple):
    """fields: section of ModelConfig -> its fields. assumed: what the file does not say, one phrase each."""

    fields: dict[str, dict[str, Any]]
    assumed: tuple[str, ...] = ()


class Shapes:
    """The shapes of a checkpoint, asked with patterns."""

    def __init__(self, tensors: Tensors) -> None:
        self._shapes = tensors.shapes

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def has(self, pattern: str) -> bool:
        """Whether a key begins with the pattern."""
        return any(re.match(pattern, key) for key in self._shapes)

    def count(self, *patterns: str) -> int:
        """1 + the largest number that the patterns' first group takes; 0 where none matches."""
        found = [int(m.group(1)) for p in patterns for key in self._shapes if (m := re.match(p, key))]
        return max(found, default=-1) + 1

    def axis(self, axis: int, *patterns: str) -> int:
        """The most common length of an axis among the keys that a pattern matches."""
        found = [
            shape[axis]
            for pattern in patterns
            for key, shape in self._shapes.items()
            if re.fullmatch(pattern, key) and len(shape) > axis
        ]
        if not found:
            raise UserError(f"no key like {plain(patterns[0])}, from which a size is read")
        return collections.Counter(found).most_common(1)[0][0]

    def rank(self, pattern: str) -> int:
        """Number of axes of the first key that matches, or 0."""
        return next((len(shape) for key, shape in self._shapes.items() if re.fullmatch(pattern, key)), 0)


def plain(pattern: str) -> str:
    """A pattern as a person writes it."""
    return re.sub(r"\(\?:[^)]*\)|\\d\+|\[[^]]*\]", "*", pattern).replace("\\", "")


def agree(config: Config, found: Mapping[str, Any], of: str) -> None:
    """Raise UserError where a config.json contradicts the weights beside it."""
    wrong = [f"{k} {config[k]!r} (weights: {v!r})" for k, v in found.items() if k in config and config[k] != v]
    if wrong:
        raise UserError(f"the config.json of the {of} belongs to other weights: {'; '.join(wrong)}")


def unet(tensors: Tensors, config: Config) -> Sizes:
    """diffusers' U-Net or ControlNet. Heads and norm groups are not in the shapes: config.json, or the defaults of
    the two published models (heads of width 64 with linear projections, else 8 heads; 32 groups)."""
    s = Shapes(tensors)
    levels = s.count(r"down_blocks\.(\d+)\.", r"up_blocks\.(\d+)\.")
    widths, attention = [], []
    for i in range(levels):
        blocks = rf"(?:down_blocks\.{i}|up_blocks\.{levels - 1 - i})"
        witnesses = rf"{blocks}\.resnets\.\d+\.(?:conv1|conv2|time_emb_proj|norm2)\.(?:weight|bias)"
        widths.append(s.axis(0, witnesses))
        attention.append(s.has(rf"{blocks}\.attentions"))
    linear = s.rank(r".*\.proj_in\.weight") == 2
    found = {
        "channels": s.axis(1, r"conv_in\.weight"),
        "block_out_channels": tuple(widths),
        "attention": tuple(attention),
        "layers_per_block": s.count(r"down_blocks\.\d+\.resnets\.(\d+)\."),
        "cross_attention_dim": s.axis(1, r".*\.attn2\.to_[kv]\.weight"),
        "linear_projection": linear,
    }
    if "controlnet_cond_embedding.conv_out.weight" in s:
        found["control_channels"] = s.axis(1, r"controlnet_cond_embedding\.conv_out\.weight")
    if not config:
        return _unet_assumed(found, tuple(widths), linear)
    try:
        given = unet_config_from_diffusers(config)
    except KeyError as e:
        raise UserError(f"the config.json of the U-Net lacks {e.args[0]}") from e
    said = {name: getattr(given, name) for name in found if name != "control_channels"}
    agree(said, found, "U-Net")
    return Sizes({"unet": found | {"num_heads": given.num_heads, "norm_groups": given.norm_groups}})


def _unet_assumed(found: dict[str, Any], widths: tuple[int, ...], linear: bool) -> Sizes:
    groups = UNetConfig().norm_groups
    heads = tuple(w // 64 for w in widths) if linear else (8,) * len(widths)
    fits = all(w % groups == 0 and h and w % h == 0 for w, h in zip(widths, heads, strict=True))
    if not fits:
        raise UserError(
            f"the weights do not say how many heads and norm groups the U-Net of widths {widths} has, and the usual "
            "ones do not fit: give its config.json (beside the file, or with --unet-config)"
        )
    assumed = (f"U-Net: {', '.join(map(str, heads))} heads, {groups} norm groups (no config.json)",)
    return Sizes({"unet": found | {"num_heads": heads, "norm_groups": groups}}, assumed)


def text(tensors: Tensors, config: Config) -> Sizes:
    """T5's encoder. Only the largest distance is not in the shapes."""
    s = Shapes(tensors)
    layer = r"encoder\.block\.\d+\.layer"
    bias = r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight"
    heads = s.axis(1, bias)
    found = {
        "vocab_size": s.axis(0, r"shared\.weight", r"encoder\.embed_tokens\.weight"),
        "d_model": s.axis(0, rf"{layer}\.[01]\.layer_norm\.weight"),
        "d_kv": s.axis(0, rf"{layer}\.0\.SelfAttention\.[qkv]\.weight") // heads,
        "d_ff": s.axis(0, rf"{layer}\.1\.DenseReluDense\.wi(?:_[01])?\.weight"),
        "num_layers": s.count(r"encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_buckets": s.axis(0, bias),
    }
    if not config:
        return Sizes({"text": found}, (f"text: relative distances up to {TextConfig().relative_max_distance}",))
    agree(config, {k: v for k, v in found.items() if k != "relative_buckets"}, "text encoder")
    fixed = {"feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6}
    wrong = [f"{k} {config[k]!r} (only {v!r})" for k, v in fixed.items() if config.get(k, v) != v]
    if wrong:
        raise UserError(f"this text encoder is not supported: {'; '.join(wrong)}; use mT5, FLAN-T5 or T5 1.1")
    distance = int(config.get("relative_attention_max_distance", TextConfig().relative_max_distance))
    return Sizes({"text": found | {"relative_max_distance": distance}})


def cavp(tensors: Tensors, config: Config) -> Sizes:
    """Both encoders of CAVP."""
    s = Shapes(tensors)
    stages = s.count(r"video_encoder\.layer(\d+)\.") - 1
    first = [rf"video_encoder\.layer{i}\.0\.conv1\.conv\.weight" for i in range(1, stages + 1)]
    blocks = s.count(r"spec_encoder\.conv_block(\d+)\.") - 1
    default = SpecEncoderConfig()
    if blocks != len(default.pools):
        raise UserError(f"its spectrogram encoder has {blocks} blocks, CAVP's has {len(default.pools)}")
    features = s.axis(0, r"video_project_head\.(?:weight|bias)")
    return Sizes(
        {
            "video": {
                "base_channels": s.axis(0, r"video_encoder\.conv1\.(?:conv|bn)\.(?:weight|bias)"),
                "depths": tuple(s.count(rf"video_encoder\.layer{i}\.(\d+)\.") for i in range(1, stages + 1)),
                "temporal_kernels": (
                    s.axis(2, r"video_encoder\.conv1\.conv\.weight"),
                    *(s.axis(2, f) for f in first),
                ),
                "features": features,
            },
            "spec": {
                "mel_bins": s.axis(0, r"spec_encoder\.bn\.(?:weight|bias)"),
                "channels": tuple(
                    s.axis(0, rf"spec_encoder\.conv_block{i}\.(?:conv|bn)[12]\.(?:weight|bias)")
                    for i in range(1, blocks + 1)
                ),
                "features": s.axis(0, r"spec_encoder\.final_project\.(?:weight|bias)"),
            },
        }
    )


def onset(tensors: Tensors, config: Config) -> Sizes:
    """Local adapter and onset head. The number of windows is the width of the head's input over the adapter's."""
    s = Shapes(tensors)
    dim, width = s.axis(0, r"trans_cvap_feature\.fc4\.(?:weight|bias)"), s.axis(1, r"pre_onset\.l1\.weight")
    windows = {1 + len(w): w for w in WINDOWS}
    if width % dim or width // dim not in windows:
        raise UserError(f"pre_onset.l1 takes {width} numbers, expected {dim} (no windows) or {5 * dim} (four)")
    return Sizes(
        {
            "local": {
                "hidden": s.axis(0, r"trans_cvap_feature\.fc[12]\.(?:weight|bias)"),
                "dim": dim,
                "windows": windows[width // dim],
                "control": s.axis(0, r"pre_onset\.l1\.(?:weight|bias)"),
            },
            "video": {"features": s.axis(1, r"trans_cvap_feature\.fc1\.weight")},
        }
    )


def pooling(tensors: Tensors, config: Config) -> Sizes:
    """Attentive pooling."""
    s = Shapes(tensors)
    return Sizes(
        {
            "pooling": {"dim": s.axis(0, r"fc\.(?:weight|bias)"), "tokens": s.axis(0, r"conv\.(?:weight|bias)")},
            "video": {"features": s.axis(1, r"fc\.weight")},
        }
    )


def autoencoder(tensors: Tensors, config: Config) -> Sizes:
    """AudioLDM's names; ``config`` may be the release's vae_config.json."""
    s = Shapes(tensors)
    levels = s.count(r"encoder\.down\.(\d+)\.", r"decoder\.up\.(\d+)\.")
    widths = [
        s.axis(0, rf"(?:encoder\.down|decoder\.up)\.{i}\.block\.\d+\.conv[12]\.(?:weight|bias)") for i in range(levels)
    ]
    blocks = s.count(r"encoder\.down\.\d+\.block\.(\d+)\.")
    return _autoencoder(s, widths, blocks, AutoencoderConfig().norm_groups, config.get("scale_factor"))


def autoencoder_diffusers(tensors: Tensors, config: Config) -> Sizes:
    """The names of diffusers' AutoencoderKL; its config.json has the norm groups and the scale factor."""
    s = Shapes(tensors)
    levels = s.count(r"encoder\.down_blocks\.(\d+)\.", r"decoder\.up_blocks\.(\d+)\.")
    side = r"(?:encoder\.down_blocks\.{}|decoder\.up_blocks\.{})\.resnets\.\d+\.conv[12]\.(?:weight|bias)"
    widths = [s.axis(0, side.format(i, levels - 1 - i)) for i in range(levels)]
    blocks = s.count(r"encoder\.down_blocks\.\d+\.resnets\.(\d+)\.")
    agree(config, {"block_out_channels": widths, "layers_per_block": blocks}, "autoencoder")
    groups = int(config.get("norm_num_groups", AutoencoderConfig().norm_groups))
    return _autoencoder(s, widths, blocks, groups, config.get("scaling_factor"))


def _autoencoder(s: Shapes, widths: list[int], blocks: int, groups: int, scale: float | None) -> Sizes:
    base = s.axis(0, r"encoder\.conv_in\.(?:weight|bias)")
    if any(w % base for w in widths) or s.axis(1, r"encoder\.conv_in\.weight") != 1:
        raise UserError(f"the autoencoder has widths {widths} on {base}, which is not a mel autoencoder of AudioLDM's")
    fields: dict[str, Any] = {
        "base_channels": base,
        "channel_mult": tuple(w // base for w in widths),
        "num_res_blocks": blocks,
        "z_channels": s.axis(0, r"encoder\.conv_out\.(?:weight|bias)") // 2,
        "embed_channels": s.axis(0, r"quant_conv\.(?:weight|bias)") // 2,
        "norm_groups": groups,
    }
    if scale is None:
        return Sizes({"autoencoder": fields})
    return Sizes({"autoencoder": fields | {"scale_factor": float(scale)}})


def scale_factor(tensors: Tensors, config: Config) -> Sizes:
    """The latent scale that AudioLDM keeps as a tensor of its own."""
    return Sizes({"autoencoder": {"scale_factor": float(tensors["scale_factor"])}})


def vocoder(tensors: Tensors, config: Config) -> Sizes:
    """HiFi-GAN, original or transformers' names. Rates and dilations are not in the shapes."""
    s = Shapes(tensors)
    ups = s.count(r"(?:ups|upsampler)\.(\d+)\.")
    kernels = tuple(s.axis(2, rf"(?:ups|upsampler)\.{i}\.weight") for i in range(ups))
    count = s.count(r"resblocks\.(\d+)\.") // max(ups, 1)
    found = {
        "initial_channels": s.axis(0, r"conv_pre\.(?:weight|bias)"),
        "mel_bins": s.axis(1, r"conv_pre\.weight"),
        "upsample_kernels": kernels,
        "resblock_kernels": tuple(s.axis(2, rf"resblocks\.{i}\.convs1\.\d+\.weight") for i in range(count)),
    }
    default, steps = VocoderConfig(), s.count(r"resblocks\.\d+\.convs1\.(\d+)\.")
    if config:
        return _vocoder_configured(found, config)
    if kernels != default.upsample_kernels or steps != len(default.resblock_dilations[0]):
        raise UserError(
            f"the weights do not say the rates of a vocoder with kernels {kernels}: give its config.json beside them"
        )
    dilations = default.resblock_dilations[:1] * count
    assumed = f"vocoder: upsampling by {', '.join(map(str, default.upsample_rates))}, dilations 1, 3, 5"
    return Sizes({"vocoder": found | {"resblock_dilations": dilations}}, (assumed,))


def _vocoder_configured(found: dict[str, Any], config: Config) -> Sizes:
    """With the config.json of ``SpeechT5HifiGan``, which leaves out what has the class's default value."""
    said = {
        "upsample_initial_channel": found["initial_channels"],
        "upsample_kernel_sizes": found["upsample_kernels"],
        "resblock_kernel_sizes": found["resblock_kernels"],
    }
    agree({key: _frozen(config[key]) for key in said if key in config}, said, "vocoder")
    if config.get("normalize_before", True) or config.get("leaky_relu_slope", 0.1) != 0.1:
        raise UserError("this vocoder is not supported: AudioLDM's has normalize_before false and leaky_relu_slope 0.1")
    rates = _frozen(config.get("upsample_rates", (4, 4, 4, 4)))
    dilations = _frozen(config.get("resblock_dilation_sizes", ((1, 3, 5),) * 3))
    return Sizes({"vocoder": found | {"upsample_rates": rates, "resblock_dilations": dilations}})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value
