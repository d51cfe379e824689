"""A run knows whose weights and whose clips it was made of, and does not go on with others under the same name."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from stav2a_jax.bundle import load_params, save_params
from stav2a_jax.checkpoint import Checkpoints
from stav2a_jax.config import Config, DataConfig, RecipeConfig, StageConfig, StagesConfig
from stav2a_jax.data.batches import order_of
from stav2a_jax.data.prepare.run import prepare
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import from_foley
from stav2a_jax.data.prepared import encoder_digests
from stav2a_jax.data.records import find_set
from stav2a_jax.training import initial
from stav2a_jax.training.loop import _resumed, pipeline_state
from stav2a_jax.training.recipe import load_config, needed, to_train
from stav2a_jax.training.workspace import Workspace
from stav2a_jax.types import UserError

pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
STAGE = StageConfig(steps=2, batch_size=2, crop_seconds=0.32)
STAGES = StagesConfig(vae=STAGE, vocoder=STAGE, cavp=STAGE, t2a=STAGE, onset=STAGE, stav2a=STAGE)


def config(model, **more):
    return Config(name="x", stages=STAGES, model=model, **more)


def finished(ws, stage, params, **record):
    """A run whose stage is done with these parameters."""
    ws.claim(stage)
    ws.write_result(stage, params, {"step": 2, "valid_loss": 1.0, **record})
    return ws


def other(params, by=0.25):
    return jax.tree.map(lambda x: (x + by).astype(np.float32), params)


def flat(params):
    return flatten_dict(params, sep="/")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, tiny_model, tiny_params):
    """A finished VAE and a finished CAVP, not those of the bundle."""
    root = tmp_path_factory.mktemp("theirs")
    ws = Workspace(config(tiny_model), root / "first", root / "cache")
    finished(ws, "vae", {"autoencoder": other(tiny_params["autoencoder"])}, scale_factor=3.5)
    video = {"video": other(tiny_params["video"]), "spec": {"a": np.zeros(1)}, "logit_scale": {"value": np.zeros(())}}
    return finished(ws, "cavp", video)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, tiny_bundle, theirs):
    """Clips with features of the bundle's video encoder and of a run's VAE."""
    out = tmp_path_factory.mktemp("encoded")
    vae = theirs.root / "vae" / "params.safetensors"
    prepare(from_foley([("train", 2), ("valid", 1)], seed=0), out, PrepareSettings(bundle=str(tiny_bundle)), vae=vae)
    return out


def workspace(folder, records, model, **more):
    return Workspace(config(model, data=DataConfig(records=str(records)), **more), folder / "run", folder / "cache")


def test_float32_parameters_and_the_float16_bundle_made_of_them_have_one_digest(tiny_bundle, tiny_params):
    bundle = flat(load_params(tiny_bundle / "weights.safetensors"))
    digests = encoder_digests(flat(tiny_params))
    assert encoder_digests(bundle) == digests
    assert sorted(digests) == ["decoder", "moments", "text", "video"]
    changed = flat(tiny_params) | {"video/project/bias": np.ones(3)}
    assert {k for k, v in encoder_digests(changed).items() if v != digests[k]} == {"video"}
    assert sorted(encoder_digests({"unet/a": np.zeros(1)})) == []


def test_features_of_another_video_encoder_than_the_run_takes_are_refused(encoded, tmp_path, tiny_model, theirs):
    ws = workspace(tmp_path, encoded, tiny_model)
    with pytest.raises(UserError, match=r"another video encoder made .* stage 'cavp' .* again with --bundle"):
        initial.adopt(ws, "cavp", [str(theirs.root)])
    assert not ws.done("cavp")


def test_features_of_another_video_encoder_than_the_run_trained_are_refused(encoded, tmp_path, tiny_model, tiny_params):
    ws = workspace(tmp_path, encoded, tiny_model)
    ws.rows("train", "video")  # no encoder is there yet
    finished(ws, "cavp", {"video": other(tiny_params["video"])})
    for ask in (lambda: ws.rows("train", "video"), ws.model_config):
        with pytest.raises(UserError, match="another video encoder"):
            ask()
    again = workspace(tmp_path / "right", encoded, tiny_model)
    finished(again, "cavp", {"video": tiny_params["video"]})
    again.rows("train", "video")
    again.model_config()


def test_latents_of_another_vae_are_refused_also_where_only_its_decoder_is_known(
    encoded, tmp_path, tiny_model, tiny_params, tiny_bundle, theirs
):
    right, wrong = theirs.result("vae")[0]["autoencoder"], tiny_params["autoencoder"]
    for name, params in (("whole", wrong), ("decoder", {k: wrong[k] for k in ("decoder", "post_quant_conv")})):
        ws = workspace(tmp_path / name, encoded, tiny_model)
        finished(ws, "vae", {"autoencoder": params}, scale_factor=1.0)
        with pytest.raises(UserError, match=r"another VAE made .* stage 'vae' .* again with --vae"):
            ws.rows("train", "latent")
    ws = workspace(tmp_path / "right", encoded, tiny_model)
    finished(ws, "vae", {"autoencoder": {k: right[k] for k in ("decoder", "post_quant_conv")}}, scale_factor=1.0)
    ws.rows("train", "latent")
    with pytest.raises(UserError, match="another VAE"):
        initial.adopt(workspace(tmp_path / "bundle", encoded, tiny_model), "vae", [str(tiny_bundle)])


def test_the_scale_is_that_of_the_runs_own_vae(encoded, tmp_path, tiny_model, theirs):
    ws = workspace(tmp_path, encoded, tiny_model)
    assert ws.model_config().autoencoder.scale_factor == ws.clips("train").info["scale_factor"] != 3.5
    assert initial.adopt(ws, "vae", [str(theirs.root)])
    assert ws.model_config().autoencoder.scale_factor == 3.5


def test_a_set_that_does_not_name_its_encoders_is_taken_with_a_warning(
    encoded, tmp_path, tiny_model, tiny_params, capsys
):
    shutil.copytree(encoded, tmp_path / "old")
    path = find_set(tmp_path / "old") / "metadata.json"
    info = json.loads(path.read_text())
    del info["encoder_digests"]
    path.write_text(json.dumps(info))
    ws = workspace(tmp_path, tmp_path / "old", tiny_model)
    finished(ws, "cavp", {"video": other(tiny_params["video"])})
    finished(ws, "vae", {"autoencoder": tiny_params["autoencoder"]}, scale_factor=1.0)
    capsys.readouterr()
    ws.rows("train", "video")
    ws.rows("valid", "latent")
    ws.model_config()
    assert capsys.readouterr().err.count("does not say whose features it stores") == 1


def later(name):
    """A config of the paper's size on no prepared set."""
    return load_config(CONFIGS / f"{name}.py", ["data.records=None"])


def test_every_config_of_the_paper_takes_what_the_ones_before_it_left(tmp_path):
    chain, done = ("vae", "vocoder", "cavp", "t2a_pretrain", "t2a_finetune", "onset"), {}
    rows = sorted(path.stem for path in (CONFIGS / "ablation").glob("cn*.py"))
    for name in (*chain, "stav2a", *(f"ablation/{row}" for row in rows)):
        cfg = later(name)
        ws = Workspace(cfg, tmp_path / name, tmp_path / "cache")
        for stage in needed(cfg):
            if stage in done and stage not in to_train(cfg):
                assert initial.adopt(ws, stage, [str(done[stage])]), (name, stage)
        for stage in to_train(cfg) if name in chain else ():
            groups = {*initial.GROUPS[stage], *({"logit_scale"} if stage == "cavp" else ())}
            weights = {group: {"a": np.zeros(1, np.float32)} for group in groups}
            weights |= {"autoencoder": {"encoder": {"a": np.zeros(1, np.float32)}}} if stage == "vae" else {}
            finished(ws, stage, weights, scale_factor=1.0)
            (ws.root / "tokenizer.json").write_text("{}")
            done[stage] = ws.root
    assert sorted(done) == sorted(initial.GROUPS)


def test_a_spectrogram_encoder_that_does_not_fit_is_left_out_where_nothing_reads_it(tmp_path, tiny_model, tiny_params):
    spec = dataclasses.replace(tiny_model.spec, mel_bins=32)
    first = Workspace(config(dataclasses.replace(tiny_model, spec=spec)), tmp_path / "first", tmp_path / "cache")
    finished(first, "cavp", {"video": tiny_params["video"], "spec": {"a": np.zeros(1)}})
    second = Workspace(config(tiny_model), tmp_path / "second", tmp_path / "cache")
    assert initial.adopt(second, "cavp", [str(first.root)])
    assert sorted(second.result("cavp")[0]) == ["video"]
    loss = dataclasses.replace(second.cfg.loss, onset_trains_video=True)
    recipe = RecipeConfig(local="fresh")
    for source, words in ((first, r"fit the config: spec.mel_bins 32 \(config: 64\)"), (second, "lack spec")):
        ws = Workspace(config(tiny_model, loss=loss, recipe=recipe), tmp_path / "third", tmp_path / "cache")
        with pytest.raises(UserError, match=words):
            initial.adopt(ws, "cavp", [str(source.root)])


def run_with(folder, model, weight):
    params = {"video": {"a": np.full(2, weight, np.float32)}, "spec": {"a": np.zeros(1)}}
    return finished(Workspace(config(model), folder, folder.parent / "cache"), "cavp", params)


@pytest.mark.parametrize("how", ["adopt", "start"])
def test_weights_of_one_name_are_told_apart(how, tmp_path, tiny_model):
    take, words = getattr(initial, how), {"adopt": "not with what", "start": "began with other weights"}[how]
    a, b = (run_with(tmp_path / place / "foo", tiny_model, w).root for place, w in (("a", 1.0), ("b", 2.0)))
    same = run_with(tmp_path / "c" / "foo", tiny_model, 1.0).root
    ws = Workspace(config(tiny_model), tmp_path / "run", tmp_path / "cache")
    assert take(ws, "cavp", [str(a)])
    assert not take(ws, "cavp", [str(a)])
    assert not take(ws, "cavp", [str(same)])
    with pytest.raises(UserError, match=words):
        take(ws, "cavp", [str(b)])
    assert not take(ws, "cavp", [str(tmp_path / "gone" / "foo")])  # moved away: its name is all there is
    run_with(a, tiny_model, 3.0)  # trained again in its place
    with pytest.raises(UserError, match=words):
        take(ws, "cavp", [str(a)])


def test_a_bundle_that_was_made_again_is_told_apart(tmp_path, tiny_model, tiny_params, tiny_bundle):
    folder = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    ws = Workspace(config(tiny_model), tmp_path / "run", tmp_path / "cache")
    assert initial.adopt(ws, "vocoder", [str(folder)])
    assert not initial.adopt(ws, "vocoder", [str(tiny_bundle)])
    save_params(folder / "weights.safetensors", tiny_params | {"vocoder": other(tiny_params["vocoder"])}, np.float16)
    with pytest.raises(UserError, match=r"done in .* already, and not with what .* holds now"):
        initial.adopt(ws, "vocoder", [str(folder)])


def test_what_was_taken_before_checksums_were_kept_goes_on_by_its_name(tmp_path, tiny_model):
    a, b = (run_with(tmp_path / place / "foo", tiny_model, w).root for place, w in (("a", 1.0), ("b", 2.0)))
    ws = Workspace(config(tiny_model), tmp_path / "run", tmp_path / "cache")
    initial.adopt(ws, "cavp", [str(a)])
    path = ws.root / "cavp" / "result.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert not initial.adopt(ws, "cavp", [str(b)])


class Named:
    """Clips of ten seconds with these ids, or with none."""

    def __init__(self, *ids):
        self.records = [{"seconds": 10.0} if i is None else {"seconds": 10.0, "id": i} for i in ids]

    def __len__(self):
        return len(self.records)


def order(*ids):
    return order_of(Named(*ids), 0, 2, (256,), 25.0)


def test_other_clips_of_the_same_lengths_are_noticed(tmp_path):
    import optax
    from rich.console import Console

    from stav2a_jax.training.step import init_state

    tx, console = optax.sgd(0.1), Console(quiet=True)

    def fresh():
        return jax.device_put(init_state({"w": np.zeros(2, np.float32)}, tx, seed=0))

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(fresh(), 1.0, pipeline_state(order("a", "b"), 0))
        checkpoints.wait()
        _resumed(checkpoints, fresh(), order("a", "b"), "t2a", console)
        for ids in (("a", "c"), ("b", "a")):
            with pytest.raises(UserError, match=r"cannot go on at step 0: the clips .* \(other clips\)"):
                _resumed(checkpoints, fresh(), order(*ids), "t2a", console)
    with Checkpoints(tmp_path / "older") as checkpoints:
        before = pipeline_state(order(None, None), 0)  # as it was before ids were kept
        checkpoints.save(fresh(), 1.0, before)
        checkpoints.wait()
        _resumed(checkpoints, fresh(), order("a", "b"), "t2a", console)


def test_generated_clips_are_known_by_what_they_were_known_by():
    digest = "d9afd2afae14ee10209e6aaca7d6fb3f449d02a6a12e3ff95e97fb3e4211cb14"
    assert order(None, None).fingerprint() == {"seed": 0, "batch": 2, "crops": [256], "lengths": digest}
