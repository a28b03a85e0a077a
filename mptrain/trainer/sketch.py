"""A run as its config describes it, without weights and, if they are not here, without data: what a plan is made of.

The model stands on torch's meta device: it has shapes and formats, and takes no memory. Owns: that model, and what is
known of a run whose data are elsewhere. Must not: train, print, write, or read initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mptrain.config.precision import PrecisionConfig
from mptrain.config.schema import RunConfig
from mptrain.data.expected import expected_spec
from mptrain.data.order import EpochOrder
from mptrain.errors import DataError, first_line
from mptrain.interfaces import DataSpec, DataSplits, Task
from mptrain.precision.fakes import NeedsValuesError
from mptrain.precision.in_force import InForce
from mptrain.precision.modes import get_mode
from mptrain.precision.plan import Plan
from mptrain.precision.policy import PrecisionPolicy, resolve_policy
from mptrain.precision.scale_groups import find_groups
from mptrain.precision.scalers import check_loss_scale
from mptrain.trainer.activations import activation_bytes
from mptrain.trainer.build import resolve_device
from mptrain.trainer.materials import (
    batch_sizes,
    blank,
    build_network,
    build_task,
    check_parameters,
    checked_data,
    describe_data,
    describe_model,
    fitting,
    learning_rates,
    probe,
    seeded_model,
    with_outputs,
)
from mptrain.trainer.memory_plan import HeldBytes, planned_bytes, probe_optimizer
from mptrain.trainer.micro_batch import norm_notices
from mptrain.trainer.phases import phase_ends, precisions


@dataclass(frozen=True)
class PhaseSketch:
    """One stretch of a run in one precision."""

    plan: Plan
    in_force: InForce
    until_step: int | None
    """Applied steps at which the precision changes; None: at the run's end, or where that is unknown."""
    memory: HeldBytes
    activations: int | None
    """Bytes that a micro-batch's forward keeps for its backward; None: they cannot be told."""
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Sketch:
    """What is known of a run before it is built."""

    config: RunConfig
    device: torch.device
    model: str
    """In words."""
    data: str
    """In words."""
    data_error: str | None
    """Why the data are not here; None where they are."""
    steps_per_epoch: int | None
    total_steps: int | None
    """None: the run's length is in epochs, and how many steps they have only the data tell."""
    phases: tuple[PhaseSketch, ...]


@dataclass(frozen=True)
class _Known:
    """What all phases share."""

    config: RunConfig
    device: torch.device
    spec: DataSpec
    task: Task
    num_train: int | None


def sketch_run(config: RunConfig) -> Sketch:
    """Return the sketch of the run; raises what `build_run` would, but for what only weights, data or memory show.

    Where the data cannot be built and their config tells what they would be like, the sketch is made of that; where it
    does not, DataError is raised.
    """
    device = resolve_device(config.device)
    for precision in precisions(config.precision):
        resolve_policy(precision, device)
    spec, splits, data_error = _data(config)
    steps_per_epoch = _steps_per_epoch(config, splits) if splits else None
    total_steps = config.train.max_steps or (steps_per_epoch and steps_per_epoch * (config.train.epochs or 1))
    if total_steps:
        learning_rates(config, total_steps)
    known = _Known(config, device, spec, build_task(config, spec), len(splits.train) if splits else None)
    ends = phase_ends(config.precision, total_steps) if total_steps else []
    untils = [*ends[:-1], None] if ends else [None] * len(precisions(config.precision))
    pairs = zip(precisions(config.precision), untils, strict=True)
    return Sketch(
        config=config,
        device=device,
        model=describe_model(config, _network(config, spec)),
        data=describe_data(config, splits) if splits else f"{config.data.name}, not here",
        data_error=data_error,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        phases=tuple(_phase(known, precision, until) for precision, until in pairs),
    )


def _data(config: RunConfig) -> tuple[DataSpec, DataSplits | None, str | None]:
    """Return what the data are, themselves, and why they are not here."""
    try:
        splits, spec = checked_data(config)
    except DataError as error:
        expected = expected_spec(config.data)
        if expected is None:
            raise
        return with_outputs(expected, config), None, str(error)
    return spec, splits, None


def _steps_per_epoch(config: RunConfig, splits: DataSplits) -> int:
    data = config.data
    order = EpochOrder(len(splits.train), data.batch_size, data.shuffle, data.drop_last, config.seed)
    return -(-len(order) // config.train.accumulate)


def _network(config: RunConfig, spec: DataSpec) -> nn.Module:
    """Build the model on the meta device, or in memory where its own code cannot do without."""
    try:
        with torch.device("meta"):
            model = build_network(config.model, spec)
    except (NotImplementedError, RuntimeError):  # it computes with its initial weights, which are not there
        model = build_network(config.model, spec)
    check_parameters(config, model, {"cpu", "meta"})
    return model


def _phase(known: _Known, precision: PrecisionConfig, until_step: int | None) -> PhaseSketch:
    config, spec = known.config, known.spec
    policy = resolve_policy(precision, known.device)
    policy.apply_global_settings()
    model = _network(config, spec)
    with fitting(spec, config):
        policy.prepare(model, blank(spec, policy, torch.device("cpu")), batch_sizes(config, known.num_train))
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    kinds = {get_mode(phase.mode).loss_scale for phase in config.precision.phases if phase.mode != "auto"}
    check_loss_scale(config.precision.loss_scale, {policy.loss_scale_kind, *kinds})
    find_groups(model, config.precision.loss_scale)
    activations, unknown = _activations(known, policy, model)
    settings = probe_optimizer(config).param_groups[0]
    return PhaseSketch(
        plan=policy.plan,
        in_force=policy.in_force(precision.mode),
        until_step=until_step,
        memory=planned_bytes(config, model, policy),
        activations=activations,
        notices=(
            *policy.notices(model, settings, compiled=config.train.compile),
            *norm_notices(config, model),
            *unknown,
        ),
    )


def _activations(known: _Known, policy: PrecisionPolicy, model: nn.Module) -> tuple[int | None, tuple[str, ...]]:
    """Return the bytes of activations, or None and why they cannot be told.

    A forward that fails without values may still be right with them, so a real one decides: it raises ConfigError
    where the model does not take the data's samples.
    """
    config, spec = known.config, known.spec
    size = max(batch_sizes(config, known.num_train))
    channels_last = config.train.channels_last
    try:
        return activation_bytes(model, known.task, spec, policy, batch_size=size, channels_last=channels_last), ()
    except (NeedsValuesError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        fp32 = resolve_policy(PrecisionConfig(mode="fp32"), torch.device("cpu"))
        probe(seeded_model(config, spec), spec, fp32, config)
        return None, (f"activations cannot be told: the model decides by tensor values ({first_line(error)})",)
