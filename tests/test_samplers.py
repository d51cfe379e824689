import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import ScheduleConfig
from stav2a_jax.diffusion import samplers
from stav2a_jax.diffusion.samplers import SAMPLERS, draw_noise, get_plan, get_sampler, sampler_step
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.types import UserError

SCHEDULE = make_schedule(ScheduleConfig())
KEYS = jax.random.split(jax.random.key(7), 3)
SHAPE = (4, 2)


def gaussian(mean, variance):
    """The exact v-predictor of data N(mean, variance), mean given as the condition of every example."""
    abar = jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32)

    def denoise(x, t, cond):
        a = abar[t].reshape(-1, 1, 1)
        centre = mean + cond.reshape(-1, 1, 1)
        total = a * variance + 1 - a
        x0 = centre + jnp.sqrt(a) * variance / total * (x - jnp.sqrt(a) * centre)
        return (jnp.sqrt(a) * x - x0) / jnp.sqrt(1 - a)

    return denoise


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_the_data_distribution(name):
    keys = jax.random.split(jax.random.key(0), 4000)
    data = 2 + 0.5 * draw_noise(keys, 1000, (2, 1))
    # the schedule keeps 0.5 % of the signal at its end, so the exact start is not N(0, 1)
    x_T = SCHEDULE.add_noise(data, draw_noise(keys, 0, (2, 1)), jnp.full(4000, 999))
    sample = get_sampler(name)(gaussian(2.0, 0.25), x_T, SCHEDULE, jnp.zeros(4000), keys, steps=100, spacing="trailing")
    assert abs(float(sample.mean()) - 2) < 0.03
    assert abs(float(sample.std()) - 0.5) < 0.03


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_point_mass_is_found_exactly_by_every_sampler_and_spacing(name, spacing):
    sample = get_sampler(name)(
        gaussian(3.0, 0.0), draw_noise(KEYS, 0, SHAPE), SCHEDULE, jnp.zeros(3), KEYS, steps=10, spacing=spacing
    )
    np.testing.assert_allclose(sample, 3.0, atol=0.1 if name == "ddim" else 1e-4)  # DDIM keeps the first abar's noise


@pytest.mark.parametrize(("name", "options"), [("ddpm", {}), ("ddim", {"eta": 0.7}), ("ddim", {}), ("dpmpp", {})])
def test_a_sample_alone_equals_the_same_sample_in_a_batch(name, options):
    cond = jnp.array([0.0, 1.0, -1.0])

    def run(rows):
        x_T = draw_noise(KEYS[rows], 0, SHAPE)
        return get_sampler(name)(gaussian(0.0, 1.0), x_T, SCHEDULE, cond[rows], KEYS[rows], steps=6, **options)

    whole = run(slice(0, 3))
    np.testing.assert_array_equal(run(slice(1, 2))[0], whole[1])
    assert not np.allclose(whole[0], whole[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_loop_in_python_gives_the_numbers_of_the_scan(name):
    denoise, cond, x_T = gaussian(1.0, 0.3), jnp.zeros(3), draw_noise(KEYS, 0, SHAPE)
    plan = get_plan(name)(SCHEDULE, 5)
    state = samplers.initial_state(x_T)
    step = jax.jit(lambda state, row, noise: sampler_step(denoise, state, row, cond, noise))
    for index in range(5):
        noise = draw_noise(KEYS, index + 1, SHAPE) if plan.draws_noise else None
        state = step(state, plan.row(index), noise)
    scanned = get_sampler(name)(denoise, x_T, SCHEDULE, cond, KEYS, steps=5)
    np.testing.assert_allclose(state.x, scanned, rtol=1e-6, atol=1e-6)


def test_the_trajectory_ends_in_the_sample_and_can_be_jitted():
    def run(x_T, trajectory):
        options = {"steps": 4, "trajectory": trajectory}
        return SAMPLERS["dpmpp"](gaussian(1.0, 0.3), x_T, SCHEDULE, jnp.zeros(3), **options)

    x_T = draw_noise(KEYS, 0, SHAPE)
    states = jax.jit(run, static_argnums=1)(x_T, True)
    assert states.shape == (4, 3, *SHAPE)
    np.testing.assert_allclose(states[-1], run(x_T, False), rtol=1e-6, atol=1e-6)


def test_given_noise_takes_the_place_of_the_keys():
    x_T = draw_noise(KEYS, 0, SHAPE)
    noise = jnp.stack([draw_noise(KEYS, index + 1, SHAPE) for index in range(4)])
    arguments = (gaussian(0.0, 1.0), x_T, SCHEDULE, jnp.zeros(3))
    by_keys = SAMPLERS["ddpm"](*arguments, KEYS, steps=4)
    given = SAMPLERS["ddpm"](*arguments, None, steps=4, noise=noise)
    np.testing.assert_allclose(given, by_keys, rtol=1e-5, atol=1e-6)


def test_one_step_of_dpm_solver_is_the_networks_estimate():
    x_T = draw_noise(KEYS, 0, SHAPE)
    sample = SAMPLERS["dpmpp"](gaussian(1.0, 0.3), x_T, SCHEDULE, jnp.zeros(3), steps=1)
    t = jnp.full(3, 999)
    x0, _ = SCHEDULE.to_x0_eps(gaussian(1.0, 0.3)(x_T, t, jnp.zeros(3)), x_T, t)
    np.testing.assert_allclose(sample, x0, atol=1e-5)


def test_a_bfloat16_network_does_not_lower_the_precision_of_the_state():
    denoise = gaussian(1.0, 0.3)
    x_T = draw_noise(KEYS, 0, SHAPE)
    sample = SAMPLERS["ddim"](lambda *a: denoise(*a).astype(jnp.bfloat16), x_T, SCHEDULE, jnp.zeros(3), steps=3)
    assert sample.dtype == jnp.float32


def test_user_errors_say_what_to_do():
    x_T = draw_noise(KEYS, 0, SHAPE)
    with pytest.raises(UserError, match="did you mean 'dpmpp'"):
        get_sampler("DPM++")
    with pytest.raises(UserError, match="ddpm, ddim, dpmpp"):
        get_sampler("zzz")
    with pytest.raises(UserError, match="from 1 to 1000"):
        SAMPLERS["ddim"](gaussian(0.0, 1.0), x_T, SCHEDULE, jnp.zeros(3), steps=0)
    with pytest.raises(UserError, match="one key per example"):
        SAMPLERS["ddpm"](gaussian(0.0, 1.0), x_T, SCHEDULE, jnp.zeros(3), None, steps=2)
    with pytest.raises(UserError, match="sigma_min"):
        get_plan("dpmpp")(SCHEDULE, 5, final="one")
