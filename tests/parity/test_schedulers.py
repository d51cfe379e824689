"""Schedule tables and sampler trajectories against diffusers 0.20.0 and 0.42.1: every stored output."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import ScheduleConfig
from stav2a_jax.diffusion.loss import min_snr_weights
from stav2a_jax.diffusion.samplers import ddim, ddpm, dpmpp_2m
from stav2a_jax.diffusion.schedule import make_schedule

FAMILY = {"ddpm": ddpm, "ddim": ddim, "dpmpp2m": dpmpp_2m}


@pytest.fixture
def schedule(case):
    """``schedule(prediction, offset)``: the fixture's schedule with what a name says in place of its own."""
    own = case.meta["config"]

    def make(prediction="v_prediction", offset=own["steps_offset"]):
        return make_schedule(
            ScheduleConfig(
                train_steps=own["num_train_timesteps"],
                beta_start=own["beta_start"],
                beta_end=own["beta_end"],
                prediction={"v_prediction": "v"}.get(prediction, prediction),
                steps_offset=offset,
            )
        )

    return make


def toy(x, t, cond):
    return 0.1 * x * (t / 1000).reshape((-1,) + (1,) * (x.ndim - 1)) + 0.05


def timesteps(schedule, name):
    """Value of an output called timesteps_[FAMILY_]STEPS[_VARIANT]."""
    family, steps, variant = re.fullmatch(r"timesteps_(?:([a-z0-9]+)_)?(\d+)(?:_(\w+))?", name).groups()
    multistep = family in (None, "dpmpp2m")
    spacing = {None: "linspace" if multistep else "leading", "offset0": "leading"}.get(variant, variant)
    table = schedule(offset=0) if variant == "offset0" else schedule()
    return table.timesteps(int(steps), spacing, multistep=multistep)


def trajectory(case, schedule, name):
    """Value of an output called FAMILY_PREDICTION_STEPS[_SPACING][_FINAL | _offset0].

    Without an ending DPM-Solver++ is that of diffusers 0.20.0, which stops at the training schedule's least noise.
    """
    family, prediction, steps, rest = re.fullmatch(r"([a-z0-9]+)_(v_prediction|epsilon)_(\d+)_?(\w*)", name).groups()
    table = schedule(prediction, 0) if rest == "offset0" else schedule(prediction)
    options = {"steps": int(steps), "trajectory": True}
    if family == "dpmpp2m":
        spacing, _, ending = rest.partition("_")
        options |= {"spacing": spacing or "linspace", "final": ending or "sigma_min"}
    if family == "ddpm":
        options["noise"] = jnp.asarray(case.inputs["ddpm_noise"][: int(steps)])
    return FAMILY[family](toy, jnp.asarray(case.inputs["x_T"]), table, None, None, **options)


@pytest.mark.given("schedulers", outputs=("alphas_cumprod", "betas", "add_noise", "velocity", "snr*"))
def test_the_tables_are_the_same(case, schedule):
    table, t = schedule(), jnp.asarray(case.inputs["train_t"])
    clean, eps = jnp.asarray(case.inputs["clean"]), jnp.asarray(case.inputs["eps"])
    case.check("alphas_cumprod", table.alphas_cumprod)
    case.check("betas", table.betas)
    case.check("snr", table.snr[t])
    case.check("add_noise", table.add_noise(clean, eps, t))
    case.check("velocity", table.velocity(clean, eps, t))
    for name in (n for n in case.claimed if n.startswith("snr_weight_gamma")):
        gamma = float(name.removeprefix("snr_weight_gamma"))
        case.check(name, min_snr_weights(table, gamma, "released")[t])


@pytest.mark.given("schedulers*", outputs=("timesteps*",))
def test_the_timesteps_are_the_same(case, schedule):
    for name in case.claimed:
        case.check(name, timesteps(schedule, name))


@pytest.mark.given("schedulers*", outputs=("ddpm*", "ddim*", "dpmpp2m*"))
def test_the_trajectories_are_the_same(case, schedule):
    for name in case.claimed:
        case.check(name, trajectory(case, schedule, name))


@pytest.mark.given("schedulers", outputs=())
def test_x0_and_noise_come_back_from_either_prediction(case, schedule):
    clean, eps = jnp.asarray(case.inputs["clean"]), jnp.asarray(case.inputs["eps"])
    t = jnp.asarray(case.inputs["train_t"])
    for prediction in ("v_prediction", "epsilon"):
        table = schedule(prediction)
        x0, noise = jax.jit(table.to_x0_eps)(table.target(clean, eps, t), table.add_noise(clean, eps, t), t)
        np.testing.assert_allclose(x0, clean, atol=2e-5)
        np.testing.assert_allclose(noise, eps, atol=2e-5)
