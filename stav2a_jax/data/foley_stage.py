"""What a foley scene is made of: bodies with tracks, contacts, camera, occluder, and the rules of what sounds.

Lengths are in picture heights (the world's visible square is [0, 1] x [0, 1], y downwards), times in seconds, angles
in radians. Tracks are sampled at ``RATE`` and read by linear interpolation, so any frame rate can be drawn.
"""

from __future__ import annotations

import dataclasses

import numpy as np

RATE = 200  # track samples per second
CHATTER = 0.08  # seconds after a sounded contact in which every other contact is silent
HEAD, TAIL = 0.1, 0.15  # seconds at the clip's ends in which contacts are silent
QUIET_DB = -20.0  # contacts weaker than this (0 dB = the strongest) are silent
MOST_EVENTS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """One drawn rigid shape. ``track`` (T, 3) or (1, 3) holds x, y, angle of its centre; NaN = not in the picture.

    look: material (carries the sounding material), tool, ground, silent (hollow: never sounds), panel (occluder).
    layer: 0 still background, 1 movers, 2 in front of the movers.
    """

    shape: str
    size: tuple[float, float]
    track: np.ndarray
    look: str = "material"
    layer: int = 1


@dataclasses.dataclass(frozen=True)
class Contact:
    """One contact: time, level (dB, 0 = strongest), place, size in [0, 1] (0 small = high), kind, a scrape's length."""

    time: float
    level: float
    x: float
    y: float
    size: float
    kind: str = "hit"
    duration: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A scene ready to draw and to sound.

    ``speed`` (T,) in [0, 1] drives the scrapes; ``splash``: contacts throw droplets;
    ``rings``: and rings run over the surface.
    """

    bodies: tuple[Body, ...]
    contacts: tuple[Contact, ...]
    noun: str
    several: bool = False
    struck: bool = False  # the floor carries the material, not what falls on it
    splash: bool = False
    rings: bool = False
    feint: bool = False
    speed: np.ndarray | None = None
    camera: np.ndarray | None = None  # (T, 3): shift x, shift y, zoom


def samples(seconds: float) -> int:
    """Number of track samples of a clip of ``seconds`` (one past the end, for interpolation)."""
    return int(np.ceil(seconds * RATE)) + 2


def still(x: float, y: float, angle: float = 0.0) -> np.ndarray:
    """The (1, 3) track of a body that does not move."""
    return np.array([[x, y, angle]])


def track(x, y, angle=0.0) -> np.ndarray:
    """(T, 3) from three arrays or numbers."""
    return np.stack(np.broadcast_arrays(x, y, angle), axis=-1).astype(np.float64)


def ground(y: float, look: str = "ground", layer: int = 0) -> Body:
    """A floor whose top is at ``y`` and which reaches far beyond every picture's edge."""
    return Body("slab", (5.0, 0.8), still(0.5, y + 0.4), look, layer)


def schedule(
    rng: np.random.Generator, seconds: float, gap: float, pause: bool, rate: float | None = None
) -> np.ndarray:
    """Irregular event times at least ``gap`` seconds apart, 1 to 2.5 a second, 2 to 16 of them.

    A third keep a tempo with jitter, the others wander; with ``pause`` one silence of 1.5 s or more is left.
    """
    hole = min(rng.uniform(1.6, 3.2), 0.5 * seconds) if pause else 0.0
    first = rng.uniform(0.25, 0.25 + 0.12 * seconds)
    active = max(seconds - first - hole - TAIL - 0.05, 0.5)
    rate = rng.uniform(1.0, 2.5) if rate is None else rate
    count = int(np.clip(round(rate * active), 2, MOST_EVENTS))
    spread = 0.08 if rng.random() < 0.33 else 1.0
    extra = rng.gamma(1.0 / spread, spread, count)
    room = active - gap * (count - 1)
    while room < 0.05 * count and count > 2:
        count, room = count - 1, room + gap
    times = first + np.cumsum(np.r_[0, extra[1:count] / extra[:count].sum() * max(room, 0.01) + gap])
    if hole:
        times[int(rng.integers(0, count)) :] += hole
    return times


def audible(contacts: list[Contact], seconds: float) -> list[Contact]:
    """The contacts that sound: loud enough, away from the ends, and not the chatter of an earlier one."""
    kept: list[Contact] = []
    for contact in sorted(contacts, key=lambda c: c.time):
        if contact.level < QUIET_DB or not HEAD <= contact.time <= seconds - TAIL:
            continue
        if kept and contact.time - kept[-1].time < CHATTER:
            continue
        kept.append(contact)
    return kept


def see(camera: np.ndarray | None, time, x, y) -> tuple[np.ndarray, np.ndarray]:
    """World position -> position in the picture's central square, [0, 1] inside it."""
    if camera is None:
        return np.asarray(x), np.asarray(y)
    clock = np.arange(len(camera)) / RATE
    dx, dy, zoom = (np.interp(time, clock, camera[:, k]) for k in range(3))
    return (x - 0.5 - dx) * zoom + 0.5, (y - 0.5 - dy) * zoom + 0.5


def in_view(stage: Stage, margin: float = 0.02) -> bool:
    """Whether every contact lies inside the picture."""
    for c in stage.contacts:
        x, y = see(stage.camera, c.time, c.x, c.y)
        if not (margin <= x <= 1 - margin and margin <= y <= 1 - margin):
            return False
    return True


def moving_camera(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A slow pan, a slow zoom, a shake, or a mix: (T, 3)."""
    n = samples(seconds)
    t = np.linspace(0.0, 1.0, n)
    ease = t * t * (3 - 2 * t)
    kinds = rng.choice(["pan", "zoom", "shake"], size=int(rng.integers(1, 3)), replace=False)
    out = np.zeros((n, 3))
    out[:, 2] = 1.0
    if "pan" in kinds:
        reach = rng.uniform(0.05, 0.12, 2) * rng.choice([-1, 1], 2) * (1.0, 0.35)
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (t * rng.uniform(0.6, 1.4) + rng.random()))
        swing = ease if rng.random() < 0.6 else wave
        out[:, :2] += (swing - 0.5)[:, None] * reach
    if "zoom" in kinds:
        low, high = rng.permutation([rng.uniform(0.86, 0.95), rng.uniform(1.02, 1.12)])
        out[:, 2] = low + (high - low) * ease
    if "shake" in kinds:
        knots = np.arange(int(seconds * 6) + 3) / 6.0
        clock = np.arange(n) / RATE
        for k in range(2):
            out[:, k] += np.interp(clock, knots, rng.normal(0, rng.uniform(0.004, 0.01), len(knots)))
    return out


def silent_things(rng: np.random.Generator, seconds: float, floor: float, count: int) -> list[Body]:
    """Hollow bodies that drift, turn round in the air, cross each other or bounce on the floor, all without sound."""
    n = samples(seconds)
    t = np.arange(n) / RATE
    out = []
    for _ in range(count):
        size = rng.uniform(0.05, 0.085)
        turns = np.sort(rng.uniform(0, seconds, int(rng.integers(1, 3 + int(seconds) // 2))))
        knots = np.r_[-0.5, turns, seconds + 0.5]
        xs = rng.uniform(0.1, 0.9, len(knots))
        if rng.random() < 0.5:  # abrupt turns; otherwise smooth ones
            x = np.interp(t, knots, xs)
        else:
            x = 0.5 + 0.38 * np.sin(2 * np.pi * (t * rng.uniform(0.1, 0.4) + rng.random()))
        if rng.random() < 0.4:  # a soft ball that bounces on the floor and is not heard
            period, height = rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.4)
            phase = (t / period + rng.random()) % 1.0
            y = floor - size - height * 4 * phase * (1 - phase)
        elif rng.random() < 0.5:
            y = np.interp(t, knots, rng.uniform(0.1, floor - 0.25, len(knots)))
        else:
            y = rng.uniform(0.15, 0.4) + 0.07 * np.sin(2 * np.pi * t * rng.uniform(0.4, 1.5))
        shape = str(rng.choice(["ball", "box", "balloon"]))
        wide = (2 * size, 2 * size) if shape != "box" else (1.7 * size, 1.7 * size)
        out.append(Body(shape, wide, track(x, y, 0.2 * np.sin(t * rng.uniform(1, 4))), "silent"))
    return out


def hidden_share(body: Body, box: tuple[float, float, float, float]) -> float:
    """Share of a body's moving time that its centre spends inside ``box`` (x0, y0, x1, y1)."""
    if len(body.track) < 3:
        return 0.0
    path = body.track[np.isfinite(body.track[:, 0])]
    if len(path) < 3:
        return 0.0
    speed = np.hypot(*np.diff(path[:, :2], axis=0).T) * RATE
    moving = path[1:][speed > 0.02]
    if not len(moving):
        return 0.0
    inside = (moving[:, 0] > box[0]) & (moving[:, 0] < box[2]) & (moving[:, 1] > box[1]) & (moving[:, 1] < box[3])
    return float(inside.mean())


def occluder(rng: np.random.Generator, stage: Stage) -> Body | None:
    """A foreground panel over part of the paths; at least half of every mover's path stays visible."""
    movers = [b for b in stage.bodies if b.layer == 1 and b.look != "silent"]
    for _ in range(12):
        centre = stage.contacts[int(rng.integers(len(stage.contacts)))]
        wide, high = rng.uniform(0.12, 0.26), rng.uniform(0.15, 0.4)
        x = centre.x + rng.uniform(-0.1, 0.1)
        y = centre.y + rng.uniform(-0.12, 0.06)
        box = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        shares = [hidden_share(b, box) for b in movers]
        if max(shares) <= 0.5 and max(shares) > 0.02:
            return Body("panel", (wide, high), still(x, y), "panel", 2)
    return None


def mirrored(stage: Stage) -> Stage:
    """The same scene seen in a mirror (left and right exchanged)."""
    flip = np.array([-1.0, 1.0, -1.0])
    bodies = tuple(dataclasses.replace(b, track=b.track * flip + (1.0, 0.0, 0.0)) for b in stage.bodies)
    contacts = tuple(dataclasses.replace(c, x=1.0 - c.x) for c in stage.contacts)
    return dataclasses.replace(stage, bodies=bodies, contacts=contacts)
