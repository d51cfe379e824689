"""Captions of the foley scenes: templates and synonyms, with or without the name of the sounding material."""

from __future__ import annotations

import numpy as np

ADJECTIVES = {
    "wood": ("wooden", "timber", "oak", "pine", "solid wood"),
    "metal": ("metal", "steel", "iron", "tin", "metallic"),
    "glass": ("glass", "crystal", "clear glass"),
    "skin": ("leather", "hide-covered", "drumhead"),
    "plastic": ("plastic", "vinyl", "hard plastic", "PVC"),
}
SURFACES = {
    "wood": ("a wooden floor", "timber boards", "an oak floor", "a plank deck"),
    "metal": ("a metal floor", "steel plates", "an iron deck", "a tin sheet"),
    "glass": ("a glass floor", "glass panes", "a crystal floor"),
    "skin": ("a drum skin", "a big leather drum", "a stretched hide", "a drumhead"),
    "water": ("shallow water", "a puddle", "a pool of water", "puddles of water"),
    "plastic": ("a plastic floor", "vinyl tiles", "a hard plastic sheet"),
    None: ("the ground", "a floor", "a flat surface", "the floor"),
}
GENERIC = ("a video with sound", "a short clip", "the sound of this scene", "video", "what is seen here makes sounds")
OPENINGS = ("", "", "", "a video of ", "the sound of ", "a scene with ", "close view of ")
SILENT = ("while {} drifts by without a sound", "as {} floats past silently", "with {} moving silently nearby")
GHOSTS = ("a balloon", "a soft hollow shape", "a soap bubble", "an outlined shape", "a soft toy")


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _thing(rng: np.random.Generator, noun: str, material: str | None, many: bool) -> str:
    """'a wooden block', 'blocks', 'a drum' ..."""
    if material == "skin":
        one = str(rng.choice(["drum", "leather drum", "hide drum", "skin drum", "drum skin"]))
    elif material == "water":
        return str(rng.choice(["the water", "a pool", "a puddle", "the surface of the water"]))
    else:
        one = f"{rng.choice(ADJECTIVES[material])} {noun}" if material else noun
    if many:
        return one + ("es" if one.endswith(("x", "s")) else "s")
    return _a(one)


def _bounce(rng, noun, named, many, struck) -> str:
    verb = str(rng.choice(["bouncing on", "falling onto", "dropping onto", "hopping on"]))
    if struck:
        return f"{_thing(rng, noun, None, many)} {verb} {rng.choice(SURFACES[named])}"
    return f"{_thing(rng, noun, named, many)} {verb} {rng.choice(SURFACES[None])}"


def _tumble(rng, noun, named, many, struck) -> str:
    thing, way = noun.split()
    verb = str(rng.choice(["tumbling down", "falling down", "clattering down", "bouncing down"]))
    steps, slopes = ("the stairs", "a staircase", "some steps"), ("ramps", "slanted shelves", "sloping planes")
    return f"{_thing(rng, thing, named, many)} {verb} {rng.choice(steps if way == 'stairs' else slopes)}"


def _knock(rng, noun, named, many, struck) -> str:
    if noun == "balls":
        return f"{_thing(rng, 'ball', named, True)} {rng.choice(['knocking together', 'swinging into each other'])}"
    who = str(rng.choice(["a pendulum", "a swinging ball", "a hanging ball"])) if not many else "swinging balls"
    verb = str(rng.choice(["knocking against", "hitting", "striking"]))
    return f"{who} {verb} {_thing(rng, 'block', named, many)}"


def _hammer(rng, noun, named, many, struck) -> str:
    who = "a paddle" if noun == "paddle" else str(rng.choice(["a hammer", "a mallet", "someone with a hammer"]))
    verb = str(rng.choice(["striking", "hitting", "slapping" if noun == "paddle" else "pounding", "beating"]))
    target = _thing(rng, "surface" if noun == "paddle" else "block", named, False)
    return f"{who} {verb} {target}"


def _sticks(rng, noun, named, many, struck) -> str:
    verb = str(rng.choice(["tapping on", "playing on", "drumming on", "beating"]))
    what = str(rng.choice(["pad", "bar", "plate"]))
    return f"{'sticks' if many else 'a stick'} {verb} {_thing(rng, what, named, many)}"


def _drops(rng, noun, named, many, struck) -> str:
    verb = str(rng.choice(["dripping onto", "falling on", "dropping onto", "landing on"]))
    who = str(rng.choice(["drops", "small drops", "single drops"]))
    if named == "water":
        return f"{who} {verb} {rng.choice(SURFACES['water'])}"
    if noun == "pool":
        return f"{who} {verb} {_thing(rng, 'surface', named, False)}"
    return f"{who} {verb} {_thing(rng, str(rng.choice(['plate', 'tray', 'sheet'])), named, many)}"


def _footsteps(rng, noun, named, many, struck) -> str:
    who = "two people" if many else str(rng.choice(["a person", "someone", "a figure"]))
    onto = "in" if named == "water" else "on"
    verb = str(rng.choice(["walking", "stepping", "pacing", "taking steps"])) + " " + onto
    text = f"{who} {verb} {rng.choice(SURFACES[named])}"
    return text if rng.random() < 0.7 else f"footsteps of {who} {onto} {rng.choice(SURFACES[named])}"


def _scrape(rng, noun, named, many, struck) -> str:
    verb = ["rolling over", "rolled along"] if noun == "ball" else ["scraping along", "pushed over", "dragged across"]
    return f"{_thing(rng, noun, named, False)} {rng.choice(verb)} a rough {rng.choice(['floor', 'surface', 'ground'])}"


WRITERS = {
    "bounce": _bounce,
    "tumble": _tumble,
    "knock": _knock,
    "hammer": _hammer,
    "sticks": _sticks,
    "drops": _drops,
    "footsteps": _footsteps,
    "scrape": _scrape,
}


def caption(
    rng: np.random.Generator,
    scene: str,
    noun: str,
    material: str,
    named: bool,
    several: bool,
    struck: bool,
    ghosts: bool,
) -> str:
    """One sentence. Only with ``named`` does it say the material; otherwise one in five says nothing of the scene.

    struck: the floor carries the material, not what falls on it.
    """
    if not named and rng.random() < 0.2:
        return str(rng.choice(GENERIC))
    text = WRITERS[scene](rng, noun, material if named else None, several, struck)
    if ghosts and rng.random() < 0.4:
        text += ", " + str(rng.choice(SILENT)).format(rng.choice(GHOSTS))
    text = str(rng.choice(OPENINGS)) + text
    style = rng.random()
    return text if style < 0.4 else text[0].upper() + text[1:] + ("." if style < 0.8 else "")
