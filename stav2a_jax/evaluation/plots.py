"""The pictures of a report, as PNG files. No global state of matplotlib is used."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.audio.onsets import ANALYSIS_RATE
from stav2a_jax.evaluation.catalogue import ALIGN_WINDOW, entry
from stav2a_jax.metrics.events import match
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import atomic
from stav2a_jax.video.sound import read_audio

TRUE, MADE, FILM, INK, SOFT = "#2f6db3", "#d9541e", "#2a8a4a", "#222222", "#9a9a9a"
DPI, WIDTH = 100, 11.0
HOP_MS = 1000 * 512 / ANALYSIS_RATE
"""Onsets lie on this grid, so that a histogram needs bins of whole steps."""
SPREAD = 0.2
SHOWN, PICTURES, CLASSES = 8, 4, 30
"""Clips with tracks, clips with spectrograms, classes in a chart."""


class Plot(NamedTuple):
    """A picture that was written: its file, title, and what is to be seen on it."""

    path: pathlib.Path
    title: str
    caption: str


def draw_all(
    report: Mapping[str, Any], folder: pathlib.Path, sounds: Mapping[str, tuple[pathlib.Path, pathlib.Path]]
) -> list[Plot]:
    """Every picture that the report has numbers for. ``sounds``: name -> (generated, true) file, for spectrograms."""
    plots = []
    clips = report["clips"]
    chosen = examples(report)
    if any(clip["generated"]["onsets"] or clip["reference"]["onsets"] for clip in clips.values()):
        plots.append(onset_tracks(clips, chosen, report, folder / "onset_tracks.png"))
        plots.append(offset_histogram(clips, folder / "offset_histogram.png"))
    if report["curves"]:
        plots.append(window_curves(report["curves"], folder / "window_curve.png"))
    if report["by_class"]:
        plots.append(class_scores(report, folder / "class_scores.png"))
    some = chosen[:: max(1, len(chosen) // PICTURES)][:PICTURES]
    plots.append(
        spectrograms({name: sounds[name] for name in some}, clips, report["crop"], folder / "spectrograms.png")
    )
    return plots


def examples(report: Mapping[str, Any]) -> list[str]:
    """Clips from the best to the worst, evenly spread over the ranking by AA-Align F1 (by name where it is missing)."""
    scores = report["metrics"].get("aa_f1", {}).get("per_clip") or {}
    ranked = sorted(report["clips"], key=lambda name: (scores.get(name) is None, -(scores.get(name) or 0.0), name))
    picks = np.unique(np.linspace(0, len(ranked) - 1, min(SHOWN, len(ranked))).round().astype(int))
    return [ranked[i] for i in picks]


def _figure(height: float, rows: int, columns: int = 1, width: float = WIDTH, **options: Any) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9, colors=INK)
    return figure, list(axes.flat)


def _save(figure: Any, path: pathlib.Path, title: str, caption: str) -> Plot:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")
    return Plot(path, title, caption)


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def onset_tracks(clips: Mapping[str, Any], names: Sequence[str], report: Mapping[str, Any], path: pathlib.Path) -> Plot:
    """True and generated onsets of some clips, what is matched joined by lines, and the peaks of the film's motion."""
    figure, axes = _figure(0.9 * len(names) + 0.7, len(names), sharex=True)
    scores = report["metrics"].get("aa_f1", {}).get("per_clip") or {}
    end = max(clips[name][role]["seconds"] for name in names for role in ("generated", "reference"))
    for axis, name in zip(axes, names, strict=True):
        clip = clips[name]
        true, made = clip["reference"]["onsets"], clip["generated"]["onsets"]
        film = clip.get("film", {}).get("peaks", [])
        rows = [(true, TRUE), (made, MADE)] + [(film, FILM)] * bool(film)
        for row, (times, color) in enumerate(rows):
            axis.vlines(times, -row - 0.36, -row + 0.36, color=color, linewidth=1.6)
        for i, j in match(true, made, ALIGN_WINDOW):
            axis.plot([true[i], made[j]], [-0.36, -0.64], color=SOFT, linewidth=0.9)
        labels = ["true", "generated", "motion"][: len(rows)]
        axis.set_yticks([-row for row in range(len(rows))], labels, fontsize=8)
        axis.set_ylim(-len(rows) + 0.5, 0.5)
        score = scores.get(name)
        text = _short(name) + ("" if score is None else f"   F1 {score:.2f}")
        axis.set_title(text, fontsize=9, loc="left", color=INK, pad=2, parse_math=False)
    axes[-1].set_xlim(0, min(end, report["crop"] or end))
    axes[-1].set_xlabel("time (s)", fontsize=9)
    caption = (
        "Onsets of the true sound (blue) and of the generated one (orange), from the best to the worst clip; grey "
        "lines join those that are matched one to one within 100 ms. Green: peaks of a film's motion, if there is one."
    )
    return _save(figure, path, "Onset tracks", caption)


def offset_histogram(clips: Mapping[str, Any], path: pathlib.Path) -> Plot:
    """Generated minus true time of the onsets matched within 200 ms."""
    offsets = []
    for clip in clips.values():
        true, made = clip["reference"]["onsets"], clip["generated"]["onsets"]
        offsets += [1000 * (made[j] - true[i]) for i, j in match(true, made, SPREAD)]
    figure, (axis,) = _figure(3.4, 1)
    half = int(np.ceil(1000 * SPREAD / HOP_MS))
    axis.hist(offsets, bins=(np.arange(-half, half + 2) - 0.5) * HOP_MS, color=MADE, edgecolor="white", linewidth=0.5)
    for limit in (-1000 * ALIGN_WINDOW, 1000 * ALIGN_WINDOW):
        axis.axvline(limit, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_xlabel("generated minus true onset (ms)", fontsize=9)
    axis.set_ylabel("matched onsets", fontsize=9)
    median = (
        f"median {np.median(offsets):+.0f} ms, median size {np.median(np.abs(offsets)):.0f} ms" if offsets else "none"
    )
    caption = (
        f"Offsets of {len(offsets)} onsets matched one to one within 200 ms: {median}. The dashed lines are the 100 ms "
        "of the scores; a flat histogram is what chance gives, a peak at 0 is synchrony, one elsewhere is a shift."
    )
    return _save(figure, path, "Offsets", caption)


def window_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: pathlib.Path) -> Plot:
    """F1 over the matching window beside its chance level."""
    titles = {"aa": "AA-Align: generated against true onsets", "av": "AV-Align: generated onsets against motion"}
    figure, axes = _figure(3.4, 1, len(curves), sharey=True)
    for axis, (kind, rows) in zip(axes, curves.items(), strict=True):
        rows = [row for row in rows if row["value"] is not None]
        x = [1000 * row["window"] for row in rows]
        value = np.array([row["value"] for row in rows])
        low, high = (np.array([row["interval"][k] for row in rows], float) for k in (0, 1))
        axis.errorbar(
            x, value, [value - low, high - value], color=MADE, marker="o", capsize=4, label="F1, 95 % interval"
        )
        chance = [np.nan if row["chance"] is None else row["chance"] for row in rows]
        axis.plot(x, chance, color=SOFT, marker="s", linestyle="--", label="chance (other clips' sound)")
        axis.set_xscale("log")
        axis.set_xticks(x, [f"{v:g}" for v in x])
        axis.minorticks_off()
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("window (ms)", fontsize=9)
        axis.set_title(titles[kind], fontsize=10, loc="left")
        axis.legend(fontsize=8, frameon=False, loc="best")
    axes[0].set_ylabel("F1", fontsize=9)
    caption = "What lies above the dashed line is alignment; a score that meets it is what any other clip would get."
    return _save(figure, path, "Score over the matching window", caption)


def class_scores(report: Mapping[str, Any], path: pathlib.Path) -> Plot:
    """Means per class with their intervals, of the metrics that have a value per clip."""
    classes = report["by_class"]
    wanted = ("aa_f1", "av_f1", "kl_softmax_panns", "kl_scenes_soundnet", "clap")
    keys = [key for key in wanted if any(key in values for values in classes.values())]
    keys = keys or list(next(iter(classes.values())))[:3]
    counts = {label: sum(clip.get("class") == label for clip in report["clips"].values()) for label in classes}
    labels = sorted(sorted(classes), key=lambda label: -counts[label])[:CLASSES]
    figure, axes = _figure(0.28 * len(labels) + 1.2, 1, len(keys), sharey=True)
    for axis, key in zip(axes, keys, strict=True):
        for row, label in enumerate(labels):
            value = classes[label].get(key)
            if value is None or value["value"] is None:
                continue
            low, high = (value["value"] if limit is None else limit for limit in value["interval"])
            axis.plot([low, high], [-row, -row], color=SOFT, linewidth=2, solid_capstyle="butt")
            axis.plot(value["value"], -row, "o", color=MADE, markersize=5)
        whole = report["metrics"][key]["value"]
        if whole is not None:
            axis.axvline(whole, color=TRUE, linewidth=1, linestyle=(0, (4, 3)))
        axis.set_title(entry(key).title, fontsize=9, loc="left")
        axis.grid(axis="x", color="#e8e8e8")
    axes[0].set_yticks(
        [-row for row in range(len(labels))], [f"{_short(c, 24)} ({counts[c]})" for c in labels], fontsize=8
    )
    more = f" The {len(labels)} largest of {len(classes)} classes." if len(classes) > len(labels) else ""
    caption = f"Mean and 95 % interval per class (number of clips); the dashed line is the mean of all clips.{more}"
    return _save(figure, path, "Scores per class", caption)


def spectrograms(
    sounds: Mapping[str, tuple[pathlib.Path, pathlib.Path]],
    clips: Mapping[str, Any],
    crop: float | None,
    path: pathlib.Path,
) -> Plot:
    """Mel spectrograms of true and generated sounds side by side, with their onsets."""
    import librosa

    figure, axes = _figure(1.9 * len(sounds) + 0.4, len(sounds), 2, sharex=True, sharey=True)
    for row, (name, files) in enumerate(sounds.items()):
        for column, (role, file) in enumerate((("reference", files[1]), ("generated", files[0]))):
            axis = axes[2 * row + column]
            try:
                wave = read_audio(file, ANALYSIS_RATE, seconds=crop or clips[name][role]["seconds"]).wave
            except UserError:  # was readable when it was measured
                continue
            mel = librosa.feature.melspectrogram(y=wave, sr=ANALYSIS_RATE, n_mels=96, hop_length=512)
            level = librosa.power_to_db(np.maximum(mel, 1e-10))
            extent = (0.0, len(wave) / ANALYSIS_RATE, 0.0, 96.0)
            axis.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-60, vmax=30)
            axis.vlines(clips[name][role]["onsets"], 0, 6, color="white", linewidth=1.2)
            title = {"reference": "true", "generated": "generated"}[role]
            axis.set_title(f"{title}: {_short(name, 34)}", fontsize=9, loc="left", pad=2, parse_math=False)
            hertz = (200, 1000, 4000)
            scale = librosa.hz_to_mel(np.array([*hertz, ANALYSIS_RATE / 2]))
            axis.set_yticks(96 * scale[:-1] / scale[-1], [f"{h / 1000:g} kHz" for h in hertz], fontsize=8)
    for axis in axes[-2:]:
        axis.set_xlabel("time (s)", fontsize=9)
    caption = (
        "Mel spectrograms on one scale (-60 to 30 dB), so that loudness can be compared; white ticks at the bottom are "
        "the detected onsets."
    )
    return _save(figure, path, "Spectrograms", caption)
