"""What models, data, tasks, optimizers and the trainer tell each other: small types, next to no behaviour.

Owns: the seams between packages that must not import one another. Must not: import torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from mptrain.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import Dataset

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of special tokens wherever text is padded, begun or ended; the data write them, models and tasks read them."""
IGNORED_TOKEN = -100
"""Target of a position whose token is not to be predicted, or is padding: torch's own ignore_index."""
IGNORED_PIXEL = 255
"""Target of a pixel that is not counted (borders, padding), as in VOC and Cityscapes."""

Schedule = Callable[[int], float]
"""Applied step (from 0) -> factor of the peak learning rate, at least 0."""


Tensors = Any
"""A Tensor (N, ...), or a tuple of such Tensors with the same N."""


def map_tensors(function: Callable[[Tensor], Tensor], tensors: Tensors) -> Tensors:
    """Return `function` of one tensor, or the tuple of it of each."""
    return tuple(map(function, tensors)) if isinstance(tensors, tuple) else function(tensors)


def at_least_fp32(numbers: Tensor) -> Tensor:
    """Return FP64 numbers as they are, others in FP32: a loss computed in half precision loses what matters."""
    return numbers if numbers.element_size() == 8 else numbers.float()


class Batch(NamedTuple):
    """One micro-batch on one device: what the model takes, and what it should have given."""

    inputs: Tensors
    """One tensor (N, ...), or a tuple of them: the model's positional arguments (see `forward`)."""
    targets: Tensors

    @property
    def size(self) -> int:
        """Return the number of samples, N."""
        first = self.inputs[0] if isinstance(self.inputs, tuple) else self.inputs
        return len(first)


def forward(model: nn.Module, inputs: Tensors) -> Any:
    """Call `model` with a batch's inputs."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@dataclass(frozen=True)
class InputSpec:
    """One input of a model."""

    shape: tuple[int, ...]
    """Shape of one sample; of variable lengths, the longest."""
    vocab_size: int | None = None
    """For whole numbers (int64): they are 0 .. vocab_size - 1. None: FP32 numbers."""


class TextCodec(Protocol):
    """Turns text into token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids, special ones included."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special ones."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special ones give nothing."""


@dataclass(frozen=True)
class DataSpec:
    """What a model and a task need to know of the data."""

    input_shape: tuple[int, ...]
    """Shape of one sample as the model sees it, e.g. (1, 28, 28); of the first input, where there are several."""
    num_outputs: int
    """Classes, tokens that can be predicted, or the width of a regression target."""
    kind: str = "classification"
    """Name of the task that suits the targets, e.g. `classification` (int64 class indices (N,))."""
    class_names: tuple[str, ...] = ()
    vocab_size: int | None = None
    """The (first) input holds token ids 0 .. vocab_size - 1; None: it holds FP32 numbers."""
    pad_id: int = PAD
    """Of token ids: the one that fills up the (first) input of a short text."""
    more_inputs: tuple[InputSpec, ...] = ()
    """The inputs after the first."""
    input_text: TextCodec | None = None
    """What the input's tokens stand for."""
    output_text: TextCodec | None = None
    """What the predicted tokens stand for."""
    bytes_per_token: float | None = None
    """Mean length of the test text's tokens in UTF-8 bytes: turns nats a token into bits a byte."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Return all inputs in the order of the model's arguments."""
        return (InputSpec(self.input_shape, self.vocab_size), *self.more_inputs)


class Transform(Protocol):
    """A batched transform that runs on the training device, outside autocast."""

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Map a raw batch to what the model takes, numbers in FP32; a generator means training augmentation."""


def as_it_is(batch: Batch, generator: torch.Generator | None) -> Batch:
    """Return the batch unchanged: the transform of data that need none."""
    del generator
    return batch


@dataclass(frozen=True)
class InMemory:
    """A split that is held whole: raw inputs and targets of any dtype, tensors (N, ...) or tuples of them."""

    inputs: Tensors
    targets: Tensors
    transform: Transform
    augments: bool = True
    """False: the transform ignores its generator, so a loader may apply it once instead of at every batch."""

    def __len__(self) -> int:
        return Batch(self.inputs, self.targets).size


@dataclass(frozen=True)
class Streamed:
    """A split read sample by sample, by loader processes: dataset[i] -> (inputs, targets).

    While a training sample is read, the global random states of torch, `random` and NumPy are seeded by (seed, epoch,
    sample id): a dataset that augments draws from them. In evaluation they are left alone: the same sample is the same.
    A sample that cannot be read raises DataError, which names the file.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], tuple[Tensors, Tensors]] | None = None
    """Makes a batch's raw inputs and targets of its samples, e.g. by padding; None stacks them."""
    transform: Transform = as_it_is
    augments: bool = False
    """The transform uses its generator."""

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


class BadFiles:
    """What of the data could not be used: refused at once, or left out and counted (`data.on_error`)."""

    def __init__(self, on_error: Literal["raise", "skip"] = "raise") -> None:
        self.on_error = on_error
        self.reasons: dict[str, None] = {}
        """One line for each file left out, in the order they were met; a file met again is not counted again."""

    def report(self, error: DataError) -> None:
        """Raise `error`, which names the file, or note that the file is left out."""
        if self.on_error == "raise":
            raise error
        self.reasons[str(error)] = None


@dataclass(frozen=True)
class DataSplits:
    """A dataset ready to be loaded."""

    spec: DataSpec
    train: InMemory | Streamed
    test: InMemory | Streamed
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What makes this data this data (name, sizes, checksum); recorded, and compared on resume."""
    bad_files: BadFiles = field(default_factory=BadFiles)
    """What was left out while the files were listed; loaders add what they meet."""


class Metrics(Protocol):
    """Running metrics over one evaluation; state stays on the device until `compute`."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Add one batch; outputs are what `Task.outputs` gave, of any float dtype."""

    def compute(self) -> dict[str, float]:
        """Return the metrics over all samples seen; `samples` is their exact count."""


@runtime_checkable
class Task(Protocol):
    """What is learned: the loss, and how well it was learned. Derive from it for the defaults."""

    main_metric: str
    higher_is_better: bool

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over the micro-batch's samples as a 0-d tensor, computed in at least FP32."""
        raise NotImplementedError

    def part_of_loss(self, model: nn.Module, part: Batch, whole: Batch) -> Tensor:
        """Return what `part`, some of the samples of the micro-batch `whole`, adds to its loss (`train.micro_batch`).

        The parts add up to the loss of the whole. The default is right where that is a mean over samples; a mean over
        anything else, such as tokens, needs its own. Must not read values.
        """
        loss = self.loss(model, part)
        # What is no tensor is refused by the step, in its own words.
        return loss * (part.size / whole.size) if hasattr(loss, "dim") else loss

    def blank_targets(self, inputs: Tensors) -> Tensors | None:
        """Return targets of any value for blank inputs (N, ...), on their device, so that plans can count the loss.

        None, the default: unknown, and the loss is not counted.
        """
        del inputs
        return None

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Return what metrics and predictions need of the model; called under no_grad and the run's precision.

        The default is the model's forward; a task that decodes step by step does it here.
        """
        return forward(model, batch.inputs)

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh metrics on `device`."""
        raise NotImplementedError

    def predictions(self, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        """Return one JSON-able record per sample of an evaluated batch: what was predicted, and the target."""
        raise NotImplementedError

    def summary(self, model: nn.Module, splits: DataSplits) -> Mapping[str, Any] | None:
        """Return what is worth printing at the end of a run (small, JSON-able), or None."""
        return None


class Detections(NamedTuple):
    """What a detector found in each of N images: a fixed number of places, best first, those after the last empty."""

    boxes: Tensor
    """FP32 (N, places, 4): x1, y1, x2, y2 in pixels of the model's image."""
    scores: Tensor
    """FP32 (N, places), 0..1; 0 where the place is empty."""
    classes: Tensor
    """int64 (N, places); -1 where the place is empty."""


@runtime_checkable
class Detector(Protocol):
    """A model that finds objects. Its targets are tables, FP32 (N, boxes, 6): class (-1: padding), box, crowd (0/1)."""

    def __call__(self, images: Tensor, objects: Tensor | None = None) -> Any:
        """Return raw outputs for images (N, C, H, W), in whatever dtype they were computed in.

        In training `objects` are the targets, for detectors that sample by them.
        """

    def loss(self, outputs: Any, objects: Tensor) -> Tensor:
        """Return the loss of raw outputs as a 0-d tensor, computed in at least FP32."""
        raise NotImplementedError

    def detections(self, outputs: Any) -> Detections:
        """Return what was found, from the raw outputs of evaluation; may read the device."""
        raise NotImplementedError


@runtime_checkable
class DetectorInParts(Detector, Protocol):
    """A detector whose loss is normalised by what is in the whole micro-batch, and can be computed part by part."""

    def part_of_loss(self, outputs: Any, objects: Tensor, whole: Tensor) -> Tensor:
        """Return what `objects`, those of some images of the micro-batch, add to the loss of all its objects."""
        raise NotImplementedError


@runtime_checkable
class EncoderDecoder(Protocol):
    """A model of (source, target so far) that can keep what it made of the source while the target grows."""

    def encode(self, source: Tensor) -> Any:
        """Return what decoding needs to know of source ids (N, S)."""

    def next_scores(self, target: Tensor, encoded: Any) -> Tensor:
        """Return the scores (N, vocabulary) of what follows the target ids so far (N, T)."""


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
