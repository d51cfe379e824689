"""Fine-tuning foley-tiny on a folder of own videos, on a laptop.

    python train.py --config configs/foley_tiny.py
    R=runs/foley-tiny; stav2a prepare --videos DIR --out data/own --bundle $R/bundle --vae $R/vae/params.safetensors
    python train.py --config configs/tiny/own_videos.py

The model is that of the run, because the one that comes with the package has no encoder of the VAE, and another run's
makes other latents.

Videos lie in DIR/train and DIR/valid, the caption of NAME.mp4 in NAME.txt (docs/data.md). foley-tiny knows struck and
falling things and little else: expect it to learn the sounds of similar scenes.
"""

import pathlib

from stav2a_jax.bundle import find_bundle, read_settings
from stav2a_jax.config import Config, DataConfig, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import stages

RUN = pathlib.Path("runs/foley-tiny/bundle")
BASE = str(RUN) if RUN.is_dir() else "foley-tiny"


def get_config() -> Config:
    stage = StageConfig(
        steps=400, batch_size=8, crop_seconds=2.56, optim=OptimConfig(lr=2e-4, warmup_steps=20), valid_every=50, shown=0
    )
    taken = ("vae", "vocoder", "cavp", "t2a", "onset")
    return Config(
        name="tiny/own_videos",
        model=read_settings(find_bundle(BASE))[0],
        data=DataConfig(records="data/own"),
        stages=stages(stav2a=stage),
        recipe=RecipeConfig(
            train=("stav2a",),
            init=tuple(f"{name}={BASE}" for name in taken),
            start=(f"stav2a={BASE}",),
            train_text=False,
        ),
        host_devices=1,
        workers=0,
    )
