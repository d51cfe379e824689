"""One training step of every file in configs/: large ones as shapes, those in configs/tiny for real."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax import config
from stav2a_jax.data.batches import Piece
from stav2a_jax.training import initial
from stav2a_jax.training.loop import make_step
from stav2a_jax.training.recipe import STAGES, load_config, to_train
from stav2a_jax.training.shapes import step_shapes
from stav2a_jax.training.step import init_state
from stav2a_jax.training.workspace import Workspace, stage_settings

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TINY = sorted((CONFIGS / "tiny").rglob("*.py"))
WHOLE = {CONFIGS / "foley_tiny.py"}  # test_configs_train.py trains all of its stages
LARGE = sorted(set(CONFIGS.rglob("*.py")) - set(TINY) - WHOLE)


def name_of(path):
    return str(path.relative_to(CONFIGS).with_suffix(""))


def same_shapes(a, b):
    return jax.tree.map(lambda x: (x.shape, x.dtype), a) == jax.tree.map(lambda x: (x.shape, x.dtype), b)


@pytest.fixture(scope="module")
def traced():
    """What a step was traced with before, so that rows that differ in their data only are traced once."""
    return set()


@pytest.mark.parametrize("path", LARGE, ids=name_of)
def test_a_step_of_a_large_config_is_lowered_and_gives_a_state_like_its_own(path, traced):
    cfg = load_config(path, [])
    for name in to_train(cfg):
        settings = getattr(cfg.stages, name)
        assert settings.batch_size % (8 * settings.optim.accum) == 0  # on eight devices
        # Chunks and recomputation would be traced again and change no shape; tests/test_step.py has them.
        cfg = config.override(cfg, "model.compute.remat=False")
        known = {k: v for k, v in stage_settings(cfg, name).items() if k not in ("data", "seed", "stages")}
        if (key := (name, json.dumps(known, sort_keys=True))) in traced:
            continue
        traced.add(key)
        shapes = step_shapes(cfg, name)
        step = functools.partial(shapes.step, accum=1)
        lowered = jax.jit(step, donate_argnums=0).lower(shapes.state, shapes.frozen, shapes.batch)
        state, metrics = lowered.out_info
        assert same_shapes(state, shapes.state)
        assert metrics["loss"].shape == metrics["grad_norm"].shape == ()
        assert lowered.cost_analysis()["flops"] > 1e8
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes.state.params))


def test_the_paper_s_recipe_is_the_paper_s():
    cfg = load_config(CONFIGS / "stav2a.py", [])
    stage = cfg.stages.stav2a
    assert (stage.optim.lr, stage.batch_size, stage.optim.accum, stage.batch_size // (8 * 2)) == (3e-5, 160, 2, 10)
    assert stage.steps * 160 / 53_293 == pytest.approx(40, abs=0.01)
    assert (cfg.guidance.steps, cfg.guidance.text) == (200, 3.0)
    assert (cfg.data.min_av_align, cfg.data.drop_speech) == (0.2, True)


def test_sizes_are_those_of_the_papers_networks():
    def millions(name, stage, group):
        state = step_shapes(load_config(CONFIGS / f"{name}.py", []), stage).state
        return sum(x.size for x in jax.tree.leaves(state.params[group])) / 1e6

    assert millions("stav2a", "stav2a", "unet") == pytest.approx(187.9, abs=0.05)
    assert millions("stav2a", "stav2a", "controlnet") == pytest.approx(82.2, abs=0.05)
    assert millions("stav2a_from_tango", "stav2a", "unet") == pytest.approx(865.9, abs=0.05)


@pytest.mark.parametrize("folder", [CONFIGS / "ablation", CONFIGS / "tiny" / "ablation"], ids=name_of)
def test_a_row_differs_from_the_next_in_what_its_name_says(folder):
    rows = {path.stem: load_config(path, []) for path in folder.glob("*.py")}
    assert len(rows) == 7
    names = ("cn_without_filter", "cn", "cn_onset", "cn_onset_global")
    known = {
        n: (rows[n].data.min_av_align, rows[n].recipe.local, rows[n].model.conditions.global_tokens) for n in names
    }
    assert known == {
        "cn_without_filter": (None, "fresh", False),
        "cn": (0.2, "fresh", False),
        "cn_onset": (0.2, "onset", False),
        "cn_onset_global": (0.2, "onset", True),
    }
    assert [n for n in rows if not rows[n].recipe.train_unet] == ["cn_frozen"]
    assert {n for n in rows if not rows[n].model.conditions.control} == {"t2a_pretrained", "t2a_finetuned"}
    budgets = {max(getattr(cfg.stages, stage).batch_size for stage in to_train(cfg)) for cfg in rows.values()}
    assert len(budgets) == 1 or folder.parent.name == "configs"  # the paper's pre-training is another matter


@pytest.fixture(scope="module")
def given(tmp_path_factory, small):
    """A run that has finished every stage, with noise for weights; the others take from it what fits."""
    folder = tmp_path_factory.mktemp("configs")
    ws = Workspace(shrunk(small, CONFIGS / "tiny" / "stav2a.py"), folder / "given", folder / "cache")
    small.write_noise(ws, ("vae", "vocoder", "cavp", "t2a", "onset"))
    STAGES["stav2a"](ws)  # derives latents and features of the clips
    return ws.root


def shrunk(small, path):
    words = small.assignments()
    filtered = load_config(path, []).data.min_av_align is not None
    return load_config(path, [*words, *(["data.min_av_align=0.0"] if filtered else [])])


@pytest.mark.parametrize("path", TINY, ids=name_of)
def test_a_tiny_config_takes_a_step(path, given, small, tmp_path):
    cfg = shrunk(small, path)
    ws = small.NoisyStart(cfg, tmp_path / "run", given.parent / "cache")
    for stage in set(initial.GROUPS) - set(to_train(cfg)):
        initial.adopt(ws, stage, [str(given)])
    for name in to_train(cfg):
        small.write_noise(ws, [s for s in ("vae", "cavp", "t2a", "onset") if s != name])
        (ws.root / name / "result.json").unlink(missing_ok=True)
        stage, settings = STAGES[name](ws), getattr(cfg.stages, name)
        step, tx = make_step(settings, stage)
        crop = round(settings.crop_seconds * 25)
        pieces = [Piece(i % 4, 0, crop, i) for i in range(settings.batch_size)]
        inputs = init_state(stage.params, tx, 0), stage.frozen, stage.batch("train", pieces, crop)
        # Operation by operation where there is a U-Net: the programs of one operation are shared by all configs.
        state, metrics = (step if name in ("t2a", "stav2a") else jax.jit(step))(*inputs)
        assert np.isfinite([float(x) for x in metrics.values()]).all()
        assert float(metrics["grad_norm"]) > 0
        assert int(state.step) == 1
        assert same_shapes(state, inputs[0])
