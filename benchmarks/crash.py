"""Kill a training run again and again and see whether anything is different in the end: ``python benchmarks/crash.py``.

A stage of a very small model is trained twice from the same config: once left alone, and once killed (SIGKILL, or
SIGTERM every fourth time with --term) at random steps and started again, with a random number of loading processes each
time. Then the states of the last step have to be equal to the last bit, and the lists of examples have to say that
every clip was used once an epoch, and that a step that was taken again took the same clips again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
STAGE, CLIPS, BATCH, EVERY = "vae", 12, 4, 3
SETTINGS = {
    "data.train_clips": CLIPS,
    "data.valid_clips": 2,
    "model.video.size": 16,
    "model.autoencoder.base_channels": 4,
    "model.autoencoder.norm_groups": 2,
    "stages.vae.batch_size": BATCH,
    "stages.vae.crop_seconds": 0.32,
    "stages.vae.valid_every": EVERY,
    "stages.vae.valid_batches": 1,
    "stages.vae.log_every": 1,
    "stages.vae.shown": 0,
    "stages.vae.optim.accum": 2,
}


def command(folder: pathlib.Path, run: str, steps: int, *more: str) -> list[str]:
    """The command line of one run; it is the same at every start."""
    settings = {**SETTINGS, "stages.vae.steps": steps}
    words = [w for name, value in settings.items() for w in ("--set", f"{name}={value}")]
    places = ["--out", str(folder / run), "--cache", str(folder / "cache")]
    config = ["--config", str(ROOT / "configs" / "foley_tiny.py"), "--stage", STAGE, "--log-examples"]
    return [sys.executable, str(ROOT / "train.py"), *config, *places, *words, *more]


def examples(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What the stage has written down of its steps, a last line that was cut off left out."""
    path = folder / STAGE / "examples-0.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def environment(folder: pathlib.Path) -> dict[str, str]:
    """Two simulated devices; programs are compiled once for all the starts."""
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {**os.environ, "JAX_NUM_CPU_DEVICES": "2", **compiled}


def interrupted(folder: pathlib.Path, steps: int, signals: Sequence[signal.Signals], rng: random.Random) -> list[int]:
    """Train with one interruption per signal; returns the step of each."""
    run, hits = folder / "interrupted", []
    for number in signals:
        begun, last = len(examples(run)), examples(run)[-1]["step"] if examples(run) else 0
        target = rng.randint(1, max(1, min(2 * steps // len(signals), steps - last - 1)))
        argv = command(folder, "interrupted", steps, "--set", f"workers={rng.choice((0, 0, 1, 2))}")
        process = subprocess.Popen(
            argv, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while len(examples(run)) < begun + target and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.05 * rng.random())
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
        wanted = 75 if number == signal.SIGTERM else -number
        if process.returncode != wanted:
            raise SystemExit(f"{number.name}: exit code {process.returncode}, expected {wanted}: {said}")
        hits.append(examples(run)[-1]["step"] if examples(run) else 0)
    train(folder, "interrupted", steps)
    return hits


def train(folder: pathlib.Path, run: str, steps: int) -> None:
    """Train to the end."""
    argv = command(folder, run, steps)
    subprocess.run(argv, env=environment(folder), check=True, stdout=subprocess.DEVNULL)


def last_state(folder: pathlib.Path, steps: int) -> list[np.ndarray]:
    """Every array of the checkpoint of the last step."""
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    path = folder / STAGE / "checkpoints" / str(steps) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path).item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return jax.tree.leaves(reader.restore(path, restore_args=plain))


def check(folder: pathlib.Path, steps: int) -> dict[str, int]:
    """Compare the two runs; raises AssertionError with what differs. Returns counts for the report."""
    alone, broken = (examples(folder / run) for run in ("alone", "interrupted"))
    by_step = {row["step"]: row for row in alone}
    assert [row["step"] for row in alone] == list(range(1, steps + 1))
    assert sorted({row["step"] for row in broken}) == list(by_step), "a step was left out"
    assert [row for row in broken if row != by_step[row["step"]]] == [], "a step taken again had other examples"
    clips = [clip for step in sorted(by_step) for clip in by_step[step]["clips"]]
    epochs = [clips[i : i + CLIPS] for i in range(0, len(clips) - CLIPS + 1, CLIPS)]
    assert all(sorted(epoch) == list(range(CLIPS)) for epoch in epochs), "an epoch has not every clip once"
    pairs = list(zip(last_state(folder / "alone", steps), last_state(folder / "interrupted", steps), strict=True))
    assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs), "the states differ"
    results = [(folder / run / STAGE / "params.safetensors").read_bytes() for run in ("alone", "interrupted")]
    assert results[0] == results[1], "the results differ"
    return {"arrays": len(pairs), "epochs": len(epochs), "steps": steps, "taken_again": len(broken) - steps}


def crash(folder: pathlib.Path, steps: int, signals: Sequence[signal.Signals], seed: int) -> dict[str, Any]:
    """The whole comparison in ``folder``."""
    train(folder, "alone", steps)
    hits = interrupted(folder, steps, signals, random.Random(seed))
    return {**check(folder, steps), "interrupted_at": hits}


def main() -> None:
    """Run it and print the counts as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--term", action="store_true", help="every fourth time SIGTERM instead of SIGKILL")
    args = parser.parse_args()
    signals = [signal.SIGTERM if args.term and i % 4 == 3 else signal.SIGKILL for i in range(args.kills)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        counts = crash(pathlib.Path(folder), args.steps, signals, args.seed)
        print(json.dumps({"kills": args.kills, **counts, "seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()
