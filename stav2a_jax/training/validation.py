"""Validation: the averaged weights on fixed pieces with fixed noise, so that the losses of two runs can be compared."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stav2a_jax import parallel
from stav2a_jax.config import StageConfig
from stav2a_jax.data.batches import fixed_pieces
from stav2a_jax.training.stages.base import Shown, Stage
from stav2a_jax.training.step import example_keys
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Params, TrainState

SEED = 2**31 - 1
"""Validation noise is drawn from this seed, whatever the run's."""


class Validation:
    """Mean metrics of the EMA, by calling it with a state; :meth:`shown` is for eye and ear."""

    def __init__(self, ws: Workspace, stage: Stage, cfg: StageConfig, frozen: Params, mesh: Mesh) -> None:
        rate = ws.cfg.model.latent.frames_per_second
        crop = round(cfg.crop_seconds * rate)
        chosen = fixed_pieces(ws.clips("valid"), cfg.batch_size, cfg.valid_batches, crop, rate, ws.kept("valid"))
        rows = parallel.rows_of_process(cfg.batch_size)
        self._stage, self._frozen, self._mesh = stage, frozen, mesh if ws.cfg.mode == "jit" else None
        self._batches = [stage.batch("valid", pieces[rows], crop) for pieces in chosen]
        self._few = stage.batch("valid", chosen[0][: cfg.shown], crop) if stage.show and cfg.shown else None

        @jax.jit
        def evaluate(params: Params, fixed: Params, batch: dict[str, Any]) -> dict[str, Any]:
            keys = example_keys(jnp.uint32(SEED), jnp.int32(0), batch["index"])
            loss, metrics = stage.valid_loss(params, fixed, batch, keys)
            return {"loss": loss, **metrics}

        self._evaluate = evaluate

    def __call__(self, state: TrainState) -> dict[str, float]:
        rows = [jax.device_get(self._evaluate(state.ema, self._frozen, self._put(batch))) for batch in self._batches]
        return {m: float(np.mean([r[m] for r in rows])) for m in rows[0]}

    def shown(self, state: TrainState) -> Shown | None:
        """What the stage makes of a few validation examples. All processes compute it, the main one writes it."""
        if self._few is None or self._stage.show is None:
            return None
        return self._stage.show(state.ema, self._frozen, self._few)

    def _put(self, batch: dict[str, np.ndarray]) -> Any:
        return batch if self._mesh is None else parallel.put_rows(self._mesh, batch)
