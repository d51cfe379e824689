"""The whole recipe: every stage of the paper in order, then the bundle."""

from __future__ import annotations

import importlib.util
import pathlib
import time

from rich.console import Console

from stav2a_jax.bundle import save_bundle
from stav2a_jax.config import Config, override
from stav2a_jax.training.loop import check_batch, fit
from stav2a_jax.training.stages import cavp, onset, stav2a, t2a, vae, vocoder
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
    """``get_config()`` of a python file, with ``--set`` assignments applied."""
    if not path.is_file():
        raise UserError(f"no such config: {path}; the configs lie in configs/")
    spec = importlib.util.spec_from_file_location("stav2a_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cfg: Config = module.get_config()
    for assignment in assignments:
        try:
            cfg = override(cfg, assignment)
        except (KeyError, TypeError) as e:
            raise UserError(f"--set {assignment}: {e.args[0]}") from e
    return cfg


def train(ws: Workspace, only: list[str], console: Console) -> None:
    """Run the stages that are not done, all or ``only`` the named ones."""
    wanted = [name for name in STAGES if not only or name in only]
    for name in wanted:  # now, not hours later
        check_batch(getattr(ws.cfg.stages, name), name)
    for name in wanted:
        ws.claim(name)
        if ws.done(name):
            console.print(f"[dim]{name}: done[/]")
            continue
        started = time.monotonic()
        console.rule(f"stage {name}")
        fit(ws, name, STAGES[name](ws), console)
        record = ws.result(name)[1]
        console.print(f"{name}: valid loss {record['valid_loss']:.4f}, {(time.monotonic() - started) / 60:.1f} min")


def collect(ws: Workspace) -> Params:
    """Parameters of the whole system by group, from the stages that made them.

    Of the autoencoder only what sampling needs: the encoder has done its work, and the bundle is to stay small.
    """
    video_stage = "onset" if ws.cfg.loss.onset_trains_video else "cavp"
    full, prior = ws.result("stav2a")[0], ws.result("t2a")[0]
    return {
        "autoencoder": {
            k: v for k, v in ws.result("vae")[0]["autoencoder"].items() if k not in ("encoder", "quant_conv")
        },
        "vocoder": ws.result("vocoder")[0]["vocoder"],
        "video": ws.result(video_stage)[0]["video"],
        "text": prior["text"],
        "t2a": prior["unet"],
        **{group: full[group] for group in ("unet", "controlnet", "local", "onset", "pooling")},
    }


def make_bundle(ws: Workspace, folder: pathlib.Path, command: str) -> None:
    """Pack the finished run into a bundle folder."""
    cfg = ws.cfg
    info = {
        "made_by": command,
        "licence": "Apache-2.0",
        "data": f"generated foley clips, seed {cfg.data.seed}, {cfg.data.train_clips} for training",
        "stages": {name: ws.result(name)[1] for name in STAGES},
    }
    save_bundle(folder, ws.model_config(), cfg.guidance, collect(ws), ws.root / "tokenizer.json", info, _card(ws, info))


def _card(ws: Workspace, info: dict) -> str:
    rows = "\n".join(f"| {n} | {r['step']} | {r['valid_loss']:.4f} |" for n, r in info["stages"].items())
    return f"""# {ws.cfg.name}

A tiny STA-V2A, trained from nothing by this repository on clips that it generates. It knows six materials and a
few kinds of contact, and nothing of the wider world.

- Licence of the weights: Apache-2.0
- Data: {info["data"]} (docs/foley.md)
- Command: `{info["made_by"]}`
- Scores: docs/benchmark.md

| stage | best step | validation loss |
|---|---|---|
{rows}
"""
