"""Reading pictures of any video file by its time stamps, at any steady rate and size; ``read_audio`` and ``probe``.

Time 0 is the moment of the first picture, see :mod:`stav2a_jax.video.container`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from stav2a_jax.types import UserError
from stav2a_jax.video.container import (
    PathLike,
    VideoInfo,
    decode_packets,
    open_container,
    orientation,
    probe,
    video_stream,
)
from stav2a_jax.video.sound import Audio, read_audio

__all__ = ["Audio", "Frames", "VideoInfo", "iter_frames", "probe", "read_audio", "read_frames"]


class Frames(NamedTuple):
    """frames (N, H, W, 3) uint8 RGB, frame i shown at ``start + i / fps``; seconds = exact length that was read."""

    frames: np.ndarray
    seconds: float
    fps: float


def read_frames(
    path: PathLike,
    fps: float,
    size: int | tuple[int, int],
    *,
    start: float = 0.0,
    seconds: float | None = None,
    max_seconds: float | None = None,
) -> Frames:
    """Pictures at a steady rate: frame i is what a player shows at ``start + i / fps`` seconds.

    That is the source frame with the greatest time stamp not after that moment (half a tick of tolerance, at most
    1 ms, because containers round). N = max(1, round(length * fps)), where the length is that of the whole video,
    or at most ``seconds``. ``size``: side of a square, or (height, width); the aspect ratio is not kept, as in CAVP,
    and shrinking is antialiased (Pillow's bilinear, the filter of CAVP's preprocessing). Rotation is applied. One
    full-size picture is in memory at a time. A video (or part) longer than ``max_seconds`` is refused.
    """
    if not fps > 0:
        raise UserError(f"The frame rate must be positive, got {fps}.")
    height, width = (size, size) if isinstance(size, int) else size
    info = probe(path)
    length = info.seconds - start
    if not (length > 0 and start >= 0):
        raise UserError(f"{path}: start={start} s lies outside the video, which is {info.seconds:.2f} s long.")
    length = length if seconds is None else min(length, seconds)
    if max_seconds is not None and length > max_seconds + info.time_base:
        raise UserError(f"{path}: {length:.2f} s is longer than the limit of {max_seconds:g} s; use a shorter part.")
    count = max(1, round(length * fps))
    out = np.empty((count, height, width, 3), np.uint8)
    moments = start + np.arange(count) / fps + _tolerance(info)
    done, shown, small = 0, None, None
    for when, frame in _timed(path, info, start):
        while shown is not None and done < count and moments[done] < when:
            small = _picture(shown, (width, height)) if small is None else small
            out[done] = small
            done += 1
        if done == count:
            break
        shown, small = frame, None
    if shown is None:
        raise UserError(f"{path}: no picture of its video stream could be decoded; convert it to H.264 mp4.")
    if done < count:
        out[done:] = _picture(shown, (width, height)) if small is None else small
    return Frames(out, length, float(fps))


def iter_frames(path: PathLike, *, start: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
    """Every source frame from ``start`` on as (seconds, (H, W, 3) uint8 RGB at its own size, rotation applied)."""
    info = probe(path)
    tolerance = _tolerance(info)
    for when, frame in _timed(path, info, start):
        if when >= start - tolerance:
            yield when, _picture(frame, None)


def _tolerance(info: VideoInfo) -> float:
    """How much later than its true moment a rounded time stamp may be: half a tick, ties included, at most 1 ms."""
    return min(0.51 * info.time_base, 1e-3)


def _timed(path: PathLike, info: VideoInfo, start: float) -> Iterator[tuple[float, Any]]:
    """(seconds since the first picture, decoded frame), beginning at or before the frame visible at ``start``."""
    seek = start > 2.0  # below, decoding from the beginning costs less than a seek can go wrong
    with open_container(path) as container:
        stream = video_stream(container, path)
        tick = float(stream.time_base)
        if seek:
            container.seek(round((info.start + start - 1.0) / tick), stream=stream, backward=True)
        when = -math.inf
        for number, frame in enumerate(decode_packets(container, stream)):
            stamp = frame.pts if frame.pts is not None else frame.dts
            now = number / info.fps if stamp is None else stamp * tick - info.start
            if seek and number == 0 and (stamp is None or now > start):
                break  # the seek landed too late, or nowhere that can be known
            when = max(when, now)
            yield when, frame
        else:
            return
    yield from _timed(path, info, 0.0)


def _picture(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a decoded frame, upright; ``size`` is (width, height) as shown, None for its own."""
    transpose, columns, rows = orientation(frame)
    rgb = frame.to_ndarray(format="rgb24")
    if size is not None:
        coded = size[::-1] if transpose else size
        if coded != (frame.width, frame.height):
            rgb = np.asarray(Image.fromarray(rgb).resize(coded, Image.Resampling.BILINEAR))
    rgb = rgb.transpose(1, 0, 2) if transpose else rgb
    rgb = rgb[:, ::-1] if columns else rgb
    return np.ascontiguousarray(rgb[::-1] if rows else rgb)
