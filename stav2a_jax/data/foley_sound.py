"""Sounds of the foley scenes: modal synthesis for solids and drums, rising bubbles for water, shaped noise for scrapes.

A hit is a sum of exponentially decaying partials (ratios, decays and damping by material) with a short noise burst.
Size moves the pitch; force moves level and brightness; each hit varies a little. Every tail fades to zero.
"""

from __future__ import annotations

import dataclasses

import numpy as np

FLOOR_DB = -75.0  # level of the noise floor, dBFS (rms)
LOUD_DB = -6.0  # peak of the loudest hit, dBFS
SCRAPE_DB = -12.0  # peak-like level of the fastest scrape, dBFS


@dataclasses.dataclass(frozen=True)
class Voice:
    """How a solid sounds. pitch: Hz of the lowest partial for the smallest and the largest object; decay: seconds to
    -60 dB of the lowest partial; damping: exponent by which higher partials decay faster; noise: share, band, length.
    """

    pitch: tuple[float, float]
    ratios: tuple[float, ...]
    gains: tuple[float, ...]
    decay: float
    damping: float
    noise: float
    band: tuple[float, float]
    burst: float


VOICES = {
    # a free bar: few low partials, gone at once
    "wood": Voice((620, 260), (1.0, 2.57, 4.2, 6.1), (1.0, 0.55, 0.3, 0.15), 0.15, 0.7, 0.5, (300, 2500), 0.012),
    # a plate: many partials without order, ringing
    "metal": Voice(
        (1250, 520), (1.0, 1.51, 2.33, 2.76, 3.89, 5.4, 6.83, 8.93),
        (0.7, 0.55, 0.8, 1.0, 0.6, 0.7, 0.4, 0.4), 0.6, 0.18, 0.25, (2500, 7500), 0.006,
    ),
    # a bowl: one or two clear high partials
    "glass": Voice(
        (2900, 1500), (1.0, 2.32, 2.35, 4.25), (1.0, 0.45, 0.3, 0.25), 0.38, 0.35, 0.12, (4000, 7800), 0.004
    ),
    # a circular membrane: low, with a thump
    "skin": Voice(
        (210, 75), (1.0, 1.59, 2.14, 2.30, 2.65, 2.92), (1.0, 0.6, 0.4, 0.25, 0.25, 0.15),
        0.3, 0.6, 0.3, (80, 900), 0.025,
    ),
    # a thin shell: a dull tick and almost no ring
    "plastic": Voice((1100, 620), (1.0, 1.34, 1.82), (1.0, 0.8, 0.6), 0.055, 0.5, 1.6, (900, 4200), 0.03),
}  # fmt: skip


def _partials(freqs: np.ndarray, decays: np.ndarray, gains: np.ndarray, phases: np.ndarray, rate: int) -> np.ndarray:
    """Sum of decaying sines, 1.15 times the longest decay long, as outer products of short arrays."""
    count = int(1.15 * decays.max() * rate)
    block = int(np.sqrt(count)) + 1
    steps, out = np.arange(block), np.zeros((block, block))
    for decay, freq, gain, phase in zip(decays, freqs, gains, phases):
        pole = complex(-6.9 / decay, 2 * np.pi * freq) / rate
        coarse, fine = gain * np.exp(steps * (block * pole) + 1j * phase), np.exp(steps * pole)
        out += np.multiply.outer(coarse.real, fine.imag)  # not @: BLAS threads cost more than they save here
        out += np.multiply.outer(coarse.imag, fine.real)
    return out.ravel()[:count]


def _noise(rng: np.random.Generator, count: int, band: tuple[float, float], rate: int) -> np.ndarray:
    """Gaussian noise with soft band edges, unit peak."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    freqs = np.fft.rfftfreq(count, 1.0 / rate)
    spectrum *= 1.0 / (1.0 + (band[0] / np.maximum(freqs, 1.0)) ** 4) / (1.0 + (freqs / band[1]) ** 4)
    wave = np.fft.irfft(spectrum, count)
    return wave / (np.abs(wave).max() + 1e-12)


def _shape(wave: np.ndarray, rate: int, attack: float = 0.0015) -> np.ndarray:
    """Raised-cosine attack, and a fade of the last fifth to zero."""
    rise, fall = int(attack * rate) + 1, len(wave) // 5
    wave[:rise] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(rise) / rise)
    wave[-fall:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(1, fall + 1) / fall)
    return wave


def _solid(rng: np.random.Generator, voice: Voice, force: float, size: float, rate: int) -> np.ndarray:
    """One hit of a solid; ``force`` and ``size`` in [0, 1]."""
    small, large = voice.pitch
    base = small * (large / small) ** size * np.exp(rng.normal(0, 0.012))
    freqs = base * np.asarray(voice.ratios) * np.exp(rng.normal(0, 0.004, len(voice.ratios)))
    gains = np.asarray(voice.gains) * np.exp(rng.normal(0, 0.2, len(freqs)))
    gains *= np.asarray(voice.ratios) ** (-0.9 * (1.0 - force))  # a soft hit is dull
    decays = voice.decay * np.exp(rng.normal(0, 0.06)) * np.asarray(voice.ratios) ** -voice.damping
    heard = freqs < 0.45 * rate
    wave = _partials(freqs[heard], decays[heard], gains[heard], rng.uniform(0, 0.6, heard.sum()), rate)
    wave /= np.abs(wave).max() + 1e-12
    burst = min(int(voice.burst * 5 * rate), len(wave))
    edge = (voice.band[0], min(voice.band[1] * (0.6 + 0.4 * force), 0.45 * rate))
    hiss = _noise(rng, burst, edge, rate) * np.exp(-np.arange(burst) / (voice.burst * rate))
    wave[:burst] += voice.noise * (0.4 + 0.6 * force) * hiss
    return _shape(wave, rate)


def _splash(rng: np.random.Generator, force: float, size: float, rate: int) -> np.ndarray:
    """Two to six bubbles that rise in pitch, and a short bright noise."""
    count = int(0.32 * rate)
    t = np.arange(count) / rate
    wave = np.zeros(count)
    for k in range(int(rng.integers(2, 4 + round(2 * force)))):
        start = 0.004 if k == 0 else rng.uniform(0.01, 0.11)
        since = np.maximum(t - start, 0.0)
        low = 1500 * (480 / 1500) ** size * np.exp(rng.normal(0, 0.25))
        life = rng.uniform(0.02, 0.05) * (0.7 + 0.6 * size)
        turn = 2 * np.pi * low * (since + 0.5 * rng.uniform(4, 10) * since**2)
        swell = np.exp(-since / life) * (1 - np.exp(-since / 0.002))
        wave += (t >= start) * rng.uniform(0.5, 1.0) * np.sin(turn) * swell
    hiss = _noise(rng, count, (1200, min(6000, 0.45 * rate)), rate) * np.exp(-t / (0.025 + 0.035 * force))
    return _shape(wave / (np.abs(wave).max() + 1e-12) + (0.35 + 0.5 * force) * hiss, rate)


def hit(rng: np.random.Generator, material: str, loudness_db: float, size: float, rate: int) -> np.ndarray:
    """One hit, float64, whose peak is ``loudness_db`` dBFS. size in [0, 1]: 0 small and high, 1 large and low."""
    force = float(np.clip((loudness_db - LOUD_DB + 20.0) / 20.0, 0.0, 1.0))
    wet = material == "water"
    wave = _splash(rng, force, size, rate) if wet else _solid(rng, VOICES[material], force, size, rate)
    return wave * (10 ** (loudness_db / 20) / (np.abs(wave).max() + 1e-12))


def rub(rng: np.random.Generator, material: str, size: float, speed: np.ndarray, rate: int) -> np.ndarray:
    """Scrape or roll for a whole clip: noise through the material's resonances, its level following ``speed`` [0, 1].

    speed is sampled at ``rate``; where it is zero the answer is exactly zero.
    """
    voice, count = VOICES[material], len(speed)
    small, large = voice.pitch
    base = small * (large / small) ** size
    freqs = np.fft.rfftfreq(count, 1.0 / rate)
    gain = 0.25 / (1.0 + (voice.band[0] / np.maximum(freqs, 1.0)) ** 4) / (1.0 + (freqs / voice.band[1]) ** 4)
    for ratio, strength in zip(voice.ratios, voice.gains):
        width = 0.02 * base * ratio + 2.2 / voice.decay
        gain = gain + strength / (1.0 + ((freqs - base * ratio) / width) ** 2) * min(1.0, (voice.decay / 0.15) ** 0.5)
    wave = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * gain, count)
    grain = np.repeat(rng.uniform(0.45, 1.0, count // int(0.012 * rate) + 2), int(0.012 * rate))[:count]
    kernel = np.hanning(int(0.012 * rate))
    grain = np.convolve(grain, kernel / kernel.sum(), "same")
    wave *= grain / (3.0 * wave.std() + 1e-12)
    return wave * speed * 10 ** (SCRAPE_DB / 20)


def limited(wave: np.ndarray, top: float = 0.9, knee: float = 0.7) -> np.ndarray:
    """Leave everything below ``knee`` alone and bend what is above it smoothly below ``top``."""
    over = np.abs(wave) > knee
    bent = np.sign(wave) * (knee + (top - knee) * np.tanh((np.abs(wave) - knee) / (top - knee)))
    return np.where(over, bent, wave)
