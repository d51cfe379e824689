"""The whole preparation: every step over every chunk that is not done yet, then shards, manifest and report."""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.prepare import features, pack, report
from stav2a_jax.data.prepare.captions import find_caption
from stav2a_jax.data.prepare.media import Dropped
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import Source, stamped
from stav2a_jax.data.prepare.steps import STEPS, Context, attempt, dropped, settings_key
from stav2a_jax.data.prepare.store import (
    Header,
    Row,
    digest,
    file_digest,
    locked,
    read_chunk,
    read_header,
    write_chunk,
)
from stav2a_jax.data.prepare.workers import Crashed, Workers
from stav2a_jax.tensors import Tensors, write_safetensors

Progress = Callable[[str, int, int], None]
"""(step, clips done, clips in all)"""

LoadedRow = tuple[features.Loaded | Row, float]
"""A decoded clip, or its dropped row, and the processor seconds it took."""

_CRASH = "the process that decoded it died"


class Job(NamedTuple):
    """One chunk of one step: what a worker needs to know. source: its rows, or the file of the step before."""

    step: str
    source: list[Row] | pathlib.Path
    clips: int
    context: Context
    path: pathlib.Path
    key: str

    def rows(self) -> list[Row]:
        return self.source if isinstance(self.source, list) else read_chunk(self.source, kept_only=True)


def prepare(
    source: Source,
    out: pathlib.Path,
    settings: PrepareSettings,
    *,
    listed: Mapping[str, str] | None = None,
    vae: pathlib.Path | None = None,
    flow_cache: pathlib.Path | None = None,
    workers: int = 1,
    chunk: int = 16,
    progress: Progress = lambda step, done, total: None,
) -> report.Report:
    """Prepare ``source`` into ``out``; what is there and still right is kept. Returns the counts, as in report.md.

    Args:
      listed: captions by name (``captions.read_captions``).
      vae: weights of the VAE's encoder where the bundle has none, see ``features.Encoders``.
      flow_cache: folder of the optical flow, shared by several sets if wanted (default: ``out``/cache/flow).
      chunk: clips per file; another number begins anew.

    Raises UserError for a folder in use, a damaged file, or a bundle that lacks what is needed.
    """
    with locked(out), Workers(workers) as pool:
        pack.check_name(out, source.name)
        chunks = [[stamped(row) for row in source.rows[k : k + chunk]] for k in range(0, len(source.rows), chunk)]
        run = _Run(out / "steps", settings, flow_cache or out / "cache" / "flow", pool, progress)
        headers = run.first(chunks)
        for name in list(STEPS)[1:]:
            headers = run.next(name, headers, listed or {})
        run.features(headers, vae)
        outcome = report.collect(out / "steps", [len(rows) for rows in chunks], source)
        outcome = pack.pack(out, source.name, len(chunks), settings, outcome, vae)
        report.write(out, outcome)
    return outcome


class _Run:
    """One run over the chunks: paths, keys, and which chunks of a step are still to do."""

    def __init__(
        self,
        folder: pathlib.Path,
        settings: PrepareSettings,
        flow_cache: pathlib.Path,
        pool: Workers,
        progress: Progress,
    ) -> None:
        self.folder, self.settings, self.flow_cache = folder, settings, flow_cache
        self.pool, self.progress = pool, progress
        self.before = ""

    def first(self, chunks: list[list[Row]]) -> list[Header]:
        """The step 'probe', over the rows of the source."""
        for file in self.folder.glob("*/*"):  # of an interrupted run, or of one with more clips
            if file.suffix == ".part" or int(file.stem) >= len(chunks):
                file.unlink()
        context, settings = Context(self.settings, {}, self.flow_cache), settings_key("probe", self.settings)
        jobs = [
            Job("probe", rows, len(rows), context, self._path("probe", number), digest(settings, rows))
            for number, rows in enumerate(chunks)
        ]
        return self._work("probe", jobs)

    def next(self, name: str, headers: list[Header], listed: Mapping[str, str]) -> list[Header]:
        """A later step, over what the one before has kept."""
        jobs, settings = [], settings_key(name, self.settings)
        for number, header in enumerate(headers):
            before, captions = self._path(self.before, number), {}
            if name == "captions":
                rows = read_chunk(before, kept_only=True)
                captions = {row["id"]: find_caption(row, listed) for row in rows if "generated" not in row}
            key = digest(settings, header.sha256, captions)
            context = Context(self.settings, captions, self.flow_cache)
            jobs.append(Job(name, before, header.kept, context, self._path(name, number), key))
        return self._work(name, jobs)

    def _work(self, name: str, jobs: list[Job]) -> list[Header]:
        """Do the jobs that are not done; the headers of all."""
        self.before = name
        stale = [job for job in jobs if not _done(job)]
        total, done = sum(job.clips for job in stale), 0
        for place, result in self.pool.each(run_job, stale):
            if isinstance(result, Crashed):
                self._carefully(stale[place])
            done += stale[place].clips
            self.progress(name, done, total)
        return [_header(job.path) for job in jobs]

    def _carefully(self, job: Job) -> None:
        """A job that killed its process, clip by clip."""
        rows = job.rows()
        found = dict(self.pool.each(functools.partial(run_row, job.step, job.context), rows))
        crashed = [isinstance(found[i], Crashed) for i in range(len(rows))]
        done = [dropped(row, "failed", _CRASH) if crashed[i] else found[i] for i, row in enumerate(rows)]
        write_chunk(job.path, job.key, done, 0.0)

    def features(self, headers: list[Header], vae: pathlib.Path | None) -> None:
        """The last step: decode in the workers, encode here, the next chunk being decoded meanwhile."""
        settings, model = self.settings, features.model_config(self.settings)
        key = features.encoders_digest(settings, vae)
        keys = [digest(key, header.sha256) for header in headers]
        stale = [i for i, k in enumerate(keys) if (h := read_header(self._path("features", i))) is None or h.key != k]
        if not stale:
            return
        encoders = features.Encoders(settings, vae) if settings.bundle is not None else None
        total, done = sum(headers[i].kept for i in stale), 0
        load = functools.partial(load_row, settings, model)
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self._load, load, stale[0])
            for k, number in enumerate(stale):
                rows, loaded = ahead.result()
                if k + 1 < len(stale):
                    ahead = thread.submit(self._load, load, stale[k + 1])
                _encode(self._path("features", number), keys[number], rows, loaded, encoders)
                done += len(rows)
                self.progress("features", done, total)

    def _load(self, load: Callable[[Row], LoadedRow], number: int) -> tuple[list[Row], list[LoadedRow]]:
        rows = read_chunk(self._path(self.before, number), kept_only=True)
        found: dict[int, LoadedRow] = {}
        for i, result in self.pool.each(load, rows):
            found[i] = (dropped(rows[i], "failed", _CRASH), 0.0) if isinstance(result, Crashed) else result
        return rows, [found[i] for i in range(len(rows))]

    def _path(self, step: str, number: int) -> pathlib.Path:
        return self.folder / step / f"{number:06d}.jsonl"


def _done(job: Job) -> bool:
    header = read_header(job.path)
    return header is not None and header.key == job.key


def _header(path: pathlib.Path) -> Header:
    header = read_header(path)
    assert header is not None, path
    return header


def run_job(job: Job) -> None:
    """A chunk of a step, in a worker."""
    start = time.process_time()
    rows = [run_row(job.step, job.context, row) for row in job.rows()]
    write_chunk(job.path, job.key, rows, time.process_time() - start)


def run_row(step: str, context: Context, row: Row) -> Row:
    """One clip of a step."""
    return attempt(STEPS[step].run, row, context)


def load_row(settings: PrepareSettings, model: ModelConfig, row: Row) -> LoadedRow:
    """Decode one clip, in a worker."""
    start = time.process_time()
    try:
        loaded: features.Loaded | Row = features.load(row, settings, model)
    except Dropped as reason:
        loaded = dropped(row, reason.reason, reason.detail)
    except Exception as error:  # as in steps.attempt
        loaded = dropped(row, "failed", f"{type(error).__name__}: {error}")
    return loaded, time.process_time() - start


def _encode(
    path: pathlib.Path,
    key: str,
    rows: list[Row],
    loaded: list[LoadedRow],
    encoders: features.Encoders | None,
) -> None:
    """Arrays first, rows last: a chunk exists when its rows do."""
    start = time.process_time()
    path.unlink(missing_ok=True)  # rows of other settings must not stand beside the new arrays
    good = [(row, clip) for row, (clip, _) in zip(rows, loaded) if isinstance(clip, features.Loaded)]
    arrays = [stored(clip) for _, clip in good]
    if encoders is not None and good:
        encoded = encoders([row["caption"] for row, _ in good], [clip for _, clip in good])
        arrays = [{**mine, **more} for mine, more in zip(arrays, encoded)]
    file = path.with_suffix(".safetensors")
    if arrays:
        named = {f"{i}/{name}": array for i, mine in enumerate(arrays) for name, array in mine.items()}
        write_safetensors(file, Tensors.of(named))
    else:
        file.unlink(missing_ok=True)
    kept = [clip if isinstance(clip, dict) else row for row, (clip, _) in zip(rows, loaded)]
    seconds = time.process_time() - start + sum(took for _, took in loaded)
    write_chunk(path, key, kept, seconds, file_digest(file) if arrays else "")


def stored(clip: features.Loaded) -> dict[str, np.ndarray]:
    """What of a decoded clip goes into its record as it is."""
    arrays = {"wave": clip.wave}
    if clip.frames is not None and clip.frame_sizes is not None:
        arrays |= {"frames": clip.frames, "frame_sizes": clip.frame_sizes}
    return arrays
