"""The page of a listening test gives nothing away, is whole or absent, and plays what the systems made."""

import json
import pathlib
import re
import shutil

import av
import numpy as np
import pytest

from stav2a_jax import cli
from stav2a_jax.listening import build, media
from stav2a_jax.types import UserError
from stav2a_jax.video import decode, mux

TONE = 0.1 * np.sin(np.arange(16_000) * 0.1)


def clip(path, seconds=1.0, level=1.0, size=32):
    frames = np.random.default_rng(0).integers(0, 255, (round(10 * seconds), size, size, 3), np.uint8)
    mux.write_video(path, frames, 10.0, level * np.resize(TONE, round(16_000 * seconds)))


def signed(path, title):
    """The same file with a title, as some systems write it."""
    copy = path.with_name("copy.mp4")
    with av.open(str(path)) as reader, av.open(str(copy), "w") as writer:
        writer.metadata["title"] = title
        streams = {s.index: writer.add_stream_from_template(s, opaque=True) for s in reader.streams}
        for packet in reader.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
    copy.replace(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two systems with three clips of one second."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("dog", "rain", "train"):
        clip(folder / "folder_of_zebra" / f"{name}.mp4")
    shutil.copytree(folder / "folder_of_zebra", folder / "folder_of_quagga")
    return folder


@pytest.fixture
def systems(made, tmp_path):
    """A copy of them, to be spoilt."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return {name: tmp_path / f"folder_of_{name}" for name in ("zebra", "quagga")}


def plan(systems, tmp_path, **options):
    defaults = {"out": tmp_path / "site", "clips": 3, "checks": 0, "seed": 7, "training": systems["zebra"] / "dog.mp4"}
    return build.Plan(systems=systems, **{**defaults, **options})


def study(site):
    return json.loads(re.fullmatch(r"window.STUDY = (.*);\n", (site / "study.js").read_text())[1])


def test_nothing_that_raters_get_names_a_system_or_a_clip(systems, tmp_path):
    for name, folder in systems.items():
        signed(folder / "dog.mp4", f"made by {name}")
    built = build.build(plan(systems, tmp_path))
    files = [p for p in built.site.rglob("*") if p.is_file()]
    for word in (b"zebra", b"quagga", b"rain.", b"folder_of", str(tmp_path).encode()):
        assert [p for p in files if word in p.read_bytes() or word in p.name.encode()] == []
    clips = sorted(p.name for p in (built.site / "media").iterdir())
    assert len(clips) == 7
    assert all(re.fullmatch(r"[0-9a-f]{10}\.mp4", name) for name in clips)
    assert len({p.stat().st_mtime for p in files}) == 1
    assert built.key.parent == built.site.parent


def test_without_a_seed_the_names_cannot_be_computed_from_what_is_known(systems, tmp_path):
    names = []
    for k in range(2):
        built = build.build(plan(systems, tmp_path, seed=None, out=tmp_path / f"site{k}"))
        names.append({p.name for p in (built.site / "media").iterdir()})
    assert not names[0] & names[1]


def test_the_same_seed_gives_the_same_page(systems, tmp_path):
    for k in range(2):
        build.build(plan(systems, tmp_path, out=tmp_path / f"site{k}"))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f"site{k}").rglob("*.*")} for k in range(2))
    assert one == two
    assert (tmp_path / "site0.key.json").read_text() == (tmp_path / "site1.key.json").read_text()


def test_the_key_tells_which_file_is_which(systems, tmp_path):
    for k, folder in enumerate(systems.values()):
        clip(folder / "rain.mp4", level=0.25 + 0.75 * k)
    built = build.build(plan(systems, tmp_path))
    key = json.loads(built.key.read_text())
    assert sorted((e["clip"], e["system"]) for e in key["media"].values()) == sorted(
        (c, s) for c in ("dog", "rain", "train") for s in systems
    )
    for name, entry in key["media"].items():
        copy, source = built.site / "media" / f"{name}.mp4", systems[entry["system"]] / f"{entry['clip']}.mp4"
        assert np.array_equal(decode.read_audio(copy).wave, decode.read_audio(source).wave)
        assert np.array_equal(decode.read_frames(copy, 10, 32).frames, decode.read_frames(source, 10, 32).frames)
    levels = {e["system"]: e["level_db"] for e in key["media"].values() if e["clip"] == "rain"}
    assert levels["quagga"] - levels["zebra"] == pytest.approx(12.04, abs=0.3)
    every = [i for trial in study(built.site)["orders"][0] for i in trial]
    assert sorted(every) == sorted(key["media"])


def test_the_beeps_of_an_attention_check_are_as_many_as_the_key_says(systems, tmp_path):
    built = build.build(plan(systems, tmp_path, checks=2, training=None))
    key, page = json.loads(built.key.read_text()), study(built.site)
    assert sorted(key["checks"]) == page["checks"]
    assert len(page["training"]) == 2
    assert "target" not in json.dumps(page)
    for name, target in key["checks"].items():
        sound = decode.read_audio(built.site / "media" / f"{name}.mp4")
        loud = np.abs(sound.wave[: len(sound.wave) // 480 * 480].reshape(-1, 480)).max(1) > 0.1
        assert 10 * np.sum(loud[1:] & ~loud[:-1]) == target
    assert built.trials == 3 * 2 + 2
    assert all(len(order) == built.trials for order in page["orders"])


def test_only_as_many_clips_as_asked_for_are_taken(systems, tmp_path):
    built = build.build(plan(systems, tmp_path, clips=2, raters=3, present="side"))
    key, page = json.loads(built.key.read_text()), study(built.site)
    assert len(key["clips"]) == 2
    assert [[len(trial) for trial in order] for order in page["orders"]] == [[2, 2]] * 3


def test_what_raters_could_see_or_hear_apart_from_quality_is_noted(systems, tmp_path):
    for name, seconds, level, size in (("dog", 0.5, 1, 32), ("rain", 1, 0, 32), ("train", 1, 0.1, 48)):
        clip(systems["quagga"] / f"{name}.mp4", seconds, level, size)
    notes = build.build(plan(systems, tmp_path)).notes
    assert [n.split(":")[0].split(" by ")[0] for n in notes[:3]] == [
        "lengths differ",
        "picture sizes differ between systems, which raters see",
        "no sound at all in",
    ]
    assert "dog" in notes[0]
    assert "rain of quagga" in notes[2]
    assert "louder is often judged better: zebra" in notes[3]


def missing(systems):
    (systems["quagga"] / "rain.mp4").unlink()


def twice(systems):
    mux.write_with_audio(systems["zebra"] / "dog.mp4", TONE, 16_000, systems["zebra"] / "dog.mkv")


def silent(systems):
    mux.write_video(systems["quagga"] / "train.mp4", np.zeros((10, 32, 32, 3), np.uint8), 10.0)


def damaged(systems):
    (systems["quagga"] / "train.mp4").write_bytes(b"no video")


def unplayable(systems):
    path = systems["quagga"] / "train.mp4"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=48_000)
        video.width = video.height = 32
        video.pix_fmt, audio.layout = "yuv420p", "mono"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 48_000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, r"quagga \(.*\) lacks rain; add or remove"),
        (twice, "zebra has two videos of one name, .*dog.mkv and .*dog.mp4"),
        (silent, "train.mp4: has no sound"),
        (damaged, "train.mp4: is not a video"),
        (unplayable, "train.mp4: its mpeg4 .* convert it to H.264"),
    ],
)
def test_bad_clips_are_named_and_nothing_is_written(spoil, words, systems, tmp_path):
    spoil(systems)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        build.build(plan(systems, tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_an_older_page_and_its_key_are_never_overwritten(systems, tmp_path):
    built = build.build(plan(systems, tmp_path))
    before = built.key.read_text()
    with pytest.raises(UserError, match="choose another --out"):
        build.build(plan(systems, tmp_path, seed=8))
    with pytest.raises(UserError, match="choose another --key"):
        build.build(plan(systems, tmp_path, seed=8, out=tmp_path / "other", key=built.key))
    assert built.key.read_text() == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clips": 4}, "have only 3"),
        ({"clips": 0}, "--clips must be at least 1"),
        ({"raters": 0}, "--raters must be at least 1"),
        ({"checks": 7}, "--checks must be at most 6"),
        ({"seed": -1}, "--seed must lie"),
        ({"key": pathlib.Path("site/key.json")}, "must not lie inside the page"),
    ],
)
def test_impossible_wishes_are_refused(options, words, systems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        build.build(plan(systems, tmp_path, **options))


def test_side_by_side_needs_two_systems(systems, tmp_path):
    with pytest.raises(UserError, match="two systems or more"):
        build.build(plan({"zebra": systems["zebra"]}, tmp_path, present="side"))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["zebra"], "not of the form NAME=DIR"),
        (["a={0}", "a={0}"], "names 'a' twice"),
        (["a={0}", "b={0}"], "to two systems"),
        (["a={0}/absent"], "does not exist"),
        (["a={1}"], "holds no video"),
    ],
)
def test_systems_are_named_folders_with_videos(pairs, words, systems, tmp_path, capsys):
    pairs = [pair.format(systems["zebra"], tmp_path) for pair in pairs]
    assert cli.main(["listen", "build", "--systems", *pairs, "--out", str(tmp_path / "site")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_clips_of_other_containers_become_mp4_with_the_same_pictures_and_sound(tmp_path):
    clip(tmp_path / "clip.mp4", size=64)
    source, copy = tmp_path / "clip.webm", tmp_path / "copy.mp4"
    click = np.zeros((1, 48_000), np.float32)
    click[0, 24_000:] = np.resize(5 * TONE, 24_000)
    with av.open(str(source), "w") as container:
        video, audio = container.add_stream("libvpx-vp9", rate=10), container.add_stream("libopus", rate=48_000)
        video.width = video.height = 64
        video.pix_fmt, audio.layout = "yuv420p", "mono"
        for image in decode.read_frames(tmp_path / "clip.mp4", 10, 64).frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        for k in range(0, 48_000, 960):
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(click[:, k : k + 960]), "flt", "mono")
            sound.sample_rate, sound.pts = 48_000, k
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    media.copy_clean(source, copy)
    assert media.examine(copy).seconds == pytest.approx(media.examine(source).seconds, abs=0.01)
    assert np.array_equal(decode.read_frames(copy, 10, 64).frames, decode.read_frames(source, 10, 64).frames)
    first = [np.flatnonzero(np.abs(decode.read_audio(path).wave) > 0.1)[0] for path in (source, copy)]
    assert first[0] == pytest.approx(first[1], abs=48)  # within the millisecond to which WebM rounds
