"""The steps that look at one clip at a time: probe, captions, speech, onsets, align. Each a function row -> row."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import av
import numpy as np

from stav2a_jax.audio.onsets import ANALYSIS_RATE, onset_times
from stav2a_jax.data.prepare import media
from stav2a_jax.data.prepare.media import Dropped
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import stamped
from stav2a_jax.data.prepare.speech import speech_word, word_list
from stav2a_jax.data.prepare.store import Row
from stav2a_jax.metrics.align import released_av_align
from stav2a_jax.metrics.flow_cache import CacheError, flow_peaks
from stav2a_jax.types import UserError

REASONS = {
    "bad_name": "the line of the list, or the file's name, cannot be used",
    "duplicate": "listed twice",
    "missing": "no file in the folder that is surely its own",
    "not_a_file": "a folder or the like has its name",
    "empty": "zero bytes",
    "unreadable": "no video, or damaged, or neither picture nor sound can be decoded",
    "no_video": "has no video stream",
    "no_audio": "has no audio track",
    "truncated": "ends before its container says",
    "too_short": "shorter than the limit",
    "too_long": "longer than the limit",
    "too_large": "more pixels than the limit",
    "silent": "every sample of its sound is zero",
    "speech": "the caption speaks of human speech",
    "av_align": "AV-Align below the limit",
    "no_events": "AV-Align is undefined: neither sound nor picture has a peak",
    "failed": "an error of the machine or the program, tried again by the next run; please report it if it stays",
}
"""Every reason for which a clip is dropped."""


class Context(NamedTuple):
    """settings; captions: (caption, where from) by clip id; flow_cache: folder of the optical flow, None for none."""

    settings: PrepareSettings
    captions: Mapping[str, tuple[str, str]]
    flow_cache: pathlib.Path | None


StepFn = Callable[[Row, Context], Row]


class Step(NamedTuple):
    """version: raised when the step's result changes, so that old files are made again. settings: names of what of
    :class:`PrepareSettings` the step depends on."""

    run: StepFn
    settings: tuple[str, ...] = ()
    version: int = 1


def probe(row: Row, context: Context) -> Row:
    """Adds seconds (s), width, height (pixels) and fps; drops what cannot be used."""
    if "trouble" in row:
        raise Dropped(*row["trouble"])
    return {**row, **media.examine(row, context.settings)._asdict()}


def caption(row: Row, context: Context) -> Row:
    """Adds caption and caption_source ('list', 'file', 'label', 'generated' or 'none')."""
    if "generated" in row:
        return {**row, "caption": media.generated(*row["generated"]).caption, "caption_source": "generated"}
    text, source = context.captions[row["id"]]
    return {**row, "caption": text, "caption_source": source}


def speech(row: Row, context: Context) -> Row:
    """Drops clips whose caption speaks of speech; the others pass as they are."""
    word = speech_word(row["caption"]) if context.settings.drop_speech else None
    if word is not None:
        raise Dropped("speech", f"{word!r} in {row['caption']!r}")
    return row


def onsets(row: Row, context: Context) -> Row:
    """Adds onsets: times in seconds of the onsets of the whole sound, the pseudo-labels (PAPER sec. 2)."""
    wave = media.onset_sound(row)
    return {**row, "onsets": onset_times(wave, ANALYSIS_RATE).tolist()}


def compile_onsets() -> None:
    """Have librosa's functions compiled and cached on disk, before several processes ask for them at once.

    Processes that compile them at the same moment can leave a cache that crashes all that read it (numba 0.68).
    """
    click = np.zeros(ANALYSIS_RATE, np.float32)
    click[ANALYSIS_RATE // 2] = 1.0
    onset_times(click, ANALYSIS_RATE)


def align(row: Row, context: Context) -> Row:
    """Adds av_align (None where it is not asked for, or undefined); drops clips below the limit (PAPER sec. 5).

    Raises CacheError.
    """
    settings = context.settings
    if settings.av_align == "skip" or "generated" in row:
        return {**row, "av_align": None}
    try:
        peaks, fps = flow_peaks(row["path"], context.flow_cache, settings.flow)
    except CacheError:
        raise
    except (UserError, av.error.FFmpegError) as error:
        raise Dropped("unreadable", str(error)) from None
    score = released_av_align(row["onsets"], peaks, fps)
    if settings.av_align == "filter":
        if math.isnan(score):
            raise Dropped("no_events", "neither its sound nor its picture has a peak")
        if score < settings.min_av_align:
            raise Dropped("av_align", f"AV-Align is {score:.4f}, at least {settings.min_av_align:g} is wanted")
    return {**row, "av_align": None if math.isnan(score) else score}


STEPS: dict[str, Step] = {
    "probe": Step(probe, ("min_seconds", "max_seconds", "max_pixels", "frame_size", "frame_fps"), version=2),
    "captions": Step(caption, version=2),
    "speech": Step(speech, ("drop_speech",)),
    "onsets": Step(onsets),
    "align": Step(align, ("av_align", "min_av_align", "flow")),
}
"""In the order in which they run; ``features.py`` follows."""


def settings_key(name: str, settings: PrepareSettings) -> list[Any]:
    """What of the settings a step depends on, for its key."""
    step, values = STEPS[name], dataclasses.asdict(settings)
    words = {k: sorted(v) for k, v in word_list().items()} if name == "speech" else None
    return [name, step.version, {k: values[k] for k in step.settings}, words]


def attempt(run: StepFn, row: Row, context: Context) -> Row:
    """The step's row, or the clip's end with its reason. What nobody foresaw ends this clip, not the whole run.

    Raises CacheError: a folder that cannot be written would end every clip.
    """
    try:
        return run(row, context)
    except CacheError:
        raise
    except Exception as error:
        return ended(row, error)


def ended(row: Row, error: Exception) -> Row:
    """The end of a clip by an exception, MemoryError too: :class:`Dropped` has a reason, anything else is 'failed'."""
    if not isinstance(error, Dropped):
        return dropped(row, "failed", f"{type(error).__name__}: {error}")
    end = dropped(row, error.reason, error.detail)
    changed = "stamp" in row and stamped(row) != row  # as when a disk goes away in mid-run
    return {**end, "again": True} if changed or _of_the_machine(error) else end


def _of_the_machine(error: BaseException | None) -> bool:
    """Whether an exception goes back to the machine (no permission, a disk's error, no memory), not to the clip."""
    while error is not None and not isinstance(error, (OSError, MemoryError)):
        error = error.__cause__ or error.__context__
    return error is not None


def dropped(row: Row, reason: str, detail: str) -> Row:
    """The end of a clip; what has failed is tried again by the next run."""
    end: Row = {"id": row["id"], "split": row["split"], "dropped": {"reason": reason, "detail": detail}}
    return {**end, "again": True} if reason == "failed" else end
