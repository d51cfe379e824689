"""Being told to stop: SIGTERM, as schedulers send it some time before they take the machine away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from stav2a_jax.errors import Preempted

IDLE = "told to stop while no stage was training"


class StopSignal:
    """While its context lasts, SIGTERM is a request. In a training loop it waits for :meth:`asked`; anywhere else there
    is nothing to save, and Preempted is raised at once.

    Among several processes JAX takes the signal from when they join, and finds a step at which all of them stop.
    ``told`` stays, once there was a request.
    """

    def __init__(self) -> None:
        self.told, self._looping, self._questions = False, False, 0

    def asked(self) -> bool:
        """Whether to stop after this step; to be asked equally often by all processes."""
        from stav2a_jax import parallel  # here: a command listens before it imports jax

        self._questions += 1
        # JAX says yes at the one step that was agreed on, which may be the last one of its stage.
        self.told = self.told or parallel.asked_to_stop(self._questions)
        return self.told

    def check(self) -> None:
        """Raises Preempted where there was a request and nothing is to be saved; a question as :meth:`asked`."""
        if self.asked():
            raise Preempted(IDLE)

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
        """SIGTERM is heard in here. Outside the main thread no handler can be set."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: a handler that is not Python's

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if not self._looping:
            raise Preempted(IDLE)
