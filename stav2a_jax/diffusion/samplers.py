"""DDPM, DDIM and DPM-Solver++ 2M as one loop over a table of coefficients.

Every step of the three is linear: with the network's prediction p and the x0 estimate m = (from_x x + from_p p),
    x' = keep x + mix m + mix_last m_last + sigma noise.
So a sampler is a table made on the host in float64 (a :class:`Plan`), and the device runs one :func:`sampler_step`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.diffusion.schedule import Schedule
from stav2a_jax.types import DenoiseFn, UserError

Sampler = Callable[..., Any]
"""(denoise, x_T, schedule, cond, keys, *, steps, ...) -> x_0; ``cond`` is whatever the denoiser takes."""


class Plan(NamedTuple):
    """One row per step: timestep (steps,) int32 and the float32 coefficients (steps,) of the step."""

    t: np.ndarray
    from_x: np.ndarray
    from_p: np.ndarray
    keep: np.ndarray
    mix: np.ndarray
    mix_last: np.ndarray
    sigma: np.ndarray

    @property
    def draws_noise(self) -> bool:
        return bool(np.any(self.sigma))

    def row(self, index: int) -> Plan:
        """The row of step ``index``, for a loop in Python."""
        return Plan(*(np.asarray(column[index]) for column in self))


class SamplerState(NamedTuple):
    """x (B, ...) float32 and the x0 estimate of the step before (zeros at first)."""

    x: jax.Array
    last_x0: jax.Array


def ddpm_plan(schedule: Schedule, steps: int, spacing: str | None = None) -> Plan:
    """Ancestral sampling with the posterior ('fixed small') variance (Ho et al. 2020, eq. 7); it ends at abar = 1."""
    t = schedule.timesteps(steps, spacing)
    now, after = _now_after(schedule, t, end=1.0)
    alpha = now / after  # of the whole jump
    variance = (1 - after) / (1 - now) * (1 - alpha)
    # differs from diffusers: the last step has no noise at all, where the reference leaves 1e-10 of it
    return _plan(
        schedule,
        t,
        keep=np.sqrt(alpha) * (1 - after) / (1 - now),
        mix=np.sqrt(after) * (1 - alpha) / (1 - now),
        sigma=np.sqrt(variance),
    )


def ddim_plan(schedule: Schedule, steps: int, spacing: str | None = None, eta: float = 0.0) -> Plan:
    """DDIM (Song et al. 2021, eq. 12); ends at the schedule's first abar, as SD's ``set_alpha_to_one=False`` does."""
    t = schedule.timesteps(steps, spacing)
    now, after = _now_after(schedule, t, end=schedule.alphas_cumprod[0])
    variance = np.maximum((1 - after) / (1 - now) * (1 - now / after), 0)
    sigma = eta * np.sqrt(variance)
    keep = np.sqrt(np.maximum(1 - after - sigma**2, 0)) / np.sqrt(1 - now)  # x = .. x0 + .. eps solved for eps
    return _plan(schedule, t, keep=keep, mix=np.sqrt(after) - keep * np.sqrt(now), sigma=sigma)


def dpmpp_2m_plan(schedule: Schedule, steps: int, spacing: str | None = None, final: str = "zero") -> Plan:
    """DPM-Solver++ 2M, data prediction, midpoint (Lu et al. 2022, algorithm 2).

    The spacing defaults to 'linspace', which starts at the noisiest timestep. ``final`` is where the last step ends:
    'zero' at no noise, 'sigma_min' at the training schedule's least noise (diffusers before 0.24). Below 15 steps, or
    towards zero noise, the last step is of first order, as in diffusers.
    """
    if final not in ("zero", "sigma_min"):
        raise UserError(f"Unknown final {final!r}; choose 'zero' or 'sigma_min'.")
    t = schedule.timesteps(steps, spacing or "linspace", multistep=True)
    now, after = _now_after(schedule, t, end=1.0 if final == "zero" else schedule.alphas_cumprod[0])
    # ratio = exp(-h), h = log SNR step / 2; it is 0 where the noise ends at 0
    ratio = np.sqrt(now * (1 - after) / ((1 - now) * after))
    weight = np.sqrt(after) * (1 - ratio)
    second = np.zeros(steps)
    h = -np.log(np.maximum(ratio, 1e-30))
    second[1:] = 0.5 * h[1:] / h[:-1]  # 1 / (2 r0)
    if steps < 15 or final == "zero":
        second[-1] = 0
    return _plan(
        schedule,
        t,
        keep=np.sqrt((1 - after) / (1 - now)),
        mix=weight * (1 + second),
        mix_last=-weight * second,
    )


def sampler_step(
    denoise: DenoiseFn, state: SamplerState, row: Plan, cond: Any, noise: jax.Array | None = None
) -> SamplerState:
    """One step. A caller who shows progress runs this in a Python loop over ``plan.row(i)`` and gets the same numbers.

    ``noise`` (B, ...) may be None where the plan draws none.
    """
    t = jnp.broadcast_to(jnp.asarray(row.t, jnp.int32), state.x.shape[:1])
    x0 = row.from_x * state.x + row.from_p * denoise(state.x, t, cond).astype(jnp.float32)
    x = row.keep * state.x + row.mix * x0 + row.mix_last * state.last_x0
    return SamplerState(x if noise is None else x + row.sigma * noise, x0)


def initial_state(x_T: jax.Array) -> SamplerState:
    """State before the first step."""
    x = jnp.asarray(x_T, jnp.float32)
    return SamplerState(x, jnp.zeros_like(x))


def draw_noise(keys: jax.Array, index: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal (B, \\*shape) float32, each example from its own key (B,) and ``index`` alone.

    Index 0 is meant for x_T; step i of a sampler uses index i + 1. So a sample does not depend on its batch.
    """
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))(keys)


def run_plan(
    denoise: DenoiseFn,
    x_T: jax.Array,
    plan: Plan,
    cond: Any,
    keys: jax.Array | None = None,
    *,
    noise: jax.Array | None = None,
    trajectory: bool = False,
) -> jax.Array:
    """x_0 (B, ...) float32, or every state after a step (steps, B, ...) with ``trajectory``.

    ``noise`` (steps, B, ...) takes the place of the keys (for comparisons with another implementation).

    Raises:
        UserError: the plan draws noise and there is neither ``keys`` nor ``noise``.
    """
    if plan.draws_noise and keys is None and noise is None:
        raise UserError("This sampler draws noise at every step; give it one key per example.")

    def body(state: SamplerState, xs: tuple[Plan, jax.Array, jax.Array | None]) -> tuple[SamplerState, Any]:
        row, index, given = xs
        if plan.draws_noise and given is None and keys is not None:
            given = draw_noise(keys, index + 1, state.x.shape[1:])
        state = sampler_step(denoise, state, row, cond, given if plan.draws_noise else None)
        return state, state.x if trajectory else None

    rows = jax.tree.map(jnp.asarray, plan)
    last, states = jax.lax.scan(body, initial_state(x_T), (rows, jnp.arange(len(plan.t)), noise))
    return states if trajectory else last.x


def ddpm(
    denoise: DenoiseFn,
    x_T: jax.Array,
    schedule: Schedule,
    cond: Any,
    keys: jax.Array | None,
    *,
    steps: int,
    spacing: str | None = None,
    **run: Any,
) -> jax.Array:
    """Sample with :func:`ddpm_plan`; x_T (B, ...), keys (B,); ``run``: noise, trajectory of :func:`run_plan`."""
    return run_plan(denoise, x_T, ddpm_plan(schedule, steps, spacing), cond, keys, **run)


def ddim(
    denoise: DenoiseFn,
    x_T: jax.Array,
    schedule: Schedule,
    cond: Any,
    keys: jax.Array | None = None,
    *,
    steps: int,
    spacing: str | None = None,
    eta: float = 0.0,
    **run: Any,
) -> jax.Array:
    """Sample with :func:`ddim_plan`; no keys are needed at eta 0. ``run`` as in :func:`ddpm`."""
    return run_plan(denoise, x_T, ddim_plan(schedule, steps, spacing, eta), cond, keys, **run)


def dpmpp_2m(
    denoise: DenoiseFn,
    x_T: jax.Array,
    schedule: Schedule,
    cond: Any,
    keys: jax.Array | None = None,
    *,
    steps: int,
    spacing: str | None = None,
    final: str = "zero",
    **run: Any,
) -> jax.Array:
    """Sample with :func:`dpmpp_2m_plan`; draws no noise. ``run`` as in :func:`ddpm`."""
    return run_plan(denoise, x_T, dpmpp_2m_plan(schedule, steps, spacing, final), cond, keys, **run)


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpmpp": dpmpp_2m}
PLANS: dict[str, Callable[..., Plan]] = {"ddpm": ddpm_plan, "ddim": ddim_plan, "dpmpp": dpmpp_2m_plan}


def get_sampler(name: str) -> Sampler:
    """Sampler by name.

    Raises:
        UserError: unknown name; the message holds the nearest one.
    """
    return SAMPLERS[_known(name)]


def get_plan(name: str) -> Callable[..., Plan]:
    """Plan of the sampler of that name, (schedule, steps, spacing, ...) -> Plan; same error as :func:`get_sampler`."""
    return PLANS[_known(name)]


def _known(name: str) -> str:
    if name in SAMPLERS:
        return name
    near = difflib.get_close_matches(name.lower().replace("+", "p"), SAMPLERS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SAMPLERS)}."
    raise UserError(f"Unknown sampler {name!r}; {hint}")


def _now_after(schedule: Schedule, t: np.ndarray, end: float) -> tuple[np.ndarray, np.ndarray]:
    """abar at every step and where the step leads. The next timestep of the list is taken, not t - 1000 // steps:

    equal for 'leading'; differs from diffusers for the other spacings of DDPM and DDIM, whose rule there jumps
    past the next timestep or stops short of it.
    """
    now = schedule.alphas_cumprod[t]
    return now, np.append(now[1:], end)


def _plan(schedule: Schedule, t: np.ndarray, **columns: np.ndarray) -> Plan:
    signal, sigma = np.sqrt(schedule.alphas_cumprod[t]), np.sqrt(1 - schedule.alphas_cumprod[t])
    is_v = schedule.config.prediction == "v"
    zeros = {"mix_last": np.zeros(len(t)), "sigma": np.zeros(len(t))}
    table = {
        "from_x": signal if is_v else 1 / signal,
        "from_p": -sigma if is_v else -sigma / signal,
        **zeros,
        **columns,
    }
    return Plan(t=t, **{name: column.astype(np.float32) for name, column in table.items()})
