"""Time of attention against the plain einsum-softmax-einsum, in one run: ``python benchmarks/attention.py``.

Prints one line per shape: forward, and forward with gradient, as time of the plain form / time of ours (> 1: faster).
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from stav2a_jax.nn.attention import attend, default_implementation

SHAPES = ((1, 4096, 4096, 8, 32), (1, 1024, 1024, 8, 48), (32, 208, 208, 4, 24), (32, 208, 28, 4, 24))


def textbook(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention as usually written."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)


def with_gradient(attention: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """Gradient of a scalar of the attention with respect to q, k and v."""
    return jax.grad(lambda q, k, v: jnp.square(attention(q, k, v)).sum(), argnums=(0, 1, 2))


def best_of(functions: list[Callable], arguments: tuple[jax.Array, ...], rounds: int = 5) -> list[float]:
    """Shortest time of each, in seconds; the functions take turns, so that a busy machine slows them alike."""
    compiled = [jax.jit(f) for f in functions]
    for f in compiled:
        jax.block_until_ready(f(*arguments))
    times: list[list[float]] = [[] for _ in compiled]
    for _ in range(rounds):
        for f, record in zip(compiled, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(f(*arguments))
            record.append(time.perf_counter() - start)
    return [min(record) for record in times]


def main() -> None:
    """Measures every shape on the default backend."""
    print("B, Tq, Tk, H, D | implementation | forward: plain ms, ours ms, ratio | with gradient: the same")
    for b, tq, tk, h, d in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (jax.random.normal(key, (b, t, h, d)) for key, t in zip(keys, (tq, tk, tk), strict=True))
        cells = [f"{b}, {tq}, {tk}, {h}, {d}", default_implementation(q, k, None)]
        for pair in ([textbook, attend], [with_gradient(textbook), with_gradient(attend)]):
            plain, ours = best_of(pair, (q, k, v))
            cells.append(f"{1e3 * plain:.1f}, {1e3 * ours:.1f}, {plain / ours:.1f}")
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
