"""`stav2a convert`, `export` and `inspect`: checkpoints to a bundle and back, or one sentence and nothing written."""

import contextlib
import json

import numpy as np
import pytest
import safetensors.numpy

from stav2a_jax import cli
from stav2a_jax.bundle import load_bundle, load_part
from stav2a_jax.config import from_dict, to_dict
from stav2a_jax.convert.families import FAMILIES
from stav2a_jax.convert.transfer import export
from stav2a_jax.released import GUIDANCE, released
from stav2a_jax.tensors import Tensors, read_safetensors, write_safetensors
from stav2a_jax.tokenizer import train_bpe
from stav2a_jax.training import initial
from stav2a_jax.types import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory, released_model, released_weights):
    """Folder with release.safetensors, vae.safetensors (in the original layout) and text/ (tokenizer)."""
    folder = tmp_path_factory.mktemp("files")
    for family, name in (("stav2a", "release"), ("audioldm", "vae"), ("cavp", "cavp"), ("tango", "tango")):
        tensors, _ = export(Tensors.of(released_weights), released_model, FAMILIES[family])
        write_safetensors(folder / f"{name}.safetensors", tensors)
    train_bpe(["a wooden ball bounces", "footsteps on metal"], 300).save(folder / "text")
    return folder


def stav2a(files, out, *more, checkpoint="release.safetensors", vae="vae.safetensors"):
    options = ["--checkpoint", str(files / checkpoint), "--vae", str(files / vae), "--out", str(out)]
    return cli.main(["convert", "stav2a", *options, "--text-encoder", str(files / "text"), *more])


@pytest.fixture(scope="module")
def bundle(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "converted"
    assert stav2a(files, folder) == 0
    return folder


def saved(path):
    return {key: array.tobytes() for key, array in safetensors.numpy.load_file(path).items()}


def changed(source, target, change):
    """A checkpoint like ``source`` with its arrays by key changed in place."""
    state = dict(safetensors.numpy.load_file(source))
    change(state)
    safetensors.numpy.save_file(state, target)
    return target


def refused(capsys, argv, *words):
    """The command exits with 2 and one sentence; returns it."""
    assert cli.main([str(a) for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stav2a: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    return error


def test_a_converted_bundle_has_the_files_numbers_and_the_released_behaviour(bundle, released_model, released_weights):
    loaded = load_bundle(str(bundle))
    want = released(released_model)
    assert to_dict(loaded.model) == to_dict(want)
    assert loaded.model == from_dict(type(want), to_dict(want))
    assert loaded.guidance == GUIDANCE
    assert sorted(loaded.params) == sorted({p.split("/")[0] for p in released_weights} - {"spec"})
    np.testing.assert_array_equal(loaded.params["text"]["embedding"], released_weights["text/embedding"])
    weights = read_safetensors(bundle / "weights.safetensors")
    for path, array in released_weights.items():
        np.testing.assert_array_equal(weights[path], array, err_msg=path)


def test_where_the_weights_came_from_is_kept(bundle, files):
    info = json.loads((bundle / "config.json").read_text())["info"]
    assert [s["family"] for s in info["sources"]] == ["stav2a", "audioldm"]
    file = info["sources"][0]["files"][0]
    assert file["name"] == "release.safetensors"
    assert file["bytes"] == (files / "release.safetensors").stat().st_size
    card = (bundle / "README.md").read_text()
    assert file["sha256"] in card
    assert "CC-BY-NC-SA-4.0" in card
    assert str(files) not in card + json.dumps(info)


def test_a_licence_that_forbids_selling_is_announced_once(files, tmp_path, capsys):
    assert stav2a(files, tmp_path / "b") == 0
    assert "note: its weights may not be used commercially" in capsys.readouterr().out
    for _ in range(2):
        load_bundle(str(tmp_path / "b"))
    assert (
        capsys.readouterr().err
        == "b: its weights may not be used commercially: CC-BY-NC-SA-4.0 (AudioLDM, cvssp/audioldm)\n"
    )


@pytest.mark.parametrize(("family", "name"), [(None, "release"), ("audioldm", "vae"), ("cavp", "cavp")])
def test_the_way_back_is_bit_identical(bundle, files, tmp_path, family, name):
    out = tmp_path / "out.safetensors"
    assert cli.main(["export", str(bundle), "--out", str(out), *(["--family", family] if family else [])]) == 0
    assert saved(out) == saved(files / f"{name}.safetensors")


def test_torch_loads_what_is_written_for_it(bundle, files, tmp_path):
    torch = pytest.importorskip("torch")
    assert cli.main(["export", str(bundle), "--to", "pytorch", "--out", str(tmp_path / "pytorch_model_2.bin")]) == 0
    got = torch.load(tmp_path / "pytorch_model_2.bin", weights_only=True)
    assert {k: v.numpy().tobytes() for k, v in got.items()} == saved(files / "release.safetensors")
    tied = got["text_encoder.shared.weight"], got["text_encoder.encoder.embed_tokens.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert cli.main(["export", str(bundle), "--family", "audioldm", "--out", str(tmp_path / "vae.ckpt")]) == 0
    state = torch.load(tmp_path / "vae.ckpt", weights_only=True)
    assert {k: v.numpy().tobytes() for k, v in state.items()} == saved(files / "vae.safetensors")
    assert cli.main(["convert", "audioldm", str(tmp_path / "vae.ckpt"), "--out", str(tmp_path / "part")]) == 0
    assert sorted(load_part(str(tmp_path / "part"), ("autoencoder", "vocoder")).params) == ["autoencoder", "vocoder"]


def test_half_precision_is_kept_or_asked_for(files, tmp_path, released_weights):
    def halve(state):
        state.update({k: a.astype(np.float16) for k, a in state.items() if a.dtype == np.float32})

    half = changed(files / "cavp.safetensors", tmp_path / "half.safetensors", halve)
    for source, options in ((half, ()), (files / "cavp.safetensors", ("--dtype", "float16"))):
        out = tmp_path / source.stem
        assert cli.main(["convert", "cavp", str(source), "--out", str(out), *options]) == 0
        weights = read_safetensors(out / "weights.safetensors")
        assert weights["video/project/kernel"].dtype == np.float16
        np.testing.assert_array_equal(weights["spec/fc1/bias"], released_weights["spec/fc1/bias"].astype(np.float16))
        assert load_part(str(out), ("video",)).params["video"]["project"]["kernel"].dtype == np.float32


def test_parts_may_come_from_other_files(files, tmp_path, released_weights):
    def without(state):
        for key in [k for k in state if k.startswith("extract_cavp.")]:
            del state[key]

    def other(state):
        state["video_project_head.bias"] = state["video_project_head.bias"] + 1

    changed(files / "release.safetensors", tmp_path / "r.safetensors", without)
    changed(files / "cavp.safetensors", tmp_path / "cavp.safetensors", other)
    cavp = "--cavp", str(tmp_path / "cavp.safetensors")
    for checkpoint in (tmp_path / "r.safetensors", files / "release.safetensors"):
        out = tmp_path / checkpoint.stem
        assert stav2a(files, out, *cavp, checkpoint=checkpoint) == 0
        bias = load_bundle(str(out)).params["video"]["project"]["bias"]
        np.testing.assert_array_equal(bias, released_weights["video/project/bias"] + 1)
    assert cli.main(["export", str(tmp_path / "r"), "--out", str(tmp_path / "again.safetensors")]) == 0
    assert saved(tmp_path / "again.safetensors") == saved(tmp_path / "r.safetensors")


def test_a_part_that_nobody_gives_is_asked_for(files, tmp_path, capsys):
    def without(*prefixes):
        def change(state):
            for key in [k for k in state if k.startswith(prefixes)]:
                del state[key]

        return change

    changed(files / "release.safetensors", tmp_path / "r.safetensors", without("extract_cavp."))
    changed(files / "vae.safetensors", tmp_path / "v.safetensors", without("first_stage_model.vocoder."))
    with contextlib.chdir(tmp_path):
        assert stav2a(files, "out", checkpoint=tmp_path / "r.safetensors", vae=tmp_path / "v.safetensors") == 2
    assert "none of the files holds vocoder, video: give --vocoder FILE, --cavp FILE" in capsys.readouterr().err


DAMAGES = {
    "renamed": (
        lambda s: s.update({k.replace("unet.", "u_net.", 1): s.pop(k) for k in list(s) if k.startswith("unet.")}),
        "it lacks unet.* (unet)",
    ),
    "half missing": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("unet.up_blocks.1")],
        "missing (unet.up_blocks.1",
    ),
    "wrong width": (
        lambda s: s.update({"pre_onset.l2.weight": np.zeros((3, 6), np.float32)}),
        "1 of another shape (pre_onset.l2.weight: (6, 3) does not fit onset/l2/kernel (6, 2))",
    ),
    "not a copy": (
        lambda s: s.update({"text_encoder.shared.weight": s["text_encoder.shared.weight"] + 1}),
        "text_encoder.encoder.embed_tokens.weight: expected a copy of text_encoder.shared.weight",
    ),
    "not finite": (
        lambda s: s.update({"unet.conv_in.bias": np.full(32, np.nan, np.float32)}),
        "unet/conv_in/bias holds NaN or infinity",
    ),
    "another width altogether": (
        lambda s: s.update(
            {f"text_encoder.{k}": a for k, a in {"shared.weight": np.zeros((300, 8), np.float32)}.items()}
        ),
        "text_encoder.shared.weight: (300, 8) does not fit text/embedding (300, 16)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_written(damage, files, tmp_path, capsys):
    change, words = DAMAGES[damage]
    bad = changed(files / "release.safetensors", tmp_path / "bad.safetensors", change)
    assert stav2a(files, tmp_path / "out", checkpoint=bad) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert [p.name for p in tmp_path.iterdir()] == ["bad.safetensors"]


def test_a_truncated_and_a_malicious_file_are_refused(files, tmp_path, capsys):
    whole = (files / "cavp.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-5])
    refused(capsys, ["convert", "cavp", tmp_path / "cut.safetensors", "--out", tmp_path / "o"], "cut short")
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "run": print}, tmp_path / "bad.ckpt")
    refused(capsys, ["convert", "cavp", tmp_path / "bad.ckpt", "--out", tmp_path / "o"], "(print)", "never loaded")
    assert not (tmp_path / "o").exists()


def test_a_folder_that_is_there_is_kept_unless_told_otherwise(files, tmp_path, capsys):
    command = ["convert", "cavp", files / "cavp.safetensors", "--out", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(capsys, [*command, "--force"], "is already there")
    (tmp_path / "out" / "notes.txt").unlink()
    assert cli.main([str(a) for a in command]) == 0
    refused(capsys, command, "--force replaces a bundle")
    assert cli.main([str(a) for a in [*command, "--force"]]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_must_be_there_and_fit(files, tmp_path, capsys):
    release, vae = files / "release.safetensors", files / "vae.safetensors"
    command = ["convert", "stav2a", "--checkpoint", release, "--vae", vae, "--out", tmp_path / "o", "--text-encoder"]
    (tmp_path / "empty").mkdir()
    refused(capsys, [*command, tmp_path / "empty"], "has no tokenizer: it needs tokenizer.json or spiece.model")
    refused(capsys, [*command, tmp_path / "absent"], "no such folder")
    words = [f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "mnprst"]
    train_bpe([f"{a} {b}" for a in words for b in words[:40]], 400).save(tmp_path / "large")
    refused(capsys, [*command, tmp_path / "large"], "the text encoder 300: it belongs to another model")


def test_inspect_says_what_a_file_is_and_what_does_not_fit(files, bundle, tmp_path, capsys):
    assert cli.main(["inspect", str(files / "release.safetensors")]) == 0
    text = capsys.readouterr().out
    for words in (
        "family: stav2a",
        "parts of it: tango, onset",
        "everything fits",
        "assumed: U-Net: 8, 8 heads",
        "float32",
    ):
        assert words in text
    bad = changed(files / "cavp.safetensors", tmp_path / "bad.safetensors", lambda s: s.pop("logit_scale"))
    assert cli.main(["inspect", str(bad)]) == 1
    assert "wrong: rule 'logit_scale' matched nothing" in capsys.readouterr().out
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "x.safetensors")
    assert cli.main(["inspect", str(tmp_path / "x.safetensors")]) == 1
    assert "fits none of the known families" in capsys.readouterr().out
    assert cli.main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    for words in ("whole: it generates", "can be exported as: stav2a, audioldm,", "may not be used commercially"):
        assert words in text


def test_what_cannot_be_exported_is_said(bundle, tiny_bundle, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    refused(capsys, ["export", tiny_bundle, "--out", out, "--family", "onset"], "local.windows = (1, 2)")
    refused(capsys, ["export", tiny_bundle, "--out", out, "--family", "unet"], "unet.fold = 2")
    refused(capsys, ["export", bundle, "--out", out, "--family", "vit"], "unknown family 'vit'")
    refused(capsys, ["export", bundle, "--out", tmp_path / "out.onnx"], "must end in one of")
    out.write_text("mine")
    refused(capsys, ["export", bundle, "--out", out], "--force replaces it")
    assert out.read_text() == "mine"


class Run:
    """What of a training run the starting weights touch."""

    def __init__(self, root, model):
        from stav2a_jax.config import Config, StageConfig, StagesConfig
        from stav2a_jax.training.workspace import Workspace

        stage = StageConfig(steps=1, batch_size=1, crop_seconds=1.0)
        stages = StagesConfig(vae=stage, vocoder=stage, cavp=stage, t2a=stage, onset=stage, stav2a=stage)
        self.ws = Workspace(Config(name="x", stages=stages, model=model), root, root / "cache")


def test_training_starts_from_converted_weights(files, tmp_path, released_model, released_weights, capsys):
    part = tmp_path / "tango"
    text = "--text-encoder", str(files / "text")
    assert cli.main(["convert", "tango", str(files / "tango.safetensors"), "--out", str(part), *text]) == 0
    ws = Run(tmp_path / "run", released_model).ws
    assert initial.adopt(ws, "t2a", [str(part)])
    assert not initial.adopt(ws, "t2a", [str(part)])
    params, record = ws.result("t2a")
    np.testing.assert_array_equal(params["unet"]["conv_in"]["bias"], released_weights["unet/conv_in/bias"])
    assert record["licence"] == ["CC-BY-NC-SA-4.0 (declare-lab/tango)"]
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == (files / "text" / "tokenizer.json").read_bytes()
    assert "tango: its weights may not be used commercially" in capsys.readouterr().err


def test_the_encoders_start_with_their_own_temperature(files, tmp_path, released_model, released_weights):
    cavp = changed(files / "cavp.safetensors", tmp_path / "c.safetensors", lambda s: s["logit_scale"].fill(3.25))
    assert cli.main(["convert", "cavp", str(cavp), "--out", str(tmp_path / "cavp")]) == 0
    ws = Run(tmp_path / "run", released_model).ws
    initial.adopt(ws, "cavp", [str(tmp_path / "cavp")])
    params = ws.result("cavp")[0]
    assert params["logit_scale"]["value"] == 3.25
    np.testing.assert_array_equal(params["spec"]["fc1"]["bias"], released_weights["spec/fc1/bias"])


def test_starting_weights_that_do_not_fit_are_refused(files, bundle, tmp_path, released_model, tiny_model, capsys):
    part = tmp_path / "unet"
    assert cli.main(["convert", "unet", str(files / "release.safetensors"), "--out", str(part)]) == 0
    with pytest.raises(UserError, match=r"lack text; name another bundle"):
        initial.adopt(Run(tmp_path / "a", released_model).ws, "t2a", [str(part)])
    with pytest.raises(UserError, match=r"does not fit the config: unet\.block_out_channels"):
        initial.adopt(Run(tmp_path / "b", tiny_model).ws, "t2a", [str(part)])
    with pytest.raises(UserError, match="lack unet"):  # the U-Net of a whole model is no text-to-audio model any more
        initial.adopt(Run(tmp_path / "c", released_model).ws, "t2a", [str(bundle)])
    capsys.readouterr()
    refused(capsys, ["train", "--init", "stav2a=x"], "expected STAGE=FOLDER with a stage of vae")
