"""Batch k is a function of (seed, k), whoever loads it; every clip has its turn, whatever its length."""

import collections
import pickle
import sys

import cloudpickle
import numpy as np
import pytest

from stav2a_jax.data.batches import Order
from stav2a_jax.data.cache import Derived, write_derived
from stav2a_jax.data.loading import LoadBatch, batches

LENGTHS = np.array([30, 12, 55, 20, 21, 100, 40, 8, 39, 60])
CROPS = (20, 40, 80)


def numbers(pieces, crop):
    if any(p.number == 13 and crop == 7 for p in pieces):
        raise ZeroDivisionError("a fault in clip 13")
    return {"index": np.array([p.number for p in pieces], np.int32), "crop": np.full(len(pieces), crop)}


def load(order, first, last, workers=0, rows=slice(None)):
    with batches(LoadBatch(order, numbers, rows), first, last, workers) as loaded:
        return list(loaded)


def assert_same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_clip_goes_to_the_shortest_length_that_holds_it_and_a_batch_has_one_length():
    order = Order(LENGTHS, 0, 2, CROPS)
    wanted = {0: 40, 1: 20, 2: 80, 3: 20, 4: 40, 5: 80, 6: 40, 7: 20, 8: 40, 9: 80}
    for step in range(60):
        crop = order.crop_of(step)
        for p in order.pieces(step):
            assert wanted[p.clip] == crop
            assert p.length == min(LENGTHS[p.clip], crop)
            assert 0 <= p.start <= max(LENGTHS[p.clip] - crop, 0)


def test_every_clip_has_its_turn_once_an_epoch_of_its_length():
    order = Order(LENGTHS, 3, 4, CROPS)
    turns = collections.defaultdict(list)
    for step in range(10 * 5):  # five periods of ten batches of four: twenty epochs
        turns[order.crop_of(step)] += [p.clip for p in order.pieces(step)]
    for crop, clips in turns.items():
        size = len(set(clips))
        epochs = [tuple(clips[i : i + size]) for i in range(0, len(clips), size)]
        assert len(epochs) == 20, crop
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
        assert len(set(epochs)) > 1
    # The lengths take turns: the clips of all of them are used up at the same pace, within one batch.
    seen = collections.Counter()
    for step in range(50):
        seen.update(p.clip for p in order.pieces(step))
        for p in order.pieces(step):
            assert abs(seen[p.clip] - 4 * (step + 1) / len(LENGTHS)) <= 4


def test_every_example_of_a_run_has_its_own_number():
    order = Order(LENGTHS, 0, 4, CROPS)
    assert [p.number for step in range(9) for p in order.pieces(step)] == list(range(36))


def test_a_length_without_clips_has_no_batches():
    order = Order(LENGTHS, 0, 2, (4, 9, 200))
    assert {order.crop_of(step) for step in range(20)} == {9, 200}


def test_batches_come_in_order_and_from_anywhere_in_the_run():
    order = Order(LENGTHS, 1, 4, CROPS)
    whole = load(order, 0, 12)
    assert [int(b["index"][0]) for b in whole] == list(range(0, 48, 4))
    assert_same(load(order, 5, 12), whole[5:])
    assert load(order, 12, 12) == []


def test_processes_share_a_batch_by_rows():
    order = Order(LENGTHS, 1, 4, CROPS)
    parts = [load(order, 0, 5, rows=slice(i, i + 2)) for i in (0, 2)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert_same(joined, load(order, 0, 5))


def test_a_fault_of_the_loader_is_not_swallowed():
    with pytest.raises(ZeroDivisionError, match="a fault in clip 13"):
        load(Order(LENGTHS, 0, 4, (7,)), 0, 12)


@pytest.mark.long
def test_worker_processes_load_the_same_batches():
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    order = Order(LENGTHS, 1, 4, CROPS)
    assert_same(load(order, 3, 12, workers=2), load(order, 3, 12))


def test_what_a_worker_is_sent_are_paths_and_not_the_data(tmp_path):
    write_derived(tmp_path, "latent", [np.ones((n, 50, 4), np.float16) * n for n in (3, 40)])
    rows = Derived(tmp_path, "latent")
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).rows(1, 0, 2), rows.rows(1, 0, 2))


def test_another_set_of_clips_is_told_apart():
    order = Order(LENGTHS, 0, 4, CROPS)
    assert Order(LENGTHS.copy(), 0, 4, CROPS).fingerprint() == order.fingerprint()
    others = [Order(LENGTHS[::-1], 0, 4, CROPS), Order(LENGTHS, 1, 4, CROPS), Order(LENGTHS, 0, 5, CROPS)]
    assert all(other.fingerprint() != order.fingerprint() for other in others)
