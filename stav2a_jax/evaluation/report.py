"""Writing a report: JSON, CSV, Markdown and one HTML page that carries its pictures with it."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from stav2a_jax.evaluation.catalogue import entry
from stav2a_jax.evaluation.plots import Plot
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import atomic

FAMILIES = {
    "released": "As the authors' scripts compute it, for comparison with the paper's tables",
    "matched": "Bounded or exact, to judge models by",
    "imported": "Measured by another program",
}
PER_CLIP = 200
"""Clips in the tables of the Markdown and HTML report; all are in per_clip.csv."""


def write_json(report: Mapping[str, Any], path: pathlib.Path) -> None:
    """The report; it has no NaN, undefined values are null."""
    _write(path, json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A report.json, or the folder it lies in. Raises UserError where it is something else."""
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if not str(report["format"]).startswith("stav2a-evaluate"):
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no report of `stav2a evaluate` ({error})") from error
    return report


def _write(path: pathlib.Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


METRIC_COLUMNS = [
    *("metric", "family", "value", "low", "high", "n", "undefined"),
    *("chance", "true_sound", "window", "backbone", "checksum", "sample_rate", "crop"),
]


def write_csv(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """metrics.csv: one row per metric. per_clip.csv: one row per clip, one column per metric; empty = undefined."""
    table = io.StringIO()
    writer = csv.DictWriter(table, METRIC_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for key, value in report["metrics"].items():
        low, high = value["interval"]
        writer.writerow(value | {"metric": key, "low": low, "high": high})
    _write(folder / "metrics.csv", table.getvalue())
    columns = [key for key, value in report["metrics"].items() if value["per_clip"] is not None]
    table = io.StringIO()
    plain = csv.writer(table, lineterminator="\n")
    plain.writerow(["name", "class", *columns, "notes"])
    for name, clip in report["clips"].items():
        values = [report["metrics"][key]["per_clip"].get(name) for key in columns]
        notes = "; ".join(report["notes"].get(name, []))
        plain.writerow([name, clip.get("class", ""), *("" if v is None else v for v in values), notes])
    for name, reason in report["failed"].items():
        plain.writerow([name, "", *[""] * len(columns), f"not scored: {reason}"])
    _write(folder / "per_clip.csv", table.getvalue())


# What both readable forms show, as rows of text.


def shown(value: float | None) -> str:
    """A number as text, "-" where it is not defined."""
    if value is None:
        return "-"
    if 1e-9 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value + 0.0:.3f}".replace("-0.000", "0.000") if abs(value) < 10 else f"{value:.2f}"


def interval(value: Mapping[str, Any]) -> str:
    low, high = value["interval"]
    return "-" if low is None else f"{shown(low)} to {shown(high)}"


def count(value: Mapping[str, Any]) -> str:
    return f"{value['n']}" + (f" ({value['undefined']} undefined)" if value.get("undefined") else "")


def crop_of(value: Mapping[str, Any]) -> str:
    return "whole" if value["crop"] is None else f"first {value['crop']:g} s"


HEADER = (
    *("metric", "value", "95 % interval", "n", "better", "beside it"),
    *("backbone", "SHA-256", "rate (Hz)", "part"),
)


def metric_rows(report: Mapping[str, Any], family: str) -> list[list[str]]:
    """The metrics of a family under :data:`HEADER`."""
    rows = []
    for key, value in report["metrics"].items():
        if value["family"] != family:
            continue
        known = {"chance": value.get("chance"), "true sound": value.get("true_sound")}
        beside = [f"{name} {shown(number)}" for name, number in known.items() if number is not None]
        beside += ["fewer clips than dimensions"] * bool(value.get("biased"))
        text = f"{shown(value['value'])} {value['unit']}".strip()
        arrow = {"up": "higher", "down": "lower"}[value["better"]]
        origin = [value["backbone"], (value["checksum"] or "-")[:12], str(value["sample_rate"] or "-"), crop_of(value)]
        name = f"{value['title']} [{key}]"
        rows.append([name, text, interval(value), count(value), arrow, ", ".join(beside), *origin])
    return rows


def meaning_rows(report: Mapping[str, Any]) -> list[list[str]]:
    return [[key, entry(key).meaning] for key in report["metrics"]]


def clip_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the first clips."""
    keys = [key for key, value in report["metrics"].items() if value["per_clip"] is not None]
    rows = []
    for name in list(report["clips"])[:PER_CLIP]:
        values = [shown(report["metrics"][key]["per_clip"].get(name)) for key in keys]
        rows.append([name, *values, "; ".join(report["notes"].get(name, []))])
    return ["clip", *keys, "notes"], rows


def class_table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    keys = list(next(iter(report["by_class"].values()), {}))
    rows = []
    for label, values in report["by_class"].items():
        clips = sum(clip.get("class") == label for clip in report["clips"].values())
        rows.append([label, str(clips), *(f"{shown(values[k]['value'])}\n[{interval(values[k])}]" for k in keys)])
    return ["class", "clips", *keys], rows


def _pairs(count: int, one: str, several: str) -> str:
    return f"{count} pair {one}" if count == 1 else f"{count} pairs {several}"


def summary(report: Mapping[str, Any]) -> list[str]:
    """The sentences that stand above the numbers."""
    part = "whole clips" if report["crop"] is None else f"the first {report['crop']:g} s of every clip"
    lines = [
        f"Generated: {report['generated']}. Reference: {report['reference']}. Compared: {part}.",
        f"{report['used']} of {report['pairs']} pairs were scored; intervals are 95 % bootstrap intervals over clips "
        f"({report['resamples']} resamples, seed {report['seed']}). stav2a_jax {report['version']}.",
    ]
    if report["failed"]:
        pairs = _pairs(len(report["failed"]), "could not be read and counts", "could not be read and count")
        lines.append(f"NOT SCORED: {pairs} in no number below.")
    if report["notes"]:
        pairs = _pairs(len(report["notes"]), "is", "are")
        lines.append(f"{pairs} odd (silent, clipped, cut short, ...) and scored all the same.")
    return lines


def write_markdown(report: Mapping[str, Any], plots: Sequence[Plot], path: pathlib.Path) -> None:
    """The report for reading in a repository; pictures lie beside it."""
    out = ["# Evaluation", "", *(f"{line}\n" for line in summary(report))]
    for family, title in FAMILIES.items():
        if rows := metric_rows(report, family):
            out += [f"## {family.capitalize()}", "", f"{title}.", "", *markdown_table(HEADER, rows), ""]
    out += ["## What the numbers mean", "", *markdown_table(("metric", "meaning"), meaning_rows(report)), ""]
    for title, rows in problem_tables(report):
        out += [f"## {title}", "", *markdown_table(("what", "why"), rows), ""]
    for plot in plots:
        link = plot.path.relative_to(path.parent).as_posix()
        out += [f"## {plot.title}", "", f"![{plot.title}]({link})", "", plot.caption, ""]
    if report["by_class"]:
        out += ["## Classes", "", *markdown_table(*class_table(report)), ""]
    out += ["## Clips", "", *markdown_table(*clip_table(report)), "", _rest(report), ""]
    _write(path, "\n".join(out))


def problem_tables(report: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """What was not scored, not computed or is odd, each as (title, rows)."""
    notes = {name: "; ".join(texts) for name, texts in report["notes"].items()}
    titled = (("Not scored", report["failed"]), ("Odd", notes), ("Not computed", report["skipped"]))
    return [(title, [list(row) for row in rows.items()]) for title, rows in titled if rows]


def _rest(report: Mapping[str, Any]) -> str:
    more = len(report["clips"]) - PER_CLIP
    return f"{more} more clips are in per_clip.csv." if more > 0 else ""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; bars in the text are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    ]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #eee; vertical-align: top; }
th { color: #666; font-weight: 600; white-space: nowrap; } td { font-variant-numeric: tabular-nums; }
.numbers td:not(:nth-child(6), :nth-child(7)), .clips td { white-space: nowrap; } .classes td { white-space: pre; }
img { max-width: 100%; min-width: 700px; }
.alarm { background: #fdecea; border-left: 4px solid #c0392b; padding: .6em 1em; }
.caption { color: #555; max-width: 75ch; }
@media (max-width: 700px) { .numbers td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 10em; } }
"""


def write_html(report: Mapping[str, Any], plots: Sequence[Plot], path: pathlib.Path) -> None:
    """The report as one page that needs no other file."""
    body = ["<h1>Evaluation</h1>"]
    body += [
        f'<p class="alarm">{html.escape(line)}</p>' if line.startswith("NOT") else f"<p>{html.escape(line)}</p>"
        for line in summary(report)
    ]
    for family, title in FAMILIES.items():
        if rows := metric_rows(report, family):
            body += [f"<h2>{family.capitalize()}</h2><p>{html.escape(title)}.</p>", html_table(HEADER, rows, "numbers")]
    body += ["<h2>What the numbers mean</h2>", html_table(("metric", "meaning"), meaning_rows(report))]
    for title, rows in problem_tables(report):
        body += [f"<h2>{title}</h2>", html_table(("what", "why"), rows)]
    for plot in plots:
        data = base64.b64encode(plot.path.read_bytes()).decode()
        title = html.escape(plot.title)
        body.append(f'<h2>{title}</h2><div class="wide"><img alt="{title}" src="data:image/png;base64,{data}"></div>')
        body.append(f'<p class="caption">{html.escape(plot.caption)}</p>')
    if report["by_class"]:
        body += ["<h2>Classes</h2>", html_table(*class_table(report), "classes")]
    body += ["<h2>Clips</h2>", html_table(*clip_table(report), "clips"), f"<p>{_rest(report)}</p>"]
    style = f"<style>{STYLE}</style>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Evaluation</title>{style}'
    page = [f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""]
    _write(path, "\n".join(["<!doctype html>", *page]))


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls sideways where the page is too narrow."""
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><tr>{top}</tr>'
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table></div>"
    )
