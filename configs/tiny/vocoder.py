"""The vocoder at tiny size, on generated clips.

    python train.py --config configs/tiny/vocoder.py

Minutes on one core.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_LOSS, TINY_UNFILTERED, stages, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/vocoder",
        model=tiny_model(get_model()),
        data=TINY_UNFILTERED,
        loss=TINY_LOSS,
        stages=stages(vocoder=tiny_stage(1e-3, steps=2000, seconds=0.64)),
        recipe=RecipeConfig(train=("vocoder",)),
        host_devices=1,
    )
