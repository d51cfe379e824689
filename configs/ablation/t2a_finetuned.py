"""Table III, row "FineTuned-T2A": the text-to-audio model fine-tuned on VGGSound, without the video.

    python train.py --config configs/ablation/t2a_finetuned.py       (after t2a_pretrained.py)

The rows with a ControlNet begin with it. The paper's score: FD 27.24, FAD 3.84, KL 3.57, AV .208, AA .502.
"""

import dataclasses

from configs.t2a_finetune import get_config as finetune
from stav2a_jax.config import Config


def get_config() -> Config:
    cfg = finetune()
    recipe = dataclasses.replace(cfg.recipe, start=("t2a=runs/ablation/t2a_pretrained",))
    return dataclasses.replace(cfg, name="ablation/t2a_finetuned", recipe=recipe)
