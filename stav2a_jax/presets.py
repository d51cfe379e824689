"""What the files in ``configs/`` have in common: the paper's settings, and the rows of its Table III."""

from __future__ import annotations

import dataclasses
import math

from stav2a_jax.config import (
    ComputeConfig,
    ConditionsConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RecipeConfig,
    StageConfig,
    StagesConfig,
)

UNFILTERED = DataConfig(records="data/vggsound", train_split="train[:-2000]", valid_split="train[-2000:]")
"""VGGSound prepared with ``--keep-speech --av-align measure``; it has no split for validation of its own."""
FILTERED = dataclasses.replace(UNFILTERED, min_av_align=0.2, drop_speech=True)
CLIPS, FILTERED_CLIPS = 200_000, 53_293
"""The paper's counts. Yours are in report.md of your set: change ``--set stages.NAME.steps`` accordingly."""

PAPER = ModelConfig(compute=ComputeConfig(dtype="bfloat16", remat=True))
FROM_BUNDLES = ("vae=bundles/audioldm", "vocoder=bundles/audioldm", "cavp=bundles/cavp")
"""The networks that the authors did not train either, converted (docs/conversion.md)."""

NOT_HERE = StageConfig(steps=0, batch_size=1, crop_seconds=1.0)
"""Of a stage that a config does not train."""


def stages(**trained: StageConfig) -> StagesConfig:
    """Settings of the stages that a config trains, by name."""
    names = [field.name for field in dataclasses.fields(StagesConfig)]
    return StagesConfig(**{name: trained.get(name, NOT_HERE) for name in names})


def epochs(count: int, clips: int, batch: int) -> int:
    """Steps in which every clip is used ``count`` times."""
    return math.ceil(count * clips / batch)


def paper_stage(clips: int = FILTERED_CLIPS) -> StageConfig:
    """40 epochs, 160 clips of 10.24 s per step as 8 devices x 10 clips x 2 chunks, AdamW with lr 3e-5, the weights of
    the best validation loss (paper sec. 3). Validated once an epoch.

    The paper gives no more. Ours are: 300 steps of warm-up, weight decay 1e-2, clipping at 1, and that the weights are
    an average (decay 0.9999).
    """
    batch = 160
    return StageConfig(
        steps=epochs(40, clips, batch),
        batch_size=batch,
        crop_seconds=10.24,
        optim=OptimConfig(lr=3e-5, accum=2),
        valid_every=epochs(1, clips, batch),
    )


def text_to_audio(model: ModelConfig) -> ModelConfig:
    """The model without what sees the video."""
    return dataclasses.replace(model, conditions=ConditionsConfig(control=False, global_tokens=False))


def with_control(
    base: Config,
    name: str,
    *,
    filtered: bool = True,
    train_unet: bool = True,
    onset: bool = True,
    global_tokens: bool = True,
) -> Config:
    """A row of Table III with a ControlNet: ``base``, which is all of STA-V2A, without what is False.

    onset: the local branch comes from the onset pretext task and keeps its loss; else it is fresh, an adapter of the
    raw CAVP features that only the denoising teaches.
    """
    data = base.data if filtered else dataclasses.replace(base.data, min_av_align=None, drop_speech=False)
    init = tuple(text for text in base.recipe.init if onset or not text.startswith("onset="))
    recipe = dataclasses.replace(base.recipe, init=init, train_unet=train_unet, local="onset" if onset else "fresh")
    conditions = ConditionsConfig(global_tokens=global_tokens)
    model = dataclasses.replace(base.model, conditions=conditions)
    return dataclasses.replace(base, name=name, data=data, recipe=recipe, model=model)


def paper_row(name: str, **without: bool) -> Config:
    """:func:`with_control` at the paper's size."""
    taken = ("t2a=runs/ablation/t2a_finetuned", "onset=runs/onset")
    base = Config(
        name=name,
        model=PAPER,
        data=FILTERED,
        stages=stages(stav2a=paper_stage()),
        recipe=RecipeConfig(train=("stav2a",), init=(*FROM_BUNDLES, *taken), train_text=False),
        host_devices=1,
        workers=8,
    )
    return with_control(base, f"ablation/{name}", **without)


def tiny_stage(lr: float = 1e-3, *, steps: int = 400, batch: int = 16, seconds: float = 2.56) -> StageConfig:
    """A few minutes on one core."""
    optim = OptimConfig(lr=lr, warmup_steps=20, schedule="cosine", ema_decay=0.99)
    return StageConfig(
        steps=steps, batch_size=batch, crop_seconds=seconds, optim=optim, valid_every=100, valid_batches=2, shown=0
    )


TINY_UNFILTERED = DataConfig(train_clips=800, valid_clips=64, foreign_picture=0.3)
"""Generated clips, three in ten of them with the picture of another: they stand for an unfiltered collection."""
TINY_FILTERED = dataclasses.replace(TINY_UNFILTERED, min_av_align=0.2)
TINY_LOSS = LossConfig(vae_kl=5e-3)
TINY_TAKEN = ("vae=runs/tiny/vae", "vocoder=runs/tiny/vocoder", "cavp=runs/tiny/cavp")


def tiny_model(model: ModelConfig) -> ModelConfig:
    """``model`` (that of foley-tiny) with a U-Net of about a third of its cost; the other networks are the same."""
    return dataclasses.replace(model, unet=dataclasses.replace(model.unet, block_out_channels=(32, 48, 64)))


def tiny_row(model: ModelConfig, name: str, **without: bool) -> Config:
    """:func:`with_control` at tiny size, on generated clips."""
    taken = ("t2a=runs/tiny/ablation/t2a_finetuned", "onset=runs/tiny/onset")
    base = Config(
        name=name,
        model=tiny_model(model),
        data=TINY_FILTERED,
        loss=TINY_LOSS,
        stages=stages(stav2a=tiny_stage()),
        recipe=RecipeConfig(train=("stav2a",), init=(*TINY_TAKEN, *taken)),
        host_devices=1,
    )
    return with_control(base, f"tiny/ablation/{name}", **without)
