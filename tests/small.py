"""Overrides that make any config very small and its clips generated ones, and noise in place of trained stages."""

import jax
import numpy as np

from stav2a_jax.training.recipe import needed, to_train
from stav2a_jax.training.shapes import ShapesOnly
from stav2a_jax.training.workspace import Workspace

MODEL = {
    "autoencoder.base_channels": 4,
    "autoencoder.norm_groups": 2,
    "vocoder.initial_channels": 8,
    "vocoder.upsample_rates": (5,),
    "vocoder.upsample_kernels": (11,),
    "vocoder.resblock_kernels": (3,),
    "vocoder.resblock_dilations": ((1,),),
    "vocoder.istft": (64, 32),
    "video.size": 16,
    "video.base_channels": 4,
    "video.depths": (1,),
    "video.temporal_kernels": (1, 3),
    "video.features": 8,
    "spec.channels": (4, 8),
    "spec.pools": ((2, 2), (2, 2)),
    "spec.features": 8,
    "text.vocab_size": 300,
    "text.d_model": 8,
    "text.d_kv": 4,
    "text.d_ff": 8,
    "text.num_layers": 1,
    "text.num_heads": 2,
    "local.hidden": 8,
    "local.dim": 4,
    "local.windows": (2,),
    "local.control": 4,
    "pooling.dim": 8,
    "unet.block_out_channels": (8,),
    "unet.attention": (True,),
    "unet.num_heads": (1,),
    "unet.cross_attention_dim": 8,
    "unet.norm_groups": 4,
    "unet.control_channels": 4,
}
DATA = {"train_clips": 4, "valid_clips": 2, "foreign_picture": 0.3, "records": None}
STAGE = {
    "steps": 4,
    "batch_size": 2,
    "crop_seconds": 0.64,
    "valid_batches": 1,
    "log_every": 1,
    "shown": 0,
    "optim.lr": 1e-3,
    "optim.warmup_steps": 1,
    "optim.schedule": "cosine",
    "optim.ema_decay": 0.99,
}
STAGES = ("vae", "vocoder", "cavp", "t2a", "onset", "stav2a")


def assignments():
    """NAME=VALUE for ``--set``."""
    sections = {"model": MODEL, "data": DATA}
    sections |= {f"stages.{stage}": STAGE for stage in STAGES}
    return [f"{section}.{name}={value}" for section, values in sections.items() for name, value in values.items()]


def noise(shapes, seed=0):
    """Parameters of these shapes; scales and variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        positive = path[-1].key in ("scale", "var")
        return (positive + rng.normal(0, 0.05 if positive else 0.2, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class NoisyStart(Workspace):
    """A run whose initial parameters are noise, so that no initialisation has to be compiled."""

    def compute(self, function, *args):
        return noise(jax.eval_shape(function, *args))


def write_noise(ws, stages=None):
    """Make noise the result of the stages that a run takes from elsewhere."""
    shapes = ShapesOnly(ws.cfg)
    for stage in stages or [name for name in needed(ws.cfg) if name not in to_train(ws.cfg)]:
        if not ws.done(stage):
            ws.claim(stage)
            record = {"step": 0, "from": ["noise"], "licence": [], "notice": [], "scale_factor": 1.0}
            ws.write_result(stage, noise(shapes.result(stage)[0]), record)
