"""Training state on disk: orbax, asynchronous, atomic; the latest and the best are kept."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from stav2a_jax.types import TrainState


class Checkpoints:
    """Checkpoints of one stage; ``best`` is by the lowest validation loss."""

    def __init__(self, folder: pathlib.Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(1), policies.BestN(get_metric_fn=lambda m: m["valid_loss"], reverse=True, n=1)]
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

    def save(self, state: TrainState, valid_loss: float) -> None:
        """Start writing the state of ``state.step``; returns before it is on disk."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step, args=ocp.args.StandardSave(state), metrics={"valid_loss": float(valid_loss)}, force=True
        )

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
        """The state of ``step``, on the devices and in the sharding of ``like``."""
        self._manager.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()
