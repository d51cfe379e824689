"""STA-V2A on top of the public Tango: its U-Net of 866 M parameters and FLAN-T5-large in place of the authors' own T2A.

    stav2a convert tango pytorch_model_main.bin --text-encoder google/flan-t5-large --out bundles/tango
    python train.py --config configs/stav2a_from_tango.py        (after onset.py)

Everything else is configs/stav2a.py. U-Net, ControlNet, their average and two moments take 20 GB in float32: --set
fsdp=8 spreads them. The paper has no such row. Neither Tango's weights nor what comes of them may be used
commercially.
"""

import dataclasses

from stav2a_jax.config import Config, GuidanceConfig, RecipeConfig
from stav2a_jax.presets import FILTERED, FROM_BUNDLES, PAPER, paper_stage, stages


def get_config() -> Config:
    unet = dataclasses.replace(
        PAPER.unet,
        block_out_channels=(320, 640, 1280, 1280),
        attention=(True, True, True, False),
        num_heads=(5, 10, 20, 20),
        linear_projection=True,
    )
    text = dataclasses.replace(PAPER.text, vocab_size=32_128)
    return Config(
        name="stav2a_from_tango",
        model=dataclasses.replace(PAPER, unet=unet, text=text),
        data=FILTERED,
        stages=stages(stav2a=paper_stage()),
        recipe=RecipeConfig(
            train=("stav2a",), init=(*FROM_BUNDLES, "t2a=bundles/tango", "onset=runs/onset"), train_text=False
        ),
        guidance=GuidanceConfig(sampler="ddpm", steps=200, text=3.0),
        host_devices=1,
        workers=8,
    )
