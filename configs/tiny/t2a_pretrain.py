"""Text-to-audio at tiny size, from nothing, the text encoder with it.

    python train.py --config configs/tiny/t2a_pretrain.py       (after tiny/vae.py and tiny/vocoder.py)

Minutes on one core.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import TINY_LOSS, TINY_TAKEN, TINY_UNFILTERED, stages, text_to_audio, tiny_model, tiny_stage


def get_config() -> Config:
    return Config(
        name="tiny/t2a_pretrain",
        model=text_to_audio(tiny_model(get_model())),
        data=TINY_UNFILTERED,
        loss=TINY_LOSS,
        stages=stages(t2a=tiny_stage()),
        recipe=RecipeConfig(train=("t2a",), init=TINY_TAKEN[:2]),
        host_devices=1,
    )
