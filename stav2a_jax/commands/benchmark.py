"""`stav2a benchmark foley`: every number of the generated benchmark for a bundle."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from typing import Any

from stav2a_jax.commands.evaluate import BACKBONES, named

PARTS = ("t2a", "swap", "baselines", "aa", "av", "fd", "kl", "is", "kid", "fad", "clap")
EPILOG = """\
--metrics names what is computed beside events and materials of the full model: t2a (the text-to-audio model alone),
swap (swapped videos), baselines (knocks at true and at random times, other clips' sounds), and the published metrics of
`stav2a evaluate`: aa, av (optical flow of the films, kept for the next run), fd, kl, is, kid, fad, clap.
Sounds and measurements are kept under --work: an interrupted run goes on where it was."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "benchmark",
        help="score a bundle on generated clips that it has never seen",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    p.add_argument("--metrics", nargs="*", choices=PARTS, metavar="NAME", help=f"some of {', '.join(PARTS)}, or none")
    p.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=PATH", help=f"converted weights of {', '.join(BACKBONES)}"
    )
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")
    p.add_argument("--work", type=pathlib.Path, metavar="DIR", help="sounds by content (default: user's cache)")
    p.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers here")
    p.add_argument("--markdown", type=pathlib.Path, metavar="FILE", help="write the tables of README and docs here")
    p.add_argument("--from", type=pathlib.Path, dest="given", metavar="FILE", help="only print the tables of this JSON")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from stav2a_jax.foley_benchmark import report as tables
    from stav2a_jax.types import UserError

    for option, path in (("--json", args.json), ("--markdown", args.markdown)):
        if path and not os.access(path.absolute().parent, os.W_OK):  # now, not after the work
            raise UserError(f"cannot write {str(path)!r}: choose another {option}")
    report = tables.load(args.given) if args.given else _measure(args)
    if args.json:
        _write(args.json, json.dumps(report, indent=1, allow_nan=False) + "\n")
    if args.markdown:
        _write(args.markdown, tables.both(report))
    print(tables.markdown(report))
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    from stav2a_jax import foley_benchmark
    from stav2a_jax.commands.sample import make_folder, use_compilation_cache
    from stav2a_jax.evaluation.cache import default_folder
    from stav2a_jax.pipeline import VideoToAudio
    from stav2a_jax.types import UserError

    if args.count < 2:
        raise UserError(f"--count must be at least 2 (pairs are shuffled), got {args.count}")
    if args.batch < 1 or args.jobs < 1:
        raise UserError(f"--batch and --jobs must be at least 1, got {args.batch} and {args.jobs}")
    weights = named("--weights", args.weights, BACKBONES)
    for name, path in weights.items():
        if not path.exists():
            raise UserError(f"--weights {name}={path}: no such file or folder")
    work = args.work or default_folder().parent / "foley"
    make_folder(work)
    use_compilation_cache()
    model = VideoToAudio.from_bundle(args.bundle)
    given = (args.sampler, args.steps, args.guidance, args.guidance_global, args.guidance_local)
    options = model.options(*given)
    names = ("sampler", "steps", "guidance", "guidance_global", "guidance_local")
    values = (options.sampler, options.steps, options.text, options.global_video, options.local_video)
    settings = foley_benchmark.Settings(
        work=work,
        seed=args.seed,
        count=args.count,
        split=args.split,
        batch=args.batch,
        jobs=args.jobs,
        parts=PARTS if args.metrics is None else tuple(args.metrics),
        sampling=dict(zip(names, values, strict=True)),
        weights=weights,
    )
    with Progress(console=Console(stderr=True)) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if total == 0:
                return
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        return foley_benchmark.run(model, settings, show)


def _write(path: pathlib.Path, text: str) -> None:
    from stav2a_jax.video.mux import atomic

    with atomic(path) as temporary:
        temporary.write_text(text)
