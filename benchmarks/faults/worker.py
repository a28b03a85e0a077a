"""One contestant in a process of its own: `python -m benchmarks.faults.worker PEER JOB`, JOB as JSON.

Owns: starting it. Must not: catch what it raises: how a library ends is what is measured.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys

PACKAGES = {
    "lightning": ("lightning", "fsspec", "torchdata"),
    "accelerate": ("accelerate", "safetensors", "torchdata"),
    "torchtune": ("torchtune", "torchao", "torchdata"),
    "mptrain": ("mptrain",),
}


def main() -> None:
    """Run one job."""
    import torch

    from benchmarks.faults.job import Job
    from benchmarks.faults.problem import Witness, tell

    peer, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    tell("begin", versions={name: importlib.metadata.version(name) for name in ("torch", *PACKAGES[peer])})
    torch.set_num_threads(1)
    importlib.import_module(f"benchmarks.faults.{peer}_run").run(job, Witness(job))


if __name__ == "__main__":
    main()
