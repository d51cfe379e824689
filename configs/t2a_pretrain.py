"""Text-to-audio pre-training at the paper's size: the U-Net from nothing, mT5 frozen.

    python train.py --config configs/t2a_pretrain.py

The paper: 50,000 hours of YouTube audio with text, and no settings. So the settings are ours, and data/youtube is a
folder that you prepare. mT5 comes converted: stav2a convert t5 google/mt5-large --out bundles/mt5.
Row "Pretrained-T2A" of Table III: FD 27.25, KL 3.64, AA-Align .498.
"""

from stav2a_jax.config import Config, DataConfig, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import FROM_BUNDLES, PAPER, stages, text_to_audio


def get_config() -> Config:
    optim = OptimConfig(lr=1e-4, warmup_steps=2000)
    stage = StageConfig(steps=400_000, batch_size=320, crop_seconds=10.24, optim=optim, valid_every=2000)
    return Config(
        name="t2a_pretrain",
        model=text_to_audio(PAPER),
        data=DataConfig(records="data/youtube", train_split="train[:-2000]", valid_split="train[-2000:]"),
        stages=stages(t2a=stage),
        recipe=RecipeConfig(train=("t2a",), init=FROM_BUNDLES[:2], start=("t2a=bundles/mt5",), train_text=False),
        host_devices=1,
        workers=8,
    )
