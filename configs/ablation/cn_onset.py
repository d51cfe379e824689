"""Table III, row "CN + onset": the local branch comes from the onset pretext task.

    python train.py --config configs/ablation/cn_onset.py       (after t2a_finetuned.py and ../onset.py)

The paper's score: FD 20.02, FAD 1.95, KL 2.37, AV .283, AA .692.
"""

from stav2a_jax.config import Config
from stav2a_jax.presets import paper_row


def get_config() -> Config:
    return paper_row("cn_onset", global_tokens=False)
