"""``stav2a evaluate`` and ``stav2a tables`` on small folders, from the files to the reports."""

import json
import pathlib
import shutil
import time

import numpy as np
import pytest
import soundfile

from stav2a_jax.cli import main
from stav2a_jax.evaluation import files, tasks
from stav2a_jax.evaluation.inputs import Options
from stav2a_jax.evaluation.report import read_json
from stav2a_jax.evaluation.run import evaluate
from stav2a_jax.evaluation.scores import Draws, of_backbone
from stav2a_jax.evaluation.tables import System, all_tables
from stav2a_jax.metrics.distribution import frechet_distance
from stav2a_jax.types import UserError
from stav2a_jax.video.mux import write_video

TIMES = {"a": [0.3, 0.8, 1.5], "b": [0.5, 1.1], "c": [0.2, 0.7, 1.2, 1.7]}


def knocks(times, rate=16_000, seconds=2.0):
    t = np.arange(round(seconds * rate)) / rate
    wave = np.zeros(len(t))
    for k, start in enumerate(times):
        wave += (t >= start) * 0.5 * np.exp(-25 * np.maximum(t - start, 0)) * np.sin(2 * np.pi * (400 + 90 * k) * t)
    return wave.astype(np.float32)


def blinks(times, frames=50, size=24):
    """A textured square that jumps at the times, 25 pictures a second."""
    rng = np.random.default_rng(0)
    back, patch = rng.integers(0, 60, (size, size, 3)), rng.integers(150, 255, (8, 8, 3))
    film = np.repeat(back[None].astype(np.uint8), frames, axis=0)
    for i in range(frames):
        x = 2 + 4 * (sum(i / 25 >= t for t in times) % 3)
        film[i, 8:16, x : x + 8] = patch
    return film


@pytest.fixture
def folders(tmp_path):
    """Three clips, true ones as films with sound, generated ones as sounds 30 ms late."""
    (tmp_path / "ref").mkdir()
    (tmp_path / "gen").mkdir()
    for name, times in TIMES.items():
        write_video(tmp_path / "ref" / f"{name}.mp4", blinks(times), 25.0, knocks(times), 16_000)
        soundfile.write(tmp_path / "gen" / f"{name}.wav", knocks([t + 0.03 for t in times]), 16_000)
    return tmp_path


def options(root, **more):
    settings = {"generated": root / "gen", "reference": root / "ref", "cache": root / "cache", "metrics": ("aa",)}
    return Options(**settings | {"draws": Draws(resamples=200)} | more)


def test_every_number_says_where_it_comes_from(folders):
    report, work, pairs = evaluate(options(folders, metrics=("aa", "av"), crop=1.9))
    assert [pair.name for pair in pairs] == ["a", "b", "c"]
    assert set(report["metrics"]) == {
        f"{k}_{m}" for k in ("aa", "av") for m in ("released", "f1", "iou", "f1_corrected")
    }
    for value in report["metrics"].values():
        assert {"value", "interval", "n", "per_clip", "family", "backbone", "checksum", "sample_rate", "crop"} <= set(
            value
        )
        assert (value["n"], value["crop"], value["sample_rate"]) == (3, 1.9, 22_050)
        assert set(value["per_clip"]) == set(TIMES)
        low, high = value["interval"]
        assert low <= value["value"] <= high
    assert report["metrics"]["aa_f1"]["value"] == 1
    assert [row["window"] for row in report["curves"]["aa"]] == [0.025, 0.05, 0.1, 0.2]
    assert work == {"sounds": [6, 0], "optical flow": [3, 0]}
    json.dumps(report, allow_nan=False)


def test_a_second_system_on_the_same_films_costs_no_flow(folders):
    first = evaluate(options(folders, metrics=("aa", "av")))
    shutil.copytree(folders / "gen", folders / "gen2")
    soundfile.write(folders / "gen2" / "a.wav", knocks([0.4]), 16_000)
    for name in TIMES:  # a film is known by its pictures, whatever it is called and whatever is heard
        shutil.copy(folders / "ref" / f"{name}.mp4", folders / "gen2" / f"{name}.mp4")
    second = evaluate(options(folders, metrics=("aa", "av"), generated=folders / "gen2", videos=folders / "gen2"))
    assert second.work == {"sounds": [1, 5], "optical flow": [0, 3]}
    again = evaluate(options(folders, metrics=("aa", "av")))
    assert again.work == {"sounds": [0, 6], "optical flow": [0, 3]}
    assert again.report == first.report


@pytest.mark.long
def test_two_hundred_pairs_of_ten_seconds_need_less_than_twenty_seconds_of_two_cores(tmp_path):
    """A quarter of 200 pairs in a quarter of 20 s of two cores, counted as processor time: other work does not matter.

    Everything that aa costs grows with the number of pairs; chance levels are of 10,000 pairs of 200 clips at most.
    """
    rng, count = np.random.default_rng(0), 50
    for side in ("gen", "ref"):
        (tmp_path / side).mkdir()
        for i in range(count):
            times = np.sort(rng.uniform(0, 10, 20))
            soundfile.write(tmp_path / side / f"{i}.wav", knocks(times, seconds=10.0), 16_000)
    tasks.sound(tmp_path / "gen" / "0.wav", None)  # what is compiled at the first call is not counted
    start = time.process_time()
    report = evaluate(options(tmp_path, draws=Draws())).report
    assert report["used"] == count
    assert time.process_time() - start < 2 * 20 * count / 200


def test_a_changed_file_of_the_same_name_is_measured_again(folders):
    before = evaluate(options(folders)).report["metrics"]["aa_f1"]["per_clip"]["a"]
    soundfile.write(folders / "gen" / "a.wav", knocks([0.05, 1.0, 1.2]), 16_000)
    after = evaluate(options(folders))
    assert after.work["sounds"] == [1, 5]
    assert after.report["metrics"]["aa_f1"]["per_clip"]["a"] < before


def test_an_interrupted_run_goes_on_where_it_was(folders):
    def stop(what, done, total):
        if (what, done) == ("sounds", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(options(folders), stop)
    assert evaluate(options(folders)).work["sounds"] == [2, 4]


def test_processes_measure_what_one_process_measures(tmp_path):
    for i in range(8):
        soundfile.write(tmp_path / f"{i}.wav", knocks([0.3 + 0.1 * i, 1.4]), 16_000)
    (tmp_path / "7.wav").write_bytes(b"")
    todo = [tasks.Task("sound", tmp_path / f"{i}.wav", (None,)) for i in range(8)]
    alone, together = (dict(tasks.run_all(todo, workers)) for workers in (1, 2))
    assert set(together) == set(range(8))
    assert isinstance(together[7], str)
    assert alone[7] == together[7]
    for i in range(7):
        np.testing.assert_array_equal(alone[i]["onsets"], together[i]["onsets"])


def test_a_damaged_cache_entry_is_made_again(folders):
    evaluate(options(folders))
    entry = next((folders / "cache").rglob("*.npz"))
    entry.write_bytes(entry.read_bytes()[:50])
    assert evaluate(options(folders)).work["sounds"] == [1, 5]


def test_files_without_a_partner_are_an_error_that_names_them(folders):
    (folders / "gen" / "a.wav").rename(folders / "gen" / "d.wav")
    with pytest.raises(UserError, match=r"2 pairs\); missing: a in .*gen, d in .*ref"):
        evaluate(options(folders))
    shutil.copy(folders / "gen" / "d.wav", folders / "gen" / "d.flac")
    with pytest.raises(UserError, match=r"two files for one name: d.flac and d.wav"):
        evaluate(options(folders))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_and_number_of_channels_is_read(rate, tmp_path):
    wave = knocks([0.5, 1.0], rate)
    soundfile.write(tmp_path / "mono.wav", wave, rate)
    soundfile.write(tmp_path / "stereo.wav", np.stack([wave, 0.5 * wave], axis=1), rate)
    mono, stereo = (tasks.sound(tmp_path / f"{n}.wav", None) for n in ("mono", "stereo"))
    assert (int(mono["rate"]), int(stereo["channels"])) == (rate, 2)
    assert len(mono["onsets"]) == len(stereo["onsets"]) == 2
    for backbone, shape in (("panns", (201, 64)), ("vggish", (2, 96, 64)), ("soundnet", (441_000,))):
        assert tasks.network_input(tmp_path / "stereo.wav", None, backbone)["input"].shape == shape
    # networks of the release hear the first channel, onsets are of the mean
    first = [tasks.network_input(tmp_path / f"{n}.wav", None, "panns")["input"] for n in ("mono", "stereo")]
    np.testing.assert_allclose(*first, atol=0.1)


def test_bad_sounds_are_named_and_none_is_replaced(tmp_path):
    good = knocks([0.5, 1.2])
    bad = {
        "silent": (np.zeros(32_000), "generated: silent"),
        "clipped": (np.clip(40 * good, -1, 1), "generated: clipped"),
        "short": (good[:16_000], "lengths differ: generated 1.00 s, reference 2.00 s"),
        "good": (good, None),
    }
    failing = ("empty", "cut", "text", "nothing", "infinite")
    for folder in ("gen", "ref"):
        (tmp_path / folder).mkdir()
        for name in (*bad, *failing, "broken"):
            soundfile.write(tmp_path / folder / f"{name}.wav", good, 16_000)
    for name, (wave, _) in bad.items():
        soundfile.write(tmp_path / "gen" / f"{name}.wav", wave, 16_000)
    whole = (tmp_path / "ref" / "good.wav").read_bytes()
    contents = {"cut": whole[:30], "text": b"hello", "nothing": b"", "broken": whole[:20_000]}
    for name, content in contents.items():
        (tmp_path / "gen" / f"{name}.wav").write_bytes(content)
    soundfile.write(tmp_path / "gen" / "empty.wav", good[:0], 16_000)
    soundfile.write(tmp_path / "gen" / "infinite.wav", np.full(32_000, np.inf), 16_000, subtype="FLOAT")
    report = evaluate(options(tmp_path)).report
    assert set(report["failed"]) == set(failing)
    assert all(reason.startswith("generated: ") for reason in report["failed"].values())
    for name, (_, text) in bad.items():
        assert text is None or any(note.startswith(text) for note in report["notes"][name]), name
    assert "good" not in report["notes"]
    assert any("cut short" in note for note in report["notes"]["broken"])
    assert (report["pairs"], report["used"]) == (10, 5)
    assert set(report["clips"]) == {*bad, "broken"} == set(report["metrics"]["aa_f1"]["per_clip"])
    assert report["metrics"]["aa_released"]["per_clip"]["silent"] == 0


def test_pairs_without_any_onset_are_undefined_and_counted(folders):
    for folder in ("gen", "ref"):
        soundfile.write(folders / folder / "quiet.wav", np.zeros(32_000), 16_000)
    metric = evaluate(options(folders)).report["metrics"]["aa_f1"]
    assert (metric["n"], metric["undefined"], metric["per_clip"]["quiet"], metric["value"]) == (3, 1, None, 1)


def test_only_unreadable_files_are_an_error(folders):
    for name in TIMES:
        (folders / "gen" / f"{name}.wav").write_bytes(b"")
    with pytest.raises(UserError, match="not one pair could be read: a "):
        evaluate(options(folders))


def test_a_broken_film_costs_its_av_score_only(folders):
    soundfile.write(folders / "ref" / "a.wav", knocks(TIMES["a"]), 16_000)
    (folders / "ref" / "a.mp4").write_bytes(b"no film")
    report = evaluate(options(folders, metrics=("aa", "av"))).report
    assert (report["metrics"]["aa_f1"]["n"], report["metrics"]["av_f1"]["n"]) == (3, 2)
    assert report["metrics"]["av_f1"]["undefined"] == 1
    assert report["notes"]["a"][0].startswith("film: ")


def test_a_metric_without_its_input_is_named_and_the_others_run(folders):
    report = evaluate(options(folders, metrics=None)).report
    assert "aa_f1" in report["metrics"]
    assert "Cnn14_16k" in report["skipped"]["panns"]
    assert "vggish-10086976.pth" in report["skipped"]["vggish"]
    assert {"events", "clap"} <= set(report["skipped"])
    for group, needs in (("events", "--events FILE"), ("clap", "--captions FILE")):
        with pytest.raises(UserError, match=needs):
            evaluate(options(folders, metrics=(group,)))
    with pytest.raises(UserError, match=r"none of the wanted metrics .* vggish-10086976.pth"):
        evaluate(options(folders, metrics=("fad",)))
    (folders / "ref" / "a.mp4").unlink()
    soundfile.write(folders / "ref" / "a.wav", knocks(TIMES["a"]), 16_000)
    with pytest.raises(UserError, match="there is none of a "):
        evaluate(options(folders, metrics=("av",)))


def test_true_times_classes_and_scores_of_others_are_taken_in(folders):
    (folders / "events.json").write_text(json.dumps(TIMES))
    (folders / "classes.csv").write_text("name,class\na,wood\nb,wood\nc,glass\n")
    lines = [json.dumps({"location": f"/x/{n}.wav", "q_score": 0.1 * k}) for k, n in enumerate(TIMES)]
    (folders / "pam.jsonl").write_text("\n".join(lines))
    report = evaluate(
        options(
            folders,
            metrics=("aa", "events"),
            events=folders / "events.json",
            classes=folders / "classes.csv",
            scores={"pam": folders / "pam.jsonl"},
        )
    ).report
    assert report["metrics"]["event_f1"]["value"] == 1
    assert 20 < report["metrics"]["event_offset"]["value"] < 40
    assert report["metrics"]["pam"]["value"] == pytest.approx(0.1)
    assert report["metrics"]["pam"]["family"] == "imported"
    assert (report["by_class"]["wood"]["aa_f1"]["n"], report["by_class"]["glass"]["aa_f1"]["n"]) == (2, 1)
    (folders / "events.json").write_text(json.dumps({"a": [1]}))
    with pytest.raises(UserError, match="no event times for b, c"):
        evaluate(options(folders, events=folders / "events.json"))
    with pytest.raises(UserError, match="belongs to a metric"):
        evaluate(options(folders, scores={"aa_f1": folders / "pam.jsonl"}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"a": "A dog."}'),
        ("x.csv", "name,caption\na,A dog.\n"),
        ("x.jsonl", '{"location":"/y/a.wav","captions":"A dog."}'),
    ],
)
def test_captions_come_in_three_forms(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert files.read_column(tmp_path / name, "caption", ["a"]) == {"a": "A dog."}
    with pytest.raises(UserError, match="no caption for b"):
        files.read_column(tmp_path / name, "caption", ["a", "b"])
    (tmp_path / name).write_text("[1, ")
    with pytest.raises(UserError, match=r"cannot be read|no caption"):
        files.read_column(tmp_path / name, "caption", ["a"])


def test_the_command_writes_a_report_that_stands_alone(folders, capsys):
    (folders / "classes.json").write_text(json.dumps(dict.fromkeys(TIMES, "<b>wood</b>")))
    where = [
        "--generated",
        str(folders / "gen"),
        "--reference",
        str(folders / "ref"),
        "--cache",
        str(folders / "cache"),
    ]
    out = folders / "report"
    more = ["--metrics", "aa", "--classes", str(folders / "classes.json"), "--jobs", "1", "--resamples", "100"]
    assert main(["evaluate", *where, "--out", str(out), *more]) == 0
    assert "aa_f1_corrected" in capsys.readouterr().out
    report = read_json(out)
    assert report["metrics"]["aa_f1"]["n"] == 3
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page
    assert "<b>wood" not in page
    assert "plots/onset_tracks.png" in (out / "report.md").read_text()
    assert len((out / "per_clip.csv").read_text().splitlines()) == 4
    assert {p.suffix for p in out.rglob("*.*")} == {".json", ".csv", ".md", ".html", ".png"}
    assert main(["evaluate", *where, "--out", str(out), "--crop", "0"]) == 2
    assert main(["evaluate", *where, "--out", str(out), "--weights", "pans=x"]) == 2
    assert "NAME one of panns" in capsys.readouterr().err


def fake_report(folders, shift, crop=None):
    for name, times in TIMES.items():
        soundfile.write(folders / "gen" / f"{name}.wav", knocks([t + shift for t in times]), 16_000)
    return evaluate(options(folders, crop=crop)).report


def test_tables_have_the_papers_numbers_in_columns_of_their_own(folders, capsys):
    ours = fake_report(folders, 0.0)
    for part in (ours, *ours["metrics"].values()):
        part["crop"] = 10.0  # as if the clips were longer
    systems = [System("STA-V2A", ours), System("mine", fake_report(folders, 0.12))]
    table, matched, difference, numbers = all_tables(systems)
    assert table.title == "Table I"
    row = next(r for r in table.rows if r[0] == "STA-V2A" and r[1] == "10")
    assert row[table.header.index("AA (ours)")].startswith("1.000 [")
    assert row[table.header.index("AA (paper)")] == "0.687"
    assert row[table.header.index("FD (ours)")] == "-"
    assert next(r for r in table.rows if r[0] == "STA-V2A" and r[1] == "4")[2] == "-"
    assert table.rows[-1][:3] == ["mine", "2", "3"]
    assert [r[0] for r in matched.rows] == ["STA-V2A", "mine"]
    assert {r[4] for r in difference.rows} == {"another crop or other weights"}
    assert len(numbers.rows) == 8
    third = all_tables([System("CN frozen", ours), System("sta-v2a", ours)])
    assert [t.title for t in third[:2]] == ["Table I", "Table III"]
    assert all_tables([System("CN frozen", ours)])[0].title == "Table III"
    for name, report in (("one", ours), ("two", systems[1].report)):
        (folders / f"{name}.json").write_text(json.dumps(report))
    items = [f"{n}={folders / n}.json" for n in ("one", "two")]
    assert main(["tables", *items, "--out", str(folders / "tables")]) == 0
    assert "Table I" in (folders / "tables" / "tables.md").read_text()
    assert main(["tables", "one"]) == 2
    assert main(["tables", f"one={folders / 'gen'}"]) == 2


def test_paired_differences_tell_systems_apart(folders):
    good, late = fake_report(folders, 0.0), fake_report(folders, 0.15)
    rows = {row[1]: row for row in all_tables([System("good", good), System("late", late)])[2].rows}
    assert rows["aa_f1"][0] == "late - good"
    assert rows["aa_f1"][2].startswith("-")
    assert rows["aa_f1"][4] == "yes"
    assert rows["aa_f1"][3] == "3"


def features(seed, n=12):
    rng = np.random.default_rng(seed)
    return [{"embedding": rng.normal(size=6), "logits": 3 * rng.normal(size=9)} for _ in range(n)]


def test_a_network_tells_pairs_from_other_clips():
    true = features(0)
    near = [{k: v + 0.1 * np.random.default_rng(1).normal(size=v.shape) for k, v in clip.items()} for clip in true]
    names = [f"c{i}" for i in range(len(true))]
    made = of_backbone("panns", names, near, true, {"fd", "kl", "is", "kid"}, Draws(resamples=100))
    assert set(made) == {"fd_panns", "kl_softmax_panns", "kl_sigmoid_panns", "is_panns", "kid_panns"}
    assert made["kl_softmax_panns"]["value"] < 0.1 * made["kl_softmax_panns"]["chance"]
    for key in ("fd_panns", "kid_panns", "is_panns"):
        low, high = made[key]["interval"]
        assert low < made[key]["value"] < high, key
    assert made["fd_panns"]["per_clip"] is None
    assert made["fd_panns"]["biased"] is False
    one = of_backbone("panns", ["a"], near[:1], true[:1], {"fd", "kl", "is", "kid"}, Draws(resamples=100))
    assert one["fd_panns"]["value"] is one["is_panns"]["value"] is one["kl_softmax_panns"]["chance"] is None


def test_patches_of_all_clips_are_pooled():
    rng = np.random.default_rng(0)
    sets = [[{"embedding": rng.normal(size=(1 + i % 3, 4))} for i in range(8)] for _ in range(2)]
    fad = of_backbone("vggish", list("abcdefgh"), *sets, {"fad"}, Draws(resamples=100))["fad_vggish"]
    pooled = [np.concatenate([clip["embedding"] for clip in side]) for side in sets]
    assert fad["value"] == pytest.approx(frechet_distance(*pooled))
    assert (fad["n"], fad["patches"]) == (8, 30)


def test_the_suffix_of_a_file_does_not_count(tmp_path):
    for folder, names in (("gen", ["a.flac"]), ("ref", ["a.mp4", "a.wav", ".hidden.wav", "notes.txt"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    (pair,) = files.pair_up(tmp_path / "gen", tmp_path / "ref")
    assert [p.name for p in pair[1:]] == ["a.flac", "a.wav", "a.mp4"]
    with pytest.raises(UserError, match="not a folder"):
        files.pair_up(tmp_path / "gen" / "a.flac", tmp_path / "ref")
    with pytest.raises(UserError, match="holds no sound file"):
        files.pair_up(tmp_path / "gen", pathlib.Path(__file__).parent / "parity")
