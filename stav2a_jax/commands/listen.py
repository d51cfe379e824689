"""`stav2a listen build` writes the page of a blind listening test, `stav2a listen score` reads its answers."""

from __future__ import annotations

import argparse
import json
import pathlib

from stav2a_jax.errors import UserError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("listen", help="a blind listening test: the page for raters, and its scores")
    parts = p.add_subparsers(title="parts", metavar="PART", required=True)

    b = parts.add_parser("build", help="write the page, a folder for raters, and beside it the key, not for them")
    b.add_argument("--systems", nargs="+", required=True, metavar="NAME=DIR", help="folders with videos of equal names")
    b.add_argument("--clips", type=int, default=20, help="clips per system, drawn by lot (default: 20)")
    b.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="the page; must not exist")
    b.add_argument("--key", type=pathlib.Path, metavar="FILE", help="the key (default: DIR.key.json beside the page)")
    b.add_argument(
        "--present", choices=("one", "side"), default="one", help="one clip at a time, or side by side (default: one)"
    )
    b.add_argument("--raters", type=int, default=6, help="how many rater numbers there are (default: 6)")
    b.add_argument("--checks", type=int, default=2, help="attention checks per rater (default: 2)")
    b.add_argument(
        "--training", type=pathlib.Path, metavar="VIDEO", help="example to begin with (default: two generated)"
    )
    b.add_argument("--seed", type=int, help="for the same page again (default: drawn anew)")
    b.add_argument("--title", default="Listening test", help="shown on top")
    b.add_argument("--contact", default="", help="to whom the answers go, shown at the end")
    b.set_defaults(run=run_build)

    s = parts.add_parser("score", help="means, intervals, agreement and tests from the exported answers")
    s.add_argument("answers", nargs="+", type=pathlib.Path, metavar="FILE", help="what the page exported, or a folder")
    s.add_argument("--key", type=pathlib.Path, metavar="FILE", help="the key (default: a *.key.json near the answers)")
    s.add_argument("--min-rated", type=float, default=1.0, help="share of clips a rater must have rated (default: 1)")
    s.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    s.add_argument("--out", type=pathlib.Path, metavar="DIR", help="write listening.md and listening.json here")
    s.set_defaults(run=run_score)


def folders(pairs: list[str]) -> dict[str, pathlib.Path]:
    """NAME=DIR ... as a dictionary in their order; UserError for a bad pair and for names or folders given twice."""
    out: dict[str, pathlib.Path] = {}
    for pair in pairs:
        name, sign, folder = pair.partition("=")
        if not (name.strip() and sign and folder):
            raise UserError(f"--systems {pair!r} is not of the form NAME=DIR; write for example ours=out/ours.")
        if name in out:
            raise UserError(f"--systems names {name!r} twice; give every system a name of its own.")
        out[name] = pathlib.Path(folder)
    real = [folder.resolve() for folder in out.values()]
    if len(set(real)) < len(real):
        same = next(folder for folder in out.values() if real.count(folder.resolve()) > 1)
        raise UserError(f"--systems gives the folder {str(same)!r} to two systems; every system has its own.")
    return out


def run_build(args: argparse.Namespace) -> int:
    systems = folders(args.systems)

    from rich.console import Console
    from rich.progress import Progress

    from stav2a_jax.listening import build

    options = ("out", "clips", "key", "present", "raters", "checks", "training", "seed", "title", "contact")
    plan = build.Plan(systems=systems, **{name: getattr(args, name) for name in options})
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        built = build.build(plan, show)
    for note in built.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    print(f"page for raters 1 to {args.raters}, {built.trials} trials each: {built.site / 'index.html'}")
    print(f"key, to be kept from raters: {built.key}")
    return 0


def run_score(args: argparse.Namespace) -> int:
    from stav2a_jax.listening import answers, score
    from stav2a_jax.video.mux import atomic

    files = listed(args.answers)
    key = answers.read_key(args.key) if args.key else answers.find_key(files)
    report = score.score(answers.read_sessions(files, key), key, min_rated=args.min_rated, seed=args.seed)
    text = score.markdown(report)
    if args.out:
        for name, content in (("listening.json", json.dumps(report, indent=1) + "\n"), ("listening.md", text)):
            with atomic(args.out / name) as temporary:
                temporary.write_text(content, encoding="utf-8")
    print(text, end="")
    return 0


def listed(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """The files, and of a folder its *.json but for keys."""
    out: list[pathlib.Path] = []
    for path in paths:
        inside = (
            [p for p in sorted(path.glob("*.json")) if not p.name.endswith(".key.json")] if path.is_dir() else [path]
        )
        if not inside:
            raise UserError(f"The folder {str(path)!r} holds no answers (*.json); name another.")
        out += inside
    return out
