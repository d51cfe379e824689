"""What decides the content of a prepared set, in one frozen config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stav2a_jax.metrics.flow_cache import RELEASED, FlowConfig

FAST_FLOW = FlowConfig(height=224, fps=30.0, floor=0.07)
"""AV-Align at a fixed size and rate; how it differs from the released one, and its cost, is in docs/data.md."""


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Limits, filters and what is stored.

    min_seconds, max_seconds, max_pixels: clips outside are dropped (pixels are width times height). drop_speech: drop
    clips whose caption speaks of speech (PAPER sec. 5). av_align: 'filter' drops clips below ``min_av_align``,
    'measure' only records the score, 'skip' saves its cost. bundle: whose encoders make the features, None for no
    features. frames: whether the pictures are stored too, which only CAVP's training and a video encoder that learns
    need. frame_fps, frame_size, sample_rate: of stored pictures and sound where no bundle says so. batch: clips per
    call of the encoders.
    """

    min_seconds: float = 1.0
    max_seconds: float = 60.0
    max_pixels: int = 4096 * 2304
    drop_speech: bool = True
    av_align: Literal["filter", "measure", "skip"] = "filter"
    min_av_align: float = 0.2
    flow: FlowConfig = RELEASED
    bundle: str | None = "foley-tiny"
    frames: Literal["none", "jpeg", "png"] = "none"
    frame_fps: float = 4.0
    frame_size: int = 224
    sample_rate: int = 16_000
    batch: int = 1
