"""From sessions to the report: scores, agreement, paired tests, and the tables (Markdown and JSON)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stav2a_jax.errors import UserError
from stav2a_jax.listening import answers, statistics
from stav2a_jax.listening.answers import Key, Session
from stav2a_jax.listening.design import NAMES

RESAMPLES, ALPHA_RESAMPLES = 10_000, 1000


def score(sessions: Sequence[Session], key: Key, *, min_rated: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """The whole report, JSON-ready (undefined numbers are None).

    ``min_rated``: the share of the clips that a rater must have rated. UserError when no rater is left.
    """
    if not 0 < min_rated <= 1:
        raise UserError(f"--min-rated must lie above 0 and at most at 1, got {min_rated:g}.")
    why = {s.rater: answers.reasons(s, key, min_rated) for s in sessions}
    used = [s for s in sessions if not why[s.rater]]
    if not used:
        said = "; ".join(f"rater {rater}: {', '.join(texts)}" for rater, texts in why.items())
        raise UserError(f"No rater is left to score ({said}); collect more answers.")
    ratings = to_array(used, key)
    draws = {s: statistics.crossed_bootstrap(ratings[s], RESAMPLES, seed) for s in NAMES}
    own = {s: statistics.with_the_others(ratings[s]) for s in NAMES}
    agreed = {s: statistics.agreement(ratings[s], ALPHA_RESAMPLES, seed) for s in NAMES}
    scores = {
        system: {s: statistics.estimate(ratings[s][:, :, k], draws[s][:, k])._asdict() for s in NAMES}
        for k, system in enumerate(key.systems)
    }
    report = {
        "site": key.site,
        "title": key.title,
        "systems": list(key.systems),
        "clips": list(key.clips),
        "scales": list(NAMES),
        "level": 0.95,
        "resamples": RESAMPLES,
        "seed": seed,
        "raters": {
            "used": [
                {"rater": s.rater, "file": str(s.path), "with_the_others": {n: own[n][k] for n in NAMES}}
                for k, s in enumerate(used)
            ],
            "excluded": [
                {"rater": s.rater, "file": str(s.path), "reasons": why[s.rater]} for s in sessions if why[s.rater]
            ],
        },
        "scores": scores,
        "agreement": {s: {"alpha": agreed[s][0], "interval": agreed[s][1]} for s in NAMES},
        "paired": [row for s in NAMES for row in compare(ratings[s], draws[s], key.systems, s)],
    }
    return defined(report)


def to_array(sessions: Sequence[Session], key: Key) -> dict[str, np.ndarray]:
    """{scale: (raters, clips, systems) float64}, NaN where a clip was not rated."""
    clips, systems = ({name: k for k, name in enumerate(names)} for names in (key.clips, key.systems))
    out = {s: np.full((len(sessions), len(clips), len(systems)), np.nan) for s in NAMES}
    for row, session in enumerate(sessions):
        for name, (clip, system) in key.media.items():
            for s, value in session.ratings.get(name, {}).items():
                out[s][row, clips[clip], systems[system]] = value
    return out


def compare(ratings: np.ndarray, draws: np.ndarray, systems: Sequence[str], scale: str) -> list[dict[str, Any]]:
    """All pairs of systems on one scale; Holm's correction is over these pairs, for each test by itself."""
    means = statistics.clip_means(ratings)
    pairs = list(itertools.combinations(range(len(systems)), 2))
    rows = [statistics.paired(means, draws, a, b) for a, b in pairs]
    p_t, p_wilcoxon = (statistics.holm(np.array([getattr(r, name) for r in rows])) for name in ("p_t", "p_wilcoxon"))
    return [
        {"scale": scale, "a": systems[a], "b": systems[b], **row._asdict(), "p_t_holm": t, "p_wilcoxon_holm": w}
        for (a, b), row, t, w in zip(pairs, rows, p_t.tolist(), p_wilcoxon.tolist())
    ]


def defined(value: Any) -> Any:
    """NaN, which JSON does not know, as None, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: defined(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [defined(v) for v in value]
    return value


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: the table like the paper's Table II, then what stands behind it."""
    scales, used, excluded = report["scales"], report["raters"]["used"], report["raters"]["excluded"]
    clips = len(report["clips"])
    lines = [f"# {report['title']}", ""]
    lines += [f"{len(used)} raters, {clips} clips per system, scales from 1 to 100. Mean ± half of Student's 95 %"]
    lines += ["interval over clips (each the mean of its raters).", ""]
    lines += _table(
        ["system", *scales],
        [[name, *(_plus_minus(row[s]) for s in scales)] for name, row in report["scores"].items()],
    )
    lines += ["", "## Intervals", "", "95 % intervals of the mean: Student's t over clips; raters and clips drawn anew"]
    lines += [f"({report['resamples']} times); Student's t over all ratings as if they were independent.", ""]
    lines += _table(
        ["system", "scale", "ratings", "mean", "deviation", "t over clips", "bootstrap", "t over ratings"],
        [
            [name, s, str(e["n"]), _number(e["mean"]), _number(e["deviation"])]
            + [_interval(e[kind]) for kind in ("t_clips", "bootstrap", "t_ratings")]
            for name, row in report["scores"].items()
            for s, e in row.items()
        ],
    )
    if report["paired"]:
        lines += [
            "",
            "## Differences",
            "",
            "Paired by clip; p values after Holm's correction over the pairs of a scale.",
            "",
        ]
        lines += _table(
            ["scale", "a - b", "clips", "difference", "t interval", "bootstrap", "p (t)", "p (Wilcoxon)"],
            [
                [p["scale"], f"{p['a']} - {p['b']}", str(p["n"]), _number(p["difference"])]
                + [_interval(p[kind]) for kind in ("t_interval", "bootstrap")]
                + [_p(p[kind]) for kind in ("p_t_holm", "p_wilcoxon_holm")]
                for p in report["paired"]
            ],
        )
    lines += ["", "## Agreement", "", "Krippendorff's alpha (interval), with a bootstrap over clips.", ""]
    lines += _table(
        ["scale", "alpha", "95 % interval"],
        [[s, _number(a["alpha"]), _interval(a["interval"])] for s, a in report["agreement"].items()],
    )
    lines += ["", "## Raters", "", "Spearman's correlation of each rater with the mean of the others.", ""]
    lines += _table(
        ["rater", *scales], [[str(u["rater"]), *(_number(u["with_the_others"][s]) for s in scales)] for u in used]
    )
    lines += ["", "Excluded:" if excluded else "Excluded: nobody.", ""]
    lines += [f"- rater {e['rater']}: {'; '.join(e['reasons'])}" for e in excluded]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    safe = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    return [f"| {' | '.join(row)} |" for row in (safe[0], ["---"] * len(head), *safe[1:])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(limits: Sequence[float | None]) -> str:
    return "-" if limits[0] is None else f"{_number(limits[0])} to {_number(limits[1])}"


def _plus_minus(row: Mapping[str, Any]) -> str:
    low, high = row["t_clips"]
    return _number(row["mean"]) + ("" if low is None else f" ± {(high - low) / 2:.2f}")


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
