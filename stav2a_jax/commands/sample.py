"""`stav2a sample`: the sound of one video, of a folder, or of a JSON-lines list."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from stav2a_jax.errors import UserError

if TYPE_CHECKING:
    from stav2a_jax.pipeline import Sound, VideoToAudio
    from stav2a_jax.video.decode import Frames

VIDEO_SUFFIXES = {
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".ogv",
    ".3gp",
    ".gif",
}


@dataclasses.dataclass(frozen=True)
class Job:
    video: pathlib.Path
    prompt: str
    name: str


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("sample", help="write the sound of a silent video")
    p.add_argument(
        "--video",
        type=pathlib.Path,
        help="video, folder of videos, or .jsonl list with 'video_location' and 'captions' (default: a bundled clip)",
    )
    p.add_argument("--prompt", default=None, help="what is heard; empty by default")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"))
    p.add_argument("--bundle", default="foley-tiny", help="name of a bundled model, or a folder")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--samples", type=int, default=1, help="sounds per video")
    p.add_argument("--steps", type=int, help="denoising steps (default: the bundle's)")
    p.add_argument("--sampler", help="dpmpp, ddim or ddpm (default: the bundle's)")
    p.add_argument("--guidance", type=float, help="scale of the text (default: the bundle's)")
    p.add_argument("--guidance-global", type=float, help="scale of the global video feature")
    p.add_argument("--guidance-local", type=float, help="scale of the local video feature (timing)")
    p.add_argument("--no-picture", action="store_true", help="do not draw the PNG")
    p.add_argument("--force", action="store_true", help="make again what is already there")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    check(args)
    todo = jobs(args)
    console = Console()
    left = [j for j in todo if args.force or not done(args, j)]
    if len(left) < len(todo):
        console.print(f"{len(todo) - len(left)} of {len(todo)} already in {args.out} (--force makes them again)")
    if not left:
        return 0
    protect(todo, args)
    if len(todo) == 1:  # of many, a bad one is reported in its turn
        from stav2a_jax.video.container import probe

        probe(left[0].video)
    use_compilation_cache()
    from stav2a_jax.pipeline import VideoToAudio

    model = VideoToAudio.from_bundle(args.bundle)
    make_folder(args.out)  # not before all that can be checked is checked: a refused call leaves nothing behind
    failed = 0
    for number, job in enumerate(left, 1):
        try:
            make(model, job, args, console, f"[{number}/{len(left)}] {job.name}")
        except UserError as e:
            if len(todo) == 1:
                raise
            failed += 1
            Console(stderr=True).print(f"{job.name}: {e}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise UserError(f"{failed} of {len(left)} videos could not be used; the sentences above say why")
    return 0


def done(args: argparse.Namespace, job: Job) -> bool:
    """All samples of a video are there, with the settings of this call left unasked."""
    from stav2a_jax.pipeline import output_path

    return all(output_path(args.out, job.name, k, args.samples, ".json").exists() for k in range(args.samples))


def check(args: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before a model is loaded."""
    from stav2a_jax.bundle import find_bundle
    from stav2a_jax.diffusion.samplers import get_sampler

    for name in ("steps", "samples"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if args.steps is not None and args.steps > 1000:
        raise UserError(f"--steps must be at most 1000, got {args.steps}")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must lie between 0 and {2**32 - 1}, got {args.seed}")
    if args.sampler is not None:
        get_sampler(args.sampler)
    find_bundle(args.bundle)


def protect(todo: list[Job], args: argparse.Namespace) -> None:
    """No result may take the place of a video that is read."""
    from stav2a_jax.pipeline import output_path

    videos = {job.video.resolve() for job in todo}
    for job, k, suffix in itertools.product(todo, range(args.samples), (".mp4", ".mkv")):
        path = output_path(args.out, job.name, k, args.samples, suffix)
        if path.resolve() in videos:
            raise UserError(f"{str(path)!r} would take the place of the video itself: choose another --out")


def make_folder(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(f"cannot write into {str(folder)!r} ({e.strerror}): choose another --out") from e


def use_compilation_cache() -> None:
    """Compiled programs are kept between runs in the user's cache folder ($STAV2A_CACHE moves it)."""
    import jax

    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "stav2a_jax"
    folder = pathlib.Path(os.environ.get("STAV2A_CACHE", default)) / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def jobs(args: argparse.Namespace) -> list[Job]:
    """What is asked for, as a list. Raises UserError where the input is missing or empty."""
    if args.video is None:
        return [demo(args.prompt)]
    if args.video.is_dir():
        found = sorted(p for p in args.video.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise UserError(f"no video in the folder {str(args.video)!r}")
        return unique([Job(p, args.prompt or "", p.stem) for p in found])
    if args.video.suffix == ".jsonl":
        return unique(listed(args.video, args.prompt))
    if not args.video.exists():
        raise UserError(f"no such file: {str(args.video)!r}")
    return [Job(args.video, args.prompt or "", args.video.stem)]


def demo(prompt: str | None) -> Job:
    import importlib.resources

    folder = pathlib.Path(str(importlib.resources.files("stav2a_jax"))) / "assets"
    record = json.loads((folder / "demo.json").read_text())
    return Job(folder / "demo.mp4", record["caption"] if prompt is None else prompt, "demo")


def listed(path: pathlib.Path, prompt: str | None) -> list[Job]:
    """JSON lines: ``video_location`` (relative to the list) and ``captions``; a line without a video is an error."""
    if not path.is_file():
        raise UserError(f"no such file: {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read as a list of JSON lines ({e})") from e
    out = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            video = path.parent / row["video_location"]
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(f"{path}, line {number}: expected JSON with 'video_location' and 'captions'") from e
        out.append(Job(video, str(row.get("captions") or "") if prompt is None else prompt, video.stem))
    if not out:
        raise UserError(f"{str(path)!r} lists no video")
    return out


def unique(rows: list[Job]) -> list[Job]:
    """Equal base names get a number, so that no result overwrites another."""
    taken: set[str] = set()
    out = []
    for job in rows:
        name = next(n for k in itertools.count(1) if (n := job.name if k == 1 else f"{job.name}-{k}") not in taken)
        taken.add(name)
        out.append(dataclasses.replace(job, name=name))
    return out


def make(model: VideoToAudio, job: Job, args: argparse.Namespace, console: Any, title: str) -> None:
    """One video: decode, sample, write."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
    ) as bar:
        task = bar.add_task("reading", total=args.steps or model.bundle.guidance.steps)

        def report(what: str, done: int, total: int) -> None:
            if what == "sampling":
                bar.update(task, completed=done, total=total)
            bar.update(task, description=what)

        clip = model.read(job.video)
        sounds = model.generate(
            [clip] * args.samples,
            [job.prompt] * args.samples,
            seed=args.seed,
            numbers=list(range(args.samples)),
            sampler=args.sampler,
            steps=args.steps,
            guidance=args.guidance,
            guidance_global=args.guidance_global,
            guidance_local=args.guidance_local,
            report=report,
        )
        bar.update(task, description="writing")
        shown = None if args.no_picture else thumbnails(job.video)
        written = [write(model, job, shown, sound, args) for sound in sounds]
        bar.update(task, description="done")
    for path in written:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def thumbnails(video: pathlib.Path) -> Frames:
    """Frames for the picture, in the video's own shape: the encoder's are small and square."""
    from stav2a_jax.video.decode import probe, read_frames

    info = probe(video)
    scale = 160 / max(info.width, info.height)
    return read_frames(video, 8.0, (max(1, round(info.height * scale)), max(1, round(info.width * scale))))


def write(model: VideoToAudio, job: Job, shown: Frames | None, sound: Sound, args: argparse.Namespace) -> pathlib.Path:
    """mp4, wav, png, and last the JSON record, whose presence says that the others are whole; returns the video."""
    from stav2a_jax.audio import wav
    from stav2a_jax.metrics.events import detect_events
    from stav2a_jax.picture import draw
    from stav2a_jax.pipeline import output_path
    from stav2a_jax.video.mux import write_with_audio

    path = {
        s: output_path(args.out, job.name, sound.sample, args.samples, s) for s in (".mp4", ".wav", ".png", ".json")
    }
    video = write_with_audio(job.video, sound.wave, sound.sample_rate, path[".mp4"])
    wav.write(path[".wav"], sound.int16, sound.sample_rate)
    events = [round(float(t), 4) for t in detect_events(sound.wave, sound.sample_rate)]
    if shown is not None:
        draw(
            path[".png"],
            frames=shown.frames,
            fps=shown.fps,
            wave=sound.wave,
            sample_rate=sound.sample_rate,
            log_mel=sound.log_mel,
            onset_probability=sound.onset_probability,
            frames_per_second=sound.frames_per_second,
            seconds=sound.seconds,
            title=f"{job.name}: {job.prompt}" if job.prompt else job.name,
            events=events,
        )
    used = model.bundle.guidance
    record = {
        "video": str(job.video),
        "prompt": job.prompt,
        "bundle": model.bundle.name,
        "seed": sound.seed,
        "sample": sound.sample,
        "sampler": args.sampler or used.sampler,
        "steps": args.steps or used.steps,
        "guidance": {
            "text": used.text if args.guidance is None else args.guidance,
            "global": used.global_video if args.guidance_global is None else args.guidance_global,
            "local": used.local_video if args.guidance_local is None else args.guidance_local,
        },
        "seconds": sound.seconds,
        "sample_rate": sound.sample_rate,
        "events": events,
        "files": [str(video), str(path[".wav"])] + ([] if shown is None else [str(path[".png"])]),
    }
    temporary = path[".json"].with_suffix(".json.part")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(temporary, path[".json"])
    return video
