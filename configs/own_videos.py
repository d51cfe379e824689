"""Fine-tuning a finished model of the paper's size on a folder of own videos.

    stav2a prepare --videos DIR --bundle runs/stav2a/bundle --vae runs/stav2a/vae/params.safetensors --out data/own
    python train.py --config configs/own_videos.py

Videos lie in DIR/train and DIR/valid, the caption of NAME.mp4 in NAME.txt (docs/data.md). The whole model goes on from
where it is (BASE), with a third of the paper's rate; a few hundred clips are a start. Watch valid/diffusion: it
falls at first and rises once the clips are learnt by heart; the weights of its minimum are kept.
"""

from stav2a_jax.config import Config, DataConfig, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import PAPER, stages

BASE = "runs/stav2a/bundle"


def get_config() -> Config:
    stage = StageConfig(
        steps=2000, batch_size=16, crop_seconds=10.24, optim=OptimConfig(lr=1e-5, warmup_steps=100), valid_every=100
    )
    taken = ("vae", "vocoder", "cavp", "t2a", "onset")
    return Config(
        name="own_videos",
        model=PAPER,
        data=DataConfig(records="data/own"),
        stages=stages(stav2a=stage),
        recipe=RecipeConfig(
            train=("stav2a",),
            init=tuple(f"{name}={BASE}" for name in taken),
            start=(f"stav2a={BASE}",),
            train_text=False,
        ),
        host_devices=1,
        workers=8,
    )
