"""ControlNet: names of the reference's ``ControlNetMultiModel``."""

from __future__ import annotations

from stav2a_jax.config import UNetConfig
from stav2a_jax.convert.rules import CONV2D, POINTWISE2D, Rule, layer, translate
from stav2a_jax.convert.tables.unet import MODULES as UNET_MODULES
from stav2a_jax.convert.tables.unet import encoder_rules

MODULES: tuple[tuple[str, str], ...] = (
    *UNET_MODULES,
    ("controlnet_cond_embedding", "control_in"),
    ("controlnet_down_blocks.{i}", "residual_{i}"),
    ("controlnet_mid_block", "residual_mid"),
)


def module_path(torch: str) -> str | None:
    """PyTorch module path -> ours, or None where we have no such module."""
    return translate(torch, MODULES)


def controlnet_rules(cfg: UNetConfig) -> tuple[Rule, ...]:
    """The whole table: the U-Net's encoder and middle, the control's convolution, the residuals' 1x1 convolutions."""
    return (
        *encoder_rules(cfg),
        *layer("controlnet_cond_embedding.conv_out", "control_in/conv", CONV2D),
        *layer("controlnet_down_blocks.{i}", "residual_{i}", POINTWISE2D),
        *layer("controlnet_mid_block", "residual_mid", POINTWISE2D),
    )
