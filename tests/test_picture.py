"""The picture of a result is written whole, for any length, by several threads."""

import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from stav2a_jax import picture


def arguments(seconds=2.0, height=36, width=64, **changes):
    rng = np.random.default_rng(0)
    values = {
        "frames": np.full((max(1, round(seconds * 25)), height, width, 3), (40, 200, 90), np.uint8),
        "fps": 25.0,
        "wave": rng.normal(size=round(seconds * 16_000)).astype(np.float32) * 0.1,
        "sample_rate": 16_000,
        "log_mel": rng.normal(size=(round(seconds * 100), 64)) - 4,
        "onset_probability": rng.uniform(size=round(seconds * 25)),
        "frames_per_second": 25.0,
        "seconds": seconds,
        "title": "a ball bounces",
        "events": [0.1, 0.5],
        "true_events": [0.12],
    }
    return {**values, **changes}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has(path, colour, rows):
    return (np.abs(pixels(path)[rows] - colour).max(-1) < 12).sum()


def test_the_picture_shows_frames_events_and_has_its_size(tmp_path):
    picture.draw(tmp_path / "a.png", **arguments())
    assert pixels(tmp_path / "a.png").shape == (900, 1400, 3)
    assert has(tmp_path / "a.png", (40, 200, 90), slice(0, 230)) > 50_000  # the thumbnails
    assert has(tmp_path / "a.png", (0xD9, 0x54, 0x1E), slice(230, 420)) > 100  # detected events
    assert has(tmp_path / "a.png", (0x2A, 0x8A, 0x4A), slice(230, 420)) > 50  # true events
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 0.04},
        {"seconds": 30.0, "height": 64, "width": 36},
        {"onset_probability": None, "events": None, "true_events": None},
        {"wave": np.zeros((32_000, 2), np.float32), "events": [], "log_mel": np.full((200, 64, 1), -11.5)},
        {"title": "price $5 and x_1 $ " * 30, "events": [-1.0, 99.0]},
    ],
)
def test_unusual_results_are_drawn_too(tmp_path, changes):
    picture.draw(tmp_path / "a.png", **arguments(**changes))
    assert pixels(tmp_path / "a.png").shape == (900, 1400, 3)


def test_several_threads_draw_the_same_picture(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: picture.draw(tmp_path / f"{i}.png", **arguments()), range(3)))
    assert len({(tmp_path / f"{i}.png").read_bytes() for i in range(3)}) == 1
