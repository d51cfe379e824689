"""``stav2a evaluate``: pairs, measurements, scores, one report."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.audio.onsets import ANALYSIS_RATE
from stav2a_jax.evaluation import backbones, scores, tasks
from stav2a_jax.evaluation.cache import FeatureCache, Features
from stav2a_jax.evaluation.catalogue import IMPORTED, entry
from stav2a_jax.evaluation.files import Pair, some
from stav2a_jax.evaluation.inputs import Options, read_inputs
from stav2a_jax.evaluation.measure import Measurer, Show
from stav2a_jax.evaluation.scores import Draws, Metric, Tracks
from stav2a_jax.metrics.align import trajectory_peaks
from stav2a_jax.metrics.flow import motion_peaks
from stav2a_jax.metrics.flow_cache import RELEASED
from stav2a_jax.types import UserError

FORMAT = "stav2a-evaluate 1"


class Readable(NamedTuple):
    """The pairs whose two sounds could be read, what was measured on these, and why the others could not."""

    pairs: list[Pair]
    generated: list[Features]
    reference: list[Features]
    failed: dict[str, str]
    notes: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        return [pair.name for pair in self.pairs]


def _read_all(measurer: Measurer, pairs: Sequence[Pair]) -> Readable:
    """Raises UserError where no pair is left."""
    paths = [path for pair in pairs for path in (pair.generated, pair.reference)]
    measurer.look_at(paths)
    results = measurer.sounds(paths)
    out = Readable([], [], [], {}, {})
    for pair in pairs:
        ours, true = results[pair.generated], results[pair.reference]
        bad = [f"{role}: {r}" for role, r in (("generated", ours), ("reference", true)) if isinstance(r, str)]
        if isinstance(ours, str) or isinstance(true, str):
            out.failed[pair.name] = "; ".join(bad)
            continue
        out.pairs.append(pair)
        out.generated.append(ours)
        out.reference.append(true)
        if found := remarks(ours, true, measurer.crop):
            out.notes[pair.name] = found
    if not out.pairs:
        raise UserError(f"not one pair could be read: {some([f'{k} ({v})' for k, v in out.failed.items()], 5)}")
    return out


def remarks(generated: Features, reference: Features, crop: float | None) -> list[str]:
    """What is odd about a pair that is scored all the same, one sentence each."""
    out = []
    for role, sound in (("generated", generated), ("reference", reference)):
        seconds = float(sound["seconds"])
        if sound["peak"] < tasks.SILENCE:
            out.append(f"{role}: silent (peak {float(sound['peak']):.1e} of full scale)")
        if sound["clipped"] >= tasks.CLIPPED:
            out.append(f"{role}: clipped ({100 * float(sound['clipped']):.1f} % of the samples at full scale)")
        if sound["missing"] > tasks.SHORT:
            out.append(f"{role}: cut short, it says more than the {seconds:.2f} s that it holds")
        if crop is not None and seconds < crop - tasks.SHORT:
            out.append(f"{role}: {seconds:.2f} s, shorter than the crop of {crop:g} s")
    ours, true = (_length(sound, crop) for sound in (generated, reference))
    if abs(ours - true) > tasks.SHORT:
        out.append(f"lengths differ: generated {ours:.2f} s, reference {true:.2f} s")
    return out


def _length(sound: Features, crop: float | None) -> float:
    seconds = float(sound["seconds"])
    return seconds if crop is None else min(seconds, crop)


class Evaluation(NamedTuple):
    """report: JSON-ready, docs/evaluation.md has its fields. work: measurement -> [made now, from the cache]. pairs:
    those that were scored."""

    report: dict[str, Any]
    work: dict[str, list[int]]
    pairs: list[Pair]


def evaluate(options: Options, show: Show = lambda what, done, total: None) -> Evaluation:
    """Measures what is not known yet and scores all pairs.

    Files that cannot be read are named in ``failed`` and count in no number, odd ones in ``notes``; only what concerns
    the whole run raises UserError. Measurements are kept as they are made: an interrupted run goes on where it was.
    """
    inputs = read_inputs(options)
    measurer = Measurer(FeatureCache(options.cache), options.crop, options.jobs, show)
    read = _read_all(measurer, inputs.pairs)
    metrics: dict[str, Metric] = {}
    curves: dict[str, Any] = {}
    peaks: dict[str, np.ndarray] = {}
    if "aa" in inputs.wanted:
        found, curves["aa"] = _against_sounds(read, options)
        metrics |= _named(found, tasks.ONSETS, None, ANALYSIS_RATE, options.crop)
    if "av" in inputs.wanted:
        found, curves["av"], peaks = _against_films(measurer, read, options)
        metrics |= _named(found, f"{tasks.ONSETS}, {tasks.FLOW}", None, ANALYSIS_RATE, options.crop)
    if "events" in inputs.wanted and inputs.truth is not None:
        found = _against_truth(measurer, read, inputs.truth, options)
        metrics |= _named(found, "metrics/events.py", None, tasks.EVENT_RATE, options.crop)
    for network in inputs.networks:
        features = measurer.embeddings(network, [p for pair in read.pairs for p in (pair.generated, pair.reference)])
        sides = [features[p.generated] for p in read.pairs], [features[p.reference] for p in read.pairs]
        if network.name == "clap":
            found = _against_captions(options, read, *sides, inputs.captions or {})
        else:
            found = scores.of_backbone(network.name, read.names, *sides, inputs.wanted, options.draws)
        metrics |= _named(found, network.title, network.checksum, network.sample_rate, options.crop)
    for key, (values, digest) in inputs.imported.items():
        found = {key: scores.mean_metric(read.names, [values[name] for name in read.names], options.draws)}
        metrics |= _named(found, f"scores in {options.scores[key].name}", digest, None, None, IMPORTED)
    head = {
        "format": FORMAT,
        "version": importlib.metadata.version("stav2a_jax"),
        "generated": str(options.generated),
        "reference": str(options.reference),
        "crop": options.crop,
        "pairs": len(inputs.pairs),
        "used": len(read.pairs),
        "resamples": options.draws.resamples,
        "seed": options.draws.seed,
    }
    body = {
        "metrics": metrics,
        "curves": curves,
        "by_class": _by_class(metrics, read.names, inputs.classes, options.draws),
        "failed": read.failed,
        "notes": read.notes,
        "skipped": inputs.skipped,
        "clips": _clips(read, peaks, inputs.classes),
    }
    return Evaluation(head | body, measurer.work, read.pairs)


def _lengths(read: Readable, crop: float | None) -> list[tuple[float, float]]:
    return [(_length(true, crop), _length(ours, crop)) for ours, true in zip(read.generated, read.reference)]


def _against_sounds(read: Readable, options: Options) -> tuple[dict[str, Metric], list[dict[str, Any]]]:
    generated, reference = ([sound["onsets"] for sound in side] for side in (read.generated, read.reference))
    tracks = Tracks(read.names, reference, generated, _lengths(read, options.crop))
    return scores.alignment("aa", tracks, options.draws)


def _against_films(
    measurer: Measurer, read: Readable, options: Options
) -> tuple[dict[str, Metric], list[dict[str, Any]], dict[str, np.ndarray]]:
    """(metrics, curve, motion peaks by name); a film that cannot be read is noted, and its clip left out here."""
    lengths, film, own = _lengths(read, options.crop), [], {}
    seen = []
    for i, (name, found) in enumerate(measurer.motions(read.pairs).items()):
        if isinstance(found, str):
            read.notes.setdefault(name, []).append(f"film: {found}; left out of AV-Align")
            continue
        trajectory, times = found
        part = trajectory.first(options.crop)
        film.append((trajectory_peaks(part.values, part.fps, RELEASED.floor), part.fps))
        own[name] = motion_peaks(part, times[: len(part.values)])
        seen.append(i)
    onsets = [read.generated[i]["onsets"] for i in seen]
    true = [read.reference[i]["onsets"] for i in seen]
    tracks = Tracks(list(own), list(own.values()), onsets, [lengths[i] for i in seen], film, true)
    metrics, curve = scores.alignment("av", tracks, options.draws)
    for value in metrics.values():
        value["undefined"] += len(read.pairs) - len(seen)
    return metrics, curve, own


def _against_truth(
    measurer: Measurer, read: Readable, truth: Mapping[str, np.ndarray], options: Options
) -> dict[str, Metric]:
    results = measurer.events([pair.generated for pair in read.pairs])
    limit = np.inf if options.crop is None else options.crop
    found = [results[pair.generated] for pair in read.pairs]
    events = [np.zeros(0) if isinstance(result, str) else result["events"] for result in found]
    times = [truth[name][truth[name] < limit] for name in read.names]
    return scores.events(read.names, times, events, options.draws)


def _against_captions(
    options: Options,
    read: Readable,
    ours: Sequence[Features],
    true: Sequence[Features],
    captions: Mapping[str, str],
) -> dict[str, Metric]:
    text, names = backbones.open_clap(options.weights["clap"]).text, read.names
    rows = [text([captions[name] for name in names[k : k + 32]]) for k in range(0, len(names), 32)]
    cosine, own = ((np.concatenate(rows) * scores.stacked(side, "embedding")).sum(axis=1) for side in (ours, true))
    return {"clap": scores.mean_metric(names, cosine, options.draws, true_sound=float(own.mean()))}


def _named(
    found: Mapping[str, Metric],
    backbone: str,
    checksum: str | None,
    rate: int | None,
    crop: float | None,
    family: str | None = None,
) -> dict[str, Metric]:
    """The metrics with what every number must say of itself."""
    origin = {"backbone": backbone, "checksum": checksum, "sample_rate": rate, "crop": crop}
    out = {}
    for key, value in found.items():
        about = entry(key)
        says = {"title": about.title, "family": family or about.family, "better": about.better, "unit": about.unit}
        out[key] = value | says | origin
    return out


def _by_class(
    metrics: Mapping[str, Metric], names: Iterable[str], classes: Mapping[str, str] | None, draws: Draws
) -> dict[str, dict[str, Metric]]:
    """Per class the means of all metrics that are means over clips."""
    groups: dict[str, list[str]] = {}
    for name in names if classes is not None else ():
        groups.setdefault((classes or {})[name], []).append(name)
    out: dict[str, dict[str, Metric]] = {}
    for label, members in sorted(groups.items()):
        out[label] = {}
        for key, value in metrics.items():
            if value["per_clip"] is None or entry(key).group in ("is", "events"):
                continue
            values = [value["per_clip"].get(name) for name in members]
            mean = scores.mean_metric(members, [np.nan if v is None else v for v in values], draws)
            out[label][key] = {k: mean[k] for k in ("value", "interval", "n", "undefined")}
    return out


def _clips(
    read: Readable, peaks: Mapping[str, np.ndarray], classes: Mapping[str, str] | None
) -> dict[str, dict[str, Any]]:
    """Facts and peak times of every clip, so that any score can be checked by hand."""
    out: dict[str, dict[str, Any]] = {}
    for pair, ours, true in zip(read.pairs, read.generated, read.reference, strict=True):
        clip: dict[str, Any] = {"generated": _facts(pair.generated, ours), "reference": _facts(pair.reference, true)}
        if pair.film is not None and pair.name in peaks:
            clip["film"] = {"file": pair.film.name, "peaks": [round(float(t), 6) for t in peaks[pair.name]]}
        if classes is not None:
            clip["class"] = classes[pair.name]
        out[pair.name] = clip
    return out


def _facts(path: pathlib.Path, sound: Features) -> dict[str, Any]:
    return {
        "file": path.name,
        "seconds": round(float(sound["seconds"]), 6),
        "sample_rate": int(sound["rate"]),
        "channels": int(sound["channels"]),
        "peak": round(float(sound["peak"]), 6),
        "onsets": [round(float(t), 6) for t in sound["onsets"]],
    }
