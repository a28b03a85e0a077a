"""Small real runs for the trainer's tests."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mptrain.catalog import config_from_mapping
from mptrain.checkpoint import CheckpointStore
from mptrain.config.schema import ModelConfig, RunConfig
from mptrain.precision.modes import MODES
from mptrain.registry import MODELS
from mptrain.trainer.build import Run, build_run
from mptrain.trainer.trainer import Trainer

BASE: dict[str, Any] = {
    "name": "test",
    "device": "cpu",
    "model": {"name": "mlp", "hidden": [16]},
    "data": {
        "name": "synthetic",
        "input_shape": [8],
        "num_outputs": 4,
        "num_train": 96,
        "num_test": 50,
        "batch_size": 8,
    },
    "task": "classification",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": "constant",
    "train": {"max_steps": 20},
    "precision": {"mode": "fp32"},
    "log": {"every": 5},
}
PRECISIONS: list[dict[str, Any]] = [
    *({"mode": mode, "backend": "emulated"} for mode in MODES),
    *({"mode": m, "rounding": r} for m in ("fp16-pure", "bf16-pure") for r in ("stochastic", "kahan")),
    {"mode": "e3m4", "backend": "emulated"},
]
"""Every mode, and every rounding of weights stored low."""


def precision_id(precision: Mapping[str, Any]) -> str:
    return "-".join(str(value) for key, value in precision.items() if key != "backend")


class Recorder:
    """A reporter that keeps everything."""

    def __init__(self) -> None:
        self.windows, self.evaluations, self.events = [], [], []
        self.info = self.result = None

    def begin(self, info):
        self.info = info

    def progress(self, progress):
        pass

    def window(self, progress):
        self.windows.append(progress)

    def evaluated(self, evaluation):
        self.evaluations.append(evaluation)

    def event(self, event):
        self.events.append(event)

    def end(self, result):
        self.result = result

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@contextmanager
def registered(name: str, build: Callable[..., nn.Module]) -> Iterator[None]:
    """Offer a model under `name` here only: other tests look at what the registry holds."""
    MODELS.register(name, config=ModelConfig, description="for tests")(build)
    try:
        yield
    finally:
        del MODELS._entries[name]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = deepcopy(dict(base))
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), dict) else value
    return out


def _entry(section: Any) -> str | None:
    return section.get("name") if isinstance(section, Mapping) else None


def config(changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Return BASE with `changes`; a section that names another entry is replaced whole."""
    changes = changes or {}
    base = {key: value for key, value in BASE.items() if _entry(changes.get(key)) in (None, _entry(value))}
    return config_from_mapping(merged(base, changes), source="test")


def build(changes: Mapping[str, Any] | None = None) -> Run:
    return build_run(config(changes))


def trainer(changes: Mapping[str, Any] | None = None, store: CheckpointStore | None = None) -> Trainer:
    return Trainer(build(changes), Recorder(), store)


def fitted(changes: Mapping[str, Any] | None = None, store: CheckpointStore | None = None) -> Trainer:
    made = trainer(changes, store)
    made.fit()
    return made


def weights(run: Run) -> list[torch.Tensor]:
    return [value.detach().clone() for value in run.parts.model.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


CONVOLUTIONAL = {
    "model": {"name": "mlp", "hidden": [16], "norm": "batch"},
}
"""A model with BatchNorm buffers."""
