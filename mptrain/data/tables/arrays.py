"""The user's own arrays in one .npz file, checked before anything is trained on them.

Owns: reading without pickle, and every check on shapes, types, labels and sizes. Must not: repair anything.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch

from mptrain.data.tables.configs import ArraysConfig
from mptrain.data.transforms import as_float32, unit_interval
from mptrain.errors import DataError, first_line
from mptrain.interfaces import DataSpec, DataSplits, InMemory

KEYS = ("train_inputs", "train_targets", "test_inputs", "test_targets")
# A file may unpack to this much, or to this many times its size, whichever is more: real data stay far below.
MAX_UNPACKED_BYTES, MAX_RATIO = 2**30, 20

Array = np.ndarray[Any, np.dtype[Any]]


def load(config: ArraysConfig) -> DataSplits:
    """Return the file's splits: uint8 inputs scaled to 0..1, others as FP32; targets as classes or FP32 (N, width).

    Raises DataError, in one line, for a file or an array that cannot be trained on.
    """
    path = Path(config.path).expanduser()
    arrays = _read(path)
    for split in ("train", "test"):
        _check_inputs(path, split, arrays[f"{split}_inputs"], arrays["train_inputs"])
        _check_count(path, split, arrays[f"{split}_inputs"], arrays[f"{split}_targets"])
    kinds = {split: _kind(path, split, arrays[f"{split}_targets"]) for split in ("train", "test")}
    if kinds["train"] != kinds["test"]:
        raise DataError(f"data.path: {path}: train_targets are for {kinds['train']}, test_targets for {kinds['test']}")
    if kinds["train"] == "classification":
        num_outputs = _num_classes(path, arrays["train_targets"], arrays["test_targets"])
    else:
        num_outputs = _target_width(path, arrays["train_targets"], arrays["test_targets"])
    spec = DataSpec(arrays["train_inputs"].shape[1:], num_outputs, kind=kinds["train"])
    train, test = (_split(arrays[f"{name}_inputs"], arrays[f"{name}_targets"]) for name in ("train", "test"))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DataSplits(spec, train, test, {"name": "arrays", "train": len(train), "test": len(test), "sha256": digest})


def _read(path: Path) -> dict[str, Array]:
    """Read the four arrays without pickle, refusing a file that unpacks to far more than its size."""
    if not path.is_file():
        raise DataError(f"data.path: there is no file {path.absolute()}; write one with numpy.savez({', '.join(KEYS)})")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > max(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size):
            raise DataError(
                f"data.path: {path} unpacks to {unpacked / 1e9:.1f} GB, over {MAX_RATIO} times its size; "
                "if that is meant, write it uncompressed with numpy.savez"
            )
        with np.load(path, allow_pickle=False) as content:
            missing = [key for key in KEYS if key not in content.files]
            if missing:
                found = ", ".join(content.files[:8]) or "no arrays"
                raise DataError(f"data.path: {path} lacks {', '.join(missing)}; it has {found}")
            return {key: content[key] for key in KEYS}
    # What zipfile and numpy raise on damaged bytes, on objects that would need pickle, and on absurd shapes.
    except (OSError, ValueError, KeyError, EOFError, SyntaxError, TokenError, MemoryError) as error:
        raise DataError(f"data.path: {path} cannot be read as .npz arrays: {first_line(error)}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"data.path: {path} is no .npz file or damaged: {first_line(error)}") from error


def _check_inputs(path: Path, split: str, inputs: Array, like: Array) -> None:
    where = f"data.path: {path}: {split}_inputs"
    if inputs.ndim < 2 or 0 in inputs.shape:
        raise DataError(
            f"{where} have shape {inputs.shape}; at least one sample of at least one value is needed (N, ...)"
        )
    if inputs.shape[1:] != like.shape[1:]:
        raise DataError(f"{where} have sample shape {inputs.shape[1:]}, train_inputs {like.shape[1:]}; make them equal")
    if inputs.dtype != like.dtype:
        raise DataError(f"{where} are {inputs.dtype}, train_inputs {like.dtype}; make them equal")
    if inputs.dtype != np.uint8 and inputs.dtype.kind != "f":
        raise DataError(f"{where} are {inputs.dtype}; save them as uint8 or float32")
    if inputs.dtype.kind == "f" and (count := _num_not_finite(inputs)):
        raise DataError(f"{where} hold {count} values that are NaN or infinite in FP32; clean or scale them first")


def _num_not_finite(values: Array) -> int:
    """Return how many floats are not finite as FP32, in which they are held; FP64 has larger ones."""
    with np.errstate(over="ignore"):
        return int((~np.isfinite(values.astype(np.float32, copy=False))).sum())


def _check_count(path: Path, split: str, inputs: Array, targets: Array) -> None:
    if targets.ndim < 1 or len(inputs) != len(targets):
        raise DataError(
            f"data.path: {path}: {len(inputs)} {split}_inputs but {split}_targets of shape {targets.shape}; "
            "give one target per input"
        )


def _kind(path: Path, split: str, targets: Array) -> str:
    where = f"data.path: {path}: {split}_targets"
    if targets.dtype.kind in "iu":
        if targets.ndim != 1:
            raise DataError(f"{where} are integers of shape {targets.shape}; class labels have shape (N,)")
        return "classification"
    if targets.dtype.kind == "f":
        if targets.ndim > 2 or 0 in targets.shape:
            raise DataError(
                f"{where} are floats of shape {targets.shape}; regression targets have shape (N,) or (N, width)"
            )
        if count := _num_not_finite(targets):
            raise DataError(f"{where} hold {count} values that are NaN or infinite in FP32; clean or scale them first")
        return "regression"
    raise DataError(f"{where} are {targets.dtype}; save class labels as integers, regression targets as floats")


def _num_classes(path: Path, train: Array, test: Array) -> int:
    """Return the number of classes; raise DataError unless the training labels are 0 .. K-1 without gaps."""
    labels = np.unique(train)
    smallest, largest = int(min(labels[0], test.min())), int(max(labels[-1], test.max()))
    if smallest < 0 or len(labels) != largest + 1:
        first_gap = next((i for i, label in enumerate(labels.tolist()) if i != label), len(labels))
        problem = f"the smallest is {smallest}" if smallest < 0 else f"{first_gap} is missing in train_targets"
        raise DataError(
            f"data.path: {path}: class labels must be 0 .. K-1 without gaps, but {problem} (largest: {largest}); "
            "renumber them, e.g. with numpy.unique(labels, return_inverse=True)"
        )
    return largest + 1


def _target_width(path: Path, train: Array, test: Array) -> int:
    widths = {targets.shape[1] if targets.ndim == 2 else 1 for targets in (train, test)}
    if len(widths) > 1:
        raise DataError(
            f"data.path: {path}: targets have shapes {train.shape} and {test.shape}; make their widths equal"
        )
    return int(widths.pop())


def _split(inputs: Array, targets: Array) -> InMemory:
    inputs = np.ascontiguousarray(inputs)
    if inputs.dtype == np.uint8:
        held, transform = torch.from_numpy(inputs), unit_interval
    else:
        held, transform = torch.from_numpy(inputs.astype(np.float32, copy=False)), as_float32
    if targets.dtype.kind in "iu":
        return InMemory(held, torch.from_numpy(targets.astype(np.int64)), transform, augments=False)
    wide = targets.astype(np.float32).reshape(len(targets), -1)
    return InMemory(held, torch.from_numpy(wide), transform, augments=False)
