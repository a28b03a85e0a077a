"""The user's texts and labels in tables, read and tokenised when a run begins.

Owns: the formats, the classes, and naming the line of what cannot be used. Must not: repair anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mptrain.config.wording import shorten
from mptrain.data.tables.text_table import read_table
from mptrain.data.text.configs import TextTableConfig
from mptrain.data.text.lines import Lines
from mptrain.data.text.tokens import chosen_tokenizer, framed, padding_id
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, InMemory, as_it_is


class Row(NamedTuple):
    """One text and its label."""

    place: str
    """File and line."""
    text: str
    label: str


def text_table(config: TextTableConfig) -> DataSplits:
    """Return token ids (N, max_tokens) and classes (N,); the tokens are learned from the training texts.

    Raises DataError for a file, row or label that cannot be used, ConfigError for a vocabulary that is too small.
    """
    bad_rows = BadFiles(config.on_error)
    train = _some("data.train", config.train, _rows("data.train", config.train, config, bad_rows))
    classes = sorted({row.label for row in train})
    tested = _rows("data.test", config.test, config, bad_rows)
    test = _some("data.test", config.test, (row for row in tested if _is_known(row, classes, bad_rows)))
    codec = chosen_tokenizer(config.tokenizer, (row.text for row in train), config.vocab_size)
    index = {label: number for number, label in enumerate(classes)}
    made = [
        InMemory(
            framed(codec, (row.text for row in rows), config.max_tokens),
            torch.tensor([index[row.label] for row in rows]),
            as_it_is,
            augments=False,
        )
        for rows in (train, test)
    ]
    spec = DataSpec(
        (config.max_tokens,),
        len(classes),
        class_names=tuple(classes),
        vocab_size=codec.vocab_size,
        pad_id=padding_id(codec),
        input_text=codec,
    )
    checksums = [
        hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest() for name in (config.train, config.test)
    ]
    identity = {"name": config.name, "train": len(train), "test": len(test), "sha256": checksums}
    return DataSplits(spec, made[0], made[1], identity, bad_rows)


def _some(key: str, name: str, rows: Iterable[Row]) -> list[Row]:
    found = list(rows)
    if not found:
        raise DataError(f"{key}: {name} has no row that can be used")
    return found


def _is_known(row: Row, classes: list[str], bad_rows: BadFiles) -> bool:
    if row.label not in classes:
        known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        bad_rows.report(
            DataError(f"{row.place}: label {shorten(row.label)!r} does not occur in the training table ({known})")
        )
    return row.label in classes


def _rows(key: str, name: str, config: TextTableConfig, bad_rows: BadFiles) -> Iterator[Row]:
    """Yield a table's rows; report what is no row."""
    path = Path(name).expanduser()
    readers: Mapping[str, Callable[[str, Path, TextTableConfig, BadFiles], Iterator[Row]]]
    readers = {".csv": _delimited, ".tsv": _delimited, ".jsonl": _json_lines}
    if path.suffix not in readers:
        raise DataError(f"{key}: {path} ends in '{path.suffix}'; known are {', '.join(readers)}")
    return readers[path.suffix](key, path, config, bad_rows)


def _delimited(key: str, path: Path, config: TextTableConfig, bad_rows: BadFiles) -> Iterator[Row]:
    table = read_table(key, path, None, bad_rows)
    for column in (config.text, config.label):
        if column not in table.columns:
            raise DataError(
                f"{path}:1: no column '{column}'; it has {shorten(', '.join(table.columns))}; set data.text and "
                "data.label to the names of two"
            )
    for row in table.rows:
        yield Row(row.place, row.values[config.text], row.values[config.label])


def _json_lines(key: str, path: Path, config: TextTableConfig, bad_rows: BadFiles) -> Iterator[Row]:
    lines = Lines(key, path, bad_rows)
    for line in lines:
        place = f"{path}:{lines.number}"
        if not line.strip():
            continue
        try:
            yield _json_row(place, line, config)
        except DataError as error:
            bad_rows.report(error)


def _json_row(place: str, line: str, config: TextTableConfig) -> Row:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no JSON: {first_line(error)}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON object is due, with the keys '{config.text}' and '{config.label}'")
    text, label = record.get(config.text), record.get(config.label)
    if not isinstance(text, str):
        raise DataError(f"{place}: '{config.text}' must be a string, and is {shorten(json.dumps(text))}")
    if not isinstance(label, str | int):
        raise DataError(
            f"{place}: '{config.label}' must be a string or a whole number, and is {shorten(json.dumps(label))}"
        )
    row = Row(place, text, str(label))
    try:
        f"{row.text}{row.label}".encode()
    except UnicodeEncodeError as error:  # JSON can spell what UTF-8 cannot
        raise DataError(
            f"{place}: holds half of a surrogate pair, {error.object[error.start]!a}; correct it"
        ) from error
    return row
