import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stav2a_jax.config import GlobalConfig, LocalConfig
from stav2a_jax.models.adapters import (
    AttentivePooling,
    LocalAdapter,
    OnsetHead,
    centred,
    onset_loss,
    resample_frames,
    window_mean,
)
from stav2a_jax.types import UserError

LOCAL = LocalConfig(hidden=6, dim=4, windows=(1, 3), control=5)
POOLING = GlobalConfig(dim=12, tokens=3)


def noise(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def padded():
    """Two clips of 6 and 4 frames, padded to 9 with rubbish."""
    return noise(0, 2, 9, 8), (jnp.arange(9)[None, :] < jnp.array([[6], [4]])).astype(jnp.int32)


def test_windows_are_half_open_and_cut_at_the_borders():
    x = jnp.arange(1.0, 6.0)[None, :, None]
    assert window_mean(x, 1)[0, :, 0].tolist() == [1.0, 1.5, 2.5, 3.5, 4.5]
    assert window_mean(x, 2)[0, :, 0].tolist() == [1.5, 2.0, 2.5, 3.5, 4.0]
    assert window_mean(x, 99)[0, :, 0].tolist() == [3.0] * 5


def test_windows_end_where_the_masked_clip_ends():
    x, mask = jnp.array([[1.0, 2.0, 3.0, 100.0]])[..., None], jnp.array([[1, 1, 1, 0]])
    assert window_mean(x, 2, mask)[0, :, 0].tolist() == [1.5, 2.0, 2.0, 0.0]


def test_padding_does_not_change_local_features(padded):
    x, mask = padded
    adapter = LocalAdapter(LOCAL)
    params = adapter.init(jax.random.key(0), x)
    out = adapter.apply(params, x, mask)
    assert out.shape == (2, 9, 12)
    for i, n in enumerate((6, 4)):
        np.testing.assert_allclose(out[i, :n], adapter.apply(params, x[i : i + 1, :n])[0], atol=1e-6)
        assert (out[i, n:] == 0).all()


def test_padding_does_not_change_global_tokens(padded):
    x, mask = padded
    pooling = AttentivePooling(POOLING)
    params = pooling.init(jax.random.key(0), x)
    out = pooling.apply(params, x, mask)
    assert out.shape == (2, 3, 12)
    for i, n in enumerate((6, 4)):
        np.testing.assert_allclose(out[i], pooling.apply(params, x[i : i + 1, :n])[0], atol=1e-5)


def test_pooling_does_not_care_about_the_order_of_frames():
    x, pooling = noise(0, 1, 7, 8), AttentivePooling(POOLING)
    params = pooling.init(jax.random.key(0), x)
    np.testing.assert_allclose(pooling.apply(params, x), pooling.apply(params, x[:, ::-1]), atol=1e-5)


def test_mean_cosine_equals_the_mean_over_all_pairs():
    x, pooling = noise(0, 1, 5, 8), AttentivePooling(POOLING)
    bound = pooling.bind(pooling.init(jax.random.key(0), x))
    e = bound.fc(x)
    a, b = (np.asarray(layer(e)[0], np.float64) for layer in (bound.pair_query, bound.pair_key))
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    np.testing.assert_allclose(bound.pairwise(e)[0], (a @ b.T).mean(axis=1), atol=1e-5)


def test_dropout_acts_in_training_only():
    x, pooling = noise(0, 1, 7, 8), AttentivePooling(POOLING)
    params = pooling.init(jax.random.key(0), x)
    first, second = (
        pooling.apply(params, x, deterministic=False, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)
    )
    assert not np.allclose(first, second, atol=1e-4)
    np.testing.assert_array_equal(pooling.apply(params, x), pooling.apply(params, x))


def test_a_centred_pooling_tells_clips_apart_from_the_start():
    """Clips whose features are nearly the same, as unit vectors of one world are."""
    means = 0.5 * noise(0, 1, 8) + 0.02 * noise(1, 200, 8)
    pooling = AttentivePooling(POOLING)
    fresh = pooling.init(jax.random.key(0), means[:, None])["params"]
    params = centred(fresh, means)
    clips = jnp.repeat(means[:, None], 3, axis=1)  # a pooled vector is then the mean itself
    pooled = clips[:, 0] @ params["fc"]["kernel"] + params["fc"]["bias"]
    np.testing.assert_allclose(pooled.mean(0), 0.0, atol=1e-4)
    assert float(pooled.std()) == pytest.approx(1.0, abs=1e-3)
    before, after = (pooling.apply({"params": p}, clips) for p in (fresh, params))
    share = [float(jnp.var(x, axis=0).mean() / jnp.square(x).mean()) for x in (before, after)]
    assert share[0] < 0.05
    assert share[1] == pytest.approx(1.0, abs=0.01)
    assert {k: v for k, v in params.items() if k != "fc"} == {k: v for k, v in fresh.items() if k != "fc"}


def test_clips_without_any_difference_leave_a_centred_pooling_finite():
    params = AttentivePooling(POOLING).init(jax.random.key(0), noise(0, 1, 5, 8))["params"]
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(centred(params, jnp.ones((4, 8)))))


def test_nearest_is_the_release_for_four_frames_per_second():
    frames = jnp.arange(40.0)[None, :, None]
    source = resample_frames(frames, 256, 4.0, 25.0)[0, :, 0]
    assert source.tolist() == [4 * i // 25 for i in range(250)] + [39.0] * 6


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
@pytest.mark.parametrize("rate", [25.0, 24000 / 1001])
def test_equal_rates_copy_every_frame(interpolation, rate):
    x = noise(0, 1, 300, 2)
    np.testing.assert_allclose(resample_frames(x, 300, rate, rate, interpolation), x, atol=1e-6)


def test_linear_interpolation_follows_the_time_stamps_and_holds_the_last_frame():
    ramp = jnp.arange(4.0)[None, :, None]
    out = resample_frames(ramp, 10, 10.0, 25.0, "linear")[0, :, 0]
    np.testing.assert_allclose(out, [0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.0, 3.0], atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_padding_does_not_change_the_resampled_frames(padded, interpolation):
    x, mask = padded
    out = resample_frames(x, 16, 10.0, 25.0, interpolation, mask.sum(axis=1))
    for i, n in enumerate((6, 4)):
        np.testing.assert_array_equal(out[i], resample_frames(x[i : i + 1, :n], 16, 10.0, 25.0, interpolation)[0])


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(UserError, match="'nearest' or 'linear'"):
        resample_frames(noise(0, 1, 4, 2), 8, 4.0, 25.0, "cubic")


def test_onset_head_returns_control_and_logits():
    head, x = OnsetHead(LOCAL), noise(0, 2, 9, 12)
    control, logits = head.apply(head.init(jax.random.key(0), x), x)
    assert control.shape == (2, 9, 5)
    assert logits.shape == (2, 9, 2)


def test_onset_loss_is_the_two_class_cross_entropy():
    logits, labels = noise(0, 2, 9, 2), (noise(1, 2, 9) > 0).astype(jnp.int32)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    np.testing.assert_allclose(onset_loss(logits, labels), expected, rtol=1e-5)


def test_masked_frames_do_not_count_in_the_onset_loss():
    logits, labels = noise(0, 2, 9, 2), (noise(1, 2, 9) > 0).astype(jnp.int32)
    mask = jnp.broadcast_to(jnp.arange(9) < 5, (2, 9))
    expected = onset_loss(logits[:, :5], labels[:, :5])
    np.testing.assert_allclose(onset_loss(logits.at[:, 5:].set(99.0), labels, mask), expected, rtol=1e-5)
    assert float(onset_loss(logits, labels, jnp.zeros((2, 9)))) == 0.0


def test_unit_features_give_local_features_of_ordinary_size():
    x = noise(0, 4, 20, 128)
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    adapter = LocalAdapter(LocalConfig(hidden=64, dim=32))
    local = adapter.apply(adapter.init(jax.random.key(0), x), x)[..., :32]
    assert 0.2 < float(local.std()) < 2
