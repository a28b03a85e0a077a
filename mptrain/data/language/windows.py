"""A row of tokens as samples: windows in which every token is predicted from those before it.

Owns: where windows begin, and the check of the ids as they are read. Must not: know where tokens come from.
"""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.language.configs import LanguageConfig
from mptrain.errors import DataError, first_line
from mptrain.interfaces import IGNORED_TOKEN, BadFiles, DataSpec, DataSplits, Streamed, TextCodec

CHECKSUM_BYTES = 2**26
"""Of a longer row, the beginning stands for the whole."""


class Tokens:
    """Token ids, one after the other: an array, or a file mapped into memory."""

    def __init__(self, ids: NDArray[Any], vocab_size: int, source: str) -> None:
        self._ids, self._vocab_size, self.source = ids, vocab_size, source

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        """Return ids start .. stop as int64; raise DataError where one is not in the vocabulary or the file is gone."""
        if isinstance(self._ids, np.memmap):
            self._require_file(self._ids)
        ids: NDArray[np.int64] = self._ids[part].astype(np.int64)
        outside = (ids < 0) | (ids >= self._vocab_size)
        if outside.any():
            first = int(outside.argmax())
            raise DataError(
                f"data: {self.source}: token {part.start + first} is {ids[first]}, but data.vocab_size is "
                f"{self._vocab_size}; set it, or data.dtype, to what the file was written with"
            )
        return ids

    def _require_file(self, mapped: np.memmap[Any, Any]) -> None:
        """Raise DataError where a mapped file was deleted or cut short: its memory is no longer to be touched.

        Reading past the end of such a file kills the process (SIGBUS). The look costs 2 us a window.
        """
        try:
            size = os.stat(str(mapped.filename)).st_size
        except OSError as error:
            problem = error.strerror or first_line(error)
            raise DataError(f"data: {self.source} cannot be read any more ({problem}); put the file back") from error
        if size < mapped.offset + mapped.nbytes:
            raise DataError(f"data: {self.source} was cut short while the run reads it; put the whole file back")

    def checksum(self) -> str:
        """Return the sha256 of the ids."""
        return hashlib.sha256(self._ids[: CHECKSUM_BYTES // self._ids.itemsize].tobytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Send a mapped file to a loader process by its name: NumPy would send its content."""
        state = self.__dict__.copy()
        if isinstance(self._ids, np.memmap):
            state["_ids"] = Path(str(self._ids.filename)), self._ids.dtype, self._ids.offset, self._ids.shape
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file again."""
        ids = state["_ids"]
        if isinstance(ids, tuple):
            path, dtype, offset, shape = ids
            state["_ids"] = np.memmap(path, dtype, "r", offset, shape)
        self.__dict__.update(state)


class TrainWindows(Dataset[Any]):
    """Windows of `context` tokens, each at a random place in its stretch of the row: inputs and targets int64 (T,)."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self._tokens, self._context = tokens, context

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a window that begins up to context - 1 tokens after index * context, and its successors."""
        last = len(self._tokens) - 1 - self._context
        start = min(index * self._context + random.randrange(self._context), last)  # noqa: S311  seeded by the loader
        ids = torch.from_numpy(self._tokens[start : start + self._context + 1])
        return ids[:-1], ids[1:]


class EvalWindows(Dataset[Any]):
    """Windows that follow each other: every token but the very first is a target once."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self._tokens, self._context = tokens, context

    def __len__(self) -> int:
        return -(-(len(self._tokens) - 1) // self._context)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets int64 (T,); the last window is filled with token 0 and the target IGNORED_TOKEN."""
        start = index * self._context
        ids = torch.from_numpy(self._tokens[start : start + self._context + 1])
        inputs = torch.zeros(self._context, dtype=torch.int64)
        targets = torch.full((self._context,), IGNORED_TOKEN)
        count = len(ids) - 1
        inputs[:count], targets[:count] = ids[:-1], ids[1:]
        return inputs, targets


def window_splits(
    config: LanguageConfig,
    train: Tokens,
    test: Tokens,
    *,
    vocab_size: int,
    codec: TextCodec | None,
    bytes_per_token: float | None,
    bad_files: BadFiles,
) -> DataSplits:
    """Return the splits of two rows of tokens; raise DataError where one is too short for a window."""
    for tokens, needed in ((train, config.context + 1), (test, 2)):
        if len(tokens) < needed:
            raise DataError(
                f"data: {tokens.source} has {len(tokens)} tokens, but data.context={config.context} needs {needed}; "
                "give more text or lower data.context"
            )
    spec = DataSpec(
        (config.context,),
        vocab_size,
        kind="language_modelling",
        vocab_size=vocab_size,
        input_text=codec,
        output_text=codec,
        bytes_per_token=bytes_per_token,
    )
    identity = {
        "name": config.name,
        "train_tokens": len(train),
        "test_tokens": len(test),
        "sha256": [train.checksum(), test.checksum()],
    }
    return DataSplits(
        spec,
        Streamed(TrainWindows(train, config.context)),
        Streamed(EvalWindows(test, config.context)),
        identity,
        bad_files,
    )
