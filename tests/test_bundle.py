"""A bundle is one folder that comes back as it was written, or is refused in one sentence."""

import json
import shutil

import jax
import numpy as np
import pytest

from stav2a_jax.bundle import find_bundle, load_bundle, load_params, save_params
from stav2a_jax.config import GuidanceConfig
from stav2a_jax.pipeline import VideoToAudio
from stav2a_jax.types import UserError


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    """A bundle to be damaged."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def edit(folder, change):
    """Apply ``change`` to the config in place."""
    data = json.loads((folder / "config.json").read_text())
    change(data)
    (folder / "config.json").write_text(json.dumps(data))


def test_a_bundle_comes_back_as_it_was_written(tiny_bundle, tiny_model, tiny_params):
    bundle = load_bundle(str(tiny_bundle))
    assert (bundle.name, bundle.folder) == ("tiny", tiny_bundle)
    assert bundle.model == tiny_model
    assert bundle.guidance == GuidanceConfig(steps=2, text=2.0)
    assert bundle.info == {"licence": "none"}
    assert jax.tree.structure(bundle.params) == jax.tree.structure(tiny_params)
    for got, written in zip(jax.tree.leaves(bundle.params), jax.tree.leaves(tiny_params), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, written.astype(np.float16))


def test_a_bundle_is_four_files_and_no_rest(tiny_bundle):
    names = sorted(p.name for p in tiny_bundle.iterdir())
    assert names == ["README.md", "config.json", "tokenizer.json", "weights.safetensors"]


def test_parameters_keep_every_bit_in_float32(tmp_path, tiny_params):
    save_params(tmp_path / "new folder" / "params.safetensors", tiny_params)
    again = load_params(tmp_path / "new folder" / "params.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again, tiny_params)


def test_an_unknown_bundle_is_refused_and_the_known_ones_are_listed(tmp_path):
    for name in ("foley-tinny", str(tmp_path), "", str(tmp_path / "absent")):
        with pytest.raises(UserError, match=r"unknown bundle .* one of the bundled models"):
            find_bundle(name)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "weights.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "weights.safetensors").write_bytes(b""), "cannot be read"),
        (lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-100]), "be read"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda f: edit(f, lambda d: d.pop("guidance")), "cannot be read .*guidance"),
        (lambda f: edit(f, lambda d: d.pop("info")), "cannot be read .*info"),
        (lambda f: edit(f, lambda d: d["model"]["unet"].update(depth=3)), r"unknown fields \['depth'\]"),
        (lambda f: edit(f, lambda d: d["model"]["unet"].pop("fold")), r"missing fields \['fold'\]"),
        (lambda f: (f / "config.json").unlink(), "unknown bundle"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_sentence(copy, damage, words):
    damage(copy)
    with pytest.raises(UserError, match=words) as caught:
        load_bundle(str(copy))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_named(copy, tiny_params):
    few = {name: tree for name, tree in tiny_params.items() if name not in ("vocoder", "onset", "t2a")}
    save_params(copy / "weights.safetensors", few)
    with pytest.raises(UserError, match="lacks the weights of onset, vocoder"):
        load_bundle(str(copy))


def test_a_bundle_without_its_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        VideoToAudio.from_bundle(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        VideoToAudio.from_bundle(copy)
