"""Row "CN frozen" at tiny size: as "CN", with the U-Net as the text-to-audio training left it.

    python train.py --config configs/tiny/ablation/cn_frozen.py

All rows at once, and what they are: stav2a ablation, docs/training.md.
"""

from configs.foley_tiny import get_model
from stav2a_jax.config import Config
from stav2a_jax.presets import tiny_row


def get_config() -> Config:
    return tiny_row(get_model(), "cn_frozen", train_unet=False, onset=False, global_tokens=False)
