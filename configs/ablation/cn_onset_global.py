"""Table III, row "CN + onset + global": all of STA-V2A.

    python train.py --config configs/ablation/cn_onset_global.py       (after t2a_finetuned.py and ../onset.py)

The paper's score: FD 21.24, FAD 1.83, KL 2.50, AV .279, AA .687.
"""

from stav2a_jax.config import Config
from stav2a_jax.presets import paper_row


def get_config() -> Config:
    return paper_row("cn_onset_global")
