"""Table III, row "Pretrained-T2A": text-to-audio, without the video and without VGGSound.

    python train.py --config configs/ablation/t2a_pretrained.py --init t2a=runs/t2a_pretrain

takes what configs/t2a_pretrain.py has trained and packs it; without --init it trains the same.
The paper's score: FD 27.25, FAD 3.53, KL 3.64, AV .206, AA .498.
"""

import dataclasses

from configs.t2a_pretrain import get_config as pretrain
from stav2a_jax.config import Config


def get_config() -> Config:
    return dataclasses.replace(pretrain(), name="ablation/t2a_pretrained")
