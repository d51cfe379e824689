"""Does the input pipeline keep up with the training step? ``python benchmarks/input_pipeline.py [--stage NAME ...]``

For stages of configs/foley_tiny.py, on this machine: examples per second that the pipeline loads with nothing else to
do, examples per second that the step takes with nothing to wait for, their ratio, and what part of the time a training
loop with both of them waits for a batch. The models are untrained, the clips are rendered for the occasion.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from stav2a_jax import parallel  # isort: skip  (before jax: the package sets NPROC)
import jax

from stav2a_jax.data.loading import LoadBatch, batches
from stav2a_jax.training.loop import training_order
from stav2a_jax.training.optimiser import make_optimiser
from stav2a_jax.training.recipe import STAGES, load_config
from stav2a_jax.training.stages.base import Stage
from stav2a_jax.training.step import init_state, train_step
from stav2a_jax.training.workspace import Workspace

CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs" / "foley_tiny.py"
CLIPS = 64


def untrained(ws: Workspace, last: str) -> Stage:
    """A stage whose predecessors are done without training: their initial weights are their results."""
    for name, build in STAGES.items():
        if name == last:
            break
        if not ws.done(name):
            ws.claim(name)
            stage = build(ws)
            ws.write_result(name, stage.params, {"step": 0, "valid_loss": 0.0, **stage.finish(stage.params)})
    return STAGES[last](ws)


def loading(make: LoadBatch, steps: int, workers: int) -> float:
    """Batches per second of the pipeline alone, its start not counted."""
    with batches(make, 0, steps + 1, workers) as loaded:
        next(loaded)
        started = time.perf_counter()
        count = sum(1 for _ in loaded)
        return count / (time.perf_counter() - started)


def stepping(run: Any, state: Any, frozen: Any, batch: Any, steps: int) -> tuple[float, Any]:
    """Steps per second of the step alone on one batch, compilation not counted; and the state."""
    state, metrics = run(state, frozen, batch)
    jax.block_until_ready(metrics)
    started = time.perf_counter()
    for _ in range(steps):
        state, metrics = run(state, frozen, batch)
        jax.block_until_ready(metrics)
    return steps / (time.perf_counter() - started), state


def together(make: LoadBatch, run: Any, put_batch: Any, state: Any, frozen: Any, steps: int, workers: int) -> float:
    """Share of a loop's time spent waiting for the next batch."""
    waited = 0.0
    with batches(make, 0, steps + 2, workers) as loaded:
        next(loaded)
        started = before = time.perf_counter()
        for batch in loaded:
            waited += time.perf_counter() - before
            batch.pop("clip")
            state, metrics = run(state, frozen, put_batch(batch))
            jax.block_until_ready(metrics)
            before = time.perf_counter()
    return waited / (before - started)


def measure(name: str, folder: pathlib.Path, *, steps: int = 20, workers: int = 0) -> dict[str, Any]:
    """The figures of one stage."""
    cfg = load_config(CONFIG, [f"data.train_clips={CLIPS}", "data.valid_clips=8"])
    cfg = dataclasses.replace(cfg, workers=workers)
    ws = Workspace(cfg, folder / "run", folder / "cache")
    stage, stage_cfg = untrained(ws, name), getattr(cfg.stages, name)
    tx = make_optimiser(stage_cfg.optim, steps, stage.is_frozen)
    step = functools.partial(train_step, loss_fn=stage.loss, tx=tx, ema_decay=0.99)
    run, put, put_batch = parallel.compile_step(step, parallel.make_mesh())
    make = LoadBatch(training_order(ws, stage_cfg), functools.partial(stage.batch, "train"), slice(None))
    loaded = loading(make, 10 * steps, workers)
    batch = make(0)
    batch.pop("clip")
    frozen = put(stage.frozen)
    taken, state = stepping(run, put(init_state(stage.params, tx, 0)), frozen, put_batch(batch), steps)
    waiting = together(make, run, put_batch, state, frozen, steps, workers)
    rows = stage_cfg.batch_size
    return {
        "stage": name,
        "workers": workers,
        "loaded_per_second": round(loaded * rows, 1),
        "taken_per_second": round(taken * rows, 1),
        "ratio": round(loaded / taken, 1),
        "input_wait": round(waiting, 4),
        "bytes_per_example": sum(x.nbytes for x in batch.values()) // rows,
    }


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print one JSON object per stage, and return them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="may be repeated; all by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args(argv)
    parallel.use_host_devices(load_config(CONFIG, []).host_devices)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.stage or STAGES:
            rows.append(measure(name, pathlib.Path(folder), steps=args.steps, workers=args.workers))
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
