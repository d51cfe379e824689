"""Conversion engine: declarative, strict, invertible mapping between PyTorch state dicts and Flax parameters.

A table is a tuple of :class:`Rule`; ``{name}`` in a template stands for a number. :func:`to_flax` and
:func:`to_torch` use every key exactly once or raise a :class:`ConversionError` that lists every problem.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A re-layout of a tensor, PyTorch to Flax, and its exact inverse."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def permute(*axes: int) -> Layout:
    """Axis i of the Flax tensor is axis ``axes[i]`` of the PyTorch one."""
    inverse = tuple(int(i) for i in np.argsort(axes))
    return Layout(lambda x: x.transpose(axes), lambda x: x.transpose(inverse))


def pointwise(spatial: int) -> Layout:
    """Convolution of kernel size 1 over ``spatial`` axes (O, I, 1..) as a Dense layer (I, O)."""
    ones = (1,) * spatial

    def to_flax(x: np.ndarray) -> np.ndarray:
        if x.shape[2:] != ones:
            raise ValueError(f"a kernel of shape {x.shape} is not a {'x'.join('1' * spatial)} convolution")
        return x.reshape(x.shape[:2]).T

    return Layout(to_flax, lambda x: x.T.reshape(x.shape[::-1] + ones))


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = permute(1, 0)  # (O, I) -> (I, O)
CONV1D = permute(2, 1, 0)  # (O, I, K) -> (K, I, O)
CONV2D = permute(2, 3, 1, 0)  # (O, I, H, W) -> (H, W, I, O)
CONV3D = permute(2, 3, 4, 1, 0)  # (O, I, T, H, W) -> (T, H, W, I, O)
# Transposed convolutions, (I, O, K..) -> (K.., O, I): for nn.ConvTranspose(transpose_kernel=True), whose padding is
# (k - 1 - p) on both sides for PyTorch's p.
CONV_TRANSPOSE1D = permute(2, 1, 0)
CONV_TRANSPOSE2D = permute(2, 3, 1, 0)
POINTWISE1D = pointwise(1)  # (O, I, 1) -> (I, O)
POINTWISE2D = pointwise(2)  # (O, I, 1, 1) -> (I, O)


class Rule(NamedTuple):
    """One line of a table. ``flax=None`` drops the key, with a reason in ``why``.

    A dropped key with ``tied`` is a copy of that other PyTorch key: :func:`to_flax` checks that it is, and
    :func:`to_torch` writes it again.
    """

    torch: str  # e.g. "down_blocks.{i}.resnets.{j}.conv1.weight"
    flax: str | None  # e.g. "down_{i}/res_{j}/conv1/kernel"
    layout: Layout = SAME
    why: str = ""
    tied: str | None = None


def layer(
    torch: str,
    flax: str,
    weight: Layout = LINEAR,
    *,
    bias: bool = True,
    names: tuple[str, str] = ("kernel", "bias"),
) -> tuple[Rule, ...]:
    """Rules of a layer's weight and bias."""
    rules = (Rule(f"{torch}.weight", f"{flax}/{names[0]}", weight),)
    return rules + ((Rule(f"{torch}.bias", f"{flax}/{names[1]}"),) if bias else ())


def norm(torch: str, flax: str) -> tuple[Rule, ...]:
    """Rules of a normalisation's scale and bias."""
    return layer(torch, flax, SAME, names=("scale", "bias"))


def prefixed(rules: Sequence[Rule], torch: str = "", flax: str = "") -> tuple[Rule, ...]:
    """The rules under a prefix on either side, e.g. ``prefixed(rules, "unet.", "unet/")``."""
    return tuple(
        r._replace(
            torch=torch + r.torch,
            flax=None if r.flax is None else flax + r.flax,
            tied=None if r.tied is None else torch + r.tied,
        )
        for r in rules
    )


class Problem(str):
    """A sentence on one tensor. ``kind``: 'missing', 'foreign' (has no place), 'shape', 'rule' (unused) or 'other'."""

    kind: str
    key: str

    def __new__(cls, text: str, kind: str = "other", key: str = "") -> Problem:
        problem = super().__new__(cls, text)
        problem.kind, problem.key = kind, key
        return problem


class ConversionError(ValueError):
    """Lists every key that no rule, or more than one, explains, and every parameter left without a value."""

    def __init__(self, problems: Sequence[str]):
        self.problems = sorted(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{count}:\n  " + "\n  ".join(self.problems))


class Plan(NamedTuple):
    """What a table does with a checkpoint, known from shapes alone.

    filled: parameter path -> (PyTorch key, layout, shape of the parameter). dropped: keys left out and not tied.
    tied: copy -> the key that it must equal.
    """

    filled: dict[str, tuple[str, Layout, tuple[int, ...]]]
    dropped: tuple[str, ...]
    tied: dict[str, str]


@functools.cache
def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    pieces = (re.escape(p) if k % 2 == 0 else rf"(?P<{p}>\d+)" for k, p in enumerate(parts))
    return re.compile("".join(pieces) + r"\Z")


def translate(name: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    """The name on the other side of the one (template, template) pair that matches it, or None."""
    hits = [other.format(**m.groupdict()) for one, other in pairs if (m := _compile(one).match(name))]
    return hits[0] if len(hits) == 1 else None


def plan_to_flax(
    shapes: Mapping[str, tuple[int, ...]], rules: Sequence[Rule], expected: Mapping[str, tuple[int, ...]]
) -> tuple[Plan, list[Problem]]:
    """What :func:`to_flax` would do with tensors of these shapes, and all that is wrong with them. Reads no numbers."""
    compiled = [(_compile(r.torch), r) for r in rules]
    plan, problems = Plan({}, (), {}), []
    used: set[Rule] = set()
    dropped: list[str] = []
    for key, shape in shapes.items():
        hits = [(m, r) for pattern, r in compiled if (m := pattern.match(key))]
        if len(hits) != 1:
            problems.append(Problem(f"{key}: matched by {len(hits)} rules", "foreign", key))
            continue
        match, rule = hits[0]
        used.add(rule)
        if rule.flax is None:
            if rule.tied is None:
                dropped.append(key)
            else:
                plan.tied[key] = rule.tied.format(**match.groupdict())
            continue
        path = rule.flax.format(**match.groupdict())
        got, why = _shape_after(rule.layout.to_flax, shape)
        want = expected.get(path)
        if why:
            problems.append(Problem(f"{key}: {shape} does not fit {path}: {why}", "shape", key))
        elif want is None:
            problems.append(Problem(f"{key}: -> {path}, which the model does not have", "foreign", key))
        elif path in plan.filled:
            problems.append(Problem(f"{key}: -> {path}, already filled", "foreign", key))
        elif got != tuple(want):
            problems.append(Problem(f"{key}: {got} does not fit {path} {tuple(want)}", "shape", key))
        plan.filled.setdefault(path, (key, rule.layout, got))
    for path in [p for p in expected if p not in plan.filled]:
        key = translate(path, [(r.flax, r.torch) for r in rules if r.flax is not None]) or path
        problems.append(Problem(f"{path}: no checkpoint key fills it ({key})", "missing", key))
    problems += [Problem(f"rule {r.torch!r} matched nothing", "rule", r.torch) for r in rules if r not in used]
    return plan._replace(dropped=tuple(dropped)), problems


def _shape_after(
    change: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], str | None]:
    """(shape after a change of layout, or what is wrong), found on a tensor that takes no memory."""
    try:
        return change(np.broadcast_to(np.uint8(0), shape)).shape, None
    except ValueError as error:
        return (), str(error)


def to_flax(
    state: Mapping[str, np.ndarray], rules: Sequence[Rule], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """PyTorch state dict -> flat {"path/of/parameter": array}.

    ``expected`` maps every parameter of the model to its shape (``jax.eval_shape`` on its init). Every key is used
    exactly once, every parameter is filled and every rule is needed, or a ConversionError lists all that is wrong.
    """
    plan, problems = plan_to_flax({key: np.shape(value) for key, value in state.items()}, rules, expected)
    problems += untied(state, plan.tied)
    if problems:
        raise ConversionError(problems)
    return {path: layout.to_flax(np.asarray(state[key])) for path, (key, layout, _) in plan.filled.items()}


def untied(state: Mapping[str, np.ndarray], tied: Mapping[str, str]) -> list[Problem]:
    """Copies that do not equal their source."""
    return [
        Problem(f"{key}: expected a copy of {source}", "other", key)
        for key, source in tied.items()
        if source not in state or not np.array_equal(np.asarray(state[source]), np.asarray(state[key]))
    ]


def plan_to_torch(
    shapes: Mapping[str, tuple[int, ...]], rules: Sequence[Rule]
) -> tuple[dict[str, tuple[str, Layout, tuple[int, ...]]], list[Problem]]:
    """PyTorch key -> (parameter path, layout, shape of the PyTorch tensor), tied copies included; and the problems."""
    compiled = [(_compile(r.flax), r) for r in rules if r.flax is not None]
    out: dict[str, tuple[str, Layout, tuple[int, ...]]] = {}
    problems: list[Problem] = []
    used: set[Rule] = set()
    for path, shape in shapes.items():
        hits = [(m, r) for pattern, r in compiled if (m := pattern.match(path))]
        if len(hits) != 1:
            problems.append(Problem(f"{path}: matched by {len(hits)} rules", "foreign", path))
            continue
        match, rule = hits[0]
        used.add(rule)
        key = rule.torch.format(**match.groupdict())
        got, why = _shape_after(rule.layout.to_torch, shape)
        if key in out:
            problems.append(Problem(f"{path}: -> {key}, already filled", "foreign", path))
        elif why:
            problems.append(Problem(f"{path}: {shape} does not fit {key}: {why}", "shape", path))
        else:
            out[key] = (path, rule.layout, got)
    unused = [r.flax or "" for _, r in compiled if r not in used]
    problems += [Problem(f"rule {name!r} matched nothing", "rule", name) for name in unused]
    for rule in rules:
        if rule.tied is not None and "{" not in rule.torch and rule.tied in out:
            out[rule.torch] = out[rule.tied]
    return out, problems


def to_torch(params: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Inverse of :func:`to_flax`: flat Flax parameters -> PyTorch state dict, tied copies included.

    Every parameter is used exactly once and every rule is needed, or a ConversionError lists all that is wrong.
    """
    plan, problems = plan_to_torch({path: np.shape(value) for path, value in params.items()}, rules)
    if problems:
        raise ConversionError(problems)
    return {key: layout.to_torch(np.asarray(params[path])) for key, (path, layout, _) in plan.items()}
