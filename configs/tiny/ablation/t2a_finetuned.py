"""Row "FineTuned-T2A" at tiny size: the same model trained on, as long again.

    python train.py --config configs/tiny/ablation/t2a_finetuned.py

The rows with a ControlNet begin with it. All rows at once: stav2a ablation, docs/training.md.
"""

import dataclasses

from configs.tiny.t2a_finetune import get_config as finetune
from stav2a_jax.config import Config


def get_config() -> Config:
    cfg = finetune()
    recipe = dataclasses.replace(cfg.recipe, start=("t2a=runs/tiny/ablation/t2a_pretrained",))
    return dataclasses.replace(cfg, name="tiny/ablation/t2a_finetuned", recipe=recipe)
