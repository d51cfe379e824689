"""`stav2a train`: every stage of a config, in order, each resumable."""

from __future__ import annotations

import argparse
import pathlib


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("train", help="train every stage of a config; started again, it goes on where it stopped")
    p.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/foley_tiny.py"))
    p.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this stage; may be repeated")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments")
    p.add_argument("--seed", type=int, help="seed of the generated clips and of the run")
    p.add_argument("--out", type=pathlib.Path, help="folder of the run (default runs/NAME)")
    p.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("cache"), help="folder of the rendered clips")
    p.add_argument("--bundle", type=pathlib.Path, help="where the finished model goes (default OUT/bundle)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from stav2a_jax import parallel
    from stav2a_jax.training import recipe
    from stav2a_jax.training.workspace import Workspace
    from stav2a_jax.types import UserError

    unknown = [s for s in args.stage if s not in recipe.STAGES]
    if unknown:
        raise UserError(f"unknown stage {unknown[0]!r}; the stages are {', '.join(recipe.STAGES)}")
    seed = [] if args.seed is None else [f"seed={args.seed}", f"data.seed={args.seed}"]
    cfg = recipe.load_config(args.config, seed + args.assignments)
    parallel.use_host_devices(cfg.host_devices)
    console = Console()
    ws = Workspace(cfg, args.out or pathlib.Path("runs") / cfg.name, args.cache)
    recipe.train(ws, args.stage, console)
    if all(ws.done(name) for name in recipe.STAGES):
        folder = args.bundle or ws.root / "bundle"
        recipe.make_bundle(ws, folder, f"python train.py --config {args.config}")
        console.print(f"bundle: {folder}")
    return 0
