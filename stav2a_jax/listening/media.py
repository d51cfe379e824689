"""Clips as raters get them: one container, no metadata; and the generated clips for training and attention.

Pictures and sounds are copied packet by packet, so nobody rates an encoder of ours.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import av
import numpy as np

from stav2a_jax.errors import UserError
from stav2a_jax.video.container import best_video, open_container, probe, video_stream
from stav2a_jax.video.mux import write_video
from stav2a_jax.video.sound import read_audio

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
VIDEO_CODECS = ("h264", "vp9", "av1")  # those that go into mp4 and that browsers play
AUDIO_CODECS = ("aac", "mp3", "opus", "flac")
RATE, FPS, SIZE = 48_000, 25.0, 256
BEEPS = (2, 3, 4, 5, 6, 7)
LEVEL_DB, LENGTH_S = 3.0, 0.1  # systems differ by more than this: worth a note
_BEEP_STEP = 0.5  # seconds from one beep to the next


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of one clip: length in seconds, size in pixels, level in dBFS (RMS of the mono mean; -inf for silence)."""

    seconds: float
    width: int
    height: int
    level_db: float


def find_clips(systems: Mapping[str, pathlib.Path]) -> dict[str, dict[str, pathlib.Path]]:
    """{system: {clip name: file}}, the names being equal in all systems. Other files than videos are left alone.

    UserError for a folder that is absent or holds no video, two videos of one name, or names that differ.
    """
    found = {system: _videos(system, folder) for system, folder in systems.items()}
    every = set().union(*found.values())
    lacking = {system: sorted(every - clips.keys()) for system, clips in found.items() if every - clips.keys()}
    if lacking:
        said = "; ".join(f"{system} ({systems[system]}) lacks {_listed(names)}" for system, names in lacking.items())
        raise UserError(f"Every system needs a video of every name, but {said}; add or remove clips.")
    return {system: dict(sorted(clips.items())) for system, clips in found.items()}


def _videos(system: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"The folder of system {system}, {str(folder)!r}, does not exist; check --systems.")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise UserError(f"The folder of system {system}, {str(folder)!r}, holds no video ({', '.join(SUFFIXES)}).")
    out: dict[str, pathlib.Path] = {}
    for file in files:
        if file.stem in out:
            raise UserError(f"System {system} has two videos of one name, {out[file.stem]} and {file}; remove one.")
        out[file.stem] = file
    return out


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def examine(path: pathlib.Path) -> Facts:
    """Read a clip through. UserError where it has no sound or no picture, or where browsers would not play it."""
    info = probe(path)
    with open_container(path) as container:
        video = video_stream(container, path).codec_context
        if not container.streams.audio:
            raise UserError(f"{path}: has no sound; every clip of a listening test needs it.")
        audio = container.streams.audio[0].codec_context.codec.canonical_name
        if video.codec.canonical_name not in VIDEO_CODECS or video.pix_fmt not in ("yuv420p", "yuvj420p"):
            kind = f"{video.codec.canonical_name} ({video.pix_fmt})"
            raise UserError(f"{path}: its {kind} pictures do not play in every browser; convert it to H.264, yuv420p.")
        if audio not in AUDIO_CODECS:
            raise UserError(f"{path}: its {audio} sound does not play in every browser; convert it to AAC.")
    wave = read_audio(path).wave.astype(np.float64)
    power = float(np.mean(wave**2))
    return Facts(info.seconds, info.width, info.height, 10 * math.log10(power) if power else -math.inf)


def notes(systems: Sequence[str], names: Sequence[str], facts: Mapping[tuple[int, int], Facts]) -> list[str]:
    """What could give systems away, or move their scores, without being an error: lengths, sizes, silence, levels.

    facts: of every (number of the system, number of the clip).
    """
    out = []
    rows = {name: [facts[s, c] for s in range(len(systems))] for c, name in enumerate(names)}
    lengths = [name for name, row in rows.items() if float(np.ptp([f.seconds for f in row])) > LENGTH_S]
    sizes = [name for name, row in rows.items() if len({(f.width, f.height) for f in row}) > 1]
    silent = [f"{names[c]} of {systems[s]}" for (s, c), f in facts.items() if math.isinf(f.level_db)]
    if lengths:
        out.append(f"lengths differ by more than {LENGTH_S} s between systems, which raters see: {_listed(lengths)}")
    if sizes:
        out.append(f"picture sizes differ between systems, which raters see: {_listed(sizes)}")
    if silent:
        out.append(f"no sound at all in: {_listed(silent)}")
    heard = [[row[s].level_db for row in rows.values() if math.isfinite(row[s].level_db)] for s in range(len(systems))]
    levels = {system: float(np.mean(values)) for system, values in zip(systems, heard, strict=True) if values}
    if levels and max(levels.values()) - min(levels.values()) > LEVEL_DB:
        said = ", ".join(f"{system} {level:.1f} dBFS" for system, level in levels.items())
        out.append(f"mean levels differ by more than {LEVEL_DB:g} dB, and louder is often judged better: {said}")
    return out


def copy_clean(source: pathlib.Path, target: pathlib.Path) -> None:
    """Picture and sound packets of ``source`` into an mp4 without title, tags, dates and further streams."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: the muxer does not sign its work
    try:
        with open_container(source) as reader, av.open(str(target), "w", format="mp4", options=options) as writer:
            streams = [best_video(reader), reader.streams.audio[0]]
            copies = {s.index: writer.add_stream_from_template(s, opaque=True) for s in streams}
            for packet in reader.demux(streams):
                if packet.size:
                    packet.stream = copies[packet.stream.index]
                    writer.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(f"{source}: cannot be copied into an mp4 ({error}); convert it to H.264 and AAC.") from None


def write_training(good: pathlib.Path, bad: pathlib.Path) -> None:
    """Two generated examples of the same picture: with its own sound, and with a noisy one of another clip."""
    from stav2a_jax.data import foley

    clip, other = foley.make_clip(0, "train", 0), foley.make_clip(0, "train", 10)
    frames = foley.render_video(clip, size=SIZE, fps=FPS)
    write_video(good, frames, FPS, foley.render_audio(clip, sample_rate=RATE), RATE)
    wrong = foley.render_audio(other, sample_rate=RATE)
    noise = 0.03 * np.random.default_rng(0).standard_normal(len(wrong))
    write_video(bad, frames, FPS, np.clip(wrong + noise, -1, 1), RATE)


def write_check(path: pathlib.Path, beeps: int) -> None:
    """An attention check: a generated picture with ``beeps`` beeps, one every half second."""
    from stav2a_jax.data import foley

    seconds = (beeps + 2) * _BEEP_STEP
    clip = foley.make_clip(0, "train", 2)
    frames = foley.render_video(clip, size=SIZE, fps=FPS)[: round(seconds * FPS)]
    time = np.arange(round(seconds * RATE)) / RATE
    phase = time % _BEEP_STEP - _BEEP_STEP / 2
    shape = np.clip((0.1 - np.abs(phase)) / 0.01, 0, 1)  # 0.2 s long, edges of 10 ms
    counted = (time >= _BEEP_STEP) & (time < (beeps + 1) * _BEEP_STEP)
    write_video(path, frames, FPS, 0.3 * np.sin(2 * np.pi * 880 * time) * shape * counted, RATE)


def anonymous_times(folder: pathlib.Path) -> None:
    """One date for all files: the order of writing says nothing about what they are."""
    for path in sorted(folder.rglob("*")):
        os.utime(path, (946_684_800, 946_684_800))
