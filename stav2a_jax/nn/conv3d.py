"""3-D convolution for videos, written so that a CPU is fast at it, forwards and backwards.

Frames are folded into the batch of a 2-D convolution; XLA has no fast 3-D convolution on CPU. Measured there for the
video encoder of ``configs/foley_tiny`` (8 clips of 104 frames, 64 x 64): XLA's own kernel gradient of the convolutions
across time takes a third of a training step and one core, hence :func:`kernel_gradient`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from stav2a_jax.nn.target import target_platform

CHUNK = 8  # frames per step of the kernel gradient; its patches then stay near the cache


def conv3d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """3-D convolution with zero padding of half the (odd) kernel; ``stride`` is in space only.

    Shapes: (B, T, H, W, C), (kt, k, k, C, O) -> (B, T, ceil(H / stride), ceil(W / stride), O).
    """
    kt, size = kernel.shape[:2]
    if size == 1:
        x, stride = x[:, :, ::stride, ::stride], 1
        if kt == 1:
            return x @ kernel[0, 0, 0]
    even = x.shape[2] % stride == 0 and x.shape[3] % stride == 0
    if kt > 1 and even and target_platform() == "cpu":
        return _with_fast_gradient(x, kernel, stride)
    return _forward(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    (b, t, h, w, c), (kt, size, _, _, out) = x.shape, kernel.shape
    if size == 1:  # time and the flattened picture are the two axes of a (kt, 1) convolution
        return _conv2d(x.reshape(b, t, h * w, c), kernel[:, 0], 1).reshape(b, t, h, w, out)
    # neighbouring frames side by side on the channel axis
    frames = _shifted(_pad(x, 1, kt // 2, kt // 2), range(kt), t, axis=1).reshape(b * t, h, w, kt * c)
    folded = kernel.transpose(1, 2, 0, 3, 4).reshape(size, size, kt * c, out)
    # on pictures smaller than the kernel XLA's gradient on CPU swaps picture and kernel and becomes 20 times slower
    small = min(-(-h // stride), -(-w // stride)) < size and target_platform() == "cpu"
    y = _patches_matmul(frames, folded, stride) if small else _conv2d(frames, folded, stride)
    return y.reshape(b, t, *y.shape[1:])


def _conv2d(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = [(k // 2, k // 2) for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _patches_matmul(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    (_, h, w, c), (size, _, _, out) = x.shape, kernel.shape
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    taps = [padded[:, i : i + h : stride, j : j + w : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(taps, axis=-1) @ kernel.reshape(size * size * c, out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_fast_gradient(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _forward(x, kernel, stride)


def _save(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _forward(x, kernel, stride), (x, kernel)


def _gradients(stride: int, saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (for_input,) = jax.linear_transpose(lambda z: _forward(z, kernel, stride), x)(grad)
    return for_input, kernel_gradient(x, grad, kernel.shape[0], kernel.shape[1], stride).astype(kernel.dtype)


_with_fast_gradient.defvjp(_save, _gradients)


def kernel_gradient(x: jax.Array, grad: jax.Array, kt: int, size: int, stride: int) -> jax.Array:
    """Gradient of :func:`conv3d` with respect to its kernel, as one matrix product per few frames.

    The strides go into the channels first (space to depth). Of the taps, those along the width are laid out beside
    the input, those along the height beside the output's gradient, and those in time beside the one with fewer
    channels, so neither copy is large. Frames are taken ``CHUNK`` at a time and examples apart: a batch spread
    over devices needs no communication before the last sum.
    Shapes: (B, T, H, W, C), (B, T, H / stride, W / stride, O) -> (kt, size, size, C, O) float32.
    """
    (b, t, _, _, c), (_, _, h, w, out) = x.shape, grad.shape
    front = -(size // 2) % stride  # unused taps in front, so that the first one begins a cell of space to depth
    taps = -(-(size + front) // stride)  # per axis, in cells
    lead = (size // 2 + front) // stride
    inner, half = stride * stride * c, kt // 2
    time_on_x = inner < out
    times, steps = range(kt), -(-t // CHUNK)
    tail = steps * CHUNK - t
    x = _pad(space_to_depth(x, stride), 1, half * time_on_x, half * time_on_x + tail)
    x = _pad(x, 3, lead, taps - 1 - lead)
    grad = _pad(grad, 1, half * (not time_on_x), half * (not time_on_x) + tail)
    grad = _pad(grad, 2, taps - 1 - lead, lead)

    def chunk(step: jax.Array, total: jax.Array) -> jax.Array:
        more = kt - 1
        left = jax.lax.dynamic_slice_in_dim(x, step * CHUNK, CHUNK + more * time_on_x, axis=1)
        right = jax.lax.dynamic_slice_in_dim(grad, step * CHUNK, CHUNK + more * (not time_on_x), axis=1)
        left = _shifted(left, range(taps), w, axis=3)
        right = _shifted(right, range(taps - 1, -1, -1), h, axis=2)
        if time_on_x:
            left = _shifted(left, times, CHUNK, axis=1)
        else:
            right = _shifted(right, reversed(times), CHUNK, axis=1)
        left, right = left.reshape(b, -1, left.shape[-1]), right.reshape(b, -1, right.shape[-1])
        return total + jnp.einsum("bnk,bno->bko", left, right, preferred_element_type=jnp.float32)

    left_taps, right_taps = (kt * taps, taps) if time_on_x else (taps, taps * kt)
    total = jax.lax.fori_loop(0, steps, chunk, jnp.zeros((b, left_taps * inner, right_taps * out), jnp.float32))
    total = total.sum(axis=0)
    if time_on_x:
        total = total.reshape(kt, taps, stride, stride, c, taps, out).transpose(0, 5, 2, 1, 3, 4, 6)
    else:
        total = total.reshape(taps, stride, stride, c, kt, taps, out).transpose(4, 5, 1, 0, 2, 3, 6)
    full = total.reshape(kt, taps * stride, taps * stride, c, out)
    return full[:, front : front + size, front : front + size]


def space_to_depth(x: jax.Array, stride: int) -> jax.Array:
    """(B, T, H, W, C) -> (B, T, H / s, W / s, s * s * C), channels in the order row, column, channel."""
    if stride == 1:
        return x
    b, t, h, w, c = x.shape
    x = x.reshape(b, t, h // stride, stride, w // stride, stride, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, t, h // stride, w // stride, stride * stride * c)


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _shifted(x: jax.Array, offsets, length: int, axis: int) -> jax.Array:
    """Slices of ``length`` from each offset of ``axis``, side by side on the last axis."""
    return jnp.concatenate([jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i in offsets], axis=-1)
