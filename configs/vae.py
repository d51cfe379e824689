"""The mel VAE at the paper's size, from sound alone. The paper takes AudioLDM's; this is for those who cannot.

    python train.py --config configs/vae.py          (runs/vae; then --init vae=runs/vae)

Settings are ours. Eight devices x 4 crops of 10.24 s. Without a discriminator: expect smoother spectrograms than
AudioLDM's. result.json has the scale factor of the latents, which later stages read.
"""

from stav2a_jax.config import Config, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import PAPER, UNFILTERED, stages


def get_config() -> Config:
    optim = OptimConfig(lr=1e-4, warmup_steps=1000, schedule="cosine")
    stage = StageConfig(steps=200_000, batch_size=32, crop_seconds=10.24, optim=optim, valid_every=2000)
    return Config(
        name="vae",
        model=PAPER,
        data=UNFILTERED,
        stages=stages(vae=stage),
        recipe=RecipeConfig(train=("vae",)),
        host_devices=1,
        workers=8,
    )
