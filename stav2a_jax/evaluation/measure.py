"""Measurements of files, from the cache where they are known, else by worker processes and networks."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stav2a_jax.evaluation import tasks
from stav2a_jax.evaluation.backbones import BATCH, Backbone
from stav2a_jax.evaluation.cache import FeatureCache, Features
from stav2a_jax.evaluation.files import Pair, checksum
from stav2a_jax.evaluation.tasks import Result, Task
from stav2a_jax.metrics.flow_cache import Trajectory, content_key
from stav2a_jax.types import UserError

Show = Callable[[str, int, int], None]
"""Progress: (what, done, total)."""
Results = Iterator[tuple[str, Result]]
"""(content of the file, what was measured)."""


@dataclasses.dataclass
class Measurer:
    """Measures files, each content once. ``work``: title of a measurement -> [made now, found in the cache]."""

    cache: FeatureCache
    crop: float | None
    jobs: int
    show: Show
    work: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    content: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)

    def look_at(self, paths: Iterable[pathlib.Path]) -> None:
        """Takes the checksums of files; everything else needs them."""
        todo = list(dict.fromkeys(paths))
        for i, path in enumerate(todo):
            self.content[path] = checksum(path)
            self.show("checksums", i + 1, len(todo))

    def sounds(self, paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, Result]:
        """Facts and onsets."""
        return self._of_files("sounds", tasks.SOUND, "sound", paths)

    def events(self, paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, Result]:
        """Times of impacts."""
        return self._of_files("events", tasks.EVENTS, "events", paths)

    def embeddings(self, network: Backbone, paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, Features]:
        """Features of a network."""
        found = self._of_files(network.name, network.what, "input", paths, network)
        bad = [f"{path}: {result}" for path, result in found.items() if isinstance(result, str)]
        if bad:  # they were readable a moment ago
            raise UserError(f"files changed while they were measured ({bad[0]}); run again")
        return {path: result for path, result in found.items() if not isinstance(result, str)}

    def motions(self, pairs: Sequence[Pair]) -> dict[str, tuple[Trajectory, np.ndarray] | str]:
        """(trajectory, time stamps) of every pair's film by name, or why there is none; equal pictures count once."""
        out: dict[str, tuple[Trajectory, np.ndarray] | str] = {}
        keys: dict[str, str] = {}
        films: dict[str, pathlib.Path] = {}
        for pair in pairs:
            try:
                if pair.film is None:
                    raise UserError("there is none")
                keys[pair.name] = content_key(pair.film)
                films[keys[pair.name]] = pair.film
            except UserError as error:
                out[pair.name] = str(error).removeprefix(f"{pair.film}: ")
        items = {key: Task("motion", film, ()) for key, film in films.items()}
        results = self._measure("optical flow", tasks.MOTION, items, self._store(tasks.MOTION))
        for name, key in keys.items():
            found = results[key]
            if isinstance(found, str):
                out[name] = found
            else:
                out[name] = Trajectory(found["values"], float(found["fps"])), found["times"]
        return out

    def _of_files(
        self, title: str, what: str, kind: str, paths: Iterable[pathlib.Path], network: Backbone | None = None
    ) -> dict[pathlib.Path, Result]:
        todo, what = list(paths), f"{what}, crop {self.crop}"
        settings: tuple[Any, ...] = (self.crop,) if network is None else (self.crop, network.name)
        items = {self.content[path]: Task(kind, path, settings) for path in todo}
        keep = self._store(what) if network is None else self._embed(network, what)
        results = self._measure(title, what, items, keep)
        return {path: results[self.content[path]] for path in todo}

    def _measure(
        self, title: str, what: str, items: Mapping[str, Task], keep: Callable[[Results], Results]
    ) -> dict[str, Result]:
        """Results by content; ``keep`` stores those that were not in the cache and hands them on."""
        known = {content: self.cache.get(content, what) for content in items}
        out: dict[str, Result] = {content: found for content, found in known.items() if found is not None}
        todo = [content for content in items if content not in out]
        self.work[title] = [len(todo), len(out)]
        fresh = tasks.run_all([items[content] for content in todo], self.jobs)
        for done, (content, result) in enumerate(keep((todo[i], result) for i, result in fresh), start=1):
            out[content] = result
            self.show(title, done, len(todo))
        return out

    def _store(self, what: str) -> Callable[[Results], Results]:
        def keep(results: Results) -> Results:
            for content, result in results:
                if not isinstance(result, str):
                    self.cache.put(content, what, result)
                yield content, result

        return keep

    def _embed(self, network: Backbone, what: str) -> Callable[[Results], Results]:
        """Through the network in batches of like length as soon as they are full."""

        def batch(rows: list[tuple[str, np.ndarray]]) -> Results:
            for (content, _), features in zip(rows, network.embed([array for _, array in rows]), strict=True):
                self.cache.put(content, what, features)
                yield content, features

        def keep(results: Results) -> Results:
            waiting: dict[int, list[tuple[str, np.ndarray]]] = {}
            for content, result in results:
                if isinstance(result, str):
                    yield content, result
                    continue
                rows = waiting.setdefault(network.bucket(result["input"]), [])
                rows.append((content, result["input"]))
                if len(rows) == BATCH:
                    yield from batch(waiting.pop(network.bucket(result["input"])))
            for rows in waiting.values():
                yield from batch(rows)

        return keep
