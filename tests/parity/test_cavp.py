"""CAVP's encoders against the original SlowOnly and Cnn14."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import SpecEncoderConfig, VideoEncoderConfig
from stav2a_jax.convert.rules import to_flax
from stav2a_jax.convert.tables.cavp import BOTH
from stav2a_jax.models.cavp import Trunk, VideoEncoder
from stav2a_jax.models.cnn14 import SpecEncoder


def models(case):
    sizes = case.meta["config"]
    channels = tuple(sizes.get("cnn14_channels", SpecEncoderConfig().channels))
    return (
        VideoEncoder(VideoEncoderConfig(base_channels=sizes["base_channels"], features=sizes["embed_dim"])),
        SpecEncoder(SpecEncoderConfig(channels=channels, features=sizes["embed_dim"])),
    )


def converted(case, video, spec):
    shapes = {
        "video": jax.eval_shape(video.init, jax.random.key(0), jnp.zeros((1, 4, 64, 64, 3)))["params"],
        "spec": jax.eval_shape(spec.init, jax.random.key(0), jnp.zeros((1, 64, 128)))["params"],
    }
    expected = {k: v.shape for k, v in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    return flax.traverse_util.unflatten_dict(to_flax(case.weights(), BOTH, expected), sep="/")


@pytest.mark.parametrize("name", ["tiny", "small", "224"])
def test_video_encoder_equals_the_original(oracle, name):
    case = oracle(f"cavp_video_{name}")
    video, spec = models(case)
    params = converted(case, video, spec)["video"]
    frames = np.repeat(np.repeat(case.inputs["video_lowres"], 8, axis=-2), 8, axis=-1)
    frames = jnp.asarray(frames.transpose(0, 1, 3, 4, 2))
    middle = Trunk(video.cfg).apply({"params": params["trunk"]}, frames)
    for key, array in zip(("stem", "layer1", "layer2", "layer3", "layer4"), middle, strict=True):
        case.check(f"mid/{key}", array.transpose(0, 4, 1, 2, 3))
    case.check("features_raw", video.apply({"params": params}, frames, normalise=False))
    case.check("features", video.apply({"params": params}, frames))
    if "features_pooled" in case.outputs:
        case.check("features_pooled", video.apply({"params": params}, frames, pooled=True))


@pytest.mark.parametrize("name", ["cavp_spec_tiny", "cavp_spec"])
def test_spectrogram_encoder_equals_the_original(oracle, name):
    case = oracle(name)
    video, spec = models(case)
    params = {"params": converted(case, video, spec)["spec"]}
    log_mel = jnp.asarray(case.inputs["spec"].transpose(0, 2, 1))
    case.check("features_raw", spec.apply(params, log_mel, normalise=False))
    case.check("features", spec.apply(params, log_mel))
    case.check("features_pooled", spec.apply(params, log_mel, pooled=True))
