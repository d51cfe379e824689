"""CAVP's encoders against the original SlowOnly and Cnn14."""

import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import SpecEncoderConfig, VideoEncoderConfig
from stav2a_jax.convert.tables.cavp import LOGIT_SCALE, SPEC, VIDEO, VIDEO_ONLY, dropped
from stav2a_jax.models.cavp import Trunk, VideoEncoder
from stav2a_jax.models.cnn14 import SpecEncoder

SPEC_ONLY = (*SPEC, *dropped(VIDEO, "not compared here"), LOGIT_SCALE)


@pytest.mark.given("cavp_video_*")
def test_video_encoder_equals_the_original(case):
    sizes = case.meta["config"]
    encoder = VideoEncoder(VideoEncoderConfig(base_channels=sizes["base_channels"], features=sizes["embed_dim"]))
    frames = np.repeat(np.repeat(case.inputs["video_lowres"], 8, axis=-2), 8, axis=-1)
    frames = jnp.asarray(frames.transpose(0, 1, 3, 4, 2))
    params = case.params(encoder, VIDEO_ONLY, frames)
    middle = Trunk(encoder.cfg).apply({"params": params["params"]["trunk"]}, frames)
    for key, array in zip(("stem", "layer1", "layer2", "layer3", "layer4"), middle, strict=True):
        case.check(f"mid/{key}", array.transpose(0, 4, 1, 2, 3))
    case.check("features_raw", encoder.apply(params, frames, normalise=False))
    case.check("features", encoder.apply(params, frames))
    if "features_pooled" in case.outputs:
        case.check("features_pooled", encoder.apply(params, frames, pooled=True))


@pytest.mark.given("cavp_spec*")
def test_spectrogram_encoder_equals_the_original(case):
    sizes, log_mel = case.meta["config"], jnp.asarray(case.inputs["spec"].transpose(0, 2, 1))
    channels = tuple(sizes.get("cnn14_channels", SpecEncoderConfig().channels))
    encoder = SpecEncoder(SpecEncoderConfig(mel_bins=log_mel.shape[-1], channels=channels, features=sizes["embed_dim"]))
    params = case.params(encoder, SPEC_ONLY, log_mel)
    case.check("features_raw", encoder.apply(params, log_mel, normalise=False))
    case.check("features", encoder.apply(params, log_mel))
    case.check("features_pooled", encoder.apply(params, log_mel, pooled=True))
