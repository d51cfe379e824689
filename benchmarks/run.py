"""Performance as a ratio to a peer, both measured in one run: ``python benchmarks/run.py --suite step --json F``.

Suites: ``step``, one denoising step at paper size against PyTorch (``benchmarks/step.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence

THREADS = 2
# Before jax and PyTorch are imported: both get the same number of threads. One device, so no collective can wait.
os.environ.update(NPROC=str(THREADS), OMP_NUM_THREADS=str(THREADS), JAX_NUM_CPU_DEVICES="1")

SUITES = ("step",)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the suite, prints its figures, and writes them to ``--json``. Exit code 2 where a peer is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", choices=SUITES, default="step")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each side; the medians are compared")
    parser.add_argument("--json", type=pathlib.Path, help="where the figures go")
    args = parser.parse_args(argv)
    try:
        import diffusers
        import torch
    except ImportError as error:
        print(f'{error.name} is missing: pip install -c constraints.txt -e ".[parity]"', file=sys.stderr)
        return 2
    if args.rounds < 1:
        print(f"--rounds is {args.rounds}, and it takes at least 1", file=sys.stderr)
        return 2
    torch.set_num_threads(THREADS)
    import jax
    from step import measure

    versions = {"jax": jax.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    figures = {**measure(args.rounds), "threads": THREADS, "cores": os.cpu_count(), "versions": versions}
    print(json.dumps(figures, indent=1))
    if args.json:
        part = args.json.with_name(args.json.name + ".part")
        part.write_text(json.dumps({args.suite: figures}, indent=1) + "\n")
        os.replace(part, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
