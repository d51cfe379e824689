"""The video encoder at tiny size, on generated clips.

    python train.py --config configs/tiny/cavp.py

Minutes on one core.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_LOSS, TINY_UNFILTERED, stages, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/cavp",
        model=tiny_model(get_model()),
        data=TINY_UNFILTERED,
        loss=TINY_LOSS,
        stages=stages(cavp=tiny_stage(2e-3, seconds=2.08)),
        recipe=RecipeConfig(train=("cavp",)),
        host_devices=1,
    )
