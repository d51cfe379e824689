"""The loop around a stage: resume, step, validate, save, stop when asked to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from rich.console import Console

from stav2a_jax import parallel
from stav2a_jax.checkpoint import Checkpoints
from stav2a_jax.config import Config, StageConfig
from stav2a_jax.data.batches import Order, order_of
from stav2a_jax.data.loading import LoadBatch, batches
from stav2a_jax.errors import Preempted
from stav2a_jax.training.flops import step_flops
from stav2a_jax.training.optimiser import SCHEDULES, make_optimiser
from stav2a_jax.training.stages.base import Stage
from stav2a_jax.training.step import init_state, train_step
from stav2a_jax.training.stop import StopSignal
from stav2a_jax.training.validation import Validation
from stav2a_jax.training.watch import Watch
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Params, TrainState, UserError

POSITIVE = ("batch_size", "valid_every", "valid_batches", "log_every", "optim.lr", "optim.clip_norm", "optim.accum")
NATURAL = ("shown", "optim.weight_decay", "optim.warmup_steps", "optim.final_fraction")
DECAYS = ("optim.b1", "optim.b2", "optim.ema_decay")
"""Numbers of a stage's settings that are above 0; that are not below; that are fractions of what was."""


def check_devices(cfg: Config, name: str) -> None:
    """UserError where the devices cannot share a stage's batch, or cannot be arranged as asked; else as
    :func:`check_stage`."""
    if cfg.mode not in parallel.MODES:
        raise UserError(f"unknown mode {cfg.mode!r}: choose one of {', '.join(parallel.MODES)}")
    if cfg.mode == "pmap" and (cfg.fsdp > 1 or jax.process_count() > 1):
        raise UserError("mode 'pmap' runs in one process and without fsdp: choose mode 'jit'")
    try:
        devices = parallel.make_mesh(fsdp=cfg.fsdp).size
    except ValueError as error:
        raise UserError(f"{error}: set fsdp to a divisor") from error
    stage = check_stage(cfg, name)
    if stage.batch_size % (devices * stage.optim.accum):
        raise UserError(
            f"batch size {stage.batch_size} of stage {name!r} does not divide over {devices} devices x "
            f"{stage.optim.accum} accumulation steps: choose a multiple"
        )


def check_stage(cfg: Config, name: str) -> StageConfig:
    """The settings of a stage. UserError where the config does not train it, or cannot: with all that is wrong."""
    stage: StageConfig = getattr(cfg.stages, name)
    if stage.steps < 1:
        raise UserError(f"config {cfg.name!r} does not train stage {name!r}: choose another --config")
    values = {**vars(stage), **{f"optim.{key}": value for key, value in vars(stage.optim).items()}}
    frame, lengths = 1.0 / cfg.model.latent.frames_per_second, (stage.crop_seconds, *stage.buckets)
    wrong = [
        *(f"{key}={values[key]} (expected above 0)" for key in POSITIVE if not 0 < values[key] < math.inf),
        *(f"{key}={values[key]} (expected 0 or more)" for key in NATURAL if not 0 <= values[key] < math.inf),
        *(f"{key}={values[key]} (expected from 0 to below 1)" for key in DECAYS if not 0 <= values[key] < 1),
        *(f"pieces of {x} s (expected {frame:g} or more)" for x in lengths if not frame <= x < math.inf),
    ]
    if stage.optim.schedule not in SCHEDULES:
        wrong.append(f"optim.schedule={stage.optim.schedule!r} (expected {' or '.join(map(repr, SCHEDULES))})")
    if wrong:
        raise UserError(f"stage {name!r} cannot train with {', '.join(wrong)}: choose other values")
    return stage


def fit(
    ws: Workspace, name: str, stage: Stage, console: Console, stop: StopSignal, *, log_examples: bool = False
) -> Params:
    """Train one stage to its end, or go on where it was interrupted. Returns the best validation EMA.

    Raises Preempted, with the state saved, where ``stop`` says so; UserError with the step and its clips where the
    loss is not finite. ``log_examples`` writes the clips of every step to examples-PROCESS.jsonl of the stage.
    """
    cfg: StageConfig = getattr(ws.cfg.stages, name)
    mesh = parallel.make_mesh(fsdp=ws.cfg.fsdp)
    step, tx = make_step(cfg, stage)
    local = not stage.whole_batch and (cfg.optim.accum > 1 or ws.cfg.fsdp > 1)
    run, put, put_batch = parallel.compile_step(
        functools.partial(step, accum=cfg.optim.accum), mesh, mode=ws.cfg.mode, local=local
    )
    order = training_order(ws, cfg)
    with Checkpoints(ws.root / name / "checkpoints") as checkpoints:
        make_state = functools.partial(init_state, tx=tx, seed=ws.cfg.seed)
        state = parallel.computed_on(mesh, make_state, parallel.put(mesh, stage.params))
        state = _resumed(checkpoints, state, order, name, console)
        frozen = put(stage.frozen)
        validate = Validation(ws, stage, cfg, frozen, mesh)
        first = int(state.step)
        count_flops = functools.partial(step_flops, step, state, frozen)
        watch = Watch(ws, name, console, first, count_flops)
        load = LoadBatch(order, functools.partial(stage.batch, "train"), parallel.rows_of_process(cfg.batch_size))
        with watch, stop.in_loop(), batches(load, first, cfg.steps, ws.cfg.workers) as loaded:
            for k, batch in enumerate(watch.timed(loaded), first + 1):
                clips = batch.pop("clip")
                if log_examples:
                    watch.note(k, clips, batch["index"])
                state, metrics = run(state, frozen, put_batch(batch))
                watch.stepped(k, clips, metrics, batch)
                if k % cfg.valid_every == 0 or k == cfg.steps:
                    valid = validate(state)
                    watch.validated(k, valid, validate.shown(state))
                    checkpoints.save(state, valid["loss"], pipeline_state(order, k))
                if stop.asked() and k < cfg.steps:
                    watch.catch_up()  # a state that is no number is not worth going on from
                    checkpoints.save(state, None, pipeline_state(order, k))
                    checkpoints.wait()
                    raise Preempted(f"stage {name!r} was told to stop and is saved at step {k}")
        return _finish(ws, name, stage, state, checkpoints)


def make_step(cfg: StageConfig, stage: Stage) -> tuple[Callable[..., Any], optax.GradientTransformation]:
    """(``step(state, frozen, batch, accum=1, spread=None) -> (state, metrics)``, its optimiser)."""
    tx = make_optimiser(cfg.optim, cfg.steps, stage.is_frozen)
    return functools.partial(train_step, loss_fn=stage.loss, tx=tx, ema_decay=cfg.optim.ema_decay), tx


def training_order(ws: Workspace, cfg: StageConfig) -> Order:
    """Which pieces of the training clips every step of a stage takes."""
    rate = ws.cfg.model.latent.frames_per_second
    crops = [round(seconds * rate) for seconds in cfg.buckets or (cfg.crop_seconds,)]
    return order_of(ws.clips("train"), ws.cfg.seed, cfg.batch_size, crops, rate, ws.kept("train"))


def pipeline_state(order: Order, step: int) -> dict[str, Any]:
    """Where the input pipeline stands after a step: as many steps on, whatever loads and on however many devices."""
    return {"next_step": step, **order.fingerprint()}


def _resumed(checkpoints: Checkpoints, state: TrainState, order: Order, name: str, console: Console) -> TrainState:
    latest = checkpoints.latest_step()
    if latest is None:
        return state
    now = pipeline_state(order, latest)
    stood = {"clips": now.get("clips"), **checkpoints.data(latest)}  # older checkpoints do not name their clips
    changed = [key for key, value in now.items() if stood.get(key) != value]
    if changed:
        raise UserError(
            f"stage {name!r} cannot go on at step {latest}: the clips to train on are not those of its start "
            f"(other {', '.join(changed)}); restore them, or delete the stage's folder"
        )
    console.print(f"[dim]{name}: resumed at step {latest}[/]")
    return _exchanged(checkpoints, state, latest)


def _exchanged(checkpoints: Checkpoints, state: TrainState, step: int) -> TrainState:
    """The state of ``step`` in place of ``state``, which is given up first: a large one fits once."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    jax.tree.map(lambda x: x.delete(), state)
    return checkpoints.restore(shapes, step)


def _finish(ws: Workspace, name: str, stage: Stage, state: TrainState, checkpoints: Checkpoints) -> Params:
    """Keep the EMA of the best validation checkpoint as the stage's result."""
    checkpoints.wait()
    best = checkpoints.best_step()
    assert best is not None
    params = parallel.fetch(_exchanged(checkpoints, state, best).ema)
    record = {"step": best, "valid_loss": checkpoints.valid_loss(best)}
    with parallel.main_first(f"result of {name}"):
        if parallel.is_main():
            ws.write_result(name, {**parallel.fetch(stage.kept), **params}, {**record, **stage.finish(params)})
    return params
