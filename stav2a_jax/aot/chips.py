"""Devices that a program can be compiled for without having them: what they can do, and in which arrangements."""

from __future__ import annotations

import difflib
import importlib.util
import math
from dataclasses import dataclass

from stav2a_jax.errors import UserError
from stav2a_jax.parallel import PEAK


@dataclass(frozen=True)
class Chip:
    """One device as jax counts them, in the vendor's round numbers.

    kind: its name in :data:`stav2a_jax.parallel.PEAK`; memory: bytes; bandwidth: of the memory, bytes per second;
    link: bytes per second that one link to a neighbour carries in one direction; links: how many a device has where
    all reach every other device through a switch, or None in a mesh or torus.
    """

    kind: str
    memory: float
    bandwidth: float
    link: float
    source: str
    links: int | None = None

    @property
    def flops(self) -> float:
        """Dense bfloat16 operations per second."""
        return PEAK[self.kind]


_CLOUD = "Google Cloud TPU documentation, system architecture of "
CHIPS = {
    "v4": Chip("TPU v4", 32 * 2**30, 1.2e12, 50e9, _CLOUD + "v4; links: Jouppi et al., ISCA 2023 (6 of 50 GB/s)"),
    "v5e": Chip("TPU v5 lite", 16 * 2**30, 819e9, 50e9, _CLOUD + "v5e (400 GB/s over 4 links, both directions)"),
    "v5p": Chip("TPU v5p", 95 * 2**30, 2765e9, 100e9, _CLOUD + "v5p (1,200 GB/s over 6 links, both directions)"),
    "v6e": Chip("TPU v6 lite", 32 * 2**30, 1638e9, 100e9, _CLOUD + "v6e (800 GB/s over 4 links, both directions)"),
    "tpu7x": Chip(
        "TPU7x", 96 * 2**30, 3690e9, 50e9, _CLOUD + "TPU7x (1,200 GB/s over 6 links), halved: two devices are one chip"
    ),
    "h100": Chip(
        "H100", 80 * 2**30, 3.35e12, 25e9, "NVIDIA H100 data sheet, SXM (NVLink: 900 GB/s, both directions)", 18
    ),
}


@dataclass(frozen=True)
class Topology:
    """An arrangement of devices. shape: chips along each axis; per_chip: devices of a chip."""

    name: str
    chip: str
    shape: tuple[int, ...]
    per_chip: int = 1

    @property
    def platform(self) -> str:
        return "cuda" if self.chip == "h100" else "tpu"

    @property
    def devices(self) -> int:
        return math.prod(self.shape) * self.per_chip

    @property
    def interconnect(self) -> float:
        """Bytes per second that every device can send to others, all at once.

        In a mesh the corners have one link along an axis; where an axis is closed to a ring, two. Axes are closed from
        16 chips (two-dimensional slices), or where all are a multiple of 4 (three-dimensional ones).
        """
        chip = CHIPS[self.chip]
        if chip.links is not None:
            return chip.links * chip.link
        closed = [n >= 16 if len(self.shape) == 2 else all(m % 4 == 0 for m in self.shape) for n in self.shape]
        return chip.link * sum((2 if ring else 1) for n, ring in zip(self.shape, closed) if n > 1)


def _slices() -> dict[str, Topology]:
    """Slices by the names that Google gives them: v4, v5p and tpu7x count cores, two to a chip; the others chips."""
    flat = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (16, 16))
    deep = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4))
    made = [Topology(f"{chip}-{math.prod(shape)}", chip, shape) for chip in ("v5e", "v6e") for shape in flat]
    made += [Topology(f"{chip}-{2 * math.prod(shape)}", chip, shape) for chip in ("v4", "v5p") for shape in deep]
    made += [Topology(f"tpu7x-{2 * math.prod(shape)}", "tpu7x", shape, 2) for shape in deep]
    made += [Topology(f"h100-{n}", "h100", (n,)) for n in (1, 2, 4, 8)]
    return {t.name: t for t in sorted(made, key=lambda t: (list(CHIPS).index(t.chip), t.devices))}


TOPOLOGIES = _slices()


def find(name: str) -> Topology:
    """The topology of that name. Raises UserError, with the nearest name, where there is none."""
    if name in TOPOLOGIES:
        return TOPOLOGIES[name]
    near = difflib.get_close_matches(name.lower(), TOPOLOGIES, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"unknown topology {name!r}: {hint}`stav2a compile --list` shows all of them")


def check_compiler(topology: Topology) -> None:
    """UserError where the wheels that compile for the topology's devices are not installed."""
    modules, packages = {
        "tpu": (("libtpu",), "libtpu"),
        # cuDNN is asked for its version while attention is traced
        "cuda": (("jax_plugins.xla_cuda13", "nvidia.cudnn"), "jax-cuda13-plugin jax-cuda13-pjrt nvidia-cudnn-cu13"),
    }[topology.platform]
    if not all(map(_is_installed, modules)):
        raise UserError(
            f"{topology.name} needs a compiler that is not installed: pip install {packages}, "
            "in an environment of its own (docs/scaling.md)"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def table() -> str:
    """All topologies and what they consist of, in Markdown."""
    head = "| topology | devices | chips | memory of a device | peak bfloat16 | memory | to the others |"
    rows = [
        f"| {t.name} | {t.devices} x {CHIPS[t.chip].kind} | {'x'.join(map(str, t.shape))} "
        f"| {CHIPS[t.chip].memory / 2**30:.1f} GiB | {CHIPS[t.chip].flops / 1e12:,.0f} TFLOP/s "
        f"| {CHIPS[t.chip].bandwidth / 1e9:,.0f} GB/s | {t.interconnect / 1e9:,.0f} GB/s |"
        for t in TOPOLOGIES.values()
    ]
    sources = [f"- {name}: {chip.source}" for name, chip in CHIPS.items()]
    return "\n".join([head, "|---" * 7 + "|", *rows, "", "Figures of one device, published by:", "", *sources])
