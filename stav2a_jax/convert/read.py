"""Opening a checkpoint: a file, a sharded one, or a folder, as a lazy mapping of keys to arrays with their own dtype.

.safetensors is read without torch; .bin, .pt, .pth and .ckpt through torch, tensors only. Shapes are known without
reading a number, and reading holds one tensor at a time.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from stav2a_jax.convert.torch_file import check_archive, read_torch
from stav2a_jax.tensors import Progress, Tensors, read_safetensors
from stav2a_jax.types import UserError

PREFERRED = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin.index.json",
)
"""Names that transformers and diffusers give to weights, the first that a folder has is taken."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
MODULE = "module."
"""What DataParallel puts before every key."""


class Checkpoint(NamedTuple):
    """An opened checkpoint.

    path: as given. files: the files that hold the weights. tensors: keys without ``module.``. config: the config.json
    beside the weights, or {}. nest: name of the entry that held the state dict, or "". module: whether ``module.``
    stood before every key. named_config: whether the config was named rather than found.
    """

    path: pathlib.Path
    files: tuple[pathlib.Path, ...]
    tensors: Tensors
    config: dict[str, Any]
    nest: str
    module: bool
    named_config: bool


def open_checkpoint(path: str | pathlib.Path, config: pathlib.Path | None = None) -> Checkpoint:
    """Open a weights file, an index of shards, or a folder with one of them. Raises UserError, naming what is wrong.

    ``config`` is read instead of a config.json that lies beside the weights.
    """
    path = pathlib.Path(path)
    file = find_weights(path)
    files, tensors, nest = _open_index(file) if file.name.endswith(".index.json") else _open_file(file)
    if not tensors:
        raise UserError(f"{file} holds no tensors: give the file with the model's weights")
    module = all(key.startswith(MODULE) for key in tensors)
    beside = file.parent / "config.json"
    settings = read_json(config or beside) if config or beside.is_file() else {}
    tensors = tensors.under(MODULE) if module else tensors
    return Checkpoint(path, files, tensors, settings, nest, module, config is not None)


def find_weights(path: pathlib.Path) -> pathlib.Path:
    """The file with the weights of a folder, or the file itself."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"no such file or folder: {path}")
    for name in PREFERRED:
        if (path / name).is_file():
            return path / name
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found)
        raise UserError(f"{path} holds several files with weights ({names}): give one of them instead of the folder")
    raise UserError(f"{path} holds no weights: no file ending in {', '.join(SUFFIXES)}")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object of a file, or UserError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read as JSON ({e})") from e
    if not isinstance(data, dict):
        raise UserError(f"{path} is no JSON object but a {type(data).__name__}")
    return data


def _open_file(path: pathlib.Path) -> tuple[tuple[pathlib.Path, ...], Tensors, str]:
    """Decided by what the file is, not by its name: safetensors, or a zip or pickle of torch."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
        if head[8:9] == b"{" and head[:2] != b"PK":
            return (path,), read_safetensors(path), ""
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e})") from e
    if not head.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is neither a safetensors nor a PyTorch file ({_guess(head)})")
    return (path,), *read_torch(path)


def _guess(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: fetch the real file with git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page: the download went wrong"
    return "its first bytes are unknown: it is damaged or something else"


def _open_index(path: pathlib.Path) -> tuple[tuple[pathlib.Path, ...], Tensors, str]:
    """Shards named by an index; every key must be in the shard that the index says."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path} is no index of shards: it has no weight_map")
    names = sorted({str(name) for name in places.values()})
    outside = [name for name in names if pathlib.Path(name).name != name]
    if outside:
        raise UserError(f"{path} names a shard outside its folder ({outside[0]}), which is not followed")
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise UserError(f"{path} names {len(absent)} shards that are not there, {absent[0]} among them: fetch them too")
    shards = {name: _open_file(path.parent / name)[1] for name in names}
    lost = sorted(key for key, name in places.items() if key not in shards[name])
    if lost:
        raise UserError(f"{places[lost[0]]} lacks {lost[0]}, which {path.name} says it has: fetch the shards again")
    tensors = Tensors({key: shards[name].entries[key] for key, name in places.items()})
    return tuple(path.parent / name for name in names), tensors, ""


def verify(checkpoint: Checkpoint, progress: Progress = lambda done: None) -> None:
    """Compare stored checksums with the data, where the files have them; UserError for a damaged one."""
    for file in checkpoint.files:
        check_archive(file, progress)


def sha256(path: pathlib.Path, progress: Progress = lambda done: None) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
