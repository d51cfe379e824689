"""A run that is killed, or told to stop, goes on as if nothing had happened."""

import importlib.util
import pathlib
import random
import signal

import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def crash():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "crash.py"
    spec = importlib.util.spec_from_file_location("crash", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_that_is_killed_and_told_to_stop_ends_to_the_last_bit_as_one_that_was_left_alone(
    crash, tmp_path, monkeypatch
):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    crash.train(tmp_path, "alone", 12)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL]  # the second one has to exit with 75
    crash.interrupted(tmp_path, 12, signals, random.Random(1))
    counts = crash.check(tmp_path, 12)
    assert counts["epochs"] == 4
    assert counts["arrays"] > 100
