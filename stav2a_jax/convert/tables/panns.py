"""Rules for PANNs' Cnn14 at 16 kHz: keys of ``Cnn14_16k_mAP=0.438.pth`` (below "model" in the file)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.convert.rules import CONV2D, ConversionError, Problem, Rule, layer, norm, to_flax
from stav2a_jax.models.panns import N_FFT, Cnn14, PannsConfig
from stav2a_jax.types import Params

_FRONT = "a constant of the front end, which is computed here"


def _frozen_norm(torch: str, flax: str) -> tuple[Rule, ...]:
    return (
        *norm(torch, flax),
        Rule(f"{torch}.running_mean", f"{flax}/mean"),
        Rule(f"{torch}.running_var", f"{flax}/var"),
        Rule(f"{torch}.num_batches_tracked", None, why="counts training batches; frozen statistics do not need it"),
    )


PANNS: tuple[Rule, ...] = (
    Rule("spectrogram_extractor.stft.conv_real.weight", None, why=_FRONT),
    Rule("spectrogram_extractor.stft.conv_imag.weight", None, why=_FRONT),
    Rule("logmel_extractor.melW", None, why=_FRONT),
    *_frozen_norm("bn0", "norm"),
    *(
        rule
        for i in (1, 2)
        for rule in (
            *layer(f"conv_block{{b}}.conv{i}", f"block{{b}}/conv{i}", CONV2D, bias=False),
            *_frozen_norm(f"conv_block{{b}}.bn{i}", f"block{{b}}/norm{i}"),
        )
    ),
    *layer("fc1", "fc1"),
    *layer("fc_audioset", "classes"),
)
"""``Cnn14``."""


def panns_params(state: Mapping[str, np.ndarray], config: PannsConfig | None = None) -> Params:
    """Parameters of :class:`Cnn14` from a PyTorch state dict.

    Raises ConversionError where keys or shapes differ, which includes the networks for 8 and 32 kHz: their weights
    would fit, but they heard another front end.
    """
    front = state.get("logmel_extractor.melW")
    if front is not None and len(front) != N_FFT // 2 + 1:
        text = f"logmel_extractor.melW: {len(front)} frequencies instead of {N_FFT // 2 + 1}; take the 16 kHz network"
        raise ConversionError([Problem(text, "shape", "logmel_extractor.melW")])
    config = config or PannsConfig()
    inputs = jnp.zeros((1, 2 ** len(config.channels), config.mel_bins)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(Cnn14(config).init, jax.random.key(0), *inputs)["params"]
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()}
    return unflatten_dict(to_flax(state, PANNS, expected), sep="/")
