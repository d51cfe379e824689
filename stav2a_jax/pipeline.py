"""VideoToAudio: video + text -> conditioning -> latents -> mel -> waveform, as long as the video."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.bundle import DEFAULT, Bundle, load_bundle
from stav2a_jax.config import GuidanceConfig
from stav2a_jax.diffusion import samplers
from stav2a_jax.diffusion.guidance import combined
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.autoencoder import Autoencoder
from stav2a_jax.models.cavp import VideoEncoder
from stav2a_jax.models.system import denoiser, encode_text, global_tokens, join, local_control
from stav2a_jax.models.vocoder import Vocoder
from stav2a_jax.nn.call import apply
from stav2a_jax.tokenizer import Tokenizer
from stav2a_jax.types import Conditioning, Params, UserError
from stav2a_jax.video.decode import read_frames

BUCKET = 32
"""Lengths are rounded up to this many latent frames, so that few programs are compiled."""

Report = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)"""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded input. frames (N, H, W, 3) uint8 at the encoder's rate and size; seconds: exact length."""

    frames: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class Sound:
    """One result. wave (n,) float32, n = round(seconds * sample_rate); log_mel (frames, bands);
    onset_probability (latent frames,) is what the local branch predicted from the picture."""

    wave: np.ndarray
    sample_rate: int
    log_mel: np.ndarray
    onset_probability: np.ndarray
    frames_per_second: float
    seconds: float
    seed: int
    sample: int


class VideoToAudio:
    """A loaded bundle, ready to write sound.

    >>> model = VideoToAudio.from_bundle("foley-tiny")
    >>> sound = model("clip.mp4", "a wooden ball bounces", seed=0)[0]
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.config = bundle, bundle.model
        self.tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json")
        self._params = jax.device_put(bundle.params)
        self._schedule = make_schedule(self.config.schedule)
        self._features = jax.jit(functools.partial(_features, self.config))
        self._condition = jax.jit(functools.partial(_condition, self.config), static_argnums=4)
        self._step = jax.jit(functools.partial(_step, self.config), static_argnums=5)
        self._decode = jax.jit(functools.partial(_decode, self.config))

    @classmethod
    def from_bundle(cls, name_or_path: str | os.PathLike[str] = DEFAULT) -> VideoToAudio:
        """Load a bundle that comes with the package, or a folder. Raises UserError where there is none."""
        return cls(load_bundle(os.fspath(name_or_path)))

    def __call__(
        self,
        video: str | os.PathLike[str] | np.ndarray,
        prompt: str = "",
        *,
        seed: int = 0,
        samples: int = 1,
        fps: float | None = None,
        **options: Any,
    ) -> list[Sound]:
        """Sound for one video: a path, or frames (N, H, W, 3) uint8 at ``fps``. ``options``: see :meth:`generate`."""
        clip = self.read(video) if not isinstance(video, np.ndarray) else self.from_array(video, fps)
        return self.generate([clip] * samples, [prompt] * samples, seed=seed, numbers=list(range(samples)), **options)

    def read(self, path: str | os.PathLike[str]) -> Clip:
        """Decode a file at the video encoder's rate and size. Raises UserError where that fails."""
        cfg = self.config.video
        frames = read_frames(path, cfg.fps, cfg.size)
        return Clip(frames.frames, frames.seconds)

    def from_array(self, frames: np.ndarray, fps: float | None) -> Clip:
        """Frames (N, H, W, 3) uint8 shown at ``fps`` -> the encoder's rate (nearest in time) and size (area)."""
        import cv2

        if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
            raise UserError(f"frames must be uint8 (N, H, W, 3) with N > 0, got {frames.dtype} {frames.shape}")
        if not fps or fps <= 0:
            raise UserError("frames given as an array need their rate: pass fps=")
        cfg, seconds = self.config.video, len(frames) / fps
        count = max(1, round(seconds * cfg.fps))
        source = np.minimum(np.floor(np.arange(count) / cfg.fps * fps + 1e-6).astype(int), len(frames) - 1)
        size = (cfg.size, cfg.size)
        small = [cv2.resize(frames[i], size, interpolation=cv2.INTER_AREA) for i in source]
        return Clip(np.stack(small), seconds)

    def generate(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[str],
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_global: float | None = None,
        guidance_local: float | None = None,
        text_only: bool = False,
        report: Report = lambda what, done, total: None,
    ) -> list[Sound]:
        """Sounds for several clips in one batch; each is what it would be alone (to float tolerance).

        Args:
          numbers: number of each sample, 0.. ; with ``seed`` it decides the noise. Zeros by default.
          guidance, guidance_global, guidance_local: one scale per condition; the bundle's own where None.
          text_only: leave the video out: the text-to-audio model alone (needs the bundle's ``t2a`` group).
        """
        numbers = [0] * len(clips) if numbers is None else numbers
        options = self._options(sampler, steps, guidance, guidance_global, guidance_local, text_only)
        if text_only and "t2a" not in self._params:
            raise UserError(f"the bundle {self.bundle.name!r} holds no text-to-audio weights of its own")
        params = {**self._params, "unet": self._params["t2a"]} if text_only else self._params
        buckets = [self.bucket(c.seconds) for c in clips]
        sounds: dict[int, Sound] = {}
        for frames in sorted(set(buckets)):
            rows = [i for i, b in enumerate(buckets) if b == frames]
            batch = [clips[i] for i in rows], [prompts[i] for i in rows], seed, [numbers[i] for i in rows]
            sounds.update(zip(rows, self._generate(params, *batch, frames, options, text_only, report), strict=True))
        return [sounds[i] for i in range(len(clips))]

    def bucket(self, seconds: float) -> int:
        """Latent frames of the program that handles this duration; clips of one bucket can share a batch."""
        exact = math.ceil(seconds * self.config.latent.frames_per_second - 1e-6)
        return -(-max(1, exact) // BUCKET) * BUCKET

    def _generate(
        self,
        params: Params,
        clips: Sequence[Clip],
        prompts: Sequence[str],
        seed: int,
        numbers: Sequence[int],
        frames: int,
        options: GuidanceConfig,
        text_only: bool,
        report: Report,
    ) -> list[Sound]:
        report("looking", 0, 1)
        video = self._features(params, np.stack([self._held(c, frames) for c in clips]))
        conditions, onset = self._conditions(params, prompts, video, frames, text_only)
        report("looking", 1, 1)
        x0 = self._sample(params, conditions, seed, numbers, frames, options, report)
        report("decoding", 0, 1)
        mel, wave = jax.device_get(self._decode(params, x0))
        report("decoding", 1, 1)
        probability = np.asarray(jax.nn.sigmoid(onset[..., 1] - onset[..., 0]), np.float32)
        return [self._cut(c, mel[i], wave[i], probability[i], seed, numbers[i]) for i, c in enumerate(clips)]

    def _options(
        self, sampler: Any, steps: Any, text: Any, global_: Any, local: Any, text_only: bool
    ) -> GuidanceConfig:
        given = {"sampler": sampler, "steps": steps, "text": text, "global_video": global_, "local_video": local}
        options = dataclasses.replace(self.bundle.guidance, **{k: v for k, v in given.items() if v is not None})
        samplers.get_plan(options.sampler)(self._schedule, options.steps)  # refuses what cannot be, before any work
        return dataclasses.replace(options, global_video=1.0, local_video=1.0) if text_only else options

    def _held(self, clip: Clip, latent_frames: int) -> np.ndarray:
        """Frames for the whole bucket, the last one held."""
        count = round(latent_frames / self.config.latent.frames_per_second * self.config.video.fps)
        frames = clip.frames[:count]
        return np.concatenate([frames, np.repeat(frames[-1:], count - len(frames), axis=0)])

    def _conditions(
        self, params: Params, prompts: Sequence[str], video: jax.Array, frames: int, text_only: bool
    ) -> tuple[tuple[Conditioning, ...], jax.Array]:
        limit = self.config.text.max_length
        ids = self.tokenizer(list(prompts), limit, pad_to=limit)
        null = self.tokenizer([""] * len(prompts), limit, pad_to=limit)
        chain, onset = self._condition(params, ids, null, video, frames)
        if text_only:  # the prior has never seen a control or video tokens
            chain = tuple(Conditioning(c.context[:, :limit], c.mask[:, :limit]) for c in chain)
        return chain, onset

    def _sample(
        self,
        params: Params,
        chain: tuple[Conditioning, ...],
        seed: int,
        numbers: Sequence[int],
        frames: int,
        options: GuidanceConfig,
        report: Report,
    ) -> jax.Array:
        plan = samplers.get_plan(options.sampler)(self._schedule, options.steps)
        base = jax.random.key(seed)
        keys = jax.vmap(lambda n: jax.random.fold_in(base, n))(np.asarray(numbers, np.uint32))
        shape = self.config.latent.shape(1, frames)[1:]
        state = samplers.initial_state(samplers.draw_noise(keys, 0, shape))
        weights = (
            1.0 - options.local_video,
            options.local_video - options.global_video,
            options.global_video - options.text,
            options.text,
        )
        for i in range(options.steps):
            report("sampling", i, options.steps)
            noise = samplers.draw_noise(keys, i + 1, shape) if plan.draws_noise else None
            state = self._step(params, state, plan.row(i), chain, noise, weights)
            state.x.block_until_ready()
        report("sampling", options.steps, options.steps)
        return state.x

    def _cut(self, clip: Clip, mel: Any, wave: Any, onset: Any, seed: int, number: int) -> Sound:
        spec = self.config.latent
        samples = round(clip.seconds * spec.sample_rate)
        wave = np.asarray(wave, np.float32)
        wave = np.pad(wave, (0, max(0, samples - len(wave))))[:samples]
        mel_frames = -(-samples // spec.hop)
        latent = -(-samples // (spec.hop * spec.downsample))
        return Sound(
            wave, spec.sample_rate, mel[:mel_frames], onset[:latent], spec.frames_per_second, clip.seconds, seed, number
        )


def _features(cfg: Any, params: Params, frames: jax.Array) -> jax.Array:
    return apply(VideoEncoder(cfg.video), params["video"], frames)


def _condition(
    cfg: Any, params: Params, ids: Any, null: Any, video: jax.Array, frames: int
) -> tuple[tuple[Conditioning, ...], jax.Array]:
    """Conditions of growing content (nothing, + local, + global, + text) and the onset logits."""
    logits, control = local_control(cfg, params, video, None, frames)
    tokens = global_tokens(cfg, params, video, None)
    text, empty = (encode_text(cfg, params, *pair) for pair in (ids, null))
    hidden = jnp.zeros(video.shape[0])
    nothing = join(empty, null[1], tokens, jnp.zeros_like(control), hidden)
    local = join(empty, null[1], tokens, control, hidden)
    both = join(empty, null[1], tokens, control)
    return (nothing, local, both, join(text, ids[1], tokens, control)), logits


def _step(
    cfg: Any,
    params: Params,
    state: samplers.SamplerState,
    row: samplers.Plan,
    chain: tuple[Conditioning, ...],
    noise: jax.Array | None,
    weights: tuple[float, ...],
) -> samplers.SamplerState:
    return samplers.sampler_step(combined(denoiser(cfg, params), weights), state, row, chain, noise)


def _decode(cfg: Any, params: Params, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
    mel = apply(
        Autoencoder(cfg.autoencoder), params["autoencoder"], x0 / cfg.autoencoder.scale_factor, method="decode"
    )[..., 0]
    return mel, apply(Vocoder(cfg.vocoder), params["vocoder"], mel)


def output_path(folder: pathlib.Path, stem: str, sample: int, samples: int, suffix: str) -> pathlib.Path:
    """``stem.suffix``, or ``stem.K.suffix`` where there are several samples."""
    return folder / (f"{stem}{suffix}" if samples == 1 else f"{stem}.{sample}{suffix}")
