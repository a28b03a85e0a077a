"""One contestant in a process of its own: `python -m benchmarks.worker NAME` prints one line of JSON last on stdout.

Owns: running and checking one contestant. Must not: import a framework that is not the contestant's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path

from benchmarks.contestants import CONTESTANTS


def main() -> None:
    """Train the named contestant and print its time, what it computed in, and how well it learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--skip", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()

    import torch

    from benchmarks.problem import Problem

    torch.set_num_threads(asked.threads)
    contestant = CONTESTANTS[asked.name]
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(asked.precision, asked.optimizer, asked.skip, asked.steps, Path(folder))
        model = getattr(importlib.import_module(contestant.module), contestant.function)(problem)
        wall_us, cpu_us = problem.clock.us_per_step()
        first_step_done, first_step_cpu_s = problem.clock.first_step_done
        result = {
            "wall_us": wall_us,
            "cpu_us": cpu_us,
            "first_step_done": first_step_done,
            "first_step_cpu_s": first_step_cpu_s,
            "compute_dtype": str(problem.clock.compute_dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "final_loss": problem.final_loss(model),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
