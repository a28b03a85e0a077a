"""mptrain itself, by its own command line, on a user's arrays and a user's model.

Owns: the config of the benchmark. Must not: reach into mptrain's loop; it joins as any plugin does.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import yaml
from torch import nn

from benchmarks.problem import BATCH_SIZE, LR, MOMENTUM, SEED, WEIGHT_DECAY, Problem
from mptrain.cli.app import main
from mptrain.config.schema import ModelConfig
from mptrain.registry import MODELS


def train(problem: Problem, clip_norm: float | None = None) -> nn.Module:
    """Run `mptrain run` in this process with its defaults; only evaluation's cadence and saving are off, as for all."""
    built: list[nn.Module] = []

    @MODELS.register("ticking_mlp", config=ModelConfig, description="the benchmark's model")
    def _build(config: ModelConfig, spec: object) -> nn.Module:
        built.append(problem.model())
        return built[-1]

    arrays = problem.folder / "arrays.npz"
    inputs, labels = problem.inputs.numpy(), problem.labels.numpy()
    np.savez(arrays, train_inputs=inputs, train_targets=labels, test_inputs=inputs[:1024], test_targets=labels[:1024])
    optimizer: dict[str, Any] = {"name": problem.optimizer_name, "lr": LR, "weight_decay": WEIGHT_DECAY}
    if problem.optimizer_name == "sgd":
        optimizer["momentum"] = MOMENTUM
    config = problem.folder / "overhead.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "seed": SEED,
                "device": "cpu",
                "precision": problem.precision,
                "model": "ticking_mlp",
                "data": {"name": "arrays", "path": str(arrays), "batch_size": BATCH_SIZE},
                "task": "classification",
                "optimizer": optimizer,
                "schedule": "constant",
                "train": {"max_steps": problem.num_steps, "clip_norm": clip_norm},
                "checkpoint": {"enabled": False},
            }
        )
    )
    sys.argv = ["mptrain", "run", str(config), "--output-dir", str(problem.folder / "runs")]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise  # what mptrain said on stderr is the reason
    return built[-1]


def train_clipped(problem: Problem) -> nn.Module:
    """Run with the gradient norm clipped to 1."""
    return train(problem, clip_norm=1.0)
