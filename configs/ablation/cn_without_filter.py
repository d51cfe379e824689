"""Table III, row "CN without filter": ControlNet on CAVP features, on unfiltered data.

    python train.py --config configs/ablation/cn_without_filter.py       (after t2a_finetuned.py)

As many steps as the other rows, about 11 epochs of its more clips: equal budgets, where the paper says nothing.
The paper's score: FD 19.65, FAD 2.00, KL 2.53, AV .235, AA .573.
"""

from stav2a_jax.config import Config
from stav2a_jax.presets import paper_row


def get_config() -> Config:
    return paper_row("cn_without_filter", filtered=False, onset=False, global_tokens=False)
