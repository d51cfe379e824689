"""Opening a video file and reading its clock.

Time 0 is everywhere the moment of the first picture: frames, sound and muxing share this one clock, whatever time
stamp the container gives to its first picture. Nothing is derived from a nominal frame rate or frame count, which
are wrong for phone recordings, trimmed files and anything of variable frame rate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from stav2a_jax.types import UserError

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What :func:`probe` found. ``width`` and ``height`` are as shown, that is after ``rotation``."""

    seconds: float  # last time stamp + duration of the last frame - first time stamp, of the video stream
    start: float  # the container's time stamp of the first picture, in seconds; this moment is our time 0
    frames: int
    fps: float  # frames / seconds
    variable: bool  # the distance between frames changes by more than rounding
    width: int
    height: int
    rotation: int  # degrees counter-clockwise that a player turns the coded picture: 0, 90, 180 or 270
    codec: str
    time_base: float  # seconds of one tick of the video's time stamps
    has_audio: bool
    audio_rate: int | None
    audio_channels: int | None


def probe(path: PathLike) -> VideoInfo:
    """Length, rate, size and streams of a video, from its time stamps (all packets are read, one frame is decoded).

    Raises :class:`UserError` when there is no such file, no readable video stream, no frame, or no length.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        frame = next(decode_packets(container, stream), None)
        if frame is None:
            raise UserError(f"{path}: no picture of its video stream could be decoded; convert it to H.264 mp4.")
        turned = orientation(frame)[0]
        codec = stream.codec_context.codec.canonical_name
    with open_container(path) as container:  # opened again, because raw streams cannot be rewound
        stream = video_stream(container, path)
        packets = [(p.pts, p.dts, p.duration) for p in container.demux(stream) if p.size and not p.is_discard]
        start, seconds, steps = _timing(packets, stream, frame)
        if not seconds > 0:
            raise UserError(f"{path}: the video has no length; record or convert it again.")
        tick = float(stream.time_base)
        audio = next(iter(container.streams.audio), None)
        return VideoInfo(
            seconds=seconds,
            start=start,
            frames=len(packets),
            fps=len(packets) / seconds,
            variable=bool(steps.size and np.ptp(steps) > max(2.5 * tick, 0.01 * float(np.median(steps)))),
            width=frame.height if turned else frame.width,
            height=frame.width if turned else frame.height,
            rotation=round(frame.rotation / 90) * 90 % 360,
            codec=codec,
            time_base=tick,
            has_audio=audio is not None,
            audio_rate=audio.codec_context.sample_rate if audio else None,
            audio_channels=audio.codec_context.channels if audio else None,
        )


@contextlib.contextmanager
def open_container(path: PathLike) -> Iterator[Any]:
    """An opened PyAV container; files that are absent or no media raise :class:`UserError`."""
    # an absolute path, because libav reads "name:rest" as a protocol
    file = pathlib.Path(path).absolute()
    if not file.is_file():
        raise UserError(f"{path}: no such file.")
    try:
        container = av.open(str(file))
    except PermissionError:
        raise UserError(f"{path}: no permission to read it.") from None
    except (av.error.FFmpegError, OSError, ValueError):
        raise UserError(f"{path}: is not a video that can be read, or is damaged.") from None
    with container:
        if container.format.name == "tty":  # libav "plays" any text file
            raise UserError(f"{path}: is not a video that can be read, or is damaged.")
        yield container


def video_stream(container: Any, path: PathLike) -> Any:
    """The stream that a player would show; cover pictures of sound files do not count."""
    stream = best_video(container)
    if stream is None:
        raise UserError(f"{path}: has no video stream.")
    stream.thread_type = "AUTO"
    return stream


def best_video(container: Any) -> Any | None:
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    best = container.streams.best("video")
    return best if best in moving else next(iter(moving), None)


def decode_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a stream; a damaged packet costs its own frames only, as in every player."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """(transpose, then mirror columns, then mirror rows) of the display matrix, to the nearest quarter turn.

    The matrix takes (x, y) to (a x + c y, b x + d y), y pointing down, entries a b u c d v x y w in fixed point.
    """
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _timing(packets: list[tuple], stream: Any, first: Any) -> tuple[float, float, np.ndarray]:
    """(time stamp of the first picture, length, distances between frames) in seconds."""
    tick = float(stream.time_base)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    stamps = [pts for pts, _, _ in packets]
    missing = None in stamps
    if missing:  # AVI has decoding times only, raw streams none
        stamps = [dts for _, dts, _ in packets]
    if None in stamps:
        step = 1 / float(rate or 25)
        return 0.0, len(packets) * step, np.full(max(0, len(packets) - 1), step)
    order = np.argsort(np.asarray(stamps), kind="stable")
    times = np.asarray(stamps, np.float64)[order] * tick
    steps = np.diff(times)
    last = (packets[order[-1]][2] or 0) * tick
    if not last > 0:
        last = float(np.median(steps)) if steps.size else 1 / float(rate or 25)
    stamp = first.pts if first.pts is not None else first.dts
    start = stamp * tick if missing and stamp is not None else float(times[0])
    return start, float(times[-1] - times[0] + last), steps
