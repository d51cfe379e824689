"""Pictures and sound come out by their time stamps, from any file."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stav2a_jax.types import UserError
from stav2a_jax.video import decode, mux
from stav2a_jax.video.sound import resample


def numbered(count, height=48, width=64):
    """Frames whose number stands in seven black and white blocks along the top; the left lower corner is red."""
    frames = np.full((count, height, width, 3), 90, np.uint8)
    bits = np.arange(count)[:, None] >> np.arange(7) & 1
    frames[:, : height // 3, :56] = np.where(bits, 235, 20).repeat(8, 1)[:, None, :, None]
    frames[:, -height // 3 :, : width // 3] = (220, 20, 20)
    return frames


def numbers(frames):
    """Inverse of :func:`numbered`."""
    blocks = frames[:, 2 : frames.shape[1] // 3 - 2, :56].mean((1, 3)).reshape(len(frames), 7, 8).mean(-1)
    return ((blocks > 128) << np.arange(7)).sum(1)


def visible(stamps, moments):
    return np.maximum(np.searchsorted(stamps, np.asarray(moments) + 1e-5, side="right") - 1, 0)


@pytest.mark.parametrize("fps", [12.5, 23.976, 29.97, 60.0])
def test_each_frame_is_the_picture_visible_at_its_moment(tmp_path, fps):
    path, rate = tmp_path / "v.mp4", float(mux.exact_rate(fps))
    mux.write_video(path, numbered(40), fps)
    info = decode.probe(path)
    assert (info.frames, info.variable, info.has_audio, info.codec) == (40, False, False, "h264")
    assert info.seconds == pytest.approx(40 / rate, abs=1e-6)
    assert info.fps == pytest.approx(rate, abs=1e-4)
    for wanted in (4.0, 10.0, 25.0, rate, 48.0):
        got = decode.read_frames(path, wanted, (48, 64))
        assert len(got.frames) == max(1, round(40 / rate * wanted))
        moments = np.arange(len(got.frames)) / wanted
        np.testing.assert_array_equal(numbers(got.frames), visible(np.arange(40) / rate, moments))


def test_a_variable_rate_is_followed_by_its_time_stamps(tmp_path):
    pts = np.cumsum(np.random.default_rng(0).choice([0.02, 0.033, 0.1, 0.25], 40)) - 0.02
    mux.write_video(tmp_path / "v.mp4", numbered(40), 30.0, pts=pts)
    info, stamps = decode.probe(tmp_path / "v.mp4"), pts - pts[0]
    assert info.variable
    assert info.seconds == pytest.approx(stamps[-1] + 1 / 30, abs=1e-4)
    got = decode.read_frames(tmp_path / "v.mp4", 25.0, (48, 64))
    moments = np.arange(len(got.frames)) / 25
    clear = np.abs(moments[:, None] - stamps).min(1) > 1e-4  # not within rounding of a change of picture
    assert clear.sum() > 50
    np.testing.assert_array_equal(numbers(got.frames)[clear], visible(stamps, moments)[clear])


def test_millisecond_time_stamps_of_matroska_count_as_a_steady_rate(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(48), 23.976)
    path = mux.write_with_audio(tmp_path / "v.mp4", np.zeros(16000), 16_000, tmp_path / "v.mkv")
    info = decode.probe(path)
    assert (info.time_base, info.variable) == (0.001, False)
    got = decode.read_frames(path, 24000 / 1001, (48, 64))
    np.testing.assert_array_equal(numbers(got.frames), np.arange(48))


def test_a_part_of_a_video_is_that_part_of_the_whole(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(120), 20.0)  # 6 s: the second part is found by seeking
    for start in (1.03, 4.52):
        part = decode.read_frames(tmp_path / "v.mp4", 10.0, (48, 64), start=start, seconds=1.2)
        assert part.seconds == pytest.approx(1.2)
        moments = start + np.arange(12) / 10
        np.testing.assert_array_equal(numbers(part.frames), visible(np.arange(120) / 20, moments))
    assert len(decode.read_frames(tmp_path / "v.mp4", 10.0, 16, start=5.5, seconds=9).frames) == 5
    pairs = list(decode.iter_frames(tmp_path / "v.mp4", start=5.8))
    assert [when for when, _ in pairs] == pytest.approx([5.8, 5.85, 5.9, 5.95])
    np.testing.assert_array_equal(numbers(np.stack([image for _, image in pairs])), [116, 117, 118, 119])


@pytest.mark.parametrize("count", [1, 5])
def test_a_very_short_video_still_gives_a_frame(tmp_path, count):
    mux.write_video(tmp_path / "v.mp4", numbered(count), 25.0)
    assert decode.probe(tmp_path / "v.mp4").seconds == pytest.approx(count / 25)
    got = decode.read_frames(tmp_path / "v.mp4", 4.0, 32)
    assert got.frames.shape == (1, 32, 32, 3)
    assert got.seconds == pytest.approx(count / 25)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path, rotation):
    mux.write_video(tmp_path / "v.mp4", numbered(5), 25.0, rotation=rotation)
    upright = np.rot90(numbered(5), rotation // 90, axes=(1, 2))
    info = decode.probe(tmp_path / "v.mp4")
    assert (info.rotation, info.height, info.width) == (rotation, *upright.shape[1:3])
    got = decode.read_frames(tmp_path / "v.mp4", 25.0, upright.shape[1:3]).frames
    assert np.abs(got.astype(int) - upright).mean() < 4
    small = decode.read_frames(tmp_path / "v.mp4", 25.0, (24, 20)).frames
    red = (small[..., 0] > 150) & (small[..., 1] < 90)
    want = (upright[0, 1::2, 1::2, 0] > 150) & (upright[0, 1::2, 1::2, 1] < 90)
    centre = np.argwhere(red[0]).mean(0) / [24, 20]
    np.testing.assert_allclose(centre, np.argwhere(want).mean(0) / want.shape, atol=0.05)


def test_shrinking_is_antialiased_and_fills_the_square(tmp_path):
    frames = np.zeros((2, 120, 240, 3), np.uint8)
    frames[:, ::2] = 255  # lines of one pixel: without a filter they would give bars, with one an even grey
    mux.write_video(tmp_path / "v.mp4", frames, 25.0, crf=1)
    small = decode.read_frames(tmp_path / "v.mp4", 25.0, 28).frames
    assert small.shape == (2, 28, 28, 3)
    assert np.ptp(small[:, 2:-2]) < 40
    assert abs(small.mean() - 127) < 12


def test_colours_survive_in_small_and_odd_videos(tmp_path):
    frames = np.zeros((3, 47, 65, 3), np.uint8)
    frames[:] = (200, 40, 90)
    mux.write_video(tmp_path / "v.mp4", frames, 25.0)
    info = decode.probe(tmp_path / "v.mp4")
    assert (info.height, info.width) == (48, 66)
    got = decode.read_frames(tmp_path / "v.mp4", 25.0, (48, 66)).frames
    assert np.abs(got.astype(int) - (200, 40, 90)).max() <= 4


def test_time_zero_is_the_first_picture_for_sound_too(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for i, image in enumerate(numbered(10)):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = i + 5, Fraction(1, 25)  # 0.2 s later than the sound
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.arange(9600, dtype=np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(audio.encode(frame))
    info = decode.probe(path)
    assert (info.start, info.seconds) == (pytest.approx(0.2), pytest.approx(0.4))
    wave = decode.read_audio(path).wave
    np.testing.assert_array_equal(wave, np.arange(3200, 9600, dtype=np.float32) / 32768)
    assert numbers(decode.read_frames(path, 25.0, (48, 64)).frames).tolist() == list(range(10))


def test_end_padding_and_priming_of_aac_are_removed_and_stereo_has_gain_one(tmp_path):
    time = np.arange(57_330) / 44_100  # 1.3 s, no multiple of 1024
    wave = (0.6 * np.sin(2 * np.pi * 440 * time) * (1 + np.sin(9 * time)) / 2).astype(np.float32)
    mux.write_video(tmp_path / "v.mp4", numbered(26), 20.0, np.stack([wave, wave], 1), 44_100)
    got = decode.read_audio(tmp_path / "v.mp4")
    assert (got.sample_rate, got.channels, got.native_rate, got.wave.dtype) == (44_100, 2, 44_100, np.float32)
    assert len(got.wave) == len(wave)
    inner = slice(512, -512)  # the codec smears the hard ends
    gain = got.wave[inner] @ wave[inner] / (wave[inner] @ wave[inner])
    assert gain == pytest.approx(1.0, abs=0.005)
    assert np.abs(got.wave - wave)[inner].max() < 0.05
    mux.write_video(tmp_path / "one.mp4", numbered(26), 20.0, np.stack([wave, 0 * wave], 1), 44_100)
    left = decode.read_audio(tmp_path / "one.mp4").wave
    assert left[inner] @ wave[inner] / (wave[inner] @ wave[inner]) == pytest.approx(0.5, abs=0.005)


def test_resampling_counts_samples_as_librosa_does(tmp_path):
    import librosa

    wave = np.random.default_rng(0).normal(size=4411).astype(np.float32)
    np.testing.assert_array_equal(
        resample(wave, 44_100, 22_050), librosa.resample(wave, orig_sr=44_100, target_sr=22_050)
    )
    mux.write_video(tmp_path / "v.mp4", numbered(10), 25.0, 0.1 * wave, 44_100)
    part = decode.read_audio(tmp_path / "v.mp4", 22_050, start=0.3, seconds=0.5)
    whole = decode.read_audio(tmp_path / "v.mp4", 22_050).wave
    assert len(part.wave) == 11_025
    np.testing.assert_array_equal(part.wave[: len(whole) - 6615], whole[6615:])
    assert not part.wave[len(whole) - 6615 :].any()


def test_bad_files_are_named_in_one_sentence(tmp_path):
    text, empty, sound = tmp_path / "a.txt", tmp_path / "b.mp4", tmp_path / "c.wav"
    text.write_text("not a video at all\n" * 50)
    empty.write_bytes(b"")
    import soundfile

    soundfile.write(sound, np.zeros(800, np.float32), 16_000)
    mux.write_video(tmp_path / "d.mp4", numbered(5), 25.0)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "d.mp4").read_bytes()[:600])
    for path, words in [
        (tmp_path / "none.mp4", "no such file"),
        (tmp_path, "no such file"),
        (text, "not a video"),
        (empty, "not a video"),
        (tmp_path / "cut.mp4", "not a video"),
        (sound, "no video stream"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            decode.read_frames(path, 4.0, 32)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no audio track"):
        decode.read_audio(tmp_path / "d.mp4", 16_000)
    with pytest.raises(UserError, match="outside the video"):
        decode.read_frames(tmp_path / "d.mp4", 4.0, 32, start=0.3)
    with pytest.raises(UserError, match=r"longer than the limit of 0\.1 s"):
        decode.read_frames(tmp_path / "d.mp4", 4.0, 32, max_seconds=0.1)
    with pytest.raises(UserError, match="must be positive"):
        decode.read_frames(tmp_path / "d.mp4", 0.0, 32)


def test_a_video_whose_pictures_are_damaged_is_refused(tmp_path):
    mux.write_video(tmp_path / "v.mp4", numbered(5), 25.0)
    data = bytearray((tmp_path / "v.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "v.mp4").write_bytes(data)
    with pytest.raises(UserError, match="no picture"):
        decode.read_frames(tmp_path / "v.mp4", 25.0, 32)
