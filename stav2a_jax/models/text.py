"""mT5's text encoder (Xue et al. 2021; the T5 1.1 architecture), without dropout."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stav2a_jax.config import TextConfig
from stav2a_jax.nn.attention import attend

NORM_EPS = 1e-6


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of key - query for every pair: half of them for each sign, exact for short distances, then logarithmic.

    Returns (length, length) int32, rows = queries.
    """
    position = np.arange(length)
    return bucket_of(position[None, :] - position[:, None], buckets, max_distance)


def bucket_of(relative: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of relative positions (key - query), any shape, int32; positive ones use the upper half."""
    half = buckets // 2
    exact = half // 2
    distance = np.abs(relative)
    # float32 as in the reference, which decides ties at the bucket's borders the same way
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(np.log(max_distance / exact))
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return ((relative > 0) * half + np.where(distance < exact, distance, far)).astype(np.int32)


class RMSNorm(nn.Module):
    """x / rms(x) * scale in float32, without mean or bias. Shapes: (..., C) -> (..., C)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        return (x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + NORM_EPS) * scale).astype(x.dtype)


class TextBlock(nn.Module):
    """Pre-norm self-attention and gated feed-forward. Shapes: (B, L, d_model), bias (B, H, L, L) -> (B, L, d_model)."""

    cfg: TextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        cfg, inner = self.cfg, self.cfg.num_heads * self.cfg.d_kv

        def dense(features: int, name: str, stddev: float) -> nn.Dense:
            init = nn.initializers.normal(stddev)
            return nn.Dense(features, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)

        # T5's own initialisation: queries carry the 1 / sqrt(d_kv) that the scores lack
        width = cfg.d_model**-0.5
        y = RMSNorm(name="attention_norm")(x).astype(self.dtype)
        query = dense(inner, "q", width * cfg.d_kv**-0.5)(y)
        key, value = dense(inner, "k", width)(y), dense(inner, "v", width)(y)
        query, key, value = (a.reshape(*a.shape[:2], cfg.num_heads, cfg.d_kv) for a in (query, key, value))
        y = attend(query, key, value, bias, scale=1.0).reshape(*x.shape[:2], inner)
        x = x + dense(cfg.d_model, "o", inner**-0.5)(y).astype(x.dtype)

        y = RMSNorm(name="feed_forward_norm")(x).astype(self.dtype)
        gate = nn.gelu(dense(cfg.d_ff, "wi_0", width)(y), approximate=True)
        y = gate * dense(cfg.d_ff, "wi_1", width)(y)
        return x + dense(cfg.d_model, "wo", cfg.d_ff**-0.5)(y).astype(x.dtype)


class TextEncoder(nn.Module):
    """Token embeddings of a prompt (PAPER sec. 1, e_text).

    ``ids`` int, padded with 0; ``mask`` 1 = keep. Padded positions come out as vectors too (not zero), but no kept
    position ever sees them. ``layers=True`` returns the residual stream before each block and the final output.
    The residual stream stays float32: mT5's grows beyond what half precision holds.
    Shapes: ids (B, L), mask (B, L) -> (B, L, d_model).
    """

    cfg: TextConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        cfg = self.cfg
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), (cfg.vocab_size, cfg.d_model))
        self.relative_bias = self.param(
            "relative_bias", nn.initializers.normal(cfg.d_model**-0.5), (cfg.relative_buckets, cfg.num_heads)
        )
        self.block = [TextBlock(cfg, self.dtype) for _ in range(cfg.num_layers)]
        self.final_norm = RMSNorm()

    def position_bias(self, length: int) -> jax.Array:
        """Bias of the scores by distance, owned by layer 0 in the release and shared by all. (1, H, L, L) float32."""
        cfg = self.cfg
        buckets = relative_buckets(length, cfg.relative_buckets, cfg.relative_max_distance)
        return self.relative_bias[buckets].transpose(2, 0, 1)[None]

    def __call__(
        self, ids: jax.Array, mask: jax.Array | None = None, *, layers: bool = False
    ) -> jax.Array | list[jax.Array]:
        bias = self.position_bias(ids.shape[1])
        if mask is not None:
            # a hard mask, yet finite even for a fully masked row; the reference adds the most negative float itself
            bias = bias + jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min / 2)
        x = self.embedding[ids]
        stream = [x]
        for block in self.block:
            x = block(x, bias)
            stream.append(x)
        stream[-1] = self.final_norm(x)
        return stream if layers else stream[-1]
