"""The report on one compiled program, and how it is written down: pure functions of what the compiler says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stav2a_jax.aot.hlo import COLLECTIVES, Collective, bytes_moved, collectives, parse


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. donated: arguments whose memory the outputs take over; code: the program itself; peak: the
    most at any time."""

    arguments: int
    outputs: int
    donated: int
    temporaries: int
    code: int
    peak: int


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one step: how many, bytes of their arrays on a device, bytes that a device sends."""

    kind: str
    count: int
    size: int
    sent: float


@dataclass(frozen=True)
class Roofline:
    """Seconds that a step takes at least for its arithmetic, for the memory and for the interconnect, each at its
    published rate; the step takes the longest of them, ``bound``, if all else hides behind it. mfu: the share of the
    peak that the model's own operations then are."""

    compute: float
    memory: float
    interconnect: float
    seconds: float
    bound: str
    mfu: float


@dataclass(frozen=True)
class Report:
    """One program compiled for one topology. Figures are of one device and one step, but model_flops and flops, which
    are of all devices together. failure: why there is no compiled program; what only that can tell is then None.

    flops are model_flops and what is computed again (remat). xla_flops and xla_bytes are the compiler's own counts,
    where it makes some, with the body of a loop counted once.
    """

    program: str
    detail: str
    topology: str
    devices: int
    model_flops: float
    flops: float
    compile_seconds: float | None = None
    memory: Memory | None = None
    capacity: float | None = None
    fits: bool | None = None
    bytes_moved: int | None = None
    collectives: tuple[Traffic, ...] = ()
    xla_flops: float | None = None
    xla_bytes: float | None = None
    roofline: Roofline | None = None
    failure: str | None = None


def memory_of(analysis: Any) -> Memory:
    """From ``compiled.memory_analysis()``. Where the compiler notes no peak, all of it at once."""
    arguments, outputs = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
    donated, temporaries = analysis.alias_size_in_bytes, analysis.temp_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    together = arguments + outputs - donated + temporaries + code
    peak = getattr(analysis, "peak_memory_in_bytes", 0) or together
    return Memory(arguments, outputs, donated, temporaries, code, peak)


def traffic_of(found: Sequence[Collective]) -> tuple[Traffic, ...]:
    """The collectives of a program, by kind."""
    rows = []
    for kind in COLLECTIVES:
        mine = [c for c in found if c.kind == kind]
        if mine:
            count, size = sum(c.times for c in mine), sum(c.times * c.size for c in mine)
            rows.append(Traffic(kind, count, size, sum(c.sent for c in mine)))
    return tuple(rows)


def roofline_of(
    *,
    model_flops: float,
    flops: float,
    devices: int,
    bytes_moved: float,
    sent: float,
    peak: float,
    bandwidth: float,
    interconnect: float,
) -> Roofline:
    """model_flops and flops of all devices, bytes of one; peak, bandwidth, interconnect of one device, per second."""
    times = {
        "compute": flops / devices / peak,
        "memory": bytes_moved / bandwidth,
        "interconnect": sent / interconnect if sent else 0.0,
    }
    bound = max(times, key=lambda name: times[name])
    return Roofline(**times, seconds=times[bound], bound=bound, mfu=model_flops / devices / peak / times[bound])


def compiled_report(started: Report, compiled: Any, seconds: float) -> Report:
    """``started`` with what a compiled program says about itself."""
    module, cost = parse(compiled.as_text()), compiled.cost_analysis() or {}
    return dataclasses.replace(
        started,
        compile_seconds=seconds,
        memory=memory_of(compiled.memory_analysis()),
        bytes_moved=bytes_moved(module),
        collectives=traffic_of(collectives(module, started.devices)),
        xla_flops=cost.get("flops"),
        xla_bytes=cost.get("bytes accessed"),
    )


def reason_of(error: str) -> str:
    """One line of a compiler's error; of a program that does not fit, how large it is."""
    if used := re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", error):
        return f"does not fit: needs {used[1]} of {used[2]} memory"
    return error.strip().splitlines()[0][:200]


def markdown(reports: Sequence[Report]) -> str:
    """One row per program; below it the collectives."""
    head = (
        "| topology | program | arguments + temporaries, GiB | peak of capacity, GiB | fits | TFLOP (model) | "
        "moved, GB | sent, GB | compute / memory / interconnect, ms | bound by | MFU at most |"
    )
    lines = ["Compiled, not run.", "", head, "|---" * head.count(" |") + "|"]
    lines += [_row(r) for r in reports]
    for r in reports:
        lines += ["", f"{r.topology}, {r.program}: {r.detail}."]
        if r.failure:
            lines.append(f"Not compiled: {r.failure}.")
            continue
        lines.append(f"Compiled in {r.compile_seconds:.0f} s.")
        lines += [
            f"{t.count} {t.kind}, {t.size / 1e6:,.1f} MB, {t.sent / 1e6:,.1f} MB sent by a device."
            for t in r.collectives
        ] or ["No collectives."]
    return "\n".join(lines)


def _row(r: Report) -> str:
    gib = 2.0**30
    flops = f"{r.flops / 1e12:.1f} ({r.model_flops / 1e12:.1f})"
    if r.memory is None:
        cells = ["", "", "no" if r.fits is False else "", flops, "", "", "", "", ""]
    else:
        sent, line = sum(t.sent for t in r.collectives), r.roofline
        of = f" of {r.capacity / gib:.1f}" if r.capacity else ""
        cells = [
            f"{r.memory.arguments / gib:.2f} + {r.memory.temporaries / gib:.2f}",
            f"{r.memory.peak / gib:.2f}{of}",
            {True: "yes", False: "no", None: ""}[r.fits],
            flops,
            f"{(r.bytes_moved or 0) / 1e9:.1f}",
            f"{sent / 1e9:.2f}",
            " / ".join(f"{t * 1e3:.1f}" for t in (line.compute, line.memory, line.interconnect)) if line else "",
            line.bound if line else "",
            f"{line.mfu:.0%}" if line else "",
        ]
    return f"| {r.topology} ({r.devices}) | {r.program} | " + " | ".join(cells) + " |"


def as_json(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Plain data; "compiled, not run" stands in every entry."""
    return [{"status": "compiled, not run", **dataclasses.asdict(r)} for r in reports]
