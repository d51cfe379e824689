"""`stav2a convert`: PyTorch checkpoints into a bundle, or into a part of one."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stav2a_jax.errors import UserError

if TYPE_CHECKING:
    from stav2a_jax.convert.store import Source, Whole

FAMILIES = {
    "tango": "a Tango release (pytorch_model_main.bin): U-Net and text encoder, for the text-to-audio stage",
    "onset": "an onset pretext file: local adapter and onset head",
    "audioldm": "AudioLDM's first stage: autoencoder and vocoder; a file, or a diffusers folder with vae/ and vocoder/",
    "autoencoder-kl": "AudioLDM's autoencoder as diffusers' AutoencoderKL",
    "speecht5-hifigan": "AudioLDM's vocoder as transformers' SpeechT5HifiGan",
    "hifigan": "a HiFi-GAN generator, with or without weight norm",
    "controlnet": "a ControlNet of STA-V2A",
    "unet": "a U-Net, diffusers' UNet2DConditionModel",
    "cavp": "CAVP's encoders (cavp_epoch66.ckpt)",
    "t5": "an mT5 or FLAN-T5 encoder, with its tokenizer",
}
NETWORKS = {
    "cnn14": "PANNs' Cnn14 at 16 kHz, for `stav2a evaluate` (Cnn14_16k_mAP=0.438.pth)",
    "vggish": "VGGish, for `stav2a evaluate` (vggish-10086976.pth)",
}
"""Networks that measure and are no part of a model."""
SUPPLIERS = {
    "video": "--cavp FILE",
    "text": "--text-encoder with weights",
    "vocoder": "--vocoder FILE",
    "autoencoder": "--vae FILE",
}
PARTS = ("unet", "controlnet", "onset", "cavp")
"""Parts of the release that an option of the same name replaces."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("convert", help="turn PyTorch checkpoints into a bundle, exactly")
    families = p.add_subparsers(title="families", metavar="FAMILY", required=True)
    whole = families.add_parser("stav2a", help="the STA-V2A release: a bundle that generates")
    whole.add_argument("--checkpoint", type=pathlib.Path, required=True, metavar="FILE", help="pytorch_model_2.bin")
    whole.add_argument("--vae", type=pathlib.Path, required=True, metavar="PATH", help="audioldm-s-full.ckpt")
    whole.add_argument("--text-encoder", required=True, metavar="DIR", help="folder or hub name: tokenizer, weights")
    whole.add_argument("--vocoder", type=pathlib.Path, metavar="PATH", help="where the VAE's file has none")
    for name in PARTS:
        whole.add_argument(f"--{name}", type=pathlib.Path, metavar="PATH", help="instead of the release's own")
    whole.add_argument("--unet-config", type=pathlib.Path, metavar="JSON", help="the U-Net's config.json")
    whole.add_argument("--scheduler", type=pathlib.Path, metavar="JSON", help="scheduler_config.json (default: SD 2.1)")
    _add_output(whole)
    whole.set_defaults(run=run_stav2a, family="stav2a")
    for name, text in FAMILIES.items():
        part = families.add_parser(name, help=text)
        part.add_argument("path", type=pathlib.Path, metavar="PATH", help="file, index of shards, or folder")
        part.add_argument("--config", type=pathlib.Path, metavar="JSON", help="instead of the config.json beside it")
        if name == "tango":
            part.add_argument("--text-encoder", metavar="DIR", help="folder or hub name with FLAN-T5's tokenizer")
        _add_output(part)
        part.set_defaults(run=run_part, family=name)

    for name, text in NETWORKS.items():
        network = families.add_parser(name, help=text)
        network.add_argument("path", type=pathlib.Path, metavar="FILE", help="file with the state dict")
        network.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder to write")
        network.add_argument("--force", action="store_true", help="replace a folder that is there")
        network.set_defaults(run=run_network, family=name)


def run_network(args: argparse.Namespace) -> int:
    from stav2a_jax.convert.networks import NETWORKS as networks
    from stav2a_jax.convert.networks import convert_network

    with writable(args.out):
        digest = convert_network(args.family, args.path, args.out, force=args.force)
    print(f"licence of the weights: that of their source; SHA-256 of the file: {digest}")
    print(f"{args.out}: give it to `stav2a evaluate` as --weights {networks[args.family].backbone}={args.out}")
    return 0


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder of the bundle")
    parser.add_argument("--dtype", choices=("keep", "float32", "float16"), default="keep", help="default: the source's")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def run_part(args: argparse.Namespace) -> int:
    from stav2a_jax.convert.families import FAMILIES as families
    from stav2a_jax.convert.hub import find_tokenizer, text_encoder_folder
    from stav2a_jax.convert.read import open_checkpoint
    from stav2a_jax.convert.store import as_source, combine
    from stav2a_jax.tokenizer import FILES

    if args.family == "audioldm":
        sources = first_stage(args.path)
    else:
        sources = [as_source(open_checkpoint(args.path, args.config), families[args.family])]
    whole, tokenizer = combine(sources), None
    vocabulary = whole.model.text.vocab_size
    if named := getattr(args, "text_encoder", None):
        tokenizer = find_tokenizer(text_encoder_folder(named, weights=False), vocabulary)
    elif args.family == "t5":
        beside = sources[0].checkpoint.files[0].parent
        if any((beside / name).is_file() for name in FILES):
            tokenizer = find_tokenizer(beside, vocabulary)
    return _write(args, whole, tokenizer)


def run_stav2a(args: argparse.Namespace) -> int:
    from stav2a_jax.bundle import GROUPS
    from stav2a_jax.convert.families import FAMILIES as families
    from stav2a_jax.convert.families import schedule_fields
    from stav2a_jax.convert.hub import find_tokenizer, text_encoder_folder
    from stav2a_jax.convert.read import open_checkpoint, read_json
    from stav2a_jax.convert.store import as_source, combine

    release = open_checkpoint(args.checkpoint)
    own_text = any(key.startswith("text_encoder.") for key in release.tensors)
    folder = text_encoder_folder(args.text_encoder, weights=not own_text)
    text = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    unet = read_json(args.unet_config) if args.unet_config else {}
    given = [name for name in PARTS if getattr(args, name) is not None]
    configs = {"t5": text, "t5-once": text, "unet": unet, "controlnet": unet}
    sources = [as_source(release, families["stav2a"], configs, given)]
    for name in given:
        config = args.unet_config if name in ("unet", "controlnet") else None
        sources.append(as_source(open_checkpoint(getattr(args, name), config), families[name]))
    if not own_text:
        sources.append(as_source(open_checkpoint(folder), families["t5"]))
    sources += first_stage(args.vae, args.vocoder)
    whole = combine(sources, schedule_fields(read_json(args.scheduler)) if args.scheduler else None)
    missing = [group for group in GROUPS if group not in whole.groups]
    if missing:
        advice = ", ".join(SUPPLIERS[group] for group in missing if group in SUPPLIERS)
        raise UserError(f"none of the files holds {', '.join(missing)}: give {advice}")
    return _write(args, whole, find_tokenizer(folder, whole.model.text.vocab_size))


def first_stage(path: pathlib.Path, vocoder: pathlib.Path | None = None) -> list[Source]:
    """Autoencoder and vocoder of AudioLDM's original file, of diffusers' folders, or of one of these."""
    from stav2a_jax.convert.families import FAMILIES as families
    from stav2a_jax.convert.read import open_checkpoint
    from stav2a_jax.convert.store import as_source
    from stav2a_jax.convert.transfer import detect

    if vocoder is None and (path / "vocoder").is_dir():
        vocoder = path / "vocoder"
    checkpoint = open_checkpoint(path / "vae" if (path / "vae").is_dir() else path)
    names = [family.name for family in detect(checkpoint.tensors)]
    family = "autoencoder-kl" if "autoencoder-kl" in names else "audioldm"
    sources = [as_source(checkpoint, families[family])]
    if vocoder is not None:
        other = open_checkpoint(vocoder)
        names = [f.name for f in detect(other.tensors)]
        sources.append(as_source(other, families["hifigan" if "hifigan" in names else "speecht5-hifigan"]))
    return sources


def _write(args: argparse.Namespace, whole: Whole, tokenizer: pathlib.Path | None) -> int:
    import numpy as np

    from stav2a_jax.convert.store import write

    started = time.monotonic()
    total = 2 * sum(f.stat().st_size for s in whole.sources for f in s.checkpoint.files) + whole.tensors.nbytes
    dtype = None if args.dtype == "keep" else np.dtype(args.dtype)
    command = f"stav2a convert {args.family}"  # the files are named beside it; where they lay is nobody's business
    with bar("converting", total) as progress, writable(args.out):
        info = write(whole, args.out, tokenizer, command, dtype=dtype, force=args.force, progress=progress)
    for source in info["sources"]:
        for text in source["assumed"]:
            print(f"assumed: {text}")
        for text in source["left_out"]:
            print(f"left out: {text}")
    print(f"licence of the weights: {info['licence']}")
    if "notice" in info:
        print(f"note: {info['notice']}")
    if tokenizer is None and "text" in whole.groups:
        print(
            "note: no tokenizer was found; give its folder with --text-encoder, or put tokenizer.json into the bundle"
        )
    print(f"{args.out}: {', '.join(whole.groups)}; {time.monotonic() - started:.0f} s")
    return 0


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar in bytes on stderr; the function to call with those just done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: Any = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=total)
        yield lambda done: shown.update(task, advance=done)


@contextlib.contextmanager
def writable(path: pathlib.Path) -> Iterator[None]:
    """A disk that is full or closed to us is bad input."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write {path} ({e.strerror or e}): choose another --out") from e
