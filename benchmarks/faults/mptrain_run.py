"""mptrain by its own command line, on a user's arrays and a user's model.

Owns: this contestant's config. Must not: reach into mptrain; it joins as any plugin does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

from benchmarks.faults.job import BATCH_SIZE, Job
from benchmarks.faults.problem import GROWTH_INTERVAL, INIT_SCALE, LR, MLP, SEED, Witness, folder_of, make_data
from mptrain.cli.app import main
from mptrain.config.schema import ModelConfig
from mptrain.registry import MODELS


def run(job: Job, witness: Witness) -> None:
    """Run `mptrain run` in this process with its defaults."""
    built: list[MLP] = []

    @MODELS.register("watched_mlp", config=ModelConfig, description="the benchmark's model")
    def _build(config: ModelConfig, spec: object) -> nn.Module:
        built.append(witness.watch_mlp(MLP(job.ballast)))
        return built[-1]

    folder = folder_of(job)
    witness.resumed_at = lambda: _resumed_at(folder)
    sys.argv = ["mptrain", "run", str(_write_config(job, folder)), "--output-dir", str(folder / "runs")]
    sys.argv += ["--resume", "auto"] if job.resume else []
    try:
        main()
    finally:
        for result in folder.glob("runs/*/*/result.json"):
            witness.end(built[-1], scale=json.loads(result.read_bytes())["final_loss_scale"])


def _write_config(job: Job, folder: Path) -> Path:
    arrays = folder / "arrays.npz"
    inputs, labels = (tensor.numpy() for tensor in make_data())
    if not arrays.exists():
        np.savez(arrays, train_inputs=inputs, train_targets=labels, test_inputs=inputs, test_targets=labels)
    precision: dict[str, Any] = {"mode": job.precision}
    if job.precision == "fp16":
        precision["loss_scale"] = {"kind": "dynamic", "init_scale": INIT_SCALE, "growth_interval": GROWTH_INTERVAL}
    config = {
        "seed": SEED,
        "device": "cpu",
        "precision": precision,
        "model": "watched_mlp",
        "data": {"name": "arrays", "path": str(arrays), "batch_size": BATCH_SIZE},
        "task": "classification",
        "optimizer": {"name": "adamw", "lr": LR},
        "schedule": "constant",
        "train": {"max_steps": job.steps},
        "checkpoint": {"every": job.save_every},
    }
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _resumed_at(folder: Path) -> int | None:
    """Return what the run's own record says of its last resumption."""
    lines = [line for path in folder.glob("runs/*/*/events.jsonl") for line in path.read_text().splitlines()]
    steps = [event["applied_steps"] for event in map(json.loads, lines) if event["kind"] == "resume"]
    return steps[-1] if steps else None
