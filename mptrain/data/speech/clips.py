"""The bundled one-second clips: spoken digits, and telephone prompts of real speakers.

Owns: which clips are for training. Must not: train-time work (see `log_mel`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from mptrain.data.bundled_files import SHA256, read_bundled_arrays
from mptrain.data.speech.configs import ClipsConfig
from mptrain.data.speech.log_mel import SpeechTransform, stored
from mptrain.interfaces import DataSpec, DataSplits, InMemory

DIGITS_FILE, PROMPTS_FILE = "synth_digits.npz.xz", "voiceprompts.npz.xz"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Clips(NamedTuple):
    """Clips of one split."""

    features: Tensor
    """uint8 (clips, frames, mels): decibels below the clip's loudest bin, 63 = 0 dB, 0 = -80 dB."""
    labels: Tensor
    """int64 (clips,)."""
    voices: Tensor
    """int64 (clips,): who speaks."""


def spoken_digits(config: ClipsConfig) -> DataSplits:
    """Return the digits 0 to 9, tested on voices never heard in training; raise DataError for a damaged file."""
    train, test = read_digits()
    return _splits(config, train, test, DIGITS, DIGITS_FILE)


def voice_prompts(config: ClipsConfig) -> DataSplits:
    """Return telephone prompts, labelled with their speaker; raise DataError for a damaged file."""
    content = read_bundled_arrays(PROMPTS_FILE)
    train, test = _divided(content, content["voice"])
    return _splits(config, train, test, tuple(map(str, content["voices"])), PROMPTS_FILE)


def read_digits() -> tuple[Clips, Clips]:
    """Return the digit clips for training and test; raise DataError for a damaged file."""
    content = read_bundled_arrays(DIGITS_FILE)
    return _divided(content, content["digit"])


def _divided(content: dict[str, NDArray[Any]], labels: NDArray[Any]) -> tuple[Clips, Clips]:
    parts = content["logmel"], labels.astype("int64"), content["voice"].astype("int64")
    train, test = (
        Clips(*(torch.from_numpy(part[content["is_test"] == is_test]) for part in parts)) for is_test in (0, 1)
    )
    return train, test


def _splits(config: ClipsConfig, train: Clips, test: Clips, names: tuple[str, ...], file: str) -> DataSplits:
    transform, masks = SpeechTransform(stored, config.masks), config.masks
    spec = DataSpec((1, *train.features.shape[1:]), len(names), class_names=names)
    return DataSplits(
        spec,
        InMemory(train.features, train.labels, transform, augments=masks.time_masks + masks.frequency_masks > 0),
        InMemory(test.features, test.labels, transform, augments=False),
        {"name": config.name, "train": len(train.labels), "test": len(test.labels), "sha256": SHA256[file]},
    )
