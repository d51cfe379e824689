"""A run's folder: prepared clips, and the result of every stage that is done.

runs/NAME/tokenizer.json
runs/NAME/STAGE/settings.json  what the stage depends on, written when it starts
runs/NAME/STAGE/start.safetensors + start.json  weights that it begins with, where they were given
runs/NAME/STAGE/checkpoints/   orbax, for resuming
runs/NAME/STAGE/log/           TensorBoard
runs/NAME/STAGE/params.safetensors + result.json   best validation EMA; its presence says "done"
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stav2a_jax.bundle import load_params, save_params
from stav2a_jax.config import Config, ModelConfig, StagesConfig, to_dict
from stav2a_jax.data.cache import ClipCache, Derived, cache_folder, prepare
from stav2a_jax.data.clips import Clips, ForeignPictures, Rows, kept, measure_av_align
from stav2a_jax.fields import complete
from stav2a_jax.tensors import read_safetensors
from stav2a_jax.tokenizer import FILES, Tokenizer, train_bpe
from stav2a_jax.types import Params, UserError

DERIVED = {"vae": "latent", "cavp": "video", "onset": "video"}
"""What later stages derive from the result of a stage, once for all clips."""


def video_stage(cfg: Config) -> str:
    """The stage whose video encoder is the model's."""
    return "onset" if cfg.loss.onset_trains_video and cfg.recipe.local == "onset" else "cavp"


class Workspace:
    """Paths and inputs of one run. ``root`` is runs/NAME; ``cache`` holds the rendered clips."""

    def __init__(self, cfg: Config, root: pathlib.Path, cache: pathlib.Path) -> None:
        self.cfg, self.root, self._cache = cfg, root, cache
        self._opened: dict[str, Clips] = {}
        self._compared: set[str] = set()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root} cannot be the folder of a run ({error.strerror}): choose another --out") from error

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)``: initial parameters. ``shapes.ShapesOnly`` gives their shapes instead."""
        return function(*args)

    def claim(self, stage: str) -> None:
        """Note the settings of a stage when it starts; UserError where its folder was begun with other ones."""
        path, now = self.root / stage / "settings.json", _as_json(stage_settings(self.cfg, stage))
        if path.exists():
            then, wanted = (
                _without_later(_as_json(complete(Config, data)), stage) for data in (json.loads(path.read_text()), now)
            )
            changed = _differences(then, wanted)
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

    def clips(self, split: str) -> Clips:
        """Clips of a split: prepared records, or generated ones, rendered now if they are not there."""
        if split not in self._opened:
            self._opened[split] = self._prepared(split) if self.cfg.data.records else self._generated(split)
        return self._opened[split]

    def kept(self, split: str) -> np.ndarray | None:
        """Which clips of a split the filters leave, (N,) bool; None for all."""
        return kept(self.clips(split), self.cfg.data)

    def _prepared(self, split: str) -> Clips:
        from stav2a_jax.data.prepared import open_clips

        data = self.cfg.data
        assert data.records is not None
        part = data.train_split if split == "train" else data.valid_split
        return open_clips(data.records, part, self._cache, self.cfg.model)

    def _generated(self, split: str) -> Clips:
        data, video, rate = self.cfg.data, self.cfg.model.video, self.cfg.model.latent.sample_rate
        count = data.train_clips if split == "train" else data.valid_clips
        folder = cache_folder(self._cache, data.seed, split, video, rate)
        prepare(folder, data.seed, split, count, video, rate, os.cpu_count() or 1)
        clips: Clips = ClipCache(folder, count)
        if share := data.foreign_picture if split == "train" else 0.0:
            clips = ForeignPictures(clips, share, data.seed)
        if data.min_av_align is not None:
            name = (
                f"av_align_{share:g}_{count}.json" if share else "av_align.json"
            )  # the foreign pictures' depend on it
            measure_av_align(clips, video.fps, folder / name)
        return clips

    def given(self, field: str) -> bool:
        """Whether the clips come with the rows of a field (``moments``, ``video``) of their prepared set."""
        return bool(self.cfg.data.records) and field in getattr(self.clips("train"), "fields", {})

    def check_encoder(self, stage: str, weights: Mapping[str, np.ndarray]) -> None:
        """UserError where the clips come with rows of another encoder than the one in ``weights``, by path, of a stage.

        A set that an older version prepared does not say whose they are: it is taken, with a word on stderr.
        """
        field = {"vae": "moments", video_stage(self.cfg): "video"}.get(stage)
        if field is None or field in self._compared or not self.given(field):
            return
        from stav2a_jax.data.prepared import same_encoder

        name, known = self.cfg.data.records, getattr(self.clips("train"), "info").get("encoder_digests")  # noqa: B009
        if known is None and not self._compared:
            print(
                f"{name} does not say whose features it stores (an older version prepared it): make sure that they are "
                "of this run's encoders, or give its stav2a prepare command again, which adds it",
                file=sys.stderr,
            )
        if known is not None and not same_encoder(known, field, weights):
            kind, option = ("video encoder", "--bundle") if field == "video" else ("VAE", "--vae")
            raise UserError(
                f"{name} stores what another {kind} made of its clips than that of stage {stage!r} of {self.root}: "
                f"prepare it again with {option} of the same weights, or without features (--bundle none --frames jpeg)"
            )
        self._compared.add(field)

    def _check_result(self, stage: str) -> None:
        if self.done(stage):
            self.check_encoder(stage, read_safetensors(self.root / stage / "params.safetensors"))

    def rows(self, split: str, name: str) -> Rows:
        """'latent' (moments of the VAE) or 'video' (features) of all clips: prepared with them, or derived before.

        Raises UserError as :meth:`check_encoder`.
        """
        field = {"latent": "moments", "video": "video"}[name]
        if not self.given(field):
            return Derived(self.derived_folder(split), name)
        from stav2a_jax.data.prepared import PreparedClips, PreparedRows

        self._check_result("vae" if name == "latent" else video_stage(self.cfg))
        clips = self.clips(split)
        assert isinstance(clips, PreparedClips)
        return PreparedRows(clips, field)

    def derived_folder(self, split: str) -> pathlib.Path:
        return self.root / "derived" / split

    def tokenizer_file(self) -> pathlib.Path:
        """The run's tokenizer: one that came with a text encoder, or a BPE learnt from the captions, once per run."""
        found = [self.root / name for name in FILES if (self.root / name).is_file()]
        if not found:
            captions = [r["caption"] for r in self.clips("train").records]
            train_bpe(captions, self.cfg.model.text.vocab_size).save(self.root / FILES[0])
        return found[0] if found else self.root / FILES[0]

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_file())

    def done(self, stage: str) -> bool:
        return (self.root / stage / "result.json").exists()

    def begin(self, stage: str, fresh: Params) -> Params:
        """Initial parameters of a stage: the ``fresh`` ones, or in their place those groups that it was given."""
        path = self.root / stage / "start.safetensors"
        return {**fresh, **load_params(path, tuple(fresh))} if path.exists() else fresh

    def result(self, stage: str) -> tuple[Params, dict[str, Any]]:
        """(parameters by group, record) of a finished stage."""
        if not self.done(stage):
            advice = f"run it first (--stage {stage}), or take it from elsewhere (--init {stage}=FOLDER)"
            raise UserError(f"stage {stage!r} is not done in {self.root}: {advice}")
        self.claim(stage)
        folder = self.root / stage
        return load_params(folder / "params.safetensors"), json.loads((folder / "result.json").read_text())

    def write_result(self, stage: str, params: Params, record: dict[str, Any]) -> None:
        """The stage is done; arrays derived from an earlier result of it are removed, so that none outlives it."""
        self.forget_derived(stage)
        save_params(self.root / stage / "params.safetensors", params)
        temporary = self.root / stage / "result.json.part"
        temporary.write_text(json.dumps(record, indent=1))
        os.replace(temporary, self.root / stage / "result.json")

    def forget_derived(self, stage: str) -> None:
        """Remove what was derived from the result of a stage."""
        for path in (self.root / "derived").glob(f"*/{DERIVED.get(stage, stage)}.*"):
            path.unlink()

    def model_config(self) -> ModelConfig:
        """The model config with what earlier stages measured (the latent scale factor) filled in.

        Raises UserError as :meth:`check_encoder`.
        """
        model, scale = self.cfg.model, None
        for stage in ("vae", video_stage(self.cfg)):
            self._check_result(stage)
        if self.done("vae"):
            scale = self.result("vae")[1]["scale_factor"]
        elif self.given("moments"):
            scale = getattr(self.clips("train"), "info")["scale_factor"]  # noqa: B009 (only prepared clips have one)
        if scale is None:
            return model
        return dataclasses.replace(model, autoencoder=dataclasses.replace(model.autoencoder, scale_factor=float(scale)))


def stage_settings(cfg: Config, stage: str) -> dict[str, Any]:
    """What a stage's result depends on: all but names, guidance, devices, what is shown, where weights come from, the
    other stages, and the losses of later ones."""
    without = ("name", "guidance", "host_devices", "fsdp", "workers")
    settings = {k: v for k, v in to_dict(cfg).items() if k not in without}
    for section, field in ((settings["model"]["compute"], "remat"), (settings["stages"][stage], "shown")):
        del section[field]
    for field in ("train", "init", "start"):
        settings["recipe"][field] = ()
    return _without_later({**settings, "stages": {stage: settings["stages"][stage]}}, stage)


def _without_later(settings: dict[str, Any], stage: str) -> dict[str, Any]:
    """Settings without the losses whose names begin with a later stage's."""
    order = [field.name for field in dataclasses.fields(StagesConfig)]
    later = tuple(f"{name}_" for name in order[order.index(stage) + 1 :])
    return {**settings, "loss": {name: x for name, x in settings["loss"].items() if not name.startswith(later)}}


def _as_json(data: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(data))


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    names = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{path}{key}.")
        elif a != b:
            names.append(f"{path}{key}: {a} -> {b}")
    return names
