"""A run's folder: prepared clips, and the result of every stage that is done.

runs/NAME/tokenizer.json
runs/NAME/STAGE/settings.json  what the stage depends on, written when it starts
runs/NAME/STAGE/checkpoints/   orbax, for resuming
runs/NAME/STAGE/log/           TensorBoard
runs/NAME/STAGE/params.safetensors + result.json   best validation EMA; its presence says "done"
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from stav2a_jax.bundle import load_params, save_params
from stav2a_jax.config import Config, to_dict
from stav2a_jax.data.cache import ClipCache, cache_folder, prepare
from stav2a_jax.tokenizer import Tokenizer, train_bpe
from stav2a_jax.types import Params, UserError

DERIVED = {"vae": "latent", "cavp": "video", "onset": "video"}
"""What later stages derive from the result of a stage, once for all clips."""


class Workspace:
    """Paths and inputs of one run. ``root`` is runs/NAME; ``cache`` holds the rendered clips."""

    def __init__(self, cfg: Config, root: pathlib.Path, cache: pathlib.Path) -> None:
        self.cfg, self.root, self._cache = cfg, root, cache
        self._opened: dict[str, ClipCache] = {}
        root.mkdir(parents=True, exist_ok=True)

    def claim(self, stage: str) -> None:
        """Note the settings of a stage when it starts; UserError where its folder was begun with other ones."""
        path, now = self.root / stage / "settings.json", json.loads(json.dumps(stage_settings(self.cfg, stage)))
        if path.exists():
            changed = _differences(json.loads(path.read_text()), now)
            if changed:
                raise UserError(
                    f"stage {stage!r} in {self.root} has other settings ({', '.join(changed[:5])}): "
                    f"choose another --out, or delete {path.parent}"
                )
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(now, indent=1))
        os.replace(temporary, path)

    def clips(self, split: str) -> ClipCache:
        """Prepared clips of a split, rendered now if they are not there."""
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def _open(self, split: str) -> ClipCache:
        cfg = self.cfg
        count = cfg.data.train_clips if split == "train" else cfg.data.valid_clips
        folder = cache_folder(self._cache, cfg.data.seed, split, cfg.model.video, cfg.model.latent.sample_rate)
        prepare(folder, cfg.data.seed, split, count, cfg.model.video, cfg.model.latent.sample_rate, os.cpu_count() or 1)
        return ClipCache(folder, count)

    def derived_folder(self, split: str) -> pathlib.Path:
        return self.root / "derived" / split

    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE learnt from the training captions, once per run."""
        path = self.root / "tokenizer.json"
        if not path.exists():
            captions = [r["caption"] for r in self.clips("train").records]
            train_bpe(captions, self.cfg.model.text.vocab_size).save(path)
        return Tokenizer.load(path)

    def done(self, stage: str) -> bool:
        return (self.root / stage / "result.json").exists()

    def result(self, stage: str) -> tuple[Params, dict[str, Any]]:
        """(parameters by group, record) of a finished stage."""
        if not self.done(stage):
            raise UserError(f"stage {stage!r} is not done in {self.root}: run it first (--stage {stage})")
        self.claim(stage)
        folder = self.root / stage
        return load_params(folder / "params.safetensors"), json.loads((folder / "result.json").read_text())

    def write_result(self, stage: str, params: Params, record: dict[str, Any]) -> None:
        """The stage is done; arrays derived from an earlier result of it are removed, so that none outlives it."""
        for path in (self.root / "derived").glob(f"*/{DERIVED.get(stage, stage)}.*"):
            path.unlink()
        save_params(self.root / stage / "params.safetensors", params)
        temporary = self.root / stage / "result.json.part"
        temporary.write_text(json.dumps(record, indent=1))
        os.replace(temporary, self.root / stage / "result.json")

    def model_config(self) -> Any:
        """The model config with what earlier stages measured (the latent scale factor) filled in."""
        model = self.cfg.model
        if self.done("vae"):
            scale = float(self.result("vae")[1]["scale_factor"])
            model = dataclasses.replace(model, autoencoder=dataclasses.replace(model.autoencoder, scale_factor=scale))
        return model


def stage_settings(cfg: Config, stage: str) -> dict[str, Any]:
    """What a stage's result depends on: all but names, guidance, devices, and how long the other stages train."""
    settings = {k: v for k, v in to_dict(cfg).items() if k not in ("name", "guidance", "host_devices")}
    return {**settings, "stages": {stage: settings["stages"][stage]}}


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    names = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{path}{key}.")
        elif a != b:
            names.append(f"{path}{key}: {a} -> {b}")
    return names
