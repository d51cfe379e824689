import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.config import ScheduleConfig
from stav2a_jax.diffusion.schedule import SPACINGS, make_schedule
from stav2a_jax.types import UserError

SCHEDULE = make_schedule(ScheduleConfig())


def test_the_tables_agree_with_arithmetic_by_hand():
    table = make_schedule(ScheduleConfig(train_steps=2, beta_start=0.25, beta_end=0.36))
    np.testing.assert_allclose(table.betas, [0.25, 0.36])
    np.testing.assert_allclose(table.alphas_cumprod, [0.75, 0.48])
    np.testing.assert_allclose(table.snr, [3, 0.48 / 0.52])
    assert table.betas.dtype == table.alphas_cumprod.dtype == np.float64


def test_noise_is_added_with_unit_total_variance_and_per_example_timesteps():
    x0, eps, t = jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1)), jnp.array([0, 999])
    signal, noise = SCHEDULE.add_noise(x0, eps, t)[:, 0, 0], SCHEDULE.add_noise(eps, x0, t)[:, 0, 0]
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-6)
    np.testing.assert_allclose(signal, np.sqrt(SCHEDULE.alphas_cumprod[[0, 999]]), rtol=1e-6)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_perfect_prediction_gives_back_the_clean_signal_and_the_noise(prediction):
    table = make_schedule(ScheduleConfig(prediction=prediction))
    rng = np.random.default_rng(0)
    x0, eps = jnp.asarray(rng.normal(size=(2, 4, 5, 3, 2)), jnp.float32)
    t = jnp.array([0, 300, 700, 999])
    back = table.to_x0_eps(table.target(x0, eps, t), table.add_noise(x0, eps, t), t)
    np.testing.assert_allclose(back[0], x0, atol=3e-5)
    np.testing.assert_allclose(back[1], eps, atol=3e-5)


def test_spacings_are_those_written_in_the_reference():
    assert SCHEDULE.timesteps(4).tolist() == [751, 501, 251, 1]
    assert SCHEDULE.timesteps(4, "linspace").tolist() == [999, 666, 333, 0]
    assert SCHEDULE.timesteps(4, "trailing").tolist() == [999, 749, 499, 249]
    assert SCHEDULE.timesteps(4, "linspace", multistep=True).tolist() == [999, 749, 500, 250]
    assert SCHEDULE.timesteps(200)[[0, 1, -1]].tolist() == [996, 991, 1]
    assert make_schedule(ScheduleConfig(steps_offset=0)).timesteps(200)[[0, -1]].tolist() == [995, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000), st.sampled_from(SPACINGS))
def test_timesteps_fall_and_stay_in_the_table(steps, spacing):
    t = SCHEDULE.timesteps(steps, spacing)
    assert len(t) == steps
    assert t[0] <= 999
    assert t[-1] >= 0
    assert (np.diff(t) < 0).all()


def test_one_linspace_step_starts_at_pure_noise():
    assert SCHEDULE.timesteps(1, "linspace").tolist() == [999]
    assert SCHEDULE.timesteps(1, "linspace", multistep=True).tolist() == [999]


@pytest.mark.parametrize(
    ("steps", "spacing", "multistep", "message"),
    [
        (0, "leading", False, "from 1 to 1000"),
        (1001, "leading", False, "from 1 to 1000"),
        (10, "karras", False, "leading, linspace, trailing"),
        (1000, "linspace", True, "use fewer steps"),
    ],
)
def test_impossible_timesteps_are_refused_with_a_way_out(steps, spacing, multistep, message):
    with pytest.raises(UserError, match=message):
        SCHEDULE.timesteps(steps, spacing, multistep=multistep)


def test_a_wrong_config_is_refused():
    with pytest.raises(UserError, match="'v' or 'epsilon'"):
        make_schedule(ScheduleConfig(prediction="x0"))
    with pytest.raises(UserError, match="beta_start"):
        make_schedule(ScheduleConfig(beta_start=0.5))


def test_equal_configs_make_equal_and_hashable_schedules():
    assert make_schedule(ScheduleConfig()) == SCHEDULE
    assert hash(make_schedule(ScheduleConfig())) == hash(SCHEDULE)
    assert make_schedule(ScheduleConfig(steps_offset=0)) != SCHEDULE
