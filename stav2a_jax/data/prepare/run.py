"""The whole preparation: every step over every chunk that is not done yet, then shards, manifest and report."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.prepare import features, pack, report
from stav2a_jax.data.prepare.captions import find_caption
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import Source, stamped
from stav2a_jax.data.prepare.steps import STEPS, Context, attempt, compile_onsets, dropped, ended, settings_key
from stav2a_jax.data.prepare.store import (
    Header,
    Row,
    digest,
    file_digest,
    locked,
    read_chunk,
    read_header,
    write_chunk,
    writing,
)
from stav2a_jax.data.prepare.workers import Crashed, Workers
from stav2a_jax.tensors import Tensors, write_safetensors

Progress = Callable[[str, int, int], None]
"""(step, clips done, clips in all)"""

LoadedRow = tuple[features.Loaded | Row, float]
"""A decoded clip, or its dropped row, and the processor seconds it took."""

LoadedChunk = tuple[list[Row], list[LoadedRow]]

_CRASH = "the process that decoded it died"
# names in the folder of a step; strangers there (.DS_Store, .nfs000012) are left alone
_OURS = re.compile(r"(\d{6,})\.(jsonl|safetensors)")
_PART = re.compile(rf"\.{_OURS.pattern}\.\d+\.part")


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

    def known(self) -> tuple[dict[int, Row], float]:
        """What an earlier run found out, by place, without what is to be tried again; and the seconds it took."""
        header = read_header(self.path)
        if header is None or header.key != self.key:
            return {}, 0.0
        return {i: row for i, row in enumerate(read_chunk(self.path)) if "again" not in row}, header.seconds


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
      workers: processes, see ``workers.Workers``: a script needs ``if __name__ == "__main__":``, or 0.
      chunk: clips per file; another number begins anew.

    Raises UserError for a folder in use, or that cannot be written, a damaged file, a bundle or ``vae`` that lacks what
    is needed, or if no clip is left.
    """
    fields, info = pack.describe(settings, vae)  # before hours of work that would end with a bad bundle
    with locked(out), Workers(workers) as pool:
        pack.check_name(out, source.name)
        chunks = [[stamped(row) for row in source.rows[k : k + chunk]] for k in range(0, len(source.rows), chunk)]
        run = _Run(out / "steps", settings, flow_cache or out / "cache" / "flow", pool, progress)
        run.tidy(_PART)
        headers = run.first(chunks)
        for name in list(STEPS)[1:]:
            headers = run.next(name, headers, listed or {})
        run.features(headers, info["encoders"], vae)
        outcome = report.collect(out / "steps", [len(rows) for rows in chunks], source)
        report.require_clips(out, outcome)
        outcome = pack.pack(out, source.name, len(chunks), fields, info, outcome)
        report.write(out, outcome)
        run.tidy(_OURS, len(chunks))  # not before: the longer list may come back
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

    def tidy(self, names: re.Pattern[str], chunks: int = 0) -> None:
        """Remove files that an interrupted run left, or, from number ``chunks`` on, one with more clips."""
        for file in self.folder.glob("*/*"):
            match = names.fullmatch(file.name)
            if match and int(match[1]) >= chunks:
                file.unlink()

    def first(self, chunks: list[list[Row]]) -> list[Header]:
        """The step 'probe', over the rows of the source."""
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
        stale = [job for job in jobs if not _done(job.path, job.key)]
        total, done = sum(job.clips for job in stale), 0
        if name == "onsets" and len(stale) > 1 and self.pool.count > 1:
            compile_onsets()
        for place, result in self.pool.each(run_job, stale):
            if isinstance(result, Crashed):
                self._carefully(stale[place])
            done += stale[place].clips
            self.progress(name, done, total)
        return [_header(job.path) for job in jobs]

    def _carefully(self, job: Job) -> None:
        """A job that killed its process, clip by clip."""
        rows, (found, seconds) = job.rows(), job.known()
        left = [i for i in range(len(rows)) if i not in found]
        run = functools.partial(run_row, job.step, job.context)
        for k, result in self.pool.each(run, [rows[i] for i in left]):
            i = left[k]
            found[i] = dropped(rows[i], "failed", _CRASH) if isinstance(result, Crashed) else result
        write_chunk(job.path, job.key, [found[i] for i in range(len(rows))], seconds)

    def features(self, headers: list[Header], encoders_key: str, vae: pathlib.Path | None) -> None:
        """The last step: decode in the workers, encode here.

        A chunk with a clip to try again is done again as a whole, because its arrays are one file.
        """
        settings, model = self.settings, features.model_config(self.settings)
        keys = [digest(encoders_key, header.sha256) for header in headers]
        stale = [i for i, key in enumerate(keys) if not _done(self._path("features", i), key)]
        if not stale:
            return
        encoders = features.Encoders(settings, vae) if settings.bundle is not None else None
        total, done = sum(headers[i].kept for i in stale), 0
        load = functools.partial(load_row, settings, model)
        with contextlib.closing(self._ahead(load, stale)) as chunks:
            for number, (rows, loaded) in zip(stale, chunks):
                _encode(self._path("features", number), keys[number], rows, loaded, encoders)
                done += len(rows)
                self.progress("features", done, total)

    def _ahead(self, load: Callable[[Row], LoadedRow], numbers: list[int]) -> Generator[LoadedChunk]:
        """Rows and clips of the chunks, the next one being decoded by the workers while one is made use of."""
        if not self.pool.count:  # a thread would only mix its core seconds with the encoders'
            yield from (self._load(load, number) for number in numbers)
            return
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self._load, load, numbers[0])
            for number in numbers[1:]:
                chunk, ahead = ahead.result(), thread.submit(self._load, load, number)
                yield chunk
            yield ahead.result()

    def _load(self, load: Callable[[Row], LoadedRow], number: int) -> LoadedChunk:
        rows = read_chunk(self._path(self.before, number), kept_only=True)
        found: dict[int, LoadedRow] = {}
        for i, result in self.pool.each(load, rows):
            found[i] = (dropped(rows[i], "failed", _CRASH), 0.0) if isinstance(result, Crashed) else result
        return rows, [found[i] for i in range(len(rows))]

    def _path(self, step: str, number: int) -> pathlib.Path:
        return self.folder / step / f"{number:06d}.jsonl"


def _done(path: pathlib.Path, key: str) -> bool:
    header = read_header(path)
    return header is not None and header.key == key and not header.again


def _header(path: pathlib.Path) -> Header:
    header = read_header(path)
    assert header is not None, path
    return header


def run_job(job: Job) -> None:
    """A chunk of a step, in a worker."""
    start = time.process_time()
    found, seconds = job.known()
    rows = [found[i] if i in found else run_row(job.step, job.context, row) for i, row in enumerate(job.rows())]
    write_chunk(job.path, job.key, rows, seconds + time.process_time() - start)


def run_row(step: str, context: Context, row: Row) -> Row:
    """One clip of a step."""
    return attempt(STEPS[step].run, row, context)


def load_row(settings: PrepareSettings, model: ModelConfig, row: Row) -> LoadedRow:
    """Decode one clip, in a worker."""
    start = time.process_time()
    try:
        loaded: features.Loaded | Row = features.load(row, settings, model)
    except Exception as error:  # as in steps.attempt
        loaded = ended(row, error)
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
    with writing(path):
        path.unlink(missing_ok=True)  # rows of other settings must not stand beside the new arrays
    good = [(row, clip) for row, (clip, _) in zip(rows, loaded) if isinstance(clip, features.Loaded)]
    arrays = [stored(clip) for _, clip in good]
    if encoders is not None and good:
        encoded = encoders([row["caption"] for row, _ in good], [clip for _, clip in good])
        arrays = [{**mine, **more} for mine, more in zip(arrays, encoded)]
    file = path.with_suffix(".safetensors")
    if arrays:
        named = {f"{i}/{name}": array for i, mine in enumerate(arrays) for name, array in mine.items()}
        with writing(file):
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
