"""Train every stage of STA-V2A: python train.py --config configs/foley_tiny.py (the same as `stav2a train`)."""

import sys

from stav2a_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
