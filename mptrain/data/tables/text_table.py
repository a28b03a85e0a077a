"""Rows of a .csv or .tsv file as texts, each with its line.

Owns: the file's format. Must not: know what a column means; `csv_files` does.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mptrain.data.text.lines import Lines
from mptrain.errors import DataError, first_line
from mptrain.interfaces import BadFiles


@dataclass(frozen=True)
class Row:
    """One line's values, one for each column."""

    place: str
    """File and line."""
    values: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A file's rows, or some of them."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str

    def column(self, name: str) -> list[str]:
        """Return a column's values in the order of the rows."""
        return [row.values[name] for row in self.rows]

    def where(self, wanted: Callable[[Row], bool]) -> Table:
        """Return the table with the rows that are wanted."""
        return replace(self, rows=tuple(filter(wanted, self.rows)))


def read_table(key: str, path: Path, delimiter: str | None, bad_rows: BadFiles) -> Table:
    """Return the file's table; the first line names the columns, empty lines are none.

    Raises DataError for a file that cannot be read or has no usable header; reports rows of another length.
    """
    lines = Lines(key, path, bad_rows)
    # A .tsv has no quotes: there, a lone quotation mark in a text would swallow the lines after it.
    reader = (
        csv.reader(lines, delimiter=delimiter or "\t", quoting=csv.QUOTE_NONE)
        if path.suffix == ".tsv"
        else csv.reader((line + "\n" for line in lines), delimiter=delimiter or ",", strict=True)
    )
    rows = []
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        _check_header(path, columns)
        for values in reader:
            place = f"{path}:{lines.number}"
            if len(values) == len(columns):
                rows.append(Row(place, dict(zip(columns, (value.strip() for value in values), strict=True))))
            elif values:
                bad_rows.report(DataError(f"{place}: {len(values)} value(s), the header has {len(columns)} columns"))
    except csv.Error as error:  # what follows cannot be told apart, so it cannot be skipped either
        raise DataError(f"{path}:{lines.number}: {first_line(error)}") from error
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Table(path, columns, tuple(rows), sha256)


def _check_header(path: Path, columns: tuple[str, ...]) -> None:
    if len(columns) < 2:
        raise DataError(
            f"{path}:1: {len(columns)} column(s); a header that names two or more is due, separated as data.delimiter "
            "says"
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}:1: several columns are called '{twice[0]}'; give each a name of its own")
