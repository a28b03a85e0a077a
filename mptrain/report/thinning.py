"""Curves of a few hundred points from records without end, while they are read.

Owns: which points stay. Must not: read files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mptrain.report.model import Curve

POINTS = 400
"""The most points that a curve keeps: more than a figure has pixels for."""
_T = TypeVar("_T")


class BucketMeans:
    """Means of neighbouring records, as many to a bucket as keep the buckets at most POINTS; their number is even."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[float | None] = []
        self._width = 1
        self._seen = self._finite = 0
        self._total = 0.0
        self._step = 0

    def add(self, step: int, value: float | None) -> None:
        """Take in the next record; None is a value that was not finite, and counts in no mean."""
        self._step = step
        self._seen += 1
        if value is not None:
            self._total += value
            self._finite += 1
        if self._seen == self._width:
            self._close()

    def _close(self) -> None:
        if len(self._steps) == POINTS:
            self._halve()
        self._steps.append(self._step)
        self._values.append(self._total / self._finite if self._finite else None)
        self._seen = self._finite = 0
        self._total = 0.0

    def _halve(self) -> None:
        """Merge the buckets two by two."""
        pairs = zip(self._values[::2], self._values[1::2], strict=True)
        self._values = [b if a is None else a if b is None else (a + b) / 2 for a, b in pairs]
        self._steps = self._steps[1::2]
        self._width *= 2

    def curve(self) -> Curve:
        """Return the means, each at the last step of its bucket; the last bucket may hold fewer records."""
        if self._seen:
            self._close()
        return Curve(tuple(self._steps), tuple(self._values))


def thinned(items: Sequence[_T], limit: int = POINTS) -> list[_T]:
    """Return at most `limit` (2 or more) of `items`, at even distances, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(index * step)] for index in range(limit)]
