"""What the statistics of gradients cost: `python -m benchmarks.numerics_cost [--pairs 12] [--device cpu]`.

Owns: the figures for the docs. Must not: train anything but the real loop.

Method: `mptrain run`'s own loop trains ResNet-18 (small-image stem, Fashion-MNIST) and writes its records to a
temporary folder; a clock at the beginning of every forward times whole steps. Every second step is sampled, so each
sampled step is paired with the plain one before it, in the same minute of the same process; the difference, divided by
the cadence, is the cost. The flags of non-finite gradients are taken at every step on a GPU, and on a CPU only under
train.clip_value; they are timed alone, on the last step's gradients.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.rounds import machine, print_machine, spread
from mptrain.catalog import config_from_mapping
from mptrain.config.schema import LogConfig
from mptrain.precision.overflow_census import EveryStepCensus
from mptrain.telemetry.files import RunFiles
from mptrain.trainer.build import Run, build_run
from mptrain.trainer.trainer import Trainer

WARM_UP = 6
"""Steps before the first pair."""


def main() -> None:
    """Measure and print two rows of markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12, help="pairs of a plain and a sampled step")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    run = build_run(config_from_mapping(_config(asked), source="benchmark"))
    plain, sampled = time_steps(run, asked.pairs)
    flags = time_flags(run, asked.pairs)
    every = LogConfig().numerics_every
    samples = [100 * (with_it - without) / every / without for without, with_it in zip(plain, sampled, strict=True)]
    step = statistics.median(plain)

    print_machine(machine(), asked.threads)
    print(f"ResNet-18, {asked.precision}, batch {asked.batch_size}, {run.device}, {asked.pairs} pairs\n")
    print("| | ms | of a step, % |\n|---|---:|---:|")
    print(f"| plain step | {spread([1e3 * t for t in plain], '.1f')} | 100 |")
    extra = [1e3 * (b - a) for a, b in zip(plain, sampled, strict=True)]
    print(f"| sample, every {every} steps | {spread(extra, '.2f')} | {spread(samples, '.3f')} |")
    shares = [100 * t / step for t in flags]
    print(f"| flags, every step on a GPU | {spread([1e3 * t for t in flags], '.2f')} | {spread(shares, '.2f')} |")


def _config(asked: argparse.Namespace) -> dict[str, object]:
    return {
        "name": "numerics_cost",
        "device": asked.device,
        "model": {"name": "resnet18", "stem": "small"},
        "data": {"name": "fashion_mnist_12k", "batch_size": asked.batch_size},
        "task": "classification",
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "schedule": "constant",
        "train": {"max_steps": WARM_UP + 2 * asked.pairs + 1, "channels_last": True},
        "precision": {"mode": asked.precision},
        "checkpoint": {"enabled": False},
        "log": {"numerics_every": 2},
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_steps(run: Run, pairs: int) -> tuple[list[float], list[float]]:
    """Train; return the seconds of each pair's plain and sampled step."""
    begun: list[float] = []
    model = run.parts.model
    model.register_forward_pre_hook(lambda module, inputs: begun.append(_now(run.device)) if module.training else None)
    with tempfile.TemporaryDirectory() as folder:
        files = RunFiles(Path(folder))
        Trainer(run, files).fit()
        files.end({})
    steps = [after - before for before, after in itertools.pairwise(begun)]
    timed = steps[WARM_UP : WARM_UP + 2 * pairs]  # attempts count from 1, so the second of a pair is the sampled one
    return timed[::2], timed[1::2]


def time_flags(run: Run, repeats: int) -> list[float]:
    """Return the seconds that the flags of one step take."""
    census = EveryStepCensus(dict(run.parts.model.named_parameters()), run.parts.scaler)
    seconds = []
    for _ in range(repeats + 1):
        before = _now(run.device)
        census.record()
        seconds.append(_now(run.device) - before)
    return seconds[1:]


if __name__ == "__main__":
    main()
