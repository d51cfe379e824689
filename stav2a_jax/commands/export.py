"""`stav2a export`: a bundle's weights back into a PyTorch checkpoint."""

from __future__ import annotations

import argparse
import pathlib

from stav2a_jax.commands.convert import bar, writable
from stav2a_jax.errors import UserError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser("export", help="write a bundle's weights as a PyTorch checkpoint, exactly")
    p.add_argument("bundle", help="name of a bundled model, or a folder")
    p.add_argument("--to", choices=("pytorch",), default="pytorch", help="the only layout so far")
    p.add_argument("--family", help="which names to use (default: those of the file that the bundle was made from)")
    p.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE", help=".safetensors; .bin, .pt, .ckpt")
    p.add_argument("--force", action="store_true", help="replace a file that is there")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from stav2a_jax.convert.families import FAMILIES
    from stav2a_jax.convert.read import SUFFIXES
    from stav2a_jax.convert.store import enough_space, exportable, open_bundle, write_checkpoint

    if args.out.suffix not in SUFFIXES:
        raise UserError(f"--out must end in one of {', '.join(SUFFIXES)}, got {args.out.name!r}")
    if args.out.exists() and not args.force:
        raise UserError(f"{args.out} is already there: choose another --out (--force replaces it)")
    opened = open_bundle(args.bundle)
    if args.family is not None and args.family not in FAMILIES:
        raise UserError(f"unknown family {args.family!r}; there are {', '.join(FAMILIES)}")
    if args.family is None and not (names := exportable(opened)):
        raise UserError(f"{opened.folder} fits no PyTorch class: name a --family to learn why")
    family = FAMILIES[args.family or names[0]]
    with writable(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        enough_space(args.out.parent, opened.tensors.nbytes)
        with bar("exporting", opened.tensors.nbytes) as progress:
            tensors = write_checkpoint(opened, family, args.out, progress)
    print(f"{args.out}: {family.title}, {len(tensors)} tensors")
    if args.family is None and len(names) > 1:
        print(f"the bundle can also be written as {', '.join(names[1:])} (--family)")
    if opened.info.get("notice"):
        print(f"note: {opened.info['notice']}")
    return 0
