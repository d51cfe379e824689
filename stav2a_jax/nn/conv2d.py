"""3x3 convolution over (time, frequency), alone and behind a nearest-neighbour upsampling by two.

Each has two forms, equal but for rounding: one call of the library's convolution, which is right on GPU and TPU, and
one that a CPU runs faster at some shapes. The form is chosen while tracing (:func:`form_of`, :func:`form_upsampled`);
the limits were measured with jaxlib 0.10 on two cores (docs/performance.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stav2a_jax.nn.target import target_platform

# XLA's convolution on a CPU falls to a third of its speed as the input gets wide: 160 GFLOP/s per core at 384 channels,
# 120 at 640, 75 at 1024, 60 at 1280.
WIDE_INPUT, WIDE_OUTPUT = 640, 256
# Below three bins it takes another kernel, which from 256 channels on has 40 to 60 % of the speed of one matrix product
# over all taps, as long as the nine shifted inputs (here in numbers, 8 MB) stay in the cache.
FEW_BINS, MOST_COLUMNS = 2, 1 << 21


def conv3x3(x: jax.Array, kernel: jax.Array, *, form: str | None = None) -> jax.Array:
    """3x3 convolution with one zero on every side.

    ``form``: "library"; "taps", the sum of nine matrix products, one per tap of the kernel; or "columns", one product
    with the nine shifted inputs side by side. By default what :func:`form_of` says. Raises ValueError for another name.
    Shapes: (B, T, F, C), (3, 3, C, O) -> (B, T, F, O).
    """
    match form or form_of(x, kernel):
        case "library":
            return _library(x, kernel)
        case "taps":
            return _taps(x, kernel)
        case "columns":
            return _columns(x, kernel)
        case name:
            raise ValueError(f"form={name!r}, expected 'library', 'taps' or 'columns'")


def upsampled_conv3x3(
    x: jax.Array, kernel: jax.Array, size: tuple[int, int] | None = None, *, form: str | None = None
) -> jax.Array:
    """Nearest neighbour x2, cut to ``size`` (2T or 2T - 1, 2F or 2F - 1), then :func:`conv3x3`.

    ``form``: "repeat" does just that; "phases" convolves the input itself with four 2x2 kernels, one for each parity of
    the output's (time, frequency), because two of three taps fall on copies of one position: 4/9 of the products. By
    default what :func:`form_upsampled` says. Raises ValueError for another name.
    Shapes: (B, T, F, C), (3, 3, C, O) -> (B, 2T, 2F, O), or (B, *size, O).
    """
    b, t, f, c = x.shape
    size = size or (2 * t, 2 * f)
    match form or form_upsampled(x, size):
        case "repeat":
            x = jnp.broadcast_to(x[:, :, None, :, None], (b, t, 2, f, 2, c)).reshape(b, 2 * t, 2 * f, c)
            return conv3x3(x[:, : size[0], : size[1]], kernel)
        case "phases":
            return _phases(x, kernel)
        case name:
            raise ValueError(f"form={name!r}, expected 'repeat' or 'phases'")


def form_of(x: jax.Array, kernel: jax.Array, backend: str | None = None) -> str:
    """The form that :func:`conv3x3` takes on ``backend`` (default: that traced for)."""
    if not _is_cpu(backend) or x.dtype != jnp.float32 or kernel.shape[-1] < WIDE_OUTPUT:
        return "library"
    if x.shape[2] <= FEW_BINS and x.shape[-1] >= WIDE_OUTPUT and 9 * x.size <= MOST_COLUMNS:
        return "columns"
    return "taps" if x.shape[-1] >= WIDE_INPUT else "library"


def form_upsampled(x: jax.Array, size: tuple[int, int], backend: str | None = None) -> str:
    """The form that :func:`upsampled_conv3x3` takes on ``backend`` (default: that traced for).

    Odd lengths are repeated: the last row would see a zero where the phases see a copy.
    """
    even = size == (2 * x.shape[1], 2 * x.shape[2])
    narrow = x.shape[-1] < WIDE_INPUT and x.shape[2] > FEW_BINS
    return "phases" if even and narrow and _is_cpu(backend) and x.dtype == jnp.float32 else "repeat"


def _is_cpu(backend: str | None) -> bool:
    return (backend or target_platform()) == "cpu"


def _library(x: jax.Array, kernel: jax.Array, padding=((1, 1), (1, 1))) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    b, t, f, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = kernel.reshape(9, c, -1)

    def add_product(i: jax.Array, total: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice(padded, (0, i // 3, i % 3, 0), x.shape).reshape(-1, c)
        return total + rows @ jax.lax.dynamic_index_in_dim(taps, i, keepdims=False)

    # A loop, not a sum of nine: the slices then exist one at a time and stay near the cache.
    total = jax.lax.fori_loop(0, 9, add_product, jnp.zeros((b * t * f, taps.shape[-1]), x.dtype))
    return total.reshape(b, t, f, -1)


def _save(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _taps(x, kernel), (x, kernel)


def _gradients(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_library, *saved)[1](grad)


_taps.defvjp(_save, _gradients)


def _columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    b, t, f, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + t, j : j + f] for i in range(3) for j in range(3)]
    columns = jnp.concatenate(shifted, axis=-1).reshape(-1, 9 * c)
    return (columns @ kernel.reshape(9 * c, -1)).reshape(b, t, f, -1)


def _phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    (b, t, f, _), out = x.shape, kernel.shape[-1]
    rows = []
    for p in (0, 1):
        cells = [_library(x, _phase_kernel(kernel, p, q), ((1 - p, p), (1 - q, q))) for q in (0, 1)]
        rows.append(jnp.stack(cells, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * t, 2 * f, out)


def _phase_kernel(kernel: jax.Array, *parity: int) -> jax.Array:
    """(3, 3, C, O) -> (2, 2, C, O): per axis, taps a, b, c on repeated positions are a, b + c on the positions
    themselves where the output's index is even, and a + b, c where it is odd."""
    rows, columns = ((range(2), (2,)) if odd else ((0,), range(1, 3)) for odd in parity)
    cells = [sum(kernel[i, j] for i in row for j in column) for row in rows for column in columns]
    return jnp.stack(cells).reshape(2, 2, *kernel.shape[2:])
