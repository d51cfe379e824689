"""Reports of several systems side by side: the paper's Tables I and III, the matched scores, and paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.evaluation.catalogue import METRICS
from stav2a_jax.evaluation.paper import COLUMNS, TABLES, Row
from stav2a_jax.evaluation.report import interval, shown
from stav2a_jax.metrics.align import paired_difference

MATCHED = [key for key, about in METRICS.items() if about.family == "matched"]


class System(NamedTuple):
    """A name that the user gave, and the report of its evaluation."""

    name: str
    report: dict[str, Any]

    @property
    def seconds(self) -> float:
        """What was compared of every clip: the crop, or the usual length of a true clip."""
        if self.report["crop"] is not None:
            return float(self.report["crop"])
        return statistics.median(clip["reference"]["seconds"] for clip in self.report["clips"].values())


class Table(NamedTuple):
    """A titled table of text; ``note`` stands below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def all_tables(systems: Sequence[System], wanted: Sequence[str] = ()) -> list[Table]:
    """Tables I and III where systems belong to them (or those of ``wanted``), and what the paper does not have.

    A system whose name the paper does not know stands in Table I; Table III appears for a row that only it has.
    """
    known = {number: [s for s in systems if any(_same(s.name, row) for row in rows)] for number, rows in TABLES.items()}
    only_third = [s for s in known["III"] if s not in known["I"]]
    members = {"I": [s for s in systems if s not in only_third], "III": known["III"] if only_third else []}
    out = []
    for number, rows in TABLES.items():
        if number in wanted or (not wanted and members[number]):
            out.append(paper_table(number, rows, members[number] or (systems if number in wanted else [])))
    return [*out, matched_table(systems), *(t for t in (differences(systems), provenance(systems)) if t.rows)]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _same(name: str, row: Row) -> bool:
    return _plain(name) in {_plain(row.name), _plain(row.alias)} - {""}


def _length(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


def paper_table(number: str, rows: Sequence[Row], systems: Sequence[System]) -> Table:
    """The paper's rows in its order, ours beside the paper's under every metric; other systems below."""
    header = ["model", "seconds", "n"]
    for column in COLUMNS:
        header += [f"{column} (ours)", f"{column} (paper)"]
    lines, placed = [], set()
    for row in rows:
        found = [k for k, s in enumerate(systems) if _same(s.name, row) and abs(s.seconds - row.seconds) < 0.5]
        placed.update(found)
        system = systems[found[0]] if found else None
        lines.append(_line(row.name, row.seconds, system, row.values))
        lines += [_line(f"{row.name}, again", row.seconds, systems[k], row.values) for k in found[1:]]
    for k, system in enumerate(systems):
        if k not in placed:
            lines.append(_line(system.name, system.seconds, system, (None,) * len(COLUMNS)))
    note = (
        "(paper): as printed, measured by the authors on their clips. (ours): value [95 % interval] as the authors' "
        "scripts define it, on the clips of the report; they compare only where the clips are the same."
    )
    return Table(f"Table {number}", header, lines, note)


def _line(name: str, seconds: float, system: System | None, printed: Sequence[float | None]) -> list[str]:
    metrics = {} if system is None else system.report["metrics"]
    line = [name, _length(seconds), "-" if system is None else str(system.report["used"])]
    for key, paper in zip(COLUMNS.values(), printed, strict=True):
        line += [_cell(metrics.get(key)), "-" if paper is None else f"{paper:g}"]
    return line


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    return f"{shown(metric['value'])} [{interval(metric)}]"


def matched_table(systems: Sequence[System]) -> Table:
    """The bounded and chance-corrected scores, which the paper does not have."""
    keys = [key for key in MATCHED if any(key in s.report["metrics"] for s in systems)]
    rows = [
        [s.name, _length(s.seconds), str(s.report["used"]), *(_cell(s.report["metrics"].get(key)) for key in keys)]
        for s in systems
    ]
    return Table("Matched scores", ["model", "seconds", "n", *keys], rows, "Value [95 % interval].")


def differences(systems: Sequence[System]) -> Table:
    """Paired differences to the first system, where both have the same clips and the same part of them."""
    rows, first = [], systems[0]
    for other in systems[1:]:
        for key, metric in other.report["metrics"].items():
            base = first.report["metrics"].get(key)
            if base is None or base["per_clip"] is None or metric["per_clip"] is None or key.startswith("is_"):
                continue
            title, imported = [f"{other.name} - {first.name}", key], metric["family"] == "imported"
            if metric["per_clip"].keys() != base["per_clip"].keys():
                rows.append([*title, "-", "-", "other clips"])
            elif metric["crop"] != base["crop"] or (metric["checksum"] != base["checksum"] and not imported):
                rows.append([*title, "-", "-", "another crop or other weights"])
            else:
                pairs = [(metric["per_clip"][n], base["per_clip"][n]) for n in base["per_clip"]]
                a, b = np.array([[np.nan if v is None else v for v in pair] for pair in pairs], np.float64).T
                score = paired_difference(a, b)
                sure = "yes" if score.low > 0 or score.high < 0 else "no"
                rows.append([*title, f"{score.mean:+.3f} [{score.low:+.3f} to {score.high:+.3f}]", str(score.n), sure])
    note = "Bootstrap over clips of the difference clip by clip; surer than comparing two intervals."
    return Table(
        "Paired differences", ["systems", "metric", "difference [95 %]", "n", "interval without 0"], rows, note
    )


def provenance(systems: Sequence[System]) -> Table:
    """Where every number comes from."""
    rows = []
    for system in systems:
        for key, m in system.report["metrics"].items():
            digest = (m["checksum"] or "-")[:12]
            rate = "-" if m["sample_rate"] is None else str(m["sample_rate"])
            part = "whole" if m["crop"] is None else f"{m['crop']:g} s"
            undefined = str(m["undefined"])
            rows.append(
                [
                    system.name,
                    key,
                    shown(m["value"]),
                    interval(m),
                    str(m["n"]),
                    undefined,
                    m["backbone"],
                    digest,
                    rate,
                    part,
                ]
            )
    header = ["model", "metric", "value", "95 % interval", "n", "undefined", "backbone", "SHA-256", "rate", "part"]
    return Table("All numbers", header, rows)
