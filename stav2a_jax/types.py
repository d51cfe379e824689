"""The few types that carry data between the floors of the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from stav2a_jax.errors import UserError as UserError

Params = Any
Batch = dict[str, jax.Array]
"""Named arrays whose first axis is the example; ``index`` (B,) int32 is the global example number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """Every derived length of the audio path comes from here.

    A latent is (B, frames, bins, channels); a mel is (B, frames * downsample, mel_bins, 1).
    """

    sample_rate: int = 16_000
    hop: int = 160
    mel_bins: int = 64
    downsample: int = 4
    channels: int = 8
    seconds: float = 10.24

    @property
    def frames_per_second(self) -> float:
        """Latent frames per second (25 at the defaults)."""
        return self.sample_rate / (self.hop * self.downsample)

    @property
    def frames(self) -> int:
        """Latent frames of a clip of ``seconds`` (256 at the defaults)."""
        return round(self.seconds * self.frames_per_second)

    @property
    def bins(self) -> int:
        return self.mel_bins // self.downsample

    @property
    def mel_frames(self) -> int:
        return self.frames * self.downsample

    @property
    def samples(self) -> int:
        return self.mel_frames * self.hop

    def shape(self, batch: int, frames: int | None = None) -> tuple[int, int, int, int]:
        """Shape of a latent batch, channels last."""
        return (batch, self.frames if frames is None else frames, self.bins, self.channels)


class Conditioning(NamedTuple):
    """What the denoiser sees beside the noisy latent; made once per request, reused at every step.

    context (B, L, D) tokens for cross-attention, text tokens first, then video tokens;
    mask (B, L) 1 = keep; control (B, frames, C) local feature for the ControlNet, or None for text-to-audio;
    """

    context: jax.Array
    mask: jax.Array
    control: jax.Array | None = None


DenoiseFn = Callable[[jax.Array, jax.Array, Any], jax.Array]
"""(x_t (B, ...), t (B,) int32, condition) -> prediction like x_t (epsilon or v, as the schedule says)."""


@flax.struct.dataclass
class TrainState:
    """Everything a resumed run needs, and nothing else; over the trainable parameters only."""

    step: jax.Array  # () int32
    params: Params
    ema: Params
    opt: Any
    seed: jax.Array  # () uint32; all randomness is f(seed, step, example index)


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded input. frames (N, H, W, 3) uint8 at the encoder's rate and size; seconds: exact length.

    features (N, D), where they are known already, take the place of what the video encoder makes of the frames.
    """

    frames: np.ndarray
    seconds: float
    features: np.ndarray | None = None

    @classmethod
    def of_features(cls, features: np.ndarray, seconds: float) -> Clip:
        """A clip of which nothing but its features (N, D) is left."""
        return cls(np.zeros((0, 0, 0, 3), np.uint8), seconds, features)


@dataclasses.dataclass(frozen=True)
class Sound:
    """One result. wave (n,) float32, n = round(seconds * sample_rate), or all samples of the vocoder where the model's
    ``pipeline.whole_clip`` says so; int16 (n,) is what goes into a 16-bit file; log_mel (frames, bands);
    onset_probability (latent frames,) is what the local branch predicted from the picture."""

    wave: np.ndarray
    int16: np.ndarray
    sample_rate: int
    log_mel: np.ndarray
    onset_probability: np.ndarray
    frames_per_second: float
    seconds: float
    seed: int
    sample: int
