"""The onset pretext task at the paper's size: when does it sound, from the frozen CAVP features of filtered VGGSound.

    python train.py --config configs/onset.py

The paper names no settings, so these are ours: 20 epochs of 160 clips. Only the local branch learns (0.3 M weights), so
one device does it within hours, and the loss of always guessing the mean rate is passed within the first epoch.
"""

from stav2a_jax.config import Config, OptimConfig, RecipeConfig, StageConfig
from stav2a_jax.presets import FILTERED, FILTERED_CLIPS, FROM_BUNDLES, PAPER, epochs, stages


def get_config() -> Config:
    optim = OptimConfig(lr=3e-4, warmup_steps=300, schedule="cosine", ema_decay=0.999)
    steps = epochs(20, FILTERED_CLIPS, 160)
    return Config(
        name="onset",
        model=PAPER,
        data=FILTERED,
        stages=stages(onset=StageConfig(steps=steps, batch_size=160, crop_seconds=10.24, optim=optim)),
        recipe=RecipeConfig(train=("onset",), init=FROM_BUNDLES[2:]),
        host_devices=1,
        workers=8,
    )
