"""Table III, row "CN": ControlNet on CAVP features, on filtered data, trained together with the U-Net.

    python train.py --config configs/ablation/cn.py       (after t2a_finetuned.py)

The paper's score: FD 19.58, FAD 2.23, KL 2.51, AV .277, AA .669.
"""

from stav2a_jax.config import Config
from stav2a_jax.presets import paper_row


def get_config() -> Config:
    return paper_row("cn", onset=False, global_tokens=False)
