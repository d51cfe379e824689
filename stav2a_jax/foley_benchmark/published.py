"""The published metrics on the benchmark's sounds, by the same code as ``stav2a evaluate``."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.audio import wav
from stav2a_jax.evaluation import backbones
from stav2a_jax.evaluation.inputs import Options
from stav2a_jax.evaluation.run import evaluate
from stav2a_jax.foley_benchmark.judge import RATE, Show
from stav2a_jax.types import UserError

GROUPS = ("aa", "av", "fd", "kl", "is", "kid", "fad", "clap")
"""Of the published metrics; those whose weights are missing are left out with the reason."""


class Published(NamedTuple):
    """metrics: name -> entry of a report of ``stav2a evaluate`` without per-clip values; per_clip: metric -> a value
    for every clip in order, NaN where there is none; skipped: metric or backbone -> why it is not here."""

    metrics: dict[str, dict[str, Any]]
    per_clip: dict[str, list[float]]
    skipped: dict[str, str]


def check(groups: Sequence[str], weights: Mapping[str, pathlib.Path]) -> None:
    """Raises UserError, before any work, for weights that are not what they should be, and where none of the wanted
    groups can be computed."""
    found = [
        backbones.load(name, weights.get(name)) for name in backbones.TITLES if name in weights or name == "soundnet"
    ]
    reasons = [network.reason for network in found if isinstance(network, backbones.Missing)]
    if groups and not {"aa", "av"} & set(groups) and len(reasons) == len(found):
        raise UserError(f"--metrics {' '.join(groups)} {'; '.join(reasons)}")


class Scorer:
    """Scores sets of sounds against the true ones; folders are laid out under ``folder`` as the evaluation wants."""

    def __init__(
        self,
        folder: pathlib.Path,
        names: Sequence[str],
        captions: Sequence[str],
        films: pathlib.Path,
        options: Mapping[str, Any],
        show: Show,
    ) -> None:
        """``films``: folder of NAME.mp4. ``options`` for ``evaluation.inputs.Options``: cache, metrics ..."""
        self.folder, self.names, self.films, self.options, self.show = folder, names, films, dict(options), show
        if "clap" in self.options.get("weights", {}):
            self.options["captions"] = folder / "captions.json"
            self.options["captions"].write_text(json.dumps(dict(zip(names, captions, strict=True))))

    def write(self, system: str, waves: Sequence[np.ndarray]) -> pathlib.Path:
        """The sounds as NAME.wav in a folder of the system's name."""
        target = self.folder / system
        target.mkdir()
        for name, wave in zip(self.names, waves, strict=True):
            wav.write(target / f"{name}.wav", wave, RATE, subtype="FLOAT")
        return target

    def link(self, system: str, paths: Sequence[pathlib.Path]) -> pathlib.Path:
        """The same of files that exist; they take no further room where the file system allows it."""
        target = self.folder / system
        target.mkdir()
        for name, path in zip(self.names, paths, strict=True):
            try:
                os.link(path, target / f"{name}.wav")
            except OSError:
                shutil.copy(path, target / f"{name}.wav")
        return target

    def score(self, generated: pathlib.Path, reference: pathlib.Path) -> Published:
        """Every wanted metric of a folder of sounds."""
        title = generated.name.replace("_", " ")
        options = Options(generated=generated, reference=reference, videos=self.films, **self.options)
        report = evaluate(options, lambda what, done, total: self.show(f"{title}: {what}", done, total)).report
        metrics = {k: {f: x for f, x in v.items() if f != "per_clip"} for k, v in report["metrics"].items()}
        per_clip = {}
        for key, value in report["metrics"].items():
            if value["per_clip"] is not None:
                scores = [value["per_clip"].get(name) for name in self.names]
                per_clip[key] = [float("nan") if x is None else x for x in scores]
        return Published(metrics, per_clip, report["skipped"])
