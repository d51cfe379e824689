"""The way of configs/stav2a_from_tango.py at tiny size: a prior with Tango's attention and projections.

    python train.py --config configs/tiny/stav2a_from_tango.py       (after tiny/onset.py)

There is no Tango of this size, so the prior is trained first.
"""

import dataclasses

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_FILTERED, TINY_LOSS, TINY_TAKEN, stages, tiny_model, tiny_stage


def get_config() -> Config:
    model = tiny_model(get_model())
    unet = dataclasses.replace(model.unet, attention=(True, True, False), linear_projection=True)
    return Config(
        name="tiny/stav2a_from_tango",
        model=dataclasses.replace(model, unet=unet),
        data=TINY_FILTERED,
        loss=TINY_LOSS,
        stages=stages(t2a=tiny_stage(), stav2a=tiny_stage()),
        recipe=RecipeConfig(train=("t2a", "stav2a"), init=(*TINY_TAKEN, "onset=runs/tiny/onset")),
        host_devices=1,
    )
