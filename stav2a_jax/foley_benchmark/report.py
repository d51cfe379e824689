"""Tables of a benchmark's JSON: the one of README.md and all of docs/benchmark.md."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from stav2a_jax.types import UserError

ROWS = (
    ("event F1, 100 ms", "event_f1_100ms", ">= .80"),
    ("event F1, 50 ms", "event_f1_50ms", ">= .75"),
    ("... precision, 100 ms", "event_precision_100ms", ""),
    ("... recall, 100 ms", "event_recall_100ms", ""),
    ("... true sound through the same detector (ceiling), 100 ms", "ceiling_f1_100ms", ""),
    ("... true sound through the same detector (ceiling), 50 ms", "ceiling_f1_50ms", ""),
    ("... the same sounds against other clips (shuffled), 100 ms", "event_f1_shuffled", "<= F1 - .45"),
    ("... as many events at random times, 100 ms", "event_f1_random", ""),
    ("... text-to-audio model alone, 100 ms", "t2a_event_f1_100ms", "about shuffled"),
    ("median absolute offset of matched events, ms", "offset_ms", "<= 30"),
    ("material right where the text names it", "material_text", ">= .85"),
    ("material right where only the picture shows it", "material_picture", ">= .60"),
    ("... text-to-audio model alone, text names it", "t2a_material_text", ""),
    ("... text-to-audio model alone, only the picture shows it", "t2a_material_picture", "about chance"),
    ("... true sound through the same classifier", "classifier_on_truth", ""),
    ("... chance", "chance_material", ""),
    ("KL of the classifier's materials, true and generated sound", "material_kl", ""),
    ("... and another clip's true sound", "material_kl_shuffled", ""),
    ("video swapped: event F1 against the new video", "swap_event_f1_new_video", ""),
    ("video swapped: event F1 against the old video", "swap_event_f1_old_video", "about shuffled"),
    ("text swapped, grey picture: material of the new text", "swap_material_new_text", ""),
    ("text swapped, picture shows another: material of the new text", "swap_material_new_text_against_picture", ""),
)
SYSTEMS = {
    "full": "text and video",
    "text_only": "text alone",
    "times_true": "oracle times: one knock at every true time",
    "times_random": "random times: as many knocks anywhere",
    "other_clips": "true sounds of other clips",
    "true": "the true sounds",
}
OWN = (
    ("event F1, 100 ms", "event_f1_100ms"),
    ("... shuffled", "event_f1_shuffled"),
    ("offset, ms", "offset_ms"),
    ("material", "material"),
)
BREAKDOWNS = {
    "by_tag": "difficulty",
    "by_cue": "what tells the material",
    "by_events": "number of events",
    "by_length": "length",
    "by_scene": "scene",
    "by_material": "material",
}


def load(path: pathlib.Path) -> dict[str, Any]:
    """A report from disk. Raises UserError where the file is not one."""
    try:
        report = json.loads(path.read_text())
        missing = [key for key in ("n", "event_f1_100ms", "systems", *BREAKDOWNS) if key not in report]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); give what --json wrote") from error
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; give what `stav2a benchmark foley --json` wrote")
    return report


def shown(value: float | None, key: str = "") -> str:
    """Three digits behind the point, one for milliseconds and large numbers."""
    if value is None:
        return "-"
    return f"{value:.1f}" if key.endswith("_ms") or abs(value) >= 100 else f"{value:.3f}"


def cell(fields: Mapping[str, Any], key: str) -> str:
    """A figure with its interval."""
    value, interval = fields.get(key), fields.get(f"{key}_interval")
    if value is None or not interval or None in interval:
        return shown(value, key)
    return f"{shown(value, key)} ({shown(interval[0], key)} to {shown(interval[1], key)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def readme(report: Mapping[str, Any]) -> str:
    """The short table: what was wanted, and beside each number what it is to be compared with."""
    r = report
    ceiling, shuffled, prior = (shown(r[k]) for k in ("ceiling_f1_100ms", "event_f1_shuffled", "t2a_event_f1_100ms"))
    chance, truth = shown(r["chance_material"]), shown(r["classifier_on_truth"])
    old, clash = cell(r, "swap_event_f1_old_video"), cell(r, "swap_material_new_text_against_picture")
    offset = f"{cell(r, 'offset_ms')} ms"
    picture = shown(r["t2a_material_picture"])
    rows = [
        ("event F1, one to one within 100 ms", cell(r, "event_f1_100ms"), ">= .80",
         f"true sound {ceiling}; other clips' events {shuffled}; text-to-audio alone {prior}"),
        ("... within 50 ms", cell(r, "event_f1_50ms"), ">= .75", f"true sound {shown(r['ceiling_f1_50ms'])}"),
        ("median absolute offset", offset, "<= 30 ms", ""),
        ("material right, text names it", cell(r, "material_text"), ">= .85", f"true sound {truth}; chance {chance}"),
        ("material right, only the picture shows it", cell(r, "material_picture"), ">= .60",
         f"the same; text-to-audio alone {picture}"),
        ("videos swapped: events follow the new video", cell(r, "swap_event_f1_new_video"), "", f"the old video {old}"),
        ("texts swapped, picture grey: material of the new text", cell(r, "swap_material_new_text"), "",
         f"where the picture shows another {clash}"),
    ]  # fmt: skip
    corrected = r["systems"]["full"]["metrics"].get("aa_f1_corrected")
    if corrected:
        rows.append(("AA-Align F1, chance-corrected", entry(corrected), "", f"released AA-Align {_released(r, 'aa')}"))
    return "\n".join(table(("measure", "value (95 % interval)", "wanted", "for comparison"), rows))


def _released(report: Mapping[str, Any], kind: str) -> str:
    return entry(report["systems"]["full"]["metrics"][f"{kind}_released"])


def entry(metric: Mapping[str, Any]) -> str:
    """A published metric with its interval."""
    return cell({"x": metric["value"], "x_interval": metric["interval"]}, "x")


def systems(report: Mapping[str, Any]) -> list[str]:
    """The model beside its baselines: own figures, then every published one, a row for each."""
    names = [name for name in SYSTEMS if name in report["systems"]]
    header = ("measure", *(SYSTEMS[name] for name in names))
    rows = [(label, *(cell(report["systems"][name], key) for name in names)) for label, key in OWN]
    for key, about in report["systems"]["full"]["metrics"].items():
        title = about["title"] if about["checksum"] is None else f"{about['title']} ({about['backbone']})"
        family = "" if key.endswith(("_f1", "_iou", "_corrected")) else f", {about['family']}"
        found = [report["systems"][name]["metrics"].get(key) for name in names]
        rows.append((f"{title}{family}", *("-" if metric is None else entry(metric) for metric in found)))
        if about.get("chance") is not None and not key.endswith("_corrected"):
            levels = ["-" if m is None else shown(m.get("chance")) for m in found]
            rows.append(("... chance (other clips)", *levels))
        if about.get("true_sound") is not None:
            levels = ["-" if m is None else shown(m.get("true_sound")) for m in found]
            rows.append(("... true sound", *levels))
    return table(header, rows)


def breakdown(report: Mapping[str, Any], group: str) -> list[str]:
    """One of ``BREAKDOWNS``."""
    rows = []
    for label, row in report[group].items():
        more = [cell(row, key) for key in ("aa_f1", "av_f1") if key in row]
        shares = (cell(row, "event_f1_100ms"), shown(row["event_f1_100ms_others"]), cell(row, "offset_ms"))
        rows.append((label, f"{row['n']:.0f}", *shares, cell(row, "material"), *more))
    found = {key for row in report[group].values() for key in row}
    extra = [title for key, title in (("aa_f1", "AA-Align F1"), ("av_f1", "AV-Align F1")) if key in found]
    head = (BREAKDOWNS[group], "clips", "event F1, 100 ms", "all others", "offset, ms", "material right", *extra)
    return table(head, rows)


def markdown(report: Mapping[str, Any]) -> str:
    """Every table of the report."""
    title = f"`{report['bundle']}`, {report['n']} clips of `{report['split']}`, seed {report['seed']}"
    lines = [f"{title}; 95 % bootstrap intervals over clips", ""]
    wide = [(label, cell(report, key), wanted) for label, key, wanted in ROWS]
    lines += table(("measure", "value", "wanted"), wide)
    lines += ["", *systems(report)]
    for group in BREAKDOWNS:
        lines += ["", *breakdown(report, group)]
    heard = sorted({name for row in report["confusion_picture"].values() for name in row})
    counts = [(true, *(str(row.get(name, 0)) for name in heard)) for true, row in report["confusion_picture"].items()]
    lines += ["", *table(("only the picture shows: true, heard as", *heard), counts)]
    if report["skipped"]:
        lines += ["", *(f"- not here: {name}: {why}" for name, why in sorted(report["skipped"].items()))]
    return "\n".join(lines)


def both(report: Mapping[str, Any]) -> str:
    """The README's table and those of docs/benchmark.md, one after the other."""
    return f"## For README.md\n\n{readme(report)}\n\n## For docs/benchmark.md\n\n{markdown(report)}\n"
