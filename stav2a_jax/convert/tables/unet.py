"""U-Net: diffusers' ``UNet2DConditionModel`` names, and its config.json."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from stav2a_jax.config import UNetConfig
from stav2a_jax.convert.rules import CONV2D, LINEAR, POINTWISE2D, Rule, layer, norm, translate
from stav2a_jax.types import UserError

MODULES: tuple[tuple[str, str], ...] = (
    ("time_embedding", "time_embedding"),
    ("conv_in", "conv_in"),
    ("down_blocks.{i}", "down_{i}"),
    ("down_blocks.{i}.resnets.{j}", "down_{i}/res_{j}"),
    ("down_blocks.{i}.attentions.{j}", "down_{i}/attn_{j}"),
    ("down_blocks.{i}.downsamplers.0", "down_{i}/downsample"),
    ("mid_block", "mid"),
    ("mid_block.resnets.{j}", "mid/res_{j}"),
    ("mid_block.attentions.{j}", "mid/attn_{j}"),
    ("up_blocks.{i}", "up_{i}"),
    ("up_blocks.{i}.resnets.{j}", "up_{i}/res_{j}"),
    ("up_blocks.{i}.attentions.{j}", "up_{i}/attn_{j}"),
    ("up_blocks.{i}.upsamplers.0", "up_{i}/upsample"),
    ("conv_norm_out", "norm_out"),
    ("conv_out", "conv_out"),
)
"""Modules with the same output on both sides: (PyTorch module path, ours)."""


def module_path(torch: str) -> str | None:
    """PyTorch module path -> ours, or None where we have no such module: 'down_blocks.0' -> 'down_0'."""
    return translate(torch, MODULES)


def _resnet(torch: str, flax: str, shortcut: bool) -> tuple[Rule, ...]:
    rules = layer(f"{torch}.time_emb_proj", f"{flax}/time_proj")
    for i in (1, 2):
        rules += norm(f"{torch}.norm{i}", f"{flax}/norm{i}") + layer(f"{torch}.conv{i}", f"{flax}/conv{i}", CONV2D)
    return rules + (layer(f"{torch}.conv_shortcut", f"{flax}/shortcut", POINTWISE2D) if shortcut else ())


def _attention(torch: str, flax: str, linear: bool) -> tuple[Rule, ...]:
    # "linear" or 1x1 convolution: the same Dense with channels last
    projection = LINEAR if linear else POINTWISE2D
    rules = norm(f"{torch}.norm", f"{flax}/norm")
    rules += layer(f"{torch}.proj_in", f"{flax}/proj_in", projection)
    rules += layer(f"{torch}.proj_out", f"{flax}/proj_out", projection)
    torch, flax = f"{torch}.transformer_blocks.0", f"{flax}/block_0"
    for i in (1, 2, 3):
        rules += norm(f"{torch}.norm{i}", f"{flax}/norm{i}")
    for attn in ("attn1", "attn2"):
        for name in ("to_q", "to_k", "to_v"):
            rules += layer(f"{torch}.{attn}.{name}", f"{flax}/{attn}/{name}", bias=False)
        rules += layer(f"{torch}.{attn}.to_out.0", f"{flax}/{attn}/to_out")
    rules += layer(f"{torch}.ff.net.0.proj", f"{flax}/ff/proj_in")
    return rules + layer(f"{torch}.ff.net.2", f"{flax}/ff/proj_out")


def encoder_rules(cfg: UNetConfig) -> tuple[Rule, ...]:
    """Rules of the part that the U-Net and the ControlNet share: conv_in, time embedding, down blocks, middle."""
    widths = cfg.block_out_channels
    rules = layer("conv_in", "conv_in", CONV2D)
    for i in (1, 2):
        rules += layer(f"time_embedding.linear_{i}", f"time_embedding/linear_{i}")
    widens = any(a != b for a, b in itertools.pairwise(widths))
    rules += _resnet("down_blocks.{i}.resnets.{j}", "down_{i}/res_{j}", shortcut=widens)
    if any(cfg.attention):
        rules += _attention("down_blocks.{i}.attentions.{j}", "down_{i}/attn_{j}", cfg.linear_projection)
    if len(widths) > 1:
        rules += layer("down_blocks.{i}.downsamplers.0.conv", "down_{i}/downsample/conv", CONV2D)
    rules += _resnet("mid_block.resnets.{j}", "mid/res_{j}", shortcut=False)
    return rules + _attention("mid_block.attentions.{j}", "mid/attn_{j}", cfg.linear_projection)


def unet_rules(cfg: UNetConfig) -> tuple[Rule, ...]:
    """The whole table of a U-Net. A decoder's residual blocks always have a shortcut, for they take (x, skip)."""
    rules = encoder_rules(cfg) + _resnet("up_blocks.{i}.resnets.{j}", "up_{i}/res_{j}", shortcut=True)
    if any(cfg.attention):
        rules += _attention("up_blocks.{i}.attentions.{j}", "up_{i}/attn_{j}", cfg.linear_projection)
    if len(cfg.block_out_channels) > 1:
        rules += layer("up_blocks.{i}.upsamplers.0.conv", "up_{i}/upsample/conv", CONV2D)
    return rules + norm("conv_norm_out", "norm_out") + layer("conv_out", "conv_out", CONV2D)


# Options of diffusers' class that would change the arithmetic, with the only values that are implemented.
_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "norm_eps": (1e-5,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "resnet_time_scale_shift": ("default",),
    "transformer_layers_per_block": (1,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "num_attention_heads": (None,),
}
_BLOCKS = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}


def unet_config_from_diffusers(
    config: Mapping[str, Any], *, control_channels: int = 128, mask_control: bool = False, fold: int = 1
) -> UNetConfig:
    """UNetConfig of a diffusers config.json (a dict); the keywords are ours and default to the release's values.

    ``attention_head_dim`` is the NUMBER of heads, in spite of its name (an old diffusers misnomer), an int or one per
    level. ``upcast_attention`` is ignored: the softmax is always float32. Raises UserError that lists every option
    of the file that is not implemented.
    """
    widths = tuple(config["block_out_channels"])
    levels, problems = len(widths), []
    for name, allowed in _FIXED.items():
        if name in config and config[name] not in allowed:
            problems.append(f"{name}={config[name]!r} (only {allowed[0]!r})")
    down = tuple(config["down_block_types"])
    problems += [f"down block {name!r}" for name in down if name not in _BLOCKS]
    attention = tuple(_BLOCKS.get(name, False) for name in down)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention))
    if tuple(config.get("up_block_types", up)) != up:
        problems.append(f"up_block_types={config['up_block_types']!r} (only the mirror image {list(up)})")
    if config.get("out_channels", config["in_channels"]) != config["in_channels"]:
        problems.append(f"out_channels={config['out_channels']} with in_channels={config['in_channels']}")
    heads = _per_level(config["attention_head_dim"], levels, "attention_head_dim", problems)
    layers = _same_everywhere(config.get("layers_per_block", 2), "layers_per_block", problems)
    cross = _same_everywhere(config["cross_attention_dim"], "cross_attention_dim", problems)
    if len(down) != levels:
        problems.append(f"{len(down)} down_block_types for {levels} block_out_channels")
    if problems:
        raise UserError(f"This U-Net config is not supported: {'; '.join(problems)}. Use one of the SD 1/2 family.")
    return UNetConfig(
        channels=config["in_channels"],
        block_out_channels=widths,
        attention=attention,
        num_heads=heads,
        layers_per_block=layers,
        cross_attention_dim=cross,
        norm_groups=config.get("norm_num_groups", 32),
        linear_projection=bool(config.get("use_linear_projection", False)),
        control_channels=control_channels,
        fold=fold,
        mask_control=mask_control,
    )


def _per_level(value: int | Sequence[int], levels: int, name: str, problems: list[str]) -> tuple[int, ...]:
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels:
        problems.append(f"{name}={value!r} for {levels} levels")
    return values


def _same_everywhere(value: int | Sequence[int], name: str, problems: list[str]) -> int:
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(set(values)) != 1:
        problems.append(f"{name}={value!r} (only one value for all levels)")
    return values[0]
