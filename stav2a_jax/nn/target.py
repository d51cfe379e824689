"""Which kind of device the program that is being traced is for."""

from __future__ import annotations

import jax


def target_platform() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh that the code is traced under (``jax.set_mesh``, ``jax.shard_map``), or else
    of the default backend.

    The mesh counts because a program can be compiled for devices that are not here (``stav2a_jax/aot.py``), and because
    jax remembers what it has traced per mesh, so that no program gets a form that was chosen for another device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
