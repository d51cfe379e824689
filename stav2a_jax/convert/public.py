"""The public PyTorch classes with our parameters in them: what an exported file is for.

Needs PyTorch and diffusers (extra ``parity``), which are imported when a function here is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from stav2a_jax.config import UNetConfig
from stav2a_jax.convert.rules import Rule, to_torch
from stav2a_jax.convert.tables.controlnet import controlnet_rules
from stav2a_jax.convert.tables.unet import unet_rules
from stav2a_jax.types import Params


def public_unet(cfg: UNetConfig, params: Params) -> Any:
    """diffusers' ``UNet2DConditionModel`` with the parameters of our U-Net, every key of both sides used."""
    import diffusers

    ups = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(cfg.attention)]
    module = diffusers.UNet2DConditionModel(out_channels=cfg.channels, up_block_types=ups, **diffusers_options(cfg))
    return load(module, params, unet_rules(cfg))


def public_controlnet(cfg: UNetConfig, params: Params, bins: int) -> Any:
    """diffusers' ``ControlNetModel`` with the parameters of our ControlNet, for latents of ``bins`` frequency bins.

    The release has a convolution in place of the public class's image encoder; everything else is the public class.
    ``controlnet_cond`` is (B, T, C), as ours.
    """
    import diffusers
    import torch

    class Condition(torch.nn.Module):
        """(B, T, C) -> repeated over the bins, 3x3 convolution -> (B, width, T, bins)."""

        def __init__(self) -> None:
            super().__init__()
            self.conv_out = torch.nn.Conv2d(cfg.control_channels, cfg.block_out_channels[0], 3, padding=1)

        def forward(self, control: torch.Tensor) -> torch.Tensor:
            return self.conv_out(control.transpose(1, 2)[..., None].repeat(1, 1, 1, bins))

    module: Any = diffusers.ControlNetModel(conditioning_embedding_out_channels=(16,), **diffusers_options(cfg))
    module.controlnet_cond_embedding = Condition()
    return load(module, params, controlnet_rules(cfg))


def diffusers_options(cfg: UNetConfig) -> dict[str, Any]:
    """The options that both classes share. ``attention_head_dim`` is a number of heads."""
    return {
        "in_channels": cfg.channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in cfg.attention],
        "block_out_channels": cfg.block_out_channels,
        "layers_per_block": cfg.layers_per_block,
        "cross_attention_dim": cfg.cross_attention_dim,
        "attention_head_dim": cfg.num_heads,
        "norm_num_groups": cfg.norm_groups,
        "use_linear_projection": cfg.linear_projection,
    }


def load(module: Any, params: Params, rules: Sequence[Rule]) -> Any:
    """``module`` in eval mode with our parameters, loaded with ``strict=True``."""
    import torch

    flat = {key: np.asarray(value) for key, value in flatten_dict(params, sep="/").items()}
    state = to_torch(flat, rules)
    module.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    return module.eval()
