"""One pure step gives the same numbers on one device or four, whole or in pieces."""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stav2a_jax import parallel
from stav2a_jax.config import OptimConfig, ScheduleConfig, UNetConfig
from stav2a_jax.diffusion.loss import diffusion_loss
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.unet import UNet
from stav2a_jax.training.optimiser import learning_rate, make_optimiser
from stav2a_jax.training.step import example_keys, init_state, train_step

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compilation")]

OPTIM = OptimConfig(lr=1e-2, warmup_steps=0, ema_decay=0.9)
UNET = UNetConfig(
    block_out_channels=(8, 16),
    attention=(False, True),
    num_heads=(2, 2),
    layers_per_block=1,
    cross_attention_dim=6,
    norm_groups=4,
    fold=2,
)


def linear_loss(params, frozen, batch, keys):
    """Noisy linear regression; the noise is the example's own."""
    noise = jax.vmap(lambda k: jax.random.normal(k, batch["y"].shape[1:]))(keys)
    error = batch["x"] @ params["w"] + params["b"] + frozen["shift"] - batch["y"] - 0.1 * noise
    return jnp.square(error).mean(), {"largest_of_a_row": jnp.abs(error).max(-1).mean()}


def linear_problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 8, 5)).astype(np.float32)
    batches = [
        {"x": row, "y": row[:, :2] * 2, "index": np.arange(8, dtype=np.int32) + 8 * k} for k, row in enumerate(x)
    ]
    params = {"w": rng.normal(size=(5, 2)).astype(np.float32), "b": np.zeros(2, np.float32)}
    return linear_loss, params, {"shift": np.float32(0.5)}, batches


def unet_loss(params, frozen, batch, keys):
    def denoise(x, t, cond):
        return UNet(UNET).apply({"params": params}, x, t, cond)

    return diffusion_loss(denoise, make_schedule(ScheduleConfig()), batch["latent"], batch["context"], keys).mean(), {}


@functools.cache
def unet_shapes():
    x, t, context = jnp.zeros((1, 4, 4, 8)), jnp.zeros(1, jnp.int32), jnp.zeros((1, 3, 6))
    return jax.eval_shape(lambda *a: UNet(UNET).init(jax.random.key(0), *a)["params"], x, t, context)


def unet_problem():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(np.float32), unet_shapes())
    batches = [
        {
            "latent": rng.normal(size=(8, 4, 4, 8)).astype(np.float32),
            "context": rng.normal(size=(8, 3, 6)).astype(np.float32),
            "index": np.arange(8, dtype=np.int32) + 8 * k,
        }
        for k in range(5)
    ]
    return unet_loss, params, {}, batches


def run_steps(problem, *, devices=None, fsdp=1, mode="jit", local=False, accum=1, optim=OPTIM, is_frozen=None):
    """Metrics of five steps, the state after them, and the compiled function."""
    loss, params, frozen, batches = problem()
    tx = make_optimiser(optim, 5, is_frozen)
    step = functools.partial(train_step, loss_fn=loss, tx=tx, ema_decay=optim.ema_decay, accum=accum)
    run, put, put_batch = parallel.compile_step(step, parallel.make_mesh(devices, fsdp), mode=mode, local=local)
    state, frozen = put(init_state(params, tx, seed=3)), put(frozen)
    mine, rows = parallel.rows_of_process(8), []
    for batch in batches:
        state, metrics = run(state, frozen, put_batch({name: x[mine] for name, x in batch.items()}))
        rows.append({name: float(value) for name, value in metrics.items()})
    return rows, parallel.fetch(state), run


linear_alone, unet_alone = (
    functools.cache(functools.partial(run_steps, p, devices=1)) for p in (linear_problem, unet_problem)
)
WAYS = {
    "4 devices jit": {"devices": 4},
    "4 devices pmap": {"devices": 4, "mode": "pmap"},
    "fsdp 2x2": {"devices": 4, "fsdp": 2, "local": True},
    "4 devices, 2 chunks": {"devices": 4, "accum": 2, "local": True},
}
TOY_WAYS = WAYS | {
    "2 chunks": {"devices": 1, "accum": 2},
    "2 devices, 4 chunks": {"devices": 2, "accum": 4},
    "2 devices, 4 chunks, reduced once": {"devices": 2, "accum": 4, "local": True},
    "pmap, 2 chunks": {"devices": 2, "mode": "pmap", "accum": 2},
    "fsdp 1x4, partitioned by XLA": {"devices": 4, "fsdp": 4},
}


@pytest.mark.parametrize("way", TOY_WAYS.values(), ids=TOY_WAYS)
def test_a_toy_problem_gives_the_same_numbers_in_every_way(way, monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED", 8)  # so that its ten weights are split
    rows, state, _ = linear_alone()
    other_rows, other, _ = run_steps(linear_problem, **way)
    for a, b in zip(rows, other_rows, strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), other, state)


def assert_as_alone(other_rows, other):
    """Losses and parameters after five steps are those of one device."""
    rows, state, _ = unet_alone()
    for a, b in zip(rows, other_rows, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    for name in ("params", "ema"):
        pair = getattr(other, name), getattr(state, name)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *pair)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_denoiser_gives_the_same_numbers_in_every_way(way):
    assert_as_alone(*run_steps(unet_problem, **way)[:2])


def test_a_denoiser_gives_the_same_numbers_on_two_processes(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    script = pathlib.Path(__file__).with_name("one_process.py")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    commands = [[sys.executable, script, address, str(i), tmp_path / "state.npz"] for i in range(2)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    arrays = np.load(tmp_path / "state.npz")
    _, state, _ = unet_alone()
    leaves, tree = jax.tree.flatten(state)
    rows = [{"loss": a, "grad_norm": b} for a, b in arrays["metrics"]]
    assert_as_alone(rows, jax.tree.unflatten(tree, [arrays[f"leaf{i}"] for i in range(len(leaves))]))


def collectives(program):
    """(kind, elements, whether inside a loop) of every collective of a compiled program."""
    text, found = program.as_text(), []
    called = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    for name, body in re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S):
        for result, kind in re.findall(r"= (.*?) (all-reduce|reduce-scatter|all-gather)(?:-start)?\(", body):
            sizes = re.findall(r"\w+\[([\d,]*)\]", result)
            elements = sum(int(np.prod([int(n) for n in size.split(",") if n])) for size in sizes)
            found.append((kind, elements, name in called))
    return found


def test_a_denoiser_in_four_chunks_reduces_its_gradients_once():
    loss, params, frozen, batches = unet_problem()
    tx = make_optimiser(OPTIM, 5)
    step = functools.partial(train_step, loss_fn=loss, tx=tx, ema_decay=OPTIM.ema_decay, accum=4)
    run, put, put_batch = parallel.compile_step(step, parallel.make_mesh(2), local=True)
    state = put(init_state(params, tx, seed=3))
    program = run.lower(state, frozen, put_batch(batches[0])).compile()
    found, weights = collectives(program), sum(x.size for x in jax.tree.leaves(params))
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    assert [row for row in found if row[2]] == []  # none inside the loop over the chunks
    assert sum(elements for _, elements, _ in found) == weights + 1  # every gradient once, and the loss
    rows = []
    for batch in batches:
        state, metrics = program(state, frozen, put_batch(batch))
        rows.append({name: float(value) for name, value in metrics.items()})
    assert_as_alone(rows, jax.device_get(state))


def test_split_parameters_are_gathered_once_and_their_gradients_reduced_once(monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED", 8)
    loss, params, frozen, batches = linear_problem()  # w (5, 2) is split along its 2, b (2,) is not
    tx = make_optimiser(OPTIM, 5)
    step = functools.partial(train_step, loss_fn=loss, tx=tx, ema_decay=OPTIM.ema_decay, accum=2)
    run, put, put_batch = parallel.compile_step(step, parallel.make_mesh(4, fsdp=2), local=True)
    state = put(init_state(params, tx, seed=3))
    parts = {name: {s.data.shape for s in x.addressable_shards} for name, x in state.params.items()}
    assert parts == {"w": {(5, 1)}, "b": {(2,)}}
    assert optax.tree.get(state.opt, "mu")["w"].sharding == state.ema["w"].sharding == state.params["w"].sharding
    found = collectives(run.lower(state, put(frozen), put_batch(batches[0])).compile())
    assert [row for row in found if row[2]] == []
    assert [n for kind, n, _ in found if kind == "all-gather"] == [10]
    assert [n for kind, n, _ in found if kind == "reduce-scatter"] == [5]


def test_the_longest_axis_that_divides_is_split():
    specs = {shape: tuple(parallel.spec_of(shape, 4)) for shape in [(3, 3, 64, 128), (4096, 1001), (1001, 4097)]}
    assert specs == {
        (3, 3, 64, 128): (None, None, None, "fsdp"),
        (4096, 1001): ("fsdp", None),
        (1001, 4097): (),
    }
    assert tuple(parallel.spec_of((128,), 4)) == ()  # small
    assert tuple(parallel.spec_of((4096, 4096), 1)) == ()


def test_a_comparison_of_examples_sees_the_whole_batch_unless_it_is_told_to_see_own_rows():
    def spread_of_batch(params, frozen, batch, keys):
        return params["w"] * jnp.square(batch["x"][:, None] - batch["x"]).mean(), {}

    batch = {"x": np.arange(8, dtype=np.float32), "index": np.arange(8, dtype=np.int32)}
    tx, losses = make_optimiser(OPTIM, 5), {}
    step = functools.partial(train_step, loss_fn=spread_of_batch, tx=tx, ema_decay=0.9)
    for devices, local in [(1, False), (4, False), (4, True)]:
        run, put, put_batch = parallel.compile_step(step, parallel.make_mesh(devices), local=local)
        state = put(init_state({"w": np.float32(1)}, tx, seed=0))
        losses[devices, local] = float(run(state, {}, put_batch(batch))[1]["loss"])
    assert losses == pytest.approx({(1, False): 10.5, (4, False): 10.5, (4, True): 0.5})


@pytest.mark.parametrize("mode", parallel.MODES)
def test_frozen_parameters_are_sent_to_the_devices_once(mode):
    loss, params, frozen, batches = linear_problem()
    tx = make_optimiser(OPTIM, 5)
    step = functools.partial(train_step, loss_fn=loss, tx=tx, ema_decay=OPTIM.ema_decay)
    mesh = parallel.make_mesh(4)
    run, put, put_batch = parallel.compile_step(step, mesh, mode=mode)
    state, frozen = put(init_state(params, tx, seed=3)), put(frozen)
    batch = put_batch(batches[0])
    state, _ = run(state, frozen, batch)
    batch = parallel.put_rows(mesh, batch)
    with jax.transfer_guard("disallow"):
        state, _ = run(state, frozen, batch)
    assert frozen["shift"].sharding.device_set == set(mesh.devices.flat)


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="unknown parallel mode 'threads'; expected one of jit, pmap"):
        run_steps(linear_problem, mode="threads")
    with pytest.raises(ValueError, match="mode 'pmap' runs in one process and without fsdp"):
        run_steps(linear_problem, mode="pmap", fsdp=2)
    with pytest.raises(ValueError, match="fsdp=3 does not divide 4 devices"):
        parallel.make_mesh(4, fsdp=3)


def test_the_number_of_devices_stays_once_it_is_settled(monkeypatch):
    assert jax.device_count() == 4  # by the environment
    parallel.use_host_devices(2)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    parallel.use_host_devices(2)  # by jax, which runs
    assert jax.device_count() == 4


def test_five_steps_compile_once_and_hold_no_weak_types():
    for _, state, run in (unet_alone(), run_steps(linear_problem, devices=2, accum=2)):
        assert run._cache_size() == 1
        assert int(state.step) == 5
    loss, params, frozen, batches = linear_problem()
    tx = make_optimiser(OPTIM, 3)
    state = init_state(params, tx, seed=3)
    after, _ = jax.eval_shape(
        functools.partial(train_step, loss_fn=loss, tx=tx, ema_decay=0.9), state, frozen, batches[0]
    )
    assert [x for x in jax.tree.leaves((state, after)) if x.weak_type] == []
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


def test_the_first_step_by_hand():
    """Adam's first step moves every weight by the learning rate against the sign of its gradient."""
    optim = OptimConfig(lr=0.25, warmup_steps=0, weight_decay=0.0, clip_norm=1e9)
    tx = make_optimiser(optim, 10)
    state = init_state({"w": np.float32([[1.0, -2.0]])}, tx, seed=0)

    def loss(params, frozen, batch, keys):
        return jnp.square(params["w"]).sum(), {}

    after, metrics = train_step(state, {}, {"index": np.zeros(1, np.int32)}, loss_fn=loss, tx=tx, ema_decay=0.99)
    assert float(metrics["loss"]) == 5.0
    assert float(metrics["grad_norm"]) == pytest.approx(20**0.5)
    np.testing.assert_allclose(after.params["w"], [[0.75, -1.75]], rtol=1e-5)
    # the average starts at a decay of 1 / 10
    np.testing.assert_allclose(after.ema["w"], [[1 - 0.9 * 0.25, -2 + 0.9 * 0.25]], rtol=1e-5)


def test_frozen_leaves_do_not_move_and_the_rest_moves_as_without_them():
    def is_bias(path):
        return path[-1].key == "b"

    optim = OptimConfig(lr=1e-2, warmup_steps=0, weight_decay=0.1)
    _, params, _, _ = linear_problem()
    _, state, _ = run_steps(linear_problem, devices=1, optim=optim, is_frozen=is_bias)
    np.testing.assert_array_equal(state.params["b"], params["b"])
    np.testing.assert_array_equal(state.ema["b"], params["b"])
    assert np.abs(state.params["w"] - params["w"]).min() > 1e-4


def test_weight_decay_acts_on_matrices_only():
    optim = OptimConfig(lr=0.1, warmup_steps=0, weight_decay=0.5)
    tx = make_optimiser(optim, 10)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)  # 0.1 * 0.5
    np.testing.assert_array_equal(updates["b"], 0.0)


def test_gradients_are_clipped_by_their_common_norm():
    tx = make_optimiser(OptimConfig(clip_norm=1.0), 10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, opt = tx.update({"a": jnp.float32([3.0]), "b": jnp.float32([4.0])}, tx.init(params), params)
    moment = optax.tree.get(opt, "mu")
    np.testing.assert_allclose([moment["a"][0], moment["b"][0]], [0.06, 0.08], rtol=1e-6)  # (1 - b1) * (0.6, 0.8)


def test_the_learning_rate_warms_up_and_falls():
    cosine = learning_rate(OptimConfig(lr=1.0, warmup_steps=10, schedule="cosine", final_fraction=0.2), 110)
    wanted = {0: 0.0, 5: 0.5, 10: 1.0, 60: 0.6, 110: 0.2, 500: 0.2}  # half way down the cosine: (1 + 0.2) / 2
    assert {k: float(cosine(k)) for k in wanted} == pytest.approx(wanted, abs=1e-6)
    constant = learning_rate(OptimConfig(lr=2.0, warmup_steps=4, schedule="constant"), 100)
    assert [float(constant(k)) for k in (0, 1, 4, 5, 99)] == pytest.approx([0.0, 0.5, 2.0, 2.0, 2.0])


def test_a_warm_up_longer_than_the_run_ends_before_it():
    for schedule in ("cosine", "constant"):
        rate = learning_rate(OptimConfig(lr=1.0, warmup_steps=300, schedule=schedule), 3)
        assert [float(rate(k)) for k in range(3)] == pytest.approx([0.0, 0.5, 1.0])
        assert float(learning_rate(OptimConfig(lr=1.0, warmup_steps=300, schedule=schedule), 1)(0)) == 1.0


def test_an_unknown_schedule_is_an_error():
    with pytest.raises(ValueError, match="unknown schedule 'step'; expected 'cosine' or 'constant'"):
        learning_rate(OptimConfig(schedule="step"), 10)


def test_keys_depend_on_seed_step_and_example_alone():
    def keys(seed, step, index):
        return jax.random.key_data(example_keys(jnp.uint32(seed), jnp.int32(step), jnp.int32(index)))

    together = keys(1, 5, [3, 4, 9])
    np.testing.assert_array_equal(together[1:], keys(1, 5, [4, 9]))
    np.testing.assert_array_equal(together[::-1], keys(1, 5, [9, 4, 3]))
    np.testing.assert_array_equal(together, jax.jit(keys)(1, 5, jnp.int32([3, 4, 9])))
    rows = np.concatenate([together, keys(2, 5, [3, 4, 9]), keys(1, 6, [3, 4, 9])])
    assert len(np.unique(rows, axis=0)) == 9
