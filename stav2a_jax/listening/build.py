"""Writing the page of a listening test: a folder for the raters, and beside it the key, which is not for them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.resources
import json
import math
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from stav2a_jax.errors import UserError
from stav2a_jax.listening import design, media
from stav2a_jax.listening.media import Facts

PAGE, KEY, VERSION = "stav2a-listen-page", "stav2a-listen-key", 1
Show = Callable[[str, int, int], None]
_CHOICE, _IDS, _BEEPS = 0, 1, 2  # salts of the generators


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for. ``systems``: name -> folder; ``seed`` None: drawn anew; ``key`` None: beside ``out``."""

    systems: Mapping[str, pathlib.Path]
    out: pathlib.Path
    clips: int = 20
    key: pathlib.Path | None = None
    present: str = "one"
    raters: int = 6
    checks: int = 2
    training: pathlib.Path | None = None
    seed: int | None = None
    title: str = "Listening test"
    contact: str = ""

    @property
    def key_path(self) -> pathlib.Path:
        return self.key or self.out.absolute().with_name(f"{self.out.absolute().name}.key.json")


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of the page and what the key says about it. kind: "rating", "training" or "check"."""

    kind: str
    source: pathlib.Path
    facts: Facts
    clip: int = -1
    system: int = -1
    target: int = 0


@dataclasses.dataclass(frozen=True)
class Built:
    """What :func:`build` wrote; ``notes`` are sentences for the experimenter."""

    site: pathlib.Path
    key: pathlib.Path
    trials: int
    notes: list[str]


def build(plan: Plan, show: Show = lambda what, done, total: None) -> Built:
    """Write ``plan.out`` and the key, whole or not at all.

    The same plan with the same seed gives the same files. UserError for bad input (:func:`check`,
    :func:`media.find_clips`, :func:`media.examine`).
    """
    check(plan)
    seed = secrets.randbits(64) if plan.seed is None else plan.seed
    found = media.find_clips(plan.systems)
    names = choose(list(found[next(iter(found))]), plan.clips, seed)
    with _folder(plan.out) as site, tempfile.TemporaryDirectory() as extra:
        items = collect(plan, found, names, seed, pathlib.Path(extra), show)
        ids = draw_ids(len(items), seed)
        (site / "media").mkdir()
        sums = {}
        for done, k in enumerate(sorted(range(len(ids)), key=ids.__getitem__), 1):
            target = site / "media" / f"{ids[k]}.mp4"
            media.copy_clean(items[k].source, target)
            sums[ids[k]] = hashlib.sha256(target.read_bytes()).hexdigest()
            show("writing", done, len(ids))
        study = make_study(plan, items, ids, seed)
        study["site"] = hashlib.sha256(json.dumps([study, sorted(sums.items())]).encode()).hexdigest()[:12]
        copy_page(site, study)
        media.anonymous_times(site)
        key = make_key(plan, names, items, ids, sums, seed, study["site"])
        _write_new(plan.key_path, json.dumps(key, indent=1) + "\n")
        try:
            _take_place(site, plan.out)
        except BaseException:
            plan.key_path.unlink()  # a key without its page would only be in the way
            raise
    facts = {(item.system, item.clip): item.facts for item in items if item.kind == "rating"}
    return Built(plan.out, plan.key_path, len(study["orders"][0]), media.notes(list(plan.systems), names, facts))


def check(plan: Plan) -> None:
    """UserError for what is wrong whatever the clips hold."""
    for name, least in (("clips", 1), ("raters", 1), ("checks", 0)):
        if getattr(plan, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(plan, name)}.")
    if plan.checks > len(media.BEEPS):
        raise UserError(f"--checks must be at most {len(media.BEEPS)}, got {plan.checks}.")
    if plan.seed is not None and not 0 <= plan.seed < 2**64:
        raise UserError(f"--seed must lie between 0 and 2**64 - 1, got {plan.seed}.")
    if plan.present not in design.PRESENTATIONS:
        raise UserError(f"--present must be one of {', '.join(design.PRESENTATIONS)}, got {plan.present!r}.")
    if not plan.systems:
        raise UserError("No system is given; name folders as --systems NAME=DIR NAME=DIR.")
    if plan.present == "side" and len(plan.systems) < 2:
        raise UserError("--present side needs two systems or more to lay beside one another; add one to --systems.")
    if plan.out.exists() and (not plan.out.is_dir() or any(plan.out.iterdir())):
        raise UserError(f"{str(plan.out)!r} exists already; choose another --out, or remove it.")
    if plan.key_path.exists():
        raise UserError(
            f"The key {str(plan.key_path)!r} exists already, and answers may need it; choose another --key."
        )
    if plan.out.resolve() in plan.key_path.resolve().parents:
        raise UserError(
            f"The key {str(plan.key_path)!r} must not lie inside the page for raters; choose another --key."
        )


def choose(names: list[str], count: int, seed: int) -> list[str]:
    """``count`` of the clip names by lot, in an order by lot, which the rows of the design start from."""
    if len(names) < count:
        raise UserError(f"--clips {count} are asked for, but the systems have only {len(names)}; lower --clips.")
    order = np.random.default_rng([seed, _CHOICE]).permutation(len(names))
    return [names[k] for k in order[:count]]


def draw_ids(count: int, seed: int) -> list[str]:
    """Different names of ten hexadecimal digits that say nothing."""
    rng = np.random.default_rng([seed, _IDS])
    ids: dict[str, None] = {}
    while len(ids) < count:
        ids[rng.bytes(5).hex()] = None
    return list(ids)


def collect(
    plan: Plan,
    found: Mapping[str, Mapping[str, pathlib.Path]],
    names: list[str],
    seed: int,
    extra: pathlib.Path,
    show: Show,
) -> list[Item]:
    """Every file that the page needs, read through; generated ones are written into ``extra``."""
    if plan.training:
        examples = [plan.training]
    else:
        examples = [extra / "good.mp4", extra / "bad.mp4"]
        media.write_training(*examples)
    items = [Item("training", path, media.examine(path)) for path in examples]
    for beeps in np.random.default_rng([seed, _BEEPS]).permutation(media.BEEPS)[: plan.checks].tolist():
        path = extra / f"{beeps}.mp4"
        media.write_check(path, beeps)
        items.append(Item("check", path, media.examine(path), target=10 * beeps))
    total = len(names) * len(plan.systems)
    for s, system in enumerate(plan.systems):
        for c, name in enumerate(names):
            path = found[system][name]
            items.append(Item("rating", path, media.examine(path), clip=c, system=s))
            show("reading", s * len(names) + c + 1, total)
    return items


def make_study(plan: Plan, items: list[Item], ids: list[str], seed: int) -> dict[str, Any]:
    """What the page knows: ids and their order for every rater, and nothing about systems or right answers."""
    checks = [i for i, item in zip(ids, items) if item.kind == "check"]
    by_place = {(item.clip, item.system): i for i, item in zip(ids, items) if item.kind == "rating"}
    orders = []
    for rater in range(1, plan.raters + 1):
        order = design.rating_order(rater, plan.clips, len(plan.systems), plan.present)
        places = design.check_places(seed, rater, len(order), len(checks))
        orders.append(design.session([[by_place[pair] for pair in trial] for trial in order], checks, places, rater))
    return {
        "format": PAGE,
        "version": VERSION,
        "title": plan.title,
        "contact": plan.contact,
        "present": plan.present,
        "lowest": design.LOWEST,
        "highest": design.HIGHEST,
        "scales": [{"name": n, "title": t, "question": q} for n, t, q in design.SCALES],
        "training": [i for i, item in zip(ids, items) if item.kind == "training"],
        "explained": plan.training is None,  # the two generated examples come with an explanation
        "checks": sorted(checks),
        "orders": orders,
    }


def make_key(
    plan: Plan, names: list[str], items: list[Item], ids: list[str], sums: Mapping[str, str], seed: int, site: str
) -> dict[str, Any]:
    """What the answers are read with: which file is which clip of which system, and what the checks ask for."""
    systems = list(plan.systems)
    entries = sorted(zip(ids, items), key=lambda pair: (pair[1].kind, pair[1].system, pair[1].clip))
    return {
        "format": KEY,
        "version": VERSION,
        "site": site,
        "title": plan.title,
        "present": plan.present,
        "seed": seed,
        "raters": plan.raters,
        "systems": systems,
        "folders": {system: str(folder) for system, folder in plan.systems.items()},
        "clips": names,
        "media": {
            i: {
                "clip": names[item.clip],
                "system": systems[item.system],
                "seconds": round(item.facts.seconds, 3),
                "level_db": None if math.isinf(item.facts.level_db) else round(item.facts.level_db, 2),
                "sha256": sums[i],
            }
            for i, item in entries
            if item.kind == "rating"
        },
        "checks": {i: item.target for i, item in entries if item.kind == "check"},
        "training": [i for i, item in entries if item.kind == "training"],
    }


def copy_page(site: pathlib.Path, study: Mapping[str, Any]) -> None:
    """The page itself, and study.js: a script, because a page from a folder may not fetch a JSON file."""
    for file in importlib.resources.files("stav2a_jax").joinpath("assets", "listen").iterdir():
        (site / file.name).write_bytes(file.read_bytes())
    (site / "study.js").write_text(f"window.STUDY = {json.dumps(study, separators=(',', ':'))};\n", encoding="utf-8")


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder beside ``out``, removed at the end if it is still there."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error.strerror}); choose another --out.") from None
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_new(path: pathlib.Path, text: str) -> None:
    from stav2a_jax.video.mux import atomic

    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _take_place(site: pathlib.Path, out: pathlib.Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    site.chmod(0o777 & ~mask)  # mkdtemp's folders are for their owner only; a web server must read this one
    if out.exists():
        out.rmdir()
    os.replace(site, out)
