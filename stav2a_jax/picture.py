"""One picture of a result: frames, predicted onsets, waveform and mel spectrogram over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stav2a_jax.video.container import PathLike
from stav2a_jax.video.mux import atomic

WIDTH, HEIGHT, DPI = 14.0, 9.0, 100  # inches, inches, dots per inch: 1400 x 900
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.072, 0.98, 0.925, 0.068
_INK, _SOFT, _BLUE, _ORANGE, _GREEN = "#222222", "#8a8a8a", "#2f6db3", "#d9541e", "#2a8a4a"
_EDGE, _TICKS = "#bbbbbb", "#555555"


def draw(
    path: PathLike,
    *,
    frames: np.ndarray,
    fps: float,
    wave: np.ndarray,
    sample_rate: int,
    log_mel: np.ndarray,
    onset_probability: np.ndarray | None,
    frames_per_second: float,
    seconds: float,
    title: str,
    events: Sequence[float] | np.ndarray | None = None,
    true_events: Sequence[float] | np.ndarray | None = None,
    mel_frames_per_second: float = 100.0,
    mel_range: tuple[float, float] = (0.0, 8000.0),
) -> None:
    """Write a PNG of 1400 x 900.

    frames (N, H, W, 3) uint8, frame i at i / fps seconds; wave (n,) or (n, 2) in [-1, 1]; log_mel (T, bins) natural
    logarithm, ``mel_frames_per_second`` rows per second, bins spread over ``mel_range`` Hz (Slaney's scale);
    onset_probability (t,) in [0, 1], ``frames_per_second`` values per second, or None for a model without;
    ``events`` are the detected and ``true_events`` the true moments in seconds. Everything behind ``seconds`` is left
    out. Uses no global state of matplotlib, so that several threads may draw.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    marks = [] if events is None else [float(e) for e in events if 0 <= e <= seconds]
    truth = [] if true_events is None else [float(e) for e in true_events if 0 <= e <= seconds]
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    ratios = [1.2, 1.1, 1.1, 1.9]
    margins = {"left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM}
    grid = figure.add_gridspec(4, 1, height_ratios=ratios, hspace=0.17, **margins)
    axes = [figure.add_subplot(grid[row]) for row in range(4)]
    for axis in axes:
        _dress(axis, seconds)
    strip_width = WIDTH * (_RIGHT - _LEFT)
    strip_height = axes[0].get_position().height * HEIGHT
    _strip(axes[0], np.asarray(frames), fps, seconds, strip_width / strip_height)
    _onsets(axes[1], onset_probability, frames_per_second, marks, truth)
    _waveform(axes[2], np.asarray(wave), sample_rate, seconds)
    _mel(axes[3], np.asarray(log_mel), mel_frames_per_second, mel_range)
    for axis, color in zip(axes[2:], (_ORANGE, "white")):
        for moment in marks:
            axis.axvline(moment, color=color, linewidth=0.9, alpha=0.6, linestyle=(0, (3, 3)))
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    for axis, label in zip(axes, ("video", "onset probability", "amplitude", "frequency (kHz)")):
        axis.set_ylabel(label, fontsize=12, color=_INK)
        axis.yaxis.set_label_coords(-0.046, 0.5)
    axes[-1].set_xlabel("time (s)", fontsize=12, color=_INK)
    figure.text(_LEFT, 0.956, _short(title), fontsize=14, fontweight="bold", color=_INK, ha="left", parse_math=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": f"matplotlib {mpl.__version__}"})


def _short(title: str, limit: int = 100) -> str:
    title = " ".join(title.split())
    return title if len(title) <= limit else title[: limit - 1] + "…"


def _dress(axis: Any, seconds: float) -> None:
    axis.set_xlim(0, seconds)
    axis.tick_params(labelsize=11, colors=_TICKS, width=0.8, length=3)
    for side, spine in axis.spines.items():
        spine.set_color(_EDGE)
        spine.set_linewidth(0.8)
        spine.set_visible(side in ("left", "bottom"))


def _strip(axis: Any, frames: np.ndarray, fps: float, seconds: float, aspect: float) -> None:
    """8 to 12 thumbnails of true proportions, each centred over the moment it shows."""
    shape = frames.shape[2] / frames.shape[1]
    count = int(np.clip(round(aspect / shape), 8, 12))
    slot = seconds / count
    # in units of the axis (seconds wide, 1 high) a picture of proportions `shape` and height h is h * shape * unit wide
    unit = seconds / aspect
    height = min(0.86, 0.96 * slot / (shape * unit))
    width = height * shape * unit
    low = 0.14  # the line below each picture points at its moment
    for middle in (np.arange(count) + 0.5) * slot:
        index = min(int(middle * fps + 1e-6), len(frames) - 1)
        box = (middle - width / 2, middle + width / 2, low, low + height)
        axis.imshow(frames[index], extent=box, aspect="auto", interpolation="antialiased")
        axis.plot([middle, middle], [0, low - 0.02], color=_SOFT, linewidth=0.8)
    axis.set_xlim(0, seconds)
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.spines[["left", "bottom"]].set_visible(False)


def _onsets(axis: Any, probability: np.ndarray | None, rate: float, marks: list[float], truth: list[float]) -> None:
    if probability is None:
        axis.text(0.5, 0.5, "this model predicts no onsets", transform=axis.transAxes, ha="center", color=_SOFT)
    else:
        values = np.asarray(probability, np.float64).reshape(-1)
        edges = np.arange(len(values) + 1) / rate  # value i belongs to the span from i / rate to (i + 1) / rate
        axis.stairs(values, edges, fill=True, color=_BLUE, alpha=0.22, linewidth=0)
        axis.stairs(values, edges, color=_BLUE, linewidth=1.4, label="predicted onset probability")
    if marks:
        spot = {"marker": "v", "markersize": 8, "color": _ORANGE, "linestyle": "none", "clip_on": False}
        axis.plot(marks, np.full(len(marks), 1.06), label="detected event", **spot)
        axis.vlines(marks, 0, 1.03, color=_ORANGE, linewidth=0.8, alpha=0.55, linestyle=(0, (3, 3)))
    if truth:
        spot = {"marker": "^", "markersize": 8, "color": _GREEN, "linestyle": "none", "clip_on": False, "zorder": 4}
        axis.plot(truth, np.full(len(truth), 0.0), label="true event", **spot)
    axis.set_ylim(0, 1.12)
    axis.set_yticks([0, 0.5, 1])
    handles, labels = axis.get_legend_handles_labels()
    if handles:  # above the panel, where it can hide nothing
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.1}
        axis.legend(handles, labels, ncols=3, frameon=False, fontsize=11, labelcolor=_INK, **place)


def _waveform(axis: Any, wave: np.ndarray, sample_rate: int, seconds: float) -> None:
    mono = wave if wave.ndim == 1 else wave.mean(axis=1)
    mono = mono[: max(1, round(seconds * sample_rate))]
    block = max(1, len(mono) // 2600)  # two envelopes per column of pixels draw the same picture as all samples
    rows = np.pad(mono, (0, -len(mono) % block), mode="edge").reshape(-1, block)
    times = (np.arange(len(rows)) + 0.5) * block / sample_rate
    axis.fill_between(times, rows.min(1), rows.max(1), color=_INK, linewidth=0.5, edgecolor=_INK)
    peak = float(np.abs(mono).max())
    limit = next((step for step in (0.1, 0.2, 0.5) if step >= peak), 1.0)
    axis.set_ylim(-limit, limit)
    axis.set_yticks([-limit, 0, limit])


def _mel(axis: Any, log_mel: np.ndarray, rate: float, hertz: tuple[float, float]) -> None:
    import librosa

    log_mel = log_mel.reshape(len(log_mel), -1)
    decibel = log_mel * (20 / np.log(10))
    top = float(decibel.max())
    low, high = librosa.hz_to_mel(np.asarray(hertz))
    limits = axis.get_xlim()
    image = axis.imshow(
        decibel.T,
        extent=(0, len(log_mel) / rate, low, high),
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        vmin=top - 80,
        vmax=top,
    )
    axis.set_xlim(limits)
    ticks = [k for k in (500, 1000, 2000, 4000, 8000) if hertz[0] <= k <= hertz[1]]
    axis.set_yticks(librosa.hz_to_mel(np.asarray(ticks)), [f"{k / 1000:g}" for k in ticks])
    inset = axis.inset_axes((0.86, 0.9, 0.115, 0.035))
    bar = axis.figure.colorbar(image, cax=inset, orientation="horizontal", ticks=[top - 80, top])
    bar.ax.set_xticklabels(["-80 dB", "0 dB"], color="white", fontsize=9)
    bar.ax.tick_params(length=0, pad=3)
    bar.outline.set_edgecolor("white")
    bar.outline.set_linewidth(0.6)
