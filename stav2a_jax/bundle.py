"""A bundle: one folder with weights (safetensors), config, tokenizer and model card.

config.json            ModelConfig, sampling defaults, provenance
weights.safetensors    float16 or float32, keys "group/module/.../leaf"
tokenizer.json         of the text encoder
README.md              the card: data, command, scores, licence
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from stav2a_jax.config import GuidanceConfig, ModelConfig, from_dict, to_dict
from stav2a_jax.types import Params, UserError

DEFAULT = "foley-tiny"
GROUPS = ("autoencoder", "vocoder", "video", "text", "unet", "controlnet", "local", "onset", "pooling")
"""Module groups that every bundle holds; ``t2a``, the U-Net of text alone, is optional."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Loaded model: configs, float32 parameters by group, and where it came from."""

    name: str
    folder: pathlib.Path
    model: ModelConfig
    guidance: GuidanceConfig
    params: Params
    info: dict[str, Any]


def save_params(path: pathlib.Path, params: Params, dtype: Any = np.float32) -> None:
    """Write a parameter tree atomically; floating leaves are cast to ``dtype``."""
    flat = {k: np.ascontiguousarray(np.asarray(v).astype(dtype)) for k, v in flatten_dict(params, sep="/").items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file(flat, temporary)
    os.replace(temporary, path)


def load_params(path: pathlib.Path) -> Params:
    """Parameter tree of a safetensors file, as float32."""
    return unflatten_dict({k: v.astype(np.float32) for k, v in load_file(path).items()}, sep="/")


def save_bundle(
    folder: pathlib.Path,
    model: ModelConfig,
    guidance: GuidanceConfig,
    params: Params,
    tokenizer: pathlib.Path,
    info: dict[str, Any],
    card: str,
) -> None:
    """Write a bundle folder; the config comes last, so that a folder with a config is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / "weights.safetensors", params, np.float16)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (folder / "README.md").write_text(card)
    text = json.dumps({"model": to_dict(model), "guidance": to_dict(guidance), "info": info}, indent=1)
    temporary = folder / "config.json.part"
    temporary.write_text(text + "\n")
    os.replace(temporary, folder / "config.json")


def find_bundle(name: str) -> pathlib.Path:
    """Folder of a bundle given by path or by the name of one that comes with the package."""
    inside = pathlib.Path(str(importlib.resources.files("stav2a_jax"))) / "bundles"
    for folder in (pathlib.Path(name), inside / name):
        if (folder / "config.json").is_file():
            return folder
    known = sorted(p.parent.name for p in inside.glob("*/config.json"))
    raise UserError(
        f"unknown bundle {name!r}: it is neither a folder with a config.json nor one of the bundled models "
        f"({', '.join(known) or 'none is installed'})"
    )


def load_bundle(name: str = DEFAULT) -> Bundle:
    """Read a bundle by name or path. Raises UserError where it is missing or damaged."""
    folder = find_bundle(name)
    try:
        data = json.loads((folder / "config.json").read_text())
        model = from_dict(ModelConfig, data["model"])
        guidance = from_dict(GuidanceConfig, data["guidance"])
        info = dict(data["info"])
        params = load_params(folder / "weights.safetensors")
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as e:
        raise UserError(f"the bundle {str(folder)!r} cannot be read ({e}); make or fetch it again") from e
    missing = sorted(set(GROUPS) - set(params))
    if missing:
        raise UserError(f"the bundle {str(folder)!r} lacks the weights of {', '.join(missing)}; make or fetch it again")
    return Bundle(folder.name, folder, model, guidance, params, info)
