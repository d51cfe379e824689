"""How much a video moves: the mean optical flow of every frame, whose peaks AV-Align compares with audio onsets.

97 % of the cost of AV-Align is this flow, so it is computed once per video: frames are streamed (two are in memory),
each is turned grey once, and the result can be kept in a folder under a key made from the coded pictures. Files that
show the same pictures under different sounds share one entry; a changed video never finds an old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from stav2a_jax.metrics.align import trajectory_peaks
from stav2a_jax.types import UserError
from stav2a_jax.video.container import PathLike, open_container, probe, video_stream
from stav2a_jax.video.decode import iter_frames
from stav2a_jax.video.mux import atomic


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Which pictures the flow is computed on; the defaults are the released AV-Align (METRICS: native size and rate).

    height: pictures higher than this are shrunk to it, aspect ratio kept, by area; None keeps their size. fps: at most
    so many pictures a second, chosen by their time stamps; None takes every one. floor: smallest peak, in pixels per
    pair of pictures that are compared.
    """

    height: int | None = None
    fps: float | None = None
    floor: float = 0.1


RELEASED = FlowConfig()


class CacheError(UserError):
    """The folder of the cache cannot be written, which is the fault of no video."""


class Trajectory(NamedTuple):
    """values (N,) float64: mean flow magnitude in pixels between picture i - 1 and i; the first is the second's copy.

    fps: pictures per second, i / fps is the time of value i.
    """

    values: np.ndarray
    fps: float

    def first(self, seconds: float | None) -> Trajectory:
        """The trajectory of the first ``seconds``; all of it where None."""
        return self if seconds is None else Trajectory(self.values[: int(seconds * self.fps)], self.fps)


def flow_peaks(
    path: PathLike,
    cache_dir: PathLike | None = None,
    cfg: FlowConfig = RELEASED,
    *,
    seconds: float | None = None,
) -> tuple[np.ndarray, float]:
    """(times of the motion peaks in seconds (k,), frames per second) of a video's first ``seconds``, or of all of it.

    Raises UserError where the file is no readable video, CacheError where the cache cannot be written.
    """
    trajectory = cached_trajectory(path, cache_dir, cfg).first(seconds)
    return trajectory_peaks(trajectory.values, trajectory.fps, cfg.floor), trajectory.fps


def cached_trajectory(path: PathLike, cache_dir: PathLike | None = None, cfg: FlowConfig = RELEASED) -> Trajectory:
    """:func:`flow_trajectory`, looked up in and written to ``cache_dir`` where one is given.

    Several processes may use one folder; an entry is written whole or not at all, and a damaged one is made again.
    Raises UserError where the file is no readable video, CacheError where the cache cannot be written.
    """
    if cache_dir is None:
        return flow_trajectory(path, cfg)
    key = content_key(path, cfg)
    entry = pathlib.Path(cache_dir) / key[:2] / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(entry.read_text())
        return Trajectory(np.array(found["values"], np.float64), float(found["fps"]))
    trajectory = flow_trajectory(path, cfg)
    try:
        with atomic(entry) as temporary:
            temporary.write_text(json.dumps({"fps": trajectory.fps, "values": trajectory.values.tolist()}))
    except UserError as error:
        raise CacheError(str(error)) from None
    except OSError as error:
        raise CacheError(f"{entry}: cannot be written ({error.strerror}); choose another folder.") from None
    return trajectory


def content_key(path: PathLike, cfg: FlowConfig = RELEASED) -> str:
    """Hexadecimal name of what the flow depends on: coded pictures and their times, sizes and rate, and OpenCV."""
    digest = hashlib.sha256(f"flow 1, {cv2.__version__}, {cfg.height}, {cfg.fps}".encode())
    with open_container(path) as container:
        stream = video_stream(container, path)
        digest.update(f"{stream.codec_context.name} {stream.average_rate} {stream.time_base}".encode())
        digest.update(bytes(stream.codec_context.extradata or b""))
        for packet in container.demux(stream):
            if packet.size:
                digest.update(f"{packet.pts} {packet.dts} {packet.size}".encode())
                digest.update(memoryview(packet))
    return digest.hexdigest()


def flow_trajectory(path: PathLike, cfg: FlowConfig = RELEASED) -> Trajectory:
    """Mean magnitude of the Farneback flow of consecutive pictures; two of them are in memory at a time."""
    before: np.ndarray | None = None
    values: list[float] = []
    for grey in _grey_pictures(path, cfg):
        if before is not None:
            values.append(mean_flow(before, grey))
        before = grey
    if before is None:
        raise UserError(f"{path}: no picture of its video stream could be decoded; convert it to H.264 mp4.")
    return Trajectory(np.array([*values[:1], *values] or [0.0], np.float64), _rate(path, cfg))


def mean_flow(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length in pixels of the flow between two grey pictures (H, W) uint8, with the released settings."""
    flow = cv2.calcOpticalFlowFarneback(
        before,
        after,
        None,  # type: ignore[call-overload]
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
    return float(np.mean(cv2.cartToPolar(flow[..., 0], flow[..., 1])[0]))


def _rate(path: PathLike, cfg: FlowConfig) -> float:
    """Pictures per second: what the container says, as OpenCV does, or the wanted rate where that is lower."""
    with open_container(path) as container:
        stated = video_stream(container, path).average_rate
    native = float(stated) if stated else probe(path).fps
    return native if cfg.fps is None else min(native, cfg.fps)


def _grey_pictures(path: PathLike, cfg: FlowConfig) -> Iterator[np.ndarray]:
    """(H, W) uint8 pictures at the config's size and rate."""
    info = probe(path)
    frames = iter_frames(path)
    slower = cfg.fps if cfg.fps is not None and cfg.fps < info.fps else None
    for picture in (p for _, p in frames) if slower is None else _at_rate(frames, slower, info.seconds):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if cfg.height is not None and grey.shape[0] > cfg.height:
            width = max(1, round(grey.shape[1] * cfg.height / grey.shape[0]))
            grey = cv2.resize(grey, (width, cfg.height), interpolation=cv2.INTER_AREA)
        yield grey


def _at_rate(frames: Iterator[tuple[float, np.ndarray]], fps: float, seconds: float) -> Iterator[np.ndarray]:
    """The pictures shown at 0, 1 / fps, 2 / fps, ... of a video so many seconds long."""
    count, total = 0, max(1, round(seconds * fps))
    shown: np.ndarray | None = None
    for when, picture in frames:
        while shown is not None and count < total and count / fps < when - 1e-6:
            yield shown
            count += 1
        shown = picture
    if shown is not None:
        yield from (shown for _ in range(count, total))
