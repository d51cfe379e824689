"""Table III, row "CN frozen": as "CN", with the U-Net as the text-to-audio training left it.

    python train.py --config configs/ablation/cn_frozen.py       (after t2a_finetuned.py)

The paper's score: FD 20.35, FAD 1.90, KL 2.50, AV .269, AA .649.
"""

from stav2a_jax.config import Config
from stav2a_jax.presets import paper_row


def get_config() -> Config:
    return paper_row("cn_frozen", train_unet=False, onset=False, global_tokens=False)
