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
TABLES = {"alphas_cumprod", "betas", "add_noise", "velocity", "snr", "snr_weight_gamma5"}


def toy(x, t, cond):
    return 0.1 * x * (t / 1000).reshape(-1, 1, 1, 1) + 0.05


def schedule(prediction="v", offset=1):
    return make_schedule(ScheduleConfig(prediction=prediction, steps_offset=offset))


def timesteps(name):
    """Value of an output called timesteps_[FAMILY_]STEPS[_VARIANT]."""
    family, steps, variant = re.fullmatch(r"timesteps_(?:([a-z0-9]+)_)?(\d+)(?:_(\w+))?", name).groups()
    multistep = family in (None, "dpmpp2m")
    spacing = {None: "linspace" if multistep else "leading", "offset0": "leading"}.get(variant, variant)
    return schedule(offset=0 if variant == "offset0" else 1).timesteps(int(steps), spacing, multistep=multistep)


def trajectory(case, name, final):
    """Value of an output called FAMILY_PREDICTION_STEPS[_SPACING][_FINAL | _offset0]."""
    family, prediction, steps, rest = re.fullmatch(r"([a-z0-9]+)_(v_prediction|epsilon)_(\d+)_?(\w*)", name).groups()
    table = schedule({"v_prediction": "v"}.get(prediction, prediction), 0 if rest == "offset0" else 1)
    options = {"steps": int(steps), "trajectory": True}
    if family == "dpmpp2m":
        spacing, _, ending = rest.partition("_")
        options |= {"spacing": spacing or "linspace", "final": ending or final}
    if family == "ddpm":
        options["noise"] = jnp.asarray(case.inputs["ddpm_noise"][: int(steps)])
    return FAMILY[family](toy, jnp.asarray(case.inputs["x_T"]), table, None, None, **options)


def test_the_tables_are_the_same(oracle):
    case = oracle("schedulers")
    table, t = schedule(), jnp.asarray(case.inputs["train_t"])
    clean, eps = jnp.asarray(case.inputs["clean"]), jnp.asarray(case.inputs["eps"])
    case.check("alphas_cumprod", table.alphas_cumprod)
    case.check("betas", table.betas)
    case.check("snr", table.snr[t])
    case.check("add_noise", table.add_noise(clean, eps, t))
    case.check("velocity", table.velocity(clean, eps, t))
    case.check("snr_weight_gamma5", min_snr_weights(table, 5.0, "released")[t])


@pytest.mark.parametrize("name", ["schedulers", "schedulers_dpm_new"])
def test_the_timesteps_are_the_same(oracle, name):
    case = oracle(name)
    for output in (o for o in case.outputs if o.startswith("timesteps")):
        case.check(output, timesteps(output), tolerance=0)


@pytest.mark.parametrize(("name", "final"), [("schedulers", "sigma_min"), ("schedulers_dpm_new", "zero")])
def test_the_trajectories_are_the_same(oracle, name, final):
    case = oracle(name)
    names = [o for o in case.outputs if o not in TABLES and not o.startswith("timesteps")]
    assert len(names) == {"schedulers": 18, "schedulers_dpm_new": 16}[name]
    for output in names:
        case.check(output, trajectory(case, output, final))


def test_x0_and_noise_come_back_from_either_prediction(oracle):
    case = oracle("schedulers")
    clean, eps = jnp.asarray(case.inputs["clean"]), jnp.asarray(case.inputs["eps"])
    t = jnp.asarray(case.inputs["train_t"])
    for prediction in ("v", "epsilon"):
        table = schedule(prediction)
        x0, noise = jax.jit(table.to_x0_eps)(table.target(clean, eps, t), table.add_noise(clean, eps, t), t)
        np.testing.assert_allclose(x0, clean, atol=2e-5)
        np.testing.assert_allclose(noise, eps, atol=2e-5)
