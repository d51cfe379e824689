"""What a compiled program moves, read from its HLO text: collectives by kind, and bytes through the main memory.

XLA's own ``cost_analysis`` is empty for CUDA and counts the body of a loop once; here a loop counts as often as it
runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Names and views of what exists; loops and calls, whose insides are counted; ends of what a "-start" has begun.
FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "async-start",
    "async-update",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "iota",
)


class Instruction(NamedTuple):
    """One line of HLO: ``name = shape opcode(arguments), attributes``."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)


class Module(NamedTuple):
    """computations: name -> instructions by name, in order; entry: the one that a run begins with."""

    entry: str
    computations: Mapping[str, Mapping[str, Instruction]]


class Collective(NamedTuple):
    """kind: one of :data:`COLLECTIVES`; size: bytes of the whole array on a device (of a gather the result, of a
    scatter the operand); group: devices that take part; times: how often a step runs it."""

    kind: str
    size: int
    group: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends, all times together, by the ring algorithms (Patarasuk and Yuan 2009)."""
        share = (self.group - 1) / self.group
        return self.times * self.size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def parse(text: str) -> Module:
    """From ``compiled.as_text()``."""
    entry, computations = "", {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            current: dict[str, Instruction] = {}
            computations[head[2]] = current
            entry = head[2] if head[1] else entry
        elif computations and (instruction := _instruction(line)):
            current[instruction.name] = instruction
    return Module(entry, computations)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    shape = rest[: _closing(rest)] if rest.startswith("(") else rest.split(" ", 1)[0]
    opcode, _, rest = rest[len(shape) + 1 :].partition("(")
    end = _closing("(" + rest) - 1  # behind the parenthesis
    return Instruction(head[1], shape, opcode, rest[: end - 1], rest[end:])


def _closing(text: str) -> int:
    """Index behind the parenthesis that closes the one at the start."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i + 1
    return len(text)


def executed(module: Module) -> Iterator[tuple[Instruction, str, int, bool]]:
    """(instruction, its computation, times that a run executes it, whether it is a part of a fused kernel)."""

    def walk(name: str, times: int, fused: bool) -> Iterator[tuple[Instruction, str, int, bool]]:
        for i in module.computations[name].values():
            yield i, name, times, fused
            repeats = times * _trips(i, module) if i.opcode == "while" else times
            inside = fused or i.opcode not in ("while", "conditional", "call", "async-start")
            for called in _called(i):
                yield from walk(called, repeats, inside)

    return walk(module.entry, 1, False)


def _called(instruction: Instruction) -> list[str]:
    one = re.findall(r"(?:body|condition|calls|to_apply|\w+_computation)=%?([\w.\-]+)", instruction.attributes)
    several = re.findall(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}", instruction.attributes)
    return one + [name.strip().lstrip("%") for names in several for name in names.split(",")]


def _trips(loop: Instruction, module: Module) -> int:
    """How often a loop runs: as XLA notes, or else by the limit in a condition ``i < limit``; 1 where neither says."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
    limits = [
        int(i.arguments)
        for i in (module.computations[condition[1]].values() if condition else ())
        if i.opcode == "constant" and i.arguments.isdigit()
    ]
    return max(limits, default=1)


def size_of(shape: str, *, main_memory: bool = False) -> int:
    """Bytes of all arrays in a shape; with ``main_memory`` without those in a memory of its own (``S(1)``: VMEM)."""
    total = 0
    for dtype, dimensions, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        space = re.search(r"S\((\d+)\)", layout)
        if main_memory and space and space[1] != "0":
            continue
        bits = re.search(r"\d+", dtype)
        width = 8 if dtype == "pred" else int(bits[0]) if bits else 0
        total += math.prod(int(n) for n in dimensions.split(",") if n) * width // 8
    return total


def collectives(module: Module, devices: int) -> list[Collective]:
    """Every collective of a compiled program for so many devices, in the order of the text."""
    found = []
    for i, _, times, _ in executed(module):
        kind = i.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            group = _group(i.attributes, devices)
            size = size_of(_result(i))
            found.append(Collective(kind, size * group if kind == "reduce-scatter" else size, group, times))
    return found


def _result(instruction: Instruction) -> str:
    """Shapes of what an instruction makes. The start of one that runs beside others also names its operands, first."""
    kind = instruction.opcode.removesuffix("-start")
    if instruction.opcode == kind or kind == "all-reduce":
        return instruction.shape
    arrays = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", instruction.shape)
    arrays = [a for a in arrays if "[]" not in a]  # without the counters that synchronise it
    return ", ".join(arrays[len(arrays) // 2 :])


def _group(attributes: str, devices: int) -> int:
    """Devices per group: of ``{{0,1},{2,3}}``, of ``[groups,size]<=[...]``, or of ``mesh['a'=2,'b'=4] {'b'}``, some
    axes of a mesh; all where there are none."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(counted[2])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # of an axis, or of a part of it: 'a':(1)2
        return math.prod(int(part or sizes[name]) for name, part in axes)
    return devices


def bytes_moved(module: Module) -> int:
    """Bytes that the kernels of a compiled program read and write in the main memory of a device.

    Operands and results of every kernel, a fusion being one; of a slice only what is cut out or put in. A fused kernel
    that reads a part of an operand counts all of it, and caches count for nothing: an estimate, rather too high.
    """
    return sum(
        times * _moved(i, module.computations[where])
        for i, where, times, fused in executed(module)
        if not fused and i.opcode not in FREE and not i.opcode.endswith("-done")
    )


def _moved(i: Instruction, around: Mapping[str, Instruction]) -> int:
    operands = [size_of(around[name].shape, main_memory=True) for name in i.operands if name in around]
    match i.opcode:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * size_of(i.shape, main_memory=True)
        case "slice-start" | "dynamic-slice-start":
            return size_of(_result(i)) + size_of(_result(i), main_memory=True)
        case "dynamic-update-slice":
            return 2 * operands[1]
        case "copy-start":  # (target, source, counter)
            return size_of(i.shape, main_memory=True)
        case _:
            return sum(operands) + size_of(_result(i), main_memory=True)
