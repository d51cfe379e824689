"""Clips are rendered once, a piece is cut from anywhere, and every clip has its turn."""

import collections
import json
import types
import weakref

import numpy as np
import pytest

from stav2a_jax.config import ModelConfig, VideoEncoderConfig
from stav2a_jax.data import foley
from stav2a_jax.data.batches import Piece, fixed_pieces, length_of, order_of
from stav2a_jax.data.cache import ClipCache, Derived, cache_folder, has_derived, prepare, write_derived
from stav2a_jax.training.stages.base import frame_mask, stack_captions, stack_onsets, stack_video, stack_waves

VIDEO = VideoEncoderConfig(fps=10.0, size=16)
RATE = 8000


def render(folder, count, workers=1):
    prepare(folder, 0, "train", count, VIDEO, RATE, workers, shard_size=2)


def times(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips in two shards, by two processes."""
    folder = tmp_path_factory.mktemp("cache") / "clips"
    render(folder, 3, workers=2)
    return folder


@pytest.fixture(scope="module")
def cache(folder):
    return ClipCache(folder, 3, shard_size=2)


def test_a_cache_holds_the_clips_themselves(cache):
    assert len(cache) == 3
    for i in range(3):
        clip, record = foley.make_clip(0, "train", i), cache.records[i]
        frames, wave = foley.render_video(clip, 16, 10.0), foley.render_audio(clip, RATE)
        assert (record["caption"], record["seconds"]) == (clip.caption, clip.seconds)
        assert [e["time"] for e in record["events"]] == pytest.approx([e.time for e in clip.events], abs=1e-4)
        assert (record["frames"], record["samples"]) == (len(frames), len(wave))
        np.testing.assert_array_equal(cache.video(i, 0, len(frames)), frames)
        np.testing.assert_allclose(cache.wave(i, 0, len(wave)), wave, atol=1 / 32767)


def test_behind_the_end_the_picture_stands_still_and_the_sound_is_silence(cache):
    frames, samples = cache.records[1]["frames"], cache.records[1]["samples"]
    video, wave = cache.video(1, frames - 2, 5), cache.wave(1, samples - 3, 10)
    assert video.shape == (5, 16, 16, 3)
    np.testing.assert_array_equal(video[:2], cache.video(1, frames - 2, 2))
    np.testing.assert_array_equal(video[2:], np.repeat(video[1:2], 3, 0))
    np.testing.assert_array_equal(wave[:3], cache.wave(1, samples - 3, 3))
    np.testing.assert_array_equal(wave[3:], np.zeros(7, np.float32))
    np.testing.assert_array_equal(cache.video(1, frames + 4, 2), np.repeat(video[1:2], 2, 0))
    assert not cache.wave(1, samples + 5, 4).any()


def test_a_record_has_a_plain_caption_where_the_picture_shows_the_material(folder):
    for i, record in enumerate(ClipCache(folder, 3, shard_size=2).records):
        clip = foley.make_clip(0, "train", i)
        assert record.get("plain_caption") == (foley.plain_caption(clip) if clip.picture_shows_material else None)


def test_plain_captions_are_taken_by_lot_where_there_are_some():
    records = [{"caption": "a wooden ball", "plain_caption": "a ball"}, {"caption": "a glass ball"}]
    cache, cfg = types.SimpleNamespace(records=records), ModelConfig()

    def words(captions, limit, pad_to):
        return captions

    def taken(clip, share):
        pieces = [Piece(clip, 0, 1, number) for number in range(2000)]
        captions = stack_captions(cache, pieces, words, cfg, share)
        assert captions == stack_captions(cache, pieces, words, cfg, share)
        return np.mean([caption == "a ball" for caption in captions])

    assert (taken(0, 0.0), taken(0, 1.0), taken(1, 1.0)) == (0.0, 1.0, 0.0)
    assert taken(0, 0.4) == pytest.approx(0.4, abs=0.03)


def test_an_interrupted_preparation_goes_on_where_it_stopped(tmp_path, folder):
    copy = tmp_path / "clips"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "00001.json").unlink()
    before = times(copy)
    render(copy, 3)
    after = times(copy)
    assert {name for name in after if after[name] != before.get(name)} == {
        "00001.json",
        "00001.video.npy",
        "00001.wave.npy",
    }
    for path in folder.iterdir():
        assert (copy / path.name).read_bytes() == path.read_bytes(), path.name
    render(copy, 3)
    assert times(copy) == after


def test_a_larger_run_keeps_what_is_there_and_completes_the_last_shard(tmp_path):
    render(tmp_path, 1)
    assert len(ClipCache(tmp_path, 1, shard_size=2)) == 1
    first = foley.make_clip(0, "train", 0).caption
    render(tmp_path, 2)
    cache = ClipCache(tmp_path, 2, shard_size=2)
    assert [r["caption"] for r in cache.records] == [first, foley.make_clip(0, "train", 1).caption]
    before = times(tmp_path)
    render(tmp_path, 1)  # a smaller run reads a part of it
    assert times(tmp_path) == before
    assert len(ClipCache(tmp_path, 1, shard_size=2)) == 1


def test_the_folder_names_all_that_decides_its_content(tmp_path):
    name = cache_folder(tmp_path, 3, "valid", VideoEncoderConfig(fps=12.5, size=64), 16_000)
    assert name == tmp_path / "foley2_s3_valid_64px_12.5fps_16000"


def lengths(*seconds):
    """Stands where a cache is asked for lengths only."""
    return _Lengths(seconds)


class _Lengths:
    def __init__(self, seconds):
        self.records = [{"seconds": s} for s in seconds]

    def __len__(self):
        return len(self.records)


def test_every_clip_has_its_turn_once_an_epoch():
    cache = lengths(*[2.0] * 6)
    for seed in (0, 1):
        order = order_of(cache, seed, 4, (10,), 25.0)
        drawn = [p for step in range(9) for p in order.pieces(step)]
        assert [p.number for p in drawn] == list(range(36))
        epochs = [[p.clip for p in drawn[k : k + 6]] for k in range(0, 36, 6)]
        assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
        assert order_of(cache, seed, 4, (10,), 25.0).pieces(5) == order.pieces(5)
        assert order.pieces(5, slice(1, 3)) == order.pieces(5)[1:3]
    assert order_of(cache, 0, 6, (10,), 25.0).pieces(0) != order_of(cache, 1, 6, (10,), 25.0).pieces(0)


def test_a_piece_lies_inside_its_clip_and_may_lie_anywhere():
    cache = lengths(2.0, 0.5)  # 50 and 13 frames, the last one begun only
    drawn = [p for step in range(300) for p in order_of(cache, 0, 2, (40,), 25.0).pieces(step)]
    starts = collections.Counter(p.start for p in drawn if p.clip == 0)
    assert sorted(starts) == list(range(11))
    assert {p.length for p in drawn if p.clip == 0} == {40}
    assert {(p.start, p.length) for p in drawn if p.clip == 1} == {(0, 13)}


def test_rounding_adds_no_frame_to_a_clip():
    assert 4.4 * 25 > 110
    assert [length_of(lengths(s), 0, 25.0) for s in (4.4, 2.24, 2.0, 2.01)] == [110, 56, 50, 51]
    stored = [float(np.float32(k / 25)) for k in range(25, 1501)]  # as records hold it
    assert [length_of(lengths(s), 0, 25.0) for s in stored] == list(range(25, 1501))


def test_validation_pieces_are_fixed_and_from_the_middle():
    cache = lengths(2.0, 1.0, 0.5)
    rows = fixed_pieces(cache, 2, 2, 20, 25.0)
    assert rows == [[Piece(0, 15, 20, 0), Piece(1, 2, 20, 1)], [Piece(2, 0, 13, 2), Piece(0, 15, 20, 3)]]
    assert fixed_pieces(cache, 2, 2, 20, 25.0) == rows


def test_a_batch_is_cut_from_sound_and_picture_at_the_same_moment(cache):
    chosen = [Piece(0, 5, 10, 0), Piece(2, 0, 4, 1)]  # latent frames, 25 a second
    video, wave = stack_video(cache, chosen, 10, 10 / 25), stack_waves(cache, chosen, 10, 320)
    assert (video.shape, video.dtype) == ((2, 4, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(video[0], cache.video(0, 2, 4))  # 0.2 s
    np.testing.assert_array_equal(wave[0], cache.wave(0, 1600, 3200))
    np.testing.assert_array_equal(frame_mask(chosen, 10), [[1] * 10, [1] * 4 + [0] * 6])


def test_onset_labels_move_with_the_piece():
    cache = types.SimpleNamespace(records=[{"onsets": [0.0, 0.21, 0.39, 0.4, 0.8]}])
    labels = stack_onsets(cache, [Piece(0, 5, 10, 0)], 10, 25.0)
    np.testing.assert_array_equal(np.flatnonzero(labels), [0, 4, 5])  # frames 5, 9 and 10 of the clip


def test_derived_arrays_come_back_and_hold_their_last_row(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 2, 3)).astype(np.float16) for n in (4, 1, 7)]
    assert not has_derived(tmp_path, "latent", 3)
    write_derived(tmp_path, "latent", arrays)
    assert has_derived(tmp_path, "latent", 3)
    assert not has_derived(tmp_path, "latent", 4)
    rows = Derived(tmp_path, "latent")
    for i, array in enumerate(arrays):
        assert rows.length(i) == len(array)
        got = rows.rows(i, 0, len(array))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(rows.rows(0, 2, 4), arrays[0][[2, 3, 3, 3]])
    np.testing.assert_array_equal(rows.rows(1, 5, 2), arrays[1][[0, 0]])
    (tmp_path / "latent.npy").unlink()
    assert not has_derived(tmp_path, "latent", 3)


def test_derived_arrays_are_written_one_by_one(tmp_path):
    alive, most = [], 0

    def made():
        nonlocal most
        for n in range(1, 20):
            array = np.full((n, 2), n, np.float32)
            alive.append(weakref.ref(array))
            most = max(most, sum(one() is not None for one in alive))
            yield array
            del array

    write_derived(tmp_path, "video", made())
    assert most <= 2
    stored = np.load(tmp_path / "video.npy")
    assert (stored.shape, stored.dtype) == ((190, 2), np.float16)
    np.testing.assert_array_equal(stored[:, 1], np.repeat(np.arange(1, 20), np.arange(1, 20)))


def test_rows_that_were_not_written_to_the_end_are_not_there(tmp_path):
    def broken():
        yield np.zeros((2, 2))
        raise KeyboardInterrupt

    write_derived(tmp_path, "video", [np.ones((1, 2))])
    with pytest.raises(KeyboardInterrupt):
        write_derived(tmp_path, "video", broken())
    assert not has_derived(tmp_path, "video", 1)
    write_derived(tmp_path, "video", [np.ones((1, 2))])
    assert has_derived(tmp_path, "video", 1)


def test_derived_arrays_are_those_of_their_clips(tmp_path):
    rows = [np.ones((1, 2)), np.ones((1, 2))]
    write_derived(tmp_path, "video", rows, clips="a, b")
    known = {clips: has_derived(tmp_path, "video", 2, clips) for clips in ("a, b", "a, c", None)}
    assert known == {"a, b": True, "a, c": False, None: True}
    write_derived(tmp_path, "video", rows)  # as an older version left them: of which clips is not known
    assert not has_derived(tmp_path, "video", 2, "a, b")
    assert has_derived(tmp_path, "video", 2)


def test_a_record_is_plain_json(folder):
    record = json.loads((folder / "00000.json").read_text())[0]
    assert {"caption", "events", "onsets", "frames", "samples", "seconds"} <= set(record)
