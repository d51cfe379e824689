"""The input pipeline: Grain loads the batches that an :class:`Order` names, ahead of their use.

A batch is one element of the Grain dataset, so threads, worker processes and hosts change who loads it and not what is
in it: batch k is a function of (seed, k), and the whole state of the pipeline is k.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from stav2a_jax.data.batches import Order, Piece

Batch = dict[str, np.ndarray]
Load = Callable[[Sequence[Piece], int], Batch]
"""(pieces, crop in latent frames) -> named arrays: where the records come from is the business of this function."""

THREADS, AHEAD = 2, 4
"""Threads that load, and batches that wait; of every worker process where there are some."""


@dataclasses.dataclass(frozen=True)
class LoadBatch:
    """Step -> this process's rows of its batch, and from which ``clip`` (B,) each is cut.

    Pickled for worker processes, ``load`` with it.
    """

    order: Order
    load: Load
    rows: slice

    def __call__(self, step: int) -> Batch:
        pieces = self.order.pieces(step, self.rows)
        return {"clip": np.array([p.clip for p in pieces], np.int32), **self.load(pieces, self.order.crop_of(step))}


@contextlib.contextmanager
def batches(make: LoadBatch, first: int, last: int, workers: int = 0) -> Iterator[Iterator[Batch]]:
    """make(first), ..., make(last - 1), in this order whatever ``workers`` is; they end with the context.

    ``workers`` processes load them, or threads of this one for 0. Workers import the main module again, which
    therefore must start nothing by being imported.
    """
    dataset = grain.MapDataset.range(first, last).map(make)
    loaded = dataset.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))
    if workers:
        _parse_no_flags()
        # Not through shared memory: with Grain 0.2.18 some of its blocks were never given back (2 of 12 batches).
        copied = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        loaded = grain.experimental.WithOptionsIterDataset(loaded, copied)
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=AHEAD)
        loaded = loaded.mp_prefetch(options, _end_with_parent)
    iterator = iter(loaded)
    try:
        yield iterator
    finally:
        iterator.close()


def _end_with_parent(worker: int, workers: int) -> None:
    """For a worker: a parent that is killed ends nothing by itself, and the worker would wait for it for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _parse_no_flags() -> None:
    """Grain's workers read absl's flags, which a program that is no absl program has never parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
