"""Writing video files: a new sound track beside an untouched picture track, or pictures from memory.

Everything is written under a temporary name in the same folder and renamed at the end, so that an interrupted run
leaves no half file. Sound is AAC, whose encoder delay goes into an edit list: it starts with the first picture.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from stav2a_jax.types import UserError
from stav2a_jax.video.container import PathLike, VideoInfo, open_container, probe, video_stream
from stav2a_jax.video.sound import fit, resample

# AAC works in blocks of 1024 samples and smears an attack over one of them: 64 ms at 16 kHz, 21 ms at 48 kHz
AAC_RATES = (44_100, 48_000, 88_200, 96_000)
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_TICK = Fraction(1, 90_000)  # of time stamps given in seconds; every usual rate is a whole number of these


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[pathlib.Path]:
    """A temporary path beside ``path`` with its suffix; takes its name when the block ends well, else is removed."""
    target = pathlib.Path(path).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem[:80]}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder.") from None
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are for their owner only
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_with_audio(source: PathLike, wave: np.ndarray, sample_rate: int, out: PathLike) -> pathlib.Path:
    """Copy the video stream of ``source`` packet by packet and add ``wave`` as an AAC track; returns the path written.

    wave (n,) or (n, 2) in [-1, 1] at ``sample_rate`` Hz, sample 0 at the first picture; it is cut, or continued with
    silence, to the video's length. Packets, their distances in time, codec parameters and rotation stay as they are;
    only a container that starts late is moved so that its first picture is at 0. Where the codec cannot live in the
    wanted container, the file becomes a .mkv of the same name, hence the returned path. Sound at other rates than
    44.1, 48, 88.2 and 96 kHz is resampled to 48 kHz, which plays anywhere and keeps attacks sharp. Raises
    :class:`UserError` for a bad source, suffix or folder.
    """
    out = pathlib.Path(out)
    if out.suffix.lower() not in CONTAINERS:
        raise UserError(f"{out}: the suffix must be one of {', '.join(CONTAINERS)}.")
    info = probe(source)
    wave, sample_rate = _prepare(wave, sample_rate, info.seconds)
    for path in dict.fromkeys((out, out.with_suffix(".mkv"))):
        try:
            with atomic(path) as temporary:
                _copy(source, info, wave, sample_rate, temporary)
            return path
        except (av.error.FFmpegError, ValueError):  # this container cannot hold this codec
            continue
    raise UserError(f"{source}: its {info.codec} stream cannot be copied; convert the video to H.264 mp4 first.")


def write_video(
    path: PathLike,
    frames: np.ndarray,
    fps: float | Fraction,
    wave: np.ndarray | None = None,
    sample_rate: int = 16_000,
    *,
    crf: float = 18,
    pts: np.ndarray | None = None,
    rotation: int = 0,
) -> None:
    """Write an mp4 that plays anywhere: H.264 (yuv420p, BT.709), AAC, index in front.

    frames (N, H, W, 3) uint8 RGB; odd sizes get one more row or column, a copy of the last, because 4:2:0 has
    even sizes only. ``fps``: 23.976, 29.97, 59.94 and the like mean their exact 1001-ths. ``pts`` (N,) seconds,
    rising, makes a variable rate, and 1 / fps is then the length of the last frame. ``wave`` (n,) or (n, 2) in
    [-1, 1] is treated as in :func:`write_with_audio`. ``rotation``: multiple of 90 degrees
    counter-clockwise, as a display matrix. Raises :class:`UserError` when the folder cannot be written.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"{frames.shape=} {frames.dtype=}, expected (N > 0, H, W, 3) uint8")
    rate = exact_rate(fps)
    tick = 1 / rate if pts is None else _TICK
    stamps = list(range(len(frames))) if pts is None else [round(float(t) / tick) for t in pts]
    if len(stamps) != len(frames) or any(b <= a for a, b in itertools.pairwise(stamps)):
        raise ValueError(f"{len(stamps)} time stamps for {len(frames)} frames, expected as many, rising")
    lengths = [b - a for a, b in itertools.pairwise(stamps)] + [round(1 / rate / tick)]
    padding = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    seconds = float((stamps[-1] + lengths[-1] - stamps[0]) * tick)
    sound = None if wave is None else _prepare(wave, sample_rate, seconds)
    options = _mp4_options(48_000 if sound is None else sound[1])
    lasting: dict[int, int] = {}
    with atomic(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        video = _h264(container, rate, tick, frames.shape[2] + padding[2][1], frames.shape[1] + padding[1][1], crf)
        if pts is not None:  # mp4 keeps the distances in decoding order: with B-frames the last length would be lost
            video.codec_context.max_b_frames = 0
        if rotation:
            video.set_display_rotation(rotation)
        track = None if sound is None else _AudioTrack(container, *sound)
        for image, stamp, length in zip(frames, stamps, lengths):
            frame = av.VideoFrame.from_ndarray(np.pad(image, padding[1:], mode="edge"), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = stamp - stamps[0], tick
            lasting[frame.pts] = length
            _mux(container, video.encode(frame), lasting)
            if track:
                track.write_until(float((stamp - stamps[0]) * tick))
        _mux(container, video.encode(None), lasting)
        if track:
            track.close()


def exact_rate(fps: float | Fraction) -> Fraction:
    """23.976 -> 24000/1001, 29.97 -> 30000/1001, 12.5 -> 25/2."""
    if isinstance(fps, float):
        whole = round(fps * 1.001)
        if whole in (24, 30, 48, 60, 90, 120) and abs(fps - whole / 1.001) < 0.005:
            return Fraction(whole * 1000, 1001)
    return Fraction(fps).limit_denominator(1001)


def _mp4_options(sample_rate: int) -> dict[str, str]:
    # the length of the sound stands in the edit list in units of the movie's time scale, 1 ms if nothing is said
    return {"movflags": "+faststart", "movie_timescale": str(sample_rate)}


class _AudioTrack:
    """Encodes a prepared wave step by step, so that its packets lie beside the pictures of the same moment."""

    def __init__(self, container: Any, wave: np.ndarray, sample_rate: int):
        self.container, self.wave, self.rate, self.done = container, wave, sample_rate, 0
        self.layout = "mono" if len(wave) == 1 else "stereo"
        self.stream = container.add_stream("aac", rate=sample_rate, layout=self.layout)
        # below this rate the encoder spoils single blocks of loud tones (17 dB of signal to noise instead of 40);
        # its "fast" coder, better elsewhere, clips low tones at every rate
        self.stream.codec_context.bit_rate = 192_000 * len(wave)

    def write_until(self, seconds: float) -> None:
        while self.done < self.wave.shape[1] and self.done <= seconds * self.rate:
            block = np.ascontiguousarray(self.wave[:, self.done : self.done + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self.layout)
            frame.sample_rate, frame.time_base, frame.pts = self.rate, Fraction(1, self.rate), self.done
            self.done += block.shape[1]
            self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.write_until(float("inf"))
        self.container.mux(self.stream.encode(None))


def _prepare(wave: np.ndarray, sample_rate: int, seconds: float) -> tuple[np.ndarray, int]:
    """((channels, n) float32 clipped to [-1, 1] and exactly ``seconds`` long, the rate to write)."""
    wave = np.asarray(wave, np.float32)
    if wave.ndim > 2 or (wave.ndim == 2 and wave.shape[1] not in (1, 2)) or not np.isfinite(wave).all():
        raise ValueError(f"{wave.shape=}, expected finite samples of shape (n,), (n, 1) or (n, 2)")
    if sample_rate not in AAC_RATES:
        wave, sample_rate = resample(wave, sample_rate, 48_000), 48_000
    wave = fit(wave, max(1, round(seconds * sample_rate)))
    return np.ascontiguousarray(np.clip(wave.reshape(len(wave), -1).T, -1, 1)), sample_rate


def _h264(container: Any, rate: Fraction, tick: Fraction, width: int, height: int, crf: float) -> Any:
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    stream.time_base = context.time_base = tick
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _mux(container: Any, packets: list[Any], lasting: dict[int, int]) -> None:
    for packet in packets:  # the encoder guesses durations, of the last frame wrongly when the rate varies
        packet.duration = lasting[packet.pts]
        container.mux(packet)


def _copy(source: PathLike, info: VideoInfo, wave: np.ndarray, rate: int, out: pathlib.Path) -> None:
    kind = CONTAINERS[out.suffix.lower()]
    options = {} if kind == "matroska" else _mp4_options(rate)
    with open_container(source) as reader:
        stream = video_stream(reader, source)
        if kind != "matroska":
            options["video_track_timescale"] = str(stream.time_base.denominator)  # else 1/25 becomes 1/12800
        with av.open(str(out), "w", format=kind, options=options) as writer:
            copy = writer.add_stream_from_template(stream, opaque=True)  # opaque: no encoder is needed
            copy.time_base = stream.time_base
            track = _AudioTrack(writer, wave, rate)
            shift = round(info.start / stream.time_base)
            for packet in reader.demux(stream):
                if not packet.size:
                    continue
                packet.pts = None if packet.pts is None else packet.pts - shift
                packet.dts = None if packet.dts is None else packet.dts - shift
                packet.stream = copy
                now = packet.dts
                writer.mux(packet)
                if now is not None:
                    track.write_until(float(now * stream.time_base))
            track.close()
