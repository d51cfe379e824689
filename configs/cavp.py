"""The video encoder (CAVP) at the paper's size, by contrast with the sound. The paper takes Diff-Foley's.

    python train.py --config configs/cavp.py         (runs/cavp; then --init cavp=runs/cavp)

Settings are ours. It trains on pictures, so the set must store them: stav2a prepare ... --frames jpeg. 128 clips of 4 s
(16 pictures of 224 x 224) are compared with each other in every step; a smaller batch is a weaker contrast. The
spectrogram encoder hears the model's own 64 mel bands (Diff-Foley's has 128).
"""

import dataclasses

from stav2a_jax.config import Config, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import PAPER, UNFILTERED, stages


def get_config() -> Config:
    spec = dataclasses.replace(PAPER.spec, mel_bins=64)
    optim = OptimConfig(lr=5e-4, warmup_steps=1000, schedule="cosine", ema_decay=0.999)
    stage = StageConfig(steps=60_000, batch_size=128, crop_seconds=4.0, optim=optim, valid_every=1000)
    return Config(
        name="cavp",
        model=dataclasses.replace(PAPER, spec=spec),
        data=UNFILTERED,
        stages=stages(cavp=stage),
        recipe=RecipeConfig(train=("cavp",)),
        host_devices=1,
        workers=16,
    )
