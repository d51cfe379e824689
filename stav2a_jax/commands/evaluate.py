"""`stav2a evaluate`: every metric of a folder of generated sounds against the true ones, as a report."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import Any

GROUPS = ("aa", "av", "events", "fd", "kl", "is", "kid", "fad", "clap")
BACKBONES = ("panns", "vggish", "soundnet", "clap")
EPILOG = """\
Weights are never downloaded; a metric without them says which file to fetch, and the others still run.
docs/evaluation.md explains every metric and what to quote."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "evaluate",
        help="score generated sounds against true ones, with intervals and a report",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--generated", type=pathlib.Path, required=True, metavar="DIR", help="sounds, or films with sound")
    p.add_argument("--reference", type=pathlib.Path, required=True, metavar="DIR", help="true ones of the same names")
    p.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder of the report")
    p.add_argument("--videos", type=pathlib.Path, metavar="DIR", help="films for AV-Align (default: the reference's)")
    p.add_argument("--captions", type=pathlib.Path, metavar="FILE", help="JSON, JSON lines or CSV: name, caption")
    p.add_argument("--classes", type=pathlib.Path, metavar="FILE", help="the same: name, class; scores per class")
    p.add_argument("--events", type=pathlib.Path, metavar="FILE", help="JSON {name: [true event times in seconds]}")
    p.add_argument("--crop", type=float, metavar="SECONDS", help="compare the first 4, 8 or 10 s only (default: all)")
    p.add_argument("--metrics", nargs="+", choices=GROUPS, metavar="NAME", help=f"some of {', '.join(GROUPS)}")
    p.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=PATH", help=f"converted weights of {', '.join(BACKBONES)}"
    )
    p.add_argument(
        "--scores", nargs="+", default=[], metavar="NAME=FILE", help="per-clip scores of another program, e.g. pam=FILE"
    )
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")
    p.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    p.add_argument("--cache", type=pathlib.Path, metavar="DIR", help="measurements by content (default: user's cache)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from stav2a_jax.commands.sample import make_folder, use_compilation_cache
    from stav2a_jax.evaluation import report as writer
    from stav2a_jax.evaluation.cache import default_folder
    from stav2a_jax.evaluation.inputs import Options
    from stav2a_jax.evaluation.plots import draw_all
    from stav2a_jax.evaluation.run import evaluate
    from stav2a_jax.evaluation.scores import Draws
    from stav2a_jax.types import UserError

    if args.crop is not None and not args.crop >= 1:
        raise UserError(f"--crop must be at least 1 second, got {args.crop:g}")
    if args.jobs < 1 or args.resamples < 100:
        raise UserError(f"--jobs must be at least 1 and --resamples at least 100, got {args.jobs} and {args.resamples}")
    options = Options(
        generated=args.generated,
        reference=args.reference,
        videos=args.videos,
        captions=args.captions,
        classes=args.classes,
        events=args.events,
        crop=args.crop,
        metrics=None if args.metrics is None else tuple(args.metrics),
        weights=named("--weights", args.weights, BACKBONES),
        scores=named("--scores", args.scores),
        jobs=args.jobs,
        cache=args.cache or default_folder(),
        draws=Draws(args.resamples, args.seed),
    )
    make_folder(args.out)  # now, not after the work
    use_compilation_cache()
    console = Console(stderr=True)
    with Progress(console=console) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        report, work, pairs = evaluate(options, show)
        show("pictures", 0, 1)
        plots = draw_all(report, args.out / "plots", {pair.name: (pair.generated, pair.reference) for pair in pairs})
        show("pictures", 1, 1)
    writer.write_csv(report, args.out)
    writer.write_markdown(report, plots, args.out / "report.md")
    writer.write_html(report, plots, args.out / "report.html")
    writer.write_json(report, args.out / "report.json")
    tell(report, work, args.out)
    return 0


def tell(report: dict[str, Any], work: dict[str, list[int]], out: pathlib.Path) -> None:
    """The numbers on standard output, what went wrong and what was reused on standard error."""
    from stav2a_jax.evaluation import report as writer

    print("\n".join(writer.summary(report)))
    for key, value in report["metrics"].items():
        text = f"{writer.shown(value['value'])} {value['unit']}".strip()
        print(f"{value['family']:9} {key:20} {text:>10}  [{writer.interval(value)}]  n = {writer.count(value)}")
    for title, rows in writer.problem_tables(report):
        for name, why in rows:
            print(f"{title.lower()}: {name}: {why}", file=sys.stderr)
    made = ", ".join(f"{what} {new} new, {old} from the cache" for what, (new, old) in work.items())
    print(f"measured: {made}\nreport: {out / 'report.html'}", file=sys.stderr)


def named(option: str, items: list[str], known: tuple[str, ...] = ()) -> dict[str, pathlib.Path]:
    """NAME=PATH items as a dict. Raises UserError for another form, an unknown name or a name given twice."""
    from stav2a_jax.types import UserError

    out: dict[str, pathlib.Path] = {}
    for item in items:
        name, sign, path = item.partition("=")
        if not sign or not name or not path or name in out or (known and name not in known):
            choices = f"NAME one of {', '.join(known)}" if known else "each NAME once"
            raise UserError(f"{option} takes NAME=PATH ({choices}), got {item!r}")
        out[name] = pathlib.Path(path)
    return out
