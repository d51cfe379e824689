"""What is read from compiled programs is what they do, and what is computed from it can be computed by hand."""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from stav2a_jax import parallel
from stav2a_jax.aot import build, chips
from stav2a_jax.aot.hlo import Collective, bytes_moved, collectives, parse
from stav2a_jax.aot.programs import sample_program, train_program
from stav2a_jax.aot.report import Memory, Report, as_json, markdown, reason_of, roofline_of, traffic_of
from stav2a_jax.cli import main
from stav2a_jax.config import Config, OptimConfig, StageConfig, StagesConfig
from stav2a_jax.nn.attention import default_implementation
from stav2a_jax.nn.conv2d import form_of
from stav2a_jax.training.flops import flops_of
from stav2a_jax.training.shapes import step_shapes
from stav2a_jax.types import UserError


def on_rows(function, *shapes, fsdp=1):
    """HLO of a function of the rows that each of four devices has; arguments are float32 of these shapes."""
    mesh, rows = parallel.make_mesh(4, fsdp), P(parallel.AXES)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    return jax.jit(mapped).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile().as_text()


def found_in(text, devices=4):
    return collectives(parse(text), devices)


@pytest.mark.parametrize(
    ("function", "expected", "sent"),
    [
        (lambda x: jax.lax.psum(x, parallel.AXES), ("all-reduce", 24, 4, 1), 36),
        (lambda x: jax.lax.all_gather(x, "data", tiled=True), ("all-gather", 96, 4, 1), 72),
        (lambda x: jax.lax.all_to_all(x.reshape(4, 2), "data", 0, 0), ("all-to-all", 32, 4, 1), 24),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 2)]), ("collective-permute", 24, 4, 1), 24),
        (lambda x: jax.lax.psum_scatter(x, "data", tiled=True), ("reduce-scatter", 32, 4, 1), 24),
    ],
    ids=["all-reduce", "all-gather", "all-to-all", "permute", "reduce-scatter"],
)
def test_a_collective_has_its_kind_its_size_and_what_a_ring_sends(function, expected, sent):
    rows = 8 if expected[0] in ("all-to-all", "reduce-scatter") else 6
    found = found_in(on_rows(function, (4 * rows,)))
    assert found == [Collective(*expected)]
    assert found[0].sent == sent


def test_a_collective_over_one_axis_has_the_devices_of_that_axis():
    (found,) = found_in(on_rows(lambda x: jax.lax.psum(x, "fsdp"), (24,), fsdp=2))
    assert found == Collective("all-reduce", 24, 2, 1)


def test_a_loop_counts_as_often_as_it_runs():
    def run(x):
        return jax.lax.fori_loop(0, 5, lambda i, y: jax.lax.psum(y * 2, parallel.AXES), x)

    text = on_rows(run, (24,))
    assert [c.times for c in found_in(text)] == [5]
    without_notes = text.replace("known_trip_count", "other")
    assert [c.times for c in found_in(without_notes)] == [5]  # by the limit in the loop's condition


def test_groups_may_be_axes_of_a_mesh():
    line = "  %r = f32[6]{0} all-reduce(%x), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {GROUPS}, to_apply=%sum"
    sizes = {}
    for groups in ("'a'", "'b'", "'a','b'", "'b':(2)2"):
        text = f"ENTRY %main (x: f32[6]) -> f32[6] {{\n{line.replace('GROUPS', groups)}\n}}\n"
        sizes[groups] = found_in(text.replace(", to_apply=%sum", ""), 8)[0].group
    assert sizes == {"'a'": 2, "'b'": 4, "'a','b'": 8, "'b':(2)2": 2}


TPU = """HloModule m, entry_computation_layout={()->f32[]}

%body (p: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %p = (f32[8,4]{1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %ag = (f32[2,4]{1,0}, f32[8,4]{1,0:T(8,128)S(1)}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %agd = f32[8,4]{1,0:T(8,128)S(1)} all-gather-done(%ag)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %t = (f32[8,4]{1,0:T(8,128)}, s32[]{:T(128)}) tuple(%x, /*index=1*/%i)
}

%condition (p.1: (f32[8,4], s32[])) -> pred[] {
  %p.1 = (f32[8,4]{1,0}, s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=1
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[8,4], b: bf16[16]) -> f32[8,4] {
  %a = f32[8,4]{1,0:T(8,128)} parameter(0)
  %b = bf16[16]{0:T(256)(2,1)} parameter(1)
  %c = s32[] constant(0)
  %t.1 = (f32[8,4]{1,0}, s32[]) tuple(%a, %c)
  %w = (f32[8,4]{1,0}, s32[]) while(%t.1), condition=%condition, body=%body
  %d = bf16[16]{0} all-reduce(%b), replica_groups={{0,1},{2,3}}, to_apply=%sum
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=0
}
"""


def test_the_text_of_a_tpu_program_is_understood():
    entry, computations = parse(TPU.replace(", to_apply=%sum", ""))
    assert entry == "main"
    assert computations["body"]["t"].operands == ["x", "i"]
    found = found_in(TPU.replace(", to_apply=%sum", ""), 8)
    assert found == [Collective("all-gather", 128, 4, 3), Collective("all-reduce", 32, 2, 1)]


def test_bytes_moved_are_what_kernels_read_and_write():
    def moved(function, *shapes):
        lowered = jax.jit(function).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
        return bytes_moved(parse(lowered.compile().as_text()))

    assert moved(lambda x: jnp.sin(x) + 1, (1000,)) == 8000
    product = moved(lambda a, b: a @ b, (100, 200), (200, 300))
    assert product == 4 * (100 * 200 + 200 * 300 + 100 * 300)


def test_products_and_convolutions_are_counted_by_hand():
    a, b = np.zeros((3, 4, 5), np.float32), np.zeros((3, 5, 6), np.float32)
    assert flops_of(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6
    x, kernel = np.zeros((2, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 7), np.float32)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 2 * (2 * 4 * 4) * 9 * 3 * 7
    assert flops_of(conv, x, kernel) == once
    # forwards, and both gradients, each with as many products
    assert flops_of(jax.grad(lambda *a: jnp.square(conv(*a)).sum(), (0, 1)), x, kernel) == pytest.approx(3 * once)


def test_loops_branches_devices_and_what_is_computed_again_count():
    w = np.zeros((4, 4), np.float32)
    once = 2 * 4**3

    def several(w):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ w), None), w, None, length=5)[0].sum()

    assert flops_of(several, w) == 5 * once
    assert flops_of(jax.grad(several), w) == 15 * once
    again = jax.checkpoint(lambda w: jnp.sin(jnp.sin(w @ w) @ w).sum())
    assert flops_of(jax.grad(again), w) > flops_of(jax.grad(lambda w: jnp.sin(jnp.sin(w @ w) @ w).sum()), w)
    assert flops_of(lambda w: jax.lax.cond(w[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, w), w) == 2 * once
    rows, mesh = P(parallel.AXES), parallel.make_mesh(4)
    mapped = jax.shard_map(lambda x: x @ w, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    assert flops_of(mapped, np.zeros((8, 4), np.float32)) == 2 * 8 * 4 * 4


def test_the_roofline_by_hand():
    line = roofline_of(
        model_flops=6e12, flops=8e12, devices=4, bytes_moved=3e9, sent=2e9, peak=1e12, bandwidth=1e9, interconnect=5e8
    )
    assert (line.compute, line.memory, line.interconnect) == (2.0, 3.0, 4.0)
    assert (line.seconds, line.bound) == (4.0, "interconnect")
    assert line.mfu == 6e12 / 4 / 1e12 / 4.0
    alone = roofline_of(
        model_flops=1e12, flops=1e12, devices=1, bytes_moved=0, sent=0, peak=1e12, bandwidth=1e9, interconnect=0
    )
    assert (alone.bound, alone.mfu) == ("compute", 1.0)


def test_a_slice_has_the_links_of_its_corners_and_a_ring_two_along_an_axis():
    per_device = {name: chips.TOPOLOGIES[name].interconnect / 1e9 for name in chips.TOPOLOGIES}
    assert per_device["v5e-16"] == 100  # 4 x 4: two axes
    assert per_device["v5e-256"] == 200  # 16 x 16: two rings
    assert per_device["v4-8"] == 100  # 2 x 2 x 1
    assert per_device["v4-128"] == 300  # 4 x 4 x 4: three rings
    assert per_device["h100-8"] == 450
    sizes = {name: (t.devices, t.shape) for name, t in chips.TOPOLOGIES.items()}
    assert sizes["v5p-16"] == (8, (2, 2, 2))
    assert sizes["tpu7x-8"] == (8, (2, 2, 1))


@pytest.fixture(scope="module")
def tiny(tiny_model):
    """A config with a U-Net of one level, whose stage stav2a takes 8 clips of 0.32 s in two chunks."""
    stage = StageConfig(steps=1, batch_size=8, crop_seconds=0.32, optim=OptimConfig(accum=2))
    sizes = {"block_out_channels": (8,), "attention": (True,), "num_heads": (2,), "layers_per_block": 1}
    model = dataclasses.replace(tiny_model, unet=dataclasses.replace(tiny_model.unet, **sizes))
    stages = {field.name: stage for field in dataclasses.fields(StagesConfig)}
    return Config(name="tiny", model=model, stages=StagesConfig(**stages))


@pytest.mark.long
@pytest.mark.usefixtures("quick_compilation")
def test_a_tiny_train_step_gives_a_whole_report_and_reduces_its_gradients_once(tiny):
    mesh = parallel.make_mesh(4)
    program = train_program(tiny, "stav2a", mesh)
    report = build.against(build.report_on(program, "cpu", mesh), chips.TOPOLOGIES["v5e-4"])
    assert report.failure is None
    shapes = step_shapes(tiny, "stav2a")
    weights, text = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (shapes.state.params, shapes.frozen))
    # every gradient once, and three means; not once for each of the two chunks
    assert [(t.kind, t.size) for t in report.collectives] == [("all-reduce", 4 * (weights + 3))]
    # parameters, average and two moments, and the frozen text encoder
    assert report.memory.arguments == pytest.approx(4 * (4 * weights + text), rel=0.05)
    assert report.memory.donated == pytest.approx(16 * weights, rel=0.01)
    assert report.memory.peak > report.memory.arguments
    assert report.fits
    assert report.flops == report.model_flops > 6 * 8 * weights  # nothing is computed again
    assert report.roofline.seconds == max(report.bytes_moved / 819e9, report.roofline.interconnect)
    assert "| train step |" in markdown([report])
    assert json.loads(json.dumps(as_json([report])))[0]["collectives"][0]["kind"] == "all-reduce"


def test_a_batch_that_does_not_divide_is_one_sentence(tiny):
    with pytest.raises(UserError, match="batch size 8 of stage 'stav2a' does not divide over 3 devices x 2 accum"):
        train_program(tiny, "stav2a", parallel.make_mesh(3))
    stage = dataclasses.replace(tiny.stages.stav2a, optim=OptimConfig(accum=0))
    cfg = dataclasses.replace(tiny, stages=dataclasses.replace(tiny.stages, stav2a=stage))
    with pytest.raises(UserError, match=r"stage 'stav2a' cannot train with optim\.accum=0"):
        train_program(cfg, "stav2a", parallel.make_mesh(4))
    with pytest.raises(UserError, match="of mode 'jit', and the config says 'pmap'"):
        train_program(dataclasses.replace(tiny, mode="pmap"), "stav2a", parallel.make_mesh(4))
    with pytest.raises(UserError, match="6 clips do not divide over 4 devices"):
        sample_program(tiny, parallel.make_mesh(4), 6)


def test_a_program_that_does_not_fit_is_a_row_of_the_report():
    error = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory in memory space hbm. "
        "Used 17.02G of 15.75G hbm. Exceeded hbm capacity by 1.28G.\n\nMore"
    )
    assert reason_of(error) == "does not fit: needs 17.02G of 15.75G memory"
    row = Report("train step", "8 clips", "v5e-16", 16, 2e12, 3e12, failure=reason_of(error), fits=False)
    text = markdown([row])
    assert text.startswith("Compiled, not run.")
    assert "| v5e-16 (16) | train step |  |  | no | 3.0 (2.0) |" in text
    assert "Not compiled: does not fit: needs 17.02G of 15.75G memory." in text


def test_the_rows_of_a_table_have_as_many_cells_as_its_head():
    memory = Memory(2**30, 2**29, 0, 2**28, 0, 2**31)
    line = roofline_of(
        model_flops=1e12, flops=1e12, devices=4, bytes_moved=1e9, sent=0, peak=1e12, bandwidth=1e9, interconnect=1e9
    )
    traffic = traffic_of([Collective("all-reduce", 100, 4, 1), Collective("all-reduce", 50, 4, 2)])
    assert (traffic[0].count, traffic[0].size) == (3, 200)
    full = Report("train step", "x", "v4-8", 4, 1e12, 1e12, 3.0, memory, 2**32, True, 10, traffic, None, None, line)
    rows = [r for r in markdown([full, dataclasses.replace(full, memory=None, failure="no")]).splitlines() if "|" in r]
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology", "v5e-17"], "unknown topology 'v5e-17': did you mean 'v5e-16'?"),
        ([], "which devices? give --topology NAME"),
        (["--topology", "v5e-16", "--stage", "vae"], "config 'stav2a' does not train stage 'vae'"),
        (["--topology", "v5e-16", "--set", "stages.stav2a.optim.accum=0"], "cannot train with optim.accum=0"),
        (["--topology", "v5e-16", "--config", "no/such.py"], "no such config: no/such.py"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(arguments, sentence, capsys):
    assert main(["compile", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_no_clips_are_not_the_default(capsys):
    with pytest.raises(SystemExit) as left:
        main(["compile", "--topology", "v5e-16", "--clips", "0"])
    assert left.value.code == 2
    assert "must be 1 or more, got 0" in capsys.readouterr().err


def test_a_missing_compiler_is_named_with_the_way_to_install_it():
    for name, module, package in (("v4-8", "libtpu", "libtpu"), ("h100-8", "jax_cuda13_plugin", "jax-cuda13-plugin")):
        if importlib.util.find_spec(module):
            pytest.skip("a compiler is installed here")
        with pytest.raises(UserError, match=f"{name} needs a compiler that is not installed: pip install {package}"):
            chips.check_compiler(chips.TOPOLOGIES[name])


def test_the_list_names_every_topology_and_the_source_of_its_figures(capsys):
    assert main(["compile", "--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"| {name} |" in text for name in chips.TOPOLOGIES)
    assert all(chip.source in text for chip in chips.CHIPS.values())


def test_the_form_of_a_computation_follows_the_device_it_is_traced_for():
    q = jax.ShapeDtypeStruct((1, 1024, 8, 32), jnp.bfloat16)
    x, kernel = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, 4, 640), (3, 3, 640, 640)))
    chosen = {}
    for platform in ("cpu", "tpu", "gpu"):
        device = AbstractDevice(device_kind="", num_cores=None, platform=platform)
        with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=device)):
            chosen[platform] = default_implementation(q, q, None), form_of(x, kernel)
    assert chosen == {"cpu": ("chunked", "taps"), "tpu": ("xla", "library"), "gpu": ("cudnn", "library")}
    assert (default_implementation(q, q, None), form_of(x, kernel)) == chosen[jax.default_backend()]


def test_a_step_is_traced_for_the_devices_of_its_mesh():
    seen = []

    def step(x):
        from stav2a_jax.nn.target import target_platform

        seen.append(target_platform())
        return x

    device = AbstractDevice(device_kind="TPU v4", num_cores=None, platform="tpu")
    mesh = AbstractMesh((2, 2), parallel.AXES, axis_types=(AxisType.Auto,) * 2, abstract_device=device)
    jax.eval_shape(
        functools.partial(jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=P("data"))), jnp.zeros(4)
    )
    jax.eval_shape(step, jnp.zeros(4))
    assert seen == ["tpu", "cpu"]
