"""From a config's sections to data, task, model and learning rates, checked against one another.

Owns: what of a run is the same in every precision. Must not: choose a precision, train, or print.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from mptrain.catalog import REGISTRIES
from mptrain.config.schema import EntryConfig, ModelConfig, RunConfig
from mptrain.data.loading import check_labels
from mptrain.errors import ConfigError, first_line
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, Task, Tensors, forward
from mptrain.precision.policy import PrecisionPolicy
from mptrain.trainer.micro_batch import piece_sizes
from mptrain.trainer.out_of_memory import ran_out_of_memory
from mptrain.trainer.randomness import seed_everything

T = TypeVar("T")
_OF_A_TASK = ("main_metric", "higher_is_better", "loss", "metrics")
"""What a task must define itself; the rest has defaults."""


def build_model(config: RunConfig) -> tuple[DataSplits, Task, nn.Module]:
    """Build data, task and the FP32 model on the CPU, and check that labels and outputs agree."""
    splits, spec = checked_data(config)
    return splits, build_task(config, spec), seeded_model(config, spec)


def checked_data(config: RunConfig) -> tuple[DataSplits, DataSpec]:
    """Build the data, and say what they are with the model's number of outputs, which the labels must suit.

    Raises ConfigError, CapabilityError or DataError where they cannot be had.
    """
    splits: DataSplits = _built("data", config.data, config.seed, kind=DataSplits)
    if splits.bad_files.on_error != config.data.on_error:  # data without files to list know of no bad ones
        splits = replace(splits, bad_files=BadFiles(config.data.on_error))
    spec = with_outputs(splits.spec, config)
    if spec.kind == "classification":
        check_labels(splits, spec.num_outputs)
    return splits, spec


def with_outputs(spec: DataSpec, config: RunConfig) -> DataSpec:
    """Return what the data are, with the model's number of outputs."""
    return replace(spec, num_outputs=config.model.num_classes or spec.num_outputs)


def build_task(config: RunConfig, spec: DataSpec) -> Task:
    """Build the task; raise ConfigError where it does not suit the data."""
    made = REGISTRIES["task"].build(config.task, spec)
    inherited = (name for name in _OF_A_TASK if getattr(type(made), name, None) is getattr(Task, name, object()))
    missing = {*inherited, *(name for name in _OF_A_TASK if not hasattr(made, name))}
    if missing or not isinstance(made, Task):
        lacks = ", ".join(name for name in _OF_A_TASK if name in missing) or "what mptrain.interfaces.Task gives"
        raise ConfigError(
            f"task: '{config.task.name}' built a {type(made).__name__} that lacks {lacks}; derive it from "
            f"mptrain.interfaces.Task and define {', '.join(_OF_A_TASK)}"
        )
    return made


def seeded_model(config: RunConfig, spec: DataSpec) -> nn.Module:
    """Build the FP32 model on the CPU with the run's initial weights."""
    seed_everything(config.seed)
    model = build_network(config.model, spec)
    check_parameters(config, model, {"cpu"})
    return model


def check_parameters(config: RunConfig, model: nn.Module, devices: Collection[str]) -> None:
    """Raise ConfigError where parameters are not FP32, not on one of the `devices`, or none is trainable."""
    named = model.named_parameters()
    odd = {name: p for name, p in named if p.dtype != torch.float32 or p.device.type not in devices}
    if odd:
        found = ", ".join(f"{name} ({p.dtype}, {p.device.type})" for name, p in list(odd.items())[:3])
        raise ConfigError(f"model: '{config.model.name}' must be built in float32 on the cpu, found {found}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model: '{config.model.name}' has no trainable parameter")


def build_network(config: ModelConfig, spec: DataSpec) -> nn.Module:
    """Build the model that `config` selects, on torch's default device."""
    return _built("model", config, spec, kind=nn.Module)


def _built(section: str, config: EntryConfig, *arguments: Any, kind: type[T]) -> T:
    """Return what the entry selected by `config` builds; raise ConfigError where that is of another kind."""
    made = REGISTRIES[section].build(config, *arguments)
    if not isinstance(made, kind):
        raise ConfigError(
            f"{section}: '{config.name}' built a {type(made).__name__}, not a {kind.__name__}; check what its build "
            "function returns"
        )
    return made


def describe_model(config: RunConfig, model: nn.Module) -> str:
    """Return the model in words."""
    count = sum(p.numel() for p in model.parameters())
    size = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"
    return f"{config.model.name}, {size} parameters"


def describe_data(config: RunConfig, splits: DataSplits) -> str:
    """Return the data in words."""
    return f"{config.data.name}, {len(splits.train)} train, {len(splits.test)} test"


def blank(spec: DataSpec, policy: PrecisionPolicy, device: torch.device, num_samples: int = 2) -> Tensors:
    """Return samples as the model takes them: zeros, and of whole numbers (tokens, lengths) the largest."""
    made = tuple(
        torch.zeros(num_samples, *each.shape, device=device)
        if each.vocab_size is None
        else torch.full((num_samples, *each.shape), each.vocab_size - 1, device=device)
        for each in spec.inputs
    )
    return policy.convert_input(made if len(made) > 1 else made[0])


def batch_sizes(config: RunConfig, num_train: int | None) -> set[int]:
    """Return the sizes that are computed on: of training's micro-batches and the last one, or of their pieces.

    Without the number of training samples, the full one's only.
    """
    size = min(config.data.batch_size, num_train or config.data.batch_size)
    rest = 0 if num_train is None or config.data.drop_last else num_train % size
    return piece_sizes({size, rest} - {0}, config.train.micro_batch)


def probe(model: nn.Module, spec: DataSpec, policy: PrecisionPolicy, config: RunConfig) -> None:
    """Send two blank samples through the model, so that shapes that do not fit are a config error and not a crash."""
    inputs = blank(spec, policy, next(model.parameters()).device)
    model.eval()
    with fitting(spec, config), torch.no_grad(), policy.arithmetic(), policy.autocast():
        forward(model, inputs)
    model.train()


@contextmanager
def fitting(spec: DataSpec, config: RunConfig) -> Iterator[None]:
    """Raise ConfigError where what is run inside fails because the model does not take the data's samples."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if ran_out_of_memory(error):
            raise
        raise ConfigError(
            f"model: '{config.model.name}' does not take this data's samples of shape {spec.input_shape} "
            f"({first_line(error)})"
        ) from error


def learning_rates(config: RunConfig, total_steps: int) -> list[float]:
    """Return the rate of each applied step, 0 to `total_steps`; raise ConfigError for a schedule that cannot be."""
    factor = REGISTRIES["schedule"].build(config.schedule, total_steps)
    rates = [config.optimizer.lr * factor(step) for step in range(total_steps)]
    for step, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ConfigError(
                f"schedule: '{config.schedule.name}' makes the learning rate {rate:g} at step {step}; it must be "
                "finite and at least 0"
            )
    return [*rates, rates[-1]]
