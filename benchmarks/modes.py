"""What the bookkeeping of each precision mode costs: `python -m benchmarks.modes [--rounds 10] [--steps 200]`.

Owns: the table of modes. Must not: time anything but mptrain's own step.

Method: the 64-64-10 MLP of `benchmarks.overhead`, batch 32, fused AdamW, one process, one thread. Every mode is built
once; each round runs `steps` attempted steps of every mode in turn. A ratio compares a mode with fp32 in the same
round; the table gives medians with min and max. At this size arithmetic costs next to nothing, so that what is left is
casts, scaling, rounding and emulation; emulated modes say so, and theirs is the time of the emulation.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.problem import BATCH_SIZE, LR, NUM_CLASSES, NUM_FEATURES, NUM_HIDDEN, NUM_SAMPLES, WEIGHT_DECAY
from benchmarks.rounds import machine, print_machine, spread
from mptrain.catalog import config_from_mapping
from mptrain.interfaces import Batch
from mptrain.precision.modes import MODES
from mptrain.trainer.build import build_run
from mptrain.trainer.step import TrainStep

ROUNDINGS = ("nearest", "stochastic", "kahan")


@dataclass
class Contestant:
    """One mode, ready to step."""

    name: str
    step: TrainStep
    batches: Iterator[Batch]

    def us_per_step(self, steps: int) -> float:
        """Return the mean wall time of `steps` attempted steps in microseconds."""
        began = time.perf_counter()
        for batch in itertools.islice(self.batches, steps):
            self.step([batch])
        return (time.perf_counter() - began) / steps * 1e6


def contestants() -> Iterator[Contestant]:
    """Yield every mode, natively where the CPU runs it, and the histogram scaler beside the dynamic one."""
    for mode in MODES.values():
        native = mode.computed != "tf32" and mode.gemm is None
        backend: dict[str, Any] = {} if native else {"backend": "emulated"}
        for rounding in ROUNDINGS if mode.pure else (None,):
            chosen = {"rounding": rounding} if rounding else {}
            name = f"{mode.name} {rounding}" if rounding else mode.name
            yield build(name if native else f"{name} (emulated)", {"mode": mode.name, **backend, **chosen})
    yield build("fp16 (emulated)", {"mode": "fp16", "backend": "emulated"})
    yield build("fp16, histogram scale", {"mode": "fp16", "loss_scale": {"kind": "histogram"}})


def build(name: str, precision: dict[str, Any]) -> Contestant:
    """Build the benchmark's run in one precision."""
    mapping = {
        "name": "modes",
        "device": "cpu",
        "model": {"name": "mlp", "hidden": [NUM_HIDDEN]},
        "data": {
            "name": "synthetic",
            "input_shape": [NUM_FEATURES],
            "num_outputs": NUM_CLASSES,
            "num_train": NUM_SAMPLES,
            "batch_size": BATCH_SIZE,
        },
        "task": "classification",
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": WEIGHT_DECAY},
        "schedule": "constant",
        "train": {"max_steps": 10**6},
        "precision": precision,
    }
    run = build_run(config_from_mapping(mapping, source="benchmarks.modes"))
    run.parts.model.train()
    epochs = (run.train_loader.epoch(epoch, 0) for epoch in itertools.count())
    return Contestant(name, TrainStep(run.parts, lambda function: function), itertools.chain.from_iterable(epochs))


def main() -> None:
    """Measure every mode and print one markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print_machine(machine(), 1)
    modes = list(contestants())
    for mode in modes:
        mode.us_per_step(50)
    rounds = [{mode.name: mode.us_per_step(asked.steps) for mode in modes} for _ in range(asked.rounds)]
    print("| mode | us/step (range) | to fp32 |\n|---|---|---|")
    for name in sorted(rounds[0], key=lambda name: statistics.median(found[name] for found in rounds)):
        times = [found[name] for found in rounds]
        ratios = [found[name] / found["fp32"] for found in rounds]
        print(f"| {name} | {spread(times, '.0f')} | {spread(ratios, '.2f')} |")
    print(f"\n{asked.rounds} rounds of {asked.steps} steps.")


if __name__ == "__main__":
    main()
