"""The only module that knows about devices: a mesh, and the ways to run a pure step on it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
MODES = ("jit", "pmap")


def use_host_devices(count: int) -> None:
    """Simulate ``count`` devices on the CPU, unless their number is settled already.

    It is settled where the user set ``JAX_NUM_CPU_DEVICES``, and once jax has started its devices (a test, a
    notebook); the call then does nothing. A step on a small model keeps one core busy and the other idle half of
    the time; the batch split over two simulated devices fills both.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    with contextlib.suppress(RuntimeError):  # jax's answer once its devices run
        jax.config.update("jax_num_cpu_devices", count)


def make_mesh(devices: int | None = None) -> Mesh:
    """One-axis mesh over the first ``devices`` devices (all by default)."""
    n = devices or jax.device_count()
    # Auto is stated because jax.make_mesh defaults to Explicit axes.
    return jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])


def compile_step(step: Callable[..., Any], mesh: Mesh, *, mode: str = "jit") -> tuple[Callable[..., Any], ...]:
    """``step(state, frozen, batch, axis_name=None) -> (state, metrics)`` compiled for a mesh.

    Returns (run, put_replicated, put_batch). ``run`` donates the state. In ``jit`` the batch is split over the
    mesh and XLA inserts the collectives; in ``pmap`` every device runs the step on its rows and the step calls
    ``pmean`` over ``axis_name``. Both give the same numbers wherever the loss is a mean over examples; a loss that
    compares the examples of a batch (the contrast of the video encoder) sees a device's rows in ``pmap`` and the
    whole batch in ``jit``. Raises ValueError for an unknown mode.
    """
    everywhere, by_row = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    if mode == "jit":
        run = jax.jit(
            step,
            in_shardings=(everywhere, everywhere, by_row),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )
        return (
            run,
            functools.partial(jax.device_put, device=everywhere),
            functools.partial(jax.device_put, device=by_row),
        )
    if mode == "pmap":
        mapped = jax.pmap(
            functools.partial(step, axis_name=AXIS),
            AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=list(mesh.devices.flat),
        )
        return mapped, lambda tree: tree, functools.partial(jax.tree.map, functools.partial(_fold, mesh.size))
    raise ValueError(f"unknown parallel mode {mode!r}; expected one of {', '.join(MODES)}")


def _fold(devices: int, x: Any) -> Any:
    return np.asarray(x).reshape(devices, -1, *x.shape[1:])
