"""CLAP scores through transformers: our reading and averaging around a small random ClapModel."""

import json

import numpy as np
import pytest
import soundfile
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    ClapTextConfig,
    RobertaTokenizer,
)

from stav2a_jax.evaluation import backbones
from stav2a_jax.evaluation.inputs import Options
from stav2a_jax.evaluation.run import evaluate
from stav2a_jax.evaluation.scores import Draws
from stav2a_jax.types import UserError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ClapModel with its processor, as a user would have downloaded it."""
    path = tmp_path_factory.mktemp("clap")
    letters = {chr(c): i for i, c in enumerate(range(33, 127), start=4)} | {"Ġ": 98}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | letters
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = RobertaTokenizer.from_pretrained(path)
    text = ClapTextConfig(
        vocab_size=200,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        projection_dim=8,
    )
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8,
        hidden_size=64,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)).eval()
    model.save_pretrained(path)
    ClapProcessor(ClapFeatureExtractor(truncation="rand_trunc"), tokenizer).save_pretrained(path)
    return path


def test_a_clap_score_is_the_models_cosine(folder, tmp_path):
    rng, captions = np.random.default_rng(0), {"a": "a dog barks", "b": "rain on a roof"}
    for side in ("gen", "ref"):
        (tmp_path / side).mkdir()
        for name in captions:
            soundfile.write(tmp_path / side / f"{name}.wav", 0.1 * rng.normal(size=48_000), 48_000, subtype="FLOAT")
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    options = Options(
        generated=tmp_path / "gen",
        reference=tmp_path / "ref",
        cache=tmp_path / "cache",
        captions=tmp_path / "captions.json",
        metrics=("clap",),
        weights={"clap": folder},
        draws=Draws(resamples=100),
    )
    metric = evaluate(options).report["metrics"]["clap"]
    model, processor = ClapModel.from_pretrained(folder).eval(), ClapProcessor.from_pretrained(folder)
    for name, caption in captions.items():
        wave, _ = soundfile.read(tmp_path / "gen" / f"{name}.wav", dtype="float32")
        inputs = processor(text=[caption], audio=wave, sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        want = torch.nn.functional.cosine_similarity(out.audio_embeds, out.text_embeds).item()
        assert metric["per_clip"][name] == pytest.approx(want, abs=1e-5)
    assert len(metric["checksum"]) == 64
    assert evaluate(options).work["clap"] == [0, 4]


def test_a_long_clip_is_heard_from_its_beginning(folder):
    wave = np.random.default_rng(0).normal(size=15 * 48_000).astype(np.float32)
    clap = backbones.open_clap(folder)
    np.testing.assert_allclose(clap.audio([wave]), clap.audio([wave[: 10 * 48_000]]), atol=1e-6)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no ClapModel"):
        backbones.load("clap", tmp_path)
