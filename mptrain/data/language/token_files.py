"""Tokens that were made before: .bin (nanoGPT's layout) and .npy files, mapped into memory.

Owns: opening them. Must not: read them whole, or unpickle anything.
"""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrain.data.language.configs import TokenFilesConfig
from mptrain.data.language.windows import Tokens, window_splits
from mptrain.data.tokenizers import Subwords, load_tokenizer
from mptrain.errors import ConfigError, DataError, first_line
from mptrain.interfaces import BadFiles, DataSplits

BLOCK = 2**20
"""Tokens that are counted at a time."""


def token_files(config: TokenFilesConfig) -> DataSplits:
    """Return the two files' tokens; raise DataError where one is missing or holds no row of whole numbers."""
    train, test = (
        Tokens(_mapped(key, Path(value).expanduser(), config.dtype), config.vocab_size, value)
        for key, value in (("data.train", config.train), ("data.test", config.test))
    )
    codec = None if config.tokenizer is None else load_tokenizer(Path(config.tokenizer).expanduser())
    if codec is not None and codec.vocab_size > config.vocab_size:
        raise ConfigError(
            f"data.vocab_size: {config.vocab_size}, but data.tokenizer has {codec.vocab_size} tokens; give that number"
        )
    return window_splits(
        config,
        train,
        test,
        vocab_size=config.vocab_size,
        codec=codec,
        bytes_per_token=None if codec is None else _bytes_per_token(codec, test, config.vocab_size),
        bad_files=BadFiles(config.on_error),
    )


def _mapped(key: str, path: Path, dtype: str) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            ids: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            ids = np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r")
    except OSError as error:
        raise DataError(f"{key}: {path.absolute()} cannot be read ({error.strerror or first_line(error)})") from error
    # An empty file, half a number at its end, a damaged .npy header.
    except (ValueError, EOFError, TokenError) as error:
        raise DataError(f"{key}: {path} holds no row of tokens: {first_line(error)}") from error
    if not isinstance(ids, np.memmap) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{key}: {path} must hold one row of whole numbers")
    return ids


def _bytes_per_token(codec: Subwords, tokens: Tokens, vocab_size: int) -> float | None:
    """Return the mean length of the tokens in bytes of text; None where the tokenizer's tokens are no bytes."""
    lengths = codec.byte_lengths()
    if lengths is None:
        return None
    # A vocabulary may be larger than its tokenizer's, as one rounded up for speed: those ids stand for no text.
    table = np.array(lengths + [0] * (vocab_size - len(lengths)))
    total = sum(int(table[tokens[at : at + BLOCK]].sum()) for at in range(0, len(tokens), BLOCK))
    return total / len(tokens)
