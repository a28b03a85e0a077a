"""What models, data, tasks, optimizers and the trainer tell each other: small types, no behaviour.

Owns: the seams between packages that must not import one another. Must not: import torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

Schedule = Callable[[int], float]
"""Applied step (from 0) -> factor of the peak learning rate, at least 0."""


class Batch(NamedTuple):
    """One micro-batch: inputs (N, ...) and targets (N, ...), on one device."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class DataSpec:
    """What a model and a task need to know of the data."""

    input_shape: tuple[int, ...]
    """Shape of one sample as the model sees it, e.g. (1, 28, 28)."""
    num_outputs: int
    """Classes, or the width of a regression target."""
    kind: str = "classification"
    """`classification` (targets: int64 class indices) or `regression` (targets: float)."""
    class_names: tuple[str, ...] = ()


class Transform(Protocol):
    """A batched transform that runs on the data's own device."""

    def __call__(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """Map raw inputs (N, ...) to model inputs (N, ...) in FP32; a generator means training augmentation."""


@dataclass(frozen=True)
class InMemory:
    """A split that is held whole: raw inputs (N, ...) of any dtype and targets (N, ...)."""

    inputs: Tensor
    targets: Tensor
    transform: Transform
    augments: bool = True
    """False: the transform ignores its generator, so a loader may apply it once instead of at every batch."""

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Streamed:
    """A split read sample by sample: dataset[i] -> (input, target), already transformed."""

    dataset: Dataset[Any]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataSplits:
    """A dataset ready to be loaded."""

    spec: DataSpec
    train: InMemory | Streamed
    test: InMemory | Streamed
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What makes this data this data (name, sizes, checksum); recorded, and compared on resume."""


class Metrics(Protocol):
    """Running metrics over one evaluation; state stays on the device until `compute`."""

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch; outputs are the model's, of any float dtype."""

    def compute(self) -> dict[str, float]:
        """Return the metrics over all samples seen; `samples` is their exact count."""


@runtime_checkable
class Task(Protocol):
    """What is learned: the loss, and how well it was learned."""

    main_metric: str
    higher_is_better: bool

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over the micro-batch as a 0-d tensor, computed in at least FP32."""

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh metrics on `device`."""

    def summary(self, model: nn.Module, splits: DataSplits) -> Mapping[str, Any] | None:
        """Return what is worth printing at the end of a run (small, JSON-able), or None."""


class TrainedWeights(Protocol):
    """The most precise copies of a model's weights."""

    def best(self, parameter: nn.Parameter) -> Tensor:
        """Return the most precise copy of `parameter`, detached; itself where there is no better one."""

    def publish(self) -> None:
        """Bring a change of the best copies into the model."""


class SkippingOptimizer(Protocol):
    """An optimizer whose `step` changes nothing where its `found_inf` (a 0-d device tensor) is 1."""

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Return what it keeps per parameter."""

    def step(self) -> Any:
        """Apply one step, or skip it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
