"""The adapters against the original TransVideoFeature, PreOnSet_by_MultiScaleFeature and GlobalVideoFeature."""

import jax.numpy as jnp
import pytest

from stav2a_jax.config import GlobalConfig, LocalConfig, VideoEncoderConfig
from stav2a_jax.convert.tables.adapters import LOCAL, ONSET, POOLING
from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead, onset_loss, resample_frames
from stav2a_jax.types import LatentSpec

RATES = VideoEncoderConfig().fps, LatentSpec().frames_per_second  # of the release


@pytest.mark.given("trans_video_*")
def test_local_features_and_their_windows_equal_the_original(case):
    sizes = case.meta["config"]
    cfg = LocalConfig(hidden=sizes["hidden_size"], dim=sizes["output_size"], windows=tuple(sizes["windows"]))
    adapter, video = LocalAdapter(cfg), jnp.asarray(case.inputs["video"])
    local, *means = jnp.split(adapter.apply(case.params(adapter, LOCAL, video), video), 1 + len(cfg.windows), axis=-1)
    case.check("local", local)
    for window, mean in zip(cfg.windows, means, strict=True):
        case.check(f"window{window}", mean)


@pytest.mark.given("pre_onset_*")
def test_control_logits_and_onset_loss_equal_the_original(case):
    head = OnsetHead(LocalConfig(control=case.meta["config"]["hidden"]))
    tokens, n = jnp.asarray(case.inputs["tokens"]), case.shape("logits")[1]
    numbers = jnp.arange(tokens.shape[1])[None, :, None]
    case.check("source_frame", resample_frames(numbers, n, *RATES)[0, :, 0])
    frames = resample_frames(tokens, n, *RATES)
    control, logits = head.apply(case.params(head, ONSET, frames), frames)
    case.check("features", control)
    case.check("logits", logits)
    case.check("onset_loss_mean", onset_loss(logits, jnp.asarray(case.inputs["onset_labels"]))[None])


@pytest.mark.given("global_video_*")
def test_potentials_attention_and_tokens_equal_the_original(case):
    pooling = AttentivePooling(GlobalConfig(dim=case.meta["config"]["dim"], tokens=case.meta["config"]["tokens"]))
    video = jnp.asarray(case.inputs["video"])
    bound = pooling.bind(case.params(pooling, POOLING, video))
    e = bound.fc(video)
    unary, pairwise = bound.unary(e), bound.pairwise(e)
    attention = bound.attention(unary, pairwise)
    case.check("unary", unary)
    case.check("pairwise", pairwise)
    case.check("attention", attention)
    case.check("pooled", jnp.einsum("bt,btd->bd", attention, e))
    case.check("tokens", bound(video))
