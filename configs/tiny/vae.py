"""The mel VAE at tiny size, on generated clips.

    python train.py --config configs/tiny/vae.py

Minutes on one core.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_LOSS, TINY_UNFILTERED, stages, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/vae",
        model=tiny_model(get_model()),
        data=TINY_UNFILTERED,
        loss=TINY_LOSS,
        stages=stages(vae=tiny_stage(2e-3, steps=600, batch=8)),
        recipe=RecipeConfig(train=("vae",)),
        host_devices=1,
    )
