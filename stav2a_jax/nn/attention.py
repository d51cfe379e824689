"""Attention: one function for every attention of the package, and the spatial transformer of the U-Net."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from stav2a_jax.nn.blocks import GroupNorm
from stav2a_jax.nn.target import target_platform

TRANSFORMER_EPS = 1e-6  # group norm before an attention block, as in diffusers; layer norms have 1e-5
CHUNK_ABOVE = 512 * 512  # scores per head from which the CPU works in query chunks (measured: benchmarks/attention.py)
CHUNK_SCORES = 1 << 20  # scores per chunk: 4 MB in float32. Smaller chunks cost more calls, larger ones leave the cache
MASKED = -10_000.0  # the reference's bias of a masked token; finite, so that a fully masked row stays a softmax


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None = None,
    *,
    scale: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """softmax(scale * q k^T + bias) v, the softmax in float32.

    Shapes: q (B, Tq, H, D), k and v (B, Tk, H, D), bias broadcastable to (B, H, Tq, Tk) -> (B, Tq, H, D) in q's
    dtype. ``scale`` defaults to 1 / sqrt(D). ``implementation`` is chosen while tracing, by the device traced for:

    * "plain": whole score matrix; the fastest on a CPU when it is small;
    * "chunked": exact, query chunk by query chunk, recomputed in the backward pass; memory O(Tk) per query chunk;
    * "xla": ``jax.nn.dot_product_attention``, the default on GPU and TPU;
    * "cudnn": flash attention, the default on a GPU for half precision without bias (self-attention).

    Raises ValueError for another name.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    match implementation or default_implementation(q, k, bias):
        case "plain":
            return _plain(q, k, v, bias, scale)
        case "chunked":
            return _chunked(q, k, v, bias, scale)
        case "xla" | "cudnn" as name:
            return jax.nn.dot_product_attention(q, k, v, bias, scale=scale, implementation=name)
        case name:
            raise ValueError(f"implementation={name!r}, expected 'plain', 'chunked', 'xla' or 'cudnn'")


def default_implementation(q: jax.Array, k: jax.Array, bias: jax.Array | None, backend: str | None = None) -> str:
    """Name of the implementation :func:`attend` takes for these shapes on ``backend`` (default: that traced for)."""
    backend = backend or target_platform()
    if backend == "cpu":
        return "chunked" if q.shape[1] * k.shape[1] > CHUNK_ABOVE else "plain"
    # cuDNN restricts the length and the gradient of a bias; attention with one (few text tokens) is cheap anyway.
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    flash = backend == "gpu" and half and bias is None and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return "cudnn" if flash else "xla"


def mask_bias(mask: jax.Array | None) -> jax.Array | None:
    """(B, L) with 1 = keep, any dtype -> additive bias (B, 1, 1, L) float32, (1 - mask) * -10000; None stays None."""
    if mask is None:
        return None
    return ((1.0 - mask.astype(jnp.float32)) * MASKED)[:, None, None, :]


def _softmax_sum(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Scaled queries (..., Tq, D), k and v (..., Tk, D) -> (..., Tq, D) float32."""
    scores = jnp.einsum("...qd,...kd->...qk", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    # Dividing the D sums instead of the Tk weights saves a pass over the scores.
    total = jnp.einsum("...qk,...kd->...qd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return total / weights.sum(-1, keepdims=True)


def _heads_first(x: jax.Array) -> jax.Array:
    return x.swapaxes(1, 2)


def _plain(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float) -> jax.Array:
    out = _softmax_sum(_heads_first(q * scale), _heads_first(k), _heads_first(v), bias)
    return _heads_first(out).astype(q.dtype)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, scale: float) -> jax.Array:
    """Loops over (batch, head), then over chunks of queries, so that one chunk's scores stay in the cache."""
    b, tq, h, d = q.shape
    size = min(tq, max(1, CHUNK_SCORES // k.shape[1]))  # queries per chunk
    chunks = -(-tq // size)
    pad = chunks * size - tq  # rows of zeros, cut off below
    q1 = jnp.pad(_heads_first(q * scale), ((0, 0), (0, 0), (0, pad), (0, 0))).reshape(b * h, chunks, size, d)
    k1, v1 = (_heads_first(x).reshape(b * h, -1, d) for x in (k, v))
    bias1 = None
    if bias is not None:
        rows, tk = bias.shape[2], k.shape[1]
        bias1 = jnp.broadcast_to(bias, (b, h, rows, tk)).reshape(b * h, rows, tk)
        if rows == 1:
            bias1 = jnp.broadcast_to(bias1[:, None], (b * h, chunks, 1, tk))
        else:
            bias1 = jnp.pad(bias1, ((0, 0), (0, pad), (0, 0))).reshape(b * h, chunks, size, tk)

    def head(args):
        q2, k2, v2, bias2 = args
        return jax.lax.map(jax.checkpoint(lambda c: _softmax_sum(c[0], k2, v2, c[1])), (q2, bias2))

    out = jax.lax.map(head, (q1, k1, v1, bias1)).reshape(b, h, chunks * size, d)[:, :, :tq]
    return _heads_first(out).astype(q.dtype)


class Attention(nn.Module):
    """Multi-head attention without bias on q, k, v. x (B, N, C), context (B, L, D) or None for itself -> (B, N, C).

    ``bias`` is additive, (B, 1, 1, L). Raises ValueError where the heads do not divide C.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None, bias: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"{channels} channels do not divide into {self.heads} heads")
        source = x if context is None else context

        def project(y: jax.Array, name: str) -> jax.Array:
            y = nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)(y)
            return y.reshape(*y.shape[:2], self.heads, -1)

        out = attend(project(x, "to_q"), project(source, "to_k"), project(source, "to_v"), bias)
        return nn.Dense(channels, dtype=self.dtype, name="to_out")(out.reshape(x.shape))


class FeedForward(nn.Module):
    """GEGLU: (first half) * exact GELU(second half), inner width 4C. (..., C) -> (..., C)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        value, gate = jnp.split(nn.Dense(8 * channels, dtype=self.dtype, name="proj_in")(x), 2, axis=-1)
        return nn.Dense(channels, dtype=self.dtype, name="proj_out")(value * exact_gelu(gate))


def exact_gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) through erf, which is about twice as fast on a CPU as jax.nn.gelu's erfc."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward; each after a layer norm, each added.

    x (B, N, C), context (B, L, D), bias (B, 1, 1, L) or None -> (B, N, C).
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, bias: jax.Array | None) -> jax.Array:
        def norm(name: str) -> jax.Array:
            return nn.LayerNorm(1e-5, use_fast_variance=False, name=name)(x).astype(self.dtype)

        x = x + Attention(self.heads, self.dtype, name="attn1")(norm("norm1"))
        x = x + Attention(self.heads, self.dtype, name="attn2")(norm("norm2"), context, bias)
        return x + FeedForward(self.dtype, name="ff")(norm("norm3"))


class SpatialTransformer(nn.Module):
    """Attention block of the U-Net: one transformer block over all time-frequency positions, time-major.

    Positions attend to each other and to the context. With channels last, diffusers' "linear" and "1x1 conv"
    projections are the same Dense; only the shapes in a PyTorch checkpoint differ.

    x (B, T, F, C), context (B, L, D), bias (B, 1, 1, L) or None -> (B, T, F, C).
    """

    heads: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, bias: jax.Array | None) -> jax.Array:
        b, t, f, c = x.shape
        h = GroupNorm(self.groups, TRANSFORMER_EPS, self.dtype, name="norm")(x).reshape(b, t * f, c)
        h = nn.Dense(c, dtype=self.dtype, name="proj_in")(h)
        h = TransformerBlock(self.heads, self.dtype, name="block_0")(h, context, bias)
        h = nn.Dense(c, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)
