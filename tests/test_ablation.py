"""The ladder's table says what was heard, with intervals that know how many clips and seeds there were."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from rich.console import Console

from stav2a_jax.ablation import Ladder, markdown
from stav2a_jax.ablation.ladder import OWN, Trainer
from stav2a_jax.ablation.table import Heard, cells, steps
from stav2a_jax.cli import main

CONFIGS = pathlib.Path(__file__).parents[1] / "configs" / "tiny" / "ablation"


def heard(found, true=(1.0, 2.0), name="wood", align=0.5):
    return Heard(list(true), list(found), "wood", name, align)


def test_a_figure_is_pooled_over_clips_and_seeds():
    rows = {"cn": [[heard([1.06, 2.0]), heard([3.0], name=None, align=np.nan)], [heard([1.0]), heard([], name="skin")]]}
    wide, narrow, align, material = cells(rows, resamples=50)["cn"]
    assert wide.value == pytest.approx(2 * (2 + 0 + 1 + 0) / (4 + 3 + 3 + 2))
    assert narrow.value == pytest.approx(2 * (1 + 0 + 1 + 0) / 12)
    assert align.value == 0.5  # one clip had no onset in either sound
    assert material.value == 0.5
    assert wide.low <= wide.value <= wide.high


def test_one_good_clip_makes_no_narrow_interval_and_many_do():
    few, many = ({"cn": [[heard([1.0, 2.0]), heard([5.0])] * n] * 2} for n in (1, 50))
    widths = [cells(rows)["cn"][0].high - cells(rows)["cn"][0].low for rows in (few, many)]
    assert widths[0] > 0.9
    assert widths[1] < 0.25


def test_a_step_of_the_ladder_is_compared_on_the_same_clips():
    easy, hard = heard([1.0, 2.0]), heard([5.0])
    worse = heard([1.0, 5.0])
    rows = {"cn": [[worse, hard] * 10], "cn_onset": [[easy, hard] * 10]}
    [gain, *_] = steps(rows)["cn_onset"]
    assert gain.low > 0  # every draw of clips is the same for both rows
    assert gain.value == pytest.approx(cells(rows)["cn_onset"][0].value - cells(rows)["cn"][0].value)


def test_the_page_has_every_row_in_order():
    rows = {name: [[heard([1.0])] * 2] * 3 for name in ("t2a_pretrained", "cn", "another")}
    page = markdown(rows, ["made by hand"])
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")][:4] == [
        "| row",
        "| Pretrained T2A",
        "| CN",
        "| another",
    ]
    assert "3 seeds x 2 clips" in page


def test_all_rows_denoise_for_equally_many_steps(tmp_path):
    ladder = Ladder(CONFIGS, tmp_path, tmp_path, seeds=(0,), steps=10, clips=1)
    budgets = Trainer(ladder, Console()).budgets(ladder.rows())
    assert len(budgets) == 7
    assert budgets == {name: {"t2a_pretrained": 3, "t2a_finetuned": 2}.get(name, 1) for name in budgets}


@pytest.mark.slow
def test_the_command_trains_samples_and_goes_on_where_it_stopped(small, tmp_path, capsys):
    shutil.copytree(CONFIGS.parents[1], tmp_path / "configs")
    rows = tmp_path / "configs" / "tiny" / "ablation"
    for name in ("cn_without_filter", "cn_frozen", "cn", "cn_onset"):
        (rows / f"{name}.py").unlink()
    batches = [f"stages.{stage}.batch_size=4" for stage in small.STAGES]  # the tests have four devices
    sets = [*small.assignments(), "data.min_av_align=0.0", "data.valid_clips=4", *batches]
    words = [w for text in sets if text.split("=")[0] not in OWN for w in ("--set", text)]
    folders = ["--config-dir", str(rows), "--out", str(tmp_path / "out")]
    table = ["--cache", str(tmp_path / "cache"), "--table", str(tmp_path / "table.md")]
    sizes = ["--seeds", "0", "--steps", "2", "--clips", "2", "--seconds", "2", "--sampling-steps", "1"]
    assert main(["ablation", *folders, *table, *sizes, *words]) == 0
    page = (tmp_path / "table.md").read_text()
    assert "| CN + onset + global |" in page
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("params.safetensors")}
    assert len(before) >= 9  # the rows left, and what they begin with
    for run, n in (("t2a_pretrained", 2), ("t2a_pretrained_x3", 6), ("t2a_finetuned_x2", 4)):
        settings = json.loads((tmp_path / "out" / "seed_0" / run / "t2a" / "settings.json").read_text())
        assert settings["stages"]["t2a"]["steps"] == n, run
    assert main(["ablation", *folders, *table, *sizes, *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "table.md").read_text() == page
    capsys.readouterr()
    assert main(["ablation", *folders, *table, *sizes, *words, "--set", "loss.snr_gamma=5.0"]) == 2
    assert "has other settings (loss.snr_gamma" in capsys.readouterr().err
    (tmp_path / "out" / "seed_0" / "cn_onset_global" / "bundle" / "README.md").write_text("of another bundle")
    heard = tmp_path / "out" / "seed_0" / "cn_onset_global" / "heard.json"
    old = heard.stat().st_mtime_ns
    assert main(["ablation", *folders, *table, *sizes, *words]) == 0
    assert heard.stat().st_mtime_ns > old  # listened to again


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--from", "absent"], "--from absent: no such run"),
        (["--seconds", "1"], "--seconds must lie between"),
        (["--config-dir", "absent"], "no configs in absent"),
        (["--table", "absent/table.md"], "no such folder"),
        (["--set", "seed=3"], "--set seed=3: the ablation sets this itself"),
        (["--set", "stages.stav2a.steps=3"], "the ablation sets this itself"),
    ],
)
def test_wrong_arguments_are_one_sentence(argv, words, tmp_path, capsys):
    assert main(["ablation", "--out", str(tmp_path), *argv]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
