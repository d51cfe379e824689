"""A config is checked data: overrides are typed, names are exact, and JSON keeps everything."""

import json
import pathlib

import pytest

from stav2a_jax.config import (
    Config,
    LossConfig,
    ModelConfig,
    PipelineConfig,
    SoundConfig,
    StagesConfig,
    UNetConfig,
    from_dict,
    override,
    to_dict,
)
from stav2a_jax.fields import complete
from stav2a_jax.training.recipe import load_config
from stav2a_jax.types import LatentSpec, UserError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
CONFIG, CONFIGS = FOLDER / "foley_tiny.py", sorted(FOLDER.rglob("*.py"))


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, [])


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("name=some run", "some run"),
        ("name=3", "3"),
        ("seed=7", 7),
        ("stages.vae.steps=3", 3),
        ("stages.vae.optim.lr=3e-5", 3e-5),
        ("stages.vae.optim.lr=1", 1.0),
        ("loss.snr_gamma=5", 5.0),
        ("loss.snr_gamma=None", None),
        ("loss.onset_trains_video=False", False),
        ("model.vocoder.istft=None", None),
        ("model.vocoder.istft=(64, 16)", (64, 16)),
        ("model.unet.block_out_channels=(8,16)", (8, 16)),
        ("model.unet.block_out_channels=[8, 16]", (8, 16)),
        ("model.unet.attention=(True, False)", (True, False)),
        ("model.vocoder.resblock_dilations=((1, 3), (1,))", ((1, 3), (1,))),
        ("model.unet.linear_projection = True", True),
    ],
)
def test_an_override_has_the_type_of_its_field(cfg, assignment, value):
    changed = override(cfg, assignment)
    for name in assignment.partition("=")[0].strip().split("."):
        changed = getattr(changed, name)
    assert changed == value
    assert type(changed) is type(value)


def test_an_override_changes_nothing_else(cfg):
    before = to_dict(cfg)
    after = to_dict(override(cfg, "stages.vae.steps=3"))
    assert to_dict(cfg) == before
    assert after["stages"]["vae"].pop("steps") == 3
    before["stages"]["vae"].pop("steps")
    assert after == before


@pytest.mark.parametrize(
    "assignment",
    [
        "seed=1.5",
        "seed=True",
        "seed=None",
        "seed=",
        "seed=two",
        "stages.vae.optim.lr=True",
        "stages.vae.optim.lr=fast",
        "loss.onset_trains_video=1",
        "loss.snr_gamma=five",
        "loss.snr_gamma=True",
        "model.vocoder.istft=(64,)",
        "model.vocoder.istft=64",
        "model.unet.block_out_channels=8",
        "model.unet.block_out_channels=(8, 1.5)",
        "model.unet.block_out_channels=(8, True)",
        "model.unet.attention=(0, 1)",
        "model.unet=3",
    ],
)
def test_a_wrong_type_is_refused_with_the_name_and_what_was_expected(cfg, assignment):
    name, _, text = assignment.partition("=")
    with pytest.raises(TypeError) as caught:
        override(cfg, assignment)
    message = str(caught.value)
    assert message.startswith(f"{name.split('.')[-1]}: expected ")
    assert message.endswith(f", got {text!r}")


def test_an_unknown_name_is_answered_with_the_nearest_one_or_with_all(cfg):
    with pytest.raises(KeyError, match="StagesConfig has no field 'vea'; did you mean 'vae'"):
        override(cfg, "stages.vea.steps=3")
    with pytest.raises(KeyError, match="it has seed, train_clips, valid_clips"):
        override(cfg, "data.zzzz=3")
    with pytest.raises(KeyError, match=r"Config.name is a value and has no field 'length'"):
        override(cfg, "name.length=3")


def test_an_override_needs_an_equals_sign(cfg):
    with pytest.raises(TypeError, match="expected NAME=VALUE, got 'name'"):
        override(cfg, "name")


def test_the_command_line_speaks_of_a_wrong_override_in_one_sentence():
    with pytest.raises(UserError, match=r"--set stages.vae.stepps=3: StageConfig has no field .* did you mean 'steps'"):
        load_config(CONFIG, ["seed=1", "stages.vae.stepps=3"])
    with pytest.raises(UserError, match="no such config"):
        load_config(CONFIG.with_name("absent.py"), [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(FOLDER).with_suffix("")))
def test_every_config_survives_json(path):
    cfg = load_config(path, [])
    again = from_dict(Config, json.loads(json.dumps(to_dict(cfg))))
    assert again == cfg
    assert hash(again) == hash(cfg)


def test_unknown_and_missing_names_are_listed_together():
    data = to_dict(UNetConfig())
    del data["fold"], data["channels"]
    data |= {"folds": 1, "chanels": 8}
    wanted = r"UNetConfig: unknown fields \['chanels', 'folds'\], missing fields \['channels', 'fold'\]"
    with pytest.raises(KeyError, match=wanted):
        from_dict(UNetConfig, data)
    with pytest.raises(KeyError, match=wanted):
        from_dict(ModelConfig, to_dict(ModelConfig()) | {"unet": data})


def test_files_from_before_a_field_existed_mean_its_default():
    config = json.loads((FOLDER.parent / "stav2a_jax/bundles/foley-tiny/config.json").read_text())["model"]
    for data in (config, to_dict(ModelConfig())):
        old = {name: value for name, value in data.items() if name not in ("sound", "pipeline")}
        model = from_dict(ModelConfig, old)
        assert (model.sound, model.pipeline) == (SoundConfig(), PipelineConfig())
    losses = to_dict(LossConfig(snr_gamma=5.0, null_text="zeros"))
    assert from_dict(LossConfig, losses).null_text == "zeros"
    del losses["null_text"], losses["snr_weight"]
    assert from_dict(LossConfig, losses) == LossConfig(snr_gamma=5.0)
    with pytest.raises(KeyError, match=r"unknown fields \['null'\], missing fields \[\]"):
        from_dict(LossConfig, losses | {"null": "zeros"})


def test_a_part_of_a_config_is_completed_without_its_required_fields(cfg):
    old = {"loss": {"drop_text": 0.3}, "model": {"unet": {"fold": 2}}, "stages": {"vae": {"steps": 3}}}
    new = complete(Config, old)
    assert new["loss"].pop("stav2a_drop_text") is None
    assert new["loss"].pop("stav2a_plain_text") == 0.0
    assert new["loss"] == {"drop_text": 0.3, "snr_weight": "ours", "null_text": "prompt", "count_padding": False}
    assert new["model"]["unet"] == {"fold": 2}
    assert new["model"]["pipeline"] == to_dict(PipelineConfig())
    assert new["stages"] == {"vae": {"steps": 3, "buckets": (), "shown": 2}}
    assert old["loss"] == {"drop_text": 0.3}  # as it was


def test_a_choice_has_one_of_its_values(cfg):
    assert override(cfg, "loss.null_text=zeros").loss.null_text == "zeros"
    with pytest.raises(TypeError, match="null_text: expected one of 'prompt', 'zeros', got 'none'"):
        override(cfg, "loss.null_text=none")
    with pytest.raises(ValueError, match="LossConfig: snr_weight='theirs', expected one of 'ours', 'released'"):
        from_dict(LossConfig, to_dict(LossConfig()) | {"snr_weight": "theirs"})


def test_the_stages_are_those_that_the_recipe_runs(cfg):
    from stav2a_jax.training.recipe import STAGES

    assert list(STAGES) == list(StagesConfig.__dataclass_fields__) == list(to_dict(cfg)["stages"])


def test_derived_lengths_of_the_release_and_of_a_small_latent():
    release = LatentSpec()
    assert (release.frames_per_second, release.frames, release.bins) == (25.0, 256, 16)
    assert (release.mel_frames, release.samples) == (1024, 163_840)  # 10.24 s at 16 kHz
    assert release.shape(3) == (3, 256, 16, 8)
    assert release.shape(3, 32) == (3, 32, 16, 8)
    small = LatentSpec(sample_rate=8000, hop=100, mel_bins=32, downsample=2, channels=4, seconds=1.5)
    assert (small.frames_per_second, small.frames, small.bins) == (40.0, 60, 16)
    assert (small.mel_frames, small.samples) == (120, 12_000)
