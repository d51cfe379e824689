"""What is listened to: a bundle's sounds, kept on disk under what they depend on, and the sounds of baselines."""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from stav2a_jax.audio import wav
from stav2a_jax.data import foley
from stav2a_jax.foley_benchmark.judge import RATE, Show
from stav2a_jax.pipeline import VideoToAudio
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import write_video

SIZE, FPS = 128, 25.0
"""Pixels and pictures per second of the films; a system reads them at its own."""
CODE = ("audio", "diffusion", "models", "nn", "video", "bundle.py", "config.py", "pipeline.py", "tokenizer.py")
"""Parts of the package that decide what a bundle answers: a change in them is another sound."""


class Film(NamedTuple):
    """A silent mp4 on disk and the checksum of its content."""

    path: pathlib.Path
    checksum: str


class Wanted(NamedTuple):
    """A sound to be made: for which film and text, with the noise of which number."""

    film: Film
    prompt: str
    number: int


def shoot(clips: Sequence[foley.Clip], folder: pathlib.Path, show: Show) -> list[Film]:
    """Every clip as a silent mp4 in ``folder``, named by its split and index."""
    films = []
    for i, clip in enumerate(clips):
        path = folder / f"{name_of(clip)}.mp4"
        write_video(path, foley.render_video(clip, SIZE, FPS), FPS)
        films.append(Film(path, checksum([path])))
        show("films", i + 1, len(clips))
    return films


def name_of(clip: foley.Clip) -> str:
    return f"{clip.split}_{clip.index:06d}"


def checksum(paths: Iterable[pathlib.Path]) -> str:
    """SHA-256 of the files' contents in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def code_checksum() -> str:
    """Of the modules in ``CODE`` and of jax's version."""
    root = pathlib.Path(__file__).parents[1]
    files = [p for name in CODE for p in (sorted((root / name).rglob("*.py")) or [root / name]) if p.is_file()]
    return hashlib.sha256(f"{jax.__version__} {checksum(files)}".encode()).hexdigest()


class Studio:
    """A model with the folder where its sounds are kept. Files appear whole or not at all: an interrupted run goes on
    where it was, and what has been made with the same bundle, film, text, number and options is not made again."""

    def __init__(self, model: VideoToAudio, folder: pathlib.Path, batch: int, show: Show) -> None:
        self.model, self.folder, self.batch, self.show = model, folder, batch, show
        self.bundle = checksum(sorted(p for p in pathlib.Path(model.bundle.folder).iterdir() if p.is_file()))
        self._read = functools.cache(model.read)

    def path(self, wanted: Wanted, options: Mapping[str, Any]) -> pathlib.Path:
        """Where the sound is kept."""
        facts = [code_checksum(), self.bundle, wanted.film.checksum, wanted.prompt, wanted.number, dict(options)]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.wav"

    def make(self, all_wanted: Sequence[Wanted], title: str, **options: Any) -> list[pathlib.Path]:
        """The sounds' files, those that are not there made in batches of films of like length."""
        paths = [self.path(wanted, options) for wanted in all_wanted]
        todo = [i for i, path in enumerate(paths) if not path.exists()]
        clips = {i: self._read(all_wanted[i].film.path) for i in todo}
        groups: dict[int, list[int]] = {}
        for i in sorted(todo, key=lambda i: clips[i].seconds):
            groups.setdefault(self.model.bucket(clips[i].seconds), []).append(i)
        done = len(paths) - len(todo)
        self.show(title, done, len(paths))
        for rows in groups.values():
            for k in range(0, len(rows), self.batch):
                part = rows[k : k + self.batch]
                # a short last batch is filled up, so that no further program is compiled
                full = part + [part[-1]] * (self.batch - len(part))
                numbers = [all_wanted[i].number for i in full]  # every clip its own noise
                prompts = [all_wanted[i].prompt for i in full]
                sounds = self.model.generate([clips[i] for i in full], prompts, numbers=numbers, **options)
                for i, sound in zip(part, sounds, strict=False):
                    paths[i].parent.mkdir(parents=True, exist_ok=True)
                    wav.write(paths[i], sound.wave, RATE, subtype="FLOAT")
                done += len(part)
                self.show(title, done, len(paths))
        return paths


def read_waves(paths: Sequence[pathlib.Path]) -> list[np.ndarray]:
    """The sounds as they were made, (n,) float32 at ``RATE`` each."""
    waves = []
    for path in paths:
        wave, rate = wav.read_channels(path)
        if rate != RATE:
            raise UserError(f"{path} is at {rate} Hz, not {RATE}; remove it and run again")
        waves.append(np.asarray(wave, np.float32).reshape(len(wave), -1)[:, 0])
    return waves


def knocks(times: Sequence[float] | np.ndarray, seconds: float) -> np.ndarray:
    """One and the same short noise at every time, (n,): a system that knows when, and nothing about what."""
    t = np.arange(round(0.15 * RATE)) / RATE
    noise = np.random.default_rng(0).uniform(-1, 1, len(t))
    knock = 0.3 * noise * np.exp(-t / 0.02)
    wave = np.zeros(round(seconds * RATE))
    for time in times:
        start = round(float(time) * RATE)
        part = knock[: max(0, len(wave) - start)]
        wave[start : start + len(part)] += part
    return np.clip(wave, -1, 1).astype(np.float32)


def random_times(clips: Sequence[foley.Clip], seed: int) -> list[np.ndarray]:
    """As many events as there are, anywhere in the clip: what knowing only the number scores."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.uniform(0, c.seconds, len(c.events))) for c in clips]


def of_other_clips(clips: Sequence[foley.Clip]) -> list[np.ndarray]:
    """True sounds of as many further clips of the split, cut or continued with silence to the clips' lengths."""
    waves = []
    for clip in clips:
        other = foley.make_clip(clip.seed, clip.split, clip.index + len(clips))
        count, wave = round(clip.seconds * RATE), foley.render_audio(other, RATE)[: round(clip.seconds * RATE)]
        waves.append(np.pad(wave, (0, count - len(wave))))
    return waves
