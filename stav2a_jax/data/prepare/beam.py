"""The same steps as an Apache Beam pipeline, written by tensorflow-datasets' own Beam writer, for a cluster.

Needs the extra ``beam``. The functions are those of the local run, so the records are the same; what differs is who
calls them, and that an interrupted pipeline is for its runner to continue. The first of two pipelines looks at the
clips, the second encodes and writes those that it kept: the writer must not be given a split of which none is left.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from stav2a_jax.config import ModelConfig
from stav2a_jax.data.prepare import features, pack, report
from stav2a_jax.data.prepare.captions import find_caption
from stav2a_jax.data.prepare.run import load_row, stored
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import Source
from stav2a_jax.data.prepare.steps import STEPS, Context, attempt
from stav2a_jax.data.prepare.store import Row, digest, locked
from stav2a_jax.data.records import example

DROPPED = "dropped"


def prepare_with_beam(
    source: Source,
    out: pathlib.Path,
    settings: PrepareSettings,
    options: list[str],
    *,
    listed: Mapping[str, str] | None = None,
    vae: pathlib.Path | None = None,
    flow_cache: pathlib.Path | None = None,
) -> report.Report:
    """Prepare ``source`` into ``out`` with a runner of Beam; ``options`` are Beam's own, such as --runner=SparkRunner.

    Videos, bundle and ``out`` must lie where every worker sees them, and stav2a_jax must be installed there. Raises
    UserError as ``run.prepare`` does.
    """
    fields, info = pack.describe(settings, vae)
    context = Context(settings, {}, flow_cache or out / "cache" / "flow")
    clips, work = [_captioned(row, listed or {}) for row in source.rows], out / ".beam"
    with locked(out):
        pack.check_name(out, source.name)
        shutil.rmtree(work, ignore_errors=True)  # what a failed run has left
        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            _look(pipeline, clips, context, work)
        kept = _lines(work, "kept")
        result = report.Report(len(source.rows), len(kept), source.unlisted, (), _drops(work), {})
        report.require_clips(out, result)
        splits = {
            split: functools.partial(EncodeClips, [row for row in kept if row["split"] == split], settings, vae, work)
            for split in sorted({row["split"] for row in kept})
        }
        config = tfds.download.DownloadConfig(beam_options=PipelineOptions(options))
        counts = pack.install(out, source.name, digest("beam"), splits, fields, info, download_config=config)
        result = dataclasses.replace(result, kept=sum(counts.values()), drops=_drops(work), splits=counts)
        report.write(out, result)
        shutil.rmtree(work)
    return dataclasses.replace(result, made=True)


def _captioned(row: Row, listed: Mapping[str, str]) -> tuple[Row, tuple[str, str]]:
    plain = "generated" in row or "trouble" in row
    return row, ("", "none") if plain else find_caption(row, listed)


def _look(pipeline: Any, clips: list[tuple[Row, tuple[str, str]]], context: Context, work: pathlib.Path) -> None:
    """Rows with their captions -> JSON lines: ``work``/kept-*.jsonl and ``work``/dropped-*.jsonl."""
    looked = (
        pipeline
        | "clips" >> beam.Create(clips)
        | "spread" >> beam.Reshuffle()
        | "look" >> beam.ParDo(Look(context)).with_outputs(DROPPED, main="kept")
    )
    for name in ("kept", DROPPED):
        _write(looked[name], work / name)


def _write(rows: Any, path: pathlib.Path) -> None:
    text = rows | f"{path.name} as text" >> beam.Map(json.dumps)
    _ = text | f"write {path.name}" >> beam.io.WriteToText(str(path), file_name_suffix=".jsonl")


def _lines(work: pathlib.Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(work.glob(f"{name}-*.jsonl")) for line in path.read_text().splitlines()]


def _drops(work: pathlib.Path) -> tuple[report.Drop, ...]:
    return tuple(report.Drop(**line) for line in _lines(work, DROPPED))


class EncodeClips(beam.PTransform):
    """Kept rows of one split -> (id, record); a clip that is dropped here goes to ``work``/dropped-SPLIT-*.jsonl."""

    def __init__(
        self,
        rows: list[Row],
        settings: PrepareSettings,
        vae: pathlib.Path | None,
        work: pathlib.Path,
    ) -> None:
        super().__init__()
        self.rows, self.settings, self.vae, self.work = rows, settings, vae, work

    def expand(self, pipeline: Any) -> Any:
        batch = self.settings.batch
        encoded = (
            pipeline
            | "clips" >> beam.Create(self.rows)
            | "spread" >> beam.Reshuffle()
            | "batch" >> beam.BatchElements(min_batch_size=batch, max_batch_size=batch)
            | "encode" >> beam.ParDo(Encode(self.settings, self.vae)).with_outputs(DROPPED, main="kept")
        )
        _write(encoded[DROPPED], self.work / f"{DROPPED}-{self.rows[0]['split']}")
        return encoded["kept"]


class Look(beam.DoFn):
    """All steps that look at one clip, one after the other; what is kept can be decoded."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def setup(self) -> None:
        self.model: ModelConfig = features.model_config(self.context.settings)

    def process(self, element: tuple[Row, tuple[str, str]]) -> Iterator[Any]:
        row, caption = element
        context = self.context._replace(captions={row["id"]: caption})
        for name, step in STEPS.items():
            row = attempt(step.run, row, context)
            if "dropped" in row:
                yield beam.pvalue.TaggedOutput(DROPPED, _drop(name, row))
                return
        loaded, _ = load_row(self.context.settings, self.model, row)
        if isinstance(loaded, features.Loaded):
            yield row
        else:
            yield beam.pvalue.TaggedOutput(DROPPED, _drop("features", loaded))


class Encode(beam.DoFn):
    """The encoders, loaded once per worker."""

    def __init__(self, settings: PrepareSettings, vae: pathlib.Path | None) -> None:
        self.settings, self.vae = settings, vae

    def setup(self) -> None:
        self.model: ModelConfig = features.model_config(self.settings)
        self.encoders = features.Encoders(self.settings, self.vae) if self.settings.bundle is not None else None

    def process(self, rows: list[Row]) -> Iterator[Any]:
        good: list[tuple[Row, features.Loaded]] = []
        for row in rows:
            loaded, _ = load_row(self.settings, self.model, row)
            if isinstance(loaded, features.Loaded):
                good.append((row, loaded))
            else:
                yield beam.pvalue.TaggedOutput(DROPPED, _drop("features", loaded))
        arrays: list[dict[str, np.ndarray]] = [stored(clip) for _, clip in good]
        if self.encoders is not None and good:
            encoded = self.encoders([row["caption"] for row, _ in good], [clip for _, clip in good])
            arrays = [{**mine, **more} for mine, more in zip(arrays, encoded)]
        for (row, _), mine in zip(good, arrays):
            yield row["id"], example(row, mine)


def _drop(step: str, row: Row) -> dict[str, str]:
    return {"id": row["id"], "step": step, **row["dropped"]}
