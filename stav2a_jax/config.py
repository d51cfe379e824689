"""Frozen, hashable configs of every model and of a run.

Field defaults are the paper-size model of the release ("sta128") with our behaviour; ``released.py`` holds the
release's. Tiny sizes are spelled out in ``configs/``.
Nothing here imports a model: a config is data, and a model is built from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stav2a_jax.fields import ADDED
from stav2a_jax.fields import from_dict as from_dict
from stav2a_jax.fields import override as override
from stav2a_jax.fields import to_dict as to_dict
from stav2a_jax.types import LatentSpec


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class VideoEncoderConfig:
    """SlowOnly ResNet with projection (CAVP). ``temporal_kernels``: of the stem, then of each stage's first conv.

    ``patch`` replaces the stem (7x7, stride 2, pooling) by one linear map per square of so many pixels.
    ``colour_bins`` per channel make a colour histogram of every frame, which joins the trunk's features (0: none).
    """

    fps: float = 4.0
    size: int = 224
    patch: int | None = None
    base_channels: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    temporal_kernels: tuple[int, ...] = (1, 1, 1, 3, 3)
    features: int = 512
    colour_bins: int = field(default=0, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class SpecEncoderConfig:
    """Cnn14 spectrogram encoder of CAVP's audio side."""

    mel_bins: int = 128
    channels: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    pools: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 2), (2, 2), (1, 2), (1, 1))
    features: int = 512


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Local adapter and onset head. ``windows`` grow; ``interpolation`` is 'nearest' or 'linear'."""

    hidden: int = 256
    dim: int = 128
    windows: tuple[int, ...] = (1, 2, 4, 8)
    control: int = 128
    interpolation: str = "nearest"


@dataclass(frozen=True, kw_only=True)
class GlobalConfig:
    """Attentive pooling into K tokens. ``dropout`` acts between relu and v of the unary potential, in training."""

    dim: int = 1024
    tokens: int = 4
    dropout: float = 0.5


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Noise schedule (SD 2.1's by default). ``prediction`` is 'v' or 'epsilon'."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "v"
    spacing: str = "leading"
    steps_offset: int = 1


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """How a sound file becomes the wave that is learnt from (``audio/front_end.py``).

    channel: the 'mean' of all channels, or the 'first'. resampler: 'soxr', or torchaudio's windowed 'sinc'. level:
    'kept' (the mean is removed), or set to a 'peak' of 0.5 before and again after the crop. The release has the
    second of each.
    """

    channel: Literal["mean", "first"] = "mean"
    resampler: Literal["soxr", "sinc"] = "soxr"
    level: Literal["kept", "peak"] = "kept"


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """What a request becomes around the networks; the defaults are ours, the release has the other value of each.

    text_padding: prompts are padded to the tokenizer's limit, or to the 'longest' of the batch. A ControlNet without
    a mask sees the padding, so there the answer depends on it.
    video_frames: None takes the frames that the video has and holds the last one to the end; a number gives every
    clip so many feature rows, cut from a longer one, filled with rows of zeros behind a shorter one (release: 40).
    whole_clip: a result has ``LatentSpec.seconds`` whatever the video's length, and every sample that the vocoder
    makes (release: 160 per mel frame and 32 more).
    int16: 'rounded' to nearest and clipped, or 'truncated' towards zero, where full scale wraps around.
    """

    text_padding: Literal["limit", "longest"] = "limit"
    video_frames: int | None = None
    whole_clip: bool = False
    int16: Literal["rounded", "truncated"] = "rounded"


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the networks are computed, whatever they are. Parameters, norms, softmax, time embedding and losses stay
    float32; so do the vocoder, and the decoding of a latent when sampling.

    remat: the residual and attention blocks of U-Net and ControlNet keep their inputs only and are computed again for
    the gradient.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class ConditionsConfig:
    """What the sound is made from beside the text; with neither of them the model is text-to-audio.

    control: the local feature, through the ControlNet. global_tokens: the pooled video, beside the text tokens.
    """

    control: bool = True
    global_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole system, one config per module, and how it is used."""

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
    sound: SoundConfig = field(default=SoundConfig(), metadata=ADDED)
    pipeline: PipelineConfig = field(default=PipelineConfig(), metadata=ADDED)
    compute: ComputeConfig = field(default=ComputeConfig(), metadata=ADDED)
    conditions: ConditionsConfig = field(default=ConditionsConfig(), metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How long and on what one stage trains. ``crop_seconds``: length of the piece cut from a clip.

    buckets: several such lengths in seconds for training, ascending; a clip goes to the shortest one that holds it,
    and a batch is of one length. Validation keeps to ``crop_seconds``. shown: how many validation examples TensorBoard
    gets to hear and see.
    """

    steps: int
    batch_size: int
    crop_seconds: float
    optim: OptimConfig = OptimConfig()
    valid_every: int = 200
    valid_batches: int = 4
    log_every: int = 20
    buckets: tuple[float, ...] = field(default=(), metadata=ADDED)
    shown: int = field(default=2, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The stages of the paper, in the order in which they run."""

    vae: StageConfig
    vocoder: StageConfig
    cavp: StageConfig
    t2a: StageConfig
    onset: StageConfig
    stav2a: StageConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips a run learns from: generated ones, or with ``records`` those of a prepared folder (docs/data.md).

    records: --out of ``stav2a prepare``; the counts and the seed of the generated clips then mean nothing. train_split,
    valid_split: splits of it, or parts of them ("train[:-2000]").
    min_av_align: clips below are left out (None: no filter), and so are those where AV-Align is not defined.
    drop_speech: clips whose caption speaks of speech are left out.
    foreign_picture: the share of the generated training clips that show the picture of another one, as in a collection
    that nobody has filtered.
    """

    seed: int = 0
    train_clips: int = 3000
    valid_clips: int = 96
    records: str | None = field(default=None, metadata=ADDED)
    train_split: str = field(default="train", metadata=ADDED)
    valid_split: str = field(default="valid", metadata=ADDED)
    min_av_align: float | None = field(default=None, metadata=ADDED)
    drop_speech: bool = field(default=False, metadata=ADDED)
    foreign_picture: float = field(default=0.0, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Which stages a run trains, what they begin with, and what of the paper's recipe they leave out.

    train: the stages that are trained; none named, all that the model needs. init: ("STAGE=FOLDER", ...), stages whose
    result is taken from another run or a bundle, as by ``--init``. start: the same for weights that a stage goes on
    training, as by ``--start``. These three are no settings of a stage: its result.json names what was taken.

    train_text: stage t2a trains the text encoder beside the U-Net. train_unet: stage stav2a trains the U-Net beside
    the ControlNet (the paper's row "CN frozen" does not). local: stage stav2a begins with the local branch of the stage
    'onset' and keeps its loss, or with a 'fresh' one that only the denoising teaches.
    """

    train: tuple[str, ...] = ()
    init: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    train_text: bool = True
    train_unet: bool = True
    local: Literal["onset", "fresh"] = "onset"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and drop-outs of the losses. A name that begins with a stage is of that stage and what follows it.

    stav2a_drop_text: how often stage stav2a drops the caption; None: as often as ``drop_text`` says for t2a.
    stav2a_plain_text: how often it takes the ``plain_caption`` of a clip's record, if there is one, for the caption.
    snr_gamma switches on min-SNR weights, whose form is ``snr_weight`` (``diffusion/loss.py``). null_text is what a
    dropped caption becomes: the empty 'prompt', as in guidance, or 'zeros' in place of its embedding (release).
    count_padding: the mean of a loss is over all frames, those behind the end of a clip too (release).
    """

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
    stav2a_drop_text: float | None = field(default=None, metadata=ADDED)
    stav2a_plain_text: float = field(default=0.0, metadata=ADDED)
    snr_weight: Literal["ours", "released"] = field(default="ours", metadata=ADDED)
    null_text: Literal["prompt", "zeros"] = field(default="prompt", metadata=ADDED)
    count_padding: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """Sampling defaults of a bundle; one guidance scale per condition, 1 = no guidance."""

    sampler: str = "dpmpp"
    steps: int = 25
    text: float = 3.0
    global_video: float = 1.0
    local_video: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run of training: the models, the data, and every stage in order.

    mode, fsdp: docs/parallel.md. host_devices: simulated devices where the CPU trains. workers: processes that load
    batches; 0 loads in threads.
    """

    name: str
    stages: StagesConfig
    model: ModelConfig
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    recipe: RecipeConfig = field(default=RecipeConfig(), metadata=ADDED)
    seed: int = 0
    mode: str = "jit"
    host_devices: int = 2
    fsdp: int = field(default=1, metadata=ADDED)
    workers: int = field(default=0, metadata=ADDED)
