"""The programs of the report: a stage's train step, and one step of the sampler, as shapes on a mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stav2a_jax import parallel
from stav2a_jax.config import Config, ModelConfig
from stav2a_jax.diffusion.guidance import Chain, guided_multi
from stav2a_jax.diffusion.samplers import SamplerState, get_plan, sampler_step
from stav2a_jax.diffusion.schedule import make_schedule
from stav2a_jax.models.controlnet import ControlNet
from stav2a_jax.models.system import denoiser, one_control
from stav2a_jax.models.unet import UNet
from stav2a_jax.training.flops import step_flops
from stav2a_jax.training.loop import check_stage
from stav2a_jax.training.shapes import StepShapes, step_shapes
from stav2a_jax.types import Conditioning, Params, UserError


class Program(NamedTuple):
    """lower: traces and lowers it for its mesh. model_flops: of the whole step on all devices, nothing computed again;
    flops: with what remat computes again. detail: sizes, in words."""

    name: str
    detail: str
    lower: Callable[[], jax.stages.Lowered]
    model_flops: float
    flops: float


def train_program(cfg: Config, name: str, mesh: Mesh) -> Program:
    """The optimisation step of a stage, run as ``training/loop.py`` runs it. Raises UserError where the batch does not
    divide, for a mode other than 'jit', and as ``check_stage`` does."""
    stage = check_stage(cfg, name)
    accum, compute = stage.optim.accum, cfg.model.compute
    if cfg.mode != "jit":
        raise UserError(f"the compile report is of mode 'jit', and the config says {cfg.mode!r}: --set mode=jit")
    if stage.batch_size % (mesh.size * accum):
        raise UserError(
            f"batch size {stage.batch_size} of stage {name!r} does not divide over {mesh.size} devices x {accum} "
            f"accumulation steps: --set stages.{name}.batch_size or stages.{name}.optim.accum"
        )
    shapes = step_shapes(cfg, name)
    local = not shapes.whole_batch and (accum > 1 or cfg.fsdp > 1)
    run, *_ = parallel.compile_step(shapes.step, mesh, local=local)
    put = functools.partial(parallel.shapes_on, mesh)
    args = (put(shapes.state), put(shapes.frozen), _rows_on(mesh, shapes.batch))

    def count(shapes: StepShapes) -> float:
        """In one chunk: the same products."""
        step = functools.partial(shapes.step, accum=1)
        return step_flops(step, shapes.state, shapes.frozen, shapes.batch)

    flops = needed = count(shapes)
    if compute.remat:
        plain = dataclasses.replace(cfg.model, compute=dataclasses.replace(compute, remat=False))
        needed = count(step_shapes(dataclasses.replace(cfg, model=plain), name))
    detail = (
        f"stage {name}, {stage.batch_size} clips of {stage.crop_seconds:g} s, accumulation {accum}, "
        f"fsdp {cfg.fsdp}, {compute.dtype}{', remat' if compute.remat else ''}"
    )
    return Program("train step", detail, lambda: _lowered(mesh, run, *args), needed, flops)


def sample_program(cfg: Config, mesh: Mesh, clips: int) -> Program:
    """One denoising step of so many clips of full length under the config's guidance, what a sample takes
    ``guidance.steps`` of. Every device works on its own clips. Raises UserError where they do not divide."""
    if clips % mesh.size or clips < 1:
        raise UserError(f"{clips} clips do not divide over {mesh.size} devices: give a multiple to --clips")
    model = dataclasses.replace(cfg.model, compute=dataclasses.replace(cfg.model.compute, remat=False))
    options = cfg.guidance
    plan = get_plan(options.sampler)(make_schedule(model.schedule), options.steps)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), plan)
    x, condition = _floats(*model.latent.shape(clips)), _condition(model, clips)
    params = _denoiser_shapes(model, x, condition)
    rows = (SamplerState(x, x), Chain(*[condition] * 4), x if plan.draws_noise else None)

    def step(params: Params, row: Any, rows: Any) -> SamplerState:
        state, chain, noise = rows
        guided = guided_multi(
            denoiser(model, params),
            text=options.text,
            global_=options.global_video,
            local=options.local_video,
            repeat=False,
        )
        return sampler_step(guided, state, row, one_control(chain), noise)

    by_row = P(parallel.AXES)
    run = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), by_row), out_specs=by_row, check_vma=False))
    everywhere = NamedSharding(mesh, P())
    args = (_placed(everywhere, params), _placed(everywhere, row), _rows_on(mesh, rows))
    flops = step_flops(step, params, row, rows)
    detail = (
        f"one of {options.steps} steps of {options.sampler}, {clips} clips of {model.latent.seconds:g} s, guidance "
        f"{options.text:g} text, {options.global_video:g} global, {options.local_video:g} local, {model.compute.dtype}"
    )
    return Program("sample step", detail, lambda: _lowered(mesh, run, *args), flops, flops)


def _condition(model: ModelConfig, clips: int) -> Conditioning:
    tokens = model.text.max_length + (model.pooling.tokens if model.conditions.global_tokens else 0)
    control = _floats(clips, model.latent.frames, model.unet.control_channels)
    return Conditioning(
        _floats(clips, tokens, model.unet.cross_attention_dim),
        _floats(clips, tokens),
        control if model.conditions.control else None,
    )


def _denoiser_shapes(model: ModelConfig, x: Any, condition: Conditioning) -> Params:
    """Shapes of the parameters of the U-Net, and of the ControlNet where there is a control."""
    key, t = jax.random.key(0), jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)
    inputs = (x, t, condition.context, condition.mask)
    params = {"unet": jax.eval_shape(UNet(model.unet).init, key, *inputs)["params"]}
    if condition.control is not None:
        params["controlnet"] = jax.eval_shape(ControlNet(model.unet).init, key, *inputs, condition.control)["params"]
    return params


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _placed(sharding: NamedSharding, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _rows_on(mesh: Mesh, tree: Any) -> Any:
    return _placed(NamedSharding(mesh, P(parallel.AXES)), tree)


def _lowered(mesh: Mesh, run: Any, *args: Any) -> jax.stages.Lowered:
    with jax.set_mesh(mesh):  # which says for what kind of device (nn/target.py)
        return run.trace(*args).lower()
