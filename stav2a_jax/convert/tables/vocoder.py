"""HiFi-GAN generator: the original names, and those of transformers' ``SpeechT5HifiGan``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stav2a_jax.convert.rules import CONV1D, Layout, Rule, layer, permute

CONV_TRANSPOSE1D: Layout = permute(2, 1, 0)
"""(I, O, K) -> (K, O, I): what Flax's ConvTranspose holds with ``transpose_kernel=True``."""


def _rules(upsampler: str) -> tuple[Rule, ...]:
    return (
        layer("conv_pre", "conv_pre", CONV1D)
        + layer("conv_post", "conv_post", CONV1D)
        + layer(f"{upsampler}.{{i}}", "up_{i}", CONV_TRANSPOSE1D)
        + layer("resblocks.{i}.convs1.{j}", "resblock_{i}/conv1_{j}", CONV1D)
        + layer("resblocks.{i}.convs2.{j}", "resblock_{i}/conv2_{j}", CONV1D)
    )


RULES = _rules("ups")

TRANSFORMERS_RULES = (
    *_rules("upsampler"),
    Rule("mean", None, why="normalisation of the mel, off in AudioLDM (normalize_before false)"),
    Rule("scale", None, why="normalisation of the mel, off in AudioLDM (normalize_before false)"),
)


def fold_weight_norm(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """State with every weight-normalised weight made plain: g v / |v|, the norm over all axes but the first.

    Understands PyTorch's old names (``weight_g``, ``weight_v``) and new ones (``parametrizations.weight.original0``,
    ``original1``). Other entries pass through; the way back does not exist, a plain weight is a valid checkpoint.
    """
    pairs = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
    out = dict(state)
    for size, direction in pairs:
        for key in [k for k in state if k.endswith(direction)]:
            name = key.removesuffix(direction)
            v, g = np.asarray(out.pop(key)), np.asarray(out.pop(name + size))
            length = np.sqrt(np.sum(np.square(v, dtype=np.float64), axis=tuple(range(1, v.ndim)), keepdims=True))
            out[f"{name}.weight"] = (g * (v / length)).astype(v.dtype)
    return out
