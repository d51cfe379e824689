"""Every checkpoint of the key lists goes into a bundle and comes back: no key lost, none added, no bit changed."""

import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from stav2a_jax.convert.families import FAMILIES, released_config
from stav2a_jax.convert.hub import find_tokenizer
from stav2a_jax.convert.read import open_checkpoint
from stav2a_jax.convert.store import as_source, combine, open_bundle, write, write_checkpoint
from stav2a_jax.convert.transfer import convert, explain, export
from stav2a_jax.tensors import Entry, Tensors
from stav2a_jax.tokenizer import Tokenizer

torch = pytest.importorskip("torch")

ROOT = pathlib.Path(os.environ.get("STAV2A_PARITY", pathlib.Path(__file__).parents[2].parent / "shared")) / "parity"
FULL = (
    ("sta_v2a_full", "stav2a"),
    ("sta_v2a_full_tango", "stav2a"),
    ("mt5_large", "t5"),
    ("vae_paper", "audioldm"),
    ("cavp", "cavp"),
    ("unet_sta128", "unet"),
    ("unet_tango", "unet"),
    ("controlnet_sta128", "controlnet"),
    ("controlnet_tango", "controlnet"),
    ("hifigan_paper", "hifigan"),
)


def recipe():
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(name):
    return recipe().load_manifest(ROOT / "manifests" / f"{name}.json")


def weights(name, prefix=""):
    """Recipe weights of a manifest by their PyTorch keys; those under a prefix, which is cut."""
    state = recipe().state_dict(manifest(name), 0)
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}


def network_configs(name):
    """config.json of the networks of a manifest, by component: only these say how many heads a tiny U-Net has."""
    config = manifest(name)["config"]
    unet, text = config.get("unet", config), config.get("text_encoder", {})
    unet = unet if "block_out_channels" in unet else {}
    return {"unet": unet, "controlnet": unet, "t5": text}


def zeros(entry):
    _, shape, dtype = entry[:3]
    return Entry(tuple(shape), np.dtype(dtype), lambda: np.broadcast_to(np.zeros((), dtype), shape))


@pytest.mark.parametrize(("name", "family"), FULL)
def test_full_key_lists_are_bijections(name, family):
    prefix = "first_stage_model." if family == "audioldm" else ""
    tensors = Tensors({prefix + entry[0]: zeros(entry) for entry in manifest(name)["entries"]})
    out = convert(tensors, FAMILIES[family])
    assert not out.problems, explain(out.problems)
    assert not out.aside
    back, _ = export(out.tensors, released_config(out.fields)[0], FAMILIES[family], out.form)
    assert back.shapes == tensors.shapes
    assert all(back.entries[key].dtype == tensors.entries[key].dtype for key in tensors)
    for key in list(tensors)[::97]:
        assert back[key].shape == tensors.shapes[key]


def test_nothing_but_the_tied_copy_is_dropped_from_the_release():
    tensors = Tensors({entry[0]: zeros(entry) for entry in manifest("sta_v2a_full")["entries"]})
    numbers = convert(tensors, FAMILIES["stav2a"]).tensors.shapes.values()
    assert sum(int(np.prod(shape)) for shape in numbers) == manifest("sta_v2a_full")["parameters"]


def as_tensors(state):
    return {key: torch.from_numpy(np.array(array)) for key, array in state.items()}


def mapped(part, older=False):
    """vae_tiny under the names of diffusers or transformers, by the key map that was made with their own scripts."""
    names, state = json.loads((ROOT / "manifests" / "keymap_vae_tiny.json").read_text())[part], weights("vae_tiny")
    if part == "vocoder":
        extra = {"mean": np.zeros(64, np.float32), "scale": np.ones(64, np.float32)}
        return {row["transformers"]: state[key] for key, row in names.items()} | extra
    name = "diffusers_older" if older else "diffusers"
    return {row[name]: state[key].reshape(row["diffusers_shape"]) for key, row in names.items()}


def prefixed(state, prefix):
    return {prefix + key: array for key, array in state.items()}


ONSET = ("trans_cvap_feature.", "pre_onset.")
SCALE = {"scale_factor": np.float32(0.9227914214134216)}
CASES = {
    "stav2a": lambda: ("stav2a", "pipeline_tiny", weights("pipeline_tiny")),
    "tango": lambda: (
        "tango",
        "pipeline_tiny",
        {k: a for k, a in weights("pipeline_tiny").items() if k.startswith(("unet.", "text_encoder."))},
    ),
    "onset": lambda: (
        "onset",
        "pipeline_tiny",
        {k: a for k, a in weights("pipeline_tiny").items() if k.startswith(ONSET)},
    ),
    "unet, linear": lambda: ("unet", "unet_tiny_lin", weights("unet_tiny_lin")),
    "unet, convolution": lambda: ("unet", "unet_tiny_conv", weights("unet_tiny_conv")),
    "controlnet, linear": lambda: ("controlnet", "controlnet_tiny_lin", weights("controlnet_tiny_lin")),
    "controlnet, convolution": lambda: ("controlnet", "controlnet_tiny_conv", weights("controlnet_tiny_conv")),
    "audioldm": lambda: ("audioldm", "vae_tiny", prefixed(weights("vae_tiny"), "first_stage_model.") | SCALE),
    "audioldm, without prefix": lambda: ("audioldm", "vae_tiny", weights("vae_tiny")),
    "autoencoder-kl": lambda: ("autoencoder-kl", "vae_tiny", mapped("vae")),
    "autoencoder-kl, older": lambda: ("autoencoder-kl", "vae_tiny", mapped("vae", older=True)),
    "speecht5-hifigan": lambda: ("speecht5-hifigan", "vae_tiny", mapped("vocoder")),
    "hifigan": lambda: ("hifigan", "hifigan_tiny", weights("hifigan_tiny")),
    "cavp": lambda: ("cavp", "cavp_tiny", prefixed(weights("cavp_tiny"), "module.")),
    "t5": lambda: ("t5", "mt5_tiny", weights("mt5_tiny")),
}


def to_bundle(path, family, configs, folder):
    source = as_source(open_checkpoint(path), FAMILIES[family], configs)
    write(combine([source]), folder, None, "test")
    return open_bundle(str(folder))


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("name", CASES)
def test_pytorch_to_bundle_to_pytorch_is_bit_identical(name, suffix, tmp_path):
    family, sizes, state = CASES[name]()
    nested = "state_dict" if name in ("audioldm", "cavp") else None
    tensors = as_tensors(state)
    torch.save({nested: tensors} if nested else tensors, tmp_path / "in.bin")
    opened = to_bundle(tmp_path / "in.bin", family, network_configs(sizes), tmp_path / "bundle")
    write_checkpoint(opened, FAMILIES[family], tmp_path / f"out{suffix}")
    if suffix == ".bin":
        got = torch.load(tmp_path / "out.bin", weights_only=True)
        got = {key: tensor.numpy() for key, tensor in (got[nested] if nested else got).items()}
    else:
        got = open_checkpoint(tmp_path / "out.safetensors").tensors
        got = got.prefixed("module.") if name == "cavp" else got
    assert set(got) == set(state)
    for key, array in state.items():
        assert got[key].dtype == np.asarray(array).dtype, key
        assert got[key].tobytes() == np.asarray(array).tobytes(), key


def test_weight_norm_comes_back_as_the_plain_weights_that_it_stands_for(tmp_path, oracle):
    case = oracle("hifigan_tiny_wn")
    torch.save(as_tensors(case.weights()), tmp_path / "in.bin")
    opened = to_bundle(tmp_path / "in.bin", "hifigan", {}, tmp_path / "bundle")
    back = write_checkpoint(opened, FAMILIES["hifigan"], tmp_path / "out.bin")
    for key in ("conv_pre.weight", "ups.0.weight", "conv_post.weight"):
        case.check(f"effective/{key}", back[key])


@pytest.fixture(scope="module")
def public_models():
    """Small random models of the public classes: family -> model."""
    import diffusers
    import transformers

    text = {"vocab_size": 320, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    return {
        "t5": transformers.MT5EncoderModel(transformers.MT5Config(**text, feed_forward_proj="gated-gelu")),
        "unet": diffusers.UNet2DConditionModel(
            in_channels=8,
            out_channels=8,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            cross_attention_dim=16,
            norm_num_groups=4,
        ),
        "autoencoder-kl": diffusers.AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=8,
            norm_num_groups=4,
            scaling_factor=0.75,
        ),
        "speecht5-hifigan": transformers.SpeechT5HifiGan(
            transformers.SpeechT5HifiGanConfig(
                model_in_dim=64,
                upsample_initial_channel=16,
                upsample_rates=[5, 4],
                upsample_kernel_sizes=[11, 8],
                resblock_kernel_sizes=[3, 5],
                resblock_dilation_sizes=[[1, 3], [1, 2]],
                normalize_before=False,
            )
        ),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_folders_that_the_public_classes_write_come_back_into_them(tmp_path, public_models):
    for family, model in public_models.items():
        folder = tmp_path / family
        model.save_pretrained(folder)
        source = as_source(open_checkpoint(folder), FAMILIES[family])
        assert not source.converted.assumed, source.converted.assumed
        write(combine([source]), tmp_path / "b" / family, None, "test")
        write_checkpoint(open_bundle(str(tmp_path / "b" / family)), FAMILIES[family], tmp_path / f"{family}.bin")
        state = torch.load(tmp_path / f"{family}.bin", weights_only=True)
        want = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        if "encoder.embed_tokens.weight" not in state and family == "t5":  # its file holds the tied embedding once
            state["encoder.embed_tokens.weight"] = state["shared.weight"]
        model.load_state_dict(state, strict=True)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, want[key]), f"{family}: {key}"


def test_the_configs_of_the_public_classes_are_read(tmp_path, public_models):
    got = {}
    for family, model in public_models.items():
        model.save_pretrained(tmp_path / family)
        got[family] = as_source(open_checkpoint(tmp_path / family), FAMILIES[family]).converted.fields
    assert (got["unet"]["unet"]["num_heads"], got["unet"]["unet"]["norm_groups"]) == ((2, 4), 4)
    scale_and_groups = got["autoencoder-kl"]["autoencoder"]
    assert (scale_and_groups["scale_factor"], scale_and_groups["norm_groups"]) == (0.75, 4)
    assert got["speecht5-hifigan"]["vocoder"]["upsample_rates"] == (5, 4)
    assert got["speecht5-hifigan"]["vocoder"]["resblock_dilations"] == ((1, 3), (1, 2))


def test_a_tokenizer_of_transformers_gives_the_ids_of_its_sentencepiece_model(tmp_path):
    import sentencepiece
    from transformers import T5Tokenizer

    captions = ["a wooden ball bounces on the floor", "footsteps on metal", "drops fall into water", "a dog barks"]
    (tmp_path / "captions.txt").write_text("\n".join(captions * 20))
    (tmp_path / "spiece").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "captions.txt"),
        model_prefix=str(tmp_path / "spiece" / "spiece"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    T5Tokenizer.from_pretrained(str(tmp_path / "spiece"), extra_ids=0).save_pretrained(tmp_path / "fast")
    assert (tmp_path / "fast" / "tokenizer.json").is_file()
    texts = [*captions, "", "a wooden  metal dog"]
    found = [find_tokenizer(tmp_path / name, 320) for name in ("spiece", "fast")]
    assert [path.name for path in found] == ["spiece.model", "tokenizer.json"]
    (ids, mask), (same_ids, same_mask) = (Tokenizer.load(path)(texts) for path in found)
    np.testing.assert_array_equal(ids, same_ids)
    np.testing.assert_array_equal(mask, same_mask)
