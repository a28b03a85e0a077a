"""What a run should say of its data, once each: files that were left out, and a loader that sets the pace.

Owns: the words, and what was said already. Must not: read data, measure (`pace.py`), or report; the trainer does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from mptrain.config.schema import DataConfig
from mptrain.interfaces import BadFiles, InMemory, Streamed
from mptrain.telemetry.throughput import LOADER_BOUND, WindowSpeed

EXAMPLES = 5
"""Files left out that a result names."""

News = tuple[str, str, dict[str, Any]]
"""Kind, message and data of an event."""


@dataclass(frozen=True)
class LoaderBound:
    """The log window that showed that training waits for its data."""

    data_wait_fraction: float
    samples_per_s: float
    samples_per_s_without_wait: float
    """What the same steps would train if their data were always there; infinite where nothing but waiting was seen."""


class DataWatch:
    """Follows one run's data."""

    def __init__(self, split: InMemory | Streamed, config: DataConfig, bad_files: BadFiles) -> None:
        self._split, self._config, self._bad_files = split, config, bad_files
        self._told = 0
        self.loader_bound: LoaderBound | None = None

    def news(self, speed: WindowSpeed | None) -> Iterator[News]:
        """Yield what has not been said yet; `speed` is that of a log window just closed, if one was."""
        if len(self._bad_files.reasons) > self._told:
            reasons = list(islice(self._bad_files.reasons, self._told, None))
            self._told += len(reasons)
            for reason in reasons:
                yield "bad_file", f"left out: {reason}", {}
        if speed is not None and self._is_news(speed):
            working = 1 - speed.data_wait_fraction
            free = speed.samples_per_s / working if working > 0 else float("inf")
            self.loader_bound = LoaderBound(speed.data_wait_fraction, speed.samples_per_s, free)
            yield "loader_bound", self._words(self.loader_bound), asdict(self.loader_bound)

    def _is_news(self, speed: WindowSpeed) -> bool:
        if self.loader_bound is not None or speed.data_wait_fraction <= LOADER_BOUND:
            return False
        # Held as they are, they are no more than indexed: where even that shows, the step itself does next to nothing.
        return isinstance(self._split, Streamed) or self._split.augments or self._config.cache == "none"

    def _words(self, bound: LoaderBound) -> str:
        return (
            f"waiting for data takes {bound.data_wait_fraction:.0%} of the time: {bound.samples_per_s:,.0f} samples/s, "
            f"{bound.samples_per_s_without_wait:,.0f} if data were free; a lower precision will not help; "
            f"{self._remedy()}"
        )

    def _remedy(self) -> str:
        workers = f"raise data.num_workers (now {self._config.num_workers}; this machine has {os.cpu_count()} CPUs)"
        if isinstance(self._split, Streamed):
            return workers
        if self._config.cache == "none":
            return f"set data.cache=auto, or {workers}"
        return "the data are in memory already: use less augmentation, or a larger data.batch_size"

    def skipped_files(self) -> list[str]:
        """Return a line for each file left out so far."""
        return list(self._bad_files.reasons)

    def take_over(self, skipped_files: Iterable[str]) -> None:
        """Go on from what an earlier process left out, and said."""
        saved = dict.fromkeys(skipped_files)
        self._told = len(saved)
        self._bad_files.reasons = saved | self._bad_files.reasons


def skipped_files(bad_files: BadFiles) -> dict[str, Any]:
    """Return how many files were left out, and the first few reasons."""
    return {"count": len(bad_files.reasons), "examples": list(islice(bad_files.reasons, EXAMPLES))}
