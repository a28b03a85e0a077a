"""The user's own table in a .csv or .tsv file: which column is what, and numbers for all of them.

Owns: kinds of columns, the split, scaling, classes. Must not: guess at a value that cannot be read; it is named by
file, line and column, and its row left out where data.on_error says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mptrain.config.wording import shorten
from mptrain.data.tables.configs import CsvConfig
from mptrain.data.tables.text_table import Row, Table, read_table
from mptrain.data.transforms import as_float32
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, InMemory

MAX_CATEGORIES = 1000
"""A column of more different words holds names or text, not categories."""


def load(config: CsvConfig) -> DataSplits:
    """Return FP32 inputs (N, columns), and int64 classes (N,) or FP32 targets (N, width).

    Raises ConfigError for columns that are not there, DataError for a file or value that cannot be used.
    """
    bad_rows = BadFiles(config.on_error)
    paths = [("data.path", config.path), *([("data.test_path", config.test_path)] if config.test_path else [])]
    tables = [read_table(key, Path(path).expanduser(), config.delimiter, bad_rows) for key, path in paths]
    checksums = [table.sha256 for table in tables]
    features = _features(config, tables)
    categories = _categories(config, tables, features)
    numeric = [name for name in features if name not in categories]
    if config.kind == "regression":
        numeric += config.targets
    tables = [table.where(lambda row: _has_numbers(row, numeric, bad_rows)) for table in tables]
    train, test = tables if config.test_path else _split(config, tables[0])
    classes: tuple[str, ...] = ()
    if config.kind == "classification":
        classes = tuple(sorted(set(train.column(config.targets[0]))))
        test = test.where(lambda row: _is_known(row, config.targets[0], classes, bad_rows))
    for word, table in (("training", train), ("test", test)):
        if not table.rows:
            raise DataError(f"{table.path}: no {word} row can be used")
    columns = _Columns(categories, {name: _scale(train, name) for name in numeric})
    made = [
        InMemory(columns.numbers(table, features), _targets(config, table, columns, classes), as_float32, False)
        for table in (train, test)
    ]
    width = made[0].inputs.shape[1]
    spec = DataSpec((width,), len(classes) or len(config.targets), kind=config.kind, class_names=classes)
    identity = {"name": config.name, "train": len(made[0]), "test": len(made[1]), "sha256": checksums}
    return DataSplits(spec, made[0], made[1], identity, bad_rows)


@dataclass(frozen=True)
class _Columns:
    """How columns become numbers."""

    categories: dict[str, tuple[str, ...]]
    scales: dict[str, tuple[float, float]]
    """Mean and standard deviation over the training rows."""

    def numbers(self, table: Table, names: list[str]) -> Tensor:
        """Return the columns' numbers, (N, width), FP32."""
        parts = []
        for name in names:
            if name in self.categories:
                parts.append(_one_hot(table.column(name), self.categories[name]))
            else:
                mean, std = self.scales[name]
                values = torch.tensor([float(text) for text in table.column(name)], dtype=torch.float64)
                parts.append(((values - mean) / std).unsqueeze(1))
        return torch.cat(parts, 1).float()


def _one_hot(values: list[str], categories: tuple[str, ...]) -> Tensor:
    index = {word: number for number, word in enumerate(categories)}
    return torch.nn.functional.one_hot(torch.tensor([index[value] for value in values]), len(categories))


def _targets(config: CsvConfig, table: Table, columns: _Columns, classes: tuple[str, ...]) -> Tensor:
    if config.kind == "regression":
        return columns.numbers(table, config.targets)
    index = {word: number for number, word in enumerate(classes)}
    return torch.tensor([index[value] for value in table.column(config.targets[0])])


def _features(config: CsvConfig, tables: list[Table]) -> list[str]:
    """Return the input columns; raise ConfigError where a named column is not there, DataError where files differ."""
    columns = tables[0].columns
    for table in tables[1:]:
        if table.columns != columns:
            odd = sorted(set(columns) ^ set(table.columns)) or ["in another order"]
            raise DataError(
                f"{table.path}: its columns are not those of {tables[0].path} ({shorten(', '.join(odd))}); give both "
                "the same"
            )
    for key, names in (("target", config.targets), ("ignore", config.ignore), ("categorical", config.categorical)):
        for name in names:
            if name not in columns:
                raise ConfigError(
                    f"data.{key}: {tables[0].path} has no column '{name}'; it has {shorten(', '.join(columns), 200)}"
                )
    features = [name for name in columns if name not in config.targets and name not in config.ignore]
    if not features:
        raise ConfigError(f"data.ignore: nothing is left of {tables[0].path} to learn from")
    return features


def _categories(config: CsvConfig, tables: list[Table], features: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each categorical column: those named in the config, and those without any number."""
    found = {}
    for name in features:
        values = {value for table in tables for value in table.column(name)}
        if name in config.categorical or not any(_is_number(value) for value in values):
            if len(values) > MAX_CATEGORIES:
                raise DataError(
                    f"{tables[0].path}: column '{name}' has {len(values)} different words, more than the "
                    f"{MAX_CATEGORIES} that are taken for categories; list it under data.ignore"
                )
            found[name] = tuple(sorted(values))
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _has_numbers(row: Row, numeric: list[str], bad_rows: BadFiles) -> bool:
    """Say whether the row has a number in each of the columns; report the first that is none."""
    for name in numeric:
        if not _is_number(row.values[name]):
            bad_rows.report(
                DataError(
                    f"{row.place}: {shorten(row.values[name])!r} in column '{name}' is no finite number; repair it, "
                    "leave such rows out with data.on_error=skip, or list the column under data.categorical or ignore"
                )
            )
            return False
    return True


def _is_known(row: Row, name: str, classes: tuple[str, ...], bad_rows: BadFiles) -> bool:
    if row.values[name] in classes:
        return True
    known = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    bad_rows.report(
        DataError(
            f"{row.place}: class {shorten(row.values[name])!r} in column '{name}' is in no training row ({known})"
        )
    )
    return False


def _split(config: CsvConfig, table: Table) -> tuple[Table, Table]:
    """Return training and test rows, drawn by `config.seed`, each in the file's order."""
    count = len(table.rows)
    num_test = round(config.test_fraction * count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed)).tolist()
    held_out = {table.rows[index].place for index in order[:num_test]}
    return table.where(lambda row: row.place not in held_out), table.where(lambda row: row.place in held_out)


def _scale(train: Table, name: str) -> tuple[float, float]:
    """Return a column's mean and standard deviation; 1 in place of 0, where it never changes.

    Raises DataError for numbers whose squares FP64 cannot add up.
    """
    values = torch.tensor([float(text) for text in train.column(name)], dtype=torch.float64)
    mean, std = float(values.mean()), float(values.std(correction=0)) or 1.0
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise DataError(
            f"{train.path}: column '{name}' has numbers up to {float(values.abs().max()):g}, too large for a standard "
            "deviation; scale it, or list it under data.ignore"
        )
    return mean, std
