"""Row "CN" at tiny size: ControlNet on CAVP features, on filtered data, trained together with the U-Net.

    python train.py --config configs/tiny/ablation/cn.py

All rows at once, and what they are: stav2a ablation, docs/training.md.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config
from stav2a_jax.presets import tiny_row


def get_config() -> Config:
    return tiny_row(get_model(), "cn", onset=False, global_tokens=False)
