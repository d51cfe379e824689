"""`stav2a benchmark foley`: every number of the generated benchmark for a bundle."""

from __future__ import annotations

import argparse
import json
import os
import pathlib


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("benchmark", help="score a bundle on generated clips that it has never seen")
    p.add_argument("name", choices=["foley"])
    p.add_argument("--bundle", default="foley-tiny")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=0, help="seed of the generated world")
    p.add_argument("--split", default="test", choices=["valid", "test"])
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--steps", type=int)
    p.add_argument("--sampler")
    p.add_argument("--guidance", type=float)
    p.add_argument("--guidance-global", type=float)
    p.add_argument("--guidance-local", type=float)
    p.add_argument("--json", type=pathlib.Path, help="write the numbers here")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from stav2a_jax import foley_benchmark
    from stav2a_jax.pipeline import VideoToAudio
    from stav2a_jax.types import UserError

    if args.count < 2:
        raise UserError(f"--count must be at least 2 (pairs are shuffled), got {args.count}")
    if args.batch < 1:
        raise UserError(f"--batch must be at least 1, got {args.batch}")
    if args.json and not os.access(args.json.absolute().parent, os.W_OK):  # now, not after the work
        raise UserError(f"cannot write {str(args.json)!r}: choose another --json")
    model = VideoToAudio.from_bundle(args.bundle)
    names = ("steps", "sampler", "guidance", "guidance_global", "guidance_local")
    options = {n: getattr(args, n) for n in names}
    console = Console(stderr=True)
    with Progress(console=console) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        report = foley_benchmark.run(
            model, seed=args.seed, count=args.count, batch=args.batch, split=args.split, show=show, **options
        )
    print(foley_benchmark.markdown(report))
    if args.json:
        temporary = args.json.with_suffix(".part")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(temporary, args.json)
    return 0
