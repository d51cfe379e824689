"""One of two processes that train the denoiser of test_step.py: python one_process.py ADDRESS NUMBER RESULT."""

import importlib.util
import pathlib
import sys

from stav2a_jax import parallel  # isort: skip  (before jax: the package sets NPROC)
import jax
import numpy as np

if __name__ == "__main__":
    address, number, result = sys.argv[1:]
    jax.distributed.initialize(address, num_processes=2, process_id=int(number))
    spec = importlib.util.spec_from_file_location("test_step", pathlib.Path(__file__).with_name("test_step.py"))
    problems = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(problems)
    rows, state, _ = problems.run_steps(problems.unet_problem, local=True)
    if parallel.is_main():
        leaves = {f"leaf{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        np.savez(result, metrics=[(row["loss"], row["grad_norm"]) for row in rows], **leaves)
    jax.distributed.shutdown()
