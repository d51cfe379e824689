"""Training and scoring the rows, each once: what is done is found again on disk.

OUT/shared/STAGE, OUT/shared/given   vae, vocoder and cavp: trained here, or taken from a run; with what they derive
OUT/seed_K/STAGE                     what rows begin with: a config trained for one budget
OUT/seed_K/ROW, OUT/seed_K/ROW_xM    the run of a row, its last stage trained for M budgets, and its bundle
OUT/seed_K/ROW/heard.json            what the judge heard in its sounds, clip by clip
OUT/sounds/                          the sounds
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console

from stav2a_jax.ablation.table import ORDER, Heard
from stav2a_jax.audio.onsets import onset_times
from stav2a_jax.config import Config
from stav2a_jax.data import foley
from stav2a_jax.foley_benchmark.judge import RATE, Judge, JudgeConfig, Show, make_judge
from stav2a_jax.foley_benchmark.sounds import Studio, Wanted, checksum, read_waves, shoot
from stav2a_jax.metrics.align import released_aa_align
from stav2a_jax.pipeline import VideoToAudio
from stav2a_jax.training import initial, recipe
from stav2a_jax.training.stages.cavp import derive_features
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import atomic

OWN = ("seed", *(f"stages.{stage}.{name}" for stage in ("t2a", "onset", "stav2a") for name in ("steps", "valid_every")))
"""Settings that the ladder itself gives its rows."""
SHARED = ("vae", "vocoder", "cavp")
"""Stages that all rows and seeds have in common."""
DENOISING = ("t2a", "stav2a")
"""Stages that train to denoise: a row's budget is the sum of theirs."""
JUDGE = JudgeConfig(classifier=200, calibration=60)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """What to train and how long. ``steps`` is for a stage; the last one of a row takes as many times that as make all
    rows train to denoise equally long. ``assignments`` go to every config, as by ``--set``. ``given``: a run whose
    ``vae``, ``vocoder`` and ``cavp`` are taken, as far as it has finished them. ``clips`` of ``seconds`` s of the split
    ``test`` are sampled in ``sampling_steps``."""

    configs: pathlib.Path
    out: pathlib.Path
    cache: pathlib.Path
    seeds: tuple[int, ...]
    steps: int
    clips: int
    seconds: float = 4.0
    sampling_steps: int = 10
    given: pathlib.Path | None = None
    assignments: tuple[str, ...] = ()

    def rows(self) -> list[str]:
        """Names of the configs of the folder, the paper's rows first and in its order."""
        found = {path.stem for path in self.configs.glob("*.py")}
        if not found:
            raise UserError(f"no configs in {self.configs}: give the folder of the rows (configs/tiny/ablation)")
        return [name for name in ORDER if name in found] + sorted(found - set(ORDER))

    def run(self, console: Console, show: Show) -> dict[str, list[list[Heard]]]:
        """Train, sample and listen to whatever is not done; row -> seed by seed, what was heard in every clip.

        Raises UserError for an assignment of what the ladder sets itself, and for rows made with other settings.
        """
        for text in self.assignments:
            if text.split("=")[0] in OWN:
                raise UserError(f"--set {text}: the ablation sets this itself, by --seeds and --steps")
        self.out.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str((self.out / "compiled").absolute()))
        trainer, listener = Trainer(self, console), Listener(self, show)
        total, done = len(self.rows()) * len(self.seeds), 0
        budgets = trainer.budgets(self.rows())
        heard: dict[str, list[list[Heard]]] = {name: [] for name in self.rows()}
        for seed in self.seeds:
            for name in self.rows():
                done += 1
                console.rule(f"{done} of {total}: {name}, seed {seed}")
                heard[name].append(listener.listen(trainer.ready(name, seed, budgets[name]), seed))
                jax.clear_caches()  # of programs that no other row runs
        return heard


class Trainer:
    """Trains a config, and first whatever it takes from others."""

    def __init__(self, ladder: Ladder, console: Console) -> None:
        self._ladder, self._console = ladder, console

    def budgets(self, rows: Sequence[str]) -> dict[str, int]:
        """How many budgets the last stage of every row takes, so that all of them train to denoise as long as the one
        with the most stages: a model that was trained longer would be better for that alone."""
        stages = {name: self._denoising(name) for name in rows}
        return {name: max(stages.values()) - n + 1 for name, n in stages.items()}

    def _denoising(self, name: str) -> int:
        """Stages of a config, and of what it begins with, that train to denoise."""
        cfg = self._config(name, 0)
        taken = initial.parse(cfg.recipe.init, "recipe.init")
        taken |= initial.parse(cfg.recipe.start, "recipe.start", initial.TRAINED)
        before = {pathlib.Path(taken[stage][0]).name for stage in DENOISING if stage in taken}
        own = sum(stage in DENOISING for stage in recipe.to_train(cfg))
        return own + max(map(self._denoising, before), default=0)

    def ready(self, name: str, seed: int, budgets: int = 1) -> pathlib.Path:
        """The folder of a finished run of a config of the folder of the rows, or of the folder above it, whose last
        stage has been trained for ``budgets`` times the steps."""
        known = name if budgets == 1 else f"{name}_x{budgets}"
        folder = self._ladder.out / ("shared" if name in SHARED else f"seed_{seed}") / known
        cfg = self._config(name, seed, budgets)
        ws = Workspace(cfg, folder, self._ladder.cache)
        row = recipe.to_train(cfg)
        for stage in filter(ws.done, row):
            ws.claim(stage)  # made with other settings, it is no row of this table
        if not all(ws.done(stage) for stage in row):
            for stage, names in initial.parse(cfg.recipe.init, "recipe.init").items():
                initial.adopt(ws, stage, [str(self._source(stage, names, seed))])
            for stage, names in initial.parse(cfg.recipe.start, "recipe.start", initial.TRAINED).items():
                initial.start(ws, stage, [str(self._source(stage, names, seed))])
            recipe.train(ws, [], self._console)
        lacking = [stage for stage in recipe.needed(cfg) if not ws.done(stage)]
        if not lacking and not (folder / "bundle" / "config.json").exists():
            recipe.make_bundle(ws, folder / "bundle", f"stav2a ablation --config-dir {self._ladder.configs}")
        return folder

    def _config(self, name: str, seed: int, budgets: int = 1) -> Config:
        ladder = self._ladder
        path = ladder.configs / f"{name}.py"
        path = path if path.is_file() else ladder.configs.parent / f"{name}.py"
        cfg = recipe.load_config(path, [f"seed={0 if name in SHARED else seed}", *ladder.assignments])
        row = [stage for stage in recipe.to_train(cfg) if stage not in SHARED]
        budget = {"steps": ladder.steps, "valid_every": max(1, ladder.steps // 4)}
        longer = {stage: dataclasses.replace(getattr(cfg.stages, stage), **budget) for stage in row}
        if row:
            longer[row[-1]] = dataclasses.replace(longer[row[-1]], steps=budgets * ladder.steps)
        return dataclasses.replace(cfg, stages=dataclasses.replace(cfg.stages, **longer))

    def _source(self, stage: str, names: Sequence[str], seed: int) -> pathlib.Path:
        """The folder that stands for the one that a config names, trained now if it is not there."""
        return self._given if stage in SHARED else self.ready(pathlib.Path(names[0]).name, seed)

    @functools.cached_property
    def _given(self) -> pathlib.Path:
        """A run with the shared stages, and what they make of the clips: derived once for all rows."""
        ladder = self._ladder
        ws = Workspace(self._config(ladder.rows()[-1], 0), ladder.out / "shared" / "given", ladder.cache)
        for stage in SHARED:
            if not ws.done(stage):
                there = ladder.given is not None and (ladder.given / stage / "result.json").is_file()
                source = ladder.given if there else self.ready(stage, 0)
                initial.adopt(ws, stage, [str(source)])
                self._console.print(f"{stage}: from {source}")
        derive_latents(ws)
        derive_features(ws, "cavp")
        return ws.root


class Listener:
    """Makes the sounds of a finished row, and writes down what is heard in them."""

    def __init__(self, ladder: Ladder, show: Show) -> None:
        self._ladder, self._show = ladder, show
        self._clips = [foley.make_clip(0, "test", i, ladder.seconds) for i in range(ladder.clips)]

    def listen(self, row: pathlib.Path, seed: int) -> list[Heard]:
        """What is heard in the sounds of every clip."""
        path, bundle = row / "heard.json", checksum(sorted(p for p in (row / "bundle").iterdir() if p.is_file()))
        how = [self._ladder.clips, self._ladder.seconds, self._ladder.sampling_steps, bundle]
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if found.get("how") != how:
            found = {"how": how, "clips": [h._asdict() for h in self._heard(row, seed)]}
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1))
        return [Heard(**line) for line in found["clips"]]

    def _heard(self, row: pathlib.Path, seed: int) -> list[Heard]:
        ladder = self._ladder
        studio = Studio(VideoToAudio.from_bundle(row / "bundle"), ladder.out / "sounds", 8, self._show)
        films = shoot(self._clips, self._films, self._show)
        wanted = [Wanted(film, clip.caption, i) for i, (film, clip) in enumerate(zip(films, self._clips, strict=True))]
        waves = read_waves(studio.make(wanted, row.name, steps=ladder.sampling_steps, seed=seed))
        judged, lines = self._judge.hear(waves), []
        for clip, wave, events, material in zip(self._clips, waves, judged.events, judged.materials, strict=True):
            true = onset_times(foley.render_audio(clip, RATE), RATE)
            align = released_aa_align(true, onset_times(wave, RATE))
            times = [event.time for event in clip.events], [float(t) for t in events]
            lines.append(Heard(*times, material=clip.material, heard=material, aa_align=align))
        return lines

    @functools.cached_property
    def _judge(self) -> Judge:
        return make_judge(0, self._show, JUDGE)

    @functools.cached_property
    def _films(self) -> pathlib.Path:
        folder = self._ladder.out / "films"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
