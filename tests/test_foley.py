"""Generated foley clips: reproducible, exact, balanced; what sounds is an event and what is an event is heard."""

from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import pytest

from stav2a_jax.data import foley
from stav2a_jax.types import UserError

RATE = 16_000


@pytest.fixture(scope="module")
def clips() -> list[foley.Clip]:
    return [foley.make_clip(0, "train", i) for i in range(200)]


GOLDEN = {
    "scene": "knock",
    "caption": "A video of wooden balls swinging into each other",
    "times": [0.49, 1.4675, 2.4425],
    "level": -38.86,
}


def level(wave: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(wave.astype(np.float64) ** 2)) + 1e-9))


def test_a_clip_is_the_same_whenever_it_is_made():
    first = foley.make_clip(3, "test", 7)
    foley.make_clip(3, "test", 6)
    again = foley.make_clip(3, "test", 7)
    assert first == again
    assert np.array_equal(foley.render_video(first, 32), foley.render_video(again, 32))
    assert np.array_equal(foley.render_audio(first), foley.render_audio(again))


def test_the_values_do_not_change_between_versions_and_machines():
    clip = foley.make_clip(0, "test", 9)
    assert clip.scene == GOLDEN["scene"]
    assert clip.caption == GOLDEN["caption"]
    np.testing.assert_allclose([e.time for e in clip.events], GOLDEN["times"], atol=0.006)
    assert level(foley.render_audio(clip)) == pytest.approx(GOLDEN["level"], abs=0.1)


def test_seed_split_and_index_all_matter():
    keys = [(0, "train", 0), (0, "valid", 0), (0, "test", 0), (1, "train", 0), (0, "train", 1)]
    assert len({tuple(e.time for e in foley.make_clip(*k).events) for k in keys}) == len(keys)


@pytest.mark.parametrize("fps", [8.0, 25.0, 29.97])
def test_the_video_has_as_many_frames_as_the_length_says(fps):
    clip = foley.make_clip(0, "valid", 2, seconds=3.3)
    frames = foley.render_video(clip, (48, 64), fps)
    assert frames.shape == (round(3.3 * fps), 48, 64, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_the_sound_has_the_length_of_the_video_and_does_not_clip(rate):
    clip = foley.make_clip(0, "valid", 3)
    wave = foley.render_audio(clip, rate)
    assert wave.shape == (round(clip.seconds * rate),)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() < 0.9


def test_events_lie_inside_the_clip_and_80_ms_apart(clips):
    for clip in clips:
        times = np.array([e.time for e in clip.events])
        assert 2 <= len(times) <= 16
        assert times[0] >= 0.1
        assert times[-1] <= clip.seconds - 0.15
        assert np.diff(times).min() >= 0.08 - 1e-9


def test_loudness_stays_within_twenty_decibels_of_the_loudest(clips):
    for clip in clips:
        top = -6.0 if clip.events[0].kind == "hit" else -12.0
        assert all(top - 20.0 <= e.loudness_db <= top for e in clip.events)


def test_every_contact_lies_inside_the_picture(clips):
    for clip in clips:
        for event in foley.metadata(clip)["events"]:
            assert 0.0 < event["x"] < 1.0
            assert 0.0 < event["y"] < 1.0


def test_sound_rises_at_events_and_only_there(clips):
    rises = []
    for clip in clips[:60]:
        wave = foley.render_audio(clip)
        silent = np.ones(len(wave), bool)
        for event in foley.metadata(clip)["events"]:
            start = int(event["time"] * RATE)
            rises.append(level(wave[start : start + 480]) - level(wave[max(start - 240, 0) : start]))
            silent[start - 16 : start + int((event["duration"] + 0.8) * RATE)] = False
        if silent.any():
            assert np.abs(wave[silent]).max() < 0.003
    rises = np.array(rises)
    assert np.mean(rises > 6.0) > 0.93  # the rest are soft hits within the ring of a loud one
    assert np.median(rises) > 25.0


def test_a_hit_starts_within_two_milliseconds_of_its_event(clips):
    for clip in clips[:40]:
        first = clip.events[0]
        wave = np.abs(foley.render_audio(clip))
        heard = np.argmax(wave > 0.05 * 10 ** (first.loudness_db / 20)) / RATE
        assert -0.0001 <= heard - first.time < (0.006 if first.kind == "hit" else 0.05)


def test_every_scrape_lasts_as_long_as_its_movement(clips):
    scrapes = [c for c in clips if c.scene == "scrape"]
    assert scrapes
    for clip in scrapes:
        wave = foley.render_audio(clip)
        for event in foley.metadata(clip)["events"]:
            middle = int((event["time"] + 0.4 * event["duration"]) * RATE)
            after = int((event["time"] + event["duration"] + 0.02) * RATE)
            assert level(wave[middle : middle + 800]) > -45.0
            assert level(wave[after : after + 800]) < -60.0


def test_materials_and_cues_are_balanced_exactly():
    clips = [foley.make_clip(5, "valid", i, seconds=2.0) for i in range(60)]
    assert set(collections.Counter(c.material for c in clips).values()) == {10}
    cues = collections.Counter((c.text_names_material, c.picture_shows_material) for c in clips)
    assert cues == {(True, False): 24, (False, True): 18, (True, True): 18}


def test_difficulties_come_in_the_documented_shares(clips):
    share = {t: n / len(clips) for t, n in collections.Counter(t for c in clips for t in c.tags).items()}
    assert share["camera"] == pytest.approx(0.3, abs=0.1)
    assert share["several"] == pytest.approx(0.35, abs=0.1)
    assert share["occlusion"] == pytest.approx(0.15, abs=0.08)
    assert share["distractor"] == pytest.approx(0.5, abs=0.12)
    assert share["silence"] > 0.1
    assert {c.scene for c in clips} == set(foley.SCENES)
    assert 4.0 < np.mean([c.seconds for c in clips]) < 6.0


WORDS = {
    "wood": ("wood", "timber", "oak", "pine", "plank"),
    "metal": ("metal", "steel", "iron", "tin ", "tin\n"),
    "glass": ("glass", "crystal"),
    "skin": ("drum", "hide", "leather"),
    "water": ("water", "puddle", "pool"),
    "plastic": ("plastic", "vinyl", "pvc"),
}


def materials_in(caption):
    text = caption.lower().replace("drumming", "").replace(".", " ") + "\n"
    return {m for m, words in WORDS.items() if any(w in text for w in words)}


def test_the_caption_names_the_material_if_and_only_if_it_should(clips):
    for clip in clips:
        assert materials_in(clip.caption) == ({clip.material} if clip.text_names_material else set()), clip.caption


def test_the_plain_caption_never_names_a_material_and_is_always_the_same(clips):
    plain = [foley.plain_caption(clip) for clip in clips]
    assert plain == [foley.plain_caption(clip) for clip in clips]
    assert not any(materials_in(caption) for caption in plain)
    assert len(set(plain)) > len(plain) / 2  # sentences about the scenes, not one for all


def test_a_neutral_picture_does_not_depend_on_the_material():
    clip = next(c for i in range(40) if not (c := foley.make_clip(0, "train", i)).picture_shows_material)
    other = dataclasses.replace(clip, material=foley.MATERIALS[foley.MATERIALS.index(clip.material) - 1])
    assert np.array_equal(foley.render_video(clip, 32), foley.render_video(other, 32))


def test_an_occluder_leaves_half_of_every_path_visible(clips):
    seen = 0
    for clip in clips:
        if "occlusion" in clip.tags:
            (panel,) = [b for b in clip._stage.bodies if b.look == "panel"]
            x, y, _ = panel.track[0]
            box = (x - panel.size[0] / 2, y - panel.size[1] / 2, x + panel.size[0] / 2, y + panel.size[1] / 2)
            for body in clip._stage.bodies:
                if body.layer == 1 and body.look != "silent":
                    assert foley.foley_stage.hidden_share(body, box) <= 0.5
            seen += 1
    assert seen > 5


def test_metadata_survives_json(clips):
    facts = foley.metadata(clips[0])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["caption"] == clips[0].caption


def test_materials_sound_different():
    """Nearest mean of log spectra, on hits alone, all sizes and forces mixed."""
    rng = np.random.default_rng(0)

    def spectrum(material: str) -> np.ndarray:
        wave = foley.foley_sound.hit(rng, material, rng.uniform(-20, -6), rng.random(), RATE)[:3200]
        power = np.abs(np.fft.rfft(np.pad(wave, (0, 3200 - len(wave))))) ** 2
        early = np.array([b.mean() for b in np.array_split(power, 40)])
        late = np.mean(wave[1600:] ** 2) if len(wave) > 1700 else 0.0
        return np.r_[np.log(early / early.sum() + 1e-4), np.log(late / np.mean(wave**2) + 1e-4)]

    means = {m: np.mean([spectrum(m) for _ in range(30)], 0) for m in foley.MATERIALS}
    right = [
        min(means, key=lambda k: np.linalg.norm(means[k] - s)) == m
        for m in foley.MATERIALS
        for s in [spectrum(m) for _ in range(20)]
    ]
    assert np.mean(right) > 0.85


@pytest.mark.parametrize("wrong", [("trian", 0, None), ("train", -1, None), ("train", 0, 0.5)])
def test_impossible_wishes_are_refused_with_a_sentence(wrong):
    split, index, seconds = wrong
    with pytest.raises(UserError):
        foley.make_clip(0, split, index, seconds)
