"""Pictures of the foley scenes: every body is painted once as a sprite and placed in each frame at subpixel precision.

Looks: the sounding material (or neutral grey when the picture must not tell it), tools, ground, hollow outlines for
everything that never sounds, a striped panel in front for the occluder.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from .foley_looks import Palette, material_fill, palette
from .foley_stage import RATE, Body, Stage, see

FINE = 3  # sprites are painted this many times finer than they are kept
BIG = 2.6  # widest and highest sprite kept, in picture heights


def _mask(shape: str, wide: float, high: float, scale: float, pad: int) -> np.ndarray:
    """Coverage in [0, 1] of a shape, ``scale`` pixels per unit, ``pad`` pixels of margin."""
    w, h = max(int(np.ceil(wide * scale)), 1) + 2 * pad, max(int(np.ceil(high * scale)), 1) + 2 * pad
    big = np.zeros((h * FINE, w * FINE), np.uint8)
    cx, cy, rx, ry = w * FINE / 2, h * FINE / 2, wide * scale * FINE / 2, high * scale * FINE / 2
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if shape in ("ball", "balloon"):
        points = np.stack([cx + rx * np.cos(turn), cy + ry * np.sin(turn)], -1)
        if shape == "balloon":
            points = points * (0.8, 0.85) + (0.2 * cx, 0.05 * cy)
            tail = np.array([[cx, cy + 0.6 * ry], [cx - 0.18 * rx, cy + ry], [cx + 0.18 * rx, cy + ry]])
            cv2.fillPoly(big, [np.round(tail).astype(np.int32)], 255)
    elif shape == "drop":
        narrow = np.where(np.sin(turn) < 0, 1 + np.sin(turn) * 0.9, 1.0)
        points = np.stack([cx + rx * np.cos(turn) * narrow, cy + ry * np.sin(turn)], -1)
    elif shape == "rod":
        r = min(rx, ry)
        ends = np.where(np.cos(turn) > 0, cx + rx - r, cx - rx + r)
        points = np.stack([ends + r * np.cos(turn), cy + r * np.sin(turn)], -1)
    else:
        points = np.array([[cx - rx, cy - ry], [cx + rx, cy - ry], [cx + rx, cy + ry], [cx - rx, cy + ry]])
    cv2.fillPoly(big, [np.round(points).astype(np.int32)], 255)
    return cv2.resize(big, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _sprite(body: Body, look: str, colours: Palette, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Premultiplied RGBA (h, w, 4) float32 in [0, 255] (alpha in [0, 1]), centre at the array's centre."""
    wide, high = min(body.size[0], BIG), min(body.size[1], BIG)
    pad = 2
    cover = _mask(body.shape, wide, high, scale, pad)
    h, w = cover.shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = (x - w / 2) / scale + 3.0 * rng.random(), (y - pad) / scale
    line = max(0.011 * scale, 1.0)
    flat = np.ones((h, w, 1), np.float32)
    if look == "silent":
        fill, alpha, edge, factor = colours.ghost * flat, 0.0, colours.ghost, 1.5
    elif look == "panel":
        stripe = 0.5 + 0.5 * np.sign(np.sin((x + y) * 70))
        fill, alpha = colours.ground * (0.75 + 0.25 * stripe[..., None]), 1.0
        edge, factor = colours.line, 1.2
    elif look == "tool":
        fill, alpha, edge, factor = colours.tool * flat, 1.0, colours.tool * 0.6 + colours.line * 0.4, 0.8
    elif look == "ground":
        fill, alpha, edge, factor = colours.ground * flat, 1.0, colours.ground * 0.6 + colours.line * 0.2, 1.0
    else:
        fill, alpha, edge, factor = material_fill(look, colours, x, y, rng)
    width = int(max(round(2 * line * factor) + 1, 3))
    inner = cv2.erode(cover, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))[..., None]
    cover = cover[..., None]
    alpha = cover * (inner * alpha + (1 - inner))
    colour = (fill * inner + edge * (1 - inner)).clip(0, 1)
    return np.concatenate([colour * alpha * 255, alpha], -1).astype(np.float32)


def _background(colours: Palette, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) float32 in [0, 255]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    if colours.pattern == "down":
        mix = y
    elif colours.pattern == "across":
        mix = x / x.max()
    elif colours.pattern == "tiles":
        mix = ((np.floor(x * 7) + np.floor(y * 7)) % 2) * 0.5
    elif colours.pattern == "stripes":
        mix = 0.5 * (np.sin(x * 28) > 0)
    else:
        rough = rng.random((9, 13)).astype(np.float32)
        mix = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    first, second = colours.back
    return ((first + (second - first) * mix[..., None]).clip(0, 1) * 255).astype(np.float32)


def _place(sprite: np.ndarray, x: float, y: float, angle: float, factor: float) -> np.ndarray:
    """Matrix that puts a sprite's centre at pixel (x, y), turned by ``angle`` and scaled by ``factor``.

    Pixel centres are at whole numbers in OpenCV, so the sprite's centre is at (w - 1) / 2 and the target is x - 0.5.
    """
    c, s = math.cos(angle) * factor, math.sin(angle) * factor
    cx, cy = (sprite.shape[1] - 1) / 2, (sprite.shape[0] - 1) / 2
    return np.array([[c, -s, x - 0.5 - c * cx + s * cy], [s, c, y - 0.5 - s * cx - c * cy]])


def _paste(image: np.ndarray, sprite: np.ndarray, x: float, y: float, angle: float, factor: float) -> None:
    """Blend a sprite into a float32 image, its centre at pixel (x, y); only the pixels it may touch are visited."""
    c, s = abs(math.cos(angle)) * factor / 2, abs(math.sin(angle)) * factor / 2
    half_x, half_y = c * sprite.shape[1] + s * sprite.shape[0] + 1, s * sprite.shape[1] + c * sprite.shape[0] + 1
    x0, x1 = max(int(x - half_x), 0), min(int(x + half_x) + 1, image.shape[1])
    y0, y1 = max(int(y - half_y), 0), min(int(y + half_y) + 1, image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    patch = cv2.warpAffine(sprite, _place(sprite, x - x0, y - y0, angle, factor), (x1 - x0, y1 - y0))
    region = image[y0:y1, x0:x1]
    region *= 1.0 - patch[..., 3:]
    region += patch[..., :3]


def _splashes(image: np.ndarray, stage: Stage, time: float, view, colour: np.ndarray, seed: int) -> None:
    """Rings and flying droplets after each wet contact; ``view``: pixel of the world's centre, pixels per unit."""
    for k, contact in enumerate(stage.contacts):
        age = time - contact.time
        if not 0.0 <= age < 0.7:
            continue
        x, y, scale = view[0] + (contact.x - 0.5) * view[2], view[1] + (contact.y - 0.5) * view[2], view[2]
        force = 0.5 + 0.5 * max(0.0, 1 + contact.level / 20)
        small = image.clip(0, 255).astype(np.uint8)  # OpenCV draws smooth lines on 8 bits only
        thick = max(1, round(scale * 0.01))
        for delay in (0.0, 0.16) if stage.rings else ():
            if age > delay:
                reach = (0.02 + 0.17 * force * (age - delay) / 0.7) * scale
                tint = tuple(float(v) for v in colour * (1.0 - 0.35 * (age - delay) / 0.7))
                axes = (int(reach * 8), int(max(reach * 0.22, 0.7) * 8))
                centre = (int(x * 8), int((y + 0.012 * scale) * 8))
                cv2.ellipse(small, centre, axes, 0, 0, 360, tint, thick, cv2.LINE_AA, 3)
        toss = np.random.default_rng((seed, k))
        for _ in range(5):
            vx, vy = toss.uniform(-0.3, 0.3) * force, -toss.uniform(0.4, 0.9) * force
            px, py = x + vx * age * scale, y + (vy * age + 2.2 * age * age) * scale
            if py < y and age < 0.4:
                size = int(max(0.008 * scale, 0.8) * 8)
                cv2.circle(small, (int(px * 8), int(py * 8)), size, tuple(map(float, colour)), -1, cv2.LINE_AA, 3)
        image[:] = small


def _still_layer(still, looks, colours, height, width, reach, finer, scale, rng) -> np.ndarray:
    """Background and still bodies, ``reach`` pixels beyond the picture on each side, ``finer`` times finer."""
    h, w = int((height + 2 * reach) * finer), int((width + 2 * reach) * finer)
    image = _background(colours, h, w, rng)
    for body in still:
        sprite = _sprite(body, looks(body), colours, scale * finer, rng)
        x, y, angle = body.track[0]
        px = (width / 2 + (x - 0.5) * scale + reach) * finer
        py = (height / 2 + (y - 0.5) * scale + reach) * finer
        if body.size[0] > BIG:  # a floor wider than its sprite: stretch it sideways
            sprite = cv2.copyMakeBorder(sprite[:, 6:-6], 0, 0, w, w, cv2.BORDER_REFLECT_101)
        _paste(image, sprite, px, py, angle, 1.0)
    return image


@dataclasses.dataclass(frozen=True)
class _Mover:
    """A sprite and where its centre is in each frame (pixels, radians, scale)."""

    sprite: np.ndarray
    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    factor: np.ndarray

    def paste(self, image: np.ndarray, frame: int) -> None:
        if math.isfinite(self.y[frame]):
            _paste(image, self.sprite, self.x[frame], self.y[frame], self.angle[frame], self.factor[frame])


def _mover(body: Body, sprite: np.ndarray, stage: Stage, times: np.ndarray, centre, scale, view, finer) -> _Mover:
    """Read a body's track at the frame times and through the camera."""
    clock = np.arange(len(body.track)) / RATE
    x, y, angle = (np.interp(times, clock, column) for column in body.track.T)
    x, y = see(stage.camera, times, x, y)
    return _Mover(sprite, centre[0] + (x - 0.5) * scale, centre[1] + (y - 0.5) * scale, angle, view / finer)


def draw(
    stage: Stage, look: str, seconds: float, height: int, width: int, fps: float, seed: tuple[int, ...]
) -> np.ndarray:
    """All frames, (N, height, width, 3) uint8 RGB. ``look``: material shown by the picture, or 'neutral'."""
    rng = np.random.default_rng(seed)
    colours = palette(rng)
    count, scale, centre = round(seconds * fps), float(min(height, width)), (width / 2, height / 2)
    times = np.arange(count) / fps
    camera, moved = stage.camera, stage.camera is not None

    def looks(body: Body) -> str:
        if body.look == "drop":
            return "water" if look == "water" else "tool"
        return look if body.look == "material" else body.look

    finer, reach = (1.25, int(0.2 * scale)) if moved else (1.0, 0)
    still = [b for b in stage.bodies if b.layer == 0]
    base = _still_layer(still, looks, colours, height, width, reach, finer, scale, rng)
    view = np.ones(count) if camera is None else np.interp(times, np.arange(len(camera)) / RATE, camera[:, 2])

    def movers(bodies: list[Body]) -> list[_Mover]:
        sprites = [_sprite(b, looks(b), colours, scale * 1.5, rng) for b in bodies]
        return [_mover(b, s, stage, times, centre, scale, view, 1.5) for b, s in zip(bodies, sprites)]

    behind = movers([b for b in stage.bodies if b.layer == 1])
    behind += movers([b for b in stage.bodies if b.layer == 2 and b.look != "panel"])
    front = movers([b for b in stage.bodies if b.look == "panel"])  # hides the splashes too
    left, top = see(camera, times, np.full(count, 0.5), np.full(count, 0.5))
    left, top = centre[0] + (left - 0.5) * scale, centre[1] + (top - 0.5) * scale
    grain = rng.normal(0, colours.noise, (height + 32, width + 32, 3)).astype(np.float32)
    corners = rng.integers(0, 32, (count, 2))
    wet = np.array([205, 232, 255.0]) if look == "water" else colours.line * 110 + 90.0
    out, image = np.empty((count, height, width, 3), np.uint8), base
    for i in range(count):
        if moved:
            matrix = _place(base, left[i], top[i], 0.0, view[i] / finer)
            image = cv2.warpAffine(base, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        else:
            image = base.copy()
        for mover in behind:
            mover.paste(image, i)
        if stage.splash:
            _splashes(image, stage, times[i], (left[i], top[i], scale * view[i]), wet, int(seed[-2]))
        for mover in front:
            mover.paste(image, i)
        a, b = corners[i]
        image += grain[a : a + height, b : b + width]
        out[i] = image.clip(0, 255)
    return out
