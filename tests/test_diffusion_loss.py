import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import ScheduleConfig
from stav2a_jax.diffusion.loss import diffusion_loss, draw, loss_at, min_snr_weights
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.types import UserError

V, EPSILON = make_schedule(ScheduleConfig()), make_schedule(ScheduleConfig(prediction="epsilon"))
KEYS = jax.random.split(jax.random.key(3), 4)
X0 = jax.random.normal(jax.random.key(1), (4, 6, 2, 3))


def zero(x, t, cond):
    return jnp.zeros_like(x)


def halve(x, t, cond):
    return 0.5 * x


def test_the_loss_is_the_mean_square_of_the_target_where_the_network_says_zero():
    t, eps = draw(KEYS, X0.shape[1:], 1000)
    for schedule in (V, EPSILON):
        want = jnp.square(schedule.target(X0, eps, t)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(diffusion_loss(zero, schedule, X0, None, KEYS), want, rtol=1e-6)


def test_a_perfect_network_has_no_loss():
    t, eps = draw(KEYS, X0.shape[1:], 1000)
    assert loss_at(lambda *_: V.target(X0, eps, t), V, X0, None, t, eps).max() < 1e-12


def test_an_examples_loss_does_not_depend_on_its_batch():
    whole = diffusion_loss(halve, V, X0, None, KEYS)
    np.testing.assert_array_equal(diffusion_loss(halve, V, X0[2:3], None, KEYS[2:3])[0], whole[2])


def test_timesteps_cover_the_schedule_and_validation_uses_the_middle():
    keys = jax.random.split(jax.random.key(0), 4000)
    t, eps = draw(keys, (2,), 1000)
    assert int(t.min()) < 10
    assert int(t.max()) > 989
    assert abs(float(t.mean()) - 499.5) < 20
    assert abs(float(eps.std()) - 1) < 0.03
    assert set(np.asarray(draw(keys, (2,), 1000, validation=True)[0]).tolist()) == {500}
    fixed = diffusion_loss(zero, V, X0, None, KEYS, validation=True)
    _, eps = draw(KEYS, X0.shape[1:], 1000)
    np.testing.assert_allclose(fixed, loss_at(zero, V, X0, None, jnp.full(4, 500), eps), rtol=1e-6)


def test_masked_frames_do_not_count():
    mask = jnp.array([[1, 1, 1, 0, 0, 0]] * 4)
    t, eps = draw(KEYS, X0.shape[1:], 1000)
    got = loss_at(halve, V, X0, None, t, eps, mask=mask)
    np.testing.assert_allclose(got, loss_at(halve, V, X0[:, :3], None, t, eps[:, :3]), rtol=1e-6)
    np.testing.assert_array_equal(loss_at(halve, V, X0, None, t, eps, mask=jnp.zeros((4, 6))), 0)
    full = loss_at(halve, V, X0, None, t, eps, mask=jnp.ones((4, 6)))
    np.testing.assert_allclose(full, loss_at(halve, V, X0, None, t, eps), rtol=1e-6)


def test_min_snr_weights_agree_with_their_formulae():
    snr = V.snr
    np.testing.assert_allclose(min_snr_weights(V, 5.0, "released"), np.minimum(snr, 5) / snr)
    np.testing.assert_allclose(min_snr_weights(V, 5.0), np.minimum(snr, 5) / (snr + 1))
    np.testing.assert_allclose(min_snr_weights(EPSILON, 5.0), np.minimum(snr, 5) / snr)
    with pytest.raises(UserError, match="'ours' or 'released'"):
        min_snr_weights(V, 5.0, "theirs")


def test_our_weight_makes_the_v_loss_the_clipped_x0_loss():
    """min(snr, g) |x0 error|^2 whichever the prediction: the identity that the +1 restores."""
    t, eps = draw(KEYS, X0.shape[1:], 1000)
    x_t = V.add_noise(X0, eps, t)
    guess = 0.3 * X0
    for schedule in (V, EPSILON):
        a = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[t].reshape(-1, 1, 1, 1)
        noise = (x_t - jnp.sqrt(a) * guess) / jnp.sqrt(1 - a)
        prediction = schedule.target(guess, noise, t)
        got = loss_at(lambda *_, p=prediction: p, schedule, X0, None, t, eps, snr_gamma=5.0)
        want = jnp.minimum(schedule.snr, 5)[t] * jnp.square(guess - X0).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(got, want, rtol=1e-3)


def test_bfloat16_latents_and_predictions_give_a_float32_loss():
    loss = diffusion_loss(lambda x, t, c: x.astype(jnp.bfloat16), V, X0.astype(jnp.bfloat16), None, KEYS, snr_gamma=5.0)
    assert loss.dtype == jnp.float32
    assert np.isfinite(loss).all()
