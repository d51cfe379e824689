"""Checkpoints into a bundle, with where they came from, and a bundle's weights back into a checkpoint."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stav2a_jax.bundle import GROUPS, find_bundle, new_folder, read_settings, write_bundle
from stav2a_jax.config import GuidanceConfig, ModelConfig
from stav2a_jax.convert.families import FAMILIES, TABLES, Family, released_config
from stav2a_jax.convert.read import Checkpoint, read_json, sha256, verify
from stav2a_jax.convert.rules import Problem, untied
from stav2a_jax.convert.torch_file import write_torch
from stav2a_jax.convert.transfer import KEPT, Converted, convert, explain, export, merge
from stav2a_jax.tensors import Entry, Progress, Tensors, is_float, read_safetensors, write_safetensors
from stav2a_jax.types import UserError


class Source(NamedTuple):
    """One checkpoint and what it becomes."""

    checkpoint: Checkpoint
    family: Family
    converted: Converted


class Whole(NamedTuple):
    """Several sources as one model."""

    sources: tuple[Source, ...]
    tensors: Tensors
    model: ModelConfig
    guidance: GuidanceConfig

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.partition("/")[0] for key in self.tensors if not key.startswith(KEPT)))


def as_source(
    checkpoint: Checkpoint,
    family: Family,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Sequence[str] = (),
) -> Source:
    """A checkpoint through its family; UserError, with the file's name, where it does not fit."""
    try:
        converted = convert(checkpoint.tensors, family, configs or beside(checkpoint, family), skip)
    except UserError as e:
        raise UserError(f"{checkpoint.path}: {e}") from e
    if converted.problems:
        raise UserError(
            f"{checkpoint.path} does not fit {family.name}: {explain(converted.problems)}; "
            f"`stav2a inspect {checkpoint.path}` lists all"
        )
    return Source(checkpoint, family, converted)


def beside(checkpoint: Checkpoint, family: Family) -> dict[str, Mapping[str, Any]]:
    """Component name -> the config file that lies beside a checkpoint: config.json of a file with one network, and
    Tango's vae_config.json, which has the scale factor."""
    vae = checkpoint.files[0].parent / "vae_config.json"
    if family.name == "audioldm" and vae.is_file():
        return {"autoencoder": read_json(vae)}
    if len(family.slots) > 1:  # a config.json beside such a file may be anything; one that was named is the U-Net's
        return dict.fromkeys(("unet", "controlnet"), checkpoint.config) if checkpoint.named_config else {}
    return {component.name: checkpoint.config for component in family.slots[0].alternatives}


def combine(sources: Sequence[Source], schedule: Mapping[str, Any] | None = None) -> Whole:
    """One model of several checkpoints. Raises UserError where two have the same part, or parts do not fit."""
    tensors, fields = Tensors({}), {}  # type: tuple[Tensors, dict[str, dict[str, Any]]]
    problems: list[Problem] = []
    for source in sources:
        twice = sorted(set(tensors) & set(source.converted.tensors))
        if twice:
            raise UserError(f"{source.checkpoint.path} holds {twice[0].partition('/')[0]}, as another file does too")
        tensors |= source.converted.tensors
        problems += merge(fields, source.converted.fields, source.checkpoint.path.name)
    if problems:
        raise UserError(f"the checkpoints are parts of different models: {'; '.join(problems)}")
    model, guidance = released_config(fields, schedule)
    whole = Whole(tuple(sources), tensors, model, guidance)
    if wrong := _misfits(model, whole.groups):
        raise UserError(f"the checkpoints are parts of different models: {'; '.join(wrong)}")
    return whole


def _misfits(model: ModelConfig, groups: Sequence[str]) -> list[str]:
    """Widths that meet between two groups and differ."""
    context = {
        "text": ("text.d_model", model.text.d_model),
        "unet": ("unet.cross_attention_dim", model.unet.cross_attention_dim),
        "pooling": ("pooling.dim", model.pooling.dim),
    }
    latent = {
        "unet": ("unet.channels", model.unet.channels),
        "autoencoder": ("autoencoder.embed_channels", model.autoencoder.embed_channels),
    }
    control = {
        "onset": ("local.control", model.local.control),
        "controlnet": ("unet.control_channels", model.unet.control_channels),
    }
    out = []
    for meeting in (context, latent, control):
        there = [value for group, value in meeting.items() if group in groups]
        if len({number for _, number in there}) > 1:
            out.append(" and ".join(f"{name} {number}" for name, number in there))
    return out


def read_all(whole: Whole, progress: Progress) -> list[dict[str, Any]]:
    """Check the files against their checksums and tied copies; returns the provenance of every source."""
    for source in whole.sources:
        verify(source.checkpoint, progress)
        if wrong := untied(source.checkpoint.tensors, source.converted.tied):
            raise UserError(f"{source.checkpoint.path} does not fit {source.family.name}: {explain(wrong)}")
    return [_provenance(source, progress) for source in whole.sources]


def _provenance(source: Source, progress: Progress) -> dict[str, Any]:
    checkpoint, converted = source.checkpoint, source.converted
    files = [
        {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file, progress)} for file in checkpoint.files
    ]
    return {
        "family": source.family.name,
        "files": files,
        "form": {**converted.form, "nest": checkpoint.nest, "module": checkpoint.module},
        "dtypes": dtypes(checkpoint.tensors),
        "licence": source.family.licence.text,
        "non_commercial": source.family.licence.non_commercial,
        "assumed": list(converted.assumed),
        "left_out": list(converted.aside),
    }


def dtypes(tensors: Tensors) -> dict[str, int]:
    """Numbers of each dtype."""
    out: dict[str, int] = {}
    for entry in tensors.entries.values():
        out[entry.dtype.name] = out.get(entry.dtype.name, 0) + int(np.prod(entry.shape, dtype=np.int64))
    return out


def information(whole: Whole, provenance: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    """The ``info`` of a bundle."""
    licences = list(dict.fromkeys(p["licence"] for p in provenance))
    info: dict[str, Any] = {
        "made_by": command,
        "tables": TABLES,
        "groups": list(whole.groups),
        "licence": "; ".join(licences),
        "sources": list(provenance),
    }
    if bound := list(dict.fromkeys(p["licence"] for p in provenance if p["non_commercial"])):
        info["notice"] = f"its weights may not be used commercially: {'; '.join(bound)}"
    return info


def write(
    whole: Whole,
    folder: pathlib.Path,
    tokenizer: pathlib.Path | None,
    command: str,
    *,
    dtype: np.dtype | None = None,
    force: bool = False,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """Write the bundle, tensor by tensor; ``dtype`` None keeps the source's. Returns its ``info``.

    Nothing is left behind where a file is damaged, a weight is not finite or the disk is full.
    """
    tensors = _checked(whole.tensors)
    if dtype is not None:
        kept = tensors.where(lambda key: key.startswith(KEPT))
        tensors = tensors.cast(dtype) | kept
    with new_folder(folder, force) as temporary:
        enough_space(temporary, tensors.nbytes)
        info = information(whole, read_all(whole, progress), command)
        text = card(folder.name, whole, info)
        write_bundle(temporary, whole.model, whole.guidance, tensors, tokenizer, info, text, progress)
    return info


def enough_space(folder: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + (1 << 26):
        raise UserError(f"{needed / 1e9:.1f} GB are needed in {folder.parent}, {free / 1e9:.1f} GB are free")


def _checked(tensors: Tensors) -> Tensors:
    """The same tensors; reading one that holds NaN or infinity is a UserError."""

    def entry(key: str, old: Entry) -> Entry:
        def read() -> np.ndarray:
            array = old.read()
            if not np.isfinite(array).all():
                raise UserError(f"{key} holds NaN or infinity: the checkpoint is damaged, copy it again")
            return array

        return old._replace(read=read) if is_float(old.dtype) else old

    return Tensors({key: entry(key, old) for key, old in tensors.entries.items()})


def card(name: str, whole: Whole, info: Mapping[str, Any]) -> str:
    """The model card of a converted bundle."""
    rows = "\n".join(
        f"| {file['name']} | {source['family']} | {file['bytes']:,} | {file['sha256']} | {source['licence']} |"
        for source in info["sources"]
        for file in source["files"]
    )
    assumed = [f"- {text}" for source in info["sources"] for text in source["assumed"]]
    aside = [f"- {text}" for source in info["sources"] for text in source["left_out"]]
    missing = [group for group in GROUPS if group not in whole.groups]
    what = f"A part of a model: {', '.join(whole.groups)}" if missing else "A whole model, with the released behaviour"
    return f"""# {name}

{what}. Converted from PyTorch weights by stav2a_jax (tables version {info["tables"]}); the numbers are those of the
source, in another layout.

- Command: `{info["made_by"]}`
- Licence of the weights: theirs, not this package's: {info["licence"]}
- Commercial use: {"no: " + info["notice"] if "notice" in info else "see the licences"}

| file | family | bytes | SHA-256 | licence |
|---|---|---|---|---|
{rows}

Not in the files and therefore assumed:

{chr(10).join(assumed) or "- nothing"}

Left out:

{chr(10).join(aside) or "- nothing"}
"""


class Opened(NamedTuple):
    """A bundle's weights, lazily, in the dtype and layout of the file."""

    folder: pathlib.Path
    model: ModelConfig
    info: dict[str, Any]
    tensors: Tensors


def open_bundle(name: str) -> Opened:
    """Read a bundle's config and the list of its weights. Raises UserError where it is missing or damaged."""
    folder = find_bundle(name)
    try:
        model, _, info = read_settings(folder)
        return Opened(folder, model, info, read_safetensors(folder / "weights.safetensors"))
    except (OSError, KeyError, ValueError, TypeError) as e:
        raise UserError(f"the bundle {str(folder)!r} cannot be read ({e}); make or fetch it again") from e


def form_of(info: Mapping[str, Any], family: Family) -> dict[str, Any] | None:
    """How the file of this family looked that the bundle was made from, if there was one."""
    forms = [s["form"] for s in info.get("sources", ()) if s.get("family") == family.name]
    return forms[0] if forms else None


def exportable(opened: Opened) -> list[str]:
    """Families that the bundle's groups can be written as, those it was made from first."""
    made_from = [s["family"] for s in opened.info.get("sources", ()) if s.get("family") in FAMILIES]
    out = []
    for name in dict.fromkeys([*made_from, *FAMILIES]):
        try:
            export(opened.tensors, opened.model, FAMILIES[name], form_of(opened.info, FAMILIES[name]))
        except UserError:
            continue
        out.append(name)
    return out


def write_checkpoint(
    opened: Opened, family: Family, path: pathlib.Path, progress: Progress = lambda done: None
) -> Tensors:
    """Write a bundle's weights as a checkpoint of a family: .safetensors without torch, otherwise with torch.save."""
    form = form_of(opened.info, family)
    tensors, _ = export(opened.tensors, opened.model, family, form)
    if form and form.get("module"):
        tensors = tensors.prefixed("module.")
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors, {"format": "pt"}, progress)
    else:
        write_torch(path, tensors, form["nest"] if form else family.nest, progress)
    return tensors
