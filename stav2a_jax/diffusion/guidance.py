"""Classifier-free guidance as a transform of a denoiser (Ho and Salimans 2022), with one scale per condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stav2a_jax.types import DenoiseFn


class Chain(NamedTuple):
    """Conditions of growing content for :func:`guided_multi`; four pytrees alike, batch axis first.

    Where a part is absent it is the null of that part: the empty prompt, null video tokens, a silent control.
    """

    nothing: Any
    local: Any
    local_global: Any
    full: Any


def guided(denoise: DenoiseFn, scale: float | jax.Array, *, batched: bool = True) -> DenoiseFn:
    """Denoiser of the pair (condition, null condition): null + scale (condition - null).

    The released behaviour when the null differs in the text only. ``scale`` is a number, or an array () or (B,) whose
    value may be traced. A plain scale of 1 costs one evaluation per step instead of two. ``batched`` evaluates both in
    one call of 2B rows [null; condition]; False makes two calls of B rows, which needs half of the memory.
    """
    if isinstance(scale, int | float):
        mixed = combined(denoise, (1.0 - scale, float(scale)), batched=batched)
        return lambda x_t, t, cond: mixed(x_t, t, (cond[1], cond[0]))

    def pair(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
        null, full = _evaluate(denoise, x_t, t, (cond[1], cond[0]), batched)
        weight = jnp.asarray(scale, jnp.float32)
        weight = weight.reshape(weight.shape + (1,) * (x_t.ndim - 1)) if weight.ndim else weight
        return null + weight * (full - null)

    return pair


def guided_multi(
    denoise: DenoiseFn,
    *,
    text: float = 3.0,
    global_: float = 1.0,
    local: float = 1.0,
    batched: bool = True,
    repeat: bool = True,
) -> DenoiseFn:
    """Denoiser of a :class:`Chain` e0 (nothing), e1 (+ local), e2 (+ global), e3 (+ text):

        e0 + local (e1 - e0) + global_ (e2 - e1) + text (e3 - e2).

    Members whose weights cancel are not evaluated: one evaluation per step where all scales are 1, two where all are
    equal or only ``text`` differs from 1 (the default, the released guidance), four at most. ``repeat``: see
    :func:`combined`.
    """
    weights = (1.0 - local, local - global_, global_ - text, text)
    return combined(denoise, weights, batched=batched, repeat=repeat)


def combined(denoise: DenoiseFn, weights: Sequence[float], *, batched: bool = True, repeat: bool = True) -> DenoiseFn:
    """Denoiser of a tuple of conditions: the sum of the predictions times weights, which must add up to 1.

    Conditions of weight 0 are never evaluated. ``repeat`` False gives ``denoise`` x_t and t once, B rows, beside the
    N B rows of the conditions, for a denoiser that can share work between them (``models.system.denoiser``); a leaf
    that is the same array in all conditions then comes once as well.
    """
    kept = [index for index, weight in enumerate(weights) if abs(weight) > 1e-9]

    def mixture(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
        first, *others = _evaluate(denoise, x_t, t, [cond[index] for index in kept], batched, repeat)
        # written as first + w (e - first), which at two members is the reference's arithmetic
        return first + sum(weights[k] * (e - first) for k, e in zip(kept[1:], others))

    return mixture


def _evaluate(
    denoise: DenoiseFn, x_t: jax.Array, t: jax.Array, conditions: Sequence[Any], batched: bool, repeat: bool = True
) -> list[jax.Array]:
    """Float32 predictions, one per condition."""
    if len(conditions) == 1 or not batched:
        return [denoise(x_t, t, condition).astype(jnp.float32) for condition in conditions]
    n = len(conditions)

    def stack(*leaves: jax.Array) -> jax.Array:
        same = not repeat and all(leaf is leaves[0] for leaf in leaves)
        return leaves[0] if same else jnp.concatenate(leaves)

    stacked = jax.tree.map(stack, *conditions)
    if repeat:
        x_t, t = jnp.concatenate([x_t] * n), jnp.concatenate([t] * n)
    return jnp.split(denoise(x_t, t, stacked).astype(jnp.float32), n)
