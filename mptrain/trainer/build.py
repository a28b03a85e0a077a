"""Turns a validated config into the objects of a run: device, policy, data, model, task, optimizer, step.

Owns: the order of construction and the checks that need more than the config (labels against classes, shapes, device).
Must not: train, write, or print.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from mptrain.catalog import REGISTRIES
from mptrain.config.schema import EntryConfig, RunConfig
from mptrain.data.loading import TrainLoader, check_labels, make_eval_loader, make_train_loader
from mptrain.environment import set_cublas_workspace
from mptrain.errors import CapabilityError, ConfigError, first_line
from mptrain.interfaces import Batch, DataSpec, DataSplits, Task
from mptrain.optim.build import decay_groups
from mptrain.optim.ema import WeightAverage
from mptrain.optim.progress import AppliedSteps
from mptrain.precision.policy import InForce, PrecisionPolicy, resolve_policy
from mptrain.startup import resume_collection
from mptrain.trainer.buffers import BufferGuard
from mptrain.trainer.faults import make_faults
from mptrain.trainer.randomness import seed_everything
from mptrain.trainer.step import StepParts

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Everything a Trainer needs, built and checked."""

    config: RunConfig
    device: torch.device
    in_force: InForce
    splits: DataSplits
    parts: StepParts
    train_loader: TrainLoader
    eval_batches: Iterable[Batch]
    rates: list[float]
    """Learning rate at each applied step, 0 to total_steps."""
    steps_per_epoch: int
    total_steps: int
    notices: tuple[str, ...]


def resolve_device(wanted: str) -> torch.device:
    """Return the device for `device:`; raise CapabilityError where it is not there."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise CapabilityError(f"device: '{wanted}' asked for, but torch {torch.__version__} sees no GPU; use cpu")
    device = torch.device("cuda:0" if wanted in ("auto", "cuda") else wanted)
    if device.index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise CapabilityError(
            f"device: '{wanted}' asked for, but the last of this machine's {count} is cuda:{count - 1}"
        )
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def build_run(config: RunConfig) -> Run:
    """Build everything for `config`, seeded so that the initial weights are the same in every precision.

    Raises ConfigError, CapabilityError or DataError with one line for what cannot be.
    """
    device = resolve_device(config.device)
    _set_determinism(config.train.deterministic)
    policy, reason = resolve_policy(config.precision, device)
    policy.apply_global_settings()
    splits, task, model = build_model(config)
    model = policy.convert_model(model).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    _probe(model, splits.spec, policy, config)
    train_loader = make_train_loader(
        splits.train, config.data, seed=config.seed, device=device, channels_last=config.train.channels_last
    )
    eval_batches = make_eval_loader(splits.test, config.data, device=device, channels_last=config.train.channels_last)
    steps_per_epoch = -(-len(train_loader) // config.train.accumulate)
    total_steps = config.train.max_steps or steps_per_epoch * (config.train.epochs or 1)
    rates = _rates(config, total_steps)
    parts = _step_parts(config, model, task, policy, rates, device)
    in_force = policy.in_force(config.precision.mode, reason)
    resume_collection()
    return Run(
        config=config,
        device=device,
        in_force=in_force,
        splits=splits,
        parts=parts,
        train_loader=train_loader,
        eval_batches=eval_batches,
        rates=rates,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        notices=tuple(policy.notices(model)),
    )


def build_model(config: RunConfig) -> tuple[DataSplits, Task, nn.Module]:
    """Build data, task and the FP32 model on the CPU, and check that labels and outputs agree."""
    splits: DataSplits = _built("data", config.data, config.seed, kind=DataSplits)
    outputs = config.model.num_classes or splits.spec.num_outputs
    if splits.spec.kind == "classification":
        check_labels(splits, outputs)
    spec = replace(splits.spec, num_outputs=outputs)
    task: Task = REGISTRIES["task"].build(config.task, spec)
    seed_everything(config.seed)
    model: nn.Module = _built("model", config.model, spec, kind=nn.Module)
    odd = {name: p for name, p in model.named_parameters() if p.dtype != torch.float32 or p.device.type != "cpu"}
    if odd:
        found = ", ".join(f"{name} ({p.dtype}, {p.device.type})" for name, p in list(odd.items())[:3])
        raise ConfigError(f"model: '{config.model.name}' must be built in float32 on the cpu, found {found}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"model: '{config.model.name}' has no trainable parameter")
    return splits, task, model


def _built(section: str, config: EntryConfig, *arguments: Any, kind: type[T]) -> T:
    """Return what the entry selected by `config` builds; raise ConfigError where that is of another kind."""
    made = REGISTRIES[section].build(config, *arguments)
    if not isinstance(made, kind):
        raise ConfigError(
            f"{section}: '{config.name}' built a {type(made).__name__}, not a {kind.__name__}; check what its build "
            "function returns"
        )
    return made


def check_build(config: RunConfig) -> str:
    """Build model and data without training; return one line of what was built, raise what `build_run` would."""
    splits, _, model = build_model(config)
    device = torch.device("cpu")
    _probe(model, splits.spec, PrecisionPolicy(device, config.precision.loss_scale), config)
    make_train_loader(splits.train, config.data, seed=config.seed, device=device)
    return f"{describe_model(config, model)}; {describe_data(config, splits)}"


def describe_model(config: RunConfig, model: nn.Module) -> str:
    """Return the model in words."""
    count = sum(p.numel() for p in model.parameters())
    size = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"
    return f"{config.model.name}, {size} parameters"


def describe_data(config: RunConfig, splits: DataSplits) -> str:
    """Return the data in words."""
    return f"{config.data.name}, {len(splits.train)} train, {len(splits.test)} test"


def _set_determinism(enabled: bool) -> None:
    if enabled:
        set_cublas_workspace()
    if enabled != torch.are_deterministic_algorithms_enabled():  # the setter imports torch's compiler: 0.1 s
        torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled


def _probe(model: nn.Module, spec: DataSpec, policy: PrecisionPolicy, config: RunConfig) -> None:
    """Send two blank samples through the model, so that shapes that do not fit are a config error and not a crash."""
    device = next(model.parameters()).device
    blank = policy.convert_input(torch.zeros(2, *spec.input_shape, device=device))
    try:
        model.eval()
        with torch.no_grad():
            model(blank)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"model: '{config.model.name}' does not take this data's samples of shape {spec.input_shape} "
            f"({first_line(error)})"
        ) from error
    finally:
        model.train()


def _rates(config: RunConfig, total_steps: int) -> list[float]:
    factor = REGISTRIES["schedule"].build(config.schedule, total_steps)
    rates = [config.optimizer.lr * factor(step) for step in range(total_steps)]
    for step, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ConfigError(
                f"schedule: '{config.schedule.name}' makes the learning rate {rate:g} at step {step}; it must be "
                "finite and at least 0"
            )
    return [*rates, rates[-1]]


def _step_parts(
    config: RunConfig, model: nn.Module, task: Task, policy: PrecisionPolicy, rates: list[float], device: torch.device
) -> StepParts:
    applied = AppliedSteps(rates, device, skips_count=config.precision.loss_scale.on_skip == "count")
    groups = decay_groups(
        model, config.optimizer.weight_decay, decay_norm_and_bias=config.optimizer.decay_norm_and_bias
    )
    optimizer = REGISTRIES["optimizer"].build(config.optimizer, groups, applied.lr)
    scaler = policy.make_scaler([p for p in model.parameters() if p.requires_grad])
    scaler.attach(optimizer)
    return StepParts(
        model=model,
        task=task,
        policy=policy,
        scaler=scaler,
        optimizer=optimizer,
        applied=applied,
        average=WeightAverage(model, config.ema, device) if config.ema else None,
        buffers=BufferGuard(model),
        faults=make_faults(config.debug),
        config=config.train,
        summed_loss=config.task.reduction == "sum",
    )
