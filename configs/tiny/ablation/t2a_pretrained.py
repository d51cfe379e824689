"""Row "Pretrained-T2A" at tiny size: text-to-audio from nothing.

    python train.py --config configs/tiny/ablation/t2a_pretrained.py

The text encoder learns with the U-Net, since there is no trained one.
"""

import dataclasses

from configs.tiny.t2a_pretrain import get_config as pretrain
from stav2a_jax.config import Config


def get_config() -> Config:
    return dataclasses.replace(pretrain(), name="tiny/ablation/t2a_pretrained")
