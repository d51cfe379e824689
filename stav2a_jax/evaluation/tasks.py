"""The measurements that worker processes make, one file each, and the pool that runs them.

A task returns arrays, or the sentence that says why the file cannot be measured; it never raises for a bad file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import cv2
import librosa
import numpy as np

from stav2a_jax.audio import wav
from stav2a_jax.audio.onsets import ANALYSIS_RATE, onset_times
from stav2a_jax.evaluation.cache import Features
from stav2a_jax.metrics.events import detect_events
from stav2a_jax.metrics.flow import frame_times
from stav2a_jax.metrics.flow_cache import flow_trajectory
from stav2a_jax.models import panns, soundnet, vggish
from stav2a_jax.types import UserError
from stav2a_jax.video.sound import Channels, read_channels, resample

SILENCE = 1e-4
"""Peak below which a sound is called silent: -80 dB of full scale."""
CLIPPED, FULL = 1e-3, 0.999
"""Share of samples at full scale from which a sound is called clipped."""
SHORT = 0.1
"""Seconds by which a file may be shorter than it says, or than its partner, without being named."""
EMBED_RATE, CLAP_RATE, EVENT_RATE = 16_000, 48_000, 16_000
SHORTEST = 2.0
"""Seconds; the released evaluator pads shorter sounds with zeros for its networks."""

SOUND = f"sound 1, librosa {librosa.__version__}"  # type: ignore[attr-defined]
"""Name of the measurement :func:`sound` for the cache; the library decides what an onset is."""
EVENTS, MOTION = "events 1", "motion 1"
ONSETS = f"librosa {librosa.__version__} onsets"  # type: ignore[attr-defined]
FLOW = f"OpenCV {cv2.__version__} flow"

Result = Features | str


def _guarded(measure: Callable[..., Features]) -> Callable[..., Result]:
    """The measurement, with what libav, libsndfile or the system say about a bad file as a sentence."""

    def run(path: pathlib.Path, *settings: Any) -> Result:
        try:
            return measure(path, *settings)
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            return reason.replace("is not a video that can be read", "is no sound or film that can be read")
        except (OSError, ValueError, EOFError, MemoryError) as error:
            return f"cannot be measured ({type(error).__name__}: {error})"

    return run


def _read(path: pathlib.Path, crop: float | None) -> tuple[Channels, np.ndarray]:
    """(the file as it is, its samples (channels, n) of the first ``crop`` seconds)."""
    whole = read_channels(path)
    if not np.isfinite(whole.samples).all():
        raise UserError(f"{path} holds samples that are not finite numbers.")
    count = whole.samples.shape[1] if crop is None else int(crop * whole.sample_rate)
    return whole, whole.samples[:, :count]


def _mono(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Mean of the channels, resampled with soxr, as librosa loads a file."""
    mono = samples.mean(0, dtype=np.float32)
    return mono if rate == target else resample(mono, rate, target)


def _sound(path: pathlib.Path, crop: float | None) -> Features:
    whole, _ = _read(path, crop)
    samples, rate = whole.samples, whole.sample_rate
    seconds = samples.shape[1] / rate
    peak = float(np.abs(samples).max())
    mono = _mono(samples, rate, ANALYSIS_RATE)
    # the scripts cut after the resampling
    onsets = onset_times(mono if crop is None else mono[: int(crop * ANALYSIS_RATE)], ANALYSIS_RATE)
    announced = seconds if whole.announced is None else whole.announced
    missing = max(announced - seconds, _cut_short(path))
    return {
        "onsets": onsets,
        "seconds": np.array(seconds),
        "rate": np.array(rate),
        "channels": np.array(len(samples)),
        "peak": np.array(peak),
        "clipped": np.array(np.mean(np.abs(samples) >= FULL)),
        "missing": np.array(missing),
    }


def _cut_short(path: pathlib.Path) -> float:
    """Seconds that a WAV file's header promises beyond the file's end, 1 for an Ogg file without an end; else 0."""
    with open(path, "rb") as file:
        head = file.read(44)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if head[:4] == b"RIFF" and head[12:16] == b"fmt ":
        promised, rate = int.from_bytes(head[4:8], "little") + 8, int.from_bytes(head[28:32], "little")
        return max(0, promised - size) / rate if rate and promised < 1 << 32 else 0.0  # streams write 0xFFFFFFFF
    page = tail.rfind(b"OggS")
    return float(head[:4] == b"OggS" and page >= 0 and not tail[page + 5] & 4)


def _events(path: pathlib.Path, crop: float | None) -> Features:
    whole, part = _read(path, crop)
    return {"events": detect_events(part.mean(0, dtype=np.float32), whole.sample_rate)}


def _motion(path: pathlib.Path) -> Features:
    trajectory = flow_trajectory(path)
    return {"values": trajectory.values, "fps": np.array(trajectory.fps), "times": frame_times(path)}


def _network_input(path: pathlib.Path, crop: float | None, backbone: str) -> Features:
    """What a backbone's network sees of a file. panns, vggish: the first channel, mean removed, sinc-resampled to
    16 kHz, at least 2 s, as in the release; the others: the mean of the channels, resampled with soxr."""
    whole, part = _read(path, crop)
    if backbone in ("panns", "vggish"):
        first = part[0] - part[0].mean(dtype=np.float32)
        wave = wav.sinc_resample(first, whole.sample_rate, EMBED_RATE)
        wave = np.pad(wave, (0, max(0, round(SHORTEST * EMBED_RATE) - len(wave))))
        return {"input": panns.log_mel(wave) if backbone == "panns" else vggish.patches(wave)}
    rate = {"soundnet": soundnet.SAMPLE_RATE, "clap": CLAP_RATE}[backbone]
    mono = _mono(part, whole.sample_rate, rate)
    return {"input": soundnet.prepare(mono) if backbone == "soundnet" else mono}


sound, events, motion, network_input = (_guarded(m) for m in (_sound, _events, _motion, _network_input))
TASKS: dict[str, Callable[..., Result]] = {
    "sound": sound,
    "events": events,
    "motion": motion,
    "input": network_input,
}


class Task(NamedTuple):
    """A measurement of one file: name in :data:`TASKS`, path, settings."""

    kind: str
    path: pathlib.Path
    settings: tuple[Any, ...]


def run(task: Task) -> Result:
    """In whatever process."""
    return TASKS[task.kind](task.path, *task.settings)


FEW = 6
"""So many sounds are measured sooner than processes start."""


def run_all(tasks: Sequence[Task], workers: int) -> Iterator[tuple[int, Result]]:
    """(number of the task, result) of every task, in the order in which they end.

    Results are handed out as they come, and few are waiting at any time: they may be large. Closing the iterator, or
    an interrupt, gives up what has not begun.
    """
    workers = min(workers, len(tasks))
    if workers <= 1 or (len(tasks) <= FEW and tasks[0].kind != "motion"):
        yield from ((i, run(task)) for i, task in enumerate(tasks))
        return
    with _single_threaded():
        context = multiprocessing.get_context("spawn")  # fork would copy the threads of jax
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
        )
        waiting: dict[concurrent.futures.Future[Result], int] = {}
        rest = iter(enumerate(tasks))
        try:
            while True:
                for i, task in rest:
                    waiting[pool.submit(run, task)] = i
                    if len(waiting) >= 4 * workers:
                        break
                if not waiting:
                    break
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was ended, perhaps for want of memory; try --jobs 1") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside use one thread each for linear algebra: more would wait for each other."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
