"""From what was heard to the table of the ablation, with 95 % intervals over clips and seeds. Pure: no files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stav2a_jax.metrics.align import count_matches

LABELS = {
    "t2a_pretrained": "Pretrained T2A",
    "t2a_finetuned": "Fine-tuned T2A",
    "cn_without_filter": "CN without filter",
    "cn_frozen": "CN frozen",
    "cn": "CN",
    "cn_onset": "CN + onset",
    "cn_onset_global": "CN + onset + global",
}
ORDER = tuple(LABELS)
"""The rows of the paper's Table III."""
COLUMNS = ("event F1, 100 ms", "event F1, 50 ms", "AA-Align", "material right")
RESAMPLES = 2000


class Heard(NamedTuple):
    """One sound. true, found: event times (s); material: what it should be, heard: what it was taken for, None without
    an event; aa_align: the released score, NaN where neither sound has an onset."""

    true: Sequence[float]
    found: Sequence[float]
    material: str
    heard: str | None
    aa_align: float


class Cell(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def parts(rows: Sequence[Sequence[Heard]]) -> np.ndarray:
    """(figures, 2, seeds, clips): numerator and denominator of every column; a figure is the ratio of their sums."""

    def f1(h: Heard, window: float) -> tuple[float, float]:
        return 2.0 * count_matches(h.true, h.found, window), len(h.true) + len(h.found)

    def of(h: Heard) -> list[tuple[float, float]]:
        aligned = not np.isnan(h.aa_align)
        align = (h.aa_align if aligned else 0.0, float(aligned))
        return [f1(h, 0.1), f1(h, 0.05), align, (float(h.heard == h.material), 1.0)]

    return np.moveaxis(np.array([[of(h) for h in clips] for clips in rows], np.float64), (0, 1), (2, 3))


def cells(rows: Mapping[str, Sequence[Sequence[Heard]]], resamples: int = RESAMPLES) -> dict[str, list[Cell]]:
    """The figures of every row: pooled over seeds and clips; the interval draws both anew, with replacement, the same
    clips for all seeds and rows (they were shown the same ones)."""
    draws = _draws(rows, resamples)
    out = {}
    for name, heard in rows.items():
        value = _figures(parts(heard)[..., None, :, :])[:, 0]
        low, high = np.nanpercentile(_drawn(parts(heard), draws), [2.5, 97.5], axis=1)
        out[name] = [Cell(*map(float, row)) for row in zip(value, low, high, strict=True)]
    return out


def steps(rows: Mapping[str, Sequence[Sequence[Heard]]], resamples: int = RESAMPLES) -> dict[str, list[Cell]]:
    """Every row less the one before it, drawn together."""
    draws, names = _draws(rows, resamples), list(rows)
    out = {}
    for before, name in itertools.pairwise(names):
        pair = [parts(rows[n]) for n in (before, name)]
        a, b = (_figures(p[..., None, :, :])[:, 0] for p in pair)
        low, high = np.nanpercentile(_drawn(pair[1], draws) - _drawn(pair[0], draws), [2.5, 97.5], axis=1)
        out[name] = [Cell(*map(float, row)) for row in zip(b - a, low, high, strict=True)]
    return out


def _draws(rows: Mapping[str, Sequence[Sequence[Heard]]], resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeds (resamples, S) and clips (resamples, N) drawn with replacement."""
    first, rng = next(iter(rows.values())), np.random.default_rng(0)
    seeds, clips = len(first), len(first[0])
    return rng.integers(seeds, size=(resamples, seeds)), rng.integers(clips, size=(resamples, clips))


def _drawn(counts: np.ndarray, draws: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Figures of every draw, (figures, resamples)."""
    seeds, clips = draws
    return _figures(counts[:, :, seeds[:, :, None], clips[:, None, :]])


def _figures(counts: np.ndarray) -> np.ndarray:
    """(figures, 2, draws, seeds, clips) -> (figures, draws)."""
    top, bottom = np.moveaxis(counts.sum(axis=(-2, -1)), 1, 0)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def markdown(rows: Mapping[str, Sequence[Sequence[Heard]]], about: Sequence[str]) -> str:
    """The page: what was run, the table, and every row against the one before it."""
    first = next(iter(rows.values()))
    head = ["| row | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines = ["# The ablation at tiny size", "", *about, ""]
    lines += [f"{len(first)} seeds x {len(first[0])} clips; 95 % intervals over clips and seeds (bootstrap)."]
    lines += ["", *head, *_lines(cells(rows), "{:.3f}"), "", "Every row less the one before it, on the same draws:"]
    return "\n".join([*lines, "", *head, *_lines(steps(rows), "{:+.3f}")]) + "\n"


def _lines(table: Mapping[str, Sequence[Cell]], form: str) -> list[str]:
    def shown(cell: Cell) -> str:
        value, low, high = (form.format(x) for x in cell)
        return f"{value} ({low} to {high})"

    return [f"| {LABELS.get(name, name)} | " + " | ".join(map(shown, row)) + " |" for name, row in table.items()]
