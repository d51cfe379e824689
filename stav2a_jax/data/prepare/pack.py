"""The last act: shards for tensorflow-datasets from what the steps left, and a manifest with checksums of them."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stav2a_jax.bundle import find_bundle
from stav2a_jax.data.prepare import features
from stav2a_jax.data.prepare.report import Report
from stav2a_jax.data.prepare.settings import PrepareSettings
from stav2a_jax.data.prepare.store import digest, file_digest, read_chunk, read_header, write_atomic
from stav2a_jax.data.prepared import digests_of_files
from stav2a_jax.data.records import BASE, FRAMES, Field, example
from stav2a_jax.tensors import Tensors, read_safetensors
from stav2a_jax.types import UserError


def pack(
    out: pathlib.Path,
    name: str,
    chunks: int,
    fields: dict[str, Field],
    info: dict[str, Any],
    report: Report,
) -> Report:
    """Write ``out``/NAME/VERSION and ``out``/manifest.json, unless they are there and made of the same chunks.

    ``fields`` and ``info`` are :func:`describe`'s. Raises UserError where a file of a step is damaged.
    """
    steps = out / "steps" / "features"
    paths = [steps / f"{number:06d}.jsonl" for number in range(chunks)]
    headers = [header for path in paths if (header := read_header(path)) is not None]
    key = digest("pack 2", name, [(h.sha256, h.arrays) for h in headers], fields, info)
    done = read_manifest(out)
    if done and done["key"] == key and not problems(out, done, checksums=False):
        return dataclasses.replace(report, splits=done["splits"], made=False)
    splits = sorted({row["split"] for path in paths for row in read_chunk(path, kept_only=True)})
    given = {split: functools.partial(examples, paths, split) for split in splits}
    return dataclasses.replace(report, splits=install(out, name, key, given, fields, info), made=True)


def install(
    out: pathlib.Path,
    name: str,
    key: str,
    splits: Mapping[str, Callable[[], Any]],
    fields: dict[str, Field],
    info: dict[str, Any],
    **options: Any,
) -> dict[str, int]:
    """Write the set beside an older one, which it then replaces at once; records by split.

    The manifest comes last: without it the set is made again. ``options`` go to ``download_and_prepare``.
    """
    from stav2a_jax.data.builders import BUILDERS, write_set

    (out / "manifest.json").unlink(missing_ok=True)
    new, old = out / ".new", out / ".old"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    counts = write_set(BUILDERS[name](splits=splits, fields=fields, info=info, data_dir=new), **options)
    if (out / name).exists():
        os.replace(out / name, old)
    os.replace(new / name, out / name)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    files = {
        path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted((out / name).rglob("*"))
        if path.is_file()
    }
    version = importlib.metadata.version("stav2a_jax")
    manifest = {"key": key, "set": name, "splits": counts, "stav2a_jax": version, "info": info, "files": files}
    write_atomic(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    return counts


def examples(paths: list[pathlib.Path], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, record) of every clip of a split."""
    for path in paths:
        rows = read_chunk(path, kept_only=True)
        if not any(row["split"] == split for row in rows):
            continue
        arrays = _arrays(path)
        for i, row in enumerate(rows):
            if row["split"] == split:
                yield row["id"], example(row, dict(arrays.under(f"{i}/")))


def _arrays(path: pathlib.Path) -> Tensors:
    """Arrays of a chunk; UserError where they are not the ones that were written."""
    file, header = path.with_suffix(".safetensors"), read_header(path)
    if header is None or not file.is_file() or file_digest(file) != header.arrays:
        raise UserError(f"{file} is damaged (wrong checksum); delete {path} and run the preparation again.")
    return read_safetensors(file)


def describe(settings: PrepareSettings, vae: pathlib.Path | None) -> tuple[dict[str, Field], dict[str, Any]]:
    """(fields of the records, metadata of the set). Raises UserError as ``features.encoder_fields`` does."""
    model = features.model_config(settings)
    stored = FRAMES if settings.frames != "none" else {}
    info = {
        "sample_rate": model.latent.sample_rate,
        "latent_fps": model.latent.frames_per_second,
        "video_fps": model.video.fps,
        "frame_size": model.video.size,
        "scale_factor": model.autoencoder.scale_factor,
        "encoders": features.encoders_digest(settings, vae),
        "settings": dataclasses.asdict(settings),
    }
    encoded = features.encoder_fields(settings, vae)
    if settings.bundle is not None:
        info["encoder_digests"] = digests_of_files(find_bundle(settings.bundle) / "weights.safetensors", vae)
    return {**BASE, **encoded, **stored}, info


def read_manifest(out: pathlib.Path) -> dict[str, Any] | None:
    """manifest.json of a prepared folder, None where there is none. Raises UserError where it is damaged."""
    path = out / "manifest.json"
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and prepare again.") from None
    kinds = {"key": str, "set": str, "splits": dict, "files": dict}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    if not whole or not all(isinstance(f, dict) and {"bytes", "sha256"} <= f.keys() for f in found["files"].values()):
        raise UserError(f"{path} is damaged (not a set's manifest); delete it and prepare again.")
    return found


def check_name(out: pathlib.Path, name: str) -> None:
    """UserError where ``out`` holds a set of another name."""
    done = read_manifest(out)
    if done is not None and done["set"] != name:
        raise UserError(f"{out} holds the set {done['set']!r}, not {name!r}; choose another --out.")


def problems(out: pathlib.Path, manifest: dict[str, Any], *, checksums: bool = True) -> list[str]:
    """What is wrong with the files of a manifest: one line per file that is absent, of another size, or changed."""
    wrong = []
    for name, want in manifest["files"].items():
        path = out / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != want["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} bytes instead of {want['bytes']}")
        elif checksums and file_digest(path) != want["sha256"]:
            wrong.append(f"{name} has another checksum")
    return wrong
