"""What was measured on a file, kept on disk under the file's content; nothing is ever found under a folder's name."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from stav2a_jax.video.mux import atomic

Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """A folder of .npz files. Several processes may use it: entries are written whole, and a damaged one is remade."""

    folder: pathlib.Path

    def path(self, content: str, what: str) -> pathlib.Path:
        """``content``: checksum of the file that was measured; ``what``: the measurement with all its settings."""
        key = hashlib.sha256(f"{content} {what}".encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.npz"

    def get(self, content: str, what: str) -> Features | None:
        """The arrays of an entry, None where there is none."""
        try:
            with open(self.path(content, what), "rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, content: str, what: str, features: Mapping[str, np.ndarray]) -> None:
        """Write an entry. Raises UserError where the folder cannot be written."""
        with atomic(self.path(content, what)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **features)  # type: ignore[arg-type]


def default_folder() -> pathlib.Path:
    """The user's cache folder ($STAV2A_CACHE moves it)."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "stav2a_jax"
    return pathlib.Path(os.environ.get("STAV2A_CACHE", home)) / "evaluate"
