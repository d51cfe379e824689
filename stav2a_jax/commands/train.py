"""`stav2a train`: every stage of a config, in order, each resumable."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stav2a_jax.training.stop import StopSignal


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("train", help="train every stage of a config; started again, it goes on where it stopped")
    p.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/foley_tiny.py"))
    p.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this stage; may be repeated")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments")
    p.add_argument("--seed", type=int, help="seed of the generated clips and of the run")
    p.add_argument("--out", type=pathlib.Path, help="folder of the run (default runs/NAME)")
    p.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("cache"), help="folder of the rendered clips")
    p.add_argument(
        "--init",
        action="append",
        default=[],
        metavar="STAGE=FOLDER",
        help="take the result of a stage (vae, vocoder, cavp, t2a, onset) from another run, or from a bundle; may be "
        "repeated, and takes the place of what the config says for this stage",
    )
    p.add_argument(
        "--start",
        action="append",
        default=[],
        metavar="STAGE=FOLDER",
        help="let a stage go on from the weights of another run or of a bundle; may be repeated",
    )
    group = p.add_argument_group("several processes", "docs/clusters.md; SLURM, Open MPI and TPU hosts are noticed")
    group.add_argument("--distributed", action="store_true", help="one of several processes; JAX finds the others")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="without a cluster: where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="without a cluster: how many there are")
    group.add_argument("--process", type=int, metavar="I", help="without a cluster: which of them this is, from 0")
    p.add_argument("--log-examples", action="store_true", help="write the clips of every step to a file of the stage")
    p.add_argument("--bundle", type=pathlib.Path, help="where the finished model goes (default OUT/bundle)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from stav2a_jax.training.stop import StopSignal

    with StopSignal().listening() as stop:  # before the imports that take seconds
        return _run(args, stop)


def _run(args: argparse.Namespace, stop: StopSignal) -> int:
    import os

    from rich.console import Console

    from stav2a_jax import parallel
    from stav2a_jax.training import initial, recipe
    from stav2a_jax.training.workspace import Workspace

    given, begun = initial.parse(args.init), initial.parse(args.start, "--start", initial.TRAINED)
    seed = [] if args.seed is None else [f"seed={args.seed}", f"data.seed={args.seed}"]
    cfg = recipe.load_config(args.config, seed + args.assignments)
    recipe.to_train(cfg, args.stage)  # names, before the devices are looked for
    given = {**initial.parse(cfg.recipe.init, "recipe.init"), **given}
    begun = {**initial.parse(cfg.recipe.start, "recipe.start", initial.TRAINED), **begun}
    parallel.use_host_devices(cfg.host_devices)
    if args.distributed or args.coordinator or parallel.in_cluster(os.environ):
        parallel.join_processes(args.coordinator, args.processes, args.process)
    recipe.check(cfg, args.stage)  # before the folder has settings that a corrected command would not have
    console = Console(quiet=not parallel.is_main())
    ws = Workspace(cfg, args.out or pathlib.Path("runs") / cfg.name, args.cache)
    for stage, names in given.items():
        with parallel.main_first(f"weights of {stage}"):
            taken = initial.adopt(ws, stage, names)
        console.print(f"{stage}: {'taken' if taken else 'was taken'} from {', '.join(names)}")
    for stage, names in begun.items():
        with parallel.main_first(f"first weights of {stage}"):
            if initial.start(ws, stage, names):
                console.print(f"{stage}: begins with the weights of {', '.join(names)}")
    recipe.train(ws, args.stage, console, stop, log_examples=args.log_examples)
    if parallel.is_main() and all(ws.done(name) for name in recipe.needed(cfg)):
        folder = args.bundle or ws.root / "bundle"
        recipe.make_bundle(ws, folder, f"python train.py --config {args.config}")
        console.print(f"bundle: {folder}")
    return 0
