"""Training state on disk: orbax, asynchronous, atomic; the latest and the best are kept.

A checkpoint has three parts: ``state``; ``data``, where the input pipeline stands; and the metrics.
"""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from stav2a_jax.types import TrainState, UserError


class Checkpoints:
    """Checkpoints of one stage; ``best`` is by the lowest validation loss."""

    def __init__(self, folder: pathlib.Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(
                    get_metric_fn=lambda m: m["valid_loss"], reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=lambda metrics: metrics["valid_loss"],  # without it, orbax does not store the metrics
                best_mode="min",
                enable_async_checkpointing=True,
            ),
        )

    def save(self, state: TrainState, valid_loss: float | None, data: dict[str, Any] | None = None) -> None:
        """Start writing the state of ``state.step``; returns before it is on disk.

        ``valid_loss`` is None for a state between two validations, which is kept only as the latest one. ``data``: what
        :meth:`data` gives back.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        parts = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data or {}))
        metrics = None if valid_loss is None else {"valid_loss": float(valid_loss)}
        self._manager.save(step, args=parts, metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step with the lowest validation loss among those kept."""
        self.wait()
        steps = self._manager.all_steps()
        losses = {s: (self._manager.metrics(s) or {}).get("valid_loss", float("inf")) for s in steps}
        return min(losses, key=lambda s: (losses[s], s)) if losses else None

    def valid_loss(self, step: int) -> float:
        """Validation loss of a kept step."""
        self.wait()  # metrics are on disk when the step is
        return float((self._manager.metrics(step) or {})["valid_loss"])

    def restore(self, like: TrainState, step: int) -> Any:
        """The state of ``step``, on the devices and in the sharding of ``like`` (arrays, or their shapes).

        Raises UserError for a checkpoint that has no such part.
        """
        self._manager.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restore(step, state=ocp.args.StandardRestore(abstract))["state"]

    def data(self, step: int) -> dict[str, Any]:
        """Where the input pipeline stood at ``step``; UserError as :meth:`restore`."""
        return self._restore(step, data=ocp.args.JsonRestore())["data"]

    def _restore(self, step: int, **parts: Any) -> Any:
        folder = self._manager.directory / str(step)
        missing = [name for name in parts if not (folder / name).exists()]
        if missing:
            raise UserError(
                f"the checkpoint {folder} has no part {missing[0]!r} (an older version wrote it): "
                f"delete {self._manager.directory} to start the stage again"
            )
        return self._manager.restore(step, args=ocp.args.Composite(**parts))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
