"""A checkpoint through its family: PyTorch tensors to Flax parameters and back, lazily.

:func:`convert` reads the sizes off the file, checks the table against them (every key used, every parameter filled)
and gives lazy tensors; :func:`export` goes back. Neither reads the weights' numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stav2a_jax.config import ModelConfig
from stav2a_jax.convert.components import Component, expected, unchanged
from stav2a_jax.convert.families import FAMILIES, Family, Slot, released_config
from stav2a_jax.convert.rules import Layout, Problem, plan_to_flax, plan_to_torch, prefixed
from stav2a_jax.tensors import Entry, Shape, Tensors
from stav2a_jax.types import UserError

KEPT = "kept/"
"""Where a bundle keeps what has no counterpart in Flax, "kept/COMPONENT/KEY", so that the way back is complete."""


class Match(NamedTuple):
    """A slot that was found: its component, and what lies below root + prefix, whole keys."""

    slot: Slot
    component: Component
    prefix: str
    tensors: Tensors


class Converted(NamedTuple):
    """tensors: lazy, "group/path" and :data:`KEPT`. fields: sections of ModelConfig. form: what :func:`export` needs to
    write the same file again. assumed: sizes that the file does not say. aside: what was left out. tied: copy ->
    source, to be compared before use. problems: all that does not fit; none if the conversion may be used."""

    tensors: Tensors
    fields: dict[str, dict[str, Any]]
    form: dict[str, Any]
    assumed: tuple[str, ...]
    aside: tuple[str, ...]
    tied: dict[str, str]
    problems: tuple[Problem, ...]


def matches(family: Family, tensors: Tensors, root: str) -> tuple[list[Match], list[Slot]]:
    """(slots that are there, required ones that are not) with one root."""
    found, lacking = [], []
    unused = tuple(root + prefix for prefix, _ in family.aside)
    for slot in family.slots:
        prefix = root + slot.prefix if slot.rooted else slot.prefix
        starts = tuple(prefix + claim for claim in slot.claims)
        others = [o for o in family.slots if o is not slot and len(o.prefix) > len(slot.prefix)]
        not_mine = (*(root + other.prefix for other in others), *unused)
        keys = {key for key in tensors if key.startswith(starts) and not key.startswith(not_mine)}
        mine = tensors.where(keys.__contains__)
        component = next((a for a in slot.alternatives if _witnessed(a, mine.under(prefix))), None)
        if component is not None:
            found.append(Match(slot, component, prefix, mine))
        elif slot.required:
            lacking.append(slot)
    return found, lacking


def _witnessed(component: Component, tensors: Iterable[str]) -> bool:
    keys = list(tensors)
    return all(any(re.match(pattern, key) for key in keys) for pattern in component.witness)


def detect(tensors: Tensors) -> list[Family]:
    """Families that the keys fit, the most complete first."""
    return [f for f in FAMILIES.values() if any(not matches(f, tensors, root)[1] for root in f.roots)]


def convert(
    tensors: Tensors,
    family: Family,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Collection[str] = (),
) -> Converted:
    """A checkpoint of a family as lazy Flax parameters.

    ``config``: component name -> its config.json. ``skip``: components to leave out, for others take their place.
    Raises UserError where the file is not of the family at all; what does not fit in detail is in ``problems``.
    """
    root = next((r for r in family.roots if not _lacking(family, tensors, r, skip)), None)
    if root is None:
        raise UserError(_not_one(family, tensors, skip))
    everything, _ = matches(family, tensors, root)
    found = [match for match in everything if match.component.name not in skip]
    problems: list[Problem] = []
    parts = [(m, m.component.prepare(m.tensors.under(m.prefix))) for m in found]
    fields: dict[str, dict[str, Any]] = {}
    assumed: list[str] = []
    for match, part in parts:
        try:
            got = match.component.sizes(part, (config or {}).get(match.component.name, {}))
        except UserError as e:
            raise UserError(f"{family.name}: the {match.component.name} at {match.prefix or 'the top'!r}: {e}") from e
        problems += merge(fields, got.fields, match.component.name)
        assumed += got.assumed
    model, out = released_config(fields)[0], Tensors({})
    if "autoencoder" in fields and "scale_factor" not in fields["autoencoder"]:
        assumed.append(f"autoencoder: scale factor {model.autoencoder.scale_factor}, AudioLDM's")
    tied: dict[str, str] = {}
    for match, part in parts:
        whole = part.prefixed(match.prefix)
        rules = prefixed(match.component.rules(model), match.prefix)
        wanted = {p: s for group in match.component.groups for p, s in expected(model, group).items()}
        plan, wrong = plan_to_flax(whole.shapes, rules, wanted)
        problems += wrong
        tied |= plan.tied
        out |= _laid_out(whole, plan.filled)
        kept = whole.where(set(plan.dropped).__contains__).under(match.prefix)
        out |= kept.prefixed(f"{KEPT}{match.component.name}/")
    taken = {key for match in everything for key in match.tensors}
    aside, foreign = _rest([key for key in tensors if key not in taken], family, root)
    aside += tuple(f"{_tensors(len(m.tensors))} {m.prefix}* (given separately)" for m in everything if m not in found)
    slots = {m.slot.prefix + m.slot.claims[0]: m.component.name for m in found}
    form = {"family": family.name, "root": root, "slots": slots}
    return Converted(out, fields, form, tuple(dict.fromkeys(assumed)), aside, tied, tuple(problems + foreign))


def _laid_out(source: Tensors, filled: Mapping[str, tuple[str, Layout, Shape]], back: bool = False) -> Tensors:
    """Lazy tensors under other names and in another layout."""
    made: dict[str, Entry] = {}

    def entry(key: str, layout: Layout, shape: Shape) -> Entry:
        old, change = source.entries[key], layout.to_torch if back else layout.to_flax
        return Entry(shape, old.dtype, lambda: change(old.read()))

    out = {}
    for name, (key, layout, shape) in filled.items():
        if key not in made or not back:
            made[key] = entry(key, layout, shape)  # backwards, a tied pair shares one entry
        out[name] = made[key]
    return Tensors(out)


def merge(fields: dict[str, dict[str, Any]], new: Mapping[str, Mapping[str, Any]], of: str) -> list[Problem]:
    """Add fields to ``fields``; a field that is there with another value is a problem."""
    problems = []
    for section, values in new.items():
        there = fields.setdefault(section, {})
        for name, value in values.items():
            if there.setdefault(name, value) != value:
                problems.append(Problem(f"{of} says {section}.{name} = {value}, another part says {there[name]}"))
    return problems


def _rest(keys: Sequence[str], family: Family, root: str) -> tuple[tuple[str, ...], list[Problem]]:
    """(what is left out, with the reason; problems) of the keys that no slot claims."""
    aside: dict[str, int] = {}
    foreign = []
    for key in keys:
        why = next((f"{p}* ({why})" for p, why in family.aside if key.startswith(root + p)), None)
        if why is None and root and not key.startswith(root):
            why = f"{key.partition('.')[0]}* (another model of the same file)"
        if why is None:
            foreign.append(Problem(f"{key}: matched by 0 rules", "foreign", key))
        else:
            aside[why] = aside.get(why, 0) + 1
    return tuple(f"{_tensors(count)} {why}" for why, count in aside.items()), foreign


def _tensors(count: int) -> str:
    return f"{count} tensor{'s' if count != 1 else ''}"


def _lacking(family: Family, tensors: Tensors, root: str, skip: Collection[str]) -> list[Slot]:
    return [s for s in matches(family, tensors, root)[1] if not any(a.name in skip for a in s.alternatives)]


def _not_one(family: Family, tensors: Tensors, skip: Collection[str]) -> str:
    """Why a file is not of a family, in one sentence."""
    lacking = _lacking(family, tensors, family.roots[0], skip)
    wanted = ", ".join(_place(family.roots[0], slot) for slot in lacking)
    there: dict[str, int] = {}
    for key in tensors:
        there[key.partition(".")[0]] = there.get(key.partition(".")[0], 0) + 1
    names = ", ".join(f"{name} ({n})" for name, n in sorted(there.items(), key=lambda item: -item[1])[:6])
    others = [f.name for f in detect(tensors)]
    hint = f"; it looks like {' or '.join(others)}" if others else ""
    return f"this is no {family.name} file: it lacks {wanted}; its keys begin with {names}{hint}"


def _place(root: str, slot: Slot) -> str:
    prefix = (root if slot.rooted else "") + slot.prefix + (slot.claims[0] if slot.claims != ("",) else "")
    return f"{prefix}* ({slot.alternatives[0].name})" if prefix else f"the keys of a {slot.alternatives[0].name}"


def explain(problems: Sequence[Problem], limit: int = 3) -> str:
    """All problems in one sentence: how many of each kind, the first few by name."""
    titles = {
        "missing": "missing",
        "foreign": "not known to it",
        "shape": "of another shape",
        "other": "otherwise wrong",
        "rule": "expected and not there at all",
    }
    kinds = [kind for kind in titles if any(p.kind == kind for p in problems)]
    if kinds != ["rule"]:  # a rule without any key says nothing beyond its missing keys
        kinds = [kind for kind in kinds if kind != "rule"]
    out = []
    for kind in kinds:
        mine = sorted((p for p in problems if p.kind == kind), key=lambda p: p.key or p)
        names = [p if kind in ("shape", "other") else p.key for p in mine]
        more = f" and {len(names) - limit} more" if len(names) > limit else ""
        out.append(f"{len(mine)} {titles[kind]} ({', '.join(names[:limit])}{more})")
    return "; ".join(out)


def export(
    tensors: Tensors, model: ModelConfig, family: Family, form: Mapping[str, Any] | None = None
) -> tuple[Tensors, str]:
    """(PyTorch tensors, root) of a bundle's tensors in a family's layout, lazily; ``form`` as :func:`convert` made it.

    Raises UserError where the bundle lacks a group, or has something that the PyTorch class cannot do.
    """
    root = form["root"] if form else family.roots[0]
    out, lacking, foreign, wrong = Tensors({}), [], [], []
    for slot in family.slots:
        name = form["slots"].get(slot.prefix + slot.claims[0]) if form else None
        if form and name is None:
            continue  # the file that it came from did not have it either
        component = next((a for a in slot.alternatives if a.name == name), slot.alternatives[0])
        if component.prepare is not unchanged:
            component = slot.alternatives[0]  # weight norm has no way back: plain weights are a valid checkpoint
        groups = Tensors({})
        for group in component.groups:
            groups |= tensors.under(f"{group}/").prefixed(f"{group}/")
        absent = [g for g in component.groups if not any(key.startswith(f"{g}/") for key in groups)]
        if absent:
            lacking += absent if slot.required or form else []
            continue
        foreign += component.foreign(model)
        plan, problems = plan_to_torch(groups.shapes, component.rules(model))
        wrong += problems
        part = _laid_out(groups, plan, back=True)
        kept = tensors.under(f"{KEPT}{component.name}/")
        part = Tensors.of(component.buffers(model, part.shapes)) | part | kept
        out |= part.prefixed((root if slot.rooted else "") + slot.prefix)
    if lacking:
        raise UserError(f"the bundle has no {', '.join(lacking)}, which a {family.name} file needs")
    if foreign:
        raise UserError(f"the PyTorch classes of {family.name} cannot do what this model does: {', '.join(foreign)}")
    if wrong:
        raise UserError(f"the bundle's weights do not make a whole {family.name} file: {explain(wrong)}")
    return out, root
