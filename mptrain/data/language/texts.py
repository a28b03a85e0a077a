"""Texts that are read whole and turned into tokens when a run begins: Shakespeare's plays, and any UTF-8 files.

Owns: reading and tokenising them. Must not: cut windows (see `windows`).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mptrain.data.bundled_files import read_bundled
from mptrain.data.language.configs import ShakespeareConfig, TextConfig, TextFilesConfig
from mptrain.data.language.windows import Tokens, window_splits
from mptrain.data.overlap import check_apart
from mptrain.data.tokenizers import Bytes, Subwords, load_tokenizer, train_bpe
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, DataSplits

TEST_PLAY = "Timon of Athens\n\nACT I\n"
"""The beginning of the last play; 98 % of the text come before it."""
PIECE = 2**16
"""Characters that a tokenizer takes at a time, or a little more: up to the end of a line."""


def shakespeare(config: ShakespeareConfig) -> DataSplits:
    """Return the bundled plays; raise DataError when the file is missing or damaged."""
    text = read_bundled("shakespeare_38plays.txt.xz").decode()
    cut = text.index(TEST_PLAY)
    source = "the bundled plays"
    return text_splits(config, (text[:cut], source), (text[cut:], source), BadFiles(config.on_error))


def text_files(config: TextFilesConfig) -> DataSplits:
    """Return the texts of files.

    Raises DataError naming one that is missing, empty, or no UTF-8, ConfigError for a test file that is also for
    training.
    """
    bad_files = BadFiles(config.on_error)
    train_paths = _paths(config.train)
    train = _read("data.train", config.train, train_paths, config.separator, bad_files)
    if config.test is not None:
        test_paths = _paths(config.test)
        check_apart(train_paths, test_paths)
        test = _read("data.test", config.test, test_paths, config.separator, bad_files)
    else:
        cut = len(train) - int(len(train) * config.test_fraction)
        train, test = train[:cut], train[cut:]
    return text_splits(config, (train, config.train), (test, config.test or config.train), bad_files)


def text_splits(config: TextConfig, train: tuple[str, str], test: tuple[str, str], bad_files: BadFiles) -> DataSplits:
    """Return the splits of a training and a test text, each with the name of its source."""
    (train_text, train_source), (test_text, test_source) = train, test
    codec = _codec(config, train_text)
    train_ids, test_ids = encoded(codec, train_text), encoded(codec, test_text)
    return window_splits(
        config,
        Tokens(train_ids, codec.vocab_size, train_source),
        Tokens(test_ids, codec.vocab_size, test_source),
        vocab_size=codec.vocab_size,
        codec=codec,
        bytes_per_token=len(test_text.encode()) / max(1, len(test_ids)),
        bad_files=bad_files,
    )


def encoded(codec: Bytes | Subwords, text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    """Return the ids of a long text."""
    if isinstance(codec, Bytes):
        return np.frombuffer(text.encode(), np.uint8)
    return np.array([i for ids in codec.encode_batch(_pieces(text)) for i in ids], np.uint32)


def _codec(config: TextConfig, train_text: str) -> Bytes | Subwords:
    if config.tokenizer == "bytes":
        return Bytes(special=False)
    if config.vocab_size is not None:
        return train_bpe(_pieces(train_text), config.vocab_size)
    return load_tokenizer(Path(config.tokenizer).expanduser())


def _pieces(text: str) -> Sequence[str]:
    """Return the text in pieces that end where a line does."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    return pieces


def _paths(pattern: str) -> list[Path]:
    """Return the files that `pattern` names, in the order of their names."""
    expanded = str(Path(pattern).expanduser())
    if Path(expanded).is_file():
        return [Path(expanded)]
    return [path for path in sorted(map(Path, glob.glob(expanded, recursive=True))) if path.is_file()]


def _read(key: str, pattern: str, paths: Sequence[Path], separator: str, bad_files: BadFiles) -> str:
    """Return the texts of the files, which `pattern` names."""
    texts = [text for path in paths if (text := _read_file(key, path, bad_files)) is not None]
    if not texts:
        raise DataError(f"{key}: no text in '{pattern}'; name a file, or a pattern such as texts/**/*.txt")
    return separator.join(texts)


def _read_file(key: str, path: Path, bad_files: BadFiles) -> str | None:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        bad_files.report(DataError(f"{key}: {path} cannot be read ({error.strerror})"))
    except UnicodeDecodeError as error:
        bad_files.report(
            DataError(
                f"{key}: {path} is no UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; convert "
                "it (iconv -t utf-8), or set data.on_error=skip to leave it out"
            )
        )
    return None
