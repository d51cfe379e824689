"""Raw videos become records: good ones exactly once, bad ones with a reason, whatever interrupts the work."""

import csv
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from stav2a_jax.audio.onsets import onset_times
from stav2a_jax.bundle import save_params
from stav2a_jax.cli import build_parser, main
from stav2a_jax.data import foley
from stav2a_jax.data.prepare import run as preparation
from stav2a_jax.data.prepare.captions import read_captions
from stav2a_jax.data.prepare.features import encoders_digest
from stav2a_jax.data.prepare.media import Dropped
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.source import Source, from_folder, from_foley, from_vggsound
from stav2a_jax.data.prepare.steps import REASONS, attempt, dropped
from stav2a_jax.data.prepare.store import read_chunk, read_header, write_chunk
from stav2a_jax.data.prepare.workers import Crashed, Workers
from stav2a_jax.data.records import open_records
from stav2a_jax.types import UserError
from stav2a_jax.video.sound import read_audio

# protobuf 6, which Apache Beam asks for, warns inside tensorflow-datasets
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")

GOOD = 6
prepare = functools.partial(preparation.prepare, workers=0)  # in this process: starting another takes seconds
_SPEC = importlib.util.spec_from_file_location(
    "prepare_drill", pathlib.Path(__file__).parents[1] / "benchmarks" / "prepare.py"
)
drill = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(drill)
BROKEN = drill.BROKEN
SETTINGS = PrepareSettings(av_align="measure", max_pixels=64 * 64, min_seconds=0.5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with six clips and the broken ones, the list, and captions of half of the clips."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "videos" / "part").mkdir(parents=True)
    rows, captions = [], []
    for i in range(GOOD):
        name = f"foley{i:06d}"
        file = (f"{name}_000030", f"part/{name}_30_40", name)[i % 3]  # as different people keep them
        drill.write_clip(folder / "videos" / f"{file}.mp4", i)
        rows.append((name, 30, "hammering wood", "test" if i == 4 else "train"))
        if i % 2:
            captions.append({"youtube_id": name, "start_time": 30, "caption": f"A hammer strikes, number {i}."})
    drill.write_broken(folder / "videos", huge=100)
    rows += [(name, 30 if name == "foley000000" else 0, "dog barking", "train") for name in BROKEN]
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in captions))
    return folder


def run(raw, out, bundle, workers=0, **changes):
    settings = dataclasses.replace(SETTINGS, bundle=bundle and str(bundle), **changes)
    listed = read_captions(raw / "captions.jsonl")
    source = from_vggsound(raw / "list.csv", raw / "videos")
    return prepare(source, out, settings, listed=listed, workers=workers, chunk=4)


@pytest.fixture(scope="module")
def made(raw, tiny_bundle, tmp_path_factory):
    """(folder, report) of a preparation by two processes."""
    out = tmp_path_factory.mktemp("set")
    return out, run(raw, out, tiny_bundle, workers=2)


def own_videos(raw, folder, count):
    """A folder with so many of the good clips, and settings that let them pass quickly."""
    folder.mkdir()
    for i, path in enumerate(sorted((raw / "videos").rglob("foley*.mp4"))[:count]):
        shutil.copy(path, folder / f"{i}.mp4")
    return from_folder(folder), dataclasses.replace(SETTINGS, bundle=None, av_align="skip")


def records(out):
    return {record["id"]: record for split in ("train", "test") for record in open_records(out, split)}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=k == "av_align") for k in a)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_good_clips_become_records_and_every_broken_one_has_its_reason(made):
    out, report = made
    assert (report.asked, report.kept, report.splits) == (GOOD + len(BROKEN), GOOD, {"test": 1, "train": GOOD - 1})
    assert sorted(records(out)) == [f"foley{i:06d}_000030" for i in range(GOOD)]
    reasons = {drop.id.split("_0000")[0]: drop.reason for drop in report.drops}
    expected = {("line_15" if name == "a/../b" else name): reason for name, reason in BROKEN.items()}
    assert reasons == expected
    assert set(BROKEN.values()) < set(REASONS)


def test_the_report_adds_up(made):
    out, report = made
    with open(out / "dropped.csv") as file:
        assert len(list(csv.DictReader(file))) == len(report.drops) == report.asked - report.kept
    for before, after in zip(report.steps, report.steps[1:]):
        assert after.clips == before.kept
    text = (out / "report.md").read_text()
    assert f"{report.asked} clips asked for, {report.kept} kept (test 1, train 5)" in text
    assert report.captions == {"list": 3, "label": 3}


def test_a_record_holds_the_clip(made, tiny_model):
    record = records(made[0])["foley000001_000030"]
    clip = foley.make_clip(0, "test", 1, seconds=2.0)
    assert (record["caption"], record["caption_source"]) == ("A hammer strikes, number 1.", "list")
    assert record["seconds"] == pytest.approx(2.0)
    wave = foley.render_audio(clip, 16_000)
    assert record["wave"].shape == wave.shape
    assert np.corrcoef(record["wave"], wave)[0, 1] > 0.99  # AAC in between
    np.testing.assert_allclose(record["onsets"], onset_times(record["wave"] / 32768, 16_000), atol=0.05)
    rows = 96  # 50 latent frames and a second of silence, rounded up to 32
    assert record["moments"].shape == (rows, tiny_model.latent.bins, 16)
    assert record["video"].shape == (rows, tiny_model.video.features)
    assert {record[k].dtype for k in ("moments", "video", "text")} == {np.dtype(np.float16)}


def test_a_caption_that_is_missing_is_the_class_label(made):
    record = records(made[0])["foley000002_000030"]
    assert (record["caption"], record["caption_source"]) == ("The sound of hammering wood.", "label")
    assert record["label"] == "hammering wood"


def test_features_do_not_depend_on_the_batch(made, raw, tiny_bundle, tmp_path):
    run(raw, tmp_path, tiny_bundle, batch=3)
    for name, record in records(tmp_path).items():
        other = records(made[0])[name]
        for field in ("video", "text", "moments"):
            scale = np.abs(other[field].astype(np.float32)).max()
            np.testing.assert_allclose(record[field], other[field], atol=2e-3 * scale)


def test_a_second_run_does_nothing(made, raw, tiny_bundle):
    out, first = made
    before = times(out)
    second = run(raw, out, tiny_bundle)
    assert (first.made, second.made) == (True, False)
    assert times(out) == before
    assert dataclasses.replace(second, made=True) == first


def test_a_changed_video_is_done_again_and_nothing_else_is(made, raw, tiny_bundle, tmp_path):
    out, videos = tmp_path / "set", tmp_path / "videos"
    shutil.copytree(raw / "videos", videos)
    settings = dataclasses.replace(SETTINGS, bundle=None)
    source = from_vggsound(raw / "list.csv", videos)
    prepare(source, out, settings, chunk=4)
    before, old = times(out / "steps"), records(out)
    drill.write_clip(videos / "foley000003_000030.mp4", 7)
    report = prepare(source, out, settings, chunk=4)
    changed = {path.name for path, when in times(out / "steps").items() if before[path] != when}
    assert {name.split(".")[0] for name in changed} == {"000000"}
    new = records(out)
    assert (report.made, report.kept) == (True, GOOD)
    assert [name for name in new if not same(new[name], old[name])] == ["foley000003_000030"]


def test_filters_drop_what_they_say_and_count_it(raw, tmp_path):
    report = run(raw, tmp_path / "a", None, av_align="filter", min_av_align=0.0)
    scores = {name: float(r["av_align"]) for name, r in records(tmp_path / "a").items()}
    limit = sorted(scores.values())[2] + 1e-6
    again = run(raw, tmp_path / "a", None, av_align="filter", min_av_align=limit)
    assert report.kept - again.reasons()["av_align"] == again.kept == sum(s >= limit for s in scores.values())
    assert set(records(tmp_path / "a")) == {name for name, s in scores.items() if s >= limit}


def test_a_caption_with_speech_is_dropped_unless_it_shall_be_kept(raw, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for i, text in enumerate(("A man is talking beside a river.", "A river flows.")):
        shutil.copy(raw / "videos" / "foley000000_000030.mp4", videos / f"{i}.mp4")
        (videos / f"{i}.txt").write_text(text)
    settings = dataclasses.replace(SETTINGS, bundle=None)
    report = prepare(from_folder(videos), tmp_path / "set", settings)
    assert [(d.id, d.reason) for d in report.drops] == [("0", "speech")]
    kept = prepare(from_folder(videos), tmp_path / "set", dataclasses.replace(settings, drop_speech=False))
    assert kept.kept == 2


def test_a_folder_of_own_videos_needs_no_list(raw, tmp_path):
    for split in ("train", "valid"):
        (tmp_path / "own" / split).mkdir(parents=True)
        shutil.copy(raw / "videos" / "foley000000_000030.mp4", tmp_path / "own" / split / "ein Lärm: 1.mp4")
    (tmp_path / "own" / "train" / "folder.mp4").mkdir()
    os.close(os.open(bytes(tmp_path / "own") + b"/\xff.mp4", os.O_CREAT))
    report = prepare(from_folder(tmp_path / "own"), tmp_path / "set", dataclasses.replace(SETTINGS, bundle=None))
    assert report.splits == {"train": 1, "valid": 1}
    assert open_records(tmp_path / "set", "valid")[0]["id"] == "valid/ein Lärm: 1"
    assert {drop.reason for drop in report.drops} == {"bad_name", "not_a_file"}


def test_generated_clips_are_a_set_of_their_own(tmp_path):
    settings = PrepareSettings(bundle=None, frames="png", frame_fps=5.0, frame_size=16)
    report = prepare(from_foley([("train", 2), ("valid", 1)], seed=3), tmp_path, settings)
    assert report.splits == {"train": 2, "valid": 1}
    assert (tmp_path / "foley").is_dir()
    record = next(r for r in open_records(tmp_path, "train") if r["id"] == "foley_3_train_000001")
    clip = foley.make_clip(3, "train", 1)
    assert record["caption"] == clip.caption
    np.testing.assert_allclose(record["wave"] / 32768, foley.render_audio(clip, 16_000), atol=1 / 32768)
    assert np.isnan(record["av_align"])
    with pytest.raises(UserError, match="holds the set 'foley'"):
        prepare(Source("vggsound", [], 0), tmp_path, settings)


def test_a_set_that_is_being_prepared_is_left_alone(raw, tmp_path):
    from stav2a_jax.data.prepare.store import locked

    with locked(tmp_path), pytest.raises(UserError, match="another preparation is at work"):
        run(raw, tmp_path, None)


def test_nothing_left_is_an_error_and_leaves_no_set(raw, tmp_path):
    with pytest.raises(UserError, match="no clip is left of 16"):
        run(raw, tmp_path, None, min_seconds=10.0)
    assert not (tmp_path / "manifest.json").exists()
    assert (tmp_path / "dropped.csv").read_text().count(",too_short,") == GOOD + 2
    assert "16 clips asked for, 0 kept" in (tmp_path / "report.md").read_text()


def test_damage_is_found_and_named(raw, tmp_path, capsys):
    run(raw, tmp_path, None)
    assert main(["prepare", "--out", str(tmp_path), "--verify"]) == 0
    shard = next(tmp_path.glob("vggsound/*/*train*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["prepare", "--out", str(tmp_path), "--verify"]) == 2
    assert f"{shard.name} has another checksum" in capsys.readouterr().err
    (tmp_path / "manifest.json").unlink()
    arrays = tmp_path / "steps" / "features" / "000000.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="wrong checksum"):
        run(raw, tmp_path, None)


def test_the_command_prepares_and_says_what_it_dropped(raw, tmp_path, capsys):
    command = ["prepare", "--csv", str(raw / "list.csv"), "--videos", str(raw / "videos"), "--out", str(tmp_path)]
    command += ["--bundle", "none", "--av-align", "skip", "--min-seconds", "0.5", "--workers", "1"]
    assert main([*command, "--captions", str(raw / "captions.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "dropped 1: truncated" in said
    assert "7 of 16 clips" in said  # the huge one is within the usual limit
    assert main([*command, "--captions", str(raw / "captions.jsonl")]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to prepare"),
        (["--videos", "/nowhere/videos"], "no such folder"),
        (["--videos", ".", "--csv", "/nowhere/list.csv"], "no such file"),
        (["--foley", "train=none"], "expected a split"),
        (["--foley", "train=1", "--videos", "."], "makes its own clips"),
        (["--foley", "train=1", "--bundle", "nothing"], "unknown bundle"),
        (["--foley", "train=1", "--min-seconds", "70"], "must lie between"),
        (["--verify"], "has no manifest.json"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, message, tmp_path, capsys):
    assert main(["prepare", "--out", str(tmp_path / "set"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "set" / "steps").exists()


def test_a_cache_that_cannot_be_written_ends_the_run_and_no_clip(raw, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 1)
    settings = dataclasses.replace(settings, av_align="measure")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/.* cannot be written .* choose another folder"):
        prepare(source, tmp_path / "set", settings, flow_cache=tmp_path / "file")
    report = prepare(source, tmp_path / "set", settings, flow_cache=tmp_path / "cache")
    assert (report.kept, report.drops) == (1, ())


def test_a_clip_that_failed_is_tried_again_and_no_other(raw, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 3)
    prepare(source, tmp_path / "set", settings)
    path = tmp_path / "set" / "steps" / "onsets" / "000000.jsonl"
    header, rows = read_header(path), read_chunk(path)
    onsets = rows[1]["onsets"]
    changed = [{**rows[0], "onsets": []}, dropped(rows[1], "failed", "OSError: no space left on device"), rows[2]]
    write_chunk(path, header.key, changed, header.seconds)
    assert prepare(source, tmp_path / "set", settings).kept == 3
    assert [row["onsets"] for row in read_chunk(path)] == [[], onsets, rows[2]["onsets"]]


@pytest.mark.parametrize(
    ("error", "reason", "again"),
    [
        (PermissionError(13, "no"), "unreadable", True),
        (OSError(5, "Input/output error"), "unreadable", True),
        (UserError("is no video"), "unreadable", False),
        (MemoryError("179 GiB"), "failed", True),
        (KeyError("a fault of ours"), "failed", True),
    ],
)
def test_what_the_machine_did_to_a_clip_is_not_for_ever(error, reason, again):
    def step(row, context):
        try:
            raise error
        except (OSError, UserError) as found:
            raise Dropped("unreadable", str(found)) from None

    end = attempt(step, {"id": "a", "split": "train"}, None)
    assert (end["dropped"]["reason"], end.get("again", False)) == (reason, again)


def write_jump(path, seconds):
    """A second of pictures, and two half seconds of a tone, the second of them ``seconds`` too late."""
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = np.int16(8000 * np.sin(np.arange(8000) / 10))[None]
        for start in (0.0, 0.5 + seconds):
            frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, round(start * 16_000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def test_a_jump_in_the_clock_of_the_sound_is_unreadable_and_ends_no_run(raw, tmp_path):
    _, settings = own_videos(raw, tmp_path / "videos", 1)
    write_jump(tmp_path / "videos" / "jump.mkv", 1e6)
    report = prepare(from_folder(tmp_path / "videos"), tmp_path / "set", settings)
    ((name, step, reason, detail),) = [dataclasses.astuple(drop) for drop in report.drops]
    assert (name, step, reason, report.kept) == ("jump", "onsets", "unreadable", 1)
    assert "jump by 1000000 s" in detail


def test_a_hole_in_the_sound_is_silence(tmp_path):
    write_jump(tmp_path / "hole.mkv", 60.0)
    wave = read_audio(tmp_path / "hole.mkv").wave
    assert len(wave) == 61 * 16_000
    assert not wave[8000:-8000].any()
    assert np.array_equal(wave[:8000], wave[-8000:])


def test_a_vae_and_weights_of_one_name_are_two_files(tiny_bundle, tmp_path):
    settings = dataclasses.replace(SETTINGS, bundle=str(shutil.copytree(tiny_bundle, tmp_path / "bundle")))
    (tmp_path / "weights.safetensors").write_bytes(b"a VAE")
    digests = [encoders_digest(settings, tmp_path / "weights.safetensors")]
    (tmp_path / "bundle" / "weights.safetensors").write_bytes(b"others")
    digests.append(encoders_digest(settings, tmp_path / "weights.safetensors"))
    (tmp_path / "weights.safetensors").write_bytes(b"another VAE")
    digests.append(encoders_digest(settings, tmp_path / "weights.safetensors"))
    assert len(set(digests)) == 3


def test_the_metadata_are_of_the_last_settings(raw, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 1)
    prepare(source, tmp_path / "set", settings)
    prepare(source, tmp_path / "set", dataclasses.replace(settings, frame_fps=5.0, min_av_align=0.1))
    info = open_records(tmp_path / "set", "train").info
    assert (info["video_fps"], info["settings"]["min_av_align"]) == (5.0, 0.1)


def test_a_vae_without_an_encoder_is_refused_before_any_work(raw, tiny_bundle, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 1)
    save_params(tmp_path / "vae.safetensors", {"autoencoder": {"decoder": {"x": np.zeros(1)}}})
    settings = dataclasses.replace(settings, bundle=str(tiny_bundle))
    with pytest.raises(UserError, match="holds no encoder"):
        prepare(source, tmp_path / "set", settings, vae=tmp_path / "vae.safetensors")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("text", ["{}", "[]", '{"key": "", "set": "foley", "splits": {}, "files": {"a": {}}}', "{"])
def test_a_damaged_manifest_is_one_sentence(text, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(text)
    for more in (["--verify"], ["--foley", "train=1", "--bundle", "none"]):
        assert main(["prepare", "--out", str(tmp_path), *more]) == 2
        said = capsys.readouterr().err
        assert "manifest.json is damaged" in said
        assert len(said.splitlines()) == 1


def test_a_file_is_no_set(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["prepare", "--out", str(tmp_path / "file"), "--verify"]) == 2
    assert "has no manifest.json" in capsys.readouterr().err


def test_files_of_others_are_left_alone(raw, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 1)
    strangers = [tmp_path / "set" / "steps" / "probe" / name for name in (".DS_Store", ".nfs00a1", "1e3.jsonl")]
    strangers[0].parent.mkdir(parents=True)
    for stranger in strangers:
        stranger.touch()
    left = strangers[0].parent / ".000000.jsonl.4242.part"
    left.touch()
    prepare(source, tmp_path / "set", settings)
    assert all(stranger.exists() for stranger in strangers)
    assert not left.exists()


def test_a_shorter_list_takes_the_place_of_a_longer_one_when_it_is_done(raw, tmp_path):
    source, settings = own_videos(raw, tmp_path / "videos", 3)
    prepare(source, tmp_path / "set", settings, chunk=1)
    shorter, files = source._replace(rows=source.rows[:1]), times(tmp_path / "set" / "steps")
    with pytest.raises(UserError, match="no clip is left"):
        prepare(shorter, tmp_path / "set", dataclasses.replace(settings, min_seconds=10.0), chunk=1)
    now = times(tmp_path / "set" / "steps")
    assert all(now[path] == when for path, when in files.items() if not path.name.startswith("000000."))
    assert prepare(shorter, tmp_path / "set", settings, chunk=1).kept == 1
    assert {path.name.split(".")[0] for path in times(tmp_path / "set" / "steps")} == {"000000"}


def test_options_of_beam_are_given_with_an_equals_sign(capsys):
    given = build_parser().parse_args(["prepare", "--out", "set", "--beam=--runner=DirectRunner"])
    assert given.beam == "--runner=DirectRunner"
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert '--beam="--runner=DirectRunner"' in "".join(capsys.readouterr().out.split())


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Beam is installed")
def test_without_beam_its_option_says_what_to_install(tmp_path, capsys):
    command = ["prepare", "--foley", "train=1", "--bundle", "none", "--out", str(tmp_path / "set")]
    assert main([*command, "--beam=--runner=DirectRunner"]) == 2
    assert capsys.readouterr().err == 'stav2a: --beam needs Apache Beam; pip install "stav2a_jax[beam]".\n'


KILLED_AT = ("onsets/000000.jsonl", "features/000000.safetensors")


@pytest.mark.long
@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_killed_preparation_loses_and_doubles_nothing(moment, made, raw, tiny_bundle, tmp_path):
    command = f"""
import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import pathlib, test_prepare
test_prepare.run(pathlib.Path({str(raw)!r}), pathlib.Path({str(tmp_path)!r}), {str(tiny_bundle)!r}, workers=1)
"""
    process = subprocess.Popen([sys.executable, "-c", command])
    while process.poll() is None and not (tmp_path / "steps" / moment).exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # neither at its end before, nor dead of something else
    report = run(raw, tmp_path, tiny_bundle)
    whole, again = records(made[0]), records(tmp_path)
    assert len(open_records(tmp_path, "train")) + len(open_records(tmp_path, "test")) == GOOD
    assert whole.keys() == again.keys()
    assert all(same(whole[name], again[name]) for name in whole)
    assert report.drops == made[1].drops
    assert not list(tmp_path.rglob("*.part"))


def die_on_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.parametrize("count", [1, 2])
def test_a_crash_of_a_decoder_costs_one_clip(count):
    with Workers(count) as workers:
        found = dict(workers.each(die_on_three, range(5)))
    assert isinstance(found.pop(3), Crashed)
    assert found == {0: 0, 1: 1, 2: 4, 4: 16}


def own_pid(item):
    return os.getpid()


def test_one_worker_is_a_process_of_its_own():
    """So a crash is survived, and its core seconds are not those of this process, which encodes meanwhile."""
    with Workers(1) as workers:
        assert dict(workers.each(own_pid, [0]))[0] != os.getpid()


def die_or_meet(folder, number):
    """0 dies; the last ones wait for one another. Returns whether two processes were at work."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number < 4:
        time.sleep(0.3)
        return False
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 10
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return len(list(folder.iterdir())) > 1


def test_after_a_crash_all_processes_are_at_work_again(tmp_path):
    with Workers(2) as workers:
        found = dict(workers.each(functools.partial(die_or_meet, tmp_path), range(10)))
    assert isinstance(found[0], Crashed)
    assert len(found) == 10
    assert found[8]
    assert found[9]


def test_beam_gives_the_same_records(made, raw, tiny_bundle, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    from stav2a_jax.data.prepare.beam import prepare_with_beam

    settings = dataclasses.replace(SETTINGS, bundle=str(tiny_bundle))
    source = from_vggsound(raw / "list.csv", raw / "videos")
    listed = read_captions(raw / "captions.jsonl")
    (tmp_path / ".beam").mkdir()  # a pipeline that failed
    (tmp_path / ".beam" / "dropped-00000-of-00001.jsonl").write_text('{"id": "x", "step": "probe"}\n')
    (tmp_path / ".beam" / "kept-00000-of-00002.jsonl").write_text('{"id": "x", "split": "valid"}\n')
    report = prepare_with_beam(source, tmp_path, settings, ["--runner=DirectRunner"], listed=listed)
    whole, again = records(made[0]), records(tmp_path)
    assert whole.keys() == again.keys()
    assert all(same(whole[name], again[name]) for name in whole)
    assert sorted(report.drops, key=str) == sorted(made[1].drops, key=str)
    assert not (tmp_path / ".beam").exists()


def test_beam_leaves_out_a_split_of_which_nothing_is_left(raw, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    for split, name in (("train", "foley000000_000030"), ("test", "mute________000000")):
        (tmp_path / "videos" / split).mkdir(parents=True)
        shutil.copy(raw / "videos" / f"{name}.mp4", tmp_path / "videos" / split)
    command = ["prepare", "--videos", str(tmp_path / "videos"), "--bundle", "none", "--av-align", "skip"]
    command += ["--out", str(tmp_path / "set"), "--beam=--runner=DirectRunner"]
    assert main(command) == 0
    assert "1 of 2 clips" in capsys.readouterr().out
    assert len(open_records(tmp_path / "set", "train")) == 1
    assert main([*command, "--min-seconds", "10"]) == 2
    assert "no clip is left of 2" in capsys.readouterr().err
    assert "no_audio" in (tmp_path / "set" / "dropped.csv").read_text()
