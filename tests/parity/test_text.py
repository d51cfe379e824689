"""The text encoder against transformers' MT5EncoderModel."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import TextConfig
from stav2a_jax.convert.rules import to_flax
from stav2a_jax.convert.tables.text import TEXT
from stav2a_jax.models.text import TextEncoder, bucket_of


@pytest.mark.parametrize("name", ["mt5_tiny", "mt5_large"])
def test_text_encoder_equals_the_original(oracle, name):
    case = oracle(name)
    cfg = TextConfig(**{key: value for key, value in case.meta["config"].items() if key in TextConfig.__annotations__})
    encoder = TextEncoder(cfg)
    ids = jnp.asarray(case.inputs["input_ids"], jnp.int32)
    mask = jnp.asarray(case.inputs["attention_mask"], jnp.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), ids)["params"]
    expected = {k: v.shape for k, v in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    params = {"params": flax.traverse_util.unflatten_dict(to_flax(case.weights(), TEXT, expected), sep="/")}
    stream = encoder.apply(params, ids, mask, layers=True)
    for key in case.outputs:
        if key.startswith("mid/hidden_"):
            case.check(key, stream[int(key.removeprefix("mid/hidden_"))])
    case.check("last_hidden_state", stream[-1])
    case.check("without_mask", encoder.apply(params, ids))
    uncond, uncond_mask = (jnp.asarray(case.inputs[key], jnp.int32) for key in ("uncond_ids", "uncond_mask"))
    case.check("uncond", encoder.apply(params, uncond, uncond_mask))
    case.check("position_bias", encoder.apply(params, ids.shape[1], method="position_bias"))


def test_buckets_of_relative_positions_equal_the_original(oracle):
    expected = oracle("mt5_tiny").outputs["bucket_of_relative_position_-200_to_200"]
    np.testing.assert_array_equal(bucket_of(np.arange(-200, 201), 32, 128), np.asarray(expected))
