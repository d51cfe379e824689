"""STA-V2A at tiny size as the paper trains it: frozen encoders, filtered clips, every stage on its own.

    python train.py --config configs/tiny/stav2a.py       (after tiny/t2a_finetune.py and tiny/onset.py)

configs/foley_tiny.py is the recipe to get a good small model with; this one is to see the paper's at work.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_FILTERED, TINY_LOSS, TINY_TAKEN, stages, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/stav2a",
        model=tiny_model(get_model()),
        data=TINY_FILTERED,
        loss=TINY_LOSS,
        stages=stages(stav2a=tiny_stage()),
        recipe=RecipeConfig(
            train=("stav2a",), init=(*TINY_TAKEN, "t2a=runs/tiny/t2a_finetune", "onset=runs/tiny/onset")
        ),
        host_devices=1,
    )
