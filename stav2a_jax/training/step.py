"""One optimisation step: a pure function of (state, frozen, batch). No device, no mesh, no I/O."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stav2a_jax.types import Batch, Params, TrainState

Loss = tuple[jax.Array, dict[str, jax.Array]]
LossFn = Callable[[Params, Params, Batch, jax.Array], Loss]
"""(params, frozen, batch, keys (B,)) -> (mean loss over the batch, scalar metrics)."""
Gradients = Callable[[Params, Params, Batch, jax.Array], tuple[dict[str, jax.Array], Params]]
"""(params, frozen, batch, keys (B,)) -> (metrics with the loss, gradients), means over the batch."""


def example_keys(seed: jax.Array, step: jax.Array, index: jax.Array) -> jax.Array:
    """(B,) keys, a function of (seed, step, example): the same on 1 device or 64, before or after a restart."""
    base = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(base, index)


def init_state(params: Params, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """Step 0. The EMA starts as a copy, not as an alias: the state is donated leaf by leaf."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt=tx.init(params),
        seed=jnp.uint32(seed),
    )


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    accum: int = 1,
    spread: Callable[[Gradients], Gradients] | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """AdamW step on the mean gradient of ``accum`` chunks of the batch.

    Args:
      batch: arrays (B, ...), B divisible by ``accum``; ``index`` (B,) numbers the examples.
      spread: makes gradients of a device's rows gradients of the batch (``parallel.compile_step``).

    Returns (new state, metrics with ``loss`` and ``grad_norm``).
    """
    keys = example_keys(state.seed, state.step, batch["index"])
    gradients: Gradients = functools.partial(mean_gradients, loss_fn, accum)
    metrics, grads = (spread(gradients) if spread else gradients)(state.params, frozen, batch, keys)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    # The average starts fast and slows down to its decay, so that a short run is not held back by its first steps.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), state.ema, params)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return dataclasses.replace(state, step=state.step + 1, params=params, ema=ema, opt=opt), metrics


def mean_gradients(
    loss_fn: LossFn, accum: int, params: Params, frozen: Params, batch: Batch, keys: jax.Array
) -> tuple[dict[str, jax.Array], Params]:
    """See :data:`Gradients`. The batch goes through in ``accum`` chunks, whose mean it is."""
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def chunk_grads(chunk: Any) -> Any:
        rows, chunk_keys = chunk
        (loss, aux), grads = grad_fn(params, frozen, rows, chunk_keys)
        return {"loss": loss, **aux}, grads

    return chunk_grads((batch, keys)) if accum == 1 else _accumulate(chunk_grads, (batch, keys), accum)


def _accumulate(chunk_grads: Callable[[Any], Any], rows: Any, accum: int) -> Any:
    # Chunk k takes the rows k, k + accum, ...: every device keeps its own rows, nothing is reshuffled.
    chunks = jax.tree.map(lambda x: x.reshape(-1, accum, *x.shape[1:]).swapaxes(0, 1), rows)
    zero = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(chunk_grads, jax.tree.map(lambda x: x[0], chunks))
    )
    total, _ = jax.lax.scan(lambda carry, chunk: (jax.tree.map(jnp.add, carry, chunk_grads(chunk)), None), zero, chunks)
    return jax.tree.map(lambda x: x / accum, total)
