"""ControlNet over a per-frame control (paper sec. 2.3; torch: ControlNetMultiModel, arXiv 2302.05543).

A trainable copy of the U-Net's encoder and middle; its residuals are added to the U-Net's skips and middle.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from stav2a_jax.config import UNetConfig
from stav2a_jax.models.unet import Residuals, encode, fold_bins
from stav2a_jax.nn.attention import mask_bias
from stav2a_jax.nn.blocks import Conv3x3
from stav2a_jax.types import Params


class ControlNet(nn.Module):
    """Residuals for a U-Net of the same config; all exactly 0 at initialisation.

    x (B, T, F, C) noisy latent; t (B,) int timestep; context (B, L, D); mask (B, L) 1 = keep, or None for all (the
    release: it attends to padding too); control (B, T, control_channels). N conditions of the same latents go in as
    with the U-Net; the control then has N B rows, or B where it is the same in all. Raises ValueError as the U-Net
    does, and where the control's shape is another.

    Shapes: -> ((B, T', F', C') for each skip of the U-Net, in order), (B, T'', F'', C'') for its middle, or N B rows.
    """

    cfg: UNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, context: jax.Array, mask: jax.Array | None, control: jax.Array
    ) -> Residuals:
        cfg = self.cfg
        want = (x.shape[1], cfg.control_channels)
        if control.shape[1:] != want or control.shape[0] not in (x.shape[0], context.shape[0]):
            raise ValueError(f"{control.shape=}, expected {(x.shape[0], *want)} for latents of shape {x.shape}")
        x = fold_bins(cfg, x)
        condition = ControlEmbedding(cfg.block_out_channels[0], self.dtype, name="control_in")(control, x.shape[2])
        h, _, skips = encode(cfg, self.dtype, x, t, context.astype(self.dtype), mask_bias(mask), condition, self.remat)

        def zero_dense(y: jax.Array, name: str) -> jax.Array:  # a 1x1 convolution
            return nn.Dense(y.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype, name=name)(y)

        return tuple(zero_dense(s, f"residual_{i}") for i, s in enumerate(skips)), zero_dense(h, "residual_mid")


class ControlEmbedding(nn.Module):
    """The control repeated over ``bins`` frequency bins, then a zero-initialised 3x3 convolution.

    control (B, T, K) -> (B, T, bins, channels). The input is constant along frequency, so every inner bin has the
    same answer: three bins are computed (first, inner, last) and the inner one is repeated.
    """

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, control: jax.Array, bins: int) -> jax.Array:
        b, t, k = control.shape
        x = jnp.broadcast_to(control[:, :, None].astype(self.dtype), (b, t, min(bins, 3), k))
        x = Conv3x3(self.channels, self.dtype, zero=True, name="conv")(x)
        if bins <= 3:
            return x
        inner = jnp.broadcast_to(x[:, :, 1:2], (b, t, bins - 2, self.channels))
        return jnp.concatenate([x[:, :, :1], inner, x[:, :, 2:]], axis=2)


def init_from_unet(unet_params: Mapping[str, Params], controlnet_params: Mapping[str, Params]) -> dict[str, Params]:
    """ControlNet parameters whose encoder and middle are the U-Net's; the zero-initialised rest stays as it is.

    Raises ValueError where a copied part has other shapes, i.e. where the two were built from different configs.
    """
    own = {name for name in controlnet_params if name == "control_in" or name.startswith("residual_")}
    out = {name: controlnet_params[name] if name in own else unet_params.get(name) for name in controlnet_params}
    shapes = [jax.tree.map(jnp.shape, dict(tree)) for tree in (controlnet_params, out)]
    wrong = sorted(name for name in out if shapes[0][name] != shapes[1][name])
    if wrong:
        raise ValueError(f"the U-Net's {', '.join(wrong)} do not fit the ControlNet; build both from one config")
    return out
