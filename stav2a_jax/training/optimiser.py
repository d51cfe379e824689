"""AdamW with warm-up, decay, clipping, and weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from stav2a_jax.config import OptimConfig
from stav2a_jax.types import Params

SCHEDULES = ("cosine", "constant")


def learning_rate(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then 'cosine' to ``final_fraction`` of the rate, or 'constant'."""
    warmup = min(cfg.warmup_steps, max(steps - 1, 0))
    if cfg.schedule == "constant":
        return optax.join_schedules(
            [optax.linear_schedule(0.0, cfg.lr, max(warmup, 1)), optax.constant_schedule(cfg.lr)], [warmup]
        )
    if cfg.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, cfg.lr, warmup, max(steps, 1), cfg.lr * cfg.final_fraction)
    raise ValueError(f"unknown schedule {cfg.schedule!r}; expected {' or '.join(map(repr, SCHEDULES))}")


def make_optimiser(
    cfg: OptimConfig, steps: int, is_frozen: Callable[[tuple], bool] | None = None
) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW.

    ``is_frozen(path)`` names leaves that must not move (frozen normalisation statistics).
    """
    frozen = is_frozen or (lambda path: False)

    def trainable(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda p, _: not frozen(p), params)

    def decayed(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(lambda p, x: x.ndim > 1 and not frozen(p), params)

    chain = optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(learning_rate(cfg, steps), b1=cfg.b1, b2=cfg.b2, weight_decay=cfg.weight_decay, mask=decayed),
    )
    if is_frozen is None:
        return chain
    return optax.chain(optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda t: not t, trainable(p))), chain)
