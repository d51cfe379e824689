"""Generated foley clips: small 2-D scenes whose sounds come from visible contacts, with exact event times.

Clip ``index`` of a split is a pure function of (seed, split, index). What sounds is an event, what is an event is
heard: contacts that are too weak, that follow a sounded one within 80 ms, or that fall into the first 0.1 s or the
last 0.15 s are silent. Materials and cues are balanced exactly in blocks of indices (see docs/foley.md).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stav2a_jax.types import UserError

from . import foley_draw, foley_moves, foley_scenes, foley_sound, foley_stage, foley_text

SPLITS = ("train", "valid", "test")
MATERIALS = ("wood", "metal", "glass", "skin", "water", "plastic")
CUES = ("text", "picture", "both")
TAGS = ("distractor", "camera", "occlusion", "several", "silence", "continuous", "feint")
_BUILD = {
    "bounce": foley_scenes.bounce,
    "tumble": foley_scenes.tumble,
    "knock": foley_scenes.knock,
    "hammer": foley_moves.hammer,
    "sticks": foley_moves.sticks,
    "drops": foley_moves.drops,
    "footsteps": foley_moves.footsteps,
    "scrape": foley_moves.scrape,
}
SCENES = tuple(_BUILD)
_HARD = {"bounce": 1.3, "tumble": 1.1, "knock": 1.0, "hammer": 1.0, "sticks": 1.0, "drops": 0.7, "footsteps": 1.0}
_WEIGHTS = {m: {**_HARD, "scrape": 1.0} for m in MATERIALS}
_WEIGHTS["skin"] = {"bounce": 1.4, "knock": 1.0, "hammer": 1.0, "sticks": 1.4, "drops": 0.7}
_WEIGHTS["water"] = {"drops": 2.0, "footsteps": 1.4, "hammer": 0.8}


@dataclasses.dataclass(frozen=True)
class Event:
    """One sound. time: seconds of its start; loudness_db: peak level in dBFS; kind: 'hit' or 'scrape'."""

    time: float
    loudness_db: float
    material: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip: what is seen and heard, without pixels or samples (``render_video`` and ``render_audio`` make them)."""

    seed: int
    split: str
    index: int
    seconds: float
    scene: str
    caption: str
    material: str
    text_names_material: bool
    picture_shows_material: bool
    events: tuple[Event, ...]
    tags: tuple[str, ...]
    _stage: foley_stage.Stage = dataclasses.field(repr=False, compare=False)


def _rng(seed: int, split: str, index: int, purpose: int, extra: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index, purpose, extra)))


def _block(seed: int, split: str, index: int, size: int, purpose: int) -> int:
    """A number in [0, size) that takes every value once in each block of ``size`` indices."""
    return int(_rng(seed, split, index // size, purpose).permutation(size)[index % size])


def _check(seed: int, split: str, index: int, seconds: float | None) -> None:
    if split not in SPLITS:
        raise UserError(f"split {split!r} does not exist; use one of {', '.join(SPLITS)}.")
    if seed < 0 or index < 0:
        raise UserError(f"seed {seed} and index {index} must not be negative; use 0 or more.")
    if seconds is not None and not 2.0 <= seconds <= 60.0:
        raise UserError(f"A clip of {seconds} s cannot be made; ask for 2 to 60 seconds.")


def _extras(rng: np.random.Generator, stage: foley_stage.Stage, seconds: float) -> tuple[foley_stage.Stage, list[str]]:
    """Add silent things, a mirror, a moving camera and an occluder; return the stage and the tags they bring."""
    tags = []
    bodies = list(stage.bodies)
    if rng.random() < 0.5:
        floor = 0.8
        ghosts = foley_stage.silent_things(rng, seconds, floor, int(rng.integers(1, 4)))
        spot = len(bodies) if rng.random() < 0.7 else 0
        bodies[spot:spot] = ghosts
        tags.append("distractor")
    stage = dataclasses.replace(stage, bodies=tuple(bodies))
    if rng.random() < 0.5:
        stage = foley_stage.mirrored(stage)
    if rng.random() < 0.3:
        for _ in range(8):
            moved = dataclasses.replace(stage, camera=foley_stage.moving_camera(rng, seconds))
            if foley_stage.in_view(moved):
                stage = moved
                tags.append("camera")
                break
    if rng.random() < 0.14:
        panel = foley_stage.occluder(rng, stage)
        if panel is not None:
            stage = dataclasses.replace(stage, bodies=(*stage.bodies, panel))
            tags.append("occlusion")
    return stage, tags


def _silence(contacts: tuple[foley_stage.Contact, ...], seconds: float) -> bool:
    """Whether 1.5 s or more pass somewhere without a sound."""
    starts = np.array([c.time for c in contacts])
    ends = np.array([c.time + c.duration for c in contacts])
    return bool(np.max(np.r_[starts, seconds] - np.r_[0.0, ends]) >= 1.5)


def make_clip(seed: int, split: str, index: int, seconds: float | None = None) -> Clip:
    """Clip ``index`` of ``split``; ``seconds`` (2 to 60) overrides its drawn length of 2 to 10 s.

    Raises UserError for an unknown split, a negative seed or index, or an impossible length.
    """
    _check(seed, split, index, seconds)
    material = MATERIALS[_block(seed, split, index, 6, 101)]
    cue = CUES[(0, 0, 0, 0, 1, 1, 1, 2, 2, 2)[_block(seed, split, index, 10, 102)]]
    named, shown = cue != "picture", cue != "text"
    rng = _rng(seed, split, index, 103)
    if seconds is None:
        seconds = round((2.0 + 8.0 * rng.beta(1.4, 2.3)) * 25) / 25
    weights = _WEIGHTS[material]
    scene = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
    several = bool(rng.random() < 0.45) and scene not in ("hammer", "scrape")
    pause = bool(rng.random() < 0.25) and seconds >= 4
    for attempt in range(60):
        tries = _rng(seed, split, index, 104, attempt)
        # the geometry must not tell what the picture is not to tell: drums' and pools' layouts are then drawn by lot
        layout = material if shown else _layout(tries, material)
        stage = _BUILD[scene](tries, seconds, layout, several, pause and attempt < 20)
        contacts = tuple(foley_stage.audible(list(stage.contacts), seconds))
        stage = dataclasses.replace(stage, contacts=contacts)
        most = max(foley_stage.MOST_EVENTS, round(1.6 * seconds))
        if 2 <= len(contacts) <= most and foley_stage.in_view(stage):
            break
    else:
        raise RuntimeError(f"no valid {scene} scene found for clip {seed}/{split}/{index}")
    noun, feint = stage.noun, stage.feint
    stage, tags = _extras(rng, stage, seconds)
    text = foley_text.caption(rng, scene, noun, material, named, stage.several, stage.struck, "distractor" in tags)
    found = {*tags}
    silent = _silence(stage.contacts, seconds)
    facts = {"several": stage.several, "feint": feint, "continuous": scene == "scrape", "silence": silent}
    found |= {tag for tag, true in facts.items() if true}
    events = tuple(Event(c.time, _loudness(c), material, c.kind) for c in stage.contacts)
    return Clip(
        seed, split, index, seconds, scene, text, material, named, shown, events,
        tuple(t for t in TAGS if t in found), stage,
    )  # fmt: skip


def plain_caption(clip: Clip) -> str:
    """Another sentence about the clip, which never says the material: it is left to the picture."""
    rng, stage = _rng(clip.seed, clip.split, clip.index, 108), clip._stage
    ghosts = "distractor" in clip.tags
    return foley_text.caption(rng, clip.scene, stage.noun, clip.material, False, stage.several, stage.struck, ghosts)


def _layout(rng: np.random.Generator, material: str) -> str:
    """The material whose arrangement (a drum as floor, a pool) a neutral picture shows; drums only exist as drums."""
    return "skin" if material == "skin" else str(rng.choice(["water", "skin", "wood"]))


def _loudness(contact: foley_stage.Contact) -> float:
    top = foley_sound.LOUD_DB if contact.kind == "hit" else foley_sound.SCRAPE_DB
    return float(top + max(contact.level, foley_stage.QUIET_DB))


def render_video(clip: Clip, size: int | tuple[int, int] = 128, fps: float = 25.0) -> np.ndarray:
    """RGB frames, uint8 (round(seconds * fps), H, W, 3); frame i shows time i / fps.

    size: height = width in pixels, or (height, width); the scene fills the central square. UserError below 16 pixels.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16 or fps <= 0:
        raise UserError(f"Frames of {height}x{width} at {fps} fps cannot be drawn; ask for 16 pixels or more.")
    look = clip.material if clip.picture_shows_material else "neutral"
    seed = (clip.seed, SPLITS.index(clip.split), clip.index, 105)
    return foley_draw.draw(clip._stage, look, clip.seconds, height, width, fps, seed)


def render_audio(clip: Clip, sample_rate: int = 16_000) -> np.ndarray:
    """Mono sound, float32 (round(seconds * sample_rate),), |x| < 0.9. UserError below 8000 Hz."""
    if sample_rate < 8000:
        raise UserError(f"Sound at {sample_rate} Hz cannot be made; ask for 8000 Hz or more.")
    count = round(clip.seconds * sample_rate)
    rng = _rng(clip.seed, clip.split, clip.index, 106)
    wave = rng.standard_normal(count) * 10 ** (foley_sound.FLOOR_DB / 20)
    for k, (event, contact) in enumerate(zip(clip.events, clip._stage.contacts)):
        if event.kind == "hit":
            own = _rng(clip.seed, clip.split, clip.index, 107, k)
            sound = foley_sound.hit(own, clip.material, event.loudness_db, contact.size, sample_rate)
            start = round(event.time * sample_rate)
            room = min(len(sound), count - start)
            wave[start : start + room] += sound[:room]
    if clip._stage.speed is not None:
        clock = np.arange(len(clip._stage.speed)) / foley_stage.RATE
        speed = np.interp(np.arange(count) / sample_rate, clock, clip._stage.speed)
        wave += foley_sound.rub(rng, clip.material, clip._stage.contacts[0].size, speed, sample_rate)
    fade = min(int(0.01 * sample_rate), count)
    wave[count - fade :] *= np.linspace(1.0, 0.0, fade)
    return foley_sound.limited(wave).astype(np.float32)


def metadata(clip: Clip) -> dict[str, Any]:
    """Everything true about a clip, ready for JSON; ``x``, ``y`` place each event in the picture's central square."""
    events = []
    for event, contact in zip(clip.events, clip._stage.contacts):
        x, y = foley_stage.see(clip._stage.camera, contact.time, contact.x, contact.y)
        place = {"x": round(float(x), 4), "y": round(float(y), 4), "duration": round(contact.duration, 4)}
        events.append({**dataclasses.asdict(event), "time": round(event.time, 5), **place})
    names = [f.name for f in dataclasses.fields(clip) if f.name not in ("_stage", "events", "tags")]
    return {**{n: getattr(clip, n) for n in names}, "tags": list(clip.tags), "events": events}
