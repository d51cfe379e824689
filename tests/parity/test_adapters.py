"""The adapters against the original TransVideoFeature, PreOnSet_by_MultiScaleFeature and GlobalVideoFeature."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.config import GlobalConfig, LocalConfig
from stav2a_jax.convert.rules import to_flax
from stav2a_jax.convert.tables.adapters import LOCAL, ONSET, POOLING
from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead, onset_loss, resample_frames


def converted(module, rules, state, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    expected = {k: v.shape for k, v in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    return {"params": flax.traverse_util.unflatten_dict(to_flax(state, rules, expected), sep="/")}


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_local_features_and_their_windows_equal_the_original(oracle, name):
    case = oracle(f"trans_video_{name}")
    sizes = case.meta["config"]
    cfg = LocalConfig(hidden=sizes["hidden_size"], dim=sizes["output_size"], windows=tuple(sizes["windows"]))
    adapter, video = LocalAdapter(cfg), jnp.asarray(case.inputs["video"])
    out = adapter.apply(converted(adapter, LOCAL, case.weights(), video), video)
    for key, part in zip(case.outputs, jnp.split(out, 1 + len(cfg.windows), axis=-1), strict=True):
        case.check(key, part)


@pytest.mark.parametrize("name", ["tiny", "128", "640"])
def test_control_logits_and_onset_loss_equal_the_original(oracle, name):
    case = oracle(f"pre_onset_{name}")
    head = OnsetHead(LocalConfig())
    frames = resample_frames(jnp.asarray(case.inputs["tokens"]), 256, 4.0, 25.0)
    control, logits = head.apply(converted(head, ONSET, case.weights(), frames), frames)
    case.check("features", control)
    case.check("logits", logits)
    loss = onset_loss(logits, jnp.asarray(case.inputs["onset_labels"]))
    case.check("onset_loss_mean", loss[None])


def test_nearest_frames_are_the_originals(oracle):
    case = oracle("pre_onset_tiny")
    source = resample_frames(jnp.arange(40.0)[None, :, None], 256, 4.0, 25.0)[0, :, 0]
    np.testing.assert_array_equal(np.asarray(source), np.asarray(case.outputs["source_frame"]).ravel()[:256])


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_potentials_attention_and_tokens_equal_the_original(oracle, name):
    case = oracle(f"global_video_{name}")
    pooling = AttentivePooling(GlobalConfig(dim=case.meta["config"]["dim"], tokens=case.meta["config"]["tokens"]))
    video = jnp.asarray(case.inputs["video"])
    bound = pooling.bind(converted(pooling, POOLING, case.weights(), video))
    e = bound.fc(video)
    unary, pairwise = bound.unary(e), bound.pairwise(e)
    attention = bound.attention(unary, pairwise)
    case.check("unary", unary)
    case.check("pairwise", pairwise)
    case.check("attention", attention)
    case.check("pooled", jnp.einsum("bt,btd->bd", attention, e))
    case.check("tokens", bound(video))
