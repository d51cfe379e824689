"""One denoising step at paper size in ours and in PyTorch eager, with the same weights, taking turns.

U-Net + ControlNet of the release (sta128), 10.24 s, both halves of guidance, float32: one latent and one control under
two texts. The peer is diffusers' ``UNet2DConditionModel`` and ``ControlNetModel``, loaded with our exported parameters,
on a batch of two as its pipelines make it. Ours has the same answer for both, and computes once what they share.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from rich.progress import track

from stav2a_jax.config import UNetConfig
from stav2a_jax.convert.public import public_controlnet, public_unet
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.unet import UNet
from stav2a_jax.nn.call import apply
from stav2a_jax.types import LatentSpec, Params

TEXT_TOKENS, VIDEO_TOKENS, TIMESTEP = 20, 4, 500


def random_params(shapes: Any, rng: np.random.Generator) -> Params:
    """Weights that keep the size of what passes through: norms near 1, all else by the root of its inputs."""

    def draw(path: Any, leaf: Any) -> jax.Array:
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 400
        centre = float(path[-1].key == "scale")
        return jax.numpy.asarray(centre + rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(inputs)))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def both_sides(cfg: UNetConfig, spec: LatentSpec) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """(ours, PyTorch): calls without arguments that take the same step and return (B, T, F, C) when it is done."""
    rng = np.random.default_rng(0)
    shapes = (spec.frames, spec.bins, cfg.channels), (TEXT_TOKENS + VIDEO_TOKENS, cfg.cross_attention_dim)
    x, context, control = (
        rng.standard_normal((rows, *shape), np.float32)
        for rows, shape in zip((1, 2, 1), (*shapes, (spec.frames, cfg.control_channels)))
    )
    t, mask = np.full(1, TIMESTEP, np.int32), np.ones(context.shape[:2], np.float32)
    unet, net = UNet(cfg), ControlNet(cfg)
    key, inputs = jax.random.key(0), (x, t, context)
    params = random_params(jax.eval_shape(unet.init, key, *inputs, mask)["params"], rng)
    net_params = random_params(jax.eval_shape(net.init, key, *inputs, None, control)["params"], rng)

    @jax.jit
    def step(params, net_params, x, t, context, mask, control):
        residuals = apply(net, net_params, x, t, context, None, control)
        return apply(unet, params, x, t, context, mask, residuals)

    theirs, their_net = public_unet(cfg, params), public_controlnet(cfg, net_params, spec.bins)
    twice = [np.concatenate([a] * 2) for a in (np.moveaxis(x, -1, 1), t, control)]
    latents, times, condition = (torch.tensor(a) for a in twice)
    tensors, keep = (latents, times, torch.tensor(context)), torch.tensor(mask)

    @torch.inference_mode()
    def peer() -> np.ndarray:
        down, middle = their_net(*tensors, controlnet_cond=condition, return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return np.moveaxis(theirs(*tensors, encoder_attention_mask=keep, **extra).sample.numpy(), 1, -1)

    arguments = jax.device_put((params, net_params, x, t, context, mask, control))
    return lambda: np.asarray(step(*arguments)), peer


def measure(rounds: int) -> dict[str, Any]:
    """Median seconds of each and their ratio (PyTorch / ours, > 1: ours is faster), after one step each that is not
    counted; and the largest difference of the results by their root mean square."""
    ours, peer = both_sides(UNetConfig(), LatentSpec())
    got, want = ours(), peer()
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for i in track(range(rounds), "denoising steps"):
        sides = [("ours", ours), ("torch", peer)]
        for name, run in sides if i % 2 else reversed(sides):
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratio_torch_float32": round(medians["torch"] / medians["ours"], 3),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "all_seconds": {name: [round(v, 3) for v in values] for name, values in seconds.items()},
        "max_difference_by_rms": float(np.abs(got - want).max() / np.sqrt(np.mean(np.square(want, dtype=np.float64)))),
        "rounds": rounds,
    }
