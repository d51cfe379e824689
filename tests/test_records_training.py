"""A prepared folder is trained on like generated clips, and its filters are read from its records."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from stav2a_jax import config as c
from stav2a_jax.config import Config, DataConfig, StageConfig, StagesConfig
from stav2a_jax.data import foley
from stav2a_jax.data.batches import Piece
from stav2a_jax.data.clips import ForeignPictures, kept
from stav2a_jax.data.prepare.run import prepare
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import from_folder, from_foley
from stav2a_jax.data.prepared import PreparedClips
from stav2a_jax.training import initial
from stav2a_jax.training.loop import training_order
from stav2a_jax.training.recipe import STAGES, needed, to_train
from stav2a_jax.training.stages.vae import derive_latents
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import write_video

pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")
STAGE = StageConfig(steps=2, batch_size=2, crop_seconds=0.32)
BLANK = StagesConfig(vae=STAGE, vocoder=STAGE, cavp=STAGE, t2a=STAGE, onset=STAGE, stav2a=STAGE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Generated clips prepared without a bundle: sound, onsets and pictures."""
    out = tmp_path_factory.mktemp("plain")
    settings = PrepareSettings(bundle=None, frames="png", frame_fps=25.0, frame_size=16)
    prepare(from_foley([("train", 3), ("valid", 1)], seed=0), out, settings)
    return out


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tiny_bundle):
    """The same with the features of a bundle."""
    out = tmp_path_factory.mktemp("encoded")
    prepare(from_foley([("train", 2), ("valid", 1)], seed=0), out, PrepareSettings(bundle=str(tiny_bundle)))
    return out


def run(folder, records, model, **data):
    cfg = Config(name="x", stages=BLANK, model=model, data=DataConfig(records=str(records), **data))
    return Workspace(cfg, folder / "run", folder / "cache")


def test_clips_of_a_prepared_folder_are_those_that_went_in(plain, tmp_path):
    clips = PreparedClips(plain, "train", tmp_path, "kept")
    i = next(i for i, r in enumerate(clips.records) if r["id"] == "foley_0_train_000001")
    clip, record = foley.make_clip(0, "train", 1), clips.records[i]
    wave, frames = foley.render_audio(clip, 16_000), foley.render_video(clip, 16, 25.0)
    assert (record["caption"], record["samples"], record["frames"]) == (clip.caption, len(wave), len(frames))
    np.testing.assert_allclose(clips.wave(i, 0, len(wave)), wave - wave.mean(), atol=1e-4)
    np.testing.assert_array_equal(clips.video(i, 2, 5), frames[2:7])
    np.testing.assert_array_equal(clips.video(i, len(frames), 2), np.repeat(frames[-1:], 2, 0))
    assert not clips.wave(i, len(wave), 9).any()


def test_the_records_are_read_through_once(plain, tmp_path):
    first = PreparedClips(plain, "train", tmp_path, "kept")
    [index] = tmp_path.iterdir()
    lines = json.loads(index.read_text())
    lines[0]["caption"] = "as it stands in the index"
    index.write_text(json.dumps(lines))
    again = pickle.loads(pickle.dumps(first))  # as a worker process gets it
    assert again.records[0]["caption"] == "as it stands in the index"
    assert len(pickle.dumps(first)) < 1000


def test_features_come_from_the_records_and_nothing_is_derived(encoded, tmp_path, tiny_model):
    ws = run(tmp_path, encoded, tiny_model)
    assert [ws.given(field) for field in ("moments", "video", "frames")] == [True, True, False]
    clips = ws.clips("train")
    stored = clips.read(1)
    np.testing.assert_array_equal(ws.rows("train", "video").rows(1, 3, 4), stored["video"][3:7].astype(np.float32))
    far = ws.rows("train", "video").rows(1, len(stored["video"]), 2)
    np.testing.assert_array_equal(far, np.repeat(stored["video"][-1:], 2, 0).astype(np.float32))
    assert ws.model_config().autoencoder.scale_factor == clips.info["scale_factor"]
    stage = STAGES["onset"](ws)  # without a finished cavp: the features are there
    batch = stage.batch("train", [Piece(0, 0, 8, 0), Piece(1, 2, 8, 1)], 8)
    assert {k: v.shape for k, v in batch.items() if k != "index"} == {
        "video": (2, 8, tiny_model.video.features),
        "mask": (2, 8),
        "onset": (2, 8),
    }
    assert not (ws.root / "derived").exists()


def test_a_stage_that_needs_pictures_says_so(encoded, tmp_path, tiny_model):
    with pytest.raises(UserError, match="stores no pictures, which this stage trains on; prepare it with --frames"):
        STAGES["cavp"](run(tmp_path, encoded, tiny_model))


def test_a_set_that_is_made_again_is_read_again(tmp_path):
    videos, index = tmp_path / "videos", tmp_path / "index"
    videos.mkdir()
    texts = ["A dog barks.", "A cat meows."]
    for i in range(2):
        clip = foley.make_clip(0, "train", i, seconds=2.0)
        sound = foley.render_audio(clip, 16_000)
        write_video(videos / f"{i}.mp4", foley.render_video(clip, 16, 10.0), 10.0, sound, 16_000)
    settings = PrepareSettings(bundle=None, av_align="skip")
    for pair in (texts, texts[::-1]):  # of the same size
        for i, text in enumerate(pair):
            (videos / f"{i}.txt").write_text(text)
        assert prepare(from_folder(videos), tmp_path / "set", settings).made
        clips = PreparedClips(tmp_path / "set", "train", index, "kept")
        assert {r["id"]: r["caption"] for r in clips.records} == dict(zip("01", pair))


def test_a_folder_prepared_for_another_model_is_refused(encoded, tmp_path, tiny_model):
    other = dataclasses.replace(tiny_model, video=dataclasses.replace(tiny_model.video, features=9, fps=4.0))
    with pytest.raises(UserError, match=r"another model: video_fps 25.0 \(config: 4.0\), video \(8,\)"):
        run(tmp_path, encoded, other).clips("train")


def test_filters_are_read_from_the_records(plain, tmp_path, tiny_model):
    clips = run(tmp_path, plain, tiny_model).clips("train")
    with pytest.raises(UserError, match="AV-Align was not measured on these clips"):
        kept(clips, DataConfig(min_av_align=0.2))
    scores = [0.3, np.nan, 0.1]
    clips.records = [{**r, "av_align": s} for r, s in zip(clips.records, scores, strict=True)]
    assert kept(clips, DataConfig()) is None
    assert kept(clips, DataConfig(min_av_align=0.2)).tolist() == [True, False, False]
    clips.records[0]["caption"] = "A man talks beside a drum."
    assert kept(clips, DataConfig(drop_speech=True)).tolist() == [False, True, True]
    with pytest.raises(UserError, match="leave none of 3 clips"):
        kept(clips, DataConfig(min_av_align=0.2, drop_speech=True))


def test_what_a_filter_drops_is_never_trained_on(plain, tmp_path, tiny_model):
    ws = run(tmp_path, plain, tiny_model, min_av_align=0.2)
    clips = ws.clips("train")
    clips.records = [{**r, "av_align": s} for r, s in zip(clips.records, (0.3, 0.1, 0.2), strict=True)]
    order = training_order(ws, STAGE)
    assert {p.clip for step in range(6) for p in order.pieces(step)} == {0, 2}
    unfiltered = training_order(run(tmp_path, plain, tiny_model), STAGE)
    assert {p.clip for step in range(6) for p in unfiltered.pieces(step)} == {0, 1, 2}
    assert order.fingerprint() != unfiltered.fingerprint()


def test_rows_derived_from_other_clips_of_the_same_number_are_derived_again(plain, tmp_path, small, tiny_model):
    cfg = Config(name="x", stages=BLANK, model=tiny_model, data=DataConfig(records=str(plain)))
    ws = small.NoisyStart(cfg, tmp_path / "run", tmp_path / "cache")
    small.write_noise(ws, ("vae",))
    derive_latents(ws)
    path = ws.derived_folder("train") / "latent.npy"
    first = np.load(path)
    assert first.shape[1:] == (16, 16)
    assert np.isfinite(first).all()
    written = path.stat().st_mtime_ns
    derive_latents(ws)
    assert path.stat().st_mtime_ns == written
    clips = ws.clips("train")
    clips.records = [{**r, "id": f"other {r['id']}"} for r in clips.records]
    derive_latents(ws)
    assert path.stat().st_mtime_ns > written
    np.testing.assert_array_equal(np.load(path), first)


def test_the_clips_of_a_prepared_set_are_known_by_their_ids(plain, tmp_path, tiny_model):
    ws = run(tmp_path, plain, tiny_model)
    before = training_order(ws, STAGE).fingerprint()
    clips = ws.clips("train")
    clips.records = [{**clips.records[0], "id": "another"}, *clips.records[1:]]
    after = training_order(ws, STAGE).fingerprint()
    assert {name for name in before if before[name] != after[name]} == {"clips"}


class Numbered:
    """Eight clips whose pictures and sounds are their number."""

    def __init__(self):
        self.records = [{"seconds": 1.0, "frames": 10 + i, "caption": str(i)} for i in range(8)]

    def __len__(self):
        return 8

    def video(self, i, start, count):
        return np.full((count, 2, 2, 3), i, np.uint8)

    def wave(self, i, start, count):
        return np.full(count, i, np.float32)


def test_foreign_pictures_leave_sound_and_caption_alone():
    assert ForeignPictures(Numbered(), 0.0, 0).shown.tolist() == list(range(8))
    clips = ForeignPictures(Numbered(), 1.0, 0)
    for i in range(8):
        j = int(clips.video(i, 0, 1)[0, 0, 0, 0])
        assert j != i
        assert clips.wave(i, 0, 1)[0] == i
        assert (clips.records[i]["frames"], clips.records[i]["caption"]) == (10 + j, str(i))
    assert (pickle.loads(pickle.dumps(clips)).shown == clips.shown).all()
    half = ForeignPictures(Numbered(), 0.5, 0).shown != np.arange(8)
    assert 0 < half.sum() < 8


def changed(tiny_model, **recipe):
    cfg = Config(name="x", stages=BLANK, model=tiny_model, recipe=c.RecipeConfig(**recipe))
    return cfg


def test_a_recipe_needs_only_the_stages_of_its_model(tiny_model):
    text = dataclasses.replace(tiny_model, conditions=c.ConditionsConfig(control=False, global_tokens=False))
    odd = dataclasses.replace(tiny_model, conditions=c.ConditionsConfig(control=False))
    assert needed(changed(tiny_model)) == tuple(STAGES)
    assert needed(changed(tiny_model, local="fresh")) == ("vae", "vocoder", "cavp", "t2a", "stav2a")
    assert needed(changed(text)) == ("vae", "vocoder", "t2a")
    with pytest.raises(UserError, match="global tokens without a control"):
        needed(changed(odd))
    assert to_train(changed(tiny_model, train=("stav2a", "onset"))) == ["onset", "stav2a"]
    assert to_train(changed(tiny_model, train=("onset",)), ["t2a"]) == ["t2a"]


def test_a_run_takes_what_another_has_finished_and_begins_with_its_weights(small, tiny_model, tmp_path):
    first = small.NoisyStart(changed(tiny_model), tmp_path / "first", tmp_path / "cache")
    small.write_noise(first, ("vae", "t2a"))
    (first.root / "tokenizer.json").write_text("{}")
    second = small.NoisyStart(changed(tiny_model, train_text=False), tmp_path / "second", tmp_path / "cache")
    assert initial.adopt(second, "vae", [str(first.root)])
    assert not initial.adopt(second, "vae", [str(first.root)])
    assert second.result("vae")[1]["from"] == ["first"]
    assert initial.start(second, "t2a", [str(first.root)])
    assert not initial.start(second, "t2a", [str(first.root)])
    assert (second.root / "tokenizer.json").is_file()
    fresh = {"unet": {"a": np.zeros(1)}, "text": {"b": np.zeros(1)}, "other": {"c": np.zeros(1)}}
    begun, trained = second.begin("t2a", fresh), first.result("t2a")[0]
    np.testing.assert_array_equal(begun["unet"]["conv_in"]["bias"], trained["unet"]["conv_in"]["bias"])
    assert begun["other"] is fresh["other"]
    with pytest.raises(UserError, match="began with other weights"):
        initial.start(second, "t2a", [str(tmp_path / "third")])
    (tmp_path / "first" / "onset").mkdir()
    with pytest.raises(UserError, match="has not finished its stage 'onset'"):
        initial.adopt(second, "onset", [str(first.root)])


def test_a_model_without_a_control_has_no_control_in_its_conditions(tiny_model, tiny_params):
    import jax

    from stav2a_jax.models.system import condition_chain

    words = np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32)
    for conditions, tokens in ((c.ConditionsConfig(control=False, global_tokens=False), 0), (c.ConditionsConfig(), 4)):
        model = dataclasses.replace(tiny_model, conditions=conditions)
        chain, logits = jax.eval_shape(
            lambda p, v, model=model: condition_chain(model, p, words, words, v, 8), tiny_params, np.zeros((1, 8, 8))
        )
        assert [one.control is None for one in chain] == [not conditions.control] * 4
        assert chain[3].context.shape == (1, 4 + tokens, 8)
        assert logits.shape == (1, 8, 2)
