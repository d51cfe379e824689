import numpy as np

from stav2a_jax.metrics.material import RATE, MaterialClassifier, event_features


def _hit(frequency, seed):
    t = np.arange(RATE) / RATE
    noise = np.random.default_rng(seed).normal(size=RATE) * 1e-4
    return (0.5 * np.exp(-t / 0.05) * np.sin(2 * np.pi * frequency * t) + noise).astype(np.float32)


def test_features_do_not_depend_on_the_level():
    wave = _hit(800.0, 0)
    np.testing.assert_allclose(event_features(wave, RATE, [0.1]), event_features(0.5 * wave, RATE, [0.1]), atol=1e-3)


def test_a_clip_without_events_has_no_material():
    features = event_features(np.zeros(RATE, np.float32), RATE, [])
    assert len(features) == 0
    assert MaterialClassifier(["a", "b"]).clip(features) is None


def test_two_kinds_of_sound_are_told_apart():
    low = [(_hit(400.0 + 10 * k, k), "low") for k in range(8)]
    waves = low + [(_hit(3000.0 + 50 * k, k), "high") for k in range(8)]
    classifier = MaterialClassifier(["low", "high"])
    classifier.fit(np.concatenate([event_features(w, RATE, [0.0]) for w, _ in waves]), [name for _, name in waves])
    assert classifier.clip(event_features(_hit(440.0, 99), RATE, [0.0])) == "low"
    assert classifier.clip(event_features(_hit(3210.0, 99), RATE, [0.0])) == "high"
