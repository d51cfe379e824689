"""Reading, completing and overriding frozen dataclass configs, with every name and type checked."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import types
import typing
from typing import Any

ADDED = {"added": True}
"""Metadata of a field that files written before it existed may lack: they mean its default, how it was then."""


def to_dict(cfg: Any) -> dict[str, Any]:
    """Plain dict of a config, ready for JSON."""
    return dataclasses.asdict(cfg)


def complete(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """``data``, which may be a part of a config, with the ``ADDED`` fields of every section that it has."""
    hints, out = typing.get_type_hints(cls), dict(data)
    for field in dataclasses.fields(cls):
        if field.name not in out and field.metadata.get("added"):
            nested = dataclasses.is_dataclass(field.default)
            out[field.name] = to_dict(field.default) if nested else field.default
        elif dataclasses.is_dataclass(hints[field.name]) and isinstance(out.get(field.name), dict):
            out[field.name] = complete(typing.cast(type, hints[field.name]), out[field.name])
    return out


def from_dict(cls: type, data: dict[str, Any]) -> Any:
    """Inverse of :func:`to_dict`; unknown or missing names and impossible choices are errors that list all of them.

    Only a field marked ``ADDED`` may be missing.
    """
    hints, data = typing.get_type_hints(cls), complete(cls, data)
    unknown, missing = sorted(set(data) - set(hints)), sorted(set(hints) - set(data))
    if unknown or missing:
        raise KeyError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
    wrong = [
        f"{name}={value!r}, expected one of {', '.join(map(repr, choices))}"
        for name, value in data.items()
        if (choices := _choices(hints[name])) and value not in choices
    ]
    if wrong:
        raise ValueError(f"{cls.__name__}: {'; '.join(wrong)}")
    return cls(**{name: _build(hints[name], value) for name, value in data.items()})


def override(cfg: Any, assignment: str) -> Any:
    """``override(cfg, "optim.lr=3e-5")`` -> a new config; unknown names and wrong types raise."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise TypeError(f"expected NAME=VALUE, got {assignment!r}")
    head, _, rest = path.strip().partition(".")
    names = [f.name for f in dataclasses.fields(cfg)]
    if head not in names:
        near = difflib.get_close_matches(head, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(names)}"
        raise KeyError(f"{type(cfg).__name__} has no field {head!r}{hint}")
    if rest:
        if not dataclasses.is_dataclass(getattr(cfg, head)):
            raise KeyError(f"{type(cfg).__name__}.{head} is a value and has no field {rest!r}")
        return dataclasses.replace(cfg, **{head: override(getattr(cfg, head), f"{rest}={text}")})
    return dataclasses.replace(cfg, **{head: _parse(path, typing.get_type_hints(type(cfg))[head], text)})


def _build(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast(type, hint), value)
    return _freeze(value)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list | tuple) else value


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a ``Literal``, or nothing."""
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _parse(path: str, hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if choices := _choices(hint):
        if text not in choices:
            raise TypeError(f"{path}: expected one of {', '.join(map(repr, choices))}, got {text!r}")
        return text
    try:
        return _typed(hint, _freeze(ast.literal_eval(text)))
    except (ValueError, SyntaxError, TypeError):
        wanted = str(hint) if typing.get_args(hint) else hint.__name__
        raise TypeError(f"{path}: expected {wanted}, got {text!r}") from None


def _typed(hint: Any, value: Any) -> Any:
    """``value`` as the hint wants it (a whole number may stand for a float), or TypeError; a bool is no number."""
    if isinstance(hint, types.UnionType):
        for option in typing.get_args(hint):
            with contextlib.suppress(TypeError):
                return _typed(option, value)
    elif typing.get_origin(hint) is tuple and isinstance(value, tuple):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(map(_typed, kinds, value))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError(hint)
