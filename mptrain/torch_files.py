"""Reads torch.save's files: no code of theirs runs, and their tensors hold their numbers.

Owns: the one call of torch.load. Must not: word errors for users; whoever reads knows what the file is to them.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mptrain.errors import first_line


def read_torch_file(path: Path, device: torch.device | str = "cpu") -> Any:
    """Return what `path` holds, tensors on `device`; it can be tensors and plain values only.

    Raises ValueError for an archive that can hold code, for a tensor that is sparse, quantized, nested or without
    storage (meta), none of which a model can take over, and for content that makes no sense; UnpicklingError for other
    objects; RuntimeError, OSError, EOFError, TypeError and BadZipFile for damage as torch finds it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how the file was pickled: what is wrong with it is an error
            state = torch.load(path, map_location=device, weights_only=True)
    except RuntimeError as error:
        if "weights_only" in str(error):  # torch advises to load it with code and all
            raise ValueError("it is a TorchScript archive, or one of torch's old tar format") from None
        raise
    except (LookupError, AssertionError, AttributeError, ArithmeticError, struct.error) as error:
        raise ValueError(f"its content makes no sense: {first_line(error)}") from None
    if not all(map(_is_dense, _tensors(state))):
        raise ValueError("it holds a tensor that is sparse, quantized, nested or without storage")
    return state


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)
