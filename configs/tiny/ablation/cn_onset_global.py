"""Row "CN + onset + global" at tiny size: all of STA-V2A.

    python train.py --config configs/tiny/ablation/cn_onset_global.py

All rows at once, and what they are: stav2a ablation, docs/training.md.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config
from stav2a_jax.presets import tiny_row


def get_config() -> Config:
    return tiny_row(get_model(), "cn_onset_global")
