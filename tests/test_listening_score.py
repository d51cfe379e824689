"""Scores of a listening test against values worked out by hand, and answers that must not count."""

import itertools
import json
import math

import numpy as np
import pytest

from stav2a_jax import cli
from stav2a_jax.listening import answers, score, statistics
from stav2a_jax.listening.design import NAMES
from stav2a_jax.types import UserError

SYSTEMS, CLIPS = ("ours", "theirs"), ("dog", "rain", "train")
MEDIA = {f"{s[0]}{c}": (c, s) for s, c in itertools.product(SYSTEMS, CLIPS)}
# ours: clip means 20, 30, 40; theirs: 10, 10, 25. The two raters lie 2 above and 2 below.
TRUE = {"odog": 20, "orain": 30, "otrain": 40, "tdog": 10, "train": 10, "ttrain": 25}
T2 = 4.302652729911275  # 97.5 % quantile of Student's t with two degrees of freedom


@pytest.fixture
def key(tmp_path):
    data = {"format": "stav2a-listen-key", "version": 1, "site": "abc", "title": "Test", "raters": 6}
    data |= {"systems": SYSTEMS, "clips": CLIPS, "checks": {"check": 40}, "training": ["example"]}
    data["media"] = {i: {"clip": c, "system": s} for i, (c, s) in MEDIA.items()}
    path = tmp_path / "site.key.json"
    path.write_text(json.dumps(data))
    return answers.read_key(path)


def sheet(path, rater, values, *, check=40, plays=1):
    """A file of answers as the page exports it; ``values``: media id -> value of all four sliders."""
    rows = [{"kind": "training", "media": "example", **dict.fromkeys(NAMES, 99)}]
    rows += [{"kind": "rating", "media": i, "plays": plays, **dict.fromkeys(NAMES, v)} for i, v in values.items()]
    if check is not None:
        rows.append({"kind": "check", "media": "check", "plays": 1, **dict.fromkeys(NAMES, check)})
    data = {"format": "stav2a-listen-answers", "version": 1, "site": "abc", "rater": rater, "answers": rows}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def two(tmp_path):
    """The answers of raters 1 and 2."""
    return [
        sheet(tmp_path / "answers" / f"{r}.json", r, {i: v + d for i, v in TRUE.items()}) for r, d in ((1, 2), (2, -2))
    ]


def test_means_and_intervals_are_those_of_the_hand(key, two):
    report = score.score(answers.read_sessions(two, key), key)
    ours, theirs = (report["scores"][s]["TA"] for s in SYSTEMS)
    assert (ours["mean"], ours["n"], theirs["mean"]) == (30, 6, 15)
    half = T2 * 10 / math.sqrt(3)
    assert ours["t_clips"] == pytest.approx([30 - half, 30 + half])
    deviation = math.sqrt((2 * 200 + 6 * 4) / 5)  # two raters, each +-2 around 20, 30, 40
    assert ours["deviation"] == pytest.approx(deviation)
    assert np.diff(ours["t_ratings"])[0] == pytest.approx(2 * 2.570581835636314 * deviation / math.sqrt(6))
    assert report["scores"]["ours"]["TA"]["bootstrap"][0] >= 18  # the lowest rating
    assert report["raters"]["excluded"] == []


def test_paired_tests_are_those_of_the_hand(key, two):
    report = score.score(answers.read_sessions(two, key), key)
    pair = next(p for p in report["paired"] if p["scale"] == "SA")
    assert (pair["a"], pair["b"], pair["n"]) == ("ours", "theirs", 3)
    assert pair["difference"] == pytest.approx(15)  # of 10, 20, 15
    half = T2 * 5 / math.sqrt(3)
    assert pair["t_interval"] == pytest.approx([15 - half, 15 + half])
    t = 15 / (5 / math.sqrt(3))
    assert pair["p_t"] == pytest.approx(1 - t / math.sqrt(2 + t * t))  # distribution function for two degrees
    assert pair["p_wilcoxon"] == pytest.approx(0.25)  # 2 / 2 ** 3
    assert pair["p_t_holm"] == pair["p_t"]  # a single pair
    low, high = pair["bootstrap"]
    assert 10 <= low < 15 < high <= 20  # raters cancel, clips do not


def test_holms_correction_is_that_of_the_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, np.nan, 0.6])[[0, 2]] == pytest.approx([1.0, 1.0])


def test_alpha_is_krippendorffs_own_example():
    """Krippendorff 2011: four observers, twelve units; interval alpha 0.849."""
    x = np.nan
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
        [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
    ]
    assert statistics.krippendorff_alpha(np.array(table)) == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_one_for_equal_raters_and_undefined_without_spread():
    row = np.array([3.0, 50, 70, 20])
    assert statistics.krippendorff_alpha(np.stack([row, row])) == pytest.approx(1)
    assert math.isnan(statistics.krippendorff_alpha(np.full((3, 4), 50.0)))
    assert math.isnan(statistics.krippendorff_alpha(row[None]))


def test_raters_without_a_common_opinion_agree_by_chance():
    alpha, (low, high) = statistics.agreement(np.random.default_rng(0).uniform(1, 100, (6, 40, 3)), 200, 0)
    assert low < 0 < high
    assert abs(alpha) < 0.1


def test_the_crossed_bootstrap_covers_the_truth_where_raters_differ():
    """Rater and clip effects of deviation 10: the mean of 20 x 30 has deviation sqrt(100 / 20 + 100 / 30)."""
    covered, widths = 0, []
    for k in range(100):
        rng = np.random.default_rng(k)
        ratings = 50 + rng.normal(0, 10, (20, 1, 1)) + rng.normal(0, 10, (1, 30, 1)) + rng.normal(0, 1, (20, 30, 1))
        low, high = statistics.percentiles(statistics.crossed_bootstrap(ratings, 500, k)[:, 0])
        covered += low < 50 < high
        widths.append(high - low)
    assert covered >= 86
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(5 + 10 / 3), rel=0.1)


def test_a_common_shift_of_raters_leaves_differences_alone():
    ratings = np.stack([np.tile([[30.0, 20.0]], (5, 1)) + shift for shift in (0, 25, 40)])
    draws = statistics.crossed_bootstrap(ratings, 300, 0)
    pair = statistics.paired(statistics.clip_means(ratings), draws, 0, 1)
    assert pair.bootstrap == pytest.approx((10, 10))
    assert pair.p_t == 0
    assert pair.p_wilcoxon == pytest.approx(2 / 2**5)


def test_equal_systems_do_not_differ():
    ratings = np.random.default_rng(0).integers(1, 100, (3, 5, 1)).astype(float).repeat(2, axis=2)
    pair = statistics.paired(statistics.clip_means(ratings), statistics.crossed_bootstrap(ratings, 50, 0), 0, 1)
    assert (pair.difference, pair.p_t, pair.p_wilcoxon, pair.bootstrap) == (0, 1, 1, (0, 0))


def test_one_clip_has_a_mean_and_no_interval():
    ratings = np.array([[[40.0]], [[60.0]]])
    found = statistics.estimate(ratings[:, :, 0], statistics.crossed_bootstrap(ratings, 50, 0)[:, 0])
    assert found.mean == 50
    assert all(math.isnan(limit) for limit in found.t_clips)


def test_a_rater_who_ranks_like_the_others_correlates_with_them(key, tmp_path, two):
    values = {i: 100 - v for i, v in TRUE.items()}
    three = [*two, sheet(tmp_path / "3.json", 3, values)]
    used = score.score(answers.read_sessions(three, key), key)["raters"]["used"]
    assert [u["with_the_others"]["AQ"] for u in used][2] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"check": 46}, "attention check failed (asked for 40, given AQ 46, SA 46, TA 46, OQ 46)"),
        ({"check": None}, "attention check not answered (asked for 40)"),
        ({"plays": 0}, "6 of 6 rated clips not watched to the end"),
        ({"values": dict.fromkeys(TRUE, 50)}, "every slider of every clip at 50"),
        ({"values": {i: v for i, v in TRUE.items() if i != "odog"}}, "5 of 6 clips rated"),
        ({"values": TRUE | {"odog": None}}, "5 of 6 clips rated"),
    ],
)
def test_inattentive_raters_are_left_out_with_the_reason(change, reason, key, two, tmp_path):
    third = sheet(tmp_path / "answers" / "3.json", 3, **({"values": TRUE} | change))
    report = score.score(answers.read_sessions([*two, third], key), key)
    assert report["raters"]["excluded"] == [{"rater": 3, "file": str(third), "reasons": [reason]}]
    assert report["scores"]["ours"]["AQ"]["n"] == 6
    assert f"- rater 3: {reason}" in score.markdown(report)


def test_a_slider_may_stand_a_little_beside_what_a_check_asks_for(key, two, tmp_path):
    third = sheet(tmp_path / "3.json", 3, TRUE, check=44)
    assert len(score.score(answers.read_sessions([*two, third], key), key)["raters"]["used"]) == 3


def test_a_few_missing_clips_can_be_allowed(key, two, tmp_path):
    third = sheet(tmp_path / "3.json", 3, {i: v for i, v in TRUE.items() if i != "odog"})
    report = score.score(answers.read_sessions([*two, third], key), key, min_rated=0.8)
    assert report["scores"]["ours"]["AQ"]["n"] == 8
    assert report["scores"]["theirs"]["AQ"]["n"] == 9


def test_with_nobody_left_there_is_no_score(key, tmp_path):
    session = answers.read_session(sheet(tmp_path / "1.json", 1, TRUE, check=90), key)
    with pytest.raises(UserError, match=r"No rater is left .*rater 1: attention check failed"):
        score.score([session], key)


BAD = {
    "another site": ({"site": "xyz"}, "belongs to site xyz, not to abc"),
    "rater 7": ({"rater": 7}, "rater number 7 does not lie between 1 and 6"),
    "a rater without number": ({"rater": "Ann"}, "rater number 'Ann'"),
    "no list": ({"answers": {}}, "'answers' is not a list"),
    "a stranger": ({"answers": [{"media": "nobody"}]}, "rates 'nobody', which the key does not know"),
    "one clip twice": ({"answers": [{"media": "odog"}, {"media": "odog"}]}, "rates 'odog' twice"),
    "too much": ({"answers": [{"media": "odog", **dict.fromkeys(NAMES, 101)}]}, "AQ 101, SA 101"),
    "half an answer": ({"answers": [{"media": "odog", "AQ": 3}]}, "SA None"),
    "a true": ({"answers": [{"media": "odog", **dict.fromkeys(NAMES, True)}]}, "AQ True"),
    "another format": ({"format": "diary"}, "is not a file of answers"),
    "a later version": ({"version": 2}, "is of version 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_answers_that_do_not_fit_are_refused_by_name(name, key, tmp_path):
    change, words = BAD[name]
    path = sheet(tmp_path / "1.json", 1, TRUE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        answers.read_session(path, key)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_half_a_file_is_refused(key, two):
    two[0].write_text(two[0].read_text()[:100])
    with pytest.raises(UserError, match="is not JSON, or only a part"):
        answers.read_sessions(two, key)
    with pytest.raises(UserError, match=r"gone.json: cannot be read"):
        answers.read_session(two[0].with_name("gone.json"), key)


def test_a_rater_cannot_vote_twice(key, two, tmp_path):
    again = sheet(tmp_path / "again.json", 2, TRUE)
    with pytest.raises(UserError, match=r"Rater 2 is there 2 times \(.*2.json, .*again.json\)"):
        answers.read_sessions([*two, again], key)


def test_the_command_finds_the_key_and_writes_both_tables(key, two, tmp_path, capsys):
    out = tmp_path / "report"
    (tmp_path / "server.key.json").write_text("{}")  # somebody else's
    assert cli.main(["listen", "score", str(tmp_path / "answers"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "listening.md").read_text() == printed
    assert "| ours | 30.00 ± 24.84 | 30.00 ± 24.84 | 30.00 ± 24.84 | 30.00 ± 24.84 |" in printed
    assert json.loads((out / "listening.json").read_text())["scores"]["theirs"]["OQ"]["mean"] == 15
    assert sorted(p.name for p in out.iterdir()) == ["listening.json", "listening.md"]


def test_a_key_of_another_site_is_not_taken(key, two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path / "answers")
    key.path.write_text(key.path.read_text().replace('"abc"', '"xyz"'))
    assert cli.main(["listen", "score", *map(str, two)]) == 2
    assert "belongs to site abc, but the keys found are" in capsys.readouterr().err
    key.path.unlink()
    assert cli.main(["listen", "score", *map(str, two)]) == 2
    assert "name it as --key" in capsys.readouterr().err
