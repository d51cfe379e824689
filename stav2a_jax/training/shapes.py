"""A stage's train step as shapes alone: no clips, no weights, no earlier stage; for checks of large configs."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from stav2a_jax.config import Config, ModelConfig, StageConfig
from stav2a_jax.data.batches import Piece
from stav2a_jax.data.clips import Clips, Rows
from stav2a_jax.training.loop import make_step
from stav2a_jax.training.recipe import STAGES
from stav2a_jax.training.step import init_state
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import Params, TrainState


class StepShapes(NamedTuple):
    """``step(state, frozen, batch) -> (state, metrics)`` and the shapes of what it takes, for a whole batch.

    whole_batch: as in ``stages.base.Stage``.
    """

    step: Callable[..., Any]
    state: TrainState
    frozen: Params
    batch: dict[str, jax.ShapeDtypeStruct]
    whole_batch: bool


def step_shapes(cfg: Config, name: str) -> StepShapes:
    """The train step of a stage as ``loop.fit`` makes it, with its accumulation."""
    ws, settings = ShapesOnly(cfg), getattr(cfg.stages, name)
    assert isinstance(settings, StageConfig)
    stage = STAGES[name](ws)
    step, tx = make_step(settings, stage)
    state = jax.eval_shape(functools.partial(init_state, tx=tx, seed=cfg.seed), stage.params)
    crop = round(settings.crop_seconds * cfg.model.latent.frames_per_second)
    row = stage.batch("train", [Piece(0, 0, crop, 0)], crop)
    batch = {k: jax.ShapeDtypeStruct((settings.batch_size, *x.shape[1:]), x.dtype) for k, x in row.items()}
    step = functools.partial(step, accum=settings.optim.accum)
    return StepShapes(step, state, stage.frozen, batch, stage.whole_batch)


class ShapesOnly(Workspace):
    """A run in no folder, whose clips are blank and whose parameters and results are shapes."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.root = cfg, pathlib.Path("/nonexistent")
        self._results: dict[str, Params] = {}

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        return jax.eval_shape(function, *args)

    def begin(self, stage: str, fresh: Params) -> Params:
        return dict(fresh)

    def clips(self, split: str) -> Clips:
        return Blank(self.cfg.model)

    def kept(self, split: str) -> np.ndarray | None:
        return None

    def given(self, field: str) -> bool:
        return True

    def rows(self, split: str, name: str) -> Rows:
        model = self.cfg.model
        moments = (model.latent.bins, 2 * model.autoencoder.embed_channels)
        return BlankRows(moments if name == "latent" else (model.video.features,))

    def tokenizer(self) -> Any:
        return functools.partial(_blank_tokens, self.cfg.model.text.max_length)

    def done(self, stage: str) -> bool:
        return False

    def result(self, stage: str) -> tuple[Params, dict[str, Any]]:
        if stage not in self._results:
            built = STAGES[stage](self)
            self._results[stage] = {**built.kept, **built.params}
        return self._results[stage], {}

    def model_config(self) -> ModelConfig:
        return self.cfg.model


class Blank:
    """One black and silent clip."""

    def __init__(self, model: ModelConfig) -> None:
        seconds, self._size = model.latent.seconds, model.video.size
        counts = {"frames": round(seconds * model.video.fps), "samples": model.latent.samples}
        self.records: list[dict[str, Any]] = [{"caption": "", "seconds": seconds, "onsets": [], **counts}]

    def __len__(self) -> int:
        return 1

    def video(self, i: int, start: int, count: int) -> np.ndarray:
        return np.zeros((count, self._size, self._size, 3), np.uint8)

    def wave(self, i: int, start: int, count: int) -> np.ndarray:
        return np.zeros(count, np.float32)


class BlankRows:
    """Rows of zeros."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def rows(self, i: int, start: int, count: int) -> np.ndarray:
        return np.zeros((count, *self._shape), np.float32)


def _blank_tokens(
    most: int, texts: Sequence[str], limit: int, pad_to: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Captions as long as they may be."""
    shape = len(texts), pad_to or most
    return np.zeros(shape, np.int32), np.ones(shape, np.int32)
