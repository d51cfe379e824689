"""The noise schedule: float64 tables on the host, cast to float32 where they meet an array."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.config import ScheduleConfig
from stav2a_jax.types import UserError

SPACINGS = ("leading", "linspace", "trailing")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps for t in 0..train_steps-1; hashable by its config alone.

    The tables (train_steps,) are float64: in bfloat16 the first two cumulative alphas would round to 1.
    """

    config: ScheduleConfig
    betas: np.ndarray = dataclasses.field(compare=False, repr=False)
    alphas_cumprod: np.ndarray = dataclasses.field(compare=False, repr=False)
    snr: np.ndarray = dataclasses.field(compare=False, repr=False)

    @property
    def train_steps(self) -> int:
        return len(self.betas)

    def add_noise(self, x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        """Noisy x_t (B, ...) float32 of clean x0 and noise eps (B, ...) at the integer timesteps t (B,)."""
        signal, sigma = self._coefficients(t, x0.ndim)
        return signal * x0 + sigma * eps

    def velocity(self, x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        """v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho 2022), (B, ...) float32."""
        signal, sigma = self._coefficients(t, x0.ndim)
        return signal * eps - sigma * x0

    def target(self, x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        """What the network is trained to predict: v or eps, as ``config.prediction`` says."""
        return self.velocity(x0, eps, t) if self.config.prediction == "v" else eps

    def to_x0_eps(self, prediction: jax.Array, x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(x0, eps) that a prediction of the network at (x_t, t) stands for."""
        signal, sigma = self._coefficients(t, x_t.ndim)
        if self.config.prediction == "v":
            return signal * x_t - sigma * prediction, signal * prediction + sigma * x_t
        return (x_t - sigma * prediction) / signal, prediction

    def timesteps(self, steps: int, spacing: str | None = None, *, multistep: bool = False) -> np.ndarray:
        """Descending int32 timesteps (steps,) of a sampler.

        ``spacing`` defaults to the config's; 'leading' adds ``config.steps_offset``. ``multistep`` gives the grids
        of DPM-Solver++ in diffusers, which divide the range by steps + 1 and leave the lowest point to the end.

        Raises:
            UserError: steps outside 1..train_steps, an unknown spacing, or so many steps that timesteps repeat.
        """
        spacing, last = spacing or self.config.spacing, self.train_steps - 1
        if spacing not in SPACINGS:
            raise UserError(f"Unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}.")
        if not 1 <= steps <= self.train_steps:
            raise UserError(f"Cannot sample in {steps} steps; choose a number of steps from 1 to {self.train_steps}.")
        points = steps + 1 if multistep else steps
        grid: np.ndarray
        if spacing == "leading":
            grid = np.arange(points) * (self.train_steps // points)
            # differs from diffusers: at 1000 steps the offset would run past the table, so it shrinks
            grid = (grid + min(self.config.steps_offset, last - grid[-1]))[::-1]
        elif spacing == "trailing":
            grid = np.round(np.arange(self.train_steps, 0, -self.train_steps / steps)) - 1
        elif points == 1:
            grid = np.array([last])  # differs from diffusers, whose one-step linspace starts at t = 0, without noise
        else:
            grid = np.linspace(0, last, points).round()[::-1]
        grid = grid[:steps].astype(np.int32)
        if (np.diff(grid) >= 0).any():
            raise UserError(f"{steps} steps with spacing {spacing!r} repeat timesteps; use fewer steps.")
        return grid

    def _coefficients(self, t: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
        tables = np.stack([np.sqrt(self.alphas_cumprod), np.sqrt(1 - self.alphas_cumprod)]).astype(np.float32)
        pair = jnp.asarray(tables)[:, t]
        pair = pair.reshape(pair.shape + (1,) * (ndim - 1))
        return pair[0], pair[1]


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Scaled-linear schedule: betas are the squares of evenly spaced numbers (latent diffusion, Stable Diffusion).

    Raises:
        UserError: ``config.prediction`` is neither 'v' nor 'epsilon', or the betas leave (0, 1).
    """
    if config.prediction not in ("v", "epsilon"):
        raise UserError(f"Unknown prediction {config.prediction!r}; set it to 'v' or 'epsilon'.")
    if not 0 < config.beta_start <= config.beta_end < 1:
        raise UserError(f"beta_start {config.beta_start} and beta_end {config.beta_end} must rise within (0, 1).")
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps, dtype=np.float64) ** 2
    alphas_cumprod = np.cumprod(1 - betas)
    return Schedule(config, betas, alphas_cumprod, alphas_cumprod / (1 - alphas_cumprod))
