"""Rules for VGGish: keys of torchvggish's ``vggish-10086976.pth``, which was made from AudioSet's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.convert.rules import CONV2D, Rule, layer, to_flax
from stav2a_jax.models.vggish import FRAMES, Vggish, VggishConfig
from stav2a_jax.types import Params

_CONVOLUTIONS = {0: "conv1_1", 3: "conv2_1", 6: "conv3_1", 8: "conv3_2", 11: "conv4_1", 13: "conv4_2"}
_DENSE = {0: "fc1", 2: "fc2", 4: "fc3"}

VGGISH: tuple[Rule, ...] = (
    *(rule for i, name in _CONVOLUTIONS.items() for rule in layer(f"features.{i}", name, CONV2D)),
    *(rule for i, name in _DENSE.items() for rule in layer(f"embeddings.{i}", name)),
)
"""``Vggish``. Its reshape before the first dense layer keeps TensorFlow's order, as the PyTorch port's does."""

PCA: tuple[Rule, ...] = tuple(
    Rule(key, None, why="PCA and quantisation of YouTube-8M; FAD is on the plain embedding")
    for key in ("pproc.pca_matrix", "pproc.pca_means")
)


def vggish_params(state: Mapping[str, np.ndarray], config: VggishConfig | None = None) -> Params:
    """Parameters of :class:`Vggish` from a PyTorch state dict; ConversionError where keys or shapes differ."""
    config = config or VggishConfig()
    inputs = jnp.zeros((1, FRAMES, config.mel_bins))
    shapes = jax.eval_shape(Vggish(config).init, jax.random.key(0), inputs)["params"]
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()}
    rules = VGGISH + tuple(rule for rule in PCA if rule.torch in state)
    return unflatten_dict(to_flax(state, rules, expected), sep="/")
