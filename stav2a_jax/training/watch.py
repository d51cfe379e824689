"""What a stage tells while it trains: progress, TensorBoard, speed, memory; and that its loss is no number any more."""

from __future__ import annotations

import collections
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stav2a_jax import parallel
from stav2a_jax.config import StageConfig
from stav2a_jax.training.stages.base import Shown
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import UserError

Metrics = dict[str, jax.Array]


class Watch:
    """Follows one stage, inside a ``with``. Only the main process writes; every process looks at the losses.

    ``count_flops(batch)``: operations of a step on these rows, asked for once for every shape of batch, and only if the
    devices' peak is known. ``first``: steps that are done.
    """

    def __init__(
        self,
        ws: Workspace,
        name: str,
        console: Console,
        first: int,
        count_flops: Callable[[Any], float],
    ) -> None:
        cfg: StageConfig = getattr(ws.cfg.stages, name)
        self._folder, self._name, self._cfg, self._console = ws.root / name, name, cfg, console
        self._sample_rate = ws.cfg.model.latent.sample_rate
        self._records = ws.clips("train").records
        self._bar = _progress(console)
        self._task = self._bar.add_task(name, total=cfg.steps, completed=first, note="compiling")
        self._writer: Any = None
        self._unread: collections.deque[tuple[int, np.ndarray, Metrics]] = collections.deque()
        self._speed = Speed(cfg.batch_size, count_flops)
        self._started = time.monotonic()

    def __enter__(self) -> Watch:
        if parallel.is_main():
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / "log"))
        self._bar.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; how long they are waited for is measured."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self._speed.waited += time.monotonic() - started
            yield batch

    def note(self, step: int, clips: np.ndarray, numbers: np.ndarray) -> None:
        """Append the examples of a step to the file of examples before the step is taken."""
        line = json.dumps({"step": step, "clips": clips.tolist(), "numbers": numbers.tolist()})
        with open(self._folder / f"examples-{jax.process_index()}.jsonl", "a") as file:
            file.write(line + "\n")

    def stepped(self, step: int, clips: np.ndarray, metrics: Metrics, batch: dict[str, np.ndarray]) -> None:
        """A step was sent to the devices. Its metrics are looked at when the next one has been sent, so that the
        devices never wait for the host; UserError where the loss or the gradient is not finite."""
        compiled = self._speed.sent(batch, metrics)
        self._unread.append((step, clips, metrics))
        last = compiled or step == self._cfg.steps or step % self._cfg.valid_every == 0
        self.catch_up(0 if last or parallel.waits_for_every_step() else 1)

    def catch_up(self, ahead: int = 0) -> None:
        """Look at the metrics of all steps that were sent, but the last ``ahead``; UserError as :meth:`stepped`."""
        while len(self._unread) > ahead:
            self._read(*self._unread.popleft())

    def _read(self, step: int, clips: np.ndarray, metrics: Metrics) -> None:
        values = {m: float(v) for m, v in metrics.items()}
        self._speed.done()
        if not all(math.isfinite(v) for v in values.values()):
            ids = [self._id_of(clip) for clip in clips.tolist()]
            path = self._write_down(step, values, clips, ids)
            few = ", ".join(ids[:4]) + (", ..." if len(ids) > 4 else "")
            raise UserError(
                f"stage {self._name!r} diverged at step {step} ({values}); clips of the batch: {few} (all in {path})"
            )
        if step % self._cfg.log_every == 0 or step == self._cfg.steps:
            self._bar.update(self._task, completed=step, note=f"loss {values['loss']:.4f}")
            speed = self._speed.since_last()
            self._scalars("train", {**values, **speed, "seconds": time.monotonic() - self._started}, step)

    def _id_of(self, clip: int) -> str:
        """The id of a prepared clip; the name of a generated one, as ``stav2a foley`` gives it."""
        record = self._records[clip]
        return str(record["id"]) if "id" in record else f"foley_train_{clip:06d}"

    def _write_down(self, step: int, values: dict[str, float], clips: np.ndarray, ids: list[str]) -> pathlib.Path:
        """A file with the clips of a step of which this process had its rows."""
        path = self._folder / f"not-finite-{step}-{jax.process_index()}.json"
        said = {"step": step, "metrics": {m: str(v) for m, v in values.items()}, "clips": clips.tolist(), "ids": ids}
        path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        return path

    def validated(self, step: int, values: dict[str, float], shown: Shown | None) -> None:
        """Write a validation and what it has to show."""
        self._scalars("valid", values, step)
        self._console.print(f"{self._name} step {step}: " + " ".join(f"{m} {v:.4f}" for m, v in values.items()))
        if self._writer is not None and shown is not None:
            for tag, image in shown.images.items():
                self._writer.add_image(tag, image, step, dataformats="HWC")
            for tag, sound in shown.sounds.items():
                self._writer.add_audio(tag, sound[:, None], step, sample_rate=self._sample_rate)
        self._speed.restart()

    def _scalars(self, group: str, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for m, v in values.items():
                self._writer.add_scalar(f"{group}/{m}", v, step)


class Speed:
    """Throughput since the last report, without compilation and validation."""

    def __init__(self, batch_size: int, count_flops: Callable[[Any], float]) -> None:
        self._batch_size, self._count_flops = batch_size, count_flops
        self._peak = parallel.peak_flops()
        self._flops: dict[Any, float] = {}
        self._sent: collections.deque[float] = collections.deque()
        self.waited = 0.0
        self.restart()

    def restart(self) -> None:
        """Leave out what happened since the last step."""
        self._steps, self._work, self.waited, self._since = 0, 0.0, 0.0, time.monotonic()

    def sent(self, batch: dict[str, np.ndarray], metrics: Metrics) -> bool:
        """A step was sent to the devices. Whether it is the first one of a shape: that one is compiled, is waited for,
        and does not count, nor do those before it that are not done."""
        shape = tuple(sorted((name, x.shape) for name, x in batch.items()))
        if shape not in self._flops:
            rows = self._count_flops(batch) if self._peak else 0.0  # of this process
            self._flops[shape] = rows * jax.process_count()
            jax.block_until_ready(metrics)
            self._sent.clear()
            self.restart()
            return True
        self._sent.append(self._flops[shape])
        return False

    def done(self) -> None:
        """The devices have done the first of the steps that were sent."""
        if self._sent:
            self._steps += 1
            self._work += self._sent.popleft()

    def since_last(self) -> dict[str, float]:
        """examples_per_second; input_wait, the share of time spent waiting for batches; mfu; memory in GiB."""
        seconds, report = time.monotonic() - self._since, parallel.memory()
        if self._steps:
            report["examples_per_second"] = self._steps * self._batch_size / seconds
            report["input_wait"] = self.waited / seconds
            if self._peak:
                report["mfu"] = self._work / seconds / self._peak
        self.restart()
        return report


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
