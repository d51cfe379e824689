"""Released AA-Align and AV-Align against the authors' scripts: peak sets and motion trajectories, exactly."""

import json
import math
import pathlib

import numpy as np
import pytest

from stav2a_jax.metrics.align import released_aa_align, released_av_align, trajectory_peaks


@pytest.fixture
def golden(oracle):
    root = pathlib.Path(oracle("align_metrics").case.path).parents[1]
    return json.loads((root / "metric_align_formulae.json").read_text())


def run(recipe):
    """Variables of a recipe: NumPy source kept in the fixture beside its values."""
    names = {"np": np}
    exec(recipe, names)
    return names


def same(got, want):
    """The scripts divide by zero where we say NaN."""
    return math.isnan(got) if want == "ZeroDivisionError" else got == want


@pytest.mark.given("align_metrics")
def test_scores_of_the_fixture_are_the_same(case):
    for name in case.outputs:
        kind, index = name.split("_")
        a, b = np.sort(case.inputs[f"a{index}"]), np.sort(case.inputs[f"b{index}"])
        score = released_aa_align(a, b, case.meta["config"]["tim_win"]) if kind == "aa" else released_av_align(a, b, 25)
        case.check(name, np.array([score]), tolerance=1e-6)


def test_cases_made_by_hand_are_the_same(golden):
    for case in golden["aa_hand"]:
        assert same(released_aa_align(case["gt"], case["gen"], case["win"]), case["aa"]), case
    for case in golden["av_hand"]:
        assert same(released_av_align(case["audio"], case["video"], case["fps"]), case["av"]), case
    for case in golden["local_max_hand"]:
        assert trajectory_peaks(case["flow"], case["fps"]).tolist() == case["peaks"], case


def test_random_peak_sets_score_the_same(golden):
    for case in golden["given"]["peaks"]:
        made = run(case["recipe"])
        gt, gen = made["gt"], made["gen"]
        for window, want in case["aa"].items():
            assert released_aa_align(gt, gen, float(window)) == want
        assert released_aa_align(gen, gt) == case["aa_swapped"]
        for fps, want in case["av_if_gen_is_audio_gt_is_video"].items():
            assert released_av_align(gen, gt, float(fps)) == want


def test_random_trajectories_have_the_same_peaks(golden):
    for case in golden["given"]["local_max"]:
        assert trajectory_peaks(run(case["recipe"])["flow"], case["fps"]).tolist() == case["peaks"]
