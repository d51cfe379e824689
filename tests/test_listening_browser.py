"""The listening page in a real browser, from the first click to the table.

Needs the package `playwright` and a Chromium: the one on the path (chromium, google-chrome, ...), or that of
`playwright install chromium`; without them these tests skip.
"""

import contextlib
import functools
import http.server
import itertools
import json
import pathlib
import re
import shutil
import threading

import numpy as np
import pytest

from stav2a_jax import cli
from stav2a_jax.listening.design import NAMES
from stav2a_jax.video import decode, mux

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.long

SYSTEMS, RATERS, CLIPS = ("truth", "late"), 6, 3
HASTE = 16  # the tests' time is short: every clip plays this much faster
PHONE = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 800}}


def opinion(rater, key, media, scale):
    """What a simulated rater thinks: depends on everything, so that a mixed-up answer shows."""
    entry, step = key["media"].get(media, {"clip": None, "system": "truth"}), NAMES.index(scale)
    clip = key["clips"].index(entry["clip"]) if entry["clip"] else 0
    return (60 if entry["system"] == "truth" else 30) + 7 * step + 2 * clip - 3 * rater


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
        path = next((p for p in map(shutil.which, names) if p), driver.chromium.executable_path)
        if not pathlib.Path(path).exists():
            pytest.skip("no Chromium was found")
        with driver.chromium.launch(executable_path=path, args=["--no-sandbox"]) as found:
            yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated clips of two systems, the page with one clip at a time, and the page with them side by side."""
    folder = tmp_path_factory.mktemp("listening")
    command = ["foley", "--split", "test", "--count", str(CLIPS), "--size", "48", "--fps", "10"]
    assert cli.main([*command, "--out", str(folder / "truth")]) == 0
    for video in sorted((folder / "truth").glob("*.mp4")):
        sound = decode.read_audio(video)
        mux.write_with_audio(video, np.roll(sound.wave, 24_000), sound.sample_rate, folder / "late" / video.name)
    pairs = [f"{name}={folder / name}" for name in SYSTEMS]
    for out, present in (("site", "one"), ("side", "side")):
        options = ["--clips", str(CLIPS), "--present", present, "--out", str(folder / out), "--contact", "the lab"]
        assert cli.main(["listen", "build", "--systems", *pairs, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def server(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):  # a browser that needs no more of a video hangs up
                super().handle()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


class Hand:
    """Acts on a page as one person does: mouse, finger or keyboard."""

    def __init__(self, browser, address, options, script=""):
        self.context = browser.new_context(**options)
        self.context.add_init_script(f"addEventListener('play', e => e.target.playbackRate = {HASTE}, true);{script}")
        self.touch, self.address = options.get("has_touch", False), address
        self.open()

    def open(self):
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(self.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()
        assert self.faults == []

    def press(self, selector):
        target = self.page.locator(selector)
        target.tap() if self.touch else target.click()

    def begin(self, rater):
        self.page.fill("#number", str(rater))
        self.press("#enter button")

    def heading(self):
        return self.page.inner_text("main > section:not([hidden]) h1")

    def note(self):
        return self.page.inner_text("#note") if self.page.is_visible("#note") else ""

    def media(self):
        """Ids of the clips that are shown."""
        sources = self.page.eval_on_selector_all("#panels video", "videos => videos.map(v => v.src)")
        return [re.search(r"media/(\w+)\.mp4$", source)[1] for source in sources]

    def watch(self, panel=0):
        self.press(f".panel >> nth={panel} >> .play")
        self.page.wait_for_selector(f".panel.heard-out >> nth={panel}")

    def slide(self, scale, value, panel=0):
        """Put a slider to a value with mouse or finger, by its place on the screen."""
        slider = self.page.locator(f".panel >> nth={panel} >> input[name={scale}]")
        slider.scroll_into_view_if_needed()
        box, thumb = slider.bounding_box(), 28
        y = box["y"] + box["height"] / 2

        def x(value):
            return box["x"] + thumb / 2 + (value - 1) / 99 * (box["width"] - thumb)

        if self.touch:  # a tap on the thumb itself does not move it, so away with it first
            self.page.touchscreen.tap(x(1 if value > 50 else 100), y)
            self.page.touchscreen.tap(x(value), y)
        else:
            self.page.mouse.move(x(int(slider.input_value())), y)
            self.page.mouse.down()
            self.page.mouse.move(x(value), y, steps=3)
            self.page.mouse.up()
        assert slider.input_value() == str(value)

    def values(self):
        return self.page.eval_on_selector_all("#panels output", "all => all.map(o => o.textContent)")

    def download(self, path, selector="#end .download"):
        with self.page.expect_download() as caught:
            self.press(selector)
        path.parent.mkdir(exist_ok=True)
        caught.value.save_as(path)
        return json.loads(path.read_text())


def wanted(hand, rater, key, careless=False):
    """{scale: value} of the clip that is shown, as the rater would have it."""
    media = hand.media()[0]
    if media in key["checks"] and not careless:
        assert "count the beeps" in hand.note()
        return dict.fromkeys(NAMES, key["checks"][media])
    return {scale: opinion(rater, key, media, scale) for scale in NAMES}


def with_pointer(hand, rater, key, careless=False):
    hand.watch()
    for scale, value in wanted(hand, rater, key, careless).items():
        hand.slide(scale, value)
    hand.press("#rating .main")


def with_keyboard(hand, rater, key):
    """Nothing but keys: Tab, Space, arrows, and Enter for the next clip."""
    page, keys = hand.page, hand.page.keyboard
    keys.press("Tab")
    assert page.evaluate("document.activeElement.className") == "play"
    keys.press("Space")
    page.wait_for_selector(".panel.heard-out")
    for scale, value in wanted(hand, rater, key).items():
        keys.press("Tab")
        assert page.evaluate("document.activeElement.name") == scale
        if value == 50:
            keys.press("Space")  # where the slider stands already
        for _ in range(abs(value - 50)):
            keys.press("ArrowRight" if value > 50 else "ArrowLeft")
        assert page.evaluate("document.activeElement.value") == str(value)
    keys.press("Enter")


def steps(hand, act, *args, **options):
    """Act on every trial that is left."""
    while hand.page.is_visible("#trial"):
        before = hand.heading()
        act(hand, *args, **options)
        hand.page.wait_for_function(
            "old => document.querySelector('main > section:not([hidden]) h1').innerText != old", arg=before
        )


def test_six_raters_from_the_first_click_to_the_table(browser, folder, server, capsys):
    key, answers = json.loads((folder / "site.key.json").read_text()), folder / "answers"
    local, remote = (folder / "site" / "index.html").as_uri(), f"{server}/site/index.html"

    with Hand(browser, local, DESK) as hand:  # a mouse, from a folder
        hand.begin(1)
        assert hand.heading() == "Example 1 of 2"
        assert "high values are right" in hand.note()
        steps(hand, with_pointer, 1, key)
        assert "Please send the file to: the lab" in hand.page.inner_text("#end")
        hand.download(answers / "1.json")

    with Hand(browser, remote, DESK) as hand:  # keys only, from a web server
        hand.page.keyboard.press("Tab")
        hand.page.keyboard.type("2")
        hand.page.keyboard.press("Enter")
        steps(hand, with_keyboard, 2, key)
        hand.download(answers / "2.json")

    with Hand(browser, remote, PHONE) as hand:  # a finger on a phone
        hand.begin(3)
        steps(hand, with_pointer, 3, key)
        assert hand.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        hand.download(answers / "3.json")

    with Hand(browser, local, DESK) as hand:  # reloads, closes the page, and comes back
        hand.begin(4)
        for _ in range(4):
            with_pointer(hand, 4, key)
        hand.watch()
        right = wanted(hand, 4, key)
        for scale in NAMES[:2]:
            hand.slide(scale, right[scale])
        place, values = hand.heading(), hand.values()
        hand.page.reload()
        assert (hand.heading(), hand.values()) == (place, values)
        assert values == [str(right["AQ"]), str(right["SA"]), "not set", "not set"]
        hand.page.close()
        hand.open()
        assert (hand.heading(), hand.values()) == (place, values)
        for scale in NAMES[2:]:  # the clip has been watched, that is kept too
            hand.slide(scale, right[scale])
        hand.press("#rating .main")
        steps(hand, with_pointer, 4, key)
        hand.download(answers / "4.json")

    with Hand(browser, f"{remote}?rater=5", DESK) as hand:  # does not listen; the number comes with the link
        hand.press("#enter button")
        steps(hand, with_pointer, 5, key, careless=True)
        hand.download(answers / "5.json")

    with Hand(browser, remote, PHONE) as hand:  # goes back and changes an answer, and the device is handed on
        hand.begin(6)
        for _ in range(3):
            with_pointer(hand, 6, key)
        hand.press("#back")
        hand.slide("TA", 99)
        hand.press("#back")
        hand.press("#rating .main")
        right = wanted(hand, 6, key)
        assert hand.values() == [str(right["AQ"]), str(right["SA"]), "99", str(right["OQ"])]
        hand.slide("TA", right["TA"])
        hand.press("#rating .main")
        hand.press("#footer summary")
        early = hand.download(folder / "early.json", "#footer .download")
        hand.press("#other")
        assert hand.heading() == "Welcome"
        hand.begin(6)
        steps(hand, with_pointer, 6, key)
        late = hand.download(answers / "6.json")
    assert early["answers"] == late["answers"][: len(early["answers"])]
    assert late["finished"] > early["started"] == late["started"]

    capsys.readouterr()
    assert (
        cli.main(["listen", "score", *map(str, sorted(answers.glob("*.json"))), "--out", str(folder / "report")]) == 0
    )
    table = capsys.readouterr().out
    report = json.loads((folder / "report" / "listening.json").read_text())
    assert [r["rater"] for r in report["raters"]["used"]] == [1, 2, 3, 4, 6]
    assert [(e["rater"], len(e["reasons"])) for e in report["raters"]["excluded"]] == [(5, 2)]
    for system, scale in itertools.product(SYSTEMS, NAMES):
        ids = [i for i, e in key["media"].items() if e["system"] == system]
        right = [opinion(rater, key, i, scale) for rater in (1, 2, 3, 4, 6) for i in ids]
        assert report["scores"][system][scale]["mean"] == pytest.approx(np.mean(right))
        assert report["scores"][system][scale]["n"] == 5 * CLIPS
        assert f"{np.mean(right):.2f} ±" in table


def test_side_by_side_one_sound_plays_and_every_version_is_rated(browser, folder):
    key = json.loads((folder / "side.key.json").read_text())
    with Hand(browser, (folder / "side" / "index.html").as_uri(), DESK) as hand:
        hand.begin(2)
        for _ in range(2):
            with_pointer(hand, 2, key)
        while len(hand.media()) == 1:
            with_pointer(hand, 2, key)
        hand.page.evaluate("document.querySelectorAll('video').forEach(v => v.loop = true)")
        for panel in (0, 1):
            hand.press(f".panel >> nth={panel} >> .play")
            hand.page.wait_for_function(
                "k => [...document.querySelectorAll('#panels video')].every((v, n) => v.paused === (n !== k))",
                arg=panel,
            )
        hand.page.reload()
        hand.press("#rating .main")
        said = hand.page.inner_text("#problem")
        assert "Version 1: watch the clip to its end" in said
        assert "Version 2: set audio quality, semantic alignment" in said
        for panel, media in enumerate(hand.media()):
            hand.watch(panel)
            for scale in NAMES:
                hand.slide(scale, opinion(2, key, media, scale), panel)
        rated = hand.media()
        hand.press("#rating .main")
        hand.press("#footer summary")
        data = hand.download(folder / "side.json", "#footer .download")
        rows = [row for row in data["answers"] if row["media"] in rated]
        assert [row["media"] for row in rows] == rated
        assert len({row["trial"] for row in rows}) == 1
        for row in rows:
            assert [row[s] for s in NAMES] == [opinion(2, key, row["media"], s) for s in NAMES]


def test_nothing_is_skipped_unseen_and_the_page_says_what_is_missing(browser, folder):
    with Hand(browser, (folder / "site" / "index.html").as_uri(), DESK) as hand:
        hand.begin(7)
        assert "whole number from 1 to 6" in hand.page.inner_text("#number-problem")
        hand.begin(1)
        hand.page.click("#panels label >> nth=0")  # on the label: no answer
        assert hand.values() == ["not set"] * 4
        hand.slide("OQ", 50)  # where the slider stands already: an answer
        hand.page.eval_on_selector("video", "v => { v.currentTime = v.duration - 0.1; v.play(); }")
        hand.page.wait_for_function("document.querySelector('video').ended")
        hand.press("#rating .main")
        said = hand.page.inner_text("#problem")
        assert said == ("Please watch the clip to its end; set audio quality, semantic alignment, temporal alignment.")
        assert hand.page.evaluate("document.activeElement.className") == "play"
        assert hand.heading() == "Example 1 of 2"
        hand.slide("AQ", 60)  # what is done is not asked for any longer
        assert hand.page.inner_text("#problem").startswith(
            "Please watch the clip to its end; set semantic alignment, te"
        )
        for scale in ("SA", "TA"):
            hand.slide(scale, 60)
        hand.watch()
        assert not hand.page.is_visible("#problem")


def test_a_clip_that_does_not_play_can_be_left_out(browser, folder, tmp_path):
    shutil.copytree(folder / "site", tmp_path / "site")
    study = json.loads((tmp_path / "site" / "study.js").read_text().removeprefix("window.STUDY = ")[:-2])
    (tmp_path / "site" / "media" / f"{study['training'][0]}.mp4").write_bytes(b"damaged")
    with Hand(browser, (tmp_path / "site" / "index.html").as_uri(), DESK) as hand:
        hand.begin(1)
        hand.press(".broken .leave")
        hand.press("#rating .main")
        assert hand.heading() == "Example 2 of 2"
        hand.press("#footer summary")
        row = hand.download(tmp_path / "a.json", "#footer .download")["answers"][0]
        assert row["failed"]
        assert [row[s] for s in NAMES] == [None] * 4


def test_a_browser_that_keeps_nothing_is_told_of_and_still_works(browser, folder, tmp_path):
    script = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
    key = json.loads((folder / "site.key.json").read_text())
    with Hand(browser, (folder / "site" / "index.html").as_uri(), DESK, script) as hand:
        assert hand.page.is_visible("#unkept")
        hand.begin(1)
        for _ in range(2):
            with_pointer(hand, 1, key)
        hand.press("#back")
        assert "not set" not in hand.values()
        hand.press("#footer summary")
        assert len(hand.download(tmp_path / "a.json", "#footer .download")["answers"]) == 2
