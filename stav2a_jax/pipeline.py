"""VideoToAudio: video + text -> conditioning -> latents -> mel -> waveform, as long as the video."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.audio.wav import to_int16, to_int16_released
from stav2a_jax.bundle import DEFAULT, Bundle, load_bundle
from stav2a_jax.config import GuidanceConfig
from stav2a_jax.diffusion import samplers
from stav2a_jax.diffusion.guidance import combined
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.system import condition_chain, decode, denoiser, encode_video, one_control
from stav2a_jax.tokenizer import Tokenizer
from stav2a_jax.types import Clip as Clip
from stav2a_jax.types import Conditioning, Params, UserError
from stav2a_jax.types import Sound as Sound
from stav2a_jax.video.decode import read_frames

BUCKET = 32
"""Lengths are rounded up to this many latent frames, so that few programs are compiled."""

Report = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)"""

Noise = Callable[[int], Any]
"""index -> (B, frames, bins, channels): 0 is where sampling starts, i + 1 is for step i."""


class VideoToAudio:
    """A loaded bundle, ready to write sound.

    >>> model = VideoToAudio.from_bundle("foley-tiny")
    >>> sound = model("clip.mp4", "a wooden ball bounces", seed=0)[0]
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.config = bundle, bundle.model
        self._sees = self.config.conditions.control or self.config.conditions.global_tokens
        self.tokenizer = Tokenizer.load(bundle.folder)
        self._params = jax.device_put(bundle.params)
        self._schedule = make_schedule(self.config.schedule)
        self._encode = jax.jit(functools.partial(encode_video, self.config))
        self._condition = jax.jit(functools.partial(condition_chain, self.config), static_argnums=4)
        self._step = jax.jit(functools.partial(_step, self.config), static_argnums=5)
        self._decode = jax.jit(functools.partial(decode, self.config))

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
        noise: np.ndarray | None = None,
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
          noise: (1 + steps, B, frames, bins, C) in place of what seed and numbers would draw, for comparisons with
            another implementation; row 0 is the start. All clips must then need the same latent ``frames``.
          guidance, guidance_global, guidance_local: one scale per condition; the bundle's own where None.
          text_only: leave the video out: the text-to-audio model alone (needs the bundle's ``t2a`` group).
        """
        numbers = [0] * len(clips) if numbers is None else numbers
        options = self.options(sampler, steps, guidance, guidance_global, guidance_local, text_only)
        if text_only and self._sees and "t2a" not in self._params:
            raise UserError(f"the bundle {self.bundle.name!r} holds no text-to-audio weights of its own")
        other = text_only and "t2a" in self._params
        params = {**self._params, "unet": self._params["t2a"]} if other else self._params
        buckets = [self.bucket(c.seconds) for c in clips]
        sounds: dict[int, Sound] = {}
        for frames in sorted(set(buckets)):
            rows = [i for i, b in enumerate(buckets) if b == frames]
            mine, mine_numbers = [clips[i] for i in rows], [numbers[i] for i in rows]
            report("looking", 0, 1)
            video = self.features(mine, frames)
            chain, onset = self.conditions([prompts[i] for i in rows], video, frames, text_only=text_only)
            report("looking", 1, 1)
            draw = self.noise(seed, mine_numbers, frames) if noise is None else noise.__getitem__
            for step, state in enumerate(self.states(chain, draw, options, params)):
                report("sampling", step, options.steps)
                x0 = state.x
            report("decoding", 0, 1)
            mel, wave = jax.device_get(self.decode(x0))
            report("decoding", 1, 1)
            probability = np.asarray(jax.nn.sigmoid(onset[..., 1] - onset[..., 0]), np.float32)
            for k, i in enumerate(rows):
                sounds[i] = self._cut(clips[i], mel[k], wave[k], probability[k], seed, numbers[i])
        return [sounds[i] for i in range(len(clips))]

    def bucket(self, seconds: float) -> int:
        """Latent frames of the program that handles this duration; clips of one bucket can share a batch."""
        latent = self.config.latent
        if self.config.pipeline.whole_clip:
            return latent.frames
        exact = math.ceil(seconds * latent.frames_per_second - 1e-6)
        return -(-max(1, exact) // BUCKET) * BUCKET

    def options(
        self,
        sampler: str | None = None,
        steps: int | None = None,
        text: float | None = None,
        global_: float | None = None,
        local: float | None = None,
        text_only: bool = False,
    ) -> GuidanceConfig:
        """The bundle's sampling defaults with what is not None in their place. Raises UserError for what cannot be."""
        given: dict[str, Any] = {"sampler": sampler, "steps": steps, "text": text}
        given |= {"global_video": global_, "local_video": local}
        options = dataclasses.replace(self.bundle.guidance, **{k: v for k, v in given.items() if v is not None})
        self.plan(options)
        return dataclasses.replace(options, global_video=1.0, local_video=1.0) if text_only else options

    def plan(self, options: GuidanceConfig) -> samplers.Plan:
        """The sampler's table for so many steps. Raises UserError for a sampler or a number of steps that is none."""
        return samplers.get_plan(options.sampler)(self._schedule, options.steps)

    def features(self, clips: Sequence[Clip], frames: int) -> jax.Array:
        """Video features (B, T, D) for so many latent frames, as ``config.pipeline.video_frames`` says; a text-to-audio
        model has one row of zeros."""
        if not self._sees:
            return jnp.zeros((len(clips), 1, self.config.video.features))
        count = self.config.pipeline.video_frames
        if count is not None:  # every clip by itself: what stands behind its end is not to be seen by the encoder
            rows = [self._given(c) if c.features is not None else self._encoded([c.frames[:count]])[0] for c in clips]
            return jnp.stack([_zero_filled(np.asarray(row), count) for row in rows])
        count = round(frames / self.config.latent.frames_per_second * self.config.video.fps)
        if all(c.features is None for c in clips):
            return self._encoded([_held(c.frames, count) for c in clips])
        rows = [
            _held(self._given(c), count) if c.features is not None else self._encoded([_held(c.frames, count)])[0]
            for c in clips
        ]
        return jnp.stack(rows)

    def _encoded(self, frames: Sequence[np.ndarray]) -> jax.Array:
        return self._encode(self._params, np.stack(frames))

    def _given(self, clip: Clip) -> np.ndarray:
        rows, want = np.asarray(clip.features, np.float32), self.config.video.features
        if rows.ndim != 2 or rows.shape[1] != want or not len(rows):
            raise UserError(f"features must be (N, {want}) with N > 0, got {rows.shape}")
        return rows

    def conditions(
        self, prompts: Sequence[str], video: jax.Array, frames: int, *, text_only: bool = False
    ) -> tuple[tuple[Conditioning, ...], jax.Array]:
        """Four conditions of growing content (nothing, + local, + global, + text), and onset logits (B, frames, 2).

        The null text is the empty prompt, padded as the prompts are.
        """
        limit = self.config.text.max_length
        pad_to = limit if self.config.pipeline.text_padding == "limit" else None
        ids = self.tokenizer(list(prompts), limit, pad_to=pad_to)
        length = ids[0].shape[1]
        null = self.tokenizer([""] * len(prompts), limit, pad_to=length)
        chain, onset = self._condition(self._params, ids, null, video, frames)
        if text_only:  # the prior has never seen a control or video tokens
            chain = tuple(Conditioning(c.context[:, :length], c.mask[:, :length]) for c in chain)
        return chain, onset

    def noise(self, seed: int, numbers: Sequence[int], frames: int) -> Noise:
        """Standard normal noise by index, (B, frames, bins, C), a function of the seed and each sample's number."""
        base = jax.random.key(seed)
        keys = jax.vmap(lambda n: jax.random.fold_in(base, n))(np.asarray(numbers, np.uint32))
        shape = self.config.latent.shape(1, frames)[1:]
        return lambda index: samplers.draw_noise(keys, index, shape)

    def states(
        self, chain: tuple[Conditioning, ...], noise: Noise, options: GuidanceConfig, params: Params | None = None
    ) -> Iterator[samplers.SamplerState]:
        """The state before the first denoising step and after every one; ``noise(0)`` is where it starts."""
        plan = self.plan(options)
        weights = (
            1.0 - options.local_video,
            options.local_video - options.global_video,
            options.global_video - options.text,
            options.text,
        )
        state = samplers.initial_state(noise(0))
        yield state
        for i in range(options.steps):
            drawn = noise(i + 1) if plan.draws_noise else None
            params = self._params if params is None else params
            state = self._step(params, state, plan.row(i), chain, drawn, weights)
            state.x.block_until_ready()
            yield state

    def decode(self, x0: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Latents (B, frames, bins, C) -> log-mel (B, mel frames, bands), wave (B, all samples of the vocoder)."""
        return self._decode(self._params, x0)

    def _cut(self, clip: Clip, mel: Any, wave: Any, onset: Any, seed: int, number: int) -> Sound:
        spec, wave = self.config.latent, np.asarray(wave, np.float32)
        if self.config.pipeline.whole_clip:
            samples, seconds = len(wave), spec.seconds
        else:
            samples, seconds = round(clip.seconds * spec.sample_rate), clip.seconds
            wave = np.pad(wave, (0, max(0, samples - len(wave))))[:samples]
        mel_frames = -(-samples // spec.hop)
        latent = -(-samples // (spec.hop * spec.downsample))
        int16 = to_int16(wave) if self.config.pipeline.int16 == "rounded" else to_int16_released(wave)
        return Sound(
            wave,
            int16,
            spec.sample_rate,
            mel[:mel_frames],
            onset[:latent],
            spec.frames_per_second,
            seconds,
            seed,
            number,
        )


def _held(rows: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, the last one held: (N, ...) -> (count, ...)."""
    rows = rows[:count]
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def _zero_filled(rows: np.ndarray, count: int) -> np.ndarray:
    """``count`` rows, zeros behind those that there are: (N, D) -> (count, D)."""
    return np.pad(rows[:count], ((0, max(0, count - len(rows))), (0, 0)))


def _step(
    cfg: Any,
    params: Params,
    state: samplers.SamplerState,
    row: samplers.Plan,
    chain: tuple[Conditioning, ...],
    noise: jax.Array | None,
    weights: tuple[float, ...],
) -> samplers.SamplerState:
    guided = combined(denoiser(cfg, params), weights, repeat=False)
    return samplers.sampler_step(guided, state, row, one_control(chain), noise)


def output_path(folder: pathlib.Path, stem: str, sample: int, samples: int, suffix: str) -> pathlib.Path:
    """``stem.suffix``, or ``stem.K.suffix`` where there are several samples."""
    return folder / (f"{stem}{suffix}" if samples == 1 else f"{stem}.{sample}{suffix}")
