"""Write the sound of a silent video: python sample.py --video clip.mp4 --prompt "..." (the same as `stav2a sample`)."""

import sys

from stav2a_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
