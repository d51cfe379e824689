"""What ``stav2a evaluate`` is given, checked before any work."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from stav2a_jax.evaluation import backbones, files
from stav2a_jax.evaluation.catalogue import GROUPS, METRICS
from stav2a_jax.evaluation.files import Pair, some
from stav2a_jax.evaluation.scores import Draws
from stav2a_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for. ``metrics``: groups of ``catalogue.GROUPS``, None for all that can be computed. ``weights``:
    backbone -> file or folder. ``scores``: name -> file of per-clip scores that another program measured."""

    generated: pathlib.Path
    reference: pathlib.Path
    cache: pathlib.Path
    videos: pathlib.Path | None = None
    captions: pathlib.Path | None = None
    classes: pathlib.Path | None = None
    events: pathlib.Path | None = None
    crop: float | None = None
    metrics: tuple[str, ...] | None = None
    weights: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    jobs: int = 1
    draws: Draws = dataclasses.field(default_factory=Draws)


class Inputs(NamedTuple):
    """Everything that was given, read and complete. ``skipped``: metric group or backbone -> why it cannot be used."""

    pairs: list[Pair]
    captions: dict[str, str] | None
    classes: dict[str, str] | None
    truth: dict[str, np.ndarray] | None
    imported: dict[str, tuple[dict[str, float], str]]
    wanted: set[str]
    networks: list[backbones.Backbone]
    skipped: dict[str, str]


def read_inputs(options: Options) -> Inputs:
    """Checks before any work. Raises UserError where an explicitly wanted metric lacks something that only the user
    has (captions, films, true times), where files do not pair, and where nothing can be computed."""
    pairs = files.pair_up(options.generated, options.reference, options.videos)
    names, asked = [pair.name for pair in pairs], options.metrics is not None
    captions = files.read_column(options.captions, "caption", names) if options.captions else None
    classes = files.read_column(options.classes, "class", names) if options.classes else None
    truth = files.read_events(options.events, names) if options.events else None
    imported = {key: files.read_scores(path, names) for key, path in options.scores.items()}
    wanted, skipped = set(GROUPS if options.metrics is None else options.metrics), {}
    lacking: dict[str, str] = {}
    if without := [pair.name for pair in pairs if pair.film is None]:
        lacking["av"] = (
            f"needs a film of every clip, there is none of {some(without, 5)} (--videos DIR names their folder)"
        )
    if truth is None:
        lacking["events"] = "needs the true times of all events (--events FILE)"
    if captions is None:
        lacking["clap"] = f"needs captions (--captions FILE); {backbones.FETCH['clap']}"
    for group in sorted(wanted & set(lacking)):
        if asked:
            raise UserError(f"--metrics {group} {lacking[group]}")
        skipped[group] = lacking[group]
        wanted.discard(group)
    networks = _networks(options, wanted, skipped)
    if taken := sorted(set(imported) & (set(METRICS) - {"clap"} | {n.name for n in networks})):
        raise UserError(f"--scores {taken[0]}=...: the name belongs to a metric that is computed here; choose another")
    if not networks and not imported and not wanted & {"aa", "av", "events"}:
        raise UserError("none of the wanted metrics can be computed: " + "; ".join(skipped.values()))
    return Inputs(pairs, captions, classes, truth, imported, wanted, networks, skipped)


def _networks(options: Options, wanted: set[str], skipped: dict[str, str]) -> list[backbones.Backbone]:
    """Those that a wanted metric needs and that have weights; SoundNet only where PANNs' are not given."""
    found = []
    for name in backbones.TITLES:
        keys = [key for key in METRICS if key == name or key.endswith(f"_{name}")]
        if not any(METRICS[key].group in wanted for key in keys):
            continue
        if name == "soundnet" and "panns" in options.weights and name not in options.weights:
            continue
        network = backbones.load(name, options.weights.get(name))
        if isinstance(network, backbones.Missing):
            skipped[name] = network.reason
        else:
            found.append(network)
    return found
