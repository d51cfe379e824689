"""`stav2a inspect`: what a checkpoint or a bundle is, before anything is written."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from stav2a_jax.errors import UserError

if TYPE_CHECKING:
    from stav2a_jax.convert.read import Checkpoint
    from stav2a_jax.convert.transfer import Converted
    from stav2a_jax.tensors import Tensors


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "inspect",
        help="say what a checkpoint or a bundle is, and what of it does not fit",
        description="Sizes, dtypes, licence, and which tables fit. Writes nothing. Exit code 1 where a checkpoint "
        "cannot be converted.",
    )
    p.add_argument("path", help="checkpoint, index of shards, folder, or bundle")
    p.add_argument("--config", type=pathlib.Path, metavar="JSON", help="instead of the config.json beside a checkpoint")
    p.add_argument("--family", help="compare with this family instead of the one that fits best")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from stav2a_jax.convert.read import open_checkpoint
    from stav2a_jax.convert.store import open_bundle

    path = pathlib.Path(args.path)
    if not path.exists() or (path / "weights.safetensors").is_file():
        return _bundle(open_bundle(args.path))
    return _checkpoint(open_checkpoint(path, args.config), args.family)


def _bundle(opened: Any) -> int:
    from stav2a_jax.bundle import GROUPS
    from stav2a_jax.convert.store import exportable

    info = opened.info
    print(f"{opened.folder}: a bundle, {_amount(opened.tensors)}")
    _table(opened.tensors, "/")
    print(f"made by: {info.get('made_by', 'unknown')}")
    for source in info.get("sources", ()):
        for file in source["files"]:
            print(f"from: {file['name']} ({source['family']}, sha256 {file['sha256']})")
    print(f"licence: {info.get('licence', 'unknown')}")
    if info.get("notice"):
        print(f"note: {info['notice']}")
    groups = {key.partition("/")[0] for key in opened.tensors}
    missing = [group for group in GROUPS if group not in groups]
    print(f"a part of a model, it lacks {', '.join(missing)}" if missing else "whole: it generates")
    print(f"can be exported as: {', '.join(exportable(opened)) or 'nothing, it has no PyTorch counterpart'}")
    return 0


def _checkpoint(checkpoint: Checkpoint, wanted: str | None) -> int:
    from stav2a_jax.convert.families import FAMILIES
    from stav2a_jax.convert.store import beside
    from stav2a_jax.convert.transfer import convert, detect

    tensors = checkpoint.tensors
    files = ", ".join(f"{f.name} ({f.stat().st_size:,} bytes)" for f in checkpoint.files)
    print(f"{checkpoint.path}: {_amount(tensors)} in {files}")
    if checkpoint.nest or checkpoint.module:
        print(f"state dict under {checkpoint.nest or 'no name'}; module. before every key: {checkpoint.module}")
    _table(tensors, ".")
    fits = detect(tensors)
    if wanted is not None and wanted not in FAMILIES:
        raise UserError(f"unknown family {wanted!r}; there are {', '.join(FAMILIES)}")
    if wanted is None and not fits:
        print(f"fits none of the known families: {', '.join(FAMILIES)}")
        return 1
    family = FAMILIES[wanted] if wanted else fits[0]
    print(f"family: {family.name}, {family.title}")
    if len(fits) > 1:
        print(f"parts of it: {', '.join(f.name for f in fits if f is not family)}")
    print(f"licence of the weights: {family.licence.text}")
    try:
        converted = convert(tensors, family, beside(checkpoint, family))
    except UserError as e:
        print(f"cannot be converted: {e}")
        return 1
    return _converted(converted)


def _converted(converted: Converted) -> int:
    for section, values in converted.fields.items():
        print(f"  {section}: {', '.join(f'{k} {v}' for k, v in values.items())}")
    for text in converted.assumed:
        print(f"assumed: {text}")
    for text in converted.aside:
        print(f"left out: {text}")
    print(f"rules: {len(converted.tensors)} tensors have their place; {len(converted.tied)} tied copies")
    for problem in sorted(converted.problems):
        print(f"  wrong: {problem}")
    print(f"{len(converted.problems)} problems" if converted.problems else "everything fits")
    return 1 if converted.problems else 0


def _amount(tensors: Tensors) -> str:
    from stav2a_jax.convert.store import dtypes

    kinds = ", ".join(f"{count:,} {name}" for name, count in dtypes(tensors).items())
    return f"{len(tensors)} tensors, {kinds}, {tensors.nbytes / 1e6:,.1f} MB"


def _table(tensors: Tensors, separator: str) -> None:
    """Tensors and numbers by the first part of their names."""
    import math

    rows: dict[str, list[int]] = {}
    for key, shape in tensors.shapes.items():
        row = rows.setdefault(key.partition(separator)[0] + separator, [0, 0])
        row[0], row[1] = row[0] + 1, row[1] + math.prod(shape)
    for name, (count, numbers) in sorted(rows.items(), key=lambda item: -item[1][1])[:20]:
        print(f"  {name:32} {count:6} tensors {numbers:15,} numbers")
