"""Networks that only measure (Cnn14, VGGish): a PyTorch file into a folder that `stav2a evaluate --weights` takes.

They are no part of a model, so they need no config and no bundle.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from stav2a_jax.bundle import new_folder
from stav2a_jax.convert.read import open_checkpoint, sha256, verify
from stav2a_jax.convert.rules import ConversionError
from stav2a_jax.convert.tables.panns import panns_params
from stav2a_jax.convert.tables.vggish import vggish_params
from stav2a_jax.tensors import Tensors, write_safetensors
from stav2a_jax.types import Params, UserError


class Network(NamedTuple):
    """backbone: name in --weights; title; params: PyTorch state dict -> parameters."""

    backbone: str
    title: str
    params: Callable[[Mapping[str, np.ndarray]], Params]


NETWORKS = {
    "cnn14": Network("panns", "PANNs' Cnn14 at 16 kHz", panns_params),
    "vggish": Network("vggish", "VGGish", vggish_params),
}


def convert_network(name: str, path: pathlib.Path, folder: pathlib.Path, *, force: bool = False) -> str:
    """Write ``folder`` with weights.safetensors and config.json (what it is made from); returns the source's SHA-256.

    Raises UserError where the file is damaged or holds something else; nothing is left behind.
    """
    network, checkpoint = NETWORKS[name], open_checkpoint(path)
    verify(checkpoint)
    try:
        params = network.params(checkpoint.tensors)
    except ConversionError as error:
        more = f" and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
        raise UserError(f"{path} does not fit {network.title}: {error.problems[0]}{more}") from error
    flat = {f"{network.backbone}/{key}": np.asarray(value) for key, value in flatten_dict(params, sep="/").items()}
    if bad := [key for key, value in flat.items() if not np.isfinite(value).all()]:
        raise UserError(f"{path}: {bad[0]} holds NaN or infinity: the file is damaged, copy it again")
    digest = sha256(checkpoint.files[0])
    source = {"family": name, "file": checkpoint.files[0].name, "sha256": digest}
    with new_folder(folder, force) as temporary:
        write_safetensors(temporary / "weights.safetensors", Tensors.of(flat))
        part = temporary / "config.json.part"
        part.write_text(json.dumps({"network": network.backbone, "source": source}, indent=1) + "\n")
        os.replace(part, temporary / "config.json")
    return digest
