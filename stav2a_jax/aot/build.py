"""Programs for devices that are not here: the mesh of a topology, and a report on every program compiled for it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from stav2a_jax import parallel
from stav2a_jax.aot.chips import CHIPS, Topology, check_compiler
from stav2a_jax.aot.programs import Program, sample_program, train_program
from stav2a_jax.aot.report import Report, compiled_report, reason_of, roofline_of
from stav2a_jax.config import Config
from stav2a_jax.errors import UserError

H100 = """gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What XLA has to know about the device (its ``GpuTargetConfigProto``)."""

ABSENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
}
"""Settings that keep the compilers from looking for the devices, and from complaining that there are none."""

OPTIONS: dict[str, dict[str, bool | str]] = {
    "tpu": {},
    # Triton finds the tiles of a product by timing them; without a device it takes fixed ones, which do not always fit.
    "cuda": {"xla_gpu_enable_triton_gemm": False},
}
"""Of the compiler, by platform."""


def devices_of(topology: Topology) -> Sequence[Any]:
    """Descriptions of the topology's devices, for compiling only. Before jax has started.

    Raises UserError where the compiler is not installed, or cannot describe them.
    """
    from jax.experimental import topologies

    check_compiler(topology)
    os.environ.update({name: value for name, value in ABSENT.items() if name not in os.environ})
    jax.config.update("jax_platforms", "cpu")
    shape = "x".join(map(str, topology.shape))
    try:
        if topology.platform == "cuda":
            described = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{shape}")
        else:
            cores = {"chip_config_name": "megacore"} if topology.chip == "v4" else {}  # one device per chip
            described = topologies.get_topology_desc(f"{topology.chip}:{shape}", platform="tpu", **cores)
    except Exception as error:
        raise UserError(f"the installed compiler cannot describe {topology.name}: {reason_of(str(error))}") from error
    return described.devices


def mesh_of(devices: Sequence[Any], fsdp: int) -> Mesh:
    """``parallel.make_mesh`` over devices that need not be here. Raises UserError where ``fsdp`` does not divide."""
    try:
        return parallel.make_mesh(devices, fsdp)
    except ValueError as error:
        raise UserError(f"{error}: set fsdp to a divisor") from error


def programs(cfg: Config, stage: str, mesh: Mesh, wanted: Sequence[str], clips: int) -> list[Callable[[], Program]]:
    """The programs asked for, by 'train' and 'sample', not yet traced."""
    make = {"train": lambda: train_program(cfg, stage, mesh), "sample": lambda: sample_program(cfg, mesh, clips)}
    return [make[name] for name in wanted]


def report_on(program: Program, name: str, mesh: Mesh, topology: Topology | None = None) -> Report:
    """Compile a program and read what it says; without a topology there are no rates to compare it with.

    A program that does not compile, for want of memory or otherwise, gives a report with its ``failure``.
    """
    report = Report(program.name, program.detail, name, mesh.size, program.model_flops, program.flops)
    started = time.monotonic()
    try:
        options = OPTIONS[topology.platform] if topology else {}
        compiled = program.lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        failure = reason_of(str(error))
        return dataclasses.replace(report, failure=failure, fits=False if "RESOURCE_EXHAUSTED" in str(error) else None)
    report = compiled_report(report, compiled, time.monotonic() - started)
    return report if topology is None else against(report, topology)


def against(report: Report, topology: Topology) -> Report:
    """The report of a compiled program with what the topology's devices can do set against it."""
    chip = CHIPS[topology.chip]
    assert report.memory is not None
    assert report.bytes_moved is not None
    return dataclasses.replace(
        report,
        capacity=chip.memory,
        fits=report.memory.peak <= chip.memory,
        roofline=roofline_of(
            model_flops=report.model_flops,
            flops=report.flops,
            devices=report.devices,
            bytes_moved=report.bytes_moved,
            sent=sum(t.sent for t in report.collectives),
            peak=chip.flops,
            bandwidth=chip.bandwidth,
            interconnect=topology.interconnect,
        ),
    )
