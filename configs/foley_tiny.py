"""Every stage at tiny size on generated foley clips: the bundle that comes with the package.

    python train.py --config configs/foley_tiny.py        (resumes where it stopped)

Score to expect: docs/benchmark.md.
"""

from stav2a_jax.config import (
    AutoencoderConfig,
    Config,
    DataConfig,
    GlobalConfig,
    GuidanceConfig,
    LocalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SpecEncoderConfig,
    StageConfig,
    StagesConfig,
    TextConfig,
    UNetConfig,
    VideoEncoderConfig,
    VocoderConfig,
)

SHIFT, SCALE = -7.75, 1.75  # rounded mean and deviation of the clips' log-mels


def get_model() -> ModelConfig:
    return ModelConfig(
        autoencoder=AutoencoderConfig(
            patch=4,
            base_channels=64,
            channel_mult=(1,),
            num_res_blocks=1,
            norm_groups=8,
            mel_shift=SHIFT,
            mel_scale=SCALE,
        ),
        vocoder=VocoderConfig(
            initial_channels=192,
            upsample_rates=(5, 2),
            upsample_kernels=(11, 4),
            resblock_kernels=(3, 7),
            resblock_dilations=((1, 3, 5), (1, 3, 5)),
            istft=(64, 16),
            mel_shift=SHIFT,
            mel_scale=SCALE,
        ),
        video=VideoEncoderConfig(
            fps=25.0,
            size=64,
            patch=4,
            base_channels=12,
            depths=(1, 1, 1, 1),
            temporal_kernels=(3,) * 5,
            features=128,
            colour_bins=5,  # a trunk this small sees what moves, and hardly what it is made of
        ),
        spec=SpecEncoderConfig(
            mel_bins=64, channels=(16, 32, 64, 128), pools=((2, 2), (2, 2), (1, 2), (1, 2)), features=128
        ),
        text=TextConfig(vocab_size=600, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, max_length=32),
        local=LocalConfig(hidden=128, dim=64, control=64),
        pooling=GlobalConfig(dim=128, dropout=0.1),
        unet=UNetConfig(
            block_out_channels=(64, 96, 96),
            attention=(False, True, True),
            num_heads=(4, 4, 4),
            layers_per_block=1,
            cross_attention_dim=128,
            norm_groups=16,
            linear_projection=True,
            control_channels=64,
            fold=4,
        ),
    )


def stage(steps: int, batch: int, seconds: float, lr: float, ema: float = 0.999) -> StageConfig:
    optim = OptimConfig(lr=lr, warmup_steps=50, schedule="cosine", weight_decay=1e-2, ema_decay=ema)
    return StageConfig(steps=steps, batch_size=batch, crop_seconds=seconds, optim=optim)


def get_config() -> Config:
    return Config(
        name="foley-tiny",
        model=get_model(),
        data=DataConfig(seed=0, train_clips=3000, valid_clips=96),
        stages=StagesConfig(
            vae=stage(600, 8, 2.56, 2e-3, ema=0.99),
            vocoder=stage(2000, 16, 0.64, 1e-3, ema=0.99),
            cavp=stage(400, 16, 2.08, 2e-3, ema=0.99),
            t2a=stage(700, 32, 4.16, 1e-3),
            onset=stage(900, 16, 2.08, 2e-3, ema=0.99),
            stav2a=stage(2400, 24, 4.16, 1e-3),
        ),
        loss=LossConfig(
            vae_kl=5e-3,
            onset_trains_video=True,
            onset_contrast=0.1,
            stav2a_plain_text=0.5,  # as long as the caption names the material, the picture is hardly asked
        ),
        guidance=GuidanceConfig(steps=15, text=3.0, global_video=3.0, local_video=3.0),  # chosen on clips of `valid`
    )
