"""How many samples a second the config's loader delivers alone. Must not: train, or know a precision."""

from __future__ import annotations

import itertools
import time
from contextlib import closing

from mptrain.bench.stand import synchronize
from mptrain.trainer.build import Run

_SECONDS = 2.0
_FIRST_BATCHES = 2
"""Left out: they start the loader's processes and fill their queue."""


def loader_rate(run: Run) -> float:
    """Return samples per second, over about two seconds of reading one batch after the other, epoch after epoch.

    Raises DataError for what cannot be read.
    """
    began, samples = time.perf_counter(), 0
    for epoch in itertools.count():
        with closing(run.train_loader.epoch(epoch, 0)) as batches:  # type: ignore[type-var]
            for index, batch in enumerate(batches):
                if epoch == 0 and index < min(_FIRST_BATCHES, len(run.train_loader) - 1):
                    began = time.perf_counter()
                    continue
                samples += batch.size
                if time.perf_counter() - began > _SECONDS:
                    break
        synchronize(run.device)
        elapsed = time.perf_counter() - began
        if elapsed > _SECONDS:
            return samples / elapsed
    raise AssertionError("unreachable: epochs do not end")
