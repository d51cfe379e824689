"""Colours of the foley scenes: one palette per clip, and how each material looks."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of one clip, RGB in [0, 1]."""

    back: tuple[np.ndarray, np.ndarray]
    pattern: str
    ground: np.ndarray
    tool: np.ndarray
    line: np.ndarray
    ghost: np.ndarray
    neutral: np.ndarray
    plastic: np.ndarray
    shift: float
    noise: float


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def palette(rng: np.random.Generator) -> Palette:
    """Light or dark, low in saturation behind, so that materials and outlines stand out at 64 pixels."""
    dark = rng.random() < 0.4
    hue, saturation = rng.random(), rng.uniform(0.02, 0.22)
    value = rng.uniform(0.14, 0.28) if dark else rng.uniform(0.72, 0.95)
    other = value * rng.uniform(0.7, 0.95)
    ground = value + (0.12 if dark else -0.3)
    ink = 0.88 if dark else 0.1
    warm = rng.uniform(0.92, 1.08, 3)
    return Palette(
        back=(rgb(hue, saturation, value), rgb(hue + rng.uniform(-0.15, 0.15), saturation, other)),
        pattern=str(rng.choice(["down", "across", "cloud", "tiles", "stripes"])),
        ground=rgb(hue + 0.08, 0.12, ground),
        tool=rgb(rng.random(), 0.15, 0.7 if dark else 0.22),
        line=np.full(3, ink),
        ghost=rgb(rng.choice([0.0, 0.12, 0.3, 0.83]) + rng.normal(0, 0.02), *((0.75, 1.0) if dark else (0.9, 0.7))),
        neutral=np.full(3, rng.uniform(0.48, 0.6)),
        plastic=rgb(rng.choice([0.0, 0.14, 0.36, 0.8, 0.9]) + rng.normal(0, 0.015), 0.92, 0.95) * warm.clip(0.9, 1.0),
        shift=float(rng.uniform(-0.05, 0.05)),
        noise=float(rng.uniform(1.0, 5.0)),
    )


def material_fill(name: str, colours: Palette, x: np.ndarray, y: np.ndarray, rng: np.random.Generator):
    """Fill (h, w, 3), opacity, outline colour and outline width factor; x, y in picture heights, y = 0 at the top."""
    flat = np.ones((*x.shape, 1), np.float32)
    tone, span = colours.shift, float(y.max() - y.min()) + 1e-6
    if name == "wood":
        wave = np.sin(y * 150 + 3 * np.sin(x * 14 + rng.uniform(0, 6)) + 1.5 * np.sin(x * 37))
        base = rgb(0.075 + 0.3 * tone, 0.68, 0.62 + 2 * tone)
        return base * (1 + 0.24 * wave[..., None]), 1.0, base * 0.4, 1.0
    if name == "metal":
        place = (y + 0.25 * x - y.min()) / max(min(span, 0.3), 0.05)
        shine = np.exp(-(((place % 1.0) - 0.28) ** 2) / 0.012) + 0.3 * np.exp(-(((place % 1.0) - 0.75) ** 2) / 0.01)
        base = rgb(0.6 + 0.3 * tone, 0.3, 0.5 + tone)
        return base * (0.72 + 0.2 * flat) + 0.62 * shine[..., None], 1.0, base * 0.35, 1.0
    if name == "glass":
        place = (x + y - (x + y).min()) / max(min(span, 0.25), 0.05)
        glint = (np.abs(place % 1.4 - 0.45) < 0.1) + 0.6 * (np.abs(place % 1.4 - 0.66) < 0.04)
        base = rgb(0.49 + 0.2 * tone, 0.42, 0.97)
        return base * flat + glint[..., None] * 0.6, 0.5 + 0.45 * glint[..., None], rgb(0.5, 0.25, 1.0), 1.3
    if name == "skin":
        base = rgb(0.085 + 0.2 * tone, 0.3, 0.93)
        speck = 1 + 0.06 * np.sin(x * 61 + 2 * np.sin(y * 53)) * np.sin(y * 71)
        return base * speck[..., None], 1.0, rgb(0.02, 0.75, 0.45), 1.8
    if name == "water":
        wave = np.sin(x * 55 + 6 * np.sin(y * 9)) * np.sin(y * 90 + 1.5 * np.sin(x * 12))
        base = rgb(0.585 + 0.3 * tone, 0.78, 0.82)
        return base + 0.16 * np.maximum(wave, 0)[..., None] * (1, 1, 1), 0.86, rgb(0.55, 0.25, 1.0), 1.3
    if name == "plastic":
        return colours.plastic * flat, 1.0, colours.plastic * 0.62, 1.0
    return colours.neutral * flat, 1.0, colours.line * 0.9, 1.0
