"""The recipes of CONTRIBUTING.md are run as they stand there."""

import importlib.util
import pathlib
import re

import jax
import pytest

from stav2a_jax.diffusion import samplers

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def test_there_is_a_recipe_for_conditioners_samplers_and_checkpoints():
    assert list(SECTIONS) == [
        "Add a conditioner that gives tokens",
        "Add a conditioner that gives a control",
        "Add a sampler",
        "Port a checkpoint",
    ]
    assert all(BLOCK.search(text) for text in SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_of_a_recipe_runs(title, monkeypatch):
    for registry in ("SAMPLERS", "PLANS"):  # what a recipe registers must not reach other tests
        monkeypatch.setattr(samplers, registry, dict(getattr(samplers, registry)))
    names = {"__name__": "recipe"}
    with jax.default_matmul_precision("highest"):
        for block in BLOCK.findall(SECTIONS[title]):
            if "import torch" in block and importlib.util.find_spec("torch") is None:
                continue
            exec(compile(block, f"CONTRIBUTING.md: {title}", "exec"), names)
