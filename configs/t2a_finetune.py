"""Text-to-audio fine-tuning on VGGSound at the paper's size: 40 epochs, 160 clips per step.

    python train.py --config configs/t2a_finetune.py        (after configs/t2a_pretrain.py)

Row "FineTuned-T2A" of Table III: FD 27.24, KL 3.57, AA-Align .502: fine-tuning on the data alone brings no sync.
"""

from stav2a_jax.config import Config, RecipeConfig
from stav2a_jax.presets import CLIPS, FROM_BUNDLES, PAPER, UNFILTERED, paper_stage, stages, text_to_audio


def get_config() -> Config:
    return Config(
        name="t2a_finetune",
        model=text_to_audio(PAPER),
        data=UNFILTERED,
        stages=stages(t2a=paper_stage(CLIPS)),
        recipe=RecipeConfig(train=("t2a",), init=FROM_BUNDLES[:2], start=("t2a=runs/t2a_pretrain",), train_text=False),
        host_devices=1,
        workers=8,
    )
