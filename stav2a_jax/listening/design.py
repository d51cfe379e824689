"""Who hears what in which order: Latin squares over systems and clips, and where the attention checks fall.

Pure functions of (numbers, seed). Rows are those of Williams' design (Williams 1949, Aust. J. Sci. Res. A 2): every
item once in each place, and every item equally often right behind every other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SCALES = (
    ("AQ", "Audio quality", "How clean and natural is the sound by itself, whatever the picture shows?"),
    ("SA", "Semantic alignment", "Does it sound like the things, materials and places that are seen?"),
    ("TA", "Temporal alignment", "Does each sound come at the moment when its cause is seen?"),
    ("OQ", "Overall quality", "All in all, how good is this sound for this video?"),
)
NAMES = tuple(name for name, _, _ in SCALES)
LOWEST, HIGHEST = 1, 100
PRESENTATIONS = ("one", "side")
_CHECKS = 3  # salt of the generator that places the checks


def williams(n: int) -> list[tuple[int, ...]]:
    """Rows of Williams' design on 0 .. n - 1: n rows for even n, 2 n for odd n (the second half mirrors the first)."""
    if n < 1:
        raise ValueError(f"{n=}, expected 1 or more")
    zigzag = [(k + 1) // 2 if k % 2 else -(k // 2) for k in range(n)]  # 0, 1, -1, 2, -2, ...
    rows = [tuple((x + shift) % n for x in zigzag) for shift in range(n)]
    return rows + [row[::-1] for row in rows] if n % 2 and n > 1 else rows


def rating_order(rater: int, clips: int, systems: int, present: str) -> list[list[tuple[int, int]]]:
    """What rater number ``rater`` (from 1) rates: trials in order, each a list of (clip, system).

    "side": a trial is one clip with all systems beside one another, their places a row of the design over systems
    that moves on with the clip and with the rater. "one": a trial is one clip with one system. There are as many
    rounds as systems, and in each every clip comes once; a clip's systems follow one another from round to round
    like the places above. Clips stand in rows of the design over clips, another one for every rater and round, so from
    4 clips on a clip never follows itself. Over as many raters as there are rows (``len(williams(systems))``) every
    system of a clip is equally often in each place.
    """
    if present not in PRESENTATIONS or rater < 1:
        raise ValueError(f"{present=}, expected one of {PRESENTATIONS}; {rater=}, expected 1 or more")
    by_system, by_clip = williams(systems), williams(clips)
    places = [by_system[(rater - 1 + clip) % len(by_system)] for clip in range(clips)]
    if present == "side":
        return [[(clip, system) for system in places[clip]] for clip in by_clip[(rater - 1) % len(by_clip)]]
    rounds = range(systems)
    rows = [by_clip[((rater - 1) * systems + k) % len(by_clip)] for k in rounds]
    return [[(clip, places[clip][k])] for k in rounds for clip in rows[k]]


def check_places(seed: int, rater: int, trials: int, checks: int) -> list[int]:
    """Before which trials (0 .. trials) the checks come, rising: spread over the session, moved a little by lot."""
    rng = np.random.default_rng([seed, _CHECKS, rater])
    reach = trials // (4 * (checks + 1))
    places = [round(trials * k / (checks + 1)) + int(rng.integers(-reach, reach + 1)) for k in range(1, checks + 1)]
    return [min(max(place, min(1, trials)), trials) for place in places]


def session(trials: Sequence[list[str]], checks: Sequence[str], places: Sequence[int], rater: int) -> list[list[str]]:
    """Media ids of every trial of a rater, checks put in; the first check moves on from rater to rater."""
    turned = [checks[(k + rater - 1) % len(checks)] for k in range(len(checks))]
    out: list[list[str]] = []
    for number, trial in enumerate([*trials, []]):
        out += [[check] for check, place in zip(turned, places, strict=True) if place == number]
        out += [trial] if trial else []
    return out
