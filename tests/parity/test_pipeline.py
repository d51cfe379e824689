"""The whole released pipeline: converted weights, prompts and features in, int16 samples out, step by step."""

import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from stav2a_jax.bundle import Bundle
from stav2a_jax.pipeline import Clip, VideoToAudio


def save_tokenizer(folder, vocabulary):
    """The fixture's stand-in: a word is its own id; </s> is 1 and <pad> is 0."""
    words = {"<pad>": 0, "</s>": 1} | {str(i): i for i in range(2, vocabulary)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="2"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.save(str(folder / "tokenizer.json"))


def as_prompts(ids, mask):
    """What was typed: the ids before the end of each row."""
    return [" ".join(str(i) for i in row[: int(keep.sum()) - 1]) for row, keep in zip(ids, mask, strict=True)]


def channels_last(x):
    return np.moveaxis(x, -3, -1)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, -3)


class Observed(VideoToAudio):
    """Keeps the states of its last sampling."""

    def states(self, *arguments):
        self.seen = []
        for state in super().states(*arguments):
            self.seen.append(state)
            yield state


@pytest.fixture
def model(case, tmp_path):
    """The converted checkpoints, ready to write sound."""
    config, guidance, params = case.system()
    save_tokenizer(tmp_path, config.text.vocab_size)
    return Observed(Bundle("released", tmp_path, config, guidance, params, {}))


@pytest.mark.given("pipeline_tiny")
def test_conditions_every_step_and_the_sound_equal_the_original(case, model):
    prompts = as_prompts(case.inputs["input_ids"], case.inputs["attention_mask"])
    for got, wanted in zip(model.tokenizer(prompts), ("input_ids", "attention_mask"), strict=True):
        np.testing.assert_array_equal(got, case.inputs[wanted])
    clips = [Clip.of_features(rows, 0.0) for rows in case.inputs["cavp"]]  # the duration does not count
    frames = case.inputs["initial_latents"].shape[2]
    chain, onset = model.conditions(prompts, model.features(clips, frames), frames)
    null, full = chain[2:]  # the release's halves: all but the text, and all
    case.check("encoder_hidden_states", jnp.concatenate([null.context, full.context]))
    case.check("encoder_attention_mask", jnp.concatenate([null.mask, full.mask]))
    case.check("controlnet_cond", jnp.concatenate([null.control, full.control]))
    case.check("onset_logits", onset)
    for sampler in ("ddim", "ddpm"):
        check_sampling(case, model, sampler, clips, prompts)
    check_without_guidance(case, model, chain)


def check_sampling(case, model, sampler, clips, prompts):
    """The public call with the fixture's noise: states and predictions of every step, mel, wave, samples."""
    steps = sum(bool(re.fullmatch(rf"{sampler}_latents_\d+", name)) for name in case.outputs)
    sounds = model.generate(clips, prompts, noise=noise(case), sampler=sampler, steps=steps)
    plan = model.plan(model.options(sampler, steps))
    for i, (before, after) in enumerate(itertools.pairwise(model.seen)):
        case.check(f"{sampler}_latents_{i}", channels_first(after.x))
        # what the guided network said is the one thing that a step's estimate of x_0 was made from
        prediction = (after.last_x0 - plan.from_x[i] * before.x) / plan.from_p[i]
        case.check(f"{sampler}_noise_pred_{i}", channels_first(prediction))
    case.check(f"{sampler}_mel", np.stack([sound.log_mel for sound in sounds])[:, None])
    case.check(f"{sampler}_wav", np.stack([sound.wave for sound in sounds]))
    case.check(f"{sampler}_wav_int16", np.stack([sound.int16 for sound in sounds]))


def check_without_guidance(case, model, chain):
    for name in case.outputs:
        if found := re.fullmatch(r"(\w+)_noguidance_latents_(\d+)", name):
            options = model.options(found[1], int(found[2]) + 1, text=1.0)
            *_, last = model.states(chain, noise(case).__getitem__, options)
            case.check(name, channels_first(last.x))


def noise(case):
    """(1 + steps, B, frames, bins, channels): the initial latents, then what DDPM's steps draw."""
    return channels_last(np.concatenate([case.inputs["initial_latents"][None], case.inputs["ddpm_noise"]]))
