"""Families of public checkpoints: which components they hold, under which prefixes, with which licence.

A family is data; ``transfer.py`` takes a checkpoint through it in both directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from stav2a_jax.config import GuidanceConfig, ModelConfig
from stav2a_jax.convert import components as c
from stav2a_jax.convert.components import Component
from stav2a_jax.released import GUIDANCE, released
from stav2a_jax.types import UserError

TABLES = 1
"""Version of the tables: a change of what a checkpoint becomes raises it; bundles note which one made them."""


class Licence(NamedTuple):
    """What is known of the licence of the weights, which is theirs and not this package's."""

    text: str
    non_commercial: bool = False


class Slot(NamedTuple):
    """A component's place: the keys below ``prefix`` that begin with one of ``claims``.

    alternatives: the first whose witness is there is taken; the first is also what is written. rooted: whether the
    family's root stands before the prefix. when ``required`` is false, the file may lack it.
    """

    prefix: str
    alternatives: tuple[Component, ...]
    required: bool = True
    claims: tuple[str, ...] = ("",)
    rooted: bool = True


class Family(NamedTuple):
    """roots: what may stand before every key; with a root, the rest of the file belongs to other models. nest: the
    entry of a PyTorch file that its users expect the state dict under. aside: prefixes of what is not used, and why."""

    name: str
    title: str
    slots: tuple[Slot, ...]
    licence: Licence
    roots: tuple[str, ...] = ("",)
    nest: str = ""
    aside: tuple[tuple[str, str], ...] = ()


_AUDIOLDM = Licence("CC-BY-NC-SA-4.0 (AudioLDM, cvssp/audioldm)", non_commercial=True)
_UNKNOWN = Licence("that of the file's source; none is recorded in it")
_DECODER = (("decoder.", "the text decoder; only the encoder is used"), ("lm_head.", "the text decoder's output"))

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "stav2a",
            "STA-V2A release (pytorch_model_2.bin)",
            (
                Slot("unet.", (c.UNET,)),
                Slot("controlnet.", (c.CONTROLNET,)),
                Slot("text_encoder.", (c.T5, c.T5_ONCE), required=False),
                Slot("extract_cavp.stage1_model.", (c.CAVP,), required=False),
                Slot("", (c.ONSET,), claims=("trans_cvap_feature.", "pre_onset.")),
                Slot("global_video_feature.", (c.POOLING,)),
            ),
            Licence("none stated that we know of (y-ren16/STAV2A): ask its authors"),
        ),
        Family(
            "tango",
            "Tango release (pytorch_model_main.bin): U-Net and FLAN-T5, the text-to-audio prior",
            (Slot("unet.", (c.UNET,)), Slot("text_encoder.", (c.T5, c.T5_ONCE))),
            Licence("CC-BY-NC-SA-4.0 (declare-lab/tango)", non_commercial=True),
        ),
        Family(
            "onset",
            "onset pretext file (local adapter and onset head)",
            (Slot("", (c.ONSET,), claims=("trans_cvap_feature.", "pre_onset.")),),
            Licence("none stated that we know of (y-ren16/STAV2A): ask its authors"),
        ),
        Family(
            "audioldm",
            "AudioLDM's first stage (mel autoencoder and vocoder)",
            (
                Slot("vocoder.", (c.HIFIGAN, c.HIFIGAN_NORM), required=False),
                Slot("", (c.AUTOENCODER,), claims=("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")),
                Slot("", (c.SCALE,), required=False, claims=("scale_factor",), rooted=False),
            ),
            _AUDIOLDM,
            roots=("first_stage_model.", ""),
            nest="state_dict",
        ),
        Family(
            "autoencoder-kl",
            "AudioLDM's autoencoder as diffusers' AutoencoderKL",
            (Slot("", (c.AUTOENCODER_KL, c.AUTOENCODER_KL_OLD)),),
            _AUDIOLDM,
        ),
        Family(
            "speecht5-hifigan",
            "AudioLDM's vocoder as transformers' SpeechT5HifiGan",
            (Slot("", (c.SPEECHT5_HIFIGAN,)),),
            _AUDIOLDM,
        ),
        Family("hifigan", "HiFi-GAN generator", (Slot("", (c.HIFIGAN, c.HIFIGAN_NORM)),), _UNKNOWN, ("", "vocoder.")),
        Family("controlnet", "ControlNet of STA-V2A", (Slot("", (c.CONTROLNET,)),), _UNKNOWN, ("", "controlnet.")),
        Family("unet", "U-Net (diffusers' UNet2DConditionModel)", (Slot("", (c.UNET,)),), _UNKNOWN, ("", "unet.")),
        Family(
            "cavp",
            "CAVP of Diff-Foley (cavp_epoch66.ckpt)",
            (Slot("", (c.CAVP,)),),
            Licence("MIT (SimianLuo/Diff-Foley)"),
            ("", "extract_cavp.stage1_model."),
            nest="state_dict",
        ),
        Family(
            "t5",
            "text encoder (mT5, FLAN-T5)",
            (Slot("", (c.T5, c.T5_ONCE)),),
            Licence("Apache-2.0 (google/mt5-*, google/flan-t5-*)"),
            ("", "text_encoder."),
            aside=_DECODER,
        ),
    )
}
"""By name; a file of the first that fits is taken for it."""


def released_config(
    fields: Mapping[str, Mapping[str, Any]] | None = None, schedule: Mapping[str, Any] | None = None
) -> tuple[ModelConfig, GuidanceConfig]:
    """Model and sampling of a converted checkpoint: its sizes, and the behaviour of the released code.

    ``fields``: section -> fields, as :class:`Converted` has them; ``schedule``: fields of ScheduleConfig.
    """
    model = ModelConfig()
    sections = {**(fields or {}), **({"schedule": schedule} if schedule else {})}
    changed = {name: dataclasses.replace(getattr(model, name), **values) for name, values in sections.items()}
    return released(dataclasses.replace(model, **changed)), GUIDANCE


def schedule_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ScheduleConfig of a diffusers scheduler_config.json; UserError for what is not implemented."""
    kinds = {"v_prediction": "v", "epsilon": "epsilon"}
    fixed = {"beta_schedule": "scaled_linear", "trained_betas": None, "clip_sample": False, "thresholding": False}
    fixed |= {"rescale_betas_zero_snr": False}
    wrong = [f"{k} {config[k]!r} (only {v!r})" for k, v in fixed.items() if config.get(k, v) != v]
    if config.get("prediction_type", "epsilon") not in kinds:
        wrong.append(f"prediction_type {config['prediction_type']!r}")
    if wrong:
        raise UserError(f"this scheduler is not supported: {'; '.join(wrong)}")
    names = {
        "num_train_timesteps": "train_steps",
        "beta_start": "beta_start",
        "beta_end": "beta_end",
        "timestep_spacing": "spacing",
        "steps_offset": "steps_offset",
    }
    fields = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    return {**fields, "prediction": kinds[config.get("prediction_type", "epsilon")]}
