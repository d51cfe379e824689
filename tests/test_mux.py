"""The picture track is copied untouched, the sound starts and ends with it."""

import hashlib
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from stav2a_jax.types import UserError
from stav2a_jax.video import decode, mux

TIME = np.arange(80_000) / 16_000
TONE = (0.5 * np.sin(2 * np.pi * 300 * TIME) * np.clip(TIME * 20, 0, 1)).astype(np.float32)


def numbered(count, height=48, width=64):
    """Frames whose number stands in seven black and white blocks along the top."""
    frames = np.full((count, height, width, 3), 90, np.uint8)
    bits = np.arange(count)[:, None] >> np.arange(7) & 1
    frames[:, : height // 3, :56] = np.where(bits, 235, 20).repeat(8, 1)[:, None, :, None]
    return frames


def numbers(frames):
    """Inverse of :func:`numbered`."""
    blocks = frames[:, 2 : frames.shape[1] // 3 - 2, :56].mean((1, 3)).reshape(len(frames), 7, 8).mean(-1)
    return ((blocks > 128) << np.arange(7)).sum(1)


def packets(path):
    """(pts, dts, duration in seconds, md5) of every video packet, in file order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            (*(None if v is None else v * stream.time_base for v in (p.pts, p.dts, p.duration)), md5(p))
            for p in container.demux(stream)
            if p.size
        ]


def md5(packet):
    return hashlib.md5(bytes(packet)).hexdigest()


def encode(path, codec, frames, rate, pix_fmt="yuv420p", first=0, **options):
    """A silent video of any codec; ``first`` is the number of the first time stamp."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = i + first, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("fps", [12.5, 23.976, 29.97, 60.0])
def test_packets_and_time_stamps_are_untouched_and_durations_agree(tmp_path, fps):
    mux.write_video(tmp_path / "v.mp4", numbered(40), fps, rotation=90)
    path = mux.write_with_audio(tmp_path / "v.mp4", TONE, 16_000, tmp_path / "o.mp4")
    assert path == tmp_path / "o.mp4"
    before, after = packets(tmp_path / "v.mp4"), packets(path)
    assert before == after
    assert any(pts != dts for pts, dts, *_ in after), "the source was meant to have B-frames"
    old, new = decode.probe(tmp_path / "v.mp4"), decode.probe(path)
    assert (old.seconds, old.rotation, old.height) == (new.seconds, new.rotation, new.height)
    assert new.rotation == 90
    assert len(decode.read_audio(path).wave) == round(new.seconds * 48_000)
    wave = decode.read_audio(path, 16_000).wave
    assert np.abs(wave - TONE[: len(wave)])[:-512].max() < 0.03


def test_a_variable_rate_survives(tmp_path):
    pts = np.cumsum(np.random.default_rng(1).choice([0.02, 0.033, 0.1], 30))
    mux.write_video(tmp_path / "v.mp4", numbered(30), 30.0, pts=pts)
    mux.write_with_audio(tmp_path / "v.mp4", TONE, 16_000, tmp_path / "o.mp4")
    assert packets(tmp_path / "v.mp4") == packets(tmp_path / "o.mp4")
    assert decode.probe(tmp_path / "o.mp4").variable


def test_a_start_that_is_cut_off_by_an_edit_list_stays_cut_off(tmp_path):
    encode(tmp_path / "v.mp4", "libx264", numbered(30), 25, first=-12, bf=2)
    info = decode.probe(tmp_path / "v.mp4")
    assert (info.frames, info.start) == (18, 0)
    assert packets(tmp_path / "v.mp4")[0][0] < 0, "the hidden packets are needed to decode the rest"
    mux.write_with_audio(tmp_path / "v.mp4", TONE, 16_000, tmp_path / "o.mp4")
    assert packets(tmp_path / "v.mp4") == packets(tmp_path / "o.mp4")
    got = decode.read_frames(tmp_path / "o.mp4", 25.0, (48, 64))
    assert numbers(got.frames).tolist() == list(range(12, 30))
    assert len(decode.read_audio(tmp_path / "o.mp4").wave) == 18 * 1920


def test_a_late_start_is_moved_to_zero(tmp_path):
    encode(tmp_path / "v.mkv", "libx264", numbered(10), 25, first=20)
    assert decode.probe(tmp_path / "v.mkv").start == pytest.approx(0.8)
    mux.write_with_audio(tmp_path / "v.mkv", TONE, 16_000, tmp_path / "o.mp4")
    info = decode.probe(tmp_path / "o.mp4")
    assert (info.start, info.seconds) == (0, pytest.approx(0.4))
    before, after = packets(tmp_path / "v.mkv"), packets(tmp_path / "o.mp4")
    assert [p[3] for p in before] == [p[3] for p in after]
    assert {a[0] - b[0] for a, b in zip(before, after)} == {Fraction(4, 5)}


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "suffix"),
    [
        ("v.webm", "libvpx-vp9", "yuv420p", ".mp4"),
        ("v.avi", "mjpeg", "yuvj420p", ".mp4"),
        ("v.avi", "mpeg4", "yuv420p", ".mp4"),
        ("v.webm", "libvpx", "yuv420p", ".mkv"),
        ("v.mkv", "ffv1", "yuv444p", ".mp4"),
        ("v.mov", "prores_ks", "yuv422p10le", ".mkv"),
    ],
)
def test_other_codecs_go_into_mp4_or_else_into_mkv(tmp_path, name, codec, pix_fmt, suffix):
    encode(tmp_path / name, codec, numbered(10), 25, pix_fmt)
    path = mux.write_with_audio(tmp_path / name, TONE, 16_000, tmp_path / "out" / "o.mp4")
    assert path == tmp_path / "out" / f"o{suffix}"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert [p[3] for p in packets(tmp_path / name)] == [p[3] for p in packets(path)]
    assert decode.probe(path).seconds == pytest.approx(0.4, abs=0.002)
    assert abs(len(decode.read_audio(path).wave) - 19_200) <= 1024
    np.testing.assert_array_equal(
        decode.read_frames(path, 25.0, (48, 64)).frames, decode.read_frames(tmp_path / name, 25.0, (48, 64)).frames
    )


def test_a_codec_without_a_container_is_refused_and_nothing_is_left(tmp_path):
    encode(tmp_path / "v.flv", "flv1" if "flv1" in av.codecs_available else "flv", numbered(10), 25)
    with pytest.raises(UserError, match=r"flv1 stream cannot be copied; convert the video to H\.264"):
        mux.write_with_audio(tmp_path / "v.flv", TONE, 16_000, tmp_path / "out" / "o.mp4")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("rate", "written"), [(16_000, 48_000), (44_100, 44_100), (22_000, 48_000)])
def test_short_sound_is_continued_by_silence_and_low_rates_become_48_khz(tmp_path, rate, written):
    mux.write_video(tmp_path / "v.mp4", numbered(30), 30.0)
    tone = TONE[: rate // 2] * np.linspace(1, 0, rate // 2, dtype=np.float32)  # 0.5 s
    wave = np.stack([tone, -tone], 1)
    mux.write_with_audio(tmp_path / "v.mp4", wave, rate, tmp_path / "o.mp4")
    info = decode.probe(tmp_path / "o.mp4")
    assert (info.audio_rate, info.audio_channels) == (written, 2)
    with av.open(str(tmp_path / "o.mp4")) as container:
        both = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], 1)
    assert abs(both.shape[1] - written) < 1024
    assert np.abs(both[:, round(0.55 * written) :]).max() < 0.005
    assert np.abs(both).max() == pytest.approx(np.abs(tone).max(), abs=0.02)
    assert np.abs(both.sum(0)).max() < 0.02


def test_a_long_muxed_file_is_interleaved(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(100), 5.0)
    mux.write_with_audio(tmp_path / "v.mp4", np.zeros(320_000), 16_000, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        order = sorted((p.pos, p.stream.type, float(p.dts * p.time_base)) for p in container.demux() if p.size)
    assert all(abs(a[2] - b[2]) < 1.5 for a, b in itertools.pairwise(order))


def test_writing_over_the_source_works(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(10), 25.0)
    before = packets(tmp_path / "v.mp4")
    mux.write_with_audio(tmp_path / "v.mp4", TONE, 16_000, tmp_path / "v.mp4")
    assert packets(tmp_path / "v.mp4") == before
    assert decode.probe(tmp_path / "v.mp4").has_audio


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def interrupted():
        with mux.atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_bad_targets_are_refused(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(3), 25.0)
    with pytest.raises(UserError, match="the suffix must be one of"):
        mux.write_with_audio(tmp_path / "v.mp4", TONE, 16_000, tmp_path / "o.wav")
    with pytest.raises(UserError, match="cannot be written"):
        mux.write_video(tmp_path / "v.mp4" / "o.mp4", numbered(3), 25.0)
    with pytest.raises(UserError, match="no such file"):
        mux.write_with_audio(tmp_path / "x.mp4", TONE, 16_000, tmp_path / "o.mp4")
    with pytest.raises(ValueError, match="rising"):
        mux.write_video(tmp_path / "o.mp4", numbered(3), 25.0, pts=np.array([0, 0.1, 0.1]))
    with pytest.raises(ValueError, match="finite"):
        mux.write_with_audio(tmp_path / "v.mp4", np.full(99, np.nan), 16_000, tmp_path / "o.mp4")


def test_the_index_stands_in_front_and_pixels_are_420(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(5, 47, 65), 25.0, TONE)
    data = (tmp_path / "v.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(23.976, (24000, 1001)), (29.97, (30000, 1001)), (59.94, (60000, 1001)), (30.0, (30, 1)), (12.5, (25, 2))],
)
def test_nominal_rates_mean_their_exact_fractions(fps, rate):
    assert mux.exact_rate(fps) == Fraction(*rate)
