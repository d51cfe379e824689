"""A run that is interrupted goes on as if nothing had happened, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stav2a_jax import parallel
from stav2a_jax.checkpoint import Checkpoints
from stav2a_jax.config import OptimConfig
from stav2a_jax.training.optimiser import make_optimiser
from stav2a_jax.training.step import init_state, train_step
from stav2a_jax.types import UserError


def loss(params, frozen, batch, keys):
    noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
    return jnp.square(batch["x"] @ params["layer"]["w"] + params["b"] - noise).mean(), {}


TX = make_optimiser(OptimConfig(lr=1e-2, warmup_steps=2, schedule="cosine"), 6)
STEP = functools.partial(train_step, loss_fn=loss, tx=TX, ema_decay=0.9)


def fresh(seed=0):
    rng = np.random.default_rng(seed)
    params = {"layer": {"w": rng.normal(size=(3, 2)).astype(np.float32)}, "b": np.zeros(2, np.float32)}
    return init_state(params, TX, seed=11)


def batch(k):
    x = np.random.default_rng(k).normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "index": np.arange(8, dtype=np.int32) + 8 * k}


def go(state, first, last, devices=4, fsdp=1):
    """The state after the steps first .. last - 1."""
    run, put, put_batch = parallel.compile_step(STEP, parallel.make_mesh(devices, fsdp), local=fsdp > 1)
    state = put(state)
    for k in range(first, last):
        state, _ = run(state, put({}), put_batch(batch(k)))
    return state


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_three_steps_and_three_more_are_six_to_the_last_bit(checkpoints, tmp_path):
    half = go(fresh(), 0, 3)
    checkpoints.save(half, 1.0)
    whole = go(half, 3, 6)  # at once: the buffers of ``half`` are given away while they are being written
    assert_equal(whole, go(fresh(), 0, 6))
    checkpoints.wait()
    later = Checkpoints(tmp_path / "checkpoints")  # as a new process would
    assert later.latest_step() == 3
    _, put, _ = parallel.compile_step(STEP, parallel.make_mesh(4))
    state = later.restore(put(fresh(seed=1)), 3)
    assert int(state.step) == 3
    assert_equal(go(state, 3, 6), whole)
    later.close()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_on_four_devices_goes_on_with_fewer(checkpoints, devices):
    saved = go(fresh(), 0, 3)
    checkpoints.save(saved, 1.0)
    _, put, _ = parallel.compile_step(STEP, parallel.make_mesh(devices))
    state = checkpoints.restore(put(fresh(seed=1)), 3)
    assert_equal(state, saved)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {devices}
    assert int(go(state, 3, 4, devices).step) == 4


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 2), (4, 4)])
def test_a_run_whose_parameters_are_split_goes_on_with_them_split_otherwise(checkpoints, devices, fsdp, monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED", 6)
    saved = go(fresh(), 0, 3, devices=4, fsdp=2)
    assert [s.data.shape for s in saved.params["layer"]["w"].addressable_shards] == [(3, 1)] * 4
    checkpoints.save(saved, 1.0, {"next_step": 3})
    mesh = parallel.make_mesh(devices, fsdp)
    state = checkpoints.restore(parallel.shapes_on(mesh, jax.eval_shape(fresh)), 3)
    assert_equal(state, saved)
    assert checkpoints.data(3) == {"next_step": 3}
    wanted = parallel.put(mesh, jax.device_get(saved))
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, wanted)
    assert int(go(state, 3, 4, devices, fsdp).step) == 4


def test_a_state_between_two_validations_is_kept_while_it_is_the_latest(checkpoints):
    state = fresh()
    kept = {}
    for step, valid_loss in [(1, 3.0), (2, None), (3, 4.0), (4, None)]:
        checkpoints.save(state.replace(step=jnp.int32(step)), valid_loss)
        checkpoints.wait()
        kept[step] = sorted(checkpoints._manager.all_steps())
    assert kept == {1: [1], 2: [1, 2], 3: [1, 3], 4: [1, 4]}
    assert checkpoints.best_step() == 1


def test_a_checkpoint_of_an_older_version_is_told_apart(checkpoints):
    import orbax.checkpoint as ocp

    checkpoints._manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(fresh())))
    checkpoints.wait()
    with pytest.raises(
        UserError, match=r"has no part 'data' \(an older version wrote it\): delete .*checkpoints to start"
    ):
        checkpoints.data(3)


def test_the_latest_and_the_best_are_kept(checkpoints):
    state = fresh()
    for step, valid_loss in [(1, 5.0), (2, 3.0), (3, 4.0), (4, 3.5)]:
        params = jax.tree.map(functools.partial(jnp.add, step), state.params)
        checkpoints.save(state.replace(step=jnp.int32(step), params=params), valid_loss)
    checkpoints.wait()
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
    assert checkpoints.valid_loss(2) == 3.0
    folder = checkpoints._manager.directory
    assert sorted(p.name for p in folder.iterdir() if p.name.isdigit()) == ["2", "4"]
    best = checkpoints.restore(state, 2)
    assert_equal(best.params, jax.tree.map(lambda x: x + 2, state.params))


def test_a_step_is_saved_once(checkpoints):
    checkpoints.save(fresh(), 1.0)
    checkpoints.save(fresh(), 2.0)
    assert checkpoints.valid_loss(0) == 1.0


def test_a_new_run_has_nothing_to_restore(checkpoints):
    assert checkpoints.latest_step() is None
    assert checkpoints.best_step() is None
