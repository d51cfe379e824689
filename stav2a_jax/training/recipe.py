"""The whole recipe: every stage of the paper in order, then the bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence

from rich.console import Console

from stav2a_jax import parallel
from stav2a_jax.bundle import save_bundle
from stav2a_jax.config import ComputeConfig, Config, override
from stav2a_jax.errors import Preempted
from stav2a_jax.training.loop import check_devices, fit
from stav2a_jax.training.stages import cavp, onset, stav2a, t2a, vae, vocoder
from stav2a_jax.training.stop import StopSignal
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Params, UserError

STAGES = {
    "vae": vae.build,
    "vocoder": vocoder.build,
    "cavp": cavp.build,
    "t2a": t2a.build,
    "onset": onset.build,
    "stav2a": stav2a.build,
}


def load_config(path: pathlib.Path, assignments: list[str]) -> Config:
    """``get_config()`` of a python file, with ``--set`` assignments applied; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"no such config: {path}; the configs lie in configs/")
    try:
        cfg = _get_config(path)
    except (UserError, Preempted):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {f.lineno}" for f in frames if pathlib.Path(f.filename).resolve() == path.resolve()]
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"config {path} cannot be used{lines[-1] if lines else ''} ({said}): correct it") from error
    for assignment in assignments:
        try:
            cfg = override(cfg, assignment)
        except (KeyError, TypeError) as e:
            raise UserError(f"--set {assignment}: {e.args[0]}") from e
    return cfg


def _get_config(path: pathlib.Path) -> Config:
    spec = importlib.util.spec_from_file_location("stav2a_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no python file; the configs lie in configs/")
    module = importlib.util.module_from_spec(spec)
    root = next((str(p.parent) for p in path.resolve().parents if p.name == "configs"), None)
    with _importing_from(root):  # so that one config can build on another: from configs.foley_tiny import get_model
        spec.loader.exec_module(module)
        cfg = module.get_config() if hasattr(module, "get_config") else None
    if not isinstance(cfg, Config):
        raise UserError(f"{path} has no get_config() that returns a Config; the configs lie in configs/")
    return cfg


@contextlib.contextmanager
def _importing_from(root: str | None) -> Iterator[None]:
    before = sys.path[:]
    sys.path[:0] = [root] if root else []
    try:
        yield
    finally:
        sys.path[:] = before


def needed(cfg: Config) -> tuple[str, ...]:
    """The stages that the model of a config consists of, in order: without a control there is no video to look at, and
    a fresh local branch needs no onset stage. Raises UserError for conditions that no stage trains."""
    conditions = cfg.model.conditions
    if conditions.global_tokens and not conditions.control:
        raise UserError(
            "model.conditions: global tokens without a control are trained by no stage; set both or neither"
        )
    without: tuple[str, ...] = () if conditions.control else ("cavp", "onset", "stav2a")
    without += () if cfg.recipe.local == "onset" else ("onset",)
    return tuple(name for name in STAGES if name not in without)


def to_train(cfg: Config, only: Sequence[str] = ()) -> list[str]:
    """The stages that a run trains, in order: ``only`` the given ones, else those of its recipe, else all it needs."""
    wanted = only or cfg.recipe.train or needed(cfg)
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise UserError(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    return [name for name in STAGES if name in wanted]


def check(cfg: Config, only: Sequence[str] = ()) -> list[str]:
    """:func:`to_train`; UserError where one of these stages cannot be trained on these devices, or not at all."""
    wanted = to_train(cfg, only)
    for name in wanted:
        check_devices(cfg, name)
    return wanted


def train(
    ws: Workspace, only: list[str], console: Console, stop: StopSignal | None = None, *, log_examples: bool = False
) -> None:
    """Run those stages of :func:`to_train` that are not done.

    Raises Preempted on SIGTERM, with the state of the stage saved; ``stop`` is one that listens, if somebody does
    already. ``log_examples``: see ``loop.fit``.
    """
    wanted = check(ws.cfg, only)  # now, not hours later
    with contextlib.nullcontext(stop) if stop else StopSignal().listening() as stop:
        for name in wanted:
            stop.check()
            _train(ws, name, console, stop, log_examples)
        stop.check()


def _train(ws: Workspace, name: str, console: Console, stop: StopSignal, log_examples: bool) -> None:
    with parallel.main_first(f"settings of {name}"):
        ws.claim(name)
    if ws.done(name):
        console.print(f"[dim]{name}: done[/]")
        return
    started = time.monotonic()
    console.rule(f"stage {name}")
    with parallel.main_first(f"inputs of {name}"):  # clips and what is derived from them, once for all processes
        stage = STAGES[name](ws)
    fit(ws, name, stage, console, stop, log_examples=log_examples)
    record = ws.result(name)[1]
    console.print(f"{name}: valid loss {record['valid_loss']:.4f}, {(time.monotonic() - started) / 60:.1f} min")


def collect(ws: Workspace) -> Params:
    """Parameters of the whole system by group, from the stages that made them.

    Of the autoencoder only what sampling needs: the encoder has done its work, and the bundle is to stay small.
    """
    autoencoder, prior = ws.result("vae")[0]["autoencoder"], ws.result("t2a")[0]
    decoders = {
        "autoencoder": {k: v for k, v in autoencoder.items() if k not in ("encoder", "quant_conv")},
        "vocoder": ws.result("vocoder")[0]["vocoder"],
        "text": prior["text"],
    }
    if "stav2a" not in needed(ws.cfg):
        return {**decoders, "unet": prior["unet"]}
    full = ws.result("stav2a")[0]
    video = ws.result(stav2a.video_stage(ws.cfg))[0]["video"]
    trained = {g: full[g] for g in ("unet", "controlnet", "local", "onset", "pooling") if g in full}
    return {**decoders, "video": video, "t2a": prior["unet"], **trained}


def make_bundle(ws: Workspace, folder: pathlib.Path, command: str) -> None:
    """Pack the finished run into a bundle folder."""
    cfg = ws.cfg
    stages = {name: ws.result(name)[1] for name in needed(cfg)}
    taken = [record for record in stages.values() if "from" in record]
    info = {
        "made_by": command,
        "licence": "; ".join(dict.fromkeys(["Apache-2.0", *(text for r in taken for text in r["licence"])])),
        "data": _data(ws),
        "stages": stages,
    }
    if notices := list(dict.fromkeys(text for record in taken for text in record["notice"])):
        info["notice"] = "; ".join(notices)
    model = dataclasses.replace(ws.model_config(), compute=ComputeConfig())  # how it was trained is no part of it
    save_bundle(folder, model, cfg.guidance, collect(ws), ws.tokenizer_file(), info, _card(ws, info))


def _data(ws: Workspace) -> str:
    data = ws.cfg.data
    if data.records:
        return f"{len(ws.clips('train'))} prepared clips of {pathlib.Path(data.records).name}"
    return f"generated foley clips, seed {data.seed}, {data.train_clips} for training"


def _card(ws: Workspace, info: dict) -> str:
    rows = "\n".join(
        f"| {n} | {r['step']} | {r['valid_loss']:.4f} |" if "valid_loss" in r else f"| {n} | {', '.join(r['from'])} | |"
        for n, r in info["stages"].items()
    )
    start = "from nothing" if all("valid_loss" in r for r in info["stages"].values()) else "from other weights"
    kind = "STA-V2A" if "stav2a" in needed(ws.cfg) else "text-to-audio model"
    clips = "prepared" if ws.cfg.data.records else "generated"
    about = f"A {kind}, trained {start} by this repository on {clips} clips."
    if not ws.cfg.data.records:
        about += " It knows six materials and a few kinds of contact, and nothing of the wider world."
    return f"""# {ws.cfg.name}

{about}

- Licence of the weights: {info["licence"]}
- Data: {info["data"]} (docs/foley.md)
- Command: `{info["made_by"]}`
- Scores: docs/benchmark.md

| stage | best step | validation loss |
|---|---|---|
{rows}
"""
