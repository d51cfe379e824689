"""Parameters of ours, written with the tables, give our numbers in the public PyTorch classes (``strict=True``).

These tests need PyTorch, diffusers and transformers, but no fixtures. ``AutoencoderKL`` and ``SpeechT5HifiGan`` have
theirs in ``test_autoencoder.py`` and ``test_vocoder.py``.
"""

import dataclasses

import jax
import numpy as np
import pytest

from stav2a_jax.config import TextConfig, UNetConfig
from stav2a_jax.convert.public import load, public_controlnet, public_unet
from stav2a_jax.convert.tables.text import TEXT
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.text import TextEncoder
from stav2a_jax.models.unet import UNet
from stav2a_jax.nn.call import apply

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.standalone, pytest.mark.usefixtures("quick_compilation")]

TOLERANCE = 1e-4  # max |difference| / rms
TINY = UNetConfig(
    block_out_channels=(16, 32),
    attention=(True, True),
    num_heads=(2, 4),
    layers_per_block=1,
    cross_attention_dim=20,
    norm_groups=8,
    control_channels=6,
)
UNETS = {
    # config, (frames, bins): lengths that two or three downsamplings round up, and lengths that they divide
    "linear projections, heads of one width": (dataclasses.replace(TINY, linear_projection=True), (7, 5)),
    "1x1 convolutions, other heads at every level, none at the finest": (
        dataclasses.replace(TINY, block_out_channels=(16, 24, 32), attention=(False, True, True), num_heads=(1, 3, 8)),
        (13, 6),
    ),
    "attention at the first level only, two layers": (
        dataclasses.replace(
            TINY,
            block_out_channels=(16, 16, 32),
            attention=(True, False, False),
            num_heads=(4, 2, 2),
            layers_per_block=2,
        ),
        (16, 8),
    ),
    "attention in the middle only, one level's width repeated, an odd number of bins": (
        dataclasses.replace(TINY, attention=(False, False), block_out_channels=(32, 32), linear_projection=True),
        (8, 3),
    ),
}


def agree(got, want):
    want = want.numpy()
    got = np.moveaxis(np.asarray(got), -1, 1) if want.ndim == 4 else np.asarray(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= TOLERANCE * np.sqrt(np.mean(np.square(want, dtype=np.float64)))


@pytest.mark.parametrize("name", UNETS)
def test_unet_and_controlnet_give_the_same_output_in_diffusers(name, random_params):
    cfg, (frames, bins) = UNETS[name]
    rng = np.random.default_rng(0)
    x, context, control = (
        rng.standard_normal(shape, np.float32)
        for shape in ((2, frames, bins, 8), (2, 5, cfg.cross_attention_dim), (2, frames, cfg.control_channels))
    )
    t, mask = np.array([7, 981]), np.float32([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    ours, net = UNet(cfg), ControlNet(cfg)
    params = random_params(ours, x, t, context, mask)
    net_params = random_params(net, x, t, context, None, control, seed=1)

    @jax.jit
    def run(params, net_params):
        residuals = apply(net, net_params, x, t, context, None, control)
        return residuals, apply(ours, params, x, t, context, mask, residuals), apply(ours, params, x, t, context)

    (down, middle), controlled, alone = run(params, net_params)

    unet, controlnet = public_unet(cfg, params), public_controlnet(cfg, net_params, bins)
    shared = torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(t), torch.tensor(context)
    with torch.no_grad():
        theirs = controlnet(*shared, controlnet_cond=torch.tensor(control), return_dict=False)
        extra = {"down_block_additional_residuals": theirs[0], "mid_block_additional_residual": theirs[1]}
        sample = unet(*shared, encoder_attention_mask=torch.tensor(mask), **extra).sample
        sample_alone = unet(*shared).sample
    assert len(down) == len(theirs[0])
    for got, want in zip((*down, middle), (*theirs[0], theirs[1]), strict=True):
        agree(got, want)
    agree(controlled, sample)
    agree(alone, sample_alone)
    assert not np.allclose(controlled, alone, atol=1e-2)  # mask and residuals do something


ENCODERS = {
    "MT5EncoderModel": (transformers.MT5Config, TextConfig(d_model=24, d_kv=5, d_ff=40, num_heads=4)),
    "T5EncoderModel": (  # FLAN-T5's: T5 1.1, which is mT5's architecture
        transformers.T5Config,
        TextConfig(d_model=16, d_kv=8, d_ff=24, num_heads=2, relative_buckets=16, relative_max_distance=20),
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_text_encoder_gives_the_same_output_in_transformers(name, random_params):
    config, cfg = ENCODERS[name]
    cfg = dataclasses.replace(cfg, vocab_size=50, num_layers=2)
    ids = np.random.default_rng(0).integers(2, 50, (3, 37))  # long enough for the logarithmic buckets
    mask = np.int32(np.arange(37) < np.array([[37], [11], [1]]))
    ids = np.int32(ids * mask)
    encoder = TextEncoder(cfg)
    params = random_params(encoder, ids, mask)
    run = jax.jit(lambda mask: apply(encoder, params, ids, mask))

    options = {
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.d_model,
        "d_kv": cfg.d_kv,
        "d_ff": cfg.d_ff,
        "num_layers": cfg.num_layers,
        "num_heads": cfg.num_heads,
        "relative_attention_num_buckets": cfg.relative_buckets,
        "relative_attention_max_distance": cfg.relative_max_distance,
        "feed_forward_proj": "gated-gelu",
    }
    public = load(getattr(transformers, name)(config(**options)), params, TEXT)
    for keep in (mask, np.ones_like(mask)):
        with torch.no_grad():
            want = public(torch.tensor(ids), attention_mask=torch.tensor(keep)).last_hidden_state
        agree(run(keep), want)
