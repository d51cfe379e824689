"""How the released PyTorch code behaves, as configs: what a converted checkpoint gets (the table in docs/model.md).

Everything is a field; the defaults of ``config.py`` are ours. Two things are not here. Dropout in the attentive pooling
stays off at inference, where the release leaves it on and gives other tokens at every call. The checkpoint's own sizes
and its scheduler file (``ScheduleConfig``) come with it.
"""

from __future__ import annotations

import dataclasses

from stav2a_jax.config import GuidanceConfig, LossConfig, ModelConfig, PipelineConfig, SoundConfig

GUIDANCE = GuidanceConfig(sampler="ddpm", steps=200, text=3.0, global_video=1.0, local_video=1.0)
"""200 steps of DDPM; guidance 3 on the text alone, against the padded empty prompt."""

LOSS = LossConfig(
    drop_text=0.1, drop_global=0.0, drop_local=0.0, null_text="zeros", snr_weight="released", count_padding=True
)
"""Text alone is dropped, to zeros; min(snr, g) / snr also for v; plain means. The onset loss's weight is not known."""

SOUND = SoundConfig(channel="first", resampler="sinc", level="peak")
PIPELINE = PipelineConfig(text_padding="longest", video_frames=40, whole_clip=True, int16="truncated")


def released(model: ModelConfig) -> ModelConfig:
    """``model``, whose sizes stay, with the release's behaviour: 40 frames at 4 per second and 224 pixels for 10.24 s
    of sound, nearest in time, and a ControlNet that sees no mask."""
    return dataclasses.replace(
        model,
        video=dataclasses.replace(model.video, fps=4.0, size=224),
        local=dataclasses.replace(model.local, interpolation="nearest"),
        unet=dataclasses.replace(model.unet, mask_control=False),
        sound=SOUND,
        pipeline=PIPELINE,
    )
