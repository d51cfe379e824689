"""The denoising loss, one number per example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.diffusion.schedule import Schedule
from stav2a_jax.types import DenoiseFn, UserError


def diffusion_loss(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: jax.Array,
    cond: Any,
    keys: jax.Array,
    *,
    snr_gamma: float | None = None,
    snr_weight: str = "ours",
    validation: bool = False,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Losses (B,) float32 of clean latents x0 (B, T, ...) at a random timestep and noise per example.

    Both come from the example's own key (B,), so an example's loss does not depend on its batch. ``validation`` fixes
    the timestep to the middle of the schedule (500 of 1000, as the reference). Other arguments: :func:`loss_at`.
    """
    t, eps = draw(keys, x0.shape[1:], schedule.train_steps, validation=validation)
    return loss_at(denoise, schedule, x0, cond, t, eps, snr_gamma=snr_gamma, snr_weight=snr_weight, mask=mask)


def draw(
    keys: jax.Array, shape: tuple[int, ...], train_steps: int, *, validation: bool = False
) -> tuple[jax.Array, jax.Array]:
    """t (B,) int32 uniform in 0..train_steps-1 and eps (B, \\*shape) standard normal, from one key per example."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = jax.random.randint(jax.random.fold_in(key, 0), (), 0, train_steps)
        return t, jax.random.normal(jax.random.fold_in(key, 1), shape)

    t, eps = jax.vmap(one)(keys)
    return (jnp.full_like(t, train_steps // 2) if validation else t), eps


def loss_at(
    denoise: DenoiseFn,
    schedule: Schedule,
    x0: jax.Array,
    cond: Any,
    t: jax.Array,
    eps: jax.Array,
    *,
    snr_gamma: float | None = None,
    snr_weight: str = "ours",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Losses (B,) at given timesteps t (B,) and noise eps like x0: the mean square error to the schedule's target.

    ``mask`` (B, T): 1 = frame counts; the mean is over the counted frames, 0 where there are none. ``snr_gamma``
    switches on min-SNR weights (Hang et al. 2023), see :func:`min_snr_weights`.
    """
    x0 = x0.astype(jnp.float32)
    prediction = denoise(schedule.add_noise(x0, eps, t), t, cond).astype(jnp.float32)
    error = jnp.square(prediction - schedule.target(x0, eps, t))
    per_frame = error.mean(axis=tuple(range(2, error.ndim)))
    if mask is None:
        losses = per_frame.mean(axis=1)
    else:
        keep = mask.astype(jnp.float32)
        losses = (per_frame * keep).sum(axis=1) / jnp.maximum(keep.sum(axis=1), 1.0)
    if snr_gamma is None:
        return losses
    return losses * jnp.asarray(min_snr_weights(schedule, snr_gamma, snr_weight), jnp.float32)[t]


def min_snr_weights(schedule: Schedule, gamma: float, kind: str = "ours") -> np.ndarray:
    """Weight of every timestep, (train_steps,) float64.

    'released': min(snr, gamma) / snr whatever the prediction, as the reference code has it. 'ours' differs for
    v-prediction: min(snr, gamma) / (snr + 1), because the v loss already is the x0 loss times snr + 1.

    Raises:
        UserError: unknown ``kind``.
    """
    if kind not in ("ours", "released"):
        raise UserError(f"Unknown snr_weight {kind!r}; choose 'ours' or 'released'.")
    is_ours_v = kind == "ours" and schedule.config.prediction == "v"
    return np.minimum(schedule.snr, gamma) / (schedule.snr + is_ours_v)
