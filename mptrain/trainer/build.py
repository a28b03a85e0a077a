"""Turns a validated config into the objects of a run: device, policy, data, model, task, optimizer, step.

Owns: the order of construction and the checks that need more than the config (labels against classes, shapes, device).
Must not: train, write, or print.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mptrain.catalog import REGISTRIES
from mptrain.config.precision import PrecisionConfig
from mptrain.config.schema import RunConfig
from mptrain.data.loading import EvalLoader, TrainLoader, make_eval_loader, make_train_loader
from mptrain.environment import set_cublas_workspace
from mptrain.errors import CapabilityError
from mptrain.interfaces import DataSpec, DataSplits, Task
from mptrain.optim.build import decay_groups
from mptrain.optim.ema import WeightAverage
from mptrain.optim.progress import AppliedSteps
from mptrain.precision.in_force import InForce
from mptrain.precision.modes import get_mode
from mptrain.precision.overflow_census import make_census
from mptrain.precision.plan import make_plan
from mptrain.precision.policy import PrecisionPolicy, resolve_policy
from mptrain.precision.scale_groups import find_groups
from mptrain.precision.scalers import check_loss_scale
from mptrain.precision.weights import WeightStore
from mptrain.startup import resume_collection
from mptrain.trainer.buffers import BufferGuard
from mptrain.trainer.faults import make_faults
from mptrain.trainer.materials import (
    batch_sizes,
    blank,
    build_model,
    describe_data,
    describe_model,
    fitting,
    learning_rates,
    probe,
    seeded_model,
    with_outputs,
)
from mptrain.trainer.memory_plan import HeldBytes, planned_bytes
from mptrain.trainer.micro_batch import norm_notices
from mptrain.trainer.numerics import make_sampler
from mptrain.trainer.phases import phase_ends, precision_at, precisions
from mptrain.trainer.step import StepParts


@dataclass(frozen=True)
class Run:
    """Everything a Trainer needs, built and checked."""

    config: RunConfig
    device: torch.device
    in_force: InForce
    splits: DataSplits
    spec: DataSpec
    """What the data are, with the model's number of outputs."""
    parts: StepParts
    train_loader: TrainLoader
    eval_batches: EvalLoader
    rates: list[float]
    """Learning rate at each applied step, 0 to total_steps."""
    steps_per_epoch: int
    total_steps: int
    phase_end: int
    """Applied steps at which the precision changes next; the run's end where it does not."""
    memory: HeldBytes
    """Bytes that training will hold between steps."""
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


def build_run(config: RunConfig, steps_done: int = 0) -> Run:
    """Build everything for `config`, seeded so that the initial weights are the same in every precision.

    With `precision.phases`, the precision is the one after `steps_done` applied steps. Raises ConfigError,
    CapabilityError or DataError with one line for what cannot be.
    """
    device = resolve_device(config.device)
    _set_determinism(config.train.deterministic)
    for precision in precisions(config.precision):
        resolve_policy(precision, device)  # refuse what a later phase asks for now, not hours into the run
    splits, task, model = build_model(config)
    loading: dict[str, Any] = {
        "device": device,
        "channels_last": config.train.channels_last,
        "bad_files": splits.bad_files,
    }
    train_loader = make_train_loader(splits.train, config.data, seed=config.seed, **loading)
    eval_batches = make_eval_loader(splits.test, config.data, **loading)
    steps_per_epoch = -(-len(train_loader) // config.train.accumulate)
    total_steps = config.train.max_steps or steps_per_epoch * (config.train.epochs or 1)
    rates = learning_rates(config, total_steps)
    spec = with_outputs(splits.spec, config)
    in_precision = _in_precision(config, model, task, spec, rates, device, steps_done, len(splits.train))
    resume_collection()
    return Run(
        config=config,
        device=device,
        splits=splits,
        spec=spec,
        train_loader=train_loader,
        eval_batches=eval_batches,
        rates=rates,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        **in_precision,
    )


def enter_phase(run: Run, steps_done: int) -> Run:
    """Return `run` with model, optimizer and scaler built anew in the precision after `steps_done` applied steps."""
    model = seeded_model(run.config, run.spec)
    made = _in_precision(
        run.config, model, run.parts.task, run.spec, run.rates, run.device, steps_done, len(run.splits.train)
    )
    return replace(run, **made)


def _in_precision(
    config: RunConfig,
    model: nn.Module,
    task: Task,
    spec: DataSpec,
    rates: list[float],
    device: torch.device,
    steps_done: int,
    num_train: int,
) -> dict[str, Any]:
    """Return the fields of a Run that depend on the precision after `steps_done` applied steps."""
    precision, phase_end = precision_at(config.precision, steps_done, len(rates) - 1)
    policy = resolve_policy(precision, device)
    policy.apply_global_settings()
    initial = dict(model.state_dict())
    with fitting(spec, config):
        policy.prepare(model, blank(spec, policy, torch.device("cpu")), batch_sizes(config, num_train))
    model = model.to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    probe(model, spec, policy, config)
    store = policy.make_weight_store(model, accumulate=config.train.accumulate, seed=config.seed)
    if policy.mode.master or policy.mode.pure:
        # Masters, their average, and what Kahan rounding carries begin at the FP32 weights and not at rounded ones.
        store.load_model_state(model, initial)
    parts = _step_parts(config, model, task, policy, store, rates, device)
    return {
        "parts": parts,
        "in_force": policy.in_force(precision.mode),
        "phase_end": phase_end,
        "memory": planned_bytes(config, model, policy),
        "notices": (
            *policy.notices(model, parts.optimizer.param_groups[0], compiled=config.train.compile),
            *norm_notices(config, model),
        ),
    }


def check_build(config: RunConfig) -> str:
    """Build model and data without training; return one line of what was built, raise what `build_run` would."""
    splits, _, model = build_model(config)
    device = torch.device("cpu")
    probe(model, splits.spec, resolve_policy(PrecisionConfig(mode="fp32"), device), config)
    loader = make_train_loader(splits.train, config.data, seed=config.seed, device=device)
    _check_precision(config, model, config.train.max_steps or len(loader) * (config.train.epochs or 1))
    return f"{describe_model(config, model)}; {describe_data(config, splits)}"


def _check_precision(config: RunConfig, model: nn.Module, total_steps: int) -> None:
    """Raise what phases, overrides and groups would, whatever this machine can run."""
    phase_ends(config.precision, total_steps)
    for precision in precisions(config.precision):
        mode = get_mode("fp32" if precision.mode == "auto" else precision.mode)
        make_plan(model, mode, precision, emulated=precision.backend == "emulated", why_not=lambda layer, is_last: None)
    find_groups(model, config.precision.loss_scale)


def _set_determinism(enabled: bool) -> None:
    if enabled:
        set_cublas_workspace()
    if enabled != torch.are_deterministic_algorithms_enabled():  # the setter imports torch's compiler: 0.1 s
        torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled


def _step_parts(
    config: RunConfig,
    model: nn.Module,
    task: Task,
    policy: PrecisionPolicy,
    store: WeightStore,
    rates: list[float],
    device: torch.device,
) -> StepParts:
    applied = AppliedSteps(rates, device, skips_count=config.precision.loss_scale.on_skip == "count")
    groups = decay_groups(
        model, config.optimizer.weight_decay, decay_norm_and_bias=config.optimizer.decay_norm_and_bias
    )
    for group in groups:
        group["params"] = [store.optimized(p) for p in group["params"]]
    kinds = {get_mode(phase.mode).loss_scale for phase in config.precision.phases if phase.mode != "auto"}
    check_loss_scale(config.precision.loss_scale, {policy.loss_scale_kind, *kinds})
    scaler = policy.make_scaler(model)
    optimizer = store.wrap(REGISTRIES["optimizer"].build(config.optimizer, groups, applied.lr), scaler)
    return StepParts(
        model=model,
        task=task,
        policy=policy,
        scaler=scaler,
        weights=store,
        optimizer=optimizer,
        applied=applied,
        average=WeightAverage(model, config.ema, device, store) if config.ema else None,
        buffers=BufferGuard(model),
        faults=make_faults(config.debug),
        census=make_census(model, scaler, config.train),
        numerics=make_sampler(
            config.log.numerics_every,
            model,
            scaler,
            store,
            gradient_format=policy.gradient_format,
            products=policy.accumulation,
        ),
        config=config.train,
        summed_loss=config.task.reduction == "sum",
    )
