"""How many clips came through each step, which were dropped and why, and what it cost."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import pathlib

from stav2a_jax.data.prepare.source import Source
from stav2a_jax.data.prepare.steps import REASONS, STEPS
from stav2a_jax.data.prepare.store import read_chunk, read_header, write_atomic
from stav2a_jax.types import UserError

NAMES = (*STEPS, "features")


@dataclasses.dataclass(frozen=True)
class StepReport:
    """seconds: processor seconds that the step took, in however many runs."""

    name: str
    clips: int
    kept: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Drop:
    id: str
    step: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Report:
    """asked: clips of the source; unlisted: videos that no row asked for; splits: records written; made: whether the
    shards were written in this run."""

    asked: int
    kept: int
    unlisted: int
    steps: tuple[StepReport, ...]
    drops: tuple[Drop, ...]
    captions: dict[str, int]
    splits: dict[str, int] = dataclasses.field(default_factory=dict)
    made: bool = False

    def reasons(self) -> dict[str, int]:
        """Dropped clips by reason, the commonest first."""
        return dict(collections.Counter(drop.reason for drop in self.drops).most_common())


def collect(folder: pathlib.Path, sizes: list[int], source: Source) -> Report:
    """The report of the steps' files; ``sizes`` are the chunks'."""
    steps, drops, captions = [], [], collections.Counter[str]()
    for name in NAMES:
        paths = [folder / name / f"{number:06d}.jsonl" for number in range(len(sizes))]
        headers = [header for path in paths if (header := read_header(path)) is not None]
        kept, lost = sum(h.kept for h in headers), sum(h.dropped for h in headers)
        steps.append(StepReport(name, kept + lost, kept, sum(h.seconds for h in headers)))
        for path, header in zip(paths, headers):
            if name != "captions" and not header.dropped:
                continue
            for row in read_chunk(path):
                if "dropped" in row:
                    drops.append(Drop(row["id"], name, **row["dropped"]))
                elif name == "captions":
                    captions[row["caption_source"]] += 1
    return Report(
        len(source.rows), steps[-1].kept, source.unlisted, tuple(steps), tuple(drops), dict(captions.most_common())
    )


def require_clips(out: pathlib.Path, report: Report) -> None:
    """UserError where no clip is left, with the report written: it says why."""
    if not report.kept:
        write(out, report)
        raise UserError(f"no clip is left of {report.asked}: {report.reasons()}; see {out / 'dropped.csv'}.")


def write(out: pathlib.Path, report: Report) -> None:
    """report.md for people, dropped.csv with every dropped clip; a file that would not change is left alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "step", "reason", "detail"])
    writer.writerows(dataclasses.astuple(drop) for drop in report.drops)
    for name, content in (("report.md", markdown(report)), ("dropped.csv", text.getvalue())):
        path, data = out / name, content.encode(errors="backslashreplace")
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


def markdown(report: Report) -> str:
    """The report as a page."""
    lines = [
        "# Preparation",
        "",
        f"{report.asked} clips asked for, {report.kept} kept"
        + (f" ({', '.join(f'{split} {n}' for split, n in report.splits.items())})" if report.splits else "")
        + (f"; {report.unlisted} videos in the folder are in no list" if report.unlisted else "")
        + ".",
        "",
    ]
    if report.steps:
        lines += ["| step | clips | kept | dropped | core seconds | per clip |", "|---|---|---|---|---|---|"]
    for step in report.steps:
        mean = step.seconds / step.clips if step.clips else 0.0
        lost = step.clips - step.kept
        lines.append(f"| {step.name} | {step.clips} | {step.kept} | {lost} | {step.seconds:.1f} | {mean:.3f} |")
    if report.captions:
        lines += ["", "Captions: " + ", ".join(f"{n} from {k}" for k, n in report.captions.items()) + "."]
    if report.drops:
        lines += ["", "| reason | clips | what it means |", "|---|---|---|"]
    lines += [f"| {reason} | {count} | {REASONS[reason]} |" for reason, count in report.reasons().items()]
    return "\n".join([*lines, ""])
