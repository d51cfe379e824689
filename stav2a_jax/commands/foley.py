"""``stav2a foley``: write generated foley clips as mp4 (H.264 + AAC) and json files."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "foley",
        help="write generated foley clips, with the true time of every sound",
        description="Write generated foley clips as NAME.mp4 and NAME.json (caption, material, exact event times). "
        "Clips that are already there are kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--split", choices=("train", "valid", "test"), default="test", help="which clips")
    parser.add_argument("--count", type=positive, default=8, help="number of clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder, made if absent")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the whole set")
    parser.add_argument("--start", type=natural, default=0, help="index of the first clip")
    parser.add_argument("--size", type=positive, default=256, help="height and width in pixels")
    parser.add_argument("--fps", type=rate, default=25.0, help="frames per second")
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def natural(text: str) -> int:
    """A whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def rate(text: str) -> float:
    """A frame rate."""
    value = float(text)
    if not 1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"must be between 1 and 240, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    indices = range(args.start, args.start + args.count)
    made = sum(
        _make(args, index) for index in track(indices, "clips", console=console, disable=not console.is_terminal)
    )
    kept = f" ({args.count - made} were there)" if made < args.count else ""
    print(f"{args.count} clips in {args.out}{kept}")
    return 0


def _make(args: argparse.Namespace, index: int) -> bool:
    """Write one clip, the json last, so that its presence means a complete clip; False if it was there."""
    from stav2a_jax.data import foley
    from stav2a_jax.types import UserError
    from stav2a_jax.video import mux

    video = args.out / f"foley_{args.split}_{index:06d}.mp4"
    text = video.with_suffix(".json")
    options = {"seed": args.seed, "size": args.size, "fps": args.fps}
    if video.exists() and text.exists():
        try:
            found = json.loads(text.read_text())
        except ValueError:
            found = {}
        if any(found.get(name) != value for name, value in options.items()):
            raise UserError(f"{text}: was made with other options than {options}; choose another --out folder.")
        return False
    clip = foley.make_clip(args.seed, args.split, index)
    frames = foley.render_video(clip, size=args.size, fps=args.fps)
    mux.write_video(video, frames, args.fps, foley.render_audio(clip, sample_rate=16_000), 16_000)
    with mux.atomic(text) as temporary:
        temporary.write_text(json.dumps({**foley.metadata(clip), **options, "video": video.name}, indent=1) + "\n")
    return True
