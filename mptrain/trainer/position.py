"""Where in the data a run is: the position that a checkpoint keeps, and the micro-batches of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mptrain.interfaces import Batch


@dataclass
class Position:
    """Where the next micro-batch comes from."""

    epoch: int = 0
    micro_batch: int = 0


class WindowPlace(NamedTuple):
    """Where the micro-batches of one step come from."""

    epoch: int
    micro_batch: int
    """The first one's index in the epoch."""
    length: int


def windows(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Group micro-batches into optimizer steps; the last window of an epoch may be shorter."""
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
