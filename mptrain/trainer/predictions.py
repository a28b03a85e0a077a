"""What a model predicted for each test sample, as lines of JSON.

Owns: the records' index, and the checks on what a task hands in. Must not: evaluate, or know a task's predictions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, Task
from mptrain.telemetry.files import NewLines

OnBatch = Callable[[Any, Batch], None]


def ignore(outputs: Any, batch: Batch) -> None:
    """Keep nothing of an evaluated batch."""


@contextmanager
def written_to(path: Path, task: Task, left_out: Set[int]) -> Iterator[OnBatch]:
    """Yield what writes an evaluated batch's predictions: `index` (the test sample's, from 0), then the task's own.

    `left_out` are the samples that the loader could not read, as far as it has come. The file is there when all is
    evaluated, and not before. Raises ConfigError for a folder and for a task without predictions or with ones that are
    no records of plain values, CapabilityError where the file cannot be written.
    """
    if os.path.isdir(path):
        raise ConfigError(f"--predictions: {path} is a folder; name a file in it, e.g. {path / 'predictions.jsonl'}")
    if type(task).predictions is Task.predictions:
        raise ConfigError(
            f"--predictions: the task {type(task).__name__} has none; define predictions(outputs, batch) in it"
        )
    ids = (index for index in count() if index not in left_out)
    with NewLines(path, "--predictions") as lines:

        def write(outputs: Any, batch: Batch) -> None:
            records = task.predictions(outputs, batch)
            if len(records) != batch.size:
                raise ConfigError(f"task: {len(records)} predictions of a batch of {batch.size} samples; give one each")
            for record in records:
                try:
                    lines.append({"index": next(ids), **record})
                except TypeError as error:
                    raise ConfigError(
                        f"task: its predictions must be plain numbers, texts and lists; {error}"
                    ) from error

        yield write
