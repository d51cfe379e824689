"""STA-V2A at the paper's size: U-Net and ControlNet trained together on filtered VGGSound.

    python train.py --config configs/stav2a.py       (after t2a_finetune.py and onset.py)

The paper's recipe: AdamW, lr 3e-5, 160 clips per step (8 devices x 10 clips x 2 chunks), 40 epochs of 53,293 clips =
13,324 steps, the weights of the best validation loss. Sampling: 200 steps, guidance 3 on the text.
Ours, where the paper is silent: warm-up, weight decay, clipping and averaging (stav2a_jax/presets.py), an onset loss of
weight 0.1 that the local branch keeps, and text, tokens and control dropped in a tenth of the examples each.
The paper reports (Table I, 10 s; not reproduced here): FD 21.24, FAD 1.83, KL 2.50, IS 13.45, AV-Align .279,
AA-Align .687.
"""

from stav2a_jax.config import Config, GuidanceConfig, RecipeConfig
from stav2a_jax.presets import FILTERED, FROM_BUNDLES, PAPER, paper_stage, stages


def get_config() -> Config:
    return Config(
        name="stav2a",
        model=PAPER,
        data=FILTERED,
        stages=stages(stav2a=paper_stage()),
        recipe=RecipeConfig(
            train=("stav2a",), init=(*FROM_BUNDLES, "t2a=runs/t2a_finetune", "onset=runs/onset"), train_text=False
        ),
        guidance=GuidanceConfig(sampler="ddpm", steps=200, text=3.0),
        host_devices=1,
        workers=8,
    )
