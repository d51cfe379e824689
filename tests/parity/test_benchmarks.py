"""What the step benchmark times is the same step on both sides. Needs PyTorch and diffusers, but no fixtures."""

import importlib.util
import pathlib

import numpy as np
import pytest

from stav2a_jax.config import UNetConfig
from stav2a_jax.types import LatentSpec

for name in ("torch", "diffusers"):
    pytest.importorskip(name)
pytestmark = [pytest.mark.standalone, pytest.mark.usefixtures("quick_compilation")]

FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "step.py"


def test_both_sides_of_the_step_benchmark_compute_the_same():
    spec = importlib.util.spec_from_file_location("step_benchmark", FILE)
    step = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step)
    cfg = UNetConfig(
        block_out_channels=(16, 32),
        attention=(False, True),
        num_heads=(2, 2),
        layers_per_block=1,
        cross_attention_dim=12,
        norm_groups=8,
        control_channels=6,
    )
    ours, peer = step.both_sides(cfg, LatentSpec(seconds=0.64))
    got, want = ours(), peer()
    assert got.shape == want.shape == (2, 16, 16, 8)
    assert np.abs(got - want).max() <= 1e-4 * np.sqrt(np.mean(np.square(want, dtype=np.float64)))
