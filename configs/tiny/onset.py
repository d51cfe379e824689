"""The onset pretext task at tiny size: the local branch learns from the features of the frozen video encoder.

    python train.py --config configs/tiny/onset.py        (after tiny/cavp.py)

A minute on one core.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_FILTERED, TINY_LOSS, TINY_TAKEN, stages, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/onset",
        model=tiny_model(get_model()),
        data=TINY_FILTERED,
        loss=TINY_LOSS,
        stages=stages(onset=tiny_stage(2e-3)),
        recipe=RecipeConfig(train=("onset",), init=TINY_TAKEN[2:]),
        host_devices=1,
    )
