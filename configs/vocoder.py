"""The HiFi-GAN generator at the paper's size, from true log-mels. The paper takes AudioLDM's.

    python train.py --config configs/vocoder.py      (runs/vocoder; then --init vocoder=runs/vocoder)

Settings are ours. Spectral losses only, no discriminator: expect a slight buzz that AudioLDM's does not have.
"""

from stav2a_jax.config import Config, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import PAPER, UNFILTERED, stages


def get_config() -> Config:
    optim = OptimConfig(lr=2e-4, warmup_steps=1000, schedule="cosine", ema_decay=0.999)
    stage = StageConfig(steps=400_000, batch_size=64, crop_seconds=0.64, optim=optim, valid_every=5000)
    return Config(
        name="vocoder",
        model=PAPER,
        data=UNFILTERED,
        stages=stages(vocoder=stage),
        recipe=RecipeConfig(train=("vocoder",)),
        host_devices=1,
        workers=8,
    )
