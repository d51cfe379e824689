"""The benchmark tells systems apart whose scores are known."""

import json
import pathlib
import types

import numpy as np
import pytest

from stav2a_jax import foley_benchmark as benchmark
from stav2a_jax.cli import main
from stav2a_jax.data import foley
from stav2a_jax.foley_benchmark import figures, report, sounds
from stav2a_jax.video.decode import probe

SEED, COUNT = 4, 6


class Oracle:
    """Knows the clips: answers a film with its true sound, heard late by ``delay`` seconds."""

    def __init__(self, folder, delay=0.0):
        self.delay, self.asked = delay, 0
        (folder / "bundle").mkdir(exist_ok=True)
        (folder / "bundle" / "weights").write_text(f"late by {delay} s")
        self.bundle = types.SimpleNamespace(name="oracle", params={"t2a": 0}, folder=folder / "bundle")

    def read(self, path):
        clip = foley.make_clip(SEED, "test", int(pathlib.Path(path).stem.rpartition("_")[2]))
        assert abs(probe(path).seconds - clip.seconds) < 1e-6  # the film is the clip's
        return clip

    def bucket(self, seconds):
        return 0

    def generate(self, films, prompts, *, numbers, text_only=False):
        self.asked += len(films)
        late = round(self.delay * benchmark.RATE)
        waves = [foley.render_audio(clip, benchmark.RATE) for clip in films]
        if text_only:
            waves = [np.zeros_like(w) for w in waves]
        return [types.SimpleNamespace(wave=np.r_[np.zeros(late, np.float32), w][: len(w)]) for w in waves]


def judged(model, folder, parts=()):
    small = benchmark.JudgeConfig(classifier=40, calibration=16)
    settings = benchmark.Settings(work=folder, seed=SEED, count=COUNT, batch=4, parts=parts, judge=small)
    return benchmark.run(model, settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def scores(folder):
    """Of the model that answers with the truth, as JSON has them."""
    found = judged(Oracle(folder), folder, ("t2a", "swap", "baselines", "aa", "av"))
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.long
def test_the_truth_scores_what_the_ceiling_says(scores):
    assert scores["event_f1_100ms"] == scores["ceiling_f1_100ms"] > 0.9
    assert scores["event_f1_random"] < 0.6
    assert scores["event_f1_shuffled"] < 0.6
    assert scores["swap_event_f1_new_video"] > 0.9 > scores["swap_event_f1_old_video"]
    assert scores["t2a_event_f1_100ms"] == 0
    assert scores["material_kl"] == 0 < scores["material_kl_shuffled"]
    metrics = scores["systems"]["full"]["metrics"]
    assert metrics["aa_f1"]["value"] == metrics["aa_f1_corrected"]["value"] == 1
    assert metrics["av_f1"]["value"] == metrics["av_f1"]["true_sound"]


@pytest.mark.long
def test_baselines_know_the_times_or_the_sounds_but_not_both(scores):
    systems = scores["systems"]
    assert set(systems) == {"full", "text_only", "times_true", "times_random", "other_clips", "true"}
    assert systems["times_true"]["event_f1_100ms"] > 0.9 > systems["times_true"]["material"]
    assert systems["times_random"]["event_f1_100ms"] < 0.6 < systems["other_clips"]["event_precision_100ms"] + 0.6
    assert systems["times_true"]["metrics"]["aa_f1"]["value"] > systems["times_random"]["metrics"]["aa_f1"]["value"]


@pytest.mark.long
def test_every_figure_has_an_interval_around_it_and_the_number_of_its_clips(scores):
    named = [key for _, key, _ in report.ROWS if key not in ("chance_material", "material_kl_shuffled")]
    for key in named:
        (low, high), value = scores[f"{key}_interval"] or (0, 0), scores[key]
        assert value is None or low <= value <= high, key
        assert 0 < scores[f"{key}_n"] <= COUNT or value is None, key
    for metric in scores["systems"]["full"]["metrics"].values():
        assert {"value", "interval", "n", "family", "backbone", "sample_rate"} <= set(metric)


@pytest.mark.long
def test_breakdowns_hold_every_clip(scores):
    for group in ("by_scene", "by_material", "by_cue", "by_events", "by_length"):
        assert sum(row["n"] for row in scores[group].values()) == COUNT
    clips = [foley.make_clip(SEED, "test", i) for i in range(COUNT)]
    assert {name: row["n"] for name, row in scores["by_tag"].items() if name == "distractor"} == {
        name: n for name, n in {"distractor": sum("distractor" in c.tags for c in clips)}.items() if n
    }


@pytest.mark.long
def test_a_second_run_asks_the_model_nothing_and_a_new_bundle_everything(scores, folder):
    again, other = Oracle(folder), Oracle(folder, delay=0.07)
    other_found = judged(other, folder)
    assert other.asked == 8  # two batches of four
    assert abs(other_found["offset_ms"] - 70) < 10
    assert other_found["event_f1_50ms"] < 0.4 < other_found["event_f1_100ms"]
    again = Oracle(folder)  # its weights are there again
    found = judged(again, folder)
    assert again.asked == 0
    assert found["event_f1_100ms"] == scores["event_f1_100ms"]
    assert not [p for p in folder.iterdir() if p.name.startswith("run.")]


@pytest.mark.long
def test_the_tables_of_readme_and_docs_come_from_the_json(scores, tmp_path, capsys):
    file, tables = tmp_path / "scores.json", tmp_path / "tables.md"
    file.write_text(json.dumps(scores))
    assert main(["benchmark", "foley", "--from", str(file), "--markdown", str(tables)]) == 0
    printed, written = capsys.readouterr().out, tables.read_text()
    assert printed.strip() in written
    assert f"| event F1, 100 ms | {report.cell(scores, 'event_f1_100ms')} | >= .80 |" in printed
    assert "| AA-Align F1, chance-corrected | 1.000 (1.000 to 1.000) |" in written
    widths = [line.count("|") for line in written.splitlines() if line.startswith("|")]
    assert min(widths) >= 3


def test_a_file_that_is_no_report_is_named(tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"n": 3}')
    assert main(["benchmark", "foley", "--from", str(tmp_path / "x.json")]) == 2
    assert "x.json lacks event_f1_100ms" in capsys.readouterr().err


def test_knocks_are_heard_where_they_are_put():
    wave = sounds.knocks([0.5, 1.25], 2.0)
    loud = np.flatnonzero(np.abs(wave) > 0.05) / benchmark.RATE
    assert len(wave) == 2 * benchmark.RATE
    assert all(min(abs(t - 0.5), abs(t - 1.25)) < 0.15 for t in loud)
    assert np.abs(wave).max() <= 1


def test_a_partner_is_another_clip_as_long_or_longer_but_for_the_longest():
    clips = [foley.make_clip(SEED, "test", i) for i in range(12)]
    longest = max(clip.seconds for clip in clips)
    for clip, j in zip(clips, figures.partners(clips)):
        assert clips[j] is not clip
        assert clips[j].seconds >= clip.seconds or clip.seconds == longest
