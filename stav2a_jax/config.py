"""Frozen, hashable configs of every model, and checked overrides.

Field defaults are the paper-size model of the release ("sta128"); tiny sizes are spelled out in ``configs/``.
Nothing here imports a model: a config is data, and a model is built from it.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import types
import typing
from typing import Any

from stav2a_jax.types import LatentSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Mel VAE (AudioLDM first stage). ``mel_shift``/``mel_scale``: the network sees (log_mel - shift) / scale.

    ``patch`` moves squares of the mel into the channels before the first convolution (1 in the release).
    """

    patch: int = 1
    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 8
    embed_channels: int = 8
    norm_groups: int = 32
    scale_factor: float = 0.9227914214134216
    mel_shift: float = 0.0
    mel_scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """HiFi-GAN generator. ``istft=(n_fft, hop)`` replaces the last upsamplings by an inverse STFT (iSTFTNet).

    The product of the rates, times the iSTFT hop where there is one, is the mel hop.
    """

    mel_bins: int = 64
    initial_channels: int = 1024
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    upsample_kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    istft: tuple[int, int] | None = None
    mel_shift: float = 0.0
    mel_scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoEncoderConfig:
    """SlowOnly ResNet with projection (CAVP). ``temporal_kernels``: of the stem, then of each stage's first conv.

    ``patch`` replaces the stem (7x7, stride 2, pooling) by one linear map per square of so many pixels.
    """

    fps: float = 4.0
    size: int = 224
    patch: int | None = None
    base_channels: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    temporal_kernels: tuple[int, ...] = (1, 1, 1, 3, 3)
    features: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecEncoderConfig:
    """Cnn14 spectrogram encoder of CAVP's audio side."""

    mel_bins: int = 128
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    pools: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))
    features: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """mT5 encoder (gated GELU, relative bias). ``max_length`` is the tokenizer's limit."""

    vocab_size: int = 250_112
    d_model: int = 1024
    d_kv: int = 64
    d_ff: int = 2816
    num_layers: int = 24
    num_heads: int = 16
    relative_buckets: int = 32
    relative_max_distance: int = 128
    max_length: int = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Local adapter and onset head. ``windows`` grow; ``interpolation`` is 'nearest' or 'linear'."""

    hidden: int = 256
    dim: int = 128
    windows: tuple[int, ...] = (1, 2, 4, 8)
    control: int = 128
    interpolation: str = "nearest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Attentive pooling into K tokens. ``dropout`` acts between relu and v of the unary potential, in training."""

    dim: int = 1024
    tokens: int = 4
    dropout: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """SD-style U-Net; the ControlNet copies its encoder. Heads are a count per level.

    ``fold`` moves that many neighbouring frequency bins into the channels before the first convolution (1 in
    the release); ``mask_control`` gives the text mask to the ControlNet too (the release does not).
    """

    channels: int = 8
    block_out_channels: tuple[int, ...] = (128, 256, 384, 640)
    attention: tuple[bool, ...] = (False, True, True, True)
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    layers_per_block: int = 2
    cross_attention_dim: int = 1024
    norm_groups: int = 32
    linear_projection: bool = False
    control_channels: int = 128
    fold: int = 1
    mask_control: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Noise schedule (SD 2.1's by default). ``prediction`` is 'v' or 'epsilon'."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "v"
    spacing: str = "leading"
    steps_offset: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole system, one config per module."""

    latent: LatentSpec = LatentSpec()  # noqa: RUF009 (frozen)
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    vocoder: VocoderConfig = VocoderConfig()
    video: VideoEncoderConfig = VideoEncoderConfig()
    spec: SpecEncoderConfig = SpecEncoderConfig()
    text: TextConfig = TextConfig()
    local: LocalConfig = LocalConfig()
    pooling: GlobalConfig = GlobalConfig()
    unet: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()


def to_dict(cfg: Any) -> dict[str, Any]:
    """Plain dict of a config, ready for JSON."""
    return dataclasses.asdict(cfg)


def from_dict(cls: type, data: dict[str, Any]) -> Any:
    """Inverse of :func:`to_dict`; unknown or missing names are errors that list all of them."""
    hints = typing.get_type_hints(cls)
    unknown, missing = sorted(set(data) - set(hints)), sorted(set(hints) - set(data))
    if unknown or missing:
        raise KeyError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
    return cls(**{name: _build(hints[name], value) for name, value in data.items()})


def _build(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value)
    return _freeze(value)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list | tuple) else value


def override(cfg: Any, assignment: str) -> Any:
    """``override(cfg, "optim.lr=3e-5")`` -> a new config; unknown names and wrong types raise."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise TypeError(f"expected NAME=VALUE, got {assignment!r}")
    head, _, rest = path.strip().partition(".")
    names = [f.name for f in dataclasses.fields(cfg)]
    if head not in names:
        near = difflib.get_close_matches(head, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}"
        raise KeyError(f"{type(cfg).__name__} has no field {head!r}{hint}")
    if rest:
        if not dataclasses.is_dataclass(getattr(cfg, head)):
            raise KeyError(f"{type(cfg).__name__}.{head} is a value and has no field {rest!r}")
        return dataclasses.replace(cfg, **{head: override(getattr(cfg, head), f"{rest}={text}")})
    return dataclasses.replace(cfg, **{head: _parse(path, typing.get_type_hints(type(cfg))[head], text)})


def _parse(path: str, hint: Any, text: str) -> Any:
    if hint is str:
        return text
    try:
        return _typed(hint, _freeze(ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError):
        wanted = str(hint) if typing.get_args(hint) else hint.__name__
        raise TypeError(f"{path}: expected {wanted}, got {text!r}") from None


def _typed(hint: Any, value: Any) -> Any:
    """``value`` as the hint wants it (a whole number may stand for a float), or TypeError; a bool is no number."""
    if isinstance(hint, types.UnionType):
        for option in typing.get_args(hint):
            with contextlib.suppress(TypeError):
                return _typed(option, value)
    elif typing.get_origin(hint) is tuple and isinstance(value, tuple):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(map(_typed, kinds, value))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError(hint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW. ``schedule`` is 'cosine' (to ``final_fraction`` of lr) or 'constant', after a linear warm-up."""

    lr: float = 3e-5
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 1e-2
    warmup_steps: int = 300
    schedule: str = "constant"
    final_fraction: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.9999
    accum: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How long and on what one stage trains. ``crop_seconds``: length of the piece cut from a clip."""

    steps: int
    batch_size: int
    crop_seconds: float
    optim: OptimConfig = OptimConfig()
    valid_every: int = 200
    valid_batches: int = 4
    log_every: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The stages of the paper, in the order in which they run."""

    vae: StageConfig
    vocoder: StageConfig
    cavp: StageConfig
    t2a: StageConfig
    onset: StageConfig
    stav2a: StageConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The generated clips a run learns from."""

    seed: int = 0
    train_clips: int = 3000
    valid_clips: int = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and drop-outs of the losses; each name says its stage."""

    vae_kl: float = 1e-3
    cavp_frame: float = 1.0
    cavp_temperature: float = 0.07
    onset_positive_weight: float = 1.0
    onset_trains_video: bool = False
    onset_contrast: float = 0.3
    stav2a_onset: float = 0.1
    drop_text: float = 0.1
    drop_global: float = 0.1
    drop_local: float = 0.1
    snr_gamma: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """Sampling defaults of a bundle; one guidance scale per condition, 1 = no guidance."""

    sampler: str = "dpmpp"
    steps: int = 25
    text: float = 3.0
    global_video: float = 1.0
    local_video: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run of training: the models, the data, and every stage in order."""

    name: str
    stages: StagesConfig
    model: ModelConfig
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    seed: int = 0
    mode: str = "jit"
    host_devices: int = 2
