"""Who hears what in which order: everything once, and every place equally often."""

import itertools
from collections import Counter

import pytest

from stav2a_jax.listening import design

CLIPS = 12


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8])
def test_every_item_is_equally_often_in_each_place_and_behind_each_other(n):
    rows = design.williams(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    assert all(sorted(column) == sorted(list(range(n)) * (len(rows) // n)) for column in zip(*rows))
    followers = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert set(followers) == set(itertools.permutations(range(n), 2))
    assert len(set(followers.values())) <= 1


@pytest.mark.parametrize("present", design.PRESENTATIONS)
@pytest.mark.parametrize("systems", [2, 3, 7])
def test_every_rater_rates_every_clip_of_every_system_once(systems, present):
    for rater in range(1, 9):
        order = design.rating_order(rater, CLIPS, systems, present)
        rated = [pair for trial in order for pair in trial]
        assert sorted(rated) == sorted(itertools.product(range(CLIPS), range(systems)))


@pytest.mark.parametrize("systems", [2, 3, 4])
def test_over_the_raters_each_system_of_a_clip_is_equally_often_in_each_place(systems):
    raters = len(design.williams(systems))
    for present in design.PRESENTATIONS:
        places = Counter()
        for rater in range(1, raters + 1):
            seen = Counter()  # of "one", the place is how many of the clip came before
            for trial in design.rating_order(rater, CLIPS, systems, present):
                for clip, system in trial:
                    places[clip, system, seen[clip]] += 1
                    seen[clip] += 1
        assert len(places) == CLIPS * systems**2
        assert set(places.values()) == {raters // systems}


def test_within_a_rater_each_system_is_equally_often_in_each_place():
    for present in design.PRESENTATIONS:
        seen, places = Counter(), Counter()
        for clip, system in itertools.chain(*design.rating_order(2, CLIPS, 4, present)):
            places[system, seen[clip]] += 1
            seen[clip] += 1
        assert set(places.values()) == {CLIPS // 4}


@pytest.mark.parametrize("clips", [4, 5, 9, 20])
@pytest.mark.parametrize("systems", [2, 3, 5])
def test_one_at_a_time_a_clip_never_follows_itself(systems, clips):
    for rater in range(1, 45):
        order = [trial[0][0] for trial in design.rating_order(rater, clips, systems, "one")]
        assert all(a != b for a, b in itertools.pairwise(order))
        rounds = [order[k : k + clips] for k in range(0, len(order), clips)]
        assert all(sorted(r) == list(range(clips)) for r in rounds)


def test_raters_hear_the_clips_in_different_orders():
    orders = {tuple(map(tuple, design.rating_order(r, CLIPS, 2, "side"))) for r in range(1, 7)}
    assert len(orders) == 6


def test_checks_are_spread_over_the_session_and_neither_begin_nor_end_it():
    places = [design.check_places(5, rater, 40, 3) for rater in range(1, 30)]
    for row in places:
        assert all(abs(p - q) <= 2 for p, q in zip(row, (10, 20, 30)))
    assert len({tuple(row) for row in places}) > 5  # raters who talk cannot warn each other


def test_checks_are_put_in_without_losing_a_trial():
    trials = [[f"clip{k}"] for k in range(6)]
    order = design.session(trials, ["x", "y"], [2, 4], rater=2)
    assert order == [["clip0"], ["clip1"], ["y"], ["clip2"], ["clip3"], ["x"], ["clip4"], ["clip5"]]
    assert design.session([["a"]], ["x"], [1], rater=1) == [["a"], ["x"]]
    assert design.session([["a"]], [], [], rater=1) == [["a"]]
