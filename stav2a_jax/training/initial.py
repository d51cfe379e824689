"""Stages whose result, or first weights, come from elsewhere: another run, or a bundle (a converted Tango, say)."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from stav2a_jax.bundle import find_bundle, load_params, load_part, save_params
from stav2a_jax.config import Config, ModelConfig, from_dict, to_dict
from stav2a_jax.data.prepare.store import file_digest
from stav2a_jax.fields import complete
from stav2a_jax.tensors import read_safetensors
from stav2a_jax.tokenizer import FILES
from stav2a_jax.training.workspace import DERIVED, Workspace
from stav2a_jax.types import Params, UserError

GROUPS = {
    "vae": ("autoencoder",),
    "vocoder": ("vocoder",),
    "cavp": ("video", "spec"),
    "t2a": ("unet", "text"),
    "onset": ("local", "onset"),
}
"""What each stage leaves behind; the last stage is not here: it is what all this is for."""

TRAINED = {**GROUPS, "stav2a": ("unet", "controlnet", "local", "onset", "pooling")}
"""What each stage can be given to begin with."""

ALSO_READ = {"t2a": ("t2a", "controlnet"), "cavp": ("kept",)}
"""What decides on a group, or comes with it, and is no group of the stage's result by itself."""

SECTIONS = {
    "onset": "local",
    "controlnet": "unet",
    **{g: g for g in ("autoencoder", "vocoder", "video", "spec", "text", "unet", "local", "pooling")},
}
"""Section of ModelConfig that a group depends on."""

BEHAVIOUR = {
    "autoencoder": ("scale_factor",),
    "video": ("fps", "size"),
    "text": ("max_length",),
    "unet": ("mask_control", "control_channels"),
    "local": ("interpolation",),
    "pooling": ("dropout",),
}
"""Fields that do not change what the weights are: the run's own value counts."""

FILTERS = ("min_av_align", "drop_speech")
"""Fields of DataConfig that do not change what is derived from the clips, only which of them are used."""


def parse(
    assignments: Sequence[str], option: str = "--init", stages: Collection[str] = tuple(GROUPS)
) -> dict[str, list[str]]:
    """``["t2a=DIR", "t2a=OTHER"]`` -> {"t2a": ["DIR", "OTHER"]}. Raises UserError for another stage or form."""
    out: dict[str, list[str]] = {}
    for text in assignments:
        stage, equals, name = text.partition("=")
        if not equals or not name or stage not in stages:
            raise UserError(f"{option} {text}: expected STAGE=FOLDER with a stage of {', '.join(stages)}")
        out.setdefault(stage, []).append(name)
    return out


def adopt(ws: Workspace, stage: str, names: Sequence[str]) -> bool:
    """Make what another run, or some bundles, hold the result of a stage; False where that has been done before.

    Raises UserError where a group is missing, its sizes are not the config's, the stage has been trained or taken from
    other weights, or the clips come with what another encoder made of them.
    """
    origin = _origin(stage, names)
    if ws.done(stage):
        if _same_origin(ws.result(stage)[1], origin):
            return False
        raise UserError(
            f"stage {stage!r} is done in {ws.root} already, and not with what {', '.join(names)} holds now: choose "
            "another --out, or leave out its --init"
        )
    if (run := _run_of(stage, names)) is not None:
        _adopt_run(ws, stage, run, origin)
        return True
    found = _from_bundles(ws, stage, names, _groups(ws, stage))
    _check(ws, stage, names, flatten_dict(found.params, sep="/"))
    if stage == "t2a":
        _keep_tokenizer(ws, found.tokenizer, names)
    params = found.params
    if stage == "cavp":  # the temperature of the contrast, for onset_trains_video
        initial = np.float32(np.log(1.0 / ws.cfg.loss.cavp_temperature))
        params["logit_scale"] = {"value": found.temperature.get("logit_scale", initial)}
    ws.claim(stage)
    ws.write_result(stage, params, {"step": 0, **origin, **found.record})
    return True


def start(ws: Workspace, stage: str, names: Sequence[str]) -> bool:
    """Let a stage begin with what another run, or some bundles, hold of it; what they lack is fresh. False where that
    has been done before, or the stage is done.

    Raises UserError where they hold nothing of it or other sizes, and where the stage began with something else.
    """
    folder = ws.root / stage
    given = folder / "start.json"
    if ws.done(stage):
        return False
    origin = _origin(stage, names)
    if given.exists() and _same_origin(json.loads(given.read_text()), origin):
        return False
    if given.exists() or (folder / "checkpoints").exists():
        raise UserError(f"stage {stage!r} in {ws.root} began with other weights: choose another --out")
    if (run := _run_of(stage, names)) is not None:
        model = _settings(run, stage)
        params = load_params(run / stage / "params.safetensors", TRAINED[stage])
        for group in params:
            _same_sizes(model, ws.cfg.model, group, str(run))
        tokenizer: pathlib.Path | None = _tokenizer_in(run)
    else:
        found = _from_bundles(ws, stage, names, TRAINED[stage])
        params, tokenizer = found.params, found.tokenizer
    if not params:
        raise UserError(f"--start {stage}: {', '.join(names)} hold none of {', '.join(TRAINED[stage])}")
    if stage == "t2a" and "text" in params:
        _keep_tokenizer(ws, tokenizer, names)
    ws.claim(stage)
    save_params(folder / "start.safetensors", params)
    _write_json(given, {**origin, "groups": sorted(params)})
    return True


def _groups(ws: Workspace, stage: str) -> tuple[str, ...]:
    """What a stage needs; an onset stage that trains the video encoder too leaves that behind."""
    return GROUPS[stage] + (("video",) if stage == "onset" and ws.cfg.loss.onset_trains_video else ())


def _dispensable(ws: Workspace, group: str) -> bool:
    """Whether no later stage reads it: only the contrast of an onset stage needs CAVP's other encoder."""
    return group == "spec" and not ws.cfg.loss.onset_trains_video


def _check(ws: Workspace, stage: str, names: Sequence[str], weights: Mapping[str, np.ndarray]) -> None:
    """UserError where flat ``weights`` lack something of a stage, or are not the encoder of the clips' features."""
    held = {key.partition("/")[0] for key in weights}
    lacking = [group for group in _groups(ws, stage) if group not in held and not _dispensable(ws, group)]
    if "autoencoder" in held and not any(key.startswith("autoencoder/encoder/") for key in weights):
        lacking += [] if ws.given("moments") else ["autoencoder/encoder"]
    if lacking:
        raise UserError(
            f"--init {stage}: {', '.join(names)} lack {', '.join(lacking)}; name another bundle with it too"
        )
    ws.check_encoder(stage, weights)


class Found(NamedTuple):
    """What bundles hold for a stage. record: licences, notices and, of a VAE, the scale factor."""

    params: Params
    record: dict[str, Any]
    tokenizer: pathlib.Path | None
    temperature: Params


def _from_bundles(ws: Workspace, stage: str, names: Sequence[str], groups: Sequence[str]) -> Found:
    params: Params = {}
    record: dict[str, Any] = {"licence": [], "notice": []}
    tokenizer: pathlib.Path | None = None
    temperature: Params = {}
    for name in names:
        bundle = load_part(name, (*groups, *ALSO_READ.get(stage, ())))
        found = dict(bundle.params)
        if "t2a" in found:  # a whole model: the U-Net of the text alone is the one that is meant
            found["unet"] = found.pop("t2a")
        elif stage == "t2a" and found.pop("controlnet", None) is not None:
            found.pop("unet", None)  # trained together with a ControlNet, it is no text-to-audio model any more
        for group in [g for g in groups if g in found and g not in params]:
            if _dispensable(ws, group) and _misfits(bundle.model, ws.cfg.model, group):
                continue
            _same_sizes(bundle.model, ws.cfg.model, group, name)
            params[group] = found[group]
        temperature |= found.pop("kept", {}).get("cavp", {})
        if "text" in found:
            tokenizer = _tokenizer_in(bundle.folder)
        record["licence"] += [bundle.info.get("licence", "unknown")]
        record["notice"] += [bundle.info["notice"]] if bundle.info.get("notice") else []
        if "autoencoder" in found:
            record["scale_factor"] = bundle.model.autoencoder.scale_factor
    return Found(params, record, tokenizer, temperature)


def _origin(stage: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """What weights are known by: last names of folders, and the checksum of each one's file (None: not there now)."""
    return {"from": [pathlib.Path(name).name for name in names], "sha256": [_checksum(stage, name) for name in names]}


def _checksum(stage: str, name: str) -> str | None:
    folder = pathlib.Path(name)
    path = folder / stage / "params.safetensors"
    if not (folder / stage / "result.json").is_file():
        try:
            path = find_bundle(name) / "weights.safetensors"
        except UserError:  # gone since, or it never was there, which is said where it is read
            return None
    return file_digest(path) if path.is_file() else None


def _same_origin(then: Mapping[str, Any], now: Mapping[str, list[Any]]) -> bool:
    """Equal names, and equal checksums where both are known: older versions noted none."""
    pairs = zip(then.get("sha256", now["sha256"]), now["sha256"], strict=False)
    return then.get("from") == now["from"] and all(a == b or None in (a, b) for a, b in pairs)


def _run_of(stage: str, names: Sequence[str]) -> pathlib.Path | None:
    """The folder of a run with the result of a stage, where that is what is named. UserError for one that has none."""
    folder = pathlib.Path(names[0])
    if (folder / stage / "result.json").is_file():
        if len(names) > 1:
            raise UserError(f"stage {stage!r} is taken from one run: leave out {', '.join(names[1:])}")
        return folder
    if (folder / stage).is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{folder} has not finished its stage {stage!r}: let it train to the end first")
    return None


def _settings(run: pathlib.Path, stage: str, section: str = "model") -> Any:
    """Model, or another section, that a stage of a run was trained with."""
    settings = complete(Config, json.loads((run / stage / "settings.json").read_text()))
    return from_dict(ModelConfig, settings["model"]) if section == "model" else settings[section]


def _adopt_run(ws: Workspace, stage: str, run: pathlib.Path, origin: Mapping[str, Any]) -> None:
    model, record = _settings(run, stage), json.loads((run / stage / "result.json").read_text())
    source, target = (root / stage / "params.safetensors" for root in (run, ws.root))
    unfit = [g for g in GROUPS[stage] if _dispensable(ws, g) and _misfits(model, ws.cfg.model, g)]
    for group in _groups(ws, stage):
        if group not in unfit:
            _same_sizes(model, ws.cfg.model, group, str(run))
    _check(ws, stage, [str(run)], read_safetensors(source))
    if stage == "t2a":
        _keep_tokenizer(ws, _tokenizer_in(run), [str(run)])
    ws.claim(stage)
    ws.forget_derived(stage)
    if unfit:
        save_params(target, {group: x for group, x in load_params(source).items() if group not in unfit})
    else:
        _link(source, target)
    _write_json(ws.root / stage / "result.json", {"licence": [], "notice": [], **record, **origin})
    ours = json.loads(json.dumps(to_dict(ws.cfg.data)))
    if stage in DERIVED and _unfiltered(_settings(run, stage, "data")) == _unfiltered(ours):
        for path in sorted((run / "derived").glob(f"*/{DERIVED[stage]}.*")):  # the offsets last, as they are written
            if path.suffix != ".part":
                _link(path, ws.derived_folder(path.parent.name) / path.name)


def _unfiltered(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in FILTERS}


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """The same file under another name (it is replaced as a whole, never written to), or a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(data, indent=1))
    os.replace(temporary, path)


def _same_sizes(theirs: ModelConfig, ours: ModelConfig, group: str, name: str) -> None:
    if wrong := _misfits(theirs, ours, group):
        raise UserError(f"{name} does not fit the config: {', '.join(wrong)}")


def _misfits(theirs: ModelConfig, ours: ModelConfig, group: str) -> list[str]:
    section = SECTIONS[group]
    a, b = (to_dict(getattr(model, section)) for model in (theirs, ours))
    wrong = [k for k in a if a[k] != b[k] and k not in BEHAVIOUR.get(section, ())]
    return [f"{section}.{k} {a[k]} (config: {b[k]})" for k in wrong]


def _tokenizer_in(folder: pathlib.Path) -> pathlib.Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _keep_tokenizer(ws: Workspace, tokenizer: pathlib.Path | None, names: Sequence[str]) -> None:
    """The text encoder understands only its own tokenizer: the run uses it too."""
    if tokenizer is None:
        raise UserError(
            f"--init t2a: {', '.join(names)} have no tokenizer ({' or '.join(FILES)}) beside the text encoder"
        )
    ws.root.mkdir(parents=True, exist_ok=True)
    there = [ws.root / name for name in FILES if (ws.root / name).is_file()]
    if there and there[0].read_bytes() != tokenizer.read_bytes():
        raise UserError(f"{there[0]} is another tokenizer than that of {', '.join(names)}: choose another --out")
    shutil.copyfile(tokenizer, ws.root / tokenizer.name)
