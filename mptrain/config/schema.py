"""The whole run as one frozen, validated tree: every key, its type, its default, its one-line meaning.

Owns: all defaults. Must not: import torch, read files, or know which models or datasets exist. A section that
selects a registry entry (`model`, `data`, `task`, `optimizer`, `schedule`) is validated by that entry's own Config
class, handed in through the validation context (see `mptrain.catalog`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, Strict, ValidationInfo, create_model, model_validator
from pydantic.functional_validators import BeforeValidator

from mptrain.config.precision import PrecisionConfig
from mptrain.config.section import Duration, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

FaultKind = Literal["inf_grad", "nan_loss", "nan_input", "oom", "sigterm"]

# Which key a bare value stands for: `precision: bf16` is `precision: {mode: bf16}`.
SHORTHANDS: Mapping[str, str] = {
    "precision": "mode",
    "precision.loss_scale": "kind",
    "model": "name",
    "data": "name",
    "task": "name",
    "optimizer": "name",
    "schedule": "name",
    "ema": "decay",
}


class EntryConfig(Section):
    """Base of every registry entry's own Config: `name` selects the entry."""

    name: str
    """Name of the registry entry (see `mptrain ls`)."""


class ModelConfig(EntryConfig):
    """Base of every model's Config."""

    num_classes: PositiveInt | None = None
    """Number of outputs; null takes it from the dataset."""


class DataConfig(EntryConfig):
    """Base of every dataset's Config."""

    batch_size: PositiveInt = 128
    """Samples per micro-batch in training."""
    eval_batch_size: PositiveInt | None = None
    """Samples per batch in evaluation; null takes batch_size."""
    shuffle: bool = True
    """Draw a new order each epoch, a pure function of (seed, epoch)."""
    drop_last: bool = True
    """Leave out the last incomplete training micro-batch of an epoch."""
    num_workers: NonNegativeInt = 0
    """Loader processes for data that is not cached."""
    cache: Literal["auto", "device", "none"] = "auto"
    """Keep the data on the device (auto: when it is in memory and small enough); none uses loader workers."""
    read_timeout: NonNegativeFloat = 600.0
    """Seconds to wait for a loader process to read a batch before the run ends (exit 6); 0 waits for ever.

    With num_workers 0 the run reads by itself, and a read that hangs cannot be seen.
    """
    on_error: Literal["raise", "skip"] = "raise"
    """What a file that cannot be used does: end the run (exit 6), or be left out, reported and counted."""


class TaskConfig(EntryConfig):
    """Base of every task's Config."""

    reduction: Literal["mean", "sum"] = "mean"
    """sum: gradients of the loss summed over the step's samples, so divide the rate by them; reports keep the mean."""


class OptimizerConfig(EntryConfig):
    """Base of every optimizer's Config."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay as the optimizer defines it."""
    decay_norm_and_bias: bool = True
    """Also decay parameters with fewer than two dimensions (norm weights and biases)."""


class ScheduleConfig(EntryConfig):
    """Base of every schedule's Config."""


class EarlyStopConfig(Section):
    """Stop when the metric has not improved for a while."""

    patience: PositiveInt
    """Evaluations in a row without improvement before the run stops."""
    min_delta: NonNegativeFloat = 0.0
    """An improvement smaller than this does not count."""


class TrainConfig(Section):
    """Length, step and evaluation of the run."""

    epochs: PositiveInt | None = None
    """Passes over the training data; give this or max_steps."""
    max_steps: PositiveInt | None = None
    """Applied optimizer steps; give this or epochs."""
    stop_at_step: PositiveInt | None = None
    """Stop after this many applied steps though the schedule is longer (the command line's --max-steps)."""
    max_time: Duration | None = None
    """Stop after this long, e.g. 30m: finish the step, save, exit 0; counted from the start of each process."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step; gradients are the mean over all its samples (or the sum: task.reduction)."""
    micro_batch: PositiveInt | Literal["auto"] | None = None
    """Samples computed on at a time: each batch of data.batch_size is cut into pieces of at most so many.

    The gradient stays that of the whole batch, up to rounding: only memory and speed change. auto begins with whole
    batches and halves whenever memory runs out in forward or backward, also in mid-run. BatchNorm normalises over
    pieces, dropout draws otherwise; torchvision's fcos, ssd and Faster R-CNN normalise their loss by what is in a
    piece. null cuts nothing.
    """
    clip_norm: PositiveFloat | None = None
    """Clip the total gradient norm (after unscaling) to this."""
    clip_value: PositiveFloat | None = None
    """Clip each gradient element (after unscaling) to this magnitude."""
    eval_every_epochs: PositiveInt | None = None
    """Evaluate every n epochs; the end of the run is always evaluated."""
    eval_every_steps: PositiveInt | None = None
    """Evaluate every n applied steps."""
    early_stop: EarlyStopConfig | None = None
    """Stop early on the task's main metric; null runs to the end."""
    channels_last: bool = False
    """Keep 4-d weights and images in channels-last memory format."""
    compile: bool = False
    """Compile forward and loss with torch.compile."""
    deterministic: bool = False
    """Same bits on the same machine: deterministic kernels only, or an error naming the one that is not."""
    max_consecutive_skips: PositiveInt = 50
    """Stop (exit 3) after this many skipped steps in a row."""
    max_nonfinite_losses: PositiveInt = 3
    """Stop (exit 3) after this many non-finite losses in a row; no loss scale can cure them."""
    max_zero_gradients: PositiveInt | None = 50
    """Stop (exit 3) after this many steps in a row whose gradients are all 0: nothing is learned; null: never."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of train.epochs and train.max_steps (null removes an inherited one)")
        return self


# `async` is a word of Python's own, which no class body can declare.
_ASYNC = "Write checkpoints beside training: it waits only while the state is copied off the device."
_Async = create_model("_Async", __base__=Section, **{"async": (bool, Field(default=False, description=_ASYNC))})  # type: ignore[call-overload]


class CheckpointConfig(_Async):
    """When to save, and what to keep."""

    every: PositiveInt | None = None
    """Save every n applied steps; the end of the run is always saved."""
    keep_last: PositiveInt = 2
    """Newest checkpoints to keep."""
    best: bool = True
    """Also keep the one with the best main metric."""
    enabled: bool = True
    """false writes no checkpoint at all."""

    @property
    def in_background(self) -> bool:
        """`checkpoint.async`."""
        return bool(getattr(self, "async"))


class LogConfig(Section):
    """What is recorded, how often."""

    every: PositiveInt = 50
    """Attempted steps per record in metrics.jsonl and per plain console line."""
    numerics_every: NonNegativeInt = 100
    """Attempted steps between two samples of the gradients' magnitudes; 0 takes none."""


class EmaConfig(Section):
    """An exponential moving average of the weights, kept in FP32, used for evaluation."""

    decay: Annotated[float, Field(gt=0, lt=1)]
    """ema = decay * ema + (1 - decay) * weight, on applied steps only."""
    warmup: bool = True
    """Use min(decay, (1 + step) / (10 + step)) so that short runs are not dominated by the initial weights."""


class PlantConfig(Section):
    """One fault to plant."""

    what: FaultKind
    """The fault."""
    at: PositiveInt
    """The attempted step (from 1) it happens at."""


class DebugConfig(Section):
    """Fault drills; recorded in result.json and printed, so that nobody mistakes such a run."""

    plant: Annotated[tuple[PlantConfig, ...], Strict(False)] = ()
    """Faults to plant."""


def _by_entry(kind: str) -> BeforeValidator:
    """Validate a section by the Config class of the registry entry that its `name` selects."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, EntryConfig) or not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            return value
        config_types: Mapping[str, Callable[[str], type[EntryConfig]]] = info.context or {}
        if kind not in config_types:
            raise ValueError("needs the registries: build configs with mptrain.catalog")
        return config_types[kind](value["name"]).model_validate(value, context=info.context)

    return BeforeValidator(validate)


class RunConfig(Section):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Letters, digits, dots, dashes, underscores. Names the folder of its runs; defaults to the config file's name."""
    seed: NonNegativeInt = 0
    """Seed of weights, data order, augmentation and dropout."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    plugins: Annotated[tuple[str, ...], Strict(False)] = ()
    """Python modules to import first, so that they can register models, datasets, tasks."""
    model: Annotated[SerializeAsAny[ModelConfig], _by_entry("model")]
    """The network (see `mptrain ls models`)."""
    data: Annotated[SerializeAsAny[DataConfig], _by_entry("data")]
    """The dataset and its loading (see `mptrain ls datasets`)."""
    task: Annotated[SerializeAsAny[TaskConfig], _by_entry("task")]
    """Loss and metrics (see `mptrain ls tasks`)."""
    optimizer: Annotated[SerializeAsAny[OptimizerConfig], _by_entry("optimizer")]
    """The optimizer (see `mptrain ls optimizers`)."""
    schedule: Annotated[SerializeAsAny[ScheduleConfig], _by_entry("schedule")]
    """The learning-rate schedule over applied steps (see `mptrain ls schedules`)."""
    train: TrainConfig
    """Length, step and evaluation."""
    precision: PrecisionConfig = PrecisionConfig()
    """Number formats and loss scaling; a bare value is the mode."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    log: LogConfig = LogConfig()
    """Recording."""
    ema: EmaConfig | None = None
    """Moving average of the weights; a bare number is the decay."""
    debug: DebugConfig = DebugConfig()
    """Fault drills."""

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        if self.train.compile and self.precision.backend == "emulated":
            raise ValueError("train.compile cannot compile emulated arithmetic: set it to false, or leave backend out")
        return self
