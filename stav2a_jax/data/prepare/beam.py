"""The same steps as an Apache Beam pipeline, written by tensorflow-datasets' own Beam writer, for a cluster.

Needs the extra ``beam``. The functions are those of the local run, so the records are the same; what differs is who
calls them, and that an interrupted pipeline is for its runner to continue.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
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
    found = {split: [_captioned(row, listed or {}) for row in source.rows if row["split"] == split]
             for split in sorted({row["split"] for row in source.rows})}  # fmt: skip
    with locked(out):
        pack.check_name(out, source.name)
        lost = out / ".dropped"
        splits = {
            split: functools.partial(PrepareClips, rows, context, vae, str(lost / split))
            for split, rows in found.items()
        }
        config = tfds.download.DownloadConfig(beam_options=PipelineOptions(options))
        counts = pack.install(out, source.name, digest("beam"), splits, fields, info, download_config=config)
        drops = [
            report.Drop(**json.loads(line))
            for path in sorted(lost.glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        for path in lost.glob("*"):
            path.unlink()
        lost.rmdir()
        result = report.Report(len(source.rows), sum(counts.values()), source.unlisted, (), tuple(drops), {}, counts)
        report.write(out, result)
    return dataclasses.replace(result, made=True)


def _captioned(row: Row, listed: Mapping[str, str]) -> tuple[Row, tuple[str, str]]:
    plain = "generated" in row or "trouble" in row
    return row, ("", "none") if plain else find_caption(row, listed)


class PrepareClips(beam.PTransform):
    """Rows of one split -> (id, record); dropped clips go to JSON lines at ``lost``-*.jsonl."""

    def __init__(
        self,
        rows: list[tuple[Row, tuple[str, str]]],
        context: Context,
        vae: pathlib.Path | None,
        lost: str,
    ) -> None:
        super().__init__()
        self.rows, self.context, self.vae, self.lost = rows, context, vae, lost

    def expand(self, pipeline: Any) -> Any:
        looked = (
            pipeline
            | "clips" >> beam.Create(self.rows)
            | "spread" >> beam.Reshuffle()
            | "look" >> beam.ParDo(Look(self.context)).with_outputs(DROPPED, main="kept")
        )
        batch = self.context.settings.batch
        encoded = (
            looked["kept"]
            | "batch" >> beam.BatchElements(min_batch_size=batch, max_batch_size=batch)
            | "encode" >> beam.ParDo(Encode(self.context.settings, self.vae)).with_outputs(DROPPED, main="kept")
        )
        _ = (
            (looked[DROPPED], encoded[DROPPED])
            | "all dropped" >> beam.Flatten()
            | "as text" >> beam.Map(json.dumps)
            | "write dropped" >> beam.io.WriteToText(self.lost, file_name_suffix=".jsonl")
        )
        return encoded["kept"]


class Look(beam.DoFn):
    """All steps that look at one clip, one after the other."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def process(self, element: tuple[Row, tuple[str, str]]) -> Iterator[Any]:
        row, caption = element
        context = self.context._replace(captions={row["id"]: caption})
        for name, step in STEPS.items():
            row = attempt(step.run, row, context)
            if "dropped" in row:
                yield beam.pvalue.TaggedOutput(DROPPED, _drop(name, row))
                return
        yield row


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
