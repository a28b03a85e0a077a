"""The user's parallel text: sentences and their translations, in two files line by line, or in one .tsv.

Owns: pairing lines. Must not: hold a file whole; a sample is read and tokenised when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.text.configs import ParallelConfig
from mptrain.data.text.lines import IndexedLines
from mptrain.data.text.tokens import check_special_ids, chosen_tokenizer, translated, translation_spec
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, DataSplits, Streamed, TextCodec


class Pairs:
    """Pairs of texts by index."""

    def __init__(self, key: str, name: str, config: ParallelConfig) -> None:
        """Find the lines; raise DataError for files that are not there, are empty, or do not match."""
        named = Path(name).expanduser()
        paths = (
            [named] if named.suffix == ".tsv" else [Path(f"{named}.{end}") for end in (config.source, config.target)]
        )
        self._files = [IndexedLines(key, path) for path in paths]
        counts = [len(file) for file in self._files]
        if len(set(counts)) > 1:
            raise DataError(
                f"{key}: {paths[0]} has {counts[0]} lines and {paths[1]} {counts[1]}; line n of the one must translate "
                "line n of the other"
            )

    def __len__(self) -> int:
        return len(self._files[0])

    def __getitem__(self, index: int) -> tuple[str, str]:
        """Return (source, target); raise DataError, which names file and line, for a line that is no such pair."""
        columns = self._files[0][index].split("\t") if len(self._files) == 1 else [file[index] for file in self._files]
        if len(columns) != 2:
            raise DataError(
                f"{self._files[0].path}:{index + 1}: {len(columns)} column(s); a source, a tab and a target are due"
            )
        return columns[0], columns[1]

    def identity(self) -> list[str]:
        """Return the files' checksums."""
        return [file.sha256 for file in self._files]

    def texts(self, bad_lines: BadFiles) -> Iterator[str]:
        """Yield the texts of both sides; report what is no pair."""
        for index in range(len(self)):
            try:
                pair = self[index]
            except DataError as error:
                bad_lines.report(error)
                continue
            yield from pair


class PairDataset(Dataset[Any]):
    """Pairs as padded token ids: ((source (S,), shifted target (T,)), target (T,))."""

    def __init__(self, pairs: Pairs, codec: TextCodec, max_tokens: int) -> None:
        self._pairs, self._codec, self._lengths = pairs, codec, (max_tokens, max_tokens)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return one sample; raise DataError where its line cannot be used."""
        source, target = map(self._codec.encode, self._pairs[index])
        (sources, shifted), targets = translated([source], [target], self._lengths)
        return (sources[0], shifted[0]), targets[0]


def parallel(config: ParallelConfig) -> DataSplits:
    """Return the pairs of `train` and `test`, in the tokens of one codec for both sides.

    Raises DataError for files or lines that cannot be used, ConfigError for a vocabulary that is too small.
    """
    bad_lines = BadFiles(config.on_error)
    train, test = Pairs("data.train", config.train, config), Pairs("data.test", config.test, config)
    codec = chosen_tokenizer(config.tokenizer, train.texts(bad_lines), config.vocab_size)
    check_special_ids(codec, config.tokenizer)
    return DataSplits(
        translation_spec(codec, codec, (config.max_tokens, config.max_tokens)),
        Streamed(PairDataset(train, codec, config.max_tokens)),
        Streamed(PairDataset(test, codec, config.max_tokens)),
        {"name": config.name, "train": len(train), "test": len(test), "sha256": train.identity() + test.identity()},
        bad_lines,
    )
