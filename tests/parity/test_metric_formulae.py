"""FD, FAD, KID, KL and IS against the values of the authors' evaluator; the file says how each input is made."""

import json
import pathlib

import numpy as np
import pytest
from scipy.special import expit, softmax, xlogy

from stav2a_jax.metrics.distribution import frechet_distance, inception_score, kernel_distance, released_kl

RTOL = 1e-6
FD_ATOL = 1e-12  # the distance of a set to itself is 0 but for rounding
UNIT = 2.0**-24  # largest relative error of rounding to float32


@pytest.fixture
def golden(oracle):
    root = pathlib.Path(oracle("align_metrics").case.path).parents[1]
    return json.loads((root / "metric_formulae.json").read_text())["given"]


def made(case):
    """Arrays of a recipe (NumPy source kept beside the values), checked against the sums stored with it."""
    names = {"np": np}
    exec(case["recipe"], names)
    for name, check in case.get("check", {}).items():
        array = names[name] if isinstance(check, dict) else names["logits"]
        shape, total = (check["shape"], check["sum"]) if isinstance(check, dict) else (array.shape, None)
        assert list(array.shape) == list(shape)
        assert total is None or np.sum(array, dtype=np.float64) == pytest.approx(total, rel=1e-9, abs=1e-6)
    return names


def close(got, want, atol=0.0):
    return np.isclose(got, np.nan if want is None else want, rtol=RTOL, atol=atol, equal_nan=True)


def test_frechet_distances_are_the_evaluators(golden):
    for case in golden["fd"]:
        arrays = made(case)
        got = frechet_distance(arrays["fake"], arrays["real"])
        for key in ("frechet_distance", "fad_formula", "independent_exact"):
            if case.get(key) is not None:
                assert close(got, case[key], FD_ATOL), (case["name"], key, got)
        assert close(frechet_distance(arrays["real"], arrays["fake"]), case["frechet_distance_swapped"], FD_ATOL)


def test_inception_scores_are_the_evaluators(golden):
    for case in golden["is"]:
        logits = made(case)["logits"]
        for kind, shuffle in (("shuffled", True), ("unshuffled", False)):
            got = inception_score(logits, splits=case["splits"], shuffle=shuffle)
            assert close(got.mean, case[kind]["inception_score_mean"]), case["name"]
            assert close(got.std, case[kind]["inception_score_std"], 1e-12), case["name"]


def paired(arrays):
    """Rows of the true and generated logits whose files have the same name, as the evaluator pairs them."""
    true = {pathlib.PurePath(f).name: i for i, f in enumerate(arrays["ref_files"])}
    generated = {pathlib.PurePath(f).name: i for i, f in enumerate(arrays["gen_files"])}
    names = [n for n in true if n in generated]
    return arrays["ref"][[true[n] for n in names]], arrays["gen"][[generated[n] for n in names]]


def divergences(golden, *, equal):
    """(case, kind, true logits, ours, the evaluator's) of cases whose two sets are, or are not, the same numbers."""
    for case in golden["kl"]:
        reference, generated = paired(made(case))
        for kind in ("softmax", "sigmoid") if np.array_equal(reference, generated) == equal else ():
            got = released_kl(reference, generated, kind).mean()
            yield case["name"], kind, reference, got, case[f"kullback_leibler_divergence_{kind}"]


def test_kl_divergences_are_the_evaluators(golden):
    for name, kind, _, got, want in divergences(golden, equal=False):
        assert close(got, want), (name, kind, got)


def test_the_kl_of_equal_logits_is_the_evaluators_but_for_the_rounding_of_its_logarithms(golden):
    """It sums differences of float32 products that are equal up to 1e-6 and rounded one by one, so that the evaluator's
    own value depends on its mathematics library (docs/evaluation.md has measurements). The bound is the root of the sum
    of squares of the two roundings of every term of a row, half a unit each; more rows do not narrow it, because a
    library's errors need not have mean zero."""
    for name, kind, logits, got, want in divergences(golden, equal=True):
        x = np.asarray(logits, np.float64)
        p = softmax(x, axis=1) if kind == "softmax" else expit(x)
        bound = UNIT * np.sqrt(np.square(xlogy(p, p)).sum(axis=1).mean() / 2)
        assert got < 0, (name, kind, got)
        assert abs(got - want) <= bound, (name, kind, got, want, bound)


def test_kernel_distances_are_the_evaluators(golden):
    for case in golden["kid"]:
        arrays = made(case)
        got = kernel_distance(
            arrays["fake"], arrays["real"], subsets=case["subsets"], size=case["subset_size"], seed=case["rng_seed"]
        )
        assert close(got[0], case["kernel_inception_distance_mean"]), got
        assert close(got[1], case["kernel_inception_distance_std"]), got
