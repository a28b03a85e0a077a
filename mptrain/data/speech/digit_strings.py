"""Strings of spoken digits to be spelled out: bundled clips of one voice, joined when they are read.

Owns: how a string is drawn. Must not: hear a test voice in training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.bundled_files import SHA256
from mptrain.data.speech.clips import DIGITS, DIGITS_FILE, Clips, read_digits
from mptrain.data.speech.configs import DigitStringsConfig
from mptrain.data.speech.log_mel import SpeechTransform, stored
from mptrain.data.speech.padding import Pair, padded_batch
from mptrain.data.tokenizers import Symbols
from mptrain.interfaces import DataSpec, DataSplits, InputSpec, Streamed

SHORTEST = 50
"""A clip of 62 frames (1 s) is cut to this many or more, so that digits do not begin at regular places."""
ALPHABET = sorted({" ", *"".join(DIGITS)})


def digit_strings(config: DigitStringsConfig) -> DataSplits:
    """Return strings such as "three one four", in letters; raise DataError for a damaged file."""
    codec = Symbols(ALPHABET, separator="")
    train_clips, test_clips = read_digits()
    train = DigitStrings(train_clips, codec, config, config.num_train, fixed=False)
    test = DigitStrings(test_clips, codec, config, config.num_test, fixed=True)
    _, frames, mels = train_clips.features.shape
    longest = config.max_digits * frames
    spec = DataSpec(
        (longest, mels),
        codec.vocab_size,
        kind="transcription",
        more_inputs=(InputSpec((), longest + 1),),
        output_text=codec,
    )
    transform = SpeechTransform(stored, config.masks)
    identity = {"name": config.name, "train": len(train), "test": len(test), "sha256": SHA256[DIGITS_FILE]}
    identity["digits"] = f"{config.min_digits}-{config.max_digits}"
    return DataSplits(
        spec,
        Streamed(train, padded_batch, transform, augments=True),
        Streamed(test, padded_batch, transform),
        identity,
    )


class DigitStrings(Dataset[Pair]):
    """dataset[i] -> uint8 log-mel (frames, mels) and the letters' ids; `fixed` strings depend on i alone."""

    def __init__(self, clips: Clips, codec: Symbols, config: DigitStringsConfig, count: int, *, fixed: bool) -> None:
        self._features, self._codec, self._count, self._fixed = clips.features, codec, count, fixed
        self._digits = config.min_digits, config.max_digits
        self._clips = _by_voice_and_digit(clips)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        # None draws from the global generator, which the loader seeds for training samples.
        generator = torch.Generator().manual_seed(index) if self._fixed else None
        voices, _, takes = self._clips.shape
        count = _drawn(self._digits[0], self._digits[1] + 1, (), generator)
        voice = _drawn(0, voices, (), generator)
        digits = _drawn(0, len(DIGITS), (int(count),), generator)
        chosen = self._clips[voice, digits, _drawn(0, takes, digits.shape, generator)].tolist()
        ends = _drawn(SHORTEST, self._features.shape[1] + 1, digits.shape, generator).tolist()
        features = torch.cat([self._features[clip, :end] for clip, end in zip(chosen, ends, strict=True)])
        text = " ".join(DIGITS[digit] for digit in digits.tolist())
        return features, torch.tensor(self._codec.encode(text))


def _drawn(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


def _by_voice_and_digit(clips: Clips) -> Tensor:
    """Return the clips' numbers as (voices, digits, takes): every voice says every digit equally often."""
    order = (clips.voices * len(DIGITS) + clips.labels).argsort(stable=True)
    voices = len(clips.voices.unique())
    return order.view(voices, len(DIGITS), -1)
