"""Which material sounds: a small classifier of impact sounds, trained on true audio only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import librosa
import numpy as np

RATE, WINDOW = 16_000, 0.4


def event_features(wave: np.ndarray, sample_rate: int, times: Sequence[float]) -> np.ndarray:
    """One row per event: its log-mel over 0.4 s from 20 ms before it, the upper 40 dB of it, level removed.

    wave (n,) -> (events, features).
    """
    if sample_rate != RATE:
        raise ValueError(f"{sample_rate=}, expected {RATE}")
    count = int(WINDOW * RATE)
    padded = np.pad(np.asarray(wave, np.float32), (RATE, RATE))
    rows = []
    for time in times:
        start = RATE + int((time - 0.02) * RATE)
        mel = librosa.feature.melspectrogram(
            y=padded[start : start + count], sr=RATE, n_fft=512, hop_length=320, n_mels=40, fmax=8000
        )
        level = librosa.power_to_db(mel, ref=float(mel.max()) + 1e-10, top_db=40.0)
        rows.append(level.reshape(-1) / 20.0)
    return np.array(rows) if rows else np.zeros((0, 0))


class MaterialClassifier:
    """Names the material of a clip from its events."""

    def __init__(self, materials: Sequence[str]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.materials = list(materials)
        self._model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=400))

    def fit(self, features: np.ndarray, labels: Sequence[str]) -> None:
        """features (events, d) of true audio, the material of each."""
        self._model.fit(features, [self.materials.index(m) for m in labels])

    def log_probabilities(self, features: np.ndarray) -> np.ndarray | None:
        """Of one clip, (materials,): the mean over its events, made to sum to 1; None where it has no event."""
        if not len(features):
            return None
        score = np.full(len(self.materials), np.log(1e-6))
        score[self._model.classes_] = np.log(self._model.predict_proba(features) + 1e-6).mean(axis=0)
        return score - np.log(np.exp(score).sum())

    def clip(self, features: np.ndarray) -> str | None:
        """The likeliest material of one clip; None where it has no event."""
        score = self.log_probabilities(features)
        return None if score is None else self.materials[int(np.argmax(score))]
