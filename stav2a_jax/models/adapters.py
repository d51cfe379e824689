"""From video features to what the denoiser takes: control, onset logits and global tokens (PAPER sec. 2 and 3)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from stav2a_jax.config import GlobalConfig, LocalConfig
from stav2a_jax.types import Params, UserError

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# features have unit length, so entries of variance 1 in the first kernel give outputs of variance 1
unit_input = nn.initializers.normal(1.0)


class LocalAdapter(nn.Module):
    """Per-frame features, and their means over growing windows (PAPER sec. 2; release: TransVideoFeature).

    ``mask`` marks the frames that exist; windows end where the clip ends, so padding does not change the answer
    (padded frames themselves come out as zeros).
    Shapes: (B, T, D), mask (B, T) -> (B, T, dim * (1 + len(windows))), in the order local, windows as configured.
    """

    cfg: LocalConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        cfg, x = self.cfg, features.astype(self.dtype)
        for i, width in enumerate((cfg.hidden, cfg.hidden, cfg.dim)):
            init = he_normal if i else unit_input
            x = nn.Dense(width, kernel_init=init, dtype=self.dtype, name=f"fc{i + 1}")(x)
            x = nn.gelu(x, approximate=False)
        x = nn.Dense(cfg.dim, dtype=self.dtype, name="fc4")(x)
        if mask is not None:
            x = x * mask[..., None].astype(x.dtype)
        return jnp.concatenate([x, *(window_mean(x, k, mask) for k in cfg.windows)], axis=-1)


def window_mean(x: jax.Array, k: int, mask: jax.Array | None = None) -> jax.Array:
    """Mean of frames [i - k, i + k), cut at the clip's borders and divided by the number of frames really there.

    Half-open, so one frame longer to the past than to the future, as in the release.
    Shapes: (B, T, D), mask (B, T) -> (B, T, D).
    """
    t = x.shape[1]
    i = jnp.arange(t)
    # a band matrix: exact sums (a running sum loses digits on long clips), and T is at most a few hundred frames
    band = (i[None, :] >= i[:, None] - k) & (i[None, :] < i[:, None] + k)
    weights = band[None].astype(jnp.float32)
    if mask is not None:
        keep = mask.astype(jnp.float32)
        weights = weights * keep[:, None, :] * keep[:, :, None]
    weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1.0)
    return jnp.matmul(weights, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST).astype(x.dtype)


def resample_frames(
    x: jax.Array,
    n: int,
    fps: float,
    frames_per_second: float,
    interpolation: str = "nearest",
    length: jax.Array | None = None,
) -> jax.Array:
    """Video frames to ``n`` latent frames by their time stamps: latent frame i is at i / frames_per_second seconds.

    'nearest' takes the last video frame not after that time, floor(i * fps / frames_per_second) - the release's
    interpolation by 250 / 40 - and 'linear' interpolates between it and the next. The last frame is held to the
    end; ``length`` (B,) counts the frames that exist in each padded clip (default: all); those beyond are never read.
    Shapes: (B, T, D) -> (B, n, D). Raises UserError for another interpolation.
    """
    if interpolation not in ("nearest", "linear"):
        raise UserError(f"local.interpolation is {interpolation!r}; set it to 'nearest' or 'linear'.")
    last = jnp.full(x.shape[:1], x.shape[1]) if length is None else length
    last = jnp.clip(last.astype(jnp.int32) - 1, 0, x.shape[1] - 1)[:, None]
    # rounded first: 29.97 / 25 and the like must not turn an exact frame time into the frame before
    position = np.round(np.arange(n) * (float(fps) / float(frames_per_second)), 6)
    source = np.floor(position).astype(np.int32)
    at = jnp.minimum(source, last)
    before = jnp.take_along_axis(x, at[..., None], axis=1)
    if interpolation == "nearest":
        return before
    after = jnp.take_along_axis(x, jnp.minimum(source + 1, last)[..., None], axis=1)
    weight = jnp.asarray(position - source, x.dtype)[:, None]
    return before + weight * (after - before)


class OnsetHead(nn.Module):
    """Control signal and onset logits from the windowed features on the latent's frames (PAPER sec. 2).

    Class 1 = an onset in this latent frame. Shapes: (B, n, D) -> control (B, n, cfg.control), logits (B, n, 2) float32.
    """

    cfg: LocalConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        control = nn.silu(nn.Dense(self.cfg.control, dtype=self.dtype, name="l1")(x.astype(self.dtype)))
        return control, nn.Dense(2, dtype=jnp.float32, name="l2")(control)


def onset_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Binary cross entropy L_onset (PAPER sec. 2) on the difference of the two logits, mean over frames.

    Equal to the release's two-class cross entropy. Shapes: (B, n, 2), labels (B, n) in 0..1, mask (B, n) -> ().
    """
    logits = logits.astype(jnp.float32)
    per_frame = optax.sigmoid_binary_cross_entropy(logits[..., 1] - logits[..., 0], labels.astype(jnp.float32))
    if mask is None:
        return per_frame.mean()
    keep = mask.astype(jnp.float32)
    return (per_frame * keep).sum() / jnp.maximum(keep.sum(), 1.0)


class AttentivePooling(nn.Module):
    """Global tokens of a clip (PAPER sec. 3; release: GlobalVideoFeature with its factor-graph attention).

        e = sum_u p(u) e_u,   p(u) = softmax_u(w_u theta_u(u) + w_c theta_c(u)),
        theta_u(u) = v^T relu(V e_u),   theta_c(u) = mean_j cos(W1 e_u, W2 e_j)

    plus biases. Dropout acts between the relu and v where ``deterministic`` is False, with the rng 'dropout'; differs
    from the release, where it stays on at inference: the same video would give other tokens each time. A convolution
    along the feature axis makes the K tokens of the pooled vector, as in the release.
    Shapes: (B, T, D), mask (B, T) -> (B, tokens, dim).
    """

    cfg: GlobalConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        dim = self.cfg.dim
        self.fc = nn.Dense(dim, kernel_init=unit_input, dtype=self.dtype)
        self.unary_embed = nn.Dense(dim, kernel_init=he_normal, dtype=self.dtype)
        self.unary_reduce = nn.Dense(1, dtype=jnp.float32)
        self.pair_query = nn.Dense(dim, dtype=self.dtype)  # W1
        self.pair_key = nn.Dense(dim, dtype=self.dtype)  # W2
        self.reduce_potentials = self.param("reduce_potentials", nn.initializers.ones, (2,))  # w_u, w_c
        self.conv = nn.Conv(self.cfg.tokens, (3,), padding=((1, 1),), dtype=self.dtype)
        self.dropout = nn.Dropout(self.cfg.dropout)

    def __call__(self, features: jax.Array, mask: jax.Array | None = None, *, deterministic: bool = True) -> jax.Array:
        e = self.fc(features.astype(self.dtype))
        weights = self.attention(self.unary(e, deterministic=deterministic), self.pairwise(e, mask), mask)
        pooled = jnp.einsum("bt,btd->bd", weights, e.astype(jnp.float32))
        return self.conv(pooled[..., None].astype(self.dtype)).swapaxes(1, 2)

    def unary(self, e: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """theta_u: (B, T, dim) -> (B, T) float32."""
        hidden = self.dropout(nn.relu(self.unary_embed(e)), deterministic=deterministic)
        return self.unary_reduce(hidden)[..., 0]

    def pairwise(self, e: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """theta_c: (B, T, dim) -> (B, T) float32; the mean is over the frames that exist, u itself among them."""
        query, key = _unit(self.pair_query(e)), _unit(self.pair_key(e))
        keep = jnp.ones(e.shape[:2]) if mask is None else mask.astype(jnp.float32)
        # the mean of the cosines is the cosine with the mean: no (T, T) matrix
        mean = jnp.einsum("bt,btd->bd", keep, key) / jnp.maximum(keep.sum(axis=1), 1.0)[:, None]
        return jnp.einsum("btd,bd->bt", query, mean)

    def attention(self, unary: jax.Array, pairwise: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """p(u): (B, T), (B, T) -> (B, T), float32, summing to one over the frames that exist."""
        scores = self.reduce_potentials[0] * unary + self.reduce_potentials[1] * pairwise
        if mask is not None:
            scores = jnp.where(mask > 0, scores, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(scores, axis=1)


def centred(params: Params, means: jax.Array) -> Params:
    """Fresh parameters of an :class:`AttentivePooling` whose first layer fits the clips that it is going to see.

    ``means`` (N, D) are the mean features of N clips. The layer is shifted, and scaled by one number, so that what it
    makes of them has mean 0 and variance 1 (a data-dependent start; Salimans and Kingma 2016, sec. 3). What all clips
    share is the larger part of a feature, and tokens that differ little between clips are learnt late
    (docs/benchmark.md).
    """
    mean, kernel = means.mean(axis=0), params["fc"]["kernel"]
    made = (means - mean) @ kernel
    kernel = kernel / jnp.maximum(made.std(), 1e-6)
    return {**params, "fc": {"kernel": kernel, "bias": -mean @ kernel}}


def _unit(x: jax.Array) -> jax.Array:
    """x / |x| in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
