"""Row "CN + onset" at tiny size: the local branch comes from the onset pretext task.

    python train.py --config configs/tiny/ablation/cn_onset.py

All rows at once, and what they are: stav2a ablation, docs/training.md.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config
from stav2a_jax.presets import tiny_row


def get_config() -> Config:
    return tiny_row(get_model(), "cn_onset", global_tokens=False)
