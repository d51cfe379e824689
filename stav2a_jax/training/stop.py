"""Being told to stop: SIGTERM, as schedulers send it some time before they take the machine away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from stav2a_jax import parallel
from stav2a_jax.errors import Preempted


class StopSignal:
    """While its context lasts, SIGTERM is a request. In a training loop it waits for :meth:`asked`; anywhere else there
    is nothing to save, and Preempted is raised at once.

    With several processes JAX takes the signal on each host and finds a step at which all of them stop.
    """

    def __init__(self, processes: int) -> None:
        self._alone = processes == 1
        self.told, self._looping, self._questions = False, False, 0

    def asked(self) -> bool:
        """Whether to stop after this step; to be asked once at every step, by all processes."""
        self._questions += 1
        return self.told if self._alone else parallel.asked_to_stop(self._questions)

    @contextlib.contextmanager
    def in_loop(self) -> Iterator[None]:
        """A training loop, which asks after every step."""
        self._looping = True
        try:
            yield
        finally:
            self._looping = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """SIGTERM is heard in here. Outside the main thread, or with several processes, no handler is set."""
        if not self._alone or threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if not self._looping:
            raise Preempted("told to stop between two stages")
