"""`stav2a ablation`: every row of the ablation, trained with equal budgets, scored, in one table."""

from __future__ import annotations

import argparse
import pathlib

from stav2a_jax.commands.foley import natural, positive


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "ablation", help="train the rows of the ablation with equal budgets and score them; goes on where it stopped"
    )
    p.add_argument("--config-dir", type=pathlib.Path, default=pathlib.Path("configs/tiny/ablation"), metavar="DIR")
    p.add_argument("--seeds", type=natural, nargs="+", default=[0, 1, 2], metavar="N")
    p.add_argument("--steps", type=positive, default=400, help="a budget: the steps of one stage")
    p.add_argument("--clips", type=positive, default=48, help="clips of the benchmark to score on")
    p.add_argument("--seconds", type=float, default=4.0, help="length of these clips")
    p.add_argument("--sampling-steps", type=positive, default=10, metavar="N")
    p.add_argument(
        "--from", type=pathlib.Path, dest="given", metavar="RUN", help="a run whose vae, vocoder and cavp are taken"
    )
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="assignments")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/ablation"), metavar="DIR")
    p.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("cache"), help="folder of the rendered clips")
    p.add_argument("--table", type=pathlib.Path, metavar="FILE", help="write the table here, too")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import time

    from rich.console import Console

    from stav2a_jax import parallel
    from stav2a_jax.ablation import Ladder, markdown
    from stav2a_jax.types import UserError
    from stav2a_jax.video.mux import atomic

    if not 2 <= args.seconds <= 60:
        raise UserError(f"--seconds must lie between 2 and 60, got {args.seconds:g}")
    if args.given is not None and not args.given.is_dir():
        raise UserError(f"--from {args.given}: no such run; give the folder of one, or leave it out to train all")
    if args.table is not None and not args.table.absolute().parent.is_dir():
        raise UserError(f"no such folder: {args.table.absolute().parent}; create it, or choose another --table")
    ladder = Ladder(
        configs=args.config_dir,
        out=args.out,
        cache=args.cache,
        seeds=tuple(dict.fromkeys(args.seeds)),
        steps=args.steps,
        clips=args.clips,
        seconds=args.seconds,
        sampling_steps=args.sampling_steps,
        given=args.given,
        assignments=tuple(args.assignments),
    )
    parallel.use_host_devices(1)
    console, started, told = Console(stderr=True), time.monotonic(), ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal told
        if done == total or what != told:
            told = what
            console.print(f"[dim]{what}: {done} of {total}[/]")

    heard = ladder.run(console, show)
    console.print(f"{(time.monotonic() - started) / 60:.1f} min")
    page = markdown(heard, _about(args))
    print(page)
    if args.table is not None:
        with atomic(args.table) as temporary:
            temporary.write_text(page, encoding="utf-8")
    return 0


def _about(args: argparse.Namespace) -> list[str]:
    seeds = " ".join(map(str, args.seeds))
    taken = f" --from {args.given}" if args.given else ""
    more = "".join(f" --set {text}" for text in args.assignments)
    command = f"stav2a ablation --config-dir {args.config_dir} --seeds {seeds} --steps {args.steps}"
    length = f"--clips {args.clips} --seconds {args.seconds:g} --sampling-steps {args.sampling_steps}"
    return ["```console", f"$ {command} {length}{taken}{more}", "```", "", ABOUT]


ABOUT = """A stage takes so many steps, all of the same batch size. Rows with a ControlNet have three that denoise:
text-to-audio, its fine-tuning, and their own. So that no row denoises for more steps than another, the last stage of
"Pretrained T2A" takes three times as many, that of "Fine-tuned T2A" two times. The onset pretext task comes on top.
Rows are those of the paper's Table III; how they differ is in the folder's configs (docs/training.md). Clips are
generated ones of the split `test`, which no stage has seen; event F1 is pooled, AA-Align is the released score, its
mean over clips."""
