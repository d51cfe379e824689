"""The text encoder against transformers' MT5EncoderModel."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.convert.tables.text import TEXT
from stav2a_jax.models.text import TextEncoder, bucket_of


@pytest.mark.given("mt5_*")
def test_text_encoder_equals_the_original(case):
    cfg = case.text_config(case.meta["config"])
    encoder = TextEncoder(cfg)
    ids, mask, uncond, uncond_mask = (
        jnp.asarray(case.inputs[name], jnp.int32)
        for name in ("input_ids", "attention_mask", "uncond_ids", "uncond_mask")
    )
    params = case.params(encoder, TEXT, ids)
    stream = encoder.apply(params, ids, mask, layers=True)
    for name in case.outputs:
        if layer := re.fullmatch(r"mid/hidden_(\d+)", name):
            case.check(name, stream[int(layer[1])])
        elif limits := re.fullmatch(r"bucket_of_relative_position_(-?\d+)_to_(-?\d+)", name):
            positions = np.arange(int(limits[1]), int(limits[2]) + 1)
            case.check(name, bucket_of(positions, cfg.relative_buckets, cfg.relative_max_distance))
    case.check("last_hidden_state", stream[-1])
    case.check("without_mask", encoder.apply(params, ids))
    case.check("uncond", encoder.apply(params, uncond, uncond_mask))
    case.check("position_bias", encoder.apply(params, ids.shape[1], method="position_bias"))
