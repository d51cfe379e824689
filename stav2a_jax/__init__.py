"""STA-V2A in JAX/Flax: text and video to audio whose events fall where they are seen."""

import os as _os

# jaxlib 0.10 sizes the CPU thread pool by this; with few threads, collectives between simulated devices deadlock.
# It must be set before jax is first imported, so it stands here.
_os.environ.setdefault("NPROC", "32")

__version__ = "0.1.0"
