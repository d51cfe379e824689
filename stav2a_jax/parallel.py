"""The only module that knows about devices and processes: a mesh, and the ways to run a pure step on it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stav2a_jax.errors import UserError

AXES = ("data", "fsdp")
"""Both split the batch; ``fsdp`` also splits parameters, their average and the optimiser's moments."""
MODES = ("jit", "pmap")
MIN_SHARDED = 1024
"""Arrays of fewer elements stay whole on every device."""


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


def make_mesh(devices: int | Sequence[Any] | None = None, fsdp: int = 1) -> Mesh:
    """Mesh of ``devices / fsdp`` x ``fsdp`` over the given devices, or the first so many of those here, or all.

    Raises ValueError where ``fsdp`` does not divide the number of devices.
    """
    chosen = jax.devices()[:devices] if devices is None or isinstance(devices, int) else list(devices)
    n = len(chosen)
    if fsdp < 1 or n % fsdp:
        raise ValueError(f"{fsdp=} does not divide {n} devices")
    # Auto is stated because jax.make_mesh defaults to Explicit axes.
    return jax.make_mesh((n // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=chosen)


def compile_step(
    step: Callable[..., Any], mesh: Mesh, *, mode: str = "jit", local: bool = False
) -> tuple[Callable[..., Any], ...]:
    """``step(state, frozen, batch, spread=None) -> (state, metrics)`` compiled for a mesh.

    Returns (run, put, put_batch). ``run`` donates the state. ``put`` spreads a tree as :func:`sharding_of` says,
    ``put_batch`` the rows of a batch, of which every process gives its own (:func:`rows_of_process`). The ways:

    - ``jit``: the batch is split over the mesh and XLA inserts the collectives. A loss sees the whole batch (with
      accumulation: the whole chunk), so one that compares examples means the same on any number of devices; with
      accumulation the gradients are reduced after every chunk.
    - ``jit`` with ``local``: every device accumulates the gradients of its own rows, and they are reduced once a step.
      Equal to the above where the loss is a mean over examples.
    - ``pmap``: as ``local``, without ``fsdp``; for one process.

    Raises ValueError for an unknown mode, and for ``pmap`` over several processes or with ``fsdp``.
    """
    on_mesh = functools.partial(put, mesh)
    if mode == "jit":
        return _jit(step, mesh, local), on_mesh, functools.partial(put_rows, mesh)
    if mode == "pmap":
        if mesh.shape["fsdp"] > 1 or jax.process_count() > 1:
            raise ValueError("mode 'pmap' runs in one process and without fsdp; use mode 'jit'")
        mapped = jax.pmap(
            functools.partial(step, spread=_pmean),
            AXES[0],
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=list(mesh.devices.flat),
        )
        # A NumPy array would be sent to every device again at every step; the mesh's copy of the frozen ones stays.
        return mapped, on_mesh, functools.partial(jax.tree.map, functools.partial(_fold, mesh.size))
    raise ValueError(f"unknown parallel mode {mode!r}; expected one of {', '.join(MODES)}")


def _jit(step: Callable[..., Any], mesh: Mesh, local: bool) -> Callable[..., Any]:
    spread = functools.partial(_on_own_rows, mesh) if local else None

    def run(state: Any, frozen: Any, batch: Any) -> Any:
        state, metrics = step(state, frozen, batch, spread=spread)
        shardings = jax.tree.map(lambda x: sharding_of(mesh, x.shape), state)
        everywhere = NamedSharding(mesh, P())
        return (
            jax.lax.with_sharding_constraint(state, shardings),
            jax.lax.with_sharding_constraint(metrics, jax.tree.map(lambda _: everywhere, metrics)),
        )

    return jax.jit(run, donate_argnums=0)


def _pmean(gradients: Callable[..., Any]) -> Callable[..., Any]:
    """For ``pmap``: the mean over the devices of what ``gradients`` returns on each."""
    return lambda *args: jax.lax.pmean(gradients(*args), AXES[0])


def _on_own_rows(mesh: Mesh, gradients: Callable[..., Any]) -> Callable[..., Any]:
    """``gradients(params, frozen, batch, keys) -> (metrics, grads)`` of every device's rows, averaged once."""

    def run(params: Any, frozen: Any, batch: Any, keys: jax.Array) -> Any:
        specs = jax.tree.map(lambda x: spec_of(x.shape, mesh.shape["fsdp"]), (params, frozen))

        def own(params: Any, frozen: Any, batch: Any, keys: jax.Array) -> Any:
            params, frozen = jax.tree.map(_gather, (params, frozen), specs)
            metrics, grads = gradients(params, frozen, batch, keys)
            grads = jax.tree.map(lambda g, spec: _scatter(g, spec) / mesh.size, grads, specs[0])
            return jax.lax.pmean(metrics, AXES), grads

        rows = P(AXES)
        # check_vma=True would reduce the gradients where the parameters are used, that is in every chunk.
        mapped = jax.shard_map(
            own, mesh=mesh, in_specs=(*specs, rows, rows), out_specs=(P(), specs[0]), check_vma=False
        )
        return mapped(params, frozen, batch, keys)

    return run


def _gather(x: jax.Array, spec: P) -> jax.Array:
    for axis, name in enumerate(spec):
        if name is not None:
            x = jax.lax.all_gather(x, name, axis=axis, tiled=True)
    return x


def _scatter(grad: jax.Array, spec: P) -> jax.Array:
    """Sum over the mesh; of a split parameter every device keeps its part."""
    for axis, name in enumerate(spec):
        if name is not None:
            part = jax.lax.psum_scatter(grad, name, scatter_dimension=axis, tiled=True)
            return jax.lax.psum(part, AXES[0])
    return jax.lax.psum(grad, AXES)


def spec_of(shape: tuple[int, ...], fsdp: int) -> P:
    """Split along the longest axis that divides by ``fsdp`` (the last of equals); small arrays stay whole."""
    fitting = [(size, axis) for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fitting or np.prod(shape) < MIN_SHARDED:
        return P()
    return P(*(AXES[1] if axis == max(fitting)[1] else None for axis in range(len(shape))))


def sharding_of(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How an array of the training state lies on the mesh: a function of its shape."""
    return NamedSharding(mesh, spec_of(shape, mesh.shape["fsdp"]))


def put(mesh: Mesh, tree: Any) -> Any:
    """The tree on the mesh as :func:`sharding_of` says; every process gives the same whole arrays."""

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding_of(mesh, x.shape), lambda part: x[part])

    return jax.tree.map(one, tree)


def shapes_on(mesh: Mesh, tree: Any) -> Any:
    """Shapes and types of a tree with the shardings that :func:`put` would give it."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(mesh, x.shape)), tree)


def computed_on(mesh: Mesh, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, compiled, its results spread by :func:`sharding_of`: no device ever holds them whole."""
    shapes = shapes_on(mesh, jax.eval_shape(function, *args))
    return jax.jit(function, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))(*args)


def fetch(tree: Any) -> Any:
    """The whole tree as NumPy arrays, on every process."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return jax.device_get(x)
        assert isinstance(x.sharding, NamedSharding)
        everywhere = NamedSharding(x.sharding.mesh, P())
        return np.asarray(jax.jit(lambda y: y, out_shardings=everywhere)(x).addressable_data(0))

    return jax.tree.map(one, tree)


def rows_of_process(batch: int) -> slice:
    """Which rows of a batch this process loads: its share, in order. The batch divides by the number of processes."""
    share = batch // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_rows(mesh: Mesh, batch: Any) -> Any:
    """A batch on the mesh, split by rows; every process gives its own rows."""
    by_row = NamedSharding(mesh, P(AXES))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(by_row, np.asarray(x)), batch)


def _fold(devices: int, x: Any) -> Any:
    return np.asarray(x).reshape(devices, -1, *x.shape[1:])


def join_processes(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Become one of several processes that train together; before the first array.

    Without arguments JAX finds the others itself: SLURM, Open MPI, Cloud TPU, GKE. With all of them (``HOST:PORT`` of
    process 0, how many there are, which one this is) it needs no cluster. Raises UserError where it cannot.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"several processes were asked for and JAX could not join them ({str(error).splitlines()[0]}): start them "
            "by srun or mpirun or on TPU hosts, or give --coordinator, --processes and --process"
        ) from error


def in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether the environment says that this is one of several processes (docs/clusters.md)."""
    counts = (environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    is_step = "SLURM_PROCID" in environ or "OMPI_COMM_WORLD_RANK" in environ
    hosts = [name for name in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    return (is_step and any(int(n) > 1 for n in counts if n.isdigit())) or len(hosts) > 1


def is_main() -> bool:
    """Whether this process writes what the run leaves behind; the others only compute."""
    return jax.process_index() == 0


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """The body runs on the main process, and then on all others: they find what it has made, or fail as it did.

    Every process must come here as often as the others; ``name`` is for errors.
    """
    from jax.experimental import multihost_utils

    several = jax.process_count() > 1
    try:
        if several and not is_main():
            multihost_utils.sync_global_devices(name)
        yield
    finally:
        if several and is_main():
            multihost_utils.sync_global_devices(name)


def asked_to_stop(step: int) -> bool:
    """Whether some process was told to stop (SIGTERM) and all have agreed on this step; with several processes only.

    Every process must ask at every step, with a number that grows.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def waits_for_every_step() -> bool:
    """On CPU nothing is gained by sending steps ahead, and collectives of several steps at once can deadlock there."""
    return jax.default_backend() == "cpu"


PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,  # half a chip: jax counts its two cores
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations per second of a device, from the vendors' sheets; the longest name that fits counts."""


def peak_flops(kind: str | None = None) -> float | None:
    """Operations per second that all devices of the run could do, or None where a device's are not known."""
    kind = jax.devices()[0].device_kind if kind is None else kind
    fitting = [name for name in PEAK if name in kind]
    return PEAK[max(fitting, key=len)] * jax.device_count() if fitting else None


def memory() -> dict[str, float]:
    """GiB: the most that a device of this process has used, where it tells, and the most this process has."""
    import resource

    stats = [device.memory_stats() for device in jax.local_devices()]
    used = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    return {**({"device_gib": max(used) / 2**30} if used else {}), "host_gib": host}
