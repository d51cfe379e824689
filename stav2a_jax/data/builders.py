"""tensorflow-datasets builders of prepared sets: ``vggsound`` and ``foley``: local files, array_record, no TensorFlow.

Importing this module registers the names: ``tfds.builder("vggsound", data_dir=OUT, file_format="array_record")`` then
opens a set that ``stav2a prepare`` has made. To read one, ``tfds.builder_from_directory`` needs no registration.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from stav2a_jax.data.records import Field
from stav2a_jax.types import UserError

Examples = Callable[[], Any]
"""() -> iterator of (id, record), or a Beam transform that gives such pairs."""

VERSION = "1.0.0"


class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set whose records are given from outside.

    Args:
      splits: what to write, by split; only ``download_and_prepare`` needs it.
      fields: of a record (``data.records``). Without them the set must be there already.
      info: goes into metadata.json, see ``records.Records``.
    """

    VERSION = tfds.core.Version(VERSION)
    url_infos: Mapping[str, Any] = {}  # nothing is downloaded; the library's own look-up needs importlib_resources

    def __init__(
        self,
        *,
        splits: Mapping[str, Examples] | None = None,
        fields: Mapping[str, Field] | None = None,
        info: Mapping[str, Any] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._given, self._fields, self._metadata = splits, fields, dict(info or {})
        if fields is None:
            self._fields, self._metadata = _found(pathlib.Path(data_dir or "."), self.name)
        super().__init__(data_dir=data_dir, **{"file_format": "array_record", **options})

    def _info(self) -> tfds.core.DatasetInfo:
        assert self._fields is not None
        listed = {name: [field.dtype, list(field.shape)] for name, field in self._fields.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clips with sound, caption, onsets and features, made by stav2a prepare.",
            features=tfds.features.FeaturesDict({name: _feature(field) for name, field in self._fields.items()}),
            metadata=tfds.core.MetadataDict({**self._metadata, "fields": listed}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        if not self._given:
            raise UserError(f"{self.name} is made by stav2a prepare; there is nothing to download.")
        return {split: self._generate_examples(split) for split in self._given}

    def _generate_examples(self, split: str) -> Any:
        assert self._given is not None
        return self._given[split]()


class Vggsound(Prepared):
    """VGGSound, or a folder of own videos."""


class Foley(Prepared):
    """Generated clips (docs/foley.md)."""


BUILDERS: dict[str, type[Prepared]] = {"vggsound": Vggsound, "foley": Foley}


def _feature(field: Field) -> Any:
    if field.dtype == "text":
        return tfds.features.Text()
    if not field.shape:
        return tfds.features.Scalar(np.dtype(field.dtype))
    return tfds.features.Tensor(shape=field.shape, dtype=np.dtype(field.dtype))


def _found(data_dir: pathlib.Path, name: str) -> tuple[dict[str, Field], dict[str, Any]]:
    path = data_dir / name / VERSION / "metadata.json"
    try:
        info = json.loads(path.read_text())
    except OSError:
        raise UserError(f"{path.parent} holds no prepared set; make one with stav2a prepare.") from None
    return {k: Field(dtype, tuple(shape)) for k, (dtype, shape) in info.pop("fields").items()}, info


def write_set(builder: Prepared, **options: Any) -> dict[str, int]:
    """Write the shards; records by split. ``options`` go to ``download_and_prepare`` (Beam's, for example)."""
    with _quiet():
        builder.download_and_prepare(**options)
    return {name: int(split.num_examples) for name, split in builder.info.splits.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library prints to stdout and draws bars of its own."""
    tfds.disable_progress_bar()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
