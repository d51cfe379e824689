import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stav2a_jax.metrics.distribution import (
    frechet_distance,
    frechet_resampler,
    gaussian,
    inception_score,
    kernel_distance,
    kl_divergence,
    released_kl,
)

SIZES = st.integers(2, 12)


def rows(seed, n, d, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1 + 0.2 * shift, size=(n, d))


def test_the_distance_of_two_normal_numbers_is_known():
    x, y = np.array([[0.0], [2.0]]), np.array([[5.0], [6.0]])  # means 1 and 5.5, deviations sqrt(2) and sqrt(1/2)
    assert frechet_distance(x, y) == pytest.approx(4.5**2 + (2**0.5 - 0.5**0.5) ** 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), SIZES, SIZES)
def test_equal_sets_have_no_distance(seed, n, d):
    x = rows(seed, n, d)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), SIZES, SIZES, SIZES)
def test_the_distance_is_symmetric_positive_and_does_not_change_when_both_sets_are_turned(seed, n, m, d):
    x, y = rows(seed, n, d), rows(seed + 1, m, d, 0.5)
    turn, _ = np.linalg.qr(rows(seed + 2, d, d))
    distance = frechet_distance(x, y)
    assert 0 <= distance < np.inf  # fewer rows than dimensions among them
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert frechet_distance(x @ turn + 3, y @ turn + 3) == pytest.approx(distance, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(6, 9, 20), (40, 30, 5), (3, 50, 10)])
def test_the_short_cuts_equal_the_plain_formula(n, m, d):
    x, y = rows(0, n, d), rows(1, m, d, 0.3)
    a, b = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    plain = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * roots
    assert frechet_distance(x, y) == pytest.approx(plain, rel=1e-6)
    assert frechet_distance(gaussian(x), gaussian(y)) == frechet_distance(x, y)
    again = frechet_resampler(x, y)
    i, j = np.random.default_rng(2).integers(n, size=n), np.random.default_rng(3).integers(m, size=m)
    assert again(np.arange(n), np.arange(m)) == pytest.approx(plain, rel=1e-6)
    assert again(i, j) == pytest.approx(frechet_distance(x[i], y[j]), rel=1e-9, abs=1e-9)


def test_a_distance_needs_two_rows_of_the_same_width():
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(rows(0, 1, 3), rows(0, 5, 3))
    with pytest.raises(ValueError, match="3 and 4 numbers"):
        frechet_distance(rows(0, 5, 3), rows(0, 5, 4))


def test_the_kernel_distance_has_no_bias_where_the_frechet_distance_has():
    pairs = [(rows(2 * k, 15, 30), rows(2 * k + 1, 15, 30)) for k in range(40)]  # two draws of one distribution
    kernel = [kernel_distance(a, b, subsets=1, size=15)[0] for a, b in pairs]
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / 40**0.5
    assert min(frechet_distance(a, b) for a, b in pairs) > 10
    with pytest.raises(ValueError, match="subsets of 20"):
        kernel_distance(rows(0, 15, 3), rows(1, 15, 3), subsets=1, size=20)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), SIZES)
def test_the_divergence_is_zero_for_equal_logits_and_never_negative(seed, classes):
    p, q = 4 * rows(seed, 5, classes), 4 * rows(seed + 1, 5, classes)
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-12)
    assert (kl_divergence(p, q) >= 0).all()
    assert kl_divergence(p + 7, q) == pytest.approx(kl_divergence(p, q))


def test_the_released_divergence_is_the_exact_one_but_for_its_epsilon():
    p, q = rows(0, 20, 50), rows(1, 20, 50)
    np.testing.assert_allclose(released_kl(p, q), kl_divergence(p, q), rtol=1e-3)
    assert (released_kl(p, p) < 0).all()
    sure, wrong = np.array([[100.0, 0.0]]), np.array([[0.0, 100.0]])
    assert released_kl(sure, wrong)[0] == pytest.approx(-np.log(1e-6), rel=1e-4)
    assert kl_divergence(sure, wrong)[0] == pytest.approx(100)
    assert np.isfinite(released_kl(sure * 10, wrong * 10, "sigmoid")).all()


def test_the_inception_score_counts_the_classes_that_are_told_apart():
    sure = 50 * np.eye(4)[np.arange(400) % 4]
    assert inception_score(sure, shuffle=False).mean == pytest.approx(4, rel=1e-6)
    assert inception_score(np.zeros((40, 4))).mean == 1
    assert np.isnan(inception_score(np.zeros((9, 4))).mean)
    score = inception_score(rows(0, 30, 5))
    assert 1 < score.mean < 5
    assert score.information.shape == (30,)
