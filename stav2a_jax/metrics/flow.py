"""Peaks of a film's motion for the matched AV-Align; the trajectory itself comes from ``flow_cache``."""

from __future__ import annotations

import numpy as np

from stav2a_jax.metrics.align import trajectory_peaks
from stav2a_jax.metrics.flow_cache import RELEASED, Trajectory
from stav2a_jax.video.container import PathLike, open_container, video_stream


def frame_times(path: PathLike) -> np.ndarray:
    """Time (s) of every picture, (N,) ascending from 0, by the container's time stamps; empty where it has none."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        stamps = [p.pts for p in packets]
        if not stamps or None in stamps:
            return np.zeros(0)
        times = np.sort(np.asarray(stamps, np.float64)) * float(stream.time_base)
        return times - times[0]


def motion_peaks(trajectory: Trajectory, times: np.ndarray) -> np.ndarray:
    """Peak times (s) of a trajectory (N,), pictures that repeat the one before left out; ``times`` (N,) or empty.

    A film whose pictures are doubled has zero flow at every other one, and by the released rule a peak at each picture
    between. Without times i / fps is used, as the release does. The floor stays the released one, in pixels per pair of
    pictures, so that it still depends on the size of the picture.
    """
    values = trajectory.values
    if len(times) != len(values):
        times = np.arange(len(values)) / trajectory.fps
    moved = np.flatnonzero(values[1:] > 0) + 1
    seen = np.concatenate([values[moved[:1]], values[moved]])  # the first is no peak, as in the release
    peaks = trajectory_peaks(seen, 1.0, RELEASED.floor).astype(int)
    return times[moved[peaks - 1]]
