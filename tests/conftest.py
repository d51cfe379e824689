"""Four simulated CPU devices; NPROC works around a deadlock of collectives in jaxlib 0.10.2 on CPU."""

import os

os.environ["NPROC"] = "32"  # before jax is imported
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ.setdefault("MPLBACKEND", "agg")

import pathlib

import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs that run a few steps only need not be optimised: compiling them takes half of the time."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def small():
    """The module small.py: overrides that make configs very small, and noise in place of trained stages."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("small", pathlib.Path(__file__).with_name("small.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model():
    """The whole system at its smallest: 16 pixels, a U-Net of 8 and 16 channels, 25 video frames a second."""
    from stav2a_jax import config as c

    return c.ModelConfig(
        autoencoder=c.AutoencoderConfig(base_channels=4, channel_mult=(1, 1, 2), num_res_blocks=1, norm_groups=2),
        vocoder=c.VocoderConfig(
            initial_channels=8,
            upsample_rates=(5,),
            upsample_kernels=(11,),
            resblock_kernels=(3,),
            resblock_dilations=((1,),),
            istft=(64, 32),
        ),
        video=c.VideoEncoderConfig(
            fps=25.0, size=16, base_channels=4, depths=(1,), temporal_kernels=(3, 3), features=8
        ),
        spec=c.SpecEncoderConfig(mel_bins=64, channels=(4, 8), pools=((2, 2), (2, 2)), features=8),
        text=c.TextConfig(vocab_size=300, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, max_length=12),
        local=c.LocalConfig(hidden=8, dim=8, windows=(1, 2), control=4),
        pooling=c.GlobalConfig(dim=8, dropout=0.1),
        unet=c.UNetConfig(
            block_out_channels=(8, 16),
            attention=(False, True),
            num_heads=(2, 2),
            layers_per_block=1,
            cross_attention_dim=8,
            norm_groups=4,
            control_channels=4,
            fold=2,
        ),
    )


@pytest.fixture(scope="session")
def random_params():
    """``random_params(module, *inputs, seed=0)``: parameters of the right shapes without compiling an init."""
    import jax
    import numpy as np

    def make(module, *inputs, seed=0, **options):
        shapes = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **options), *inputs)["params"]
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            positive = path[-1].key in ("scale", "var")  # of normalisation layers
            return (positive + rng.normal(0, 0.05 if positive else 0.2, leaf.shape)).astype(np.float32)

        return jax.tree_util.tree_map_with_path(draw, shapes)

    return make


@pytest.fixture(scope="session")
def tiny_params(tiny_model, random_params):
    """Random parameters of every module of ``tiny_model``, a ``t2a`` U-Net among them."""
    import numpy as np

    from stav2a_jax.models.adapters import AttentivePooling, LocalAdapter, OnsetHead
    from stav2a_jax.models.autoencoder import Autoencoder
    from stav2a_jax.models.cavp import VideoEncoder
    from stav2a_jax.models.controlnet import ControlNet
    from stav2a_jax.models.text import TextEncoder
    from stav2a_jax.models.unet import UNet
    from stav2a_jax.models.vocoder import Vocoder

    def zeros(*shape, dtype=np.float32):
        return np.zeros(shape, dtype)

    m = tiny_model
    ids = zeros(1, 4, dtype=np.int32)
    noisy = zeros(1, 8, m.latent.bins, 8), zeros(1, dtype=np.int32), zeros(1, 4, 8), zeros(1, 4)
    return {
        "autoencoder": random_params(Autoencoder(m.autoencoder), zeros(1, 32, 64, 1)),
        "vocoder": random_params(Vocoder(m.vocoder), zeros(1, 32, 64)),
        "video": random_params(VideoEncoder(m.video), zeros(1, 8, 16, 16, 3)),
        "text": random_params(TextEncoder(m.text), ids, ids),
        "unet": random_params(UNet(m.unet), *noisy),
        "t2a": random_params(UNet(m.unet), *noisy, seed=1),
        "controlnet": random_params(ControlNet(m.unet), *noisy, zeros(1, 8, 4)),
        "local": random_params(LocalAdapter(m.local), zeros(1, 8, 8)),
        "onset": random_params(OnsetHead(m.local), zeros(1, 8, 24)),
        "pooling": random_params(AttentivePooling(m.pooling), zeros(1, 8, 8)),
    }


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_model, tiny_params) -> pathlib.Path:
    """Folder of a bundle that makes noise, fast: ``tiny_model`` with ``tiny_params``, two steps by default."""
    from stav2a_jax.bundle import save_bundle
    from stav2a_jax.config import GuidanceConfig
    from stav2a_jax.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    captions = ["a wooden ball bounces", "footsteps on metal", "drops fall into water", "something glass is struck"]
    tokenizer = train_bpe(captions, 300).save(folder.parent / "tokenizer.json")
    guidance = GuidanceConfig(steps=2, text=2.0)
    save_bundle(folder, tiny_model, guidance, tiny_params, tokenizer, {"licence": "none"}, "# A random model\n")
    return folder


@pytest.fixture(scope="session")
def released_model():
    """The release's architecture at its smallest: what a checkpoint without a config.json can say about itself."""
    from stav2a_jax import config as c

    return c.ModelConfig(
        autoencoder=c.AutoencoderConfig(base_channels=8, channel_mult=(1, 1, 2), num_res_blocks=1),
        vocoder=c.VocoderConfig(initial_channels=32),
        video=c.VideoEncoderConfig(size=32, base_channels=4, depths=(1, 1, 2, 1), features=16),
        spec=c.SpecEncoderConfig(channels=(4,) * 6, features=16),
        text=c.TextConfig(vocab_size=300, d_model=16, d_kv=4, d_ff=8, num_layers=2, num_heads=2),
        local=c.LocalConfig(hidden=8, dim=4, control=6),
        pooling=c.GlobalConfig(dim=16, tokens=3),
        unet=c.UNetConfig(
            block_out_channels=(32, 64),
            attention=(False, True),
            num_heads=(8, 8),
            layers_per_block=1,
            cross_attention_dim=16,
            control_channels=6,
        ),
    )


@pytest.fixture(scope="session")
def released_weights(released_model):
    """Random float32 parameters of every group of ``released_model``, "group/path" -> array."""
    import numpy as np

    from stav2a_jax.convert.components import expected

    rng = np.random.default_rng(0)
    groups = ("autoencoder", "vocoder", "video", "spec", "text", "unet", "controlnet", "local", "onset", "pooling")
    shapes = {path: shape for group in groups for path, shape in expected(released_model, group).items()}
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
