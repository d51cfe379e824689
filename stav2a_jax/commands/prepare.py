"""``stav2a prepare``: from raw videos to records for training; started again, it goes on where it stopped."""

from __future__ import annotations

import argparse
import os
import pathlib
from typing import TYPE_CHECKING, Any

from stav2a_jax.commands.foley import natural, positive
from stav2a_jax.errors import UserError

if TYPE_CHECKING:
    from stav2a_jax.data.prepare.report import Report
    from stav2a_jax.data.prepare.settings import PrepareSettings
    from stav2a_jax.data.prepare.source import Source

SPLITS = ("train", "valid", "test")


def add_parser(subparsers: Any) -> None:
    p = subparsers.add_parser(
        "prepare",
        help="turn raw videos (VGGSound, a folder, generated clips) into records for training",
        description="Check, caption, filter and encode clips, and write them as a tensorflow-datasets folder. Started "
        "again, it goes on where it stopped; a finished set is left alone. See docs/data.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder of the set")
    _add_source(p.add_argument_group("what to prepare"))
    _add_filters(p.add_argument_group("what is dropped"))
    _add_stored(p.add_argument_group("what is stored"))
    p.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes")
    p.add_argument("--chunk", type=positive, default=16, help="clips per file of a step")
    p.add_argument("--beam", metavar="OPTIONS", help='as an Apache Beam pipeline: --beam="--runner=DirectRunner"')
    p.add_argument("--verify", action="store_true", help="only compare the files of --out with its manifest")
    p.set_defaults(run=run)


def _add_source(p: Any) -> None:
    p.add_argument("--videos", type=pathlib.Path, metavar="DIR", help="folder of the video files")
    p.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="VGGSound's list: id,start,label,split")
    p.add_argument("--captions", type=pathlib.Path, metavar="FILE", help="captions by id, csv or JSON lines")
    p.add_argument("--foley", action="append", default=[], metavar="SPLIT=N", help="generated clips; may be repeated")
    p.add_argument("--seed", type=natural, default=0, help="seed of the generated clips")
    p.add_argument("--limit", type=positive, metavar="N", help="only the first N clips")


def _add_filters(p: Any) -> None:
    p.add_argument("--keep-speech", action="store_true", help="keep clips whose caption speaks of speech")
    p.add_argument("--av-align", choices=("filter", "measure", "skip"), default="filter", help="what AV-Align is for")
    p.add_argument("--min-av-align", type=float, default=0.2, metavar="X", help="limit of the filter")
    p.add_argument("--fast-flow", action="store_true", help="AV-Align at a fixed size and rate: another metric")
    p.add_argument("--flow-cache", type=pathlib.Path, metavar="DIR", help="optical flow (default: OUT/cache/flow)")
    p.add_argument("--min-seconds", type=float, default=1.0, metavar="S", help="shortest clip")
    p.add_argument("--max-seconds", type=float, default=60.0, metavar="S", help="longest clip")


def _add_stored(p: Any) -> None:
    p.add_argument("--bundle", default="foley-tiny", help="whose encoders make the features; 'none' for no features")
    p.add_argument("--vae", type=pathlib.Path, metavar="FILE", help="the VAE's encoder, if not in the bundle")
    p.add_argument("--frames", choices=("none", "jpeg", "png"), default="none", help="store the pictures too")
    p.add_argument("--frame-fps", type=float, default=4.0, help="their rate, where there is no bundle")
    p.add_argument("--frame-size", type=positive, default=224, help="their size, where there is no bundle")
    p.add_argument("--batch", type=positive, default=1, help="clips per call of the encoders")


def run(args: argparse.Namespace) -> int:
    if args.verify:
        return verify(args.out)
    source, settings = find_source(args), find_settings(args)
    listed = find_captions(args.captions, source) if args.captions else {}
    if args.vae is not None and not args.vae.is_file():
        raise UserError(f"{args.vae}: no such file; give params.safetensors of a VAE.")
    if args.beam is None:
        result = _locally(args, source, settings, listed)
    else:
        result = _with_beam(args, source, settings, listed)
    for reason, count in result.reasons().items():
        print(f"dropped {count}: {reason}")
    if result.unlisted:
        print(f"{result.unlisted} videos of the folder are in no line of the list")
    state = "" if result.made else "; nothing to do, all was there"
    print(f"{result.kept} of {result.asked} clips in {args.out} ({_listing(result.splits)}){state}")
    return 0


def _with_beam(args: argparse.Namespace, source: Source, settings: PrepareSettings, listed: dict[str, str]) -> Report:
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError:
        raise UserError('--beam needs Apache Beam; pip install "stav2a_jax[beam]".') from None
    from stav2a_jax.data.prepare.beam import prepare_with_beam

    options = args.beam.split()
    return prepare_with_beam(
        source, args.out, settings, options, listed=listed, vae=args.vae, flow_cache=args.flow_cache
    )


def _locally(args: argparse.Namespace, source: Source, settings: PrepareSettings, listed: dict[str, str]) -> Report:
    from rich.console import Console
    from rich.progress import Progress

    from stav2a_jax.data.prepare.run import prepare

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        return prepare(
            source,
            args.out,
            settings,
            listed=listed,
            vae=args.vae,
            flow_cache=args.flow_cache,
            workers=args.workers,
            chunk=args.chunk,
            progress=show,
        )


def _listing(splits: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in splits.items())


def find_source(args: argparse.Namespace) -> Source:
    """The clips that the arguments ask for."""
    from stav2a_jax.data.prepare import source

    if args.foley:
        if args.videos or args.csv or args.captions:
            raise UserError("--foley makes its own clips and captions; leave --videos, --csv and --captions out.")
        counts = [_count(text) for text in args.foley]
        if len(dict(counts)) < len(counts):
            raise UserError("--foley names a split twice; give one number for each split, as in train=1000.")
        return source.from_foley(counts, args.seed, args.limit)
    if args.videos is None:
        raise UserError("say what to prepare: --videos DIR (with --csv FILE for VGGSound), or --foley train=1000.")
    if args.csv is not None:
        return source.from_vggsound(args.csv, args.videos, args.limit)
    return source.from_folder(args.videos, args.limit)


def find_captions(path: pathlib.Path, source: Source) -> dict[str, str]:
    """The list's captions by clip id, empty where it has none; prints how many clips it has, if not all.

    Raises UserError for a list that cannot be read, or that belongs to no clip of ``source``.
    """
    from stav2a_jax.data.prepare.captions import join_captions, read_captions

    listed = read_captions(path)
    found = join_captions(source.rows, listed)
    count = sum(map(bool, found.values()))
    if found and not count:
        raise UserError(
            f"{path} has a caption of none of the clips: an id of the list is {next(iter(listed))!r}, "
            f"one of the clips {next(iter(found))!r}; give the list of these clips, or leave --captions out."
        )
    if count < len(found):
        print(f"{count} of {len(found)} clips have their caption from {path}")
    return found


def _count(text: str) -> tuple[str, int]:
    split, _, number = text.partition("=")
    if split not in SPLITS or not number.isdecimal() or int(number) < 1:
        raise UserError(f"--foley {text!r}: expected a split ({', '.join(SPLITS)}) and a number, as in train=1000.")
    return split, int(number)


def find_settings(args: argparse.Namespace) -> PrepareSettings:
    """The settings that the arguments ask for."""
    from stav2a_jax.bundle import find_bundle
    from stav2a_jax.data.prepare.settings import FAST_FLOW, PrepareSettings
    from stav2a_jax.metrics.flow_cache import RELEASED

    bundle = None if args.bundle == "none" else args.bundle
    if bundle is not None:
        find_bundle(bundle)
    if not 0 < args.min_seconds < args.max_seconds or args.frame_fps <= 0:
        raise UserError("--min-seconds must lie between 0 and --max-seconds, and --frame-fps above 0.")
    return PrepareSettings(
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        drop_speech=not args.keep_speech,
        av_align=args.av_align,
        min_av_align=args.min_av_align,
        flow=FAST_FLOW if args.fast_flow else RELEASED,
        bundle=bundle,
        frames=args.frames,
        frame_fps=args.frame_fps,
        frame_size=args.frame_size,
        batch=args.batch,
    )


def verify(out: pathlib.Path) -> int:
    """Compare a set with its manifest; UserError names every file that differs."""
    from stav2a_jax.data.prepare.pack import problems, read_manifest

    manifest = read_manifest(out)
    if manifest is None:
        raise UserError(f"{out} has no manifest.json: it is no prepared set, or not finished; run stav2a prepare.")
    wrong = problems(out, manifest)
    if wrong:
        raise UserError(f"{out} is damaged: {'; '.join(wrong)}. Delete its manifest.json and prepare again.")
    print(f"{len(manifest['files'])} files of {out} are as the manifest says ({_listing(manifest['splits'])})")
    return 0
