"""Mel autoencoder: AudioLDM's original names, and those of diffusers' ``AutoencoderKL``.

The original checkpoint keeps the model under ``first_stage_model.``; cut that prefix first. The vocoder inside it has
its own table.
"""

from __future__ import annotations

import itertools

from stav2a_jax.config import AutoencoderConfig
from stav2a_jax.convert.rules import CONV2D, LINEAR, POINTWISE2D, Rule, layer, norm


def _has_shortcut(widths: list[int]) -> bool:
    return any(a != b for a, b in itertools.pairwise(widths))


def _block(torch: str, flax: str, shortcut: str | None = None) -> tuple[Rule, ...]:
    rules: tuple[Rule, ...] = ()
    for i in (1, 2):
        rules += norm(f"{torch}.norm{i}", f"{flax}/norm{i}")
        rules += layer(f"{torch}.conv{i}", f"{flax}/conv{i}", CONV2D)
    return rules + (layer(f"{torch}.{shortcut}", f"{flax}/shortcut", POINTWISE2D) if shortcut else ())


def _original_middle(side: str) -> tuple[Rule, ...]:
    rules = _block(f"{side}.mid.block_1", f"{side}/mid/res_1") + _block(f"{side}.mid.block_2", f"{side}/mid/res_2")
    rules += norm(f"{side}.mid.attn_1.norm", f"{side}/mid/attention/norm")
    for torch, flax in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
        rules += layer(f"{side}.mid.attn_1.{torch}", f"{side}/mid/attention/{flax}", POINTWISE2D)
    return rules


def _common(norm_out: str) -> tuple[Rule, ...]:
    rules = layer("quant_conv", "quant_conv", POINTWISE2D) + layer("post_quant_conv", "post_quant_conv", POINTWISE2D)
    for side in ("encoder", "decoder"):
        rules += layer(f"{side}.conv_in", f"{side}/conv_in", CONV2D)
        rules += layer(f"{side}.conv_out", f"{side}/conv_out", CONV2D)
        rules += norm(f"{side}.{norm_out}", f"{side}/norm_out")
    return rules


def original_rules(cfg: AutoencoderConfig) -> tuple[Rule, ...]:
    """Names of the original code (``encoder.down.0.block.0``); ``decoder.up.0`` is the finest level in both."""
    mult = list(cfg.channel_mult)
    down = "nin_shortcut" if _has_shortcut([1, *mult]) else None
    up = "nin_shortcut" if _has_shortcut([mult[-1], *reversed(mult)]) else None
    rules = _common("norm_out") + _original_middle("encoder") + _original_middle("decoder")
    rules += _block("encoder.down.{i}.block.{j}", "encoder/down_{i}_res_{j}", down)
    rules += _block("decoder.up.{i}.block.{j}", "decoder/up_{i}_res_{j}", up)
    if len(mult) > 1:
        rules += layer("encoder.down.{i}.downsample.conv", "encoder/down_{i}_downsample", CONV2D)
        rules += layer("decoder.up.{i}.upsample.conv", "decoder/up_{i}_upsample", CONV2D)
    return rules


_NAMES = ("to_q", "to_k", "to_v", "to_out.0")
_NAMES_BEFORE_0_17 = ("query", "key", "value", "proj_attn")


def _diffusers_middle(side: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    torch, flax = f"{side}.mid_block", f"{side}/mid"
    rules = _block(f"{torch}.resnets.0", f"{flax}/res_1") + _block(f"{torch}.resnets.1", f"{flax}/res_2")
    rules += norm(f"{torch}.attentions.0.group_norm", f"{flax}/attention/norm")
    for name, to in zip(names, ("q", "k", "v", "out"), strict=True):
        rules += layer(f"{torch}.attentions.0.{name}", f"{flax}/attention/{to}", LINEAR)
    return rules


def diffusers_rules(cfg: AutoencoderConfig, *, before_0_17: bool = False) -> tuple[Rule, ...]:
    """Names of diffusers; its ``up_blocks.0`` is the coarsest level, so each level has its own rules.

    Before version 0.17 the middle's attention had other names.
    """
    mult, names = list(cfg.channel_mult), _NAMES_BEFORE_0_17 if before_0_17 else _NAMES
    levels, rules = len(mult), _common("conv_norm_out")
    rules += _diffusers_middle("encoder", names) + _diffusers_middle("decoder", names)
    before = [1, *mult[:-1]]
    after = [*mult[1:], mult[-1]]  # the decoder enters level i from the next coarser one
    for i in range(levels):
        rules += _level(f"encoder.down_blocks.{i}", f"encoder/down_{i}", before[i] != mult[i])
        rules += _level(f"decoder.up_blocks.{levels - 1 - i}", f"decoder/up_{i}", after[i] != mult[i])
        if i < levels - 1:
            rules += layer(f"encoder.down_blocks.{i}.downsamplers.0.conv", f"encoder/down_{i}_downsample", CONV2D)
        if i > 0:
            rules += layer(f"decoder.up_blocks.{levels - 1 - i}.upsamplers.0.conv", f"decoder/up_{i}_upsample", CONV2D)
    return rules


def _level(torch: str, flax: str, shortcut: bool) -> tuple[Rule, ...]:
    return _block(f"{torch}.resnets.{{j}}", f"{flax}_res_{{j}}", "conv_shortcut" if shortcut else None)


RULES = original_rules(AutoencoderConfig())
