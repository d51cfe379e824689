"""The released training step: losses of both predictions and both weightings, and the gradient of every parameter."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax import released
from stav2a_jax.convert.families import FAMILIES
from stav2a_jax.convert.transfer import export
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.tensors import Tensors
from stav2a_jax.training.stages.stav2a import Draws, losses

TRAINED = ("unet", "controlnet", "local", "onset", "pooling")


class Step:
    """The step at the fixture's inputs: what is drawn in training is given."""

    def __init__(self, case):
        self.model, _, params = case.system()
        self.trained = {group: params[group] for group in TRAINED}
        self.frozen = {"text": params["text"]}
        inputs = {name: jnp.asarray(value) for name, value in case.inputs.items()}
        self.x0, self.eps = (jnp.moveaxis(inputs[name], 1, -1) for name in ("latents", "noise"))
        self.t, self.drop = inputs["timesteps"], inputs["uncond_drop"].astype(bool)
        self.batch = {
            "video": inputs["cavp"],
            "ids": inputs["input_ids"],
            "ids_mask": inputs["attention_mask"],
            "onset": inputs["audio_sound_starts"],
            "mask": None,  # every frame counts
        }
        length = inputs["input_ids"].shape[1]
        self.null = np.eye(1, length, dtype=np.int32), np.eye(1, length, dtype=np.int32)  # </s> is 1

    def __call__(self, trained, t, drop, prediction="v", gamma=None):
        """(mean diffusion loss, onset loss)."""
        cfg = dataclasses.replace(released.LOSS, snr_gamma=gamma)
        schedule = make_schedule(dataclasses.replace(self.model.schedule, prediction=prediction))
        nothing = jnp.zeros_like(drop)
        draws = Draws(t, self.eps, drop, nothing, nothing, dropout=None)
        params = {**self.frozen, **trained}
        rows, onset = losses(self.model, cfg, schedule, params, self.batch, self.x0, self.null, draws)
        return rows.mean(), onset


@pytest.fixture
def step(case):
    return Step(case)


@pytest.mark.given("train_step_tiny", outputs=("loss_*",))
def test_losses_equal_the_original(case, step):
    pattern = r"loss_(validation_)?(v_prediction|epsilon)_(plain|snr\d+)(?:_(keep|drop))?"
    named = {name: re.fullmatch(pattern, name) for name in case.claimed if name != "loss_onset"}
    kinds = sorted({(found[2], found[3]) for found in named.values()})

    @jax.jit  # one program: the network is the same in all of them
    def all_kinds(t, drop):
        return [
            step(step.trained, t, drop, prediction.removesuffix("_prediction"), gamma_of(weighting))
            for prediction, weighting in kinds
        ]

    middle, nothing = jnp.full_like(step.t, step.model.schedule.train_steps // 2), jnp.zeros_like(step.drop)
    runs = {"keep": (step.t, nothing), "drop": (step.t, step.drop), None: (middle, nothing)}
    values = {name: all_kinds(*run) for name, run in runs.items()}
    for name, found in named.items():
        diffusion, onset = values[found[4]][kinds.index((found[2], found[3]))]
        case.check(name, diffusion[None])
        case.check("loss_onset", onset[None])


def gamma_of(weighting):
    return None if weighting == "plain" else float(weighting.removeprefix("snr"))


@pytest.mark.given("train_step_tiny", outputs=("grad*",))
def test_gradients_of_every_parameter_equal_the_original(case, step):
    nothing = jnp.zeros_like(step.drop)
    for which, name in enumerate(("grad_norms", "grads_onset")):
        tree = jax.jit(jax.grad(lambda p, which=which: step(p, step.t, nothing)[which]))(step.trained)
        got, want = norms(case, step.model, tree), case.outputs[name]
        case.check(name, got)
        # each by itself as well: the largest must not hide the others (one that is 0 in theory is rounding)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * np.sqrt(np.mean(want**2)))


def norms(case, model, tree):
    """L2 norm of every gradient, under the PyTorch names and in the fixture's order."""
    flat = {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    tensors, _ = export(Tensors.of(flat), model, FAMILIES["stav2a"])
    return np.array([np.linalg.norm(tensors[name]) for name in case.meta["grad_names"]])
