"""Scenes whose contacts are planned first and whose movement is then solved to arrive there at the exact time.

hammer, sticks, drops, footsteps, scrape. All are functions (rng, seconds, material, several, pause) -> Stage.
"""

from __future__ import annotations

import numpy as np

from .foley_stage import RATE, Body, Contact, Stage, ground, samples, schedule, still, track

FAST = 4.5  # speed of a hammer or stick at 0 dB, picture heights per second


def _levels(rng: np.random.Generator, count: int) -> np.ndarray:
    """Levels in dB from -16 to 0, wandering."""
    return np.clip(rng.uniform(-10, -3) + rng.normal(0, 4.0, count), -16.0, 0.0)


def strokes(
    rng: np.random.Generator, seconds: float, times: np.ndarray, levels: np.ndarray, feint: bool
) -> tuple[np.ndarray, bool]:
    """Height above the struck face, (T,): 0 exactly at ``times``, reached with the speed that the level says.

    With ``feint`` long waits hold a swing that stops in the air. Returns also whether one was placed.
    """
    clock = np.arange(samples(seconds)) / RATE
    speed = FAST * 10 ** (levels / 20)
    gaps = np.diff(np.r_[times[0] - 10.0, times])
    top = 0.07 + 0.17 * (1 + levels / 20)
    down = np.minimum(2 * top / speed, 0.5 * gaps)
    top = np.minimum(speed * down / 2, 0.3)
    height = np.full(len(clock), 0.12)
    placed = False
    last, before = -10.0, 0.0
    for time, high, fall in zip(times, top, down):
        here = (clock >= last) & (clock < time)
        since, until = clock[here] - last, time - clock[here]
        up = min(0.3, time - last - fall)
        rise = np.minimum(since / up, 1.0)
        path = before + (high - before) * np.sin(0.5 * np.pi * rise)
        wait = time - last - up - fall
        start = max(last + up, 0.1) + 0.1
        if feint and time - fall - start > 0.47:
            begin = rng.uniform(start, time - fall - 0.45) - last
            dip = np.clip((since - begin) / 0.36, 0, 1)
            path = path - 0.62 * high * np.sin(np.pi * dip) ** 2
            placed = wait > 0
        falling = until < fall
        path[falling] = high * (1 - ((fall - until[falling]) / fall) ** 2)
        height[here] = path
        last = time
    rest = clock >= last
    height[rest] = 0.13 * np.sin(0.5 * np.pi * np.minimum((clock[rest] - last) / 0.35, 1.0))
    return height, placed


def hammer(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """A hammer (a paddle on water) swings about its grip onto a block, at irregular times."""
    times = schedule(rng, seconds, 0.24, pause)
    levels = _levels(rng, len(times))
    height, feint = strokes(rng, seconds, times, levels, rng.random() < 0.6)
    wet = material == "water"
    floor = rng.uniform(0.84, 0.9)
    wide, tall = rng.uniform(0.22, 0.42), rng.uniform(0.12, 0.26)
    if wet:
        tall = 0.12
    x, face = rng.uniform(0.3, 0.42), floor - tall
    head = (rng.uniform(0.09, 0.13), rng.uniform(0.09, 0.14)) if not wet else (0.16, 0.035)
    arm = rng.uniform(0.4, 0.5)
    lift = height / arm
    pivot = (x + arm, face - head[1] / 2)
    hx, hy = pivot[0] - arm * np.cos(lift), pivot[1] - arm * np.sin(lift)
    sx, sy = pivot[0] - arm / 2 * np.cos(lift), pivot[1] - arm / 2 * np.sin(lift)
    block = ground(face, "material") if wet else Body("box", (wide, tall), still(x, floor - tall / 2), "material", 0)
    size = float(np.clip((wide * tall - 0.03) / 0.07, 0, 1))
    bodies = [ground(floor), block, Body("rod", (arm, 0.028), track(sx, sy, lift), "tool")]
    bodies.append(Body("box", head, track(hx, hy, lift), "tool"))
    contacts = [Contact(float(t), float(v), x, face, size) for t, v in zip(times, levels)]
    return Stage(tuple(bodies), tuple(contacts), "paddle" if wet else "block", splash=wet, rings=wet, feint=feint)


def sticks(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """One stick per pad, one to three pads of different sizes (a larger pad sounds lower)."""
    count = int(rng.integers(2, 4)) if several else 1
    times = schedule(rng, seconds, 0.22 if count == 1 else 0.14, pause)
    owner = rng.integers(0, count, len(times))
    owner[: min(count, len(times))] = rng.permutation(count)[: len(times)]
    for k in range(1, len(times)):  # one stick needs time to come back
        if times[k] - times[k - 1] < 0.22 and owner[k] == owner[k - 1]:
            owner[k] = (owner[k] + 1) % count
    levels = _levels(rng, len(times))
    floor = rng.uniform(0.8, 0.9)
    wides = rng.uniform(0.13, 0.26, count) if count > 1 else rng.uniform(0.16, 0.36, 1)
    edges = np.cumsum(np.r_[0, wides + 0.05])
    left = (1.0 - edges[-1]) / 2 - 0.04
    bodies, contacts, feint = [ground(floor)], [], False
    wish = rng.random() < 0.6
    for k in range(count):
        mine = owner == k
        wide, tall = wides[k], 0.08 + 0.5 * wides[k]
        x, face = left + edges[k] + wide / 2, floor - tall
        bodies.append(Body("box", (wide, tall), still(x, floor - tall / 2), "material", 0))
        if not mine.any():
            continue
        height, placed = strokes(rng, seconds, times[mine], levels[mine], wish)
        feint |= placed
        long, lean = rng.uniform(0.26, 0.32), rng.uniform(0.25, 0.5)
        angle = height / long - lean
        pivot = (x + long * np.cos(lean), face - 0.014 - long * np.sin(lean))
        px, py = pivot[0] - long / 2 * np.cos(angle), pivot[1] - long / 2 * np.sin(angle)
        bodies.append(Body("rod", (long, 0.026), track(px, py, angle), "tool"))
        tip = track(pivot[0] - long * np.cos(angle), pivot[1] - long * np.sin(angle), angle)
        bodies.append(Body("ball", (0.045, 0.045), tip, "tool"))
        size = float(np.clip((wide - 0.13) / 0.15, 0, 1))
        contacts += [Contact(float(t), float(v), x, face, size) for t, v in zip(times[mine], levels[mine])]
    contacts.sort(key=lambda c: c.time)
    return Stage(tuple(bodies), tuple(contacts), "pads" if count > 1 else "pad", count > 1, feint=feint)


def drops(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """Drops (stones, if several, into water) fall onto a puddle or onto plates."""
    times = schedule(rng, seconds, 0.13, pause)
    levels = _levels(rng, len(times))
    count = int(rng.integers(2, 4)) if several else 1
    wet = material == "water"
    floor = rng.uniform(0.8, 0.9)
    gravity = rng.uniform(3.0, 6.0)
    clock = np.arange(samples(seconds)) / RATE
    wide = np.sort(rng.uniform(0.18, 0.27, count)) if count > 1 else rng.uniform(0.3, 0.6, 1)
    lefts = (1.0 - wide.sum() - 0.04 * (count - 1)) / 2 + np.r_[0, np.cumsum(wide + 0.04)[:-1]]
    thick = 0.05
    face = floor if wet else floor - thick
    bodies = [ground(floor, "material", 2) if wet else ground(floor)]
    if not wet:
        middles = zip(lefts + wide / 2, wide)
        bodies += [Body("box", (w, thick), still(x, face + thick / 2), "material", 0) for x, w in middles]
    contacts = []
    for time, level in zip(times, levels):
        k = int(rng.integers(count))
        x = lefts[k] + wide[k] * rng.uniform(0.15, 0.85)
        half = 0.02 + 0.018 * (1 + level / 20)
        fall = time - clock
        drop = -0.3 - half  # starts above every picture
        speed = (face - drop - half * 1.3 - 0.5 * gravity * 0.36) / 0.6
        y = np.where(fall >= 0, face - half * 1.3 - (speed + gravity * 0.6) * fall + 0.5 * gravity * fall**2, np.nan)
        y[(fall > 0.6) | (fall < 0)] = np.nan
        bodies.append(Body("drop", (2 * half, 2.6 * half), track(x, y), "drop"))
        width = k / (count - 1) if count > 1 else 0.4  # plates are sorted by width
        size = float(np.clip(0.25 + 0.35 * (1 + level / 20) + 0.4 * width, 0, 1))
        contacts.append(Contact(float(time), float(level), x, face, size))
    return Stage(tuple(bodies), tuple(contacts), "pool" if wet else "plate", count > 1, splash=True, rings=wet)


def _limb(x0, y0, x1, y1, wide: float, length: float) -> Body:
    """A rod of fixed ``length`` between two moving points that are about that far apart."""
    return Body("rod", (length, wide), track((x0 + x1) / 2, (y0 + y1) / 2, np.arctan2(y1 - y0, x1 - x0)), "tool")


def _walker(rng, seconds, times, levels, span, floor, tall) -> tuple[list[Body], list[tuple[float, float]]]:
    """A figure ``tall`` high whose feet land at ``times`` inside ``span``; bodies and landing places."""
    clock = np.arange(samples(seconds)) / RATE
    stride = rng.uniform(0.2, 0.28) * tall
    x, way = rng.uniform(*span), int(rng.choice([-1, 1]))
    spots, ways = [], []
    for _ in times:
        if not span[0] < x + way * stride < span[1]:
            way = -way
        x += way * stride
        spots.append(x)
        ways.append(way)
    start = spots[0] - ways[0] * stride
    feet_x, feet_y = [], []
    gaps = np.diff(np.r_[times[0] - 0.5, times])
    for foot in range(2):
        fx, fy = np.full(len(clock), start), np.full(len(clock), floor)
        where = start
        for k in range(foot, len(times), 2):
            swing = min(0.38, 0.85 * gaps[k])
            s = np.clip((clock - times[k] + swing) / swing, 0, 1)
            high = 0.16 * tall * (0.6 + 0.4 * (1 + levels[k] / 20))
            fx += (spots[k] - where) * (1 - (1 - s) ** 1.5)
            # up in the first part, straight down at the end: the foot meets the floor with speed
            fy -= high * np.where(s < 0.6, np.sin(0.5 * np.pi * s / 0.6), 1 - ((s - 0.6) / 0.4) ** 2)
            where = spots[k]
        feet_x.append(fx)
        feet_y.append(fy)
    hip_x = (feet_x[0] + feet_x[1]) / 2
    hip_y = floor - 0.46 * tall + 0.02 * tall * np.sin(np.pi * np.abs(feet_x[0] - feet_x[1]) / stride)
    facing = np.sign(np.interp(clock, times, ways) + 1e-9)
    bone = 0.25 * tall
    bodies = []
    for fx, fy in zip(feet_x, feet_y):
        dx, dy = fx - hip_x, fy - 0.03 * tall - hip_y
        far = np.clip(np.hypot(dx, dy), 0.02, 2 * bone * 0.999)
        bend = np.sqrt(bone**2 - (far / 2) ** 2)
        unit = np.hypot(dx, dy) + 1e-9
        kx, ky = hip_x + dx / 2 + facing * bend * dy / unit, hip_y + dy / 2 - facing * bend * dx / unit
        bodies.append(_limb(hip_x, hip_y, kx, ky, 0.085 * tall, bone * 1.1))
        bodies.append(_limb(kx, ky, fx, fy - 0.03 * tall, 0.07 * tall, bone * 1.1))
        sole = track(fx + facing * 0.03 * tall, fy - 0.03 * tall)
        bodies.append(Body("box", (0.15 * tall, 0.06 * tall), sole, "tool"))
    chest = hip_y - 0.17 * tall
    bodies.append(Body("box", (0.16 * tall, 0.36 * tall), track(hip_x, chest, 0.06 * facing), "tool"))
    bodies.append(Body("ball", (0.17 * tall, 0.17 * tall), track(hip_x + 0.02 * facing, hip_y - 0.45 * tall), "tool"))
    return bodies, [(s, floor) for s in spots]


def footsteps(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """One or two figures walk to and fro; the floor is what sounds."""
    count = 2 if several else 1
    times = schedule(rng, seconds, 0.3 if count == 1 else 0.16, pause, rate=rng.uniform(1.3, 2.4))
    levels = _levels(rng, len(times))
    floor = rng.uniform(0.82, 0.9)
    wet = material == "water"
    bodies = [ground(floor, "material")]
    contacts: list[Contact] = []
    spans = [(0.14, 0.86)] if count == 1 else [(0.1, 0.44), (0.56, 0.9)]
    for k in range(count):
        mine = np.arange(len(times)) % count == k
        if not mine.any():
            continue
        tall = rng.uniform(0.42, 0.62)
        figure, spots = _walker(rng, seconds, times[mine], levels[mine], spans[k], floor, tall)
        bodies += figure
        size = float(np.clip((tall - 0.38) / 0.28, 0, 1))
        contacts += [Contact(float(t), float(v), x, y, size) for t, v, (x, y) in zip(times[mine], levels[mine], spots)]
    contacts.sort(key=lambda c: c.time)
    return Stage(
        tuple(bodies), tuple(contacts), "figure" if count == 1 else "figures", count > 1, splash=wet, rings=wet
    )


def scrape(rng: np.random.Generator, seconds: float, material: str, several: bool, pause: bool) -> Stage:
    """A box is pushed, or a ball rolled, over a rough floor with pauses; the sound's level follows the speed."""
    clock = np.arange(samples(seconds)) / RATE
    rolling = rng.random() < 0.35
    half = rng.uniform(0.06, 0.11)
    floor = rng.uniform(0.8, 0.88)
    starts = schedule(rng, seconds - 0.3, 0.65, pause, rate=rng.uniform(0.7, 1.1))
    levels = _levels(rng, len(starts))
    ends = np.r_[starts[1:], seconds + 0.2] - 0.3
    x, contacts = rng.uniform(0.25, 0.75), []
    xs, speed = np.full(len(clock), x), np.zeros(len(clock))
    push = np.zeros(len(clock))
    for start, end, level in zip(starts, ends, levels):
        length = min(rng.uniform(0.3, 1.4), end - start)
        rush = 0.9 * 10 ** (level / 20)
        shape = np.clip((clock - start) / 0.04, 0, 1) * np.clip((start + length - clock) / 0.1, 0, 1)
        shape *= 1 + 0.25 * np.sin(2 * np.pi * rng.uniform(1.5, 4) * (clock - start))
        walk = np.cumsum(shape) / RATE
        way = 1 if x < 0.5 else -1
        rush = min(rush, (0.84 - x if way > 0 else x - 0.16) / walk[-1])
        speed = np.maximum(speed, shape * rush)
        xs = xs + way * walk * rush
        x = x + way * walk[-1] * rush
        push[(clock >= start - 0.25)] = way
        contacts.append(Contact(float(start), float(20 * np.log10(rush / 0.9)), float(x - way * walk[-1] * rush), floor,
                                float(np.clip((half - 0.06) / 0.05, 0, 1)), "scrape", float(length)))  # fmt: skip
    y = floor - half
    angle = (xs - xs[0]) / half if rolling else 0.0
    size = (2 * half, 2 * half)
    bodies = [ground(floor, "material"), Body("ball" if rolling else "box", size, track(xs, y, angle))]
    if not rolling:  # a rod that pushes from behind
        smooth = np.convolve(np.pad(push, 12, mode="edge"), np.ones(25) / 25, "valid")
        behind = track(xs - smooth * (half + 0.1), y - (1 - np.abs(smooth)) * (half + 0.1))
        bodies.append(Body("rod", (0.2, 0.03), behind, "tool"))
    keep = [c for c in contacts if c.level >= -20]
    noun = "ball" if rolling else "box"
    return Stage(tuple(bodies), tuple(keep), noun, speed=np.clip(speed / 0.9, 0, 1))
