"""Prepare generated videos and ten broken ones, kill it again and again, and count: ``python benchmarks/prepare.py``.

``stav2a prepare`` runs on --count clips, kept as VGGSound's are, and one broken file of every kind. Then
- the set has to hold every good clip once, and every broken one its reason;
- a second run has to change no file;
- the same preparation in another folder, killed with SIGKILL at --kills random moments, has to end with the same
  records to the last bit and the same reasons;
- AV-Align without cache on --align clips is timed in one process and in two, in turn, --trials times.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import av
import numpy as np

from stav2a_jax.data import foley
from stav2a_jax.data.prepare.run import prepare
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import from_vggsound
from stav2a_jax.data.prepare.steps import STEPS
from stav2a_jax.data.records import open_records
from stav2a_jax.video.mux import write_video

ROOT = pathlib.Path(__file__).resolve().parents[1]
BROKEN = {
    "trunc______": "truncated",
    "zero_______": "empty",
    "mute_______": "no_audio",
    "blind______": "no_video",
    "blink______": "too_short",
    "huge_______": "too_large",
    "text_______": "unreadable",
    "gone_______": "missing",
    "a/../b": "bad_name",
    "foley000000": "duplicate",
}
"""Id in the list -> the reason for which it is dropped."""
HUGE = 4200
"""Pixels along a side, more than the limit of ``stav2a prepare``."""


def write_clip(
    path: pathlib.Path, index: int, seconds: float = 2.0, size: int = 32, *, fps: float = 10.0, sound: bool = True
) -> None:
    """The first ``seconds`` of the pictures of a generated clip of 2 s, with all of its sound or none."""
    clip = foley.make_clip(0, "test", index, seconds=2.0)
    frames = foley.render_video(clip, size, fps)[: round(fps * seconds)]
    write_video(path, frames, fps, foley.render_audio(clip, 16_000) if sound else None, 16_000)


def write_broken(folder: pathlib.Path, huge: int = HUGE) -> None:
    """A file of every kind of BROKEN that has one; ``huge`` in pixels is more than the limit."""
    write_clip(folder / "whole.mp4", 1)
    whole = (folder / "whole.mp4").read_bytes()  # its index stands in front
    (folder / "trunc_______000000.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.mp4").unlink()
    (folder / "zero________000000.mp4").touch()
    write_clip(folder / "mute________000000.mp4", 1, sound=False)
    with av.open(str(folder / "blind_______000000.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    write_clip(folder / "blink_______000000.mp4", 1, seconds=0.2)
    write_clip(folder / "huge________000000.mp4", 1, size=huge, fps=2.0)
    (folder / "text________000000.mp4").write_text("this is no video\n" * 50)


def write_raw(folder: pathlib.Path, count: int) -> None:
    """VGGSound as people have it: a list, captions of all clips, and the files."""
    videos = folder / "videos"
    clips = ["foley", "--split", "test", "--count", str(count), "--size", "256", "--out", str(videos)]
    subprocess.run([*stav2a(), *clips], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    rows, captions = [], []
    for i, path in enumerate(sorted(videos.glob("*.json"))):
        name, facts = f"foley{i:06d}", json.loads(path.read_text())
        path.with_suffix(".mp4").rename(videos / f"{name}_000030.mp4")
        path.unlink()
        rows.append((name, 30, "hammering", "test" if i % 10 == 0 else "train"))
        captions.append((name, 30, facts["caption"]))
    write_broken(videos)
    rows += [(name, 30 if name == "foley000000" else 0, "dog barking", "train") for name in BROKEN]
    for name, lines in (("vggsound.csv", rows), ("captions.csv", [("id", "start_time", "caption"), *captions])):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows(lines)


def stav2a() -> list[str]:
    return [sys.executable, "-m", "stav2a_jax.cli"]


def command(folder: pathlib.Path, out: str, *more: str) -> list[str]:
    places = {"--csv": "vggsound.csv", "--videos": "videos", "--captions": "captions.csv", "--out": out}
    named = [word for option, name in places.items() for word in (option, str(folder / name))]
    return [*stav2a(), "prepare", *named, "--av-align", "measure", *more]


def timed(argv: list[str]) -> tuple[float, float, str]:
    """Wall and processor seconds of a command and its children, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


def kill_at(argv: list[str], steps: pathlib.Path, target: int, delay: float) -> None:
    """Start a command, and kill it ``delay`` seconds after it has left ``target`` files of its steps."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(1 for _ in steps.glob("*/*.jsonl")) < target and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"a preparation ended by itself, with {process.returncode}, before it could be killed")


def records(out: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Every record of a set by its id; AssertionError for one that is there twice."""
    sets = [open_records(out, split) for split in ("train", "test")]
    found = [part[i] for part in sets for i in range(len(part))]
    by_id = {record["id"]: record for record in found}
    assert len(by_id) == len(found), "a record is there twice"
    return by_id


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two records are equal to the last bit."""
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


def reasons(out: pathlib.Path) -> dict[str, str]:
    """Id without its start -> reason, of the dropped clips of a set."""
    with open(out / "dropped.csv") as file:
        return {row["id"].split("_0000")[0]: row["reason"] for row in csv.DictReader(file)}


def changes(out: pathlib.Path) -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def drill(folder: pathlib.Path, count: int, kills: int, more: list[str], rng: random.Random) -> dict[str, Any]:
    """Prepare, prepare again, prepare with interruptions; raises AssertionError with what is wrong."""
    whole, parts = folder / "whole", folder / "parts"
    wall, cpu, _ = timed(command(folder, "whole", *more))
    good, bad = records(whole), reasons(whole)
    assert len(good) == count, f"{len(good)} records of {count}"
    lines = {name: f"line_{count + 1 + list(BROKEN).index(name)}" for name in BROKEN if "/" in name}
    assert bad == {lines.get(name, name): reason for name, reason in BROKEN.items()}, bad
    before = changes(whole)
    again = timed(command(folder, "whole", *more))
    assert "nothing to do" in again[2]
    assert changes(whole) == before, "the second run changed files"
    chunks, files = [*more, "--chunk", "4"], len(STEPS) * math.ceil((count + len(BROKEN)) / 4)
    for target in sorted(rng.sample(range(1, files), kills)):
        kill_at(command(folder, "parts", *chunks), parts / "steps", target, 0.2 * rng.random())
    timed(command(folder, "parts", *chunks))
    other = records(parts)
    assert other.keys() == good.keys()
    assert all(same(good[name], other[name]) for name in good), "a record is another after interruptions"
    assert reasons(parts) == bad
    report = (whole / "report.md").read_text()
    return {
        "records": len(good),
        "reasons": sorted(bad.values()),
        "seconds": round(wall, 1),
        "processor_seconds": round(cpu, 1),
        "second_run_processor_seconds": round(again[1], 1),
        "killed": kills,
        "report": report,
    }


def speed_up(folder: pathlib.Path, count: int, trials: int) -> list[float]:
    """How many times as fast as one process two of them probe and measure ``count`` clips, their start included."""
    settings = PrepareSettings(bundle=None, av_align="measure")
    source = from_vggsound(folder / "vggsound.csv", folder / "videos", limit=count)
    ratios = []
    for trial in range(trials):
        walls = []
        for workers in (1, 2):
            began = time.monotonic()
            prepare(source, folder / f"align_{trial}_{workers}", settings, workers=workers, chunk=1)
            walls.append(time.monotonic() - began)
        ratios.append(round(walls[0] / walls[1], 2))
    return ratios


def main() -> None:
    """Run it and print the counts as JSON, the report of the whole run among them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="good clips")
    parser.add_argument("--kills", type=int, default=14)
    parser.add_argument("--align", type=int, default=24, metavar="N", help="clips to time AV-Align on")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--vae", help="params.safetensors of a VAE with its encoder: moments, too")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    more = [*(["--vae", args.vae] if args.vae else []), "--workers", str(os.cpu_count() or 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_raw(folder, args.count)
        found = drill(folder, args.count, args.kills, more, random.Random(args.seed))
        print(found.pop("report"))
        ratios = speed_up(folder, args.align, args.trials) if args.trials else []
        print(json.dumps({**found, "two_processes_to_one": ratios}))


if __name__ == "__main__":
    main()
