"""Sound decoded from real clips has exactly the onsets that librosa finds in the original extraction."""

import json
import os
import pathlib

import librosa
import numpy as np
import pytest
import soundfile

from stav2a_jax.video import decode
from stav2a_jax.video.sound import resample

ROOT = pathlib.Path(os.environ.get("STAV2A_PARITY", pathlib.Path(__file__).parents[2].parent / "shared")) / "clips"


def cases():
    """(sound file, onset times) of every clip listed."""
    if not (ROOT / "expected.json").exists():
        return []
    found = []
    for clip, entry in json.loads((ROOT / "expected.json").read_text()).items():
        if "audio_peaks" in entry:  # measured on the wave file beside the video, whose own sound is 0.2 s shorter
            found.append((ROOT / clip / "gt_16k.wav", entry["audio_peaks"]))
        else:
            found += [(ROOT / clip / f"{k}.mp4", v["audio_peaks"]) for k, v in entry.items() if "audio_peaks" in v]
    return found


@pytest.mark.skipif(not cases(), reason=f"no clips at {ROOT} (set STAV2A_PARITY)")
def test_onsets_of_decoded_sound_equal_librosas():
    wrong = []
    for path, want in cases():
        wave = decode.read_audio(path, 22_050).wave
        frames = librosa.onset.onset_detect(y=wave, sr=22_050)
        if not np.array_equal(librosa.frames_to_time(frames, sr=22_050), want):
            wrong.append(path.relative_to(ROOT))
    print(f"{len(cases()) - len(wrong)} of {len(cases())} clips have the same onsets")
    assert not wrong


@pytest.mark.skipif(not cases(), reason=f"no clips at {ROOT} (set STAV2A_PARITY)")
def test_a_wave_file_is_read_as_librosa_loads_it():
    path = next(p for p, _ in cases() if p.suffix == ".wav")
    wave, rate = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(decode.read_audio(path, 22_050).wave, resample(wave, rate, 22_050))


@pytest.mark.skipif(not cases(), reason=f"no clips at {ROOT} (set STAV2A_PARITY)")
def test_frame_rates_of_real_clips_come_from_their_time_stamps():
    for clip, entry in json.loads((ROOT / "expected.json").read_text()).items():
        want = entry["fps"] if "fps" in entry else entry["video"]["group1"]["fps"]
        info = decode.probe(ROOT / clip / "gt.mp4")
        assert info.fps == pytest.approx(want, rel=1e-9)
        assert not info.variable
