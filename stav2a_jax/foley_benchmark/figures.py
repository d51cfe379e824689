"""From what was heard to numbers with intervals. Pure: no files, no networks.

A figure is kept in the report under its name, beside NAME_interval (95 %, bootstrap over clips) and NAME_n (clips).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.data import foley
from stav2a_jax.foley_benchmark.judge import Judged
from stav2a_jax.metrics.align import corpus_score
from stav2a_jax.metrics.distribution import kl_divergence
from stav2a_jax.metrics.events import EventScores, event_scores

WINDOW, NARROW = 0.1, 0.05
RESAMPLES = 1000


class Figure(NamedTuple):
    """A number, its 95 % interval, and how many clips it is of."""

    value: float
    interval: tuple[float, float]
    n: int


@dataclasses.dataclass(frozen=True)
class World:
    """The clips, their true event times (s), and for each clip the number of the one whose video replaces its own."""

    clips: Sequence[foley.Clip]
    truth: Sequence[np.ndarray]
    partners: Sequence[int]

    @property
    def own(self) -> list[int]:
        return list(range(len(self.clips)))

    def rows(self, keep: Callable[[foley.Clip], bool]) -> list[int]:
        """Numbers of the clips for which ``keep`` holds."""
        return [i for i, clip in enumerate(self.clips) if keep(clip)]


def make_world(clips: Sequence[foley.Clip]) -> World:
    return World(clips, [np.array([e.time for e in c.events]) for c in clips], partners(clips))


def partners(clips: Sequence[foley.Clip]) -> list[int]:
    """Another clip for each: the next longer one, so that the two overlap in time; the longest gets the one before."""
    order = sorted(range(len(clips)), key=lambda i: (clips[i].seconds, i))
    after = {i: order[k + 1] if k + 1 < len(order) else order[k - 1] for k, i in enumerate(order)}
    return [after[i] for i in range(len(clips))]


def entries(name: str, figure: Figure | None) -> dict[str, Any]:
    """The figure as fields of the report; null where it is not defined."""
    if figure is None:
        return {name: None, f"{name}_interval": None, f"{name}_n": 0}
    low, high = (number(x) for x in figure.interval)
    return {name: number(figure.value), f"{name}_interval": [low, high], f"{name}_n": figure.n}


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def timing(
    world: World,
    events: Sequence[np.ndarray],
    seen: Sequence[int],
    held_against: Sequence[int],
    window: float = WINDOW,
    resamples: int = RESAMPLES,
) -> EventScores:
    """Events of sounds made for the videos ``seen``, against the truth of the clips ``held_against``, where both clips
    have time."""
    pairs = []
    for found, i, j in zip(events, seen, held_against, strict=True):
        limit, true = min(world.clips[i].seconds, world.clips[j].seconds), world.truth[j]
        pairs.append((true[true < limit], found[found < limit]))
    return event_scores(pairs, window, resamples=resamples)


def f1_of(score: EventScores) -> Figure:
    return Figure(score.f1, score.f1_interval, score.clips)


def share(world: World, rows: Sequence[int], names: Sequence[str | None]) -> Figure:
    """In which share of the clips ``rows`` the material was named rightly; a sound without an event is wrong."""
    return mean_of([float(names[i] == world.clips[i].material) for i in rows])


def mean_of(values: Sequence[float]) -> Figure:
    score = corpus_score(values, resamples=RESAMPLES)
    return Figure(score.mean, (score.low, score.high), score.n)


def events_of(name: str, world: World, heard: Judged) -> dict[str, Any]:
    """F1 at both windows, precision, recall, offset and chance level of sounds made for their own videos; ``name``
    goes before each key."""
    own = world.own
    wide, narrow = timing(world, heard.events, own, own), timing(world, heard.events, own, own, NARROW)
    shuffled = timing(world, heard.events, own, world.partners)
    figures = {
        "event_f1_100ms": f1_of(wide),
        "event_precision_100ms": Figure(wide.precision, wide.precision_interval, wide.clips),
        "event_recall_100ms": Figure(wide.recall, wide.recall_interval, wide.clips),
        "event_f1_50ms": f1_of(narrow),
        "event_f1_shuffled": f1_of(shuffled),
        "offset_ms": Figure(wide.median_abs_offset_ms, wide.offset_interval_ms, wide.clips),
    }
    return {k: v for key, figure in figures.items() for k, v in entries(name + key, figure).items()}


def materials_of(name: str, world: World, heard: Judged) -> dict[str, Any]:
    """Shares of clips whose material is heard rightly, by what names it; ``name`` goes before each key."""
    rows = {
        "material": world.own,
        "material_text": world.rows(lambda c: c.text_names_material),
        "material_picture": world.rows(lambda c: not c.text_names_material),
    }
    figures = {key: share(world, part, heard.materials) if part else None for key, part in rows.items()}
    return {k: v for key, figure in figures.items() for k, v in entries(name + key, figure).items()}


def material_kl(true: Judged, heard: Judged, pairs: Sequence[int]) -> Figure | None:
    """KL of the classifier's materials of true sound ``pairs[i]`` and of sound i, where both have events."""
    rows = [(true.log_probabilities[j], heard.log_probabilities[i]) for i, j in enumerate(pairs)]
    both = [(p, q) for p, q in rows if p is not None and q is not None]
    if not both:
        return None
    return mean_of(kl_divergence(np.stack([p for p, _ in both]), np.stack([q for _, q in both])).tolist())


def swaps(world: World, heard: Judged) -> dict[str, Any]:
    """Clip i's text with the video of its partner: whose events are heard, and whose material."""
    own, other = world.own, world.partners
    named = world.rows(lambda c: c.text_names_material)
    free = [i for i in named if not world.clips[other[i]].picture_shows_material]
    clash = [i for i in named if world.clips[other[i]].picture_shows_material]
    figures = {
        "swap_event_f1_new_video": f1_of(timing(world, heard.events, other, other)),
        "swap_event_f1_old_video": f1_of(timing(world, heard.events, other, own)),
        "swap_material_new_text": share(world, free, heard.materials) if free else None,
        "swap_material_new_text_against_picture": share(world, clash, heard.materials) if clash else None,
    }
    return {k: v for key, figure in figures.items() for k, v in entries(key, figure).items()}


GROUPS: Mapping[str, Callable[[foley.Clip], list[str]]] = {
    "by_scene": lambda c: [c.scene],
    "by_tag": lambda c: list(c.tags) or ["plain"],
    "by_material": lambda c: [c.material],
    "by_cue": lambda c: [_cue(c)],
    "by_events": lambda c: [_bin(len(c.events), (5, 9), ("2 to 4", "5 to 8", "9 and more"))],
    "by_length": lambda c: [_bin(c.seconds, (4, 6), ("2 to 4 s", "4 to 6 s", "6 to 10 s"))],
}
"""Breakdowns of the report: what makes a clip hard, from its metadata. A clip may have several labels."""


def _cue(clip: foley.Clip) -> str:
    both = clip.text_names_material and clip.picture_shows_material
    return "text and picture" if both else "text alone" if clip.text_names_material else "picture alone"


def _bin(value: float, edges: Sequence[float], names: Sequence[str]) -> str:
    return names[sum(value >= edge for edge in edges)]


def breakdown(
    world: World, heard: Judged, group: str, per_clip: Mapping[str, Sequence[float]] | None = None
) -> dict[str, dict[str, Any]]:
    """Label -> n, event F1 (also of all other clips together), offset, material, and means of ``per_clip`` scores."""
    labels = [GROUPS[group](clip) for clip in world.clips]
    out = {}
    for label in sorted({x for row in labels for x in row}):
        rows = [i for i in world.own if label in labels[i]]
        others = [i for i in world.own if label not in labels[i]]
        score = _among(world, heard, rows)
        out[label] = {"n": len(rows)} | entries("event_f1_100ms", f1_of(score))
        out[label]["event_f1_100ms_others"] = number(_among(world, heard, others, 0).f1) if others else None
        offset = Figure(score.median_abs_offset_ms, score.offset_interval_ms, score.clips)
        out[label] |= entries("offset_ms", offset) | entries("material", share(world, rows, heard.materials))
        for key, values in (per_clip or {}).items():
            out[label] |= entries(key, mean_of([values[i] for i in rows]))
    return out


def _among(world: World, heard: Judged, rows: Sequence[int], resamples: int = RESAMPLES) -> EventScores:
    return timing(world, [heard.events[i] for i in rows], rows, rows, resamples=resamples)


def confusion(world: World, heard: Judged, rows: Sequence[int]) -> dict[str, dict[str, int]]:
    """True material -> heard material ("none" without an event) -> clips."""
    out: dict[str, dict[str, int]] = {}
    for i in rows:
        row = out.setdefault(world.clips[i].material, {})
        heard_as = heard.materials[i] or "none"
        row[heard_as] = row.get(heard_as, 0) + 1
    return {material: out[material] for material in foley.MATERIALS if material in out}
