"""Sub-commands of ``stav2a``: module NAME has ``add_parser(subparsers)``, which sets the default ``run(args) -> int``.

Modules are imported for every call, ``stav2a --help`` included: heavy imports belong inside ``run``.
"""

COMMANDS = ("sample", "train", "foley", "benchmark")
