"""How long a save keeps training waiting, in step with it and beside it: `python -m benchmarks.saving`.

Saves the state of a perceptron with AdamW (weights and two moments, about 300 MB) in both ways in turn, each time into
a new store, and reports the time until training may go on, and until the checkpoint is in place.

Owns: that measurement. Must not: train; what a step costs is `benchmarks/overhead.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mptrain.catalog import config_from_mapping
from mptrain.checkpoint import CheckpointStore
from mptrain.trainer.build import build_run
from mptrain.trainer.saving import BackgroundSaver, SavePoint, StoreSaver
from mptrain.trainer.state import parts_state

CONFIG = {
    "name": "saving",
    "model": {"name": "mlp", "hidden": [4096, 4096]},
    "data": {
        "name": "synthetic",
        "input_shape": [1024],
        "num_outputs": 1024,
        "num_train": 64,
        "num_test": 8,
        "batch_size": 8,
    },
    "task": "classification",
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "schedule": "constant",
    "train": {"max_steps": 1},
}
WAYS = {"in step": StoreSaver, "beside": BackgroundSaver}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    run = build_run(config_from_mapping({**CONFIG, "device": asked.device}, source="benchmark"))
    for param in run.parts.model.parameters():
        param.grad = torch.ones_like(param)
    run.parts.optimizer.step()
    waited: dict[str, list[float]] = {way: [] for way in WAYS}
    placed: dict[str, list[float]] = {way: [] for way in WAYS}
    size = 0
    for number in range(asked.rounds + 1):
        for way, saver_type in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                store = CheckpointStore(Path(folder) / "checkpoints")
                saver = saver_type(store)
                began = time.perf_counter()
                saver.save(lambda: parts_state(run), SavePoint(1, 1, 1, None))
                free = time.perf_counter()
                saver.finish()
                if number:  # the first round warms up
                    waited[way].append(free - began)
                    placed[way].append(time.perf_counter() - began)
                size = sum(file.stat().st_size for file in store.latest().path.iterdir())
    machine = f"{run.device}, {os.cpu_count()} cores, torch {torch.__version__}, python {platform.python_version()}"
    print(f"{size / 1e6:.0f} MB, {asked.rounds} rounds, {machine}; median (min to max), seconds")
    for way in WAYS:
        print(f"{way:<8} training waits {_spread(waited[way])}  in place after {_spread(placed[way])}")
    ratio = statistics.median(a / b for a, b in zip(waited["beside"], waited["in step"], strict=True))
    print(f"training waits {ratio:.2f} of the time, median of the rounds' ratios")


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"


if __name__ == "__main__":
    main()
