"""Sub-commands of ``stav2a``: module NAME has ``add_parser(subparsers)``, which sets the default ``run(args) -> int``.

Modules are imported for every call, ``stav2a --help`` included: heavy imports belong inside ``run``.
"""

COMMANDS = (
    "sample",
    "train",
    "compile",
    "prepare",
    "foley",
    "benchmark",
    "ablation",
    "convert",
    "export",
    "inspect",
    "listen",
    "evaluate",
    "tables",
)
