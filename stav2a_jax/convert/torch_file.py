"""PyTorch's own files (.bin, .pt, .pth, .ckpt): read through torch without running what a pickle asks for, and written.

The only module that imports torch; it does so when a file is opened.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from stav2a_jax.tensors import Entry, Progress, Tensors, replacing
from stav2a_jax.types import UserError

NESTS = ("state_dict", "model_state_dict", "model", "generator")
"""Names under which training scripts keep a state dict in a larger file."""


def import_torch(path: pathlib.Path) -> Any:
    """The torch module, or a UserError that says why it is needed."""
    try:
        import torch
    except ImportError as e:
        raise UserError(
            f'{path} is a PyTorch file, and PyTorch is not installed: install it (pip install "stav2a_jax[convert]"), '
            "or store the file as .safetensors"
        ) from e
    return torch


def read_torch(path: pathlib.Path) -> tuple[Tensors, str]:
    """(tensors, name of the entry that held them or "") of a file, mapped into memory rather than read.

    Raises UserError for a damaged file, for one that holds more than tensors and plain containers (whatever it asks
    for is not run), and for one that holds no state dict.
    """
    torch = import_torch(path)
    content = _load(torch, path)
    nest = ""
    if isinstance(content, Mapping):
        nest = next((n for n in NESTS if isinstance(content.get(n), Mapping)), "")
    state = content[nest] if nest else content
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} holds no state dict but {_kind(state)}: give the file with the model's weights")
    others = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise UserError(f"{path} holds no state dict: no tensor under {_some(others)}; give the file with the weights")
    return Tensors({str(key): _entry(torch, path, str(key), value) for key, value in state.items()}), nest


def _load(torch: Any, path: pathlib.Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)  # files from before PyTorch 1.6 cannot be mapped
        with torch.serialization.safe_globals(_inert()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as e:
        if asked := sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(e)))):
            raise UserError(
                f"{path} holds more than tensors ({_some(asked)}), which could run code and is never loaded: get a "
                "file with the state dict alone, from a source you trust"
            ) from e
        raise UserError(
            f"{path} holds a pickle that is no PyTorch weights file, damaged or made to run code; nothing of it was "
            "run: get it again, from a source you trust"
        ) from e
    except _BROKEN as e:
        raise _damaged(path, e) from e


_BROKEN = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError)
"""What torch and zipfile raise for a broken file, according to where it is broken."""


def _inert() -> list[Any]:
    """What training scripts leave beside the weights and cannot run anything: NumPy numbers, command-line settings."""
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *dtypes, argparse.Namespace]


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return UserError(f"{path} cannot be read as a PyTorch file, it is damaged or cut short ({why}): copy it again")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "nothing"
    return f"an object of type {type(value).__name__}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _dtypes(torch: Any) -> dict[Any, np.dtype]:
    names = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return {getattr(torch, name): np.dtype(name) for name in names} | {torch.bfloat16: np.dtype(ml_dtypes.bfloat16)}


def _entry(torch: Any, path: pathlib.Path, key: str, tensor: Any) -> Entry:
    dtype = _dtypes(torch).get(tensor.dtype)
    if dtype is None or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UserError(f"{path}: {key} is a {tensor.dtype} tensor of an unsupported kind; store it as float32")
    if tensor.untyped_storage().nbytes() < _span(tensor):
        raise UserError(f"{path}: {key} reaches beyond its data: the file is damaged, copy it again")

    def read() -> np.ndarray:
        plain = tensor.detach()
        return (plain.view(torch.int16) if tensor.dtype == torch.bfloat16 else plain).numpy().view(dtype)

    return Entry(tuple(tensor.shape), dtype, read)


def _span(tensor: Any) -> int:
    """Bytes of storage that a strided tensor needs."""
    if not tensor.numel():
        return 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.storage_offset() + last + 1) * tensor.element_size()


def check_archive(path: pathlib.Path, progress: Progress = lambda done: None) -> None:
    """Compare the checksums that PyTorch stores with the data; UserError where some of them differ.

    A mapped file is not checked by torch. Files can be saved without checksums; then all of them differ, and nothing
    is known.
    """
    if not zipfile.is_zipfile(path):
        return
    wrong, right = [], 0
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for info in archive.infolist():
                if _checksum(file, info, progress) == info.CRC:
                    right += 1
                else:
                    wrong.append(info.filename)
    except (zipfile.BadZipFile, *_BROKEN) as e:
        raise _damaged(path, e) from e
    if wrong and right:
        raise UserError(f"{path} is damaged: the data of {_some(wrong)} differ from their checksum; copy it again")


def _checksum(file: Any, info: zipfile.ZipInfo, progress: Progress) -> int:
    """CRC-32 of a record's data, which PyTorch stores uncompressed behind a local header of variable length."""
    file.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    file.seek(name + extra, 1)
    crc, left = 0, info.file_size
    while left and (block := file.read(min(left, 1 << 22))):
        crc, left = zlib.crc32(block, crc), left - len(block)
        progress(len(block))
    return crc


def write_torch(path: pathlib.Path, tensors: Tensors, nest: str = "", progress: Progress = lambda done: None) -> None:
    """Write a state dict with torch.save, under ``nest`` if given; tied copies share their storage, as in PyTorch.

    All tensors are in memory at once: torch.save takes the whole dict.
    """
    torch = import_torch(path)
    made: dict[int, Any] = {}
    state = {}
    for key, entry in tensors.entries.items():
        if id(entry) not in made:  # the same entry under two keys is a tied pair
            array = np.array(tensors[key], order="C")
            bits = array.view(np.int16) if array.dtype == ml_dtypes.bfloat16 else array
            tensor = torch.from_numpy(bits)
            made[id(entry)] = tensor.view(torch.bfloat16) if array.dtype == ml_dtypes.bfloat16 else tensor
            progress(array.nbytes)
        state[key] = made[id(entry)]
    with replacing(path) as temporary:
        torch.save({nest: state} if nest else state, temporary)
