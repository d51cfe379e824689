"""A text encoder's folder: a local one, or fetched from the Hugging Face hub by name."""

from __future__ import annotations

import pathlib
import re

from stav2a_jax.tokenizer import FILES, Tokenizer
from stav2a_jax.types import UserError

SMALL = ("config.json", *FILES)
WEIGHTS = (("model*.safetensors*",), ("pytorch_model*.bin*",))
"""What is fetched of the weights, the first of these that exists."""


def text_encoder_folder(name: str, *, weights: bool) -> pathlib.Path:
    """Folder with config and tokenizer, and with weights where they are asked for; UserError where it cannot be had."""
    local = pathlib.Path(name)
    if local.is_dir():
        return local
    if local.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"no such folder: {name} (give a folder, or a name on the hub like google/mt5-large)")
    folder = _fetch(name, SMALL)
    if weights:
        for patterns in WEIGHTS:
            folder = _fetch(name, patterns)
            if any(any(folder.glob(pattern)) for pattern in patterns):
                break
    return folder


def _fetch(name: str, patterns: tuple[str, ...]) -> pathlib.Path:
    try:
        from huggingface_hub import snapshot_download

        return pathlib.Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as e:  # whatever the network and the hub's client come up with
        why = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"{name} is no folder here and could not be fetched from the hub ({why[:150]}): give a local folder"
        ) from e


def find_tokenizer(folder: pathlib.Path, vocabulary: int) -> pathlib.Path:
    """The tokenizer's file, read once to see that it works and fits an embedding of so many rows."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no tokenizer: it needs {' or '.join(FILES)}")
    size = Tokenizer.load(path).vocab_size
    if size > vocabulary:
        raise UserError(f"{path} has {size} tokens and the text encoder {vocabulary}: it belongs to another model")
    return path
