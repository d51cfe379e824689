"""Scenes with simulated physics (pymunk, 1/400 s steps): bounce, tumble, knock. Contacts come from the solver."""

from __future__ import annotations

import numpy as np
import pymunk

from .foley_stage import RATE, Body, Contact, Stage, audible, ground, samples, still, track

STEPS = 2  # physics steps per track sample, so one step is 1/400 s
HARD = 2.6  # contact speed (picture heights per second) of a hit at 0 dB


class _World:
    """A pymunk space that records tracks and contacts."""

    def __init__(self, gravity: float) -> None:
        self.space = pymunk.Space()
        self.space.gravity = (0.0, gravity)
        self.space.iterations = 12
        self.space.collision_slop = 2e-4
        self.space.sleep_time_threshold = 0.3
        self.space.idle_speed_threshold = 0.02
        self.now = 0.0
        self.hits: list[tuple[float, float, float, float, float]] = []
        self.space.on_collision(1, 1, post_solve=self._touched)
        self.space.on_collision(1, 2, post_solve=self._touched)

    def _touched(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        """Note every impulse far above what resting needs (a rocking box knocks without ever leaving the floor)."""
        a, b = arbiter.shapes
        bodies = arbiter.bodies
        mass = min(body.mass for body in bodies if body.body_type == pymunk.Body.DYNAMIC)
        speed = arbiter.total_impulse.length / mass
        if speed > 0.12:
            point = arbiter.contact_point_set.points[0].point_a
            sounding = [s.tone for s in (a, b) if s.tone is not None]
            self.hits.append((self.now, speed, point.x, point.y, min(sounding, default=0.5)))

    def wall(self, centre, size, angle=0.0, tone=None, elasticity=1.0, friction=0.6) -> None:
        """A still box; ``tone`` is its size in [0, 1] if it carries the sounding material."""
        body = pymunk.Body(body_type=pymunk.Body.STATIC)
        body.position, body.angle = centre, angle
        shape = pymunk.Poly.create_box(body, size)
        shape.elasticity, shape.friction, shape.collision_type, shape.tone = elasticity, friction, 2, tone
        self.space.add(body, shape)

    def thing(self, kind, half, position, velocity=(0.0, 0.0), spin=0.0, elasticity=0.6, tone=None) -> pymunk.Body:
        """A falling ball or box of half-width ``half``."""
        mass = 100.0 * half * half
        if kind == "ball":
            body = pymunk.Body(mass, pymunk.moment_for_circle(mass, 0, half))
            shape: pymunk.Shape = pymunk.Circle(body, half)
        else:
            body = pymunk.Body(mass, pymunk.moment_for_box(mass, (2 * half, 2 * half)))
            shape = pymunk.Poly.create_box(body, (2 * half, 2 * half))
        body.position, body.velocity, body.angular_velocity = position, velocity, spin
        shape.elasticity, shape.friction, shape.collision_type, shape.tone = elasticity, 0.5, 1, tone
        self.space.add(body, shape)
        return body

    def run(self, seconds: float, cast: list[tuple[float, dict]]) -> list[np.ndarray]:
        """Let each (time, arguments of ``thing``) enter at its time; return one track per entry."""
        n = samples(seconds)
        tracks = [np.full((n, 3), np.nan) for _ in cast]
        bodies: list[pymunk.Body | None] = [None] * len(cast)
        for i in range(n):
            self.now = i / RATE
            for k, (time, what) in enumerate(cast):
                if bodies[k] is None and self.now >= time:
                    bodies[k] = self.thing(**what)
                body = bodies[k]
                if body is not None:
                    p = body.position
                    tracks[k][i] = p.x, p.y, body.angle
            for s in range(STEPS):
                self.now = i / RATE + s / (RATE * STEPS)
                self.space.step(1.0 / (RATE * STEPS))
        return tracks

    def contacts(self, seconds: float) -> list[Contact]:
        """The audible contacts; an impact that the solver spreads over a few steps counts with its strongest one."""
        found = []
        for time, _, x, y, tone in self.hits:
            speed = max(v for t, v, *_ in self.hits if time <= t < time + 0.01)
            found.append(Contact(time, min(20 * np.log10(speed / HARD), 0.0), x, y, tone))
        return audible(found, seconds)


def _tone(half: float) -> float:
    return float(np.clip((half - 0.04) / 0.06, 0.0, 1.0))


def bounce(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """Balls or boxes fall from above and bounce between two walls; a drum (skin) is always the floor."""
    floor = rng.uniform(0.78, 0.88)
    gravity = rng.uniform(3.0, 5.0)
    world = _World(gravity)
    on_drum = material == "skin" or rng.random() < 0.3
    world.wall((0.5, floor + 0.3), (5.0, 0.6), tone=0.5 if on_drum else None)
    for x in (-0.08, 1.08):
        world.wall((x, floor - 0.4), (0.22, 1.8), tone=None, elasticity=0.8)
    count = int(rng.integers(2, 4)) if several else 1
    late = rng.uniform(1.6, 0.45 * seconds) if pause and seconds > 4 else 0.0
    starts = np.sort(np.r_[0.0, rng.uniform(0.2, max(0.6 * (seconds - late), 0.4), count - 1)]) + late
    lanes = rng.permutation(count)
    cast: list[dict] = []
    looks = []
    for k in range(count):
        kind = "box" if rng.random() < 0.25 and not on_drum else "ball"
        half = rng.uniform(0.045, 0.095) * (0.85 if kind == "box" else 1.0)
        fall = np.sqrt(2 * (floor + 0.25) / gravity)
        lasts = max((seconds - starts[k]) * rng.uniform(0.6, 1.0) / fall, 1.5)
        lively = 0.6 if kind == "box" else float(np.clip((lasts - 1) / (lasts + 1), 0.55, 0.88))
        x0, x1 = rng.uniform(0.15, 0.85, 2)
        spin = rng.uniform(-4, 4)
        if on_drum:  # each in its own lane: only the floor may be struck, because only the floor sounds
            x0 = x1 = (lanes[k] + rng.uniform(0.35, 0.65)) / count
            spin = 0.0
        cast.append(
            {
                "kind": kind,
                "half": half,
                "position": (x0, -0.25 - half),
                "velocity": ((x1 - x0) / seconds, 0.3),
                "spin": spin,
                "elasticity": lively,
                "tone": _tone(half),
            }
        )
        looks.append((kind, half))
    tracks = world.run(seconds, list(zip(starts, cast)))
    role = "tool" if on_drum else "material"
    bodies = [ground(floor, "material" if on_drum else "ground")]
    for x in (-0.08, 1.08):
        bodies.append(Body("box", (0.22, 1.8), still(x, floor - 0.4), "ground", 0))
    bodies += [Body(kind, (2 * h, 2 * h), tr, role) for (kind, h), tr in zip(looks, tracks)]
    noun = looks[0][0] if count == 1 else "ball" if all(k == "ball" for k, _ in looks) else "object"
    return Stage(tuple(bodies), tuple(world.contacts(seconds)), noun, count > 1, struck=on_drum)


def _stairs(rng: np.random.Generator) -> tuple[list[tuple], tuple[float, float], tuple[float, float]]:
    """Boxes (centre, size, angle) of a staircase down to the right, a start and its velocity."""
    steps = int(rng.integers(3, 6))
    top, bottom = rng.uniform(0.32, 0.42), 0.88
    wide, drop = 0.72 / steps, (bottom - top) / steps
    boxes = [((0.5, bottom + 0.3), (5.0, 0.6), 0.0)]
    boxes.append(((-0.5, (top + 1.5) / 2), (1.24, 1.5 - top), 0.0))
    for k in range(steps):
        x0, y0 = 0.12 + k * wide - 0.02, top + k * drop
        boxes.append(((x0 + wide / 2, (y0 + 1.5) / 2), (wide + 0.002, 1.5 - y0), 0.0))
    boxes.append(((1.07, 0.6), (0.2, 1.2), 0.0))
    return boxes, (0.12, top - rng.uniform(0.4, 0.5)), (rng.uniform(0.25, 0.5), 0.0)


def _ramps(rng: np.random.Generator) -> tuple[list[tuple], tuple[float, float], tuple[float, float]]:
    """Shelves that lean left and right by turns."""
    count = int(rng.integers(2, 4))
    boxes = [((0.5, 1.2), (5.0, 0.6), 0.0), ((-0.07, 0.6), (0.2, 2.2), 0.0), ((1.07, 0.6), (0.2, 2.2), 0.0)]
    for k in range(count):
        tilt = rng.uniform(0.16, 0.3) * (1 if k % 2 == 0 else -1)
        x = 0.36 if k % 2 == 0 else 0.64
        boxes.append(((x, 0.24 + k * 0.55 / count), (0.56, 0.03), tilt))
    return boxes, (rng.uniform(0.15, 0.3), -0.3), (0.1, 0.0)


def tumble(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """Things come down stairs or from shelf to shelf."""
    on_stairs = rng.random() < 0.6
    boxes, start, velocity = (_stairs if on_stairs else _ramps)(rng)
    world = _World(rng.uniform(2.5, 4.5))
    for centre, size, angle in boxes:
        world.wall(centre, size, angle, friction=0.35, elasticity=1.0)
    count = int(rng.integers(2, 4)) if several else 1
    late = rng.uniform(1.6, 0.45 * seconds) if pause and seconds > 4 else 0.0
    starts = np.sort(np.r_[0.0, rng.uniform(0.4, max(0.65 * (seconds - late), 0.6), count - 1)]) + late
    cast: list[dict] = []
    looks = []
    for _ in range(count):
        kind = "box" if on_stairs and rng.random() < 0.35 else "ball"
        half = rng.uniform(0.035, 0.065)
        cast.append(
            {
                "kind": kind,
                "half": half,
                "position": start,
                "velocity": velocity,
                "spin": rng.uniform(0, 5),
                "elasticity": rng.uniform(0.45, 0.75),
                "tone": _tone(half * 1.45),
            }
        )
        looks.append((kind, half))
    tracks = world.run(seconds, list(zip(starts, cast)))
    bodies = [Body("slab" if s[0] > 2 else "box", s, still(c[0], c[1], a), "ground", 0) for c, s, a in boxes]
    bodies += [Body(kind, (2 * h, 2 * h), tr) for (kind, h), tr in zip(looks, tracks)]
    noun = f"{looks[0][0] if count == 1 else 'thing'} {'stairs' if on_stairs else 'ramps'}"
    return Stage(tuple(bodies), tuple(world.contacts(seconds)), noun, count > 1)


def _hang(world: _World, body: pymunk.Body, pivot: tuple[float, float]) -> None:
    world.space.add(pymunk.PinJoint(world.space.static_body, body, pivot, (0, 0)))


def _rope(tr: np.ndarray, pivot: tuple[float, float], length: float) -> Body:
    """The string from ``pivot`` to a bob's track."""
    dx, dy = tr[:, 0] - pivot[0], tr[:, 1] - pivot[1]
    return Body("rod", (length, 0.012), track(pivot[0] + dx / 2, pivot[1] + dy / 2, np.arctan2(dy, dx)), "tool")


def knock(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """A pendulum strikes a block (two blocks if several), or hanging balls strike each other."""
    world = _World(rng.uniform(5.0, 8.0))
    world.space.sleep_time_threshold = float("inf")
    cradle = material != "skin" and rng.random() < 0.35
    centres = [0.5] if cradle or not several else [0.24, 0.76]
    bodies = [ground(0.88), Body("box", (0.9, 0.03), still(0.5, 0.1), "tool", 0)]
    ropes, nouns = [], "balls" if cradle else "block"
    for centre in centres:
        narrow = len(centres) > 1
        length = rng.uniform(0.42, 0.55) * (0.8 if narrow else 1.0)
        bob = rng.uniform(0.045, 0.07)
        lively = rng.uniform(0.82, 0.95)
        reach = rng.uniform(0.55, 0.95) if narrow else rng.uniform(0.6, 1.15)
        if cradle:
            spots = [(centre + (k - 0.5) * 2.02 * bob, 0.0) for k in range(int(rng.integers(2, 4)))]
            spots[0] = (spots[0][0], reach)
        else:
            high, wide = rng.uniform(0.22, 0.36), rng.uniform(0.12, 0.2) * (0.8 if narrow else 1.0)
            side = centre + 0.01 + wide / 2
            world.wall((side, 0.88 - high / 2 - 0.0), (wide, high), tone=_tone(0.04 + 0.06 * (high - 0.22) / 0.14))
            bodies.append(Body("box", (wide, high), still(side, 0.88 - high / 2), "material", 0))
            length = 0.88 - rng.uniform(0.55, 0.85) * high - 0.115
            spots = [(centre - bob + 0.008, reach)]
        for x, lift in spots:
            pivot = (x, 0.115)
            place = (x - length * np.sin(lift), 0.115 + length * np.cos(lift))
            tone = _tone(bob * 1.35) if cradle else None
            body = world.thing("ball", bob, place, elasticity=lively**0.5 if cradle else lively, tone=tone)
            _hang(world, body, pivot)
            ropes.append((body, pivot, length, bob))
    tracks = _record(world, seconds, [r[0] for r in ropes])
    for tr, (_, pivot, length, bob) in zip(tracks, ropes):
        bodies.append(_rope(tr, pivot, length))
        bodies.append(Body("ball", (2 * bob, 2 * bob), tr, "material" if cradle else "tool"))
    return Stage(tuple(bodies), tuple(world.contacts(seconds)), nouns, len(centres) > 1)


def _record(world: _World, seconds: float, bodies: list[pymunk.Body]) -> list[np.ndarray]:
    """Run a world whose bodies are there from the start."""
    n = samples(seconds)
    out = [np.zeros((n, 3)) for _ in bodies]
    for i in range(n):
        for tr, body in zip(out, bodies):
            tr[i] = body.position.x, body.position.y, body.angle
        for s in range(STEPS):
            world.now = i / RATE + s / (RATE * STEPS)
            world.space.step(1.0 / (RATE * STEPS))
    return out
