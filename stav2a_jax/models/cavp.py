"""CAVP's video encoder: a SlowOnly ResNet on frames, a projection, and unit length.

Source: Diff-Foley's CAVP; the release is a SlowOnly ResNet-50 at 4 frames per second. Parameters keep the 3-D shape
(time, height, width, in, out) of their PyTorch counterparts; the arithmetic is that of ``nn/conv3d.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from stav2a_jax.config import VideoEncoderConfig
from stav2a_jax.nn.conv3d import conv3d, space_to_depth
from stav2a_jax.types import Params

EXPANSION = 4  # a bottleneck block puts out four times its inner width
NORM_EPS = 1e-5
LENGTH_EPS = 1e-8  # under the root; F.normalize's 1e-12 would let a black frame's gradient grow by 1e12

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def contrast_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """He-normal kernel minus its mean over time and space: a plain, resting picture gives zero.

    Without batch statistics brightness would otherwise drown everything that moves. Measured on bouncing balls
    (onset cross entropy after 140 steps, 0.25 = knowing only the rate): 0.165 without the subtraction, 0.126 with it.
    """
    kernel = he_normal(key, shape, dtype)
    if math.prod(shape[:-2]) == 1:  # a single tap has nothing to be compared with
        return kernel
    return kernel - kernel.mean(axis=tuple(range(len(shape) - 2)), keepdims=True)


def is_statistic(path: Any) -> bool:
    """Whether a parameter is a frozen BatchNorm statistic, which no optimiser may touch.

    ``path`` is a slash-joined string, a tuple of names, or a key path of ``jax.tree_util``.
    """
    names = path.split("/") if isinstance(path, str) else [getattr(key, "key", key) for key in path]
    return names[-1] in ("mean", "var")


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics, kept as the parameters ``mean`` and ``var`` (see :func:`is_statistic`).

    Fresh statistics are 0 and 1. The network is then trainable from nothing without ever looking at a batch, thanks
    to its initialisation: :func:`contrast_normal` and the ``scale_init`` of :class:`Bottleneck`.
    Shapes: (..., C) -> (..., C).
    """

    features: int
    scale_init: float = 1.0

    def setup(self) -> None:
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.constant(self.scale_init), shape)
        self.bias = self.param("bias", nn.initializers.zeros, shape)
        self.mean = self.param("mean", nn.initializers.zeros, shape)
        self.var = self.param("var", nn.initializers.ones, shape)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """The norm as ``x * factor + shift``, both (C,) float32."""
        mean, var = jax.lax.stop_gradient((self.mean, self.var))
        factor = self.scale * jax.lax.rsqrt(var + NORM_EPS)
        return factor, self.bias - mean * factor

    def __call__(self, x: jax.Array) -> jax.Array:
        factor, shift = self.affine()
        return (x * factor + shift).astype(x.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, then frozen batch norm, as one operation.

    The norm's factor goes into the kernel: equal up to rounding, and the backward pass then needs neither the
    convolution's output nor a pass over it. ``kernel`` is (time, height, width): one of (kt, 1, 1), (1, k, k) and
    (kt, k, k), zero padding of k // 2, spatial ``stride``. Shapes: (B, T, H, W, in) -> (B, T, H', W', features).
    """

    features: int
    kernel: tuple[int, int, int]
    stride: int = 1
    scale_init: float = 1.0
    kernel_init: Callable[..., jax.Array] = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel, x.shape[-1], self.features))
        factor, shift = FrozenBatchNorm(self.features, self.scale_init, name="norm").affine()
        return conv3d(x, (kernel * factor).astype(self.dtype), self.stride) + shift.astype(self.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3 x 3 with stride 2 and padding 1, for x >= 0: (..., H, W, C) -> (..., ceil(H/2), ceil(W/2), C).

    Three shifted maxima per axis: the gradient of a reduce-window is several times slower on a CPU.
    """
    for axis in (-3, -2):
        n = x.shape[axis]
        out = (n + 1) // 2
        pads = [(0, 0)] * x.ndim
        pads[axis] = (1, 2 * out + 1 - n)
        pairs = jnp.moveaxis(jnp.pad(x, pads), axis, 0)
        pairs = pairs.reshape(out + 1, 2, *pairs.shape[1:])
        x = jnp.moveaxis(jnp.maximum(jnp.maximum(pairs[:-1, 0], pairs[:-1, 1]), pairs[1:, 0]), 0, axis)
    return x


class Bottleneck(nn.Module):
    """Residual block (kt,1,1) -> (1,3,3) -> (1,1,1). Shapes: (B, T, H, W, C) -> (B, T, H', W', 4 * width)."""

    width: int
    temporal_kernel: int = 1
    stride: int = 1
    project: bool = False  # a 1x1 shortcut, in the first block of a stage
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        out = EXPANSION * self.width
        # the mask is needed where frames meet: a padded frame must look like the zeros beyond the clip
        y = x if mask is None or self.temporal_kernel == 1 else x * mask
        y = nn.relu(ConvNorm(self.width, (self.temporal_kernel, 1, 1), dtype=self.dtype, name="conv1")(y))
        y = nn.relu(ConvNorm(self.width, (1, 3, 3), self.stride, dtype=self.dtype, name="conv2")(y))
        # fresh blocks without a projection begin as the identity, so depth does not add up; the others act at once
        scale = 1.0 if self.project else 0.0
        y = ConvNorm(out, (1, 1, 1), scale_init=scale, dtype=self.dtype, name="conv3")(y)
        if self.project:
            x = ConvNorm(out, (1, 1, 1), self.stride, dtype=self.dtype, name="downsample")(x)
        return nn.relu(x + y)


class VideoEncoder(nn.Module):
    """Features of a silent video, one unit vector per frame (PAPER sec. 1, e_v).

    ``frames`` are RGB in [0, 1], or uint8, without mean or standard deviation; their spacing is the caller's matter
    (``cfg.fps``). ``mask`` (B, T) marks the frames of a padded clip that exist: padding does not change the answer, and
    padded frames come out as zeros. ``normalise=False`` returns the projection itself; ``pooled=True`` takes
    the maximum over the clip before the normalisation (the release: over 16 frames), as the contrastive loss does.
    Shapes: (B, T, H, W, 3) -> (B, T, features), or (B, features) if pooled.
    """

    cfg: VideoEncoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: jax.Array, mask: jax.Array | None = None, *, normalise: bool = True, pooled: bool = False
    ) -> jax.Array:
        x = frames.astype(self.dtype)
        if jnp.issubdtype(frames.dtype, jnp.integer):
            x = x / 255
        features = Trunk(self.cfg, self.dtype, name="trunk")(x, mask)[-1].mean(axis=(2, 3), dtype=jnp.float32)
        if self.cfg.colour_bins:
            features = jnp.concatenate([features, colour_histogram(x, self.cfg.colour_bins)], axis=-1)
        raw = nn.Dense(self.cfg.features, bias_init=nn.initializers.normal(0.02), name="project")(features)
        keep = None if mask is None else mask[..., None].astype(bool)
        if pooled:
            raw, keep = (raw if keep is None else jnp.where(keep, raw, -jnp.inf)).max(axis=1), None
        out = unit_length(raw) if normalise else raw
        return out if keep is None else jnp.where(keep, out, 0.0)


class Trunk(nn.Module):
    """The SlowOnly ResNet: stem, pooling and stages, without temporal stride.

    Shapes: (B, T, H, W, 3) -> the stem's output and each stage's, (B, T, H / 4 ... H / 32, W / ..., C).
    """

    cfg: VideoEncoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> list[jax.Array]:
        cfg, keep = self.cfg, None if mask is None else mask[:, :, None, None, None].astype(self.dtype)
        if keep is not None and cfg.temporal_kernels[0] > 1:
            x = x * keep
        outputs = [self._stem(x)]
        for stage, (depth, temporal) in enumerate(zip(cfg.depths, cfg.temporal_kernels[1:], strict=True)):
            x = outputs[-1]
            for block in range(depth):
                first = block == 0
                x = Bottleneck(
                    cfg.base_channels * 2**stage,
                    temporal,
                    stride=2 if first and stage > 0 else 1,
                    project=first,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, keep)
            outputs.append(x)
        return outputs

    def _stem(self, x: jax.Array) -> jax.Array:
        """A 7x7 convolution and a pooling, or one product per patch; both shrink the picture by 4 (or the patch)."""
        cfg = self.cfg
        size = (cfg.temporal_kernels[0], 7, 7) if cfg.patch is None else (cfg.temporal_kernels[0], 1, 1)
        x, stride = (x, 2) if cfg.patch is None else (space_to_depth(x, cfg.patch), 1)
        conv = ConvNorm(cfg.base_channels, size, stride, kernel_init=contrast_normal, dtype=self.dtype, name="conv1")
        x = nn.relu(conv(x))
        return max_pool(x) if cfg.patch is None else x


def colour_histogram(frames: jax.Array, bins: int) -> jax.Array:
    """Root of a soft colour histogram over every second pixel, ``bins`` per channel (Swain and Ballard 1991).

    The sum of the squares is ``bins`` cubed. A pixel counts for the eight bins around it, by its distance.
    RGB in [0, 1], shapes: (B, T, H, W, 3) -> (B, T, bins ** 3) float32.
    """
    pixels = frames[:, :, ::2, ::2].astype(jnp.float32).reshape(*frames.shape[:2], -1, 3)
    share = jnp.maximum(1.0 - jnp.abs(pixels[..., None] * (bins - 1) - jnp.arange(bins)), 0.0)
    red, green, blue = (share[..., c, :] for c in range(3))
    pairs = (red[..., :, None] * green[..., None, :]).reshape(*red.shape[:-1], bins**2)
    counts = jnp.einsum("btpi,btpj->btij", pairs, blue).reshape(*frames.shape[:2], -1)
    return jnp.sqrt(counts * (bins**3 / pixels.shape[2]))


def unit_length(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis, in float32; differs from F.normalize by a larger epsilon (see ``LENGTH_EPS``)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + LENGTH_EPS)


def calibrated(module: nn.Module, params: Params, *inputs: jax.Array) -> Params:
    """``params`` of a video or spectrogram encoder with the statistics of every norm measured on ``inputs``.

    Layer after layer: the activations of a fresh network then have mean 0 and variance 1 everywhere, which is what
    batch norm gives at its first step. Once, before training; after it the statistics stay as they are.
    """
    flat = flatten_dict(params)

    def measure(x: jax.Array, norm: Any, path: tuple[str, ...]) -> jax.Array:
        axes, x = tuple(range(x.ndim - 1)), x.astype(jnp.float32)
        mean, var = x.mean(axis=axes), jnp.maximum(x.var(axis=axes), 1e-6)
        flat[(*path, "mean")], flat[(*path, "var")] = mean, var
        return (x - mean) * (norm["scale"] * jax.lax.rsqrt(var + NORM_EPS)) + norm["bias"]

    def instead(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, ConvNorm | FrozenBatchNorm):
            return call(*args, **kwargs)
        own = layer.variables["params"]
        if isinstance(layer, FrozenBatchNorm):
            return measure(args[0], own, layer.path)
        y = conv3d(args[0], own["kernel"], layer.stride)
        return measure(y, own["norm"], (*layer.path, "norm")).astype(layer.dtype)

    with nn.intercept_methods(instead):
        module.apply({"params": params}, *inputs)
    return unflatten_dict(flat)
