"""Every stage of the recipe takes its steps, stops, goes on, and leaves a bundle that sounds."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from stav2a_jax.cli import main
from stav2a_jax.pipeline import VideoToAudio
from stav2a_jax.training.recipe import STAGES
from stav2a_jax.training.workspace import Workspace

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "foley_tiny.py"
SMALL = {
    "data.train_clips": 4,
    "data.valid_clips": 2,
    "model.autoencoder.base_channels": 4,
    "model.autoencoder.norm_groups": 2,
    "model.vocoder.initial_channels": 8,
    "model.vocoder.upsample_rates": (5,),
    "model.vocoder.upsample_kernels": (11,),
    "model.vocoder.resblock_kernels": (3,),
    "model.vocoder.resblock_dilations": ((1,),),
    "model.vocoder.istft": (64, 32),
    "model.video.size": 16,
    "model.video.base_channels": 4,
    "model.video.depths": (1,),
    "model.video.temporal_kernels": (1, 3),
    "model.video.features": 8,
    "model.spec.channels": (4, 8),
    "model.spec.pools": ((2, 2), (2, 2)),
    "model.spec.features": 8,
    "model.text.vocab_size": 300,
    "model.text.d_model": 8,
    "model.text.d_kv": 4,
    "model.text.d_ff": 8,
    "model.text.num_layers": 1,
    "model.text.num_heads": 2,
    "model.local.hidden": 8,
    "model.local.dim": 4,
    "model.local.windows": (2,),
    "model.local.control": 4,
    "model.pooling.dim": 8,
    "model.unet.block_out_channels": (8, 8),
    "model.unet.attention": (False, False),
    "model.unet.num_heads": (1, 1),
    "model.unet.cross_attention_dim": 8,
    "model.unet.norm_groups": 4,
    "model.unet.control_channels": 4,
    "guidance.steps": 2,
}
STAGE = {"steps": 2, "batch_size": 4, "crop_seconds": 0.32, "valid_every": 2, "valid_batches": 1, "log_every": 1}


def settings(**more):
    """The command line's --set arguments."""
    stages = {f"stages.{stage}.{name}": value for stage in STAGES for name, value in STAGE.items()}
    values = SMALL | stages | {name.replace("__", "."): value for name, value in more.items()}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run in ``run`` beside its clips in ``cache``."""
    folder = tmp_path_factory.mktemp("training")
    assert train(folder) == 0
    return folder


def train(folder, *argv, run="run", **more):
    places = ["--out", str(folder / run), "--cache", str(folder / "cache")]
    return main(["train", "--config", str(CONFIG), *places, *settings(**more), *argv])


def times(folder):
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_every_stage_leaves_its_result(folder):
    run = folder / "run"
    for stage in STAGES:
        record = json.loads((run / stage / "result.json").read_text())
        assert record["step"] == 2
        assert np.isfinite(record["valid_loss"]), stage
        assert (run / stage / "params.safetensors").is_file()
        assert list((run / stage / "log").iterdir()), stage
    assert json.loads((run / "vae" / "result.json").read_text())["scale_factor"] > 0
    assert (run / "tokenizer.json").is_file()


def test_what_a_stage_hands_on_is_where_the_next_one_starts(folder):
    from stav2a_jax.training.recipe import load_config

    run = folder / "run"
    ws = Workspace(load_config(CONFIG, settings()[1::2]), run, folder / "cache")
    onset, stav2a, cavp = (ws.result(name)[0] for name in ("onset", "stav2a", "cavp"))
    assert sorted(stav2a) == ["controlnet", "local", "onset", "pooling", "unet"]
    assert sorted(cavp) == ["logit_scale", "spec", "video"]
    assert sorted(onset) == ["local", "logit_scale", "onset", "spec", "video"]
    # statistics of the normalisation are no weights: they stay what they were
    norm = onset["video"]["trunk"]["conv1"]["norm"]
    before = cavp["video"]["trunk"]["conv1"]["norm"]
    np.testing.assert_array_equal(norm["mean"], before["mean"])
    np.testing.assert_array_equal(norm["var"], before["var"])
    assert np.any(norm["mean"] != 0.0)  # they were measured before the first step
    assert np.any(norm["bias"] != before["bias"])
    assert ws.model_config().autoencoder.scale_factor == ws.result("vae")[1]["scale_factor"]


def test_a_second_call_does_nothing_but_pack(folder, capsys):
    before = {name: t for name, t in times(folder).items() if "/run/bundle/" not in name}
    capsys.readouterr()
    assert train(folder) == 0
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if line.endswith(": done")] == [f"{s}: done" for s in STAGES]
    after = {name: t for name, t in times(folder).items() if "/run/bundle/" not in name}
    assert after == before


def test_an_interrupted_stage_goes_on_where_it_stopped(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    # as if it had been stopped after 2 of 3 steps
    (tmp_path / "run" / "onset" / "settings.json").unlink()
    (tmp_path / "run" / "onset" / "result.json").unlink()
    places = ["--out", str(tmp_path / "run"), "--cache", str(folder / "cache")]
    capsys.readouterr()
    argv = ["train", "--config", str(CONFIG), *places, *settings(stages__onset__steps=3), "--stage", "onset"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "onset: resumed at step 2" in said
    assert "onset step 3:" in said
    assert "onset step 2:" not in said
    assert (tmp_path / "run" / "onset" / "result.json").is_file()
    # what was derived from the old result is gone, what has nothing to do with it is not
    derived = {p.name for p in (tmp_path / "run" / "derived").rglob("*.npy")}
    assert derived == {"latent.npy", "latent.offsets.npy"}


def test_a_stage_that_had_only_to_write_its_result_does_so(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    written = tmp_path / "run" / "vocoder" / "params.safetensors"
    before = written.read_bytes()
    written.unlink()
    (tmp_path / "run" / "vocoder" / "result.json").unlink()
    places = ["--out", str(tmp_path / "run"), "--cache", str(folder / "cache")]
    assert main(["train", "--config", str(CONFIG), *places, *settings(), "--stage", "vocoder"]) == 0
    assert written.read_bytes() == before


def test_the_bundle_of_the_run_makes_a_sound(folder):
    model = VideoToAudio.from_bundle(folder / "run" / "bundle")
    assert set(model.bundle.info["stages"]) == set(STAGES)
    assert "clips, seed 0, 4 for training" in (folder / "run" / "bundle" / "README.md").read_text()
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    [sound] = model(frames, "a ball", fps=25.0)
    assert sound.wave.shape == (6400,)
    assert np.isfinite(sound.wave).all()


def test_other_settings_in_the_same_folder_are_refused(folder, capsys):
    assert train(folder, seed=1) == 2
    error = capsys.readouterr().err
    assert "has other settings (seed: 0 -> 1)" in error
    assert error.count("\n") == 1


def test_a_stage_may_change_its_length_until_it_starts(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stav2a")
    places = ["--out", str(tmp_path / "run"), "--cache", str(folder / "cache")]
    longer = settings(stages__stav2a__steps=3)
    assert main(["train", "--config", str(CONFIG), *places, *longer]) == 0
    assert json.loads((tmp_path / "run" / "stav2a" / "result.json").read_text())["step"] in (2, 3)
    assert main(["train", "--config", str(CONFIG), *places, *settings()]) == 2
    assert "stage 'stav2a' in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--stage", "vea"], "unknown stage 'vea'; the stages are vae, vocoder"),
        (["--set", "stages.vae.stepps=1"], "did you mean 'steps'"),
        (["--config", "absent.py"], "no such config: absent.py"),
        (["--stage", "stav2a", "--set", "data.seed=5"], "stage 'vae' is not done"),
        (["--stage", "vae", "--set", "stages.vae.batch_size=3"], "batch size 3 of stage 'vae' does not divide"),
    ],
)
def test_what_cannot_run_is_said_in_one_sentence(folder, capsys, argv, words):
    assert train(folder, *argv, run="other") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    shutil.rmtree(folder / "other", ignore_errors=True)
