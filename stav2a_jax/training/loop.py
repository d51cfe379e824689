"""The loop around a stage: resume, step, validate, save, show."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stav2a_jax import parallel
from stav2a_jax.checkpoint import Checkpoints
from stav2a_jax.config import StageConfig
from stav2a_jax.data.batches import fixed_pieces, pieces, prefetch
from stav2a_jax.training.optimiser import make_optimiser
from stav2a_jax.training.stages.base import Stage
from stav2a_jax.training.step import example_keys, init_state, train_step
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Params, TrainState, UserError

VALID_SEED = 2**31 - 1
"""Validation noise is drawn from this seed, whatever the run's: losses of two runs can be compared."""


def check_batch(cfg: StageConfig, name: str) -> None:
    """UserError where the devices cannot share a stage's batch."""
    devices, accum = parallel.make_mesh().size, cfg.optim.accum
    if cfg.batch_size % (devices * accum):
        raise UserError(
            f"batch size {cfg.batch_size} of stage {name!r} does not divide over {devices} devices x "
            f"{accum} accumulation steps: choose a multiple"
        )


def fit(ws: Workspace, name: str, stage: Stage, console: Console) -> Params:
    """Train one stage to its end, or go on where it was interrupted. Returns the best validation EMA."""
    from tensorboardX import SummaryWriter

    cfg: StageConfig = getattr(ws.cfg.stages, name)
    mesh = parallel.make_mesh()
    tx = make_optimiser(cfg.optim, cfg.steps, stage.is_frozen)
    step = functools.partial(
        train_step, loss_fn=stage.loss, tx=tx, ema_decay=cfg.optim.ema_decay, accum=cfg.optim.accum
    )
    run, put, put_batch = parallel.compile_step(step, mesh, mode=ws.cfg.mode)
    frozen = put(stage.frozen)
    checkpoints = Checkpoints(ws.root / name / "checkpoints")
    state = put(init_state(stage.params, tx, ws.cfg.seed))
    latest = checkpoints.latest_step()
    if latest is not None:
        state = checkpoints.restore(state, latest)
        console.print(f"[dim]{name}: resumed at step {latest}[/]")
    validate = make_validation(ws, stage, cfg, frozen)
    crop = round(cfg.crop_seconds * ws.cfg.model.latent.frames_per_second)

    def make_batch(k: int) -> dict[str, np.ndarray]:
        chosen = pieces(ws.clips("train"), ws.cfg.seed, k, cfg.batch_size, crop, ws.cfg.model.latent.frames_per_second)
        return stage.batch("train", chosen)

    writer = SummaryWriter(str(ws.root / name / "log"))
    started = time.monotonic()
    with _progress(console) as bar:
        task = bar.add_task(name, total=cfg.steps, completed=int(state.step), note="compiling")
        for batch in prefetch(make_batch, int(state.step), cfg.steps):
            state, metrics = run(state, frozen, put_batch(batch))
            k = int(state.step)  # waits for the step: keeps the queue of simulated devices short
            if k % cfg.log_every == 0 or k == cfg.steps:
                values = {m: float(v) for m, v in metrics.items()}
                _check_finite(values, name, k, batch)
                _log(writer, values, k, k, started)
                bar.update(task, completed=k, note=f"loss {values['loss']:.4f}")
            if k % cfg.valid_every == 0 or k == cfg.steps:
                valid = validate(state)
                for m, v in valid.items():
                    writer.add_scalar(f"valid/{m}", v, k)
                checkpoints.save(state, valid["loss"])
                bar.console.print(f"{name} step {k}: " + " ".join(f"{m} {v:.4f}" for m, v in valid.items()))
    writer.close()
    return finish(ws, name, stage, state, checkpoints)


def finish(ws: Workspace, name: str, stage: Stage, state: TrainState, checkpoints: Checkpoints) -> Params:
    """Keep the EMA of the best validation checkpoint as the stage's result."""
    checkpoints.wait()
    best = checkpoints.best_step()
    assert best is not None
    params = jax.device_get(checkpoints.restore(state, best).ema)
    record = {"step": best, "valid_loss": checkpoints.valid_loss(best), **stage.finish(params)}
    ws.write_result(name, params, record)
    checkpoints.close()
    return params


def make_validation(ws: Workspace, stage: Stage, cfg: StageConfig, frozen: Params) -> Any:
    """Mean metrics of the EMA over fixed pieces with fixed noise."""
    crop = round(cfg.crop_seconds * ws.cfg.model.latent.frames_per_second)
    chosen = fixed_pieces(
        ws.clips("valid"), cfg.batch_size, cfg.valid_batches, crop, ws.cfg.model.latent.frames_per_second
    )
    batches = [stage.batch("valid", rows) for rows in chosen]

    @jax.jit
    def evaluate(params: Params, fixed: Params, batch: dict[str, Any]) -> dict[str, Any]:
        keys = example_keys(jnp.uint32(VALID_SEED), jnp.int32(0), batch["index"])
        loss, metrics = stage.valid_loss(params, fixed, batch, keys)
        return {"loss": loss, **metrics}

    def validate(state: TrainState) -> dict[str, float]:
        rows = [jax.device_get(evaluate(state.ema, frozen, batch)) for batch in batches]
        return {m: float(np.mean([r[m] for r in rows])) for m in rows[0]}

    return validate


def _check_finite(values: dict[str, float], name: str, step: int, batch: dict[str, np.ndarray]) -> None:
    if not all(math.isfinite(v) for v in values.values()):
        examples = ", ".join(str(i) for i in batch["index"][:8])
        raise UserError(f"stage {name!r} diverged at step {step} ({values}); examples of the batch: {examples} ...")


def _log(writer: Any, values: dict[str, float], step: int, done: int, started: float) -> None:
    for m, v in values.items():
        writer.add_scalar(f"train/{m}", v, step)
    writer.add_scalar("train/seconds", time.monotonic() - started, step)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
