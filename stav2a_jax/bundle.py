"""A bundle: one folder with weights (safetensors), config, tokenizer and model card.

config.json            ModelConfig, sampling defaults, provenance
weights.safetensors    float16, bfloat16 or float32, keys "group/module/.../leaf"
tokenizer.json         of the text encoder; or spiece.model
README.md              the card: data, command, scores, licence

A part of a model (a converted U-Net, say) is the same folder with fewer groups; :func:`load_part` reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.resources
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.config import GuidanceConfig, ModelConfig, from_dict, to_dict
from stav2a_jax.tensors import Progress, Tensors, read_safetensors, write_safetensors
from stav2a_jax.types import Params, UserError

DEFAULT = "foley-tiny"
GROUPS = ("autoencoder", "vocoder", "video", "text", "unet", "controlnet", "local", "onset", "pooling")
"""Module groups of the full model; ``t2a``, the U-Net of text alone, is optional."""


def groups_of(model: ModelConfig) -> tuple[str, ...]:
    """Module groups that the bundle of a model holds: those of :data:`GROUPS` that its conditions ask for."""
    control, tokens = model.conditions.control, model.conditions.global_tokens
    without: tuple[str, ...] = () if control else ("controlnet", "local", "onset")
    without += () if tokens else ("pooling",)
    without += () if control or tokens else ("video",)
    return tuple(group for group in GROUPS if group not in without)


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
    write_safetensors(
        path, Tensors.of({k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}).cast(dtype)
    )


def load_params(path: pathlib.Path, groups: Collection[str] | None = None) -> Params:
    """Parameter tree of a safetensors file, as float32; all of it, or the named groups that it has."""
    tensors = read_safetensors(path)
    if groups is not None:
        tensors = tensors.where(lambda key: key.partition("/")[0] in groups)
    return unflatten_dict({k: v.astype(np.float32, copy=False) for k, v in tensors.items()}, sep="/")


def save_bundle(
    folder: pathlib.Path,
    model: ModelConfig,
    guidance: GuidanceConfig,
    params: Params,
    tokenizer: pathlib.Path,
    info: dict[str, Any],
    card: str,
) -> None:
    """Write a bundle folder with float16 weights; see :func:`write_bundle`."""
    flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    write_bundle(folder, model, guidance, Tensors.of(flat).cast(np.dtype(np.float16)), tokenizer, info, card)


def write_bundle(
    folder: pathlib.Path,
    model: ModelConfig,
    guidance: GuidanceConfig,
    tensors: Tensors,
    tokenizer: pathlib.Path | None,
    info: dict[str, Any],
    card: str,
    progress: Progress = lambda done: None,
) -> None:
    """Write a bundle folder, one tensor in memory at a time, each in its own dtype.

    The config comes last, so that a folder with a config is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "weights.safetensors", tensors, progress=progress)
    if tokenizer is not None:
        name = tokenizer.name if tokenizer.suffix == ".model" else "tokenizer.json"
        (folder / name).write_bytes(tokenizer.read_bytes())
    (folder / "README.md").write_text(card)
    text = json.dumps({"model": to_dict(model), "guidance": to_dict(guidance), "info": info}, indent=1)
    temporary = folder / "config.json.part"
    temporary.write_text(text + "\n")
    os.replace(temporary, folder / "config.json")


@contextlib.contextmanager
def new_folder(folder: pathlib.Path, force: bool = False) -> Iterator[pathlib.Path]:
    """A temporary folder that becomes ``folder`` at the end, or is removed where something goes wrong.

    Raises UserError where ``folder`` is there and not empty, unless it is a bundle and ``force`` is given.
    """
    there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if there and not (force and (folder / "config.json").is_file()):
        advice = "choose another --out" + (" (--force replaces a bundle)" if folder.is_dir() else "")
        raise UserError(f"{folder} is already there: {advice}")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """Read a bundle by name or path. Raises UserError where it is missing or damaged.

    Weights with a licence that says so are announced on stderr, once per process.
    """
    bundle = load_part(name, (*GROUPS, "t2a"))
    missing = sorted(set(groups_of(bundle.model)) - set(bundle.params))
    if missing:
        raise UserError(
            f"the bundle {str(bundle.folder)!r} lacks the weights of {', '.join(missing)}; make or fetch it again"
        )
    return bundle


def load_part(name: str, groups: Collection[str]) -> Bundle:
    """A bundle with those of ``groups`` that it has, which may be a part of a model."""
    folder = find_bundle(name)
    try:
        model, guidance, info = read_settings(folder)
        params = load_params(folder / "weights.safetensors", groups)
    except (OSError, KeyError, ValueError, TypeError) as e:
        raise UserError(f"the bundle {str(folder)!r} cannot be read ({e}); make or fetch it again") from e
    _announce(folder, info)
    return Bundle(folder.name, folder, model, guidance, params, info)


def read_settings(folder: pathlib.Path) -> tuple[ModelConfig, GuidanceConfig, dict[str, Any]]:
    """(model, sampling, provenance) of a bundle's config.json."""
    data = json.loads((folder / "config.json").read_text())
    return from_dict(ModelConfig, data["model"]), from_dict(GuidanceConfig, data["guidance"]), dict(data["info"])


_announced: set[pathlib.Path] = set()


def _announce(folder: pathlib.Path, info: dict[str, Any]) -> None:
    notice = info.get("notice")
    if notice and folder.resolve() not in _announced:
        _announced.add(folder.resolve())
        print(f"{folder.name}: {notice}", file=sys.stderr)
