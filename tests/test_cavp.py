import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stav2a_jax.config import SpecEncoderConfig, VideoEncoderConfig
from stav2a_jax.convert.rules import to_flax, to_torch
from stav2a_jax.convert.tables.cavp import BOTH
from stav2a_jax.models.cavp import (
    FrozenBatchNorm,
    VideoEncoder,
    calibrated,
    colour_histogram,
    is_statistic,
    max_pool,
)
from stav2a_jax.models.cnn14 import SpecEncoder
from stav2a_jax.nn.conv3d import conv3d

pytestmark = pytest.mark.usefixtures("quick_compilation")

CFG = VideoEncoderConfig(size=32, base_channels=4, depths=(1, 1, 2, 1), temporal_kernels=(3, 1, 3, 3, 3), features=8)


def noise(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def awake(params):
    """Random values everywhere: fresh residual branches are zero and would hide mistakes."""
    flat = flax.traverse_util.flatten_dict(params)
    moved = {k: v + 0.2 * noise(i, *v.shape) for i, (k, v) in enumerate(flat.items())}
    return flax.traverse_util.unflatten_dict({k: abs(v) if k[-1] == "var" else v for k, v in moved.items()})


@pytest.fixture(scope="module")
def encoder():
    model, frames = VideoEncoder(CFG), jax.nn.sigmoid(noise(0, 2, 7, 32, 32, 3))
    params = awake(jax.jit(model.init)(jax.random.key(0), frames))
    return jax.jit(model.apply, static_argnames=("normalise", "pooled")), params, frames


def test_a_plain_picture_fills_the_bins_around_its_colour():
    frames = jnp.broadcast_to(jnp.array([0.5, 1.0, 0.25]), (1, 1, 4, 4, 3))
    shares = colour_histogram(frames, 3).reshape(3, 3, 3) ** 2 / 27
    want = np.zeros((3, 3, 3))
    want[1, 2, :2] = 0.5  # blue lies half-way between its first two bins
    np.testing.assert_allclose(shares, want, atol=1e-6)


def test_a_histogram_does_not_know_where_a_colour_is():
    frames = jax.nn.sigmoid(noise(4, 1, 2, 6, 6, 3))
    even = frames[:, :, ::2, ::2]  # every second pixel counts
    mixed = jnp.repeat(jnp.repeat(even[:, :, ::-1, jnp.array([1, 2, 0])], 2, axis=2), 2, axis=3)
    np.testing.assert_allclose(colour_histogram(frames, 4), colour_histogram(mixed, 4), atol=1e-5)


@pytest.mark.parametrize(
    ("picture", "channels", "out", "kernel", "stride"),
    [
        ((16, 12), 3, 16, (3, 7, 7), 2),
        ((9, 7), 3, 4, (3, 7, 7), 2),
        ((8, 6), 6, 4, (3, 1, 1), 1),
        ((8, 6), 2, 5, (5, 1, 1), 1),
        ((8, 8), 2, 40, (5, 3, 3), 2),
        ((8, 8), 4, 2, (1, 3, 3), 2),
        ((4, 4), 4, 2, (1, 3, 3), 2),
        ((8, 8), 4, 2, (1, 1, 1), 2),
    ],
)
def test_folded_convolution_and_its_gradients_equal_the_three_dimensional_one(picture, channels, out, kernel, stride):
    x, weights = noise(0, 2, 11, *picture, channels), 0.1 * noise(1, *kernel, channels, out)

    def plain(x, weights):
        padding = [(k // 2, k // 2) for k in kernel]
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(x, weights, (1, stride, stride), padding, dimension_numbers=numbers)

    expected, expected_back = jax.vjp(plain, x, weights)
    got, got_back = jax.vjp(lambda x, weights: conv3d(x, weights, stride), x, weights)
    grad = noise(2, *expected.shape)
    for a, b in zip((got, *got_back(grad)), (expected, *expected_back(grad)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("size", [7, 8])
def test_max_pool_equals_the_library_pooling_and_its_gradient(size):
    import flax.linen as nn

    x = nn.relu(noise(0, 3, size, size + 1, 2))

    def plain(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    np.testing.assert_array_equal(max_pool(x), plain(x))
    positive = x + 1.0 + noise(1, *x.shape) * 1e-3  # no ties, whose gradient may go either way
    grads = [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(positive) for f in (max_pool, plain)]
    np.testing.assert_allclose(*grads, atol=1e-6)


def test_features_have_unit_length_and_one_per_frame(encoder):
    apply, params, frames = encoder
    out = apply(params, frames)
    assert out.shape == (2, 7, 8)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), 1.0, atol=1e-5)
    assert not np.allclose(apply(params, frames, normalise=False), out, atol=0.1)
    np.testing.assert_allclose(jnp.linalg.norm(apply(params, frames, pooled=True), axis=-1), 1.0, atol=1e-5)


def test_padding_does_not_change_the_answer(encoder):
    apply, params, frames = encoder
    padded = jnp.concatenate([frames, jnp.ones((2, 3, 32, 32, 3))], axis=1)
    mask = jnp.arange(10)[None, :] < jnp.array([[7], [5]])
    out = apply(params, padded, mask)
    np.testing.assert_allclose(out[:, :7][0], apply(params, frames)[0], atol=1e-5)
    np.testing.assert_allclose(out[1, :5], apply(params, frames[1:, :5])[0], atol=1e-5)
    assert (out[0, 7:] == 0).all()
    assert (out[1, 5:] == 0).all()
    whole = apply(params, padded, mask, pooled=True)
    np.testing.assert_allclose(whole[0], apply(params, frames, pooled=True)[0], atol=1e-5)


def test_bytes_and_fractions_are_the_same_video(encoder):
    apply, params, frames = encoder
    as_bytes = jnp.asarray(np.round(np.asarray(frames) * 255), jnp.uint8)
    np.testing.assert_allclose(apply(params, as_bytes), apply(params, as_bytes / 255.0), atol=1e-6)


def test_frames_meet_only_within_the_temporal_kernels(encoder):
    apply, params, frames = encoder
    still = VideoEncoder(VideoEncoderConfig(base_channels=4, depths=(1,), temporal_kernels=(1, 1), features=8))
    weights = awake(jax.jit(still.init)(jax.random.key(0), frames))
    changed = frames.at[:, 3].set(0.5)
    moved = np.abs(still.apply(weights, changed) - still.apply(weights, frames)).max(axis=(0, 2)) > 1e-6
    assert moved.tolist() == [False, False, False, True, False, False, False]
    moved = np.abs(apply(params, changed) - apply(params, frames)).max(axis=(0, 2)) > 1e-6
    assert moved.all()


def test_a_patch_sees_its_own_square_only():
    from stav2a_jax.models.cavp import Trunk

    cfg = VideoEncoderConfig(size=16, patch=4, base_channels=4, depths=(), temporal_kernels=(3,), features=8)
    trunk, frames = Trunk(cfg), jax.nn.sigmoid(noise(0, 1, 5, 16, 16, 3))
    params = awake(jax.jit(trunk.init)(jax.random.key(0), frames))
    [before], [after] = trunk.apply(params, frames), trunk.apply(params, frames.at[0, 2, 5, 9].set(0.5))
    assert before.shape == (1, 5, 4, 4, 4)
    assert (jnp.abs(after - before).max(axis=-1) > 0).nonzero()[1].tolist() == [1, 2, 3]
    assert (jnp.abs(after - before).max(axis=(0, 1, 4)) > 0).tolist() == [
        [r == 1 and c == 2 for c in range(4)] for r in range(4)
    ]


@pytest.mark.parametrize(
    "module",
    [
        VideoEncoder(CFG),
        SpecEncoder(SpecEncoderConfig(mel_bins=8, channels=(4, 6), pools=((2, 2), (1, 2)), features=3)),
    ],
    ids=("video", "spectrogram"),
)
def test_calibration_gives_what_batch_norm_gives_at_its_first_step(module):
    inputs = 3.0 + 5.0 * (noise(0, 2, 7, 32, 32, 3) if isinstance(module, VideoEncoder) else noise(0, 2, 16, 8))
    params = awake(jax.jit(module.init)(jax.random.key(0), inputs))["params"]
    after = calibrated(module, params, inputs)

    def of_batch(x, norm):
        axes = tuple(range(x.ndim - 1))
        return (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-5) * norm["scale"] + norm["bias"]

    def batch_norm(call, args, kwargs, context):
        layer = context.module
        if isinstance(layer, FrozenBatchNorm) and context.method_name == "__call__":
            return of_batch(args[0], layer.variables["params"])
        if type(layer).__name__ == "ConvNorm":
            own = layer.variables["params"]
            return of_batch(conv3d(args[0], own["kernel"], layer.stride), own["norm"])
        return call(*args, **kwargs)

    import flax.linen as nn

    with nn.intercept_methods(batch_norm):
        expected = module.apply({"params": params}, inputs)
    np.testing.assert_allclose(module.apply({"params": after}, inputs), expected, atol=1e-4)
    flat, was = (flax.traverse_util.flatten_dict(p) for p in (after, params))
    assert all(np.array_equal(flat[k], was[k]) for k in flat if not is_statistic(k))  # nothing else has moved


def test_statistics_are_named_and_get_no_gradient(encoder):
    apply, params, frames = encoder
    weights = noise(3, 2, 7, 8)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, frames) * weights)))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert is_statistic(path) == (path[-1].key in ("mean", "var"))
        assert bool((grad == 0).all()) == is_statistic(path), path
    assert is_statistic("trunk/conv1/norm/mean")
    assert is_statistic(("norm", "var"))
    assert not is_statistic("trunk/conv1/kernel")


def test_a_black_video_has_finite_features_and_gradients():
    model, frames = VideoEncoder(CFG), jnp.zeros((1, 3, 32, 32, 3))
    params = jax.jit(model.init)(jax.random.key(0), frames)
    value, grads = jax.jit(jax.value_and_grad(lambda p: jnp.sum(model.apply(p, frames) ** 3)))(params)
    assert np.isfinite(value)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) < 1e3


def test_a_fresh_encoder_keeps_the_scale_of_its_input():
    # without batch statistics, only the initialisation keeps activations from vanishing or exploding
    cfg = VideoEncoderConfig(base_channels=8, depths=(3, 4, 6, 3), temporal_kernels=(3, 3, 3, 3, 3), features=16)
    model, frames = VideoEncoder(cfg), jax.nn.sigmoid(noise(0, 1, 4, 32, 32, 3))
    out = jax.jit(lambda: model.init_with_output(jax.random.key(0), frames, normalise=False)[0])()
    assert 0.1 < float(jnp.sqrt(jnp.mean(out**2))) < 10


def test_a_fresh_encoder_does_not_react_to_the_brightness_of_a_plain_picture():
    model = VideoEncoder(CFG)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 3, 32, 32, 3)))["params"]
    np.testing.assert_allclose(params["trunk"]["conv1"]["kernel"].mean(axis=(0, 1, 2)), 0.0, atol=1e-6)


def test_a_fresh_encoder_learns_to_see_a_flash_from_nothing():
    rng = np.random.default_rng(0)
    frames = rng.random((4, 8, 32, 32, 3)).astype(np.float32) * 0.2
    labels = (rng.random((4, 8)) < 0.3).astype(np.float32)
    frames[labels == 1, 12:20, 12:20] += 0.8
    model = VideoEncoder(CFG)
    params = (jax.jit(model.init)(jax.random.key(0), frames), jnp.zeros(8))
    optimiser = optax.adam(3e-3)

    def loss(params):
        logits = 30 * model.apply(params[0], frames) @ params[1]
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    state = optimiser.init(params)
    for _ in range(40):
        params, state, value = step(params, state)
    assert float(value) < 0.1


def test_frozen_norm_is_batch_norm_in_evaluation():
    norm = FrozenBatchNorm(3)
    params = {"params": {k: jnp.abs(noise(i, 3)) for i, k in enumerate(("scale", "bias", "mean", "var"))}}
    x, p = noise(9, 5, 3), params["params"]
    expected = (x - p["mean"]) / jnp.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]
    np.testing.assert_allclose(norm.apply(params, x), expected, atol=1e-5)


def test_half_precision_stays_close(encoder):
    apply, params, frames = encoder
    half = jax.jit(VideoEncoder(CFG, jnp.bfloat16).apply)(params, frames)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, apply(params, frames), atol=0.05)


def test_spectrogram_encoder_has_one_feature_per_sixteen_frames():
    cfg = SpecEncoderConfig(mel_bins=32, channels=(4, 4, 4, 4, 4, 8), features=6)
    model, log_mel = SpecEncoder(cfg), jax.nn.sigmoid(noise(0, 2, 64, 32))
    params = awake(jax.jit(model.init)(jax.random.key(0), log_mel))
    out = jax.jit(model.apply)(params, log_mel)
    assert out.shape == (2, 4, 6)
    np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), 1.0, atol=1e-5)
    assert model.apply(params, log_mel, pooled=True).shape == (2, 6)


def test_conversion_of_both_encoders_is_a_bijection(encoder):
    spec = SpecEncoder(SpecEncoderConfig(mel_bins=32, channels=(4,) * 6, features=8))
    trees = {
        "video": encoder[1]["params"],
        "spec": jax.jit(spec.init)(jax.random.key(0), jnp.zeros((1, 32, 32)))["params"],
    }
    flat = {k: np.asarray(v) for k, v in flax.traverse_util.flatten_dict(trees, sep="/").items()}
    state = to_torch(flat, BOTH)
    assert state["video_encoder.layer3.1.conv1.conv.weight"].shape == (16, 64, 3, 1, 1)
    extra = {"logit_scale": np.zeros(())}
    extra |= {
        k.replace("running_mean", "num_batches_tracked"): np.zeros(()) for k in state if k.endswith("running_mean")
    }
    back = to_flax(state | extra, BOTH, {k: v.shape for k, v in flat.items()})
    assert back.keys() == flat.keys()
    for key, value in flat.items():
        np.testing.assert_array_equal(back[key], value)
