"""Work in several processes that survives what videos do to decoders: a crash costs one clip, not the run."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2


class Crashed:
    """In place of a result: the process that worked on the item died (a fault in a native library, out of memory)."""


class Workers:
    """``count`` spawned processes with one thread for OpenCV each. Even one is spawned, because it may crash.

    With 0 all is done in this process, for a debugger or a test; there a crash ends the run. A script that spawns needs
    ``if __name__ == "__main__":``.

    A context manager. Leaving it, by an exception too, ends the processes at once; a process also ends when the one
    that started it is killed.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        self._threads = cv2.getNumThreads()
        if not self.count:
            cv2.setNumThreads(1)
        return self

    def __exit__(self, *raised: object) -> None:
        cv2.setNumThreads(self._threads)
        self._stop()

    def each(self, run: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(place of the item, run(item)) in the order in which they are done; :class:`Crashed` for a crash.

        ``run`` and the items are sent to the processes. What ``run`` raises is raised here. After a crash the items
        that were in hand, one of which did it, are done one at a time, and the others in all processes again.
        """
        if not self.count:
            yield from ((i, run(item)) for i, item in enumerate(items))
            return
        left = collections.deque(range(len(items)))
        running: dict[Future[Any], int] = {}
        while left or running:
            broken = False
            try:
                while left and len(running) <= self.count:  # one more than can run, so that none has to wait
                    future = self._start().submit(run, items[left[0]])
                    running[future] = left.popleft()
            except BrokenProcessPool:
                broken = True
            done = wait(running, return_when=FIRST_COMPLETED).done
            if broken or any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                self._stop()
                done = set(running)  # all that was handed out has ended, well or not
            suspects = []
            for future in done:
                place = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(place)
                else:
                    yield place, future.result()
            for place in sorted(suspects):
                yield place, self._alone(run, items[place])

    def _alone(self, run: Callable[[Any], Any], item: Any) -> Any:
        try:
            return self._start().submit(run, item).result()
        except BrokenProcessPool:
            self._stop()
            return Crashed()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # fork would copy the threads of jax
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin)
        return self._pool

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # not waiting for what is in hand, which may take minutes
            pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Start of a worker: no competing threads, the terminal's Ctrl-C left to the parent, and an end with the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
