"""The command line: ``stav2a COMMAND ...``; one module per sub-command in :mod:`stav2a_jax.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from stav2a_jax.commands import COMMANDS
from stav2a_jax.errors import Preempted, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; exit code 0, 2 for bad input (one sentence, no traceback), 130 when interrupted, 75 when told
    to stop (SIGTERM) by a scheduler that may start it again.

    ``SystemExit`` comes from argparse only (``--help``: 0, wrong options: 2). Anything else that is raised is a
    fault of the program and keeps its traceback.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("stav2a: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, Preempted):
            print(f"stav2a: {error}; the same command goes on from there.", file=sys.stderr)
            return 75
        if not isinstance(error, UserError):
            raise
        print(f"stav2a: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="stav2a", description="Writes the sound track of a silent video, events where they are seen."
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"stav2a_jax.commands.{name}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
