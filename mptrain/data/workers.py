"""Batches of a split that is not held on the device: read by loader processes, copied one batch ahead.

Owns: worker processes, their randomness, and the copies. Must not: disturb the main process's random state.

The sampler hands a whole micro-batch (`_Key`) to the dataset, so any number of workers gives the same batches. A
sample's randomness is seeded by (seed, epoch, sample id); an in-memory split is augmented on the device as in `cached`.
"""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import DataLoader, Dataset, default_collate

from mptrain.data.cached import image_layout, tensor_list
from mptrain.data.order import EpochOrder, derive_seed
from mptrain.data.randomness import random_state_kept, seed_cpu_states
from mptrain.errors import CapabilityError, DataError, first_line
from mptrain.interfaces import BadFiles, Batch, InMemory, Streamed, Tensors, map_tensors

_LONGEST_TEMPORARY_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Bytes: what the name of a socket may have (unix(7)), less what multiprocessing adds."""
_IN_WORKER = "in DataLoader worker process"
"""What torch writes into an error that the dataset raised in a living process."""


class _Key(NamedTuple):
    """One batch to read; `seed` is the epoch's, None in evaluation.

    The ids are an array: a tensor would travel to the loader through a thread of the main process, which prints a
    traceback when the loader is killed meanwhile.
    """

    ids: NDArray[np.int64]
    seed: int | None


def _keys(order: Tensor, batch_size: int, seed: int | None) -> list[_Key]:
    return [_Key(ids.numpy(), seed) for ids in order.split(batch_size)]


class _Keys:
    """The batches of the coming pass; a persistent DataLoader asks for them anew each time."""

    def __init__(self) -> None:
        self.coming: list[_Key] = []

    def __iter__(self) -> Iterator[_Key]:
        return iter(self.coming)


class _Read(NamedTuple):
    """One batch as a loader process hands it over."""

    inputs: Tensors | None
    """None, as the targets: no sample could be read."""
    targets: Tensors | None
    errors: tuple[tuple[int, DataError], ...] = ()
    """The samples that could not be read, and why; raised in a worker they would arrive as tracebacks."""


class _InMemoryBatches(Dataset[Any]):
    def __init__(self, split: InMemory) -> None:
        self._parts = split.inputs, split.targets

    def __getitem__(self, key: _Key) -> _Read:
        ids = torch.from_numpy(key.ids)
        return _Read(*(map_tensors(lambda t: t.index_select(0, ids), part) for part in self._parts))


class _StreamedBatches(Dataset[Any]):
    def __init__(self, split: Streamed) -> None:
        self._dataset, self._collate = split.dataset, split.collate or _stack

    def __getitem__(self, key: _Key) -> _Read | DataError:
        samples, errors = [], []
        with random_state_kept():
            for index in key.ids.tolist():
                if key.seed is not None:
                    seed_cpu_states(derive_seed(key.seed, index))
                try:
                    samples.append(self._dataset[index])
                except DataError as error:
                    errors.append((index, error))
        try:
            inputs, targets = self._collate(samples) if samples else (None, None)
        except DataError as error:
            return error
        return _Read(inputs, targets, tuple(errors))


def _stack(samples: list[Any]) -> tuple[Tensors, Tensors]:
    # default_collate makes a list of a tuple of arrays.
    inputs, targets = (tuple(part) if isinstance(part, list) else part for part in default_collate(samples))
    return inputs, targets


def _leave_to_main(_worker: int) -> None:
    # Ctrl-C reaches the whole process group; the main process decides what it means, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Errors of the dataset travel to the main process. What is left is the thread that shares memory, which would
    # print a traceback when the main process goes away.
    sys.excepthook = lambda *_: None
    # A batch that cannot be handed over would be dropped, and waited for until data.read_timeout.
    main = os.getppid()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda error, batch: _give_up(error, main))  # type: ignore[attr-defined]


def _give_up(error: BaseException, main: int) -> None:
    if os.getppid() == main:  # else it is gone, and there is nobody to hand anything over to
        # One write for the whole line: several loader processes may say so at once.
        sys.stderr.write(f"! a loader process cannot hand over a batch ({first_line(error)})\n")
        sys.stderr.flush()
    os._exit(1)


def _require_short_temporary_folder() -> None:
    """Raise CapabilityError where loader processes could share no memory: they name a socket in that folder."""
    folder = tempfile.gettempdir()
    if get_sharing_strategy() == "file_descriptor" and len(os.fsencode(folder)) > _LONGEST_TEMPORARY_FOLDER:
        length, most = len(os.fsencode(folder)), _LONGEST_TEMPORARY_FOLDER
        raise CapabilityError(
            f"data.num_workers: loader processes need a temporary folder whose name has at most {most} bytes, and "
            f"{folder} has {length}; set TMPDIR to another, or data.num_workers=0"
        )


def loader_died(error: BaseException) -> DataError:
    """Return the error that says so in one line."""
    return DataError(
        f"a loader process was killed ({first_line(error)}); the machine may have run out of memory: "
        "lower data.num_workers"
    )


def _hangs(seconds: float) -> DataError:
    return DataError(
        f"data.read_timeout: no batch came from the loader processes for {seconds:g} s; see whether the files' disk or "
        "network answers, raise data.read_timeout, or set it to 0 to wait for ever"
    )


def _as_it_is(batch: Any) -> Any:
    return batch


class _Reader:
    """Loader processes that turn keys into batches on the device."""

    def __init__(
        self,
        split: InMemory | Streamed,
        num_workers: int,
        device: torch.device,
        bad_files: BadFiles,
        read_timeout: float,
    ) -> None:
        if num_workers:
            _require_short_temporary_folder()
        self._keys, self._device, self._bad_files = _Keys(), device, bad_files
        self.left_out: set[int] = set()
        """The samples of this pass that could not be read."""
        self._loader: DataLoader[Any] = DataLoader(
            _InMemoryBatches(split) if isinstance(split, InMemory) else _StreamedBatches(split),
            batch_size=None,
            sampler=self._keys,
            num_workers=num_workers,
            timeout=read_timeout if num_workers else 0,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_to_main,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # without one, every pass draws from the global generator
        )

    def read(self, keys: list[_Key]) -> Iterator[Batch | None]:
        """Yield the batches of `keys` in order, None where no sample of one could be read.

        Samples that cannot be read go to the bad files, which raise what reading them gave, or let them be left out.
        """
        self._keys.coming = keys
        self.left_out.clear()
        if self._device.type == "cuda":
            return _one_ahead(self._from_host(), self._device)
        return self._from_host()

    def _from_host(self) -> Iterator[Batch | None]:
        items = self._received()
        while (item := next(items, None)) is not None:
            if isinstance(item, DataError):
                raise item
            for index, error in item.errors:
                self._bad_files.report(error)
                self.left_out.add(index)
            yield None if item.inputs is None else Batch(item.inputs, item.targets)

    def _received(self) -> Iterator[Any]:
        try:
            yield from self._loader
        except (ConnectionError, EOFError) as error:
            if not self._loader.num_workers or _IN_WORKER in str(error):
                raise
            raise loader_died(error) from error  # in the middle of handing over a batch
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            raise _hangs(self._loader.timeout) from error


def _one_ahead(batches: Iterable[Batch | None], device: torch.device) -> Iterator[Batch | None]:
    """Yield the batches on the device; each is copied on a side stream while the one before is computed on."""
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        if batch is None:
            if waiting is not None:
                yield _handed_over(*waiting)
            waiting = None
            yield None
            continue
        with torch.cuda.stream(stream):
            copy = Batch(*(map_tensors(lambda t: t.to(device, non_blocking=True), part) for part in batch))
            copied = torch.cuda.Event()
            copied.record(stream)
        if waiting is not None:
            yield _handed_over(*waiting)
        waiting = copy, copied
    if waiting is not None:
        yield _handed_over(*waiting)


def _handed_over(batch: Batch, copied: torch.cuda.Event) -> Batch:
    tensors = [*tensor_list(batch.inputs), *tensor_list(batch.targets)]
    current = torch.cuda.current_stream(tensors[0].device)
    current.wait_event(copied)
    for tensor in tensors:
        tensor.record_stream(current)  # the memory is not re-used before this stream is done with it
    return batch


class WorkerTrainLoader:
    """Training micro-batches read by loader processes."""

    def __init__(
        self,
        split: InMemory | Streamed,
        order: EpochOrder,
        device: torch.device,
        *,
        num_workers: int,
        channels_last: bool,
        bad_files: BadFiles,
        read_timeout: float = 0,
    ) -> None:
        self._order, self._channels_last = order, channels_last
        self._reader = _Reader(split, num_workers, device, bad_files, read_timeout)
        self._transform = split.transform
        self._generator = torch.Generator(device) if split.augments else None

    def __len__(self) -> int:
        return len(self._order)

    def order(self, epoch: int) -> Tensor:
        """Return the sample ids of the epoch in order, int64 on the CPU."""
        return self._order.ids(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the epoch's micro-batches on the device, from micro-batch index `start`; nothing before it is read.

        Raises DataError where no sample of a micro-batch can be read: steps and positions count on each of them.
        """
        seed = derive_seed(self._order.seed, epoch)
        keys = _keys(self.order(epoch), self._order.batch_size, seed)[start:]
        for index, batch in enumerate(self._reader.read(keys), start):
            if batch is None:
                raise DataError(
                    f"data.on_error: none of the {len(keys[index - start].ids)} samples of a training batch can be "
                    "read; repair or remove these files, or raise data.batch_size"
                )
            if self._generator is not None:
                self._generator.manual_seed(self._order.batch_seed(epoch, index))
            yield image_layout(self._transform(batch, self._generator), self._channels_last)


class WorkerEvalLoader:
    """Evaluation batches read by loader processes, in order, nothing dropped but what cannot be read."""

    def __init__(
        self,
        split: InMemory | Streamed,
        samples: range,
        batch_size: int,
        device: torch.device,
        *,
        num_workers: int,
        channels_last: bool,
        bad_files: BadFiles,
        read_timeout: float = 0,
    ) -> None:
        self._keys = _keys(torch.arange(samples.start, samples.stop), batch_size, None) if samples else []
        self._channels_last = channels_last
        self._reader = _Reader(split, num_workers, device, bad_files, read_timeout)
        self._transform = split.transform
        self.left_out: Set[int] = self._reader.left_out

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Batch]:
        found = not self._keys
        for batch in self._reader.read(self._keys):
            if batch is not None:
                found = True
                yield image_layout(self._transform(batch, None), self._channels_last)
        if not found:
            raise DataError("data.on_error: none of the test samples can be read; repair these files")
