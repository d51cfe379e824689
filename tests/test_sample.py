"""``stav2a sample`` writes whole results or one sentence."""

import functools
import hashlib
import json
import pathlib
import shutil

import av
import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from stav2a_jax.cli import main
from stav2a_jax.commands.sample import Job, demo, unique
from stav2a_jax.video.decode import probe, read_audio
from stav2a_jax.video.mux import write_video

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]

AAC_FRAME = 1024 / 48_000  # seconds


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Compiled programs are shared between the calls, as between two runs of the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAV2A_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A silent video of 0.84 s."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (21, 32, 32, 3), np.uint8), 25.0)
    return path


@pytest.fixture
def sample(tiny_bundle):
    def call(*argv):
        return main(["sample", "--bundle", str(tiny_bundle), *map(str, argv)])

    return call


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            (p.pts, p.dts, p.duration, hashlib.md5(bytes(p)).hexdigest()) for p in container.demux(stream) if p.size
        ]


def test_one_video_becomes_a_film_a_sound_a_picture_and_a_record(sample, clip, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert sample("--video", clip, "--prompt", "a ball", "--out", out, "--seed", 5) == 0
    assert names(out) == ["clip.json", "clip.mp4", "clip.png", "clip.wav"]
    assert packets(out / "clip.mp4") == packets(clip)
    info, sound = probe(out / "clip.mp4"), read_audio(out / "clip.mp4")
    assert info.seconds == probe(clip).seconds == pytest.approx(0.84)
    assert abs(len(sound.wave) / sound.sample_rate - info.seconds) <= AAC_FRAME
    wave, rate = soundfile.read(out / "clip.wav")
    assert (wave.shape, rate) == ((round(0.84 * 16_000),), 16_000)
    with Image.open(out / "clip.png") as picture:
        assert picture.size == (1400, 900)
    record = json.loads((out / "clip.json").read_text())
    assert (record["prompt"], record["seed"], record["sample"], record["steps"]) == ("a ball", 5, 0, 2)
    assert (record["bundle"], record["seconds"], record["sampler"]) == ("tiny", pytest.approx(0.84), "dpmpp")
    assert all(pathlib.Path(name).is_file() for name in record["files"])
    assert all(0 <= t <= 0.84 for t in record["events"])
    said = capsys.readouterr()
    assert said.err == ""
    assert "clip.mp4" in said.out


def test_a_second_call_skips_and_force_makes_again_the_same(sample, clip, tmp_path, capsys):
    call = functools.partial(sample, "--video", clip, "--out", tmp_path, "--samples", 2, "--no-picture")
    assert call() == 0
    wanted = [f"clip.{k}{kind}" for k in (0, 1) for kind in (".json", ".mp4", ".wav")]
    assert names(tmp_path) == wanted
    sounds = [(tmp_path / f"clip.{k}.wav").read_bytes() for k in (0, 1)]
    assert sounds[0] != sounds[1]
    times = [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]
    capsys.readouterr()
    assert call() == 0
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())] == times
    assert "1 of 1 already in" in capsys.readouterr().out
    assert call("--force") == 0
    assert names(tmp_path) == wanted
    assert [(tmp_path / f"clip.{k}.wav").read_bytes() for k in (0, 1)] == sounds
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())] != times


def test_a_folder_is_done_but_for_what_cannot_be_read(sample, clip, tmp_path, capsys):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for name in ("a.mp4", "b.MP4"):
        shutil.copy(clip, videos / name)
    (videos / "broken.mp4").write_text("no video")
    (videos / "notes.txt").write_text("not looked at")
    call = functools.partial(sample, "--video", videos, "--out", out, "--no-picture")
    assert call() == 2
    error = capsys.readouterr().err
    assert "broken.mp4: is not a video" in error
    assert error.splitlines()[-1] == "stav2a: 1 of 3 videos could not be used; the sentences above say why"
    assert names(out) == ["a.json", "a.mp4", "a.wav", "b.json", "b.mp4", "b.wav"]
    (videos / "broken.mp4").unlink()
    assert call() == 0
    assert "2 of 2 already in" in capsys.readouterr().out


def test_a_list_gives_each_video_its_caption(sample, clip, tmp_path, capsys):
    for name in ("a/clip.mp4", "b/clip.mp4"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(clip, tmp_path / name)
    rows = [
        {"video_location": "a/clip.mp4", "captions": "a ball"},
        {"video_location": str(tmp_path / "b/clip.mp4"), "captions": "water"},
    ]
    listed, out = tmp_path / "list.jsonl", tmp_path / "out"
    listed.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert sample("--video", listed, "--out", out, "--no-picture") == 0
    prompts = {p.stem: json.loads(p.read_text())["prompt"] for p in out.glob("*.json")}
    assert prompts == {"clip": "a ball", "clip-2": "water"}
    assert (out / "clip.wav").read_bytes() != (out / "clip-2.wav").read_bytes()
    capsys.readouterr()
    assert sample("--video", listed, "--out", out, "--no-picture") == 0
    assert "2 of 2 already in" in capsys.readouterr().out


def test_without_a_video_the_clip_of_the_package_is_taken():
    plain, prompted = demo(None), demo("a bell")
    assert probe(plain.video).seconds > 1
    assert plain.prompt
    assert (prompted.video, prompted.prompt) == (plain.video, "a bell")


def test_equal_names_are_told_apart():
    jobs = [Job(pathlib.Path("x"), "", name) for name in ("a", "a", "a-2", "a", "b")]
    assert [job.name for job in unique(jobs)] == ["a", "a-2", "a-2-2", "a-3", "b"]


def bad_inputs(folder):
    """What is wrong, the arguments, and a part of the sentence."""
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "file").write_text("a regular file")
    (folder / "empty").mkdir()
    for name, content in {
        "broken": '{"video_location": "clip.mp4"}\n{"video_location": ',
        "nameless": '{"captions": "a ball"}',
        "numbers": "[1, 2]",
        "blank": "\n\n",
    }.items():
        (folder / f"{name}.jsonl").write_text(content)
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01")
    return {
        "no such file": (["--video", folder / "absent.mp4"], "no such file"),
        "no such list": (["--video", folder / "absent.jsonl"], "no such file"),
        "text": (["--video", folder / "text.mp4"], "is not a video"),
        "zero bytes": (["--video", folder / "zero.mp4"], "is not a video"),
        "empty folder": (["--video", folder / "empty"], "no video in the folder"),
        "broken line": (["--video", folder / "broken.jsonl"], "broken.jsonl, line 2"),
        "line without video": (["--video", folder / "nameless.jsonl"], "nameless.jsonl, line 1"),
        "line that is a list": (["--video", folder / "numbers.jsonl"], "numbers.jsonl, line 1"),
        "blank list": (["--video", folder / "blank.jsonl"], "lists no video"),
        "binary list": (["--video", folder / "binary.jsonl"], "cannot be read as a list"),
        "unknown bundle": (["--bundle", "absent"], "unknown bundle 'absent'"),
        "no steps": (["--steps", 0], "--steps must be at least 1, got 0"),
        "too many steps": (["--steps", 1001], "--steps must be at most 1000"),
        "no samples": (["--samples", 0], "--samples must be at least 1, got 0"),
        "negative seed": (["--seed", -1], "--seed must lie between 0"),
        "unknown sampler": (["--sampler", "dpmp"], "did you mean 'dpmpp'"),
        "folder below a file": (["--out", folder / "file" / "out"], "cannot write into"),
        "folder that is a file": (["--out", folder / "file"], "cannot write into"),
    }


BAD = (
    "no such file",
    "no such list",
    "text",
    "zero bytes",
    "empty folder",
    "broken line",
    "line without video",
    "line that is a list",
    "blank list",
    "binary list",
    "unknown bundle",
    "no steps",
    "too many steps",
    "no samples",
    "negative seed",
    "unknown sampler",
    "folder below a file",
    "folder that is a file",
)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_sentence_and_nothing_written(sample, clip, tmp_path, capsys, what):
    argv, words = bad_inputs(tmp_path)[what]
    before = sorted(tmp_path.rglob("*"))
    given = {"--video": clip, "--out": tmp_path / "out"} | dict(zip(argv[::2], argv[1::2], strict=True))
    assert sample(*(word for pair in given.items() for word in pair)) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("stav2a: ")
    assert said.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_every_bad_input_is_tried(tmp_path):
    assert tuple(bad_inputs(tmp_path)) == BAD


def test_a_result_never_takes_the_place_of_its_video(sample, clip, tmp_path, capsys):
    video = pathlib.Path(shutil.copy(clip, tmp_path / "mine.mp4"))
    assert sample("--video", video, "--out", tmp_path) == 2
    assert "would take the place of the video itself" in capsys.readouterr().err
    assert video.read_bytes() == clip.read_bytes()
    assert names(tmp_path) == ["mine.mp4"]
