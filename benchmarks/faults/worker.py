"""Runs one contestant's jobs, each in a process of its own: `python -m benchmarks.faults.worker PEER`, jobs on stdin.

Owns: those processes. They are forked from one that has imported the library and done nothing else, for the imports
take longer than the jobs. Must not: catch what a job raises: how a library ends is what is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

PACKAGES = {
    "lightning": ("lightning", "fsspec", "torchdata"),
    "accelerate": ("accelerate", "safetensors", "torchdata"),
    "torchtune": ("torchtune", "torchao", "torchdata"),
    "mptrain": ("mptrain",),
}


def main() -> None:
    """Run one job, as JSON, for each line on stdin; say how each process ended."""
    import torch

    from benchmarks.faults.job import Job
    from benchmarks.faults.problem import Witness, tell

    torch.set_num_threads(1)
    contestant = importlib.import_module(f"benchmarks.faults.{sys.argv[1]}_run")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            tell("begin", pid=os.getpid())
            job = Job(**json.loads(line))
            contestant.run(job, Witness(job))
            return
        _, status = os.waitpid(child, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
