"""`stav2a compile`: what a config's programs need on devices that are not here, from compiling them."""

from __future__ import annotations

import argparse
import pathlib

from stav2a_jax.commands.foley import positive


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "compile", help="compile the train and sample step for TPU or GPU topologies without having one, and report"
    )
    p.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/stav2a.py"))
    p.add_argument("--topology", metavar="NAME", help="devices to compile for, such as v5e-16 or h100-8")
    p.add_argument("--list", action="store_true", help="show the topologies and leave")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments")
    p.add_argument("--stage", metavar="NAME", help="whose train step (default: the last one that the config trains)")
    p.add_argument("--program", action="append", choices=["train", "sample"], help="default: both")
    p.add_argument("--clips", type=positive, metavar="N", help="clips in the sample step (default: 8 per device)")
    p.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the report here as JSON, too")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from stav2a_jax.aot import build, chips
    from stav2a_jax.aot.report import as_json, markdown
    from stav2a_jax.training.loop import check_stage
    from stav2a_jax.training.recipe import STAGES, load_config, needed
    from stav2a_jax.types import UserError
    from stav2a_jax.video.mux import atomic

    if args.list:
        print(chips.table())
        return 0
    if args.topology is None:
        raise UserError("which devices? give --topology NAME; --list shows the names")
    topology = chips.find(args.topology)
    cfg = load_config(args.config, args.assignments)
    stage = args.stage or (cfg.recipe.train or needed(cfg))[-1]
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"no such folder: {args.json.absolute().parent}; create it, or choose another --json")
    wanted = args.program or ["train", "sample"]
    if "train" in wanted:
        check_stage(cfg, stage)  # before a compilation of minutes
    mesh = build.mesh_of(build.devices_of(topology), cfg.fsdp)
    console, reports = Console(stderr=True), []
    for make in build.programs(cfg, stage, mesh, wanted, args.clips or 8 * mesh.size):
        with console.status(f"tracing for {topology.name}") as status:
            program = make()
            status.update(f"compiling the {program.name} for {topology.name}: minutes")
            reports.append(build.report_on(program, topology.name, mesh, topology))
    print(markdown(reports))
    if args.json is not None:
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(as_json(reports), indent=1) + "\n", encoding="utf-8")
    return 0
