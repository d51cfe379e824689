"""The benchmark from clips to report."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stav2a_jax.data import foley
from stav2a_jax.foley_benchmark import figures, published, sounds
from stav2a_jax.foley_benchmark.figures import World
from stav2a_jax.foley_benchmark.judge import RATE, Judge, JudgeConfig, Judged, Show, make_judge
from stav2a_jax.foley_benchmark.published import Published, Scorer
from stav2a_jax.foley_benchmark.sounds import Film, Studio, Wanted
from stav2a_jax.pipeline import VideoToAudio

FORMAT = "stav2a-foley-benchmark 2"
PARTS = ("t2a", "swap", "baselines", *published.GROUPS)
"""What can be left out: the text-to-audio model alone, swapped videos, the baselines, and groups of published metrics.
Events and materials of the full model are always there."""
BREAKDOWN_OF = ("aa_f1", "av_f1", "kl_objects_soundnet", "kl_softmax_panns")
"""Published scores that the breakdowns show as well."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Which clips, which parts, and where things are kept. ``work``: folder of finished sounds and measurements, which
    another run finds again. ``sampling``: options of ``VideoToAudio.generate``, None for the bundle's own. ``weights``:
    backbone -> file or folder, as for ``stav2a evaluate``."""

    work: pathlib.Path
    seed: int = 0
    count: int = 200
    split: str = "test"
    batch: int = 8
    jobs: int = 1
    parts: tuple[str, ...] = PARTS
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)

    @property
    def published(self) -> tuple[str, ...]:
        """Groups of published metrics; captions against sounds only with CLAP's weights."""
        return tuple(g for g in published.GROUPS if g in self.parts and (g != "clap" or "clap" in self.weights))


Files = dict[str, list[pathlib.Path]]
"""Name of a system -> its sound of every clip."""


def run(model: VideoToAudio, settings: Settings, show: Show = lambda what, done, total: None) -> dict[str, Any]:
    """All numbers, JSON-ready; docs/foley.md has the protocol, docs/benchmark.md the fields."""
    published.check(settings.published, settings.weights)
    clock: dict[str, float] = {}
    world = figures.make_world([foley.make_clip(settings.seed, settings.split, i) for i in range(settings.count)])
    settings.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run.", dir=settings.work) as name:
        folder = pathlib.Path(name)
        with _timed(clock, "judge"):
            judge = make_judge(settings.seed, show, settings.judge)
        with _timed(clock, "films"):
            (folder / "films").mkdir()
            films = sounds.shoot(world.clips, folder / "films", show)
        with _timed(clock, "generation"):
            files = _generate(model, settings, world, films, show)
        with _timed(clock, "events and materials"):
            true = [foley.render_audio(clip, RATE) for clip in world.clips]
            waves = {"true": true} | _baselines(world, settings)
            heard = {name: judge.hear(waves[name]) for name in waves}
            heard |= {name: judge.hear(sounds.read_waves(paths)) for name, paths in files.items()}
        with _timed(clock, "published metrics"):
            scored = _published(folder, settings, world, waves, files, show)
    return _report(model, settings, world, heard, scored, judge, clock)


@contextlib.contextmanager
def _timed(clock: dict[str, float], part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    clock[part] = round(time.monotonic() - start, 1)


def _generate(model: VideoToAudio, settings: Settings, world: World, films: Sequence[Film], show: Show) -> Files:
    """The bundle's sounds: as asked, without the video, and of each clip's text with the video of its partner."""
    studio = Studio(model, settings.work / "sounds", settings.batch, show)
    captions = [clip.caption for clip in world.clips]

    def of(films: Sequence[Film], title: str, **more: Any) -> list[pathlib.Path]:
        wanted = [Wanted(film, text, i) for i, (film, text) in enumerate(zip(films, captions, strict=True))]
        return studio.make(wanted, title, **settings.sampling, **more)

    files = {"full": of(films, "full model")}
    if "t2a" in settings.parts and "t2a" in model.bundle.params:  # a bundle may leave the text-to-audio model out
        files["text_only"] = of(films, "text only", text_only=True)
    if "swap" in settings.parts:
        files["swapped"] = of([films[j] for j in world.partners], "swapped")
    return files


def _baselines(world: World, settings: Settings) -> dict[str, list[np.ndarray]]:
    """One knock at every true time; as many at random times; the true sounds of other clips."""
    if "baselines" not in settings.parts:
        return {}
    lengths = [clip.seconds for clip in world.clips]
    drawn = sounds.random_times(world.clips, settings.seed)
    return {
        "times_true": [sounds.knocks(t, s) for t, s in zip(world.truth, lengths, strict=True)],
        "times_random": [sounds.knocks(t, s) for t, s in zip(drawn, lengths, strict=True)],
        "other_clips": sounds.of_other_clips(world.clips),
    }


def _published(
    folder: pathlib.Path,
    settings: Settings,
    world: World,
    waves: Mapping[str, Sequence[np.ndarray]],
    files: Files,
    show: Show,
) -> dict[str, Published]:
    """Published metrics of every system but the swapped one, whose truth is another's."""
    if not settings.published:
        return {}
    names, captions = [sounds.name_of(c) for c in world.clips], [c.caption for c in world.clips]
    options = {
        "cache": settings.work / "measurements",
        "metrics": settings.published,
        "weights": settings.weights,
        "jobs": settings.jobs,
    }
    scorer = Scorer(folder, names, captions, folder / "films", options, show)
    reference = scorer.write("true", waves["true"])
    folders = {name: scorer.link(name, paths) for name, paths in files.items() if name != "swapped"}
    folders |= {name: scorer.write(name, waves[name]) for name in waves if name != "true"}
    return {name: scorer.score(path, reference) for name, path in folders.items()}


def _report(
    model: VideoToAudio,
    settings: Settings,
    world: World,
    heard: Mapping[str, Judged],
    scored: Mapping[str, Published],
    judge: Judge,
    clock: Mapping[str, float],
) -> dict[str, Any]:
    full, nothing = heard["full"], Published({}, {}, {})
    of_full = scored.get("full", nothing)
    detailed = {key: of_full.per_clip[key] for key in BREAKDOWN_OF if key in of_full.per_clip}
    picture = world.rows(lambda c: not c.text_names_material)
    return {
        "format": FORMAT,
        "version": importlib.metadata.version("stav2a_jax"),
        "n": settings.count,
        "seed": settings.seed,
        "split": settings.split,
        "bundle": model.bundle.name,
        "sampling": dict(settings.sampling),
        **figures.events_of("", world, full),
        **figures.materials_of("", world, full),
        **_kl(world, heard),
        **_bounds(world, heard, settings),
        **_prior(world, heard.get("text_only")),
        **(figures.swaps(world, heard["swapped"]) if "swapped" in heard else _absent(SWAPS)),
        "confusion_picture": figures.confusion(world, full, picture),
        "systems": {
            name: _system(world, heard[name], scored.get(name, nothing)) for name in heard if name != "swapped"
        },
        "skipped": of_full.skipped,
        "detector_threshold": judge.detector.threshold,
        "seconds": dict(clock),
        **{group: figures.breakdown(world, full, group, detailed) for group in figures.GROUPS},
        "clips": [_clip(world, full, i) for i in world.own],
    }


SWAPS = (
    "swap_event_f1_new_video",
    "swap_event_f1_old_video",
    "swap_material_new_text",
    "swap_material_new_text_against_picture",
)
PRIOR = ("event_f1_100ms", "event_f1_shuffled", "material_text", "material_picture")


def _absent(names: Sequence[str]) -> dict[str, Any]:
    return {k: v for name in names for k, v in figures.entries(name, None).items()}


def _kl(world: World, heard: Mapping[str, Judged]) -> dict[str, Any]:
    """KL of the materials that the classifier hears, and the same against the true sound of another clip."""
    out = figures.entries("material_kl", figures.material_kl(heard["true"], heard["full"], world.own))
    chance = figures.material_kl(heard["true"], heard["full"], world.partners)
    return out | {"material_kl_shuffled": None if chance is None else figures.number(chance.value)}


def _bounds(world: World, heard: Mapping[str, Judged], settings: Settings) -> dict[str, Any]:
    """What chance and the true sound score."""
    true, own = heard["true"], world.own
    drawn = sounds.random_times(world.clips, settings.seed)
    rows = {
        "event_f1_random": figures.f1_of(figures.timing(world, drawn, own, own)),
        "ceiling_f1_100ms": figures.f1_of(figures.timing(world, true.events, own, own)),
        "ceiling_f1_50ms": figures.f1_of(figures.timing(world, true.events, own, own, figures.NARROW)),
        "classifier_on_truth": figures.share(world, own, true.materials),
    }
    out = {k: v for name, figure in rows.items() for k, v in figures.entries(name, figure).items()}
    return out | {"chance_material": 1.0 / len(foley.MATERIALS)}


def _prior(world: World, heard: Judged | None) -> dict[str, Any]:
    """The text-to-audio model alone."""
    if heard is None:
        return _absent([f"t2a_{name}" for name in PRIOR])
    every = figures.events_of("t2a_", world, heard) | figures.materials_of("t2a_", world, heard)
    return {k: v for k, v in every.items() if k.startswith(tuple(f"t2a_{name}" for name in PRIOR))}


def _system(world: World, heard: Judged, scored: Published) -> dict[str, Any]:
    return figures.events_of("", world, heard) | figures.materials_of("", world, heard) | {"metrics": scored.metrics}


def _clip(world: World, heard: Judged, i: int) -> dict[str, Any]:
    """Facts of a clip with which its score can be checked by hand."""
    clip = world.clips[i]
    return {
        "name": sounds.name_of(clip),
        "seconds": clip.seconds,
        "scene": clip.scene,
        "tags": list(clip.tags),
        "material": clip.material,
        "heard": heard.materials[i],
        "true_times": [round(float(t), 4) for t in world.truth[i]],
        "found_times": [round(float(t), 4) for t in heard.events[i]],
    }
