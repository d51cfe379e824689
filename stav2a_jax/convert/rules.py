"""Conversion engine: declarative, strict, invertible mapping between PyTorch state dicts and Flax parameters.

A table is a tuple of :class:`Rule`; ``{name}`` in a template stands for a number. :func:`to_flax` and
:func:`to_torch` use every key exactly once or raise a :class:`ConversionError` that lists every problem.
"""

from __future__ import annotations

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


class ConversionError(ValueError):
    """Lists every key that no rule, or more than one, explains, and every parameter left without a value."""

    def __init__(self, problems: Sequence[str]):
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{count}:\n  " + "\n  ".join(sorted(problems)))


def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    pieces = (re.escape(p) if k % 2 == 0 else rf"(?P<{p}>\d+)" for k, p in enumerate(parts))
    return re.compile("".join(pieces) + r"\Z")


def translate(name: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    """The name on the other side of the one (template, template) pair that matches it, or None."""
    hits = [other.format(**m.groupdict()) for one, other in pairs if (m := _compile(one).match(name))]
    return hits[0] if len(hits) == 1 else None


def to_flax(
    state: Mapping[str, np.ndarray], rules: Sequence[Rule], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """PyTorch state dict -> flat {"path/of/parameter": array}.

    ``expected`` maps every parameter of the model to its shape (``jax.eval_shape`` on its init). Every key is used
    exactly once, every parameter is filled and every rule is needed, or a ConversionError lists all that is wrong.
    """
    compiled = [(_compile(r.torch), r) for r in rules]
    out: dict[str, np.ndarray] = {}
    problems: list[str] = []
    used: set[Rule] = set()
    for key, value in state.items():
        hits = [(m, r) for pattern, r in compiled if (m := pattern.match(key))]
        if len(hits) != 1:
            problems.append(f"{key}: matched by {len(hits)} rules")
            continue
        match, rule = hits[0]
        used.add(rule)
        if rule.flax is None:
            problems += _tie_problem(key, match, rule, state)
            continue
        path = rule.flax.format(**match.groupdict())
        try:
            array = rule.layout.to_flax(np.asarray(value))
        except ValueError as error:
            problems.append(f"{key}: {np.shape(value)} does not fit {path}: {error}")
            out.setdefault(path, np.zeros(()))  # it is not missing as well
            continue
        if path not in expected:
            problems.append(f"{key}: -> {path}, which the model does not have")
        elif path in out:
            problems.append(f"{key}: -> {path}, already filled")
        elif array.shape != tuple(expected[path]):
            problems.append(f"{key}: {array.shape} does not fit {path} {tuple(expected[path])}")
        out[path] = array
    problems += [f"{p}: no checkpoint key fills it" for p in expected if p not in out]
    problems += [f"rule {r.torch!r} matched nothing" for r in rules if r not in used]
    if problems:
        raise ConversionError(problems)
    return out


def _tie_problem(key: str, match: re.Match[str], rule: Rule, state: Mapping[str, np.ndarray]) -> list[str]:
    if rule.tied is None:
        return []
    source = rule.tied.format(**match.groupdict())
    if source in state and np.array_equal(np.asarray(state[source]), np.asarray(state[key])):
        return []
    return [f"{key}: expected a copy of {source}"]


def to_torch(params: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Inverse of :func:`to_flax`: flat Flax parameters -> PyTorch state dict, tied copies included.

    Every parameter is used exactly once and every rule is needed, or a ConversionError lists all that is wrong.
    """
    compiled = [(_compile(r.flax), r) for r in rules if r.flax is not None]
    out: dict[str, np.ndarray] = {}
    problems: list[str] = []
    used: set[Rule] = set()
    for path, value in params.items():
        hits = [(m, r) for pattern, r in compiled if (m := pattern.match(path))]
        if len(hits) != 1:
            problems.append(f"{path}: matched by {len(hits)} rules")
            continue
        match, rule = hits[0]
        used.add(rule)
        key = rule.torch.format(**match.groupdict())
        if key in out:
            problems.append(f"{path}: -> {key}, already filled")
            continue
        try:
            out[key] = rule.layout.to_torch(np.asarray(value))
        except ValueError as error:
            problems.append(f"{path}: {np.shape(value)} does not fit {key}: {error}")
    problems += [f"rule {r.flax!r} matched nothing" for _, r in compiled if r not in used]
    for rule in rules:
        if rule.tied is not None and "{" not in rule.torch and rule.tied in out:
            out[rule.torch] = out[rule.tied]
    if problems:
        raise ConversionError(problems)
    return out
