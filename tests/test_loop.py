"""The loop resumes where it stopped, stops when it is told to, and says what went wrong and where."""

import dataclasses
import json
import os
import pathlib
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from stav2a_jax import parallel
from stav2a_jax.checkpoint import Checkpoints
from stav2a_jax.errors import Preempted
from stav2a_jax.training import recipe, watch
from stav2a_jax.training.loop import check_devices, fit, training_order
from stav2a_jax.training.recipe import load_config
from stav2a_jax.training.stages.base import Shown, Stage, index_of, stack_waves
from stav2a_jax.training.stop import StopSignal
from stav2a_jax.training.watch import Watch
from stav2a_jax.training.workspace import Workspace, stage_settings
from stav2a_jax.types import UserError

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "foley_tiny.py"
CLIPS, STEPS = 6, 9


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("loop") / "cache"


def workspace(folder, cache, **more):
    """A run whose stage ``vae`` takes nine steps of four examples."""
    words = [f"data.train_clips={CLIPS}", "data.valid_clips=2", "model.video.size=16"]
    cfg = load_config(CONFIG, words)
    sizes = {
        "steps": STEPS,
        "batch_size": 4,
        "crop_seconds": 0.32,
        "valid_every": 4,
        "valid_batches": 1,
        "log_every": 1,
    }
    run = {name: more.pop(name) for name in list(more) if name in ("fsdp", "workers", "mode", "seed")}
    optim = dataclasses.replace(cfg.stages.vae.optim, accum=more.pop("accum", 1))
    stage = dataclasses.replace(cfg.stages.vae, optim=optim, **{**sizes, **more})
    cfg = dataclasses.replace(cfg, stages=dataclasses.replace(cfg.stages, vae=stage), **run)
    return Workspace(cfg, folder, cache)


def make_stage(ws, at_batch=None, bad_clip=None):
    """Linear prediction of a sound from its past, with noise of each example's own."""

    def loss(params, frozen, batch, keys):
        wave = batch["wave"].reshape(len(keys), -1, 16)
        noise = jax.vmap(lambda k: jax.random.normal(k, wave.shape[1:]))(keys)
        error = (wave + 0.1 * noise) @ params["w"] + frozen["shift"] - wave
        bad = jnp.where(batch["bad"], jnp.nan, 0.0)
        return jnp.square(error).mean() + bad.mean(), {}

    def batch(split, pieces, crop):
        if at_batch:
            at_batch(pieces)
        bad = np.array([split == "train" and p.clip == bad_clip for p in pieces])
        return {"wave": stack_waves(ws.clips(split), pieces, crop, 640), "bad": bad, "index": index_of(pieces)}

    def show(params, frozen, batch):
        return Shown({"w": np.zeros((4, 5, 3), np.uint8)}, {"sound": batch["wave"][0]})

    params = {"w": np.random.default_rng(0).normal(0, 0.1, (16, 16)).astype(np.float32)}
    return Stage(params, {"shift": np.float32(0.1)}, loss, loss, batch, show=show)


def train(ws, stop=None, **options):
    (ws.root / "vae").mkdir(exist_ok=True)
    with (stop or StopSignal()).listening() as listening:
        return fit(ws, "vae", make_stage(ws, **options), Console(quiet=True), listening, log_examples=True)


def examples(ws):
    return [json.loads(line) for line in (ws.root / "vae" / "examples-0.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    ws = workspace(tmp_path_factory.mktemp("loop") / "alone", cache)
    return ws, train(ws)


def test_the_examples_of_a_run_are_written_down(alone):
    ws, _ = alone
    rows = examples(ws)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [n for row in rows for n in row["numbers"]] == list(range(4 * STEPS))
    clips = [clip for row in rows for clip in row["clips"]]
    assert all(sorted(clips[k : k + CLIPS]) == list(range(CLIPS)) for k in range(0, len(clips), CLIPS))


def test_sigterm_saves_between_two_validations_and_the_run_goes_on(alone, tmp_path, cache):
    ws, wanted = alone
    again = workspace(tmp_path / "run", cache)

    def terminate(pieces):
        if pieces[0].number == 4 * 5:  # the sixth batch, which is loaded ahead of its step
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=r"stage 'vae' was told to stop and is saved at step \d"):
        train(again, at_batch=terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    last = len(examples(again))
    assert last < STEPS
    with Checkpoints(again.root / "vae" / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == last
        assert checkpoints.data(last)["next_step"] == last
    params = train(again)
    np.testing.assert_array_equal(params["w"], wanted["w"])
    assert examples(again) == examples(ws)


def test_sigterm_where_nothing_is_to_be_saved_stops_at_once():
    with pytest.raises(Preempted, match="while no stage was training"), StopSignal().listening():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_agreed_on_at_the_last_step_of_a_stage_ends_the_run_before_the_next_one(tmp_path, cache, monkeypatch):
    ws = workspace(tmp_path / "run", cache)
    agreed = 1 + STEPS  # a question before the stage, and one after every step
    monkeypatch.setattr(parallel, "asked_to_stop", lambda question: question == agreed)  # as JAX: once
    for name in ("vae", "vocoder"):
        monkeypatch.setitem(recipe.STAGES, name, make_stage)
    with pytest.raises(Preempted, match="while no stage was training"):
        recipe.train(ws, ["vae", "vocoder"], Console(quiet=True))
    assert (ws.done("vae"), (ws.root / "vocoder").exists()) == (True, False)


class StopAfter(StopSignal):
    """Told to stop at a step."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def asked(self):
        self._step -= 1
        return self._step == 0


@pytest.mark.parametrize("ahead", [False, True])
def test_a_state_that_is_no_number_is_not_saved_when_told_to_stop(tmp_path, cache, ahead, monkeypatch):
    monkeypatch.setattr(parallel, "waits_for_every_step", lambda: not ahead)
    ws = workspace(tmp_path / "run", cache)
    pieces = training_order(ws, ws.cfg.stages.vae).pieces
    bad = next(p.clip for p in pieces(1) if p.clip not in [q.clip for q in pieces(0)])
    with pytest.raises(UserError, match="'vae' diverged at step 2"):
        train(ws, StopAfter(2), bad_clip=bad)
    with Checkpoints(ws.root / "vae" / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None


def test_a_loss_that_is_no_number_stops_the_run_and_writes_down_the_clips_of_its_step(tmp_path, cache):
    ws = workspace(tmp_path / "run", cache, batch_size=8)
    order = training_order(ws, ws.cfg.stages.vae)
    step = next(k for k in range(STEPS) if 3 in [p.clip for p in order.pieces(k)])
    clips = [p.clip for p in order.pieces(step)]
    ids = [f"foley_train_{clip:06d}" for clip in clips]
    path = ws.root / "vae" / f"not-finite-{step + 1}-0.json"
    said = rf"clips of the batch: {', '.join(ids[:4])}, ... \(all in {path}\)$"
    with pytest.raises(UserError, match=rf"'vae' diverged at step {step + 1} \(.*nan.*\); {said}"):
        train(ws, bad_clip=3)
    written = json.loads(path.read_text())
    assert written == {
        "step": step + 1,
        "metrics": {"loss": "nan", "grad_norm": written["metrics"]["grad_norm"]},
        "clips": clips,
        "ids": ids,
    }


def test_clips_with_an_id_are_written_down_by_it(tmp_path, cache):
    ws = workspace(tmp_path / "run", cache)
    ws.clips("train").records[3]["id"] = "-abc_12 at 30"
    with pytest.raises(UserError) as raised:
        train(ws, bad_clip=3)
    del ws.clips("train").records[3]["id"]
    (path,) = (ws.root / "vae").glob("not-finite-*.json")
    assert str(path) in str(raised.value)
    assert "-abc_12 at 30" in json.loads(path.read_text())["ids"]


def test_other_clips_under_a_run_that_goes_on_are_noticed(tmp_path, cache):
    ws = workspace(tmp_path / "run", cache)
    train(ws)
    (ws.root / "vae" / "result.json").unlink()
    ws.clips("train").records[2]["seconds"] += 1.0
    with pytest.raises(UserError, match=r"cannot go on at step 9: the clips .* \(other lengths\)"):
        train(ws)
    ws.clips("train").records[2]["seconds"] -= 1.0


@pytest.mark.parametrize("way", [{"fsdp": 2, "accum": 1}, {"mode": "pmap"}, {"workers": 1}], ids=str)
def test_the_result_does_not_depend_on_how_the_run_is_spread(alone, tmp_path, cache, way, monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARDED", 8)
    if "workers" in way:
        import sys

        import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
    params = train(workspace(tmp_path / "run", cache, **way))
    np.testing.assert_allclose(params["w"], alone[1]["w"], rtol=1e-5, atol=1e-7)


def test_lengths_take_turns_in_a_run_with_buckets(tmp_path, cache):
    ws = workspace(tmp_path / "run", cache, buckets=(0.32, 4.0, 6.0))
    shapes = set()
    train(ws, at_batch=lambda pieces: shapes.add(max(p.length for p in pieces)))
    order = training_order(ws, ws.cfg.stages.vae)
    crops = {order.crop_of(k) for k in range(STEPS)}
    assert len(crops) > 1
    assert all(any(n <= crop for crop in crops) for n in shapes)


def test_tensorboard_gets_numbers_pictures_and_sounds(alone):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(alone[0].root / "vae" / "log"))
    events.Reload()
    tags = events.Tags()
    assert (tags["images"], tags["audio"]) == (["w"], ["sound"])
    wanted = {"train/loss", "train/grad_norm", "train/examples_per_second", "train/input_wait", "train/host_gib"}
    assert wanted | {"valid/loss"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("valid/loss")] == [4, 8, 9]
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, STEPS + 1))
    assert 0 <= events.Scalars("train/input_wait")[-1].value <= 1
    assert events.Scalars("train/examples_per_second")[-1].value > 0


def test_devices_that_cannot_be_arranged_are_refused(cache, tmp_path):
    with pytest.raises(UserError, match="fsdp=3 does not divide 4 devices: set fsdp to a divisor"):
        check_devices(workspace(tmp_path, cache, fsdp=3).cfg, "vae")
    with pytest.raises(UserError, match="mode 'pmap' runs in one process and without fsdp: choose mode 'jit'"):
        check_devices(workspace(tmp_path, cache, fsdp=2, mode="pmap").cfg, "vae")
    with pytest.raises(UserError, match="unknown mode 'threads': choose one of jit, pmap"):
        check_devices(workspace(tmp_path, cache, mode="threads").cfg, "vae")
    with pytest.raises(UserError, match="batch size 4 of stage 'vae' does not divide over 4 devices x 2 accumulation"):
        check_devices(workspace(tmp_path, cache, accum=2).cfg, "vae")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"valid_every": 0, "log_every": -1}, r"valid_every=0 \(expected above 0\), log_every=-1 \(expected above 0\)"),
        ({"valid_batches": 0, "shown": -1}, r"valid_batches=0 \(expected above 0\), shown=-1 \(expected 0 or more\)"),
        ({"batch_size": 0}, r"batch_size=0 \(expected above 0\)"),
        ({"accum": 0}, r"optim.accum=0 \(expected above 0\)"),
        ({"lr": -1e-3}, r"optim.lr=-0.001 \(expected above 0\)"),
        ({"lr": float("nan")}, r"optim.lr=nan \(expected above 0\)"),
        ({"warmup_steps": -1}, r"optim.warmup_steps=-1 \(expected 0 or more\)"),
        ({"b2": 1.0}, r"optim.b2=1.0 \(expected from 0 to below 1\)"),
        ({"schedule": "linear"}, r"optim.schedule='linear' \(expected 'cosine' or 'constant'\)"),
        ({"crop_seconds": 0.01}, r"pieces of 0.01 s \(expected 0.04 or more\)"),
        ({"buckets": (0.32, 0.0)}, r"pieces of 0.0 s \(expected 0.04 or more\)"),
    ],
    ids=str,
)
def test_settings_that_no_stage_can_have_are_refused(cache, tmp_path, settings, said):
    cfg = workspace(tmp_path, cache).cfg
    optim = {name: x for name, x in settings.items() if hasattr(cfg.stages.vae.optim, name)}
    stage = {name: x for name, x in settings.items() if name not in optim}
    stage = dataclasses.replace(cfg.stages.vae, optim=dataclasses.replace(cfg.stages.vae.optim, **optim), **stage)
    cfg = dataclasses.replace(cfg, stages=dataclasses.replace(cfg.stages, vae=stage))
    with pytest.raises(UserError, match=f"^stage 'vae' cannot train with {said}: choose other values$"):
        check_devices(cfg, "vae")


@pytest.mark.parametrize("steps", [0, -3])
def test_a_stage_without_steps_is_not_trained(cache, tmp_path, steps):
    with pytest.raises(UserError, match="config 'foley-tiny' does not train stage 'vae': choose another --config"):
        check_devices(workspace(tmp_path, cache, steps=steps).cfg, "vae")


def test_how_a_run_is_spread_and_shown_is_no_setting_of_its_stage(cache, tmp_path):
    one, other = (workspace(tmp_path, cache, **more).cfg for more in ({}, {"fsdp": 2, "workers": 3, "shown": 0}))
    assert stage_settings(one, "vae") == stage_settings(other, "vae")
    ws = workspace(tmp_path, cache)
    ws.claim("vae")
    path = tmp_path / "vae" / "settings.json"
    older = json.loads(path.read_text())
    del older["model"]["compute"], older["stages"]["vae"]["buckets"]
    path.write_text(json.dumps(older))
    ws.claim("vae")  # fields that were added since mean their default
    with pytest.raises(UserError, match=r"other settings \(stages.vae.buckets"):
        workspace(tmp_path, cache, buckets=(1.0,)).claim("vae")


def test_a_loss_of_a_later_stage_is_no_setting_of_an_earlier_one(cache, tmp_path):
    cfg = workspace(tmp_path, cache).cfg
    other = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, stav2a_drop_text=0.5, onset_contrast=0.7))
    same = {stage: stage_settings(cfg, stage) == stage_settings(other, stage) for stage in ("vae", "t2a", "onset")}
    assert same == {"vae": True, "t2a": True, "onset": False}
    assert "stav2a_drop_text" not in stage_settings(other, "onset")["loss"]
    assert stage_settings(other, "stav2a")["loss"]["stav2a_drop_text"] == 0.5


def test_speed_is_known_where_the_device_is():
    assert parallel.peak_flops("cpu") is None
    assert parallel.peak_flops("TPU v5 lite") == 197e12 * jax.device_count()
    assert parallel.peak_flops("NVIDIA H100 80GB HBM3") == 989e12 * jax.device_count()


def scalars(ws):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(ws.root / "vae" / "log"))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_mfu_is_the_operations_of_the_products_over_what_the_devices_could_do(tmp_path, cache, monkeypatch):
    peak = 1e9
    monkeypatch.setitem(parallel.PEAK, jax.devices()[0].device_kind, peak)
    ws = workspace(tmp_path / "run", cache, steps=4)
    train(ws)
    told = scalars(ws)
    rows = 4 * 0.32 * 16_000 / 16  # of the batch, each times a matrix of 16 x 16: forwards, and for its gradient
    flops = 2 * (2 * rows * 16 * 16)
    assert sorted(told["train/mfu"]) == [2, 3, 4]  # the first step is compiled
    for step, mfu in told["train/mfu"].items():
        seconds = 4 / told["train/examples_per_second"][step]
        assert mfu == pytest.approx(flops / (seconds * peak * jax.device_count()), rel=1e-5)


def test_a_step_counts_when_it_is_done_and_not_when_it_is_sent(tmp_path, cache, monkeypatch):
    now = 0.0
    monkeypatch.setattr(watch, "time", types.SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(parallel, "waits_for_every_step", lambda: False)
    ws = workspace(tmp_path / "run", cache, log_every=4, valid_every=50, steps=12)
    (ws.root / "vae").mkdir()
    batch, clips = {"x": np.zeros((4, 2))}, np.arange(4)
    with Watch(ws, "vae", Console(quiet=True), 0, lambda rows: 0.0) as watching:
        for step in range(1, 13):
            now = step - 1.0
            watching.stepped(step, clips, {"loss": jnp.float32(1)}, batch)
    # Step 1 is compiled, and done at second 0. Step k is sent at second k - 1; 4 and 8 are looked at one later.
    assert scalars(ws)["train/examples_per_second"] == pytest.approx({4: 3 * 4 / 4, 8: 4 * 4 / 4, 12: 4 * 4 / 3})


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "16", "SLURM_PROCID": "3"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_NTASKS": "16"}, False),  # the batch script itself, not a task of srun
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_a_cluster_is_noticed(environ, several):
    assert parallel.in_cluster(environ) is several
