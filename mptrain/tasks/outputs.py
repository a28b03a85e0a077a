"""What tasks share: checking the shape of a model's outputs, and naming classes.

Owns: nothing but these functions. Must not: know a loss, or read values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mptrain.errors import ConfigError


def check_outputs(outputs: Any, num_samples: int, num_outputs: int) -> None:
    """Raise ConfigError unless outputs are (num_samples, num_outputs or more); reads no values."""
    is_table = isinstance(outputs, Tensor) and outputs.dim() == 2
    if is_table and outputs.shape[0] == num_samples and outputs.shape[1] >= num_outputs:
        return
    raise ConfigError(
        f"model: its output is {_described(outputs)}, the task needs ({num_samples}, {num_outputs} or more); "
        "check model.num_classes and the model's last layer"
    )


def checked_shape(outputs: Any, wanted: tuple[int, ...], remedy: str) -> Tensor:
    """Return `outputs`; raise ConfigError, which ends with `remedy`, unless they are a tensor of the shape `wanted`."""
    if isinstance(outputs, Tensor) and tuple(outputs.shape) == wanted:
        return outputs
    raise ConfigError(f"model: its output is {_described(outputs)}, the task needs {wanted}{remedy}")


def _described(outputs: Any) -> str:
    return f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"


def class_name(names: Sequence[str], index: int) -> str | int:
    """Return the name of class `index`; the index itself where the data name none, or fewer."""
    return names[index] if index < len(names) else index
